//! `sim --seeds N --from S`: runs so many seeds and prints the shrunk history of the first that breaks a promise.

use std::process::ExitCode;

use sim::sweep::sweep;

fn main() -> ExitCode {
    let mut numbers = [("--seeds", 10_000), ("--from", 0)];
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let number = words.next().and_then(|number| number.parse().ok());
        match (numbers.iter_mut().find(|(name, _)| *name == word), number) {
            (Some((_, value)), Some(number)) => *value = number,
            _ => {
                eprintln!("usage: sim [--seeds N] [--from S]; {word:?} is not understood");
                return ExitCode::from(2);
            }
        }
    }
    let [(_, seeds), (_, from)] = numbers;
    match sweep(from, seeds, &|_| {}) {
        Ok(tally) => {
            println!("{seeds} seeds from {from}: every promise was kept; {tally:?}");
            ExitCode::SUCCESS
        }
        Err(history) => {
            eprintln!("{history}");
            ExitCode::FAILURE
        }
    }
}
