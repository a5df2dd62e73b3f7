use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::*;

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn idle(micros: f32, weight: u32) -> Candidate {
    Candidate { micros, in_flight: 0, weight }
}

#[test]
fn a_peak_counts_at_once_and_is_forgotten_slowly() {
    let estimate = Estimate::default().observe(millis(10), 0);
    assert_eq!(estimate.micros(0), 10_000.0);
    let peak = estimate.observe(millis(500), 100);
    assert_eq!(peak.micros(100), 500_000.0);
    let later = peak.observe(millis(10), 1100);
    assert!((450_000.0..460_000.0).contains(&later.micros(1100)), "{later:?}");
    assert!((180_000.0..190_000.0).contains(&peak.micros(10_100)), "an e-th after the decay time: {peak:?}");
}

#[test]
fn failing_fast_attracts_nobody() {
    let estimate = Estimate::default().observe(millis(10), 0);
    assert_eq!(estimate.observe_failure(millis(1), 50), estimate);
    assert_eq!(estimate.observe_failure(millis(900), 50).micros(50), 900_000.0);
}

#[test]
fn time_may_wrap_and_stand_a_little_back() {
    let estimate = Estimate::default().observe(millis(10), u32::MAX - 10);
    assert!(estimate.micros(10) > 9_900.0);
    assert_eq!(Estimate::default().observe(millis(10), 20).micros(15), 10_000.0);
}

proptest! {
    #[test]
    fn an_estimate_survives_packing(micros in 0.0f32..1e12, at_millis: u32) {
        let estimate = Estimate { micros, at_millis };
        prop_assert_eq!(Estimate::unpack(estimate.pack()), estimate);
    }

    #[test]
    fn an_estimate_stays_between_what_was_measured(took in prop::collection::vec(1u64..10_000, 1..50), step in 0u32..5000) {
        let mut estimate = Estimate::default();
        let mut now = 0u32;
        for &took in &took {
            estimate = estimate.observe(millis(took), now);
            prop_assert!(estimate.micros(now) >= took as f32 * 1000.0 * 0.999);
            now = now.wrapping_add(step);
        }
        let most = took.iter().max().map_or(0.0, |most| *most as f32 * 1000.0);
        prop_assert!(estimate.micros(now) <= most * 1.001);
    }

    #[test]
    fn the_worse_of_two_is_never_chosen(a in 1.0f32..1e6, b in 1.0f32..1e6, out_a in 0u32..50, out_b in 0u32..50, seed: u64) {
        let pair = [Candidate { micros: a, in_flight: out_a, weight: 100 }, Candidate { micros: b, in_flight: out_b, weight: 100 }];
        let picked = pick(pair.into_iter().enumerate(), &mut SmallRng::seed_from_u64(seed)).unwrap();
        let cost = |at: usize| f64::from(pair[at].micros) * f64::from(pair[at].in_flight + 1);
        prop_assert!(cost(picked) <= cost(1 - picked) * 1.0001);
    }

    #[test]
    fn weight_zero_is_never_chosen(weights in prop::collection::vec(0u32..3, 0..6), seed: u64) {
        let candidates = weights.iter().map(|&weight| idle(1000.0, weight)).enumerate();
        match pick(candidates, &mut SmallRng::seed_from_u64(seed)) {
            Some(at) => prop_assert!(weights[at] > 0),
            None => prop_assert!(weights.iter().all(|&weight| weight == 0)),
        }
    }

    #[test]
    fn requests_that_stay_are_spread_by_weight(weights in prop::collection::vec(1u32..5, 2..6), seed: u64) {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut all: Vec<_> = weights.iter().map(|&weight| idle(1000.0, weight)).collect();
        for _ in 0..3000 {
            let at = pick(all.iter().copied().enumerate(), &mut rng).unwrap();
            all[at].in_flight += 1;
        }
        let total: u32 = weights.iter().sum();
        for candidate in all {
            let fair = 3000.0 * f64::from(candidate.weight) / f64::from(total);
            prop_assert!((f64::from(candidate.in_flight) - fair).abs() < 0.1 * fair + 20.0, "{candidate:?} {fair}");
        }
    }
}

#[test]
fn while_nothing_is_in_flight_equals_get_their_weights() {
    let mut rng = SmallRng::seed_from_u64(5);
    let all = [idle(1000.0, 100), idle(1000.0, 200), idle(1000.0, 100)];
    let mut had = [0u32; 3];
    for _ in 0..20_000 {
        had[pick(all.into_iter().enumerate(), &mut rng).unwrap()] += 1;
    }
    assert!((9600..10_400).contains(&had[1]), "{had:?}");
}

#[test]
fn a_slow_one_gets_little_and_is_asked_again_when_its_estimate_has_decayed() {
    let mut rng = SmallRng::seed_from_u64(6);
    let fast = Estimate::default().observe(millis(10), 0);
    let slow = Estimate::default().observe(millis(1000), 0);
    let share = |fast: Estimate, now: u32, rng: &mut SmallRng| {
        let all = [idle(fast.micros(now), 100), idle(slow.micros(now), 100)];
        (0..1000).filter(|_| pick(all.into_iter().enumerate(), rng) == Some(1)).count()
    };
    assert_eq!(share(fast, 0, &mut rng), 0);
    // The fast one is measured all the time, the slow one is not.
    let fast_later = fast.observe(millis(10), 60_000);
    assert_eq!(share(fast_later, 60_000, &mut rng), 1000, "it starves nobody for ever");
}

#[test]
fn one_request_finds_out_about_a_new_one() {
    let mut rng = SmallRng::seed_from_u64(7);
    let known = Candidate { micros: 50_000.0, in_flight: 3, weight: 100 };
    let fresh = idle(0.0, 100);
    let asked = Candidate { in_flight: 1, ..fresh };
    for _ in 0..100 {
        assert_eq!(pick([known, fresh].into_iter().enumerate(), &mut rng), Some(1));
        assert_eq!(pick([known, asked].into_iter().enumerate(), &mut rng), Some(0));
    }
}
