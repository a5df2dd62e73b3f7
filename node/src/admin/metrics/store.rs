//! What the session store and the history hold, and how much they may.

use storage::intents::{Aspect, ENDS_MAX};
use storage::replica::{HINTS_MAX, OPS_MAX, PROMISES_MAX};
use storage::revision::HISTORY_MAX;
use storage::zone_key::KEYS_MAX;

use super::family::Family;
use crate::admin::Context;

pub(super) fn families(context: &Context) -> Vec<Family> {
    let stats = context.sessions.stats();
    let intents = context.intents.list();
    let ends = intents.keys().filter(|(_, aspect)| *aspect == Aspect::End).count();
    let queue = context.sessions.queued();
    vec![
        Family::gauge("session_queue", "Orders of requests that wait for the sessions' task", queue.0 as f64),
        Family::gauge(
            "session_queue_limit",
            "How many may wait; further requests go on without it",
            queue.1 as f64,
        ),
        Family::gauge("session_records", "Records of sessions held here, replicas too", stats.held as f64),
        Family::gauge("session_records_limit", "Records that fit", storage::table::PINS_MAX as f64),
        Family::gauge(
            "session_records_hinted",
            "Records that wait for nodes that did not acknowledge them",
            stats.hinted as f64,
        ),
        Family::gauge(
            "session_records_hinted_limit",
            "Records that may wait for one node; more are left to repair",
            HINTS_MAX as f64,
        ),
        Family::gauge(
            "session_operations",
            "Commits, look-ups and moves of sessions under way",
            stats.operations as f64,
        ),
        Family::gauge(
            "session_operations_limit",
            "How many may be under way; further ones end at once, without another node's word",
            OPS_MAX as f64,
        ),
        Family::gauge(
            "session_promises",
            "Elections in which this replica has promised something",
            stats.promises as f64,
        ),
        Family::gauge(
            "session_promises_limit",
            "How many there may be; sessions move without its consent beyond",
            PROMISES_MAX as f64,
        ),
        Family::gauge("store_queue", "Changes of sessions that wait for the store", stats.waiting as f64),
        Family::gauge("store_queue_limit", "Changes that may wait", stats.waiting_limit as f64),
        Family::gauge("store_disk_bytes", "The copy on disk after the last write", stats.disk_bytes as f64),
        Family::gauge(
            "store_disk_bytes_limit",
            "The size at which the copy on disk is written anew",
            stats.disk_limit_bytes as f64,
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
        Family::gauge("revisions_kept_limit", "Revisions that the history has room for", HISTORY_MAX as f64),
        Family::gauge("zone_keys", "Keys of signed zones", context.zone_keys.known().count() as f64),
        Family::gauge("zone_keys_limit", "Keys that there is room for", KEYS_MAX as f64),
    ]
}
