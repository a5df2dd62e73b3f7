//! What the name server counts.

use super::family::{Family, Labels};
use crate::admin::Context;

pub(super) fn families(context: &Context) -> Vec<Family> {
    let Some(responder) = &context.dns else { return Vec::new() };
    let counted = responder.counters().snapshot();
    let over_tcp = counted.queries_tcp.saturating_sub(counted.queries_tls);
    let of = |transport: &str, open: u64, places: u64| {
        (vec![("transport", transport.to_owned())], open as f64, places as f64)
    };
    let connections = Family::bounded(
        [
            ("dns_connections", "Connections of resolvers that are open"),
            ("dns_connections_limit", "Connections that may be, at all addresses; then the idlest gives way"),
        ],
        [of("tcp", counted.tcp_open, counted.tcp_places), of("tls", counted.tls_open, counted.tls_places)],
    );
    let limited = responder.limited_networks(context.clock.now());
    let limited = Family::bounded(
        [
            ("dns_rate_limit_networks", "Networks whose answers are counted now, each kind apart"),
            (
                "dns_rate_limit_networks_limit",
                "Networks that can be counted; then the least used is forgotten",
            ),
        ],
        // Empty while there is no limit.
        limited.map(|(used, places)| (Labels::new(), used as f64, places as f64)),
    );
    let families = vec![
        Family::counts(
            "dns_queries",
            "Messages, answered or not",
            "transport",
            [("udp", counted.queries_udp), ("tcp", over_tcp), ("tls", counted.queries_tls)],
        ),
        Family::counts(
            "dns_answers",
            "Answers by response code (RFC 6895)",
            "rcode",
            counted.rcodes.iter().map(|(rcode, count)| (rcode.0, *count)),
        ),
        Family::count("dns_dropped", "Messages that got no answer", counted.dropped),
        Family::count("dns_truncated", "Answers cut to fit UDP", counted.truncated),
        Family::count(
            "dns_fail_open",
            "Steered answers given although no region was healthy",
            counted.fail_open,
        ),
        Family::count(
            "dns_tcp_refused",
            "TCP connections closed because too many were open",
            counted.tcp_refused,
        ),
        Family::count(
            "dns_rate_limited",
            "Answers held back or cut by the response rate limit",
            counted.limited,
        ),
        Family::count("dns_transfers", "Zones given away whole", counted.transfers),
        Family::count("dns_signatures", "Signatures made", counted.signed),
        Family::count(
            "dns_unsigned",
            "Answers put off because too many signatures were made of late",
            counted.unsigned,
        ),
        Family::count(
            "dns_tls_failed",
            "TLS handshakes of resolvers that came to nothing",
            counted.tls_failed,
        ),
        Family::count("dns_panics", "Batches lost to a bug", counted.panics),
        Family::count(
            "dns_tcp_evicted",
            "Idle TCP connections closed because others needed their places",
            counted.tcp_evicted,
        ),
    ];
    families.into_iter().chain(connections).chain(limited).collect()
}
