//! The immutable view: everything this node believes about the mesh at one moment.
mod diff;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::node::{Failure, NodeRecord, PoolSummary, Verdict};
use crate::id::{NodeName, PoolName, RegionName, RevisionId, Tag};

pub use diff::diff;

/// What is believed of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemberState {
    /// It speaks.
    Alive,
    /// Silent for a moment: gets no DNS answers and no tunnels, keeps its pins and its health work.
    Suspect,
    /// Silent for long: its pins are replicated anew.
    Dead,
    /// It is leaving: serves what it has, gets nothing new.
    Draining,
    /// It said goodbye.
    Left,
}

/// One node as this node sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    /// What it says of itself.
    pub record: NodeRecord,
    /// What is believed of it.
    pub state: MemberState,
    /// When that belief began.
    pub since: Instant,
    /// The round trip to it; `None` without a connection and for the node itself.
    pub rtt: Option<Duration>,
    /// Its verdicts on the backends it probes, by pool.
    pub verdicts: Arc<BTreeMap<PoolName, Vec<Verdict>>>,
    /// What it says its region can do, by pool.
    pub summaries: Arc<BTreeMap<PoolName, PoolSummary>>,
    /// Why its probes fail, by pool.
    pub failures: Arc<BTreeMap<PoolName, Vec<Failure>>>,
    /// The round trips that it measures, by the tags of the nodes' names.
    pub rtts: Arc<BTreeMap<Tag, Duration>>,
}

impl Member {
    /// Whether it may be given new work: neither suspect, dead nor on its way out.
    pub fn is_alive(&self) -> bool {
        self.state == MemberState::Alive
    }

    /// Whether it still counts as a holder of pins and a prober: alive, suspect or draining.
    pub fn counts(&self) -> bool {
        matches!(self.state, MemberState::Alive | MemberState::Suspect | MemberState::Draining)
    }
}

/// Everything this node believes about the mesh. Immutable; a change makes a new one.
#[derive(Debug, Clone, PartialEq)]
pub struct ClusterView {
    /// This node.
    pub me: NodeName,
    /// All nodes known, this one included.
    pub members: BTreeMap<NodeName, Arc<Member>>,
    /// Since when this node hears none of its peers though it had some (I5); until one is heard again or all have said
    /// goodbye. With several peers their states stand still for the first 10 s of it; a single one is suspect at once.
    pub isolated_since: Option<Instant>,
}

impl ClusterView {
    /// This node's own entry, unless the view is empty.
    pub fn own(&self) -> Option<&Arc<Member>> {
        self.members.get(&self.me)
    }

    /// The round trip between two nodes, as this node measures it or as one of them tells. `None`: nobody knows.
    pub fn rtt(&self, from: &NodeName, to: &NodeName) -> Option<Duration> {
        let measured = |other: &NodeName| self.members.get(other)?.rtt;
        let told =
            |by: &NodeName, to: &NodeName| self.members.get(by)?.rtts.get(&Tag::of(to.as_str())).copied();
        match () {
            () if *from == self.me => measured(to).or_else(|| told(to, from)),
            () if *to == self.me => measured(from).or_else(|| told(from, to)),
            () => told(from, to).or_else(|| told(to, from)),
        }
    }

    /// The shortest round trip between any two living nodes of two regions.
    pub fn rtt_of_regions(&self, from: &RegionName, to: &RegionName) -> Option<Duration> {
        let living = |region| self.region(region).filter(|member| member.counts());
        let pairs = living(from).flat_map(|a| living(to).map(move |b| (a, b)));
        pairs.filter_map(|(a, b)| self.rtt(&a.record.name, &b.record.name)).min()
    }

    /// The members of one region, by name.
    pub fn region<'a>(&'a self, region: &'a RegionName) -> impl Iterator<Item = &'a Arc<Member>> + 'a {
        self.members.values().filter(move |member| member.record.region == *region)
    }
}

/// Something that happened in the mesh, for logs, `status` and `events`.
#[derive(Debug, Clone, PartialEq)]
pub enum MeshEvent {
    /// A node was seen for the first time, or came back after death or leave.
    Joined(NodeName),
    /// A node said goodbye.
    Left(NodeName),
    /// A node said that its next life, in another process, takes over: it is silent for a moment.
    HandsOver(NodeName),
    /// A node fell silent.
    Suspect(NodeName),
    /// A suspect spoke again.
    Cleared(NodeName),
    /// A suspect stayed silent.
    Dead(NodeName),
    /// A prober changed its word on a backend.
    VerdictChanged {
        /// The prober.
        by: NodeName,
        /// The backend's pool.
        pool: PoolName,
        /// Its new word.
        verdict: Verdict,
    },
    /// A node runs another revision than before.
    RevisionChanged {
        /// Which node.
        node: NodeName,
        /// What it runs now.
        revision: Option<RevisionId>,
    },
    /// All peers fell silent at once (I5).
    Isolated,
    /// A peer was heard again after isolation.
    Rejoined,
    /// A second node claimed a living node's name and was refused.
    NameTaken {
        /// The name.
        name: NodeName,
        /// Where the one is that was refused.
        by: SocketAddr,
    },
    /// This node runs with the name of a living node, which was not reachable when it started: it should stop.
    NameLost {
        /// Where the owner of the name is.
        to: SocketAddr,
    },
    /// This node's clock is more than 500 ms off the mesh's; positive when the mesh is ahead. It goes on with the
    /// corrected time. Said again when it is right again.
    ClockOff {
        /// How far the mesh is ahead.
        offset_millis: i64,
    },
}
