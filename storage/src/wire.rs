//! What replicas say to each other about sessions, in bytes. Pure.
//!
//! ```text
//!   version 1 │ kind 1 │ fields, little endian; lists as a count (u16, u32 for keys) and the items; nothing after
//! ```
//!
//! Every list has a limit that is checked before anything is allocated, and no message is longer than
//! [`MESSAGE_MAX_BYTES`].

use bytes::{Buf, BufMut, Bytes, BytesMut};
use gossip::clock::Hlc;
use gossip::id::{SessionId, Tag};

use crate::digest::Fingerprint;
use crate::pin::{PIN_BYTES, Pin};
use crate::placement::BUCKETS;
use crate::sessions::Repinned;
use crate::table::Record;

/// The only version so far.
pub const VERSION: u8 = 1;

/// The most records, ids or refreshes in one message.
pub const BATCH_MAX: usize = 1000;

/// The most keys in one answer.
pub const KEYS_MAX: usize = 20_000;

/// Fingerprints in a summary: each is the sum over [`BUCKETS`] / [`GROUPS`] neighbouring buckets.
pub const GROUPS: usize = 64;

/// No message is longer.
pub const MESSAGE_MAX_BYTES: usize = 640 * 1024;

/// The number of a proposal: who made it, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Ballot {
    /// When.
    pub hlc: Hlc,
    /// The node, as a tag.
    pub node: Tag,
}

/// What a node asks of another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Take these records. Answered by [`Response::Ack`].
    Put(Vec<Record>),
    /// The same, from repair or from a node that no longer keeps them.
    HandOff(Vec<Record>),
    /// What is held of this session? Answered by [`Response::Found`].
    Get(Tag, SessionId),
    /// Agree with the other replicas on this record, in place of the assignment made at `replaces`. Answered by
    /// [`Response::Repinned`] when that has ended.
    Repin {
        /// The proposal.
        record: Record,
        /// The time of the assignment it replaces.
        replaces: Hlc,
    },
    /// Promise to accept no proposal under a lesser ballot. Answered by [`Response::Vote`].
    Prepare {
        /// The home region.
        home: Tag,
        /// Whose record it is about.
        id: SessionId,
        /// The ballot.
        ballot: Ballot,
    },
    /// Accept this record, whose assignment is dated with the ballot, if you have promised nothing else and hold nothing
    /// newer than `replaces`. Answered by [`Response::Vote`].
    Accept {
        /// The proposal.
        record: Record,
        /// The time of the latest assignment that its proposer knew.
        replaces: Hlc,
    },
    /// Move these expiries: home, session, seconds since 1970. Not answered.
    Refresh(Vec<(Tag, SessionId, u32)>),
    /// Which of these buckets differ? Answered by [`Response::Differ`].
    Digest(Tag, Vec<(u16, Fingerprint)>),
    /// What is in these buckets? Answered by [`Response::Keys`].
    Keys(Tag, Vec<u16>),
    /// These records, please. Answered by [`Response::Pins`].
    Pull(Tag, Vec<SessionId>),
    /// How many sessions do you answer for? Answered by [`Response::Count`].
    Count,
    /// Which of these groups of the buckets that we share differ? Answered by [`Response::Differ`] with groups.
    Summary(Tag, Box<[Fingerprint; GROUPS]>),
}

/// What the other answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Response {
    /// All records are held now but those at these places in the request.
    Ack {
        /// Places in the request, ascending.
        refused: Vec<u16>,
    },
    /// The record, if there is one.
    Found(Option<Pin>),
    /// Whether what was asked is promised or accepted.
    Vote(Vote),
    /// How an agreement ended.
    Repinned(Repinned),
    /// These buckets, or groups of them, differ.
    Differ(Vec<u16>),
    /// Sessions and the hashes of their records, by bucket, in the order asked; perhaps not all that were asked.
    Keys(Vec<(u16, Vec<(SessionId, u64)>)>),
    /// Those of the records asked for that are held.
    Pins(Vec<Pin>),
    /// So many.
    Count(u64),
}

/// A replica's vote on a ballot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vote {
    /// Promised, or accepted.
    pub granted: bool,
    /// What a ballot must exceed to be granted.
    pub promised: Hlc,
    /// What is held now.
    pub held: Option<Pin>,
}

