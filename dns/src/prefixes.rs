//! Longest-prefix match over the regions' prefixes, and how far around an address the match holds.
//!
//! The prefixes are flattened into segments of the address line, each of which belongs to one region or none:
//!
//! ```text
//!   10.0.0.0/8 → eu     ├──────────────────────────────┤
//!   10.1.0.0/16 → us            ├──────┤
//!   segments       none │  eu   │  us  │      eu      │ none
//! ```
//!
//! An index by the first 16 bits leads to the few segments that begin there, and a binary search to the one; the starts
//! lie packed, so that half a million prefixes cost three cache lines a look-up. The scope of the answer (RFC 7871
//! §7.2.1) is the largest block around the address that lies in its segment.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::steer::RegionId;

/// No region.
const NONE: RegionId = RegionId::MAX;
/// Below this many segments the search is as quick without an index.
const INDEX_FROM: usize = 64;
const INDEX_BITS: u32 = 16;

/// The prefixes of all regions.
#[derive(Debug, Clone)]
pub(crate) struct PrefixMap {
    v4: Line<u32>,
    v6: Line<u128>,
}

/// The addresses of one family, cut into segments. Each reaches to the next one's start; the first starts at zero.
#[derive(Debug, Clone)]
struct Line<A> {
    starts: Box<[A]>,
    /// Beside each start: the region, or [`NONE`].
    regions: Box<[RegionId]>,
    /// By the first bits of an address: how many segments start below them. One more at the end; empty for few segments.
    index: Box<[u32]>,
}

/// What [`PrefixMap::find`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Match {
    /// The region's number.
    pub(crate) region: Option<RegionId>,
    /// The length of the shortest prefix around the address in which every address has this match.
    pub(crate) scope: u8,
}

/// An address as a number.
trait Address: Copy + Ord {
    fn first_bits(self) -> usize;
    /// How many bits two addresses have in common.
    fn common(self, other: Self) -> u32;
    /// The address before it.
    fn before(self) -> Option<Self>;
    /// Of a left-aligned number, which has 128 bits for both families.
    fn of(aligned: u128) -> Self;
}

impl Address for u32 {
    fn first_bits(self) -> usize {
        (self >> (Self::BITS - INDEX_BITS)) as usize
    }
    fn common(self, other: Self) -> u32 {
        (self ^ other).leading_zeros()
    }
    fn before(self) -> Option<Self> {
        self.checked_sub(1)
    }
    fn of(aligned: u128) -> Self {
        (aligned >> 96) as Self
    }
}

impl Address for u128 {
    fn first_bits(self) -> usize {
        (self >> (Self::BITS - INDEX_BITS)) as usize
    }
    fn common(self, other: Self) -> u32 {
        (self ^ other).leading_zeros()
    }
    fn before(self) -> Option<Self> {
        self.checked_sub(1)
    }
    fn of(aligned: u128) -> Self {
        aligned
    }
}

impl PrefixMap {
    /// Takes prefixes and their regions; no prefix comes twice.
    pub(crate) fn new(prefixes: &[(IpNet, RegionId)]) -> Self {
        let family = |v4: bool| {
            let spans = prefixes.iter().filter(|(net, _)| net.addr().is_ipv4() == v4).map(|(net, region)| {
                let start = align(net.network());
                Span {
                    start,
                    end: start | u128::MAX.checked_shr(net.prefix_len().into()).unwrap_or(0),
                    region: *region,
                }
            });
            flatten(spans.collect())
        };
        Self { v4: Line::new(&family(true)), v6: Line::new(&family(false)) }
    }

    /// Looks up an address.
    pub(crate) fn find(&self, address: IpAddr) -> Match {
        match address {
            IpAddr::V4(address) => self.v4.find(address.to_bits()),
            IpAddr::V6(address) => self.v6.find(address.to_bits()),
        }
    }
}

