//! Writes one message: prepared fragments, drawn addresses, and what frames them.

use std::net::IpAddr;

use super::{
    CLASS_IN, OPTION_CLIENT_SUBNET, OPTION_COOKIE, OPTION_EXTENDED_ERROR, OPTION_NSID, Rcode, Request,
    UDP_PAYLOAD_BYTES,
};
use crate::cookie::COOKIE_BYTES;
use crate::fragment::{Fragment, POINTER};
use crate::hinted::Hinted;
use crate::steer::Family;
use crate::wire::query::{Edns, HEADER_BYTES};
use crate::zone::Kind;

const FLAG_ANSWER: u8 = 0x80;
const FLAG_AUTHORITATIVE: u8 = 0x04;
const FLAG_TRUNCATED: u8 = 0x02;
const FLAG_RECURSION_DESIRED: u8 = 0x01;
/// Pointers of 14 bits lead to what begins before here (RFC 1035 §4.1.4).
const POINTER_REACH: usize = 0x4000;
/// The question's name, which always stands behind the header.
const QUESTION: u16 = POINTER | HEADER_BYTES as u16;

/// The sections that hold records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Section {
    Answer = 1,
    Authority = 2,
    Additional = 3,
}

/// Whose records they are.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Owner<'a> {
    /// The question's name.
    Question,
    /// A name that stands at this place of the message.
    At(u16),
    /// A name of the zone, by its labels before the origin.
    Below(&'a [u8]),
}

impl<'a> Owner<'a> {
    /// What stands before its pointer.
    fn labels(self) -> &'a [u8] {
        match self {
            Self::Question | Self::At(_) => &[],
            Self::Below(labels) => labels,
        }
    }

    /// The pointer that it ends in; `origin` is the one to the zone's.
    fn pointer(self, origin: u16) -> u16 {
        match self {
            Self::Question => QUESTION,
            Self::At(place) => POINTER | place,
            Self::Below(_) => origin,
        }
    }

    fn length(self) -> usize {
        self.labels().len() + 2
    }

    /// The same owner of the next record, when the first one is written at `start`: a name that stands there once is pointed
    /// to, as far as pointers reach.
    fn again(self, start: usize) -> Self {
        match self {
            Self::Below(labels) if !labels.is_empty() && start < POINTER_REACH => Self::At(start as u16),
            same => same,
        }
    }
}

/// A set that was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Written {
    /// Where the data of its last record begins.
    data: usize,
}

impl Written {
    /// The name that the last record's data begins with, as an owner. `None`: no pointer leads so far.
    pub(crate) fn target(self) -> Option<Owner<'static>> {
        (self.data < POINTER_REACH).then_some(Owner::At(self.data as u16))
    }
}

/// What the OPT record says beside what it repeats of the query's.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Extras<'o> {
    /// The client's and the server's cookie.
    pub(crate) cookie: Option<&'o [u8; COOKIE_BYTES]>,
    /// Who answers; empty: not told.
    pub(crate) nsid: &'o [u8],
}

/// Why, beside the response code (RFC 8914): the code of the registry and a text for people, which may be empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ExtendedError {
    pub(crate) code: u16,
    pub(crate) text: &'static str,
}

impl ExtendedError {
    fn length(self) -> usize {
        6 + self.text.len()
    }
}

/// An answer that is being written.
///
/// Sets of records are written whole or not at all (RFC 2181 §9). Room for the OPT record is kept free.
pub(crate) struct Reply<'o, 'm> {
    request: &'o Request<'m>,
    extras: Extras<'o>,
    out: &'o mut Vec<u8>,
    /// How long `out` may become before the OPT record.
    room: usize,
    /// Where the origin of the zone stands in the question.
    origin: u16,
    counts: [u16; 4],
    authoritative: bool,
    truncated: bool,
    why: Option<ExtendedError>,
}

impl<'o, 'm> Reply<'o, 'm> {
    /// Begins an answer of at most `limit` bytes (at least 512) in `out`, which is cleared.
    pub(crate) fn begin(
        request: &'o Request<'m>,
        extras: Extras<'o>,
        limit: u16,
        out: &'o mut Vec<u8>,
    ) -> Self {
        out.clear();
        out.extend_from_slice(&[0; HEADER_BYTES]);
        let mut counts = [0; 4];
        if let Some(question) = &request.question {
            out.extend_from_slice(question.wire);
            counts[0] = 1;
        }
        let room = usize::from(limit.max(512)) - opt_length(request, extras);
        Self {
            request,
            extras,
            out,
            room,
            origin: 0,
            counts,
            authoritative: false,
            truncated: false,
            why: None,
        }
    }

