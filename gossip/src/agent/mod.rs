//! One node's part in the mesh: everything of this crate started together, behind one handle.
//!
//! ```text
//!   Gossip (handle) ── wishes ──▶ driver (one task) ──▶ membership, liveness, fast lane, offsets
//!        ▲                          │
//!        └── view, events, load ◀───┘          join: calls seeds and lost peers, asks whether the name is free
//! ```

mod clocks;
pub(crate) mod control;
mod distances;
mod driver;
mod gauges;
mod join;
mod names;
mod roster;
mod sight;
#[cfg(feature = "simulated")]
pub(crate) mod simulated;
#[cfg(test)]
mod tests;
mod wishes;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{broadcast, mpsc, oneshot, watch};

use self::control::Control;
use crate::clock::{Clock, Wall};
use crate::fastlane::LoadReport;
use crate::id::{BackendId, NodeName, PoolName, RegionName, RevisionId, ZoneName};
use crate::keyring::Keyring;
use crate::membership::Life;
use crate::mesh::Mesh;
use crate::mesh::endpoint::bind_pair;
use crate::mesh::tls::{Identity, IdentityError};
use crate::mesh::tunnel::{TunnelAccept, Tunnels};
use crate::peers::{Peers, PeersFile};
use crate::state::{ClusterView, Failure, MeshEvent, NodeRecord, PoolSummary, StateError, Verdict};
use crate::thread::Thread;
pub use gauges::Gauges;
use wishes::Wishes;

/// Events that a slow reader may lag behind before it loses the oldest.
const EVENTS: usize = 1024;
/// How long what is queued, and then the goodbye, may take to be sent.
const LAST_WORDS: Duration = Duration::from_millis(300);
/// How long tunnel streams that are open may last once further ones are turned away: peers wait for the next process by then.
const LAST_STREAMS: Duration = Duration::from_secs(1);
/// Load reports that may wait; beyond it they are dropped, the next comes in 100 ms.
const REPORTS: usize = 256;

/// What a node needs to take part in a mesh.
#[derive(Debug, Clone)]
pub struct GossipConfig {
    /// The node's name, unique in the mesh.
    pub name: NodeName,
    /// The region it stands in.
    pub region: RegionName,
    /// The zone in it.
    pub zone: Option<ZoneName>,
    /// Where the mesh endpoint listens (UDP); the tunnel endpoint listens one port above. Port 0: any free pair.
    pub listen: SocketAddr,
    /// What peers are told to dial; `None`: the bound address. Port 0 stands for the bound port.
    pub advertise: Option<SocketAddr>,
    /// `HOST:PORT` of nodes to join through; tried again for ever.
    pub seeds: Vec<String>,
    /// What DNS tells users.
    pub public: Vec<IpAddr>,
    /// The program's version.
    pub version: String,
    /// The data folder; the peers known are kept in it.
    pub data: PathBuf,
    /// The mesh key.
    pub keyring: Keyring,
    /// The clock of the process.
    pub clock: Clock,
}

