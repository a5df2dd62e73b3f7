//! Commands under way: the acknowledged write, the look-up, the compare-and-set.
//!
//! ```text
//!   commit   Put to the replicas      one acknowledges ─▶ Acknowledged      all fail or max(20 ms, 1.5 RTT) ─▶ Degraded
//!   find     own copy, else Get       first copy ─▶ it                      all lack it or 250 ms ─▶ None
//!   repin    Repin to the replicas    majority accepts ─▶ Committed         majority holds another ─▶ Superseded
//!                                     nobody else's, no majority ─▶ Weak    a tie: the earliest proposal wins
//! ```
//!
//! Who proposes a move late meets replicas that hold the winner's. Some may have taken the late one meanwhile, and the
//! merge would let its greater time win; so the loser writes the winner's choice once more under a new time (*settles*).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gossip::clock::Hlc;
use gossip::id::{NodeName, SessionId, Tag};

use super::{Command, Effect, Mates, Now, OpId, Outcome, Purpose, Replica, WAIT_MAX, add};
use crate::pin::{Assignment, Pin};
use crate::placement::bucket_of;
use crate::sessions::{Committed, Repinned};
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
enum Kind {
    Commit { record: Record, waiting: usize },
    Find { home: Tag, own: Option<Pin>, waiting: usize },
    Repin(Election),
    Count { sum: u64, waiting: usize },
}

#[derive(Debug)]
struct Election {
    record: Record,
    replicas: usize,
    needed: usize,
    accepted: usize,
    refused: Vec<Pin>,
    /// Replicas that have not voted, and whether they are believed to be alive.
    waiting: BTreeMap<NodeName, bool>,
}

impl Replica {
    /// Starts a command; it ends in one [`Effect::Done`], perhaps at once (a refresh ends in none).
    pub fn command(&mut self, op: OpId, command: Command, now: Now) {
        match command {
            Command::Commit(record) => self.commit(op, record, now),
            Command::Find(home, id) => self.find(op, home, id, now),
            Command::Repin { record, replaces } => self.repin(op, record, replaces, now),
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
            return self.done(op, Outcome::Committed(Committed::Acknowledged));
        }
        let mut waiting = 0;
        if self.ops.len() < OPS_MAX {
            waiting = others.iter().filter(|to| self.post(to, record, Some(op))).count();
        }
        if waiting == 0 {
            return self.degraded(op, record, now);
        }
        let deadline = now.instant + ack_wait(&self.mates, &others);
        self.pend(op, deadline, Kind::Commit { record, waiting });
    }

