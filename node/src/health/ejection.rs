//! What this node's own requests met: a backend that refused them is left out here and now, before any prober knows.
//! Pure.
//!
//! ```text
//!            evidence                         probe succeeded, not before `until`
//!   in ──────────────────▶ ejected ─────────────────────────────────────────────────▶ in
//!                             │        (no check: `until` alone)
//!                             └─ the mesh says down: the mesh's word takes its place ─▶ in
//! ```
//!
//! Evidence is a refused connection, failures in a row, or too great a share of failures in an interval ([`outliers`]).
//! An ejection is this node's alone: nobody is told. One refused connection ends with the first probe that succeeds.
//! Where probes cannot tell (requests fail though probes succeed, the pool has no check, or the ejection came back at
//! once) it lasts the pool's `base` (5 s) and twice as long at each repeat, up to twelve times (60 s).
//!
//! [`outliers`]: super::outliers

use std::time::{Duration, Instant};

use crate::backend::Evidence;
use crate::config::model::EjectionRule;

/// The longest ejection where probes cannot tell, as a multiple of the pool's `base`.
pub const LONGEST: u32 = 12;
/// Evidence this soon after an ejection, or within the ejection's own length, is a repeat.
const REPEAT_WITHIN: Duration = Duration::from_secs(10);

/// One backend's ejections on this node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ejection {
    active: Option<Active>,
    /// Ejections in quick succession.
    repeats: u32,
    /// When the last one ended and how long it had to last.
    last: Option<(Instant, Duration)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Active {
    why: Evidence,
    began: Instant,
    until: Instant,
    /// Nothing but time is waited for: there is no check, or the latest probe succeeded.
    cleared: bool,
}

impl Ejection {
    /// Why the backend is ejected, if it is.
    pub fn why(&self) -> Option<Evidence> {
        self.active.as_ref().map(|active| active.why)
    }

    /// Takes evidence from requests; `checked` tells whether the pool has a health check. Returns whether the backend is
    /// newly ejected; an ejection that stands is not prolonged by requests that were already under way.
    pub fn evidence(&mut self, why: Evidence, checked: bool, rule: &EjectionRule, now: Instant) -> bool {
        if self.active.is_some() {
            return false;
        }
        let soon = match why {
            // What needs whole intervals to be seen comes back within two.
            Evidence::FailingOften => REPEAT_WITHIN.max(2 * rule.rate.interval),
            Evidence::ConnectFailed | Evidence::FailingRequests => REPEAT_WITHIN,
        };
        let repeat =
            self.last.is_some_and(|(ended, lasted)| now.saturating_duration_since(ended) <= lasted.max(soon));
        self.repeats = if repeat { self.repeats.saturating_add(1) } else { 0 };
        // The first refusal is left to the probe alone; it counts when the next one follows at once.
        let free = u32::from(checked && why == Evidence::ConnectFailed);
        let lasts = match self.repeats.checked_sub(free) {
            None => Duration::ZERO,
            Some(doublings) => rule.base.saturating_mul((1 << doublings.min(8)).min(LONGEST)),
        };
        self.active = Some(Active { why, began: now, until: now + lasts, cleared: !checked });
        true
    }

    /// Takes the result of a probe by this node; returns whether the ejection ended.
    pub fn probed(&mut self, success: bool, now: Instant) -> bool {
        if let Some(active) = &mut self.active {
            active.cleared = success;
        }
        self.tick(now)
    }

    /// Time passed; returns whether the ejection ended.
    pub fn tick(&mut self, now: Instant) -> bool {
        let over = self.active.as_ref().is_some_and(|active| active.cleared && now >= active.until);
        if over && let Some(active) = self.active.take() {
            self.last = Some((now, active.until - active.began));
        }
        over
    }

    /// The mesh says down, which covers more than this node's word. What follows is a new story.
    pub fn superseded(&mut self) {
        *self = Self::default();
    }

    /// The pool lost its check: only time is left to wait for.
    pub fn unchecked(&mut self, base: Duration) {
        if let Some(active) = &mut self.active
            && !active.cleared
        {
            active.cleared = true;
            active.until = active.until.max(active.began + base);
        }
    }

    /// When time alone may end it.
    pub fn deadline(&self) -> Option<Instant> {
        self.active.as_ref().filter(|active| active.cleared).map(|active| active.until)
    }
}

#[cfg(test)]
mod tests {
    use Evidence::{ConnectFailed, FailingOften, FailingRequests};
    use gossip::clock::{Clock, Wall};

