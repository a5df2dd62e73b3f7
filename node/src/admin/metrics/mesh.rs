//! What this node believes of the mesh, and how far the mesh is with the configuration.

use gossip::Gauges;
use gossip::keyring::MAX_KEYS;
use gossip::state::{ClusterView, MemberState};
use storage::intents::MAP_MAX_BYTES;

use super::family::{Family, Labels};
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
    let gauges = &context.mesh_gauges;
    let state = Family::bounded(
        [
            ("gossip_state_bytes", "What this node gossips of itself: keys and values"),
            ("gossip_state_bytes_limit", "What it may gossip; more is left out, and told in the log"),
        ],
        [(Labels::new(), gauges.state_bytes() as f64, Gauges::STATE_MAX_BYTES as f64)],
    );
    let streams = gauges
        .tunnel_streams()
        .into_iter()
        .map(|(peer, open)| (vec![("peer", peer.to_string())], open as f64, f64::from(Gauges::TUNNELS_MAX)));
    let streams = Family::bounded(
        [
            ("tunnel_streams", "Requests and connections that a peer has sent here and that last"),
            ("tunnel_streams_limit", "How many of them a peer may have here at once"),
        ],
        streams,
    );
    let queues = context
        .mesh
        .links()
        .into_iter()
        .filter_map(|link| Some((link.peer?, link.queued, link.queued_bytes)));
    let queues: Vec<_> =
        queues.map(|(peer, many, bytes)| (vec![("peer", peer.to_string())], many, bytes)).collect();
    let messages = Family::bounded(
        [
            ("mesh_queue_messages", "Messages that wait for a peer"),
            (
                "mesh_queue_messages_limit",
                "How many may wait; further ones are refused, and their senders go on without",
            ),
        ],
        queues.iter().map(|(peer, many, _)| (peer.clone(), *many as f64, Gauges::QUEUE_MAX as f64)),
    );
    let bytes = Family::bounded(
        [
            ("mesh_queue_bytes", "What the messages weigh that wait for a peer"),
            (
                "mesh_queue_bytes_limit",
                "What they may weigh; further ones are refused, and their senders go on without",
            ),
        ],
        queues.iter().map(|(peer, _, bytes)| (peer.clone(), *bytes as f64, Gauges::QUEUE_MAX_BYTES as f64)),
    );
    let connections = Family::bounded(
        [
            ("mesh_connections", "Connections of the mesh's endpoint, to and from peers"),
            ("mesh_connections_limit", "How many there may be; new ones are refused then"),
        ],
        [(Labels::new(), context.mesh.connections() as f64, Gauges::CONNECTIONS_MAX as f64)],
    );
    let handshakes = Family::bounded(
        [
            ("mesh_handshakes", "Handshakes of strangers at the mesh's port that are not finished"),
            (
                "mesh_handshakes_limit",
                "How many there may be; further strangers are refused then, and peers are not",
            ),
        ],
        [(Labels::new(), context.mesh.handshakes() as f64, Gauges::HANDSHAKES_MAX as f64)],
    );
    let known = Family::bounded(
        [
            ("mesh_nodes", "Nodes that this one knows of, gone ones too until they are forgotten"),
            ("mesh_nodes_limit", "Nodes that it may know of; further ones are not seen"),
        ],
        [(Labels::new(), view.members.len() as f64, Gauges::NODES_MAX as f64)],
    );
    let keys = Family::bounded(
        [
            ("mesh_keys", "Keys in this node's ring"),
            ("mesh_keys_limit", "Keys that a ring may hold; a further one is refused"),
        ],
        [(Labels::new(), context.mesh_keys.held() as f64, MAX_KEYS as f64)],
    );
    let orders = Family::bounded(
        [
            ("intents_bytes", "What all orders weigh, those taken back of late too"),
            ("intents_bytes_limit", "What they may weigh; further ones are refused"),
        ],
        [(Labels::new(), context.intents.bytes() as f64, MAP_MAX_BYTES as f64)],
    );
    let info = vec![
        ("node", context.node.to_string()),
        ("region", snapshot.region.to_string()),
        ("zone", snapshot.zone.as_ref().map(ToString::to_string).unwrap_or_default()),
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
    ];
    let revision = status::revision(view, snapshot.revision);
    let revision = |of: &dyn Fn(&crate::admin::api::RevisionStatus) -> f64| revision.as_ref().map_or(0.0, of);
    let pairs = [state, streams, orders, messages, bytes, connections, handshakes, known, keys];
    let bounded = pairs.into_iter().flatten();
    let families = vec![
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
    ];
    families.into_iter().chain(bounded).collect()
}
