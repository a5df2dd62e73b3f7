//! How much of what the mesh bounds is in use, for whoever watches.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::wishes::Wishes;
use crate::id::NodeName;
use crate::membership::{MAX_NODES, STATE_MAX_BYTES};
use crate::mesh::door::{CONNECTIONS_MAX, UNFINISHED_MAX};
use crate::mesh::endpoint::TUNNELS_MAX;
use crate::mesh::link::{QUEUE, QUEUE_BYTES};
use crate::mesh::tunnel::Tunnels;

/// What is in use now. Clones are the same; holding one keeps nothing running but the tunnels' endpoint.
#[derive(Debug, Clone)]
pub struct Gauges {
    wishes: Arc<Wishes>,
    tunnels: Tunnels,
}

impl Gauges {
    /// What this node may gossip of itself, in bytes; what lies beyond is left out, and told in the log.
    pub const STATE_MAX_BYTES: usize = STATE_MAX_BYTES;

    /// How many tunnel streams one peer may have open here.
    pub const TUNNELS_MAX: u32 = TUNNELS_MAX;

    /// How many nodes a mesh may have; further ones are not seen.
    pub const NODES_MAX: usize = MAX_NODES;

    /// How many connections the mesh's endpoint takes; beyond it new ones are refused.
    pub const CONNECTIONS_MAX: usize = CONNECTIONS_MAX;

    /// How many handshakes of strangers may be unfinished; beyond it they are refused, and peers are not.
    pub const HANDSHAKES_MAX: usize = UNFINISHED_MAX;

    /// How many messages may wait for one peer; further ones are refused, and their senders go on without.
    pub const QUEUE_MAX: usize = QUEUE;

    /// What they may weigh.
    pub const QUEUE_MAX_BYTES: usize = QUEUE_BYTES;

    pub(super) fn new(wishes: Arc<Wishes>, tunnels: Tunnels) -> Self {
        Self { wishes, tunnels }
    }

    /// What this node gossips of itself, in bytes: keys and values.
    pub fn state_bytes(&self) -> usize {
        self.wishes.bytes()
    }

    /// The tunnel streams that each connected peer has open here.
    pub fn tunnel_streams(&self) -> BTreeMap<NodeName, usize> {
        self.tunnels.inbound()
    }
}
