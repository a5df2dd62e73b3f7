//! How many backends a pool should have. Pure.
//!
//! ```text
//!   load per backend / target     > 1.1 ──▶ grow, as soon as the last growth has come up (or was waited for)
//!                           0.9 … 1.1 ──▶ stay
//!                             fits less ──▶ shrink to the most that any moment of the last `cooldown` needed
//! ```
//!
//! What is in flight and what is asked a second do not depend on how many backends there are, so the right number follows
//! at once. Latency does: there the number moves by the ratio, at most doubled, and back by one.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::config::model::{Scale, ScaleTarget};

/// The load must be so far above the target before the pool grows.
const ABOVE: f64 = 1.1;
/// A smaller pool must be so far below it before the pool shrinks.
const BELOW: f64 = 0.9;
/// How long new backends are waited for before more are started.
const COME_UP: Duration = Duration::from_secs(10);
/// Loads are averaged over so many samples.
const SMOOTH: usize = 3;

/// What is measured of a pool, over the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Sample {
    /// Requests in flight.
    pub(super) in_flight: f64,
    /// Requests a second.
    pub(super) requests: f64,
    /// The time within which 99 of 100 were answered; `None` without requests.
    pub(super) p99: Option<Duration>,
    /// Backends that take new sessions.
    pub(super) ready: u32,
    /// Those and the ones that are coming up or down; not those that leave.
    pub(super) total: u32,
}

/// What is to be done, and the numbers behind it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Verdict {
    /// The number of backends that the load asks for, within the bounds.
    pub(super) wanted: u32,
    /// What to do now.
    pub(super) step: Step,
    /// What each backend that is ready has: requests, requests a second, or seconds.
    pub(super) measured: f64,
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing.
    Stay,
    /// Start so many.
    Add(u32),
    /// Stop so many.
    Remove(u32),
}

/// What was seen of one pool.
#[derive(Debug, Default)]
pub(super) struct Tracker {
    samples: VecDeque<Sample>,
    /// How many backends each moment needed to stay below the target, over the cooldown.
    needed: VecDeque<(Instant, u32)>,
    /// When samples began to come without a gap.
    since: Option<Instant>,
    /// The last growth: when, and to how many.
    grown: Option<(Instant, u32)>,
    acted: Option<Instant>,
}

impl Tracker {
    /// One sample, some once a second.
    pub(super) fn look(&mut self, scale: &Scale, sample: Sample, now: Instant) -> Verdict {
        self.samples.push_back(sample);
        if self.samples.len() > SMOOTH {
            self.samples.pop_front();
        }
        let since = *self.since.get_or_insert(now);
        let bounded = |count: f64| (count.ceil().max(0.0) as u32).clamp(scale.min, scale.max);
        let ready = f64::from(sample.ready.max(1));
        let mean =
            |of: fn(&Sample) -> f64| self.samples.iter().map(of).sum::<f64>() / self.samples.len() as f64;
        let (load, each) = match scale.target {
            ScaleTarget::InFlight(each) => (mean(|sample| sample.in_flight), each),
            ScaleTarget::Requests(each) => (mean(|sample| sample.requests), each),
            ScaleTarget::P99(target) => {
                (ready * sample.p99.map_or(0.0, |p99| p99.as_secs_f64()), target.as_secs_f64())
            }
        };
        let ratio = load / ready / each;
        let (grow_to, shrink_to) = match scale.target {
            ScaleTarget::P99(_) if ratio > ABOVE => (ready * ratio.min(2.0), ready * ratio.min(2.0)),
            // Whoever has half the latency may still need all but one.
            ScaleTarget::P99(_) if ratio < 0.5 => (ready, ready - 1.0),
            ScaleTarget::P99(_) => (ready, ready),
            _ => (load / each, load / each / BELOW),
        };
        let (grow_to, shrink_to) = (bounded(grow_to), bounded(shrink_to));
        self.needed.push_back((now, shrink_to));
        while self.needed.front().is_some_and(|(at, _)| now.saturating_duration_since(*at) > scale.cooldown) {
            self.needed.pop_front();
        }
        let step = if sample.total < scale.min {
            self.add(scale.min, sample.total, now)
        } else if sample.total > scale.max {
            Step::Remove(sample.total - scale.max)
        } else if grow_to > sample.ready && ratio > ABOVE {
            self.add(grow_to, sample.total, now)
        } else {
            self.shrink(scale, sample, since, now)
        };
        let wanted = match step {
            Step::Stay => sample.total.clamp(scale.min, scale.max),
            Step::Add(more) => sample.total + more,
            Step::Remove(fewer) => sample.total - fewer,
        };
        Verdict { wanted, step, measured: load / ready }
    }

