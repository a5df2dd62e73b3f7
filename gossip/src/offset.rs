//! How far this node's wall clock is from the mesh's. Pure.
//!
//! Each peer is asked for its (uncorrected) wall time; half the round trip is given to the way there. The correction is
//! the median over all peers and this node itself, which counts as 0: one broken clock moves nobody.

use std::collections::BTreeMap;

use crate::clock::Wall;
use crate::id::NodeName;

/// A clock further off than this is told to the operator.
pub(crate) const ALARM_MILLIS: i64 = 500;

/// The latest measured offset of each peer, in milliseconds, positive when it is ahead.
#[derive(Debug, Default)]
pub(crate) struct Offsets {
    peers: BTreeMap<NodeName, i64>,
    alarmed: bool,
}

/// The offset of a clock that said `theirs` between `asked` and `answered`.
pub(crate) fn measure(asked: Wall, theirs: Wall, answered: Wall) -> i64 {
    let middle = asked.0 / 2 + answered.0 / 2;
    i64::try_from(i128::from(theirs.0) - i128::from(middle)).unwrap_or(i64::MAX)
}

impl Offsets {
    /// Takes note of a measurement.
    pub(crate) fn measured(&mut self, peer: NodeName, offset_millis: i64) {
        self.peers.insert(peer, offset_millis);
    }

    /// Keeps only the peers that are alive.
    pub(crate) fn retain(&mut self, alive: impl Fn(&NodeName) -> bool) {
        self.peers.retain(|name, _| alive(name));
    }

    /// The correction: the median.
    pub(crate) fn median(&self) -> i64 {
        let mut all = self.peers.values().copied().chain([0]).collect::<Vec<_>>();
        all.sort_unstable();
        let (low, high) = (all[(all.len() - 1) / 2], all[all.len() / 2]);
        low / 2 + high / 2 + (low % 2 + high % 2) / 2
    }

    /// The median, when it has just become worth an alarm or just ceased to be.
    pub(crate) fn alarm(&mut self) -> Option<i64> {
        let median = self.median();
        let off = median.saturating_abs() > ALARM_MILLIS;
        (off != std::mem::replace(&mut self.alarmed, off)).then_some(median)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_ignores_one_broken_clock_and_alarms_once() {
        let mut offsets = Offsets::default();
        assert_eq!(offsets.median(), 0);
        offsets.measured("b".parse().unwrap(), 4);
        assert_eq!(offsets.median(), 2);
        offsets.measured("c".parse().unwrap(), 1_000_000);
        assert_eq!(offsets.median(), 4);
        assert_eq!(offsets.alarm(), None);
        offsets.measured("b".parse().unwrap(), 1_000_000);
        assert_eq!(offsets.alarm(), Some(1_000_000));
        assert_eq!(offsets.alarm(), None);
        offsets.retain(|name| name.as_str() == "none");
        assert_eq!(offsets.alarm(), Some(0));
    }

    #[test]
    fn half_the_round_trip_is_the_way_there() {
        assert_eq!(measure(Wall(1000), Wall(1100), Wall(1100)), 50);
        assert_eq!(measure(Wall(u64::MAX), Wall(0), Wall(u64::MAX)), i64::MAX);
        assert_eq!(measure(Wall(0), Wall(u64::MAX), Wall(0)), i64::MAX);
    }
}
