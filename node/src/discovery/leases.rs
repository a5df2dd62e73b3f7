//! The leases that this node holds: it alone counts their time. Pure.
//!
//! ```text
//!   PUT here ──▶ held ── no renewal for a TTL ──▶ expired, told to all
//!     holder dies ──▶ the first of the living by rendezvous adopts it, with a whole TTL to go
//!     PUT at another node ──▶ that node holds it, this one lets go
//! ```
//!
//! When the mesh was cut, both sides may have written. What counts is whom the backend itself spoke to: a holder that was
//! asked and not found dead by itself repeats its word over an adoption or an expiry that others wrote meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use gossip::id::NodeName;

use super::claims::{Claim, ClaimKey, Claims, Hold};
use super::found::Found;
use crate::config::model::SourceKind;

/// What this node holds.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    held: BTreeMap<ClaimKey, Held>,
    /// The same by when they end: each renewal and each wake-up looks at the first alone.
    ends: BTreeSet<(Instant, ClaimKey)>,
}

#[derive(Debug, Clone)]
struct Held {
    found: Found,
    ttl: Duration,
    until: Instant,
}

/// What is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Word {
    pub(crate) key: ClaimKey,
    pub(crate) how: Hold,
    pub(crate) ttl: Duration,
    /// Empty when the lease is over.
    pub(crate) found: Vec<Found>,
}

impl Leases {
    /// The backend has asked this node: it lasts from now.
    pub(crate) fn renew(&mut self, key: ClaimKey, found: Found, ttl: Duration, now: Instant) {
        self.release(&key);
        let until = now + ttl;
        self.ends.insert((until, key.clone()));
        self.held.insert(key, Held { found, ttl, until });
    }

    /// This node no longer holds it. The TTL of what it held.
    pub(crate) fn release(&mut self, key: &ClaimKey) -> Option<Duration> {
        let held = self.held.remove(key)?;
        self.ends.remove(&(held.until, key.clone()));
        Some(held.ttl)
    }

    /// The next time at which one expires.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.ends.first().map(|(until, _)| *until)
    }

    /// Lets go of those that nobody renewed.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<Word> {
        let mut words = Vec::new();
        while let Some((_, key)) = self.ends.first().filter(|(until, _)| *until <= now).cloned() {
            let Some(ttl) = self.release(&key) else { break };
            words.push(Word { key, how: Hold::Expired, ttl, found: Vec::new() });
        }
        words
    }

    /// Holds what is held against what all have written. `living` has this node in it.
    pub(crate) fn review(
        &mut self,
        me: &NodeName,
        claims: &Claims,
        living: &BTreeSet<NodeName>,
        now: Instant,
    ) -> Vec<Word> {
        let mut words = Vec::new();
        for (key, claim) in claims.iter().filter(|(key, _)| key.kind == SourceKind::Lease) {
            words.extend(self.look_at(me, key, claim, living, now));
        }
        words
    }

    fn look_at(
        &mut self,
        me: &NodeName,
        key: &ClaimKey,
        claim: &Claim,
        living: &BTreeSet<NodeName>,
        now: Instant,
    ) -> Option<Word> {
        let terms = claim.answer.lease?;
        let found = claim.answer.found.first();
        let held = self.held.get(key);
        if claim.by == *me {
            // A former life's, or what this node has just written.
            if held.is_none()
                && let Some(found) = found.filter(|_| !terms.how.is_over())
            {
                self.renew(key.clone(), found.clone(), terms.ttl, now);
            }
            return None;
        }
        match (held, terms.how) {
            (Some(held), Hold::Adopted | Hold::Expired) => {
                let (ttl, found) = (held.ttl, vec![held.found.clone()]);
                Some(Word { key: key.clone(), how: Hold::Taken, ttl, found })
            }
            (Some(_), Hold::Taken | Hold::Removed) => {
                self.release(key);
                None
            }
            (None, how) if how.is_over() || living.contains(&claim.by) => None,
            (None, _) if first(key, living) != Some(me) => None,
            (None, _) => {
                let found = found?.clone();
                self.renew(key.clone(), found.clone(), terms.ttl, now);
                Some(Word { key: key.clone(), how: Hold::Adopted, ttl: terms.ttl, found: vec![found] })
            }
        }
    }
}

/// Which of the living takes a lease over: the first by rendezvous, so that each takes its share and all agree.
fn first<'a>(key: &ClaimKey, living: &'a BTreeSet<NodeName>) -> Option<&'a NodeName> {
    let weight = |node: &NodeName| {
        let mut hash = blake3::Hasher::new();
        for part in [node.as_str(), key.pool.as_str(), &*key.scope] {
            hash.update(&(part.len() as u64).to_le_bytes());
            hash.update(part.as_bytes());
        }
        *hash.finalize().as_bytes()
    };
    living.iter().max_by_key(|node| weight(node))
}
