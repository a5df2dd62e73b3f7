//! What sections say of each other.

use std::collections::{BTreeMap, BTreeSet};

use super::{Diagnostics, Draft, Section, listener, region, route, service};
use crate::config::diagnostics::Span;
use crate::config::model::ListenerProtocol;
use crate::config::suggest;

/// Finds every contradiction between sections.
pub(super) fn check(draft: &Draft<'_>, sink: &Diagnostics) {
    let Draft { regions, zones, listeners, services, pools } = draft;
    let empty = regions.is_empty()
        && zones.is_empty()
        && listeners.is_empty()
        && services.is_empty()
        && pools.is_empty();
    if empty && !sink.has_errors() {
        let hint = "applied, it takes every listener, service and zone away".to_owned();
        sink.warning(0..0, "this file declares nothing", Some(hint));
    }
    let names = Names::of(draft);
    check_references(draft, &names, sink);
    check_ports(draft, sink);
    region::check_prefixes(&draft.regions, sink);

    let behind_tcp = behind_tcp(draft);
    let bodies = || draft.services.iter().filter_map(|section| Some((section, section.body.as_ref()?)));
    let (tcp, http): (Vec<_>, Vec<_>) =
        bodies().partition(|(section, _)| behind_tcp.contains_key(section.key.value));
    for (section, body) in &tcp {
        check_tcp_service(section.key.value, behind_tcp[section.key.value], body, sink);
    }
    for (_, body) in &http {
        check_http_service(body, sink);
    }
    route::check(&http, sink);
    check_pools(draft, &tcp, &http, sink);
    // What is merely odd is worth a word in a file that is sound otherwise.
    if !sink.has_errors() {
        check_served(draft, &behind_tcp, sink);
        check_used(draft, sink);
    }
}

/// Every name that a section declares, its body sound or not.
struct Names<'t> {
    regions: BTreeSet<&'t str>,
    services: BTreeSet<&'t str>,
    pools: BTreeSet<&'t str>,
}

impl<'t> Names<'t> {
    fn of(draft: &Draft<'t>) -> Self {
        Self { regions: keys(&draft.regions), services: keys(&draft.services), pools: keys(&draft.pools) }
    }
}

fn keys<'t, N, D>(sections: &[Section<'t, N, D>]) -> BTreeSet<&'t str> {
    sections.iter().map(|section| section.key.value).collect()
}

/// Names that nothing declares. A region may be unknown to the file and still have nodes: that is only odd.
fn check_references(draft: &Draft<'_>, names: &Names<'_>, sink: &Diagnostics) {
    let missing = |what: &str, name: &str, span: &Span, known: &BTreeSet<&str>| {
        if !known.contains(name) {
            let hint = suggest::hint(name, "declared", known.iter().copied(), []);
            sink.error(span.clone(), format!("there is no {what} `{name}`"), hint);
        }
    };
    for listener in draft.listeners.iter().filter_map(|section| section.body.as_ref()) {
        if let Some(service) = &listener.service {
            missing("service", service.as_str(), &service.span, &names.services);
        }
    }
    for service in draft.services.iter().filter_map(|section| section.body.as_ref()) {
        for pool in &service.pools {
            missing("pool", pool.as_str(), &pool.span, &names.pools);
        }
    }
    let zones = || draft.zones.iter().filter_map(|section| section.body.as_ref());
    for service in zones().flat_map(|zone| &zone.services) {
        missing("service", service.as_str(), &service.span, &names.services);
    }
    let named_by_pools =
        draft.pools.iter().filter_map(|section| section.body.as_ref()).flat_map(|pool| &pool.regions);
    for region in named_by_pools.chain(zones().flat_map(|zone| &zone.regions)) {
        if !names.regions.is_empty() && !names.regions.contains(region.as_str()) {
            let hint = suggest::hint(region.as_str(), "declared", names.regions.iter().copied(), []);
            sink.warning(region.span.clone(), format!("no [region.{}] is declared", region.value), hint);
        }
    }
}

/// All listeners of this version speak over TCP, so a port has one of them.
fn check_ports(draft: &Draft<'_>, sink: &Diagnostics) {
    let mut owners = BTreeMap::new();
    for section in &draft.listeners {
        let Some(port) = section.body.as_ref().and_then(|body| body.port.as_ref()) else { continue };
        let owner = *owners.entry(port.value).or_insert(section.key.value);
        if owner != section.key.value {
            sink.error(
                port.span.clone(),
                format!("port {} is already listener `{owner}`'s", port.value),
                None,
            );
        }
    }
}

