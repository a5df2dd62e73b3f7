//! Where a request goes (pure but for the random source): which arm, which backend, or which region rescues it.
//!
//! New sessions prefer backends of this node's region. When none there takes new sessions, the other regions follow,
//! nearest first: those with nodes are reached through them, those without are dialled from here. The far end of a
//! tunnel never looks beyond what it reaches itself (I14).
use std::sync::Arc;

use gossip::id::{BackendId, PoolName, RegionName, SessionId, Tag};
use http::HeaderMap;
use rand::Rng;

use super::keys::Keys;
use super::pick::{Dice, in_region};
use super::plan::{Plan, Reach};
use crate::backend::{BackendView, PoolView};
use crate::balance::{rendezvous, split};
use crate::config::model::Service;

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// To this backend of the pool, by a connection from here.
    Direct(usize),
    /// To a node of the region, which uses this backend, or when none is given chooses one.
    Tunnel(RegionName, Option<usize>),
}

impl Place {
    /// The backend, unless a node of another region chooses it.
    pub(super) fn backend(&self) -> Option<usize> {
        match self {
            Self::Direct(at) | Self::Tunnel(_, Some(at)) => Some(*at),
            Self::Tunnel(_, None) => None,
        }
    }
}

/// What was tried for a request and is not tried again.
#[derive(Debug, Default, Clone)]
pub(super) struct Tried {
    /// Backends that did not answer.
    pub(super) backends: Vec<BackendId>,
    /// Regions that did not rescue.
    pub(super) regions: Vec<RegionName>,
    /// All tries but the rescue through another region are used up.
    pub(super) only_rescue: bool,
}

/// Whether the request may still cross to another region (I14).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hops {
    /// It may cross once.
    One,
    /// It came through a tunnel.
    None,
}

/// The pool that a rule of the service forces on a request.
pub(super) fn forced<'a>(service: &'a Service, headers: &HeaderMap) -> Option<&'a PoolName> {
    let rule = service
        .force
        .iter()
        .find(|rule| headers.get_all(&rule.header).iter().any(|value| *value == rule.value))?;
    Some(&rule.pool)
}

/// The pools of the split in the order in which a new session tries them: by share at random, then the rest. The second
/// matters only when the first has no backend anywhere.
pub(super) fn arms(plan: &Plan, service: &Service, rng: &mut impl Rng) -> Vec<Arc<PoolView>> {
    let first = split::pick(service.split.iter().map(|(_, share)| *share), rng);
    let mut names: Vec<&PoolName> = service.split.iter().map(|(name, _)| name).collect();
    if let Some(first) = first {
        names.swap(0, first);
    }
    names.into_iter().filter_map(|name| plan.pool(name).cloned()).collect()
}

/// The arm for a session whose version is gone, among those that can take it: the same on every node that knows the same.
pub(super) fn arm_for<'a>(
    plan: &'a Plan,
    service: &Service,
    session: &SessionId,
) -> Option<&'a Arc<PoolView>> {
    let shares = service
        .split
        .iter()
        .enumerate()
        .filter(|(_, (name, _))| {
            plan.pool(name).is_some_and(|pool| pool.backends.iter().any(BackendView::takes_new))
        })
        .map(|(at, (name, share))| (at, BackendId(u64::from(Tag::of(name.as_str()).0)), *share));
    let at = rendezvous::pick(session, shares)?;
    plan.pool(&service.split[at].0)
}

/// A place for a new session, or for a request without one.
pub(super) fn place(
    plan: &Plan,
    pool: &PoolView,
    tried: &Tried,
    hops: Hops,
    keys: &Keys<'_>,
    dice: &mut Dice<'_, impl Rng>,
) -> Option<Place> {
    let own = &plan.snapshot.region;
    if let Some(at) = in_region(pool, own, plan.snapshot.zone.as_ref(), tried, keys, dice) {
        return Some(Place::Direct(at));
    }
    let mut unsure = None;
    for region in other_regions(plan, pool) {
        match plan.reach(region) {
            Reach::Direct => {
                if let Some(at) = in_region(pool, region, None, tried, keys, dice) {
                    return Some(Place::Direct(at));
                }
            }
            Reach::Tunnel if hops == Hops::None || tried.regions.contains(region) => {}
            Reach::Tunnel => match can_rescue(plan, pool, region) {
                Some(true) => {
                    // The far end does not see what is hashed, so the choice is made here, once.
                    let again = || {
                        let mut there = pool.backends.iter().filter(|b| b.config.region == *region);
                        there.any(|backend| tried.backends.contains(&backend.config.id))
                    };
                    let chosen = match keys.of(pool) {
                        Some(_) if !again() => in_region(pool, region, None, tried, keys, dice),
                        _ => None,
                    };
                    return Some(Place::Tunnel(region.clone(), chosen));
                }
                Some(false) => {}
                None => unsure = unsure.or(Some(region)),
            },
        }
    }
    unsure.map(|region| Place::Tunnel(region.clone(), None))
}

/// The place of one backend.
pub(super) fn place_of(plan: &Plan, pool: &PoolView, at: usize) -> Place {
    let region = &pool.backends[at].config.region;
    match plan.reach(region) {
        Reach::Direct => Place::Direct(at),
        Reach::Tunnel => Place::Tunnel(region.clone(), Some(at)),
    }
}

/// The backend that a session moves to when `gone` is: by rendezvous over the backends of the region it was in, else over
/// all. It depends on no node's point of view, so that two nodes that meet the session propose the same.
pub(super) fn successor(
    pool: &PoolView,
    session: &SessionId,
    home: &RegionName,
    gone: Option<BackendId>,
    tried: &Tried,
) -> Option<usize> {
    let was_in = pool.backends.iter().find(|backend| Some(backend.config.id) == gone);
    let region = was_in.map_or(home, |backend| &backend.config.region);
    let able = || {
        let usable =
            |backend: &BackendView| backend.takes_new() && !tried.backends.contains(&backend.config.id);
        pool.backends.iter().enumerate().filter(move |(_, backend)| usable(backend))
    };
    let near = able().filter(|(_, backend)| backend.config.region == *region);
    let named = |(at, backend): (usize, &BackendView)| (at, backend.config.id, backend.weight);
    rendezvous::pick(session, near.map(named)).or_else(|| rendezvous::pick(session, able().map(named)))
}

/// The other regions that have backends of the pool: those that rescue tries, in its order, then those it does not name.
fn other_regions<'a>(plan: &'a Plan, pool: &'a PoolView) -> Vec<&'a RegionName> {
    let own = &plan.snapshot.region;
    let order = &plan.snapshot.rescue_order;
    let has = |region: &RegionName| pool.backends.iter().any(|backend| backend.config.region == *region);
    let mut regions: Vec<&RegionName> = order.iter().filter(|region| *region != own && has(region)).collect();
    for backend in &pool.backends {
        let region = &backend.config.region;
        if region != own && !regions.contains(&region) {
            regions.push(region);
        }
    }
    regions
}

/// Whether a region with nodes can take over: as it says itself, else as this node believes.
fn can_rescue(plan: &Plan, pool: &PoolView, region: &RegionName) -> Option<bool> {
    let view = plan.snapshot.regions.get(region)?;
    match view.pools.get(&pool.config.name) {
        Some(summary) => Some(summary.healthy > 0),
        None => {
            let mut there = pool.backends.iter().filter(|backend| backend.config.region == *region);
            if there.any(BackendView::takes_new) { None } else { Some(false) }
        }
    }
}

#[cfg(test)]
mod tests;
