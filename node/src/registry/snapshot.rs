//! From all inputs to one [`Snapshot`]. Pure.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use gossip::clock::Hlc;
use gossip::id::{BackendId, NodeName, PoolName, RegionName};
use gossip::state::{BackendState, ClusterView};

use super::{Current, Orders, regions};
use crate::backend::{BackendShared, BackendView, Evidence, PoolView, Snapshot};
use crate::balance::rack;
use crate::config::model::{Backend, Pool};
use crate::health::{BackendHealth, HealthTable};
use crate::queue::Queue;

/// What a snapshot is built from.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// This node.
    pub me: &'a NodeName,
    /// Where it stands.
    pub region: &'a RegionName,
    /// The configuration in force.
    pub current: &'a Current,
    /// The mesh.
    pub view: &'a ClusterView,
    /// Health.
    pub health: &'a HealthTable,
    /// Operators' orders.
    pub orders: &'a Orders,
}

/// The counters of all backends; they live as long as a pool names the backend, over all revisions.
#[derive(Debug, Default)]
pub struct Counters(HashMap<BackendId, Arc<BackendShared>>, HashMap<PoolName, Arc<Queue>>);

impl Counters {
    /// Keeps the counters of the backends that are configured, makes those that are missing, drops the rest.
    pub fn follow<'a>(&mut self, pools: impl Iterator<Item = (&'a PoolName, &'a Arc<Pool>)> + Clone) {
        let mut old = std::mem::take(&mut self.0);
        for backend in pools.clone().flat_map(|(_, pool)| &pool.backends) {
            self.0.insert(backend.id, old.remove(&backend.id).unwrap_or_default());
        }
        let mut old = std::mem::take(&mut self.1);
        for (pool, _) in pools {
            self.1.insert(pool.clone(), old.remove(pool).unwrap_or_default());
        }
    }

    /// One backend's counters.
    pub fn get(&self, backend: BackendId) -> Option<&Arc<BackendShared>> {
        self.0.get(&backend)
    }
}

/// Builds a snapshot. Pools that are as in `before` are shared with it. `now` dates the end of a break that only this
/// node's snapshots saw: of an operator's maintenance, for one.
pub fn build(inputs: Inputs<'_>, counters: &Counters, before: &Snapshot, now: Hlc) -> Snapshot {
    let services = &inputs.current.services;
    let pools: BTreeMap<PoolName, Arc<PoolView>> = inputs
        .current
        .pools()
        .map(|(name, config)| {
            let old = before.pools.get(name);
            let mut pool = pool(inputs, config, counters, old.map(Arc::as_ref), now);
            date_joins(&mut pool, old.map(Arc::as_ref), before.revision.is_none(), now);
            let same = old.filter(|old| same_pool(old, &pool));
            (name.clone(), same.cloned().unwrap_or_else(|| Arc::new(pool)))
        })
        .collect();
    Snapshot {
        revision: inputs.current.revision,
        services: services.clone(),
        regions: regions::views(inputs, &pools),
        rescue_order: regions::rescue_order(inputs),
        region: inputs.region.clone(),
        zone: inputs.view.members.get(inputs.me).and_then(|me| me.record.zone.clone()),
        pools,
    }
}

/// Whether nobody could tell the two snapshots apart.
pub fn same(a: &Snapshot, b: &Snapshot) -> bool {
    a.revision == b.revision
        && Arc::ptr_eq(&a.services, &b.services)
        && a.zone == b.zone
        && a.regions == b.regions
        && a.rescue_order == b.rescue_order
        && a.pools.len() == b.pools.len()
        && a.pools
            .iter()
            .zip(&b.pools)
            .all(|(a, b)| a.0 == b.0 && (Arc::ptr_eq(a.1, b.1) || same_pool(a.1, b.1)))
}

fn same_pool(a: &PoolView, b: &PoolView) -> bool {
    let same_backend = |(a, b): (&BackendView, &BackendView)| {
        Arc::ptr_eq(&a.config, &b.config)
            && Arc::ptr_eq(&a.shared, &b.shared)
            && (a.state, a.up_since, a.joined, a.weight) == (b.state, b.up_since, b.joined, b.weight)
            && a.reason == b.reason
    };
    Arc::ptr_eq(&a.config, &b.config)
        && Arc::ptr_eq(&a.queue, &b.queue)
        && a.backends.len() == b.backends.len()
        && a.backends.iter().zip(&b.backends).all(same_backend)
}

