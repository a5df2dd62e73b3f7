//! What each node came to believe, and when: the events of all nodes in one list.

use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gossip::clock::Clock;
use gossip::id::NodeName;
use gossip::simulated::Node;
use gossip::state::MeshEvent;
use tokio::sync::broadcast::error::RecvError;

/// One thing that a node came to believe.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub(crate) at: Instant,
    pub(crate) by: NodeName,
    pub(crate) event: MeshEvent,
}

/// The list. Clones are one list.
#[derive(Debug, Clone)]
pub(crate) struct Log {
    clock: Clock,
    began: Instant,
    entries: Arc<Mutex<Vec<Entry>>>,
}

impl Log {
    pub(crate) fn new(clock: &Clock) -> Self {
        Self { clock: clock.clone(), began: clock.now(), entries: Arc::default() }
    }

    /// Writes down what a node comes to believe, until it ends. Verdicts are too many and are left out.
    pub(crate) fn follow(&self, by: NodeName, node: &Node) {
        let (log, mut events) = (self.clone(), node.events());
        tokio::spawn(async move {
            loop {
                match events.recv().await {
                    Ok(MeshEvent::VerdictChanged { .. }) => {}
                    Ok(event) => log.lock().push(Entry { at: log.clock.now(), by: by.clone(), event }),
                    Err(RecvError::Lagged(lost)) => {
                        // Nothing that follows could be believed.
                        eprintln!("{lost} events of {by} were lost");
                        std::process::exit(1);
                    }
                    Err(RecvError::Closed) => return,
                }
            }
        });
    }

    /// The entries from `since` on.
    pub(crate) fn since(&self, since: Instant) -> Vec<Entry> {
        let entries = self.lock();
        let first = entries.partition_point(|entry| entry.at < since);
        entries[first..].to_vec()
    }

    /// How many entries are so.
    pub(crate) fn count(&self, is: impl Fn(&MeshEvent) -> bool) -> usize {
        self.lock().iter().filter(|entry| is(&entry.event)).count()
    }

    /// All of it, a line an entry.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        for Entry { at, by, event } in self.lock().iter() {
            let at: Duration = *at - self.began;
            let _ = writeln!(text, "{:.3} {by}: {event:?}", at.as_secs_f64());
        }
        text
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
