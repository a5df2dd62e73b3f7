//! What the session store and the history hold, and how much they may.

use storage::intents::{Aspect, ENDS_MAX};

use super::family::Family;
use crate::admin::Context;

pub(super) fn families(context: &Context) -> Vec<Family> {
    let stats = context.sessions.stats();
    let intents = context.intents.list();
    let ends = intents.keys().filter(|(_, aspect)| *aspect == Aspect::End).count();
    vec![
        Family::gauge("session_records", "Records of sessions held here, replicas too", stats.held as f64),
        Family::gauge("session_records_limit", "Records that fit", storage::table::PINS_MAX as f64),
        Family::gauge(
            "session_records_hinted",
            "Records that wait for nodes that did not acknowledge them",
            stats.hinted as f64,
        ),
        Family::count(
            "session_commits_unacknowledged",
            "Commits that no other node acknowledged in time",
            stats.degraded,
        ),
        Family::count("session_moves_weak", "Moves without the consent of a majority", stats.weak),
        Family::counts(
            "session_records_refused",
            "Records not taken",
            "reason",
            [("expired_or_future", stats.refused), ("full", stats.full)],
        ),
        Family::count("session_records_repaired", "Records that repair brought or sent", stats.repaired),
        Family::gauge(
            "store_behind",
            "1 while the copy on disk lags behind",
            f64::from(u8::from(stats.disk_behind)),
        ),
        Family::gauge("session_ends", "Ends of sessions that stand", ends as f64),
        Family::gauge("session_ends_limit", "Ends of sessions that may stand", ENDS_MAX as f64),
        Family::gauge("revisions_kept", "Revisions in the history", context.revisions.history().len() as f64),
    ]
}
