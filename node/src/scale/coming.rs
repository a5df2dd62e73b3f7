//! Backends that were started and have not been seen yet: they count in the size of the pool. Pure.
//!
//! ```text
//!   started ──▶ on their way ──▶ seen in the pool: done, if they stay ([`super::nursery`])
//!                    └──▶ not within the patience: given up, and the next ones are waited for twice as long
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant};

use gossip::id::{BackendId, NodeName};

use super::nursery::Nursery;

/// How long started backends are counted on, from the end of the act on: a virtual machine needs most of it to boot. Twice as
/// long each time that not all of them have come.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// And at most.
pub(super) const PATIENCE_MAX: Duration = Duration::from_secs(300);
/// How long the backends of an act that failed are counted on: it may have begun some of them, and most probably none.
pub(super) const DOUBT: Duration = Duration::from_secs(10);
/// So long an act takes at most.
const ACT_MAX: Duration = super::act::TIMEOUT;
/// After a restart what the sources find for so long was most probably there before.
const SETTLE: Duration = Duration::from_secs(5);
/// What others count on, whoever decided it: no decision has that number.
const HEARSAY: (u64, By) = (u64::MAX, None);
/// The most backends that are remembered as seen while others are waited for.
const SEEN_MAX: usize = 16_384;

/// Whose decision: this node's own when `None`. Two nodes may ask for the same number, and one of them in vain.
pub(super) type By = Option<NodeName>;

/// What was started and has not been seen yet, of one pool.
#[derive(Debug, Default)]
pub(super) struct Coming {
    /// By decision.
    starts: BTreeMap<(u64, By), Start>,
    /// The pool's backends when the first of the starts was made, and all seen since: who is not among them is new.
    seen: BTreeSet<BackendId>,
    /// Starts in a row of which not all came.
    vain: u32,
    /// Those that came just now.
    nursery: Nursery,
    /// Until then, after a restart, what is seen was there.
    settles: Option<Instant>,
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
    /// Whoever was granted it has said that it acts.
    decided: bool,
}

/// The backends of a pool that an act may have brought.
#[derive(Debug, Clone, Default)]
pub(super) struct Brought {
    /// In whatever state.
    pub(super) present: BTreeSet<BackendId>,
    /// Those among them that are told to go.
    pub(super) leaving: BTreeSet<BackendId>,
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
    /// Those that are missing had appeared, and were gone again at once.
    Fallen,
}

