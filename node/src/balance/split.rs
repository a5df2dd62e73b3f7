//! Which version a new session meets: an arm of the split, at random by its share.
use rand::{Rng, RngExt};

/// Chooses one of the shares with the probability of its part of the sum; `None` when they sum to nothing.
pub fn pick(shares: impl IntoIterator<Item = u32> + Clone, rng: &mut impl Rng) -> Option<usize> {
    let total: u64 = shares.clone().into_iter().map(u64::from).sum();
    if total == 0 {
        return None;
    }
    let mut at = rng.random_range(0..total);
    for (index, share) in shares.into_iter().enumerate() {
        match at.checked_sub(u64::from(share)) {
            Some(rest) => at = rest,
            None => return Some(index),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    #[test]
    fn ninety_to_ten_within_one_percent() {
        let mut rng = SmallRng::seed_from_u64(7);
        let second = (0..10_000).filter(|_| pick([90, 10], &mut rng) == Some(1)).count();
        assert!((900..1100).contains(&second), "{second}");
    }

    #[test]
    fn a_share_of_nothing_gets_nothing() {
        let mut rng = SmallRng::seed_from_u64(7);
        assert!((0..1000).all(|_| pick([0, 3, 0], &mut rng) == Some(1)));
        assert_eq!(pick([0, 0], &mut rng), None);
        assert_eq!(pick([], &mut rng), None);
    }
}
