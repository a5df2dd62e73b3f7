//! Moving a session: the replicas of its bucket agree on one assignment (compare and set).
//!
//! ```text
//!   Prepare(ballot) ─▶ a majority promises ─┬─ it knows nothing newer than `replaces` ─▶ Accept(the proposal)   ─▶ Committed
//!     ▲                                     ├─ something newer lies with a few ────────▶ Accept(that, once more) ─▶ Superseded
//!     │                                     └─ something newer lies with a majority ─────────────────────────────▶ Superseded
//!     └── a greater ballot was promised: again, above that      no majority in 250 ms ─▶ Weak, or what is known to be newer
//! ```
//!
//! This is CASPaxos (Rystsov, "CASPaxos: Replicated State Machines without logs", 2018) with the time of the assignment
//! as its ballot: what is accepted under the greater ballot is also what wins every merge (I4), so repair and agreement
//! never disagree. One round of votes would not do: with one vote each for two proposals and the third unheard, nobody
//! can tell which of them was chosen.
//!
//! One election a session and node: who proposes for the same reason meanwhile shares its end. A node outside of the
//! home asks one of the replicas to hold it, so that only one round trip is a long one.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use gossip::clock::{HLC_MAX_AHEAD, Hlc};
use gossip::id::{NodeName, SessionId, Tag, rendezvous};

use super::ops::{Kind, OPS_MAX, ack_wait};
use super::{AskId, Due, Effect, Now, OpId, Outcome, Purpose, Replica, ReplyId, WAIT_MAX, add};
use crate::pin::{Assignment, Pin};
use crate::placement::bucket_of;
use crate::plant::Plant;
use crate::sessions::Repinned;
use crate::table::Record;
use crate::wire::{Ballot, Request, Response, Vote};

/// Ballots tried before the proposal is used as it is.
const ROUNDS_MAX: u32 = 32;
/// The longest rest before the second ballot.
const REST: Duration = Duration::from_millis(4);
/// Proposals that share one election.
const ASKERS_MAX: usize = 1024;
/// How long the replica that is to hold an election is waited for before the next one is asked.
const HOLDER_WAIT_MIN: Duration = Duration::from_millis(60);

/// Names an election: at most one a session and node.
pub(super) type Key = (Tag, SessionId);

/// Who wants to know how an election ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asker {
    /// A command here.
    Here(OpId),
    /// Another node.
    There(ReplyId),
}

#[derive(Debug)]
pub(super) struct Election {
    replaces: Hlc,
    /// The first one's proposal is put to the vote.
    askers: Vec<(Asker, Pin)>,
    /// Those that replace something else: their turn comes after this.
    later: Vec<(Asker, Record, Hlc, Instant)>,
    deadline: Instant,
    others: Vec<NodeName>,
    mine: bool,
    ballot: Ballot,
    rounds: u32,
    /// Names the question under way among all of this node, so that late answers to earlier ones are known as such.
    poll: u64,
    /// That question, as it was put to the other replicas.
    asks: Vec<AskId>,
    /// Those that have not granted it, as far as they are known.
    lack: Vec<NodeName>,
    stage: Stage,
    /// The next ballot has a time already.
    resting: bool,
    granted: Vec<Option<Pin>>,
    refused: usize,
    unheard: usize,
    /// The newest assignment heard of.
    newest: Option<Pin>,
}

#[derive(Debug, Clone, Copy)]
enum Stage {
    Prepare,
    /// The pin, and whether it is somebody else's.
    Accept(Pin, bool),
}

impl Replica {
    /// Starts to agree on a proposal; it ends in one [`Effect::Done`] or [`Effect::Reply`].
    pub(super) fn repin(&mut self, asker: Asker, record: Record, replaces: Hlc, now: Now) {
        self.repin_until(asker, record, replaces, now.instant + WAIT_MAX, now);
    }

