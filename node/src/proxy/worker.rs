//! A worker: what one thread of the data plane holds. Nothing in it is shared but counters, so nothing is locked.
use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Cache};
use gossip::clock::Clock;
use gossip::id::{BackendId, ServiceName, Tag};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rustc_hash::FxHashMap;
use storage::cookie::Cookies;
use storage::ends::Ends;
use tokio::sync::mpsc;

use super::choose::{Hops, Place, Tried, place};
use super::crowd::{Crowd, WINDOW};
use super::keys::Keys;
use super::log::AccessLogger;
use super::outcome::Counters;
use super::pick::{Dice, Turns, millis};
use super::plan::{Plan, RouteCache};
use super::retry::{Budget, Budgets};
use super::source::SourceKeys;
use super::store::SessionStore;
use super::tally::Tallies;
use super::tunnel::TunnelDial;
use super::upstream::Upstreams;
use crate::backend::{BackendShared, BackendView, Evidence, PoolView, Snapshot};
use crate::config::model::{BalancePolicy, ScaleTarget, Service};
use crate::tls::Tls;

/// What all workers of the node share.
pub(super) struct Shared {
    pub(super) node: Tag,
    pub(super) snapshot: Arc<ArcSwap<Snapshot>>,
    pub(super) routes: RouteCache,
    pub(super) sessions: Arc<dyn SessionStore>,
    pub(super) cookies: Cookies,
    pub(super) ends: Ends,
    pub(super) source_keys: SourceKeys,
    pub(super) tunnels: Arc<dyn TunnelDial>,
    pub(super) evidence: mpsc::Sender<(BackendId, Evidence)>,
    pub(super) tls: Tls,
    pub(super) log: Option<AccessLogger>,
    pub(super) clock: Clock,
    /// When the proxy started: what milliseconds of latencies are counted from.
    pub(super) origin: Instant,
    pub(super) counters: Arc<Counters>,
    pub(super) tallies: Arc<Tallies>,
    pub(super) budgets: Arc<Budgets>,
    pub(super) workers: usize,
}

/// What one worker has at the moment, and whom it met, for others to read; on cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Gauges {
    in_flight: AtomicUsize,
    open: AtomicUsize,
    worker: usize,
    crowd: Crowd,
}

impl Gauges {
    /// Of the worker with this number.
    pub(super) fn new(worker: usize) -> Self {
        Self { worker, ..Self::default() }
    }

    /// Where the users come from.
    pub(super) fn crowd(&self) -> &Crowd {
        &self.crowd
    }

    /// Requests and relays.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Connections and inbound tunnels, busy or not.
    pub(super) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }
}

/// One request or relay in flight; dropping it counts it out.
pub(super) struct Busy(Arc<Gauges>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One open connection; dropping it counts it out.
pub(super) struct Open(Arc<Gauges>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How far the node is in leaving.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// It stays.
    Serving,
    /// It serves, but asks clients to go.
    Draining,
    /// It accepts nothing: another process does. Who is connected is answered, and asked to go.
    Retiring,
    /// It accepts nothing; what is idle is closed, what is in flight may end.
    Closing,
    /// It ends, whatever is in flight.
    Stopped,
}

/// How a request went, as far as latency is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Went {
    /// The backend did its work.
    Well,
    /// It failed.
    Wrong,
}

pub(super) struct Worker {
    pub(super) shared: Arc<Shared>,
    pub(super) upstreams: Upstreams,
    pub(super) phase: Cell<Phase>,
    gauges: Arc<Gauges>,
    cache: RefCell<Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>>,
    plan: RefCell<Rc<Plan>>,
    rng: RefCell<SmallRng>,
    turns: RefCell<Turns>,
    budgets: RefCell<FxHashMap<ServiceName, Budget>>,
}

impl Worker {
    pub(super) fn new(shared: Arc<Shared>, gauges: Arc<Gauges>) -> Self {
        let mut cache = Cache::new(shared.snapshot.clone());
        let snapshot = cache.load().clone();
        let tallies = shared.tallies.of(gauges.worker, &snapshot.services);
        let plan = Rc::new(Plan::new(snapshot, &shared.routes, tallies));
        Self {
            upstreams: Upstreams::new(),
            phase: Cell::new(Phase::Serving),
            gauges,
            cache: RefCell::new(cache),
            plan: RefCell::new(plan),
            rng: RefCell::new(SmallRng::from_rng(&mut rand::rng())),
            turns: RefCell::new(Turns::default()),
            budgets: RefCell::default(),
            shared,
        }
    }

    /// The present snapshot and what follows from it (I1): a pointer comparison unless it changed.
    pub(super) fn plan(&self) -> Rc<Plan> {
        let mut cache = self.cache.borrow_mut();
        let snapshot = cache.load();
        let mut plan = self.plan.borrow_mut();
        if !Arc::ptr_eq(snapshot, &plan.snapshot) {
            if !Arc::ptr_eq(&snapshot.services, &plan.snapshot.services) {
                // Credits of other weights would take long to wear off.
                self.turns.borrow_mut().clear();
            }
            // The tallies stay as long as the services do: most snapshots differ in health alone.
            let tallies = match Arc::ptr_eq(&snapshot.services, &plan.snapshot.services) {
                true => plan.tallies.clone(),
                false => self.shared.tallies.of(self.gauges.worker, &snapshot.services),
            };
            *plan = Rc::new(Plan::new(snapshot.clone(), &self.shared.routes, tallies));
            self.budgets
                .borrow_mut()
                .retain(|service, _| plan.snapshot.services.services.contains_key(service));
        }
        plan.clone()
    }

