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

use std::sync::Arc;

use gossip::id::RevisionId;

use crate::config::model::Services;

/// The configuration in force.
#[derive(Debug, Clone, Default)]
pub struct Current {
    /// Its revision; `None` before the first apply.
    pub revision: Option<RevisionId>,
    /// What it says.
    pub services: Arc<Services>,
}
