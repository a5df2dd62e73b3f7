//! How often this node gossips: less often in a larger mesh, where each exchange names more nodes. Pure.
//!
//! The library goes round every [`BASE`] and calls three peers. Of these calls so many are let through that three are made in
//! each [`interval`], so what gossip costs a node grows no further with the mesh; in a small one fewer, so that on average one of two nodes
//! calls the other in that time and not both (of two that are alone both do). Calls that this node wants, since it has something to say, are always made.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// How often the library goes round.
pub(crate) const BASE: Duration = Duration::from_millis(300);
/// Each node makes the rounds so much longer, beyond the base.
const A_NODE: Duration = Duration::from_millis(12);
/// The most calls in a round.
const CALLS: f64 = 3.0;
/// More wanted calls than a mesh has nodes.
const MAX_WANTED: usize = 4096;

/// The time in which three peers are called, in a mesh of so many nodes.
pub(crate) fn interval(nodes: usize) -> Duration {
    BASE.max(A_NODE.saturating_mul(nodes as u32))
}

/// How many peers are called in that time: an exchange tells both sides, so half of the others are enough, but one at least.
fn calls(nodes: usize) -> f64 {
    (nodes.saturating_sub(1) as f64 / 2.0).clamp(1.0, CALLS)
}

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    /// There were enough of late.
    Not,
    /// It is one of the rounds': a moment's delay is nothing to it.
    Soon,
    /// This node has something to say.
    AtOnce,
}

/// Which calls are made.
#[derive(Debug)]
pub(crate) struct Pace {
    nodes: usize,
    wanted: BTreeSet<SocketAddr>,
    allowed: f64,
    looked: Option<Instant>,
}

impl Pace {
    /// For a mesh of so many nodes, as far as is known.
    pub(crate) fn new(nodes: usize) -> Self {
        Self { nodes, wanted: BTreeSet::new(), allowed: CALLS, looked: None }
    }

    /// The mesh has so many nodes now.
    pub(crate) fn nodes(&mut self, nodes: usize) {
        self.nodes = nodes;
    }

    /// The present [`interval`].
    pub(crate) fn interval(&self) -> Duration {
        interval(self.nodes)
    }

    /// The next call of this peer is made whatever the pace.
    pub(crate) fn want(&mut self, peer: SocketAddr) {
        if self.wanted.len() < MAX_WANTED {
            self.wanted.insert(peer);
        }
    }

    /// What becomes of a call of this peer.
    pub(crate) fn call(&mut self, peer: SocketAddr, now: Instant) -> Call {
        if self.wanted.remove(&peer) {
            return Call::AtOnce;
        }
        let passed = now.saturating_duration_since(self.looked.unwrap_or(now));
        self.looked = Some(now);
        // A tick that comes a little early must not cost a round its calls.
        let earned = calls(self.nodes) * passed.as_secs_f64() / self.interval().as_secs_f64();
        self.allowed = (self.allowed + earned).min(CALLS);
        if self.allowed < 1.0 - 1e-6 {
            return Call::Not;
        }
        self.allowed -= 1.0;
        Call::Soon
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, Wall};

    fn peer(port: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], port))
    }

    /// The calls that are made in a hundred seconds of the library's rounds.
    fn made_by(pace: &mut Pace) -> usize {
        let clock = Clock::simulated(Wall(0));
        let mut made = 0;
        for _ in 0..(100_000 / BASE.as_millis()) {
            clock.advance(BASE);
            made += (0..3).filter(|port| pace.call(peer(*port), clock.now()) == Call::Soon).count();
        }
        made
    }

    #[test]
    fn three_calls_in_each_interval() {
        assert_eq!((interval(1), interval(25), interval(100)), (BASE, BASE, Duration::from_millis(1200)));
        for nodes in [7, 10, 25] {
            assert_eq!(made_by(&mut Pace::new(nodes)), 999, "{nodes} nodes");
        }
        let made = made_by(&mut Pace::new(100));
        assert!((248..=252).contains(&made), "{made} calls in 83 rounds");
        let mut grown = Pace::new(7);
        grown.nodes(1000);
        let made = made_by(&mut grown);
        assert!((25..=28).contains(&made), "{made} calls in eight rounds");
    }

    #[test]
    fn in_a_small_mesh_half_of_the_others_are_called() {
        for (nodes, calls_a_round) in [(2, 1.0), (3, 1.0), (4, 1.5), (5, 2.0), (6, 2.5)] {
            let made = made_by(&mut Pace::new(nodes)) as f64 / 333.0;
            assert!((made - calls_a_round).abs() < 0.02, "{nodes} nodes: {made} calls a round");
        }
    }

    #[test]
    fn a_wanted_call_is_made_once_whatever_the_pace() {
        let now = Clock::simulated(Wall(0)).now();
        let mut pace = Pace::new(100);
        assert_eq!((0..5).filter(|port| pace.call(peer(*port), now) == Call::Soon).count(), 3);
        pace.want(peer(9));
        assert_eq!((pace.call(peer(9), now), pace.call(peer(9), now)), (Call::AtOnce, Call::Not));
    }
}
