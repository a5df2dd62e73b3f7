//! How often one client may ask, and all together (pure): GCRA over a fixed table, and in one cell beside it, that all
//! workers share without a lock.
//!
//! GCRA (ITU-T I.371) is a token bucket in one number: the theoretical arrival time (TAT) of the next request of a client
//! that asks evenly. One that comes more than the burst ahead of it is refused. A client whose TAT has passed is as good as
//! unknown, so nothing needs to be swept.
//!
//! ```text
//! client ─hash─▶ bucket of 8 slots, one cache line ─tag─▶ slot: │ tag, 20 bits │ TAT, 44 bits │
//! ```
//! *Bounds.* 65,536 clients a service are tracked, in 512 KiB. A full bucket forgets the client that has used the least of
//! its burst. Two clients that share bucket and tag share a limit: one in 130,000 does in a full table.
use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gossip::id::ServiceName;

use self::cell::Cell;
use crate::config::model::{Rate, RateLimit, Services};

mod cell;

const WAYS: usize = 8;
const BUCKETS: usize = 8192;
/// Clients of a service that are known at once.
pub const CLIENTS_MAX: usize = WAYS * BUCKETS;
const TAT_BITS: u32 = 44;
const TAT_MASK: u64 = (1 << TAT_BITS) - 1;
/// The whole burst in ticks: what makes a tick. With a burst of 100,000 a request is still 168 of them.
const BURST_TICKS: u64 = 1 << 24;

/// The limiter of one service on this node.
#[derive(Debug)]
pub(super) struct Limiter {
    limit: RateLimit,
    clients: Option<Clients>,
    all: Option<Cell>,
}

impl Limiter {
    pub(super) fn new(limit: RateLimit) -> Self {
        Self { limit, clients: limit.per_client.map(Clients::new), all: limit.service.map(Cell::new) }
    }

    /// Takes a request of a client, `passed` after an origin that all workers share. `Err`: it comes too early, by this
    /// much.
    pub(super) fn take(&self, client: IpAddr, passed: Duration) -> Result<(), Duration> {
        if let Some(all) = &self.all {
            // What the service refuses is not held against the client.
            all.room(passed)?;
        }
        if let Some(clients) = &self.clients {
            clients.take(client, passed)?;
        }
        self.all.as_ref().map_or(Ok(()), |all| all.take(passed))
    }

    /// Clients that have used of their burst and are known for it, `passed` after the origin; `None` without a limit by client.
    fn tracked(&self, passed: Duration) -> Option<usize> {
        self.clients.as_ref().map(|clients| clients.tracked(passed))
    }
}

/// What each client has used of its own limit.
struct Clients {
    /// Spreads clients over the table in a way they cannot foresee.
    hasher: RandomState,
    buckets: Box<[Bucket]>,
    pace: Pace,
}

#[repr(align(64))]
#[derive(Default)]
struct Bucket([AtomicU64; WAYS]);

/// A limit in ticks.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Pace {
    nanos_per_tick: f64,
    /// From one request to the next.
    interval: u64,
    /// How far the TAT may be ahead.
    horizon: u64,
}

impl Pace {
    fn new(rate: Rate) -> Self {
        let interval_nanos = 1e9 / rate.per_second;
        let horizon_nanos = interval_nanos * f64::from(rate.burst);
        let nanos_per_tick = (horizon_nanos / BURST_TICKS as f64).max(1.0);
        let interval = ((interval_nanos / nanos_per_tick) as u64).max(1);
        Self { nanos_per_tick, interval, horizon: interval * u64::from(rate.burst) }
    }

    /// Decides on a request: the TAT after it, or how many ticks it is too early.
    fn decide(self, tat: u64, now: u64) -> Result<u64, u64> {
        let ahead = self.ahead(tat, now);
        let after = ahead + self.interval;
        match after.checked_sub(self.horizon) {
            None | Some(0) => Ok((now + after) & TAT_MASK),
            Some(early) => Err(early),
        }
    }

