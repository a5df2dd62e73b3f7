//! How far this node's wall clock is from the mesh's. Pure.
//!
//! Each peer is asked for its (uncorrected) wall time; half the round trip is given to the way there. The correction is
//! the median over all peers and this node itself, which counts as 0. A large one needs a majority of three clocks or more
//! that agree: one broken clock moves nobody, also where there are only two, and a peer that goes takes its vote along.

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

    /// All clocks as seen from this one, which is 0 itself, in order.
    fn all(&self) -> Vec<i64> {
        let mut all = self.peers.values().copied().chain([0]).collect::<Vec<_>>();
        all.sort_unstable();
        all
    }

    fn median(&self) -> i64 {
        let all = self.all();
        let (low, high) = (all[(all.len() - 1) / 2], all[all.len() / 2]);
        low / 2 + high / 2 + (low % 2 + high % 2) / 2
    }

    /// What to add to this clock: the median, when it is small or most clocks, of three at least, are close to it; else 0.
    pub(crate) fn correction(&self) -> i64 {
        let median = self.median();
        let all = self.all();
        let close = |clock: &&i64| clock.saturating_sub(median).saturating_abs() <= ALARM_MILLIS;
        let agreed = all.len() >= 3 && all.iter().filter(close).count() * 2 > all.len();
        if agreed || median.saturating_abs() <= ALARM_MILLIS { median } else { 0 }
    }

    /// How far this clock is off, as far as can be said: by the median, or of two by the other.
    pub(crate) fn deviation(&self) -> i64 {
        match self.all()[..] {
            [low, high] => low.saturating_add(high),
            _ => self.median(),
        }
    }

    /// The deviation, when it has just become worth an alarm or just ceased to be.
    pub(crate) fn alarm(&mut self) -> Option<i64> {
        let deviation = self.deviation();
        let off = deviation.saturating_abs() > ALARM_MILLIS;
        (off != std::mem::replace(&mut self.alarmed, off)).then_some(deviation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_broken_clock_moves_nobody_and_an_alarm_is_given_once() {
        let mut offsets = Offsets::default();
        assert_eq!(offsets.correction(), 0);
        offsets.measured("b".parse().unwrap(), 4);
        assert_eq!(offsets.correction(), 2);
        offsets.measured("c".parse().unwrap(), 1_000_000);
        assert_eq!(offsets.correction(), 4);
        assert_eq!(offsets.alarm(), None);
        offsets.measured("b".parse().unwrap(), 1_000_000);
        assert_eq!((offsets.correction(), offsets.alarm()), (1_000_000, Some(1_000_000)));
        assert_eq!(offsets.alarm(), None);
        offsets.retain(|name| name.as_str() == "none");
        assert_eq!((offsets.correction(), offsets.alarm()), (0, Some(0)));
    }

    #[test]
    fn of_two_clocks_that_differ_none_is_believed_and_both_are_told() {
        let mut offsets = Offsets::default();
        for ahead in [40_000_000, -40_000_000] {
            offsets.measured("b".parse().unwrap(), ahead);
            assert_eq!((offsets.correction(), offsets.alarm()), (0, Some(ahead)));
            offsets.measured("b".parse().unwrap(), 0);
            assert_eq!(offsets.alarm(), Some(0));
        }
        // Three that say three things agree on nothing.
        offsets.measured("b".parse().unwrap(), 2_000_000);
        offsets.measured("c".parse().unwrap(), 1_000_000);
        assert_eq!(offsets.correction(), 0);
    }

    #[test]
    fn half_the_round_trip_is_the_way_there() {
        assert_eq!(measure(Wall(1000), Wall(1100), Wall(1100)), 50);
        assert_eq!(measure(Wall(u64::MAX), Wall(0), Wall(u64::MAX)), i64::MAX);
        assert_eq!(measure(Wall(0), Wall(u64::MAX), Wall(0)), i64::MAX);
    }
}
