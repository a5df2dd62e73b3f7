//! What the mesh has heard of all sources: claims, each the whole last answer of one source. Pure.
//!
//! ```text
//!   key    pool · kind · scope · node      one writer: the node that asks the source
//!          pool · lease · address          any node may write: the one that holds the lease
//!   claim  version (hlc), by, answer       the greater (version, by) wins: merging is commutative, associative,
//!                                          idempotent (I4)
//! ```
//!
//! A claim has no expiry: a source that falls silent keeps its last word. A lease does expire, but only its holder
//! counts the time, on its own monotonic clock, and then writes so.
//!
//! Leases and added backends are bounded apart from what nodes hear of sources: however many register, sources are heard.
//! What is over gives way to what is newer, so backends that come and go by the thousand find room.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use gossip::clock::{Hlc, Wall};
use gossip::id::{NodeName, PoolName};

use super::found::Found;
use crate::config::model::SourceKind;

/// The most leases and added backends, with those that are over: these give way, the oldest first; then new ones are refused.
pub(crate) const REGISTERED_MAX: usize = 12_288;
/// The most claims of nodes about their sources; further ones are refused.
const ASKED_MAX: usize = 4_096;
/// The most backends in all claims together; a claim that would exceed it is refused.
pub(crate) const FOUND_ALL_MAX: usize = 131_072;

/// Whose word a claim is, about what.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ClaimKey {
    /// The pool.
    pub(crate) pool: PoolName,
    /// What kind of source.
    pub(crate) kind: SourceKind,
    /// What the source looks at; of a lease or an added backend: its address.
    pub(crate) scope: Arc<str>,
    /// The node that asks; `None`: any may write.
    pub(crate) node: Option<NodeName>,
}

/// One source's last answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claim {
    /// When it was written.
    pub(crate) version: Hlc,
    /// Who wrote it. Of a lease: who holds it.
    pub(crate) by: NodeName,
    /// What it says.
    pub(crate) answer: Answer,
}

/// What a source says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Answer {
    /// The backends, by address.
    pub(crate) found: Vec<Found>,
    /// Set while the source fails; the backends are those of its last good answer.
    pub(crate) failing: Option<Failing>,
    /// Of a lease.
    pub(crate) lease: Option<LeaseTerms>,
}

/// A source that fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failing {
    /// Since when.
    pub(crate) since: Wall,
    /// Why, in words.
    pub(crate) error: String,
}

/// What its holder says of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LeaseTerms {
    /// How long it lasts from one renewal to the next.
    pub(crate) ttl: Duration,
    /// How its holder came to it, or that it is over.
    pub(crate) how: Hold,
}

/// What became of a lease last. Only the word of the backend itself ends a dispute: see [`super::leases`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hold {
    /// The backend asked the holder for it.
    Taken,
    /// The holder took it over from a node that is gone.
    Adopted,
    /// Nobody renewed it.
    Expired,
    /// The backend or an operator took it back.
    Removed,
}

impl Hold {
    /// Whether the lease is over.
    pub(crate) fn is_over(self) -> bool {
        matches!(self, Self::Expired | Self::Removed)
    }
}

/// A key and what it is newer than: enough to compare.
pub(crate) type Digest = Vec<(ClaimKey, Hlc, NodeName)>;

/// How much of what is bounded is in use; each beside what there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Room {
    /// Leases and added backends, with those that are over.
    pub(crate) registered: (usize, usize),
    /// Claims of nodes about their sources.
    pub(crate) asked: (usize, usize),
    /// Backends in all claims together.
    pub(crate) found: (usize, usize),
}

/// What became of a claim that was offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Merged {
    /// It is known now.
    New,
    /// What was known is as new.
    Known,
    /// There is no room.
    Full,
}

/// All claims.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    all: BTreeMap<ClaimKey, Claim>,
    /// Those that are over, by age.
    over: BTreeSet<(Hlc, ClaimKey)>,
    /// How many have no node in their key.
    registered: usize,
    /// The backends in all of them.
    found: usize,
}

impl Claim {
    /// Whether it says only that something is no more.
    fn is_over(&self, kind: SourceKind) -> bool {
        let Answer { found, lease, .. } = &self.answer;
        lease.is_some_and(|lease| lease.how.is_over()) || kind == SourceKind::Retired && found.is_empty()
    }
}

