//! The smallest ratio of load to weight, ties at random: what the load policies have in common.
use rand::{Rng, RngExt};

/// The index with the smallest `(load + 1) / weight` of `(index, load, weight)`; every one of several equal ones is as
/// likely. `None` without a candidate of positive weight.
pub(super) fn lowest(
    candidates: impl IntoIterator<Item = (usize, u64, u32)>,
    rng: &mut impl Rng,
) -> Option<usize> {
    let mut best: Option<(usize, u64, u64)> = None;
    let mut equals = 0u32;
    for (index, load, weight) in candidates {
        if weight == 0 {
            continue;
        }
        let (load, weight) = (load + 1, u64::from(weight));
        let Some((_, best_load, best_weight)) = best else {
            (best, equals) = (Some((index, load, weight)), 1);
            continue;
        };
        // load / weight < best_load / best_weight without a division.
        let (ours, theirs) = (load * best_weight, best_load * weight);
        if ours < theirs {
            (best, equals) = (Some((index, load, weight)), 1);
        } else if ours == theirs {
            // One of n equal ones replaces the chosen one with probability 1/n (reservoir sampling).
            equals += 1;
            if rng.random_range(0..equals) == 0 {
                best = Some((index, load, weight));
            }
        }
    }
    best.map(|(index, ..)| index)
}
