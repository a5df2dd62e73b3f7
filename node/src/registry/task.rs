//! The driver of the registry.

use std::collections::BTreeMap;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use gossip::clock::{Clock, ticks};
use gossip::fastlane::LoadReport;
use gossip::id::{BackendId, NodeName, PoolName, RegionName};
use gossip::state::{ClusterView, PoolSummary};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Sleep;

use super::loads::Loads;
use super::overlay::Overlay;
use super::snapshot::{Counters, Inputs, build, same};
use super::{Current, Orders, regions};
use crate::backend::Snapshot;
use crate::health::HealthTable;

/// Changes that come within this time make one snapshot.
const COLLECT: Duration = Duration::from_millis(5);
/// How often requests in flight are told to the other regions.
const SUMMARY_EVERY: Duration = Duration::from_secs(1);

/// Where the summary of this node's region goes: all pools at once, a pool that is not named has none.
pub type PublishSummaries = Box<dyn Fn(BTreeMap<PoolName, PoolSummary>) + Send + Sync>;

/// What the registry works on.
pub struct RegistryConfig {
    /// This node.
    pub me: NodeName,
    /// Where it stands.
    pub region: RegionName,
    /// The configuration in force.
    pub current: watch::Receiver<Current>,
    /// The mesh.
    pub view: watch::Receiver<Arc<ClusterView>>,
    /// Health, from [`crate::health::task::start`].
    pub health: watch::Receiver<Arc<HealthTable>>,
    /// Operators' orders.
    pub orders: watch::Receiver<Arc<Orders>>,
    /// What the other nodes have in flight, from the fast lane.
    pub loads: mpsc::Receiver<LoadReport>,
    /// The clock.
    pub clock: Clock,
    /// Where summaries go: when health changes at once, else at most once a second.
    pub publish: PublishSummaries,
}

impl fmt::Debug for RegistryConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryConfig")
            .field("me", &self.me)
            .field("region", &self.region)
            .finish_non_exhaustive()
    }
}

/// A handle to the registry. Clones are the same registry.
#[derive(Debug, Clone)]
pub struct Registry {
    current: Arc<ArcSwap<Snapshot>>,
    changes: watch::Receiver<Arc<Snapshot>>,
}

impl Registry {
    /// Builds the first snapshot at once and starts to follow the inputs on the current tokio runtime. The task ends
    /// when the sender of the configuration or of the view is gone; aborting it leaves the last snapshot in force.
    pub fn start(config: RegistryConfig) -> (Self, JoinHandle<()>) {
        let empty = Arc::new(Snapshot::empty(config.region.clone()));
        let current = Arc::new(ArcSwap::new(empty.clone()));
        let (sender, changes) = watch::channel(empty);
        let mut driver = Driver {
            config,
            counters: Counters::default(),
            loads: Loads::default(),
            overlay: Overlay::default(),
            current: current.clone(),
            changes: sender,
            told: BTreeMap::new(),
            followed: Current::default(),
        };
        driver.rebuild();
        (Self { current, changes }, tokio::spawn(driver.run()))
    }

    /// The snapshot for readers that must not wait: workers.
    pub fn snapshot(&self) -> Arc<ArcSwap<Snapshot>> {
        self.current.clone()
    }

    /// The snapshot for readers that wait for changes: DNS, admin.
    pub fn changes(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.changes.clone()
    }

    /// What this node has in flight now, for the fast lane: backends with nothing in flight are left out.
    pub fn loads(&self) -> Vec<(BackendId, u32)> {
        let snapshot = self.current.load();
        let backends = snapshot.pools.values().flat_map(|pool| &pool.backends);
        backends
            .map(|backend| (backend.config.id, backend.shared.in_flight()))
            .filter(|(_, in_flight)| *in_flight > 0)
            .collect()
    }
}

struct Driver {
    config: RegistryConfig,
    counters: Counters,
    loads: Loads,
    overlay: Overlay,
    current: Arc<ArcSwap<Snapshot>>,
    changes: watch::Sender<Arc<Snapshot>>,
    /// The summary last given to gossip.
    told: BTreeMap<PoolName, PoolSummary>,
    /// Whose backends the counters are.
    followed: Current,
}

