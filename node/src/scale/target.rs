//! How many backends a pool should have. Pure.
//!
//! ```text
//!   load per backend / target     > 1.1 ──▶ grow; what was started and is still on its way counts ([`super::coming`])
//!                           0.9 … 1.1 ──▶ stay
//!                             fits less ──▶ shrink to the most that any moment of the last `cooldown` needed
//! ```
//!
//! What is in flight and what is asked a second do not depend on how many backends there are, so the right number follows
//! at once. Latency does: there the number moves by the ratio, at most doubled, and back by one.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use gossip::id::NodeName;

use super::coming::{Brought, By, Coming, News, Started};
use super::wire::Plan;
use crate::config::model::{Scale, ScaleTarget};

/// The load must be so far above the target before the pool grows.
const ABOVE: f64 = 1.1;
/// A smaller pool must be so far below it before the pool shrinks.
const BELOW: f64 = 0.9;
/// Loads are averaged over so many samples.
const SMOOTH: usize = 3;
/// A pool grows to what each of so many last samples asks for. A mean would lag behind a load that has jumped, and a first
/// decision for half of it would hold up the one for the rest.
const SURE: usize = 2;

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
    /// The number of backends that the load asks for, within the bounds; with those that are on their way.
    pub(super) wanted: u32,
    /// What to do now.
    pub(super) step: Step,
    /// How many there are, with those that are counted on though they are yet to come.
    pub(super) counted: u32,
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
    /// What was started and has not been seen yet.
    coming: Coming,
    /// What came of this node's own decisions since it was last taken.
    news: Vec<(u64, News, Started)>,
    acted: Option<Instant>,
    /// When something was last done before the last decision, and which that is.
    before: Option<((u64, By), Option<Instant>)>,
}

