//! Whose turn it is to act for a pool. Pure.
//!
//! ```text
//!   not allowed, no engine ──▶ cannot ◀── the last act here failed: until its rest is over, twice as long each time
//!                                │
//!   every node says so with its pulse, once a second ──▶ the turn is the first's by rendezvous among those that can,
//!                                                        first those that have not failed of late
//! ```
//!
//! Nodes may differ for a moment in whose turn they think it is; that one decision is acted on once is not decided here
//! but by the grants ([`super::agree`]).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use gossip::id::{NodeName, PoolName};

use super::agree::first;

/// What a node said of itself counts for so long.
const FRESH: Duration = Duration::from_secs(5);
/// How long a node rests after an act that failed.
const REST: Duration = Duration::from_secs(15);
/// And at most, however many have failed in a row.
const REST_MAX: Duration = Duration::from_secs(300);

/// A failure is held against a node for so long, beside those that have none.
const FORGET: Duration = Duration::from_secs(900);

/// What a node says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Ability {
    /// Why it cannot act, if it cannot.
    pub(super) unable: Option<String>,
    /// How many of its acts have failed in a row.
    pub(super) failures: u8,
}

/// What each node can do, as it says itself.
#[derive(Debug, Default)]
pub(super) struct Turns {
    heard: BTreeMap<PoolName, BTreeMap<NodeName, (Ability, Instant)>>,
    /// When the first word about a pool was heard: the others' may still be on their way.
    since: BTreeMap<PoolName, Instant>,
    /// This node's own acts that failed.
    rests: BTreeMap<PoolName, Rest>,
}

#[derive(Debug)]
struct Rest {
    /// In a row.
    failures: u32,
    until: Instant,
    why: String,
}

/// Whose turn it is, and who is passed over.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Turn {
    /// `None`: nobody can act.
    pub(super) actor: Option<NodeName>,
    /// The living that cannot, and why.
    pub(super) unable: BTreeMap<NodeName, String>,
}

impl Turns {
    /// A node, this one or another, says whether it can act for a pool.
    pub(super) fn hear(&mut self, pool: &PoolName, node: NodeName, ability: Ability, now: Instant) {
        self.since.entry(pool.clone()).or_insert(now);
        self.heard.entry(pool.clone()).or_default().insert(node, (ability, now));
    }

    /// What this node has to say of itself, which otherwise lacks nothing or this.
    pub(super) fn own(&self, pool: &PoolName, lacks: Option<String>, now: Instant) -> Ability {
        let rest = self.rests.get(pool).filter(|rest| now < rest.until + FORGET);
        let resting =
            rest.filter(|rest| now < rest.until).map(|rest| format!("its last act failed: {}", rest.why));
        let failures = rest.map_or(0, |rest| rest.failures.min(u8::MAX.into()) as u8);
        Ability { unable: lacks.or(resting), failures }
    }

    /// An act of this node failed: how long it now rests.
    pub(super) fn failed(&mut self, pool: &PoolName, why: String, now: Instant) -> Duration {
        let failures = self.rests.get(pool).map_or(0, |rest| rest.failures).saturating_add(1);
        let rest = REST.saturating_mul(1 << (failures - 1).min(16)).min(REST_MAX);
        self.rests.insert(pool.clone(), Rest { failures, until: now + rest, why });
        rest
    }

    /// An act of this node went well.
    pub(super) fn succeeded(&mut self, pool: &PoolName) {
        self.rests.remove(pool);
    }

    /// Why this node rests, if it does.
    pub(super) fn resting(&self, pool: &PoolName, now: Instant) -> Option<&str> {
        self.rests.get(pool).filter(|rest| now < rest.until).map(|rest| rest.why.as_str())
    }

    /// Forgets pools that do not scale any more, and nodes that have gone.
    pub(super) fn keep(&mut self, scales: impl Fn(&PoolName) -> bool, alive: &BTreeSet<NodeName>) {
        self.heard.retain(|pool, _| scales(pool));
        self.since.retain(|pool, _| scales(pool));
        self.heard.values_mut().for_each(|nodes| nodes.retain(|node, _| alive.contains(node)));
        self.rests.retain(|pool, _| scales(pool));
    }