    use super::*;
    use crate::config::model::FailureRate;

    const BASE: Duration = Duration::from_secs(5);
    const RULE: EjectionRule = EjectionRule {
        consecutive: 5,
        base: BASE,
        max_share: 0.5,
        rate: FailureRate {
            interval: Duration::from_secs(30),
            min_requests: 100,
            failures: Some(0.5),
            deviations: None,
        },
    };

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn start() -> Instant {
        Clock::simulated(Wall(0)).now()
    }

    #[test]
    fn one_refused_connection_ends_with_the_first_good_probe() {
        let now = start();
        let mut ejection = Ejection::default();
        assert!(ejection.evidence(ConnectFailed, true, &RULE, now));
        assert!(!ejection.evidence(FailingRequests, true, &RULE, now), "it stands already");
        assert_eq!((ejection.why(), ejection.deadline()), (Some(ConnectFailed), None));
        assert!(!ejection.probed(false, now + seconds(1)));
        assert!(!ejection.tick(now + seconds(100)), "time alone does not bring it back");
        assert!(ejection.probed(true, now + seconds(101)));
        assert_eq!(ejection.why(), None);
    }

    #[test]
    fn failing_requests_outweigh_good_probes_for_a_while() {
        let now = start();
        let mut ejection = Ejection::default();
        ejection.evidence(FailingRequests, true, &RULE, now);
        assert!(!ejection.probed(true, now + seconds(1)));
        assert_eq!(ejection.deadline(), Some(now + BASE));
        assert!(!ejection.probed(false, now + seconds(2)));
        assert!(!ejection.tick(now + BASE), "the latest probe failed");
        assert!(ejection.probed(true, now + seconds(6)));
    }

    #[test]
    fn without_a_check_it_grows_with_each_repeat() {
        let mut now = start();
        let mut ejection = Ejection::default();
        let mut lasted = Vec::new();
        for _ in 0..6 {
            ejection.evidence(ConnectFailed, false, &RULE, now);
            let until = ejection.deadline().unwrap();
            assert!(!ejection.tick(until - Duration::from_millis(1)));
            assert!(ejection.tick(until));
            lasted.push((until - now).as_secs());
            now = until + seconds(1);
        }
        assert_eq!(lasted, [5, 10, 20, 40, 60, 60]);
        now += seconds(120);
        ejection.evidence(ConnectFailed, false, &RULE, now);
        assert_eq!(ejection.deadline(), Some(now + BASE), "a good stretch is a new beginning");
    }

    #[test]
    fn refusals_that_come_back_at_once_are_not_left_to_the_probe() {
        let now = start();
        let mut ejection = Ejection::default();
        ejection.evidence(ConnectFailed, true, &RULE, now);
        assert!(ejection.probed(true, now));
        ejection.evidence(ConnectFailed, true, &RULE, now + seconds(1));
        assert!(!ejection.probed(true, now + seconds(1)));
        assert!(ejection.tick(now + seconds(6)));
    }

    #[test]
    fn a_share_of_failures_that_comes_back_with_the_next_interval_is_a_repeat() {
        let now = start();
        let mut ejection = Ejection::default();
        ejection.evidence(FailingOften, true, &RULE, now);
        assert!(ejection.probed(true, now + BASE));
        let again = now + BASE + seconds(45);
        ejection.evidence(FailingOften, true, &RULE, again);
        assert!(!ejection.probed(true, again + BASE));
        assert!(ejection.tick(again + 2 * BASE));
        let after_a_pause = again + 2 * BASE + seconds(61);
        ejection.evidence(FailingOften, true, &RULE, after_a_pause);
        assert!(ejection.probed(true, after_a_pause + BASE), "a good stretch is a new beginning");
    }

    #[test]
    fn the_word_of_the_mesh_takes_its_place() {
        let now = start();
        let mut ejection = Ejection::default();
        ejection.evidence(ConnectFailed, true, &RULE, now);
        ejection.superseded();
        assert_eq!(ejection, Ejection::default());
    }

    #[test]
    fn a_pool_that_loses_its_check_still_lets_go() {
        let now = start();
        let mut ejection = Ejection::default();
        ejection.evidence(ConnectFailed, true, &RULE, now);
        ejection.unchecked(BASE);
        assert!(!ejection.tick(now));
        assert!(ejection.tick(now + BASE));
    }
}
