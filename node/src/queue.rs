//! Those who wait on this node for a backend with `max_connections`: who is woken next.
//!
//! Workers share it. While nobody waits it costs one atomic load when a request ends; the order of those who wait is tokio's
//! (first come, first woken, and one that stops waiting passes it on).
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// A queue.
#[derive(Debug, Default)]
pub struct Queue {
    waiting: AtomicUsize,
    freed: Notify,
}

impl Queue {
    /// How many wait.
    pub fn waiting(&self) -> usize {
        // Ordered with the counters of what is in flight: either who joins sees the place that became free, or who frees it
        // sees who joined.
        self.waiting.load(Ordering::SeqCst)
    }

    /// Wakes the one that has waited longest; returns whether there was one.
    pub fn wake(&self) -> bool {
        let waits = self.waiting() > 0;
        if waits {
            self.freed.notify_one();
        }
        waits
    }

    /// Ends with the next turn. Enable it before looking for a place.
    pub fn woken(&self) -> Notified<'_> {
        self.freed.notified()
    }

    /// Begins to wait; `None` when `most` wait already. A turn that is given up unused wakes one of `others`.
    pub fn join<'a>(&'a self, most: usize, others: &'a Self) -> Option<Turn<'a>> {
        let before = self.waiting.fetch_add(1, Ordering::SeqCst);
        let turn = Turn { queue: self, others, is_first: before == 0, is_used: false };
        (before < most).then_some(turn)
    }
}

/// One that waits; dropping it ends the wait.
#[derive(Debug)]
pub struct Turn<'a> {
    queue: &'a Queue,
    others: &'a Queue,
    is_first: bool,
    is_used: bool,
}

impl Turn<'_> {
    /// Whether nobody waited before.
    pub fn is_first(&self) -> bool {
        self.is_first
    }

    /// A place was found.
    pub fn used(&mut self) {
        self.is_used = true;
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.queue.waiting.fetch_sub(1, Ordering::SeqCst);
        if !self.is_used {
            self.others.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_bounded_and_forgets_who_leaves() {
        let queue = Queue::default();
        let turns: Vec<_> = (0..3).filter_map(|_| queue.join(2, &queue)).collect();
        assert_eq!((turns.len(), queue.waiting()), (2, 2));
        assert!(turns[0].is_first() && !turns[1].is_first());
        drop(turns);
        assert_eq!(queue.waiting(), 0);
        assert!(!queue.wake());
    }

    #[tokio::test]
    async fn first_come_first_woken_and_who_gives_up_passes_it_on() {
        let queue = Queue::default();
        let _turns: Vec<_> = (0..3).filter_map(|_| queue.join(9, &queue)).collect();
        let (mut first, mut second) = (Box::pin(queue.woken()), Box::pin(queue.woken()));
        assert!(!first.as_mut().enable() && !second.as_mut().enable());
        assert!(queue.wake());
        drop(first);
        second.await;
    }
}