impl Tracker {
    /// One sample, some once a second, and the backends that the pool has.
    pub(super) fn look(&mut self, scale: &Scale, sample: Sample, brought: Brought, now: Instant) -> Verdict {
        self.news.extend(self.coming.look(brought, now));
        self.samples.push_back(sample);
        if self.samples.len() > SMOOTH {
            self.samples.pop_front();
        }
        let since = *self.since.get_or_insert(now);
        let bounded = |count: f64| (count.ceil().max(0.0) as u32).clamp(scale.min, scale.max);
        let ready = f64::from(sample.ready.max(1));
        let mean =
            |of: fn(&Sample) -> f64| self.samples.iter().map(of).sum::<f64>() / self.samples.len() as f64;
        let last = self.samples.iter().rev().take(SURE);
        let least = |of: fn(&Sample) -> f64| last.clone().map(of).fold(f64::INFINITY, f64::min);
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
            ScaleTarget::InFlight(_) => (least(|sample| sample.in_flight) / each, load / each / BELOW),
            ScaleTarget::Requests(_) => (least(|sample| sample.requests) / each, load / each / BELOW),
        };
        let (grow_to, shrink_to) = (bounded(grow_to), bounded(shrink_to));
        self.needed.push_back((now, shrink_to));
        while self.needed.front().is_some_and(|(at, _)| now.saturating_duration_since(*at) > scale.cooldown) {
            self.needed.pop_front();
        }
        let counted = sample.total.saturating_add(self.coming.count());
        let add = |to: u32| if to > counted { Step::Add(to - counted) } else { Step::Stay };
        let step = if sample.total < scale.min {
            add(scale.min)
        } else if sample.total > scale.max {
            Step::Remove(sample.total - scale.max)
        } else if grow_to > sample.ready && ratio > ABOVE {
            add(grow_to)
        } else {
            self.shrink(scale, sample, since, now)
        };
        let wanted = match step {
            Step::Stay => counted.clamp(scale.min, scale.max),
            Step::Add(more) => counted + more,
            Step::Remove(fewer) => sample.total - fewer,
        };
        Verdict { wanted, step, counted, measured: load / ready }
    }

    /// What came of this node's own decisions since the last time.
    pub(super) fn take_news(&mut self) -> Vec<(u64, News, Started)> {
        std::mem::take(&mut self.news)
    }

    /// What is on its way.
    pub(super) fn coming(&self) -> &Coming {
        &self.coming
    }

    /// What this node knew of in its life before.
    pub(super) fn remembers(&mut self, decision: (u64, By), missing: u32, left: Duration, now: Instant) {
        self.coming.remembers(decision, missing, left, now);
    }

    /// The step of the last verdict is being done by this node, as the decision of this number.
    pub(super) fn acts(&mut self, number: u64, step: Step, now: Instant) {
        self.seen((number, None), now);
        if let Step::Add(count) = step {
            self.coming.acts(number, count, now);
        }
    }

    /// This node's act is over.
    pub(super) fn acted(&mut self, number: u64, now: Instant) {
        self.coming.acted(number, now);
    }

    /// This node has granted another one that plan: what it starts is counted on as if this node had started it, so that
    /// nobody starts others should that one die in the act.
    pub(super) fn granted(&mut self, number: u64, by: NodeName, plan: Plan, now: Instant) {
        self.remember((number, Some(by.clone())));
        self.coming.granted(number, by, plan.wanted.saturating_sub(plan.counted), now);
    }

    /// Somebody counts on so many backends, those among them that are on their way.
    pub(super) fn heard(&mut self, counted: u32, now: Instant) {
        let Some(last) = self.samples.back() else { return };
        let own = last.total.saturating_add(self.coming.count());
        self.coming.heard(counted.saturating_sub(own), now);
    }

    /// Somebody did something, as others say.
    pub(super) fn seen(&mut self, decision: (u64, By), now: Instant) {
        self.coming.decided(&decision);
        self.remember(decision);
        self.acted = Some(now);
    }

    /// A decision failed, and may have begun something.
    pub(super) fn failed(&mut self, decision: &(u64, By), now: Instant) {
        self.coming.failed(decision, now);
    }

    /// Nothing came of a decision, and nothing was begun: nothing is counted on, and nothing need be waited for.
    pub(super) fn undone(&mut self, decision: &(u64, By)) {
        self.coming.undone(decision);
        if let Some((_, acted)) = self.before.take_if(|before| before.0 == *decision) {
            self.acted = acted;
        }
    }

    fn remember(&mut self, decision: (u64, By)) {
        // Of two that asked for one number the last to be heard of has it.
        if self.before.as_ref().is_none_or(|(before, _)| *before != decision && before.0 <= decision.0) {
            self.before = Some((decision, self.acted));
        }
    }

    /// How many backends this node counts on, when somebody who counts on fewer asks to start more though some are on their
    /// way.
    pub(super) fn objects(&mut self, by: &NodeName, number: u64, plan: Plan) -> Option<u32> {
        let total = self.samples.back()?.total;
        if plan.wanted <= plan.counted {
            return None;
        }
        let unknown_to_it = |coming: &Coming| {
            let counted = total.saturating_add(coming.count_first_hand());
            (counted > total && counted > plan.counted).then_some(counted)
        };
        unknown_to_it(&self.coming)?;
        self.coming.forgives(by, number);
        unknown_to_it(&self.coming)
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
    use gossip::id::BackendId;
    use proptest::prelude::*;

    use super::*;
    use crate::config::model::ScaleVia;
    use crate::registry::fixture::node;

    const SECOND: Duration = Duration::from_secs(1);

    fn scale(target: ScaleTarget) -> Scale {
        let cooldown = Duration::from_secs(20);
        Scale { min: 2, max: 8, target, cooldown, via: ScaleVia::Exec(Vec::new()), dry_run: false }
    }

    /// The first so many backends.
    fn present(count: u32) -> Brought {
        Brought { present: (0..u64::from(count)).map(BackendId).collect(), ..Brought::default() }
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
            let verdict = self.tracker.look(&self.scale, sample, present(total), self.clock.now());
            match verdict.step {
                Step::Stay => return,
                Step::Add(more) => self.coming.extend((0..more).map(|_| self.boot)),
                Step::Remove(fewer) => self.ready -= fewer,
            }
            self.tracker.acts(self.seconds, verdict.step, self.clock.now());
            self.tracker.acted(self.seconds, self.clock.now());
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
    fn a_load_that_jumps_is_one_decision_and_a_moment_is_none() {
        let mut world = World::new(ScaleTarget::InFlight(20.0), 3);
        world.in_flight(30, 15.0);
        world.in_flight(1, 150.0);
        world.in_flight(10, 15.0);
        assert_eq!(world.acts, [], "one second");
        world.in_flight(10, 150.0);
        assert_eq!(world.acts, [(43, Step::Add(6))]);
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

    /// A tracker on a virtual clock, and a pool of two that should be five.
    struct Busy {
        clock: Clock,
        tracker: Tracker,
        total: u32,
    }

    impl Busy {
        fn new() -> Self {
            Self { clock: Clock::simulated(Wall(0)), tracker: Tracker::default(), total: 2 }
        }

        fn second(&mut self) -> Verdict {
            let total = self.total;
            let sample = Sample { in_flight: 100.0, ready: total, total, ..Sample::default() };
            self.clock.advance(SECOND);
            let scale = scale(ScaleTarget::InFlight(20.0));
            self.tracker.look(&scale, sample, present(total), self.clock.now())
        }

        fn look(&mut self, seconds: u64) -> Step {
            (0..seconds).map(|_| self.second().step).last().expect("a second at least")
        }
    }

    #[test]
    fn who_takes_over_counts_on_what_the_dead_one_started() {
        let (mut heir, mut stranger) = (Busy::new(), Busy::new());
        assert_eq!((heir.look(1), stranger.look(1)), (Step::Add(3), Step::Add(3)));
        heir.tracker.granted(5, node("a"), Plan { counted: 2, wanted: 5 }, heir.clock.now());
        assert_eq!((heir.look(59), stranger.look(59)), (Step::Stay, Step::Add(3)));
        assert_eq!(heir.tracker.objects(&node("b"), 9, Plan { counted: 2, wanted: 5 }), Some(5));
        assert_eq!(
            heir.tracker.objects(&node("b"), 9, Plan { counted: 5, wanted: 6 }),
            None,
            "that one knows"
        );
        stranger.tracker.heard(5, stranger.clock.now());
        assert_eq!(stranger.look(1), Step::Stay);
        assert_eq!(stranger.tracker.objects(&node("b"), 9, Plan { counted: 2, wanted: 5 }), None, "hearsay");
        assert_eq!(heir.look(1), Step::Add(3), "they never came");
        heir.tracker.granted(6, node("a"), Plan { counted: 2, wanted: 4 }, heir.clock.now());
        assert_eq!(heir.look(1), Step::Add(1), "one more than was started is needed");
    }

    /// That nothing came of its question may not have been heard.
    #[test]
    fn who_asks_again_has_not_begun_what_it_never_said_it_would() {
        let mut busy = Busy::new();
        busy.look(1);
        let now = busy.clock.now();
        busy.tracker.granted(5, node("a"), Plan { counted: 2, wanted: 4 }, now);
        busy.tracker.granted(6, node("a"), Plan { counted: 2, wanted: 5 }, now);
        busy.tracker.granted(7, node("b"), Plan { counted: 2, wanted: 3 }, now);
        busy.tracker.seen((5, Some(node("a"))), now);
        let mut objects =
            |by: &str, number, counted| busy.tracker.objects(&node(by), number, Plan { counted, wanted: 9 });
        assert_eq!(objects("a", 6, 8), None, "it counts on all");
        assert_eq!(objects("c", 8, 2), Some(8), "another");
        assert_eq!(objects("a", 6, 2), Some(8), "not after it");
        assert_eq!(objects("a", 8, 2), Some(5), "what it has begun counts, whatever it has forgotten");
        assert_eq!(objects("a", 8, 5), None);
        assert_eq!(busy.tracker.coming().count(), 3);
    }

    #[test]
    fn what_was_never_begun_is_not_counted_on() {
        let mut busy = Busy::new();
        assert_eq!(busy.look(1), Step::Add(3));
        busy.tracker.granted(7, node("a"), Plan { counted: 2, wanted: 5 }, busy.clock.now());
        busy.tracker.seen((7, Some(node("a"))), busy.clock.now());
        assert_eq!(busy.look(1), Step::Stay);
        busy.tracker.undone(&(7, Some(node("b"))));
        assert_eq!(busy.look(1), Step::Stay, "another decision");
        busy.tracker.undone(&(7, Some(node("a"))));
        assert_eq!(busy.look(1), Step::Add(3), "at once");
    }

    #[test]
    fn what_may_have_begun_is_waited_for_a_little() {
        let mut busy = Busy::new();
        busy.look(1);
        busy.tracker.acts(7, Step::Add(3), busy.clock.now());
        busy.tracker.failed(&(7, None), busy.clock.now());
        assert_eq!(busy.look(9), Step::Stay);
        assert_eq!(busy.look(1), Step::Add(3));
        assert_eq!(busy.tracker.take_news(), [], "that it failed was told");
    }

    #[test]
    fn backends_that_never_come_are_started_ever_more_seldom() {
        let mut busy = Busy::new();
        let (mut acts, mut told) = (Vec::new(), Vec::new());
        for second in 0..1_000 {
            if let Step::Add(count) = busy.look(1) {
                acts.push(second);
                busy.tracker.acts(second, Step::Add(count), busy.clock.now());
                busy.tracker.acted(second, busy.clock.now());
            }
            told.extend(busy.tracker.take_news());
        }
        assert_eq!(acts, [0, 60, 180, 420, 720], "after 60, 120, 240, 300 s");
        let words = |(number, news, started): &(u64, News, Started)| format!("{number} {news:?}: {started}");
        let told: Vec<String> = told.iter().take(3).map(words).collect();
        assert_eq!(
            told,
            [
                "0 Late: 3 started, none appeared after 30 s",
                "0 GivenUp: 3 started, none appeared after 60 s",
                "60 Late: 3 started, none appeared after 60 s",
            ]
        );
        busy.total = 5;
        busy.look(1);
        assert_eq!(busy.tracker.take_news()[0].1, News::Come);
        busy.look(10);
        busy.total = 2;
        let step = busy.look(1);
        busy.tracker.acts(2_000, step, busy.clock.now());
        busy.tracker.acted(2_000, busy.clock.now());
        assert_eq!(
            (busy.look(59), busy.look(1)),
            (Step::Stay, Step::Add(3)),
            "patience is as it was at first"
        );
    }

    #[test]
    fn who_is_on_its_way_counts_in_the_desired_size() {
        let mut busy = Busy::new();
        let step = busy.look(1);
        busy.tracker.acts(1, step, busy.clock.now());
        let verdict = busy.second();
        assert_eq!((verdict.counted, verdict.wanted, verdict.step), (5, 5, Step::Stay));
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

        /// Whatever the load, however long new backends need, and even if some never come: those that are there and those
        /// that were started and are not given up are never more than the most.
        #[test]
        fn what_is_on_its_way_counts_towards_the_most(
            loads in prop::collection::vec(0.0..400.0_f64, 1..20),
            boots in prop::collection::vec(prop::option::weighted(0.8, 0..60_u64), 1..40),
        ) {
            let scale = scale(ScaleTarget::InFlight(20.0));
            let (mut tracker, clock) = (Tracker::default(), Clock::simulated(Wall(0)));
            let mut boots = boots.iter().cycle();
            let mut present = present(2).present;
            // When each was started, and when it comes.
            let mut started: Vec<(u64, Option<u64>)> = Vec::new();
            for second in 0..loads.len() as u64 * 25 {
                clock.advance(SECOND);
                let here = started.iter().zip(100..).filter(|((_, comes), _)| *comes == Some(second));
                present.extend(here.map(|(_, id)| BackendId(id)));
                let total = present.len() as u32;
                let in_flight = loads[(second / 25) as usize];
                let sample = Sample { in_flight, ready: total, total, ..Sample::default() };
                let brought = Brought { present: present.clone(), ..Brought::default() };
                let verdict = tracker.look(&scale, sample, brought, clock.now());
                match verdict.step {
                    Step::Stay => {}
                    Step::Add(more) => {
                        let boots = boots.by_ref().take(more as usize);
                        started.extend(boots.map(|boot| (second, boot.map(|boot| second + 1 + boot))));
                    }
                    Step::Remove(fewer) => (0..fewer).for_each(|_| _ = present.pop_last()),
                }
                tracker.acts(second, verdict.step, clock.now());
                tracker.acted(second, clock.now());
                let is_coming = |(at, comes): &&(u64, Option<u64>)| {
                    second < at + 60 && comes.is_none_or(|comes| comes > second)
                };
                let coming = started.iter().filter(is_coming).count();
                prop_assert!(present.len() + coming <= 8, "{second} s: {} and {coming}", present.len());
            }
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
