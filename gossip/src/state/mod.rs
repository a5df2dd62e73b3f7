//! The typed state of the mesh: what a node says of itself, and the immutable view of all of it.
//!
//! ```text
//! NodeRecord, verdicts, summaries ──key──▶ strings ──gossip──▶ strings ──key──▶ ClusterView ──diff──▶ MeshEvent
//! ```
pub(crate) mod key;
mod node;
mod view;
pub use key::{StateError, VALUE_MAX_BYTES};
pub use node::{BackendState, FAILURE_MAX_BYTES, Failure, NodeRecord, PoolSummary, Verdict};
pub use view::{ClusterView, Member, MemberState, MeshEvent, diff};
