//! Ten datagrams a second between the nodes of one region: load and heartbeat. Pure: bytes in and out.
//!
//! ```text
//! version 1 ‖ generation 8 ‖ seq 4 ‖ part 1 ‖ parts 1 ‖ silent 1 ‖ (tag 4)* ‖ (backend 8 ‖ in flight 4)*
//! ```
//!
//! Numbers are little-endian. A vector that fills more than one datagram is sent in parts that share a `seq`; one of
//! which a part is lost is not reported, the next comes in 100 ms. What is older than the latest seen is ignored, so
//! a late datagram never counts as a word. A datagram is sent even when there is no load: it is the heartbeat.
//!
//! A region of many nodes with many busy backends would fill links with load. There some beats carry none of it: the first of two
//! parts, of which the second never comes, so that what was reported before stands.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};

use crate::id::{BackendId, NodeName, Tag};
use crate::mesh::Channel;

pub(crate) const CHANNEL: Channel = Channel { id: 2, name: "fast lane", max_bytes: 1100, queue: 1024 };

const VERSION: u8 = 1;
const MAX_SILENT: usize = 32;
const LOADS_A_PART: usize = 75;
const MAX_PARTS: usize = 255;
/// What all copies of a node's load may take in a second; beyond it, load is told less often than ten times a second, ...
const LOAD_BYTES_A_SECOND: usize = 20_000;
/// ... but at least every so many beats.
const LOAD_BEATS_MOST: usize = 10;
/// Beats in a second.
const BEATS: usize = 10;
/// The load of a node that is silent for so long is dropped.
const LOAD_EXPIRES: Duration = Duration::from_secs(2);

/// What another node of this region has in flight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadReport {
    /// Who reports.
    pub from: NodeName,
    /// Requests in flight by backend, complete: what is not named has none. Empty once the node fell silent.
    pub loads: Vec<(BackendId, u32)>,
}

/// Makes this node's datagrams.
#[derive(Debug)]
pub(crate) struct LaneSender {
    generation: u64,
    seq: u32,
    /// Beats since load was told.
    untold: usize,
}

impl LaneSender {
    pub(crate) fn new(generation: u64) -> Self {
        Self { generation, seq: 0, untold: usize::MAX - 1 }
    }

    /// The datagrams of one beat, for so many peers. Of more backends than fit (19,125) the idle ones go first.
    pub(crate) fn beat(
        &mut self,
        loads: &[(BackendId, u32)],
        silent: &BTreeSet<Tag>,
        peers: usize,
    ) -> Vec<Bytes> {
        self.seq = self.seq.wrapping_add(1);
        let mut busy = loads.iter().filter(|(_, in_flight)| *in_flight > 0).copied().collect::<Vec<_>>();
        if busy.len() > LOADS_A_PART * MAX_PARTS {
            busy.sort_by_key(|(_, in_flight)| std::cmp::Reverse(*in_flight));
            busy.truncate(LOADS_A_PART * MAX_PARTS);
        }
        self.untold = self.untold.saturating_add(1);
        let every = (busy.len() * 12 * peers * BEATS).div_ceil(LOAD_BYTES_A_SECOND).clamp(1, LOAD_BEATS_MOST);
        let is_told = self.untold >= every;
        if is_told {
            self.untold = 0;
        } else {
            busy.clear();
        }
        let whole = busy.len().div_ceil(LOADS_A_PART).max(1);
        let (parts, sent) = if is_told { (whole, whole) } else { (2, 1) };
        let part = |part: usize| {
            let mut bytes = BytesMut::with_capacity(CHANNEL.max_bytes);
            bytes.put_u8(VERSION);
            bytes.put_u64_le(self.generation);
            bytes.put_u32_le(self.seq);
            bytes.put_u8(part as u8);
            bytes.put_u8(parts as u8);
            bytes.put_u8(silent.len().min(MAX_SILENT) as u8);
            for tag in silent.iter().take(MAX_SILENT) {
                bytes.put_u32_le(tag.0);
            }
            for (backend, in_flight) in busy.iter().skip(part * LOADS_A_PART).take(LOADS_A_PART) {
                bytes.put_u64_le(backend.0);
                bytes.put_u32_le(*in_flight);
            }
            bytes.freeze()
        };
        (0..sent).map(part).collect()
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Datagram {
    generation: u64,
    seq: u32,
    part: u8,
    parts: u8,
    silent: BTreeSet<Tag>,
    loads: Vec<(BackendId, u32)>,
}

fn decode(bytes: &[u8]) -> Option<Datagram> {
    fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
        let (head, rest) = bytes.split_at_checked(count)?;
        *bytes = rest;
        Some(head)
    }
    fn u32_of(bytes: &mut &[u8]) -> Option<u32> {
        Some(u32::from_le_bytes(take(bytes, 4)?.try_into().ok()?))
    }
    fn u64_of(bytes: &mut &[u8]) -> Option<u64> {
        Some(u64::from_le_bytes(take(bytes, 8)?.try_into().ok()?))
    }
    let mut rest = bytes;
    if take(&mut rest, 1)? != [VERSION] {
        return None;
    }
    let generation = u64_of(&mut rest)?;
    let seq = u32_of(&mut rest)?;
    let &[part, parts, silent] = take(&mut rest, 3)? else { return None };
    if part >= parts || usize::from(silent) > MAX_SILENT {
        return None;
    }
    let silent = (0..silent).map(|_| u32_of(&mut rest).map(Tag)).collect::<Option<_>>()?;
    if !rest.len().is_multiple_of(12) || rest.len() / 12 > LOADS_A_PART {
        return None;
    }
    let mut loads = Vec::with_capacity(rest.len() / 12);
    while !rest.is_empty() {
        loads.push((BackendId(u64_of(&mut rest)?), u32_of(&mut rest)?));
    }
    Some(Datagram { generation, seq, part, parts, silent, loads })
}

/// What a datagram says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Heard {
    /// Whom the sender holds for silent.
    pub(crate) silent: BTreeSet<Tag>,
    /// Its load, when this datagram completed it; an empty one is told once.
    pub(crate) report: Option<LoadReport>,
}

