use std::path::Path;
use std::time::Duration;

use gossip::clock::Wall;
use gossip::id::{ListenerName, ServiceName};
use http::{HeaderValue, Method, Uri};

use super::line::put;
use super::*;
use crate::proxy::outcome::{Affinity, End};

fn line() -> Line {
    Line {
        request_id: Some(HeaderValue::from_static("abc")),
        method: Some(Method::GET),
        host: Some(HeaderValue::from_bytes(b"a\xff\"b").unwrap()),
        target: Some(Uri::from_static("/x?y=1")),
        version: Some("1.1"),
        agent: Some(HeaderValue::from_bytes(b"me\" \xe2\x80\xa8x").unwrap()),
        status: Some(200),
        sent_bytes: 12,
        took: Duration::from_micros(1500),
        service: ServiceName::new("web").ok(),
        backend: Some("10.0.1.11:8080".parse().unwrap()),
        affinity: Some(Affinity::Kept),
        tries: 1,
        end: End::Ok,
        ..Line::new(Wall(1_700_000_000_123), "192.0.2.1".parse().unwrap(), ListenerName::new("http").ok())
    }
}

fn spelled(format: AccessFormat, line: &Line) -> String {
    let mut out = Vec::new();
    put(&mut out, line, format).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn a_line_for_people() {
    assert_eq!(
        spelled(AccessFormat::Text, &line()),
        "2023-11-14T22:13:20.123Z 192.0.2.1 \"GET a\u{fffd}\\\"b/x?y=1\" 200 12 1.5ms end=ok listener=http \
         service=web pool=- backend=10.0.1.11:8080 sticky=kept tries=1 id=abc\n"
    );
}

#[test]
fn a_line_for_machines_has_the_names_of_opentelemetry() {
    let spelled = spelled(AccessFormat::Json, &line());
    let json: serde_json::Value = serde_json::from_str(&spelled).unwrap();
    assert_eq!(json["client.address"], "192.0.2.1");
    assert_eq!((&json["url.path"], &json["url.query"]), (&"/x".into(), &"y=1".into()));
    assert_eq!(
        (&json["http.request.method"], &json["http.response.status_code"]),
        (&"GET".into(), &200.into())
    );
    assert_eq!((&json["http.server.request.duration"], &json["sticky"]), (&0.0015.into(), &"kept".into()));
    assert_eq!((&json["end"], json.get("pool")), (&"ok".into(), None));
    assert!(spelled.ends_with("}\n") && spelled.lines().count() == 1);
}

#[test]
fn a_line_that_apaches_tools_read() {
    assert_eq!(
        spelled(AccessFormat::Combined, &line()),
        "192.0.2.1 - - [14/Nov/2023:22:13:20 +0000] \"GET /x?y=1 HTTP/1.1\" 200 12 \"-\" \"me\\\" \u{2028}x\"\n"
    );
    let connection = Line::new(Wall(0), "2001:db8::1".parse().unwrap(), None);
    assert_eq!(
        spelled(AccessFormat::Combined, &connection),
        "2001:db8::1 - - [01/Jan/1970:00:00:00 +0000] \"-\" - - \"-\" \"-\"\n"
    );
}

fn wait_for(path: &Path, lines: usize) {
    while std::fs::read_to_string(path).unwrap_or_default().lines().count() != lines {
        std::thread::yield_now();
    }
}

#[test]
fn a_file_that_was_renamed_is_opened_anew() {
    let folder = tempfile::tempdir().unwrap();
    let (path, moved) = (folder.path().join("access.log"), folder.path().join("access.log.1"));
    let to = AccessLog::File(path.clone());
    let log = AccessLogger::open(&to, AccessFormat::Text, Arc::default()).unwrap().unwrap();
    log.log(Box::new(line()));
    wait_for(&path, 1);
    std::fs::rename(&path, &moved).unwrap();
    log.log(Box::new(line()));
    wait_for(&path, 1);
    wait_for(&moved, 1);
}

#[test]
fn an_idle_log_gives_up_a_file_that_was_renamed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let to = AccessLog::File(path.clone());
    let _log = AccessLogger::open(&to, AccessFormat::Text, Arc::default()).unwrap().unwrap();
    std::fs::remove_file(&path).unwrap();
    while !path.exists() {
        std::thread::yield_now();
    }
}

#[test]
fn a_log_is_sent_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let (one, other) = (folder.path().join("one"), folder.path().join("other"));
    let to = |path: &Path| AccessLog::File(path.to_owned());
    let log = AccessLogger::open(&to(&one), AccessFormat::Text, Arc::default()).unwrap().unwrap();
    log.log(Box::new(line()));
    assert!(log.redirect(&to(&folder.path().join("none/x")), AccessFormat::Text).is_err());
    log.log(Box::new(line()));
    log.redirect(&to(&other), AccessFormat::Json).unwrap();
    log.log(Box::new(line()));
    wait_for(&other, 1);
    wait_for(&one, 2);
    assert!(std::fs::read_to_string(&other).unwrap().starts_with('{'));
}

#[test]
fn what_does_not_fit_is_dropped_and_counted() {
    let (queue, _work) = sync_channel(1);
    let log = AccessLogger { queue, counters: Arc::default() };
    log.log(Box::new(line()));
    log.log(Box::new(line()));
    assert_eq!(log.counters.log_dropped.load(Ordering::Relaxed), 1);
}
