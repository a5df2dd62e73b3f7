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

/// A batch under way: the operations that wait for its records, in their order.
#[derive(Debug)]
pub(super) struct Batch {
    to: NodeName,
    ops: Vec<Option<OpId>>,
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
                let (records, ops) = outbox.records.drain(..batch).unzip();
                outbox.under_way += 1;
                let batch = Purpose::Batch(Batch { to: to.clone(), ops });
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
        for (at, op) in batch.ops.into_iter().enumerate() {
            let Some(op) = op else { continue };
            let held = refused.as_ref().is_some_and(|refused| refused.binary_search(&(at as u16)).is_err());
            self.put_answered(op, held, now);
        }
    }
}