    /// Counts whom a request or connection was for, once it has ended.
    pub(super) fn met(&self, client: IpAddr, now: Instant, failed: bool, bytes: u64) {
        let window = now.saturating_duration_since(self.shared.origin).as_secs() / WINDOW.as_secs();
        self.gauges.crowd.note(client, window, failed, bytes);
    }

    /// Counts one request or relay in.
    pub(super) fn enter(&self) -> Busy {
        self.gauges.in_flight.fetch_add(1, Ordering::Relaxed);
        Busy(self.gauges.clone())
    }

    /// Counts one connection in.
    pub(super) fn open(&self) -> Open {
        self.gauges.open.fetch_add(1, Ordering::Relaxed);
        Open(self.gauges.clone())
    }

    pub(super) fn clock(&self) -> &Clock {
        &self.shared.clock
    }

    /// Runs `draw` with the worker's random source. Not for secrets.
    pub(super) fn random<T>(&self, draw: impl FnOnce(&mut SmallRng) -> T) -> T {
        draw(&mut self.rng.borrow_mut())
    }

    /// A place for a new session in this pool.
    pub(super) fn place(
        &self,
        plan: &Plan,
        pool: &PoolView,
        tried: &Tried,
        hops: Hops,
        keys: &Keys<'_>,
    ) -> Option<Place> {
        let mut dice = Dice {
            turns: &mut self.turns.borrow_mut(),
            rng: &mut *self.rng.borrow_mut(),
            clock: self.clock(),
            origin: self.shared.origin,
        };
        place(plan, pool, tried, hops, keys, &mut dice)
    }

    /// Takes a client's request out of its service's rate limit. `Err`: it comes too early, by this much.
    pub(super) fn limit(&self, plan: &Plan, service: &Service, client: IpAddr) -> Result<(), Duration> {
        match service.rate_limit.and_then(|_| plan.limiters.get(&service.name)) {
            None => Ok(()),
            Some(limiter) => {
                limiter.take(client, self.clock().now().saturating_duration_since(self.shared.origin))
            }
        }
    }

    /// Starts to measure a request's latency, if the pool's policy goes by it, or its size does.
    pub(super) fn measure(&self, pool: &PoolView) -> Option<Instant> {
        let scales =
            || pool.config.scale.as_ref().is_some_and(|scale| matches!(scale.target, ScaleTarget::P99(_)));
        (pool.config.balance == BalancePolicy::PeakEwma || scales()).then(|| self.clock().now())
    }

    /// Takes note of the latency of a request that was measured.
    pub(super) fn measured(&self, backend: &BackendView, began: Option<Instant>, went: Went) {
        let Some(began) = began else { return };
        let took: Duration = self.clock().now().saturating_duration_since(began);
        backend.shared.took(took);
        let now = millis(self.clock(), self.shared.origin);
        backend.shared.latency().update(|estimate| match went {
            Went::Well => estimate.observe(took, now),
            Went::Wrong => estimate.observe_failure(took, now),
        });
    }

    /// Pays a request's share into its service's retry budget.
    pub(super) fn pay_in(&self, service: &Service) {
        self.with_budget(service, |budget| budget.request(service.retry.budget));
    }

    /// Takes a retry out of the service's budget, if there is one.
    pub(super) fn take_retry(&self, service: &Service) -> bool {
        let now = self.clock().now();
        let may = self.with_budget(service, |budget| budget.take(now));
        if !may {
            self.shared.counters.retries_refused.fetch_add(1, Ordering::Relaxed);
        }
        may
    }

    fn with_budget<T>(&self, service: &Service, with: impl FnOnce(&mut Budget) -> T) -> T {
        let mut budgets = self.budgets.borrow_mut();
        if let Some(budget) = budgets.get_mut(&service.name) {
            return with(budget);
        }
        let fresh = Budget::new(self.clock().now(), self.shared.workers);
        self.shared.budgets.note(&service.name, &fresh);
        with(budgets.entry(service.name.clone()).or_insert(fresh))
    }

    /// Tells health what a request met; never waits.
    pub(super) fn report(&self, backend: BackendId, evidence: Evidence) {
        if self.shared.evidence.try_send((backend, evidence)).is_err() {
            self.shared.counters.evidence_dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Takes note of a failed request; from the pool's `consecutive` in a row each is evidence.
    pub(super) fn failed(&self, pool: &PoolView, backend: &BackendView) {
        if BackendShared::failed(&backend.shared) >= pool.config.ejection.consecutive {
            self.report(backend.config.id, Evidence::FailingRequests);
        }
    }
}
