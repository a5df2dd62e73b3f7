//! Asks the other nodes what they saw, answers them, and writes the log.
//!
//! Two tasks. They may be stopped at any point: what was not heard is asked for again, and who ends the node writes the log once
//! more ([`EventLog::save`]).

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use gossip::clock::{Clock, ticks};
use gossip::id::NodeName;
use gossip::mesh::{Inbound, Mesh};
use gossip::state::{ClusterView, MemberState};
use tokio::sync::watch;

use super::EventLog;
use super::wire::{self, CHANNEL};
use crate::backend::Snapshot;

/// How long a node may take to answer.
const TIMEOUT: Duration = Duration::from_millis(500);
/// How often the others are asked, in a mesh of up to [`CROWD`] nodes; less often in a larger one. What a node saw is known elsewhere
/// when it dies, but for its last moment.
const BEAT: Duration = Duration::from_secs(1);
const CROWD: usize = 50;
/// The log is written after so many times.
const WRITE_EVERY: u32 = 5;

/// The way to what other nodes saw. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Spread {
    mesh: Mesh,
    view: watch::Receiver<Arc<ClusterView>>,
    snapshot: watch::Receiver<Arc<Snapshot>>,
    log: Arc<EventLog>,
    clock: Clock,
}

impl Spread {
    /// The way, and the two tasks: one answers the others, one asks them.
    pub(crate) fn start(
        mesh: Mesh,
        view: watch::Receiver<Arc<ClusterView>>,
        snapshot: watch::Receiver<Arc<Snapshot>>,
        log: Arc<EventLog>,
        clock: Clock,
    ) -> (Self, impl Future<Output = ()> + Send + use<>, impl Future<Output = ()> + Send + use<>) {
        let spread = Self { mesh, view, snapshot, log, clock };
        let mut asked = spread.mesh.listen(CHANNEL);
        let answering = spread.log.clone();
        let answer = async move {
            while let Some(inbound) = asked.recv().await {
                if let Inbound::Exchange { bytes, reply, .. } = inbound
                    && let Some(known) = wire::asked(&bytes)
                {
                    reply.send(wire::encode(&answering.told_after(known)));
                }
            }
        };
        let ask = spread.clone().run();
        (spread, answer, ask)
    }

    /// Hears what all nodes saw that answer in time. The names of those that do not.
    pub(super) async fn gather(&self) -> Vec<NodeName> {
        let peers: Vec<NodeName> = {
            let view = self.view.borrow();
            let speak = |state| matches!(state, MemberState::Alive | MemberState::Draining);
            let peers = view.members.values().filter(|m| speak(m.state) && m.record.name != view.me);
            peers.map(|member| member.record.name.clone()).collect()
        };
        let heard = join_all(peers.iter().map(|peer| self.ask(peer))).await;
        peers.into_iter().zip(heard).filter(|(_, heard)| !heard).map(|(peer, _)| peer).collect()
    }

    async fn ask(&self, peer: &NodeName) -> bool {
        let known = self.log.known_of(peer);
        let answer = self.mesh.exchange(peer, CHANNEL, wire::question(known), TIMEOUT).await;
        let told = answer.ok().and_then(|bytes| wire::decode(&bytes));
        let answered = told.is_some();
        if let Some(told) = told {
            self.log.hear(peer, known, told, self.clock.mesh_wall());
        }
        answered
    }

    async fn run(self) {
        let mut beats = ticks(BEAT);
        let (mut rested, mut asked) = (0, 0);
        let mut unwritten = false;
        loop {
            tokio::select! {
                _ = beats.tick() => rested += 1,
                () = self.log.wanted.notified() => rested = u32::MAX,
            }
            let nodes = self.view.borrow().members.len();
            if rested < (nodes / CROWD) as u32 {
                continue;
            }
            rested = 0;
            self.gather().await;
            asked += 1;
            if asked < WRITE_EVERY {
                continue;
            }
            asked = 0;
            let (view, snapshot) = (self.view.borrow().clone(), self.snapshot.borrow().clone());
            self.log.forget_all_but(&view, &snapshot);
            let log = self.log.clone();
            // A task that panicked has told so.
            let Ok(written) = tokio::task::spawn_blocking(move || log.save()).await else { continue };
            if let Err(error) = &written
                && !unwritten
            {
                tracing::warn!(%error, "events cannot be written to the data folder; a restart would forget them");
            }
            unwritten = written.is_err();
        }
    }
}
