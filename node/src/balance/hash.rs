//! Consistent hashing with bounded load: a key goes to the same backend on every node, unless that one is much busier than
//! the others.
//!
//! Each key has an order of its own over all backends: weighted rendezvous (see [`super::rendezvous`]), so that a backend
//! that comes, goes or changes its weight moves no key between two others. The first of the order that is below the
//! bound is chosen: 1.25 × its share of what is in flight (Mirrokni, Thorup and Zadimoghaddam, "Consistent hashing with
//! bounded loads", 2018). A backend with less than eight requests in flight is below it in any case: so few say nothing, and
//! a user who opens several connections at once would else meet several backends while there is little to do.
use gossip::id::BackendId;

use super::Load;

/// The bound as a part of the fair share: 5/4.
const BOUND: (u64, u64) = (5, 4);
/// As many requests a backend may have whatever its share is.
const FEW: u64 = 8;

/// A candidate's index, its name, and how busy it is.
pub type Candidate = (usize, BackendId, Load);

/// Chooses one of the candidates for a key; `None` when none has positive weight.
pub fn pick(key: u64, candidates: impl Iterator<Item = Candidate> + Clone) -> Option<usize> {
    let candidates = candidates.filter(|(_, _, load)| load.weight > 0);
    let (mut in_flight, mut weights) = (1u64, 0u64);
    for (_, _, load) in candidates.clone() {
        in_flight += total(load);
        weights += u64::from(load.weight);
    }
    let has_room = |load: Load| {
        // in flight + 1 <= ceil(bound × share), without a division.
        let (bound, unit) = BOUND;
        let fair = u128::from(bound) * u128::from(in_flight) * u128::from(load.weight);
        let ceiling = fair.div_ceil(u128::from(unit) * u128::from(weights.max(1)));
        u128::from(total(load)) < ceiling.max(FEW.into())
    };
    let mut best: Option<Scored> = None;
    let mut best_with_room: Option<Scored> = None;
    for (index, backend, load) in candidates {
        let scored = Scored { score: score(key, backend, load.weight), backend, index };
        if best.as_ref().is_none_or(|best| scored.beats(best)) {
            best = Some(scored);
        }
        if best_with_room.as_ref().is_none_or(|best| scored.beats(best)) && has_room(load) {
            best_with_room = Some(scored);
        }
    }
    // The sum of the bounds exceeds what is in flight, so somebody has room, unless the counters moved meanwhile.
    best_with_room.or(best).map(|scored| scored.index)
}

fn total(load: Load) -> u64 {
    u64::from(load.here) + u64::from(load.elsewhere)
}

#[derive(Clone, Copy)]
struct Scored {
    score: f64,
    backend: BackendId,
    index: usize,
}

impl Scored {
    fn beats(&self, other: &Self) -> bool {
        self.score.total_cmp(&other.score).then(self.backend.cmp(&other.backend)).is_gt()
    }
}

/// `−weight / ln(u)`, as [`super::rendezvous`] has it, over a hash of a few cycles: the key is well mixed already.
fn score(key: u64, backend: BackendId, weight: u32) -> f64 {
    let hash = mix(key ^ mix(backend.0));
    let unit = ((hash >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    -f64::from(weight) / unit.ln()
}

/// The finalizer of SplitMix64 (Steele, Lea and Flood, 2014): a permutation in which every bit depends on every other.
/// All nodes of a mesh must agree on it.
fn mix(bits: u64) -> u64 {
    let bits = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests;
