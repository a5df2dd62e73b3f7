//! Chitchat over the mesh: the only file that names it.
//!
//! Chitchat's messages travel as mesh messages with the sender's advertised address in front, to which answers go:
//!
//! ```text
//! version 1 ‖ family 1 (4 or 6) ‖ address 4 or 16 ‖ port 2 ‖ chitchat's own bytes
//! ```
//!
//! Chitchat here reconciles keys and counts heartbeats; who is alive is decided in [`crate::liveness`], whom to call at
//! first in [`crate::agent`]. When its task ends, [`Membership::ended`] says so and [`Membership::restart`] begins a new
//! life of the same node with the same state.

mod blocks;
mod pace;

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex as StdMutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::BufMut;
use chitchat::transport::{Socket, Transport};
use chitchat::{
    ChitchatConfig, ChitchatHandle, ChitchatId, ChitchatMessage, Deserializable, FailureDetectorConfig,
    Serializable, spawn_chitchat,
};
use tokio::sync::{Mutex, mpsc};

use crate::clock::Clock;
use crate::id::NodeName;
use crate::mesh::{Channel, Inbound, Mesh};
use crate::state::VALUE_MAX_BYTES;
use crate::state::key::{self, NodeState};
#[cfg(feature = "simulated")]
pub(crate) use pace::interval;
use pace::{Call, Pace};

/// What changes all the time and is no news is told once in the time that a mesh of so many nodes makes of this, a node.
const GRADUAL_A_NODE: Duration = Duration::from_millis(50);
const GRADUAL_LEAST: Duration = Duration::from_secs(1);

pub(crate) const CHANNEL: Channel = Channel { id: 1, name: "membership", max_bytes: 128 * 1024, queue: 512 };

const VERSION: u8 = 1;
const GRACE: Duration = Duration::from_secs(15 * 60);
/// The most that one node gossips in all.
pub(crate) const STATE_MAX_BYTES: usize = 1 << 20;
/// More nodes than a mesh has; what lies beyond is not looked at.
pub(crate) const MAX_NODES: usize = 2048;

/// Who this node is to chitchat.
#[derive(Debug, Clone)]
pub(crate) struct Life {
    pub(crate) name: NodeName,
    /// Milliseconds since 1970; greater than that of all earlier lives of the name.
    pub(crate) generation: u64,
    pub(crate) advertise: SocketAddr,
}

/// What chitchat knows of one life of one node.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) name: NodeName,
    pub(crate) generation: u64,
    pub(crate) addr: SocketAddr,
    /// Grows while the node lives.
    pub(crate) heartbeat: u64,
    /// `None` while it is not complete.
    pub(crate) state: Option<Arc<NodeState>>,
}

/// This node's membership of the mesh. Whoever holds it lets it [call](Membership::call) several times a second.
pub(crate) struct Membership {
    life: Life,
    link: MeshLink,
    handle: ChitchatHandle,
    own: BTreeMap<String, String>,
    nodes: usize,
    /// When gradual changes were last told, and whether some wait.
    gradual_at: Option<Instant>,
    holds_back: bool,
    decoded: HashMap<ChitchatId, (u64, Option<Arc<NodeState>>)>,
}

impl Membership {
    /// Starts chitchat in the current runtime. `words` is told of everyone whose message arrives; when it is full the
    /// word is lost, the next comes soon.
    pub(crate) async fn start(
        life: Life,
        nodes_expected: usize,
        mesh: &Mesh,
        clock: &Clock,
        words: mpsc::Sender<NodeName>,
        own: BTreeMap<String, String>,
    ) -> Result<Self, String> {
        let inbound = Arc::new(Mutex::new(mesh.listen(CHANNEL)));
        let pace = Arc::new(StdMutex::new(Pace::new(nodes_expected)));
        let (mesh, clock) = (mesh.clone(), clock.clone());
        let calls = Arc::default();
        let link = MeshLink { mesh, inbound, words, advertise: life.advertise, pace, calls, clock };
        let handle = spawn(&life, &link, &own).await?;
        let decoded = HashMap::new();
        let nodes = nodes_expected;
        Ok(Self { life, link, handle, own, nodes, gradual_at: None, holds_back: false, decoded })
    }

    /// Waits until chitchat's task has ended, which it does not do by itself. Why.
    pub(crate) async fn ended(&self) -> String {
        match self.handle.termination_watcher().await {
            Ok(()) => "it stopped".into(),
            Err(error) => error.to_string(),
        }
    }