    /// The step of the last verdict is being done.
    pub(super) fn acted(&mut self, verdict: Verdict, now: Instant) {
        self.acted = Some(now);
        if let Step::Add(_) = verdict.step {
            self.grown = Some((now, verdict.wanted));
        }
    }

    /// Somebody did something, as others say.
    pub(super) fn seen(&mut self, now: Instant) {
        self.acted = Some(now);
    }

    fn add(&self, to: u32, total: u32, now: Instant) -> Step {
        let coming = self.grown.is_some_and(|(at, _)| now.saturating_duration_since(at) < COME_UP);
        match to.saturating_sub(total) {
            0 => Step::Stay,
            // What was started last is counted on, up to what it was started for.
            _ if coming && self.grown.is_some_and(|(_, wanted)| to <= wanted) => Step::Stay,
            more => Step::Add(more),
        }
    }

    fn shrink(&self, scale: &Scale, sample: Sample, since: Instant, now: Instant) -> Step {
        let long_enough = |at: Instant| now.saturating_duration_since(at) >= scale.cooldown;
        if !long_enough(since) || self.acted.is_some_and(|at| !long_enough(at)) {
            return Step::Stay;
        }
        let most = self.needed.iter().map(|(_, needed)| *needed).max().unwrap_or(sample.total);
        // Half of a pool at a time: the rest must show that it can carry what is left.
        match sample.total.saturating_sub(most).min(sample.total / 2) {
            0 => Step::Stay,
            fewer => Step::Remove(fewer),
        }
    }
}

#[cfg(test)]
mod tests {
    use gossip::clock::{Clock, Wall};
    use proptest::prelude::*;

    use super::*;
    use crate::config::model::ScaleVia;

    const SECOND: Duration = Duration::from_secs(1);

    fn scale(target: ScaleTarget) -> Scale {
        let cooldown = Duration::from_secs(20);
        Scale { min: 2, max: 8, target, cooldown, via: ScaleVia::Exec(Vec::new()), dry_run: false }
    }

    /// A pool on a virtual clock whose new backends need some seconds until they are ready.
    struct World {
        scale: Scale,
        tracker: Tracker,
        clock: Clock,
        ready: u32,
        /// How many seconds each new one still needs.
        coming: Vec<u32>,
        boot: u32,
        acts: Vec<(u64, Step)>,
        seconds: u64,
    }

    impl World {
        fn new(target: ScaleTarget, boot: u32) -> Self {
            let (tracker, clock) = (Tracker::default(), Clock::simulated(Wall(0)));
            let (acts, coming) = (Vec::new(), Vec::new());
            Self { scale: scale(target), tracker, clock, ready: 2, coming, boot, acts, seconds: 0 }
        }

        fn second(&mut self, sample: impl Fn(u32) -> Sample) {
            self.clock.advance(SECOND);
            self.seconds += 1;
            self.coming.iter_mut().for_each(|left| *left = left.saturating_sub(1));
            self.ready += self.coming.iter().filter(|left| **left == 0).count() as u32;
            self.coming.retain(|left| *left > 0);
            let total = self.ready + self.coming.len() as u32;
            let sample = Sample { ready: self.ready, total, ..sample(self.ready) };
            let verdict = self.tracker.look(&self.scale, sample, self.clock.now());
            match verdict.step {
                Step::Stay => return,
                Step::Add(more) => self.coming.extend((0..more).map(|_| self.boot)),
                Step::Remove(fewer) => self.ready -= fewer,
            }
            self.tracker.acted(verdict, self.clock.now());
            self.acts.push((self.seconds, verdict.step));
        }

