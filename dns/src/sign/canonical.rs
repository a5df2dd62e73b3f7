//! The bytes that a signature covers (RFC 4034 §3.1.8.1): the data of the RRSIG record without the signature itself, then
//! the records in canonical form and order (§6).

use std::hash::Hasher;
use std::sync::Arc;

use rustc_hash::FxHasher;

use super::key::ALGORITHM;
use crate::name::suffixes;
use crate::wire::CLASS_IN;
use crate::zone::Kind;

/// How long a signature is used: one is made anew at the latest after this, in seconds.
pub(crate) const PERIOD: u64 = 3600;
/// How far before that a signature is valid already, for clocks that are behind, in seconds.
const BEFORE: u64 = 3 * 3600;
/// How far behind its use it stays valid, for what resolvers remember and for clocks that are ahead, in seconds.
const AFTER: u64 = 3 * 86_400;
/// The longest TTL in a signed zone, in seconds: a day less than what is left of a signature at its last use, for clocks that are
/// ahead. Else caches that do not look at signatures would hold and pass on some that have expired.
pub(crate) const MAX_SIGNED_TTL: u32 = AFTER as u32 - 86_400;
/// Where the key's tag stands in the data of an RRSIG record.
const TAG_AT: usize = 16;
/// Where the signer's name begins.
const SIGNER_AT: usize = 18;

/// Records of one type in canonical form, prepared but for their owner and their TTL.
#[derive(Debug, Clone)]
pub(crate) struct CanonicalSet {
    pub(crate) kind: Kind,
    /// The TTL in the zone, in seconds.
    pub(crate) ttl: u32,
    data: Box<[Box<[u8]>]>,
}

impl CanonicalSet {
    /// Takes data in wire form, names uncompressed.
    pub(crate) fn new(kind: Kind, ttl: u32, data: &[Arc<[u8]>]) -> Self {
        let mut data: Vec<Box<[u8]>> = data.iter().map(|data| fold_names(kind, data)).collect();
        data.sort_unstable();
        data.dedup();
        Self { kind, ttl, data: data.into() }
    }

    /// The data of each record, in order.
    pub(crate) fn data(&self) -> impl Iterator<Item = &[u8]> {
        self.data.iter().map(AsRef::as_ref)
    }
}

/// What is signed, in a buffer that is used again.
#[derive(Debug, Default)]
pub(crate) struct SignedData {
    bytes: Vec<u8>,
    /// Where the records begin.
    records_at: usize,
    /// Until when the signature is used, in seconds since 1970.
    until: u64,
}

impl SignedData {
    /// Begins anew for a set of `owner` (folded, in wire form) by `signer` (the zone, likewise) at a moment. `ttl` is the one
    /// in the zone, whatever is sent.
    pub(crate) fn begin(&mut self, owner: &[u8], kind: Kind, ttl: u32, signer: &[u8], unix: u64) {
        // Every set has its own moment at which it is signed anew, or all would be at once.
        let start = unix.saturating_sub((unix + phase(owner, kind)) % PERIOD);
        self.until = start + PERIOD;
        self.bytes.clear();
        self.bytes.extend_from_slice(&kind.0.to_be_bytes());
        self.bytes.extend_from_slice(&[ALGORITHM, labels(owner)]);
        self.bytes.extend_from_slice(&ttl.to_be_bytes());
        // Serial arithmetic (RFC 4034 §3.1.5): these wrap in 2106.
        self.bytes.extend_from_slice(&((self.until + AFTER) as u32).to_be_bytes());
        self.bytes.extend_from_slice(&(start.saturating_sub(BEFORE) as u32).to_be_bytes());
        self.bytes.extend_from_slice(&[0, 0]);
        self.bytes.extend_from_slice(signer);
        self.records_at = self.bytes.len();
    }

    /// Adds a record by the parts of its data; records come in canonical order.
    pub(crate) fn push<const N: usize>(&mut self, owner: &[u8], data: [&[u8]; N]) {
        let (kind, ttl) = ([self.bytes[0], self.bytes[1]], [4, 5, 6, 7].map(|at: usize| self.bytes[at]));
        self.bytes.extend_from_slice(owner);
        self.bytes.extend_from_slice(&kind);
        self.bytes.extend_from_slice(&CLASS_IN.to_be_bytes());
        self.bytes.extend_from_slice(&ttl);
        let length: usize = data.iter().map(|part| part.len()).sum();
        self.bytes.extend_from_slice(&(length as u16).to_be_bytes());
        data.into_iter().for_each(|part| self.bytes.extend_from_slice(part));
    }

    /// Says by which key.
    pub(crate) fn set_tag(&mut self, tag: u16) {
        self.bytes[TAG_AT..SIGNER_AT].copy_from_slice(&tag.to_be_bytes());
    }

    /// All of it.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The data of the RRSIG record before the signature.
    pub(crate) fn head(&self) -> &[u8] {
        &self.bytes[..self.records_at]
    }

    /// Until when the signature is used, in seconds since 1970.
    pub(crate) fn until(&self) -> u64 {
        self.until
    }
}

