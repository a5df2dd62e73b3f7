//! Which backend of a region serves a request that may go to any: who can, in which zone and rack, by which policy.
use std::collections::HashMap;
use std::time::Instant;

use gossip::clock::{Clock, Wall};
use gossip::id::{BackendId, PoolName, RegionName, ZoneName};
use rand::Rng;

use super::choose::Tried;
use super::keys::Keys;
use crate::backend::{BackendView, PoolView};
use crate::balance::round_robin::RoundRobin;
use crate::balance::zone::{self, Scope};
use crate::balance::{Load, hash, least_busy, least_connections, peak_ewma, random, slow_start};
use crate::config::model::BalancePolicy;

/// The turns of one worker's round robins.
pub(super) type Turns = HashMap<PoolName, RoundRobin<BackendId>>;

/// What policies draw from.
pub(super) struct Dice<'a, R> {
    pub(super) turns: &'a mut Turns,
    pub(super) rng: &'a mut R,
    pub(super) clock: &'a Clock,
    /// What the milliseconds of latencies are counted from.
    pub(super) origin: Instant,
}

/// A backend and its place in the pool.
type Candidate<'a> = (usize, &'a BackendView);

/// A backend of the region that was not tried yet. A further try prefers racks in which none has failed.
pub(super) fn in_region(
    pool: &PoolView,
    region: &RegionName,
    own_zone: Option<&ZoneName>,
    tried: &Tried,
    keys: &Keys<'_>,
    dice: &mut Dice<'_, impl Rng>,
) -> Option<usize> {
    if tried.only_rescue {
        return None;
    }
    let able = pool.backends.iter().enumerate().filter(|(_, backend)| {
        backend.takes_new()
            && backend.config.region == *region
            && !tried.backends.contains(&backend.config.id)
    });
    if let Some(limit) = pool.config.max_connections {
        let with_room = able.clone().filter(|(_, backend)| backend.shared.in_flight() < limit);
        if let Some(at) = in_rack(pool, with_room, own_zone, tried, keys, dice) {
            return Some(at);
        }
        // All are full: one of them, to wait for.
    }
    in_rack(pool, able, own_zone, tried, keys, dice)
}

fn in_rack<'a>(
    pool: &PoolView,
    able: impl Iterator<Item = Candidate<'a>> + Clone,
    own_zone: Option<&ZoneName>,
    tried: &Tried,
    keys: &Keys<'_>,
    dice: &mut Dice<'_, impl Rng>,
) -> Option<usize> {
    if !tried.backends.is_empty() {
        let in_other_racks = able.clone().filter(|(_, backend)| !shares_rack(pool, backend, tried));
        if let Some(at) = in_zone(pool, in_other_racks, own_zone, keys, dice) {
            return Some(at);
        }
    }
    in_zone(pool, able, own_zone, keys, dice)
}

/// Whether a backend that was tried stands in the same rack.
fn shares_rack(pool: &PoolView, backend: &BackendView, tried: &Tried) -> bool {
    let rack = |backend: &BackendView| {
        let config = &backend.config;
        config.rack.clone().map(|rack| (config.region.clone(), config.zone.clone(), rack))
    };
    let Some(own) = rack(backend) else { return false };
    let mut failed = pool.backends.iter().filter(|other| tried.backends.contains(&other.config.id));
    failed.any(|other| rack(other).as_ref() == Some(&own))
}

fn in_zone<'a>(
    pool: &PoolView,
    able: impl Iterator<Item = Candidate<'a>> + Clone,
    own_zone: Option<&ZoneName>,
    keys: &Keys<'_>,
    dice: &mut Dice<'_, impl Rng>,
) -> Option<usize> {
    let is_own = |backend: &BackendView| own_zone.is_some() && backend.config.zone.as_ref() == own_zone;
    // A hash must lead to the same backend from every zone.
    let scope = match (&pool.config.balance, own_zone) {
        (BalancePolicy::Hash(_), _) | (_, None) => Scope::All,
        _ => zone::scope(able.clone().map(|(_, backend)| (is_own(backend), load(backend, backend.weight)))),
    };
    by_policy(pool, able.filter(|(_, backend)| scope.holds(is_own(backend))), keys, dice)
}

fn by_policy<'a>(
    pool: &PoolView,
    able: impl Iterator<Item = Candidate<'a>> + Clone,
    keys: &Keys<'_>,
    dice: &mut Dice<'_, impl Rng>,
) -> Option<usize> {
    let ramp = pool.config.slow_start.map(|ramp| (ramp, dice.clock.mesh_wall()));
    let weight = |backend: &BackendView| match ramp {
        None => backend.weight,
        Some((ramp, now)) => {
            let since: Wall = backend.joined.wall();
            backend.weight.saturating_mul(slow_start::share(since, now, ramp))
        }
    };
    let loaded = able.clone().map(|(at, backend)| (at, load(backend, weight(backend))));
    let named = able.clone().map(|(at, backend)| (at, backend.config.id, weight(backend)));
    match &pool.config.balance {
        BalancePolicy::LeastBusy => least_busy::pick(loaded, dice.rng),
        BalancePolicy::WeightedLeastConnections => least_connections::pick(loaded, dice.rng),
        BalancePolicy::WeightedRoundRobin => {
            if let Some(turn) = dice.turns.get_mut(&pool.config.name) {
                return turn.pick(named);
            }
            let mut turn = RoundRobin::new();
            let at = turn.pick(named);
            dice.turns.insert(pool.config.name.clone(), turn);
            at
        }
        BalancePolicy::Random => random::pick(able.map(|(at, backend)| (at, weight(backend))), dice.rng),
        BalancePolicy::PeakEwma => {
            let now = millis(dice.clock, dice.origin);
            let candidate = |(at, backend): Candidate<'_>| {
                let micros = backend.shared.latency().load().micros(now);
                let in_flight = backend.shared.in_flight();
                (at, peak_ewma::Candidate { micros, in_flight, weight: weight(backend) })
            };
            peak_ewma::pick(able.map(candidate), dice.rng)
        }
        BalancePolicy::Hash(_) => match keys.of(pool) {
            Some(key) => hash::pick(
                key,
                able.map(|(at, backend)| (at, backend.config.id, load(backend, weight(backend)))),
            ),
            None => least_busy::pick(loaded, dice.rng),
        },
    }
}

fn load(backend: &BackendView, weight: u32) -> Load {
    let (here, elsewhere) = (backend.shared.in_flight(), backend.shared.elsewhere());
    Load { here, elsewhere, weight, rack: backend.rack }
}

/// Time as latencies count it: milliseconds since `origin`, wrapping.
pub(super) fn millis(clock: &Clock, origin: Instant) -> u32 {
    clock.now().saturating_duration_since(origin).as_millis() as u32
}

#[cfg(test)]
mod tests;
