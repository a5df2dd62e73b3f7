//! The registry: one immutable [`Snapshot`](crate::backend::Snapshot) out of all that the data plane must know.
//!
//! ```text
//!   Current (revision, services) ─┐
//!   ClusterView ──────────────────┤
//!   HealthTable ──────────────────┼──▶ build (pure) ──▶ Snapshot ──▶ ArcSwap (workers), watch (dns, admin)
//!   Orders (operators' intents) ──┘          └────────▶ PoolSummary of this region ──▶ gossip
//!   LoadReport (fast lane) ──────────▶ BackendShared::set_elsewhere, no new snapshot
//! ```
//!
//! [`Registry`] owns the counters of the backends and keeps them over revisions for as long as a pool names the
//! backend. It decides nothing about health; it lays orders over it.

#[cfg(test)]
pub(crate) mod fixture;
mod loads;
mod orders;
mod overlay;
mod regions;
pub mod snapshot;
mod task;

pub use orders::Orders;
pub use task::{PublishSummaries, Registry, RegistryConfig};

use std::collections::BTreeMap;
use std::sync::Arc;

use gossip::id::{PoolName, RevisionId};

use crate::config::model::{Pool, Services};

/// The configuration in force.
#[derive(Debug, Clone, Default)]
pub struct Current {
    /// Its revision; `None` before the first apply.
    pub revision: Option<RevisionId>,
    /// What it says.
    pub services: Arc<Services>,
    /// The pools whose backends do not all stand in it, with those that sources found. They change without a revision.
    pub discovered: Arc<BTreeMap<PoolName, Arc<Pool>>>,
}

impl Current {
    /// All pools with all their backends, by name.
    pub fn pools(&self) -> impl Iterator<Item = (&PoolName, &Arc<Pool>)> + Clone {
        self.services.pools.iter().map(|(name, pool)| (name, self.discovered.get(name).unwrap_or(pool)))
    }
}
