//! Whether what this node holds may be believed without asking.
//!
//! A node that comes back holds what was true when it went, less what its disk had not flushed; one that was cut off holds
//! what was true then. Until it has compared all that it shares with each living mate, since that mate came, its own copy
//! of a record may be an old one, and that it has none says nothing. A cookie says itself how new it is, and an election asks a
//! majority; but who is known by address alone has nothing but the record.
//!
//! Where a death moves buckets, only who newly keeps one has to learn: the replicas that stay knew before what they lack, and go on
//! speaking for it. It is otherwise where one that lives has ceased to be a replica, which may know what they do not: they
//! compare the bucket with that one too. Who did not know of a home at all compares what it keeps of it with all that hold any of it.
//!
//! One that comes back may also have taken with it the only knowledge of who lacks what (its hints): with its new life its mates
//! compare among themselves too.
//!
//! ```text
//!   a mate comes            ─▶ all that is shared with it in doubt ─┐  an exchange with it is complete
//!   a bucket moves, as above ─▶ that bucket in doubt with its mates ─┴─(see [`super::repair`])──────────▶ settled
//!   a start                 ─▶ young ───a mate was met, or 2 s──────────────────────────────────────────▶ settled
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use gossip::id::Tag;

use super::repair::PairKey;
use super::{Mates, Now, Replica};
use crate::placement::BUCKETS;

/// For so long after its start a node that has met nobody may yet meet somebody. One that stays alone is its own authority then.
const YOUNG: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct Settling {
    /// Until then this node has met nobody; `None` when it has, or is alone.
    young: Option<Instant>,
    /// The living mates it shares homes with.
    known: BTreeSet<PairKey>,
    /// Those of them that it has not compared itself with, and about which buckets.
    strange: BTreeMap<PairKey, Doubt>,
    /// The mates with whom an exchange was broken off.
    again: BTreeSet<PairKey>,
}

/// What is to be compared with a mate before the own copies are believed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Doubt {
    /// Whatever both keep.
    all: bool,
    /// These, whether the mate still keeps them or not.
    buckets: BTreeSet<u16>,
}

impl Settling {
    pub(super) fn new(now: Instant) -> Self {
        let (known, strange, again) = Default::default();
        Self { young: Some(now + YOUNG), known, strange, again }
    }

    /// Mates came or went. Those that came, to be compared with at once, and all with whom more is to be compared now.
    fn meet(&mut self, before: &Mates, after: &Mates) -> (Vec<PairKey>, Vec<PairKey>) {
        let homes = after.placement.homes().filter(|(home, _)| after.is_of(*home));
        let (mut known, mut doubted) = (BTreeSet::new(), Vec::new());
        for (home, table) in homes {
            let mates = table.nodes().filter(|node| after.is_alive(node));
            let pairs: Vec<PairKey> = mates.map(|node| (node.clone(), home)).collect();
            if before.placement.home(home) != Some(table) {
                let moved: Vec<u16> =
                    (0..BUCKETS).filter(|at| is_to_learn(before, after, home, *at)).collect();
                for pair in &pairs {
                    let buckets: BTreeSet<u16> =
                        moved.iter().copied().filter(|at| may_know(before, after, pair, *at)).collect();
                    if !buckets.is_empty() {
                        self.strange.entry(pair.clone()).or_default().buckets.extend(buckets);
                        doubted.push(pair.clone());
                    }
                }
            }
            known.extend(pairs);
        }
        let came: Vec<_> = known.difference(&self.known).cloned().collect();
        for pair in &came {
            self.strange.entry(pair.clone()).or_default().all = true;
        }
        self.strange.retain(|pair, doubt| {
            doubt.buckets.retain(|at| after.is_mine(pair.1, *at));
            known.contains(pair) && (doubt.all || !doubt.buckets.is_empty())
        });
        self.again.retain(|pair| known.contains(pair));
        self.known = known;
        if !self.known.is_empty() {
            self.young = None;
        }
        doubted.extend(came.iter().cloned());
        (came, doubted)
    }

    /// The buckets to be compared with a mate though it may not keep them.
    pub(super) fn doubted(&self, pair: &PairKey) -> impl Iterator<Item = u16> {
        self.strange.get(pair).into_iter().flat_map(|doubt| &doubt.buckets).copied()
    }

    /// Whether all are compared with.
    pub(super) fn is_calm(&self) -> bool {
        self.strange.is_empty() && self.again.is_empty()
    }

    /// Whether this node has to begin an exchange, whichever name is the lesser.
    pub(super) fn is_to_compare(&self, pair: &PairKey) -> bool {
        self.strange.contains_key(pair) || self.again.contains(pair)
    }

    /// An exchange with a mate was broken off.
    pub(super) fn owes(&mut self, pair: &PairKey) {
        if self.known.contains(pair) {
            self.again.insert(pair.clone());
        }
    }

    /// An exchange is complete. Whether there was a doubt.
    fn compared(&mut self, pair: &PairKey) -> bool {
        self.again.remove(pair);
        self.strange.remove(pair).is_some()
    }
}

/// Whether this node, a replica of the bucket now, may lack what the other replicas or a former one have.
fn is_to_learn(before: &Mates, after: &Mates, home: Tag, bucket: u16) -> bool {
    let left = || {
        let mut former = before.placement.replicas(home, bucket);
        former.any(|node| after.is_alive(node) && !after.placement.holds(node, home, bucket))
    };
    after.is_mine(home, bucket) && (!before.is_mine(home, bucket) || left())
}

/// Whether a mate may know of a bucket that moved what this node does not: it keeps it, or it did, or nobody knows who did.
fn may_know(before: &Mates, after: &Mates, (peer, home): &PairKey, bucket: u16) -> bool {
    after.placement.holds(peer, *home, bucket)
        || before.placement.holds(peer, *home, bucket)
        || before.placement.home(*home).is_none()
}

impl Replica {
    /// Whether the own copies of all records are as good as any.
    fn is_settled(&self) -> bool {
        self.settling.young.is_none() && self.settling.strange.is_empty()
    }

    /// Whether the own copy of a record in this bucket is as good as any, and its absence a word.
    pub(super) fn is_settled_in(&self, home: Tag, bucket: u16) -> bool {
        let Settling { young, strange, .. } = &self.settling;
        if young.is_some() || !self.mates.is_mine(home, bucket) {
            return self.is_settled();
        }
        let shares = |peer| self.mates.placement.holds(peer, home, bucket);
        !strange.iter().any(|((peer, of), doubt)| {
            *of == home && (doubt.buckets.contains(&bucket) || doubt.all && shares(peer))
        })
    }

    pub(super) fn settle_with(&mut self, before: &Mates, now: Now) {
        let (came, doubted) = self.settling.meet(before, &self.mates);
        self.note_settled();
        self.outdate(doubted.iter());
        self.exchange_with(came);
        self.search_all(now);
    }

    /// All that is shared with a mate was compared, and what differed was exchanged.
    pub(super) fn settled_with(&mut self, pair: &PairKey, now: Now) {
        if self.settling.compared(pair) {
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
