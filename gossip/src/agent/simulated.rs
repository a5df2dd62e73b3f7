//! One node of a simulated mesh: the real driver, chitchat, wishes and beliefs; the network, the clock and the process are not.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Sleep;

use super::REPORTS;
use super::driver::{Driver, Parts};
use super::join::Seeds;
use super::wishes::Wishes;
use crate::clock::Clock;
use crate::fastlane::LoadReport;
use crate::id::{BackendId, NodeName, PoolName, RegionName, RevisionId};
use crate::keyring::Keyring;
use crate::membership::Life;
use crate::mesh::Mesh;
use crate::mesh::simulated::{Network, Port};
use crate::mesh::tls::Identity;
use crate::peers::{Peers, PeersFile};
use crate::state::{ClusterView, Failure, MeshEvent, NodeRecord, PoolSummary, StateError, Verdict};

/// Events that may wait for a reader: a view that learns of all probers at once tells of each of their verdicts.
const EVENTS: usize = 8192;

/// What makes a simulated node.
#[derive(Debug, Clone)]
pub struct NodePlan {
    /// Its name.
    pub name: NodeName,
    /// Where it stands.
    pub region: RegionName,
    /// Where it listens.
    pub addr: SocketAddr,
    /// Whom it joins through.
    pub seeds: Vec<SocketAddr>,
    /// The mesh key.
    pub keyring: Keyring,
}

/// A node that runs in the current tokio runtime. Dropped, it goes on; [`Node::kill`] ends it.
#[derive(Debug)]
pub struct Node {
    port: Arc<Port>,
    view: watch::Receiver<Arc<ClusterView>>,
    events: broadcast::Sender<MeshEvent>,
    wishes: Arc<Wishes>,
    leave: mpsc::Sender<oneshot::Sender<()>>,
    reports: mpsc::Receiver<LoadReport>,
    driver: JoinHandle<()>,
}

impl Node {
    /// Starts a process on the network.
    ///
    /// # Errors
    /// When chitchat or the node's certificate cannot be made, in words.
    pub async fn start(plan: NodePlan, network: &Network, clock: &Clock) -> Result<Self, String> {
        let identity = Identity::new(plan.name.clone(), plan.keyring.clone(), clock.clone())
            .map_err(|error| error.to_string())?;
        let port = Port::open(plan.name.clone(), plan.addr, network);
        let life = Life { name: plan.name.clone(), generation: clock.wall().0, advertise: plan.addr };
        let wishes = Arc::new(Wishes::new(NodeRecord {
            name: plan.name,
            region: plan.region,
            zone: None,
            mesh: plan.addr,
            public: vec![plan.addr.ip()],
            version: "0.0.0".into(),
            started: clock.wall(),
            draining: false,
            revision: None,
            keys: plan.keyring.key_ids(),
            key_since: clock.wall(),
        }));
        let (events, _) = broadcast::channel(EVENTS);
        let (report, reports) = mpsc::channel(REPORTS);
        let (leave, leaving) = mpsc::channel(1);
        let parts = Parts {
            life,
            mesh: Mesh::simulated(port.clone()),
            tunnels: None,
            identity,
            clock: clock.clone(),
            wishes: wishes.clone(),
            events: events.clone(),
            reports: report,
            leaving,
            peers: Peers::default(),
            peers_file: PeersFile::nowhere(),
            seeds: Seeds::new(plan.seeds.iter().map(SocketAddr::to_string).collect()),
        };
        let (driver, view) = Driver::start(parts).await?;
        let process = Process { port: port.clone(), task: Box::pin(driver.run()), sleep: None };
        let driver = tokio::spawn(process);
        Ok(Self { port, view, events, wishes, leave, reports, driver })
    }

    /// What it believes of the mesh now.
    pub fn view(&self) -> Arc<ClusterView> {
        self.view.borrow().clone()
    }

    /// How often it gossips now.
    pub fn gossip_interval(&self) -> Duration {
        crate::membership::interval(self.view.borrow().members.len())
    }

    /// What happens in the mesh from now on, as it sees it.
    pub fn events(&self) -> broadcast::Receiver<MeshEvent> {
        self.events.subscribe()
    }

    /// As [`crate::Gossip::set_revision`].
    pub fn set_revision(&self, revision: Option<RevisionId>) {
        self.wishes.record(|record| record.revision = revision);
    }

    /// As [`crate::Gossip::publish_verdicts`].
    ///
    /// # Errors
    /// When a pool's vector is too large to gossip.
    pub fn publish_verdicts(&self, verdicts: BTreeMap<PoolName, Vec<Verdict>>) -> Result<(), StateError> {
        self.wishes.verdicts(verdicts)
    }

    /// As [`crate::Gossip::publish_failures`].
    pub fn publish_failures(&self, failures: BTreeMap<PoolName, Vec<Failure>>) {
        self.wishes.failures(failures);
    }

    /// As [`crate::Gossip::publish_summaries`].
    pub fn publish_summaries(&self, summaries: BTreeMap<PoolName, PoolSummary>) {
        self.wishes.summaries(summaries);
    }

    /// Replaces the load that the fast lane tells.
    pub fn publish_load(&self, loads: Vec<(BackendId, u32)>) {
        self.wishes.tell_load_of(move || loads.clone());
    }

    /// The load reports of its region that came since the last call.
    pub fn load_reports(&mut self) -> Vec<LoadReport> {
        std::iter::from_fn(|| self.reports.try_recv().ok()).collect()
    }

    /// The process stands still for so long, as if it were sent SIGSTOP and then SIGCONT.
    pub fn stand_still(&self, time: Duration) {
        self.port.sleep(time);
    }

    /// Stops it as SIGKILL does: nobody is told.
    pub fn kill(&self) {
        self.driver.abort();
        self.port.vanish();
    }

    /// Says goodbye to all and stops.
    pub async fn leave(&self) {
        let (done, left) = oneshot::channel();
        if self.leave.send(done).await.is_ok() {
            let _ = left.await;
        }
    }
}

/// A task that stands still with its process.
struct Process<F> {
    port: Arc<Port>,
    task: Pin<Box<F>>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl<F: Future<Output = ()>> Future for Process<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        while let Some(until) = self.port.asleep_until() {
            let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until.into())));
            if sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.sleep = None;
        }
        self.task.as_mut().poll(cx)
    }
}
