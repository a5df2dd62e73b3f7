use super::*;
use BackendState::{Down, GoingDown, GoingUp, Unknown, Up};
use Outcome::{Failure, Success};
use proptest::prelude::*;

const DEFAULT: Thresholds = Thresholds { rise: 2, fall: 3 };

fn at(millis: u64) -> Hlc {
    Hlc::from_millis(millis)
}

/// Feeds `outcomes` at 1 ms, 2 ms ... and returns the state after each.
fn states(machine: &mut Machine, outcomes: &[Outcome]) -> Vec<BackendState> {
    (1..)
        .zip(outcomes)
        .map(|(millis, outcome)| {
            machine.probed(*outcome, at(millis));
            machine.state()
        })
        .collect()
}

#[test]
fn transition_table() {
    // thresholds, past, results, states after each result
    let table: &[(Thresholds, Past, &[Outcome], &[BackendState])] = &[
        (DEFAULT, Past::Nothing, &[Success], &[Up]),
        (DEFAULT, Past::Nothing, &[Failure, Failure, Failure], &[Unknown, Unknown, Down]),
        (DEFAULT, Past::Nothing, &[Failure, Failure, Success], &[Unknown, Unknown, Up]),
        (DEFAULT, Past::Up(at(9)), &[Success], &[Up]),
        (DEFAULT, Past::Down(at(9)), &[Success, Success], &[Unknown, Up]),
        (DEFAULT, Past::Down(at(9)), &[Success, Failure, Success], &[Unknown, Unknown, Unknown]),
        (DEFAULT, Past::Down(at(9)), &[Failure, Failure, Failure], &[Unknown, Unknown, Down]),
        (DEFAULT, Past::Nothing, &[Success, Failure, Success], &[Up, GoingDown, Up]),
        (
            DEFAULT,
            Past::Nothing,
            &[Success, Failure, Failure, Success, Failure, Failure, Failure],
            &[Up, GoingDown, GoingDown, Up, GoingDown, GoingDown, Down],
        ),
        (
            DEFAULT,
            Past::Nothing,
            &[Failure, Failure, Failure, Failure, Success, Failure, Success, Success],
            &[Unknown, Unknown, Down, Down, GoingUp, Down, GoingUp, Up],
        ),
        (
            Thresholds { rise: 1, fall: 1 },
            Past::Nothing,
            &[Success, Failure, Success, Failure],
            &[Up, Down, Up, Down],
        ),
        (Thresholds { rise: 0, fall: 0 }, Past::Nothing, &[Failure, Success], &[Down, Up]),
    ];
    for (thresholds, past, outcomes, expected) in table {
        let mut machine = Machine::new(*thresholds, *past);
        assert_eq!(states(&mut machine, outcomes), *expected, "{thresholds:?} {past:?} {outcomes:?}");
    }
}

/// Every state meets every result, at the last step before the threshold and at the threshold.
#[test]
fn every_state_has_an_answer_to_every_result() {
    let reach: &[(BackendState, &[Outcome])] = &[
        (Unknown, &[]),
        (Unknown, &[Failure, Failure]),
        (Up, &[Success]),
        (GoingDown, &[Success, Failure]),
        (GoingDown, &[Success, Failure, Failure]),
        (Down, &[Failure, Failure, Failure]),
        (GoingUp, &[Failure, Failure, Failure, Success]),
    ];
    let after = |start: &[Outcome], outcome| {
        let mut machine = Machine::new(DEFAULT, Past::Nothing);
        states(&mut machine, start);
        machine.probed(outcome, at(100));
        machine.state()
    };
    let got: Vec<_> =
        reach.iter().map(|(state, start)| (*state, after(start, Success), after(start, Failure))).collect();
    assert_eq!(
        got,
        [
            (Unknown, Up, Unknown),
            (Unknown, Up, Down),
            (Up, Up, GoingDown),
            (GoingDown, Up, GoingDown),
            (GoingDown, Up, Down),
            (Down, GoingUp, Down),
            (GoingUp, Up, Down),
        ]
    );
}

#[test]
fn since_tells_the_breaks() {
    let mut machine = Machine::new(DEFAULT, Past::Nothing);
    states(&mut machine, &[Success, Success]);
    assert_eq!(machine.since(), Hlc::ZERO, "no break known");
    states(&mut machine, &[Failure, Failure, Success]);
    assert_eq!(machine.since(), Hlc::ZERO, "a stumble is no break");
    machine.probed(Failure, at(10));
    machine.probed(Failure, at(20));
    machine.probed(Failure, at(30));
    assert_eq!((machine.state(), machine.since()), (Down, at(10)), "it began with the first failure");
    machine.probed(Success, at(40));
    assert_eq!((machine.state(), machine.since()), (GoingUp, at(10)));
    machine.probed(Success, at(50));
    assert_eq!((machine.state(), machine.since()), (Up, at(50)));
}

#[test]
fn a_new_prober_carries_on_with_the_breaks_known() {
    let mut machine = Machine::new(DEFAULT, Past::Up(at(7)));
    machine.probed(Success, at(100));
    assert_eq!((machine.state(), machine.since()), (Up, at(7)));

    let mut machine = Machine::new(DEFAULT, Past::Down(at(7)));
    for millis in [100, 110, 120] {
        machine.probed(Failure, at(millis));
    }
    assert_eq!((machine.state(), machine.since()), (Down, at(7)));

    let mut machine = Machine::new(DEFAULT, Past::Down(at(7)));
    machine.probed(Success, at(100));
    machine.probed(Success, at(110));
    assert_eq!((machine.state(), machine.since()), (Up, at(110)));
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![Just(Success), Just(Failure)]
}

fn past() -> impl Strategy<Value = Past> {
    prop_oneof![Just(Past::Nothing), Just(Past::Up(at(1))), Just(Past::Down(at(1)))]
}

proptest! {
    #[test]
    fn the_side_changes_only_after_its_threshold(
        rise in 1u32..5,
        fall in 1u32..5,
        past in past(),
        outcomes in prop::collection::vec(outcome(), 0..200),
    ) {
        let mut machine = Machine::new(Thresholds { rise, fall }, past);
        let takes = |state| matches!(state, Up | GoingDown);
        let mut run = (Success, 0);
        for (millis, outcome) in (10..).zip(outcomes) {
            let before = machine.state();
            let changed = machine.probed(outcome, at(millis));
            run = if run.0 == outcome { (outcome, run.1 + 1) } else { (outcome, 1) };
            let after = machine.state();
            prop_assert_eq!(changed, before != after);
            prop_assert_ne!((before != Unknown, after), (true, Unknown), "nothing is forgotten");
            if before != Unknown && takes(before) != takes(after) {
                prop_assert_eq!(run.1, if takes(after) { rise } else { fall });
                let when = if takes(after) { machine.since() == at(millis) } else { machine.since() > Hlc::ZERO };
                prop_assert!(when);
            }
            if run.1 >= rise.max(fall) {
                prop_assert_eq!(after, if outcome == Success { Up } else { Down });
            }
        }
    }

    #[test]
    fn the_end_of_a_break_never_moves_back(
        past in past(),
        outcomes in prop::collection::vec(outcome(), 0..200),
    ) {
        let mut machine = Machine::new(DEFAULT, past);
        let mut last = Hlc::ZERO;
        for (millis, outcome) in (10..).zip(outcomes) {
            machine.probed(outcome, at(millis));
            if matches!(machine.state(), Up | GoingDown) {
                prop_assert!(machine.since() >= last);
                last = machine.since();
            }
        }
    }
}