    /// Begins a new life with the same state.
    pub(crate) async fn restart(
        &mut self,
        generation: u64,
        own: BTreeMap<String, String>,
    ) -> Result<(), String> {
        self.handle.abort();
        self.life.generation = generation.max(self.life.generation + 1);
        self.own = own;
        self.handle = spawn(&self.life, &self.link, &self.own).await?;
        self.decoded.clear();
        Ok(())
    }

    /// How often this node gossips: the larger the mesh, the less often.
    pub(crate) fn interval(&self) -> Duration {
        self.link.pace().interval()
    }

    pub(crate) fn life(&self) -> &Life {
        &self.life
    }

    /// Replaces this node's entries; what did not change is not sent. What changes all the time waits until its turn comes
    /// ([`Membership::holds_back`]). Whether there is news that should not wait for the next round.
    pub(crate) async fn set(&mut self, mut entries: BTreeMap<String, String>) -> bool {
        let now = self.link.clock.now();
        let pause = GRADUAL_LEAST.max(GRADUAL_A_NODE.saturating_mul(self.nodes as u32));
        let is_due = self.gradual_at.is_none_or(|at| now.saturating_duration_since(at) >= pause);
        let mut news = self.own.keys().any(|key| !entries.contains_key(key));
        self.holds_back = false;
        for (key, value) in &mut entries {
            match self.own.get(key) {
                Some(told) if told == value => {}
                Some(told) if key::is_gradual(key, told, value) => {
                    if is_due {
                        self.gradual_at = Some(now);
                    } else {
                        self.holds_back = true;
                        value.clone_from(told);
                    }
                }
                _ => news = true,
            }
        }
        if entries == self.own {
            return false;
        }
        let chitchat = self.handle.chitchat();
        let mut chitchat = chitchat.lock().await;
        let state = chitchat.self_node_state();
        for key in self.own.keys().filter(|key| !entries.contains_key(*key)) {
            state.delete(key);
        }
        let mut total = 0;
        for (key, value) in &entries {
            total += key.len() + value.len();
            if value.len() > VALUE_MAX_BYTES || total > STATE_MAX_BYTES || !key.is_ascii() {
                tracing::error!(key, bytes = value.len(), "a value is too large to gossip and was left out");
            } else if self.own.get(key) != Some(value) {
                state.set(key, value);
            }
        }
        drop(chitchat);
        self.own = entries;
        news
    }

    /// Whether something waits for its turn: the same entries are to be given again in a while.
    pub(crate) fn holds_back(&self) -> bool {
        self.holds_back
    }

    /// Gossips with these addresses at once.
    pub(crate) fn gossip_with(&self, addrs: impl IntoIterator<Item = SocketAddr>) {
        for addr in addrs.into_iter().filter(|addr| *addr != self.life.advertise) {
            self.link.pace().want(addr);
            // Fails only when the task has ended, which `ended` reports.
            let _ = self.handle.gossip(addr);
        }
    }

    /// Makes the calls of the rounds that are due. Together with the heartbeats, so that peers wake once for both.
    pub(crate) fn call(&self) {
        let due = std::mem::take(&mut *self.link.calls());
        for (to, framed) in due {
            self.link.post(to, &framed);
        }
    }

    /// Everything chitchat knows of the others (and of earlier lives of this node).
    pub(crate) async fn known(&mut self) -> Vec<Known> {
        let chitchat = self.handle.chitchat();
        let chitchat = chitchat.lock().await;
        let mut known = Vec::new();
        let mut decoded = HashMap::with_capacity(self.decoded.len());
        for (id, state) in chitchat.node_states().iter().take(MAX_NODES) {
            if *id == *chitchat.self_chitchat_id() {
                continue;
            }
            let Ok(name) = NodeName::new(&id.node_id) else { continue };
            let version = state.max_version();
            let state_now = match self.decoded.remove(id) {
                Some((seen, decoded)) if seen == version => decoded,
                _ => key::decode(&name, state.key_values()).map(Arc::new),
            };
            decoded.insert(id.clone(), (version, state_now.clone()));
            known.push(Known {
                name,
                generation: id.generation_id,
                addr: id.gossip_advertise_addr,
                heartbeat: state.heartbeat().into(),
                state: state_now,
            });
        }
        self.decoded = decoded;
        self.nodes = known.len() + 1;
        self.link.pace().nodes(self.nodes);
        known
    }

    /// Ends chitchat.
    pub(crate) fn stop(&self) {
        self.handle.abort();
    }
}

