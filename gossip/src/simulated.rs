//! Nodes in one process on a virtual clock: the real driver, chitchat and beliefs over a network in memory.

pub use crate::agent::simulated::{Node, NodePlan};
pub use crate::mesh::simulated::{Network, Traffic, Way};
