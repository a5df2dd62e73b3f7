//! The answers to what other nodes ask.
use std::collections::BTreeSet;

use super::election::Asker;
use super::{Now, Replica, Reply, ReplyId, add};
use crate::pin::Pin;
use crate::placement::bucket_of;
use crate::plant::Plant;
use crate::table::{Merged, Record};
use crate::wire::{BATCH_MAX, KEYS_MAX, Request, Response};
use gossip::id::{NodeName, Tag};

impl Replica {
    /// Answers a question; `reply` names it in case that the answer comes later.
    pub fn request(&mut self, from: &NodeName, request: Request, reply: ReplyId, now: Now) -> Reply {
        let response = match request {
            Request::Repin { record, replaces } => {
                self.repin(Asker::There(reply), record, replaces, now);
                return Reply::Later;
            }
            other => self.serve(from, other, now),
        };
        response.map_or(Reply::Never, Reply::Now)
    }

    fn serve(&mut self, from: &NodeName, request: Request, now: Now) -> Option<Response> {
        Some(match request {
            Request::Put(records) => self.put(&records, now).1,
            Request::HandOff(records) => {
                let (changed, ack) = self.put(&records, now);
                add(&self.counters.repaired, changed);
                self.but_astray(&records, ack)
            }
            Request::Get(home, id) => {
                let found = self.table.find(home, &id, now.wall);
                // That a copy is missing says something only where it would lie.
                let early = self.table.plants().has(Plant::DenyEarly);
                let bucket = bucket_of(&id);
                let counts =
                    || (self.is_settled_in(home, bucket) || early) && self.mates.is_mine(home, bucket);
                if found.is_none() && !counts() {
                    return None;
                }
                Response::Found(found)
            }
            Request::Prepare { home, id, ballot } => Response::Vote(self.promise(home, id, ballot, now)?),
            Request::Accept { record, replaces } => Response::Vote(self.accept(record, replaces, now)?),
            Request::Repin { .. } => return None,
            Request::Refresh(entries) => {
                for (home, id, expires) in entries {
                    self.refresh_here(home, id, expires, now);
                }
                return None;
            }
            Request::Digest(home, entries) => {
                let differ = |(bucket, theirs): &(u16, _)| self.table.fingerprint(home, *bucket) != *theirs;
                let differ: Vec<_> =
                    entries.iter().filter(|entry| differ(entry)).map(|(bucket, _)| *bucket).collect();
                Response::Differ(differ)
            }
            Request::Keys(home, buckets) => Response::Keys(self.keys(home, &buckets, now)),
            Request::Pull(home, ids) => {
                let ids: BTreeSet<_> = ids.into_iter().take(BATCH_MAX).collect();
                Response::Pins(ids.iter().filter_map(|id| self.table.find(home, id, now.wall)).collect())
            }
            Request::Summary(home, theirs) => {
                let mine = self.summary(from, home);
                let differ =
                    (0..).zip(mine.iter().zip(theirs.iter())).filter(|(_, (mine, theirs))| mine != theirs);
                Response::Differ(differ.map(|(group, _)| group).collect())
            }
        })
    }

    /// What is handed over to one that does not take itself for a replica is taken in, but who hands it over must not drop it: two
    /// nodes that see the mesh otherwise could hand each other the last copies.
    fn but_astray(&self, records: &[Record], ack: Response) -> Response {
        let Response::Ack { mut refused } = ack else { return ack };
        let astray = |record: &Record| !self.mates.is_mine(record.home, bucket_of(&record.pin.id));
        refused.extend((0..).zip(records).filter(|(_, record)| astray(record)).map(|(at, _)| at));
        refused.sort_unstable();
        refused.dedup();
        Response::Ack { refused }
    }

    fn put(&mut self, records: &[Record], now: Now) -> (u64, Response) {
        let mut changed = 0;
        let mut refused = Vec::new();
        if self.table.plants().has(Plant::SkipAck) && now.hlc.0 & 1 == 0 {
            return (0, Response::Ack { refused });
        }
        for (at, record) in records.iter().enumerate() {
            match self.take(*record, now) {
                Merged::Changed(_) => {
                    changed += 1;
                    self.note_put(record, now);
                }
                Merged::Known(_) => {}
                Merged::Refused | Merged::Full => refused.push(at as u16),
            }
        }
        (changed, Response::Ack { refused })
    }

    /// Whole buckets as long as there is room; a first bucket that is larger than the room is cut: what seems to lack
    /// then is sent once too often, no more.
    fn keys(&self, home: Tag, buckets: &[u16], now: Now) -> Vec<(u16, Vec<(gossip::id::SessionId, u64)>)> {
        let mut room = KEYS_MAX;
        let mut answer = Vec::new();
        for bucket in buckets {
            let mut pins = self.table.pins(home, *bucket, now.wall);
            if pins.len() > room && !answer.is_empty() {
                break;
            }
            pins.sort_unstable_by_key(|pin| pin.id);
            pins.truncate(room);
            room -= pins.len();
            answer.push((*bucket, pins.iter().map(|pin| (pin.id, pin.fingerprint())).collect()));
        }
        answer
    }

    pub(super) fn refresh_here(&mut self, home: Tag, id: gossip::id::SessionId, expires: u32, now: Now) {
        if let Some(pin) = self.table.find(home, &id, now.wall) {
            debug_assert_eq!(bucket_of(&pin.id), bucket_of(&id));
            self.take(Record { home, pin: Pin { expires, ..pin } }, now);
        }
    }
}
