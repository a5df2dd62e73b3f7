//! How fast records move that nobody waits for. Pure.
//!
//! A node that dies or comes moves a third of a bucket's copies at a time: a million sessions are some hundred thousand records
//! for each of the others. Each record costs its receiver some six microseconds, most of them the disk's. At
//! [`RECORDS_A_SECOND`] a node that repairs gives that some tenth of a core at most and leaves the rest to its users; a
//! million sessions have all their copies again well within a minute of a death in a region of four, and what a
//! partition kept apart is equal again in half a minute.
//!
//! Less than a second's worth at once waits for nothing.

use std::time::{Duration, Instant};

/// Records that a node asks for or sends on its own account to repair what is held.
const RECORDS_A_SECOND: u32 = 15_000;
const EACH: Duration = Duration::from_nanos(1_000_000_000 / RECORDS_A_SECOND as u64);
/// What was not used of the rate is kept for so long.
const BURST: Duration = Duration::from_secs(1);

/// When records may move. (The generic cell rate algorithm.)
#[derive(Debug)]
pub(super) struct Pace {
    due: Instant,
}

impl Pace {
    /// Nothing has moved yet.
    pub(super) fn new(now: Instant) -> Self {
        Self { due: rested(now) }
    }

    /// Whether the next records may move.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.due <= now
    }

    /// When they may.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// So many have moved.
    pub(super) fn moved(&mut self, records: usize, now: Instant) {
        let records = u32::try_from(records).unwrap_or(u32::MAX);
        self.due = self.due.max(rested(now)) + EACH.saturating_mul(records);
    }
}

/// The moment of a node that has not moved anything for long. Clocks may have begun less than that ago.
fn rested(now: Instant) -> Instant {
    now.checked_sub(BURST).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_s_worth_goes_at_once_and_the_rest_at_the_rate() {
        let begin = gossip::clock::Clock::simulated(gossip::clock::Wall(0)).now() + Duration::from_secs(3600);
        let mut pace = Pace::new(begin);
        let (mut now, mut moved) = (begin, 0_u32);
        while now < begin + Duration::from_secs(10) {
            while pace.is_due(now) {
                pace.moved(1000, now);
                moved += 1000;
            }
            assert!(pace.due() > now);
            now = pace.due();
        }
        let most = RECORDS_A_SECOND * 11;
        assert!((most - 1000..=most + 1000).contains(&moved), "{moved} in ten seconds");
        now += Duration::from_secs(3600);
        pace.moved(1000, now);
        assert!(pace.is_due(now), "rest is not forgotten");
        pace.moved(RECORDS_A_SECOND as usize, now);
        assert!(!pace.is_due(now), "nor saved up for ever");
    }
}