/// Bytes of an RRSIG record's data before the signature.
pub(crate) fn head_bytes(signer: &[u8]) -> usize {
    SIGNER_AT + signer.len()
}

/// The labels of a name but the root's, and but an asterisk at its beginning (RFC 4034 §3.1.3).
fn labels(owner: &[u8]) -> u8 {
    let all = suffixes(owner).count() - 1;
    (all - usize::from(owner.starts_with(b"\x01*"))) as u8
}

fn phase(owner: &[u8], kind: Kind) -> u64 {
    let mut hasher = FxHasher::default();
    hasher.write(owner);
    hasher.write_u16(kind.0);
    hasher.finish() >> 32
}

/// The data with its names in lower case, of the types for which that is the canonical form (RFC 4034 §6.2, RFC 6840
/// §5.1).
fn fold_names(kind: Kind, data: &[u8]) -> Box<[u8]> {
    let (before, names) = match kind {
        // As they are (RFC 9460 came after RFC 4034 §6.2).
        Kind::SVCB | Kind::HTTPS => (0, 0),
        _ => kind.names_in(data),
    };
    let mut folded: Box<[u8]> = data.into();
    let mut at = before;
    for _ in 0..names {
        let Some(rest) = data.get(at..) else { break };
        let Some(end) = suffixes(rest).find(|suffix| suffix.first() == Some(&0)) else { break };
        let length = rest.len() - end.len() + 1;
        folded[at..at + length].make_ascii_lowercase();
        at += length;
    }
    folded
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::Name;
    use crate::wire::parse_value;

    fn folded(kind: Kind, value: &str) -> Vec<u8> {
        fold_names(kind, &parse_value(kind, value, &Name::root()).unwrap()).into_vec()
    }

    #[test]
    fn names_in_data_are_folded_and_nothing_else() {
        for (kind, value, canonical) in [
            (Kind::NS, "NS.Example.", "ns.example."),
            (Kind::MX, "10 Mail.Example.", "10 mail.example."),
            (Kind::SRV, "1 2 80 Host.Example.", "1 2 80 host.example."),
            (
                Kind::NAPTR,
                "1 2 \"S\" \"SIP+D2U\" \"\" Sip.Example.",
                "1 2 \"S\" \"SIP+D2U\" \"\" sip.example.",
            ),
            (Kind::TXT, "\"Text\"", "\"Text\""),
            (Kind::HTTPS, "1 Host.Example. alpn=h2", "1 Host.Example. alpn=h2"),
        ] {
            let wanted = parse_value(kind, canonical, &Name::root()).unwrap();
            assert_eq!(folded(kind, value), wanted, "{value}");
        }
        let names = [b"\x02NS\x00".as_slice(), b"\x01M\x00", b"ABCDEFGHIJKLMNOPQRST"].concat();
        let wanted = [b"\x02ns\x00".as_slice(), b"\x01m\x00", b"ABCDEFGHIJKLMNOPQRST"].concat();
        assert_eq!(*fold_names(Kind::SOA, &names), wanted);
        for length in 0..names.len() {
            for kind in 0..260 {
                let _ = fold_names(Kind(kind), &names[..length]);
            }
        }
    }

    #[test]
    fn records_are_in_order_and_each_once() {
        let data: Vec<Arc<[u8]>> =
            [[9, 9], [0, 200], [9, 9], [0, 3]].into_iter().map(|data| Arc::from(&data[..])).collect();
        let set = CanonicalSet::new(Kind::A, 30, &data);
        assert_eq!(set.data().collect::<Vec<_>>(), [[0, 3], [0, 200], [9, 9]]);
    }

    #[test]
    fn a_signature_is_valid_long_before_and_after_its_use() {
        let mut data = SignedData::default();
        let owner = b"\x03www\x07example\x00";
        let mut heads = std::collections::BTreeSet::new();
        for unix in 1_800_000_000..1_800_000_000 + 2 * PERIOD {
            data.begin(owner, Kind::A, 30, b"\x07example\x00", unix);
            let number =
                |at: usize| data.head()[at..at + 4].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
            let (expiration, inception) = (number(8), number(12));
            assert!(inception + BEFORE <= unix && unix < data.until() && data.until() <= unix + PERIOD);
            assert!(expiration >= unix + AFTER && expiration <= unix + PERIOD + AFTER);
            heads.insert(data.head().to_vec());
        }
        assert!((2..=3).contains(&heads.len()), "one signature a period, not {}", heads.len());
        data.begin(owner, Kind::A, 30, b"\x00", 0);
        data.begin(owner, Kind::A, 30, b"\x00", 1);
    }

    #[test]
    fn an_asterisk_at_the_beginning_is_no_label() {
        assert_eq!(labels(b"\x00"), 0);
        assert_eq!(labels(b"\x03www\x07example\x00"), 2);
        assert_eq!(labels(b"\x01*\x07example\x00"), 1);
        assert_eq!(labels(b"\x01a\x01*\x07example\x00"), 3);
    }
}
