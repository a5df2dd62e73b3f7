//! Weighted least connections: the smallest (in flight from this node + 1) / weight, ties by rack, then at random.
//!
//! It knows nothing of the other nodes, which makes it the right choice where backends are not shared by nodes.
use rand::Rng;

use super::Load;
use super::lowest::lowest;

/// Chooses one of `(index, load)`; `None` when there is no candidate of positive weight.
pub fn pick(
    candidates: impl IntoIterator<Item = (usize, Load), IntoIter: Clone>,
    rng: &mut impl Rng,
) -> Option<usize> {
    let counted =
        candidates.into_iter().map(|(index, load)| (index, u64::from(load.here), load.weight, load.rack));
    lowest(counted, rng)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    #[test]
    fn only_the_load_of_this_node_counts_and_weight_divides_it() {
        let mut rng = SmallRng::seed_from_u64(1);
        let far = Load { elsewhere: 900, weight: 100, ..Load::default() };
        let near = Load { here: 1, weight: 100, ..Load::default() };
        assert_eq!(pick([(0, far), (1, near)], &mut rng), Some(0));
        let heavy = Load { here: 2, weight: 400, ..Load::default() };
        assert_eq!(pick([(0, heavy), (1, near)], &mut rng), Some(0));
    }

    #[test]
    fn weight_zero_is_never_chosen() {
        let mut rng = SmallRng::seed_from_u64(1);
        assert_eq!(pick([(0, Load::default())], &mut rng), None);
    }
}
