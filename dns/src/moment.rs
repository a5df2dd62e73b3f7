//! The time as the server is told it.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// One moment by both clocks that answers need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// For spans of time: TTLs towards a change, rates.
    pub monotonic: Instant,
    /// Seconds since 1970, for the age of cookies, which other servers made too.
    pub unix: u64,
}

/// Where the server reads the time from: the clocks of the process, handed in.
#[derive(Clone)]
pub struct Clock {
    monotonic: Arc<dyn Fn() -> Instant + Send + Sync>,
    unix: Arc<dyn Fn() -> u64 + Send + Sync>,
}

impl Clock {
    /// Takes one clock for spans of time, and one for seconds since 1970.
    pub fn new(
        monotonic: impl Fn() -> Instant + Send + Sync + 'static,
        unix: impl Fn() -> u64 + Send + Sync + 'static,
    ) -> Self {
        Self { monotonic: Arc::new(monotonic), unix: Arc::new(unix) }
    }

    /// Reads both.
    pub(crate) fn now(&self) -> Moment {
        Moment { monotonic: self.monotonic(), unix: (self.unix)() }
    }

    /// Reads the one for spans of time.
    pub(crate) fn monotonic(&self) -> Instant {
        (self.monotonic)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clock").finish_non_exhaustive()
    }
}

/// How old the seconds since 1970 may be; they count in hours.
const STALE: Duration = Duration::from_secs(1);

/// The time for a thread that wants it for each batch, and so reads the seconds no oftener than they go on.
pub(crate) struct Watch {
    clock: Clock,
    /// When both were read.
    read: Moment,
}

impl Watch {
    pub(crate) fn new(clock: Clock) -> Self {
        let read = clock.now();
        Self { clock, read }
    }

    pub(crate) fn now(&mut self) -> Moment {
        let monotonic = self.clock.monotonic();
        if monotonic.saturating_duration_since(self.read.monotonic) >= STALE {
            self.read = Moment { monotonic, unix: (self.clock.unix)() };
        }
        Moment { monotonic, ..self.read }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::fixtures::start;

    #[test]
    fn a_watch_reads_the_seconds_no_oftener_than_they_go_on() {
        let millis = Arc::new(AtomicU64::new(0));
        let reads = Arc::new(AtomicU64::new(0));
        let begin = start();
        let (at, wall, counted) = (Arc::clone(&millis), Arc::clone(&millis), Arc::clone(&reads));
        let clock = Clock::new(
            move || begin.monotonic + Duration::from_millis(at.load(Ordering::Relaxed)),
            move || {
                counted.fetch_add(1, Ordering::Relaxed);
                begin.unix + wall.load(Ordering::Relaxed) / 1000
            },
        );
        let mut watch = Watch::new(clock);
        for (passed, unix, read) in [(0, 0, 1), (999, 0, 1), (1000, 1, 2), (1999, 1, 2), (7000, 7, 3)] {
            millis.store(passed, Ordering::Relaxed);
            let monotonic = begin.monotonic + Duration::from_millis(passed);
            assert_eq!(watch.now(), Moment { monotonic, unix: begin.unix + unix }, "after {passed} ms");
            assert_eq!(reads.load(Ordering::Relaxed), read);
        }
    }
}