    /// Says which zone answers, by the length of its origin: the end of the question's name.
    pub(crate) fn answer_from(&mut self, origin_bytes: usize) {
        let name_bytes = self.request.question.map_or(0, |question| question.name.len());
        self.origin = (HEADER_BYTES + name_bytes.saturating_sub(origin_bytes)) as u16;
        self.authoritative = true;
    }

    /// Says why, once, where there is room for it; who does not speak EDNS is not told.
    pub(crate) fn say_why(&mut self, why: ExtendedError) {
        let fits = self.out.len() + why.length() <= self.room;
        if fits && self.why.is_none() && self.request.edns.is_some() {
            self.room -= why.length();
            self.why = Some(why);
        }
    }

    /// Takes the authority back: the answer is a referral.
    pub(crate) fn disclaim(&mut self) {
        self.authoritative = false;
    }

    /// Writes a whole set. `None`: it does not fit, and nothing is written.
    pub(crate) fn set(&mut self, section: Section, owner: Owner<'_>, set: &Fragment) -> Option<Written> {
        let again = owner.again(self.out.len());
        if self.out.len() + set.length(owner.length(), again.length()) > self.room {
            return None;
        }
        let origin = POINTER | self.origin;
        let (mut next, mut data) = (owner, 0);
        set.copy(self.out, self.origin, |out| {
            push_owner(out, next, origin);
            (next, data) = (again, out.len() + 10);
        });
        self.counts[section as usize] += set.records();
        Some(Written { data })
    }

    /// Lowers the TTL of the only record of a set that was written, in seconds.
    pub(crate) fn lower_ttl(&mut self, written: Written, ttl: u32) {
        if let Some(place) = self.out.get_mut(written.data - 6..).and_then(<[u8]>::first_chunk_mut::<4>) {
            *place = ttl.min(u32::from_be_bytes(*place)).to_be_bytes();
        }
    }

    /// Writes addresses of one family into the answer, all or none and then returns false.
    pub(crate) fn addresses(
        &mut self,
        owner: Owner<'_>,
        family: Family,
        ttl: u32,
        addresses: impl ExactSizeIterator<Item = IpAddr>,
    ) -> bool {
        let (kind, bytes) = match family {
            Family::V4 => (Kind::A, 4),
            Family::V6 => (Kind::AAAA, 16),
        };
        let count = addresses.len();
        let again = owner.again(self.out.len());
        let owners = owner.length() + again.length() * count.saturating_sub(1);
        if self.out.len() + owners + count * (10 + bytes) > self.room {
            return false;
        }
        let origin = POINTER | self.origin;
        // The pointer that ends the owner, and all of the record behind it: written at once.
        let mut record = [0; 12 + 16];
        record[2..12].copy_from_slice(&RecordHead { kind, ttl, bytes: bytes as u16 }.bytes());
        let mut next = owner;
        for address in addresses {
            self.out.extend_from_slice(next.labels());
            record[..2].copy_from_slice(&next.pointer(origin).to_be_bytes());
            next = again;
            match address {
                IpAddr::V4(address) => {
                    record[12..16].copy_from_slice(&address.octets());
                    self.out.extend_from_slice(&record[..16]);
                }
                IpAddr::V6(address) => {
                    record[12..].copy_from_slice(&address.octets());
                    self.out.extend_from_slice(&record);
                }
            }
        }
        self.counts[Section::Answer as usize] += count as u16;
        true
    }

    /// Writes a set whole with hints after its parameters, or nothing and returns false.
    pub(crate) fn hinted(
        &mut self,
        owner: Owner<'_>,
        set: &Hinted,
        ttl: u32,
        hints: [impl ExactSizeIterator<Item = IpAddr> + Clone; 2],
    ) -> bool {
        let start = self.out.len();
        let origin = POINTER | self.origin;
        let mut next = owner;
        for record in &set.records {
            push_owner(self.out, next, origin);
            next = owner.again(start);
            self.out.extend_from_slice(&RecordHead { kind: set.kind, ttl, bytes: 0 }.bytes());
            let length_at = self.out.len() - 2;
            for (part, (key, bytes, addresses)) in [&record.before_ipv4, &record.before_ipv6]
                .into_iter()
                .zip([(4, 4, &hints[0]), (6, 16, &hints[1])])
            {
                self.out.extend_from_slice(part);
                if record.hints && addresses.len() > 0 {
                    push_option(self.out, key, bytes * addresses.len());
                    addresses.clone().for_each(|address| push_address(self.out, address));
                }
            }
            self.out.extend_from_slice(&record.rest);
            let length = (self.out.len() - length_at - 2) as u16;
            self.out[length_at..length_at + 2].copy_from_slice(&length.to_be_bytes());
            if self.out.len() > self.room {
                self.out.truncate(start);
                return false;
            }
        }
        self.counts[Section::Answer as usize] += set.records.len() as u16;
        true
    }

