//! `[service.NAME]`

use std::ops::RangeInclusive;

use gossip::id::{PoolName, ServiceName};
use http::{HeaderName, HeaderValue};

use super::route;
use crate::config::diagnostics::Span;
use crate::config::model::{
    Disclosure, ForceRule, OnDown, Rate, RateLimit, Retry, Service, StickyCookie, Telltale, Timeouts,
};
use crate::config::read::{self, ms, secs};
use crate::config::suggest;
use crate::config::walk::{At, Table, Value};

/// A service and the places of what other sections may contradict.
pub(super) struct Draft {
    pub(super) service: Service,
    pub(super) pools: Vec<At<PoolName>>,
    pub(super) hosts: Vec<At<String>>,
    pub(super) paths: Vec<At<String>>,
    /// The name, or the table when the name is the default.
    pub(super) cookie: Option<Span>,
    pub(super) source_ip: Option<Span>,
    /// Keys that mean nothing to a TCP service.
    pub(super) http_only: Vec<At<&'static str>>,
    pub(super) response_timeout: Option<Span>,
}

const DAY: u64 = 86_400;
/// As humantime has it: 365.25 days.
const YEAR: u64 = 31_557_600;

pub(super) fn read(name: ServiceName, value: &Value<'_>) -> Option<Draft> {
    let mut table = value.table()?;
    let noted = |key| table.place(key).map(|span| At { span, value: key });
    let mut http_only: Vec<At<&'static str>> =
        ["hosts", "paths", "force", "pass_headers", "server", "min_body_rate"]
            .into_iter()
            .filter_map(noted)
            .collect();

    let hosts = table.optional("hosts", read::list(read::located(route::pattern))).unwrap_or_default();
    let paths = table.optional("paths", read::list(read::located(route::path))).unwrap_or_default();
    let split = table.required("split", split).unwrap_or_default();
    let force = table.optional("force", read::list(force)).unwrap_or_default();
    let sticky = table.optional("sticky", sticky).unwrap_or_default();
    let allow = table.optional("allow", read::list(read::network)).unwrap_or_default();
    let deny = table.optional("deny", read::list(read::network)).unwrap_or_default();
    let rate_limit = table.optional("rate_limit", rate_limit);
    let passes = table.optional("pass_headers", read::list(telltale)).unwrap_or_default();
    let server_key = table.place("server");
    let server = table.optional("server", server);
    if let Some(place) = server_key.filter(|_| passes.contains(&Telltale::Server)) {
        table.sink().error(place, "either `server` is said, or the backend's is passed", None);
    }
    let min_body_rate = table.optional("min_body_rate", read::integer::<u32>(0..=10_000_000));
    let (timeout, response_timeout) = table.optional("timeout", timeouts).unwrap_or((DEFAULT_TIMEOUTS, None));
    let retry = table.optional("retry", retry).unwrap_or(DEFAULT_RETRY);
    table.finish();

    http_only.extend(sticky.cookie_key.map(|span| At { span, value: "sticky.cookie" }));
    let mut pools: Vec<_> = split.iter().map(|(pool, _)| pool.clone()).collect();
    pools.extend(force.iter().map(|(pool, _)| pool.clone()));
    let mut service = Service {
        name,
        hosts: hosts.iter().map(|host| host.value.clone()).collect(),
        paths: paths.iter().map(|path| path.value.clone()).collect(),
        split: split.into_iter().map(|(pool, share)| (pool.value, share)).collect(),
        force: force.into_iter().map(|(_, rule)| rule).collect(),
        sticky_cookie: sticky.cookie.as_ref().map(|cookie| cookie.value.clone()),
        sticky_source_ip: sticky.source_ip.as_ref().map(|ttl| ttl.value),
        allow: allow.into_iter().collect(),
        deny: deny.into_iter().collect(),
        rate_limit,
        disclosure: Disclosure { passes, server },
        min_body_rate: min_body_rate.unwrap_or(MIN_BODY_RATE),
        timeout,
        retry,
    };
    if service.paths.is_empty() {
        service.paths.push("/".into());
    }
    Some(Draft {
        service,
        pools,
        hosts,
        paths,
        cookie: sticky.cookie.map(|cookie| cookie.span),
        source_ip: sticky.source_ip.map(|ttl| ttl.span),
        http_only,
        response_timeout,
    })
}