impl Coming {
    /// Looks at the backends of the pool, and says what has become of this node's own decisions.
    pub(super) fn look(&mut self, brought: Brought, now: Instant) -> Vec<(u64, News, Started)> {
        let looked = self.nursery.look(&brought, now);
        let fallen = looked.fallen.into_iter().map(|(number, started)| (number, News::Fallen, started));
        let mut told: Vec<_> = fallen.collect();
        looked.forgotten.iter().for_each(|backend| _ = self.seen.remove(backend));
        let present = brought.present;
        if self.settles.is_some() {
            self.seen.extend(present.iter().copied());
        }
        self.settles.take_if(|settles| now >= *settles);
        let new = present.difference(&self.seen).filter(|backend| !self.nursery.knows(backend));
        let mut arrived = new.copied().collect::<Vec<_>>().into_iter();
        // Nobody says which start brought it: the first one did.
        for ((number, _), start) in &mut self.starts {
            let came = arrived.by_ref().take(start.missing as usize).collect::<Vec<_>>();
            start.missing -= came.len() as u32;
            for backend in came {
                self.nursery.takes(backend, *number, start.is_own(), now);
            }
        }
        if self.starts.is_empty() || self.seen.len() > SEEN_MAX {
            self.seen = present;
        } else {
            self.seen.extend(present);
        }
        for ((number, _), start) in &mut self.starts {
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

    /// Those that were gone at once, and for how long nothing is started in their place.
    pub(super) fn pause(&self, now: Instant) -> Option<(u32, Duration)> {
        self.nursery.pause(now)
    }

    /// How many are on their way, or are not to be replaced yet.
    pub(super) fn count(&self) -> u32 {
        self.count_of(|_| true)
    }

    /// The same as this node knows at first hand.
    pub(super) fn count_first_hand(&self) -> u32 {
        self.count_of(|start| start.word != Word::Heard)
    }

    fn count_of(&self, counts: impl Fn(&Start) -> bool) -> u32 {
        let starts = self.starts.values().filter(|start| counts(start));
        starts.fold(self.nursery.count(), |sum, start| sum.saturating_add(start.missing))
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
        self.insert((number, None), Word::Acting, count, ACT_MAX + self.patience(), now);
    }

    /// What is on its way as this node knows at first hand: by which decision, how many, and for how long they are counted on.
    pub(super) fn starts(&self, now: Instant) -> impl Iterator<Item = ((u64, By), u32, Duration)> {
        let known = self.starts.iter().filter(|(_, start)| start.word != Word::Heard && start.missing > 0);
        known.map(move |(decision, start)| {
            (decision.clone(), start.missing, start.until.saturating_duration_since(now))
        })
    }

    /// In its life before, this node knew of so many that were started. Nobody says which of those that are there now, or are
    /// found in the next seconds, have come since, so none of them counts as one.
    pub(super) fn remembers(&mut self, decision: (u64, By), missing: u32, left: Duration, now: Instant) {
        self.settles = Some(now + SETTLE);
        self.insert(decision.clone(), Word::Granted, missing, left, now);
        if let Some(start) = self.starts.get_mut(&decision) {
            (start.decided, start.doubted) = (true, true);
        }
    }

    /// Another node may start so many: this one has granted it that.
    pub(super) fn granted(&mut self, number: u64, by: NodeName, count: u32, now: Instant) {
        self.insert((number, Some(by)), Word::Granted, count, self.patience(), now);
    }

    /// The node that this one has granted a decision acts on it.
    pub(super) fn decided(&mut self, decision: &(u64, By)) {
        if let Some(start) = self.starts.get_mut(decision) {
            start.decided = true;
        }
    }

    /// That node asks for this number, so it is done with asking for any before: of those it never said that it acts.
    pub(super) fn forgives(&mut self, by: &NodeName, number: u64) {
        self.starts.retain(|(of, whose), start| start.decided || *of >= number || whose.as_ref() != Some(by));
    }

    /// Somebody counts on so many more. Whoever knows of them at first hand says so again as long as it is so.
    pub(super) fn heard(&mut self, count: u32, now: Instant) {
        let before = self.starts.get(&HEARSAY).map_or(0, |start| start.missing);
        self.insert(HEARSAY, Word::Heard, before.saturating_add(count), DOUBT, now);
    }

    fn insert(&mut self, decision: (u64, By), word: Word, count: u32, patience: Duration, now: Instant) {
        if count == 0 {
            return;
        }
        let (until, late) = (now + patience, Some(now + patience / 2));
        let doubted = word == Word::Heard;
        let (begun, missing, decided) = (now, count, false);
        let start = Start { word, count, missing, begun, until, late, doubted, decided };
        self.starts.insert(decision, start);
    }

    /// This node's act is over; what it started is to appear now.
    pub(super) fn acted(&mut self, number: u64, now: Instant) {
        let patience = self.patience();
        if let Some(start) = self.starts.get_mut(&(number, None)) {
            (start.word, start.until, start.late) = (Word::Acted, now + patience, Some(now + patience / 2));
        }
    }

    /// An act has failed, and may have begun something.
    pub(super) fn failed(&mut self, decision: &(u64, By), now: Instant) {
        if let Some(start) = self.starts.get_mut(decision) {
            start.word = match start.word {
                Word::Acting | Word::Acted => Word::Granted,
                other => other,
            };
            (start.until, start.doubted) = (start.until.min(now + DOUBT), true);
        }
    }

    /// Nothing was begun.
    pub(super) fn undone(&mut self, decision: &(u64, By)) {
        self.starts.remove(decision);
    }

    fn patience(&self) -> Duration {
        PATIENCE.saturating_mul(1 << self.vain.min(8)).min(PATIENCE_MAX)
    }
}

impl Start {
    fn is_own(&self) -> bool {
        matches!(self.word, Word::Acting | Word::Acted)
    }

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

#[cfg(test)]
mod tests {
    use gossip::clock::{Clock, Wall};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A pool of one to which an image is added that ends a second after it begins.
    #[test]
    fn what_ends_as_soon_as_it_begins_is_started_ever_more_seldom() {
        let clock = Clock::simulated(Wall(0));
        let mut coming = Coming::default();
        let (mut alive, mut next, mut starts) = (BTreeSet::from([BackendId(0)]), 1, Vec::new());
        let (began, mut falls) = (clock.now(), 0);
        for _ in 0..900 {
            clock.advance(SECOND);
            let now = clock.now();
            let told = coming.look(Brought { present: alive.clone(), ..Brought::default() }, now);
            falls += told.iter().filter(|(_, news, _)| *news == News::Fallen).count();
            if alive.len() == 2 {
                alive.pop_last();
            } else if coming.count() == 0 {
                starts.push(now.saturating_duration_since(began).as_secs());
                coming.acts(next, 1, now);
                coming.acted(next, now);
                alive.insert(BackendId(next));
                next += 1;
            }
        }
        assert!(falls >= starts.len() - 1, "each is told");
        let apart: Vec<u64> = starts.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert_eq!(apart, [12, 22, 42, 82, 162, 302], "a second to come, one to go, and the pause");
    }

    #[test]
    fn a_restart_forgets_nothing_that_was_started() {
        let clock = Clock::simulated(Wall(0));
        let mut before = Coming::default();
        before.acts(4, 3, clock.now());
        before.acted(4, clock.now());
        before.heard(7, clock.now());
        clock.advance(SECOND * 20);
        let kept: Vec<_> = before.starts(clock.now()).collect();
        assert_eq!(kept, [((4, None), 3, SECOND * 40)], "not hearsay");
        let mut after = Coming::default();
        kept.into_iter().for_each(|(of, missing, left)| after.remembers(of, missing, left, clock.now()));
        let look = |coming: &mut Coming, ids: std::ops::Range<u64>| {
            let present = ids.map(BackendId).collect();
            assert_eq!(coming.look(Brought { present, ..Brought::default() }, clock.now()), []);
            coming.count()
        };
        assert_eq!(look(&mut after, 0..5), 3, "those that are there were there");
        assert_eq!(look(&mut after, 0..6), 3, "as was what is found at once");
        clock.advance(SETTLE);
        assert_eq!(look(&mut after, 0..6), 3);
        assert_eq!(look(&mut after, 0..7), 2);
        clock.advance(SECOND * 40);
        assert_eq!(look(&mut after, 0..7), 0);
    }

    #[test]
    fn what_comes_in_the_place_of_the_fallen_is_seen() {
        let clock = Clock::simulated(Wall(0));
        let mut coming = Coming::default();
        let at = |coming: &mut Coming, ids: &[u64]| {
            clock.advance(SECOND);
            let present = ids.iter().map(|id| BackendId(*id)).collect();
            let news = coming.look(Brought { present, ..Brought::default() }, clock.now());
            news.into_iter().map(|(_, news, _)| news).collect::<Vec<_>>()
        };
        at(&mut coming, &[0]);
        coming.acts(1, 2, clock.now());
        coming.acted(1, clock.now());
        assert_eq!(at(&mut coming, &[0, 1]), []);
        assert_eq!(at(&mut coming, &[0]), [News::Fallen]);
        assert_eq!((at(&mut coming, &[0, 1]), coming.count()), (vec![], 1), "it is back, and one is missing");
        assert_eq!((at(&mut coming, &[0]), coming.count()), (vec![News::Fallen], 2));
        clock.advance(SECOND * 20);
        assert_eq!((at(&mut coming, &[0]), coming.count()), (vec![], 1), "the pause is over");
        assert_eq!(at(&mut coming, &[0, 1]), [News::Come], "the other one has its address");
        // One falls and is back while another decision waits for its own.
        assert_eq!(at(&mut coming, &[0]), [News::Fallen]);
        coming.acts(2, 1, clock.now());
        coming.acted(2, clock.now());
        assert_eq!((at(&mut coming, &[0, 1]), coming.count()), (vec![], 1), "that is not the new one");
        assert_eq!((at(&mut coming, &[0, 1, 2]), coming.count()), (vec![News::Come], 0));
    }
}
