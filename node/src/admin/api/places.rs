//! What the API says of regions, and of backends by themselves.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::BackendStatus;

/// One region.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct RegionStatus {
    /// Its name.
    pub name: String,
    /// Degrees north, where the configuration says.
    pub latitude: Option<f64>,
    /// Degrees east.
    pub longitude: Option<f64>,
    /// Its nodes, by name, those that are gone too.
    pub nodes: Vec<String>,
    /// How many of them take new users.
    pub nodes_alive: usize,
    /// Its backends, by pool.
    pub pools: Vec<RegionPool>,
    /// Requests in flight on its backends, over the nodes that answered.
    pub in_flight: u64,
    /// When none of its nodes is heard: for how long, in seconds. All that is shown of it is as old.
    #[serde(default)]
    pub stale_seconds: Option<u64>,
}

/// What a region can do for one pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct RegionPool {
    /// The pool.
    pub pool: String,
    /// Backends there that take new users.
    pub healthy: usize,
    /// Backends there.
    pub total: usize,
    /// The sum of the weights of the healthy ones.
    pub capacity: u64,
    /// Requests in flight there, over the nodes that answered.
    pub in_flight: u64,
}

/// One backend with its pool.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct BackendEntry {
    /// The pool's name.
    pub pool: String,
    /// The rest, beside it.
    #[serde(flatten)]
    pub backend: BackendStatus,
}
