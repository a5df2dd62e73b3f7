//! A set of networks that answers "is this address in it" in the time of one binary search, however long the list.
//!
//! The list is compiled once, when the configuration is read: overlapping and adjacent networks become ranges in order,
//! the beginnings and the ends in arrays of their own.
use std::net::IpAddr;

use ipnet::IpNet;

/// An immutable set of networks. An address of one family is never in a network of the other; an IPv4 address inside IPv6
/// must be made plain before.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PrefixSet {
    v4: Ranges<u32>,
    v6: Ranges<u128>,
}

impl PrefixSet {
    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.v4.first.is_empty() && self.v6.first.is_empty()
    }

    /// Whether one of the networks holds the address.
    pub fn contains(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.v4.contains(address.to_bits()),
            IpAddr::V6(address) => self.v6.contains(address.to_bits()),
        }
    }
}

impl PrefixSet {
    /// This set and one more.
    pub fn union(&self, other: &Self) -> Self {
        Self {
            v4: self.v4.union(&other.v4, |end| end.checked_add(1)),
            v6: self.v6.union(&other.v6, |end| end.checked_add(1)),
        }
    }
}

impl FromIterator<IpNet> for PrefixSet {
    fn from_iter<I: IntoIterator<Item = IpNet>>(networks: I) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for network in networks {
            match network {
                IpNet::V4(network) => v4.push((network.network().to_bits(), network.broadcast().to_bits())),
                IpNet::V6(network) => v6.push((network.network().to_bits(), network.broadcast().to_bits())),
            }
        }
        Self { v4: Ranges::new(v4, |end| end.checked_add(1)), v6: Ranges::new(v6, |end| end.checked_add(1)) }
    }
}

/// Disjoint ranges in order, both ends included.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Ranges<T> {
    first: Box<[T]>,
    last: Box<[T]>,
}

impl<T: Copy + Ord> Ranges<T> {
    /// Sorts and merges; `next` is the address after another.
    fn new(mut ranges: Vec<(T, T)>, next: impl Fn(T) -> Option<T>) -> Self {
        ranges.sort_unstable();
        let mut merged: Vec<(T, T)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match merged.last_mut() {
                Some(open) if next(open.1).is_none_or(|next| first <= next) => open.1 = open.1.max(last),
                _ => merged.push((first, last)),
            }
        }
        let (first, last): (Vec<T>, Vec<T>) = merged.into_iter().unzip();
        Self { first: first.into(), last: last.into() }
    }

    fn union(&self, other: &Self, next: impl Fn(T) -> Option<T>) -> Self {
        let pairs = |of: &Self| of.first.iter().copied().zip(of.last.iter().copied()).collect::<Vec<_>>();
        Self::new([pairs(self), pairs(other)].concat(), next)
    }

    fn contains(&self, address: T) -> bool {
        let after = self.first.partition_point(|first| *first <= address);
        after.checked_sub(1).is_some_and(|at| address <= self.last[at])
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use ipnet::{Ipv4Net, Ipv6Net};
    use proptest::prelude::*;

    use super::*;

    /// Few bits differ, so that networks and addresses meet often.
    fn v4() -> impl Strategy<Value = Ipv4Addr> {
        (any::<u8>(), any::<u8>(), prop::bool::ANY).prop_map(|(high, low, top)| {
            let ends = if top { [255, 255] } else { [10, 0] };
            Ipv4Addr::new(ends[0], ends[1], high & 0x83, low)
        })
    }

    fn v6() -> impl Strategy<Value = Ipv6Addr> {
        (any::<u16>(), prop::bool::ANY).prop_map(|(low, top)| {
            let high = if top { 0xffff } else { 0x2001 };
            Ipv6Addr::new(high, high, high, high, high, high, high, low & 0x83ff)
        })
    }

    fn network() -> impl Strategy<Value = IpNet> {
        prop_oneof![
            (v4(), 16u8..=32).prop_map(|(at, bits)| Ipv4Net::new(at, bits).unwrap().into()),
            (v6(), 100u8..=128).prop_map(|(at, bits)| Ipv6Net::new(at, bits).unwrap().into()),
            any::<(u32, u8)>().prop_map(|(at, bits)| Ipv4Net::new(at.into(), bits % 33).unwrap().into()),
            any::<(u128, u8)>().prop_map(|(at, bits)| Ipv6Net::new(at.into(), bits % 129).unwrap().into()),
        ]
    }

    fn address() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            v4().prop_map(IpAddr::V4),
            v6().prop_map(IpAddr::V6),
            any::<IpAddr>(),
            Just([255, 255, 255, 255].into()),
            Just([0, 0, 0, 0].into()),
        ]
    }

    proptest! {
        #[test]
        fn it_holds_what_one_of_its_networks_holds(
            networks in prop::collection::vec(network(), 0..40),
            addresses in prop::collection::vec(address(), 1..40),
        ) {
            let set: PrefixSet = networks.iter().copied().collect();
            prop_assert_eq!(set.is_empty(), networks.is_empty());
            let ends = networks.iter().flat_map(|network| [network.network(), network.broadcast()]);
            for address in addresses.into_iter().chain(ends) {
                let naive = networks.iter().any(|network| network.contains(&address));
                prop_assert_eq!(set.contains(address), naive, "{}", address);
            }
        }

        #[test]
        fn a_union_is_what_both_lists_together_are(
            one in prop::collection::vec(network(), 0..20), other in prop::collection::vec(network(), 0..20),
        ) {
            let set = |networks: &[IpNet]| networks.iter().copied().collect::<PrefixSet>();
            let both = [one.clone(), other.clone()].concat();
            prop_assert_eq!(set(&one).union(&set(&other)), set(&both));
        }

        #[test]
        fn neither_order_nor_repetition_matters(networks in prop::collection::vec(network(), 0..20)) {
            let set: PrefixSet = networks.iter().copied().collect();
            let other: PrefixSet = networks.iter().rev().chain(&networks).copied().collect();
            prop_assert_eq!(set, other);
        }
    }

    #[test]
    fn a_hundred_thousand_networks_take_seventeen_steps() {
        let networks =
            (0..100_000u32).map(|n| IpNet::from(Ipv4Net::new(Ipv4Addr::from(n << 12), 24).unwrap()));
        let set: PrefixSet = networks.collect();
        assert_eq!(set.v4.first.len(), 100_000);
        assert!(set.contains(Ipv4Addr::from(77_777u32 << 12 | 200).into()));
        assert!(!set.contains(Ipv4Addr::from(77_777u32 << 12 | 0x100).into()));
        let everything: PrefixSet =
            ["0.0.0.0/0", "10.0.0.0/8"].map(|net| net.parse().unwrap()).into_iter().collect();
        assert_eq!(everything.v4.first.len(), 1);
    }
}
