//! Which backends of a pool fail too great a share of this node's requests. Pure.
//!
//! A backend that fails one request in five seldom fails five in a row, and probes may never meet what users do. So all
//! requests of an interval are looked at, in two ways that a pool may ask for:
//!
//! ```text
//! failures     the share of failed requests reaches a threshold, whatever the others do
//! deviations   the share of successes lies below  mean − deviations × standard deviation  of the pool's backends
//! ```
//! The second finds what is bad beside the others, and spares a pool that fails as a whole: then the fault is the
//! application's. At most one in 1 + deviations² backends can lie that far off (Cantelli's inequality), and none at all among
//! fewer than 1 + deviations²: with 1.9 deviations it takes five backends, so smaller pools want `failures`.
use std::collections::HashMap;
use std::time::Instant;

use gossip::id::BackendId;

use crate::backend::Totals;
use crate::config::model::FailureRate;

/// Whoever fails less than this is no outlier: among backends without any failure a single one would make it so.
const NOISE: f64 = 0.05;

/// The requests of one pool's backends, interval by interval.
#[derive(Debug, Default)]
pub struct Outliers {
    /// When the present interval began, and what had been counted by then.
    began: Option<(Instant, HashMap<BackendId, Totals>)>,
}

impl Outliers {
    /// Looks at what has been counted in all; once an interval has passed, says who is to be ejected for it.
    pub fn look(
        &mut self,
        rule: &FailureRate,
        totals: impl Iterator<Item = (BackendId, Totals)>,
        now: Instant,
    ) -> Vec<BackendId> {
        if let Some((began, _)) = &self.began
            && now.saturating_duration_since(*began) < rule.interval
        {
            return Vec::new();
        }
        let present: HashMap<BackendId, Totals> = totals.collect();
        let Some((_, before)) = self.began.replace((now, present.clone())) else { return Vec::new() };
        let counted: Vec<(BackendId, Totals)> =
            present.iter().filter_map(|(id, now)| Some((*id, since(*before.get(id)?, *now)))).collect();
        judge(rule, &counted)
    }
}

fn since(before: Totals, now: Totals) -> Totals {
    Totals { ended: now.ended.saturating_sub(before.ended), failed: now.failed.saturating_sub(before.failed) }
}

/// Who is to be ejected for what was counted in one interval.
fn judge(rule: &FailureRate, counted: &[(BackendId, Totals)]) -> Vec<BackendId> {
    let enough = |totals: &Totals| totals.ended >= u64::from(rule.min_requests.max(1));
    let shares: Vec<(BackendId, f64)> = counted
        .iter()
        .filter(|(_, totals)| enough(totals))
        // A failure may be counted a moment before the end of its request is.
        .map(|(id, totals)| (*id, (totals.failed as f64 / totals.ended as f64).min(1.0)))
        .collect();
    let off = rule.deviations.and_then(|deviations| far_off(&shares, deviations));
    let is_outlier = |share: f64| {
        rule.failures.is_some_and(|failures| share >= failures)
            || off.is_some_and(|off| share > off && share >= NOISE)
    };
    shares.into_iter().filter(|(_, share)| is_outlier(*share)).map(|(id, _)| id).collect()
}

