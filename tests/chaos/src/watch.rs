//! What the nodes believe of each other, written down with the time, five times a second.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use gossip::clock::Clock;
use serde::Deserialize;
use tokio::task::JoinSet;

use crate::host::ask;

const EVERY: Duration = Duration::from_millis(200);
const PATIENCE: Duration = Duration::from_secs(2);

/// One member, as `GET /v1/members` lists it.
#[derive(Debug, Clone, Deserialize)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// `alive suspect dead draining left`.
    pub state: String,
}

/// A belief that changed.
#[derive(Debug, Clone)]
pub struct Sighting {
    /// When that was seen.
    pub at: Instant,
    /// Whose belief.
    pub by: String,
    /// About whom.
    pub of: String,
    /// What it is now.
    pub state: String,
}

#[derive(Debug, Default)]
struct Book {
    now: BTreeMap<(String, String), String>,
    sightings: Vec<Sighting>,
}

/// The watch; dropping it ends it.
#[derive(Debug)]
pub struct Watch {
    book: Arc<Mutex<Book>>,
    _tasks: JoinSet<()>,
}

impl Watch {
    /// Begins to ask these nodes.
    pub fn start(nodes: impl IntoIterator<Item = (String, PathBuf)>) -> Self {
        let book = Arc::new(Mutex::new(Book::default()));
        let mut tasks = JoinSet::new();
        for (name, socket) in nodes {
            let book = book.clone();
            tasks.spawn(async move {
                let clock = Clock::system();
                loop {
                    let asked =
                        tokio::time::timeout(PATIENCE, ask::<Vec<Member>>(&socket, "/v1/members")).await;
                    if let Ok(Ok(members)) = asked {
                        note(&book, &name, members, clock.now());
                    }
                    tokio::time::sleep(EVERY).await;
                }
            });
        }
        Self { book, _tasks: tasks }
    }

    /// What changed since.
    pub fn since(&self, from: Instant) -> Vec<Sighting> {
        let book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        book.sightings.iter().filter(|sighting| sighting.at >= from).cloned().collect()
    }
}

fn note(book: &Mutex<Book>, by: &str, members: Vec<Member>, at: Instant) {
    let mut book = book.lock().unwrap_or_else(PoisonError::into_inner);
    for Member { name, state } in members {
        let key = (by.to_owned(), name.clone());
        if book.now.insert(key, state.clone()).as_ref() != Some(&state) {
            book.sightings.push(Sighting { at, by: by.to_owned(), of: name, state });
        }
    }
}
