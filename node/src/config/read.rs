//! From a value of the file to a value of the domain. Every reader leaves a fault where it cannot.

use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use gossip::id::NameError;
use ipnet::IpNet;

use super::model::CertificateFiles;
use super::suggest;
use super::walk::{At, Value};

/// A string that is not empty.
pub(super) fn text(value: &Value<'_>) -> Option<String> {
    let text = value.text()?;
    if text.is_empty() {
        value.wrong(format!("an empty string is no value for `{}`", value.name));
        return None;
    }
    Some(text.to_owned())
}

/// PEM files: `{ cert, key }`.
pub(super) fn certificate(value: &Value<'_>) -> Option<CertificateFiles> {
    let mut table = value.table()?;
    let cert = table.required("cert", path);
    let key = table.required("key", path);
    table.finish();
    Some(CertificateFiles { cert: cert?, key: key? })
}

/// A path in the file system.
pub(super) fn path(value: &Value<'_>) -> Option<PathBuf> {
    text(value).map(PathBuf::from)
}

/// `true` or `false`.
pub(super) fn boolean(value: &Value<'_>) -> Option<bool> {
    value.boolean()
}

/// An integer in `range`, as any integer type that the range fits in.
pub(super) fn integer<T: TryFrom<i64>>(range: RangeInclusive<i64>) -> impl Fn(&Value<'_>) -> Option<T> {
    move |value| T::try_from(value.integer(range.clone())?).ok()
}

/// A number in `range`.
pub(super) fn number(range: RangeInclusive<f64>) -> impl Fn(&Value<'_>) -> Option<f64> {
    move |value| value.number(range.clone())
}

/// A span of time such as `"30s"`, in `range`.
pub(super) fn duration(range: RangeInclusive<Duration>) -> impl Fn(&Value<'_>) -> Option<Duration> {
    move |value| {
        if !value.is_text() {
            value.wrong_but(
                format!("`{}` must be a time", value.name),
                "a time is written \"500ms\", \"30s\", \"8h\"",
            );
            return None;
        }
        let text = value.text()?;
        let Ok(time) = humantime::parse_duration(text) else {
            value.wrong_but(format!("`{text}` is no time"), "a time is written \"500ms\", \"30s\", \"8h\"");
            return None;
        };
        let shown = humantime::format_duration;
        if !range.contains(&time) {
            let (least, most) = (shown(*range.start()), shown(*range.end()));
            value.wrong(format!("`{}` must be between {least} and {most}", value.name));
            return None;
        }
        Some(time)
    }
}

/// A time in whole seconds, as DNS counts.
pub(super) fn seconds(range: RangeInclusive<Duration>) -> impl Fn(&Value<'_>) -> Option<Duration> {
    move |value| {
        let time = duration(range.clone())(value)?;
        if time.subsec_nanos() != 0 {
            value.wrong(format!("`{}` must be whole seconds", value.name));
            return None;
        }
        Some(time)
    }
}

/// Shorthand for the bounds of times.
pub(super) const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// Shorthand for the bounds of times.
pub(super) const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// The name of a thing.
pub(super) fn name<T: FromStr<Err = NameError>>(value: &Value<'_>) -> Option<T> {
    parsed(value, T::from_str)
}

/// What `parse` makes of a string.
pub(super) fn parsed<T, E: Display>(value: &Value<'_>, parse: impl Fn(&str) -> Result<T, E>) -> Option<T> {
    match parse(value.text()?) {
        Ok(parsed) => Some(parsed),
        Err(error) => {
            value.wrong(error.to_string());
            None
        }
    }
}

/// An IP address without a port.
pub(super) fn ip(value: &Value<'_>) -> Option<IpAddr> {
    let text = value.text()?;
    let address = text.parse().ok();
    if address.is_none() {
        let message = format!("`{text}` is no IP address");
        match text.parse::<SocketAddr>() {
            Ok(with_port) => value.wrong_but(message, format!("without a port: \"{}\"", with_port.ip())),
            Err(_) => value.wrong(message),
        }
    }
    address
}

/// An IP address and a port.
pub(super) fn socket(value: &Value<'_>) -> Option<SocketAddr> {
    let text = value.text()?;
    let address = text.parse().ok();
    if address.is_none() {
        let example = match text.parse::<IpAddr>() {
            Ok(address) => format!("with a port: \"{}\"", SocketAddr::new(address, 8080)),
            Err(_) => "an address is written \"10.0.1.11:8080\" or \"[2001:db8::1]:8080\"".into(),
        };
        value.wrong_but(format!("`{text}` is no IP address with a port"), example);
    }
    address
}

/// A network such as `10.0.0.0/8`; an address alone is a network of one.
pub(super) fn network(value: &Value<'_>) -> Option<IpNet> {
    let text = value.text()?;
    let parsed = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
    let Some(network) = parsed else {
        value.wrong_but(
            format!("`{text}` is no network"),
            "a network is written \"10.0.0.0/8\" or \"2001:db8::/32\"",
        );
        return None;
    };
    let exact = network.trunc();
    if exact != network {
        let message = format!("`{text}` names a host; taken as the network `{exact}`");
        value.sink.warning(value.span.clone(), message, None);
    }
    Some(exact)
}

/// One of some words; `later` are words whose feature is still to come.
pub(super) fn choice<T: Copy>(
    words: &'static [(&'static str, T)],
    later: &'static [&'static str],
) -> impl Fn(&Value<'_>) -> Option<T> {
    move |value| {
        let text = value.text()?;
        if let Some((_, meaning)) = words.iter().find(|(word, _)| *word == text) {
            return Some(*meaning);
        }
        if later.contains(&text) {
            value.wrong(format!("{} `{text}` is not yet supported", value.name));
        } else {
            let now = words.iter().map(|(word, _)| *word);
            let hint = suggest::hint(text, "one of", now, later.iter().copied());
            value.sink.error(value.span.clone(), format!("`{text}` is no {}", value.name), hint);
        }
        None
    }
}

/// An array of what `read` reads. Members that cannot be read are left out.
pub(super) fn list<T>(read: impl Fn(&Value<'_>) -> Option<T>) -> impl Fn(&Value<'_>) -> Option<Vec<T>> {
    move |value| Some(value.list()?.filter_map(|member| read(&member)).collect())
}

/// What `read` reads, with its place.
pub(super) fn located<T>(read: impl Fn(&Value<'_>) -> Option<T>) -> impl Fn(&Value<'_>) -> Option<At<T>> {
    move |value| Some(At { span: value.span.clone(), value: read(value)? })
}
