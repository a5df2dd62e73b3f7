//! Which backends can be used: the mesh's probes, what this node's own requests met, and what follows from both.
//!
//! ```text
//!            config, view                     evidence (the proxy's own requests)
//!                 │                                        │
//!   ┌─────────────▼────────────────────────────────────────▼──────────────┐
//!   │ checker (pure)   assign: who probes │ machine: one prober's word    │
//!   │                  quorum: the mesh's │ ejection: this node's alone   │
//!   │                                     │ outliers: who fails too often │
//!   └───────┬───────────────────▲──────────────────┬──────────────┬───────┘
//!           │ due probes        │ results          │ own verdicts │ HealthTable
//!        probe (HTTP, TCP) ─────┘                gossip        registry
//! ```
//!
//! [`task`] and [`tally`] are the only parts with a task, sockets or a clock; everything else takes `(event, now)` (I10). The cost
//! of probing grows with the number of backends and not with backends × nodes (I7), because [`assign`] names three
//! probers a backend whatever the size of its region.

use std::collections::BTreeMap;

use gossip::clock::Hlc;
use gossip::id::BackendId;
use gossip::state::BackendState;

use crate::backend::Evidence;

mod agenda;
pub mod assign;
pub mod checker;
pub mod ejection;
mod http2;
pub mod machine;
pub(crate) mod memory;
pub mod outliers;
pub mod probe;
pub mod quorum;
#[cfg(test)]
mod simulation;
pub mod tally;
mod target;
pub mod task;

/// What is known of the health of every configured backend, by id.
pub type HealthTable = BTreeMap<BackendId, BackendHealth>;

/// What is known of the health of one backend. Operators' orders are not in it; the registry adds them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendHealth {
    /// What the mesh makes of it: `Unknown`, `Up`, `GoingDown`, `Down` or `GoingUp`.
    pub state: BackendState,
    /// The end of its last break that anybody knows of; [`Hlc::ZERO`] when nobody knows of one (I2).
    pub up_since: Hlc,
    /// The beginning of its present or last break; [`Hlc::ZERO`] when nobody knows of one.
    pub down_since: Hlc,
    /// Why this node alone sends it nothing for now, whatever the mesh says.
    pub ejected: Option<Evidence>,
    /// Why it is not simply up, in words for operators; empty when it is.
    pub reason: String,
}
