//! The driver of health: owns the checker, runs its probes, tells gossip and the registry what changed.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use gossip::clock::Clock;
use gossip::id::{BackendId, NodeName, PoolName, RegionName};
use gossip::state::{ClusterView, Failure, Verdict};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::checker::{Checker, Moment, ProbeOrder};
use super::{HealthTable, probe};
use crate::backend::Evidence;
use crate::registry::Current;
use crate::tls::Tls;

/// Probes under way at once. Beyond it they wait, the longest due first.
const PROBES_AT_ONCE: usize = 64;

/// After something was told, or the mesh was looked at, what comes within this time is told or looked at together: many
/// backends that come at once cost no more than one. What comes alone is told at once.
const TOGETHER: Duration = Duration::from_millis(20);

/// Where this node's own verdicts go: all pools at once, a pool that is not named has none.
pub type PublishVerdicts = Box<dyn Fn(BTreeMap<PoolName, Vec<Verdict>>) + Send + Sync>;
/// Where the words of failing probes go, all pools at once.
pub type PublishFailures = Box<dyn Fn(BTreeMap<PoolName, Vec<Failure>>) + Send + Sync>;

/// What health works on.
pub struct HealthConfig {
    /// This node.
    pub me: NodeName,
    /// Where it stands.
    pub region: RegionName,
    /// The configuration in force.
    pub current: watch::Receiver<Current>,
    /// The mesh.
    pub view: watch::Receiver<Arc<ClusterView>>,
    /// What the proxy's requests met. The sender drops evidence when the channel is full: more of the same follows.
    pub evidence: mpsc::Receiver<(BackendId, Evidence)>,
    /// Where verdicts go.
    pub publish: PublishVerdicts,
    /// Where it goes why this node's probes fail.
    pub publish_failures: PublishFailures,
    /// What the process before this one concluded, in an upgrade; else empty.
    pub recalled: HealthTable,
    /// How https pools are spoken to.
    pub tls: Tls,
    /// The clock.
    pub clock: Clock,
}

impl fmt::Debug for HealthConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HealthConfig")
            .field("me", &self.me)
            .field("region", &self.region)
            .finish_non_exhaustive()
    }
}

/// Starts health on the current tokio runtime. The table holds every configured backend once the task has run. The
/// task ends when the sender of the configuration or of the view is gone; aborting it is safe, it owns nothing that
/// outlives it.
pub fn start(config: HealthConfig) -> (watch::Receiver<Arc<HealthTable>>, JoinHandle<()>) {
    let (table, receiver) = watch::channel(Arc::new(config.recalled.clone()));
    let mut checker = Checker::new(config.me.clone(), config.region.clone(), rand::random());
    checker.recall(config.recalled);
    let driver = Driver {
        checker,
        table,
        publish: config.publish,
        publish_failures: config.publish_failures,
        tls: config.tls,
        clock: config.clock,
    };
    let task = tokio::spawn(driver.run(config.current, config.view, config.evidence));
    (receiver, task)
}

struct Driver {
    checker: Checker,
    table: watch::Sender<Arc<HealthTable>>,
    publish: PublishVerdicts,
    publish_failures: PublishFailures,
    tls: Tls,
    clock: Clock,
}

impl Driver {
    async fn run(
        mut self,
        mut current: watch::Receiver<Current>,
        mut view: watch::Receiver<Arc<ClusterView>>,
        mut evidence: mpsc::Receiver<(BackendId, Evidence)>,
    ) {
        let mut probes = FuturesUnordered::new();
        current.mark_changed();
        view.mark_changed();
        let mut hears_evidence = true;
        let (mut telling, mut looking) = (Pace::default(), Pace::default());
        loop {
            let room = PROBES_AT_ONCE - probes.len();
            for order in self.checker.due(room, self.moment()) {
                probes.push(probe(order, self.tls.clone()));
            }
            let now = self.clock.now();
            if self.checker.has_changes() && telling.is_free(now) {
                telling.taken(now);
                self.tell();
            }
            let looks = looking.is_free(now);
            // Without room only a probe's end makes some; a probe ends by its time-out.
            let probing = self.checker.next_deadline().filter(|_| probes.len() < PROBES_AT_ONCE);
            let tells = self.checker.has_changes().then(|| telling.next()).flatten();
            let deadline = [probing, tells, looking.next().filter(|_| !looks)].into_iter().flatten().min();
            let wake = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = current.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let current = current.borrow_and_update().clone();
                    self.checker.configure(&current.services.regions, current.pools(), self.moment());
                }
                changed = view.changed(), if looks => {
                    if changed.is_err() {
                        return;
                    }
                    looking.taken(self.clock.now());
                    let view = view.borrow_and_update().clone();
                    self.checker.observe(view, self.moment());
                }
                heard = evidence.recv(), if hears_evidence => match heard {
                    Some((backend, evidence)) => self.checker.evidence(backend, evidence, self.moment()),
                    None => hears_evidence = false,
                },
                Some((order, result)) = probes.next() => {
                    self.checker.probed(order.backend, order.ticket, result, self.moment());
                }
                () = wake => {}
            }
        }
    }

    /// Tells gossip and the registry what changed, at once.
    fn tell(&mut self) {
        let changes = self.checker.take_changes();
        if let Some(verdicts) = changes.verdicts {
            (self.publish)(verdicts);
        }
        if let Some(failures) = changes.failures {
            (self.publish_failures)(failures);
        }
        if let Some(table) = changes.table {
            self.table.send_replace(Arc::new(table));
        }
    }

    fn moment(&self) -> Moment {
        Moment { now: self.clock.now(), hlc: self.clock.hlc() }
    }
}

/// Leaves some time between one and the next.
#[derive(Debug, Default)]
struct Pace(Option<Instant>);

impl Pace {
    fn is_free(&self, now: Instant) -> bool {
        self.next().is_none_or(|next| next <= now)
    }

    fn next(&self) -> Option<Instant> {
        self.0.map(|last| last + TOGETHER)
    }

    fn taken(&mut self, now: Instant) {
        self.0 = Some(now);
    }
}

async fn probe(order: ProbeOrder, tls: Tls) -> (ProbeOrder, Result<(), String>) {
    let result = probe::run(&order, &tls).await.map_err(|error| error.to_string());
    (order, result)
}

#[cfg(test)]
mod tests;