    fn repin_until(&mut self, asker: Asker, record: Record, replaces: Hlc, deadline: Instant, now: Now) {
        let key = (record.home, record.pin.id);
        let bucket = bucket_of(&record.pin.id);
        if let Some(election) = self.elections.get_mut(&key)
            && election.askers.len() + election.later.len() < ASKERS_MAX
        {
            match election.replaces == replaces {
                true => election.askers.push((asker, record.pin)),
                false => election.later.push((asker, record, replaces, deadline)),
            }
            return;
        }
        if self.table.plants().has(Plant::AnswerAlone)
            && let Some(held) = self.table.find(record.home, &record.pin.id, now.wall)
            && held.assignment.hlc > replaces
        {
            return self.tell(asker, Repinned::Superseded(held));
        }
        let others = self.others(record.home, bucket);
        let mine = self.mates.is_mine(record.home, bucket);
        if self.elections.contains_key(&key)
            || self.elections.len() >= OPS_MAX
            || (others.is_empty() && !mine)
        {
            let pin = self.weak(record, now);
            return self.tell(asker, Repinned::Weak(pin));
        }
        if let Asker::Here(op) = asker
            && !self.mates.is_of(record.home)
        {
            return self.forward(op, record, replaces, others, now);
        }
        // When only suspects are left to ask, nobody waits for long.
        let hopeless = !others.is_empty() && !others.iter().any(|node| self.mates.is_alive(node));
        let soon = now.instant + ack_wait(&self.mates, &others);
        let deadline = if hopeless { soon.min(deadline) } else { deadline };
        let election = Election {
            replaces,
            askers: vec![(asker, record.pin)],
            later: Vec::new(),
            deadline,
            others,
            mine,
            ballot: Ballot::default(),
            rounds: 0,
            poll: 0,
            asks: Vec::new(),
            lack: Vec::new(),
            stage: Stage::Prepare,
            resting: false,
            granted: Vec::new(),
            refused: 0,
            unheard: 0,
            newest: None,
        };
        self.elections.insert(key, election);
        self.deadlines.insert((deadline, Due::Election(key)));
        self.prepare(key, now);
    }

    /// Asks for promises under a new ballot, and those who are the replicas now: one that began alone in a mesh that it had not
    /// met yet must not end alone.
    fn prepare(&mut self, key: Key, now: Now) {
        let node = Tag::of(self.mates.me.as_str());
        let bucket = bucket_of(&key.1);
        let (others, mine) = (self.others(key.0, bucket), self.mates.is_mine(key.0, bucket));
        if others.is_empty() && !mine {
            return self.give_up(key, now);
        }
        let Some(election) = self.elections.get_mut(&key) else { return };
        (election.others, election.mine) = (others, mine);
        let proposed = election.askers[0].1.assignment;
        let seen = self.seen.max(election.replaces);
        // The proposal's own time, which its maker has told nobody yet, unless others have gone past it.
        let fresh = election.rounds == 0 && proposed.node == node && proposed.hlc > seen;
        let hlc = if fresh { proposed.hlc } else { now.hlc.max(Hlc(seen.0.saturating_add(1))) };
        let ballot = Ballot { hlc, node };
        election.ballot = ballot;
        election.stage = Stage::Prepare;
        self.seen = self.seen.max(hlc);
        let (home, id) = key;
        self.poll(key, &Request::Prepare { home, id, ballot });
        if self.elections.get(&key).is_some_and(|election| election.mine) {
            let vote = self.promise(home, id, ballot, now);
            self.voted_here(key, vote, now);
        }
    }

    /// A majority has promised: puts to the vote what may have been chosen before, else the proposal.
    fn choose(&mut self, key: Key, now: Now) {
        let Some(election) = self.elections.get_mut(&key) else { return };
        let newest = election.granted.iter().flatten().max_by_key(|held| held.assignment).copied();
        let newer = newest.filter(|held| held.assignment.hlc > election.replaces);
        if let Some(chosen) = newer {
            let holds = |copy: &&Option<Pin>| copy.is_some_and(|copy| copy.assignment == chosen.assignment);
            if election.granted.iter().filter(holds).count() >= election.needed() {
                return self.elected(key, chosen, true, now);
            }
        }
        let proposal = election.askers[0].1;
        let Ballot { hlc, node } = election.ballot;
        let choice = newer.unwrap_or(proposal).assignment;
        let expires = newest.map_or(0, |held| held.expires).max(proposal.expires);
        let pin = Pin { id: key.1, assignment: Assignment { hlc, node, weak: false, ..choice }, expires };
        let known = newest.map_or(Hlc::ZERO, |held| held.assignment.hlc).max(election.replaces);
        election.stage = Stage::Accept(pin, newer.is_some());
        let record = Record { home: key.0, pin };
        self.poll(key, &Request::Accept { record, replaces: known });
        if self.elections.get(&key).is_some_and(|election| election.mine) {
            let vote = self.accept(record, known, now);
            self.voted_here(key, vote, now);
        }
    }

    /// Asks the other replicas.
    fn poll(&mut self, key: Key, request: &Request) {
        let Some(election) = self.elections.get_mut(&key) else { return };
        self.next_poll += 1;
        election.rounds += 1;
        election.poll = self.next_poll;
        election.resting = false;
        election.granted.clear();
        election.refused = 0;
        election.unheard = election.replicas();
        election.lack.clear();
        election.asks = (self.next_ask..).map(AskId).take(election.others.len()).collect();
        let (poll, others) = (election.poll, election.others.clone());
        for to in others {
            self.ask(to.clone(), request.clone(), WAIT_MAX, Purpose::Vote(key, poll, to));
        }
    }