/// Reads the others' datagrams.
#[derive(Debug, Default)]
pub(crate) struct LaneReceiver {
    peers: BTreeMap<NodeName, Assembly>,
}

#[derive(Debug)]
struct Assembly {
    order: (u64, u32),
    parts: BTreeMap<u8, Vec<(BackendId, u32)>>,
    heard: Instant,
    reported: Vec<(BackendId, u32)>,
}

impl LaneReceiver {
    /// Takes a datagram of a peer; `None` when it is malformed or late.
    pub(crate) fn datagram(&mut self, from: &NodeName, bytes: &[u8], now: Instant) -> Option<Heard> {
        let datagram = decode(bytes)?;
        let order = (datagram.generation, datagram.seq);
        let fresh = || Assembly { order, parts: BTreeMap::new(), heard: now, reported: Vec::new() };
        let peer = self.peers.entry(from.clone()).or_insert_with(fresh);
        if order < peer.order {
            return None;
        }
        if order > peer.order {
            peer.order = order;
            peer.parts.clear();
        }
        peer.heard = now;
        peer.parts.insert(datagram.part, datagram.loads);
        let mut report = None;
        if peer.parts.len() == usize::from(datagram.parts) {
            let loads = std::mem::take(&mut peer.parts).into_values().flatten().collect::<Vec<_>>();
            let news = !loads.is_empty() || !peer.reported.is_empty();
            peer.reported = loads.clone();
            report = news.then(|| LoadReport { from: from.clone(), loads });
        }
        Some(Heard { silent: datagram.silent, report })
    }

