//! What happens to a packet on its way: pure.

use std::net::Ipv4Addr;
use std::time::Duration;

use rand::{Rng, RngExt};

/// One way between two hosts of one region, and of two.
const WITHIN: Duration = Duration::from_micros(500);
const BETWEEN: Duration = Duration::from_millis(40);

/// Hosts by their addresses, `10.REGION.KIND.NUMBER`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// One host.
    Host(Ipv4Addr),
    /// All hosts of a region but its users, who have ways of their own to the others.
    Site(u8),
}

impl Side {
    fn has(self, host: Ipv4Addr) -> bool {
        match self {
            Self::Host(one) => one == host,
            Self::Site(region) => region_of(host) == region && !is_user(host),
        }
    }
}

/// The state of the network.
#[derive(Debug, Clone, Default)]
pub(crate) struct Weather {
    /// What one side sends to the other does not arrive.
    pub cuts: Vec<(Side, Side)>,
    /// One way between two regions, either way; the usual between those that are not named.
    pub distances: Vec<(u8, u8, Duration)>,
    /// A site from which and to which nothing crosses.
    pub apart: Option<u8>,
    /// The share of packets between nodes that is lost.
    pub loss: f64,
    /// Packets between nodes are late by up to this.
    pub jitter: Duration,
}

impl Weather {
    /// Nothing between `ones` and `others` arrives, in either direction.
    pub(crate) fn halves(ones: &[Ipv4Addr], others: &[Ipv4Addr]) -> Self {
        let pairs = ones.iter().flat_map(|one| others.iter().map(move |other| (*one, *other)));
        let both = pairs.flat_map(|(one, other)| [(one, other), (other, one)]);
        Self { cuts: both.map(|(from, to)| (Side::Host(from), Side::Host(to))).collect(), ..Self::default() }
    }

    fn way(&self, from: u8, to: u8) -> Duration {
        let joins =
            |(one, other, _): &&(u8, u8, Duration)| [(*one, *other), (*other, *one)].contains(&(from, to));
        match self.distances.iter().find(joins) {
            _ if from == to => WITHIN,
            Some((.., way)) => *way,
            None => BETWEEN,
        }
    }

    /// How long a packet takes; `None`: it is lost.
    pub(crate) fn carries(&self, from: Ipv4Addr, to: Ipv4Addr, rng: &mut impl Rng) -> Option<Duration> {
        let crosses = |region: u8| Side::Site(region).has(from) != Side::Site(region).has(to);
        // A region's users are inside when it is cut off.
        let inside = |region: u8| region_of(from) == region && region_of(to) == region;
        if self.apart.is_some_and(|region| crosses(region) && !inside(region))
            || self.cuts.iter().any(|(one, other)| one.has(from) && other.has(to))
        {
            return None;
        }
        let way = self.way(region_of(from), region_of(to));
        if !is_node(from) || !is_node(to) {
            return Some(way);
        }
        if self.loss > 0.0 && rng.random_bool(self.loss) {
            return None;
        }
        Some(way + self.jitter.mul_f64(rng.random_range(0.0..=1.0)))
    }
}

fn region_of(host: Ipv4Addr) -> u8 {
    host.octets()[1]
}

fn is_node(host: Ipv4Addr) -> bool {
    host.octets()[2] == 0
}

fn is_user(host: Ipv4Addr) -> bool {
    host.octets()[2] == 1
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    const EU_1: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
    const EU_2: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
    const EU_USERS: Ipv4Addr = Ipv4Addr::new(10, 1, 1, 1);
    const US_1: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 1);
    const US_USERS: Ipv4Addr = Ipv4Addr::new(10, 2, 1, 1);

    fn carried(weather: &Weather, from: Ipv4Addr, to: Ipv4Addr) -> Option<Duration> {
        weather.carries(from, to, &mut SmallRng::seed_from_u64(1))
    }

    #[test]
    fn ways_are_longer_between_regions() {
        let fair = Weather::default();
        assert_eq!(carried(&fair, EU_1, EU_2), Some(WITHIN));
        assert_eq!(carried(&fair, EU_1, US_1), Some(BETWEEN));
    }

    #[test]
    fn regions_may_be_nearer_and_farther_both_ways_alike() {
        let near = Duration::from_millis(10);
        let uneven = Weather { distances: vec![(1, 2, near)], ..Weather::default() };
        for (from, to) in [(EU_1, US_1), (US_1, EU_1), (EU_USERS, US_1), (US_USERS, EU_1)] {
            assert_eq!(carried(&uneven, from, to), Some(near), "{from} {to}");
        }
        assert_eq!(carried(&uneven, EU_1, Ipv4Addr::new(10, 3, 0, 1)), Some(BETWEEN));
        assert_eq!(carried(&uneven, EU_1, EU_2), Some(WITHIN));
    }

    #[test]
    fn a_region_apart_keeps_its_users_and_loses_the_others() {
        let apart = Weather { apart: Some(1), ..Weather::default() };
        for (from, to) in [(EU_1, US_1), (US_1, EU_2), (US_USERS, EU_1), (EU_1, US_USERS)] {
            assert_eq!(carried(&apart, from, to), None, "{from} {to}");
        }
        for (from, to) in
            [(EU_1, EU_2), (EU_USERS, EU_1), (EU_1, EU_USERS), (EU_USERS, US_1), (US_USERS, US_1)]
        {
            assert!(carried(&apart, from, to).is_some(), "{from} {to}");
        }
    }

    #[test]
    fn cuts_have_a_direction() {
        let cut = Weather { cuts: vec![(Side::Site(1), Side::Host(US_1))], ..Weather::default() };
        assert_eq!(carried(&cut, EU_1, US_1), None);
        assert!(carried(&cut, US_1, EU_1).is_some());
        let halves = Weather::halves(&[EU_1], &[EU_2, US_1]);
        assert_eq!((carried(&halves, US_1, EU_1), carried(&halves, EU_1, US_1)), (None, None));
        assert!(carried(&halves, EU_2, US_1).is_some());
    }

    #[test]
    fn storms_are_between_nodes() {
        let storm = Weather { loss: 1.0, jitter: BETWEEN, ..Weather::default() };
        assert_eq!(carried(&storm, EU_1, EU_2), None);
        assert_eq!(carried(&storm, EU_USERS, EU_1), Some(WITHIN));
        let late = Weather { loss: 0.0, ..storm };
        assert!((WITHIN..=WITHIN + BETWEEN).contains(&carried(&late, EU_1, EU_2).unwrap()));
    }
}