impl<A: Address> Line<A> {
    fn new(segments: &[Segment]) -> Self {
        let starts: Box<[A]> = segments.iter().map(|segment| A::of(segment.start)).collect();
        let mut index = Vec::new();
        if segments.len() >= INDEX_FROM {
            index.reserve_exact((1 << INDEX_BITS) + 1);
            for bits in 0..1usize << INDEX_BITS {
                let before = index.last().map_or(0, |before| *before as usize);
                let more = starts[before..].iter().take_while(|start| start.first_bits() < bits).count();
                index.push((before + more) as u32);
            }
            index.push(starts.len() as u32);
        }
        let regions = segments.iter().map(|segment| segment.region.unwrap_or(NONE)).collect();
        Self { starts, regions, index: index.into() }
    }

    fn find(&self, at: A) -> Match {
        let bits = at.first_bits();
        let (from, to) = match self.index.get(bits..bits + 2) {
            Some(ends) => (ends[0] as usize, ends[1] as usize),
            None => (0, self.starts.len()),
        };
        // The one before `from` may be it, when nothing starts between.
        let next = from + self.starts[from..to].partition_point(|start| *start <= at);
        let here = next.saturating_sub(1);
        // A block excludes a neighbour when it is longer than what the two addresses have in common.
        let excluding = |neighbour: A| at.common(neighbour) as u8 + 1;
        let below = self.starts.get(here).and_then(|start| start.before()).map_or(0, excluding);
        let above = self.starts.get(next).map_or(0, |start| excluding(*start));
        let region = self.regions.get(here).copied().filter(|region| *region != NONE);
        Match { region, scope: below.max(above) }
    }
}

/// From `start` to the next segment's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Segment {
    start: u128,
    region: Option<RegionId>,
}

struct Span {
    start: u128,
    end: u128,
    region: RegionId,
}

