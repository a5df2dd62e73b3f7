//! `[pool.NAME]`

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use gossip::id::{BackendId, PoolName, RegionName};

use super::discover;
use super::ejection;
use super::hash;
use super::health;
use super::scale;
use crate::config::diagnostics::Span;
use crate::config::model::{
    Backend, BackendTls, BalancePolicy, HashOn, Pool, PoolProtocol, SendProxy, SourceKind, SourceKinds,
};
use crate::config::read::{self, ms, secs};
use crate::config::suggest;
use crate::config::walk::{At, Table, Value};

/// A pool and the places of what other sections may contradict.
pub(super) struct Draft {
    pub(super) pool: Pool,
    pub(super) send_proxy: Option<Span>,
    pub(super) protocol: Option<Span>,
    pub(super) tls: Option<Span>,
    /// Where TLS is asked for without a way to verify it.
    pub(super) unverified: Option<Span>,
    /// The regions that backends name.
    pub(super) regions: Vec<At<RegionName>>,
}

const SEND_PROXY: &[(&str, SendProxy)] = &[("v1", SendProxy::V1), ("v2", SendProxy::V2)];

const BALANCE: &[BalancePolicy] = &[
    BalancePolicy::LeastBusy,
    BalancePolicy::WeightedRoundRobin,
    BalancePolicy::WeightedLeastConnections,
    BalancePolicy::PeakEwma,
    BalancePolicy::Random,
    BalancePolicy::Hash(HashOn::SourceIp),
];

/// The names of `[region.*]`: what a backend without a region may mean.
pub(super) type Regions<'a> = &'a [&'a str];

pub(super) fn read(name: PoolName, value: &Value<'_>, declared: Regions<'_>) -> Option<Draft> {
    let mut table = value.table()?;
    let balance = table.optional("balance", balance).unwrap_or_default();
    let hash = table.keyed("hash");
    let protocol = table.place("protocol");
    let spoken = table.optional("protocol", read::choice(PROTOCOLS, &[]));
    let tls_key = table.place("tls");
    let tls = tls(&mut table, spoken);
    let health = table.optional("health", health::read);
    let send_proxy_key = table.place("send_proxy");
    let send_proxy = table.optional("send_proxy", read::choice(SEND_PROXY, &[]));
    let slow_start = table.optional("slow_start", read::duration(ms(0)..=secs(86_400)));
    let max_connections = table.optional("max_connections", read::integer::<u32>(1..=10_000_000));
    let ejection = table.optional("ejection", ejection::read).unwrap_or_default();
    let discovers = table.place("discover").is_some() || table.place("lease").is_some();
    let backends = table.keyed("backend");
    if backends.is_none() && !discovers {
        let hint = "backend = [{ address = \"10.0.1.11:8080\" }]";
        table.sink().absent(table.span(), "`backend` is missing here", Some(hint.into()));
    }
    let mut regions = Vec::new();
    let sources = table.optional("discover", |value| discover::read(value, declared, &mut regions));
    let lease = table.optional("lease", discover::lease);
    let drain = table.optional("drain", discover::drain);
    let scale_key = table.place("scale");
    let scale = table.optional("scale", scale::read);
    if let Some(place) = scale_key.filter(|_| !discovers) {
        let hint = "lease = { ttl = \"15s\" }, or discover.docker = { label = \"meridian.pool=web\" }";
        table.sink().error(place, "nothing would find the backends that `scale` starts", Some(hint.into()));
    }
    table.finish();

    let backends = backends.and_then(|(_, value)| backends_of(&name, &value, declared, &mut regions));
    let pool = Pool {
        name,
        balance: hash::apply(balance, hash),
        protocol: match spoken {
            Some(Spoken::Http2) => PoolProtocol::Http2,
            _ => PoolProtocol::Http1,
        },
        tls,
        health,
        slow_start: slow_start.filter(|ramp| !ramp.is_zero()),
        max_connections,
        ejection,
        send_proxy,
        sources: sources.unwrap_or_default(),
        lease,
        scale,
        drain: drain.unwrap_or(Pool::DRAIN),
        backends: backends.unwrap_or_default(),
    };
    let asked = tls_key.clone().or_else(|| protocol.clone());
    let unverified = asked.filter(|_| pool.tls.as_ref().is_some_and(|tls| tls.ca.is_none()));
    Some(Draft { pool, send_proxy: send_proxy_key, protocol, tls: tls_key, unverified, regions })
}

/// What `protocol` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spoken {
    Http1,
    Http2,
    Https,
}

const PROTOCOLS: &[(&str, Spoken)] =
    &[("http1", Spoken::Http1), ("http2", Spoken::Http2), ("https", Spoken::Https)];

