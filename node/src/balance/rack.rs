//! Racks: among backends that are equal to a policy, the one whose rack has the least to do goes first.
//!
//! ```text
//! rack 1  ■■ ■ ·      three backends tie (·): the one in rack 2 is chosen, for rack 1 has 3 requests on 3 backends,
//! rack 2  ·  · ■      rack 2 only 1
//! ```
//! So a rack that is lost takes its share of the requests with it and at most one more, where drawing among equals alone
//! might by chance have put most of them there. Load and weight come first: a busier backend is never chosen for its rack.
//! Policies that know no load (round robin, random, hash) give each rack its share over time.
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// Racks that are told apart in one pool; beyond, some share a number, and count as one.
const DISTINCT: usize = 64;

/// A backend's rack among those of its pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rack(u8);

/// Numbers the racks of a pool. Backends without one stand in a rack of their own together. A pool all of whose
/// backends stand in one rack has nothing to spread.
pub fn number<T: Ord>(places: impl IntoIterator<Item = T>) -> Vec<Rack> {
    let mut known = BTreeMap::new();
    let mut numbered = Vec::new();
    for place in places {
        let next = known.len();
        let at = *known.entry(place).or_insert(next);
        numbered.push(Rack((at % DISTINCT) as u8));
    }
    numbered
}

/// What the racks of some backends have to do.
pub(super) struct Tally([(u64, u64); DISTINCT]);

impl Tally {
    /// Adds up `(load, weight, rack)`.
    pub(super) fn of(backends: impl Iterator<Item = (u64, u32, Rack)>) -> Self {
        let mut tally = Self([(0, 0); DISTINCT]);
        for (load, weight, rack) in backends {
            let (loads, weights) = &mut tally.0[usize::from(rack.0) % DISTINCT];
            *loads = loads.saturating_add(load);
            *weights += u64::from(weight);
        }
        tally
    }

    /// Which of two racks has less to do for its weight.
    pub(super) fn compare(&self, a: Rack, b: Rack) -> Ordering {
        let [(a_load, a_weight), (b_load, b_weight)] =
            [a, b].map(|rack| self.0[usize::from(rack.0) % DISTINCT]);
        let cross = |load, weight| u128::from(load) * u128::from(weight);
        cross(a_load, b_weight).cmp(&cross(b_load, a_weight))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;
    use crate::balance::{Load, least_busy, least_connections};

    #[test]
    fn racks_are_numbered_by_place() {
        let places = [Some("a"), None, Some("b"), Some("a"), None];
        assert_eq!(number(places), [0, 1, 2, 0, 1].map(Rack));
        assert!(number(0..1000).iter().all(|rack| usize::from(rack.0) < DISTINCT));
    }

    /// Backends of equal weight, so many in each rack.
    fn backends(racks: &[usize], weight: u32) -> Vec<Load> {
        let of = |(at, count): (usize, &usize)| vec![Rack(at as u8); *count];
        let racks = racks.iter().enumerate().flat_map(of);
        racks.map(|rack| Load { weight, rack, ..Load::default() }).collect()
    }

    fn load_of(loads: &[Load], rack: u8) -> u32 {
        loads.iter().filter(|load| load.rack == Rack(rack)).map(|load| load.here).sum()
    }

    proptest! {
        #[test]
        fn the_loss_of_a_rack_takes_its_share_and_at_most_one_request_more(
            racks in prop::collection::vec(1usize..6, 1..6),
            requests in 1u32..200,
            seed: u64,
        ) {
            let mut rng = SmallRng::seed_from_u64(seed);
            let mut loads = backends(&racks, 100);
            for placed in 0..requests {
                let at = least_busy::pick(loads.iter().copied().enumerate(), &mut rng).unwrap();
                loads[at].here += 1;
                for (rack, count) in racks.iter().enumerate() {
                    let share = f64::from(placed + 1) * *count as f64 / loads.len() as f64;
                    let had = load_of(&loads, rack as u8);
                    prop_assert!(f64::from(had) < share + 1.0, "rack {rack} has {had}, its share is {share}");
                }
            }
        }

        #[test]
        fn whatever_goes_on_no_equal_stands_in_a_rack_with_less_to_do(
            places in prop::collection::vec((0u8..4, 0u32..3, 1u32..3), 1..20),
            seed: u64,
        ) {
            let mut rng = SmallRng::seed_from_u64(seed);
            let loads: Vec<Load> = places
                .iter()
                .map(|&(rack, here, weight)| Load { here, weight, rack: Rack(rack), ..Load::default() })
                .collect();
            let at = least_connections::pick(loads.iter().copied().enumerate(), &mut rng).unwrap();
            let cost = |l: &Load| f64::from(l.here + 1) / f64::from(l.weight);
            let rack_cost = |l: &Load| {
                let own = loads.iter().filter(|other| other.rack == l.rack);
                let (load, weight) = own.fold((0, 0), |sum, l| (sum.0 + l.here, sum.1 + l.weight));
                f64::from(load) / f64::from(weight)
            };
            for other in &loads {
                prop_assert!(cost(&loads[at]) <= cost(other) + 1e-9);
                if (cost(other) - cost(&loads[at])).abs() < 1e-9 {
                    prop_assert!(rack_cost(&loads[at]) <= rack_cost(other) + 1e-9, "{at} of {loads:?}");
                }
            }
        }
    }

    #[test]
    fn idle_racks_of_unequal_size_get_their_shares() {
        let mut rng = SmallRng::seed_from_u64(4);
        let loads = backends(&[3, 1], 100);
        let lone = (0..8000)
            .filter(|_| least_busy::pick(loads.iter().copied().enumerate(), &mut rng) == Some(3))
            .count();
        assert!((1800..2200).contains(&lone), "{lone}");
    }
}
