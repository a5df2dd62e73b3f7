//! A revision on trial: written down before it is put in force and struck out once the node serves it. What still stands
//! there at a start took the node down, or was under way when something else did: the node starts on the one before.
//!
//! ```text
//!   DATA/services.trial    EPOCH:HASH DEATHS        one line of text
//! ```

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use gossip::id::RevisionId;

const NAME: &str = "services.trial";
/// Distrust after the first death; ten times as long after each further one.
const FIRST: Duration = Duration::from_secs(60);
const LONGEST: Duration = Duration::from_secs(86_400);

/// The note about the revision that is being put in force.
#[derive(Debug)]
pub(crate) struct Trial {
    path: PathBuf,
    /// What is on trial, and how often the node has died of it before.
    present: Mutex<Option<(RevisionId, u32)>>,
}

impl Trial {
    /// Reads what the last life left behind. That is a death of its revision.
    pub(crate) fn load(data: &Path) -> Self {
        let path = data.join(NAME);
        let left = fs::read_to_string(&path).ok().and_then(|text| read(&text));
        Self { path, present: Mutex::new(left.map(|(id, deaths)| (id, deaths.saturating_add(1)))) }
    }

    /// The revision that the last life died of, and how often any has.
    pub(crate) fn died_of(&self) -> Option<(RevisionId, u32)> {
        *self.lock()
    }

    /// How long a revision is distrusted after so many deaths.
    pub(crate) fn distrust(deaths: u32) -> Duration {
        let times = 10u32.saturating_pow(deaths.saturating_sub(1));
        FIRST.saturating_mul(times).min(LONGEST)
    }

    /// Notes that a revision is about to be put in force.
    pub(crate) fn begin(&self, id: RevisionId) -> io::Result<()> {
        let mut present = self.lock();
        let deaths = present.filter(|(before, _)| *before == id).map_or(0, |(_, deaths)| deaths);
        *present = Some((id, deaths));
        let mut file = fs::File::create(&self.path)?;
        writeln!(file, "{id} {deaths}")?;
        file.sync_all()
    }

    /// The node serves a revision: it and all before it have stood their trial.
    pub(crate) fn passed(&self, served: RevisionId) {
        let mut present = self.lock();
        if present.is_some_and(|(id, _)| id <= served) {
            *present = None;
            if let Err(error) = fs::remove_file(&self.path)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(file = NAME, %error, "cannot be removed; the next start distrusts this revision");
            }
        }
    }

    /// The node stops in good order: what was on trial is not to blame, unless it was before.
    pub(crate) fn stopped(&self) {
        if let Some((id, 0)) = self.died_of() {
            self.passed(id);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<(RevisionId, u32)>> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(text: &str) -> Option<(RevisionId, u32)> {
    let (id, deaths) = text.trim_end().split_once(' ')?;
    Some((id.parse().ok()?, deaths.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_death_on_trial_is_counted_until_the_revision_is_served() {
        let folder = tempfile::tempdir().unwrap();
        let [first, second] = [1, 2].map(|epoch| RevisionId { epoch, hash: [7; 32] });
        let life = || Trial::load(folder.path());
        assert_eq!(life().died_of(), None);
        life().begin(second).unwrap();
        let next = life();
        assert_eq!(next.died_of(), Some((second, 1)));
        next.passed(first);
        assert_eq!(life().died_of(), Some((second, 1)), "the one before proves nothing");
        next.begin(second).unwrap();
        assert_eq!(life().died_of(), Some((second, 2)));
        life().passed(second);
        assert_eq!(life().died_of(), None);
        life().begin(first).unwrap();
        life().stopped();
        assert_eq!(life().died_of(), Some((first, 1)), "this life has not begun it");
        let third = life();
        third.passed(second);
        third.begin(first).unwrap();
        third.stopped();
        assert_eq!(life().died_of(), None);
        fs::write(folder.path().join(NAME), "\u{0}nonsense").unwrap();
        assert_eq!(life().died_of(), None);
    }

    #[test]
    fn distrust_grows() {
        assert_eq!([1, 2, 3, 9].map(Trial::distrust).map(|it| it.as_secs()), [60, 600, 6000, 86_400]);
    }
}
