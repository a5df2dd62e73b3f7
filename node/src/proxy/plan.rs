//! A snapshot with what the data plane derives from it. One a worker, made anew when the snapshot changes.
use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use gossip::id::{BackendId, PoolName, RegionName, ServiceName, Tag};

use super::limit::{Limiter, Limiters};
use super::route::RouteTable;
use super::tally::Own;
use crate::backend::{PoolView, Snapshot};
use crate::config::model::{BalancePolicy, Service, Services};

/// The routes of the revision in force, compiled by the first worker that meets it, and its limiters.
#[derive(Debug, Default)]
pub(super) struct RouteCache(ArcSwapOption<(Arc<Services>, Arc<RouteTable>)>, Arc<Limiters>);

impl RouteCache {
    /// The limiters of all services.
    pub(super) fn limiters(&self) -> Arc<Limiters> {
        self.1.clone()
    }

    fn of(&self, services: &Arc<Services>) -> Arc<RouteTable> {
        if let Some(known) = &*self.0.load()
            && Arc::ptr_eq(&known.0, services)
        {
            return known.1.clone();
        }
        let routes = Arc::new(RouteTable::compile(services));
        self.0.store(Some(Arc::new((services.clone(), routes.clone()))));
        routes
    }
}

/// What a request decides by.
#[derive(Debug)]
pub(super) struct Plan {
    /// The snapshot it is made from.
    pub(super) snapshot: Arc<Snapshot>,
    /// The routes of its revision.
    pub(super) routes: Arc<RouteTable>,
    /// The rate limits of its services.
    pub(super) limiters: BTreeMap<ServiceName, Arc<Limiter>>,
    /// Whether any pool balances by hash.
    pub(super) hashes: bool,
    /// Where the worker counts what it does for each service.
    pub(super) tallies: Own,
    pools: Vec<(Tag, Arc<PoolView>)>,
    regions: Vec<(Tag, RegionName)>,
}

/// How a backend of some region is reached from this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// By a connection from this node.
    Direct,
    /// Through a node of its region.
    Tunnel,
}

impl Plan {
    /// Derives what the data plane needs.
    pub(super) fn new(snapshot: Arc<Snapshot>, routes: &RouteCache, tallies: Own) -> Self {
        let limiters = routes.1.of(&snapshot.services);
        let routes = routes.of(&snapshot.services);
        let pools =
            snapshot.pools.iter().map(|(name, pool)| (Tag::of(name.as_str()), pool.clone())).collect();
        let mut regions: Vec<(Tag, RegionName)> = Vec::new();
        let declared = snapshot.services.regions.iter().map(|region| &region.name);
        for name in snapshot.regions.keys().chain(declared).chain([&snapshot.region]) {
            if !regions.iter().any(|(_, known)| known == name) {
                regions.push((Tag::of(name.as_str()), name.clone()));
            }
        }
        let hash = |pool: &Arc<PoolView>| matches!(pool.config.balance, BalancePolicy::Hash(_));
        let hashes = snapshot.pools.values().any(hash);
        Self { snapshot, routes, limiters, hashes, tallies, pools, regions }
    }

    /// A pool by name.
    pub(super) fn pool(&self, name: &PoolName) -> Option<&Arc<PoolView>> {
        self.snapshot.pools.get(name)
    }

    /// A pool by tag, if the service may still send sessions to it: by its split or by a rule.
    pub(super) fn pool_of(&self, service: &Service, tag: Tag) -> Option<&Arc<PoolView>> {
        let (_, pool) = self.pools.iter().find(|(known, _)| *known == tag)?;
        let name = &pool.config.name;
        let named = service.split.iter().any(|(split, _)| split == name)
            || service.force.iter().any(|rule| rule.pool == *name);
        named.then_some(pool)
    }

    /// A region by tag.
    pub(super) fn region(&self, tag: Tag) -> Option<&RegionName> {
        self.regions.iter().find(|(known, _)| *known == tag).map(|(_, name)| name)
    }

    /// How backends of a region are reached: a region without nodes to ask is dialled directly.
    pub(super) fn reach(&self, region: &RegionName) -> Reach {
        let has_nodes = || self.snapshot.regions.get(region).is_some_and(|view| !view.nodes.is_empty());
        if *region != self.snapshot.region && has_nodes() { Reach::Tunnel } else { Reach::Direct }
    }
}

/// Where a pool's backend of this id stands in its list.
pub(super) fn position(pool: &PoolView, backend: BackendId) -> Option<usize> {
    pool.backends.iter().position(|known| known.config.id == backend)
}
