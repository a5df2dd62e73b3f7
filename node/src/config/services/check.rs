//! What sections say of each other.

use std::collections::{BTreeMap, BTreeSet};

use dns::zone::Kind;

use super::behind::Behind;
use super::{Diagnostics, Draft, Section, listener, region, route, service};
use crate::config::diagnostics::Span;
use crate::config::model::{DnsZone, ListenerProtocol};
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
    check_redirects(draft, sink);
    region::check_prefixes(&draft.regions, sink);
    check_delegations(draft, sink);

    let behind = Behind::of(draft);
    let bodies = || draft.services.iter().filter_map(|section| Some((section, section.body.as_ref()?)));
    let (unopened, http): (Vec<_>, Vec<_>) =
        bodies().partition(|(section, _)| behind.unopened(section.key.value).is_some());
    for (section, body) in &unopened {
        if let Some((protocol, listener)) = behind.unopened(section.key.value) {
            check_unopened_service(section.key.value, protocol, listener, body, sink);
        }
    }
    for (section, body) in &http {
        check_http_service(body, behind.by_any_tls(section.key.value).is_some(), sink);
    }
    let unnamed: Vec<_> = bodies().filter(|(section, _)| !behind.is_named(section.key.value)).collect();
    route::check(&unnamed, sink);
    for names in behind.tls_lists() {
        let listed: Vec<_> = bodies().filter(|(section, _)| names.contains(section.key.value)).collect();
        route::check(&listed, sink);
    }
    check_pools(draft, &unopened, &http, sink);
    // What is merely odd is worth a word in a file that is sound otherwise.
    if !sink.has_errors() {
        check_served(draft, &behind, sink);
        check_used(draft, sink);
    }
}

/// A signed zone proves that a name which it does not delegate is no zone, so who validates takes all of it for forged.
fn check_delegations(draft: &Draft<'_>, sink: &Diagnostics) {
    let zones = || draft.zones.iter().filter_map(|section| Some((section, &section.body.as_ref()?.zone)));
    for (section, child) in zones() {
        let above = zones().filter(|(_, zone)| is_below(&child.name, &zone.name));
        let Some((_, parent)) = above.max_by_key(|(_, zone)| zone.name.len()) else { continue };
        if parent.dnssec && !delegates(parent, &child.name) {
            let label = child.name.strip_suffix(&parent.name).unwrap_or_default().trim_end_matches('.');
            sink.error(
                section.key.span.clone(),
                format!(
                    "the zone `{}` is signed and does not delegate this one, so resolvers that validate take its answers for forged",
                    parent.name
                ),
                Some(format!(
                    "give `{}` the name servers of this zone: record = [{{ name = \"{label}\", type = \"NS\", value = \"…\" }}]",
                    parent.name
                )),
            );
        }
    }
}

/// Whether a name lies below another one; both as zones are named.
fn is_below(name: &str, ancestor: &str) -> bool {
    name.strip_suffix(ancestor).is_some_and(|labels| labels.ends_with('.'))
}

/// Whether a zone has NS records at the child, or between it and the child: then somebody else has that.
fn delegates(parent: &DnsZone, child: &str) -> bool {
    let at = |name: &str| name != parent.name && (name == child || is_below(child, name));
    let told = parent.records.iter().filter(|record| record.kind.eq_ignore_ascii_case("NS"));
    let written =
        parent.file.iter().flat_map(|file| &file.records).filter(|record| record.record.kind == Kind::NS);
    told.map(|record| format!("{}.{}", record.name, parent.name).to_ascii_lowercase()).any(|name| at(&name))
        || written
            .map(|record| record.owner.to_string().to_ascii_lowercase())
            .any(|name| at(name.trim_end_matches('.')))
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
        for service in listener.service.iter().chain(&listener.services) {
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

/// The port that `redirect_https` leads to: 443 where it is one, else the lowest.
pub(super) fn https_port(
    listeners: &[Section<'_, gossip::id::ListenerName, listener::Draft>],
) -> Option<u16> {
    let bodies = listeners.iter().filter_map(|section| section.body.as_ref());
    let https = bodies.filter(|body| body.listener.protocol == ListenerProtocol::Https);
    https.map(|body| body.listener.port).min_by_key(|port| (*port != 443, *port))
}

fn check_redirects(draft: &Draft<'_>, sink: &Diagnostics) {
    if https_port(&draft.listeners).is_some() {
        return;
    }
    let bodies = draft.listeners.iter().filter_map(|section| section.body.as_ref());
    for span in bodies.filter_map(|body| body.redirects.as_ref()) {
        sink.error(span.clone(), "there is no https listener to redirect to", None);
    }
}

fn check_unopened_service(
    name: &str,
    protocol: &str,
    listener: &str,
    body: &service::Draft,
    sink: &Diagnostics,
) {
    for key in body.http_only.iter().filter(|key| protocol == "tcp" || key.value != "hosts") {
        let message = format!(
            "`{}` is for HTTP, and `{name}` stands behind the {protocol} listener `{listener}`",
            key.value
        );
        let hint =
            (key.value == "sticky.cookie").then(|| "for TCP: sticky.source_ip = { ttl = \"30m\" }".into());
        sink.error(key.span.clone(), message, hint);
    }
    if let Some(span) = &body.response_timeout {
        let message = format!("`response` means nothing to a service behind a {protocol} listener");
        sink.warning(span.clone(), message, None);
    }
}

fn check_http_service(body: &service::Draft, also_by_tls: bool, sink: &Diagnostics) {
    if let Some(span) = body.source_ip.as_ref().filter(|_| !also_by_tls) {
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
            let message =
                "`send_proxy` is for pools behind tcp and tls listeners, and an HTTP service uses this one";
            sink.error(span.clone(), message, Some(hint.into()));
        }
        if let Some(span) = body.unverified.as_ref().filter(|_| http) {
            let hint = "ca = \"/etc/meridian/backends.pem\", and server_name = \"...\" when they are certified by name";
            let message = "without `ca` the certificates of these backends are not verified";
            sink.warning(span.clone(), message, Some(hint.into()));
        }
        for (key, span) in [("protocol", &body.protocol), ("tls", &body.tls)] {
            if let Some(span) = span.as_ref().filter(|_| tcp && !http) {
                let message = format!("`{key}` means nothing to a pool behind a tcp listener");
                sink.warning(span.clone(), message, None);
            }
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
fn check_served(draft: &Draft<'_>, behind: &Behind<'_>, sink: &Diagnostics) {
    if behind.any_http {
        return;
    }
    let unserved: BTreeSet<&str> =
        keys(&draft.services).into_iter().filter(|name| behind.unopened(name).is_none()).collect();
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
