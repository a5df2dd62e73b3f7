//! When a request may be tried again (pure): its method, its body, and the budget.
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use gossip::id::ServiceName;
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
    floor_per_second: f64,
    level: Arc<Level>,
    filled: Instant,
}

/// How much of a budget is left: written by its worker alone, read by who watches.
#[derive(Debug, Default)]
struct Level {
    /// Bits of an `f64`: retries.
    tokens: AtomicU64,
    most: AtomicU64,
}

impl Level {
    fn tokens(&self) -> f64 {
        f64::from_bits(self.tokens.load(Ordering::Relaxed))
    }

    fn set(&self, tokens: f64) {
        self.tokens.store(tokens.to_bits(), Ordering::Relaxed);
    }
}

/// The budgets of all workers, for who watches. Locked when a worker makes a budget, and never for a request.
#[derive(Debug, Default)]
pub(super) struct Budgets(Mutex<BTreeMap<ServiceName, Vec<Arc<Level>>>>);

impl Budgets {
    /// Takes note of a new budget of a service; those that their workers gave up are forgotten.
    pub(super) fn note(&self, service: &ServiceName, budget: &Budget) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.values_mut().for_each(|levels| levels.retain(|level| Arc::strong_count(level) > 1));
        all.entry(service.clone()).or_default().push(budget.level.clone());
        all.retain(|_, levels| !levels.is_empty());
    }

    /// The retries left to each service that has had a request, and how many can be saved up, over all workers; as they were
    /// at the last request.
    pub(super) fn left(&self) -> BTreeMap<ServiceName, (f64, f64)> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = |levels: &Vec<Arc<Level>>| {
            levels.iter().fold((0.0, 0.0), |(left, most), level| {
                (left + level.tokens(), most + f64::from_bits(level.most.load(Ordering::Relaxed)))
            })
        };
        all.iter().map(|(service, levels)| (service.clone(), sum(levels))).collect()
    }
}

impl Budget {
    /// A budget with one second's floor in it, for one of `workers`.
    pub(super) fn new(now: Instant, workers: usize) -> Self {
        let floor_per_second = FLOOR_PER_SECOND / workers.max(1) as f64;
        let level = Arc::new(Level::default());
        level.set(floor_per_second);
        level.most.store((10.0 * floor_per_second).to_bits(), Ordering::Relaxed);
        Self { floor_per_second, level, filled: now }
    }

    /// A request came: pays its share in. At most ten seconds' floor and a hundred requests' worth are saved up.
    pub(super) fn request(&mut self, share: f64) {
        let most = 10.0 * self.floor_per_second + 100.0 * share;
        let tokens = self.level.tokens();
        self.level.most.store(most.to_bits(), Ordering::Relaxed);
        self.level.set((tokens + share).min(most.max(tokens)));
    }

    /// Takes one retry out, if there is one.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.filled).min(Duration::from_secs(10));
        self.filled = now;
        let floor = 10.0 * self.floor_per_second;
        let mut tokens = self.level.tokens();
        if tokens < floor {
            tokens = (tokens + passed.as_secs_f64() * self.floor_per_second).min(floor);
        }
        let enough = tokens >= 1.0;
        self.level.set(if enough { tokens - 1.0 } else { tokens });
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
    fn who_watches_sees_what_all_workers_have_left() {
        let now = Clock::simulated(Wall(0)).now();
        let (all, web) = (Budgets::default(), ServiceName::new("web").unwrap());
        let mut budgets: Vec<Budget> = (0..2).map(|_| Budget::new(now, 2)).collect();
        budgets.iter().for_each(|budget| all.note(&web, budget));
        assert_eq!(all.left()[&web], (10.0, 100.0));
        assert!(budgets[0].take(now));
        budgets[1].request(0.5);
        assert_eq!(all.left()[&web], (9.5, 150.0));
        budgets.clear();
        let other = Budget::new(now, 2);
        all.note(&ServiceName::new("api").unwrap(), &other);
        assert_eq!(all.left().len(), 1, "a service without budgets is forgotten");
    }

    #[test]
    fn posts_are_not_idempotent() {
        assert!(is_idempotent(&Method::PUT) && is_idempotent(&Method::GET));
        assert!(!is_idempotent(&Method::POST) && !is_idempotent(&Method::PATCH));
    }
}
