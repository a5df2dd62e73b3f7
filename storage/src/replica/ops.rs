//! Commands under way, and the acknowledged write. The look-up is in [`super::search`], the compare-and-set in
//! [`super::election`].
//!
//! ```text
//!   commit   Put to the replicas      two hold it ─▶ Acknowledged      too many fail or max(20 ms, 1.5 RTT) ─▶ Degraded
//! ```
//!
//! A node that is a replica of the record itself counts as one of the two. One that is none keeps the record until all
//! replicas have it (*draft*).

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use gossip::clock::Hlc;
use gossip::id::NodeName;

use super::election::Asker;
use super::search::Search;
use super::{Command, Due, Effect, Mates, Now, OpId, Outcome, Replica, WAIT_MAX, add};
use crate::pin::Pin;
use crate::placement::bucket_of;
use crate::plant::Plant;
use crate::sessions::Committed;
use crate::table::{Merged, Record};

/// The most commands under way; beyond it a command ends at once as if nobody could be reached.
pub const OPS_MAX: usize = 16_384;

/// An acknowledged record lies with so many of its replicas, so that a look-up which all others deny has missed none.
const ACKNOWLEDGED: usize = 2;

const ACK_WAIT_MIN: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub(super) struct Pending {
    deadline: Instant,
    kind: Kind,
}

#[derive(Debug)]
pub(super) enum Kind {
    /// So many replicas have not answered, so many must still have acknowledged.
    Commit {
        record: Record,
        waiting: usize,
        wanted: usize,
    },
    Find(Search),
    Forward {
        record: Record,
        replaces: Hlc,
        rest: VecDeque<NodeName>,
    },
}

/// A record of others that this node keeps until all its replicas have acknowledged it.
#[derive(Debug)]
pub(super) struct Draft {
    pin: Pin,
    missing: usize,
}

impl Pending {
    pub(super) fn is_search(&self) -> bool {
        matches!(self.kind, Kind::Find(_))
    }
}

impl Replica {
    /// Starts a command; it ends in one [`Effect::Done`], perhaps at once (a refresh ends in none).
    pub fn command(&mut self, op: OpId, command: Command, now: Now) {
        match command {
            Command::Commit(record) => self.commit(op, record, false, now),
            Command::CommitPatiently(record) => self.commit(op, record, true, now),
            Command::Find(home, id) => self.find(op, home, id, now),
            Command::Repin { record, replaces } => self.repin(Asker::Here(op), record, replaces, now),
            Command::Keep(_) if self.table.plants().has(Plant::ForgetForward) => {}
            Command::Keep(record) => {
                self.take(record, now);
                for to in self.others(record.home, bucket_of(&record.pin.id)) {
                    self.post(&to, record, None);
                }
            }
            Command::Refresh(home, id, expires) => {
                self.refresh_here(home, id, expires, now);
                for to in self.others(home, bucket_of(&id)) {
                    self.post_refresh(&to, home, id, expires);
                }
            }
        }
    }

    fn commit(&mut self, op: OpId, record: Record, patient: bool, now: Now) {
        let bucket = bucket_of(&record.pin.id);
        let mine = self.mates.is_mine(record.home, bucket);
        if mine && matches!(self.take(record, now), Merged::Known(_)) {
            // The face has put it into the table already, for the next request to see.
            self.effects.push(Effect::Save(record.home, record.pin.id));
        }
        let others = self.others(record.home, bucket);
        if others.is_empty() && mine {
            // Nobody else is there to ask.
            return self.done(op, Outcome::Committed(Committed::Alone));
        }
        let mut waiting = 0;
        if self.ops.len() < OPS_MAX {
            waiting = others.iter().filter(|to| self.post(to, record, Some(op))).count();
        }
        if waiting == 0 {
            return self.degraded(op, record, now);
        }
        if !mine && self.table.merge(record, now.wall).held() == Some(record.pin) && waiting == others.len() {
            let draft = Draft { pin: record.pin, missing: waiting };
            self.drafts.insert((record.home, record.pin.id), draft);
        }
        let patient = patient && others.iter().any(|node| self.mates.is_alive(node));
        let wait = if patient { WAIT_MAX } else { ack_wait(&self.mates, &others) };
        let deadline = now.instant + wait;
        let wanted = (ACKNOWLEDGED - usize::from(mine)).min(others.len());
        self.pend(op, deadline, Kind::Commit { record, waiting, wanted });
    }

