//! Anti-entropy: what replicas do so that they hold the same.
//!
//! ```text
//!   each pair of nodes that share buckets of a home, every 10 s and 1 s after the mesh changed:
//!     Summary  64 sums over the shared buckets    ─▶ the groups that differ: none, as a rule
//!     Digest  fingerprints of the shared buckets in these groups  ─▶ those that differ
//!     Keys    ids and hashes in some of them      ─▶ what one side lacks or holds differently
//!     Pull    what this side lacks     HandOff    what the other lacks       then the next buckets
//! ```
//!
//! The node with the lesser name starts, and at once who meets the other anew ([`super::settling`]). One question at a time a pair;
//! a question without an answer ends the pair's exchange until the next round, which then comes after a second. Nothing here is urgent: every message may be
//! lost, and records move at a [pace](super::pace), those of the exchanges and what is handed over in turn.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use gossip::id::{NodeName, SessionId, Tag, rendezvous};

use super::pace::Pace;
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
/// Exchanges under way at once.
const PAIRS_MAX: usize = 8;

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
    pub(super) pace: Pace,
    /// What has records to move and waits for its turn.
    pub(super) resting: VecDeque<Resting>,
}

/// What moves records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Resting {
    Pair(PairKey),
    HandOver,
}

/// An exchange with one node about one home.
#[derive(Debug)]
struct Pair {
    asked: Asked,
    differ: VecDeque<u16>,
    /// What this side lacks, with its hash.
    pull: VecDeque<(SessionId, u64)>,
    push: VecDeque<SessionId>,
    /// What is to be compared has changed since it began.
    outdated: bool,
}

/// How an exchange goes on.
#[derive(Debug)]
enum Next {
    Ask(Request),
    /// Records are to move, and it is not time yet.
    Rest,
    End,
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
            pace: Pace::new(now),
            resting: VecDeque::new(),
        }
    }

    /// The placement has changed.
    pub(super) fn moved(&mut self, now: Instant) {
        self.shared.clear();
        self.soon(now);
    }

    /// A node was shaken: the others compare without waiting for their turn.
    pub(super) fn soon(&mut self, now: Instant) {
        self.next_round = self.next_round.min(now + AFTER_A_CHANGE + self.jitter / 4);
    }

    pub(super) fn next_deadline(&self) -> Instant {
        let next = self.next_round.min(self.next_sweep);
        if self.resting.is_empty() { next } else { next.min(self.pace.due()) }
    }
}

