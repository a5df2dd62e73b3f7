//! `pool.NAME.hash`: what of a request `balance = "hash"` looks at.

use http::HeaderName;

use crate::config::diagnostics::Span;
use crate::config::model::{BalancePolicy, HashOn};
use crate::config::read;
use crate::config::services::service;
use crate::config::walk::Value;

/// The policy with what `hash` says; it says nothing to any other policy.
pub(super) fn apply(balance: BalancePolicy, key: Option<(Span, Value<'_>)>) -> BalancePolicy {
    let Some((span, value)) = key else { return balance };
    let on = hash(&value);
    match balance {
        BalancePolicy::Hash(default) => BalancePolicy::Hash(on.unwrap_or(default)),
        other => {
            let message = format!("`hash` means nothing to balance `{}`", other.as_str());
            value.sink.error(span, message, Some("balance = \"hash\"".into()));
            other
        }
    }
}

fn hash(value: &Value<'_>) -> Option<HashOn> {
    let mut table = value.table()?;
    let header = table.optional("header", |value| {
        read::parsed(value, |text| {
            HeaderName::from_bytes(text.as_bytes()).map_err(|_| format!("`{text}` is no header name"))
        })
    });
    let cookie = table.optional("cookie", service::cookie_name);
    let source_ip = table.optional("source_ip", read::boolean);
    table.finish();
    let named = [header.map(HashOn::Header), cookie.map(HashOn::Cookie)];
    let mut named = named.into_iter().flatten().chain(source_ip.filter(|on| *on).map(|_| HashOn::SourceIp));
    let first = named.next();
    if named.next().is_some() {
        value.wrong("`hash` is on one thing: `header`, `cookie` or `source_ip`");
    }
    first
}
