//! The protocol of the replicas: how a session's record gets to those who keep it, and stays there. Pure.
//!
//! ```text
//!   command ──▶ ops, search ─┬─▶ outbox ──▶ Effect::Ask(Put …)     each of them: (event, now) → effects
//!   answer  ──▶ election ────┴────────────▶ Effect::Ask(Get, Repin, Prepare, Accept …)
//!   request ──▶ serve, ballots ────────▶ the response, or later Effect::Reply
//!   tick    ──▶ deadlines, sweep, hints, repair ──▶ Effect::Ask(HandOff, Summary, Digest, Keys, Pull)
//! ```
//!
//! It owns no socket, task or clock; the driver in `task` does what the effects say and feeds back what comes of it.
//! The records lie in a [`Table`] that workers read at the same time; everything else is this machine's own.

mod ballots;
mod election;
mod hand_over;
mod hints;
mod ops;
mod outbox;
mod pace;
mod repair;
mod search;
mod serve;
mod settling;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use gossip::clock::{Hlc, Wall};
use gossip::id::{NodeName, SessionId, Tag};

use crate::pin::Pin;
use crate::placement::{Placement, bucket_of};
use crate::sessions::{Committed, Repinned};
use crate::table::{Merged, Record, Table};
use crate::wire::{Request, Response};

pub use ballots::PROMISES_MAX;
pub use hints::HINTS_MAX;
pub use ops::OPS_MAX;
pub use search::FIND_MAX;

/// Nothing that a request waits for takes longer (I3).
pub const WAIT_MAX: Duration = Duration::from_millis(250);

/// The time of an event: the same moment on each of the clocks.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// For timers.
    pub instant: Instant,
    /// For expiry: the wall time the mesh agrees on.
    pub wall: Wall,
    /// A fresh timestamp, for an assignment made at this event.
    pub hlc: Hlc,
}

/// Names an operation of the driver's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpId(pub u64);

/// Names a question, so that its answer finds the way back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AskId(pub u64);

/// Names a question of another node's that is answered later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplyId(pub u64);

/// How another node's question is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Like this.
    Now(Response),
    /// By an [`Effect::Reply`].
    Later,
    /// Not at all.
    Never,
}

/// What the face wants done. See the calls of [`crate::sessions::Sessions`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Ends in [`Outcome::Committed`].
    Commit(Record),
    /// The same for a record that nobody but the replicas remembers: the wait is as long as any may be.
    CommitPatiently(Record),
    /// Ends in [`Outcome::Found`].
    Find(Tag, SessionId),
    /// Ends in [`Outcome::Repinned`].
    Repin {
        /// The proposal.
        record: Record,
        /// The time of the assignment it replaces.
        replaces: Hlc,
    },
    /// A record for a home that cannot be reached: kept here until it can be handed over. Ends at once, in nothing.
    Keep(Record),
    /// Ends at once, in nothing.
    Refresh(Tag, SessionId, u32),
}

/// How a command ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Of a commit.
    Committed(Committed),
    /// Of a find.
    Found(Option<Pin>),
    /// Of a re-pin.
    Repinned(Repinned),
}

/// What the driver must do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Ask a node and bring the answer, or that there is none.
    Ask {
        /// Comes back with the answer.
        ask: AskId,
        /// Whom.
        to: NodeName,
        /// What.
        request: Request,
        /// No answer after this is none.
        timeout: Duration,
    },
    /// Tell a node; nothing comes back.
    Tell {
        /// Whom.
        to: NodeName,
        /// What.
        request: Request,
    },
    /// A question of another node's has its answer.
    Reply(ReplyId, Response),
    /// A command has ended.
    Done(OpId, Outcome),
    /// The record of this session is not as it was: write it to disk.
    Save(Tag, SessionId),
}

/// What is believed of another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PeerState {
    /// It speaks. Suspects keep their records but nobody waits long for them.
    pub alive: bool,
    /// The round trip to it, when known.
    pub rtt: Option<Duration>,
    /// Another one for each life of the node: when it started, as it says.
    pub life: u64,
}

impl PeerState {
    /// Whether it fell silent, speaks again or began a new life: what it had still to deliver may be lost.
    fn is_shaken(&self, before: Option<&Self>) -> bool {
        before.is_none_or(|before| (before.alive, before.life) != (self.alive, self.life))
    }
}

/// Who is there and who holds what. Immutable; the face reads it too.
#[derive(Debug)]
pub struct Mates {
    /// This node.
    pub me: NodeName,
    /// Who holds what.
    pub placement: Arc<Placement>,
    /// The other nodes that count.
    pub peers: BTreeMap<NodeName, PeerState>,
}

