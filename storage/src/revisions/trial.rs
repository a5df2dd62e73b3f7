//! A revision on trial: written down before it is put in force, and struck out once the node has served it for a while.
//!
//! ```text
//!                      begin                        served for LASTS
//!   (no note) ────────────────────▶ under way ─────────────────────────▶ (no note)
//!                                    │  ▲  │
//!            a stop in good order, a │  │  │ the process is gone before it served, or for the
//!            start that fails, a     │  │  │ DEATHS_MAX-th time while it did
//!            death once it served    ▼  │  ▼
//!                          interrupted ─┘  left out ──── once, after a while ──▶ under way
//!                               the next start          the node runs the one before
//!
//!   DATA/services.trial    EPOCH:HASH DEATHS [served] [stopped]        one line of text
//! ```
//!
//! Who is killed right after an order was taken has most likely not died of it, so one death of a revision that was served is
//! nobody's proof; a node that ends again and again is.
//!
//! Only what is put in force while the node runs is on trial, so an ordinary start writes nothing, and what makes a start fail is
//! never held against the configuration.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gossip::clock::Clock;
use gossip::id::{NodeName, RevisionId};

const NAME: &str = "services.trial";
/// After DEATHS: the node stopped in good order meanwhile.
const STOPPED: &str = "stopped";
/// After DEATHS: some life has served it.
const SERVED: &str = "served";
/// So many deaths leave a revision out though it was served.
const DEATHS_MAX: u32 = 3;
/// How long a revision is served before it has stood its trial.
pub(crate) const LASTS: Duration = Duration::from_secs(30);
/// The least time before a revision is tried again.
const AGAIN_AFTER: Duration = Duration::from_secs(60);
/// Nodes that died together try again within this time, each at its own moment, so that one goes first.
const SPREAD_SECONDS: u64 = 600;

/// The note about the revision that is being put in force.
#[derive(Debug)]
pub(crate) struct Trial {
    path: PathBuf,
    clock: Clock,
    present: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    note: Option<Note>,
    /// This life has stopped: nothing begins any more.
    closed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Note {
    id: RevisionId,
    /// How often the node has died on its trial.
    deaths: u32,
    /// Whether a life has served it.
    served: bool,
    phase: Phase,
}

impl Note {
    /// As it is written while the trial is under way.
    fn line(&self) -> String {
        let Self { id, deaths, served, .. } = self;
        if *served { format!("{id} {deaths} {SERVED}") } else { format!("{id} {deaths}") }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Begun, and since when it is served.
    UnderWay(Option<Instant>),
    /// The last life ended before it was over, and not so that it proves anything.
    Interrupted,
    /// The node died of it, and runs the one before. The note on disk is that of the death until it begins again.
    LeftOut,
}

impl Trial {
    /// Reads what the last life left behind: a trial that was under way is a death of its revision.
    pub(crate) fn load(data: &Path, clock: Clock) -> Self {
        let path = data.join(NAME);
        let note = fs::read_to_string(&path).ok().and_then(|text| read(&text));
        Self { path, clock, present: Mutex::new(State { note, closed: false }) }
    }

    /// The revision that is left out, and how often the node has died of it: at least once.
    pub(crate) fn left_out(&self) -> Option<(RevisionId, u32)> {
        let left_out = self.lock().note.filter(|note| note.phase == Phase::LeftOut);
        left_out.map(|note| (note.id, note.deaths))
    }

    /// The revision whose trial the last life did not bring to its end, in good order.
    pub(crate) fn interrupted(&self) -> Option<RevisionId> {
        self.lock().note.filter(|note| note.phase == Phase::Interrupted).map(|note| note.id)
    }

    /// How long `me` leaves a revision out before it tries it again, once. `None`: it waits for an operator.
    pub(crate) fn again_after(me: &NodeName, id: &RevisionId, deaths: u32) -> Option<Duration> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(me.as_str().as_bytes()).update(&id.hash);
        let chance = hasher.finalize().as_bytes()[0];
        let turn = SPREAD_SECONDS * u64::from(chance) / u64::from(u8::MAX);
        (deaths == 1).then(|| AGAIN_AFTER + Duration::from_secs(turn))
    }