        fn in_flight(&mut self, seconds: u32, in_flight: f64) {
            for _ in 0..seconds {
                self.second(|_| Sample { in_flight, ..Sample::default() });
            }
        }

        fn size(&self) -> u32 {
            self.ready + self.coming.len() as u32
        }
    }

    #[test]
    fn it_grows_at_once_and_shrinks_after_the_cooldown() {
        let mut world = World::new(ScaleTarget::InFlight(20.0), 3);
        world.in_flight(30, 15.0);
        assert_eq!((world.size(), world.acts.len()), (2, 0));
        world.in_flight(15, 150.0);
        assert_eq!(world.size(), 8, "ten times the load: the whole pool within 15 s");
        let grown = world.acts.len();
        world.in_flight(19, 15.0);
        assert_eq!(world.acts.len(), grown, "not before the cooldown");
        world.in_flight(60, 15.0);
        assert_eq!(world.size(), 2);
        assert!(world.acts[grown..].iter().all(|(_, step)| matches!(step, Step::Remove(_))));
    }

    #[test]
    fn latency_moves_by_its_ratio() {
        let mut world = World::new(ScaleTarget::P99(Duration::from_millis(200)), 1);
        // The work is 1.2 s of one backend: six backends make it 200 ms each.
        for _ in 0..60 {
            world.second(|ready| Sample {
                p99: Some(Duration::from_secs_f64(1.2 / f64::from(ready))),
                ..Sample::default()
            });
        }
        assert!((6..=7).contains(&world.size()), "{:?}", world.acts);
        for _ in 0..200 {
            world.second(|_| Sample { p99: None, ..Sample::default() });
        }
        assert_eq!(world.size(), 2);
    }

    #[test]
    fn a_pool_below_its_least_is_filled_and_one_above_its_most_is_cut() {
        let mut world = World::new(ScaleTarget::Requests(100.0), 1);
        world.ready = 0;
        world.second(|_| Sample::default());
        assert_eq!(world.acts, [(1, Step::Add(2))]);
        world.ready = 12;
        world.coming.clear();
        world.second(|_| Sample::default());
        assert_eq!(world.ready, 8);
    }

    #[test]
    fn backends_that_do_not_come_up_are_tried_again_within_bounds() {
        let mut world = World::new(ScaleTarget::InFlight(20.0), 1_000);
        world.in_flight(60, 1_000.0);
        assert_eq!(world.size(), 8);
        assert_eq!(world.acts, [(1, Step::Add(6))], "those that are coming count");
    }

    proptest! {
        /// Whatever the load: within bounds, and a load that stands still comes to rest.
        #[test]
        fn it_stays_within_bounds_and_comes_to_rest(
            loads in prop::collection::vec(0.0..400.0_f64, 1..20),
            boot in 0..8_u32,
        ) {
            let mut world = World::new(ScaleTarget::InFlight(20.0), boot);
            for load in &loads {
                world.in_flight(7, *load);
                prop_assert!((2..=8).contains(&world.size()), "{:?}", world.acts);
            }
            world.in_flight(120, loads[0]);
            let acts = world.acts.len();
            world.in_flight(120, loads[0]);
            prop_assert_eq!(world.acts.len(), acts, "no flapping");
        }

        /// Noise of a twentieth around a load that the pool carries moves nothing.
        #[test]
        fn noise_is_no_load(noise in prop::collection::vec(-0.05..0.05_f64, 60), size in 2..8_u32) {
            let mut world = World::new(ScaleTarget::InFlight(20.0), 1);
            world.ready = size;
            for part in noise {
                world.second(|_| Sample {
                    in_flight: 20.0 * f64::from(size) * (1.0 + part),
                    ..Sample::default()
                });
            }
            prop_assert_eq!(world.acts, []);
        }
    }
}