impl Claims {
    /// Takes a claim if it is newer than what is known and there is room.
    pub(crate) fn merge(&mut self, key: ClaimKey, claim: Claim) -> Merged {
        let known = self.all.get(&key);
        if known.is_some_and(|known| (known.version, &known.by) >= (claim.version, &claim.by)) {
            return Merged::Known;
        }
        let (is_new, before) = (known.is_none(), known.map_or(0, |known| known.answer.found.len()));
        let found = claim.answer.found.len();
        if found > before && self.found - before + found > FOUND_ALL_MAX {
            return Merged::Full;
        }
        if is_new && !self.has_place(&key, claim.version) {
            return Merged::Full;
        }
        self.remove(&key);
        if claim.is_over(key.kind) {
            self.over.insert((claim.version, key.clone()));
        }
        self.registered += usize::from(key.node.is_none());
        self.found += found;
        self.all.insert(key, claim);
        Merged::New
    }

    /// How much is in use.
    pub(crate) fn room(&self) -> Room {
        Room {
            registered: (self.registered, REGISTERED_MAX),
            asked: (self.all.len() - self.registered, ASKED_MAX),
            found: (self.found, FOUND_ALL_MAX),
        }
    }

    /// Whether there is a place for one more; the oldest that is over is forgotten for it.
    fn has_place(&mut self, key: &ClaimKey, version: Hlc) -> bool {
        if key.node.is_some() {
            return self.all.len() - self.registered < ASKED_MAX;
        }
        if self.registered < REGISTERED_MAX {
            return true;
        }
        let oldest = self.over.first().filter(|(over, _)| *over < version).map(|(_, key)| key.clone());
        oldest.is_some_and(|oldest| self.remove(&oldest))
    }

    fn remove(&mut self, key: &ClaimKey) -> bool {
        let Some(claim) = self.all.remove(key) else { return false };
        self.over.remove(&(claim.version, key.clone()));
        self.registered -= usize::from(key.node.is_none());
        self.found -= claim.answer.found.len();
        true
    }

    /// Forgets what is over and older than `before`.
    pub(crate) fn forget_over(&mut self, before: impl Fn(Hlc) -> bool) {
        while let Some((_, key)) = self.over.first().filter(|(version, _)| before(*version)).cloned() {
            self.remove(&key);
        }
    }

    /// One claim.
    pub(crate) fn get(&self, key: &ClaimKey) -> Option<&Claim> {
        self.all.get(key)
    }