    /// Nobody acknowledged. A node that keeps the record itself repairs it; any other holds on to it until it can be
    /// handed over.
    fn degraded(&mut self, op: OpId, record: Record, now: Now) {
        add(&self.counters.degraded, 1);
        self.take(record, now);
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
        let enough = own.is_some() && self.mates.is_mine(home, bucket_of(&id));
        if enough || others.is_empty() || self.ops.len() >= OPS_MAX {
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

    fn repin(&mut self, op: OpId, record: Record, replaces: Hlc, now: Now) {
        let bucket = bucket_of(&record.pin.id);
        let others = self.others(record.home, bucket);
        let mine = self.mates.is_mine(record.home, bucket);
        let replicas = others.len() + usize::from(mine);
        let waiting = others.iter().map(|node| (node.clone(), self.mates.is_alive(node))).collect();
        let needed = replicas / 2 + 1;
        let mut election = Election { record, replicas, needed, accepted: 0, refused: Vec::new(), waiting };
        if replicas == 0 || self.ops.len() >= OPS_MAX {
            return self.weak(op, record, now);
        }
        if mine && let Some((accepted, held)) = self.cast(record, replaces, now) {
            election.vote(accepted, held);
        }
        // Suspects are asked too, but when only they are left nobody waits for long.
        let anybody = election.waiting.values().any(|alive| *alive);
        let wait = if anybody { WAIT_MAX } else { ack_wait(&self.mates, &others) };
        self.pend(op, now.instant + wait, Kind::Repin(election));
        for to in others {
            let request = Request::Repin { record, replaces };
            self.ask(to.clone(), request, WAIT_MAX, Purpose::Vote(op, to));
        }
        self.conclude(op, false, now);
    }

    pub(super) fn vote_answered(&mut self, op: OpId, from: &NodeName, answer: Option<Response>, now: Now) {
        let Some(Kind::Repin(election)) = self.ops.get_mut(&op).map(|pending| &mut pending.kind) else {
            return;
        };
        election.waiting.remove(from);
        match answer {
            Some(Response::Vote { accepted, held })
                if held.id == election.record.pin.id && held.is_acceptable(now.wall) =>
            {
                election.vote(accepted, held);
                self.seen = self.seen.max(held.assignment.hlc);
            }
            _ => {}
        }
        self.conclude(op, false, now);
    }

    fn conclude(&mut self, op: OpId, overdue: bool, now: Now) {
        let Some(Kind::Repin(election)) = self.ops.get(&op).map(|pending| &pending.kind) else {
            return;
        };
        let record = election.record;
        // Whoever has not refused may have taken the proposal, or may do so when it arrives late.
        let maybe_taken = election.refused.len() < election.replicas;
        let late = election.refused.iter().any(|held| held.assignment > record.pin.assignment);
        match election.verdict(overdue) {
            None => {}
            Some(Verdict::Accepted) => {
                let pin = if late { self.settle(record, record.pin, now) } else { record.pin };
                self.learn(Record { pin, ..record }, now);
                self.done(op, Outcome::Repinned(Repinned::Committed(pin)));
            }
            Some(Verdict::Other(held)) => {
                let misled = maybe_taken && record.pin.assignment > held.assignment;
                let pin = if misled { self.settle(record, held, now) } else { held };
                self.learn(Record { pin, ..record }, now);
                self.done(op, Outcome::Repinned(Repinned::Superseded(pin)));
            }
            Some(Verdict::Nobody) => self.weak(op, record, now),
        }
    }

    /// Repeats the winner's choice under a time that wins every merge with the losers'.
    fn settle(&mut self, record: Record, winner: Pin, now: Now) -> Pin {
        let hlc = now.hlc.max(Hlc(self.seen.0.saturating_add(1)));
        let assignment = Assignment { hlc, node: Tag::of(self.mates.me.as_str()), ..winner.assignment };
        let pin = Pin { assignment, ..winner };
        self.seen = self.seen.max(hlc);
        self.spread(Record { pin, ..record });
        pin
    }

    /// The proposal is used though the replicas have not agreed; the greater time wins later.
    fn weak(&mut self, op: OpId, record: Record, now: Now) {
        add(&self.counters.weak, 1);
        let assignment = Assignment { weak: true, ..record.pin.assignment };
        let pin = Pin { assignment, ..record.pin };
        self.take(Record { pin, ..record }, now);
        self.spread(Record { pin, ..record });
        self.done(op, Outcome::Repinned(Repinned::Weak(pin)));
    }

    fn spread(&mut self, record: Record) {
        for to in self.others(record.home, bucket_of(&record.pin.id)) {
            self.post(&to, record, None);
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
            Some(Kind::Repin(_)) => self.conclude(op, true, now),
            None => {}
        }
    }

    fn pend(&mut self, op: OpId, deadline: Instant, kind: Kind) {
        self.deadlines.insert((deadline, op));
        self.ops.insert(op, Pending { deadline, kind });
    }

    fn done(&mut self, op: OpId, outcome: Outcome) {
        if let Some(pending) = self.ops.remove(&op) {
            self.deadlines.remove(&(pending.deadline, op));
        }
        self.effects.push(Effect::Done(op, outcome));
    }
}

enum Verdict {
    /// The proposal.
    Accepted,
    /// This one, that somebody else proposed.
    Other(Pin),
    /// No replica has objected, too few have agreed.
    Nobody,
}

impl Election {
    fn vote(&mut self, accepted: bool, held: Pin) {
        if accepted {
            self.accepted += 1;
        } else {
            self.refused.push(held);
        }
    }

    fn verdict(&self, overdue: bool) -> Option<Verdict> {
        if self.accepted >= self.needed {
            return Some(Verdict::Accepted);
        }
        let agree = |held: &&Pin| {
            self.refused.iter().filter(|other| other.assignment == held.assignment).count() >= self.needed
        };
        if let Some(held) = self.refused.iter().find(agree) {
            return Some(Verdict::Other(*held));
        }
        if !overdue && !self.waiting.is_empty() {
            return None;
        }
        // All who can vote have voted, or the time is over. The earliest proposal wins: all proposers see it so.
        let Some(earliest) = self.refused.iter().min_by_key(|held| held.assignment) else {
            return Some(Verdict::Nobody);
        };
        let heard_all = self.waiting.values().all(|alive| !alive);
        if earliest.assignment < self.record.pin.assignment || self.accepted == 0 {
            Some(Verdict::Other(*earliest))
        } else if heard_all {
            Some(Verdict::Accepted)
        } else {
            Some(Verdict::Nobody)
        }
    }
}

/// How long a new record waits for its first acknowledgement (I3).
fn ack_wait(mates: &Arc<Mates>, others: &[NodeName]) -> Duration {
    let fastest = others.iter().filter_map(|node| mates.peers.get(node)?.rtt).min().unwrap_or_default();
    (fastest * 3 / 2).clamp(ACK_WAIT_MIN, WAIT_MAX)
}
