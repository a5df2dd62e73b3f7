//! Smooth weighted round robin: in turn, by weight, without bursts.
//!
//! Every candidate gains its weight at each choice; the richest is chosen and pays the sum of all. With weights 5, 1, 1
//! the order is a a b a c a a and not a a a a a b c. The algorithm is the one nginx made known (2012); its state is
//! one number a candidate. Each worker has a state of its own.
use std::collections::HashMap;
use std::hash::Hash;

/// The state of one pool's turn on one worker. `K` names a candidate over changes of the pool.
#[derive(Debug, Default)]
pub struct RoundRobin<K> {
    credit: HashMap<K, i64>,
}

impl<K: Copy + Eq + Hash> RoundRobin<K> {
    /// Nobody's turn was yet.
    pub fn new() -> Self {
        Self { credit: HashMap::new() }
    }

    /// Chooses one of `(index, name, weight)`; `None` when there is no candidate of positive weight.
    pub fn pick(&mut self, candidates: impl IntoIterator<Item = (usize, K, u32)>) -> Option<usize> {
        let mut total = 0i64;
        let mut seen = 0usize;
        let mut best: Option<(usize, K, i64)> = None;
        for (index, name, weight) in candidates {
            if weight == 0 {
                continue;
            }
            seen += 1;
            total += i64::from(weight);
            let credit = self.credit.entry(name).or_insert(0);
            *credit += i64::from(weight);
            if best.is_none_or(|(_, _, most)| *credit > most) {
                best = Some((index, name, *credit));
            }
        }
        let (index, name, _) = best?;
        if let Some(credit) = self.credit.get_mut(&name) {
            *credit -= total;
        }
        // Candidates that left must not pile up; those that remain lose nothing that matters by a fresh start.
        if self.credit.len() > 2 * seen + 16 {
            self.credit.clear();
        }
        Some(index)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_order_is_smooth() {
        let mut turn = RoundRobin::new();
        let order: Vec<usize> =
            (0..7).map(|_| turn.pick([(0, 'a', 5), (1, 'b', 1), (2, 'c', 1)]).unwrap()).collect();
        assert_eq!(order, [0, 0, 1, 0, 2, 0, 0]);
    }

    proptest! {
        #[test]
        fn after_a_whole_turn_everyone_had_exactly_its_weight(
            weights in prop::collection::vec(0u32..20, 1..10),
        ) {
            let total: u32 = weights.iter().sum();
            let mut turn = RoundRobin::new();
            let mut had = vec![0u32; weights.len()];
            for _ in 0..total {
                let candidates = weights.iter().enumerate().map(|(at, &weight)| (at, at, weight));
                had[turn.pick(candidates).unwrap()] += 1;
            }
            prop_assert_eq!(had, weights);
        }

        #[test]
        fn candidates_that_come_and_go_starve_nobody(rounds in prop::collection::vec(any::<u8>(), 200..400)) {
            // Candidate 0 is always there; the others are there when their bit is set.
            let mut turn = RoundRobin::new();
            let mut waited = 0;
            for bits in rounds {
                let there = (0..8usize).filter(|at| *at == 0 || bits & (1 << at) != 0);
                let picked = turn.pick(there.map(|at| (at, at, 10))).unwrap();
                prop_assert!(picked == 0 || bits & (1 << picked) != 0);
                waited = if picked == 0 { 0 } else { waited + 1 };
                prop_assert!(waited <= 64);
            }
        }
    }

    #[test]
    fn nobody_to_choose() {
        let mut turn = RoundRobin::new();
        assert_eq!(turn.pick([(0, 'a', 0)]), None);
        assert_eq!(turn.pick([]), None);
    }

    #[test]
    fn the_state_forgets_candidates_that_left() {
        let mut turn = RoundRobin::new();
        for name in 0..10_000 {
            turn.pick([(0, name, 1)]);
        }
        assert!(turn.credit.len() < 100);
    }
}