    fn voted_here(&mut self, key: Key, vote: Option<Vote>, now: Now) {
        if let Some(poll) = self.elections.get(&key).map(|election| election.poll) {
            self.voted(key, poll, vote, now);
        }
    }

    pub(super) fn vote_answered(
        &mut self,
        key: Key,
        poll: u64,
        from: NodeName,
        answer: Option<Response>,
        now: Now,
    ) {
        if !is_granted(answer.as_ref())
            && let Some(election) = self.elections.get_mut(&key).filter(|election| election.poll == poll)
        {
            election.lack.push(from);
        }
        let vote = match answer {
            Some(Response::Vote(vote)) if vote.promised.wall().since(now.wall) <= HLC_MAX_AHEAD => Some(vote),
            _ => None,
        };
        self.voted(key, poll, vote, now);
    }

    fn voted(&mut self, key: Key, poll: u64, vote: Option<Vote>, now: Now) {
        let Some(election) = self.elections.get_mut(&key).filter(|election| election.poll == poll) else {
            return;
        };
        election.unheard -= 1;
        if let Some(Vote { granted, promised, held }) = vote {
            let held = held.filter(|held| held.id == key.1 && held.is_acceptable(now.wall));
            self.seen = self.seen.max(promised).max(held.map_or(Hlc::ZERO, |held| held.assignment.hlc));
            election.newest = election.newest.into_iter().chain(held).max_by_key(|held| held.assignment);
            match granted {
                true => election.granted.push(held),
                false => election.refused += 1,
            }
        }
        let (needed, replicas) = (election.needed(), election.replicas());
        if election.granted.len() >= needed {
            match election.stage {
                Stage::Prepare => self.choose(key, now),
                Stage::Accept(pin, others) => self.elected(key, pin, others, now),
            }
        } else if election.refused == 0 && election.unheard == 0 {
            self.give_up(key, now);
        } else if election.refused > 0 && !election.resting {
            let hopeless = replicas - election.refused < needed;
            self.rest(key, hopeless, now);
        }
    }

    /// Somebody else's ballot is in the way. Who tries again at once would be in the way of that one in turn, so each
    /// waits a while of its own, up to twice as long every time. Who can still win waits for the slowest vote besides,
    /// but not for one that may never come.
    fn rest(&mut self, key: Key, hopeless: bool, now: Now) {
        let me = self.mates.me.as_str().as_bytes();
        let Some(election) = self.elections.get_mut(&key) else { return };
        if election.rounds >= ROUNDS_MAX {
            return self.give_up(key, now);
        }
        election.resting = true;
        let most = REST.saturating_mul(1 << (election.rounds / 2).min(4));
        let share = rendezvous(&election.poll.to_le_bytes(), me) % 1000;
        let votes = election.others.iter().filter_map(|node| self.mates.peers.get(node)?.rtt).max();
        let votes = votes.filter(|_| !hopeless).unwrap_or_default();
        self.deadlines
            .insert((now.instant + most * share as u32 / 1000 + votes, Due::Ballot(key, election.poll)));
    }

    /// An election has rested after this question.
    pub(super) fn next_ballot(&mut self, key: Key, poll: u64, now: Now) {
        if self.elections.get(&key).is_some_and(|election| election.poll == poll) {
            self.prepare(key, now);
        }
    }

    fn elected(&mut self, key: Key, pin: Pin, others: bool, now: Now) {
        let record = Record { home: key.0, pin };
        self.learn(record, now);
        if let Some(election) = self.elections.get_mut(&key)
            && matches!(election.stage, Stage::Accept(..))
        {
            for ask in std::mem::take(&mut election.asks) {
                if let Some(purpose) = self.asks.get_mut(&ask)
                    && let Purpose::Vote(_, _, from) = purpose
                {
                    *purpose = Purpose::LateVote(from.clone(), record);
                }
            }
            let lack = std::mem::take(&mut election.lack);
            lack.iter().for_each(|node| self.outvoted(node, record, now));
        }
        let end = |proposal: &Pin| match proposal.is_at(&pin) && !others {
            true => Repinned::Committed(pin),
            false => Repinned::Superseded(pin),
        };
        self.end(key, end, now);
    }

    pub(super) fn late_vote(&mut self, from: &NodeName, record: Record, answer: Option<&Response>, now: Now) {
        if !is_granted(answer) {
            self.outvoted(from, record, now);
        }
    }

    /// A majority has agreed without this replica. It is told as soon as it speaks: the next crash may take one of them.
    fn outvoted(&mut self, replica: &NodeName, record: Record, now: Now) {
        if !self.mates.is_mine(record.home, bucket_of(&record.pin.id)) {
            // Kept until it can be handed over.
            self.take(record, now);
        }
        self.hint(replica, record.home, record.pin.id, now);
    }

