//! What changes by the second: which regions can serve, and which nodes users may be sent to.
//!
//! A state is built by the caller from its view of the mesh and swapped in whole; it refers to regions and services
//! by name only, so it fits any table, older or newer.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// A snapshot of the regions.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// The region of the node that answers.
    pub own_region: String,
    /// The regions that have nodes or backends, declared in the table or not.
    pub regions: BTreeMap<String, RegionState>,
    /// By service: when its answer may next change (a backend is going down, a node is suspect). The TTL of its
    /// answers shrinks towards that moment.
    pub change_expected: HashMap<String, Instant>,
    /// A ceiling on the TTL of every steered answer, for a node that is not sure of its view.
    pub ttl_ceiling: Option<Duration>,
    /// Round-trip times between regions, `(from, to)`; empty when unknown.
    pub rtt: HashMap<(String, String), Duration>,
}

/// One region.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RegionState {
    /// By service. A service that is missing here has no backends in the region.
    pub services: HashMap<String, ServiceState>,
    /// Nodes users may be sent to: alive, not suspect, not draining.
    pub nodes: Vec<NodeState>,
    /// Other known nodes (suspect, draining): named in answers only when no region has any of the above.
    pub last_resort: Vec<NodeState>,
}

/// What a region can do for a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ServiceState {
    /// True while at least one backend of it takes traffic.
    pub healthy: bool,
    /// Free capacity, in the unit of backend weights; zero is full.
    pub free: u32,
    /// How much of its capacity is in use, in thousandths; more than 1,000 when requests wait.
    pub load_permille: u16,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeState {
    /// Its name, for explanations only.
    pub name: String,
    /// Its public addresses, of both families.
    pub addresses: Vec<IpAddr>,
    /// Its share of the answers of its region.
    pub weight: u32,
}
