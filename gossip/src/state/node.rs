//! What one node says of itself.
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::clock::{Hlc, Wall};
use crate::id::{BackendId, NodeName, RegionName, RevisionId, ZoneName};

/// What a node says of itself: where it stands, how it is reached, what it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// The node's name; certified.
    pub name: NodeName,
    /// The region it stands in.
    pub region: RegionName,
    /// The zone in it.
    pub zone: Option<ZoneName>,
    /// Where peers reach its mesh endpoint; the tunnel endpoint is one port above.
    pub mesh: SocketAddr,
    /// The addresses that DNS tells users.
    pub public: Vec<IpAddr>,
    /// The program's version.
    pub version: String,
    /// When it started: tells two lives of one name apart.
    pub started: Wall,
    /// True while it leaves: no DNS answers, no new sessions.
    pub draining: bool,
    /// The revision it runs; `None` before the first apply.
    pub revision: Option<RevisionId>,
    /// The ids of the mesh keys it holds, the one in use first. Empty: it does not say.
    pub keys: Vec<u32>,
    /// Since when it uses that key at the earliest it can vouch for; later is safe.
    pub key_since: Wall,
}

/// The state of a backend, as probers and operators see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BackendState {
    /// Not yet probed often enough to say.
    Unknown,
    /// Takes traffic.
    Up,
    /// Takes traffic, the last probes failed.
    GoingDown,
    /// Takes none.
    Down,
    /// Takes none, the last probes succeeded.
    GoingUp,
    /// An operator's order: keeps its sessions, gets no new ones.
    Draining,
    /// An operator's order: takes nothing.
    Maintenance,
    /// Taken out by this node alone on what its own requests met.
    Ejected,
}

impl BackendState {
    /// As operators read it, in logs, events and answers alike.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Up => "up",
            Self::GoingDown => "going-down",
            Self::Down => "down",
            Self::GoingUp => "going-up",
            Self::Draining => "draining",
            Self::Maintenance => "maintenance",
            Self::Ejected => "ejected",
        }
    }
}

/// One prober's word on one backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Whom it is about.
    pub backend: BackendId,
    /// `Unknown`, `Up`, `GoingDown`, `Down` or `GoingUp`.
    pub state: BackendState,
    /// While up: when the last break ended that this prober knows of, [`Hlc::ZERO`] when it knows of none.
    /// While down: when the break began.
    pub since: Hlc,
}

/// What a node's region can do for one pool, for the other regions to know. In the unit of backend weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PoolSummary {
    /// Backends of this region that take traffic.
    pub healthy: u32,
    /// Backends of this region.
    pub total: u32,
    /// The sum of the weights of the healthy ones.
    pub capacity: u32,
    /// Requests in flight on them, over the nodes of the region.
    pub in_flight: u32,
}
