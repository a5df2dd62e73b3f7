//! The scenarios, small: every promise is kept, and a seed is one run. Each run is a process of its own, since chance is.
//!
//! A run that failed is repeated with the command that the failure names.

use std::process::{Command, Output};

fn run(words: &str) -> Output {
    let program = env!("CARGO_BIN_EXE_mesh-sim");
    Command::new(program).args(words.split_whitespace()).output().expect("the program starts")
}

fn keeps_its_promises(words: &str) {
    let Output { status, stdout, stderr } = run(words);
    let (told, broken) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    println!("{told}");
    assert!(status.success(), "cargo run -p mesh-sim -- {words}\n{broken}");
}

#[test]
fn a_death_is_seen_in_time() {
    keeps_its_promises("death --regions 3 --nodes 3 --rounds 5");
}

#[test]
fn loss_kills_nobody() {
    keeps_its_promises("loss --regions 3 --nodes 3 --minutes 5");
}

#[test]
fn stalls_kill_nobody() {
    keeps_its_promises("stalls --regions 3 --nodes 3 --minutes 5");
}

#[test]
fn news_spreads_in_a_few_rounds() {
    keeps_its_promises("spread --regions 4 --nodes 5 --rounds 8");
}

#[test]
fn a_backend_has_three_probers() {
    keeps_its_promises("probes --regions 3 --nodes 4");
}

#[test]
fn halves_without_a_common_seed_find_each_other() {
    keeps_its_promises("partition --regions 2 --nodes 3 --minutes 60");
}

#[test]
fn a_seed_is_one_run() {
    let log = |seed| {
        let Output { stdout, stderr, .. } =
            run(&format!("death --log --regions 3 --nodes 3 --rounds 2 --seed {seed}"));
        (stdout, stderr)
    };
    let (one, again, other) = (log(1), log(1), log(2));
    assert!(one.1.len() > 100 && one == again, "a seed plays differently each time");
    assert_ne!(one, other);
}
