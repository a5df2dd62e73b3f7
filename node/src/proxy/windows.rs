//! Clients that ask for much over HTTP/2 and take nothing of it (pure): they keep their windows shut, and every answer that
//! waits behind one holds a backend's connection or a buffer. The socket tells nothing of it, and pings keep it alive
//! ("data dribble", CVE-2019-9511).
//!
//! An answer *owes* from the moment it gives a frame to the connection until it is asked for the next: a stream whose
//! window is shut is not asked. While any owes for five minutes on end, the connection must take at least a frame for each
//! that owes, some 16 KiB, or it is cut. Streams that have nothing to say owe nothing, however long they last.
use std::sync::atomic::{AtomicU32, Ordering};

/// Looks that make five minutes (a busy connection is looked at every five seconds).
const LOOKS: u32 = 60;

/// The answers of one connection. Written by one thread; atomics only because the connection may travel.
#[derive(Debug)]
pub(super) struct Windows {
    looks_max: u32,
    owed: AtomicU32,
    taken: AtomicU32,
    /// Looks in a row at which an answer owed, and what had been taken at the first.
    looks: AtomicU32,
    taken_at_first: AtomicU32,
}

impl Default for Windows {
    fn default() -> Self {
        // Tests of the whole do not wait for five minutes.
        Self::within(if cfg!(test) { 2 } else { LOOKS })
    }
}

impl Windows {
    /// For so many looks in a row answers may owe.
    fn within(looks_max: u32) -> Self {
        let [owed, taken, looks, taken_at_first] = Default::default();
        Self { looks_max, owed, taken, looks, taken_at_first }
    }

    /// An answer gave a frame.
    pub(super) fn owes(&self) {
        change(&self.owed, |owed| owed.saturating_add(1));
    }

    /// An answer that owed is asked for more, or over.
    pub(super) fn taken(&self) {
        change(&self.owed, |owed| owed.saturating_sub(1));
        change(&self.taken, |taken| taken.wrapping_add(1));
    }

    /// Looks at the connection; whether its client takes too little.
    pub(super) fn look(&self) -> bool {
        let (owed, taken) = (self.owed.load(Ordering::Relaxed), self.taken.load(Ordering::Relaxed));
        let looks = self.looks.load(Ordering::Relaxed);
        if owed == 0 {
            self.looks.store(0, Ordering::Relaxed);
            return false;
        }
        if looks == 0 {
            self.taken_at_first.store(taken, Ordering::Relaxed);
        }
        let over = looks >= self.looks_max;
        self.looks.store(if over { 0 } else { looks + 1 }, Ordering::Relaxed);
        over && taken.wrapping_sub(self.taken_at_first.load(Ordering::Relaxed)) < owed
    }
}

fn change(of: &AtomicU32, to: impl FnOnce(u32) -> u32) {
    of.store(to(of.load(Ordering::Relaxed)), Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// At which look the connection is cut, if answers `owe` and so many frames are taken between two looks.
    fn cut_at(owe: u32, taken_a_look: u32) -> Option<u32> {
        let windows = Windows::within(LOOKS);
        (0..owe).for_each(|_| windows.owes());
        (1..1000).find(|_| {
            for _ in 0..taken_a_look {
                windows.taken();
                windows.owes();
            }
            windows.look()
        })
    }

    #[test]
    fn windows_that_stay_shut_end_it_after_five_minutes() {
        assert_eq!(cut_at(1, 0), Some(LOOKS + 1));
        assert_eq!(cut_at(128, 0), Some(LOOKS + 1));
        assert_eq!(cut_at(0, 0), None, "who owes nothing may be silent");
    }

    #[test]
    fn one_busy_stream_does_not_cover_for_many_that_stand_still() {
        assert_eq!(cut_at(128, 1), Some(LOOKS + 1));
        assert_eq!(cut_at(128, 3), None);
        assert_eq!(cut_at(2, 1), None);
    }

    #[test]
    fn a_pause_in_between_begins_anew() {
        let windows = Windows::within(LOOKS);
        for _ in 0..20 {
            windows.owes();
            assert!((0..LOOKS).all(|_| !windows.look()));
            windows.taken();
            assert!(!windows.look());
        }
    }
}
