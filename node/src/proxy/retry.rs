//! When a request may be tried again (pure): its method, its body, and the budget.
use std::time::{Duration, Instant};

use http::Method;

/// The largest body that is kept to be sent again.
pub(super) const REPLAY_MAX_BYTES: u64 = 64 * 1024;

/// Retries that are allowed each second whatever the share of the traffic is.
const FLOOR_PER_SECOND: f64 = 10.0;

/// Whether sending a request twice does what sending it once does (RFC 9110 §9.2.2).
pub(super) fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    )
}

/// The part of a service's retry budget that one worker holds: every request pays a share in, every retry takes one
/// out, and a floor fills it slowly, so that a service with little traffic may retry too. A backend that fails
/// everything then costs at most that share on top, instead of a multiple.
#[derive(Debug)]
pub(super) struct Budget {
    tokens: f64,
    floor_per_second: f64,
    filled: Instant,
}

impl Budget {
    /// A budget with one second's floor in it, for one of `workers`.
    pub(super) fn new(now: Instant, workers: usize) -> Self {
        let floor_per_second = FLOOR_PER_SECOND / workers.max(1) as f64;
        Self { tokens: floor_per_second, floor_per_second, filled: now }
    }

    /// A request came: pays its share in. At most ten seconds' floor and a hundred requests' worth are saved up.
    pub(super) fn request(&mut self, share: f64) {
        let most = 10.0 * self.floor_per_second + 100.0 * share;
        self.tokens = (self.tokens + share).min(most.max(self.tokens));
    }

    /// Takes one retry out, if there is one.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.filled).min(Duration::from_secs(10));
        self.filled = now;
        let floor = 10.0 * self.floor_per_second;
        if self.tokens < floor {
            self.tokens = (self.tokens + passed.as_secs_f64() * self.floor_per_second).min(floor);
        }
        let enough = self.tokens >= 1.0;
        if enough {
            self.tokens -= 1.0;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use gossip::clock::{Clock, Wall};

    use super::*;

    #[test]
    fn a_busy_service_may_retry_its_share() {
        let now = Clock::simulated(Wall(0)).now();
        let mut budget = Budget::new(now, 1);
        let mut retried = 0;
        for _ in 0..10_000 {
            budget.request(0.2);
            retried += u32::from(budget.take(now));
        }
        assert!((2000..=2010).contains(&retried), "{retried}");
    }

    #[test]
    fn a_quiet_service_may_retry_ten_times_a_second() {
        let start = Clock::simulated(Wall(0)).now();
        let mut budget = Budget::new(start, 1);
        let mut retried = 0;
        for millis in 0..5000 {
            retried += u32::from(budget.take(start + Duration::from_millis(millis)));
        }
        assert!((55..=61).contains(&retried), "{retried}");
    }

    #[test]
    fn what_is_saved_up_is_bounded() {
        let now = Clock::simulated(Wall(0)).now();
        let mut budget = Budget::new(now, 2);
        (0..1_000_000).for_each(|_| budget.request(0.2));
        let burst = (0..1000).take_while(|_| budget.take(now)).count();
        assert!(burst <= 70, "{burst}");
    }

    #[test]
    fn posts_are_not_idempotent() {
        assert!(is_idempotent(&Method::PUT) && is_idempotent(&Method::GET));
        assert!(!is_idempotent(&Method::POST) && !is_idempotent(&Method::PATCH));
    }
}
