//! A simulator that finds nothing proves nothing: each bug that is planted is found, and its history is short.

use sim::sweep::sweep;
use storage::plant::Plant;

/// More than the least seed that finds each of them.
const SEEDS: u64 = 500;

fn find(plant: Plant, rules: &[&str]) {
    find_in(SEEDS, plant, rules);
}

fn find_in(seeds: u64, plant: Plant, rules: &[&str]) {
    let history = sweep(0, seeds, &|plants| plants.plant(plant)).expect_err("the bug is not found");
    println!("{history}");
    assert!(
        rules.iter().any(|rule| history.contains(&format!(": {rule} at"))),
        "found as another one: {history}"
    );
    assert!(history.lines().count() < 25, "the history is long: {history}");
}

#[test]
fn a_skipped_acknowledgement_is_found() {
    find(Plant::SkipAck, &["acknowledged", "durable", "repaired"]);
}

#[test]
fn merging_by_arrival_is_found() {
    find(Plant::MergeByArrival, &["one place", "durable", "equal", "repaired"]);
}

#[test]
fn purging_early_is_found() {
    find(Plant::PurgeEarly, &["durable", "equal", "repaired"]);
}

#[test]
fn an_answer_that_nobody_was_asked_for_is_found() {
    // It takes a replica that has missed a move, and is asked before repair has told it.
    find_in(20 * SEEDS, Plant::AnswerAlone, &["superseded", "one place"]);
}

#[test]
fn a_word_of_a_replica_that_does_not_know_yet_is_found() {
    // It takes a look-up in the moment of its return, and an answer that is lost.
    find_in(40 * SEEDS, Plant::DenyEarly, &["found"]);
}

#[test]
fn a_forward_that_is_forgotten_is_found() {
    find(Plant::ForgetForward, &["forward"]);
}
