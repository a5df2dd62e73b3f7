//! What this node believes of the mesh, and how far the mesh is with the configuration.

use gossip::state::{ClusterView, MemberState};

use super::family::Family;
use crate::admin::{Context, status};
use crate::backend::Snapshot;

pub(super) fn families(context: &Context, view: &ClusterView, snapshot: &Snapshot) -> Vec<Family> {
    let states = [
        ("alive", MemberState::Alive),
        ("suspect", MemberState::Suspect),
        ("dead", MemberState::Dead),
        ("draining", MemberState::Draining),
        ("left", MemberState::Left),
    ];
    let members = states.map(|(name, state)| {
        let count = view.members.values().filter(|member| member.state == state).count();
        (vec![("state", name.to_owned())], count as f64)
    });
    let rtt = view.members.iter().filter_map(|(name, member)| {
        let seconds = member.rtt?.as_secs_f64();
        Some((vec![("peer", name.to_string()), ("region", member.record.region.to_string())], seconds))
    });
    let info = vec![
        ("node", context.node.to_string()),
        ("region", snapshot.region.to_string()),
        ("zone", snapshot.zone.as_ref().map(ToString::to_string).unwrap_or_default()),
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
    ];
    let revision = status::revision(view, snapshot.revision);
    let revision = |of: &dyn Fn(&crate::admin::api::RevisionStatus) -> f64| revision.as_ref().map_or(0.0, of);
    vec![
        Family::gauges("node_info", "1; what this node is stands in the labels", [(info, 1.0)]),
        Family::gauges("mesh_members", "Nodes of the mesh in a state, this one too", members),
        Family::gauges("mesh_peer_rtt_seconds", "The round trip to a peer", rtt),
        Family::gauge(
            "mesh_isolated",
            "1 while no peer is heard",
            f64::from(u8::from(view.isolated_since.is_some())),
        ),
        Family::count(
            "mesh_dropped",
            "Payloads of peers that were dropped: a full queue, a broken limit",
            context.mesh.dropped(),
        ),
        Family::gauge(
            "clock_correction_seconds",
            "How far the mesh's clock is ahead of this node's",
            context.clock.correction() as f64 / 1e3,
        ),
        Family::gauge(
            "revision_epoch",
            "The number of the revision in force; 0: none yet",
            revision(&|is| is.epoch as f64),
        ),
        Family::gauge(
            "revision_nodes",
            "Living nodes on this node's revision",
            revision(&|is| is.nodes_on as f64),
        ),
        Family::gauge("intents", "Orders in force", context.intents.list().len() as f64),
    ]
}