/// The share of failures beyond which a backend lies too far off: below the mean of successes is above that of failures.
fn far_off(shares: &[(BackendId, f64)], deviations: f64) -> Option<f64> {
    if shares.len() < 2 {
        return None;
    }
    let count = shares.len() as f64;
    let mean = shares.iter().map(|(_, share)| share).sum::<f64>() / count;
    let variance = shares.iter().map(|(_, share)| (share - mean).powi(2)).sum::<f64>() / count;
    Some(mean + deviations * variance.sqrt())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use gossip::clock::{Clock, Wall};
    use proptest::prelude::*;

    use super::*;

    fn rule(failures: Option<f64>, deviations: Option<f64>) -> FailureRate {
        FailureRate { interval: Duration::from_secs(10), min_requests: 100, failures, deviations }
    }

    fn counted(of_a_thousand: &[u64]) -> Vec<(BackendId, Totals)> {
        let one =
            |(at, failed): (usize, &u64)| (BackendId(at as u64), Totals { ended: 1000, failed: *failed });
        of_a_thousand.iter().enumerate().map(one).collect()
    }

    fn judged(rule: &FailureRate, of_a_thousand: &[u64]) -> Vec<u64> {
        judge(rule, &counted(of_a_thousand)).into_iter().map(|id| id.0).collect()
    }

    #[test]
    fn a_threshold_looks_at_each_by_itself() {
        let rule = rule(Some(0.5), None);
        assert_eq!(judged(&rule, &[0, 499, 500, 1000]), [2, 3]);
        assert_eq!(judged(&rule, &[700]), [0], "also one that is alone");
    }

    #[test]
    fn one_that_is_worse_than_its_four_peers_stands_out() {
        let rule = rule(None, Some(1.9));
        assert_eq!(judged(&rule, &[2, 0, 3, 200, 1]), [3]);
        assert_eq!(judged(&rule, &[400, 390, 410, 400, 405]), [0; 0], "all fail alike: nobody stands out");
        assert_eq!(judged(&rule, &[0, 0, 0, 10, 0]), [0; 0], "one in a hundred is noise");
        assert_eq!(judged(&rule, &[0, 0, 1000]), [0; 0], "three are too few for 1.9 deviations");
    }

    #[test]
    fn few_requests_say_nothing() {
        let few = Totals { ended: 99, failed: 99 };
        let enough = Totals { ended: 100, failed: 100 };
        let counted = [(BackendId(1), few), (BackendId(2), enough)];
        assert_eq!(judge(&rule(Some(0.5), Some(1.9)), &counted), [BackendId(2)]);
    }

    #[test]
    fn each_interval_is_judged_by_itself() {
        let clock = Clock::simulated(Wall(0));
        let rule = rule(Some(0.5), None);
        let mut outliers = Outliers::default();
        let mut look = |ended, failed| {
            let totals = [(BackendId(1), Totals { ended, failed })];
            outliers.look(&rule, totals.into_iter(), clock.now())
        };
        assert!(look(5000, 5000).is_empty(), "what was before the first look is nobody's interval");
        clock.advance(Duration::from_secs(9));
        assert!(look(5200, 5200).is_empty(), "not yet over");
        clock.advance(Duration::from_secs(1));
        assert_eq!(look(5200, 5200), [BackendId(1)]);
        clock.advance(Duration::from_secs(10));
        assert!(look(5400, 5210).is_empty());
        clock.advance(Duration::from_secs(10));
        assert_eq!(look(5600, 5400), [BackendId(1)]);
    }

    #[test]
    fn a_backend_that_is_new_is_judged_from_its_first_whole_interval() {
        let clock = Clock::simulated(Wall(0));
        let rule = rule(Some(0.5), None);
        let mut outliers = Outliers::default();
        let mut look = |id| {
            clock.advance(Duration::from_secs(10));
            outliers.look(
                &rule,
                [(BackendId(id), Totals { ended: 200, failed: 200 })].into_iter(),
                clock.now(),
            )
        };
        assert!([1, 2, 2].into_iter().all(|id| look(id).is_empty()));
    }

    fn counts() -> impl Strategy<Value = Vec<(BackendId, Totals)>> {
        let one = (0u64..3000, 0.0f64..=1.0, any::<bool>()).prop_map(|(ended, share, fails)| {
            let failed = if fails { (ended as f64 * share) as u64 } else { 0 };
            Totals { ended, failed }
        });
        prop::collection::vec(one, 0..30)
            .prop_map(|all| all.into_iter().enumerate().map(|(at, t)| (BackendId(at as u64), t)).collect())
    }

    proptest! {
        #[test]
        fn by_deviations_few_are_ejected_and_only_who_is_worse_than_the_mean(
            counted in counts(),
            deviations in 0.5f64..4.0,
        ) {
            let rule = rule(None, Some(deviations));
            let out = judge(&rule, &counted);
            let judged: Vec<_> = counted.iter().filter(|(_, t)| t.ended >= 100).collect();
            let most = judged.len() as f64 / (1.0 + deviations * deviations);
            prop_assert!(out.len() as f64 <= most + 1e-6, "{} of {}", out.len(), judged.len());
            let share = |t: &Totals| t.failed as f64 / t.ended as f64;
            let mean = judged.iter().map(|(_, t)| share(t)).sum::<f64>() / judged.len() as f64;
            for (_, totals) in counted.iter().filter(|(id, _)| out.contains(id)) {
                prop_assert!(totals.ended >= 100 && share(totals) > mean && share(totals) >= NOISE);
            }
        }

        #[test]
        fn who_is_no_better_than_an_outlier_is_one(
            counted in counts(),
            failures in prop::option::of(0.01f64..=1.0),
            deviations in prop::option::of(0.5f64..4.0),
        ) {
            let out = judge(&rule(failures, deviations), &counted);
            let share = |t: &Totals| t.failed as f64 / t.ended as f64;
            let best = counted.iter().filter(|(id, _)| out.contains(id)).map(|(_, t)| share(t));
            if let Some(best) = best.reduce(f64::min) {
                for (id, totals) in counted.iter().filter(|(_, t)| t.ended >= 100 && share(t) >= best) {
                    prop_assert!(out.contains(id), "{totals:?}");
                }
            }
            if failures.is_none() && deviations.is_none() {
                prop_assert!(out.is_empty());
            }
        }
    }
}