/// Bytes a second, slower than any line that people still have.
const MIN_BODY_RATE: u32 = 500;

fn telltale(value: &Value<'_>) -> Option<Telltale> {
    let text = value.text()?;
    let known = Telltale::ALL.iter().find(|known| known.name().eq_ignore_ascii_case(text)).copied();
    if known.is_none() {
        let hint = suggest::hint(text, "one of", Telltale::ALL.iter().map(|known| known.name()), []);
        value.sink.error(value.span.clone(), format!("`{text}` is no header that is taken out"), hint);
    }
    known
}

fn server(value: &Value<'_>) -> Option<HeaderValue> {
    let text = read::text(value)?;
    let header = HeaderValue::from_str(&text).ok();
    if header.is_none() {
        value.wrong("a header's value is made of visible ASCII characters");
    }
    header
}

fn split(value: &Value<'_>) -> Option<Vec<(At<PoolName>, u32)>> {
    let mut shares = Vec::new();
    for (key, value) in value.table()?.entries() {
        let share = read::integer::<u32>(0..=65_535)(&value);
        match PoolName::new(key.value) {
            Ok(pool) => shares.push((At { span: key.span, value: pool }, share.unwrap_or(1))),
            Err(error) => value.sink.error(key.span, error.to_string(), None),
        }
    }
    if shares.iter().all(|(_, share)| *share == 0) {
        value.wrong_but("a split needs a pool with a share above 0", "for one pool: split = { POOL = 1 }");
    }
    Some(shares)
}

fn force(value: &Value<'_>) -> Option<(At<PoolName>, ForceRule)> {
    let mut table = value.table()?;
    let header = table.required("header", |value| {
        read::parsed(value, |text| {
            HeaderName::from_bytes(text.as_bytes()).map_err(|_| format!("`{text}` is no header name"))
        })
    });
    let content = table.required("value", |value| {
        read::parsed(value, |text| {
            HeaderValue::from_str(text).map_err(|_| "a header's value is made of visible ASCII characters")
        })
    });
    let pool = table.required("pool", read::located(read::name::<PoolName>));
    table.finish();
    let pool = pool?;
    let rule = ForceRule { header: header?, value: content?, pool: pool.value.clone() };
    Some((pool, rule))
}

#[derive(Default)]
struct Sticky {
    cookie_key: Option<Span>,
    cookie: Option<At<StickyCookie>>,
    source_ip: Option<At<std::time::Duration>>,
}

fn sticky(value: &Value<'_>) -> Option<Sticky> {
    let mut table = value.table()?;
    let cookie_key = table.place("cookie");
    let cookie = table.optional("cookie", cookie);
    let source_ip = table.keyed("source_ip").and_then(|(span, value)| {
        let mut table = value.table()?;
        let ttl = table.optional("ttl", read::duration(secs(1)..=secs(YEAR)));
        table.finish();
        Some(At { span, value: ttl.unwrap_or(secs(30 * 60)) })
    });
    table.finish();
    Some(Sticky { cookie_key, cookie, source_ip })
}