    /// How far a TAT is ahead of now, on a circle: what is farther ahead than it can be has passed.
    fn ahead(self, tat: u64, now: u64) -> u64 {
        let ahead = tat.wrapping_sub(now) & TAT_MASK;
        if ahead <= self.horizon { ahead } else { 0 }
    }
}

impl Clients {
    fn new(rate: Rate) -> Self {
        let buckets = std::iter::repeat_with(Bucket::default).take(BUCKETS).collect();
        Self { hasher: RandomState::new(), buckets, pace: Pace::new(rate) }
    }

    fn take(&self, client: IpAddr, passed: Duration) -> Result<(), Duration> {
        let hash = match client {
            IpAddr::V4(client) => self.hasher.hash_one(client.to_bits()),
            // One customer has a /64 at least and picks addresses in it at will (RFC 8981).
            IpAddr::V6(client) => self.hasher.hash_one((client.to_bits() >> 64) as u64),
        };
        let now = (passed.as_nanos() as f64 / self.pace.nanos_per_tick) as u64;
        self.take_hashed(hash, now)
            .map_err(|ticks| Duration::from_nanos((ticks as f64 * self.pace.nanos_per_tick) as u64))
    }

    fn take_hashed(&self, hash: u64, now: u64) -> Result<(), u64> {
        // Tag 0 marks an empty slot.
        let tag = (hash >> TAT_BITS).max(1);
        let Bucket(slots) = &self.buckets[hash as usize % BUCKETS];
        loop {
            let (slot, seen) = self.slot(slots, tag, now);
            let tat = if seen >> TAT_BITS == tag { seen & TAT_MASK } else { now & TAT_MASK };
            let next = tag << TAT_BITS | self.pace.decide(tat, now)?;
            if slot.compare_exchange_weak(seen, next, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                return Ok(());
            }
        }
    }

    fn tracked(&self, passed: Duration) -> usize {
        let now = (passed.as_nanos() as f64 / self.pace.nanos_per_tick) as u64;
        let slots =
            self.buckets.iter().flat_map(|Bucket(slots)| slots).map(|slot| slot.load(Ordering::Relaxed));
        slots.filter(|slot| *slot != 0 && self.pace.ahead(slot & TAT_MASK, now) > 0).count()
    }

    /// The client's slot, else the one that is given up for it: the least ahead.
    fn slot<'a>(&self, slots: &'a [AtomicU64; WAYS], tag: u64, now: u64) -> (&'a AtomicU64, u64) {
        let mut given_up = (&slots[0], 0);
        let mut least = u64::MAX;
        for slot in slots {
            let seen = slot.load(Ordering::Relaxed);
            if seen >> TAT_BITS == tag {
                return (slot, seen);
            }
            let ahead = if seen == 0 { 0 } else { 1 + self.pace.ahead(seen & TAT_MASK, now) };
            if ahead < least {
                (given_up, least) = ((slot, seen), ahead);
            }
        }
        given_up
    }
}

/// The limiters of all services of the node. What clients have used outlives a revision that leaves the limit as it is.
#[derive(Debug, Default)]
pub(super) struct Limiters(Mutex<BTreeMap<ServiceName, Arc<Limiter>>>);

impl Limiters {
    /// Those of a revision; asked once for each plan, never for a request.
    pub(super) fn of(&self, services: &Services) -> BTreeMap<ServiceName, Arc<Limiter>> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let limited = |service: &Arc<crate::config::model::Service>| {
            let limit = service.rate_limit?;
            let same = known.get(&service.name).filter(|limiter| limiter.limit == limit).cloned();
            Some((service.name.clone(), same.unwrap_or_else(|| Arc::new(Limiter::new(limit)))))
        };
        let present: BTreeMap<_, _> = services.services.values().filter_map(limited).collect();
        known.clone_from(&present);
        present
    }

    /// How many clients each service with a limit by client knows now.
    pub(super) fn tracked(&self, passed: Duration) -> Vec<(ServiceName, usize)> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        known.iter().filter_map(|(name, limiter)| Some((name.clone(), limiter.tracked(passed)?))).collect()
    }
}

impl std::fmt::Debug for Clients {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Clients").field("pace", &self.pace).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
