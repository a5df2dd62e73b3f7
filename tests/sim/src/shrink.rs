//! The fewest steps of a scenario that still break a promise: delta debugging (Zeller and Hildebrandt, "Simplifying and
//! Isolating Failure-Inducing Input", 2002), then what else can be made simpler.

use crate::ledger::Violation;
use crate::scenario::Scenario;

/// So many runs at most.
const RUNS_MAX: usize = 600;

/// Makes a failing scenario smaller as long as it breaks the same rule.
pub fn shrink(
    scenario: &Scenario,
    first: Violation,
    run: impl Fn(&Scenario) -> Result<(), Violation>,
) -> (Scenario, Violation) {
    let (mut best, mut violation) = (scenario.clone(), first);
    let mut runs = 0;
    let mut attempt = |smaller: Scenario, best: &mut Scenario, violation: &mut Violation| {
        runs += 1;
        match run(&smaller) {
            Err(broken) if broken.rule == violation.rule && runs <= RUNS_MAX => {
                (*best, *violation) = (smaller, broken);
                true
            }
            _ => false,
        }
    };
    let mut simpler = best.clone();
    simpler.mood = simpler.mood.healed();
    attempt(simpler, &mut best, &mut violation);
    let mut chunk = best.steps.len().div_ceil(2);
    while chunk > 0 {
        let mut from = 0;
        let mut removed = false;
        while from < best.steps.len() {
            let mut smaller = best.clone();
            smaller.steps.drain(from..(from + chunk).min(best.steps.len()));
            match attempt(smaller, &mut best, &mut violation) {
                true => removed = true,
                false => from += chunk,
            }
        }
        if !removed || chunk > 1 {
            chunk /= 2;
        }
    }
    (best, violation)
}

/// A scenario in words, for who must repair what it shows.
pub fn tell(scenario: &Scenario, violation: &Violation) -> String {
    let mut text = format!("seed {}: {violation}\n", scenario.seed);
    text += &format!("  nodes {:?}, clocks off by {:?} ms\n", scenario.nodes, scenario.skew);
    text += &format!("  {:?}, hearsay {}\n", scenario.mood, scenario.hearsay);
    for (at, step) in &scenario.steps {
        text += &format!("  {:>10.6} s  {step:?}\n", at.as_secs_f64());
    }
    text
}
