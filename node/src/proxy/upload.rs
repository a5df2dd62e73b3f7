//! How a body that is streamed to a backend gets on, and how long it may take (pure).
//!
//! A client that sends a byte now and then would hold a backend's connection for ever. So the time that is spent waiting for the
//! client is bounded: 20 seconds, and as long again as its bytes would take at the service's `min_body_rate`. Time in which
//! the backend does not take what is there is the backend's, and ends by the service's `response` time-out.
//!
//! ```text
//! every 10 s at most, on the timer that waits for the answer anyway:
//!   waited for the client > 20 s + bytes / min_body_rate   ─▶ too slow
//!   nothing has moved for `response`                        ─▶ whoever is waited for is gone
//! ```
use std::cell::Cell;
use std::time::Duration;

use super::body::Unsent;
use super::outcome::End;

/// How often an upload is looked at, at least.
const LOOK: Duration = Duration::from_secs(10);
/// What every client may take, however little it sends.
const GRACE: Duration = Duration::from_secs(20);

/// A client's body on its way to a backend, as the request's task sees it.
#[derive(Default)]
pub(super) struct Upload {
    frames: Cell<u64>,
    bytes: Cell<u64>,
    done: Cell<bool>,
    /// The backend would take more, but the client has not sent it.
    waits: Cell<bool>,
    broke: Cell<Option<End>>,
    unsent: Cell<Option<Unsent>>,
}

impl Upload {
    /// The backend's connection asked for more and there was none.
    pub(super) fn waiting(&self, waits: bool) {
        self.waits.set(waits);
    }

    /// A frame with so many bytes of the body went on.
    pub(super) fn passed(&self, bytes: usize, done: bool) {
        self.frames.set(self.frames.get() + 1);
        self.bytes.set(self.bytes.get() + bytes as u64);
        self.done.set(done);
    }

    /// The client broke it off.
    pub(super) fn broken(&self, end: End) {
        self.broke.set(Some(end));
    }

    /// How the client broke it off, if it did.
    pub(super) fn broke(&self) -> Option<End> {
        self.broke.get()
    }

    /// Keeps a body that was given up, when all of it is still at hand.
    pub(super) fn keep_unsent(&self, body: Unsent) {
        self.unsent.set(Some(body));
    }

    /// The body that was given up, when all of it is still at hand.
    pub(super) fn take_unsent(&self) -> Option<Unsent> {
        self.unsent.take()
    }

    fn progress(&self) -> Progress {
        Progress {
            moves: 2 * self.frames.get() + u64::from(self.done.get()),
            bytes: self.bytes.get(),
            waits: self.waits.get(),
        }
    }
}

/// How far an upload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Progress {
    /// Changes while something goes on, and once more at the end.
    moves: u64,
    bytes: u64,
    /// The client is waited for.
    waits: bool,
}

/// What is to be done about an answer that has not come yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing.
    Wait,
    /// The client sends its body too slowly.
    TooSlow,
    /// The client has sent nothing for too long.
    ClientSilent,
    /// The backend has not answered in time, counted from the last byte of the request.
    BackendSilent,
}

/// Waits for an answer while the request may still be on its way.
pub(super) struct Patience {
    /// The service's `response` time-out.
    limit: Duration,
    /// Bytes a second; 0: as slow as the client likes.
    min_rate: u32,
    quiet: Duration,
    waited: Duration,
    last: Progress,
}

impl Patience {
    /// For a request whose body is, or is not, streamed.
    pub(super) fn new(limit: Duration, min_rate: u32, upload: Option<&Upload>) -> Self {
        let last = upload.map_or_else(Progress::default, Upload::progress);
        Self { limit, min_rate, quiet: Duration::ZERO, waited: Duration::ZERO, last }
    }

    /// How long to wait before the next look.
    pub(super) fn pause(&self, upload: Option<&Upload>) -> Duration {
        let left = self.limit.saturating_sub(self.quiet);
        if upload.is_some() { left.min(LOOK) } else { left }
    }

    /// Looks after a pause.
    pub(super) fn look(&mut self, upload: Option<&Upload>) -> Verdict {
        let passed = self.pause(upload);
        self.judge(upload.map_or_else(Progress::default, Upload::progress), passed)
    }

