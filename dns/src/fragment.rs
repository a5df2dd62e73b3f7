//! Records as they will stand in messages, made once when the table is built.
//!
//! ```text
//!   owner │ type class ttl length │ data                 one record; the owner is put before it when it is sent
//!         └──────── bytes ────────┘   └─ …ns1 ●─┐
//!                                               └─▶ the origin, which every question of the zone ends in
//! ```
//!
//! A name in the data that ends in the zone's origin ends in a compression pointer instead, where compression is
//! allowed (RFC 3597 §4: the types of RFC 1035 alone). Where the origin will stand depends on the question, so the
//! places of these pointers are kept and filled in when the fragment is copied.

use std::sync::Arc;

use crate::name::{Name, suffixes};
use crate::zone::Kind;

const CLASS_IN: u16 = 1;
/// The two upper bits of a compression pointer (RFC 1035 §4.1.4).
pub(crate) const POINTER: u16 = 0xc000;

/// All records of one name and type.
#[derive(Debug, Clone)]
pub(crate) struct Fragment {
    kind: Kind,
    /// The records one after the other, each without its owner.
    bytes: Box<[u8]>,
    /// Where each record ends in `bytes`.
    ends: Box<[u32]>,
    /// Where pointers to the origin stand in `bytes`, in order.
    links: Box<[u32]>,
}

impl Fragment {
    /// Takes data in wire form, names uncompressed.
    pub(crate) fn new(kind: Kind, ttl: u32, data: &[Arc<[u8]>], origin: &Name) -> Self {
        let (mut bytes, mut ends, mut links) = (Vec::new(), Vec::new(), Vec::new());
        for data in data {
            bytes.extend_from_slice(&kind.0.to_be_bytes());
            bytes.extend_from_slice(&CLASS_IN.to_be_bytes());
            bytes.extend_from_slice(&ttl.to_be_bytes());
            let length_at = bytes.len();
            bytes.extend_from_slice(&[0, 0]);
            push_data(kind, data, origin, &mut bytes, &mut links);
            let length = (bytes.len() - length_at - 2) as u16;
            bytes[length_at..length_at + 2].copy_from_slice(&length.to_be_bytes());
            ends.push(bytes.len() as u32);
        }
        Self { kind, bytes: bytes.into(), ends: ends.into(), links: links.into() }
    }

    /// The type of all of them.
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// How many records it holds.
    pub(crate) fn records(&self) -> u16 {
        self.ends.len() as u16
    }

    /// Bytes in a message, with an owner of `first` bytes before the first record and of `other` bytes before each other.
    pub(crate) fn length(&self, first: usize, other: usize) -> usize {
        self.bytes.len() + first + other * self.ends.len().saturating_sub(1)
    }

    /// Appends all records. `origin` is where the origin stands in the message.
    pub(crate) fn copy(&self, out: &mut Vec<u8>, origin: u16, mut owner: impl FnMut(&mut Vec<u8>)) {
        let mut start = 0;
        let mut links = self.links.iter().map(|link| *link as usize).peekable();
        for end in self.ends.iter().map(|end| *end as usize) {
            owner(out);
            let base = out.len() - start;
            out.extend_from_slice(&self.bytes[start..end]);
            while let Some(link) = links.next_if(|link| *link < end) {
                out[base + link..base + link + 2].copy_from_slice(&(POINTER | origin).to_be_bytes());
            }
            start = end;
        }
    }
}

/// The bytes of `name` before the zone's origin, when it lies in the zone.
pub(crate) fn within<'n>(name: &'n [u8], origin: &Name) -> Option<&'n [u8]> {
    let end = suffixes(name).find(|suffix| suffix.eq_ignore_ascii_case(origin.wire()))?;
    Some(&name[..name.len() - end.len()])
}

fn push_data(kind: Kind, data: &[u8], origin: &Name, bytes: &mut Vec<u8>, links: &mut Vec<u32>) {
    let (before, names) = match kind {
        Kind::NS | Kind::CNAME | Kind::PTR => (0, 1),
        Kind::MX => (2, 1),
        Kind::SOA => (0, 2),
        _ => (data.len(), 0),
    };
    let (plain, mut rest) = data.split_at(before.min(data.len()));
    bytes.extend_from_slice(plain);
    for _ in 0..names {
        let Some(end) = suffixes(rest).find(|suffix| suffix.first() == Some(&0)) else { break };
        let (name, after) = rest.split_at(rest.len() - end.len() + 1);
        match within(name, origin) {
            Some(labels) => {
                bytes.extend_from_slice(labels);
                links.push(bytes.len() as u32);
                bytes.extend_from_slice(&[0, 0]);
            }
            None => bytes.extend_from_slice(name),
        }
        rest = after;
    }
    bytes.extend_from_slice(rest);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::parse_absolute(text).unwrap()
    }

    fn copied(kind: Kind, data: &[&[u8]]) -> Vec<u8> {
        let data: Vec<Arc<[u8]>> = data.iter().map(|data| Arc::from(*data)).collect();
        let fragment = Fragment::new(kind, 30, &data, &name("example.com"));
        let mut out = vec![0; 5];
        fragment.copy(&mut out, 0x0123, |out| out.push(0xee));
        assert_eq!(out.len(), 5 + fragment.length(1, 1));
        out.split_off(5)
    }

    #[test]
    fn names_in_the_zone_end_in_a_pointer_to_it() {
        let (inside, outside) = (name("ns1.EXAMPLE.com"), name("ns.example.net"));
        let found = copied(Kind::NS, &[inside.wire(), outside.wire()]);
        let mut expected = b"\xee\x00\x02\x00\x01\x00\x00\x00\x1e\x00\x06\x03ns1\xc1\x23".to_vec();
        expected
            .extend_from_slice(b"\xee\x00\x02\x00\x01\x00\x00\x00\x1e\x00\x10\x02ns\x07example\x03net\x00");
        assert_eq!(found, expected);
        let mail = [b"\x00\x0a".as_slice(), name("example.com").wire()].concat();
        assert!(copied(Kind::MX, &[&mail]).ends_with(b"\x00\x04\x00\x0a\xc1\x23"));
        let soa = [inside.wire(), outside.wire(), &[7; 20]].concat();
        let found = copied(Kind::SOA, &[&soa]);
        assert!(found.ends_with(&[b"\x03ns1\xc1\x23".as_slice(), outside.wire(), &[7; 20]].concat()));
    }

    #[test]
    fn other_types_are_never_compressed() {
        let target = [b"\x00\x01\x00\x02\x01\xbb".as_slice(), name("a.example.com").wire()].concat();
        assert!(copied(Kind::SRV, &[&target]).ends_with(&target));
    }
}