impl Mates {
    /// Whether this node is a replica of the bucket.
    pub fn is_mine(&self, home: Tag, bucket: u16) -> bool {
        self.placement.holds(&self.me, home, bucket)
    }

    /// Whether this node answers for the bucket when sessions are counted: its first living replica.
    pub fn is_first(&self, home: Tag, bucket: u16) -> bool {
        let living = |node: &&NodeName| **node == self.me || self.is_alive(node);
        self.placement.replicas(home, bucket).find(living) == Some(&self.me)
    }

    /// Whether this node holds anything of that home.
    fn is_of(&self, home: Tag) -> bool {
        self.placement.home(home).is_some_and(|home| home.nodes().any(|node| *node == self.me))
    }

    fn is_alive(&self, node: &NodeName) -> bool {
        self.peers.get(node).is_some_and(|peer| peer.alive)
    }
}

/// What happened so far. Relaxed: for metrics.
#[derive(Debug, Default)]
pub struct Counters {
    /// See [`crate::sessions::Stats`].
    pub degraded: AtomicU64,
    /// See [`crate::sessions::Stats`].
    pub weak: AtomicU64,
    /// See [`crate::sessions::Stats`].
    pub repaired: AtomicU64,
    /// See [`crate::sessions::Stats`].
    pub refused: AtomicU64,
    /// See [`crate::sessions::Stats`].
    pub full: AtomicU64,
    /// See [`crate::sessions::Stats`].
    pub hinted: AtomicU64,
    /// See [`crate::sessions::Stats`].
    pub operations: AtomicU64,
    /// See [`crate::sessions::Stats`].
    pub promises: AtomicU64,
    /// Whether this node has compared what it holds with all living mates since they came: only then its own copy of a
    /// record is as good as any. Written by the replica alone.
    pub settled: AtomicBool,
    /// The nodes that were found to hold something else of a home than this one, and since when. Each pair of nodes is
    /// noted by the one with the lesser name.
    pub differ: Mutex<BTreeMap<(NodeName, Tag), Wall>>,
}

/// What a question was asked for.
#[derive(Debug)]
enum Purpose {
    Batch(outbox::Batch),
    Get(OpId, NodeName),
    Vote(election::Key, u64, NodeName),
    /// A vote that decides nothing any more: the replicas have agreed on this record.
    LateVote(NodeName, Record),
    Forward(OpId),
    Hints(NodeName, hints::Keys),
    Repair(repair::PairKey),
    HandOver(u64),
}

/// What a deadline ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Op(OpId),
    Election(election::Key),
    /// Not an end: the election's next ballot.
    Ballot(election::Key, u64),
    /// Not an end: a look-up asks again.
    Search(OpId),
}

/// One node's part in the protocol.
#[derive(Debug)]
pub struct Replica {
    table: Arc<Table>,
    counters: Arc<Counters>,
    mates: Arc<Mates>,
    effects: Vec<Effect>,
    asks: HashMap<AskId, Purpose>,
    next_ask: u64,
    ops: HashMap<OpId, ops::Pending>,
    elections: BTreeMap<election::Key, election::Election>,
    next_poll: u64,
    ballots: ballots::Ballots,
    deadlines: BTreeSet<(Instant, Due)>,
    drafts: BTreeMap<(Tag, SessionId), ops::Draft>,
    hints: BTreeMap<NodeName, hints::Hints>,
    outbox: BTreeMap<NodeName, outbox::Outbox>,
    repair: repair::Repair,
    hand_overs: hand_over::HandOvers,
    settling: settling::Settling,
    seen: Hlc,
}

impl Replica {
    /// For a node that knows nobody yet.
    pub fn new(me: NodeName, table: Arc<Table>, counters: Arc<Counters>, now: Now) -> Self {
        let repair = repair::Repair::new(&me, now.instant);
        let mates = Mates { me, placement: Arc::default(), peers: BTreeMap::new() };
        Self {
            table,
            counters,
            mates: Arc::new(mates),
            effects: Vec::new(),
            asks: HashMap::new(),
            next_ask: 0,
            ops: HashMap::new(),
            elections: BTreeMap::new(),
            next_poll: 0,
            ballots: ballots::Ballots::default(),
            deadlines: BTreeSet::new(),
            drafts: BTreeMap::new(),
            hints: BTreeMap::new(),
            outbox: BTreeMap::new(),
            repair,
            hand_overs: hand_over::HandOvers::default(),
            settling: settling::Settling::new(now.instant),
            seen: Hlc::ZERO,
        }
    }