    /// One of its replicas has acknowledged a draft, or has not: then it is kept for the next round of repair to hand over.
    pub(super) fn draft_answered(&mut self, record: &Record, held: bool) {
        let key = (record.home, record.pin.id);
        let Some(draft) = self.drafts.get_mut(&key).filter(|draft| draft.pin == record.pin) else { return };
        draft.missing -= 1;
        if held && draft.missing > 0 {
            return;
        }
        self.drafts.remove(&key);
        let bucket = bucket_of(&key.1);
        if held && !self.mates.is_mine(key.0, bucket) {
            self.table.remove_unchanged(key.0, bucket, &HashMap::from([(key.1, record.pin)]));
        } else {
            self.effects.push(Effect::Save(key.0, key.1));
        }
    }

    /// Nobody acknowledged. A node that keeps the record itself repairs it; any other holds on to it until it can be
    /// handed over.
    fn degraded(&mut self, op: OpId, record: Record, now: Now) {
        add(&self.counters.degraded, 1);
        self.take(record, now);
        self.effects.push(Effect::Save(record.home, record.pin.id));
        self.done(op, Outcome::Committed(Committed::Degraded));
    }

    pub(super) fn put_answered(&mut self, op: OpId, held: bool, now: Now) {
        let Some(Kind::Commit { record, waiting, wanted }) =
            self.ops.get_mut(&op).map(|pending| &mut pending.kind)
        else {
            return;
        };
        *waiting -= 1;
        *wanted -= usize::from(held);
        let (record, last) = (*record, *waiting == 0);
        if *wanted == 0 {
            self.done(op, Outcome::Committed(Committed::Acknowledged));
        } else if last {
            self.degraded(op, record, now);
        }
    }

    /// A command's time is over.
    pub(super) fn overdue(&mut self, op: OpId, now: Now) {
        match self.ops.get(&op).map(|pending| &pending.kind) {
            Some(Kind::Commit { record, .. }) => self.degraded(op, *record, now),
            Some(Kind::Find(_)) => self.search_overdue(op, now),
            Some(Kind::Forward { .. }) => self.forward_failed(op, now),
            None => {}
        }
    }

    pub(super) fn kind(&mut self, op: OpId) -> Option<&mut Kind> {
        self.ops.get_mut(&op).map(|pending| &mut pending.kind)
    }

    pub(super) fn pend(&mut self, op: OpId, deadline: Instant, kind: Kind) {
        self.deadlines.insert((deadline, Due::Op(op)));
        self.ops.insert(op, Pending { deadline, kind });
    }

    /// Gives a command more time.
    pub(super) fn prolong(&mut self, op: OpId, deadline: Instant) {
        if let Some(pending) = self.ops.get_mut(&op) {
            self.deadlines.remove(&(pending.deadline, Due::Op(op)));
            pending.deadline = deadline;
            self.deadlines.insert((deadline, Due::Op(op)));
        }
    }

    pub(super) fn done(&mut self, op: OpId, outcome: Outcome) {
        if let Some(pending) = self.ops.remove(&op) {
            self.deadlines.remove(&(pending.deadline, Due::Op(op)));
        }
        self.effects.push(Effect::Done(op, outcome));
    }
}

/// How long a new record waits for its first acknowledgement (I3).
pub(super) fn ack_wait(mates: &Arc<Mates>, others: &[NodeName]) -> Duration {
    let fastest = others.iter().filter_map(|node| mates.peers.get(node)?.rtt).min().unwrap_or_default();
    (fastest * 3 / 2).clamp(ACK_WAIT_MIN, WAIT_MAX)
}
