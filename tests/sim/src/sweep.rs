//! Many seeds, on all cores.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use storage::plant::Plants;

use crate::ledger::Violation;
use crate::scenario::Scenario;
use crate::shrink::{shrink, tell};
use crate::world::{Tally, run};

/// Runs the seeds `from..from + seeds` and gives their sum.
///
/// # Errors
/// The shrunk history of a seed that breaks a promise.
pub fn sweep(from: u64, seeds: u64, plant: &(dyn Fn(&Plants) + Sync)) -> Result<Tally, String> {
    let (next, failed) = (AtomicU64::new(from), AtomicBool::new(false));
    let sum = Mutex::new((Tally::default(), None::<(Scenario, Violation)>));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !failed.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= from + seeds {
                        return;
                    }
                    let scenario = Scenario::new(seed);
                    let outcome = run(&scenario, plant);
                    let mut sum = sum.lock().expect("no thread panics while it adds up");
                    match outcome {
                        Ok(tally) => sum.0.add(tally),
                        Err(violation) => {
                            failed.store(true, Ordering::Relaxed);
                            sum.1.get_or_insert((scenario, violation));
                        }
                    }
                }
            });
        }
    });
    match sum.into_inner().expect("all threads have ended") {
        (tally, None) => Ok(tally),
        (_, Some((scenario, violation))) => {
            let (scenario, violation) = shrink(&scenario, violation, |smaller| run(smaller, plant).map(drop));
            Err(tell(&scenario, &violation))
        }
    }
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.events += other.events;
        self.acknowledged += other.acknowledged;
        self.committed += other.committed;
        self.degraded += other.degraded;
        self.superseded += other.superseded;
        self.forwarded += other.forwarded;
        self.followed += other.followed;
    }
}
