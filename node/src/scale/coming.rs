//! Backends that were started and have not been seen yet: they count in the size of the pool. Pure.
//!
//! ```text
//!   started ──▶ on their way ──▶ seen in the pool: done
//!                    └──▶ not within the patience: given up, and the next ones are waited for twice as long
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant};

use gossip::id::BackendId;

/// How long started backends are counted on, from the end of the act on: a virtual machine needs most of it to boot. Twice as
/// long each time that not all of them have come.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// And at most.
const PATIENCE_MAX: Duration = Duration::from_secs(300);
/// How long the backends of an act that failed are counted on: it may have begun some of them, and most probably none.
pub(super) const DOUBT: Duration = Duration::from_secs(10);
/// The most backends that are remembered as seen while others are waited for.
const SEEN_MAX: usize = 16_384;

/// What was started and has not been seen yet, of one pool.
#[derive(Debug, Default)]
pub(super) struct Coming {
    /// By the number of the decision.
    starts: BTreeMap<u64, Start>,
    /// The pool's backends when the first of the starts was made, and all seen since: who is not among them is new.
    seen: BTreeSet<BackendId>,
    /// Starts in a row of which not all came.
    vain: u32,
}

/// Whose word a start is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    /// This node's, which still acts.
    Acting,
    /// This node's, which has acted.
    Acted,
    /// That of a node which this one has granted the decision.
    Granted,
    /// Hearsay: nobody else is refused for its sake, so that it ends.
    Heard,
}

#[derive(Debug)]
struct Start {
    word: Word,
    count: u32,
    /// So many of them have not been seen.
    missing: u32,
    begun: Instant,
    /// When it is given up.
    until: Instant,
    /// When it is time to say that they are late; `None` once that was said.
    late: Option<Instant>,
    /// It failed, and may have begun nothing.
    doubted: bool,
}

/// What has become of backends that were started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Started {
    /// How many were started.
    pub(super) count: u32,
    /// How many of them have not been seen.
    pub(super) missing: u32,
    /// For how long they have been waited for.
    pub(super) after: Duration,
}

impl fmt::Display for Started {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { count, missing, after } = self;
        let seconds = after.as_secs();
        match count - missing {
            0 => write!(f, "{count} started, none appeared after {seconds} s"),
            all if all == *count => write!(f, "{count} started, all appeared after {seconds} s"),
            some => write!(f, "{count} started, {some} appeared after {seconds} s"),
        }
    }
}

/// What there is to say of this node's own acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum News {
    /// All have appeared.
    Come,
    /// They should have appeared by now, and are still counted on.
    Late,
    /// Not all have appeared, and they are not counted on any more.
    GivenUp,
}

impl Coming {
    /// Looks at the backends of the pool, and says what has become of this node's own decisions.
    pub(super) fn look(&mut self, present: BTreeSet<BackendId>, now: Instant) -> Vec<(u64, News, Started)> {
        let mut arrived = present.difference(&self.seen).count() as u32;
        if self.starts.is_empty() || self.seen.len() > SEEN_MAX {
            self.seen = present;
        } else {
            self.seen.extend(present);
        }
        // Nobody says which start brought it: the first one did.
        for start in self.starts.values_mut() {
            let came = arrived.min(start.missing);
            start.missing -= came;
            arrived -= came;
        }
        let mut told = Vec::new();
        for (number, start) in &mut self.starts {
            if let Some(news) = start.news(now) {
                told.push((*number, news, start.so_far(now)));
            }
        }
        let (mut came, mut vain) = (false, false);
        self.starts.retain(|_, start| {
            came |= start.missing == 0;
            vain |= start.is_given_up(now) && !start.doubted;
            start.word == Word::Acting || (start.missing > 0 && !start.is_given_up(now))
        });
        if vain {
            self.vain = self.vain.saturating_add(1);
        } else if came {
            self.vain = 0;
        }
        told
    }

