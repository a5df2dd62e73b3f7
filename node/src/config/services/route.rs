//! Hosts and paths: how they are written, and which services' routes meet.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv6Addr;

use gossip::id::ServiceName;

use super::{Diagnostics, Section};
use crate::config::read;
use crate::config::services::service::Draft;
use crate::config::walk::Value;

/// A host name in lower case, perhaps with `*` for its first label, or an address.
pub(super) fn host(value: &Value<'_>) -> Option<String> {
    let host = read::text(value)?.to_ascii_lowercase();
    if host == "*" {
        value.wrong_but("`*` is no host", "leave `hosts` out to serve any host");
        return None;
    }
    let bracketed = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    if bracketed.is_some_and(|address| address.parse::<Ipv6Addr>().is_ok()) {
        return Some(host);
    }
    let labels = host.strip_prefix("*.").unwrap_or(&host);
    let label = |label: &str| {
        let letters = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
        (1..=63).contains(&label.len()) && letters && !label.starts_with('-') && !label.ends_with('-')
    };
    if host.len() > 253 || !labels.split('.').all(label) {
        value.sink.error(value.span.clone(), format!("`{host}` is no host name"), host_hint(&host));
        return None;
    }
    Some(host)
}

fn host_hint(host: &str) -> Option<String> {
    if let Some((_, rest)) = host.split_once("://") {
        return Some(format!("without the scheme: \"{}\"", rest.split('/').next().unwrap_or_default()));
    }
    if host.contains('*') {
        return Some("a wildcard stands for the first label alone: \"*.example.com\"".into());
    }
    if let Some((name, _)) = host.split_once([':', '/']) {
        return Some(format!("without port and path: \"{name}\""));
    }
    host.strip_suffix('.').map(|name| format!("without the final dot: \"{name}\""))
}

/// One of a service's hosts. An IPv6 address stands without its brackets, as requests are compared.
pub(super) fn pattern(value: &Value<'_>) -> Option<String> {
    let host = host(value)?;
    let bracketed = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    Some(bracketed.map_or_else(|| host.clone(), str::to_owned))
}

/// A path prefix; a slash at its end means nothing, since prefixes match at segment borders.
pub(super) fn path(value: &Value<'_>) -> Option<String> {
    let path = read::text(value)?;
    if !path.starts_with('/') {
        value.wrong_but(format!("`{path}` is no path prefix: it must begin with /"), format!("\"/{path}\""));
        return None;
    }
    if let Some(bad) = path.chars().find(|c| !c.is_ascii_graphic() || matches!(c, '?' | '#' | '*')) {
        let hint = match bad {
            '*' => "a prefix covers everything below it without a wildcard",
            _ => "a prefix holds neither query nor spaces; write others as %XX",
        };
        value.wrong_but(format!("{bad:?} cannot stand in a path prefix"), hint);
        return None;
    }
    let trimmed = path.trim_end_matches('/');
    Some(if trimmed.is_empty() { "/".into() } else { trimmed.into() })
}

type Services<'a, 't> = [(&'a Section<'t, ServiceName, Draft>, &'a Draft)];

/// No two services may answer for the same host and path, nor share a cookie's name where they share a host
/// (DESIGN §6: a cookie is sealed for one service).
pub(super) fn check(services: &Services<'_, '_>, sink: &Diagnostics) {
    let routes: BTreeSet<(&str, &str)> = services.iter().flat_map(|(_, draft)| claims(draft)).collect();
    let mut owners = BTreeMap::new();
    for (section, draft) in services {
        for (host, path) in claims(draft) {
            let owner = *owners.entry((host, path)).or_insert(section.key.value);
            if owner != section.key.value {
                let span = place(draft, host, path).unwrap_or(section.key.span.clone());
                let host = if host.is_empty() { "any host" } else { host };
                let message =
                    format!("services `{owner}` and `{}` both claim {host} {path}", section.key.value);
                let hint = "give one of them other `hosts` or a longer path in `paths`";
                sink.error(span, message, Some(hint.into()));
                break;
            }
        }
    }
    check_cookies(services, &routes, sink);
}

fn check_cookies(services: &Services<'_, '_>, routes: &BTreeSet<(&str, &str)>, sink: &Diagnostics) {
    let mut seen: BTreeMap<&str, Vec<(&str, &Draft)>> = BTreeMap::new();
    for (section, draft) in services {
        let Some((cookie, span)) = draft.service.sticky_cookie.as_ref().zip(draft.cookie.as_ref()) else {
            continue;
        };
        let others = seen.entry(&cookie.name).or_default();
        if let Some((other, _)) = others.iter().find(|(_, other)| share_a_host(draft, other, routes)) {
            let message = format!(
                "services `{other}` and `{}` share a host and the cookie `{}`",
                section.key.value, cookie.name
            );
            let hint = format!("name this one \"{}-{}\", say", cookie.name, section.key.value);
            sink.error(span.clone(), message, Some(hint));
        }
        others.push((section.key.value, draft));
    }
}

/// The service's host patterns; any host is the empty one.
fn patterns(draft: &Draft) -> impl Iterator<Item = &str> {
    let hosts = &draft.service.hosts;
    hosts.iter().map(String::as_str).chain(hosts.is_empty().then_some(""))
}

/// The service's hosts by its paths.
fn claims(draft: &Draft) -> impl Iterator<Item = (&str, &str)> {
    patterns(draft).flat_map(|host| draft.service.paths.iter().map(move |path| (host, path.as_str())))
}

fn place(draft: &Draft, host: &str, path: &str) -> Option<std::ops::Range<usize>> {
    let path = draft.paths.iter().find(|at| at.value == path && path != "/");
    let host = draft.hosts.iter().find(|at| at.value == host);
    path.or(host).map(|at| at.span.clone())
}

/// Whether one browser may meet both services under one host name. A service does not meet those with a wider
/// pattern where its own pattern serves every path.
fn share_a_host(a: &Draft, b: &Draft, routes: &BTreeSet<(&str, &str)>) -> bool {
    let meet = |a: &str, b: &str| {
        if a == b {
            return true;
        }
        let (narrow, wide) = if width(a) < width(b) { (a, b) } else { (b, a) };
        covers(wide, narrow) && !routes.contains(&(narrow, "/"))
    };
    patterns(a).any(|a| patterns(b).any(|b| meet(a, b)))
}

/// Exact names are narrower than wildcards, wildcards than any host.
fn width(host: &str) -> u8 {
    match host {
        "" => 2,
        wildcard if wildcard.starts_with("*.") => 1,
        _ => 0,
    }
}

fn covers(wide: &str, narrow: &str) -> bool {
    let under = || Some(narrow.split_once('.')?.1 == wide.strip_prefix("*.")?);
    wide.is_empty() || (width(narrow) == 0 && under() == Some(true))
}