    /// Drops the load of those that fell silent: an empty report for each.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<LoadReport> {
        let silent = |peer: &Assembly| now.saturating_duration_since(peer.heard) > LOAD_EXPIRES;
        let expired = self.peers.iter_mut().filter(|(_, peer)| silent(peer) && !peer.reported.is_empty());
        let report = |(from, peer): (&NodeName, &mut Assembly)| {
            peer.reported.clear();
            LoadReport { from: from.clone(), loads: Vec::new() }
        };
        expired.map(report).collect()
    }

    /// Keeps only the peers that are still known.
    pub(crate) fn retain(&mut self, known: impl Fn(&NodeName) -> bool) {
        self.peers.retain(|name, _| known(name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, Wall};
    use proptest::prelude::*;

    fn name() -> NodeName {
        "eu-2".parse().unwrap()
    }

    #[test]
    fn the_bytes_of_version_1() {
        let beat = LaneSender::new(0x0807060504030201).beat(
            &[(BackendId(5), 6), (BackendId(7), 0)],
            &[Tag(9)].into(),
            1,
        );
        let expected = [
            &[1, 1, 2, 3, 4, 5, 6, 7, 8, 1, 0, 0, 0, 0, 1, 1, 9, 0, 0, 0][..],
            &[5, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0],
        ];
        assert_eq!(beat, [expected.concat()]);
    }

    #[test]
    fn a_large_vector_is_split_and_joined_and_late_ones_are_ignored() {
        let now = Clock::simulated(Wall(0)).now();
        let loads = (1..=1000).map(|n| (BackendId(n), n as u32)).collect::<Vec<_>>();
        let mut sender = LaneSender::new(1);
        let first = sender.beat(&loads, &BTreeSet::new(), 0);
        assert_eq!(first.len(), 14);
        assert!(first.iter().all(|part| part.len() <= CHANNEL.max_bytes));
        let second = sender.beat(&loads, &BTreeSet::new(), 0);
        let mut receiver = LaneReceiver::default();
        let mut reports = Vec::new();
        for part in second.iter().rev() {
            reports.extend(receiver.datagram(&name(), part, now).unwrap().report);
        }
        assert_eq!(reports, [LoadReport { from: name(), loads }]);
        assert_eq!(receiver.datagram(&name(), &first[0], now), None);
        // No load again is no news; a restarted sender starts from below.
        let third = sender.beat(&[], &BTreeSet::new(), 1);
        assert!(receiver.datagram(&name(), &third[0], now).unwrap().report.unwrap().loads.is_empty());
        let restarted = LaneSender::new(2).beat(&[], &BTreeSet::new(), 1);
        assert_eq!(receiver.datagram(&name(), &restarted[0], now).unwrap().report, None);
    }

    #[test]
    fn load_for_many_is_told_less_often_and_stands_meanwhile() {
        let now = Clock::simulated(Wall(0)).now();
        let loads = (1..=100).map(|n| (BackendId(n), 1)).collect::<Vec<_>>();
        let told = |peers: usize| {
            let (mut sender, mut receiver) = (LaneSender::new(1), LaneReceiver::default());
            let mut reports = 0;
            for _ in 0..100 {
                for datagram in sender.beat(&loads, &[Tag(9)].into(), peers) {
                    let heard = receiver.datagram(&name(), &datagram, now).expect("each is a word");
                    assert_eq!(heard.silent, [Tag(9)].into());
                    assert!(heard.report.as_ref().is_none_or(|report| report.loads == loads));
                    reports += usize::from(heard.report.is_some());
                }
            }
            reports
        };
        assert_eq!([1, 2, 9, 1000].map(told), [100, 50, 17, 10]);
        let mut sender = LaneSender::new(1);
        assert!((0..9).all(|_| sender.beat(&loads[..10], &BTreeSet::new(), 9)[0][13..15] == [0, 1]));
    }

    #[test]
    fn what_a_later_version_says_is_no_word_and_changes_nothing() {
        let now = Clock::simulated(Wall(0)).now();
        let loads = vec![(BackendId(1), 1)];
        let mut sender = LaneSender::new(1);
        let mut receiver = LaneReceiver::default();
        let mut later = sender.beat(&[], &[Tag(9)].into(), 1)[0].to_vec();
        let beat = sender.beat(&loads, &BTreeSet::new(), 1);
        let heard = receiver.datagram(&name(), &beat[0], now).unwrap();
        assert_eq!(heard.report, Some(LoadReport { from: name(), loads: loads.clone() }));
        // Newer by its number as well: it must not make what follows late.
        (later[0], later[12]) = (VERSION + 1, 0xff);
        assert_eq!(receiver.datagram(&name(), &later, now), None);
        let next = sender.beat(&[(BackendId(1), 2)], &BTreeSet::new(), 1);
        let heard = receiver.datagram(&name(), &next[0], now).unwrap();
        assert_eq!(heard.report.unwrap().loads, [(BackendId(1), 2)]);
    }

    #[test]
    fn the_load_of_a_silent_peer_is_dropped_once() {
        let clock = Clock::simulated(Wall(0));
        let mut receiver = LaneReceiver::default();
        let beat = LaneSender::new(1).beat(&[(BackendId(1), 1)], &BTreeSet::new(), 1);
        receiver.datagram(&name(), &beat[0], clock.now()).unwrap();
        clock.advance(Duration::from_secs(2));
        assert_eq!(receiver.expire(clock.now()), []);
        clock.advance(Duration::from_millis(1));
        assert_eq!(receiver.expire(clock.now()), [LoadReport { from: name(), loads: Vec::new() }]);
        assert_eq!(receiver.expire(clock.now()), []);
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let now = Clock::simulated(Wall(0)).now();
            let mut receiver = LaneReceiver::default();
            receiver.datagram(&name(), &bytes, now);
            receiver.datagram(&name(), &[&[1][..], &bytes].concat(), now);
        }
    }
}
