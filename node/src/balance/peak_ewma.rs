//! Peak EWMA: the least of latency × outstanding requests, of two drawn at random by weight.
//!
//! The latency is an exponentially weighted moving average that jumps to a peak at once and forgets it slowly, as in
//! Finagle (2014) and tower. Two choices suffice to keep the load even, and no herd runs to the fastest (Mitzenmacher, "The
//! power of two choices in randomized load balancing", 2001). An estimate decays while nobody is sent, so one that was slow
//! is asked again in time.
//!
//! *Weights.* Both are drawn with the probability of their weight, which alone honours weights while nothing is in
//! flight; what is in flight is divided by the weight relative to the mean.
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::{Rng, RngExt};

use super::random;

/// An estimate loses all but 1/e of itself in this time.
pub const DECAY: Duration = Duration::from_secs(10);
/// What a candidate with requests in flight and none answered is thought to take: others that are known go first.
const UNPROVEN_MICROS: f32 = 1e9;

/// An estimate of latency at a time.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Estimate {
    /// 0: nothing is known.
    micros: f32,
    /// Milliseconds since an origin that all users of the estimate share; it wraps after 49 days.
    at_millis: u32,
}

impl Estimate {
    /// Takes a measurement: at once when it is a peak, else into the average.
    #[must_use]
    pub fn observe(self, took: Duration, now_millis: u32) -> Self {
        let took = took.as_secs_f32() * 1e6;
        let micros = if took >= self.micros {
            took
        } else {
            let kept = self.kept(now_millis);
            self.micros * kept + took * (1.0 - kept)
        };
        // 0 is for what is not known.
        Self { micros: micros.max(f32::MIN_POSITIVE), at_millis: now_millis }
    }

    /// Takes the time that a failure took: it may only make the estimate worse, or failing fast would attract requests.
    #[must_use]
    pub fn observe_failure(self, took: Duration, now_millis: u32) -> Self {
        if took.as_secs_f32() * 1e6 >= self.micros { self.observe(took, now_millis) } else { self }
    }

    /// The estimate in microseconds, decayed to `now`. 0: nothing is known.
    pub fn micros(self, now_millis: u32) -> f32 {
        self.micros * self.kept(now_millis)
    }

    fn kept(self, now_millis: u32) -> f32 {
        let passed = now_millis.wrapping_sub(self.at_millis);
        // Another worker's time may be a moment ahead.
        let passed = if passed > u32::MAX / 2 { 0 } else { passed };
        (-(passed as f32) / DECAY.as_millis() as f32).exp()
    }

    fn pack(self) -> u64 {
        u64::from(self.micros.to_bits()) << 32 | u64::from(self.at_millis)
    }

    fn unpack(packed: u64) -> Self {
        Self { micros: f32::from_bits((packed >> 32) as u32), at_millis: packed as u32 }
    }
}

/// An estimate that workers share; both its parts change at once.
#[derive(Debug, Default)]
pub struct Latency(AtomicU64);

impl Latency {
    /// The present estimate.
    pub fn load(&self) -> Estimate {
        Estimate::unpack(self.0.load(Ordering::Relaxed))
    }

    /// Changes the estimate. Of two workers' changes at once both count.
    pub fn update(&self, change: impl Fn(Estimate) -> Estimate) {
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |packed| {
            Some(change(Estimate::unpack(packed)).pack())
        });
    }
}

/// A candidate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// Its estimate, decayed to now; 0: nothing is known.
    pub micros: f32,
    /// Requests in flight.
    pub in_flight: u32,
    /// The share; 0 is never chosen.
    pub weight: u32,
}

/// Chooses one of `(index, candidate)`; `None` when there is none of positive weight.
pub fn pick(
    candidates: impl Iterator<Item = (usize, Candidate)> + Clone,
    rng: &mut impl Rng,
) -> Option<usize> {
    let weights = candidates.clone().map(|(index, candidate)| (index, candidate.weight));
    let (mut total, mut count) = (0u64, 0u32);
    for (_, weight) in weights.clone().filter(|(_, weight)| *weight > 0) {
        (total, count) = (total + u64::from(weight), count + 1);
    }
    if total == 0 {
        return None;
    }
    let first = random::at(weights.clone(), rng.random_range(0..total))?;
    let one = candidates.clone().find(|(index, _)| *index == first)?.1;
    let rest = total - u64::from(one.weight);
    if rest == 0 {
        return Some(first);
    }
    let second = random::at(weights.filter(|(index, _)| *index != first), rng.random_range(0..rest))?;
    let other = candidates.clone().find(|(index, _)| *index == second)?.1;
    let mean_weight = total as f32 / count as f32;
    Some(if cost(other, mean_weight) < cost(one, mean_weight) { second } else { first })
}

fn cost(candidate: Candidate, mean_weight: f32) -> f32 {
    let outstanding = candidate.in_flight as f32 * mean_weight / candidate.weight as f32;
    match candidate.micros {
        // Nobody knows: one request finds out, and the others wait for what it says.
        micros if micros <= 0.0 && candidate.in_flight > 0 => UNPROVEN_MICROS * (1.0 + outstanding),
        micros => micros * (1.0 + outstanding),
    }
}

#[cfg(test)]
mod tests;