    /// All, by key: those of a pool stand together.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&ClaimKey, &Claim)> {
        self.all.iter()
    }

    /// Those of one pool.
    pub(crate) fn of<'a>(&'a self, pool: &'a PoolName) -> impl Iterator<Item = (&'a ClaimKey, &'a Claim)> {
        let first =
            ClaimKey { pool: pool.clone(), kind: SourceKind::Static, scope: Arc::from(""), node: None };
        self.all.range(first..).take_while(move |(key, _)| key.pool == *pool)
    }

    /// Drops those that `keep` does not want.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&ClaimKey, &Claim) -> bool) {
        let dropped = self.all.iter().filter(|(key, claim)| !keep(key, claim)).map(|(key, _)| key.clone());
        for key in dropped.collect::<Vec<_>>() {
            self.remove(&key);
        }
    }

    /// What is known, to compare with a peer.
    pub(crate) fn digest(&self) -> Digest {
        self.all.iter().map(|(key, claim)| (key.clone(), claim.version, claim.by.clone())).collect()
    }

    /// What a peer with this digest lacks, and the keys of what it has and this node lacks.
    pub(crate) fn compare(&self, theirs: &Digest) -> (Vec<(ClaimKey, Claim)>, Vec<ClaimKey>) {
        let known: BTreeMap<&ClaimKey, (Hlc, &NodeName)> =
            theirs.iter().map(|(key, version, by)| (key, (*version, by))).collect();
        let newer = self
            .all
            .iter()
            .filter(|(key, claim)| known.get(*key).is_none_or(|theirs| (claim.version, &claim.by) > *theirs));
        let newer = newer.map(|(key, claim)| (key.clone(), claim.clone())).collect();
        let lacking = known.iter().filter(|(key, theirs)| {
            self.all.get(**key).is_none_or(|ours| (ours.version, &ours.by) < **theirs)
        });
        (newer, lacking.map(|(key, _)| (*key).clone()).collect())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::registry::fixture::node;

    pub(crate) fn key(kind: SourceKind, scope: &str, of: Option<&str>) -> ClaimKey {
        let pool = PoolName::new("web").unwrap();
        ClaimKey { pool, kind, scope: scope.into(), node: of.map(node) }
    }

    fn some_claim() -> impl Strategy<Value = (ClaimKey, Claim)> {
        (0..3_u8, 0..6_u64, 0..3_u8).prop_map(|(scope, version, by)| {
            let by = node(&format!("n-{by}"));
            let answer = Answer {
                // What one writer writes at one time is one thing.
                failing: Some(Failing { since: Wall(version), error: by.to_string() }),
                ..Answer::default()
            };
            (key(SourceKind::Lease, &scope.to_string(), None), Claim { version: Hlc(version), by, answer })
        })
    }

    fn merged<'a>(claims: impl IntoIterator<Item = &'a (ClaimKey, Claim)>) -> Claims {
        let mut all = Claims::default();
        for (key, claim) in claims {
            all.merge(key.clone(), claim.clone());
        }
        all
    }

    fn lease(n: usize, version: u64, how: Hold) -> (ClaimKey, Claim) {
        let lease = Some(LeaseTerms { ttl: Duration::from_secs(15), how });
        let answer = Answer { lease, ..Answer::default() };
        let claim = Claim { version: Hlc(version), by: node("n-1"), answer };
        (key(SourceKind::Lease, &format!("10.0.0.1:{n}"), None), claim)
    }

    #[test]
    fn what_is_over_gives_way_and_sources_are_heard_all_the_same() {
        let mut claims = Claims::default();
        for n in 0..REGISTERED_MAX {
            let (key, claim) = lease(n, n as u64, if n < 2 { Hold::Removed } else { Hold::Taken });
            assert_eq!(claims.merge(key, claim), Merged::New);
        }
        let mut one_more = |n: usize, version: u64| {
            let (key, claim) = lease(n, version, Hold::Taken);
            claims.merge(key, claim)
        };
        assert_eq!(one_more(20_000, 0), Merged::Full, "older than all that is over");
        assert_eq!(one_more(20_001, 20_001), Merged::New);
        assert_eq!(one_more(20_002, 20_002), Merged::New);
        assert_eq!(one_more(20_003, 20_003), Merged::Full, "all that are left are leases that hold");
        assert_eq!(one_more(20_002, 20_004), Merged::New, "one that holds is renewed");
        for n in [0, 1] {
            assert_eq!(claims.get(&lease(n, 0, Hold::Taken).0), None);
        }
        let (of_node, claim) = (key(SourceKind::File, "f", Some("n-1")), lease(0, 1, Hold::Taken).1);
        assert_eq!(claims.merge(of_node, claim), Merged::New);
        // What ends makes room again, whoever says so.
        let (key, claim) = lease(5, 30_000, Hold::Expired);
        assert_eq!(claims.merge(key, claim), Merged::New);
        let (key, claim) = lease(20_003, 30_001, Hold::Taken);
        assert_eq!(claims.merge(key, claim), Merged::New);
    }

    #[test]
    fn a_flood_of_backends_in_claims_has_an_end() {
        let mut claims = Claims::default();
        let region = crate::registry::fixture::region("eu");
        let found = Found::at("10.0.0.1:80".parse().unwrap(), region);
        let mut flood = |n: usize, version: u64, many: usize| {
            let answer = Answer { found: vec![found.clone(); many], ..Answer::default() };
            let claim = Claim { version: Hlc(version), by: node("n-1"), answer };
            claims.merge(key(SourceKind::File, "f", Some(&format!("n-{n}"))), claim)
        };
        let whole = FOUND_ALL_MAX / 10_000;
        assert!((0..whole).all(|n| flood(n, 1, 10_000) == Merged::New));
        assert_eq!(flood(whole, 1, 10_000), Merged::Full);
        assert_eq!(flood(0, 2, 10), Merged::New, "less is always taken");
        assert_eq!(flood(whole, 1, 10_000), Merged::New);
    }

    proptest! {
        /// I4: in any order, any number of times, over any path.
        #[test]
        fn merging_forgets_no_order(claims in prop::collection::vec(some_claim(), 0..24), cut in 0..24_usize) {
            let straight = merged(&claims);
            let again = merged(claims.iter().rev().chain(&claims));
            prop_assert_eq!(&straight.all, &again.all);
            let (left, right) = claims.split_at(cut.min(claims.len()));
            let (mut left, right) = (merged(left), merged(right));
            for (key, claim) in right.iter() {
                left.merge(key.clone(), claim.clone());
            }
            prop_assert_eq!(&straight.all, &left.all);
        }

        /// One exchange makes two nodes agree.
        #[test]
        fn comparing_finds_all_that_differs(
            a in prop::collection::vec(some_claim(), 0..12),
            b in prop::collection::vec(some_claim(), 0..12),
        ) {
            let (mut a, mut b) = (merged(&a), merged(&b));
            let (newer, lacking) = b.compare(&a.digest());
            let sent: Vec<_> =
                lacking.into_iter().map(|key| (key.clone(), a.get(&key).unwrap().clone())).collect();
            for (key, claim) in newer {
                prop_assert_eq!(a.merge(key, claim), Merged::New, "nothing is sent in vain");
            }
            for (key, claim) in sent {
                prop_assert_eq!(b.merge(key, claim), Merged::New, "nothing is asked for in vain");
            }
            prop_assert_eq!(a.all, b.all);
        }
    }
}
