//! What waits to be sent to one node, in batches.
//!
//! A batch goes out at the end of each group of events, so a lone record waits for nothing; while
//! [`BATCHES_MAX`] batches are under way to a node, records gather into the next. Bounded: beyond [`WAITING_MAX`]
//! a record is not sent to that node; repair brings it there.

use std::collections::VecDeque;
use std::time::Duration;

use gossip::id::{NodeName, SessionId, Tag};

use super::{Effect, Now, OpId, Purpose, Replica};
use crate::table::Record;
use crate::wire::{BATCH_MAX, Request, Response};

const WAITING_MAX: usize = 16 * BATCH_MAX;
const BATCHES_MAX: usize = 16;
const BATCH_TIMEOUT: Duration = Duration::from_secs(1);

/// What waits for one node.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    records: VecDeque<(Record, Option<OpId>)>,
    refreshes: Vec<(Tag, SessionId, u32)>,
    under_way: usize,
}

/// A batch under way: its records, and the operations that wait for them.
#[derive(Debug)]
pub(super) struct Batch {
    to: NodeName,
    posted: Vec<(Record, Option<OpId>)>,
}

impl Replica {
    /// Queues a record for a node. False when there is no room.
    pub(super) fn post(&mut self, to: &NodeName, record: Record, op: Option<OpId>) -> bool {
        let outbox = self.outbox.entry(to.clone()).or_default();
        let room = outbox.records.len() < WAITING_MAX;
        if room {
            outbox.records.push_back((record, op));
        }
        room
    }

    /// Queues a new expiry for a node.
    pub(super) fn post_refresh(&mut self, to: &NodeName, home: Tag, id: SessionId, expires: u32) {
        let outbox = self.outbox.entry(to.clone()).or_default();
        if outbox.refreshes.len() < WAITING_MAX {
            outbox.refreshes.push((home, id, expires));
        }
    }

    /// Sends what waits.
    pub(super) fn flush(&mut self) {
        let mut outboxes = std::mem::take(&mut self.outbox);
        for (to, outbox) in &mut outboxes {
            while outbox.under_way < BATCHES_MAX && !outbox.records.is_empty() {
                let batch = outbox.records.len().min(BATCH_MAX);
                let posted: Vec<_> = outbox.records.drain(..batch).collect();
                let records = posted.iter().map(|(record, _)| *record).collect();
                outbox.under_way += 1;
                let batch = Purpose::Batch(Batch { to: to.clone(), posted });
                self.ask(to.clone(), Request::Put(records), BATCH_TIMEOUT, batch);
            }
            for refreshes in std::mem::take(&mut outbox.refreshes).chunks(BATCH_MAX) {
                self.effects
                    .push(Effect::Tell { to: to.clone(), request: Request::Refresh(refreshes.to_vec()) });
            }
        }
        self.outbox = outboxes;
    }

    pub(super) fn batch_answered(&mut self, batch: Batch, answer: Option<Response>, now: Now) {
        if let Some(outbox) = self.outbox.get_mut(&batch.to) {
            outbox.under_way = outbox.under_way.saturating_sub(1);
        }
        let refused = match answer {
            Some(Response::Ack { refused }) => Some(refused),
            _ => None,
        };
        for (at, (record, op)) in batch.posted.into_iter().enumerate() {
            let held = refused.as_ref().is_some_and(|refused| refused.binary_search(&(at as u16)).is_err());
            // Who answers that it cannot hold a record need not be asked again.
            self.posted(&batch.to, record, op, held, refused.is_none(), now);
        }
    }

    /// Drops what waits for nodes that no longer count.
    pub(super) fn drop_outboxes(&mut self, now: Now) {
        let gone = |peer: &NodeName| !self.mates.peers.contains_key(peer);
        let gone: Vec<_> = self.outbox.keys().filter(|peer| gone(peer)).cloned().collect();
        for peer in gone {
            let outbox = self.outbox.remove(&peer).unwrap_or_default();
            for (record, op) in outbox.records {
                self.posted(&peer, record, op, false, true, now);
            }
        }
    }

    fn posted(
        &mut self,
        to: &NodeName,
        record: Record,
        op: Option<OpId>,
        held: bool,
        silent: bool,
        now: Now,
    ) {
        if silent {
            self.hint(to, record.home, record.pin.id, now);
        }
        self.draft_answered(&record, held);
        if let Some(op) = op {
            self.put_answered(op, held, now);
        }
    }
}
