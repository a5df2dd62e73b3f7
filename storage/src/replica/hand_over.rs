//! How records leave a node that no longer keeps them.
//!
//! ```text
//!   each round, and 1 s after a node that sees the mesh otherwise has left a record here,
//!   each bucket that lies here but belongs to others:
//!     HandOff to all its replicas; when all have it, it is dropped here
//! ```

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use gossip::id::{NodeName, SessionId, Tag};

use super::repair::Resting;
use super::{Effect, Now, Purpose, Replica, add};
use crate::pin::Pin;
use crate::placement::bucket_of;
use crate::table::Record;
use crate::wire::{BATCH_MAX, Request, Response};

/// Batches under way at once.
const BATCHES_MAX: usize = 16;
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
/// What was put here astray is handed over after this: who put it counts it as kept by a replica.
const ASTRAY: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct HandOvers {
    /// Something was put here that belongs to others: when they are to get it.
    pub(super) astray: Option<Instant>,
    /// The buckets of others that lie here and whose turn comes in this round.
    foreign: VecDeque<(Tag, u16)>,
    under_way: HashMap<u64, HandOver>,
    next: u64,
}

/// A batch on its way to the replicas it belongs to.
#[derive(Debug)]
struct HandOver {
    records: Vec<Record>,
    waiting: usize,
    failed: bool,
}

impl Replica {
    /// A record was put here. When others keep its bucket, they are told soon.
    pub(super) fn note_put(&mut self, record: &Record, now: Now) {
        if !self.mates.is_mine(record.home, bucket_of(&record.pin.id)) {
            self.hand_overs.astray.get_or_insert(now.instant + ASTRAY);
        }
    }

    pub(super) fn hand_over_tick(&mut self, now: Now) {
        if self.hand_overs.astray.is_some_and(|at| at <= now.instant) {
            let has_begun = self.begin_hand_over(now);
            self.hand_overs.astray = (!has_begun).then_some(now.instant + ASTRAY);
        }
    }

    /// Notes what lies here but belongs to others; each round tries each bucket once. False while the last ones are still on
    /// their way.
    pub(super) fn begin_hand_over(&mut self, now: Now) -> bool {
        let is_free = self.hand_overs.foreign.is_empty() && self.hand_overs.under_way.is_empty();
        if is_free {
            let foreign = |(home, bucket): &(Tag, u16)| !self.mates.is_mine(*home, *bucket);
            self.hand_overs.foreign = self.table.buckets().into_iter().filter(foreign).collect();
            self.hand_over(now);
        }
        is_free
    }

    /// Sends it on, in batches for the same replicas.
    pub(super) fn hand_over(&mut self, now: Now) {
        while self.hand_overs.under_way.len() < BATCHES_MAX && !self.hand_overs.foreign.is_empty() {
            if !self.repair.pace.is_due(now.instant) {
                if !self.repair.resting.contains(&Resting::HandOver) {
                    self.repair.resting.push_back(Resting::HandOver);
                }
                return;
            }
            self.hand_over_some(now);
        }
    }

    fn hand_over_some(&mut self, now: Now) {
        let mut batches: BTreeMap<Vec<NodeName>, Vec<Record>> = BTreeMap::new();
        let mut gathered = 0;
        while gathered < BATCH_MAX
            && let Some((home, bucket)) = self.hand_overs.foreign.pop_front()
        {
            // The mesh may have changed since this was noted.
            let replicas = self.others(home, bucket);
            if replicas.is_empty() || self.mates.is_mine(home, bucket) {
                continue;
            }
            let mut pins = self.table.pins(home, bucket, now.wall);
            pins.retain(|pin| !self.drafts.contains_key(&(home, pin.id)));
            gathered += pins.len();
            batches.entry(replicas).or_default().extend(pins.into_iter().map(|pin| Record { home, pin }));
        }
        self.repair.pace.moved(gathered, now.instant);
        for (replicas, records) in batches {
            for records in records.chunks(BATCH_MAX) {
                let batch = self.hand_overs.next;
                self.hand_overs.next += 1;
                for to in &replicas {
                    let request = Request::HandOff(records.to_vec());
                    self.ask(to.clone(), request, ASK_TIMEOUT, Purpose::HandOver(batch));
                }
                let waiting = replicas.len();
                self.hand_overs
                    .under_way
                    .insert(batch, HandOver { records: records.to_vec(), waiting, failed: false });
            }
        }
    }

    pub(super) fn hand_over_answered(&mut self, batch: u64, answer: Option<Response>, now: Now) {
        let Some(handed) = self.hand_overs.under_way.get_mut(&batch) else {
            return;
        };
        handed.waiting -= 1;
        handed.failed |= !matches!(answer, Some(Response::Ack { refused }) if refused.is_empty());
        if handed.waiting > 0 {
            return;
        }
        if let Some(HandOver { records, failed: false, .. }) = self.hand_overs.under_way.remove(&batch) {
            self.handed_over(&records);
        }
        self.hand_over(now);
    }

    /// All replicas have these: they need not lie here.
    fn handed_over(&mut self, records: &[Record]) {
        let mut buckets: BTreeMap<(Tag, u16), HashMap<SessionId, Pin>> = BTreeMap::new();
        for Record { home, pin } in records {
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
    }
}
