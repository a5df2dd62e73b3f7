//! Operators' runtime orders as the registry needs them: the merged intents, resolved to ids.

use std::collections::{BTreeMap, BTreeSet};

use gossip::id::{BackendId, NodeName, PoolName, RegionName, ServiceName};
use ipnet::IpNet;

use crate::signing::RetiredKeys;

/// The orders in force. Names that exist no more do no harm.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Orders {
    /// Nodes that get no new work.
    pub drained_nodes: BTreeSet<NodeName>,
    /// Backends that keep their sessions and get no new ones.
    pub drained_backends: BTreeSet<BackendId>,
    /// Backends that get nothing.
    pub maintenance_backends: BTreeSet<BackendId>,
    /// Regions whose backends keep their sessions and get no new ones. Their nodes still carry tunnels.
    pub drained_regions: BTreeSet<RegionName>,
    /// Pools whose backends keep their sessions and get no new ones.
    pub drained_pools: BTreeSet<PoolName>,
    /// Regions whose backends get nothing.
    pub maintenance_regions: BTreeSet<RegionName>,
    /// Pools whose backends get nothing.
    pub maintenance_pools: BTreeSet<PoolName>,
    /// Backends that get nothing: the deadline of their drain has passed.
    pub emptied_backends: BTreeSet<BackendId>,
    /// Regions whose backends get nothing: the deadline of their drain has passed.
    pub emptied_regions: BTreeSet<RegionName>,
    /// Pools whose backends get nothing: the deadline of their drain has passed.
    pub emptied_pools: BTreeSet<PoolName>,
    /// Weights in place of the file's. 0 takes no new sessions.
    pub weights: BTreeMap<BackendId, u32>,
    /// Shares of the pools in place of the file's.
    pub splits: BTreeMap<ServiceName, Vec<(PoolName, u32)>>,
    /// Networks whose users every service refuses.
    pub denied: BTreeSet<IpNet>,
    /// Keys that zones are not to be signed with any more.
    pub retired_keys: RetiredKeys,
}