async fn spawn(
    life: &Life,
    link: &MeshLink,
    own: &BTreeMap<String, String>,
) -> Result<ChitchatHandle, String> {
    let config = ChitchatConfig {
        chitchat_id: ChitchatId::new(life.name.as_str(), life.generation, life.advertise),
        cluster_id: "meridian".into(),
        gossip_interval: pace::BASE,
        listen_addr: life.advertise,
        seed_nodes: Vec::new(),
        // Chitchat's own detector only decides whom it gossips with more often. A short window keeps the prior's weight.
        failure_detector_config: FailureDetectorConfig {
            phi_threshold: 8.0,
            sampling_window_size: 10,
            max_interval: Duration::from_secs(10),
            initial_interval: Duration::from_secs(1).max(link.pace().interval()),
            dead_node_grace_period: GRACE,
        },
        marked_for_deletion_grace_period: GRACE,
        catchup_callback: None,
        extra_liveness_predicate: None,
    };
    // Entries arrive in the order of their writing; the one that completes the record must be the last of it.
    let mut entries = own.clone().into_iter().collect::<Vec<_>>();
    entries.sort_by_key(|(key, _)| key::completes(key));
    spawn_chitchat(config, entries, link).await.map_err(|error| error.to_string())
}

/// The mesh as a transport. Opened again after a restart, it goes on reading the same queue.
#[derive(Clone)]
struct MeshLink {
    mesh: Mesh,
    inbound: Arc<Mutex<mpsc::Receiver<Inbound>>>,
    words: mpsc::Sender<NodeName>,
    advertise: SocketAddr,
    pace: Arc<StdMutex<Pace>>,
    /// Calls that wait for [`Membership::call`].
    calls: Arc<StdMutex<BTreeMap<SocketAddr, Vec<u8>>>>,
    clock: Clock,
}

impl MeshLink {
    fn calls(&self) -> MutexGuard<'_, BTreeMap<SocketAddr, Vec<u8>>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Never blocks: what finds the queue to the peer full, or the peer away, is lost, as chitchat expects of UDP.
    fn post(&self, to: SocketAddr, framed: &[u8]) {
        if let Err(error) = self.mesh.message_to_addr(to, CHANNEL, framed) {
            tracing::trace!(%to, %error, "a gossip message was not sent");
        }
    }

    fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Transport for MeshLink {
    async fn open(&self, _listen_addr: SocketAddr) -> Result<Box<dyn Socket>, anyhow::Error> {
        Ok(Box::new(self.clone()))
    }
}

#[async_trait]
impl Socket for MeshLink {
    async fn send(&mut self, to: SocketAddr, message: ChitchatMessage) -> Result<(), anyhow::Error> {
        #[cfg(feature = "simulated")]
        self.mesh.awake().await;
        let call = match message {
            ChitchatMessage::Syn { .. } => self.pace().call(to, self.clock.now()),
            _ => {
                self.post(to, &frame(self.advertise, &message.serialize_to_vec()));
                return Ok(());
            }
        };
        let framed = || frame(self.advertise, &message.serialize_to_vec());
        match call {
            Call::Not => {}
            // No more than were due since the last time: a few.
            Call::Soon => drop(self.calls().insert(to, framed())),
            Call::AtOnce => {
                // It knew less.
                self.calls().remove(&to);
                self.post(to, &framed());
            }
        }
        Ok(())
    }

