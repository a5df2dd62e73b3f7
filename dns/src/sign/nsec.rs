//! What is not there, said at the name that was asked for (RFC 9824, RFC 4034 §4).

use crate::name::{Folded, MAX_LABEL_BYTES, MAX_NAME_BYTES, suffixes};
use crate::zone::Kind;

/// What is denied at a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deny<'a> {
    /// The name itself.
    Name,
    /// Data at a name.
    Data {
        /// The type that was asked for.
        asked: Kind,
        /// Another one that is not there for the moment.
        absent: Option<Kind>,
        /// The types of the name, but for these two.
        there: &'a [Kind],
    },
    /// That a delegation with these types is signed.
    Delegation(&'a [Kind]),
}

/// The types that NSEC says of a name with these records, in order. A steered name has addresses of either family, but what
/// the mesh lacks at the moment; of a delegation only what the parent is asked for counts.
pub(crate) fn types_at(sets: impl Iterator<Item = Kind>, steered: bool, delegates: bool) -> Box<[Kind]> {
    let own = |kind: &Kind| !delegates || matches!(*kind, Kind::NS | Kind::DS);
    let steered = [Kind::A, Kind::AAAA].into_iter().filter(|_| steered);
    let mut types: Vec<Kind> = sets.filter(own).chain(steered).chain([Kind::RRSIG, Kind::NSEC]).collect();
    types.sort_unstable();
    types.dedup();
    types.into()
}

impl Deny<'_> {
    /// Writes the types that are there (RFC 4034 §4.1.2).
    pub(crate) fn bitmap(&self, out: &mut Vec<u8>) {
        out.clear();
        match self {
            Self::Name => push_types([Kind::RRSIG, Kind::NSEC, Kind::NXNAME].into_iter(), out),
            Self::Data { asked, absent, there } => {
                let denied = |kind: &Kind| kind == asked || Some(*kind) == *absent;
                push_types(there.iter().copied().filter(|kind| !denied(kind)), out);
            }
            Self::Delegation(there) => push_types(there.iter().copied(), out),
        }
    }

    /// The next name behind a folded one: the very next, or at a delegation the first that does not lie below it.
    pub(crate) fn next(&self, name: &[u8]) -> Folded {
        let below = matches!(self, Self::Name | Self::Data { .. });
        if below && name.len() + 2 <= MAX_NAME_BYTES {
            let mut next = [0; MAX_NAME_BYTES];
            next[0] = 1;
            next[2..2 + name.len()].copy_from_slice(name);
            return Folded::new(&next[..2 + name.len()]);
        }
        beside(name)
    }
}

/// Types in order, as blocks of up to 32 bytes for 256 types each.
fn push_types(types: impl Iterator<Item = Kind>, out: &mut Vec<u8>) {
    // Where the length of the present block stands.
    let mut block: Option<(u8, usize)> = None;
    for Kind(kind) in types {
        let (window, bit) = ((kind >> 8) as u8, usize::from(kind & 0xff));
        let at = match block {
            Some((present, at)) if present == window => at,
            _ => {
                out.extend_from_slice(&[window, 0]);
                block = Some((window, out.len() - 1));
                out.len() - 1
            }
        };
        let bytes = bit / 8 + 1;
        out.resize(at + 1 + bytes, 0);
        out[at] = bytes as u8;
        out[at + bytes] |= 0x80 >> (bit % 8);
    }
}