fn pool(
    inputs: Inputs<'_>,
    config: &Arc<Pool>,
    counters: &Counters,
    before: Option<&PoolView>,
    now: Hlc,
) -> PoolView {
    let places = config.backends.iter().map(|backend| (&backend.region, &backend.zone, &backend.rack));
    let racks = rack::number(places);
    let mut backends: Vec<(BackendView, Option<Settled>)> = config
        .backends
        .iter()
        .zip(racks)
        .map(|(backend, rack)| {
            let unknown = unheard(config);
            let health = inputs.health.get(&backend.id).unwrap_or(&unknown);
            let weight = inputs.orders.weights.get(&backend.id).copied().unwrap_or(backend.weight.into());
            let (settled, instead) = settle(health, inputs.orders, config, backend);
            let view = BackendView {
                config: backend.clone(),
                shared: counters.get(backend.id).cloned().unwrap_or_default(),
                state: settled.state,
                up_since: health.up_since,
                joined: Hlc::ZERO,
                rack,
                weight,
                reason: settled.reason,
            };
            (view, instead)
        })
        .collect();
    spare(&mut backends, inputs, config);
    stand_by(&mut backends);
    // Where nothing else could take a new session, in any region, this node's own bad experience keeps nobody out: one
    // more refused connection costs less than an error for certain.
    if !backends.iter().any(|(view, _)| view.takes_new()) {
        for (view, instead) in &mut backends {
            if let Some(instead) = instead.take() {
                view.state = instead.state;
                view.reason = format!("{}; used all the same, nothing else is left", view.reason);
            }
        }
    }
    let mut backends: Vec<BackendView> = backends.into_iter().map(|(view, _)| view).collect();
    backends.sort_unstable_by_key(|view| view.config.id);
    for view in &mut backends {
        let old = before.and_then(|before| {
            let at = before.backends.binary_search_by_key(&view.config.id, |old| old.config.id).ok()?;
            before.backends.get(at)
        });
        if let Some(old) = old {
            let returns = !old.serves() && view.serves() && view.up_since <= old.up_since;
            view.up_since = if returns { now } else { view.up_since.max(old.up_since) };
        }
    }
    let queue = counters.1.get(&config.name).cloned().unwrap_or_default();
    PoolView { config: config.clone(), backends, queue }
}

/// Limits what failing requests eject: they may be the application's fault or the request's, on every backend alike. Where
/// no other region can take over, at most `max_share` of the backends that serve stay ejected (one always), and none while
/// less than half of the pool takes new sessions (the panic threshold). Refused connections stand: they are certain.
fn spare(backends: &mut [(BackendView, Option<Settled>)], inputs: Inputs<'_>, config: &Pool) {
    let ejected: usize = backends.iter().filter(|(_, instead)| instead.is_some()).count();
    let elsewhere = |(view, _): &(BackendView, _)| view.config.region != *inputs.region && view.takes_new();
    if ejected == 0 || backends.iter().any(elsewhere) {
        return;
    }
    let by_requests = |view: &BackendView| {
        let why = inputs.health.get(&view.config.id).and_then(|health| health.ejected);
        why.is_some_and(Evidence::is_of_requests)
    };
    let takes_new = backends.iter().filter(|(view, _)| view.takes_new()).count();
    let serve = ejected + backends.iter().filter(|(view, _)| view.serves()).count();
    let wanted = backends.iter().filter(|(view, _)| view.weight > 0).count();
    let soft = backends.iter().filter(|(view, instead)| instead.is_some() && by_requests(view)).count();
    let (mut stay, why) = if 2 * takes_new < wanted && serve > 1 {
        (0, "too few others are left")
    } else {
        let most = ((serve as f64 * config.ejection.max_share) as usize).max(1);
        (most.saturating_sub(ejected - soft), "`max_share` is reached")
    };
    for (view, instead) in backends {
        if instead.is_none() || !by_requests(view) {
            continue;
        }
        if stay > 0 {
            stay -= 1;
        } else if let Some(instead) = instead.take() {
            view.state = instead.state;
            view.reason = format!("{}; used all the same, {why}", view.reason);
        }
    }
}

