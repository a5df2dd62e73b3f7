//! Weighted random: each choice by itself, with the probability of its weight. It knows nothing of load.
use rand::{Rng, RngExt};

/// Chooses one of `(index, weight)` with the probability of its part of the sum; `None` when they sum to nothing.
pub fn pick(candidates: impl Iterator<Item = (usize, u32)> + Clone, rng: &mut impl Rng) -> Option<usize> {
    let total: u64 = candidates.clone().map(|(_, weight)| u64::from(weight)).sum();
    if total == 0 {
        return None;
    }
    at(candidates, rng.random_range(0..total))
}

/// The candidate that holds the point `at` when all weights are laid end to end; `None` beyond their sum.
pub(super) fn at(candidates: impl Iterator<Item = (usize, u32)>, mut at: u64) -> Option<usize> {
    for (index, weight) in candidates {
        match at.checked_sub(u64::from(weight)) {
            Some(rest) => at = rest,
            None => return Some(index),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn everyone_gets_its_weight(weights in prop::collection::vec(0u32..1000, 1..8), seed: u64) {
            const DRAWS: u32 = 20_000;
            let mut rng = SmallRng::seed_from_u64(seed);
            let total: u32 = weights.iter().sum();
            let mut had = vec![0u32; weights.len()];
            for _ in 0..DRAWS {
                match pick(weights.iter().copied().enumerate(), &mut rng) {
                    Some(at) => had[at] += 1,
                    None => prop_assert_eq!(total, 0),
                }
            }
            for (had, weight) in had.iter().zip(&weights) {
                let share = f64::from(*weight) / f64::from(total.max(1));
                // Six standard deviations: one false alarm in half a billion.
                let slack = 6.0 * (f64::from(DRAWS) * share * (1.0 - share)).sqrt() + 1.0;
                let expected = f64::from(DRAWS) * share;
                prop_assert!((f64::from(*had) - expected).abs() <= slack, "{had} of {expected}");
            }
        }
    }

    #[test]
    fn nobody_to_choose() {
        let mut rng = SmallRng::seed_from_u64(1);
        assert_eq!(pick([].into_iter(), &mut rng), None);
        assert_eq!(pick([(3, 0)].into_iter(), &mut rng), None);
        assert_eq!(pick([(3, 0), (4, 1)].into_iter(), &mut rng), Some(4));
    }
}