    /// Cancel-safe: both awaits are.
    async fn recv(&mut self) -> Result<(SocketAddr, ChitchatMessage), anyhow::Error> {
        let mut inbound = self.inbound.lock().await;
        loop {
            #[cfg(feature = "simulated")]
            self.mesh.awake().await;
            let Some(inbound) = inbound.recv().await else {
                // The mesh has stopped; so will this task.
                std::future::pending::<()>().await;
                continue;
            };
            let Inbound::Message { from, bytes } = inbound else { continue };
            let Some(received) = unframe(&bytes) else {
                tracing::debug!(peer = %from.name, "a gossip message was malformed or newer");
                continue;
            };
            let _ = self.words.try_send(from.name);
            return Ok(received);
        }
    }
}

pub(crate) fn frame(from: SocketAddr, message: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(20 + message.len());
    bytes.put_u8(VERSION);
    match from.ip() {
        IpAddr::V4(ip) => {
            bytes.put_u8(4);
            bytes.put_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            bytes.put_u8(6);
            bytes.put_slice(&ip.octets());
        }
    }
    bytes.put_u16(from.port());
    bytes.put_slice(message);
    bytes
}

pub(crate) fn unframe(bytes: &[u8]) -> Option<(SocketAddr, ChitchatMessage)> {
    let (ip, rest): (IpAddr, &[u8]) = match bytes {
        [VERSION, 4, rest @ ..] => {
            let (ip, rest) = rest.split_first_chunk::<4>()?;
            ((*ip).into(), rest)
        }
        [VERSION, 6, rest @ ..] => {
            let (ip, rest) = rest.split_first_chunk::<16>()?;
            ((*ip).into(), rest)
        }
        _ => return None,
    };
    let (port, mut rest) = rest.split_first_chunk::<2>()?;
    if !blocks::fit(rest) {
        return None;
    }
    // The decoder is not ours: should it panic on hostile bytes, only the message is lost.
    let decoded = std::panic::catch_unwind(AssertUnwindSafe(|| ChitchatMessage::deserialize(&mut rest)));
    let message = decoded.ok()?.ok()?;
    Some((SocketAddr::new(ip, u16::from_be_bytes(*port)), message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keyring::Keyring;
    use crate::mesh::{endpoint::bind_pair, tls::Identity};
    use proptest::prelude::*;

    #[test]
    fn the_bytes_of_version_1() {
        let message = ChitchatMessage::BadCluster.serialize_to_vec();
        let bytes = frame("10.0.0.1:7946".parse().unwrap(), &message);
        assert_eq!(bytes, [1, 4, 10, 0, 0, 1, 0x1f, 0x0a, 0x53, 0xb0, 0, 3]);
        let (from, message) = unframe(&bytes).unwrap();
        assert_eq!(from, "10.0.0.1:7946".parse().unwrap());
        assert_eq!(message, ChitchatMessage::BadCluster);
        let six = "[2001:db8::1]:7".parse().unwrap();
        assert_eq!(unframe(&frame(six, &message.serialize_to_vec())).unwrap().0, six);
    }

    fn own() -> BTreeMap<String, String> {
        [("format", "1"), ("region", "eu")].map(|(key, value)| (key.to_owned(), value.to_owned())).into()
    }

    async fn member(name: &str, ring: &Keyring) -> Membership {
        let (name, clock): (NodeName, _) = (name.parse().unwrap(), Clock::system());
        let identity = Identity::new(name.clone(), ring.clone(), clock.clone()).unwrap();
        let [socket, _] = bind_pair("127.0.0.1:0".parse().unwrap()).unwrap();
        let advertise = socket.local_addr().unwrap();
        let mesh = Mesh::start(name.clone(), identity, clock.clone(), socket).unwrap();
        let life = Life { name, generation: 1, advertise };
        let (words, _) = mpsc::channel(1);
        Membership::start(life, 1, &mesh, &clock, words, own()).await.unwrap()
    }

    async fn soon<T>(what: &str, it: impl Future<Output = T>) -> T {
        tokio::time::timeout(Duration::from_secs(10), it).await.expect(what)
    }

    #[tokio::test]
    async fn calls_of_the_rounds_wait_for_the_next_beat() {
        let ring = Keyring::generate();
        let (a, mut b) = (member("a", &ring).await, member("b", &ring).await);
        let (of_a, of_b) = (a.life.advertise, b.life.advertise);
        soon("b hears of a", async {
            while b.known().await.is_empty() {
                a.gossip_with([of_b]);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        soon("a round of b's comes", async {
            while b.link.calls().is_empty() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        let waiting = b.link.calls().clone();
        let framed = waiting.get(&of_a).expect("there is nobody else to call");
        assert!(matches!(unframe(framed), Some((from, ChitchatMessage::Syn { .. })) if from == of_b));
        b.call();
        assert!(b.link.calls().is_empty());
    }

    #[tokio::test]
    async fn a_task_that_ended_is_started_again_with_the_same_state() {
        let ring = Keyring::generate();
        let (mut a, mut b) = (member("a", &ring).await, member("b", &ring).await);
        a.handle.abort();
        assert!(!a.ended().await.is_empty());
        a.restart(0, own()).await.unwrap();
        assert_eq!(a.life().generation, 2);
        soon("b meets a's second life", async {
            while !b.known().await.iter().any(|known| known.generation == 2) {
                a.gossip_with([b.life.advertise]);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), kind in 0u8..4) {
            unframe(&bytes);
            unframe(&[&[1, 4, 127, 0, 0, 1, 0, 1, 0x53, 0xb0, 0, kind][..], &bytes].concat());
        }
    }
}
