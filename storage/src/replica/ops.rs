//! Commands under way: the acknowledged write, the look-up, the count. The compare-and-set is in [`super::election`].
//!
//! ```text
//!   commit   Put to the replicas      one acknowledges ─▶ Acknowledged      all fail or max(20 ms, 1.5 RTT) ─▶ Degraded
//!   find     Get from the replicas    first copy, merged with the own ─▶ it    all lack it or 250 ms ─▶ the own, or None
//!   count    Count to all             all have answered or 250 ms ─▶ the sum
//! ```
//!
//! A node that commits a record whose replica it is not keeps it until all replicas have it (*draft*): with the one that
//! has acknowledged it these are two, so no single crash takes it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use gossip::clock::Hlc;
use gossip::id::{NodeName, SessionId, Tag};

use super::election::Asker;
use super::{Command, Due, Effect, Mates, Now, OpId, Outcome, Purpose, Replica, WAIT_MAX, add};
use crate::pin::Pin;
use crate::placement::bucket_of;
use crate::plant::Plant;
use crate::sessions::Committed;
use crate::table::{Merged, Record};
use crate::wire::{Request, Response};

/// The most commands under way; beyond it a command ends at once as if nobody could be reached.
pub(super) const OPS_MAX: usize = 16_384;

const ACK_WAIT_MIN: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub(super) struct Pending {
    deadline: Instant,
    kind: Kind,
}

#[derive(Debug)]
pub(super) enum Kind {
    Commit { record: Record, waiting: usize },
    Find { home: Tag, own: Option<Pin>, waiting: usize },
    Forward { record: Record, replaces: Hlc, rest: VecDeque<NodeName> },
    Count { sum: u64, waiting: usize },
}

/// A record of others that this node keeps until all its replicas have acknowledged it.
#[derive(Debug)]
pub(super) struct Draft {
    pin: Pin,
    missing: usize,
}

impl Replica {
    /// Starts a command; it ends in one [`Effect::Done`], perhaps at once (a refresh ends in none).
    pub fn command(&mut self, op: OpId, command: Command, now: Now) {
        match command {
            Command::Commit(record) => self.commit(op, record, now),
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
            Command::Count => self.count(op, now),
        }
    }

    fn commit(&mut self, op: OpId, record: Record, now: Now) {
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
        let deadline = now.instant + ack_wait(&self.mates, &others);
        self.pend(op, deadline, Kind::Commit { record, waiting });
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
        let Some(Kind::Commit { record, waiting }) = self.ops.get_mut(&op).map(|pending| &mut pending.kind)
        else {
            return;
        };
        *waiting -= 1;
        let (record, last) = (*record, *waiting == 0);
        if held {
            self.done(op, Outcome::Committed(Committed::Acknowledged));
        } else if last {
            self.degraded(op, record, now);
        }
    }

    fn find(&mut self, op: OpId, home: Tag, id: SessionId, now: Now) {
        let own = self.table.find(home, &id, now.wall);
        let others = self.others(home, bucket_of(&id));
        // The own copy may be an old one; who knows that it is not does not ask.
        if others.is_empty() || self.ops.len() >= OPS_MAX {
            return self.done(op, Outcome::Found(own));
        }
        self.pend(op, now.instant + WAIT_MAX, Kind::Find { home, own, waiting: others.len() });
        for to in others {
            self.ask(to, Request::Get(home, id), WAIT_MAX, Purpose::Get(op));
        }
    }

    pub(super) fn get_answered(&mut self, op: OpId, answer: Option<Response>, now: Now) {
        let Some(Kind::Find { home, own, waiting }) = self.ops.get_mut(&op).map(|pending| &mut pending.kind)
        else {
            return;
        };
        *waiting -= 1;
        let (home, own, last) = (*home, *own, *waiting == 0);
        match answer {
            Some(Response::Found(Some(pin))) if pin.is_acceptable(now.wall) => {
                self.learn(Record { home, pin }, now);
                self.seen = self.seen.max(pin.assignment.hlc);
                let same = own.filter(|own| own.id == pin.id);
                self.done(op, Outcome::Found(Some(same.map_or(pin, |own| own.merge(pin)))));
            }
            _ if last => self.done(op, Outcome::Found(own)),
            _ => {}
        }
    }

    fn count(&mut self, op: OpId, now: Now) {
        let sum = self.mates.count(&self.table);
        let living = self.mates.peers.iter().filter(|(_, peer)| peer.alive);
        let living: Vec<_> = living.map(|(name, _)| name.clone()).collect();
        if living.is_empty() || self.ops.len() >= OPS_MAX {
            return self.done(op, Outcome::Counted(sum));
        }
        self.pend(op, now.instant + WAIT_MAX, Kind::Count { sum, waiting: living.len() });
        for to in living {
            self.ask(to, Request::Count, WAIT_MAX, Purpose::Count(op));
        }
    }

    pub(super) fn count_answered(&mut self, op: OpId, answer: Option<Response>) {
        let Some(Kind::Count { sum, waiting }) = self.ops.get_mut(&op).map(|pending| &mut pending.kind)
        else {
            return;
        };
        if let Some(Response::Count(theirs)) = answer {
            *sum = sum.saturating_add(theirs);
        }
        *waiting -= 1;
        if *waiting == 0 {
            let sum = *sum;
            self.done(op, Outcome::Counted(sum));
        }
    }

    /// A command's time is over.
    pub(super) fn overdue(&mut self, op: OpId, now: Now) {
        match self.ops.get(&op).map(|pending| &pending.kind) {
            Some(Kind::Commit { record, .. }) => self.degraded(op, *record, now),
            Some(Kind::Find { own, .. }) => self.done(op, Outcome::Found(*own)),
            Some(Kind::Count { sum, .. }) => self.done(op, Outcome::Counted(*sum)),
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
