//! The time as the server is told it.

use std::sync::Arc;
use std::time::Instant;

/// One moment by both clocks that answers need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// For spans of time: TTLs towards a change, rates.
    pub monotonic: Instant,
    /// Seconds since 1970, for the age of cookies, which other servers made too.
    pub unix: u64,
}

/// Where the server reads the time from: the clocks of the process, handed in.
pub type Clock = Arc<dyn Fn() -> Moment + Send + Sync>;