/// The services that tcp listeners name, each with one such listener.
fn behind_tcp<'a>(draft: &'a Draft<'_>) -> BTreeMap<&'a str, &'a str> {
    let tcp = |body: &&listener::Draft| body.listener.protocol == ListenerProtocol::Tcp;
    let named = |section: &'a Section<'_, _, listener::Draft>| {
        let service = section.body.as_ref().filter(tcp)?.service.as_ref()?;
        Some((service.value.as_str(), section.key.value))
    };
    draft.listeners.iter().filter_map(named).collect()
}

fn check_tcp_service(name: &str, listener: &str, body: &service::Draft, sink: &Diagnostics) {
    for key in &body.http_only {
        let message =
            format!("`{}` is for HTTP, and `{name}` stands behind the tcp listener `{listener}`", key.value);
        let hint =
            (key.value == "sticky.cookie").then(|| "for TCP: sticky.source_ip = { ttl = \"30m\" }".into());
        sink.error(key.span.clone(), message, hint);
    }
    if let Some(span) = &body.response_timeout {
        sink.warning(span.clone(), "`response` means nothing to a service behind a tcp listener", None);
    }
}

fn check_http_service(body: &service::Draft, sink: &Diagnostics) {
    if let Some(span) = &body.source_ip {
        let hint = "for HTTP: sticky.cookie = { name = \"meridian\" }";
        sink.error(span.clone(), "`source_ip` is for services behind a tcp listener", Some(hint.into()));
    }
}

type Bodies<'a, 't> = [(&'a Section<'t, gossip::id::ServiceName, service::Draft>, &'a service::Draft)];

fn check_pools(draft: &Draft<'_>, tcp: &Bodies<'_, '_>, http: &Bodies<'_, '_>, sink: &Diagnostics) {
    let used = |services: &Bodies<'_, '_>| {
        let pools = services.iter().flat_map(|(_, body)| &body.pools);
        pools.map(|pool| pool.value.clone()).collect::<BTreeSet<_>>()
    };
    let (by_tcp, by_http) = (used(tcp), used(http));
    for section in &draft.pools {
        let Some(body) = &section.body else { continue };
        let (tcp, http) = (by_tcp.contains(&section.name), by_http.contains(&section.name));
        if let Some(span) = body.send_proxy.as_ref().filter(|_| http) {
            let hint = "an HTTP backend reads the client's address in X-Forwarded-For";
            let message = "`send_proxy` is for pools behind tcp listeners, and an HTTP service uses this one";
            sink.error(span.clone(), message, Some(hint.into()));
        }
        if let Some(span) = body.protocol.as_ref().filter(|_| tcp && !http) {
            sink.warning(span.clone(), "`protocol` means nothing to a pool behind a tcp listener", None);
        }
    }
}

/// Pools that no service uses.
fn check_used(draft: &Draft<'_>, sink: &Diagnostics) {
    let services = draft.services.iter().filter_map(|section| section.body.as_ref());
    let used: BTreeSet<&str> =
        services.flat_map(|service| &service.pools).map(|pool| pool.as_str()).collect();
    for section in draft.pools.iter().filter(|section| !used.contains(section.key.value)) {
        sink.warning(section.key.span.clone(), format!("no service uses pool `{}`", section.key.value), None);
    }
}

/// Services that no listener serves.
fn check_served(draft: &Draft<'_>, behind_tcp: &BTreeMap<&str, &str>, sink: &Diagnostics) {
    let http = |body: &listener::Draft| body.listener.protocol == ListenerProtocol::Http;
    let any_http = draft.listeners.iter().any(|section| section.body.as_ref().is_none_or(http));
    if any_http {
        return;
    }
    let unserved: BTreeSet<&str> =
        keys(&draft.services).into_iter().filter(|name| !behind_tcp.contains_key(name)).collect();
    for section in draft.services.iter().filter(|section| unserved.contains(section.key.value)) {
        sink.warning(section.key.span.clone(), format!("no listener serves `{}`", section.key.value), None);
    }
    for service in
        draft.zones.iter().filter_map(|section| section.body.as_ref()).flat_map(|zone| &zone.services)
    {
        if unserved.contains(service.as_str()) {
            let message = format!("users are steered to `{}`, and no listener serves it", service.value);
            sink.warning(service.span.clone(), message, None);
        }
    }
}
