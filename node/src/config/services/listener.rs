//! `[listener.NAME]`

use gossip::id::{ListenerName, ServiceName};

use http::HeaderValue;

use crate::config::diagnostics::Span;
use crate::config::model::{CertificateFiles, Listener, ListenerProtocol};
use crate::config::read::{self, secs};
use crate::config::walk::{At, Table, Value};

/// A listener and the places of what other sections may contradict.
pub(super) struct Draft {
    pub(super) listener: Listener,
    pub(super) port: Option<At<u16>>,
    pub(super) service: Option<At<ServiceName>>,
    pub(super) services: Vec<At<ServiceName>>,
    /// Where `redirect_https = true` stands.
    pub(super) redirects: Option<Span>,
}

const PROTOCOLS: &[(&str, ListenerProtocol)] = &[
    ("http", ListenerProtocol::Http),
    ("https", ListenerProtocol::Https),
    ("tcp", ListenerProtocol::Tcp),
    ("tls", ListenerProtocol::Tls),
];

pub(super) fn read(name: ListenerName, value: &Value<'_>) -> Option<Draft> {
    let mut table = value.table()?;
    let port = table.required("port", read::located(read::integer(1..=65_535)));
    let protocol = table.required("protocol", read::choice(PROTOCOLS, &[]));
    let service = table.keyed("service");
    let services_key = table.place("services");
    let names = read::list(read::located(read::name::<ServiceName>));
    let services = table.optional("services", names).unwrap_or_default();
    let trusted_proxies = table.optional("trusted_proxies", read::list(read::network)).unwrap_or_default();
    let accept_proxy = table.optional("accept_proxy", read::list(read::network)).unwrap_or_default();
    let max_connections = table.optional("max_connections", read::integer(1..=10_000_000)).unwrap_or(65_536);
    let per_client_key = table.place("max_connections_per_client");
    let max_connections_per_client =
        table.optional("max_connections_per_client", read::integer::<u32>(1..=10_000_000));
    if let (Some(place), Some(most)) = (per_client_key, max_connections_per_client)
        && most as usize > max_connections
    {
        let message = format!("one client may have more than the listener has, {max_connections}");
        table.sink().warning(place, message, None);
    }
    let tls = tls(&mut table, protocol);
    table.later("acme", |value| value.table().map(drop));
    check_service(protocol, service.as_ref().map(|(span, _)| span), table.span(), value);
    if let (Some(span), Some(_)) =
        (services_key, protocol.filter(|protocol| *protocol != ListenerProtocol::Tls))
    {
        value.sink.error(span, "`services` is for tls listeners", None);
    }
    table.finish();

    let service = service.and_then(|(_, value)| read::located(read::name::<ServiceName>)(&value));
    let listener = Listener {
        name,
        port: port.as_ref().map_or(0, |port| port.value),
        protocol: protocol.unwrap_or(ListenerProtocol::Http),
        service: service.as_ref().map(|service| service.value.clone()),
        services: services.iter().map(|service| service.value.clone()).collect(),
        trusted_proxies,
        accept_proxy,
        max_connections,
        max_connections_per_client,
        certificates: tls.certificates,
        client_ca: tls.client_ca,
        hsts: tls.hsts,
        redirect_https: None,
    };
    Some(Draft { listener, port, service, services, redirects: tls.redirects })
}

/// The keys that TLS brings.
struct Keys {
    certificates: Vec<CertificateFiles>,
    client_ca: Option<std::path::PathBuf>,
    hsts: Option<HeaderValue>,
    redirects: Option<Span>,
}

fn tls(table: &mut Table<'_>, protocol: Option<ListenerProtocol>) -> Keys {
    let (span, sink) = (table.span(), table.sink());
    let certificate = table.place("certificate");
    let elsewhere = |key: &str, own: &str, place: Option<Span>, wanted: ListenerProtocol| {
        if let (Some(place), Some(protocol)) = (place, protocol)
            && protocol != wanted
        {
            sink.error(place, format!("`{key}` is for {own} listeners"), None);
        }
    };
    elsewhere("certificate", "https", certificate.clone(), ListenerProtocol::Https);
    elsewhere("client_ca", "https", table.place("client_ca"), ListenerProtocol::Https);
    elsewhere("hsts", "https", table.place("hsts"), ListenerProtocol::Https);
    let redirects = table.place("redirect_https");
    elsewhere("redirect_https", "http", redirects.clone(), ListenerProtocol::Http);
    if protocol == Some(ListenerProtocol::Https) && certificate.is_none() {
        let hint = "certificate = [{ cert = \"/etc/meridian/www.pem\", key = \"/etc/meridian/www.key\" }]";
        sink.absent(span, "an https listener needs `certificate`", Some(hint.into()));
    }
    let certificates = table.optional("certificate", |value| {
        if value.list()?.next().is_none() {
            value.wrong("`certificate` names none");
        }
        read::list(read::certificate)(value)
    });
    let client_ca = table.optional("client_ca", read::path);
    let hsts = table.optional("hsts", hsts);
    let redirect = table.optional("redirect_https", read::boolean);
    Keys {
        certificates: certificates.unwrap_or_default(),
        client_ca,
        hsts: hsts.flatten(),
        redirects: redirects.filter(|_| redirect == Some(true)),
    }
}

/// Strict-Transport-Security (RFC 6797): `"1y"`, `true` for a year, or `{ max_age, include_subdomains, preload }`. A time of 0
/// takes it back.
fn hsts(value: &Value<'_>) -> Option<Option<HeaderValue>> {
    let max_age = read::seconds(secs(0)..=secs(10 * 366 * 86_400));
    let (max_age, subdomains, preload) = if value.is_text() {
        (max_age(value)?, false, false)
    } else if value.is_table() {
        let mut table = value.table()?;
        let time = table.optional("max_age", max_age).unwrap_or(YEAR);
        let subdomains = table.optional("include_subdomains", read::boolean).unwrap_or(false);
        let preload = table.optional("preload", read::boolean).unwrap_or(false);
        table.finish();
        (time, subdomains, preload)
    } else if value.is_boolean() {
        if !value.boolean()? {
            return Some(None);
        }
        (YEAR, false, false)
    } else {
        value.wrong_but(
            "`hsts` must be a time",
            "write \"1y\", true, or { max_age = \"1y\", include_subdomains = true }",
        );
        return None;
    };
    let mut text = format!("max-age={}", max_age.as_secs());
    if subdomains {
        text.push_str("; includeSubDomains");
    }
    if preload {
        text.push_str("; preload");
    }
    HeaderValue::try_from(text).ok().map(Some)
}

const YEAR: std::time::Duration = secs(365 * 86_400);

fn check_service(
    protocol: Option<ListenerProtocol>,
    service: Option<&Span>,
    listener: Span,
    value: &Value<'_>,
) {
    match (protocol, service) {
        (Some(ListenerProtocol::Tcp), None) => {
            let hint = "bytes carry no host: name the service behind this port";
            value.sink.absent(listener, "a tcp listener needs `service`", Some(hint.into()));
        }
        (Some(ListenerProtocol::Http | ListenerProtocol::Https), Some(span)) => {
            let hint = "an http listener serves every service by its `hosts` and `paths`";
            value.sink.error(span.clone(), "`service` is for tcp and tls listeners", Some(hint.into()));
        }
        _ => {}
    }
}
