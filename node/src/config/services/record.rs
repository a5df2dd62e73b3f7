//! DNS names and static records, as far as the file's reader checks them.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::config::suggest;
use crate::config::walk::Value;

/// A record's type, in upper case: the same ones as in a zone file.
pub(super) fn kind(value: &Value<'_>) -> Option<String> {
    let text = value.text()?;
    let kind = text.to_ascii_uppercase();
    if kind == "SOA" {
        value.wrong_but("the SOA record is made by the zone itself", "`contact` and `ttl` go into it");
        return None;
    }
    if let Err(error) = dns::check_record_type(&kind) {
        let known = dns::record_types();
        let hint = match (suggest::nearest(text, known.iter().copied()), error) {
            (Some(nearest), _) => Some(format!("did you mean `{nearest}`?")),
            (None, dns::RecordTypeError::Unknown) => Some(format!("known: {}", known.join(", "))),
            (None, dns::RecordTypeError::Refused(_)) => None,
        };
        value.sink.error(value.span.clone(), format!("`{text}` {error}"), hint);
        return None;
    }
    Some(kind)
}

/// Checks one static record.
pub(super) fn check_record(zone: &str, name: &str, kind: &str, value: &str) -> Result<(), String> {
    if kind == "NS" && name == "@" {
        return Err("the zone's own name servers stand in `nameserver`".into());
    }
    let fields: Vec<&str> = value.split_ascii_whitespace().collect();
    let number = |text: &str| text.parse::<u16>().is_ok();
    let target = |text: &str| target(zone, text).is_ok();
    let (fits, expected) = match kind {
        "A" => (value.parse::<Ipv4Addr>().is_ok(), "an IPv4 address"),
        "AAAA" => (value.parse::<Ipv6Addr>().is_ok(), "an IPv6 address"),
        "CNAME" | "NS" | "PTR" => (matches!(fields[..], [name] if target(name)), "a name: www.example.com."),
        "MX" => (
            matches!(fields[..], [preference, name] if number(preference) && target(name)),
            "a preference and a name: 10 mail.example.com.",
        ),
        "SRV" => (
            matches!(fields[..], [a, b, c, name] if [a, b, c].into_iter().all(number) && target(name)),
            "priority, weight, port and a name: 0 5 5060 sip.example.com.",
        ),
        "CAA" => (
            matches!(fields[..], [flags, tag, _, ..] if flags.parse::<u8>().is_ok() && alphanumeric(tag)),
            "flags, a tag and a value: 0 issue \"ca.example.net\"",
        ),
        "HTTPS" | "SVCB" => (
            matches!(fields[..], [priority, name, ..] if number(priority) && target(name)),
            "a priority, a name and parameters: 1 . alpn=h2",
        ),
        "TXT" => (value.len() <= 4_096, "a text of at most 4,096 bytes"),
        // The name server knows what the other ones look like, and says it.
        _ => (true, ""),
    };
    let by_bytes = fields.first() == Some(&r"\#");
    if !fits && !by_bytes {
        return Err(format!("`{value}` does not fit the type {kind}: {expected}"));
    }
    // The name server has the last word: what it could not serve is refused here.
    dns::check_record(zone, name, kind, value).map_err(|error| {
        let of = match error.key {
            "name" => name,
            "type" => kind,
            _ => value,
        };
        format!("`{of}` {error}")
    })
}

fn alphanumeric(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// A name in a record's value: absolute with a final dot, else relative to the zone; `@` is the zone, `.` the root.
fn target(zone: &str, text: &str) -> Result<(), String> {
    match text {
        "@" | "." => Ok(()),
        _ => match text.strip_suffix('.') {
            Some(name) => absolute(name).map(drop),
            None => absolute(&format!("{text}.{zone}")).map(drop),
        },
    }
}

/// A zone's name: lower case, without the final dot.
pub(super) fn absolute(text: &str) -> Result<String, String> {
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    if name.len() > 253 {
        return Err("a DNS name has at most 253 characters".into());
    }
    for label in name.split('.') {
        check_label(label, text)?;
    }
    Ok(name)
}

/// A name below a zone, in lower case: `@`, `www`, `a.b`, `*`, `*.a`.
pub(super) fn relative(zone: &str, text: &str) -> Result<String, String> {
    let name = text.to_ascii_lowercase();
    if name == "@" {
        return Ok(name);
    }
    let bare = name.strip_suffix('.').unwrap_or(&name);
    let below = bare
        .strip_suffix(zone)
        .and_then(|rest| if rest.is_empty() { Some("@") } else { rest.strip_suffix('.') });
    if let Some(label) = below {
        return Err(format!("`{text}` must be relative to the zone: \"{label}\""));
    }
    if name.ends_with('.') {
        return Err(format!("`{text}` is not in the zone {zone}"));
    }
    let plain = match name.strip_prefix("*.") {
        _ if name == "*" => "w",
        Some(rest) => rest,
        None => &name,
    };
    absolute(&format!("{plain}.{zone}"))?;
    Ok(name)
}

/// Refuses what may not be a wildcard or the apex.
pub(super) fn no_wildcard(label: String) -> Result<String, String> {
    if label == "@" || label.starts_with('*') {
        return Err("a name server has a name of its own: ns1".into());
    }
    Ok(label)
}

fn check_label(label: &str, whole: &str) -> Result<(), String> {
    if label.is_empty() {
        return Err(format!("`{whole}` has an empty label"));
    }
    if label.len() > 63 {
        return Err(format!("`{label}` is longer than the 63 characters a DNS label may have"));
    }
    let letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if let Some(bad) = label.chars().find(|c| !letter(*c)) {
        return Err(format!("{bad:?} cannot stand in a DNS name; write other scripts as xn--..."));
    }
    if label.starts_with('-') || label.ends_with('-') {
        return Err(format!("the DNS label `{label}` cannot begin or end with a hyphen"));
    }
    Ok(())
}
