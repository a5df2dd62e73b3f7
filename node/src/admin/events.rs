//! What happened, the last thousand of it, for `GET /v1/events`.

use std::collections::VecDeque;
use std::sync::Mutex;

use gossip::clock::{Clock, Wall};
use gossip::state::MeshEvent;
use serde::{Deserialize, Serialize};

/// How many events are kept; older ones are forgotten.
const KEPT: usize = 1000;

/// One thing that happened.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Event {
    /// Grows by one with each event of this node.
    pub(crate) seq: u64,
    /// Milliseconds since 1970.
    pub(crate) at_ms: u64,
    /// `joined left suspect cleared dead verdict revision isolated rejoined name-taken backends source-failing
    /// source-well lease`.
    pub(crate) kind: String,
    /// Whom it is about: a node, or a pool and a backend's id.
    pub(crate) subject: String,
    /// In words.
    pub(crate) text: String,
}

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    events: VecDeque<Event>,
}

/// The last events of this node, oldest first.
#[derive(Debug, Default)]
pub(crate) struct EventLog(Mutex<Inner>);

impl EventLog {
    /// Takes note of a mesh event, and logs it.
    pub(crate) fn record(&self, event: &MeshEvent, clock: &Clock) {
        let (kind, subject, text) = describe(event);
        match event {
            // One a prober and backend, one a node and apply: what they add up to is logged where it is concluded.
            MeshEvent::VerdictChanged { .. } | MeshEvent::RevisionChanged { .. } => {
                tracing::debug!(kind, "{text}");
            }
            MeshEvent::Joined(_) | MeshEvent::Left(_) | MeshEvent::Cleared(_) | MeshEvent::Rejoined => {
                tracing::info!(kind, "{text}");
            }
            _ => tracing::warn!(kind, "{text}"),
        }
        self.push(kind, subject, text, clock.wall());
    }

    /// Takes note of what a room of this node found worth it, and logs it.
    pub(crate) fn note(&self, kind: &str, subject: String, text: String, clock: &Clock) {
        tracing::info!(kind, "{text}");
        self.push(kind, subject, text, clock.wall());
    }

    fn push(&self, kind: &str, subject: String, text: String, at: Wall) {
        let Ok(mut inner) = self.0.lock() else { return };
        inner.next += 1;
        let seq = inner.next;
        if inner.events.len() == KEPT {
            inner.events.pop_front();
        }
        inner.events.push_back(Event { seq, at_ms: at.0, kind: kind.into(), subject, text });
    }

    /// The events after number `seq`.
    pub(crate) fn after(&self, seq: u64) -> Vec<Event> {
        let Ok(inner) = self.0.lock() else { return Vec::new() };
        inner.events.iter().filter(|event| event.seq > seq).cloned().collect()
    }
}

fn describe(event: &MeshEvent) -> (&'static str, String, String) {
    match event {
        MeshEvent::Joined(name) => ("joined", name.to_string(), format!("{name} joined the mesh")),
        MeshEvent::Left(name) => ("left", name.to_string(), format!("{name} left the mesh")),
        MeshEvent::Suspect(name) => ("suspect", name.to_string(), format!("{name} is silent: suspected")),
        MeshEvent::Cleared(name) => ("cleared", name.to_string(), format!("{name} speaks again")),
        MeshEvent::Dead(name) => ("dead", name.to_string(), format!("{name} is dead")),
        MeshEvent::VerdictChanged { by, pool, verdict } => (
            "verdict",
            format!("{pool}/{}", verdict.backend),
            format!("{by} says {} of backend {} in pool {pool}", verdict.state.as_str(), verdict.backend),
        ),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_forgets_the_oldest() {
        let clock = Clock::simulated(Wall(1));
        let log = EventLog::default();
        for _ in 0..KEPT + 10 {
            log.record(&MeshEvent::Isolated, &clock);
        }
        let all = log.after(0);
        assert_eq!(all.len(), KEPT);
        assert_eq!(all[0].seq, 11);
        assert_eq!(log.after(KEPT as u64 + 9).len(), 1);
    }
}
