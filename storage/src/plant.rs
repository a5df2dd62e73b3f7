//! Bugs on purpose, for the simulator to find: what finds none of them proves nothing.
//!
//! They exist with the feature `planted` alone, which nothing but the simulator's own tests turns on; in any other build
//! [`Plants::has`] is a constant.

/// A bug on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Plant {
    /// A replica acknowledges every other batch without keeping it.
    SkipAck = 1,
    /// Of two copies of a record the one that arrives later wins, not the greater one.
    MergeByArrival = 2,
    /// Records are dropped ten minutes before they expire.
    PurgeEarly = 3,
    /// Who proposes a move and holds something newer itself is told of that, and nobody else is asked.
    AnswerAlone = 4,
    /// A message for a home that cannot be reached is not kept.
    ForgetForward = 5,
    /// A replica that has just come back says that it lacks a record, before it has asked what it missed.
    DenyEarly = 6,
}

/// Which bug is planted; none as a rule.
#[derive(Debug, Default)]
pub struct Plants {
    #[cfg(feature = "planted")]
    planted: std::sync::atomic::AtomicU8,
}

impl Plants {
    /// Whether this bug is planted.
    #[cfg(feature = "planted")]
    pub fn has(&self, plant: Plant) -> bool {
        self.planted.load(std::sync::atomic::Ordering::Relaxed) == plant as u8
    }

    /// Never.
    #[cfg(not(feature = "planted"))]
    #[inline(always)]
    pub fn has(&self, _plant: Plant) -> bool {
        false
    }

    /// Plants a bug.
    #[cfg(feature = "planted")]
    pub fn plant(&self, plant: Plant) {
        self.planted.store(plant as u8, std::sync::atomic::Ordering::Relaxed);
    }
}
