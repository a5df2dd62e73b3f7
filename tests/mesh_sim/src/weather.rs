//! How payloads fare between nodes at `10.REGION.0.NUMBER`. Pure.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use gossip::simulated::Way;

/// One way within a region.
const WITHIN: Duration = Duration::from_micros(500);
/// One way between two regions: the least, and what the pair adds at most.
const BETWEEN: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(80));
/// Packets are late by up to such a share of their way.
const JITTER: f64 = 0.1;
/// Ways between regions become longer and shorter by up to such a share, ...
const WOBBLE: f64 = 0.4;
/// ... each time that so long has passed.
const WOBBLES_EVERY: Duration = Duration::from_secs(60);

/// The state of the network.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Weather {
    /// The share of packets that is lost.
    pub(crate) loss: f64,
    /// Regions below this do not reach the others.
    pub(crate) cut: Option<u8>,
}

impl Weather {
    /// How payloads fare, `age` after the beginning.
    pub(crate) fn way(&self, from: SocketAddr, to: SocketAddr, age: Duration) -> Way {
        let (from, to) = (region_of(from), region_of(to));
        let open = self.cut.is_none_or(|cut| (from < cut) == (to < cut));
        let delay = if from == to { WITHIN } else { between(from, to, age) };
        Way { open, delay, jitter: delay.mul_f64(JITTER), loss: self.loss }
    }
}

/// The region in an address.
pub(crate) fn region_of(addr: SocketAddr) -> u8 {
    match addr.ip() {
        IpAddr::V4(ip) => ip.octets()[1],
        IpAddr::V6(_) => 0,
    }
}

/// The same both ways.
fn between(from: u8, to: u8, age: Duration) -> Duration {
    let pair = u64::from(from.min(to)) << 8 | u64::from(from.max(to));
    let share = |number: u64| (mixed(number) % 1000) as f64 / 1000.0;
    let base = BETWEEN.0 + BETWEEN.1.mul_f64(share(pair));
    let period = age.as_secs() / WOBBLES_EVERY.as_secs();
    base.mul_f64(1.0 + WOBBLE * (2.0 * share((period + 1) << 16 | pair) - 1.0))
}

/// A number that says nothing of the one it was made of.
fn mixed(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(region: u8, number: u8) -> SocketAddr {
        SocketAddr::from(([10, region, 0, number], 7946))
    }

    #[test]
    fn a_cut_parts_the_regions_below_from_the_others_and_nobody_else() {
        let weather = Weather { loss: 0.0, cut: Some(5) };
        let open = |from, to| weather.way(host(from, 1), host(to, 2), Duration::ZERO).open;
        assert!(open(0, 4) && open(5, 9) && open(3, 3));
        assert!(!open(4, 5) && !open(9, 0));
    }

    #[test]
    fn ways_are_alike_in_both_directions_and_change_with_time() {
        let weather = Weather::default();
        let delay = |from, to, age| weather.way(host(from, 1), host(to, 2), Duration::from_secs(age)).delay;
        for minute in 0..100 {
            let far = delay(1, 2, minute * 60);
            assert_eq!(far, delay(2, 1, minute * 60));
            assert!(far >= BETWEEN.0.mul_f64(0.6) && far <= (BETWEEN.0 + BETWEEN.1).mul_f64(1.4), "{far:?}");
            assert_eq!(delay(1, 1, minute * 60), WITHIN);
        }
        assert_ne!(delay(1, 2, 0), delay(1, 2, 60));
    }
}
