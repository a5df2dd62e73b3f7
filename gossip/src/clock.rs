//! Time, and the only code of the workspace that reads a clock.
//!
//! Three kinds that are never compared with each other (DESIGN §4):
//!
//! ```text
//! Instant   monotonic          timers, time-outs, ages            Clock::now
//! Wall      ms since 1970      logs, certificates, cookie expiry  Clock::wall
//! Hlc       hybrid logical     the order of replicated records    Clock::hlc, Clock::observe
//! ```
//!
//! The hybrid logical clock is that of Kulkarni et al., "Logical Physical Clocks" (OPODIS 2014): 48 bits of
//! milliseconds and a counter of 16 bits. It never runs backwards on one node, and after [`Clock::observe`] it is
//! ahead of everything the node has seen. Its wall part is corrected by the offset that the mesh agrees on.

use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::time::MissedTickBehavior;

/// How far ahead of this node's wall clock a peer's timestamp may be before it is refused.
///
/// Wider than any honest skew, narrow enough that one broken or hostile peer cannot push the whole mesh into the future.
pub const HLC_MAX_AHEAD: Duration = Duration::from_secs(600);

/// A hybrid logical timestamp: 48 bits of milliseconds since 1970, 16 bits of counter. Totally ordered together
/// with the node that made it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Hlc(pub u64);

impl Hlc {
    /// Before everything.
    pub const ZERO: Self = Self(0);

    /// The earliest timestamp of the given millisecond.
    pub fn from_millis(millis: u64) -> Self {
        Self(millis << 16)
    }

    /// The wall part.
    pub fn wall(self) -> Wall {
        Wall(self.0 >> 16)
    }
}

impl fmt::Debug for Hlc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0 >> 16, self.0 & 0xffff)
    }
}

/// Wall time: milliseconds since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Wall(pub u64);

impl Wall {
    /// Whole seconds since 1970.
    pub fn seconds(self) -> u64 {
        self.0 / 1000
    }

    /// This time and `duration` later; the end of time when that overflows.
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration.as_millis().try_into().unwrap_or(u64::MAX)))
    }

    /// How long after `earlier` this is; zero when it is not after it.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// As the standard library has it.
    pub fn system_time(self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.0)
    }
}

/// A peer's timestamp lies more than [`HLC_MAX_AHEAD`] in this node's future; the clock was left as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a peer's timestamp is {0:?} ahead of this node's clock; check the clocks of both")]
pub struct TooFarAhead(pub Duration);

#[derive(Debug)]
enum Source {
    System,
    /// Nanoseconds since `origin`, and the wall time at it.
    Simulated {
        origin: Instant,
        elapsed_nanos: AtomicU64,
        wall_millis_at_origin: u64,
    },
    /// The clock of the tokio runtime, which a simulation pauses, and the wall time at `origin`.
    #[cfg(feature = "simulated")]
    Runtime {
        origin: Instant,
        wall_millis_at_origin: u64,
    },
}

#[derive(Debug)]
struct Inner {
    source: Source,
    last: AtomicU64,
    offset_millis: AtomicI64,
    deviation_millis: AtomicI64,
}

/// A clock. Clones are the same clock.
#[derive(Debug, Clone)]
pub struct Clock(Arc<Inner>);

impl Clock {
    /// The machine's clocks.
    pub fn system() -> Self {
        Self::with(Source::System)
    }

