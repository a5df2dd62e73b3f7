//! Anti-entropy: what replicas do so that they hold the same, and how records leave a node that no longer keeps them.
//!
//! ```text
//!   each pair of nodes that share buckets of a home, every 10 s and 1 s after the placement changed:
//!     Summary  64 sums over the shared buckets    ─▶ the groups that differ: none, as a rule
//!     Digest  fingerprints of the shared buckets in these groups  ─▶ those that differ
//!     Keys    ids and hashes in some of them      ─▶ what one side lacks or holds differently
//!     Pull    what this side lacks     HandOff    what the other lacks       then the next buckets
//!
//!   each bucket that lies here but belongs to others:
//!     HandOff to all its replicas; when all have it, it is dropped here
//! ```
//!
//! The node with the lesser name starts, and at once who meets the other anew ([`super::settling`]). One question at a time a pair; a question without an answer ends the pair's
//! exchange until the next round. Nothing here is urgent: every message may be lost.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use gossip::id::{NodeName, SessionId, Tag, rendezvous};

use super::{Effect, Now, Purpose, Replica, add};
use crate::digest::Fingerprint;
use crate::pin::Pin;
use crate::placement::{BUCKETS, bucket_of};
use crate::table::Record;
use crate::wire::{BATCH_MAX, GROUPS, Request, Response};

const ROUND: Duration = Duration::from_secs(10);
const AFTER_A_CHANGE: Duration = Duration::from_secs(1);
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
const SWEEP: Duration = Duration::from_secs(1);
/// So that every bucket is swept once a minute.
const SWEEP_BUCKETS: u16 = BUCKETS / 60 + 1;
const KEYS_BUCKETS: usize = 256;
const BUCKETS_A_GROUP: usize = BUCKETS as usize / GROUPS;
/// Exchanges under way at once, and batches handed over at once.
const PAIRS_MAX: usize = 8;
const HAND_OVERS_MAX: usize = 16;

/// Another node and the home whose records are compared with it.
pub(super) type PairKey = (NodeName, Tag);

#[derive(Debug)]
pub(super) struct Repair {
    next_round: Instant,
    next_sweep: Instant,
    sweep_at: u16,
    jitter: Duration,
    waiting: VecDeque<PairKey>,
    pairs: HashMap<PairKey, Pair>,
    /// The buckets held with another node, as the present placement has it; filled when first asked for.
    shared: HashMap<PairKey, Arc<[u16]>>,
    handed: HashMap<u64, HandOver>,
    next_hand_over: u64,
}

/// An exchange with one node about one home.
#[derive(Debug)]
struct Pair {
    asked: Asked,
    differ: VecDeque<u16>,
    pull: VecDeque<SessionId>,
    push: VecDeque<SessionId>,
}

/// The question that has no answer yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Summary,
    Digest,
    /// About so many buckets.
    Keys(usize),
    Records,
}

/// A batch on its way to the replicas it belongs to.
#[derive(Debug)]
struct HandOver {
    records: Vec<Record>,
    waiting: usize,
    failed: bool,
}

impl Repair {
    pub(super) fn new(me: &NodeName, now: Instant) -> Self {
        // Nodes that start together do not all repair in the same moment.
        let jitter = Duration::from_millis(rendezvous(b"repair", me.as_str().as_bytes()) % 1000);
        Self {
            next_round: now + AFTER_A_CHANGE + jitter,
            next_sweep: now + SWEEP,
            sweep_at: 0,
            jitter,
            waiting: VecDeque::new(),
            pairs: HashMap::new(),
            shared: HashMap::new(),
            handed: HashMap::new(),
            next_hand_over: 0,
        }
    }

    /// The placement has changed.
    pub(super) fn moved(&mut self, now: Instant) {
        self.shared.clear();
        self.next_round = self.next_round.min(now + AFTER_A_CHANGE + self.jitter / 4);
    }

    pub(super) fn next_deadline(&self) -> Instant {
        self.next_round.min(self.next_sweep)
    }
}

impl Replica {
    pub(super) fn repair_tick(&mut self, now: Now) {
        if self.repair.next_sweep <= now.instant {
            self.repair.next_sweep = now.instant + SWEEP;
            self.sweep(now);
        }
        if self.repair.next_round <= now.instant {
            self.round(now);
            let calm = self.settling.strange().next().is_none();
            let rest = if calm { ROUND - self.repair.jitter / 2 } else { AFTER_A_CHANGE };
            self.repair.next_round = now.instant + rest;
        }
    }

    fn sweep(&mut self, now: Now) {
        let first = self.repair.sweep_at;
        for home in self.table.homes() {
            for bucket in first..first + SWEEP_BUCKETS {
                let expired = self.table.sweep(home, bucket % BUCKETS, now.wall);
                self.effects.extend(expired.into_iter().map(|id| Effect::Save(home, id)));
            }
        }
        self.ballots.sweep(now.instant);
        self.deliver_hints(now);
        self.repair.sweep_at = (first + SWEEP_BUCKETS) % BUCKETS;
    }

