//! Who did not get past the handshake for want of a common key or a common version of the protocol: both sides know of it, and
//! tell their operators.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What was not met again for so long is over.
const FRESH: Duration = Duration::from_secs(60);
/// Anybody can be refused: more addresses than an operator reads are not kept.
const STRANGERS_MAX: usize = 16;

/// The latest refusals, by address.
#[derive(Debug, Default)]
pub(crate) struct Strangers(Mutex<BTreeMap<SocketAddr, (Instant, String)>>);

impl Strangers {
    /// Takes note of a handshake that failed, when the reason is the key or the version.
    pub(crate) fn refused(&self, addr: SocketAddr, reason: &str, now: Instant) {
        if !reason.contains("mesh key") && !reason.contains("mesh protocol") {
            return;
        }
        let mut known = self.lock();
        known.retain(|_, (at, _)| now.saturating_duration_since(*at) < FRESH);
        if known.len() >= STRANGERS_MAX && !known.contains_key(&addr) {
            return;
        }
        if known.insert(addr, (now, reason.to_owned())).is_none() {
            tracing::warn!(%addr, reason, "no connection with a node");
        }
    }

    /// A handshake with this address was good.
    pub(crate) fn met(&self, addr: SocketAddr) {
        self.lock().remove(&addr);
    }

    /// All that is fresh, in words.
    pub(crate) fn tell(&self, now: Instant) -> Vec<String> {
        let known = self.lock();
        let fresh = known.iter().filter(|(_, (at, _))| now.saturating_duration_since(*at) < FRESH);
        fresh.map(|(addr, (_, reason))| format!("no connection with {addr}: {reason}")).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<SocketAddr, (Instant, String)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, Wall};

    #[test]
    fn refusals_are_told_for_a_while_and_bounded() {
        let (clock, strangers) = (Clock::simulated(Wall(0)), Strangers::default());
        let addr = |port| SocketAddr::from(([10, 0, 0, 1], port));
        strangers.refused(addr(1), "no answer", clock.now());
        assert!(strangers.tell(clock.now()).is_empty());
        for port in 1..100 {
            strangers.refused(addr(port), "it holds another mesh key", clock.now());
        }
        let told = strangers.tell(clock.now());
        assert_eq!(
            (told.len(), told[0].as_str()),
            (16, "no connection with 10.0.0.1:1: it holds another mesh key")
        );
        strangers.met(addr(1));
        assert_eq!(strangers.tell(clock.now()).len(), 15);
        clock.advance(FRESH);
        assert!(strangers.tell(clock.now()).is_empty());
    }
}
