//! How long requests took: counts by steps of a quarter of an octave, from 100 µs to about 6.5 s. Adding one is one
//! relaxed increment; what is read while others add is a moment's blur.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// How many steps.
pub const STEPS: usize = 64;
/// The first step ends here.
const FIRST: Duration = Duration::from_micros(100);

/// Counts since the start; they wrap.
#[derive(Debug)]
pub struct Timings([AtomicU32; STEPS]);

impl Default for Timings {
    fn default() -> Self {
        Self([const { AtomicU32::new(0) }; STEPS])
    }
}

impl Timings {
    /// One request took so long.
    pub fn add(&self, took: Duration) {
        self.0[step(took)].fetch_add(1, Ordering::Relaxed);
    }

    /// The counts now.
    pub fn counts(&self) -> [u32; STEPS] {
        std::array::from_fn(|at| self.0[at].load(Ordering::Relaxed))
    }
}

fn step(took: Duration) -> usize {
    let octaves = (took.as_secs_f64() / FIRST.as_secs_f64()).log2();
    ((octaves * 4.0).ceil().max(0.0) as usize).min(STEPS - 1)
}

/// The time within which this share of the counted requests was done, rounded up to a step; `None` without any.
pub fn quantile(counts: &[u32; STEPS], share: f64) -> Option<Duration> {
    let all: u64 = counts.iter().map(|count| u64::from(*count)).sum();
    let wanted = (all as f64 * share).ceil() as u64;
    let mut sum = 0;
    let at = counts.iter().position(|count| {
        sum += u64::from(*count);
        all > 0 && sum >= wanted
    })?;
    Some(FIRST.mul_f64((at as f64 / 4.0).exp2()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_no_more_than_a_step_off() {
        assert_eq!(quantile(&Timings::default().counts(), 0.99), None);
        let timings = Timings::default();
        (0..1_000).for_each(|at| timings.add(Duration::from_millis(if at < 985 { 10 } else { 400 })));
        let within = |share, least: u64, most: u64| {
            let found = quantile(&timings.counts(), share).unwrap();
            assert!(
                (Duration::from_millis(least)..=Duration::from_millis(most)).contains(&found),
                "{found:?}"
            );
        };
        within(0.5, 10, 12);
        within(0.99, 400, 476);
        timings.add(Duration::ZERO);
        timings.add(Duration::from_secs(1_000));
    }
}
