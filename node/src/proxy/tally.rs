//! What is counted of each service: how requests ended, how long they took, how much they were sent.
//!
//! Every worker has tallies of its own, which it alone writes, so counting costs no line that another core wants. They live
//! as long as a revision names the service.
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gossip::id::ServiceName;
use rustc_hash::FxHashMap;

use super::outcome::End;
use crate::config::model::Services;

/// The upper bounds of the buckets of durations, in microseconds; beyond the last there is one more.
pub const BOUNDS_MICROS: [u64; 17] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000, 60_000_000,
];
/// All buckets.
pub const BUCKETS: usize = BOUNDS_MICROS.len() + 1;
/// Statuses by their first digit; at 0 those without any, which are connections.
const CLASSES: usize = 6;

/// One worker's counts of one service, on cache lines of their own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Tally {
    ends: [AtomicU64; End::ALL.len()],
    classes: [AtomicU64; CLASSES],
    failed: AtomicU64,
    sent_bytes: AtomicU64,
    took_micros: AtomicU64,
    took: [AtomicU64; BUCKETS],
}

/// Counts of one service, of all workers together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceCounts {
    /// By the order of [`End::ALL`].
    pub ends: [u64; End::ALL.len()],
    /// By the first digit of the status; at 0 what had none: connections, and requests that nobody answered.
    pub classes: [u64; CLASSES],
    /// What a user was not served though nothing was wrong with the request: no backend, no answer, a status from 500.
    pub failed: u64,
    /// Bytes of bodies sent to users.
    pub sent_bytes: u64,
    /// The sum of all durations of requests that were answered.
    pub took_micros: u64,
    /// Requests that were answered, by how long they took; see [`BOUNDS_MICROS`].
    pub took: [u64; BUCKETS],
}

impl Default for ServiceCounts {
    fn default() -> Self {
        Self {
            ends: [0; End::ALL.len()],
            classes: [0; CLASSES],
            failed: 0,
            sent_bytes: 0,
            took_micros: 0,
            took: [0; BUCKETS],
        }
    }
}

impl ServiceCounts {
    /// Requests and connections, however they ended.
    pub fn requests(&self) -> u64 {
        self.ends.iter().sum()
    }
}

/// The bucket of a duration.
fn bucket(took: Duration) -> usize {
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    BOUNDS_MICROS.partition_point(|bound| *bound < micros)
}

/// Only one thread writes: a load and a store cost less than an atomic addition.
fn add(counter: &AtomicU64, count: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
}

impl Tally {
    /// Counts one request or connection that has ended.
    pub(super) fn ended(&self, end: End, status: Option<u16>, sent_bytes: u64, took: Duration) {
        add(&self.ends[end as usize], 1);
        let class = usize::from(status.unwrap_or(0) / 100);
        add(&self.classes[if class < CLASSES { class } else { 0 }], 1);
        add(&self.sent_bytes, sent_bytes);
        if end.is_failure() || class == 5 {
            add(&self.failed, 1);
        }
        if status.is_some() {
            add(&self.took[bucket(took)], 1);
            add(&self.took_micros, u64::try_from(took.as_micros()).unwrap_or(0));
        }
    }

    fn add_to(&self, sum: &mut ServiceCounts) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let arrays = [
            (&mut sum.ends[..], &self.ends[..]),
            (&mut sum.classes[..], &self.classes[..]),
            (&mut sum.took[..], &self.took[..]),
        ];
        for (sum, own) in arrays {
            sum.iter_mut().zip(own).for_each(|(sum, own)| *sum += read(own));
        }
        sum.failed += read(&self.failed);
        sum.sent_bytes += read(&self.sent_bytes);
        sum.took_micros += read(&self.took_micros);
    }
}

/// One worker's tallies, by service.
pub(super) type Own = Arc<FxHashMap<ServiceName, Arc<Tally>>>;

/// The tallies of all workers.
#[derive(Debug, Default)]
pub(super) struct Tallies(Mutex<BTreeMap<ServiceName, Vec<Option<Arc<Tally>>>>>);

impl Tallies {
    /// A worker's tallies of the services that there are; those of services that are gone are forgotten.
    pub(super) fn of(&self, worker: usize, services: &Services) -> Own {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|name, _| services.services.contains_key(name));
        let own = services.services.keys().map(|name| {
            let tallies = all.entry(name.clone()).or_default();
            if tallies.len() <= worker {
                tallies.resize(worker + 1, None);
            }
            (name.clone(), tallies[worker].get_or_insert_default().clone())
        });
        Arc::new(own.collect())
    }

    /// The sums over all workers.
    pub(super) fn sum(&self) -> BTreeMap<ServiceName, ServiceCounts> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = |tallies: &Vec<Option<Arc<Tally>>>| {
            let mut sum = ServiceCounts::default();
            tallies.iter().flatten().for_each(|tally| tally.add_to(&mut sum));
            sum
        };
        all.iter().map(|(name, tallies)| (name.clone(), sum(tallies))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::fixture;

    #[test]
    fn a_duration_is_in_the_bucket_whose_bound_it_does_not_pass() {
        let micros = Duration::from_micros;
        assert_eq!((bucket(micros(0)), bucket(micros(100)), bucket(micros(101))), (0, 0, 1));
        assert_eq!((bucket(micros(60_000_000)), bucket(micros(60_000_001))), (16, 17));
        assert_eq!(bucket(Duration::MAX), BUCKETS - 1);
    }

    #[test]
    fn workers_count_apart_and_are_summed() {
        let services = |names: &[&str]| {
            let services = names.iter().map(|name| fixture::service(name, &[]));
            fixture::snapshot("eu", Vec::new(), services.collect(), Vec::new()).services
        };
        let tallies = Tallies::default();
        let web = ServiceName::new("web").unwrap();
        for worker in [1, 0] {
            let own = tallies.of(worker, &services(&["web", "api"]));
            own[&web].ended(End::Ok, Some(200), 10, Duration::from_millis(3));
            own[&web].ended(End::Ok, Some(503), 0, Duration::from_millis(1));
            own[&web].ended(End::Denied, Some(403), 0, Duration::ZERO);
            own[&web].ended(End::NoBackend, None, 0, Duration::ZERO);
        }
        let sum = &tallies.sum()[&web];
        assert_eq!((sum.requests(), sum.failed, sum.sent_bytes), (8, 4, 20));
        assert_eq!(sum.classes, [2, 0, 2, 0, 2, 2]);
        assert_eq!((sum.took.iter().sum::<u64>(), sum.took_micros), (6, 8000));
        tallies.of(0, &services(&["api"]));
        assert!(!tallies.sum().contains_key(&web), "a service that is gone is forgotten");
    }
}
