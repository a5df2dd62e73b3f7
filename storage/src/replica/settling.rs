//! Whether what this node holds may be believed without asking.
//!
//! A node that comes back holds what was true when it went, less what its disk had not flushed; one that was cut off holds
//! what was true then. Until it has compared all that it shares with each living mate, since that mate came, its own copy
//! of a record may be an old one, and that it has none says nothing. A cookie says itself how new it is, and an election asks a
//! majority; but who is known by address alone has nothing but the record.
//!
//! ```text
//!   a mate comes, or buckets move ─▶ strange ──an exchange with it is complete (see [`super::repair`])──▶ settled
//!   a start                       ─▶ young ───a mate was met, or 2 s────────────────────────────────────▶ settled
//! ```

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::repair::PairKey;
use super::{Mates, Now, Replica};

/// For so long after its start a node that has met nobody may yet meet somebody. One that stays alone is its own authority then.
const YOUNG: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct Settling {
    /// Until then this node has met nobody; `None` when it has, or is alone.
    young: Option<Instant>,
    /// The living mates it shares homes with.
    known: BTreeSet<PairKey>,
    /// Those of them that it has not compared itself with.
    strange: BTreeSet<PairKey>,
}

impl Settling {
    pub(super) fn new(now: Instant) -> Self {
        Self { young: Some(now + YOUNG), known: BTreeSet::new(), strange: BTreeSet::new() }
    }

    /// Mates came or went. Those that came, to be compared with at once.
    fn meet(&mut self, before: &Mates, after: &Mates) -> Vec<PairKey> {
        let homes = after.placement.homes().filter(|(home, _)| after.is_of(*home));
        let mut known = BTreeSet::new();
        for (home, table) in homes {
            let mates = table.nodes().filter(|node| after.is_alive(node));
            let pairs: Vec<PairKey> = mates.map(|node| (node.clone(), home)).collect();
            if before.placement.home(home) != Some(table) {
                self.strange.extend(pairs.iter().cloned());
            }
            known.extend(pairs);
        }
        let came: Vec<_> = known.difference(&self.known).cloned().collect();
        self.strange.extend(came.iter().cloned());
        self.strange.retain(|pair| known.contains(pair));
        self.known = known;
        if !self.known.is_empty() {
            self.young = None;
        }
        came
    }

    /// Those that are still to be compared with.
    pub(super) fn strange(&self) -> impl Iterator<Item = &PairKey> {
        self.strange.iter()
    }

    pub(super) fn is_strange(&self, pair: &PairKey) -> bool {
        self.strange.contains(pair)
    }
}

impl Replica {
    /// Whether the own copy of a record is as good as any, and its absence a word.
    pub(super) fn is_settled(&self) -> bool {
        self.settling.young.is_none() && self.settling.strange.is_empty()
    }

    pub(super) fn settle_with(&mut self, before: &Mates, now: Now) {
        let came = self.settling.meet(before, &self.mates);
        self.note_settled();
        self.exchange_with(came);
        self.search_all(now);
    }

    /// All that is shared with a mate was compared, and what differed was exchanged.
    pub(super) fn settled_with(&mut self, pair: &PairKey, now: Now) {
        if self.settling.strange.remove(pair) && self.is_settled() {
            self.note_settled();
            self.search_all(now);
        }
    }

    /// Ends the youth of a node that has met nobody.
    pub(super) fn grow_up(&mut self, now: Now) {
        if self.settling.young.is_some_and(|until| until <= now.instant) {
            self.settling.young = None;
            self.note_settled();
            self.search_all(now);
        }
    }

    fn note_settled(&self) {
        self.counters.settled.store(self.is_settled(), Ordering::Release);
    }
}