/// Why a node cannot take part. Nothing goes on after it; what was bound is free a moment later.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The mesh or tunnel port cannot be bound.
    #[error("cannot listen on {addr} (UDP): {source}")]
    Listen {
        /// The address asked for.
        addr: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// A living node has this name.
    #[error("the name {name} is taken by the living node at {by}; give this node another name (--name)")]
    NameTaken {
        /// The name.
        name: NodeName,
        /// Where its owner is.
        by: SocketAddr,
    },
    /// The advertised address cannot be dialled.
    #[error("peers cannot dial {0}; set [mesh] advertise to an address of this machine")]
    Advertise(SocketAddr),
    /// No certificate can be made from the mesh key.
    #[error("cannot make the node's certificate: {0}")]
    Identity(#[from] IdentityError),
    /// A thread, endpoint or chitchat cannot be started.
    #[error("cannot start {what}: {reason}")]
    Start {
        /// What.
        what: &'static str,
        /// Why not.
        reason: String,
    },
}

/// A running node of the mesh. Clones are the same node; when the last is dropped it stops without a goodbye.
#[derive(Debug, Clone)]
pub struct Gossip(Arc<Handle>);

#[derive(Debug)]
struct Handle {
    mesh: Mesh,
    tunnels: Tunnels,
    identity: Arc<Identity>,
    listen: SocketAddr,
    view: watch::Receiver<Arc<ClusterView>>,
    events: broadcast::Sender<MeshEvent>,
    wishes: Arc<Wishes>,
    leave: mpsc::Sender<oneshot::Sender<()>>,
    accepts: Mutex<Option<mpsc::Receiver<TunnelAccept>>>,
    reports: Mutex<Option<mpsc::Receiver<LoadReport>>>,
    driver: tokio::task::JoinHandle<()>,
    thread: Thread,
}

impl Gossip {
    /// Binds, asks the seeds whether the name is free (for at most about a second), and joins. Joining goes on in the
    /// background, for ever if no seed answers. Must be called inside a tokio runtime; the mesh runs on a thread of its own.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(config: GossipConfig) -> Result<Self, StartError> {
        let failed = |what: &'static str| move |reason: String| StartError::Start { what, reason };
        let identity = Identity::new(config.name.clone(), config.keyring.clone(), config.clock.clone())?;
        let [mesh_socket, tunnel_socket] =
            bind_pair(config.listen).map_err(|(addr, source)| StartError::Listen { addr, source })?;
        let listen =
            mesh_socket.local_addr().map_err(|source| StartError::Listen { addr: config.listen, source })?;
        let mut advertise = config.advertise.unwrap_or(listen);
        if advertise.port() == 0 {
            advertise.set_port(listen.port());
        }
        if advertise.ip().is_unspecified() {
            return Err(StartError::Advertise(advertise));
        }

        let peers_path = config.data.join("peers");
        let mut peers = Peers::load(&peers_path, config.clock.wall());
        let generation = config.clock.wall().0.max(peers.generation + 1);
        peers.generation = generation;
        let life = Life { name: config.name.clone(), generation, advertise };

        // Before the name is asked for, which takes a moment: in an upgrade peers dial already.
        let started = Tunnels::start(identity.clone(), tunnel_socket);
        let (tunnels, accepts) = started.map_err(|error| failed("the tunnel thread")(error.to_string()))?;
        let thread = Thread::start("mesh").map_err(|error| failed("the mesh thread")(error.to_string()))?;
        let mesh = {
            let _entered = thread.enter();
            Mesh::start(config.name.clone(), identity.clone(), config.clock.clone(), mesh_socket)
        };
        let mesh = mesh.map_err(|error| failed("the mesh endpoint")(error.to_string()))?;
        let seeds = join::Seeds::new(config.seeds.clone());
        if let Err((name, by)) = seeds.ask_for_name(&mesh, &life, &peers).await {
            mesh.stop();
            mesh.stopped(LAST_WORDS).await;
            return Err(StartError::NameTaken { name, by });
        }
        let wishes = Arc::new(Wishes::new(NodeRecord {
            name: config.name.clone(),
            region: config.region.clone(),
            zone: config.zone.clone(),
            mesh: advertise,
            public: config.public.clone(),
            version: config.version.clone(),
            started: Wall(generation),
            draining: false,
            revision: None,
            keys: config.keyring.key_ids(),
            key_since: config.clock.wall(),
        }));
        let (events, _) = broadcast::channel(EVENTS);
        let (report, reports) = mpsc::channel(REPORTS);
        let (leave, leaving) = mpsc::channel(1);
        let parts = driver::Parts {
            life,
            mesh: mesh.clone(),
            tunnels: Some(tunnels.clone()),
            identity: identity.clone(),
            clock: config.clock.clone(),
            wishes: wishes.clone(),
            events: events.clone(),
            reports: report,
            leaving,
            peers,
            peers_file: PeersFile::new(peers_path),
            seeds,
        };
        let started = thread.run(driver::Driver::start(parts)).await;
        let (driver, view) = started.map_err(failed("membership"))?;
        let driver = thread.runtime().spawn(driver.run());
        tracing::info!(node = %config.name, region = %config.region, %listen, %advertise, "the mesh endpoint is up");
        Ok(Self(Arc::new(Handle {
            mesh,
            tunnels,
            identity,
            listen,
            view,
            events,
            wishes,
            leave,
            accepts: Mutex::new(Some(accepts)),
            reports: Mutex::new(Some(reports)),
            driver,
            thread,
        })))
    }

    /// The ways to speak to peers.
    pub fn mesh(&self) -> Mesh {
        self.0.mesh.clone()
    }

    /// Where the mesh endpoint is bound; the tunnel endpoint is one port above.
    pub fn listen_addr(&self) -> SocketAddr {
        self.0.listen
    }

    /// What is believed of the mesh, now and whenever it changes.
    pub fn view(&self) -> watch::Receiver<Arc<ClusterView>> {
        self.0.view.clone()
    }

    /// What happens in the mesh from now on. A slow reader loses the oldest events.
    pub fn events(&self) -> broadcast::Receiver<MeshEvent> {
        self.0.events.subscribe()
    }

    /// The tunnel endpoint.
    pub fn tunnels(&self) -> Tunnels {
        self.0.tunnels.clone()
    }

    /// The streams that peers open to this node; `None` when they were taken before.
    pub fn take_tunnel_accepts(&self) -> Option<mpsc::Receiver<TunnelAccept>> {
        self.0.accepts.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// How much of what is bounded is in use.
    pub fn gauges(&self) -> Gauges {
        Gauges::new(self.0.wishes.clone(), self.0.tunnels.clone())
    }

    /// Tells the mesh which revision this node runs.
    pub fn set_revision(&self, revision: Option<RevisionId>) {
        self.0.wishes.record(|record| record.revision = revision);
    }

    /// Tells the mesh that this node is leaving, or is not any more.
    pub fn set_draining(&self, draining: bool) {
        self.0.wishes.record(|record| record.draining = draining);
    }

    /// Tells the mesh what DNS should tell users.
    pub fn set_public(&self, public: Vec<IpAddr>) {
        self.0.wishes.record(|record| record.public = public);
    }

    /// Publishes this node's verdicts, all pools at once; only those that changed are sent.
    ///
    /// # Errors
    /// When a pool's vector is too large to gossip; the other pools are published all the same.
    pub fn publish_verdicts(&self, verdicts: BTreeMap<PoolName, Vec<Verdict>>) -> Result<(), StateError> {
        self.0.wishes.verdicts(verdicts)
    }

    /// Publishes why this node's probes fail, all pools at once; only what changed is sent.
    pub fn publish_failures(&self, failures: BTreeMap<PoolName, Vec<Failure>>) {
        self.0.wishes.failures(failures);
    }

    /// Publishes what this node's region can do, all pools at once; only those that changed are sent.
    pub fn publish_summaries(&self, summaries: BTreeMap<PoolName, PoolSummary>) {
        self.0.wishes.summaries(summaries);
    }

    /// Has the fast lane ask this for what is in flight, ten times a second on the mesh's thread, and tell it to the region. It must
    /// not block.
    pub fn tell_load_of(&self, source: impl Fn() -> Vec<(BackendId, u32)> + Send + Sync + 'static) {
        self.0.wishes.tell_load_of(source);
    }

    /// What the mesh runs on, for whoever watches over that.
    pub fn runtime(&self) -> &tokio::runtime::Handle {
        self.0.thread.runtime()
    }

    /// The load that the other nodes of the region report, each ten times a second while it has any; a slow reader misses
    /// some. `None` when it was taken before.
    pub fn take_load_reports(&self) -> Option<mpsc::Receiver<LoadReport>> {
        self.0.reports.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Puts a keyring in force: the node's certificate is issued anew, peers are dialled anew beside the connections that
    /// stand, and those whose key was removed are disconnected. `in_use_since` is when its first key began to be
    /// used here; the mesh is told.
    ///
    /// # Errors
    /// When no certificate can be made; the old ring stays in force.
    pub fn set_keyring(&self, keyring: Keyring, in_use_since: Wall) -> Result<(), IdentityError> {
        let keys = keyring.key_ids();
        self.0.identity.set_keyring(keyring)?;
        self.0.wishes.record(|record| {
            record.keys = keys;
            record.key_since = in_use_since;
        });
        Ok(())
    }

    /// Says goodbye to all peers, then stops. Returns within about a second.
    pub async fn leave(&self) {
        let (done, left) = oneshot::channel();
        if self.0.leave.send(done).await.is_ok() {
            let _ = left.await;
        }
    }

    /// Hands the tunnel streams of peers to the next life of this node: waits for `quiet` at most until they have gone elsewhere, then
    /// turns further ones away, lets those that are open end within a second, and closes the peers' connections: they dial anew.
    /// How many streams were cut. Before [`Gossip::hand_over`].
    pub async fn move_tunnels(&self, quiet: Duration) -> usize {
        self.0.tunnels.move_inbound(quiet, LAST_STREAMS).await
    }

    /// Stops without a goodbye and gives both UDP ports to the next life of this node, in another process; peers are told of it. Streams
    /// to other nodes that are open go on; what peers opened ends.
    ///
    /// # Errors
    /// When the ports cannot be given up; this node does not speak any more all the same.
    pub async fn hand_over(&self) -> std::io::Result<()> {
        self.0.driver.abort();
        let view = self.0.view.borrow().clone();
        for peer in view.members.values().filter(|member| member.counts() && member.record.name != view.me) {
            // A peer that cannot be told takes it for silent.
            let bytes = Control::HandsOver.encode();
            let _ = self.0.mesh.message(&peer.record.name, control::CHANNEL, bytes);
        }
        self.0.mesh.flush(LAST_WORDS).await;
        self.0.mesh.stop();
        self.0.mesh.stopped(LAST_WORDS).await;
        self.0.mesh.release()?;
        self.0.tunnels.release()
    }

    /// Stops as a killed process does: peers hear nothing more and are not told.
    #[cfg(test)]
    fn vanish(self) {
        self.0.driver.abort();
        self.0.mesh.vanish();
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.driver.abort();
        let mesh = self.mesh.clone();
        self.thread.end_after(async move {
            mesh.stop();
            mesh.stopped(LAST_WORDS).await;
        });
        self.tunnels.stop();
    }
}