    /// How many are on their way.
    pub(super) fn count(&self) -> u32 {
        self.starts.values().fold(0, |sum, start| sum.saturating_add(start.missing))
    }

    /// How many are on their way, as this node knows at first hand.
    pub(super) fn count_first_hand(&self) -> u32 {
        let known = self.starts.values().filter(|start| start.word != Word::Heard);
        known.fold(0, |sum, start| sum.saturating_add(start.missing))
    }

    /// Those that are on their way, together.
    pub(super) fn so_far(&self, now: Instant) -> Option<Started> {
        let waited = self.starts.values().filter(|start| start.missing > 0);
        waited.map(|start| start.so_far(now)).reduce(|sum, next| Started {
            count: sum.count.saturating_add(next.count),
            missing: sum.missing.saturating_add(next.missing),
            after: sum.after.max(next.after),
        })
    }

    /// Whether what this node started itself should have appeared by now.
    pub(super) fn is_late(&self) -> bool {
        self.starts
            .values()
            .any(|start| start.word == Word::Acted && start.late.is_none() && start.missing > 0)
    }

    /// This node starts so many.
    pub(super) fn acts(&mut self, number: u64, count: u32, now: Instant) {
        self.insert(number, Word::Acting, count, self.patience(), now);
    }

    /// Another node may start so many: this one has granted it that.
    pub(super) fn granted(&mut self, number: u64, count: u32, now: Instant) {
        self.insert(number, Word::Granted, count, self.patience(), now);
    }

    /// Somebody counts on so many more. Whoever knows of them at first hand says so again as long as it is so.
    pub(super) fn heard(&mut self, number: u64, count: u32, now: Instant) {
        match self.starts.get_mut(&number) {
            Some(start) => {
                start.count = start.count.saturating_add(count);
                start.missing = start.missing.saturating_add(count);
            }
            None => self.insert(number, Word::Heard, count, DOUBT, now),
        }
    }

    fn insert(&mut self, number: u64, word: Word, count: u32, patience: Duration, now: Instant) {
        if count == 0 {
            return;
        }
        let (until, late) = (now + patience, Some(now + patience / 2));
        let start =
            Start { word, count, missing: count, begun: now, until, late, doubted: word == Word::Heard };
        self.starts.insert(number, start);
    }

    /// This node's act is over; what it started is to appear now.
    pub(super) fn acted(&mut self, number: u64, now: Instant) {
        let patience = self.patience();
        if let Some(start) = self.starts.get_mut(&number) {
            (start.word, start.until, start.late) = (Word::Acted, now + patience, Some(now + patience / 2));
        }
    }

    /// An act has failed, and may have begun something.
    pub(super) fn failed(&mut self, number: u64, now: Instant) {
        if let Some(start) = self.starts.get_mut(&number) {
            start.word = match start.word {
                Word::Acting | Word::Acted => Word::Granted,
                other => other,
            };
            (start.until, start.doubted) = (start.until.min(now + DOUBT), true);
        }
    }

    /// Nothing was begun.
    pub(super) fn undone(&mut self, number: u64) {
        self.starts.remove(&number);
    }

    fn patience(&self) -> Duration {
        PATIENCE.saturating_mul(1 << self.vain.min(8)).min(PATIENCE_MAX)
    }
}

impl Start {
    /// An act that is not over may start them yet.
    fn is_given_up(&self, now: Instant) -> bool {
        self.word != Word::Acting && now >= self.until
    }

    fn so_far(&self, now: Instant) -> Started {
        let after = now.saturating_duration_since(self.begun);
        Started { count: self.count, missing: self.missing, after }
    }

    fn news(&mut self, now: Instant) -> Option<News> {
        if self.word != Word::Acted {
            return None;
        }
        if self.missing == 0 {
            return Some(News::Come);
        }
        if self.is_given_up(now) {
            return Some(News::GivenUp);
        }
        self.late.take_if(|late| now >= *late).map(|_| News::Late)
    }
}
