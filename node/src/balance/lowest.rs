//! The smallest ratio of load to weight, ties by rack and then at random: what the load policies have in common.
use std::cmp::Ordering;

use rand::{Rng, RngExt};

use super::rack::{Rack, Tally};

/// A backend: its index, its load, its weight, its rack.
pub(super) type Candidate = (usize, u64, u32, Rack);

/// The index with the smallest `(load + 1) / weight`. Of several equal ones those in the racks with the least to do, and
/// every one of these is as likely. `None` without a candidate of positive weight.
pub(super) fn lowest(
    candidates: impl Iterator<Item = Candidate> + Clone,
    rng: &mut impl Rng,
) -> Option<usize> {
    let mut best: Option<Candidate> = None;
    let (mut equals, mut several_racks) = (0u32, false);
    for candidate in candidates.clone().filter(|(_, _, weight, _)| *weight > 0) {
        match best.map_or(Ordering::Less, |best| compare(candidate, best)) {
            Ordering::Less => (best, equals, several_racks) = (Some(candidate), 1, false),
            Ordering::Equal => {
                several_racks |= best.is_some_and(|best| best.3 != candidate.3);
                draw(candidate, &mut best, &mut equals, rng);
            }
            Ordering::Greater => {}
        }
    }
    let best = best?;
    Some(if several_racks { in_lightest_rack(candidates, best, rng) } else { best.0 })
}

/// One of those that equal `lowest`; itself when none does any more, for loads change between two looks.
fn in_lightest_rack(
    candidates: impl Iterator<Item = Candidate> + Clone,
    lowest: Candidate,
    rng: &mut impl Rng,
) -> usize {
    let racks = Tally::of(candidates.clone().map(|(_, load, weight, rack)| (load, weight, rack)));
    let (mut best, mut equals) = (None::<Candidate>, 0u32);
    let able = candidates.filter(|candidate| candidate.2 > 0 && compare(*candidate, lowest).is_eq());
    for candidate in able {
        match best.map_or(Ordering::Less, |best| racks.compare(candidate.3, best.3)) {
            Ordering::Less => (best, equals) = (Some(candidate), 1),
            Ordering::Equal => draw(candidate, &mut best, &mut equals, rng),
            Ordering::Greater => {}
        }
    }
    best.unwrap_or(lowest).0
}

/// One of n equal ones replaces the chosen one with probability 1/n (reservoir sampling).
fn draw(candidate: Candidate, best: &mut Option<Candidate>, equals: &mut u32, rng: &mut impl Rng) {
    *equals += 1;
    if rng.random_range(0..*equals) == 0 {
        *best = Some(candidate);
    }
}

/// Compares the ratios without a division.
fn compare(a: Candidate, b: Candidate) -> Ordering {
    let cost = |load: u64, weight: u32| (load + 1) * u64::from(weight);
    cost(a.1, b.2).cmp(&cost(b.1, a.2))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::super::rack;
    use super::*;

    proptest! {
        /// Other workers count while this one looks: each look at a backend finds another load.
        #[test]
        fn somebody_is_chosen_while_loads_change(
            looks in prop::collection::vec(0u64..3, 1..40),
            weights in prop::collection::vec(0u32..3, 1..8),
            seed: u64,
        ) {
            let mut rng = SmallRng::seed_from_u64(seed);
            let racks = rack::number((0..weights.len()).map(|at| at % 3));
            let look = Cell::new(0);
            let load = || {
                look.set(look.get() + 1);
                looks[look.get() % looks.len()]
            };
            let candidates = weights.iter().enumerate().map(|(at, weight)| (at, load(), *weight, racks[at]));
            match lowest(candidates, &mut rng) {
                Some(at) => prop_assert!(weights[at] > 0),
                None => prop_assert!(weights.iter().all(|weight| *weight == 0)),
            }
        }
    }
}
