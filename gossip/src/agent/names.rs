//! One member a name: what newcomers are answered, and what is said when two run all the same.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::broadcast;

use super::control::{self, Control};
use super::roster::Roster;
use crate::id::NodeName;
use crate::liveness::Liveness;
use crate::membership::{Known, Life};
use crate::mesh::{Mesh, Peer, Reply};
use crate::state::{MemberState, MeshEvent};

/// How long the believed owner of a name has to say that it lives.
const OWNER_PATIENCE: Duration = Duration::from_millis(700);

/// A node that asks whether it may have the name it shows.
pub(super) struct Newcomer {
    pub(super) peer: Peer,
    pub(super) generation: u64,
    pub(super) addr: SocketAddr,
}

/// Answers a newcomer. A node believed to live is asked itself, beside this task, since the newcomer may be its next life
/// after a crash.
pub(super) fn answer(
    newcomer: Newcomer,
    me: &Life,
    roster: &Roster,
    liveness: &Liveness,
    mesh: &Mesh,
    events: &broadcast::Sender<MeshEvent>,
    reply: Reply,
) {
    let Newcomer { peer, generation, addr } = newcomer;
    if peer.name == me.name {
        let other = generation != me.generation;
        if other {
            refused(&peer.name, addr, me.advertise, events);
        }
        return reply.send(control::encode_owner(other.then_some(me.advertise)));
    }
    let state = liveness.state(&peer.name).map(|(state, _)| state);
    let lives = matches!(state, Some(MemberState::Alive | MemberState::Draining | MemberState::Suspect));
    let owner =
        roster.get(&peer.name).filter(|known| lives && known.addr != addr && known.generation != generation);
    let Some(owner) = owner.map(|known| known.addr) else {
        return reply.send(control::encode_owner(None));
    };
    let (mesh, events) = (mesh.clone(), events.clone());
    tokio::spawn(async move {
        let question = Control::WhichLife.encode();
        let said = mesh.exchange_with_addr(owner, control::CHANNEL, &question, OWNER_PATIENCE).await;
        let lives = said.is_some_and(|(name, _)| name == peer.name);
        reply.send(control::encode_owner(lives.then_some(owner)));
        if lives {
            refused(&peer.name, addr, owner, &events);
        }
    });
}

/// Tells of a running node with this node's own name.
pub(super) fn twin(me: &Life, twin: &Known, events: &broadcast::Sender<MeshEvent>) {
    if twin.generation < me.generation {
        lost(twin.addr, events);
    } else {
        let addr = twin.addr;
        tracing::error!(%addr, "another node runs with this node's name; stop that one or rename it");
        let _ = events.send(MeshEvent::NameTaken { name: twin.name.clone(), by: addr });
    }
}

/// Tells that this node itself has a name that is not its own.
pub(super) fn lost(owner: SocketAddr, events: &broadcast::Sender<MeshEvent>) {
    tracing::error!(addr = %owner, "this node's name belongs to a living node; stop this one or rename it");
    let _ = events.send(MeshEvent::NameLost { to: owner });
}

fn refused(name: &NodeName, addr: SocketAddr, owner: SocketAddr, events: &broadcast::Sender<MeshEvent>) {
    tracing::warn!(peer = %name, %addr, %owner, "a second node with a living node's name was refused");
    let _ = events.send(MeshEvent::NameTaken { name: name.clone(), by: addr });
}
