//! How full the lists of backends that come and go are.

use super::family::{Family, Labels};
use crate::admin::Context;

pub(super) fn families(context: &Context) -> Vec<Family> {
    let room = context.discovery.room();
    let bounded = |names: [(&'static str, &'static str); 2], (used, most): (usize, usize)| {
        Family::bounded(names, [(Labels::new(), used as f64, most as f64)])
    };
    let registered = bounded(
        [
            ("discovery_leases", "Leases and added backends, with those that are over"),
            (
                "discovery_leases_limit",
                "How many there may be: those that are over give way, then new ones are refused",
            ),
        ],
        room.registered,
    );
    let asked = bounded(
        [
            ("discovery_claims", "Answers of sources, one a source and node that asks it"),
            ("discovery_claims_limit", "How many there may be; further ones are refused"),
        ],
        room.asked,
    );
    let found = bounded(
        [
            ("discovery_backends", "Backends in all answers, leases and orders together"),
            ("discovery_backends_limit", "How many there may be; an answer that would exceed it is refused"),
        ],
        room.found,
    );
    registered.into_iter().chain(asked).chain(found).collect()
}