impl Driver {
    async fn run(mut self) {
        let mut summary_due = ticks(SUMMARY_EVERY);
        let (mut follows_health, mut follows_orders, mut hears_loads) = (true, true, true);
        // Set while changes are being collected.
        let mut rebuild_due: Option<Pin<Box<Sleep>>> = None;
        loop {
            let mut changed = false;
            let config = &mut self.config;
            tokio::select! {
                alive = config.current.changed() => match alive {
                    Ok(()) => changed = true,
                    Err(_) => return,
                },
                alive = config.view.changed() => match alive {
                    Ok(()) => changed = true,
                    Err(_) => return,
                },
                alive = config.health.changed(), if follows_health => {
                    follows_health = alive.is_ok();
                    changed = follows_health;
                }
                alive = config.orders.changed(), if follows_orders => {
                    follows_orders = alive.is_ok();
                    changed = follows_orders;
                }
                report = config.loads.recv(), if hears_loads => match report {
                    Some(report) => self.take_load(report),
                    None => hears_loads = false,
                },
                _ = summary_due.tick() => self.tell(Urgency::Whatever),
                () = due(&mut rebuild_due) => {
                    rebuild_due = None;
                    self.rebuild();
                }
            }
            if changed && rebuild_due.is_none() {
                rebuild_due = Some(Box::pin(tokio::time::sleep(COLLECT)));
            }
        }
    }

    /// A report of a node that is not known is left out: the next follows in a tenth of a second.
    fn take_load(&mut self, report: LoadReport) {
        let known = self.config.view.borrow().members.contains_key(&report.from);
        if known && report.from != self.config.me {
            self.loads.report(report, &self.counters);
        }
    }

    fn rebuild(&mut self) {
        let current = self.config.current.borrow_and_update().clone();
        let view = self.config.view.borrow_and_update().clone();
        let health = self.config.health.borrow_and_update().clone();
        let orders = self.config.orders.borrow_and_update().clone();
        let before = self.current.load_full();
        let as_before = Arc::ptr_eq(&self.followed.services, &current.services)
            && Arc::ptr_eq(&self.followed.discovered, &current.discovered);
        if !as_before {
            self.counters.follow(current.pools());
            self.followed = current.clone();
        }
        let services = self.overlay.of(&current.services, &orders);
        let current = Current { services, ..current };
        self.loads.follow(&view, &self.counters);
        let inputs = Inputs {
            me: &self.config.me,
            region: &self.config.region,
            current: &current,
            view: &view,
            health: &health,
            orders: &orders,
        };
        let snapshot = build(inputs, &self.counters, &before, self.config.clock.hlc());
        if !same(&before, &snapshot) {
            let snapshot = Arc::new(snapshot);
            self.current.store(snapshot.clone());
            self.changes.send_replace(snapshot);
            self.tell(Urgency::Health);
        }
    }

    /// Publishes the summary of this node's region if it changed in what matters now.
    fn tell(&mut self, urgency: Urgency) {
        let summaries = regions::own_summaries(&self.current.load());
        let health = |summaries: &BTreeMap<PoolName, PoolSummary>| {
            let parts =
                summaries.iter().map(|(pool, of)| (pool.clone(), (of.healthy, of.total, of.capacity)));
            parts.collect::<BTreeMap<_, _>>()
        };
        let changed = match urgency {
            Urgency::Health => health(&summaries) != health(&self.told),
            Urgency::Whatever => summaries != self.told,
        };
        if changed {
            (self.config.publish)(summaries.clone());
            self.told = summaries;
        }
    }
}

enum Urgency {
    /// Healthy backends and their weight: at once.
    Health,
    /// Requests in flight too: once a second.
    Whatever,
}

async fn due(sleep: &mut Option<Pin<Box<Sleep>>>) {
    match sleep {
        Some(sleep) => sleep.await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