/// Bytes that are no message of this version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a message about sessions")]
pub struct NotAMessage;

impl Request {
    /// In bytes.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(256);
        out.put_u8(VERSION);
        match self {
            Self::Put(records) => put_records(&mut out, 1, records),
            Self::HandOff(records) => put_records(&mut out, 2, records),
            Self::Get(home, id) => {
                out.put_u8(3);
                out.put_u32_le(home.0);
                out.put_slice(&id.0);
            }
            Self::Repin { record, replaces } => {
                out.put_u8(4);
                put_record(&mut out, record);
                out.put_u64_le(replaces.0);
            }
            Self::Refresh(entries) => {
                out.put_u8(5);
                out.put_u16_le(entries.len() as u16);
                for (home, id, expires) in entries {
                    out.put_u32_le(home.0);
                    out.put_slice(&id.0);
                    out.put_u32_le(*expires);
                }
            }
            Self::Digest(home, entries) => {
                out.put_u8(6);
                out.put_u32_le(home.0);
                out.put_u16_le(entries.len() as u16);
                for (bucket, fingerprint) in entries {
                    out.put_u16_le(*bucket);
                    out.put_u64_le(fingerprint.0);
                }
            }
            Self::Keys(home, buckets) => {
                out.put_u8(7);
                out.put_u32_le(home.0);
                put_buckets(&mut out, buckets);
            }
            Self::Pull(home, ids) => {
                out.put_u8(8);
                out.put_u32_le(home.0);
                out.put_u16_le(ids.len() as u16);
                ids.iter().for_each(|id| out.put_slice(&id.0));
            }
            Self::Count => out.put_u8(9),
            Self::Prepare { home, id, ballot } => {
                out.put_u8(11);
                out.put_u32_le(home.0);
                out.put_slice(&id.0);
                out.put_u64_le(ballot.hlc.0);
                out.put_u32_le(ballot.node.0);
            }
            Self::Accept { record, replaces } => {
                out.put_u8(12);
                put_record(&mut out, record);
                out.put_u64_le(replaces.0);
            }
            Self::Summary(home, groups) => {
                out.put_u8(10);
                out.put_u32_le(home.0);
                groups.iter().for_each(|group| out.put_u64_le(group.0));
            }
        }
        out.freeze()
    }

    /// Reads what [`Request::encode`] wrote.
    ///
    /// # Errors
    /// On anything else, and on lists beyond their limits.
    pub fn decode(bytes: &[u8]) -> Result<Self, NotAMessage> {
        let mut input = Input::new(bytes)?;
        let request = match input.u8()? {
            1 => Self::Put(input.records()?),
            2 => Self::HandOff(input.records()?),
            3 => Self::Get(input.tag()?, input.id()?),
            4 => Self::Repin { record: input.record()?, replaces: Hlc(input.u64()?) },
            5 => {
                Self::Refresh(input.list16(BATCH_MAX, |input| Ok((input.tag()?, input.id()?, input.u32()?)))?)
            }
            6 => {
                let home = input.tag()?;
                let entry = |input: &mut Input<'_>| Ok((input.bucket()?, Fingerprint(input.u64()?)));
                Self::Digest(home, input.list16(usize::from(BUCKETS), entry)?)
            }
            7 => Self::Keys(input.tag()?, input.buckets()?),
            8 => Self::Pull(input.tag()?, input.list16(BATCH_MAX, Input::id)?),
            9 => Self::Count,
            10 => {
                let home = input.tag()?;
                let groups = input.list(GROUPS, |input| Ok(Fingerprint(input.u64()?)))?;
                Self::Summary(home, groups.try_into().map_err(|_| NotAMessage)?)
            }
            11 => {
                let (home, id) = (input.tag()?, input.id()?);
                let ballot = Ballot { hlc: Hlc(input.u64()?), node: input.tag()? };
                Self::Prepare { home, id, ballot }
            }
            12 => Self::Accept { record: input.record()?, replaces: Hlc(input.u64()?) },
            _ => return Err(NotAMessage),
        };
        input.end(request)
    }
}