    /// Writes one record by the parts of its data, uncompressed, or nothing and returns false.
    pub(crate) fn record(
        &mut self,
        section: Section,
        owner: Owner<'_>,
        kind: Kind,
        ttl: u32,
        data: [&[u8]; 2],
    ) -> bool {
        let length = data[0].len() + data[1].len();
        if !self.has_room(owner, length, 1) {
            return false;
        }
        push_owner(self.out, owner, POINTER | self.origin);
        self.out.extend_from_slice(&RecordHead { kind, ttl, bytes: length as u16 }.bytes());
        data.into_iter().for_each(|part| self.out.extend_from_slice(part));
        self.counts[section as usize] += 1;
        true
    }

    /// Whether so many records of one owner fit, each with so many bytes of data.
    pub(crate) fn has_room(&self, owner: Owner<'_>, data_bytes: usize, count: usize) -> bool {
        self.out.len() + count * (owner.length() + 10 + data_bytes) <= self.room
    }

    /// Where the data of each record behind `start` begins and ends; all are of this owner.
    pub(crate) fn data_behind(&self, start: usize, owner: Owner<'_>) -> impl Iterator<Item = (usize, usize)> {
        let (mut at, mut next) = (start, owner);
        std::iter::from_fn(move || {
            let data = at + next.length() + 10;
            next = owner.again(start);
            let length = self.out.get(data - 2..data)?;
            at = data + usize::from(u16::from_be_bytes([length[0], length[1]]));
            Some((data, at))
        })
    }

    /// Bytes that were written.
    pub(crate) fn bytes(&self, start: usize, end: usize) -> &[u8] {
        self.out.get(start..end).unwrap_or_default()
    }

    /// How many bytes were written so far.
    pub(crate) fn length(&self) -> usize {
        self.out.len()
    }

    /// True when nothing stands in the answer section.
    pub(crate) fn is_empty(&self) -> bool {
        self.counts[Section::Answer as usize] == 0
    }

    /// Something needed did not fit; the sender will ask again over TCP.
    pub(crate) fn truncate(&mut self) {
        self.truncated = true;
    }

    /// True when something needed did not fit.
    pub(crate) fn is_truncated(&self) -> bool {
        self.truncated
    }

    /// Ends it: the OPT record, then the header. `scope` is how many bits of the client's address the answer depends on.
    pub(crate) fn finish(&mut self, rcode: Rcode, scope: u8) {
        // When the sender speaks EDNS, so does the answer (RFC 6891 §7).
        if let Some(edns) = &self.request.edns {
            self.push_opt(edns, rcode, scope);
        }
        let flag = |flag: u8, set: bool| if set { flag } else { 0 };
        let flags = FLAG_ANSWER
            | self.request.opcode << 3
            | flag(FLAG_AUTHORITATIVE, self.authoritative)
            | flag(FLAG_TRUNCATED, self.truncated)
            | flag(FLAG_RECURSION_DESIRED, self.request.recursion_desired);
        let [id_high, id_low] = self.request.id.to_be_bytes();
        let [questions, answers, authorities, additional] = self.counts.map(u16::to_be_bytes);
        if let Some(header) = self.out.first_chunk_mut::<HEADER_BYTES>() {
            *header = [
                id_high,
                id_low,
                flags,
                (rcode.0 & 0x0f) as u8,
                questions[0],
                questions[1],
                answers[0],
                answers[1],
                authorities[0],
                authorities[1],
                additional[0],
                additional[1],
            ];
        }
    }

