//! How often this node gossips: less often in a larger mesh, where each exchange names more nodes. Pure.
//!
//! The library goes round every [`BASE`] and calls three peers. Of these calls so many are let through that three are made in
//! each [`interval`], so what gossip costs a node grows no further with the mesh. Calls that this node wants, since it
//! has something to say, are always made.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// How often the library goes round.
pub(crate) const BASE: Duration = Duration::from_millis(300);
/// Each node makes the rounds so much longer, beyond the base.
const A_NODE: Duration = Duration::from_millis(10);
/// Calls in a round.
const CALLS: f64 = 3.0;
/// More wanted calls than a mesh has nodes.
const MAX_WANTED: usize = 4096;

/// The time in which three peers are called, in a mesh of so many nodes.
pub(crate) fn interval(nodes: usize) -> Duration {
    BASE.max(A_NODE.saturating_mul(nodes as u32))
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

    /// Whether a call of this peer is made now.
    pub(crate) fn calls(&mut self, peer: SocketAddr, now: Instant) -> bool {
        if self.wanted.remove(&peer) {
            return true;
        }
        let passed = now.saturating_duration_since(self.looked.unwrap_or(now));
        self.looked = Some(now);
        // A tick that comes a little early must not cost a round its calls.
        let earned = CALLS * passed.as_secs_f64() / self.interval().as_secs_f64();
        self.allowed = (self.allowed + earned).min(CALLS);
        let is_made = self.allowed >= 1.0 - 1e-6;
        if is_made {
            self.allowed -= 1.0;
        }
        is_made
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
    fn calls(pace: &mut Pace) -> usize {
        let clock = Clock::simulated(Wall(0));
        let mut made = 0;
        for _ in 0..(100_000 / BASE.as_millis()) {
            clock.advance(BASE);
            made += (0..3).filter(|port| pace.calls(peer(*port), clock.now())).count();
        }
        made
    }

    #[test]
    fn three_calls_in_each_interval() {
        assert_eq!((interval(1), interval(30), interval(100)), (BASE, BASE, Duration::from_secs(1)));
        for nodes in [1, 10, 30] {
            assert_eq!(calls(&mut Pace::new(nodes)), 999, "{nodes} nodes");
        }
        let made = calls(&mut Pace::new(100));
        assert!((297..=303).contains(&made), "{made} calls in a hundred rounds");
        let mut grown = Pace::new(1);
        grown.nodes(1000);
        let made = calls(&mut grown);
        assert!((30..=33).contains(&made), "{made} calls in ten rounds");
    }

    #[test]
    fn a_wanted_call_is_made_once_whatever_the_pace() {
        let now = Clock::simulated(Wall(0)).now();
        let mut pace = Pace::new(100);
        assert_eq!((0..5).filter(|port| pace.calls(peer(*port), now)).count(), 3);
        pace.want(peer(9));
        assert!(pace.calls(peer(9), now) && !pace.calls(peer(9), now));
    }
}