    /// The mesh has changed.
    pub fn meet(&mut self, mates: Arc<Mates>, now: Now) {
        let moved = self.mates.placement != mates.placement;
        let before = std::mem::replace(&mut self.mates, mates);
        self.drop_outboxes(now);
        let shaken = |(peer, state): (&NodeName, &PeerState)| state.is_shaken(before.peers.get(peer));
        if moved {
            self.repair.moved(now.instant);
        } else if self.mates.peers.iter().any(shaken) {
            self.repair.soon(now.instant);
        }
        self.settle_with(&before, now);
    }

    /// A question has its answer, or none.
    pub fn answer(&mut self, ask: AskId, answer: Option<Response>, now: Now) {
        match self.asks.remove(&ask) {
            Some(Purpose::Batch(batch)) => self.batch_answered(batch, answer, now),
            Some(Purpose::Get(op, from)) => self.get_answered(op, &from, answer, now),
            Some(Purpose::Vote(key, poll, from)) => self.vote_answered(key, poll, from, answer, now),
            Some(Purpose::LateVote(from, record)) => self.late_vote(&from, record, answer.as_ref(), now),
            Some(Purpose::Forward(op)) => self.forward_answered(op, answer, now),
            Some(Purpose::Hints(peer, keys)) => self.hints_answered(peer, keys, answer, now),
            Some(Purpose::Repair(pair)) => self.repair_answered(pair, answer, now),
            Some(Purpose::HandOver(batch)) => self.hand_over_answered(batch, answer, now),
            None => {}
        }
    }

    /// Time has passed: ends what is overdue, sweeps, repairs.
    pub fn tick(&mut self, now: Now) {
        while let Some((deadline, due)) = self.deadlines.first().copied() {
            if deadline > now.instant {
                break;
            }
            self.deadlines.pop_first();
            match due {
                Due::Op(op) => self.overdue(op, now),
                Due::Election(key) => self.give_up(key, now),
                Due::Ballot(key, poll) => self.next_ballot(key, poll, now),
                Due::Search(op) => self.search_on(op, now),
            }
        }
        self.grow_up(now);
        self.repair_tick(now);
    }

    /// When [`Replica::tick`] has something to do next.
    pub fn next_deadline(&self) -> Instant {
        let others = [self.deadlines.first().map(|(deadline, _)| *deadline), self.hand_overs.astray];
        others.into_iter().flatten().fold(self.repair.next_deadline(), Instant::min)
    }

    /// Closes the batches and takes what the driver must do. Call it after each group of events.
    pub fn effects(&mut self) -> Vec<Effect> {
        self.flush();
        self.counters.operations.store(self.ops.len() as u64, Ordering::Relaxed);
        self.counters.promises.store(self.ballots.len() as u64, Ordering::Relaxed);
        std::mem::take(&mut self.effects)
    }

    /// The greatest timestamp met so far, for the clock to observe.
    pub fn seen(&self) -> Hlc {
        self.seen
    }

    fn ask(&mut self, to: NodeName, request: Request, timeout: Duration, purpose: Purpose) {
        let ask = AskId(self.next_ask);
        self.next_ask += 1;
        self.asks.insert(ask, purpose);
        self.effects.push(Effect::Ask { ask, to, request, timeout });
    }

    /// Takes a record in, wherever it came from.
    fn take(&mut self, record: Record, now: Now) -> Merged {
        let merged = self.table.merge(record, now.wall);
        match merged {
            Merged::Changed(_) => self.effects.push(Effect::Save(record.home, record.pin.id)),
            Merged::Known(_) => {}
            Merged::Refused => add(&self.counters.refused, 1),
            Merged::Full => add(&self.counters.full, 1),
        }
        if let Some(held) = merged.held() {
            self.seen = self.seen.max(held.assignment.hlc);
        }
        merged
    }

    /// Takes a record in when it belongs here, or when an older copy lies here and would mislead.
    fn learn(&mut self, record: Record, now: Now) {
        let bucket = bucket_of(&record.pin.id);
        if self.mates.is_mine(record.home, bucket)
            || self.table.find(record.home, &record.pin.id, now.wall).is_some()
        {
            self.take(record, now);
        }
    }

    /// The bucket's replicas but this node.
    fn others(&self, home: Tag, bucket: u16) -> Vec<NodeName> {
        self.mates.placement.replicas(home, bucket).filter(|node| **node != self.mates.me).cloned().collect()
    }
}

fn add(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

#[cfg(test)]
mod tests;
