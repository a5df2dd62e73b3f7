//! That one decision is acted on once. Pure.
//!
//! A decision of a pool has a number. A node grants a number once, if it is greater than all it knows of and some time
//! after the last. Whoever has the grants of a majority of all known nodes acts, within the time the grants were asked in;
//! any two majorities share a node, and that node has granted only one of two. A node that has just started has forgotten
//! what it granted, so it grants nothing until what it may have granted is too old to matter.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use gossip::id::{NodeName, PoolName};

/// The least time between two decisions of one pool. Longer than anybody waits for grants.
pub(super) const HOLD: Duration = Duration::from_secs(4);
/// A node that has just started grants nothing for so long: whoever it may have granted something before has acted by then.
/// What that started and has not appeared is remembered ([`super::store`]).
pub(super) const FORGOTTEN: Duration = Duration::from_secs(10);
/// How long grants are waited for.
pub(super) const ASK: Duration = Duration::from_secs(1);

/// No node has missed more decisions of one pool: at one in four seconds they take centuries. What is further ahead is a lie, which
/// would leave no numbers for the truth.
const AHEAD_MAX: u64 = 1 << 32;

/// What this node has granted.
#[derive(Debug)]
pub(super) struct Grants {
    born: Instant,
    last: BTreeMap<PoolName, (u64, Instant)>,
}

/// What is answered to who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Grant {
    /// Yours.
    Yes,
    /// Not that one, or not now; this is the greatest number known here.
    No(u64),
}

impl Grants {
    /// A node that has just started.
    pub(super) fn new(now: Instant) -> Self {
        Self { born: now, last: BTreeMap::new() }
    }

    /// The number to ask for next.
    pub(super) fn next(&self, pool: &PoolName) -> u64 {
        self.known(pool).saturating_add(1)
    }

    /// The greatest number known.
    pub(super) fn known(&self, pool: &PoolName) -> u64 {
        self.last.get(pool).map_or(0, |(number, _)| *number)
    }

    /// Whether a number can be true: decisions are seconds apart, so nobody is that far ahead of anybody.
    fn is_plausible(&self, pool: &PoolName, number: u64) -> bool {
        number.saturating_sub(self.known(pool)) <= AHEAD_MAX
    }

    /// Whether asking could succeed now, as far as this node knows.
    pub(super) fn is_free(&self, pool: &PoolName, now: Instant) -> bool {
        let since = |at: Instant| now.saturating_duration_since(at);
        since(self.born) >= FORGOTTEN && self.last.get(pool).is_none_or(|(_, at)| since(*at) >= HOLD)
    }

    /// Somebody asks for a number; it may be this node itself.
    pub(super) fn ask(&mut self, pool: &PoolName, number: u64, now: Instant) -> Grant {
        let known = self.known(pool);
        if number <= known || !self.is_plausible(pool, number) || !self.is_free(pool, now) {
            return Grant::No(known);
        }
        self.last.insert(pool.clone(), (number, now));
        Grant::Yes
    }

    /// A decision was made elsewhere: no smaller number is granted, and none for a while.
    pub(super) fn learn(&mut self, pool: &PoolName, number: u64, now: Instant) {
        if !self.is_plausible(pool, number) {
            return;
        }
        let entry = self.last.entry(pool.clone()).or_insert((number, now));
        if number > entry.0 {
            *entry = (number, now);
        }
    }

    /// A number that is known elsewhere, of a decision of whatever time.
    pub(super) fn catch_up(&mut self, pool: &PoolName, number: u64) {
        if !self.is_plausible(pool, number) {
            return;
        }
        if let Some((known, _)) = self.last.get_mut(pool) {
            *known = number.max(*known);
        } else if number > 0 {
            self.last.insert(pool.clone(), (number, self.born));
        }
    }
}

/// How many grants are a majority of so many known nodes.
pub(super) fn majority(known: usize) -> usize {
    known / 2 + 1
}