    fn push_opt(&mut self, edns: &Edns<'_>, rcode: Rcode, scope: u8) {
        let mut head = [0; 11];
        head[1..3].copy_from_slice(&Kind::OPT.0.to_be_bytes());
        head[3..5].copy_from_slice(&UDP_PAYLOAD_BYTES.to_be_bytes());
        head[5] = (rcode.0 >> 4) as u8;
        head[7] = u8::from(edns.dnssec_ok) << 7 | u8::from(edns.compact_ok) << 6;
        let length = opt_length(self.request, self.extras) + self.why.map_or(0, ExtendedError::length) - 11;
        head[9..].copy_from_slice(&(length as u16).to_be_bytes());
        self.out.extend_from_slice(&head);
        if let Some(subnet) = &edns.subnet {
            let bytes = subnet.address_bytes();
            // RFC 7871 §7.2.1: who gave no bits gets an answer that depends on none.
            let scope = if subnet.source == 0 { 0 } else { subnet.scope_of(scope) };
            push_option(self.out, OPTION_CLIENT_SUBNET, 4 + bytes);
            self.out.extend_from_slice(&subnet.family.to_be_bytes());
            self.out.extend_from_slice(&[subnet.source, scope]);
            match subnet.address {
                IpAddr::V4(address) => self.out.extend_from_slice(&address.octets()[..bytes]),
                IpAddr::V6(address) => self.out.extend_from_slice(&address.octets()[..bytes]),
            }
        }
        if let Some(cookie) = self.extras.cookie {
            push_option(self.out, OPTION_COOKIE, COOKIE_BYTES);
            self.out.extend_from_slice(cookie);
        }
        if tells_nsid(edns, self.extras) {
            push_option(self.out, OPTION_NSID, self.extras.nsid.len());
            self.out.extend_from_slice(self.extras.nsid);
        }
        if let Some(why) = self.why {
            push_option(self.out, OPTION_EXTENDED_ERROR, why.length() - 4);
            self.out.extend_from_slice(&why.code.to_be_bytes());
            self.out.extend_from_slice(why.text.as_bytes());
        }
        self.counts[Section::Additional as usize] += 1;
    }
}

/// What stands between a record's owner and its data.
struct RecordHead {
    kind: Kind,
    /// In seconds.
    ttl: u32,
    /// Of the data.
    bytes: u16,
}

impl RecordHead {
    fn bytes(&self) -> [u8; 10] {
        let mut head = [0; 10];
        head[..2].copy_from_slice(&self.kind.0.to_be_bytes());
        head[2..4].copy_from_slice(&CLASS_IN.to_be_bytes());
        head[4..8].copy_from_slice(&self.ttl.to_be_bytes());
        head[8..].copy_from_slice(&self.bytes.to_be_bytes());
        head
    }
}

fn push_owner(out: &mut Vec<u8>, owner: Owner<'_>, origin: u16) {
    out.extend_from_slice(owner.labels());
    out.extend_from_slice(&owner.pointer(origin).to_be_bytes());
}

fn push_option(out: &mut Vec<u8>, code: u16, length: usize) {
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(&(length as u16).to_be_bytes());
}

fn push_address(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => out.extend_from_slice(&address.octets()),
        IpAddr::V6(address) => out.extend_from_slice(&address.octets()),
    }
}

fn tells_nsid(edns: &Edns<'_>, extras: Extras<'_>) -> bool {
    edns.nsid && !extras.nsid.is_empty()
}

/// Bytes of the OPT record that will end the answer.
fn opt_length(request: &Request<'_>, extras: Extras<'_>) -> usize {
    let Some(edns) = &request.edns else { return 0 };
    11 + edns.subnet.as_ref().map_or(0, |subnet| 8 + subnet.address_bytes())
        + extras.cookie.map_or(0, |cookie| 4 + cookie.len())
        + if tells_nsid(edns, extras) { 4 + extras.nsid.len() } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{QueryBytes, Read};
    use crate::wire::decode;

    /// No pointer leads so far, so the owner is written out again for each.
    #[test]
    fn addresses_of_one_name_keep_it_behind_the_reach_of_pointers() {
        let query = QueryBytes::new("www.example.com", "A").bytes();
        let (request, mut out) = (decode(&query).unwrap(), Vec::new());
        for begun in [0, POINTER_REACH - 1, POINTER_REACH, POINTER_REACH + 1] {
            let mut reply = Reply::begin(&request, Extras::default(), u16::MAX, &mut out);
            reply.answer_from(b"\x07example\x03com\x00".len());
            // Two bytes of owner and ten of head stand before the data.
            let filled = begun.saturating_sub(reply.length() + 12).max(1);
            assert!(reply.record(Section::Answer, Owner::Question, Kind(65280), 30, [&vec![0; filled], &[]]));
            let addresses = [[192, 0, 2, 1], [192, 0, 2, 2], [192, 0, 2, 3]].map(IpAddr::from);
            assert!(reply.addresses(Owner::Below(b"\x03end"), Family::V4, 30, addresses.into_iter()));
            reply.finish(Rcode::NOERROR, 0);
            let mut answers = Read::new(out.clone()).answers();
            answers.retain(|answer| answer.contains(" A "));
            let expected = addresses.map(|address| format!("end.example.com. A 30 {address}"));
            assert_eq!(answers, expected, "behind {begun} bytes");
        }
    }
}