fn cookie(value: &Value<'_>) -> Option<At<StickyCookie>> {
    const ON_DOWN: &[(&str, OnDown)] =
        &[("repin", OnDown::Repin), ("temporary", OnDown::Temporary), ("refuse", OnDown::Refuse)];
    let mut table = value.table()?;
    let name = table.optional("name", read::located(cookie_name));
    let ttl = table.optional("ttl", read::duration(secs(1)..=secs(YEAR))).unwrap_or(secs(8 * 3_600));
    let longest = read::duration(secs(1)..=secs(YEAR));
    let max_age = table.optional("max_age", read::located(longest));
    let on_down = table.optional("on_down", read::choice(ON_DOWN, &[]));
    table.finish();
    if let Some(max_age) = max_age.as_ref().filter(|max_age| max_age.value < ttl) {
        let message = format!("`max_age` is shorter than `ttl`, {}", humantime::format_duration(ttl));
        value.sink.error(max_age.span.clone(), message, None);
    }
    let span = name.as_ref().map_or(value.span.clone(), |name| name.span.clone());
    let cookie = StickyCookie {
        name: name.map_or_else(|| "meridian".into(), |name| name.value),
        ttl,
        max_age: max_age.map_or(ttl.max(secs(DAY)), |max_age| max_age.value),
        on_down: on_down.unwrap_or_default(),
    };
    Some(At { span, value: cookie })
}

/// A token of RFC 9110 §5.6.2, as RFC 6265 §4.1.1 asks.
pub(super) fn cookie_name(value: &Value<'_>) -> Option<String> {
    let name = read::text(value)?;
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.len() > 64 || !name.bytes().all(token) {
        value.wrong("a cookie's name is made of up to 64 letters, digits and any of !#$%&'*+-.^_`|~");
        return None;
    }
    Some(name)
}

fn rate_limit(value: &Value<'_>) -> Option<RateLimit> {
    let mut table = value.table()?;
    if table.place("per_client").is_none() && table.place("service").is_none() {
        let hint = "per_client = 100 for each client, service = 5000 for all of them together";
        table.sink().absent(table.span(), "`per_client` or `service` is missing here", Some(hint.into()));
    }
    let per_client = rate(&mut table, "per_client", "burst", 0.001..=1e6, 100_000);
    let service = rate(&mut table, "service", "service_burst", 0.001..=1e7, 10_000_000);
    table.finish();
    Some(RateLimit { per_client, service })
}

/// A rate under `key` and its burst under another; a second's worth, when nothing is said.
fn rate(
    table: &mut Table<'_>,
    key: &'static str,
    burst_key: &'static str,
    range: RangeInclusive<f64>,
    burst_max: u32,
) -> Option<Rate> {
    if let Some(place) = table.place(burst_key).filter(|_| table.place(key).is_none()) {
        table.sink().error(place, format!("`{burst_key}` belongs to `{key}`, which is missing"), None);
    }
    let per_second = table.optional(key, read::number(range));
    let burst = table.optional(burst_key, read::integer::<u32>(1..=burst_max.into()));
    let per_second = per_second?;
    Some(Rate { per_second, burst: burst.unwrap_or((per_second.ceil() as u32).clamp(1, burst_max)) })
}

/// DESIGN §9.
const DEFAULT_TIMEOUTS: Timeouts = Timeouts { connect: secs(1), response: secs(60), idle: secs(3_600) };

fn timeouts(value: &Value<'_>) -> Option<(Timeouts, Option<Span>)> {
    let mut table = value.table()?;
    let connect = table.optional("connect", read::duration(ms(1)..=secs(300)));
    let response_key = table.place("response");
    let response = table.optional("response", read::duration(ms(1)..=secs(DAY)));
    let idle = table.optional("idle", read::duration(ms(1)..=secs(7 * DAY)));
    table.finish();
    let timeouts = Timeouts {
        connect: connect.unwrap_or(DEFAULT_TIMEOUTS.connect),
        response: response.unwrap_or(DEFAULT_TIMEOUTS.response),
        idle: idle.unwrap_or(DEFAULT_TIMEOUTS.idle),
    };
    Some((timeouts, response_key))
}

const DEFAULT_RETRY: Retry = Retry { attempts: 2, budget: 0.2 };

fn retry(value: &Value<'_>) -> Option<Retry> {
    let mut table = value.table()?;
    let attempts = table.optional("attempts", read::integer(0..=10));
    let budget = table.optional("budget", read::number(0.0..=1.0));
    table.finish();
    Some(Retry {
        attempts: attempts.unwrap_or(DEFAULT_RETRY.attempts),
        budget: budget.unwrap_or(DEFAULT_RETRY.budget),
    })
}