    /// Notes that a revision is about to be put in force. One older than the one that is left out is on no trial: it is not
    /// what the node dies of next.
    pub(crate) fn begin(&self, id: RevisionId) -> io::Result<()> {
        let mut present = self.lock();
        let left_out = present.note.filter(|note| note.phase == Phase::LeftOut);
        if present.closed || left_out.is_some_and(|note| note.id > id) {
            return Ok(());
        }
        let before = present.note.filter(|note| note.id == id);
        let (deaths, served) = before.map_or((0, false), |note| (note.deaths, note.served));
        let note = Note { id, deaths, served, phase: Phase::UnderWay(None) };
        present.note = Some(note);
        self.write(&note.line())
    }

    /// The node serves a revision from now on.
    pub(crate) fn served(&self, served: RevisionId) {
        let now = self.clock.now();
        if let Some(note) = &mut self.lock().note
            && let Phase::UnderWay(since @ None) = &mut note.phase
            && note.id <= served
        {
            *since = Some(now);
            if !std::mem::replace(&mut note.served, true)
                && let Err(error) = self.write(&note.line())
            {
                tracing::warn!(file = NAME, %error, "cannot be written; a death now leaves the revision out at once");
            }
        }
    }

    /// Ends the trial when it has lasted long enough.
    pub(crate) fn settle(&self) {
        let now = self.clock.now();
        let mut present = self.lock();
        if let Some(Note { phase: Phase::UnderWay(Some(since)), .. }) = present.note
            && now.saturating_duration_since(since) >= LASTS
        {
            present.note = None;
            self.remove();
        }
    }

    /// The node fails while it runs: what is on trial may be the reason, and the note stays as of a process that is killed.
    pub(crate) fn blame(&self) {
        self.lock().closed = true;
    }

    /// The node stops in good order, or did not start: what is on trial has not been the reason. What it died of before
    /// stands.
    pub(crate) fn stopped(&self) {
        let mut present = self.lock();
        if std::mem::replace(&mut present.closed, true) {
            return;
        }
        if let Some(note @ Note { phase: Phase::UnderWay(_), .. }) = present.note
            && let Err(error) = self.write(&format!("{} {STOPPED}", note.line()))
        {
            tracing::warn!(file = NAME, %error, "cannot be written; it is removed instead");
            self.remove();
        }
    }

    fn write(&self, line: &str) -> io::Result<()> {
        let mut file = fs::File::create(&self.path)?;
        writeln!(file, "{line}")?;
        file.sync_all()
    }

