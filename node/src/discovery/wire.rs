//! Claims as bytes: between nodes, and in the file that keeps them over a restart. Version 1: a version byte, then
//! bincode of [`Message`].

use std::net::SocketAddr;
use std::time::Duration;

use bincode::Options;
use bytes::Bytes;
use gossip::clock::{Hlc, Wall};
use gossip::id::{NodeName, PoolName, RackName, RegionName, ZoneName};
use serde::{Deserialize, Serialize};

use super::claims::{Answer, Claim, ClaimKey, Digest, Failing, Hold, LeaseTerms};
use super::core::TTL;
use super::found::{DRAIN_MAX, FOUND_MAX, Found, Standing, is_reachable, readable};
use crate::config::model::SourceKind;

/// The first byte of every message.
const VERSION: u8 = 1;
/// The longest message.
pub(crate) const MESSAGE_MAX_BYTES: usize = 8 << 20;
/// Claims go into one message until it has about so many bytes; a single one may be larger.
const FILL_BYTES: usize = 1 << 20;
/// The longest scope.
const SCOPE_MAX_BYTES: usize = 4096;

/// What nodes say to each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Message {
    /// Here is news. Nothing is answered.
    Tell(Vec<(ClaimKey, Claim)>),
    /// This is what I know. Answered with `Differ`.
    Compare(Digest),
    /// This is what you lack, as far as it fits, and what I lack.
    Differ(Vec<(ClaimKey, Claim)>, Vec<ClaimKey>),
}

#[derive(Serialize, Deserialize)]
enum WireMessage {
    Tell(Vec<(WireKey, WireClaim)>),
    Compare(Vec<(WireKey, u64, NodeName)>),
    Differ(Vec<(WireKey, WireClaim)>, Vec<WireKey>),
}

#[derive(Serialize, Deserialize)]
struct WireKey {
    pool: PoolName,
    kind: u8,
    scope: String,
    node: Option<NodeName>,
}

#[derive(Serialize, Deserialize)]
struct WireClaim {
    version: u64,
    by: NodeName,
    found: Vec<WireFound>,
    /// Since when, in milliseconds, and why.
    failing: Option<(u64, String)>,
    /// The TTL in milliseconds and how it is held.
    lease: Option<(u64, u8)>,
}

#[derive(Serialize, Deserialize)]
struct WireFound {
    address: SocketAddr,
    region: RegionName,
    zone: Option<ZoneName>,
    rack: Option<RackName>,
    weight: u16,
    priority: u16,
    standing: u8,
    drain_ms: Option<u32>,
}

const KINDS: [SourceKind; 7] = [
    SourceKind::Added,
    SourceKind::Lease,
    SourceKind::File,
    SourceKind::Dns,
    SourceKind::Docker,
    SourceKind::Kubernetes,
    SourceKind::Retired,
];
const STANDINGS: [Standing; 3] = [Standing::Serving, Standing::Leaving, Standing::Gone];
const HOLDS: [Hold; 4] = [Hold::Taken, Hold::Adopted, Hold::Expired, Hold::Removed];

fn options(max_bytes: usize) -> impl Options {
    bincode::DefaultOptions::new().with_limit(max_bytes as u64 - 1)
}

/// A message's bytes; `None` when it is larger than any may be.
pub(crate) fn encode(message: &Message) -> Option<Bytes> {
    encode_within(message, MESSAGE_MAX_BYTES)
}

/// The same, for at most so many bytes.
pub(super) fn encode_within(message: &Message, max_bytes: usize) -> Option<Bytes> {
    let wire = match message {
        Message::Tell(claims) => WireMessage::Tell(claims.iter().map(to_wire).collect()),
        Message::Compare(digest) => WireMessage::Compare(
            digest.iter().map(|(key, version, by)| (key_to_wire(key), version.0, by.clone())).collect(),
        ),
        Message::Differ(claims, lacking) => WireMessage::Differ(
            claims.iter().map(to_wire).collect(),
            lacking.iter().map(key_to_wire).collect(),
        ),
    };
    let mut bytes = vec![VERSION];
    options(max_bytes).serialize_into(&mut bytes, &wire).ok()?;
    Some(bytes.into())
}

/// A message from bytes; `None` when they are none of this version. A claim in it that cannot be, or of a kind that a later
/// version has, is left out alone: those who understand it exchange it among themselves.
pub(crate) fn decode(bytes: &[u8]) -> Option<Message> {
    decode_within(bytes, MESSAGE_MAX_BYTES)
}

/// The same, of at most so many bytes.
pub(super) fn decode_within(bytes: &[u8], max_bytes: usize) -> Option<Message> {
    let (&version, body) = bytes.split_first()?;
    if version != VERSION || bytes.len() > max_bytes {
        return None;
    }
    let wire: WireMessage = options(max_bytes).deserialize(body).ok()?;
    let claims = |claims: Vec<(WireKey, WireClaim)>| claims.into_iter().filter_map(from_wire).collect();
    Some(match wire {
        WireMessage::Tell(told) => Message::Tell(claims(told)),
        WireMessage::Compare(digest) => {
            let entry =
                |(key, version, by): (WireKey, u64, NodeName)| Some((key_from_wire(key)?, Hlc(version), by));
            Message::Compare(digest.into_iter().filter_map(entry).collect())
        }
        WireMessage::Differ(newer, lacking) => {
            Message::Differ(claims(newer), lacking.into_iter().filter_map(key_from_wire).collect())
        }
    })
}