    fn round(&mut self, now: Now) {
        self.hand_over(now);
        let mates = self.mates.clone();
        let known = |(peer, _): &(NodeName, Tag)| mates.peers.contains_key(peer);
        self.counters.differ.lock().unwrap_or_else(PoisonError::into_inner).retain(|pair, _| known(pair));
        self.repair.waiting.clear();
        for (home, table) in mates.placement.homes() {
            if table.nodes().all(|node| *node != mates.me) {
                continue;
            }
            for peer in table.nodes().filter(|peer| mates.is_alive(peer)) {
                let pair = (peer.clone(), home);
                let begins = *peer > mates.me || self.settling.is_strange(&pair);
                if begins && !self.repair.pairs.contains_key(&pair) {
                    self.repair.waiting.push_back(pair);
                }
            }
        }
        self.start_pairs();
    }

    /// Compares with these first.
    pub(super) fn exchange_with(&mut self, pairs: Vec<PairKey>) {
        for pair in pairs {
            self.repair.waiting.retain(|waiting| *waiting != pair);
            if !self.repair.pairs.contains_key(&pair) {
                self.repair.waiting.push_front(pair);
            }
        }
        self.start_pairs();
    }

    fn start_pairs(&mut self) {
        while self.repair.pairs.len() < PAIRS_MAX
            && let Some((peer, home)) = self.repair.waiting.pop_front()
        {
            let summary = self.summary(&peer, home);
            let (differ, pull, push) = Default::default();
            let pair = Pair { asked: Asked::Summary, differ, pull, push };
            self.repair.pairs.insert((peer.clone(), home), pair);
            self.ask_pair((peer, home), Request::Summary(home, summary));
        }
    }

    /// The sums over the buckets held with `peer`, by group.
    pub(super) fn summary(&mut self, peer: &NodeName, home: Tag) -> Box<[Fingerprint; GROUPS]> {
        let shared = self.shared(peer, home);
        let mut groups = Box::new([Fingerprint::default(); GROUPS]);
        for (bucket, fingerprint) in shared.iter().zip(self.table.fingerprints(home, &shared)) {
            groups[usize::from(*bucket) / BUCKETS_A_GROUP] += fingerprint;
        }
        groups
    }

    fn shared(&mut self, peer: &NodeName, home: Tag) -> Arc<[u16]> {
        let Self { repair, mates, .. } = self;
        let shared = repair.shared.entry((peer.clone(), home)).or_insert_with(|| {
            let holds = |node, bucket| mates.placement.holds(node, home, bucket);
            (0..BUCKETS).filter(|bucket| holds(&mates.me, *bucket) && holds(peer, *bucket)).collect()
        });
        shared.clone()
    }

    fn ask_pair(&mut self, pair: PairKey, request: Request) {
        self.ask(pair.0.clone(), request, ASK_TIMEOUT, Purpose::Repair(pair));
    }

    pub(super) fn repair_answered(&mut self, pair: PairKey, answer: Option<Response>, now: Now) {
        let home = pair.1;
        let Some(mut state) = self.repair.pairs.remove(&pair) else {
            return;
        };
        let goes_on = match answer {
            Some(Response::Differ(groups)) if state.asked == Asked::Summary => {
                let shared = self.shared(&pair.0, home);
                let in_one = |bucket: &&u16| groups.contains(&(**bucket / BUCKETS_A_GROUP as u16));
                let buckets: Vec<_> = shared.iter().filter(in_one).copied().collect();
                let mut differ = self.counters.differ.lock().unwrap_or_else(PoisonError::into_inner);
                if buckets.is_empty() {
                    differ.remove(&pair);
                    drop(differ);
                    self.settled_with(&pair, now);
                    return self.start_pairs();
                }
                differ.entry(pair.clone()).or_insert(now.wall);
                drop(differ);
                state.asked = Asked::Digest;
                self.repair.pairs.insert(pair.clone(), state);
                let sums = self.table.fingerprints(home, &buckets);
                return self.ask_pair(pair, Request::Digest(home, buckets.into_iter().zip(sums).collect()));
            }
            Some(Response::Differ(buckets)) if state.asked == Asked::Digest => {
                state.differ = buckets.into();
                true
            }
            Some(Response::Keys(theirs)) => self.compare(home, &mut state, theirs, now),
            Some(Response::Pins(pins)) => {
                self.pulled(home, pins, now);
                true
            }
            Some(Response::Ack { .. }) => true,
            _ => false,
        };
        match self.next_question(home, &mut state, now) {
            Some(request) if goes_on => {
                self.repair.pairs.insert(pair.clone(), state);
                self.ask_pair(pair, request);
            }
            ended => {
                if goes_on && ended.is_none() {
                    self.settled_with(&pair, now);
                }
                self.start_pairs();
            }
        }
    }