    fn remove(&self) {
        if let Err(error) = fs::remove_file(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(file = NAME, %error, "cannot be removed; the next start distrusts this revision");
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(text: &str) -> Option<Note> {
    let mut words = text.trim_end().split(' ');
    let id = words.next()?.parse().ok()?;
    let deaths: u32 = words.next()?.parse().ok()?;
    let (served, stopped) = match (words.next(), words.next(), words.next()) {
        (None, ..) => (false, false),
        (Some(SERVED), None, _) => (true, false),
        (Some(STOPPED), None, _) => (false, true),
        (Some(SERVED), Some(STOPPED), None) => (true, true),
        _ => return None,
    };
    let deaths = if stopped { deaths } else { deaths.saturating_add(1) };
    let goes_on = stopped || (served && deaths < DEATHS_MAX);
    let phase = if goes_on { Phase::Interrupted } else { Phase::LeftOut };
    Some(Note { id, deaths, served, phase })
}

#[cfg(test)]
mod tests {
    use gossip::clock::Wall;

    use super::*;

    struct Lives(tempfile::TempDir, Clock);

    impl Lives {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap(), Clock::simulated(Wall(1)))
        }

        fn next(&self) -> Trial {
            Trial::load(self.0.path(), self.1.clone())
        }

        fn note(&self) -> Option<String> {
            fs::read_to_string(self.0.path().join(NAME)).ok()
        }
    }

    fn revision(epoch: u64) -> RevisionId {
        RevisionId { epoch, hash: [7; 32] }
    }

    #[test]
    fn a_death_on_trial_is_counted_until_the_revision_was_served_for_a_while() {
        let (lives, [first, second]) = (Lives::new(), [1, 2].map(revision));
        assert_eq!((lives.next().left_out(), lives.note()), (None, None), "an ordinary start writes nothing");
        lives.next().begin(second).unwrap();
        let life = lives.next();
        assert_eq!(life.left_out(), Some((second, 1)));
        life.begin(first).unwrap();
        life.served(second);
        lives.1.advance(LASTS);
        life.settle();
        assert_eq!(lives.next().left_out(), Some((second, 1)), "what runs instead proves nothing");
        life.begin(second).unwrap();
        assert_eq!(life.left_out(), None);
        assert_eq!(lives.next().left_out(), Some((second, 2)));
        life.served(first);
        lives.1.advance(LASTS);
        life.settle();
        assert_eq!(lives.next().left_out(), Some((second, 2)), "the one before is served");
        life.served(second);
        lives.1.advance(LASTS - Duration::from_secs(1));
        life.settle();
        assert_eq!(lives.next().interrupted(), Some(second), "not for long");
        life.served(second);
        lives.1.advance(Duration::from_secs(1));
        life.settle();
        assert_eq!((lives.next().left_out(), lives.note()), (None, None));
        for nonsense in ["\u{0}nonsense", "", "2:ff", &format!("{first} 0 gone"), &format!("{first} x")] {
            fs::write(lives.0.path().join(NAME), nonsense).unwrap();
            let life = lives.next();
            assert_eq!((life.left_out(), life.interrupted()), (None, None), "{nonsense}");
        }
    }

    #[test]
    fn one_death_of_what_was_served_proves_nothing_and_many_do() {
        let (lives, id) = (Lives::new(), revision(2));
        for death in 1..=DEATHS_MAX {
            let life = lives.next();
            assert_eq!(life.left_out(), None, "before death {death}");
            life.begin(id).unwrap();
            // The last life does not even come so far.
            if death < DEATHS_MAX {
                life.served(id);
            }
        }
        assert_eq!(lives.next().left_out(), Some((id, DEATHS_MAX)));
        let stopped = lives.next();
        stopped.begin(revision(3)).unwrap();
        stopped.served(revision(3));
        stopped.stopped();
        assert_eq!(lives.note(), Some(format!("{} 0 served stopped\n", revision(3))));
        assert_eq!(lives.next().interrupted(), Some(revision(3)));
    }

    #[test]
    fn who_stops_in_good_order_or_does_not_start_has_not_died() {
        let (lives, id) = (Lives::new(), revision(2));
        let life = lives.next();
        life.begin(id).unwrap();
        life.stopped();
        life.begin(revision(3)).unwrap();
        for _ in 0..3 {
            // Starts that fail.
            let life = lives.next();
            assert_eq!((life.left_out(), life.interrupted()), (None, Some(id)));
            life.begin(id).unwrap();
            life.stopped();
        }
        lives.next().begin(id).unwrap();
        for _ in 0..3 {
            let life = lives.next();
            assert_eq!(life.left_out(), Some((id, 1)), "a death stays one");
            life.stopped();
        }
        let life = lives.next();
        life.begin(revision(3)).unwrap();
        life.stopped();
        assert_eq!((lives.next().left_out(), lives.next().interrupted()), (None, Some(revision(3))));
    }

    #[test]
    fn a_node_that_fails_while_it_runs_has_died() {
        let (lives, id) = (Lives::new(), revision(2));
        let life = lives.next();
        life.begin(id).unwrap();
        life.blame();
        life.stopped();
        assert_eq!(lives.next().left_out(), Some((id, 1)));
        let other = Lives::new();
        other.next().blame();
        assert_eq!((other.next().left_out(), other.note()), (None, None), "nothing was on trial");
    }

    #[test]
    fn it_is_tried_again_once_by_each_node_at_its_own_moment() {
        let at = |name: &str, deaths| Trial::again_after(&NodeName::new(name).unwrap(), &revision(2), deaths);
        let turns: std::collections::BTreeSet<_> = (0..20).map(|n| at(&format!("eu-{n}"), 1)).collect();
        let (least, most) = (Some(AGAIN_AFTER), Some(AGAIN_AFTER + Duration::from_secs(SPREAD_SECONDS)));
        assert!(turns.len() > 10 && turns.iter().all(|turn| (least..=most).contains(turn)), "{turns:?}");
        assert_eq!((at("eu-1", 2), at("eu-1", 9)), (None, None));
    }
}
