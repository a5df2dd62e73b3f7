//! One prober's word on one backend: results of probes in, a state out. Pure; knows neither probes nor other nodes.
//!
//! ```text
//!                success                    failure
//!   ┌─────────┐ ─────────────▶ ┌────┐ ───────────────▶ ┌───────────┐
//!   │ Unknown │                │ Up │ ◀─────────────── │ GoingDown │
//!   └─────────┘                └────┘     success      └───────────┘
//!        │ `fall` failures       ▲                           │ `fall` failures
//!        │ in a row              │ `rise` successes          │ in a row
//!        ▼                       │ in a row                  │
//!   ┌──────┐    success     ┌─────────┐                      │
//!   │ Down │ ─────────────▶ │ GoingUp │                      │
//!   └──────┘ ◀───────────── └─────────┘                      │
//!      ▲         failure                                     │
//!      └─────────────────────────────────────────────────────┘
//! ```
//!
//! With `fall = 1` Up goes straight to Down, with `rise = 1` Down straight to Up. A prober that takes a backend over
//! starts as Unknown, so it has no vote before it has looked; when the mesh holds the backend to be down, it needs
//! `rise` successes like everybody else, so a hand-over never shortens the way back.

use gossip::clock::Hlc;
use gossip::state::BackendState;

/// How many results in a row change the side. Both at least 1; 0 counts as 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thresholds {
    /// Successes that bring a backend back.
    pub rise: u32,
    /// Failures that take it out.
    pub fall: u32,
}

/// What a probe found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// As the check wants it.
    Success,
    /// Anything else.
    Failure,
}

/// What the mesh held of the backend when this prober began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Past {
    /// Nobody said anything.
    #[default]
    Nothing,
    /// It was up, and the end of its last known break was then.
    Up(Hlc),
    /// It was down, and its break began then.
    Down(Hlc),
}

/// One prober's machine for one backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    thresholds: Thresholds,
    state: BackendState,
    past: Past,
    latest: Outcome,
    /// How often `latest` came in a row.
    run: u32,
    run_began: Hlc,
    break_began: Hlc,
    break_ended: Hlc,
}

impl Machine {
    /// A prober that has not looked yet.
    pub fn new(thresholds: Thresholds, past: Past) -> Self {
        let (break_began, break_ended) = match past {
            Past::Nothing => (Hlc::ZERO, Hlc::ZERO),
            Past::Up(ended) => (Hlc::ZERO, ended),
            Past::Down(began) => (began, Hlc::ZERO),
        };
        Self {
            thresholds,
            state: BackendState::Unknown,
            past,
            latest: Outcome::Success,
            run: 0,
            run_began: Hlc::ZERO,
            break_began,
            break_ended,
        }
    }

    /// Takes a probe's result; returns whether the state changed.
    pub fn probed(&mut self, outcome: Outcome, now: Hlc) -> bool {
        use BackendState::{Down, GoingDown, GoingUp, Unknown, Up};
        if self.run == 0 || outcome != self.latest {
            self.run = 0;
            self.latest = outcome;
            self.run_began = now;
        }
        self.run = self.run.saturating_add(1);
        let risen = self.run >= self.thresholds.rise;
        let fallen = self.run >= self.thresholds.fall;
        let believed_down = matches!(self.past, Past::Down(_));

        let next = match (self.state, outcome) {
            (Unknown, Outcome::Success) if risen || !believed_down => Up,
            (Unknown, Outcome::Failure) if fallen => Down,
            (Unknown, _) => Unknown,
            (Up | GoingDown, Outcome::Success) => Up,
            (Up | GoingDown, Outcome::Failure) => {
                if fallen {
                    Down
                } else {
                    GoingDown
                }
            }
            (Down | GoingUp, Outcome::Success) => {
                if risen {
                    Up
                } else {
                    GoingUp
                }
            }
            (Down | GoingUp, Outcome::Failure) => Down,
            (other, _) => other, // No prober's machine is ever in an operator's state.
        };
        if next == self.state {
            return false;
        }
        match (self.state, next) {
            (Down | GoingUp, Up) => self.break_ended = now,
            (Unknown, Up) if believed_down => self.break_ended = now,
            (Unknown, Down) if believed_down => {}
            (Up | GoingDown | Unknown, Down) => self.break_began = self.run_began,
            _ => {}
        }
        self.state = next;
        true
    }

    /// Takes other thresholds; they count from the next result on.
    pub fn set_thresholds(&mut self, thresholds: Thresholds) {
        self.thresholds = thresholds;
    }

    /// The prober's word.
    pub fn state(&self) -> BackendState {
        self.state
    }

    /// As [`Verdict::since`](gossip::state::Verdict::since) has it.
    pub fn since(&self) -> Hlc {
        match self.state {
            BackendState::Down | BackendState::GoingUp => self.break_began,
            _ => self.break_ended,
        }
    }

    /// Whether the next result matters more than usual: nothing is known yet.
    pub fn is_curious(&self) -> bool {
        self.state == BackendState::Unknown
    }
}

#[cfg(test)]
mod tests;
