//! What happened in the mesh, in words.

use gossip::clock::Wall;
use gossip::state::{ClusterView, MeshEvent};

use crate::backend::Snapshot;

/// A node that starts meets the others one by one for so long.
const MEETING_MS: u64 = 30_000;

/// Whether this node has only just come and meets what was there before: nothing happened to the others then.
pub(super) fn is_meeting(event: &MeshEvent, view: &ClusterView, now: Wall) -> bool {
    let (MeshEvent::Joined(name) | MeshEvent::RevisionChanged { node: name, .. }) = event else {
        return false;
    };
    let (Some(own), Some(other)) = (view.own(), view.members.get(name)) else { return false };
    let (came, started) = (own.record.started, other.record.started);
    *name != view.me && started < came && now.0 < came.0 + MEETING_MS
}

/// Its kind, whom it is about, and what it is.
pub(super) fn describe(event: &MeshEvent, snapshot: &Snapshot) -> (&'static str, String, String) {
    match event {
        MeshEvent::Joined(name) => ("joined", name.to_string(), format!("{name} joined the mesh")),
        MeshEvent::Left(name) => ("left", name.to_string(), format!("{name} left the mesh")),
        MeshEvent::HandsOver(name) => {
            ("hands-over", name.to_string(), format!("{name} hands over to its next process"))
        }
        MeshEvent::Suspect(name) => ("suspect", name.to_string(), format!("{name} is silent: suspected")),
        MeshEvent::Cleared(name) => ("cleared", name.to_string(), format!("{name} speaks again")),
        MeshEvent::Dead(name) => ("dead", name.to_string(), format!("{name} is dead")),
        MeshEvent::VerdictChanged { by, pool, verdict } => {
            // One of a revision that this node does not run yet has no name here.
            let known = snapshot
                .pools
                .get(pool)
                .and_then(|pool| pool.backends.iter().find(|backend| backend.config.id == verdict.backend));
            let name =
                known.map_or_else(|| verdict.backend.to_string(), |known| known.config.address.to_string());
            let state = verdict.state.as_str();
            (
                "verdict",
                format!("{pool}/{name}"),
                format!("{by} says {state} of backend {name} in pool {pool}"),
            )
        }
        MeshEvent::RevisionChanged { node, revision } => (
            "revision",
            node.to_string(),
            match revision {
                Some(id) => format!("{node} runs revision {} ({:.12})", id.epoch, id.hash_hex()),
                None => format!("{node} runs no revision"),
            },
        ),
        MeshEvent::Isolated => ("isolated", String::new(), "no peer is heard any more".into()),
        MeshEvent::Rejoined => ("rejoined", String::new(), "peers are heard again".into()),
        MeshEvent::ClockOff { offset_millis } => {
            ("clock-off", String::new(), format!("this node's clock is {offset_millis} ms off the mesh's"))
        }
        MeshEvent::NameLost { to } => {
            ("name-lost", String::new(), format!("the living node at {to} has this node's name"))
        }
        MeshEvent::NameTaken { name, by } => {
            ("name-taken", name.to_string(), format!("{by} claims the name {name} and was refused"))
        }
    }
}
