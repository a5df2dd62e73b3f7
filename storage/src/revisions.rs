//! The mesh-wide configuration: how a revision is applied on one node and reaches all.
//!
//! ```text
//!   apply ─▶ check ─▶ write and sync (I12) ─▶ current ─▶ watch ─▶ the node gossips epoch:hash
//!                                                └─ announce ─▶ all peers ┐
//!   a peer is seen with, or announces, a greater id ◀─────────────────────┘
//!        └─▶ get it from whoever has it ─▶ verify the hash ─▶ check ─▶ write and sync ─▶ current
//! ```
//!
//! A revision that this node finds invalid is never made current here, wherever it came from. The current one lies in
//! `DATA/services.revision` (with who, when and after what) and, for people, as `DATA/services.toml`; the history lies in
//! the store.

mod files;
mod task;
mod trial;

use std::sync::{Arc, PoisonError, RwLock};

use gossip::id::RevisionId;
use tokio::sync::{mpsc, oneshot, watch};

pub use crate::revision::Revision;
use crate::revision::{BODY_MAX_BYTES, History};
pub(crate) use files::load;
pub(crate) use task::{RevisionTask, RevisionTaskConfig};
pub(crate) use trial::Trial;

/// Applications that may wait for their turn.
pub(crate) const APPLIES_MAX: usize = 16;

/// What `apply` expects to replace: compare-and-set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// Whatever is there.
    Any,
    /// Nothing: this is the first revision.
    Nothing,
    /// Exactly this one.
    Revision(RevisionId),
}

/// Why a body was not applied. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The body is not valid; the text says where and why.
    #[error("{0}")]
    Invalid(String),
    /// Another revision is current than was expected.
    #[error("the current revision is {}", .current.map_or("none".into(), |id| id.to_string()))]
    Conflict {
        /// What is current.
        current: Option<RevisionId>,
    },
    /// The body is larger than a revision may be.
    #[error("a configuration of {0} bytes is too large: at most 4 MiB")]
    TooLarge(usize),
    /// It could not be written to the data folder.
    #[error("cannot write the revision: {0}")]
    Io(#[from] std::io::Error),
    /// The store is shutting down, or too many applications wait: a retry may succeed.
    #[error("the node is busy or shutting down; try again")]
    Stopped,
}

/// One application on its way to the task.
pub(crate) struct Apply {
    body: String,
    author: String,
    expected: Expected,
    reply: oneshot::Sender<Result<Arc<Revision>, ApplyError>>,
}

/// The revisions. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Revisions {
    history: Arc<RwLock<History>>,
    current: watch::Receiver<Option<Arc<Revision>>>,
    applies: mpsc::Sender<Apply>,
    trial: Arc<Trial>,
}

impl Revisions {
    /// The current one; `None` before the first apply.
    pub fn current(&self) -> Option<Arc<Revision>> {
        self.current.borrow().clone()
    }

    /// Follows the current one.
    pub fn watch(&self) -> watch::Receiver<Option<Arc<Revision>>> {
        self.current.clone()
    }

    /// Checks `body`, makes the next revision of it, writes and syncs it (I12), makes it current and tells the mesh.
    /// A body equal to the current one changes nothing and returns the current one.
    ///
    /// # Errors
    /// See [`ApplyError`].
    pub async fn apply(
        &self,
        body: String,
        author: String,
        expected: Expected,
    ) -> Result<Arc<Revision>, ApplyError> {
        if body.len() > BODY_MAX_BYTES {
            return Err(ApplyError::TooLarge(body.len()));
        }
        let (reply, applied) = oneshot::channel();
        self.applies.try_send(Apply { body, author, expected, reply }).map_err(|_| ApplyError::Stopped)?;
        applied.await.map_err(|_| ApplyError::Stopped)?
    }

    /// Says that the node serves this revision: half a minute later it has stood its trial. One that the node dies of before is
    /// not put in force again by its next life, for a while; it starts on the one before.
    pub fn served(&self, id: RevisionId) {
        self.trial.served(id);
    }

    /// Those that lost against a revision applied at the same time, newest first. Applied again, they win.
    pub fn lost(&self) -> Vec<Arc<Revision>> {
        self.history.read().unwrap_or_else(PoisonError::into_inner).lost()
    }

    /// The revision of that id.
    pub fn find(&self, id: &RevisionId) -> Option<Arc<Revision>> {
        self.history.read().unwrap_or_else(PoisonError::into_inner).find(id).cloned()
    }

    /// The revision that this node ended with while it was on trial, and that it therefore left out at its start, and whether
    /// the node tries it once more by itself. `None` as soon as that or a later one is put in force, or when the node has
    /// nothing to run instead.
    pub fn distrusted(&self) -> Option<(RevisionId, bool)> {
        let left_out = self.trial.left_out().filter(|_| self.current.borrow().is_some());
        left_out.map(|(id, deaths)| (id, deaths == 1))
    }

    /// What is kept, newest first, losing siblings too; at most 100.
    pub fn history(&self) -> Vec<Arc<Revision>> {
        let history = self.history.read().unwrap_or_else(PoisonError::into_inner);
        history.all().cloned().collect()
    }
}
