//! A line: what is known of a request when it has ended, and how it is spelled.
//!
//! `json` names its fields as OpenTelemetry's semantic conventions do where they have a name (HTTP spans 1.27), and adds
//! `service`, `pool`, `backend`, `sticky`, `tries` and `end`. `combined` is Apache's, which many tools read.
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use gossip::clock::Wall;
use gossip::id::{ListenerName, PoolName, ServiceName};
use http::{HeaderValue, Method, Uri};
use serde::Serialize;
use time::OffsetDateTime;

use crate::config::model::AccessFormat;
use crate::proxy::outcome::{Affinity, End};

/// What is known of a request when it has ended.
#[derive(Debug)]
pub(in crate::proxy) struct Line {
    pub(in crate::proxy) time: Wall,
    pub(in crate::proxy) client: IpAddr,
    pub(in crate::proxy) listener: Option<ListenerName>,
    pub(in crate::proxy) request_id: Option<HeaderValue>,
    pub(in crate::proxy) method: Option<Method>,
    pub(in crate::proxy) host: Option<HeaderValue>,
    pub(in crate::proxy) target: Option<Uri>,
    /// `1.1` or `2`.
    pub(in crate::proxy) version: Option<&'static str>,
    pub(in crate::proxy) referer: Option<HeaderValue>,
    pub(in crate::proxy) agent: Option<HeaderValue>,
    pub(in crate::proxy) status: Option<u16>,
    pub(in crate::proxy) sent_bytes: u64,
    pub(in crate::proxy) took: Duration,
    pub(in crate::proxy) service: Option<ServiceName>,
    pub(in crate::proxy) pool: Option<PoolName>,
    pub(in crate::proxy) backend: Option<SocketAddr>,
    pub(in crate::proxy) affinity: Option<Affinity>,
    pub(in crate::proxy) tries: u32,
    pub(in crate::proxy) end: End,
}

impl Line {
    /// Of somebody who has just come.
    pub(in crate::proxy) fn new(time: Wall, client: IpAddr, listener: Option<ListenerName>) -> Self {
        Self {
            time,
            client,
            listener,
            request_id: None,
            method: None,
            host: None,
            target: None,
            version: None,
            referer: None,
            agent: None,
            status: None,
            sent_bytes: 0,
            took: Duration::ZERO,
            service: None,
            pool: None,
            backend: None,
            affinity: None,
            tries: 0,
            end: End::ClientGone,
        }
    }
}

/// The fields of a line, as JSON names them. What is not known is left out.
#[derive(Serialize)]
struct Fields<'a> {
    time: String,
    #[serde(rename = "client.address")]
    client: IpAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    listener: Option<&'a ListenerName>,
    #[serde(rename = "request.id", skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
    #[serde(rename = "http.request.method", skip_serializing_if = "Option::is_none")]
    method: Option<&'a str>,
    #[serde(rename = "server.address", skip_serializing_if = "Option::is_none")]
    host: Option<String>,
    #[serde(rename = "url.path", skip_serializing_if = "Option::is_none")]
    path: Option<&'a str>,
    #[serde(rename = "url.query", skip_serializing_if = "Option::is_none")]
    query: Option<&'a str>,
    #[serde(rename = "network.protocol.version", skip_serializing_if = "Option::is_none")]
    version: Option<&'a str>,
    #[serde(rename = "user_agent.original", skip_serializing_if = "Option::is_none")]
    agent: Option<String>,
    #[serde(rename = "http.request.header.referer", skip_serializing_if = "Option::is_none")]
    referer: Option<String>,
    #[serde(rename = "http.response.status_code", skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(rename = "http.response.body.size")]
    sent_bytes: u64,
    /// In seconds.
    #[serde(rename = "http.server.request.duration")]
    took: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<&'a ServiceName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pool: Option<&'a PoolName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    backend: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sticky: Option<&'static str>,
    tries: u32,
    end: &'static str,
}