    /// There is no majority. What is known to be newer is used, else the proposal, though nobody has agreed to it.
    pub(super) fn give_up(&mut self, key: Key, now: Now) {
        let Some(election) = self.elections.get(&key) else { return };
        let proposal = election.askers[0].1;
        let newer = election.newest.filter(|held| held.assignment.hlc > election.replaces);
        if let Some(held) = newer.filter(|held| !held.is_at(&proposal)) {
            self.learn(Record { home: key.0, pin: held }, now);
            return self.end(key, |_| Repinned::Superseded(held), now);
        }
        let Ballot { hlc, node } = election.ballot;
        let assignment = Assignment { hlc, node, ..proposal.assignment };
        let pin = self.weak(Record { home: key.0, pin: Pin { assignment, ..proposal } }, now);
        let end = |proposal: &Pin| match proposal.is_at(&pin) {
            true => Repinned::Weak(pin),
            false => Repinned::Superseded(pin),
        };
        self.end(key, end, now);
    }

    fn end(&mut self, key: Key, end: impl Fn(&Pin) -> Repinned, now: Now) {
        let Some(Election { askers, later, deadline, .. }) = self.elections.remove(&key) else { return };
        self.deadlines.remove(&(deadline, Due::Election(key)));
        for (asker, proposal) in askers {
            self.tell(asker, end(&proposal));
        }
        for (asker, record, replaces, deadline) in later {
            self.repin_until(asker, record, replaces, deadline, now);
        }
    }

    fn tell(&mut self, asker: Asker, repinned: Repinned) {
        match asker {
            Asker::Here(op) => self.done(op, Outcome::Repinned(repinned)),
            Asker::There(reply) => self.effects.push(Effect::Reply(reply, Response::Repinned(repinned))),
        }
    }

    /// The proposal is used though the replicas have not agreed; the greater time wins later.
    fn weak(&mut self, record: Record, now: Now) -> Pin {
        add(&self.counters.weak, 1);
        let assignment = Assignment { weak: true, ..record.pin.assignment };
        let record = Record { pin: Pin { assignment, ..record.pin }, ..record };
        self.take(record, now);
        for to in self.others(record.home, bucket_of(&record.pin.id)) {
            self.post(&to, record, None);
        }
        record.pin
    }

    /// Asks a replica of a home that is not this node's to hold the election.
    fn forward(&mut self, op: OpId, record: Record, replaces: Hlc, others: Vec<NodeName>, now: Now) {
        let hopeless = !others.iter().any(|node| self.mates.is_alive(node));
        let wait = if hopeless { ack_wait(&self.mates, &others) } else { WAIT_MAX };
        let rest: VecDeque<_> =
            others.into_iter().filter(|node| hopeless || self.mates.is_alive(node)).collect();
        self.pend(op, now.instant + wait, Kind::Forward { record, replaces, rest });
        self.forward_next(op, now);
    }

    fn forward_next(&mut self, op: OpId, now: Now) {
        let Some(Kind::Forward { record, replaces, rest }) = self.kind(op) else { return };
        let (request, next) = (Request::Repin { record: *record, replaces: *replaces }, rest.pop_front());
        let Some(to) = next else { return self.forward_failed(op, now) };
        let rtt = self.mates.peers.get(&to).and_then(|peer| peer.rtt).unwrap_or_default();
        self.ask(to, request, (rtt * 3).clamp(HOLDER_WAIT_MIN, WAIT_MAX), Purpose::Forward(op));
    }

    pub(super) fn forward_answered(&mut self, op: OpId, answer: Option<Response>, now: Now) {
        let Some(Kind::Forward { record, .. }) = self.kind(op) else { return };
        let record = *record;
        if let Some(Response::Repinned(repinned)) = answer {
            let (Repinned::Committed(pin) | Repinned::Superseded(pin) | Repinned::Weak(pin)) = repinned;
            if pin.id == record.pin.id && pin.is_acceptable(now.wall) {
                self.seen = self.seen.max(pin.assignment.hlc);
                self.learn(Record { pin, ..record }, now);
                return self.done(op, Outcome::Repinned(repinned));
            }
        }
        self.forward_next(op, now);
    }

    pub(super) fn forward_failed(&mut self, op: OpId, now: Now) {
        let Some(Kind::Forward { record, .. }) = self.kind(op) else { return };
        let record = *record;
        let pin = self.weak(record, now);
        self.done(op, Outcome::Repinned(Repinned::Weak(pin)));
    }
}

fn is_granted(answer: Option<&Response>) -> bool {
    matches!(answer, Some(Response::Vote(Vote { granted: true, .. })))
}

impl Election {
    fn replicas(&self) -> usize {
        self.others.len() + usize::from(self.mine)
    }

    fn needed(&self) -> usize {
        self.replicas() / 2 + 1
    }
}