impl Replica {
    pub(super) fn repair_tick(&mut self, now: Now) {
        if self.repair.next_sweep <= now.instant {
            self.repair.next_sweep = now.instant + SWEEP;
            self.sweep(now);
        }
        self.hand_over_tick(now);
        if self.repair.next_round <= now.instant {
            self.round(now);
            let rest = if self.settling.is_calm() { ROUND - self.repair.jitter / 2 } else { AFTER_A_CHANGE };
            self.repair.next_round = now.instant + rest;
        }
        while self.repair.pace.is_due(now.instant)
            && let Some(resting) = self.repair.resting.pop_front()
        {
            match resting {
                Resting::Pair(pair) => self.go_on(pair, now),
                Resting::HandOver => self.hand_over(now),
            }
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
        self.begin_hand_over(now);
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
                let begins = *peer > mates.me || self.settling.is_to_compare(&pair);
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

    /// More than before is to be compared with these: an exchange that is under way does not settle it.
    pub(super) fn outdate<'a>(&mut self, pairs: impl Iterator<Item = &'a PairKey>) {
        for pair in pairs {
            if let Some(state) = self.repair.pairs.get_mut(pair) {
                state.outdated = true;
            }
        }
    }

    fn start_pairs(&mut self) {
        while self.repair.pairs.len() < PAIRS_MAX
            && let Some((peer, home)) = self.repair.waiting.pop_front()
        {
            let summary = self.summary(&peer, home);
            let (differ, pull, push) = Default::default();
            let pair = Pair { asked: Asked::Summary, differ, pull, push, outdated: false };
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

    /// The buckets to be compared with `peer`: those that both hold, and those that it held before.
    fn shared(&mut self, peer: &NodeName, home: Tag) -> Arc<[u16]> {
        let Self { repair, mates, settling, .. } = self;
        let pair = (peer.clone(), home);
        let holds = |node, bucket| mates.placement.holds(node, home, bucket);
        let former: Vec<u16> = settling.doubted(&pair).filter(|bucket| !holds(peer, *bucket)).collect();
        let shared = repair.shared.entry(pair).or_insert_with(|| {
            (0..BUCKETS).filter(|bucket| holds(&mates.me, *bucket) && holds(peer, *bucket)).collect()
        });
        if former.is_empty() {
            return shared.clone();
        }
        let mut both = [&shared[..], &former].concat();
        both.sort_unstable();
        both.into()
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
                    return self.exchanged(pair, &state, now);
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
                // Exchanges that could bring the same records begin at different buckets.
                let (me, peer) = (self.mates.me.as_str(), pair.0.as_str());
                let begin = rendezvous(me.as_bytes(), peer.as_bytes()) % state.differ.len().max(1) as u64;
                state.differ.rotate_left(begin as usize);
                true
            }
            Some(Response::Keys(theirs)) => self.compare(&pair, &mut state, theirs, now),
            Some(Response::Pins(pins)) => {
                self.pulled(home, pins, now);
                true
            }
            Some(Response::Ack { .. }) => true,
            _ => false,
        };
        self.repair.pairs.insert(pair.clone(), state);
        match goes_on {
            true => self.go_on(pair, now),
            false => self.broken_off(&pair),
        }
    }

    /// Asks the next question of an exchange.
    fn go_on(&mut self, pair: PairKey, now: Now) {
        let Some(mut state) = self.repair.pairs.remove(&pair) else { return };
        match self.next_question(pair.1, &mut state, now) {
            Next::Ask(request) => {
                self.repair.pairs.insert(pair.clone(), state);
                self.ask_pair(pair, request);
            }
            Next::Rest => {
                self.repair.resting.push_back(Resting::Pair(pair.clone()));
                self.repair.pairs.insert(pair, state);
            }
            Next::End => self.exchanged(pair, &state, now),
        }
    }

    /// All was compared, and what differed was moved.
    fn exchanged(&mut self, pair: PairKey, state: &Pair, now: Now) {
        match state.outdated {
            true => self.repair.waiting.push_front(pair),
            false => self.settled_with(&pair, now),
        }
        self.start_pairs();
    }

    fn broken_off(&mut self, pair: &PairKey) {
        self.repair.pairs.remove(pair);
        self.settling.owes(pair);
        self.start_pairs();
    }

    /// Notes what differs in the buckets the peer listed. False when it lists something else than was asked.
    fn compare(
        &mut self,
        (peer, home): &PairKey,
        pair: &mut Pair,
        theirs: Vec<(u16, Vec<(SessionId, u64)>)>,
        now: Now,
    ) -> bool {
        let home = *home;
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
                        pair.pull.push_back((id, hash));
                        pair.push.push_back(id);
                    }
                    None => pair.pull.push_back((id, hash)),
                }
            }
            if self.mates.placement.holds(peer, home, bucket) {
                pair.push.extend(mine.into_keys());
            }
        }
        true
    }

    fn pulled(&mut self, home: Tag, pins: Vec<Pin>, now: Now) {
        let taken = pins.into_iter().map(|pin| self.take(Record { home, pin }, now));
        let changed = taken.filter(|merged| matches!(merged, crate::table::Merged::Changed(_))).count();
        add(&self.counters.repaired, changed as u64);
    }

    fn next_question(&mut self, home: Tag, pair: &mut Pair, now: Now) -> Next {
        pair.asked = Asked::Records;
        // Another exchange may have brought it meanwhile.
        let lacks = |(id, hash): &(SessionId, u64)| {
            self.table.find(home, id, now.wall).is_none_or(|pin| pin.fingerprint() != *hash)
        };
        while !(pair.pull.is_empty() && pair.push.is_empty()) {
            if !self.repair.pace.is_due(now.instant) {
                return Next::Rest;
            }
            let batch = pair.pull.len().min(BATCH_MAX);
            let ids: Vec<_> = pair.pull.drain(..batch).filter(lacks).map(|(id, _)| id).collect();
            if !ids.is_empty() {
                self.repair.pace.moved(ids.len(), now.instant);
                return Next::Ask(Request::Pull(home, ids));
            }
            if !pair.pull.is_empty() {
                continue;
            }
            let batch = pair.push.len().min(BATCH_MAX);
            let held = |id| Some(Record { home, pin: self.table.find(home, &id, now.wall)? });
            let records: Vec<_> = pair.push.drain(..batch).filter_map(held).collect();
            if !records.is_empty() {
                self.repair.pace.moved(records.len(), now.instant);
                return Next::Ask(Request::HandOff(records));
            }
        }
        if pair.differ.is_empty() {
            return Next::End;
        }
        let buckets: Vec<_> = pair.differ.iter().take(KEYS_BUCKETS).copied().collect();
        pair.asked = Asked::Keys(buckets.len());
        Next::Ask(Request::Keys(home, buckets))
    }
}
