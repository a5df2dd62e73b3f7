//! What replicas say to each other about sessions, in bytes. Pure.
//!
//! ```text
//!   version 1 │ kind 1 │ fields, little endian; lists as a count (u16, u32 for keys) and the items; nothing after
//! ```
//!
//! The kinds 9 and 135 are not used any more.
//!
//! Every list has a limit that is checked before anything is allocated, and no message is longer than
//! [`MESSAGE_MAX_BYTES`].

mod bytes;

use ::bytes::{BufMut, Bytes, BytesMut};
use gossip::clock::Hlc;
use gossip::id::{SessionId, Tag};

use self::bytes::{Input, put_buckets, put_maybe, put_record, put_records};
use crate::digest::Fingerprint;
use crate::pin::Pin;
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

#[cfg(test)]
mod tests;
