//! How often all clients of a service together may ask (pure): GCRA in one number that all workers share.
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::config::model::Rate;

/// Ticks of a nanosecond: at ten million requests a second an interval is still 1,600 of them, and the count lasts for
/// 36 years.
const TICKS_PER_NANO: f64 = 16.0;

/// One limit. The theoretical arrival time of the next request of an even flow is all it remembers.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct Cell {
    tat: AtomicU64,
    interval: u64,
    horizon: u64,
}

impl Cell {
    pub(super) fn new(rate: Rate) -> Self {
        let interval = ((1e9 * TICKS_PER_NANO / rate.per_second) as u64).max(1);
        Self { tat: AtomicU64::new(0), interval, horizon: interval.saturating_mul(rate.burst.into()) }
    }

    /// Whether a request `passed` after the workers' common origin would be let through. `Err`: it comes too early, by
    /// this much.
    pub(super) fn room(&self, passed: Duration) -> Result<(), Duration> {
        self.next(self.tat.load(Ordering::Relaxed), ticks(passed)).map(drop)
    }

    /// Takes a request; as [`Cell::room`].
    pub(super) fn take(&self, passed: Duration) -> Result<(), Duration> {
        let now = ticks(passed);
        let mut seen = self.tat.load(Ordering::Relaxed);
        loop {
            let next = self.next(seen, now)?;
            match self.tat.compare_exchange_weak(seen, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Ok(()),
                Err(present) => seen = present,
            }
        }
    }

    fn next(&self, tat: u64, now: u64) -> Result<u64, Duration> {
        let next = tat.max(now).saturating_add(self.interval);
        match next.checked_sub(now.saturating_add(self.horizon)) {
            None | Some(0) => Ok(next),
            Some(early) => Err(Duration::from_nanos((early as f64 / TICKS_PER_NANO) as u64 + 1)),
        }
    }
}

fn ticks(passed: Duration) -> u64 {
    (passed.as_nanos() as f64 * TICKS_PER_NANO) as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cell(per_second: f64, burst: u32) -> Cell {
        Cell::new(Rate { per_second, burst })
    }

    fn burst(cell: &Cell, passed: Duration) -> u32 {
        (0..1_000_000).take_while(|_| cell.take(passed).is_ok()).count() as u32
    }

    #[test]
    fn a_burst_and_then_the_rate() {
        let cell = cell(5000.0, 7000);
        let mut now = Duration::from_secs(1000);
        assert_eq!(burst(&cell, now), 7000);
        now += Duration::from_millis(101);
        assert_eq!(burst(&cell, now), 505);
        let wait = cell.take(now).unwrap_err();
        assert!(wait <= Duration::from_micros(201), "{wait:?}");
        assert_eq!((cell.room(now).is_ok(), cell.room(now + wait)), (false, Ok(())));
        now += wait;
        assert_eq!(burst(&cell, now), 1);
        assert_eq!(burst(&cell, now + Duration::from_secs(86_400 * 400)), 7000, "more is never saved up");
    }

    #[test]
    fn workers_together_let_no_more_through() {
        let cell = cell(0.01, 10_000);
        let count = || (0..20_000).filter(|_| cell.take(Duration::from_secs(7)).is_ok()).count();
        let through: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(count)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(through, 10_000);
    }

    proptest! {
        #[test]
        fn as_a_token_bucket_does(
            per_second in 0.5f64..1e6,
            size in 1u32..5000,
            steps in prop::collection::vec(0u64..2000, 1..300),
        ) {
            let cell = cell(per_second, size);
            let (mut tokens, mut now) = (f64::from(size), Duration::from_secs(3));
            for millis in steps {
                now += Duration::from_millis(millis);
                tokens = (tokens + millis as f64 * per_second / 1000.0).min(f64::from(size));
                let passes = cell.take(now).is_ok();
                prop_assert!(!passes || tokens >= 0.99, "{tokens}");
                prop_assert!(passes || tokens < 1.01, "{tokens}");
                tokens = if passes { (tokens - 1.0).max(0.0) } else { tokens };
            }
        }
    }
}
