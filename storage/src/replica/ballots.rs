//! What a replica has promised in elections, and its votes.
//!
//! A promise is kept in RAM for [`KEPT`], far longer than any election takes. A replica that forgets one in a crash may
//! vote twice: two nodes may then move one session to two places, and the greater time wins as it does for weak moves.
//!
//! Bounded: beyond [`PROMISES_MAX`] nothing more is promised until the old ones are forgotten, and elections end weakly.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use gossip::clock::Hlc;
use gossip::id::{SessionId, Tag};

use super::{Now, Replica};
use crate::pin::Pin;
use crate::table::Record;
use crate::wire::{Ballot, Vote};

/// Elections in which a node may have promised something at once.
pub const PROMISES_MAX: usize = 65_536;
const KEPT: Duration = Duration::from_secs(30);

/// The greatest ballots promised.
#[derive(Debug, Default)]
pub(super) struct Ballots(BTreeMap<(Tag, SessionId), (Ballot, Instant)>);

impl Ballots {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Forgets what no election under way can need.
    pub(super) fn sweep(&mut self, now: Instant) {
        self.0.retain(|_, (_, at)| now.saturating_duration_since(*at) < KEPT);
    }
}

impl Replica {
    /// This replica's promise to accept nothing under a lesser ballot. `None` when it cannot promise anything.
    pub(super) fn promise(&mut self, home: Tag, id: SessionId, ballot: Ballot, now: Now) -> Option<Vote> {
        let held = self.table.find(home, &id, now.wall);
        let promised = self.ballots.0.get(&(home, id)).map(|(promised, _)| *promised);
        if promised.is_none() && self.ballots.0.len() >= PROMISES_MAX {
            return None;
        }
        let bar = promised.into_iter().chain(held.as_ref().map(ballot_of)).max().unwrap_or_default();
        let granted = ballot >= bar;
        if granted {
            self.ballots.0.insert((home, id), (ballot, now.instant));
        }
        Some(Vote { granted, promised: bar.hlc, held })
    }

    /// This replica's vote on a proposal whose proposer knew nothing newer than `replaces`. `None` when it cannot hold
    /// such a record at all.
    pub(super) fn accept(&mut self, record: Record, replaces: Hlc, now: Now) -> Option<Vote> {
        let Record { home, pin } = record;
        let held = self.table.find(home, &pin.id, now.wall);
        let promised = self.ballots.0.get(&(home, pin.id)).map(|(promised, _)| *promised).unwrap_or_default();
        let outbid = promised > ballot_of(&pin);
        let newer =
            held.is_some_and(|held| held.assignment.hlc > replaces && held.assignment != pin.assignment);
        let bar = held.map_or(Hlc::ZERO, |held| held.assignment.hlc).max(promised.hlc);
        if outbid || newer {
            return Some(Vote { granted: false, promised: bar, held });
        }
        let held = self.take(record, now).held()?;
        Some(Vote { granted: held.assignment == pin.assignment, promised: bar, held: Some(held) })
    }
}

fn ballot_of(pin: &Pin) -> Ballot {
    Ballot { hlc: pin.assignment.hlc, node: pin.assignment.node }
}
