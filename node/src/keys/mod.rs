//! The mesh's own keys while the node runs: installed, taken into use and removed on all nodes, without a restart.
//!
//! ```text
//!   operator ─▶ orders by id (replicated as intents) ─┐
//!   the keyring file, when somebody changes it ───────┼─▶ keeper ─▶ file, certificates, cookies, tickets, DNS cookies,
//!   a peer that holds the secret (over the mesh) ─────┘             zones' keys, ids of source addresses
//!                                                          └─▶ gossip: which keys this node holds, since when the first
//! ```
//!
//! Orders hold for nodes that were away too: they name keys, and a node asks its peers for the secrets it lacks. A secret
//! crosses the mesh only for a key that was ordered to be installed, so a key that came by file stays with the files.
//! *plan* judges (pure), *file* reads and writes, *stored* asks what the others would start with, *task* is the one task that owns the ring.

mod file;
mod plan;
mod stored;
mod task;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use gossip::Gossip;
use gossip::clock::Clock;
use gossip::id::NodeName;
use gossip::keyring::{Keyring, KeyringError};
use gossip::state::ClusterView;
use storage::intents::{IntentError, Intents};
use tokio::sync::{mpsc, oneshot, watch};

use crate::backend::Snapshot;
pub(crate) use plan::{KeyState, Objection};
pub(crate) use stored::{Files, Stored, is_writable};

/// Orders that may wait for their turn; beyond it they are refused.
const ORDERS_MAX: usize = 16;

/// Hands a changed ring to everybody in this node who derives something from it.
pub(crate) type Apply = Box<dyn Fn(&Keyring) + Send + Sync>;

/// What the keeper needs.
pub(crate) struct KeysConfig {
    /// The keyring file.
    pub(crate) path: PathBuf,
    /// What was read from it.
    pub(crate) ring: Keyring,
    /// The certificates follow the ring; peers tell which keys they hold, and are asked for secrets.
    pub(crate) gossip: Gossip,
    /// The orders.
    pub(crate) intents: Intents,
    /// How long sessions live.
    pub(crate) snapshot: watch::Receiver<Arc<Snapshot>>,
    /// The clock.
    pub(crate) clock: Clock,
    /// What else follows from another ring.
    pub(crate) apply: Apply,
}

/// Why an order about keys is not taken. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeysError {
    /// It would lock somebody out, or end sessions.
    #[error(transparent)]
    Objection(#[from] Objection),
    /// The ring does not allow it, or the file cannot be written.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    /// The order cannot be given.
    #[error(transparent)]
    Intent(#[from] IntentError),
    /// Too many orders wait, or the node is shutting down.
    #[error("the node is busy or shutting down; try again")]
    Busy,
}

/// A key's id as people read it.
pub(crate) fn spell(id: u32) -> String {
    format!("{id:08x}")
}

/// What an operator wants.
#[derive(Debug)]
enum Wish {
    /// A fresh key, or this exported one.
    Install(Option<String>),
    Use(u32),
    /// With what the nodes would start with, unless it is forced.
    Remove(u32, Files),
}

struct Order {
    wish: Wish,
    force: bool,
    reply: oneshot::Sender<Result<u32, KeysError>>,
}

/// What the keeper shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Shown {
    keys: Vec<u32>,
    problems: Vec<String>,
}

/// The mesh's keys. Cheap to clone.
#[derive(Clone)]
pub(crate) struct MeshKeys {
    orders: mpsc::Sender<Order>,
    shown: Arc<ArcSwap<Shown>>,
    view: watch::Receiver<Arc<ClusterView>>,
    gossip: Gossip,
    path: Arc<Path>,
}

impl MeshKeys {
    /// Follows orders and the file; the task runs until it is aborted.
    pub(crate) fn start(config: KeysConfig) -> (Self, impl Future<Output = ()> + Send + use<>) {
        let (orders, waiting) = mpsc::channel(ORDERS_MAX);
        let shown = Arc::new(ArcSwap::default());
        let keys = Self {
            orders,
            shown: shown.clone(),
            view: config.gossip.view(),
            gossip: config.gossip.clone(),
            path: config.path.as_path().into(),
        };
        (keys, task::run(config, waiting, shown))
    }

    /// All keys known in the mesh, and who holds them; of who is `silent` that is not known.
    pub(crate) fn list(&self, silent: &[NodeName]) -> Vec<KeyState> {
        plan::list(&self.shown.load().keys, &self.view.borrow(), silent)
    }

    /// The key files of all nodes that live.
    pub(crate) async fn files(&self) -> Files {
        stored::gather(&self.gossip, &self.path).await
    }

    /// Nodes that are not heard, with the keys that they were heard to hold.
    pub(crate) fn away(&self) -> Vec<(NodeName, Vec<u32>)> {
        plan::away(&self.view.borrow())
    }

    /// Installs a fresh key, or one that was exported elsewhere, on all nodes. Its id, once this node holds it.
    pub(crate) async fn install(&self, exported: Option<String>) -> Result<u32, KeysError> {
        self.order(Wish::Install(exported), false).await
    }

    /// Makes all nodes seal and sign with a key. With `force` also when some that live lack it.
    pub(crate) async fn use_key(&self, id: u32, force: bool) -> Result<(), KeysError> {
        self.order(Wish::Use(id), force).await.map(drop)
    }

    /// Takes a key from all nodes. With `force` also while sessions depend on it, or nodes that are away.
    pub(crate) async fn remove(&self, id: u32, force: bool) -> Result<(), KeysError> {
        // Asked here: the keepers answer each other while they wait for an order.
        let files = if force { Files::default() } else { self.files().await };
        self.order(Wish::Remove(id, files), force).await.map(drop)
    }

    /// How many keys this node holds.
    pub(crate) fn held(&self) -> usize {
        self.shown.load().keys.len()
    }

    /// What an operator should know, in sentences.
    pub(crate) fn problems(&self) -> Vec<String> {
        self.shown.load().problems.clone()
    }

    async fn order(&self, wish: Wish, force: bool) -> Result<u32, KeysError> {
        let (reply, done) = oneshot::channel();
        self.orders.try_send(Order { wish, force, reply }).map_err(|_| KeysError::Busy)?;
        done.await.map_err(|_| KeysError::Busy)?
    }
}
