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

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use gossip::clock::{Hlc, Wall};
use gossip::id::{NodeName, PoolName};

use super::found::Found;
use crate::config::model::SourceKind;

/// The most claims that are kept; further ones are refused.
pub(crate) const CLAIMS_MAX: usize = 16_384;

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

/// All claims.
#[derive(Debug, Default)]
pub(crate) struct Claims(BTreeMap<ClaimKey, Claim>);

impl Claims {
    /// Takes a claim if it is newer than what is known. Whether it was.
    pub(crate) fn merge(&mut self, key: ClaimKey, claim: Claim) -> bool {
        let takes = match self.0.get(&key) {
            Some(known) => (known.version, &known.by) < (claim.version, &claim.by),
            None => self.0.len() < CLAIMS_MAX,
        };
        if takes {
            self.0.insert(key, claim);
        }
        takes
    }

    /// One claim.
    pub(crate) fn get(&self, key: &ClaimKey) -> Option<&Claim> {
        self.0.get(key)
    }

    /// All, by key: those of a pool stand together.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&ClaimKey, &Claim)> {
        self.0.iter()
    }

    /// Those of one pool.
    pub(crate) fn of<'a>(&'a self, pool: &'a PoolName) -> impl Iterator<Item = (&'a ClaimKey, &'a Claim)> {
        let first =
            ClaimKey { pool: pool.clone(), kind: SourceKind::Static, scope: Arc::from(""), node: None };
        self.0.range(first..).take_while(move |(key, _)| key.pool == *pool)
    }

    /// Drops those that `keep` does not want.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&ClaimKey, &Claim) -> bool) {
        self.0.retain(|key, claim| keep(key, claim));
    }

    /// What is known, to compare with a peer.
    pub(crate) fn digest(&self) -> Digest {
        self.0.iter().map(|(key, claim)| (key.clone(), claim.version, claim.by.clone())).collect()
    }

    /// What a peer with this digest lacks, and the keys of what it has and this node lacks.
    pub(crate) fn compare(&self, theirs: &Digest) -> (Vec<(ClaimKey, Claim)>, Vec<ClaimKey>) {
        let known: BTreeMap<&ClaimKey, (Hlc, &NodeName)> =
            theirs.iter().map(|(key, version, by)| (key, (*version, by))).collect();
        let newer = self
            .0
            .iter()
            .filter(|(key, claim)| known.get(*key).is_none_or(|theirs| (claim.version, &claim.by) > *theirs));
        let newer = newer.map(|(key, claim)| (key.clone(), claim.clone())).collect();
        let lacking = known
            .iter()
            .filter(|(key, theirs)| self.0.get(**key).is_none_or(|ours| (ours.version, &ours.by) < **theirs));
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

    proptest! {
        /// I4: in any order, any number of times, over any path.
        #[test]
        fn merging_forgets_no_order(claims in prop::collection::vec(some_claim(), 0..24), cut in 0..24_usize) {
            let straight = merged(&claims);
            let again = merged(claims.iter().rev().chain(&claims));
            prop_assert_eq!(&straight.0, &again.0);
            let (left, right) = claims.split_at(cut.min(claims.len()));
            let (mut left, right) = (merged(left), merged(right));
            for (key, claim) in right.iter() {
                left.merge(key.clone(), claim.clone());
            }
            prop_assert_eq!(&straight.0, &left.0);
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
                prop_assert!(a.merge(key, claim), "nothing is sent in vain");
            }
            for (key, claim) in sent {
                prop_assert!(b.merge(key, claim), "nothing is asked for in vain");
            }
            prop_assert_eq!(a.0, b.0);
        }
    }
}