impl Response {
    /// In bytes.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(64);
        out.put_u8(VERSION);
        match self {
            Self::Ack { refused } => {
                out.put_u8(129);
                out.put_u16_le(refused.len() as u16);
                refused.iter().for_each(|at| out.put_u16_le(*at));
            }
            Self::Found(pin) => {
                out.put_u8(130);
                put_maybe(&mut out, pin.as_ref());
            }
            Self::Vote(Vote { granted, promised, held }) => {
                out.put_u8(131);
                out.put_u8((*granted).into());
                out.put_u64_le(promised.0);
                put_maybe(&mut out, held.as_ref());
            }
            Self::Repinned(repinned) => {
                let (how, pin) = match repinned {
                    Repinned::Committed(pin) => (0, pin),
                    Repinned::Superseded(pin) => (1, pin),
                    Repinned::Weak(pin) => (2, pin),
                };
                out.put_u8(136);
                out.put_u8(how);
                out.put_slice(&pin.encode());
            }
            Self::Differ(buckets) => {
                out.put_u8(132);
                put_buckets(&mut out, buckets);
            }
            Self::Keys(buckets) => {
                out.put_u8(133);
                out.put_u16_le(buckets.len() as u16);
                for (bucket, keys) in buckets {
                    out.put_u16_le(*bucket);
                    out.put_u32_le(keys.len() as u32);
                    for (id, hash) in keys {
                        out.put_slice(&id.0);
                        out.put_u64_le(*hash);
                    }
                }
            }
            Self::Pins(pins) => {
                out.put_u8(134);
                out.put_u16_le(pins.len() as u16);
                pins.iter().for_each(|pin| out.put_slice(&pin.encode()));
            }
            Self::Count(count) => {
                out.put_u8(135);
                out.put_u64_le(*count);
            }
        }
        out.freeze()
    }

    /// Reads what [`Response::encode`] wrote.
    ///
    /// # Errors
    /// On anything else, and on lists beyond their limits.
    pub fn decode(bytes: &[u8]) -> Result<Self, NotAMessage> {
        let mut input = Input::new(bytes)?;
        let response = match input.u8()? {
            129 => Self::Ack { refused: input.list16(BATCH_MAX, Input::u16)? },
            130 => Self::Found(input.maybe()?),
            131 => {
                Self::Vote(Vote { granted: input.flag()?, promised: Hlc(input.u64()?), held: input.maybe()? })
            }
            132 => Self::Differ(input.buckets()?),
            133 => Self::Keys(input.keys()?),
            134 => Self::Pins(input.list16(BATCH_MAX, Input::pin)?),
            135 => Self::Count(input.u64()?),
            136 => Self::Repinned(match (input.u8()?, input.pin()?) {
                (0, pin) => Repinned::Committed(pin),
                (1, pin) => Repinned::Superseded(pin),
                (2, pin) => Repinned::Weak(pin),
                _ => return Err(NotAMessage),
            }),
            _ => return Err(NotAMessage),
        };
        input.end(response)
    }
}

fn put_record(out: &mut BytesMut, record: &Record) {
    out.put_u32_le(record.home.0);
    out.put_slice(&record.pin.encode());
}

fn put_maybe(out: &mut BytesMut, pin: Option<&Pin>) {
    out.put_u8(pin.is_some().into());
    pin.iter().for_each(|pin| out.put_slice(&pin.encode()));
}

fn put_records(out: &mut BytesMut, kind: u8, records: &[Record]) {
    out.put_u8(kind);
    out.put_u16_le(records.len() as u16);
    records.iter().for_each(|record| put_record(out, record));
}