/// Whose turn it is: the first of the candidates by rendezvous.
pub(super) fn first<'a>(
    pool: &PoolName,
    candidates: impl Iterator<Item = &'a NodeName>,
) -> Option<&'a NodeName> {
    candidates.max_by_key(|node| {
        let mut hash = blake3::Hasher::new();
        hash.update(b"scale\0");
        hash.update(pool.as_str().as_bytes());
        hash.update(&[0]);
        hash.update(node.as_str().as_bytes());
        *hash.finalize().as_bytes()
    })
}

#[cfg(test)]
mod tests {
    use gossip::clock::{Clock, Wall};
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Op {
        /// A node asks for its next number and hears those whose bit is set.
        Ask(usize, u8),
        Pass(u64),
        Restart(usize),
        Learn(usize, u64),
    }

    fn op(nodes: usize) -> impl Strategy<Value = Op> {
        prop_oneof![
            4 => (0..nodes, any::<u8>()).prop_map(|(by, heard)| Op::Ask(by, heard)),
            3 => (0..6_000_u64).prop_map(Op::Pass),
            1 => (0..nodes).prop_map(Op::Restart),
            1 => (0..nodes, 0..20_u64).prop_map(|(at, number)| Op::Learn(at, number)),
        ]
    }

    proptest! {
        /// Whoever asks, whatever is lost, whoever restarts: two acts are never nearer than the hold.
        #[test]
        fn no_two_acts_for_one_decision(ops in prop::collection::vec(op(5), 1..80)) {
            let pool = PoolName::new("web").unwrap();
            let clock = Clock::simulated(Wall(0));
            let mut nodes: Vec<Grants> = (0..5).map(|_| Grants::new(clock.now())).collect();
            let mut acts: Vec<Instant> = Vec::new();
            for op in ops {
                match op {
                    Op::Pass(millis) => clock.advance(Duration::from_millis(millis)),
                    Op::Restart(at) => nodes[at] = Grants::new(clock.now()),
                    Op::Learn(at, number) => nodes[at].catch_up(&pool, number),
                    Op::Ask(by, heard) => {
                        let number = nodes[by].next(&pool);
                        let mut yes = 0;
                        for (at, grants) in nodes.iter_mut().enumerate() {
                            let reached = at == by || heard & 1 << at != 0;
                            if reached && grants.ask(&pool, number, clock.now()) == Grant::Yes {
                                yes += 1;
                            }
                        }
                        if yes >= majority(5) {
                            let last = acts.last().copied();
                            prop_assert!(last.is_none_or(|last| clock.now() >= last + HOLD));
                            acts.push(clock.now());
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_lie_about_numbers_changes_nothing() {
        let pool = PoolName::new("web").unwrap();
        let clock = Clock::simulated(Wall(0));
        let mut grants = Grants::new(clock.now());
        clock.advance(FORGOTTEN);
        for lie in [u64::MAX, u64::MAX - 1, AHEAD_MAX + 1] {
            grants.learn(&pool, lie, clock.now());
            grants.catch_up(&pool, lie);
            assert_eq!(grants.ask(&pool, lie, clock.now()), Grant::No(0));
        }
        assert_eq!(grants.next(&pool), 1);
        assert_eq!(grants.ask(&pool, 1, clock.now()), Grant::Yes);
    }

    #[test]
    fn a_number_is_granted_once_and_a_new_node_waits() {
        let pool = PoolName::new("web").unwrap();
        let clock = Clock::simulated(Wall(0));
        let mut grants = Grants::new(clock.now());
        assert_eq!(
            grants.ask(&pool, 1, clock.now()),
            Grant::No(0),
            "it may have granted it in a former life"
        );
        clock.advance(FORGOTTEN);
        assert_eq!(grants.ask(&pool, 1, clock.now()), Grant::Yes);
        clock.advance(HOLD);
        assert_eq!(grants.ask(&pool, 1, clock.now()), Grant::No(1));
        assert_eq!(grants.ask(&pool, grants.next(&pool), clock.now()), Grant::Yes);
        assert_eq!((majority(1), majority(2), majority(3), majority(6)), (1, 2, 2, 4));
    }
}
