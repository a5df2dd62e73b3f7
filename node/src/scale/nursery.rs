//! Backends that appeared just now: those that are gone again at once are no use, and none are started in their place for a
//! while. Pure.
//!
//! ```text
//!   appeared ──▶ young ──▶ stays for 10 s: grown, and the pauses are over
//!                  │ ▲
//!                  ▼ │ back at the same address
//!                fallen: counted on until the pause is over, which is twice as long each time in a row
//! ```

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use gossip::id::BackendId;

use super::coming::{Brought, PATIENCE_MAX, Started};

/// What is gone again so soon after it appeared most probably ends as soon as it begins.
pub(super) const YOUNG: Duration = Duration::from_secs(10);
/// Nothing is started in the place of such ones for so long. Twice as long each time in a row, at most [`PATIENCE_MAX`].
pub(super) const PAUSE: Duration = Duration::from_secs(10);

/// Backends that appeared just now, and those of them that are gone.
#[derive(Debug, Default)]
pub(super) struct Nursery {
    young: BTreeMap<BackendId, Young>,
    fallen: BTreeMap<BackendId, Young>,
    /// Until then none are started in the place of the fallen.
    until: Option<Instant>,
    /// How often in a row some have fallen.
    falls: u32,
}

#[derive(Debug, Clone, Copy)]
struct Young {
    /// Of the decision that started it.
    number: u64,
    /// This node's.
    own: bool,
    came: Instant,
}

/// What a look has shown.
#[derive(Debug, Default)]
pub(super) struct Looked {
    /// Those of this node's own decisions that fell.
    pub(super) fallen: BTreeMap<u64, Started>,
    /// Those that are not waited for any more: what comes at their address is another.
    pub(super) forgotten: Vec<BackendId>,
}

impl Nursery {
    /// One has appeared.
    pub(super) fn takes(&mut self, backend: BackendId, number: u64, own: bool, now: Instant) {
        self.young.insert(backend, Young { number, own, came: now });
    }

    /// Whether it has come before: one that is back is no other.
    pub(super) fn knows(&self, backend: &BackendId) -> bool {
        self.young.contains_key(backend)
    }

    /// How many are not to be replaced yet.
    pub(super) fn count(&self) -> u32 {
        self.fallen.len() as u32
    }

    /// How many they are, and for how long none are started in their place.
    pub(super) fn pause(&self, now: Instant) -> Option<(u32, Duration)> {
        let until = self.until.filter(|_| !self.fallen.is_empty())?;
        Some((self.count(), until.saturating_duration_since(now)))
    }

    /// Looks which are gone, and which are back.
    pub(super) fn look(&mut self, brought: &Brought, now: Instant) -> Looked {
        let mut looked = Looked::default();
        let back = self.fallen.extract_if(.., |backend, _| brought.present.contains(backend));
        self.young.extend(back.map(|(backend, young)| (backend, Young { came: now, ..young })));
        if self.until.take_if(|until| now >= *until).is_some() {
            looked.forgotten.extend(std::mem::take(&mut self.fallen).into_keys());
        }
        let (mut fell, mut stayed) = (false, false);
        self.young.retain(|backend, young| {
            let after = now.saturating_duration_since(young.came);
            if brought.present.contains(backend) {
                stayed |= after >= YOUNG;
                // What is told to go does not fall.
                return after < YOUNG && !brought.leaving.contains(backend);
            }
            fell = true;
            self.fallen.insert(*backend, *young);
            if young.own {
                let none = Started { count: 0, missing: 0, after };
                let started = looked.fallen.entry(young.number).or_insert(none);
                (started.count, started.missing) = (started.count + 1, started.missing + 1);
            }
            false
        });
        if fell {
            let pause = PAUSE.saturating_mul(1 << self.falls.min(8)).min(PATIENCE_MAX);
            self.until = Some(now + pause);
            self.falls = self.falls.saturating_add(1);
        } else if stayed {
            self.falls = 0;
        }
        looked
    }
}

#[cfg(test)]
mod tests {
    use gossip::clock::{Clock, Wall};

    use super::*;

    struct World {
        nursery: Nursery,
        clock: Clock,
    }

    impl World {
        fn new() -> Self {
            Self { nursery: Nursery::default(), clock: Clock::simulated(Wall(0)) }
        }

        fn takes(&mut self, backends: &[u64]) {
            for backend in backends {
                self.nursery.takes(BackendId(*backend), 1, true, self.clock.now());
            }
        }

        /// How many fell, how many are counted on, and how many are forgotten.
        fn look(&mut self, after: u64, present: &[u64], leaving: &[u64]) -> (u32, u32, usize) {
            self.clock.advance(Duration::from_secs(after));
            let ids = |ids: &[u64]| ids.iter().map(|id| BackendId(*id)).collect();
            let brought = Brought { present: ids(present), leaving: ids(leaving) };
            let looked = self.nursery.look(&brought, self.clock.now());
            let fallen = looked.fallen.values().map(|started| started.missing).sum();
            (fallen, self.nursery.count(), looked.forgotten.len())
        }
    }

    #[test]
    fn what_stays_ends_the_pauses() {
        let mut world = World::new();
        world.takes(&[1, 2, 3]);
        assert_eq!(world.look(2, &[1, 2], &[]), (1, 1, 0), "one of three");
        assert_eq!(world.nursery.pause(world.clock.now()), Some((1, PAUSE)));
        assert_eq!(world.look(9, &[1, 2], &[]), (0, 1, 0));
        assert_eq!(world.look(1, &[1, 2], &[]), (0, 0, 1));
        assert_eq!(
            (world.nursery.pause(world.clock.now()), world.nursery.falls),
            (None, 0),
            "two have stayed"
        );
    }

    #[test]
    fn what_is_told_to_go_does_not_fall() {
        let mut world = World::new();
        world.takes(&[1]);
        assert_eq!(world.look(1, &[1], &[1]), (0, 0, 0));
        assert_eq!(world.look(1, &[], &[]), (0, 0, 0));
    }

    #[test]
    fn what_is_back_is_young_again() {
        let mut world = World::new();
        world.takes(&[1]);
        assert_eq!(world.look(1, &[], &[]), (1, 1, 0));
        assert_eq!(world.look(1, &[1], &[]), (0, 0, 0), "not counted twice");
        assert_eq!(world.look(1, &[], &[]), (1, 1, 0));
        assert_eq!(world.nursery.pause(world.clock.now()), Some((1, PAUSE * 2)), "and in a row");
    }
}