/// Writes one line.
pub(super) fn put(out: &mut impl Write, line: &Line, format: AccessFormat) -> io::Result<()> {
    match format {
        AccessFormat::Json => {
            serde_json::to_writer(&mut *out, &fields(line))?;
            out.write_all(b"\n")
        }
        AccessFormat::Text => text(out, line),
        AccessFormat::Combined => combined(out, line),
    }
}

fn fields(line: &Line) -> Fields<'_> {
    Fields {
        time: humantime::format_rfc3339_millis(line.time.system_time()).to_string(),
        client: line.client,
        listener: line.listener.as_ref(),
        request_id: line.request_id.as_ref().and_then(|id| id.to_str().ok()),
        method: line.method.as_ref().map(Method::as_str),
        host: line.host.as_ref().map(lossy),
        path: line.target.as_ref().map(Uri::path),
        query: line.target.as_ref().and_then(Uri::query),
        version: line.version,
        agent: line.agent.as_ref().map(lossy),
        referer: line.referer.as_ref().map(lossy),
        status: line.status,
        sent_bytes: line.sent_bytes,
        took: line.took.as_micros() as f64 / 1e6,
        service: line.service.as_ref(),
        pool: line.pool.as_ref(),
        backend: line.backend,
        sticky: line.affinity.map(Affinity::as_str),
        tries: line.tries,
        end: line.end.as_str(),
    }
}

fn lossy(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

/// One line for people: what is unknown is a dash; what a client chose is quoted, so that no client forges a line.
fn text(out: &mut impl Write, line: &Line) -> io::Result<()> {
    let request = match (&line.method, &line.host, &line.target) {
        (Some(method), Some(host), Some(target)) => {
            format!("{:?}", format!("{method} {}{target}", lossy(host)))
        }
        (None, Some(host), None) => format!("{:?}", lossy(host)),
        _ => "-".into(),
    };
    writeln!(
        out,
        "{} {} {request} {} {} {:.1}ms end={} listener={} service={} pool={} backend={} sticky={} tries={} id={}",
        humantime::format_rfc3339_millis(line.time.system_time()),
        line.client,
        or_dash(line.status),
        line.sent_bytes,
        line.took.as_micros() as f64 / 1000.0,
        line.end.as_str(),
        or_dash(line.listener.as_ref()),
        or_dash(line.service.as_ref()),
        or_dash(line.pool.as_ref()),
        or_dash(line.backend),
        or_dash(line.affinity.map(Affinity::as_str)),
        line.tries,
        or_dash(line.request_id.as_ref().and_then(|id| id.to_str().ok())),
    )
}

/// `%h %l %u %t "%r" %>s %b "%{Referer}i" "%{User-Agent}i"`. A TCP connection is a line without a request.
fn combined(out: &mut impl Write, line: &Line) -> io::Result<()> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let at = OffsetDateTime::from(line.time.system_time());
    let month = MONTHS[usize::from(u8::from(at.month())) - 1];
    let (day, year, hour, minute, second) = (at.day(), at.year(), at.hour(), at.minute(), at.second());
    let time = format!("{day:02}/{month}/{year}:{hour:02}:{minute:02}:{second:02} +0000");
    let request = match (&line.method, &line.target) {
        (Some(method), Some(target)) => {
            let path = target.path_and_query().map_or("/", |path| path.as_str());
            quoted(&format!("{method} {path} HTTP/{}", line.version.unwrap_or("1.1")))
        }
        _ => "-".into(),
    };
    let header = |value: &Option<HeaderValue>| {
        value.as_ref().map_or_else(|| "-".into(), |value| quoted(&lossy(value)))
    };
    let sent = if line.sent_bytes == 0 { "-".to_owned() } else { line.sent_bytes.to_string() };
    writeln!(
        out,
        "{} - - [{time}] \"{request}\" {} {sent} \"{}\" \"{}\"",
        line.client,
        or_dash(line.status),
        header(&line.referer),
        header(&line.agent),
    )
}

/// What stands between quotes, and cannot leave them.
fn quoted(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '"' | '\\' => safe.extend(['\\', char]),
            control if control.is_control() => safe.push_str(&format!("\\x{:02x}", u32::from(control))),
            other => safe.push(other),
        }
    }
    safe
}

fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".into(), |value| value.to_string())
}
