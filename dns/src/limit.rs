//! How many answers over UDP one network gets, so that nobody can have a victim flooded from here by forging its
//! address (response rate limiting).
//!
//! A network is an IPv4 /24 or an IPv6 /56, and its positive answers, negative answers and errors are counted apart, so
//! that a flood of one kind leaves the others. Each has a token bucket in one number (GCRA): the time at which all it
//! was given would be paid for at the even rate. The buckets stand in a fixed table of atomics that all threads share;
//! only a limit that is switched on costs anything. A bucket that another network needs is given up when it is the least
//! used of its row; two networks that share a row and a tag share a limit, once in some sixty thousand.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::wire::Rcode;

const ROWS: usize = 16_384;
const WAYS: usize = 8;
/// The time of a bucket, in microseconds since the limiter was made: it wraps after 8 years.
const TIME_BITS: u32 = 48;
const TIME_MASK: u64 = (1 << TIME_BITS) - 1;

/// A limit on answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResponseRate {
    /// Answers of one kind to one network, a second; at least 1. As many may come at once.
    pub per_second: u32,
    /// Of so many answers over the limit one is sent cut, so that a client which is real asks again over TCP; 0: none.
    pub slip: u32,
}

/// What is limited apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Class {
    Positive,
    Negative,
    Error,
}

/// The buckets of all networks: 1 MiB.
pub(crate) struct Limiter {
    rate: ResponseRate,
    hasher: RandomState,
    /// The first moment it was asked.
    start: OnceLock<Instant>,
    rows: Box<[Row]>,
}

#[repr(align(64))]
#[derive(Default)]
struct Row([AtomicU64; WAYS]);

impl Limiter {
    pub(crate) fn new(rate: ResponseRate) -> Self {
        let rows = std::iter::repeat_with(Row::default).take(ROWS).collect();
        Self { rate, hasher: RandomState::new(), start: OnceLock::new(), rows }
    }

    /// How many buckets hold what is not yet paid for, and how many there are. Walks all of them: for operators.
    pub(crate) fn used(&self, now: Instant) -> (usize, usize) {
        let micros =
            self.start.get().map_or(0, |start| now.saturating_duration_since(*start).as_micros() as u64);
        let slots = self.rows.iter().flat_map(|Row(ways)| ways);
        let used = slots.filter(|slot| slot.load(Ordering::Relaxed) & TIME_MASK > micros + 1);
        (used.count(), ROWS * WAYS)
    }

    /// How often an answer over the limit is sent cut.
    pub(crate) fn slip(&self) -> u32 {
        self.rate.slip
    }

    /// Counts an answer; false when it is one too many. Loopback is never limited.
    pub(crate) fn admits(&self, client: IpAddr, rcode: Rcode, empty: bool, now: Instant) -> bool {
        let client = client.to_canonical();
        if client.is_loopback() {
            return true;
        }
        let network = match client {
            IpAddr::V4(client) => u64::from(client.to_bits() >> 8),
            IpAddr::V6(client) => 1 << 63 | (client.to_bits() >> 72) as u64,
        };
        let class = match rcode {
            Rcode::NOERROR if !empty => Class::Positive,
            Rcode::NOERROR | Rcode::NXDOMAIN => Class::Negative,
            _ => Class::Error,
        };
        let micros = now.saturating_duration_since(*self.start.get_or_init(|| now)).as_micros() as u64;
        self.take(self.hasher.hash_one((network, class)), micros + 1)
    }

    fn take(&self, hash: u64, now: u64) -> bool {
        let interval =
            (Duration::from_secs(1).as_micros() as u64 / u64::from(self.rate.per_second.max(1))).max(1);
        let horizon = interval * u64::from(self.rate.per_second);
        let tag = (hash >> TIME_BITS).max(1);
        let Row(ways) = &self.rows[hash as usize % ROWS];
        loop {
            let (slot, seen) = own_or_least_used(ways, tag);
            let paid = if seen >> TIME_BITS == tag { seen & TIME_MASK } else { 0 };
            let next = paid.max(now) + interval;
            if next > now + horizon {
                return false;
            }
            let next = tag << TIME_BITS | next & TIME_MASK;
            if slot.compare_exchange_weak(seen, next, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                return true;
            }
        }
    }
}

fn own_or_least_used(ways: &[AtomicU64; WAYS], tag: u64) -> (&AtomicU64, u64) {
    let mut least = (&ways[0], u64::MAX);
    for slot in ways {
        let seen = slot.load(Ordering::Relaxed);
        if seen >> TIME_BITS == tag {
            return (slot, seen);
        }
        if seen & TIME_MASK < least.1 & TIME_MASK {
            least = (slot, seen);
        }
    }
    (least.0, least.0.load(Ordering::Relaxed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::start;

    fn admitted(limiter: &Limiter, client: &str, rcode: Rcode, at: Duration, tries: u32) -> u32 {
        let client = client.parse().unwrap();
        let now = *limiter.start.get_or_init(|| start().monotonic) + at;
        (0..tries).filter(|_| limiter.admits(client, rcode, false, now)).count() as u32
    }

    #[test]
    fn a_network_gets_its_rate_and_others_theirs() {
        let limiter = Limiter::new(ResponseRate { per_second: 10, slip: 2 });
        let at = Duration::from_secs;
        assert_eq!(admitted(&limiter, "192.0.2.1", Rcode::NOERROR, at(0), 1000), 10);
        assert_eq!(admitted(&limiter, "192.0.2.200", Rcode::NOERROR, at(0), 1000), 0, "the same /24");
        let start = *limiter.start.get().unwrap();
        assert_eq!((limiter.used(start).0, limiter.used(start + at(60)).0), (1, 0));
        assert_eq!(admitted(&limiter, "192.0.2.1", Rcode::NXDOMAIN, at(0), 1000), 10, "another kind");
        assert_eq!(admitted(&limiter, "192.0.2.1", Rcode::REFUSED, at(0), 1000), 10);
        assert_eq!(admitted(&limiter, "192.0.3.1", Rcode::NOERROR, at(0), 1000), 10);
        assert_eq!(admitted(&limiter, "192.0.2.1", Rcode::NOERROR, Duration::from_millis(300), 1000), 3);
        assert_eq!(
            admitted(&limiter, "192.0.2.1", Rcode::NOERROR, at(3600), 1000),
            10,
            "and no more saved up"
        );
        assert_eq!(admitted(&limiter, "2001:db8::1", Rcode::NOERROR, at(0), 1000), 10);
        assert_eq!(admitted(&limiter, "2001:db8:0:ff::1", Rcode::NOERROR, at(0), 1000), 0, "the same /56");
        assert_eq!(admitted(&limiter, "2001:db8:0:100::1", Rcode::NOERROR, at(0), 1000), 10);
        for loopback in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(admitted(&limiter, loopback, Rcode::NOERROR, at(0), 1000), 1000);
        }
    }

    #[test]
    fn a_flood_of_many_networks_does_not_free_the_one_that_floods_most() {
        let limiter = Limiter::new(ResponseRate { per_second: 10, slip: 0 });
        let now = start().monotonic;
        let mut given = 0;
        for other in 0..200_000u32 {
            let other = IpAddr::from((other << 8 | 0x0a00_0000).to_be_bytes());
            limiter.admits(other, Rcode::NOERROR, false, now);
            given += admitted(&limiter, "192.0.2.1", Rcode::NOERROR, Duration::ZERO, 1);
        }
        assert!(given <= 20, "{given}");
    }
}
