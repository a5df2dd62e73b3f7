//! When to dial a peer again. Pure: `now` and the random source are arguments.
//!
//! ```text
//! failed ─▶ wait 100 ms ─ failed ─▶ 200 ms ─ ... ─▶ 5 s      each wait is between a half and the whole of it
//!    ▲                                │
//!    └──────────── connected ─────────┘  starts over
//! ```

use std::time::{Duration, Instant};

use rand::{Rng, RngExt};

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);

/// The back-off of one peer: doubling, capped, jittered so that nodes that lost a peer together do not return together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The dial worked.
    pub(crate) fn connected(&mut self) {
        self.failures = 0;
    }

    /// The dial failed or the connection broke. When to try again.
    pub(crate) fn failed(&mut self, now: Instant, rng: &mut impl Rng) -> Instant {
        let full = FIRST.saturating_mul(1 << self.failures.min(10)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        now + rng.random_range(full / 2..=full)
    }

    /// How many dials failed in a row.
    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, Wall};
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    #[test]
    fn waits_double_up_to_a_limit_and_start_over() {
        let now = Clock::simulated(Wall(0)).now();
        let mut rng = StdRng::seed_from_u64(1);
        let mut backoff = Backoff::default();
        let mut full = FIRST;
        for _ in 0..50 {
            let wait = backoff.failed(now, &mut rng) - now;
            assert!(wait >= full / 2 && wait <= full, "{wait:?} {full:?}");
            full = (full * 2).min(LONGEST);
        }
        assert_eq!(backoff.failures(), 50);
        backoff.connected();
        assert!(backoff.failed(now, &mut rng) - now <= FIRST);
    }
}
