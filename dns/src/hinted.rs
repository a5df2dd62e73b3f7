//! Records whose address hints are the steered addresses of who asks (RFC 9460 §7.3).
//!
//! An HTTPS or SVCB record at a steered name that means the name itself (target `.`) is sent with the hints that its A
//! and AAAA records would have, so that a client which believes hints and one which asks on reach the same region.

use std::sync::Arc;

use crate::zone::Kind;

const KEY_IPV4: u16 = 4;
const KEY_IPV6: u16 = 6;

/// The records of one type at a steered name, prepared for hints.
#[derive(Debug, Clone)]
pub(crate) struct Hinted {
    pub(crate) kind: Kind,
    /// In seconds.
    pub(crate) ttl: u32,
    pub(crate) records: Box<[HintedRecord]>,
}

/// One record's data, cut where hints belong: parameters stand in the order of their numbers.
#[derive(Debug, Clone)]
pub(crate) struct HintedRecord {
    pub(crate) before_ipv4: Box<[u8]>,
    pub(crate) before_ipv6: Box<[u8]>,
    pub(crate) rest: Box<[u8]>,
    /// False for a record that means another name, which is sent as it is.
    pub(crate) hints: bool,
}

impl Hinted {
    /// Takes data in wire form. `None`: no record means the name itself.
    pub(crate) fn new(kind: Kind, ttl: u32, data: &[Arc<[u8]>]) -> Option<Self> {
        if !matches!(kind, Kind::HTTPS | Kind::SVCB) {
            return None;
        }
        let records: Box<[HintedRecord]> = data.iter().map(|data| HintedRecord::new(data)).collect();
        records.iter().any(|record| record.hints).then_some(Self { kind, ttl, records })
    }
}

/// True when a record that steering gives hints to has some of its own.
pub(crate) fn has_own_hints(kind: Kind, data: &[u8]) -> bool {
    let hints = |(key, _): (u16, usize)| key == KEY_IPV4 || key == KEY_IPV6;
    matches!(kind, Kind::HTTPS | Kind::SVCB) && means_itself(data) && parameters(data).any(hints)
}

impl HintedRecord {
    fn new(data: &[u8]) -> Self {
        if !means_itself(data) {
            return Self { before_ipv4: data.into(), before_ipv6: [].into(), rest: [].into(), hints: false };
        }
        let from =
            |least: u16| parameters(data).find(|(key, _)| *key > least).map_or(data.len(), |(_, at)| at);
        let (ipv4, ipv6) = (from(KEY_IPV4), from(KEY_IPV6));
        let cut = |range: std::ops::Range<usize>| data.get(range).unwrap_or_default().into();
        Self {
            before_ipv4: cut(0..ipv4),
            before_ipv6: cut(ipv4..ipv6),
            rest: cut(ipv6..data.len()),
            hints: true,
        }
    }
}

/// A priority above zero (no alias), and the target `.` (RFC 9460 §2.5.2).
fn means_itself(data: &[u8]) -> bool {
    matches!(data, [high, low, 0, ..] if (*high, *low) != (0, 0))
}

/// Keys and where each begins, of a record with the target `.`.
fn parameters(data: &[u8]) -> impl Iterator<Item = (u16, usize)> {
    let mut at = 3;
    std::iter::from_fn(move || {
        let head = data.get(at..)?.first_chunk::<4>()?;
        let here = (u16::from_be_bytes([head[0], head[1]]), at);
        at += 4 + usize::from(u16::from_be_bytes([head[2], head[3]]));
        Some(here)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::Name;
    use crate::wire::parse_value;

    fn hinted(value: &str) -> Option<Hinted> {
        let data = parse_value(Kind::HTTPS, value, &Name::root()).unwrap();
        Hinted::new(Kind::HTTPS, 30, &[data.into()])
    }

    #[test]
    fn hints_stand_between_the_parameters() {
        let found = hinted("1 . alpn=h2 port=8443 ech=\"AEX+DQ==\" key65280=x").unwrap();
        let [record] = &*found.records else { panic!("one record") };
        assert_eq!(&record.before_ipv4[..], b"\x00\x01\x00\x00\x01\x00\x03\x02h2\x00\x03\x00\x02\x20\xfb");
        assert!(record.before_ipv6.starts_with(b"\x00\x05") && record.rest.starts_with(b"\xff\x00"));
        let bare = hinted("1 .").unwrap();
        assert_eq!(&bare.records[0].before_ipv4[..], b"\x00\x01\x00");
    }

    #[test]
    fn aliases_and_other_names_are_left_alone() {
        assert!(hinted("0 .").is_none());
        assert!(hinted("1 www.example.net. alpn=h2").is_none());
        let own = parse_value(Kind::HTTPS, "1 . ipv4hint=192.0.2.1", &Name::root()).unwrap();
        assert!(has_own_hints(Kind::HTTPS, &own) && !has_own_hints(Kind::TXT, &own));
        let other = parse_value(Kind::HTTPS, "1 x. ipv4hint=192.0.2.1", &Name::root()).unwrap();
        assert!(!has_own_hints(Kind::HTTPS, &other));
    }
}
