//! What becomes of a packet on its way. Pure.
//!
//! Addresses are `10.N.REGION.HOST`, so the region is read off them.

use std::net::Ipv4Addr;
use std::time::Duration;

use rand::{Rng, RngExt};

/// One way inside a region.
const NEAR: Duration = Duration::from_micros(500);
/// One way between regions: 80 ms there and back.
const FAR: Duration = Duration::from_millis(40);

/// Who is at an end of a cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Side {
    /// All of a region: nodes, backends, users.
    Region(u8),
    /// These addresses.
    Hosts(Vec<Ipv4Addr>),
}

impl Side {
    fn holds(&self, address: Ipv4Addr) -> bool {
        match self {
            Self::Region(region) => address.octets()[2] == *region,
            Self::Hosts(hosts) => hosts.contains(&address),
        }
    }
}

/// The state of all wires.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Weather {
    /// The share of packets that is lost, anywhere.
    pub loss: f64,
    /// Up to so much more delay, different for each packet, so that packets overtake each other.
    pub jitter: Duration,
    /// Nothing passes from the first to the second.
    pub cuts: Vec<(Side, Side)>,
}

impl Weather {
    /// Nothing passes between two sides.
    #[must_use]
    pub fn cut(mut self, a: Side, b: Side) -> Self {
        self.cuts.push((a.clone(), b.clone()));
        self.cuts.push((b, a));
        self
    }

    /// How long a packet is under way; `None`: it is lost.
    pub fn fate(&self, from: Ipv4Addr, to: Ipv4Addr, rng: &mut impl Rng) -> Option<Duration> {
        if self.cuts.iter().any(|(a, b)| a.holds(from) && b.holds(to)) {
            return None;
        }
        if self.loss > 0.0 && rng.random_bool(self.loss.min(1.0)) {
            return None;
        }
        let way = if from.octets()[2] == to.octets()[2] { NEAR } else { FAR };
        Some(way + self.jitter.mul_f64(rng.random_range(0.0..=1.0)))
    }
}

/// From where to where a packet goes; `None` when it is no IPv4.
pub fn addresses(packet: &[u8]) -> Option<(Ipv4Addr, Ipv4Addr)> {
    let head = packet.first_chunk::<20>().filter(|head| head[0] >> 4 == 4)?;
    let address = |at: usize| Ipv4Addr::new(head[at], head[at + 1], head[at + 2], head[at + 3]);
    Some((address(12), address(16)))
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    fn at(region: u8, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, region, host)
    }

    #[test]
    fn fair_weather_delays_by_region() {
        let mut rng = StdRng::seed_from_u64(1);
        let fair = Weather::default();
        assert_eq!(fair.fate(at(1, 1), at(1, 2), &mut rng), Some(NEAR));
        assert_eq!(fair.fate(at(1, 1), at(2, 1), &mut rng), Some(FAR));
    }

    #[test]
    fn cuts_are_of_one_way_or_both_and_losses_are_a_share() {
        let mut rng = StdRng::seed_from_u64(1);
        let cut = Weather::default().cut(Side::Region(1), Side::Region(2));
        let mut passes = |weather: &Weather, from, to| weather.fate(from, to, &mut rng).is_some();
        assert!(!passes(&cut, at(1, 1), at(2, 1)) && !passes(&cut, at(2, 1), at(1, 1)));
        assert!(passes(&cut, at(1, 1), at(3, 1)));
        let hosts = |host| Side::Hosts(vec![at(1, host)]);
        let one_way = Weather { cuts: vec![(hosts(1), hosts(2))], ..Weather::default() };
        assert!(!passes(&one_way, at(1, 1), at(1, 2)) && passes(&one_way, at(1, 2), at(1, 1)));
        let lossy = Weather { loss: 0.3, ..Weather::default() };
        let passed = (0..10_000).filter(|_| passes(&lossy, at(1, 1), at(1, 2))).count();
        assert!((6_700..7_300).contains(&passed), "{passed}");
    }

    #[test]
    fn only_ipv4_has_addresses() {
        let mut packet = [0; 20];
        assert_eq!(addresses(&packet), None);
        packet[0] = 0x45;
        packet[12..20].copy_from_slice(&[10, 77, 1, 2, 10, 77, 3, 4]);
        assert_eq!(addresses(&packet), Some((at(1, 2), at(3, 4))));
        assert_eq!(addresses(&packet[..19]), None);
    }
}
