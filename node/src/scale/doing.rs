//! One act, from the drain of what is to be stopped to its end. Aborting it is safe: what it marked as leaving is marked only
//! while the node lives.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};

use super::act::{Decision, act};
use super::core::End;
use crate::backend::{BackendView, Snapshot};
use crate::config::model::{Pool, Scale};
use crate::discovery::{Discovery, Here};

/// How often a backend that drains is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A node that has not looked for so long stood still.
const STOOD_STILL: Duration = Duration::from_secs(2);
/// A backend that is to be stopped drains for so long at least: the whole mesh has heard by then.
const DRAIN_AT_LEAST: Duration = Duration::from_secs(2);

/// Marks what a decision is to stop as leaving, or takes that back.
pub(super) async fn retire(discovery: &Discovery, decision: &Decision, on: bool) {
    for target in &decision.backends {
        let Ok(address) = target.address.parse() else { continue };
        if let Err(error) = discovery.retire(decision.pool.clone(), address, on).await {
            tracing::warn!(%error, backend = target.address, "a backend that scaling stops is not drained");
        }
    }
}

/// One act.
pub(super) struct Doing {
    pub(super) pool: Arc<Pool>,
    pub(super) scale: Scale,
    pub(super) decision: Arc<Decision>,
    /// The programs that this node may run.
    pub(super) programs: Vec<PathBuf>,
    pub(super) discovery: Discovery,
    pub(super) snapshot: watch::Receiver<Arc<Snapshot>>,
    pub(super) here: Here,
    /// Says that what drains is needed again.
    pub(super) recall: oneshot::Receiver<()>,
}

impl Doing {
    /// Drains what is to be stopped, does it, and says what came of it.
    pub(super) async fn run(mut self) -> End {
        if self.decision.action != "remove" {
            return self.act().await;
        }
        retire(&self.discovery, &self.decision, true).await;
        let end = if self.drain().await { self.act().await } else { End::Recalled };
        if end == End::Done {
            self.gone().await;
        }
        retire(&self.discovery, &self.decision, false).await;
        end
    }

    async fn act(&self) -> End {
        match act(&self.pool, &self.scale.via, &self.programs, &self.here, &self.decision).await {
            Ok(()) => End::Done,
            Err(failure) => End::Failed(failure),
        }
    }

    /// Waits until nothing is in flight on any of them, as long as the pool drains. What nodes of other regions have in
    /// flight there is not known here, so for backends of other regions that is the whole time. `false`: they are needed again.
    async fn drain(&mut self) -> bool {
        let began = self.here.clock.now();
        let elsewhere = self.decision.backends.iter().any(|target| target.spot.region != self.here.region);
        let mut last = began;
        loop {
            if tokio::time::timeout(LOOK_EVERY, &mut self.recall).await.is_ok() {
                return false;
            }
            let now = self.here.clock.now();
            if now.saturating_duration_since(last) >= STOOD_STILL {
                // Others may have taken this node for dead, and sent users to what it was to stop.
                return false;
            }
            last = now;
            let waited = now.saturating_duration_since(began);
            let idle = !elsewhere
                && self.backends().iter().all(|b| b.shared.in_flight() + b.shared.elsewhere() == 0);
            if waited >= self.pool.drain.max(DRAIN_AT_LEAST) || (waited >= DRAIN_AT_LEAST && idle) {
                return true;
            }
        }
    }

    /// Waits until the pool no longer has them, at most a while: then a new one at the same address is a new one.
    async fn gone(&self) {
        let began = self.here.clock.now();
        while !self.backends().is_empty()
            && self.here.clock.now().saturating_duration_since(began)
                < self.pool.drain + Duration::from_secs(30)
        {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Those of the decision that the pool still has.
    fn backends(&self) -> Vec<BackendView> {
        let snapshot = self.snapshot.borrow();
        let all = snapshot.pools.get(&self.pool.name).into_iter().flat_map(|pool| &pool.backends);
        let named = |backend: &&BackendView| {
            let address = backend.config.address.to_string();
            self.decision.backends.iter().any(|target| target.address == address)
        };
        all.filter(named).cloned().collect()
    }
}
