//! How many different answers a steered name has where answers are signed.
//!
//! Eight nodes out of twenty can be drawn in a hundred thousand ways, each with a signature of its own. So randomness has few
//! values there, and others every period: over a day all nodes get the shares that their weights give them, and within a
//! period a name needs no more than [`HANDS`] signatures a region and family.

use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};

use super::canonical::PERIOD;

/// Different draws in one period: a node's share of the answers is off by a few hundredths of itself at most.
const HANDS: u64 = 1024;

/// Randomness for one signed answer.
pub(crate) fn few(rng: &mut impl Rng, unix: u64) -> SmallRng {
    SmallRng::seed_from_u64((unix / PERIOD).wrapping_mul(HANDS) + rng.random_range(0..HANDS))
}
