//! What this node counted, in the API's words.

use std::sync::atomic::Ordering;

use super::Context;
use super::api::Counters;
use crate::proxy::{Affinity, Cut, End};

pub(super) fn counters(context: &Context, degraded_commits: u64) -> Counters {
    let counted = context.proxy.counters();
    Counters {
        ends: End::ALL.iter().map(|&end| (end.as_str().to_owned(), counted.ends(end))).collect(),
        sessions: Affinity::ALL.iter().map(|&how| (how.as_str().to_owned(), counted.affinity(how))).collect(),
        connections: [
            ("accepted", &counted.connections),
            ("held", &counted.connections_held),
            ("rested", &counted.rested),
            ("refused", &counted.connections_refused),
            ("tls_done", &counted.tls_handshakes),
            ("tls_resumed", &counted.tls_resumed),
            ("tls_failed", &counted.tls_failed),
        ]
        .map(|(what, count)| (what.to_owned(), count.load(Ordering::Relaxed)))
        .into(),
        connections_open: context.proxy.connections() as u64,
        cut: Cut::ALL.iter().map(|&why| (why.as_str().to_owned(), counted.cut(why))).collect(),
        cookies_dropped: counted.cookies_dropped.load(Ordering::Relaxed),
        retries: counted.retries.load(Ordering::Relaxed),
        tunnels_out: counted.tunnels_out.load(Ordering::Relaxed),
        tunnels_in: counted.tunnels_in.load(Ordering::Relaxed),
        degraded_commits,
        dns: context.dns.as_deref().map(crate::steering::counters).unwrap_or_default(),
    }
}
