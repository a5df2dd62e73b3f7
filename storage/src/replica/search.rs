//! Looking a session up at its replicas.
//!
//! ```text
//!   Get to the replicas ─┬─ a copy ───────────────────────────────────────────────▶ it, merged with the own
//!     ▲                  ├─ all but one replica lack it, and that one refused ─────▶ None
//!     │                  ├─ all who live lack it, and all but one replica say so ─▶ None
//!     └── 50 ms ─────────┴─ nothing, or refused
//!
//!   after 250 ms   the own copy, or None when all but one replica lack it or only suspects have not answered
//!   after 2 s      None
//! ```
//!
//! An acknowledged record lies with two replicas, so it is unknown only when all but one lack it. A replica that may have
//! missed something (see [`super::settling`]) has no say in that: it refuses. Silence says nothing either; who is gone is
//! suspected within a second or so, and a session is worth waiting for that.

use std::time::{Duration, Instant};

use gossip::id::{NodeName, SessionId, Tag};

use super::ops::{Kind, OPS_MAX};
use super::{Due, Now, OpId, Outcome, Purpose, Replica, WAIT_MAX};
use crate::pin::Pin;
use crate::placement::bucket_of;
use crate::table::Record;
use crate::wire::{Request, Response};

/// No look-up takes longer.
pub const FIND_MAX: Duration = Duration::from_secs(2);
/// Who did not answer is asked again after this.
const AGAIN: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(super) struct Search {
    home: Tag,
    id: SessionId,
    own: Option<Pin>,
    begun: Instant,
    asked: Vec<(NodeName, Heard)>,
}

/// What a replica has said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heard {
    /// It is asked now.
    NotYet,
    /// No answer, or none that counts: it is asked again.
    Nothing,
    /// It lacks the record.
    Lacks,
}

impl Replica {
    pub(super) fn find(&mut self, op: OpId, home: Tag, id: SessionId, now: Now) {
        let own = self.table.find(home, &id, now.wall);
        let bucket = bucket_of(&id);
        let settled = self.is_settled_in(home, bucket);
        let known = own.is_some() && settled && self.mates.is_mine(home, bucket);
        let nobody = settled && self.others(home, bucket).is_empty();
        if known || nobody || self.ops.len() >= OPS_MAX {
            return self.done(op, Outcome::Found(own));
        }
        let search = Search { home, id, own, begun: now.instant, asked: Vec::new() };
        self.pend(op, now.instant + WAIT_MAX, Kind::Find(search));
        self.search_on(op, now);
    }

    /// Asks who was not asked, and ends the look-up when enough is known.
    pub(super) fn search_on(&mut self, op: OpId, now: Now) {
        let Some(Kind::Find(Search { home, id, own, begun, .. })) = self.kind(op) else { return };
        let (home, id, own, begun) = (*home, *id, *own, *begun);
        let here = self.table.find(home, &id, now.wall);
        if own.is_none() && here.is_some() {
            return self.done(op, Outcome::Found(here));
        }
        let bucket = bucket_of(&id);
        let (replicas, mates) = (self.others(home, bucket), self.mates.clone());
        let mine = mates.is_mine(home, bucket);
        let settled = self.is_settled_in(home, bucket);
        let own_vote = mine && own.is_none() && settled;
        let Some(Kind::Find(search)) = self.kind(op) else { return };
        // The mesh may have changed since.
        search.asked.retain(|(node, _)| replicas.contains(node));
        let lack =
            search.asked.iter().filter(|(_, heard)| *heard == Heard::Lacks).count() + usize::from(own_vote);
        let most = (replicas.len() + usize::from(mine)).saturating_sub(1).max(1);
        let all = search.asked.iter().all(|(_, heard)| *heard == Heard::Lacks);
        let all = all && search.asked.len() == replicas.len() && (!replicas.is_empty() || settled);
        let has = |node: &NodeName, heard| search.asked.contains(&(node.clone(), heard));
        let awaited = replicas.iter().any(|node| mates.is_alive(node) && !has(node, Heard::Lacks));
        // Who refused holds nothing, but may have missed it: that changes nothing where all others are sure.
        let refused = |node| has(node, Heard::Lacks) || has(node, Heard::Nothing);
        let denied = lack >= most && replicas.iter().all(|node| refused(node) || !mates.is_alive(node));
        let enough = own.is_some() || lack >= most;
        let waited = now.instant.saturating_duration_since(begun);
        let ends = all
            || denied
            || enough && !awaited
            || waited >= WAIT_MAX && (enough || !awaited)
            || waited >= FIND_MAX;
        if ends {
            return self.done(op, Outcome::Found(own));
        }
        let mut ask = Vec::new();
        for node in replicas {
            match search.asked.iter_mut().find(|(asked, _)| *asked == node) {
                Some((_, heard @ Heard::Nothing)) => *heard = Heard::NotYet,
                Some(_) => continue,
                None => search.asked.push((node.clone(), Heard::NotYet)),
            }
            ask.push(node);
        }
        for to in ask {
            self.ask(to.clone(), Request::Get(home, id), WAIT_MAX, Purpose::Get(op, to));
        }
    }

    pub(super) fn get_answered(&mut self, op: OpId, from: &NodeName, answer: Option<Response>, now: Now) {
        let Some(Kind::Find(search)) = self.kind(op) else { return };
        let (home, id, own) = (search.home, search.id, search.own);
        let heard = match answer {
            Some(Response::Found(Some(pin))) if pin.id == id && pin.is_acceptable(now.wall) => {
                self.learn(Record { home, pin }, now);
                self.seen = self.seen.max(pin.assignment.hlc);
                let merged = own.map_or(pin, |own| own.merge(pin));
                return self.done(op, Outcome::Found(Some(merged)));
            }
            Some(Response::Found(_)) => Heard::Lacks,
            _ => Heard::Nothing,
        };
        if let Some((_, was)) = search.asked.iter_mut().find(|(node, _)| node == from) {
            *was = heard;
        }
        match heard {
            Heard::Nothing => drop(self.deadlines.insert((now.instant + AGAIN, Due::Search(op)))),
            _ => self.search_on(op, now),
        }
    }

    /// A look-up's time is over, or its second one.
    pub(super) fn search_overdue(&mut self, op: OpId, now: Now) {
        if let Some(Kind::Find(Search { begun, .. })) = self.kind(op) {
            let last = *begun + FIND_MAX;
            self.prolong(op, last.max(now.instant + AGAIN));
            self.search_on(op, now);
        }
    }

    /// The mesh has changed, or what this node's own copies are worth.
    pub(super) fn search_all(&mut self, now: Now) {
        let searches = self.ops.iter().filter(|(_, pending)| pending.is_search()).map(|(op, _)| *op);
        let mut searches: Vec<_> = searches.collect();
        searches.sort_unstable();
        searches.into_iter().for_each(|op| self.search_on(op, now));
    }
}