/// Backends of a greater priority take new sessions only while none of a smaller one does (RFC 2782).
fn stand_by(backends: &mut [(BackendView, Option<Settled>)]) {
    let taking = backends.iter().filter(|(view, _)| view.takes_new()).map(|(view, _)| view.config.priority);
    let Some(first) = taking.min() else { return };
    for (view, _) in backends.iter_mut().filter(|(view, _)| view.config.priority > first) {
        view.weight = 0;
        view.reason = with(&format!("stands by, priority {}", view.config.priority), &view.reason);
    }
}

/// Dates what begins to take requests: it comes back, or it is new though the pool or the node is not.
fn date_joins(pool: &mut PoolView, before: Option<&PoolView>, is_first_revision: bool, now: Hlc) {
    for view in &mut pool.backends {
        let old = before.and_then(|before| {
            let at = before.backends.binary_search_by_key(&view.config.id, |old| old.config.id).ok()?;
            before.backends.get(at)
        });
        view.joined = match old {
            Some(old) if !old.serves() && view.serves() => now,
            Some(old) => old.joined,
            // All of a new pool begin together, and who asks whether a lone one is warm?
            None if is_first_revision || before.is_none() => Hlc::ZERO,
            None => now,
        };
    }
}

/// A backend that health has not come to yet.
fn unheard(pool: &Pool) -> BackendHealth {
    let (state, reason) = match pool.health {
        Some(_) => (BackendState::Unknown, "not yet probed"),
        None => (BackendState::Up, ""),
    };
    let never = Hlc::ZERO;
    BackendHealth { state, up_since: never, down_since: never, ejected: None, reason: reason.to_owned() }
}

struct Settled {
    state: BackendState,
    reason: String,
}

/// Lays the orders over health. When the backend is out because of this node's ejection alone, the second is what it
/// would be without.
fn settle(
    health: &BackendHealth,
    orders: &Orders,
    pool: &Pool,
    backend: &Backend,
) -> (Settled, Option<Settled>) {
    use BackendState::{Draining, Ejected, GoingDown, Maintenance, Unknown, Up};
    if orders.maintenance_backends.contains(&backend.id)
        || orders.maintenance_pools.contains(&pool.name)
        || orders.maintenance_regions.contains(&backend.region)
    {
        return (Settled { state: Maintenance, reason: with("maintenance ordered", &health.reason) }, None);
    }
    if orders.emptied_backends.contains(&backend.id)
        || orders.emptied_pools.contains(&pool.name)
        || orders.emptied_regions.contains(&backend.region)
    {
        let reason = with("drained, its deadline has passed", &health.reason);
        return (Settled { state: Maintenance, reason }, None);
    }
    let drains = orders.drained_backends.contains(&backend.id)
        || orders.drained_pools.contains(&pool.name)
        || orders.drained_regions.contains(&backend.region);
    let serves = matches!(health.state, Up | GoingDown | Unknown);
    let state = if serves { Draining } else { health.state };
    let settled = match (drains, backend.leaving) {
        (true, _) => Settled { state, reason: with("drain ordered", &health.reason) },
        (false, true) => Settled { state, reason: with("its source takes it away", &health.reason) },
        (false, false) => Settled { state: health.state, reason: health.reason.clone() },
    };
    match health.ejected {
        Some(why) if serves => {
            let reason = with(words(why), &settled.reason);
            (Settled { state: Ejected, reason }, Some(settled))
        }
        _ => (settled, None),
    }
}

fn words(why: Evidence) -> &'static str {
    match why {
        Evidence::ConnectFailed => "this node could not connect",
        Evidence::FailingRequests => "requests of this node failed in a row",
        Evidence::FailingOften => "too many requests of this node failed",
    }
}

fn with(order: &str, reason: &str) -> String {
    if reason.is_empty() { order.to_owned() } else { format!("{order}; {reason}") }
}

#[cfg(test)]
mod tests;
