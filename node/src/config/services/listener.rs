//! `[listener.NAME]`

use gossip::id::{ListenerName, ServiceName};

use crate::config::diagnostics::Span;
use crate::config::model::{Listener, ListenerProtocol};
use crate::config::read;
use crate::config::walk::{At, Value};

/// A listener and the places of what other sections may contradict.
pub(super) struct Draft {
    pub(super) listener: Listener,
    pub(super) port: Option<At<u16>>,
    pub(super) service: Option<At<ServiceName>>,
}

const PROTOCOLS: &[(&str, ListenerProtocol)] =
    &[("http", ListenerProtocol::Http), ("tcp", ListenerProtocol::Tcp)];

pub(super) fn read(name: ListenerName, value: &Value<'_>) -> Option<Draft> {
    let mut table = value.table()?;
    let port = table.required("port", read::located(read::integer(1..=65_535)));
    let protocol = table.required("protocol", read::choice(PROTOCOLS, &["https", "tls"]));
    let service = table.keyed("service");
    let trusted_proxies = table.optional("trusted_proxies", read::list(read::network)).unwrap_or_default();
    let max_connections = table.optional("max_connections", read::integer(1..=10_000_000)).unwrap_or(65_536);
    table.later("accept_proxy", read::list(read::network));
    table.later("certificate", read::list(certificate));
    table.later("redirect_https", read::any);
    table.later("hsts", read::any);
    table.later("client_ca", read::path);
    table.later("acme", |value| value.table().map(drop));
    check_service(protocol, service.as_ref().map(|(span, _)| span), table.span(), value);
    table.finish();

    let service = service.and_then(|(_, value)| read::located(read::name::<ServiceName>)(&value));
    let listener = Listener {
        name,
        port: port.as_ref().map_or(0, |port| port.value),
        protocol: protocol.unwrap_or(ListenerProtocol::Http),
        service: service.as_ref().map(|service| service.value.clone()),
        trusted_proxies,
        max_connections,
    };
    Some(Draft { listener, port, service })
}

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
        (Some(ListenerProtocol::Http), Some(span)) => {
            let hint = "an http listener serves every service by its `hosts` and `paths`";
            value.sink.error(span.clone(), "`service` is for tcp listeners", Some(hint.into()));
        }
        _ => {}
    }
}

fn certificate(value: &Value<'_>) -> Option<()> {
    let mut table = value.table()?;
    table.required("cert", read::path);
    table.required("key", read::path);
    table.finish();
    Some(())
}
