//! A session on its way through one request: from where it was found to the cookie that the answer carries.
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::BoxFuture;
use gossip::clock::{Hlc, Wall};
use gossip::id::{BackendId, RegionName, ServiceName, SessionId, Tag};
use storage::cookie::SessionCookie;
use storage::pin::{Assignment, Pin};
use storage::sessions::Committed;

use super::affinity::expiry;
use super::outcome::Affinity;
use super::plan::position;
use super::worker::Worker;
use crate::backend::PoolView;
use crate::config::model::OnDown;

/// What carries a session from one request to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Carrier {
    /// The user's cookie.
    Cookie,
    /// The user's address, so the store alone knows it.
    Source,
}

/// A session on its way through one request.
pub(super) struct Session {
    pub(super) id: SessionId,
    pub(super) carrier: Carrier,
    pub(super) home: RegionName,
    pub(super) ttl: Duration,
    pub(super) max_age: Duration,
    pub(super) on_down: OnDown,
    pub(super) first_seen: u32,
    /// The assignment in force; `None` for a session without one yet.
    pub(super) assigned: Option<(Hlc, BackendId)>,
    pub(super) pool: Tag,
    pub(super) outcome: Affinity,
    /// The client must learn something: a new assignment, or that it was seen.
    pub(super) reseal: bool,
    pub(super) commit: Option<BoxFuture<'static, Committed>>,
}

impl Session {
    /// Whether it is bound to a backend.
    pub(super) fn is_assigned(&self) -> bool {
        self.assigned.is_some()
    }

    /// Binds a session that has no assignment yet to the backend that answers, and begins to commit that.
    pub(super) fn assign(&mut self, worker: &Worker, pool: &PoolView, backend: BackendId) {
        if self.assigned.is_some() {
            return;
        }
        if let Some(at) = position(pool, backend) {
            // Else a break that a node with a faster clock saw end would look younger than this (I2).
            let _ = worker.clock().observe(pool.backends[at].up_since);
        }
        let pin = self.pin(worker, self.pool, backend);
        self.assigned = Some((pin.assignment.hlc, backend));
        let store = &worker.shared.sessions;
        self.commit = Some(match self.carrier {
            Carrier::Cookie => store.commit(&self.home, pin),
            Carrier::Source => store.commit_patiently(&self.home, pin),
        });
    }

    /// Waits until the assignment may be told to the client (I3).
    pub(super) async fn settle(&mut self, worker: &Worker) {
        if let Some(commit) = self.commit.take()
            && commit.await == Committed::Degraded
        {
            worker.shared.counters.degraded.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What became of the session.
    pub(super) fn outcome(&self) -> Affinity {
        self.outcome
    }

    /// Tells the store that the session is in use, and what the client must be told: the sealed cookie and its age.
    /// `None` when the client knows all of it.
    pub(super) fn renew(&self, worker: &Worker, service: &ServiceName) -> Option<(String, Duration)> {
        let (assigned, backend) = self.assigned.filter(|_| self.reseal)?;
        let now = worker.clock().wall();
        let expires = self.expires(now);
        // A new assignment brought its expiry along.
        let kept = matches!(self.outcome, Affinity::Kept);
        if self.carrier == Carrier::Source {
            if kept {
                worker.shared.sessions.refresh(&self.home, self.id, expires);
            }
            return None;
        }
        if kept {
            // The whole record, not its expiry alone: stores that have lost it count the session again. It is the least of all
            // with its time, so a copy that knows more stays.
            let mut known = self.pin(worker, self.pool, backend);
            (known.assignment.hlc, known.assignment.node) = (assigned, Tag::default());
            drop(worker.shared.sessions.commit(&self.home, known));
        }
        let cookie = SessionCookie {
            id: self.id,
            pool: self.pool,
            backend,
            assigned,
            home: Tag::of(self.home.as_str()),
            first_seen: self.first_seen,
            last_seen: u32::try_from(now.seconds()).unwrap_or(u32::MAX),
        };
        let left = Duration::from_secs(u64::from(expires).saturating_sub(now.seconds()));
        Some((worker.shared.cookies.seal(service, &cookie, now), left))
    }

    fn expires(&self, now: Wall) -> u32 {
        expiry(now, self.first_seen, self.ttl, self.max_age)
    }

    pub(super) fn pin(&self, worker: &Worker, pool: Tag, backend: BackendId) -> Pin {
        let clock = worker.clock();
        let assignment = Assignment {
            hlc: clock.hlc(),
            node: worker.shared.node,
            pool,
            backend: Some(backend),
            weak: false,
            forwarded: false,
        };
        Pin { id: self.id, assignment, expires: self.expires(clock.wall()) }
    }
}
