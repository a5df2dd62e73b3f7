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
//! A look-up is a binary search; the scope of the answer (RFC 7871 §7.2.1) is the largest block around the address
//! that lies in its segment.

use std::net::IpAddr;

use ipnet::IpNet;

/// The prefixes of all regions.
#[derive(Debug, Clone)]
pub(crate) struct PrefixMap {
    v4: Vec<Segment>,
    v6: Vec<Segment>,
}

/// From `start` to the next segment's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Segment {
    start: u128,
    region: Option<usize>,
}

/// What [`PrefixMap::find`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Match {
    /// The region's index.
    pub(crate) region: Option<usize>,
    /// The length of the shortest prefix around the address in which every address has this match.
    pub(crate) scope: u8,
}

impl PrefixMap {
    /// Takes `(prefix, region index)`; no prefix comes twice.
    pub(crate) fn new(prefixes: &[(IpNet, usize)]) -> Self {
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
        Self { v4: family(true), v6: family(false) }
    }

    /// Looks up an address.
    pub(crate) fn find(&self, address: IpAddr) -> Match {
        let segments = if address.is_ipv4() { &self.v4 } else { &self.v6 };
        let at = align(address);
        let next = segments.partition_point(|segment| segment.start <= at);
        let Some(segment) = next.checked_sub(1).and_then(|index| segments.get(index)) else {
            return Match { region: None, scope: 0 };
        };
        // A block excludes a neighbour when it is longer than what the two addresses have in common.
        let excluding = |neighbour: u128| (at ^ neighbour).leading_zeros() as u8 + 1;
        let below = segment.start.checked_sub(1).map_or(0, excluding);
        let above = segments.get(next).map_or(0, |segment| excluding(segment.start));
        Match { region: segment.region, scope: below.max(above) }
    }
}

struct Span {
    start: u128,
    end: u128,
    region: usize,
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
    spans.sort_by_key(|span| (span.start, std::cmp::Reverse(span.end)));
    let mut segments = vec![Segment { start: 0, region: None }];
    let mut open: Vec<Span> = Vec::new();
    let mut begin = |start: u128, region: Option<usize>| {
        if segments.last().is_some_and(|last| last.start == start) {
            segments.pop();
        }
        segments.push(Segment { start, region });
    };
    let close_before =
        |open: &mut Vec<Span>, limit: Option<u128>, begin: &mut dyn FnMut(u128, Option<usize>)| {
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

    fn map(prefixes: &[(&str, usize)]) -> PrefixMap {
        let parsed: Vec<_> = prefixes.iter().map(|(net, region)| (net.parse().unwrap(), *region)).collect();
        PrefixMap::new(&parsed)
    }

    fn find(map: &PrefixMap, address: &str) -> (Option<usize>, u8) {
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

    proptest! {
        #[test]
        fn agrees_with_the_definition(
            raw in prop::collection::btree_map((any::<u8>(), 0u8..=8), 0usize..3, 0..12),
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
