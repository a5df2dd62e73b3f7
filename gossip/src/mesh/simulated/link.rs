//! Whether a link to a peer stands: what [`crate::mesh`]'s dialling and QUIC's time-outs come to, without their packets.

use std::time::{Duration, Instant};

use super::network::Answers;
use crate::mesh::dial::Backoff;

/// As the real endpoint's idle time-out.
const IDLE: Duration = Duration::from_secs(10);
/// As the real dial's patience.
const DIAL: Duration = Duration::from_secs(3);

/// A link to an address.
#[derive(Debug)]
pub(super) struct Link {
    state: State,
    backoff: Backoff,
}

/// How it stands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum State {
    /// Being dialled, until then. The life of who answers, if anybody does, and the round trip.
    Dialling { done: Instant, found: Option<(u64, Duration)> },
    /// It stands; the peer answered last then, after so long.
    Up { life: u64, answered: Instant, rtt: Duration },
    /// It is dialled again then.
    Down { until: Instant },
}

impl Link {
    /// A link that is dialled now.
    pub(super) fn new(now: Instant, answers: Option<&Answers>) -> Self {
        Self { state: dial(now, answers), backoff: Backoff::default() }
    }

    /// How it stands now, if nobody else answers than told.
    pub(super) fn look(&mut self, now: Instant, answers: Option<&Answers>) -> State {
        match self.state {
            State::Dialling { done, found: Some((life, rtt)) } if now >= done => {
                self.state = State::Up { life, answered: now, rtt };
                self.backoff.connected();
            }
            State::Dialling { done, found: None } if now >= done => self.failed(done),
            State::Up { life, .. } => match answers {
                Some(peer) if peer.life == life => {
                    self.state = State::Up { life, answered: now, rtt: peer.rtt };
                }
                // Its next life resets the connection (RFC 9000 §10.3).
                Some(_) => self.state = dial(now, answers),
                None => self.idle(now),
            },
            State::Down { until } if now >= until => self.state = dial(now, answers),
            _ => {}
        }
        self.state
    }

    /// Ends a back-off.
    pub(super) fn hurry(&mut self, now: Instant) {
        if let State::Down { until } = &mut self.state {
            *until = now;
        }
    }

    fn idle(&mut self, now: Instant) {
        if let State::Up { answered, .. } = self.state
            && now.saturating_duration_since(answered) > IDLE
        {
            self.state = dial(now, None);
        }
    }

    fn failed(&mut self, at: Instant) {
        self.state = State::Down { until: self.backoff.failed(at, &mut rand::rng()) };
    }
}

fn dial(now: Instant, answers: Option<&Answers>) -> State {
    match answers {
        Some(peer) => State::Dialling { done: now + peer.rtt * 2, found: Some((peer.life, peer.rtt)) },
        None => State::Dialling { done: now + DIAL, found: None },
    }
}