    /// Whose turn it is: of the living that say they can, those that have failed least, of these the ones that suit best, and
    /// of these the first by rendezvous. In the first seconds, and where nobody can, it may be one's of whom nothing is heard.
    pub(super) fn whose(
        &self,
        pool: &PoolName,
        alive: &BTreeSet<NodeName>,
        suits: impl Fn(&NodeName) -> i64,
        now: Instant,
    ) -> Turn {
        let heard = |node: &NodeName| {
            let (ability, at) = self.heard.get(pool)?.get(node)?;
            (now.saturating_duration_since(*at) < FRESH).then_some(ability)
        };
        let (mut able, mut silent, mut unable) = (Vec::new(), Vec::new(), BTreeMap::new());
        for node in alive {
            match heard(node) {
                Some(Ability { unable: None, failures }) => able.push((node, *failures)),
                Some(Ability { unable: Some(why), .. }) => drop(unable.insert(node.clone(), why.clone())),
                None => silent.push((node, 0)),
            }
        }
        let began = self.since.get(pool).is_none_or(|since| now.saturating_duration_since(*since) < FRESH);
        let candidates = match able.is_empty() {
            true => silent,
            false if began => [able, silent].concat(),
            false => able,
        };
        let rank = |(node, failures): &(&NodeName, u8)| (Reverse(*failures), suits(node));
        let best = candidates.iter().map(rank).max();
        let best = candidates.iter().filter(|candidate| Some(rank(candidate)) == best).map(|(node, _)| *node);
        Turn { actor: first(pool, best).cloned(), unable }
    }
}

#[cfg(test)]
mod tests {
    use gossip::clock::{Clock, Wall};

    use super::*;
    use crate::registry::fixture::node;

    fn can() -> Ability {
        Ability::default()
    }

    fn cannot(why: &str) -> Ability {
        Ability { unable: Some(why.into()), failures: 0 }
    }

    fn alive() -> BTreeSet<NodeName> {
        ["a", "b", "c"].map(node).into()
    }

    #[test]
    fn the_turn_passes_over_who_cannot_and_comes_back() {
        let (pool, clock) = (PoolName::new("web").unwrap(), Clock::simulated(Wall(0)));
        let mut turns = Turns::default();
        let whose = |turns: &Turns| turns.whose(&pool, &alive(), |_| 0, clock.now());
        let silent = whose(&turns).actor.unwrap();
        for name in alive() {
            turns.hear(&pool, name, can(), clock.now());
        }
        let first = whose(&turns).actor.unwrap();
        assert_eq!(first, silent, "the same rendezvous");
        turns.hear(&pool, first.clone(), cannot("no socket"), clock.now());
        let second = whose(&turns);
        assert_ne!(second.actor, Some(first.clone()));
        assert_eq!(second.unable, [(first.clone(), "no socket".to_owned())].into());
        for name in alive() {
            turns.hear(&pool, name, cannot("none"), clock.now());
        }
        assert_eq!((whose(&turns).actor, whose(&turns).unable.len()), (None, 3));
        turns.hear(&pool, first.clone(), can(), clock.now());
        assert_eq!(whose(&turns).actor, Some(first.clone()));
        clock.advance(FRESH);
        turns.hear(&pool, second.actor.clone().unwrap(), can(), clock.now());
        assert_eq!(
            whose(&turns).actor,
            second.actor,
            "one that says it can comes before one that says nothing"
        );
    }

    #[test]
    fn who_suits_best_comes_first() {
        let (pool, now) = (PoolName::new("web").unwrap(), Clock::simulated(Wall(0)).now());
        let mut turns = Turns::default();
        alive().into_iter().for_each(|name| turns.hear(&pool, name, can(), now));
        for name in alive() {
            let suits = |of: &NodeName| i64::from(*of == name);
            assert_eq!(turns.whose(&pool, &alive(), suits, now).actor, Some(name.clone()));
            turns.hear(&pool, name.clone(), Ability { failures: 1, ..can() }, now);
            let next = turns.whose(&pool, &alive(), suits, now).actor;
            assert_ne!(next, Some(name.clone()), "one that has not failed is tried first");
            turns.hear(&pool, name, can(), now);
        }
    }

    #[test]
    fn rests_grow_to_a_bound_and_end_with_success() {
        let (pool, clock) = (PoolName::new("web").unwrap(), Clock::simulated(Wall(0)));
        let mut turns = Turns::default();
        let seconds: Vec<u64> =
            (0..30).map(|_| turns.failed(&pool, "no".into(), clock.now()).as_secs()).collect();
        assert_eq!(seconds[..6], [15, 30, 60, 120, 240, 300]);
        assert_eq!(seconds[29], 300);
        assert_eq!(turns.resting(&pool, clock.now()), Some("no"));
        clock.advance(REST_MAX);
        assert_eq!(turns.resting(&pool, clock.now()), None);
        assert_eq!(turns.own(&pool, None, clock.now()), Ability { unable: None, failures: 30 });
        clock.advance(FORGET);
        assert_eq!(turns.own(&pool, None, clock.now()), can());
        turns.succeeded(&pool);
        assert_eq!(turns.failed(&pool, "no".into(), clock.now()), REST);
    }
}