/// Left-aligned, so that both families have one arithmetic.
fn align(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn flatten(mut spans: Vec<Span>) -> Vec<Segment> {
    // Prefixes nest or are apart; an outer one comes before those in it.
    spans.sort_unstable_by_key(|span| (span.start, std::cmp::Reverse(span.end)));
    let mut segments = vec![Segment { start: 0, region: None }];
    let mut open: Vec<Span> = Vec::new();
    let mut begin = |start: u128, region: Option<RegionId>| {
        if segments.last().is_some_and(|last| last.start == start) {
            segments.pop();
        }
        segments.push(Segment { start, region });
    };
    let close_before =
        |open: &mut Vec<Span>, limit: Option<u128>, begin: &mut dyn FnMut(u128, Option<RegionId>)| {
            while let Some(closed) = open.pop_if(|span| limit.is_none_or(|limit| span.end < limit)) {
                if let Some(after) = closed.end.checked_add(1) {
                    begin(after, open.last().map(|span| span.region));
                }
            }
        };
    for span in spans {
        close_before(&mut open, Some(span.start), &mut begin);
        begin(span.start, Some(span.region));
        open.push(span);
    }
    close_before(&mut open, None, &mut begin);
    segments.dedup_by_key(|segment| segment.region);
    segments
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    fn map(prefixes: &[(&str, RegionId)]) -> PrefixMap {
        let parsed: Vec<_> = prefixes.iter().map(|(net, region)| (net.parse().unwrap(), *region)).collect();
        PrefixMap::new(&parsed)
    }

    fn find(map: &PrefixMap, address: &str) -> (Option<RegionId>, u8) {
        let found = map.find(address.parse().unwrap());
        (found.region, found.scope)
    }

    #[test]
    fn the_longest_prefix_wins_and_the_scope_stops_at_its_borders() {
        let map = map(&[("10.0.0.0/8", 0), ("10.1.0.0/16", 1), ("2001:db8::/32", 1), ("0.0.0.0/0", 2)]);
        assert_eq!(find(&map, "10.1.2.3"), (Some(1), 16));
        // 10.128.0.0/9 is all eu; 10.2.0.0/15 is what lies beside 10.0.0.0/15.
        assert_eq!(find(&map, "10.200.0.1"), (Some(0), 9));
        assert_eq!(find(&map, "10.2.0.1"), (Some(0), 15));
        assert_eq!(find(&map, "192.0.2.1"), (Some(2), 1));
        assert_eq!(find(&map, "2001:db8::1"), (Some(1), 32));
        assert_eq!(find(&map, "2001:db9::1"), (None, 32));
        assert_eq!(find(&map, "::1"), (None, 3));
        assert_eq!(find(&map, "255.255.255.255"), (Some(2), 1));
    }

    #[test]
    fn without_prefixes_everything_is_alike() {
        assert_eq!(find(&map(&[]), "10.0.0.1"), (None, 0));
        assert_eq!(find(&map(&[("::/0", 3)]), "::"), (Some(3), 0));
    }

    #[test]
    fn many_prefixes_are_found_through_the_index() {
        // Every second /20 of a /8, and one in each of them; the same places in IPv6.
        let mut prefixes = Vec::new();
        for number in 0..2048u32 {
            let block = 10 << 24 | number << 13;
            let nets = [(block, 20), (block | 0x0100, 24)].map(|(bits, length)| {
                let v4 = IpNet::new(Ipv4Addr::from(bits).into(), length).unwrap();
                let v6 = u128::from(0x2000_0000 | bits) << 96;
                [v4, IpNet::new(std::net::Ipv6Addr::from(v6).into(), length).unwrap()]
            });
            let region = (number % 100) as RegionId;
            prefixes.extend(nets[0].map(|net| (net, region)));
            prefixes.extend(nets[1].map(|net| (net, region + 100)));
        }
        let many = PrefixMap::new(&prefixes);
        assert!(!many.v4.index.is_empty() && !many.v6.index.is_empty());
        for probe in (0..1u32 << 24).step_by(251) {
            let bits = 10 << 24 | probe;
            let region = (probe >> 13) % 100;
            let expected = match probe & 0x1fff {
                0x0100..0x0200 => Some(region + 100),
                0..0x1000 => Some(region),
                _ => None,
            };
            let scope = match probe & 0x1fff {
                0..0x0200 => 24,
                0x0200..0x0400 => 23,
                0x0400..0x0800 => 22,
                0x0800..0x1000 => 21,
                _ => 20,
            };
            let expected = Match { region: expected.map(|region| region as RegionId), scope };
            assert_eq!(many.find(Ipv4Addr::from(bits).into()), expected, "{bits:x}");
            let v6 = std::net::Ipv6Addr::from(u128::from(0x2000_0000 | bits) << 96 | 7);
            assert_eq!(many.find(v6.into()), expected, "{bits:x}");
        }
        for outside in ["0.0.0.0", "9.255.255.255", "11.0.0.0", "255.255.255.255", "::", "ffff::"] {
            assert_eq!(many.find(outside.parse().unwrap()).region, None, "{outside}");
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition(
            raw in prop::collection::btree_map((any::<u8>(), 0u8..=8), 0u16..3, 0..12),
            probe in any::<u8>(),
        ) {
            // A line of 256 addresses in the last byte's place of 10.0.0.0/24, small enough to try them all.
            let mut prefixes = std::collections::BTreeMap::new();
            for ((byte, length), region) in raw {
                let net = IpNet::new(Ipv4Addr::new(10, 0, 0, byte).into(), 24 + length).unwrap().trunc();
                prefixes.insert(net, region);
            }
            let list: Vec<_> = prefixes.into_iter().collect();
            let map = PrefixMap::new(&list);
            let by_definition = |address: IpAddr| {
                list.iter().filter(|(net, _)| net.contains(&address)).max_by_key(|(net, _)| net.prefix_len()).map(|(_, region)| *region)
            };
            let at = |byte: u8| IpAddr::from(Ipv4Addr::new(10, 0, 0, byte));
            let found = map.find(at(probe));
            prop_assert_eq!(found.region, by_definition(at(probe)));
            let block = IpNet::new(at(probe), found.scope).unwrap().trunc();
            for byte in 0..=255 {
                if block.contains(&at(byte)) {
                    prop_assert_eq!(by_definition(at(byte)), found.region);
                }
            }
            // And it is the shortest such prefix.
            if found.scope > 24 {
                let wider = IpNet::new(at(probe), found.scope - 1).unwrap().trunc();
                prop_assert!((0..=255).any(|byte| wider.contains(&at(byte)) && by_definition(at(byte)) != found.region));
            }
        }
    }
}