    /// A clock that stands still until [`Clock::advance`] moves it. For simulations and tests.
    #[expect(
        clippy::disallowed_methods,
        reason = "an Instant has no other source; its value is never read again"
    )]
    pub fn simulated(wall: Wall) -> Self {
        Self::with(Source::Simulated {
            origin: Instant::now(),
            elapsed_nanos: AtomicU64::new(0),
            wall_millis_at_origin: wall.0,
        })
    }

    /// The clock of the current tokio runtime, where it is `wall` now. Paused, it stands still while there is work and then
    /// jumps to what is waited for next. For simulations.
    #[cfg(feature = "simulated")]
    pub fn of_runtime(wall: Wall) -> Self {
        Self::with(Source::Runtime { origin: runtime_now(), wall_millis_at_origin: wall.0 })
    }

    fn with(source: Source) -> Self {
        Self(Arc::new(Inner {
            source,
            last: AtomicU64::new(0),
            offset_millis: AtomicI64::new(0),
            deviation_millis: AtomicI64::new(0),
        }))
    }

    /// Moves a simulated clock; a system clock moves by itself and ignores it.
    pub fn advance(&self, by: Duration) {
        if let Source::Simulated { elapsed_nanos, .. } = &self.0.source {
            elapsed_nanos.fetch_add(by.as_nanos() as u64, Ordering::Relaxed);
        }
    }

    /// Monotonic time, for timers.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the monotonic clock")]
    pub fn now(&self) -> Instant {
        match &self.0.source {
            Source::System => Instant::now(),
            Source::Simulated { origin, elapsed_nanos, .. } => {
                *origin + Duration::from_nanos(elapsed_nanos.load(Ordering::Relaxed))
            }
            #[cfg(feature = "simulated")]
            Source::Runtime { .. } => runtime_now(),
        }
    }

    /// Wall time, for logs, certificates and expiry. Uncorrected.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the wall clock")]
    pub fn wall(&self) -> Wall {
        match &self.0.source {
            Source::System => {
                Wall(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64)
            }
            Source::Simulated { elapsed_nanos, wall_millis_at_origin, .. } => {
                Wall(wall_millis_at_origin + elapsed_nanos.load(Ordering::Relaxed) / 1_000_000)
            }
            #[cfg(feature = "simulated")]
            Source::Runtime { origin, wall_millis_at_origin } => {
                Wall(*wall_millis_at_origin).plus(runtime_now().saturating_duration_since(*origin))
            }
        }
    }

    /// Wall time corrected by the offset to the mesh: what [`Clock::hlc`] counts from.
    pub fn mesh_wall(&self) -> Wall {
        Wall(self.wall().0.saturating_add_signed(self.0.offset_millis.load(Ordering::Relaxed)))
    }

    /// A new timestamp, greater than every one this clock has given or observed.
    pub fn hlc(&self) -> Hlc {
        let wall = Hlc::from_millis(self.mesh_wall().0).0;
        let before = self.0.last.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| {
            Some(wall.max(last.saturating_add(1)))
        });
        let last = before.unwrap_or_else(|last| last);
        Hlc(wall.max(last.saturating_add(1)))
    }

    /// Takes note of a timestamp from elsewhere, so that the next one made here is greater.
    ///
    /// # Errors
    /// When `seen` is more than [`HLC_MAX_AHEAD`] ahead; nothing changes then.
    pub fn observe(&self, seen: Hlc) -> Result<(), TooFarAhead> {
        let ahead = seen.wall().since(self.mesh_wall());
        if ahead > HLC_MAX_AHEAD {
            return Err(TooFarAhead(ahead));
        }
        self.0.last.fetch_max(seen.0, Ordering::Relaxed);
        Ok(())
    }

    /// Sets the correction that [`Clock::mesh_wall`] adds: the median offset of the peers' clocks to this one, in
    /// milliseconds, positive when they are ahead.
    pub fn correct(&self, offset_millis: i64) {
        self.0.offset_millis.store(offset_millis, Ordering::Relaxed);
    }

    /// Notes how far the peers' clocks are ahead of this one, in milliseconds, whether that is believed or not.
    pub(crate) fn note_deviation(&self, millis: i64) {
        self.0.deviation_millis.store(millis, Ordering::Relaxed);
    }

    /// How far the peers' clocks are ahead of this one, in milliseconds. The correction differs from it where nobody can say
    /// whose clock is wrong.
    pub fn deviation(&self) -> i64 {
        self.0.deviation_millis.load(Ordering::Relaxed)
    }

    /// The correction in force, in milliseconds.
    pub fn correction(&self) -> i64 {
        self.0.offset_millis.load(Ordering::Relaxed)
    }
}

#[cfg(feature = "simulated")]
#[expect(clippy::disallowed_methods, reason = "the one place that reads the runtime's clock")]
fn runtime_now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Ticks at once, and then whenever the time since this process first asked is a multiple of `period`; those that were missed are left
/// out. What a node does every second is so done in one waking. Needs a tokio runtime.
///
/// # Panics
/// When `period` is zero.
#[expect(clippy::disallowed_methods, reason = "the one place that tells timers when to begin")]
pub fn ticks(period: Duration) -> tokio::time::Interval {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    let now = tokio::time::Instant::now();
    let since = now.into_std().saturating_duration_since(*ORIGIN.get_or_init(|| now.into_std()));
    let past = Duration::from_nanos((since.as_nanos() % period.as_nanos()) as u64);
    let mut ticks = tokio::time::interval_at(now.checked_sub(past).unwrap_or(now), period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    ticks
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn ticks_of_different_tasks_fall_together() {
        let period = Duration::from_millis(100);
        let mut early = ticks(period);
        early.tick().await;
        tokio::time::sleep(period / 4).await;
        let mut late = ticks(period);
        late.tick().now_or_never().expect("the first is at once");
        let first = early.tick().await;
        // Also those that are held up, by this test or by the machine.
        for held_up in [Duration::ZERO, period * 3 + period / 3] {
            tokio::time::sleep(held_up).await;
            for ticks in [&mut early, &mut late] {
                for _ in 0..2 {
                    let since = ticks.tick().await.duration_since(first);
                    assert_eq!(since.as_nanos() % period.as_nanos(), 0, "{since:?}");
                }
            }
        }
    }

    #[test]
    fn timestamps_never_repeat_or_run_backwards() {
        let clock = Clock::simulated(Wall(1_000_000));
        let mut last = clock.hlc();
        for step in 0..100_000 {
            let next = clock.hlc();
            assert!(next > last);
            last = next;
            if step % 1000 == 0 {
                clock.advance(Duration::from_millis(1));
            }
        }
    }

    #[test]
    fn what_was_observed_lies_in_the_past() {
        let clock = Clock::simulated(Wall(1_000_000));
        let ahead = Hlc::from_millis(1_005_000);
        clock.observe(ahead).unwrap();
        assert!(clock.hlc() > ahead);
    }

    #[test]
    fn a_timestamp_from_the_far_future_is_refused_and_changes_nothing() {
        let clock = Clock::simulated(Wall(1_000_000));
        let before = clock.hlc();
        assert!(clock.observe(Hlc::from_millis(1_000_000 + 601_000)).is_err());
        assert!(clock.hlc().wall().since(before.wall()) < Duration::from_secs(1));
    }

    #[test]
    fn the_correction_moves_the_wall_part() {
        let clock = Clock::simulated(Wall(1_000_000));
        clock.correct(-500);
        assert_eq!(clock.hlc().wall(), Wall(999_500));
    }
}
