//! Least busy over the mesh: the smallest (in flight from all nodes + 1) / weight, ties by rack, then at random.
use rand::Rng;

use super::Load;
use super::lowest::lowest;

/// Chooses one of `(index, load)`; `None` when there is no candidate of positive weight.
pub fn pick(
    candidates: impl IntoIterator<Item = (usize, Load), IntoIter: Clone>,
    rng: &mut impl Rng,
) -> Option<usize> {
    let counted = candidates.into_iter().map(|(index, load)| {
        (index, u64::from(load.here) + u64::from(load.elsewhere), load.weight, load.rack)
    });
    lowest(counted, rng)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    fn load() -> impl Strategy<Value = Load> {
        (0..1000u32, 0..1000u32, 0..300u32).prop_map(|(here, elsewhere, weight)| Load {
            here,
            elsewhere,
            weight,
            ..Load::default()
        })
    }

    proptest! {
        #[test]
        fn nobody_is_less_busy_than_the_chosen_one(
            loads in prop::collection::vec(load(), 0..20),
            seed: u64,
        ) {
            let mut rng = SmallRng::seed_from_u64(seed);
            let cost = |l: &Load| f64::from(l.here + l.elsewhere + 1) / f64::from(l.weight);
            match pick(loads.iter().copied().enumerate(), &mut rng) {
                Some(at) => {
                    prop_assert!(loads[at].weight > 0);
                    for other in loads.iter().filter(|l| l.weight > 0) {
                        prop_assert!(cost(&loads[at]) <= cost(other) * (1.0 + 1e-9));
                    }
                }
                None => prop_assert!(loads.iter().all(|l| l.weight == 0)),
            }
        }
    }

    #[test]
    fn the_load_of_other_nodes_counts() {
        let mut rng = SmallRng::seed_from_u64(1);
        let busy_elsewhere = Load { elsewhere: 9, weight: 100, ..Load::default() };
        let busy_here = Load { here: 3, weight: 100, ..Load::default() };
        assert_eq!(pick([(7, busy_elsewhere), (8, busy_here)], &mut rng), Some(8));
    }

    #[test]
    fn requests_that_stay_are_spread_by_weight() {
        let mut rng = SmallRng::seed_from_u64(2);
        let mut loads: Vec<Load> = [100, 200, 300].map(|weight| Load { weight, ..Load::default() }).to_vec();
        for _ in 0..6000 {
            let at = pick(loads.iter().copied().enumerate(), &mut rng).unwrap();
            loads[at].here += 1;
        }
        for (load, expected) in loads.iter().zip([1000i64, 2000, 3000]) {
            assert!((i64::from(load.here) - expected).abs() <= 2, "{loads:?}");
        }
    }

    #[test]
    fn equal_ones_are_equally_likely() {
        let mut rng = SmallRng::seed_from_u64(3);
        let idle = Load { weight: 100, ..Load::default() };
        let mut hits = [0u32; 4];
        for _ in 0..8000 {
            hits[pick((0..4).map(|at| (at, idle)), &mut rng).unwrap()] += 1;
        }
        assert!(hits.iter().all(|&hit| (1800..2200).contains(&hit)), "{hits:?}");
    }
}