    /// Notes what differs in the buckets the peer listed. False when it lists something else than was asked.
    fn compare(
        &mut self,
        home: Tag,
        pair: &mut Pair,
        theirs: Vec<(u16, Vec<(SessionId, u64)>)>,
        now: Now,
    ) -> bool {
        if theirs.is_empty() || !matches!(pair.asked, Asked::Keys(asked) if theirs.len() <= asked) {
            return false;
        }
        for (bucket, keys) in theirs {
            if pair.differ.pop_front() != Some(bucket) {
                return false;
            }
            let mut mine: BTreeMap<_, _> = self
                .table
                .pins(home, bucket, now.wall)
                .iter()
                .map(|pin| (pin.id, pin.fingerprint()))
                .collect();
            for (id, hash) in keys.into_iter().filter(|(id, _)| bucket_of(id) == bucket) {
                match mine.remove(&id) {
                    Some(same) if same == hash => {}
                    // Both hold a half of the truth.
                    Some(_) => {
                        pair.pull.push_back(id);
                        pair.push.push_back(id);
                    }
                    None => pair.pull.push_back(id),
                }
            }
            pair.push.extend(mine.into_keys());
        }
        true
    }

    fn pulled(&mut self, home: Tag, pins: Vec<Pin>, now: Now) {
        let taken = pins.into_iter().map(|pin| self.take(Record { home, pin }, now));
        let changed = taken.filter(|merged| matches!(merged, crate::table::Merged::Changed(_))).count();
        add(&self.counters.repaired, changed as u64);
    }

    fn next_question(&self, home: Tag, pair: &mut Pair, now: Now) -> Option<Request> {
        pair.asked = Asked::Records;
        if !pair.pull.is_empty() {
            let batch = pair.pull.len().min(BATCH_MAX);
            return Some(Request::Pull(home, pair.pull.drain(..batch).collect()));
        }
        while !pair.push.is_empty() {
            let batch = pair.push.len().min(BATCH_MAX);
            let held = |id| Some(Record { home, pin: self.table.find(home, &id, now.wall)? });
            let records: Vec<_> = pair.push.drain(..batch).filter_map(held).collect();
            if !records.is_empty() {
                return Some(Request::HandOff(records));
            }
        }
        if pair.differ.is_empty() {
            return None;
        }
        let buckets: Vec<_> = pair.differ.iter().take(KEYS_BUCKETS).copied().collect();
        pair.asked = Asked::Keys(buckets.len());
        Some(Request::Keys(home, buckets))
    }

    /// Sends on what lies here but belongs to others, in batches for the same replicas.
    fn hand_over(&mut self, now: Now) {
        let mut batches: BTreeMap<Vec<NodeName>, Vec<Record>> = BTreeMap::new();
        let room = HAND_OVERS_MAX.saturating_sub(self.repair.handed.len()) * BATCH_MAX;
        let mut gathered = 0;
        for (home, bucket) in self.table.buckets() {
            if gathered >= room || self.mates.is_mine(home, bucket) {
                continue;
            }
            let replicas = self.others(home, bucket);
            if replicas.is_empty() {
                continue;
            }
            let mut pins = self.table.pins(home, bucket, now.wall);
            pins.retain(|pin| !self.drafts.contains_key(&(home, pin.id)));
            gathered += pins.len();
            batches.entry(replicas).or_default().extend(pins.into_iter().map(|pin| Record { home, pin }));
        }
        for (replicas, records) in batches {
            for records in records.chunks(BATCH_MAX) {
                let batch = self.repair.next_hand_over;
                self.repair.next_hand_over += 1;
                for to in &replicas {
                    let request = Request::HandOff(records.to_vec());
                    self.ask(to.clone(), request, ASK_TIMEOUT, Purpose::HandOver(batch));
                }
                let waiting = replicas.len();
                self.repair
                    .handed
                    .insert(batch, HandOver { records: records.to_vec(), waiting, failed: false });
            }
        }
    }

    pub(super) fn hand_over_answered(&mut self, batch: u64, answer: Option<Response>, now: Now) {
        let Some(handed) = self.repair.handed.get_mut(&batch) else {
            return;
        };
        handed.waiting -= 1;
        handed.failed |= !matches!(answer, Some(Response::Ack { refused }) if refused.is_empty());
        if handed.waiting > 0 {
            return;
        }
        let Some(HandOver { records, failed, .. }) = self.repair.handed.remove(&batch) else {
            return;
        };
        if failed {
            return;
        }
        let mut buckets: BTreeMap<(Tag, u16), HashMap<SessionId, Pin>> = BTreeMap::new();
        for Record { home, pin } in &records {
            let bucket = bucket_of(&pin.id);
            // The mesh may have changed meanwhile: what belongs here again stays.
            if !self.mates.is_mine(*home, bucket) {
                buckets.entry((*home, bucket)).or_default().insert(pin.id, *pin);
            }
        }
        for ((home, bucket), pins) in buckets {
            self.table.remove_unchanged(home, bucket, &pins);
        }
        self.effects.extend(records.iter().map(|record| Effect::Save(record.home, record.pin.id)));
        add(&self.counters.repaired, records.len() as u64);
        if self.repair.handed.is_empty() {
            self.hand_over(now);
        }
    }
}
