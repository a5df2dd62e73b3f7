//! The access log: one line a request or TCP connection, written by a thread of its own.
//!
//! Workers hand lines over through a bounded queue and never wait: when the disk is slower than the traffic, lines are
//! dropped and counted.
use std::fs::OpenOptions;
use std::io::{self, BufWriter, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use gossip::clock::Wall;
use gossip::id::{ListenerName, PoolName, ServiceName};
use http::{HeaderValue, Method, Uri};
use serde::Serialize;

use super::outcome::{Affinity, Counters, End};
use crate::config::model::{AccessLog, LogFormat};

/// Lines that may wait for the writer.
const QUEUE: usize = 8192;

/// What is known of a request when it has ended.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) time: Wall,
    pub(super) client: IpAddr,
    pub(super) listener: Option<ListenerName>,
    pub(super) request_id: Option<HeaderValue>,
    pub(super) method: Option<Method>,
    pub(super) host: Option<HeaderValue>,
    pub(super) target: Option<Uri>,
    pub(super) status: Option<u16>,
    pub(super) sent_bytes: u64,
    pub(super) took: Duration,
    pub(super) service: Option<ServiceName>,
    pub(super) pool: Option<PoolName>,
    pub(super) backend: Option<SocketAddr>,
    pub(super) affinity: Option<Affinity>,
    pub(super) tries: u32,
    pub(super) end: End,
}

/// Where workers put lines. Clones feed the same writer, which ends when the last is dropped.
#[derive(Debug, Clone)]
pub(super) struct AccessLogger {
    queue: SyncSender<Line>,
    counters: Arc<Counters>,
}

impl AccessLogger {
    /// Opens the log and starts its writer; `None` when the log is off.
    ///
    /// # Errors
    /// When the file cannot be opened or the thread not started.
    pub(super) fn open(
        to: &AccessLog,
        format: LogFormat,
        counters: Arc<Counters>,
    ) -> io::Result<Option<Self>> {
        let out: Box<dyn Write + Send> = match to {
            AccessLog::Off => return Ok(None),
            AccessLog::Stdout => Box::new(io::stdout()),
            AccessLog::File(path) => Box::new(OpenOptions::new().create(true).append(true).open(path)?),
        };
        let (queue, lines) = sync_channel(QUEUE);
        std::thread::Builder::new().name("access-log".into()).spawn(move || write(&lines, out, format))?;
        Ok(Some(Self { queue, counters }))
    }

