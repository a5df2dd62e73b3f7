//! `pool.NAME.health.*`: the key that is there chooses the probe.

use http::StatusCode;

use crate::config::model::{HealthCheck, Probe};
use crate::config::read::{self, ms, secs};
use crate::config::services::route;
use crate::config::walk::{Table, Value};

pub(super) fn read(value: &Value<'_>) -> Option<HealthCheck> {
    let mut table = value.table()?;
    let http = table.keyed("http");
    let tcp = table.keyed("tcp");
    let grpc = table.keyed("grpc");
    let spans = [&http, &tcp, &grpc].into_iter().flatten().map(|(span, _)| span);
    if let Some(span) = spans.clone().nth(1) {
        value.sink.error(span.clone(), "a pool has one health check: `http`, `grpc` or `tcp`", None);
    }
    if spans.count() == 0 {
        let hint = "health.http = { path = \"/healthz\" }, health.grpc = {} or health.tcp = {}";
        value.sink.absent(table.span(), "a health check needs `http`, `grpc` or `tcp`", Some(hint.into()));
    }
    table.finish();

    let http = http.and_then(|(_, value)| check(&value, http_probe));
    let tcp = tcp.and_then(|(_, value)| check(&value, |_| Probe::Tcp));
    let grpc = grpc.and_then(|(_, value)| check(&value, grpc_probe));
    http.or(grpc).or(tcp)
}

/// What all probes have in common, around what one reads for itself.
fn check<'t>(value: &Value<'t>, probe: impl FnOnce(&mut Table<'t>) -> Probe) -> Option<HealthCheck> {
    let mut table = value.table()?;
    let probe = probe(&mut table);
    let interval = table.optional("interval", read::duration(ms(10)..=secs(3_600))).unwrap_or(secs(2));
    let timeout = table.optional("timeout", read::located(read::duration(ms(10)..=secs(60))));
    let rise = table.optional("rise", read::integer(1..=100)).unwrap_or(2);
    let fall = table.optional("fall", read::integer(1..=100)).unwrap_or(3);
    table.finish();
    if let Some(timeout) = timeout.as_ref().filter(|timeout| timeout.value > interval) {
        let message =
            format!("`timeout` is longer than `interval`, {}", humantime::format_duration(interval));
        value.sink.warning(timeout.span.clone(), message, None);
    }
    let timeout = timeout.map_or(secs(1).min(interval), |timeout| timeout.value);
    Some(HealthCheck { probe, interval, timeout, rise, fall })
}

fn http_probe(table: &mut Table<'_>) -> Probe {
    let path = table.optional("path", request_path).unwrap_or_else(|| "/".into());
    let host = table.optional("host", route::host);
    let status = table.optional("status", status).unwrap_or_else(|| vec![(StatusCode::OK, LAST_GOOD)]);
    Probe::Http { path, host, status }
}

/// 399: the end of the range that counts as healthy when the file says nothing.
const LAST_GOOD: StatusCode = match StatusCode::from_u16(399) {
    Ok(status) => status,
    Err(_) => unreachable!(),
};

/// What is asked for, perhaps with a query.
fn request_path(value: &Value<'_>) -> Option<String> {
    let path = read::text(value)?;
    if !path.starts_with('/') || path.bytes().any(|byte| !byte.is_ascii_graphic() || byte == b'#') {
        value.wrong(format!("`{path}` is no path: it must begin with / and hold neither spaces nor #"));
        return None;
    }
    Some(path)
}

/// `200`, `200-399`, `200,204,301-302`.
fn status(value: &Value<'_>) -> Option<Vec<(StatusCode, StatusCode)>> {
    let hint = "write \"200\", \"200-399\" or \"200,204,301-302\"";
    if !value.is_text() {
        value.wrong_but("`status` must be a string", hint);
        return None;
    }
    let code =
        |text: &str| StatusCode::from_bytes(text.trim().as_bytes()).ok().filter(|code| code.as_u16() < 600);
    let range = |text: &str| {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (code(first)?, code(last)?);
        (first <= last).then_some((first, last))
    };
    let text = value.text()?;
    let ranges = text.split(',').map(range).collect::<Option<Vec<_>>>();
    if ranges.is_none() {
        value.wrong_but(format!("`{text}` is no range of HTTP statuses (100 to 599)"), hint);
    }
    ranges
}

fn grpc_probe(table: &mut Table<'_>) -> Probe {
    Probe::Grpc { service: table.optional("service", grpc_service).unwrap_or_default() }
}

/// A name as protobuf writes it: `shop.v1.Cart`.
fn grpc_service(value: &Value<'_>) -> Option<String> {
    let name = read::text(value)?;
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'/');
    if name.len() > 255 || !name.bytes().all(fits) {
        value.wrong(format!("`{name}` is no name of a gRPC service, such as shop.v1.Cart"));
        return None;
    }
    Some(name)
}