/// The first name behind all that lie below this one, in canonical order (RFC 4034 §6.1, RFC 4471 §3.1). Behind the last
/// name that can be comes the root.
fn beside(name: &[u8]) -> Folded {
    for here in suffixes(name) {
        let Some((&length, rest)) = here.split_first() else { break };
        let length = usize::from(length);
        let Some((label, parent)) = rest.split_at_checked(length) else { break };
        if length == 0 {
            break;
        }
        let mut next = [0; MAX_NAME_BYTES];
        next[1..=length].copy_from_slice(label);
        let kept = if length < MAX_LABEL_BYTES && here.len() < MAX_NAME_BYTES {
            length + 1
        } else {
            let Some(last) = label.iter().rposition(|byte| *byte != 0xff) else { continue };
            // Upper case does not exist in canonical order.
            next[1 + last] = if label[last] == b'@' { b'[' } else { label[last] + 1 };
            last + 1
        };
        next[0] = kept as u8;
        next[1 + kept..1 + kept + parent.len()].copy_from_slice(parent);
        return Folded::new(&next[..1 + kept + parent.len()]);
    }
    Folded::new(&[0])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::name::Name;

    fn name(text: &str) -> Vec<u8> {
        Name::parse_absolute(text).unwrap().folded()
    }

    fn bitmap(deny: Deny<'_>) -> Vec<u8> {
        let mut out = vec![9];
        deny.bitmap(&mut out);
        out
    }

    fn data(asked: Kind, absent: Option<Kind>, there: &[Kind]) -> Deny<'_> {
        Deny::Data { asked, absent, there }
    }

    #[test]
    fn bitmaps_are_those_of_the_standard() {
        // RFC 4034 §4.3: A MX RRSIG NSEC TYPE1234.
        let there = types_at([Kind(1234), Kind::MX, Kind::A].into_iter(), false, false);
        let wanted =
            [[0x00, 0x06, 0x40, 0x01, 0x00, 0x00, 0x00, 0x03, 0x04, 0x1b].as_slice(), &[0; 26], &[0x20]]
                .concat();
        assert_eq!(bitmap(data(Kind::TXT, None, &there)), wanted);
        assert_eq!(bitmap(Deny::Name), [[0, 17].as_slice(), &[0; 5], &[3], &[0; 10], &[0x80]].concat());
    }

    #[test]
    fn what_is_denied_is_left_out() {
        let there = types_at([Kind::TXT, Kind::HTTPS].into_iter(), true, false);
        assert_eq!(&*there, [Kind::A, Kind::TXT, Kind::AAAA, Kind::RRSIG, Kind::NSEC, Kind::HTTPS]);
        let (with, without) =
            (bitmap(data(Kind::MX, None, &there)), bitmap(data(Kind::AAAA, Some(Kind::AAAA), &there)));
        assert_eq!(bitmap(data(Kind::MX, Some(Kind::AAAA), &there)), without);
        assert_eq!(with[5] & 0x08, 0x08);
        assert_eq!(without[5] & 0x08, 0);
        let cut = types_at([Kind::NS, Kind::A, Kind::DS].into_iter(), false, true);
        assert_eq!(&*cut, [Kind::NS, Kind::DS, Kind::RRSIG, Kind::NSEC]);
    }

    #[test]
    fn the_next_name_is_the_very_next() {
        let next = |deny: Deny<'_>, text: &str| Name::from_wire(deny.next(&name(text)).as_slice()).unwrap();
        assert_eq!(next(Deny::Name, "A.example").to_string(), r"\000.a.example.");
        assert_eq!(next(Deny::Delegation(&[]), "sub.example").to_string(), r"sub\000.example.");
    }

    /// RFC 4034 §6.1: label by label from the right, as bytes.
    fn order(wire: &[u8]) -> Vec<Vec<u8>> {
        let mut labels: Vec<_> = Name::from_wire(wire).unwrap().labels().map(<[u8]>::to_vec).collect();
        labels.reverse();
        labels
    }

    proptest! {
        #[test]
        fn the_next_name_comes_behind_and_is_a_name(
            labels in prop::collection::vec((1usize..=63, prop::sample::select(vec![0u8, b'@', b'z', 0xfe, 0xff])), 1..9),
        ) {
            let labels: Vec<Vec<u8>> = labels.into_iter().map(|(length, byte)| vec![byte; length]).collect();
            let Ok(name) = Name::from_labels(labels.iter().map(Vec::as_slice)) else { return Ok(()) };
            let name = name.folded();
            for deny in [Deny::Name, Deny::Delegation(&[])] {
                let next = deny.next(&name);
                prop_assert!(Name::from_wire(next.as_slice()).is_some());
                prop_assert_eq!(next.as_slice(), &next.as_slice().to_ascii_lowercase()[..]);
                // The last name of all is followed by the first.
                prop_assert!(next.as_slice() == [0] || order(next.as_slice()) > order(&name));
                if deny != Deny::Name && next.as_slice() != [0] {
                    prop_assert!(!next.as_slice().ends_with(&name), "not below");
                }
            }
        }
    }
}
