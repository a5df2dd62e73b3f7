//! The last two minutes of this node, second by second: what sparklines are drawn from.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::proxy::{BUCKETS, End, ProxyHandle};

/// Seconds kept.
pub(super) const KEPT: usize = 120;

/// What happened in one second.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Second {
    /// Requests and TCP connections that ended.
    pub(super) requests: u32,
    /// Of these, those that were not served though nothing was wrong with them.
    pub(super) failed: u32,
    /// DNS queries.
    pub(super) queries: u32,
    /// Requests by how long they took, as the proxy's buckets have it; those at the end that are empty may be left out.
    pub(super) took: Vec<u32>,
}

/// The last seconds, the newest first.
#[derive(Debug, Default)]
pub(super) struct Pulse(Mutex<VecDeque<Second>>);

/// Sums since the start.
#[derive(Debug, Default, Clone)]
struct Totals {
    requests: u64,
    failed: u64,
    queries: u64,
    took: [u64; BUCKETS],
}

impl Totals {
    fn now(proxy: &ProxyHandle, dns: Option<&dns::Responder>) -> Self {
        let counted = proxy.counters();
        let mut totals = Self {
            requests: End::ALL.iter().map(|end| counted.ends(*end)).sum(),
            queries: dns.map_or(0, |dns| {
                let counted = dns.counters().snapshot();
                counted.queries_udp + counted.queries_tcp
            }),
            ..Self::default()
        };
        for service in proxy.services().values() {
            totals.failed += service.failed;
            totals.took.iter_mut().zip(service.took).for_each(|(sum, took)| *sum += took);
        }
        totals
    }

    /// What came since. Counts of a service that is gone are gone, so a sum may shrink.
    fn since(&self, before: &Self) -> Second {
        let less = |now: u64, before: u64| u32::try_from(now.saturating_sub(before)).unwrap_or(u32::MAX);
        let took = self.took.iter().zip(before.took).map(|(now, before)| less(*now, before));
        let mut took: Vec<u32> = took.collect();
        took.truncate(took.iter().rposition(|count| *count > 0).map_or(0, |last| last + 1));
        Second {
            requests: less(self.requests, before.requests),
            failed: less(self.failed, before.failed),
            queries: less(self.queries, before.queries),
            took,
        }
    }
}

impl Pulse {
    pub(super) fn seconds(&self) -> Vec<Second> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    fn push(&self, second: Second) {
        let mut seconds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seconds.truncate(KEPT - 1);
        seconds.push_front(second);
    }
}

/// Takes note of every second, until nobody else holds the pulse.
pub(super) async fn beat(pulse: Arc<Pulse>, proxy: Arc<ProxyHandle>, dns: Option<Arc<dns::Responder>>) {
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    ticks.tick().await;
    let mut before = Totals::now(&proxy, dns.as_deref());
    loop {
        ticks.tick().await;
        let now = Totals::now(&proxy, dns.as_deref());
        pulse.push(now.since(&before));
        before = now;
        if Arc::strong_count(&pulse) == 1 {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_is_the_difference_and_never_below_nothing() {
        let mut before = Totals { requests: 10, failed: 5, queries: 7, ..Totals::default() };
        before.took[2] = 4;
        let mut now = Totals { requests: 30, failed: 3, queries: 7, ..Totals::default() };
        now.took[2] = 9;
        let second = now.since(&before);
        assert_eq!(second, Second { requests: 20, failed: 0, queries: 0, took: vec![0, 0, 5] });
    }

    #[test]
    fn two_minutes_are_kept_the_newest_first() {
        let pulse = Pulse::default();
        for requests in 0..200 {
            pulse.push(Second { requests, ..Second::default() });
        }
        let kept = pulse.seconds();
        assert_eq!((kept.len(), kept[0].requests), (KEPT, 199));
    }
}
