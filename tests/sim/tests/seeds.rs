//! Thousands of lives of the store: each promise holds in all of them.
//!
//! `MERIDIAN_SIM_SEEDS` says how many; a seed that failed runs alone with `cargo run -p sim -- --from SEED --seeds 1`.

use sim::sweep::sweep;
use sim::{Scenario, run};

/// What CI has time for.
const SEEDS: u64 = 10_000;

#[test]
fn every_promise_is_kept_in_every_life() {
    let seeds =
        std::env::var("MERIDIAN_SIM_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(SEEDS);
    let tally = sweep(0, seeds, &|_| {}).unwrap_or_else(|history| panic!("{history}"));
    println!("{seeds} seeds: {tally:?}");
    assert!(tally.acknowledged > seeds && tally.committed > seeds, "hardly anything happened: {tally:?}");
    assert!(tally.superseded > seeds && tally.followed > seeds / 50, "hardly anybody was sent on: {tally:?}");
}

#[test]
fn a_seed_is_one_run() {
    for seed in 0..20 {
        let scenario = Scenario::new(seed);
        assert_eq!(run(&scenario, &|_| {}), run(&scenario, &|_| {}), "seed {seed}");
    }
}