    fn judge(&mut self, now: Progress, passed: Duration) -> Verdict {
        let moved = now.moves != self.last.moves;
        self.last = now;
        if now.waits {
            self.waited += passed;
        }
        self.quiet = if moved { Duration::ZERO } else { self.quiet + passed };
        if self.quiet >= self.limit {
            return if now.waits { Verdict::ClientSilent } else { Verdict::BackendSilent };
        }
        let earned = now.bytes.checked_div(self.min_rate.into()).map(Duration::from_secs);
        match earned {
            Some(earned) if now.waits && self.waited > GRACE + earned => Verdict::TooSlow,
            _ => Verdict::Wait,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn patience(min_rate: u32) -> Patience {
        Patience::new(MINUTE, min_rate, None)
    }

    /// The verdicts of looks at a client that sends so many bytes between two of them.
    fn verdicts(mut patience: Patience, bytes: u64, waits: bool, looks: u64) -> Vec<Verdict> {
        let seen = |at| Progress { moves: if bytes > 0 { at } else { 0 }, bytes: at * bytes, waits };
        (1..=looks).map(|at| patience.judge(seen(at), LOOK)).collect()
    }

    #[test]
    fn a_trickle_ends_after_the_grace() {
        assert_eq!(verdicts(patience(500), 1, true, 3), [Verdict::Wait, Verdict::Wait, Verdict::TooSlow]);
        assert!(verdicts(patience(500), 5000, true, 1000).iter().all(|verdict| *verdict == Verdict::Wait));
        assert!(verdicts(patience(0), 1, true, 1000).iter().all(|verdict| *verdict == Verdict::Wait));
    }

    #[test]
    fn what_was_sent_before_a_pause_earns_time() {
        assert_eq!(verdicts(patience(500), 0, true, 3)[2], Verdict::TooSlow);
        let mut patience = patience(500);
        let sent = Progress { moves: 9, bytes: 20_000, waits: true };
        let mut looks = (0..).map(|_| patience.judge(sent, LOOK));
        // The silence ends it before the credit does: 20 s and 40 s more.
        assert_eq!(looks.position(|verdict| verdict != Verdict::Wait), Some(6));
    }

    #[test]
    fn a_backend_that_takes_nothing_is_not_the_clients_fault() {
        assert!(verdicts(patience(500), 1, false, 100).iter().all(|verdict| *verdict == Verdict::Wait));
        let silent = verdicts(patience(500), 0, false, 6);
        assert_eq!((silent[4], silent[5]), (Verdict::Wait, Verdict::BackendSilent));
    }

    #[test]
    fn a_request_without_a_stream_has_the_response_time_alone() {
        let mut patience = patience(500);
        assert_eq!(patience.pause(None), MINUTE);
        assert_eq!(patience.look(None), Verdict::BackendSilent);
        let upload = Upload::default();
        let mut short = Patience::new(Duration::from_secs(15), 0, Some(&upload));
        let pauses: Vec<_> = std::iter::from_fn(|| {
            let pause = short.pause(Some(&upload)).as_secs();
            (short.look(Some(&upload)) == Verdict::Wait).then_some(pause)
        })
        .collect();
        assert_eq!(
            (pauses, short.pause(Some(&upload))),
            (vec![10], Duration::ZERO),
            "10 s and then the other 5"
        );
    }

    proptest! {
        #[test]
        fn no_client_is_waited_for_longer_than_its_bytes_earn(
            min_rate in 1u32..5000,
            steps in prop::collection::vec((0u64..100_000, any::<bool>()), 1..200),
        ) {
            let mut patience = patience(min_rate);
            let (mut seen, mut waited) = (Progress::default(), Duration::ZERO);
            for (bytes, waits) in steps {
                seen = Progress { moves: seen.moves + u64::from(bytes > 0), bytes: seen.bytes + bytes, waits };
                let verdict = patience.judge(seen, LOOK);
                waited += if waits { LOOK } else { Duration::ZERO };
                let most = GRACE + Duration::from_secs(seen.bytes / u64::from(min_rate));
                match verdict {
                    Verdict::TooSlow => prop_assert!(waits && waited > most),
                    Verdict::Wait => prop_assert!(!waits || waited <= most),
                    Verdict::ClientSilent => prop_assert!(waits),
                    Verdict::BackendSilent => prop_assert!(!waits),
                }
                if verdict != Verdict::Wait {
                    break;
                }
            }
        }
    }
}
