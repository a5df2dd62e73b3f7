//! The pieces that messages are made of.

use bytes::{Buf, BufMut, BytesMut};
use gossip::id::{SessionId, Tag};

use super::{BATCH_MAX, KEYS_MAX, MESSAGE_MAX_BYTES, NotAMessage, VERSION};
use crate::pin::{PIN_BYTES, Pin};
use crate::placement::BUCKETS;
use crate::table::Record;

pub(super) fn put_record(out: &mut BytesMut, record: &Record) {
    out.put_u32_le(record.home.0);
    out.put_slice(&record.pin.encode());
}

pub(super) fn put_maybe(out: &mut BytesMut, pin: Option<&Pin>) {
    out.put_u8(pin.is_some().into());
    pin.iter().for_each(|pin| out.put_slice(&pin.encode()));
}

pub(super) fn put_records(out: &mut BytesMut, kind: u8, records: &[Record]) {
    out.put_u8(kind);
    out.put_u16_le(records.len() as u16);
    records.iter().for_each(|record| put_record(out, record));
}

pub(super) fn put_buckets(out: &mut BytesMut, buckets: &[u16]) {
    out.put_u16_le(buckets.len() as u16);
    buckets.iter().for_each(|bucket| out.put_u16_le(*bucket));
}

/// What is left to read.
pub(super) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Result<Self, NotAMessage> {
        let mut input = Self(bytes);
        if bytes.len() > MESSAGE_MAX_BYTES || input.u8()? != VERSION {
            return Err(NotAMessage);
        }
        Ok(input)
    }

    pub(super) fn end<T>(self, value: T) -> Result<T, NotAMessage> {
        if self.0.is_empty() { Ok(value) } else { Err(NotAMessage) }
    }

    pub(super) fn u8(&mut self) -> Result<u8, NotAMessage> {
        self.0.try_get_u8().map_err(|_| NotAMessage)
    }

    pub(super) fn u16(&mut self) -> Result<u16, NotAMessage> {
        self.0.try_get_u16_le().map_err(|_| NotAMessage)
    }

    pub(super) fn u32(&mut self) -> Result<u32, NotAMessage> {
        self.0.try_get_u32_le().map_err(|_| NotAMessage)
    }

    pub(super) fn u64(&mut self) -> Result<u64, NotAMessage> {
        self.0.try_get_u64_le().map_err(|_| NotAMessage)
    }

    pub(super) fn flag(&mut self) -> Result<bool, NotAMessage> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(NotAMessage),
        }
    }

    pub(super) fn tag(&mut self) -> Result<Tag, NotAMessage> {
        self.u32().map(Tag)
    }

    pub(super) fn id(&mut self) -> Result<SessionId, NotAMessage> {
        let (id, rest) = self.0.split_first_chunk().ok_or(NotAMessage)?;
        self.0 = rest;
        Ok(SessionId(*id))
    }

    pub(super) fn pin(&mut self) -> Result<Pin, NotAMessage> {
        let (pin, rest) = self.0.split_at_checked(PIN_BYTES).ok_or(NotAMessage)?;
        self.0 = rest;
        Pin::decode(pin).map_err(|_| NotAMessage)
    }

    pub(super) fn maybe(&mut self) -> Result<Option<Pin>, NotAMessage> {
        Ok(if self.flag()? { Some(self.pin()?) } else { None })
    }

    pub(super) fn record(&mut self) -> Result<Record, NotAMessage> {
        Ok(Record { home: self.tag()?, pin: self.pin()? })
    }

    pub(super) fn records(&mut self) -> Result<Vec<Record>, NotAMessage> {
        self.list16(BATCH_MAX, Self::record)
    }

    pub(super) fn bucket(&mut self) -> Result<u16, NotAMessage> {
        self.u16().and_then(|bucket| if bucket < BUCKETS { Ok(bucket) } else { Err(NotAMessage) })
    }

    pub(super) fn buckets(&mut self) -> Result<Vec<u16>, NotAMessage> {
        self.list16(usize::from(BUCKETS), Self::bucket)
    }

    pub(super) fn keys(&mut self) -> Result<Vec<(u16, Vec<(SessionId, u64)>)>, NotAMessage> {
        let mut room = KEYS_MAX;
        self.list16(usize::from(BUCKETS), |input| {
            let bucket = input.bucket()?;
            let count = input.u32()? as usize;
            room = room.checked_sub(count).ok_or(NotAMessage)?;
            Ok((bucket, input.list(count, |input| Ok((input.id()?, input.u64()?)))?))
        })
    }

    pub(super) fn list16<T>(
        &mut self,
        max: usize,
        item: impl FnMut(&mut Self) -> Result<T, NotAMessage>,
    ) -> Result<Vec<T>, NotAMessage> {
        let count = usize::from(self.u16()?);
        if count > max { Err(NotAMessage) } else { self.list(count, item) }
    }

    /// An item takes at least one byte: what is left bounds what is allocated.
    pub(super) fn list<T>(
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
