//! How many different answers a steered name has where answers are signed.
//!
//! Eight nodes out of twenty can be drawn in a hundred thousand ways, each with a signature of its own. So randomness has few
//! values there, and others every period: over a day all nodes get the shares that their weights give them, and within a
//! period a name needs no more than [`HANDS`] signatures a region and family.

use std::hash::Hasher;

use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};
use rustc_hash::FxHasher;

use super::canonical::PERIOD;

/// Different draws in one period: a node's share of the answers is off by a few hundredths of itself at most.
const HANDS: u64 = 1024;

/// Randomness for one signed answer at a folded name. Each name gets other hands at a moment of its own, or all signatures of
/// steered names would be made anew at once.
pub(crate) fn few(rng: &mut impl Rng, unix: u64, name: &[u8]) -> SmallRng {
    let mut hasher = FxHasher::default();
    hasher.write(name);
    let period = (unix + (hasher.finish() >> 32)) / PERIOD;
    SmallRng::seed_from_u64(period.wrapping_mul(HANDS).wrapping_add(rng.random_range(0..HANDS)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The hands of a name at a moment.
    fn hands(name: &[u8], unix: u64) -> BTreeSet<u64> {
        let mut rng = SmallRng::seed_from_u64(3);
        (0..20 * HANDS).map(|_| few(&mut rng, unix, name).random()).collect()
    }

    #[test]
    fn names_get_other_hands_at_moments_of_their_own() {
        let start = 1_800_000_000;
        let changes: BTreeSet<u64> = (0..20u8)
            .map(|number| {
                let name = [3, b'w', b'w', number, 0];
                let first = hands(&name, start);
                assert_eq!(first.len() as u64, HANDS);
                let changed = |second: &u64| hands(&name, start + second) != first;
                // Once in a period.
                assert!(changed(&PERIOD));
                let (mut same, mut other) = (0, PERIOD);
                while other - same > 1 {
                    let middle = (same + other) / 2;
                    if changed(&middle) { other = middle } else { same = middle }
                }
                other
            })
            .collect();
        assert!(changes.len() > 15, "{changes:?}");
    }
}