/// Claims in as many pieces as messages carry.
pub(crate) fn pieces(claims: Vec<(ClaimKey, Claim)>) -> Vec<Vec<(ClaimKey, Claim)>> {
    let mut pieces: Vec<Vec<(ClaimKey, Claim)>> = Vec::new();
    let mut room = 0_usize;
    for (key, claim) in claims {
        let size = 256 + key.scope.len() + claim.answer.found.len() * 96;
        match pieces.last_mut().filter(|_| size <= room) {
            Some(piece) => piece.push((key, claim)),
            None => {
                room = FILL_BYTES.max(size);
                pieces.push(vec![(key, claim)]);
            }
        }
        room -= size;
    }
    pieces
}

fn key_to_wire(key: &ClaimKey) -> WireKey {
    let kind = KINDS.iter().position(|kind| *kind == key.kind).map_or(u8::MAX, |at| at as u8);
    WireKey { pool: key.pool.clone(), kind, scope: key.scope.to_string(), node: key.node.clone() }
}

fn key_from_wire(wire: WireKey) -> Option<ClaimKey> {
    let kind = *KINDS.get(usize::from(wire.kind))?;
    let scope = Some(wire.scope).filter(|scope| scope.len() <= SCOPE_MAX_BYTES)?;
    Some(ClaimKey { pool: wire.pool, kind, scope: scope.into(), node: wire.node })
}

fn to_wire((key, claim): &(ClaimKey, Claim)) -> (WireKey, WireClaim) {
    let Answer { found, failing, lease } = &claim.answer;
    let hold = |how| HOLDS.iter().position(|hold| *hold == how).map_or(u8::MAX, |at| at as u8);
    let wire = WireClaim {
        version: claim.version.0,
        by: claim.by.clone(),
        found: found.iter().map(found_to_wire).collect(),
        failing: failing.as_ref().map(|failing| (failing.since.0, failing.error.clone())),
        lease: lease.map(|lease| (lease.ttl.as_millis().try_into().unwrap_or(u64::MAX), hold(lease.how))),
    };
    (key_to_wire(key), wire)
}

fn from_wire((key, wire): (WireKey, WireClaim)) -> Option<(ClaimKey, Claim)> {
    if wire.found.len() > FOUND_MAX {
        return None;
    }
    let lease = match wire.lease {
        None => None,
        Some((ttl, how)) => {
            let how = *HOLDS.get(usize::from(how))?;
            // Whatever a peer says, a lease ends.
            Some(LeaseTerms { ttl: Duration::from_millis(ttl).clamp(*TTL.start(), *TTL.end()), how })
        }
    };
    let failing = wire.failing.map(|(since, error)| Failing { since: Wall(since), error: readable(&error) });
    let found = wire.found.into_iter().map(found_from_wire).collect::<Option<_>>()?;
    let answer = Answer { found, failing, lease };
    Some((key_from_wire(key)?, Claim { version: Hlc(wire.version), by: wire.by, answer }))
}

fn found_to_wire(found: &Found) -> WireFound {
    WireFound {
        address: found.address,
        region: found.region.clone(),
        zone: found.zone.clone(),
        rack: found.rack.clone(),
        weight: found.weight,
        priority: found.priority,
        standing: found.standing as u8,
        drain_ms: found.drain.map(|drain| drain.as_millis().try_into().unwrap_or(u32::MAX)),
    }
}

fn found_from_wire(wire: WireFound) -> Option<Found> {
    Some(Found {
        address: Some(wire.address).filter(|address| is_reachable(*address))?,
        region: wire.region,
        zone: wire.zone,
        rack: wire.rack,
        weight: wire.weight,
        priority: wire.priority,
        standing: *STANDINGS.get(usize::from(wire.standing))?,
        drain: wire.drain_ms.map(|ms| Duration::from_millis(ms.into()).min(DRAIN_MAX)),
    })
}

