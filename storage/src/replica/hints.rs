//! Hinted hand-off: what a replica should hold and did not acknowledge, kept for when it speaks again.
//!
//! Only names are kept; what is sent is what the table says then, so a session that changed a hundred times is sent once.
//! Bounded: 10 minutes and 64 MiB a node. What is older or more is left to repair, which compares everything.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use gossip::id::{NodeName, SessionId, Tag};

use super::{Now, Purpose, Replica, add};
use crate::placement::bucket_of;
use crate::table::Record;
use crate::wire::{BATCH_MAX, Request, Response};

const KEPT: Duration = Duration::from_secs(600);
/// What a hint takes: its key, its time, its share of the tree.
const HINT_BYTES: usize = 64;
/// Hints that may wait for one node.
pub const HINTS_MAX: usize = 64 * 1024 * 1024 / HINT_BYTES;
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// Records by name, and since when each is missed.
pub(super) type Keys = BTreeMap<(Tag, SessionId), Instant>;

/// The hints for one node.
#[derive(Debug, Default)]
pub(super) struct Hints {
    waiting: Keys,
    under_way: bool,
}

impl Replica {
    /// `to` should hold this record and may not.
    pub(super) fn hint(&mut self, to: &NodeName, home: Tag, id: SessionId, now: Now) {
        self.hint_since(to, home, id, now.instant);
    }

    fn hint_since(&mut self, to: &NodeName, home: Tag, id: SessionId, since: Instant) {
        let hints = self.hints.entry(to.clone()).or_default();
        if hints.waiting.len() < HINTS_MAX {
            hints.waiting.entry((home, id)).or_insert(since);
        }
    }

    /// Sends hints to the nodes that speak, drops old ones.
    pub(super) fn deliver_hints(&mut self, now: Now) {
        let fresh = |at: &Instant| now.instant.saturating_duration_since(*at) < KEPT;
        for hints in self.hints.values_mut() {
            hints.waiting.retain(|_, at| fresh(at));
        }
        self.hints.retain(|_, hints| !hints.waiting.is_empty() || hints.under_way);
        let waiting = self.hints.values().map(|hints| hints.waiting.len() as u64).sum();
        self.counters.hinted.store(waiting, Ordering::Relaxed);
        let speak: Vec<_> = self.hints.keys().filter(|peer| self.mates.is_alive(peer)).cloned().collect();
        speak.into_iter().for_each(|peer| self.deliver_to(peer, now));
    }

    fn deliver_to(&mut self, peer: NodeName, now: Now) {
        let Some(hints) = self.hints.get_mut(&peer).filter(|hints| !hints.under_way) else { return };
        let mut records = Vec::new();
        let mut keys = Keys::new();
        while records.len() < BATCH_MAX
            && let Some(((home, id), since)) = hints.waiting.pop_first()
        {
            // What has ended meanwhile, or is no longer the peer's to hold, needs no delivery.
            if self.mates.placement.holds(&peer, home, bucket_of(&id))
                && let Some(pin) = self.table.find(home, &id, now.wall)
            {
                records.push(Record { home, pin });
                keys.insert((home, id), since);
            }
        }
        if !records.is_empty() {
            hints.under_way = true;
            self.ask(peer.clone(), Request::HandOff(records), ASK_TIMEOUT, Purpose::Hints(peer, keys));
        }
    }

    pub(super) fn hints_answered(&mut self, peer: NodeName, keys: Keys, answer: Option<Response>, now: Now) {
        if let Some(hints) = self.hints.get_mut(&peer) {
            hints.under_way = false;
        }
        match answer {
            Some(Response::Ack { .. }) => {
                add(&self.counters.repaired, keys.len() as u64);
                self.deliver_to(peer, now);
            }
            _ => keys.into_iter().for_each(|((home, id), since)| self.hint_since(&peer, home, id, since)),
        }
    }
}