    /// Hands a line over, or drops it.
    pub(super) fn log(&self, line: Line) {
        if self.queue.try_send(line).is_err() {
            self.counters.log_dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn write(lines: &Receiver<Line>, out: Box<dyn Write + Send>, format: LogFormat) {
    let mut out = BufWriter::with_capacity(64 * 1024, out);
    let mut failing = false;
    while let Ok(first) = lines.recv() {
        let mut result = put(&mut out, &first, format);
        while let Ok(line) = lines.try_recv() {
            result = result.and_then(|()| put(&mut out, &line, format));
        }
        let result = result.and_then(|()| out.flush());
        match result {
            Err(error) if !failing => {
                failing = true;
                tracing::warn!(%error, "the access log cannot be written; lines are lost until it can");
            }
            Err(_) => {}
            Ok(()) => failing = false,
        }
    }
}

/// The fields of a line, as JSON names them.
#[derive(Serialize)]
struct Fields<'a> {
    time: String,
    #[serde(rename = "client.addr")]
    client: IpAddr,
    listener: Option<&'a ListenerName>,
    #[serde(rename = "request.id")]
    request_id: Option<&'a str>,
    method: Option<&'a str>,
    host: Option<String>,
    path: Option<String>,
    status: Option<u16>,
    bytes: u64,
    ms: f64,
    service: Option<&'a ServiceName>,
    pool: Option<&'a PoolName>,
    backend: Option<SocketAddr>,
    affinity: Option<&'static str>,
    tries: u32,
    end: &'static str,
}

fn put(out: &mut impl Write, line: &Line, format: LogFormat) -> io::Result<()> {
    let fields = Fields {
        time: humantime::format_rfc3339_millis(line.time.system_time()).to_string(),
        client: line.client,
        listener: line.listener.as_ref(),
        request_id: line.request_id.as_ref().and_then(|id| id.to_str().ok()),
        method: line.method.as_ref().map(Method::as_str),
        host: line.host.as_ref().map(|host| String::from_utf8_lossy(host.as_bytes()).into_owned()),
        path: line.target.as_ref().map(ToString::to_string),
        status: line.status,
        bytes: line.sent_bytes,
        ms: line.took.as_micros() as f64 / 1000.0,
        service: line.service.as_ref(),
        pool: line.pool.as_ref(),
        backend: line.backend,
        affinity: line.affinity.map(Affinity::as_str),
        tries: line.tries,
        end: line.end.as_str(),
    };
    match format {
        LogFormat::Json => {
            serde_json::to_writer(&mut *out, &fields)?;
            out.write_all(b"\n")
        }
        LogFormat::Text => put_text(out, &fields),
    }
}

/// One line for people: what is unknown is a dash; what a client chose is quoted, so that no client forges a line.
fn put_text(out: &mut impl Write, fields: &Fields<'_>) -> io::Result<()> {
    let request = match (fields.method, &fields.host, &fields.path) {
        (Some(method), Some(host), Some(path)) => format!("{:?}", format!("{method} {host}{path}")),
        (None, Some(host), None) => format!("{host:?}"),
        _ => "-".into(),
    };
    let backend = fields.backend.map_or_else(|| "-".into(), |backend| backend.to_string());
    let status = fields.status.map_or_else(|| "-".into(), |status| status.to_string());
    writeln!(
        out,
        "{} {} {request} {status} {} {:.1}ms end={} service={} pool={} backend={} affinity={} tries={} id={}",
        fields.time,
        fields.client,
        fields.bytes,
        fields.ms,
        fields.end,
        fields.service.map_or("-", ServiceName::as_str),
        fields.pool.map_or("-", PoolName::as_str),
        backend,
        fields.affinity.unwrap_or("-"),
        fields.tries,
        fields.request_id.unwrap_or("-"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> Line {
        Line {
            time: Wall(1_700_000_000_123),
            client: "192.0.2.1".parse().unwrap(),
            listener: ListenerName::new("http").ok(),
            request_id: Some(HeaderValue::from_static("abc")),
            method: Some(Method::GET),
            host: Some(HeaderValue::from_bytes(b"a\xff\"b").unwrap()),
            target: Some(Uri::from_static("/x?y=1")),
            status: Some(200),
            sent_bytes: 12,
            took: Duration::from_micros(1500),
            service: ServiceName::new("web").ok(),
            pool: None,
            backend: Some("10.0.1.11:8080".parse().unwrap()),
            affinity: Some(Affinity::Kept),
            tries: 1,
            end: End::Ok,
        }
    }

    #[test]
    fn a_line_for_people() {
        let mut out = Vec::new();
        put(&mut out, &line(), LogFormat::Text).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "2023-11-14T22:13:20.123Z 192.0.2.1 \"GET a\u{fffd}\\\"b/x?y=1\" 200 12 1.5ms end=ok service=web \
             pool=- backend=10.0.1.11:8080 affinity=kept tries=1 id=abc\n"
        );
    }

    #[test]
    fn a_line_for_machines() {
        let mut out = Vec::new();
        put(&mut out, &line(), LogFormat::Json).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(json["client.addr"], "192.0.2.1");
        assert_eq!(json["end"], "ok");
        assert_eq!(json["ms"], 1.5);
        assert_eq!(out.last(), Some(&b'\n'));
    }

    #[test]
    fn a_file_gets_the_lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let counters = Arc::new(Counters::default());
        let log =
            AccessLogger::open(&AccessLog::File(path.clone()), LogFormat::Text, counters).unwrap().unwrap();
        log.log(line());
        drop(log);
        while !std::fs::read_to_string(&path).unwrap().ends_with('\n') {
            std::thread::yield_now();
        }
    }
}