/// One message of each kind, for the fuzz targets and the tests.
#[cfg(any(test, fuzzing))]
pub(crate) fn golden() -> Vec<Vec<u8>> {
    let name = |text: &str| NodeName::new(text).expect("a name");
    let key = ClaimKey {
        pool: PoolName::new("web").expect("a name"),
        kind: SourceKind::Lease,
        scope: "10.0.0.1:80".into(),
        node: None,
    };
    let region = RegionName::new("eu").expect("a name");
    let found = Found { weight: 7, ..Found::at(SocketAddr::from(([10, 0, 0, 1], 80)), region) };
    let answer = Answer {
        found: vec![found],
        failing: Some(Failing { since: Wall(5), error: "no".into() }),
        lease: Some(LeaseTerms { ttl: Duration::from_secs(15), how: Hold::Adopted }),
    };
    let claim = Claim { version: Hlc(9), by: name("a"), answer };
    let messages = [
        Message::Tell(vec![(key.clone(), claim.clone())]),
        Message::Compare(vec![(key.clone(), Hlc(9), name("a"))]),
        Message::Differ(vec![(key.clone(), claim)], vec![ClaimKey { node: Some(name("b")), ..key }]),
    ];
    messages.iter().filter_map(encode).map(|bytes| bytes.to_vec()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn golden_bytes() {
        let golden = golden();
        let key = [&b"\x03web\x01\x0b10.0.0.1:80"[..], &[0]].concat();
        let found = [&[0, 10, 0, 0, 1, 80][..], b"\x02eu", &[0, 0, 7, 0, 0, 0]].concat();
        let claim = [&[9, 1, b'a', 1][..], &found, &[1, 5, 2, b'n', b'o', 1, 251, 0x98, 0x3a, 1]].concat();
        assert_eq!(golden[0], [&[1, 0, 1][..], &key, &claim].concat());
        assert_eq!(golden[1], [&[1, 1, 1][..], &key, &[9, 1, b'a']].concat());
        let other = [&key[..key.len() - 1], &[1, 1, b'b']].concat();
        assert_eq!(golden[2], [&[1, 2, 1][..], &key, &claim, &[1], &other].concat());
        for bytes in golden {
            let message = decode(&bytes).unwrap();
            assert_eq!(encode(&message).unwrap(), bytes);
        }
    }

    #[test]
    fn what_cannot_be_is_left_out() {
        let golden = golden().swap_remove(0);
        let wildcard = golden.windows(4).position(|bytes| bytes == [10, 0, 0, 1]).unwrap();
        let mut nowhere = golden.clone();
        nowhere[wildcard] = 0;
        nowhere[wildcard + 3] = 0;
        assert_eq!(decode(&nowhere), Some(Message::Tell(Vec::new())));
        let mut newer = golden;
        newer[0] = 2;
        assert_eq!(decode(&newer), None);
    }

    #[test]
    fn what_the_version_after_claims_is_left_out_alone() {
        let [tell, compare, differ] = golden().try_into().expect("one of each kind");
        let pool = |at: usize, bytes: &[u8]| {
            let found =
                bytes.windows(4).enumerate().filter(|(_, four)| *four == b"\x03web").map(|(at, _)| at);
            found.collect::<Vec<_>>()[at]
        };
        // A second entry behind the first: the same with a kind of source that there is not yet.
        let twice = |bytes: &[u8], from: usize, to: usize, count: usize| {
            let mut later = bytes[from..to].to_vec();
            later[4] = KINDS.len() as u8;
            let mut twice = [&bytes[..to], &later, &bytes[to..]].concat();
            twice[count] = 2;
            twice
        };
        let read = |bytes: &[u8]| decode(bytes).unwrap();
        assert_eq!(read(&twice(&tell, 3, tell.len(), 2)), read(&tell));
        assert_eq!(read(&twice(&compare, 3, compare.len(), 2)), read(&compare));
        let lacking = pool(1, &differ);
        assert_eq!(read(&twice(&differ, 3, lacking - 1, 2)), read(&differ));
        assert_eq!(read(&twice(&differ, lacking, differ.len(), lacking - 1)), read(&differ));
    }

    #[test]
    fn what_would_never_end_is_cut() {
        let Some(Message::Tell(mut told)) = decode(&golden()[0]) else {
            unreachable!("a message of that kind")
        };
        let answer = &mut told[0].1.answer;
        answer.lease = Some(LeaseTerms { ttl: Duration::from_secs(u64::MAX / 1_000), how: Hold::Taken });
        answer.found[0].drain = Some(Duration::MAX);
        let Some(Message::Tell(read)) = encode(&Message::Tell(told)).as_deref().and_then(decode) else {
            unreachable!("it is read")
        };
        let answer = &read[0].1.answer;
        assert_eq!(answer.lease.unwrap().ttl, *TTL.end());
        assert_eq!(answer.found[0].drain, Some(DRAIN_MAX));
    }

    #[test]
    fn a_flood_of_claims_goes_in_pieces() {
        let Some(Message::Tell(one)) = decode(&golden()[0]) else { unreachable!("a message of that kind") };
        let mut large = one[0].clone();
        large.1.answer.found = vec![large.1.answer.found[0].clone(); FOUND_MAX];
        let claims = vec![large.clone(), one[0].clone(), one[0].clone(), large];
        let pieces = pieces(claims.clone());
        assert!(pieces.len() > 1);
        assert_eq!(pieces.concat(), claims);
        for piece in pieces {
            assert!(encode(&Message::Tell(piece)).is_some(), "each fits");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes);
        }

        #[test]
        fn changed_bytes_are_survived(at in 0..400_usize, to in any::<u8>(), which in 0..3_usize) {
            let mut bytes = golden().swap_remove(which);
            let at = at % bytes.len();
            bytes[at] = to;
            let _ = decode(&bytes);
        }
    }
}
