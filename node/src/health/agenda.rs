//! When something is to be done about which backend. Pure; finds the next without looking at all of them.

use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

use gossip::id::BackendId;

/// At most one appointment a backend.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    by_time: BTreeSet<(Instant, BackendId)>,
    by_backend: HashMap<BackendId, Instant>,
}

impl Agenda {
    /// Moves a backend's appointment; `None` strikes it.
    pub(super) fn set(&mut self, backend: BackendId, when: Option<Instant>) {
        let before = match when {
            Some(when) => self.by_backend.insert(backend, when),
            None => self.by_backend.remove(&backend),
        };
        if before == when {
            return;
        }
        if let Some(before) = before {
            self.by_time.remove(&(before, backend));
        }
        if let Some(when) = when {
            self.by_time.insert((when, backend));
        }
    }

    /// The earliest appointment.
    pub(super) fn next(&self) -> Option<Instant> {
        self.by_time.first().map(|(when, _)| *when)
    }

    /// Takes the earliest appointment if it is due.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<BackendId> {
        let (when, backend) = self.by_time.first().copied()?;
        if when > now {
            return None;
        }
        self.set(backend, None);
        Some(backend)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use gossip::clock::{Clock, Wall};

    use super::*;

    #[test]
    fn the_earliest_first_and_one_a_backend() {
        let now = Clock::simulated(Wall(0)).now();
        let after = |millis| now + Duration::from_millis(millis);
        let mut agenda = Agenda::default();
        agenda.set(BackendId(1), Some(after(30)));
        agenda.set(BackendId(2), Some(after(20)));
        agenda.set(BackendId(1), Some(after(10)));
        agenda.set(BackendId(3), Some(after(5)));
        agenda.set(BackendId(3), None);
        assert_eq!(agenda.next(), Some(after(10)));
        assert_eq!(agenda.pop_due(after(9)), None);
        assert_eq!(agenda.pop_due(after(50)), Some(BackendId(1)));
        assert_eq!(agenda.pop_due(after(50)), Some(BackendId(2)));
        assert_eq!((agenda.pop_due(after(50)), agenda.next()), (None, None));
    }
}