fn put_buckets(out: &mut BytesMut, buckets: &[u16]) {
    out.put_u16_le(buckets.len() as u16);
    buckets.iter().for_each(|bucket| out.put_u16_le(*bucket));
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn new(bytes: &'a [u8]) -> Result<Self, NotAMessage> {
        let mut input = Self(bytes);
        if bytes.len() > MESSAGE_MAX_BYTES || input.u8()? != VERSION {
            return Err(NotAMessage);
        }
        Ok(input)
    }

    fn end<T>(self, value: T) -> Result<T, NotAMessage> {
        if self.0.is_empty() { Ok(value) } else { Err(NotAMessage) }
    }

    fn u8(&mut self) -> Result<u8, NotAMessage> {
        self.0.try_get_u8().map_err(|_| NotAMessage)
    }

    fn u16(&mut self) -> Result<u16, NotAMessage> {
        self.0.try_get_u16_le().map_err(|_| NotAMessage)
    }

    fn u32(&mut self) -> Result<u32, NotAMessage> {
        self.0.try_get_u32_le().map_err(|_| NotAMessage)
    }

    fn u64(&mut self) -> Result<u64, NotAMessage> {
        self.0.try_get_u64_le().map_err(|_| NotAMessage)
    }

    fn flag(&mut self) -> Result<bool, NotAMessage> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(NotAMessage),
        }
    }

    fn tag(&mut self) -> Result<Tag, NotAMessage> {
        self.u32().map(Tag)
    }

    fn id(&mut self) -> Result<SessionId, NotAMessage> {
        let (id, rest) = self.0.split_first_chunk().ok_or(NotAMessage)?;
        self.0 = rest;
        Ok(SessionId(*id))
    }

    fn pin(&mut self) -> Result<Pin, NotAMessage> {
        let (pin, rest) = self.0.split_at_checked(PIN_BYTES).ok_or(NotAMessage)?;
        self.0 = rest;
        Pin::decode(pin).map_err(|_| NotAMessage)
    }

    fn maybe(&mut self) -> Result<Option<Pin>, NotAMessage> {
        Ok(if self.flag()? { Some(self.pin()?) } else { None })
    }

    fn record(&mut self) -> Result<Record, NotAMessage> {
        Ok(Record { home: self.tag()?, pin: self.pin()? })
    }

    fn records(&mut self) -> Result<Vec<Record>, NotAMessage> {
        self.list16(BATCH_MAX, Self::record)
    }

    fn bucket(&mut self) -> Result<u16, NotAMessage> {
        self.u16().and_then(|bucket| if bucket < BUCKETS { Ok(bucket) } else { Err(NotAMessage) })
    }

    fn buckets(&mut self) -> Result<Vec<u16>, NotAMessage> {
        self.list16(usize::from(BUCKETS), Self::bucket)
    }

    fn keys(&mut self) -> Result<Vec<(u16, Vec<(SessionId, u64)>)>, NotAMessage> {
        let mut room = KEYS_MAX;
        self.list16(usize::from(BUCKETS), |input| {
            let bucket = input.bucket()?;
            let count = input.u32()? as usize;
            room = room.checked_sub(count).ok_or(NotAMessage)?;
            Ok((bucket, input.list(count, |input| Ok((input.id()?, input.u64()?)))?))
        })
    }

    fn list16<T>(
        &mut self,
        max: usize,
        item: impl FnMut(&mut Self) -> Result<T, NotAMessage>,
    ) -> Result<Vec<T>, NotAMessage> {
        let count = usize::from(self.u16()?);
        if count > max { Err(NotAMessage) } else { self.list(count, item) }
    }

    /// An item takes at least one byte: what is left bounds what is allocated.
    fn list<T>(
        &mut self,
        count: usize,
        mut item: impl FnMut(&mut Self) -> Result<T, NotAMessage>,
    ) -> Result<Vec<T>, NotAMessage> {
        if count > self.0.len() {
            return Err(NotAMessage);
        }
        (0..count).map(|_| item(self)).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::pin::tests::any_pin;

    fn any_record() -> impl Strategy<Value = Record> {
        (any::<u32>(), any_pin()).prop_map(|(home, pin)| Record { home: Tag(home), pin })
    }

    fn any_id() -> impl Strategy<Value = SessionId> {
        any::<[u8; 16]>().prop_map(SessionId)
    }

    fn any_request() -> impl Strategy<Value = Request> {
        let home = any::<u32>().prop_map(Tag);
        prop_oneof![
            vec(any_record(), 0..9).prop_map(Request::Put),
            vec(any_record(), 0..9).prop_map(Request::HandOff),
            (home.clone(), any_id()).prop_map(|(home, id)| Request::Get(home, id)),
            (any_record(), any::<u64>())
                .prop_map(|(record, hlc)| Request::Repin { record, replaces: Hlc(hlc) }),
            (any_record(), any::<u64>())
                .prop_map(|(record, hlc)| Request::Accept { record, replaces: Hlc(hlc) }),
            (home.clone(), any_id(), any::<u64>(), any::<u32>()).prop_map(|(home, id, hlc, node)| {
                Request::Prepare { home, id, ballot: Ballot { hlc: Hlc(hlc), node: Tag(node) } }
            }),
            vec((home.clone(), any_id(), any::<u32>()), 0..9).prop_map(Request::Refresh),
            (home.clone(), vec((0..BUCKETS, any::<u64>().prop_map(Fingerprint)), 0..9))
                .prop_map(|(home, entries)| Request::Digest(home, entries)),
            (home.clone(), vec(0..BUCKETS, 0..9)).prop_map(|(home, buckets)| Request::Keys(home, buckets)),
            (home.clone(), vec(any_id(), 0..9)).prop_map(|(home, ids)| Request::Pull(home, ids)),
            (home, any::<u64>())
                .prop_map(|(home, sum)| Request::Summary(home, Box::new([Fingerprint(sum); GROUPS]))),
            Just(Request::Count),
        ]
    }

    fn any_response() -> impl Strategy<Value = Response> {
        prop_oneof![
            vec(any::<u16>(), 0..9).prop_map(|refused| Response::Ack { refused }),
            proptest::option::of(any_pin()).prop_map(Response::Found),
            (any::<bool>(), any::<u64>(), proptest::option::of(any_pin())).prop_map(
                |(granted, promised, held)| {
                    Response::Vote(Vote { granted, promised: Hlc(promised), held })
                }
            ),
            any_pin().prop_map(|pin| Response::Repinned(Repinned::Committed(pin))),
            any_pin().prop_map(|pin| Response::Repinned(Repinned::Superseded(pin))),
            any_pin().prop_map(|pin| Response::Repinned(Repinned::Weak(pin))),
            vec(0..BUCKETS, 0..9).prop_map(Response::Differ),
            vec((0..BUCKETS, vec((any_id(), any::<u64>()), 0..4)), 0..4).prop_map(Response::Keys),
            vec(any_pin(), 0..9).prop_map(Response::Pins),
            any::<u64>().prop_map(Response::Count),
        ]
    }

    proptest! {
        #[test]
        fn a_message_reads_what_it_writes(request in any_request(), response in any_response()) {
            prop_assert_eq!(Request::decode(&request.encode()), Ok(request));
            prop_assert_eq!(Response::decode(&response.encode()), Ok(response));
        }

        #[test]
        fn a_cut_message_is_none(request in any_request(), response in any_response(), cut in 1usize..200) {
            for bytes in [request.encode(), response.encode()] {
                let cut = &bytes[..bytes.len().saturating_sub(cut)];
                prop_assert_eq!(Request::decode(cut), Err(NotAMessage));
                prop_assert_eq!(Response::decode(cut), Err(NotAMessage));
            }
        }

        #[test]
        fn random_bytes_never_panic(kind in any::<u8>(), bytes in vec(any::<u8>(), 0..300)) {
            let _ = (Request::decode(&bytes), Response::decode(&bytes));
            let framed = [&[VERSION, kind], &bytes[..]].concat();
            let _ = (Request::decode(&framed), Response::decode(&framed));
        }
    }

    #[test]
    fn the_format_is_the_same_for_ever() {
        let id = SessionId([7; 16]);
        let get = [&[1, 3, 9, 0, 0, 0][..], &[7; 16]].concat();
        assert_eq!(Request::Get(Tag(9), id).encode()[..], get);
        let refresh = [&[1, 5, 1, 0, 9, 0, 0, 0][..], &[7; 16], &[2, 0, 0, 0]].concat();
        assert_eq!(Request::Refresh(vec![(Tag(9), id, 2)]).encode()[..], refresh);
        let digest = [1, 6, 9, 0, 0, 0, 1, 0, 0xff, 0x0f, 5, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(Request::Digest(Tag(9), vec![(4095, Fingerprint(5))]).encode()[..], digest);
        assert_eq!(Request::Keys(Tag(9), vec![3]).encode()[..], [1, 7, 9, 0, 0, 0, 1, 0, 3, 0]);
        let pull = [&[1, 8, 9, 0, 0, 0, 1, 0][..], &[7; 16]].concat();
        assert_eq!(Request::Pull(Tag(9), vec![id]).encode()[..], pull);
        assert_eq!(Request::Count.encode()[..], [1, 9]);
        let summary = [&[1, 10, 9, 0, 0, 0][..], &[3, 0, 0, 0, 0, 0, 0, 0].repeat(64)].concat();
        assert_eq!(Request::Summary(Tag(9), Box::new([Fingerprint(3); GROUPS])).encode()[..], summary);
        let pin = Pin::decode(&[&[7; 16][..], &[0; 29]].concat()).unwrap();
        let record = Record { home: Tag(9), pin };
        let put = [&[1, 1, 1, 0, 9, 0, 0, 0][..], &[7; 16], &[0; 29]].concat();
        assert_eq!(Request::Put(vec![record]).encode()[..], put);
        assert_eq!(Request::HandOff(vec![record]).encode()[1], 2);
        let repin = [&[1, 4, 9, 0, 0, 0][..], &[7; 16], &[0; 29], &[6, 0, 0, 0, 0, 0, 0, 0]].concat();
        assert_eq!(Request::Repin { record, replaces: Hlc(6) }.encode()[..], repin);
        assert_eq!(Response::Ack { refused: vec![2] }.encode()[..], [1, 129, 1, 0, 2, 0]);
        assert_eq!(Response::Found(None).encode()[..], [1, 130, 0]);
        assert_eq!(Response::Differ(vec![2]).encode()[..], [1, 132, 1, 0, 2, 0]);
        let keys = [&[1, 133, 1, 0, 2, 0, 1, 0, 0, 0][..], &[7; 16], &[8, 0, 0, 0, 0, 0, 0, 0]].concat();
        assert_eq!(Response::Keys(vec![(2, vec![(id, 8)])]).encode()[..], keys);
        let accept = [&[1, 12][..], &repin[2..]].concat();
        assert_eq!(Request::Accept { record, replaces: Hlc(6) }.encode()[..], accept);
        let prepare = [&[1, 11, 9, 0, 0, 0][..], &[7; 16], &[5, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0]].concat();
        let ballot = Ballot { hlc: Hlc(5), node: Tag(4) };
        assert_eq!(Request::Prepare { home: Tag(9), id, ballot }.encode()[..], prepare);
        let vote = Vote { granted: true, promised: Hlc(3), held: None };
        assert_eq!(Response::Vote(vote).encode()[..], [1, 131, 1, 3, 0, 0, 0, 0, 0, 0, 0, 0]);
        let vote = Response::Vote(Vote { held: Some(pin), ..vote }).encode();
        assert_eq!((vote[11], vote.len()), (1, 12 + PIN_BYTES));
        let weak = [&[1, 136, 2][..], &[7; 16], &[0; 29]].concat();
        assert_eq!(Response::Repinned(Repinned::Weak(pin)).encode()[..], weak);
        assert_eq!(Response::Pins(vec![pin]).encode()[..4], [1, 134, 1, 0]);
        assert_eq!(Response::Count(4).encode()[..], [1, 135, 4, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn lists_beyond_their_limit_are_refused() {
        let ids = vec![SessionId([0; 16]); BATCH_MAX + 1];
        assert_eq!(Request::decode(&Request::Pull(Tag(1), ids).encode()), Err(NotAMessage));
        let keys = vec![(SessionId([0; 16]), 0); KEYS_MAX];
        let full = Response::Keys(vec![(0, keys.clone())]).encode();
        assert!(full.len() <= MESSAGE_MAX_BYTES && Response::decode(&full).is_ok());
        let over = Response::Keys(vec![(0, keys), (1, vec![(SessionId([0; 16]), 0)])]).encode();
        assert_eq!(Response::decode(&over), Err(NotAMessage));
        assert_eq!(Request::decode(&[1, 7, 0, 0, 0, 0, 1, 0, 0, 0x10]), Err(NotAMessage));
    }
}