/// Whether these backends speak TLS, and the keys that this brings. `https` is short for `http1` with `tls = true`.
fn tls(table: &mut Table<'_>, spoken: Option<Spoken>) -> Option<BackendTls> {
    let https = spoken == Some(Spoken::Https);
    let asked = table.optional("tls", read::located(read::boolean));
    if let Some(asked) = asked.as_ref().filter(|asked| https && !asked.value) {
        let hint = "in the clear: protocol = \"http1\"";
        table.sink().error(asked.span.clone(), "`protocol = \"https\"` is over TLS", Some(hint.into()));
    }
    let secure = https || asked.is_some_and(|asked| asked.value);
    for key in ["ca", "server_name"] {
        if let Some(place) = table.place(key).filter(|_| !secure) {
            let message = format!("`{key}` is for pools whose backends speak TLS");
            table.sink().error(place, message, Some("protocol = \"https\", or tls = true".into()));
        }
    }
    let ca = table.optional("ca", read::path);
    let server_name = table.optional("server_name", server_name);
    secure.then_some(BackendTls { ca, server_name })
}

/// A name that can be certified: without wildcards.
fn server_name(value: &Value<'_>) -> Option<String> {
    let text = read::text(value)?;
    if rustls::pki_types::ServerName::try_from(text.as_str()).is_err() {
        value.wrong(format!("`{text}` is no name of a server"));
        return None;
    }
    Some(text)
}

fn balance(value: &Value<'_>) -> Option<BalancePolicy> {
    let text = value.text()?;
    let known = BALANCE.iter().find(|policy| policy.as_str() == text).cloned();
    if known.is_none() {
        let hint = suggest::hint(text, "one of", BALANCE.iter().map(BalancePolicy::as_str), []);
        value.sink.error(value.span.clone(), format!("`{text}` is no balance"), hint);
    }
    known
}

fn backends_of(
    pool: &PoolName,
    value: &Value<'_>,
    declared: Regions<'_>,
    regions: &mut Vec<At<RegionName>>,
) -> Option<Vec<Arc<Backend>>> {
    let mut seen = BTreeSet::new();
    let mut backends = Vec::new();
    for member in value.list()? {
        let Some(mut table) = member.table() else { continue };
        let address = table.required("address", read::located(address));
        let region = match table.value("region") {
            Some(value) => read::located(read::name::<RegionName>)(&value),
            None => region_of(&member, declared),
        };
        let zone = table.optional("zone", read::name);
        let rack = table.optional("rack", read::name);
        let weight = table.optional("weight", read::integer(0..=65_535)).unwrap_or(100);
        table.finish();
        regions.extend(region.clone());
        let (Some(address), Some(region)) = (address, region) else { continue };
        if !seen.insert(address.value) {
            let message = format!("`{}` is already in this pool", address.value);
            value.sink.error(address.span, message, Some("to give it more, raise its `weight`".into()));
            continue;
        }
        let address = address.value;
        let id = BackendId::of(pool, address);
        let sources = SourceKinds::of(SourceKind::Static);
        let region = region.value;
        let backend =
            Backend { id, address, region, zone, rack, weight, sources, leaving: false, priority: 0 };
        backends.push(Arc::new(backend));
    }
    if value.list()?.next().is_none() {
        value.sink.warning(value.span.clone(), "this pool has no backends", None);
    }
    Some(backends)
}

/// The region of a backend that names none: the only one there is.
pub(super) fn region_of(backend: &Value<'_>, declared: Regions<'_>) -> Option<At<RegionName>> {
    let only = match declared {
        [] => "local",
        [only] => only,
        several => {
            let hint = format!("one of: {}", several.join(", "));
            let message = "`region` is missing here: several are declared";
            backend.sink.absent(backend.span.clone(), message, Some(hint));
            return None;
        }
    };
    // A declared name that is none has been told at its place.
    Some(At { span: backend.span.clone(), value: RegionName::new(only).ok()? })
}

/// A backend's address; a wildcard or port 0 is none.
fn address(value: &Value<'_>) -> Option<SocketAddr> {
    let text = value.text()?;
    match text.parse::<SocketAddr>() {
        Ok(address)
            if address.ip().is_unspecified() || address.ip().is_multicast() || address.port() == 0 =>
        {
            value.wrong(format!("nothing can be reached at `{text}`"));
            None
        }
        Ok(address) => Some(address),
        Err(_)
            if text
                .rsplit_once(':')
                .is_some_and(|(host, port)| is_name(host) && port.parse::<u16>().is_ok()) =>
        {
            value.wrong_but(
                format!("`{text}` is a name: a backend is an IP address with a port"),
                "a name that may change: discover.dns = { name = \"web.internal\", type = \"a\", port = 8080 }",
            );
            None
        }
        Err(_) => read::socket(value),
    }
}

pub(super) fn is_name(host: &str) -> bool {
    let letters = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    host.bytes().all(letters) && host.bytes().any(|byte| byte.is_ascii_alphabetic())
}
