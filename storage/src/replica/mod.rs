//! The protocol of the replicas: how a session's record gets to those who keep it, and stays there. Pure.
//!
//! ```text
//!   command ──▶ ops ──┬─▶ outbox ──▶ Effect::Ask(Put …)          each of them: (event, now) → effects
//!   answer  ──▶       └────────────▶ Effect::Ask(Get, Repin …)
//!   request ──▶ serve ─────────────▶ the response
//!   tick    ──▶ deadlines, sweep, repair ──▶ Effect::Ask(Digest, Keys, Pull, HandOff)
//! ```
//!
//! It owns no socket, task or clock; the driver in `task` does what the effects say and feeds back what comes of it.
//! The records lie in a [`Table`] that workers read at the same time; everything else is this machine's own.

mod ops;
mod outbox;
mod repair;
mod serve;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use gossip::clock::{Hlc, Wall};
use gossip::id::{NodeName, SessionId, Tag};

use crate::pin::Pin;
use crate::placement::{BUCKETS, Placement, bucket_of};
use crate::sessions::{Committed, Repinned};
use crate::table::{Merged, Record, Table};
use crate::wire::{Request, Response};

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

/// What the face wants done. See the calls of [`crate::sessions::Sessions`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Ends in [`Outcome::Committed`].
    Commit(Record),
    /// Ends in [`Outcome::Found`].
    Find(Tag, SessionId),
    /// Ends in [`Outcome::Repinned`].
    Repin {
        /// The proposal.
        record: Record,
        /// The time of the assignment it replaces.
        replaces: Hlc,
    },
    /// Ends at once, in nothing.
    Refresh(Tag, SessionId, u32),
    /// Ends in [`Outcome::Counted`].
    Count,
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
    /// Of a count.
    Counted(u64),
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

    fn is_alive(&self, node: &NodeName) -> bool {
        self.peers.get(node).is_some_and(|peer| peer.alive)
    }

    /// The sessions this node answers for.
    pub fn count(&self, table: &Table) -> u64 {
        let homes = table.homes();
        let buckets = homes.iter().flat_map(|home| (0..BUCKETS).map(move |bucket| (*home, bucket)));
        let held = buckets.map(|(home, bucket)| match table.bucket_len(home, bucket) {
            held if held > 0 && self.is_first(home, bucket) => held as u64,
            _ => 0,
        });
        held.sum()
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
}

/// What a question was asked for.
#[derive(Debug)]
enum Purpose {
    Batch(outbox::Batch),
    Get(OpId),
    Vote(OpId, NodeName),
    Count(OpId),
    Repair(repair::PairKey),
    HandOver(u64),
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
    deadlines: BTreeSet<(Instant, OpId)>,
    outbox: BTreeMap<NodeName, outbox::Outbox>,
    repair: repair::Repair,
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
            deadlines: BTreeSet::new(),
            outbox: BTreeMap::new(),
            repair,
            seen: Hlc::ZERO,
        }
    }

    /// The mesh has changed.
    pub fn meet(&mut self, mates: Arc<Mates>, now: Now) {
        let moved = self.mates.placement != mates.placement;
        self.mates = mates;
        self.outbox.retain(|peer, _| self.mates.peers.contains_key(peer));
        if moved {
            self.repair.soon(now.instant);
        }
    }

    /// A question has its answer, or none.
    pub fn answer(&mut self, ask: AskId, answer: Option<Response>, now: Now) {
        match self.asks.remove(&ask) {
            Some(Purpose::Batch(batch)) => self.batch_answered(batch, answer, now),
            Some(Purpose::Get(op)) => self.get_answered(op, answer, now),
            Some(Purpose::Vote(op, from)) => self.vote_answered(op, &from, answer, now),
            Some(Purpose::Count(op)) => self.count_answered(op, answer),
            Some(Purpose::Repair(pair)) => self.repair_answered(pair, answer, now),
            Some(Purpose::HandOver(batch)) => self.hand_over_answered(batch, answer, now),
            None => {}
        }
    }

    /// Time has passed: ends what is overdue, sweeps, repairs.
    pub fn tick(&mut self, now: Now) {
        while let Some((deadline, op)) = self.deadlines.first().copied() {
            if deadline > now.instant {
                break;
            }
            self.deadlines.pop_first();
            self.overdue(op, now);
        }
        self.repair_tick(now);
    }

    /// When [`Replica::tick`] has something to do next.
    pub fn next_deadline(&self) -> Instant {
        let repair = self.repair.next_deadline();
        self.deadlines.first().map_or(repair, |(deadline, _)| repair.min(*deadline))
    }

    /// Closes the batches and takes what the driver must do. Call it after each group of events.
    pub fn effects(&mut self) -> Vec<Effect> {
        self.flush();
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
