//! Asking the other nodes what time it is, and going by what they say as far as [`crate::offset`] allows.

use std::collections::BTreeSet;

use tokio::sync::broadcast;

use super::control;
use crate::clock::Clock;
use crate::id::NodeName;
use crate::mesh::Mesh;
use crate::offset::{ALARM_MILLIS, Offsets};
use crate::state::MeshEvent;

pub(super) struct Clocks {
    offsets: Offsets,
    mesh: Mesh,
    clock: Clock,
    events: broadcast::Sender<MeshEvent>,
}

impl Clocks {
    pub(super) fn new(mesh: Mesh, clock: Clock, events: broadcast::Sender<MeshEvent>) -> Self {
        Self { offsets: Offsets::default(), mesh, clock, events }
    }

    /// Asks all that are alive; forgets what others said. Each answer goes to `answered`, and from there to
    /// [`Clocks::measured`].
    pub(super) fn ask(
        &mut self,
        alive: BTreeSet<NodeName>,
        answered: impl Fn(NodeName, i64) + Clone + Send + 'static,
    ) {
        self.offsets.retain(|name| alive.contains(name));
        self.correct();
        for name in alive {
            let asking = control::ask_clock(self.mesh.clone(), self.clock.clone(), name.clone());
            let answered = answered.clone();
            tokio::spawn(async move {
                if let Some(offset) = asking.await {
                    answered(name, offset);
                }
            });
        }
    }

    pub(super) fn measured(&mut self, peer: NodeName, offset_millis: i64) {
        self.offsets.measured(peer, offset_millis);
        self.correct();
    }

    fn correct(&mut self) {
        self.clock.correct(self.offsets.correction());
        self.clock.note_deviation(self.offsets.deviation());
        if let Some(offset_millis) = self.offsets.alarm() {
            tracing::warn!(offset_millis, limit = ALARM_MILLIS, "this node's clock against the mesh's");
            let _ = self.events.send(MeshEvent::ClockOff { offset_millis });
        }
    }
}
