//! Watches the node's loops from a thread of its own: a loop that does not tick any more cannot report it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use gossip::clock::{Clock, ticks};
use tokio::runtime::Handle;

/// How long a loop may be silent before that is reported.
const PATIENCE: Duration = Duration::from_secs(5);
const TICK: Duration = Duration::from_secs(1);

/// The watch; dropping it ends it.
#[derive(Debug)]
pub(crate) struct Watchdog {
    watched: Arc<Mutex<Vec<Watched>>>,
    clock: Clock,
    ended: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// A loop, and what was heard of it.
#[derive(Debug)]
struct Watched {
    name: &'static str,
    /// What it means that it stands still.
    meaning: &'static str,
    ticked: Arc<AtomicBool>,
    heard: Instant,
    reported: bool,
}

/// What there is to say of a loop.
#[derive(Debug, PartialEq, Eq)]
enum News {
    StandsStill,
    TicksAgain,
}

impl Watchdog {
    /// Begins to watch the tokio runtime this is called in.
    pub(crate) fn start(clock: Clock) -> std::io::Result<Self> {
        let (watched, ended) = (Arc::<Mutex<Vec<Watched>>>::default(), Arc::<AtomicBool>::default());
        let (all, over, time) = (watched.clone(), ended.clone(), clock.clone());
        let thread = std::thread::Builder::new().name("watchdog".into()).spawn(move || {
            while !over.load(Ordering::Relaxed) {
                std::thread::park_timeout(TICK);
                for watched in all.lock().unwrap_or_else(PoisonError::into_inner).iter_mut() {
                    watched.look(time.now());
                }
            }
        })?;
        let watchdog = Self { watched, clock, ended, thread: Some(thread) };
        let meaning = "traffic is served from the last snapshot";
        watchdog.watch("control", meaning, &Handle::current());
        Ok(watchdog)
    }

    /// Watches another one too.
    pub(crate) fn watch(&self, name: &'static str, meaning: &'static str, runtime: &Handle) {
        let ticked = Arc::<AtomicBool>::default();
        let pulse = ticked.clone();
        runtime.spawn(async move {
            let mut beats = ticks(TICK);
            loop {
                beats.tick().await;
                pulse.store(true, Ordering::Relaxed);
            }
        });
        let watched = Watched { name, meaning, ticked, heard: self.clock.now(), reported: false };
        self.watched.lock().unwrap_or_else(PoisonError::into_inner).push(watched);
    }
}

impl Watched {
    fn look(&mut self, now: Instant) {
        let Self { name, meaning, .. } = *self;
        match self.news(now) {
            Some(News::StandsStill) => {
                tracing::error!("the {name} loop has not ticked for {} s; {meaning}", PATIENCE.as_secs());
            }
            Some(News::TicksAgain) => tracing::warn!("the {name} loop ticks again"),
            None => {}
        }
    }

    fn news(&mut self, now: Instant) -> Option<News> {
        if self.ticked.swap(false, Ordering::Relaxed) {
            self.heard = now;
            return std::mem::take(&mut self.reported).then_some(News::TicksAgain);
        }
        let is_news = !self.reported && now.saturating_duration_since(self.heard) > PATIENCE;
        self.reported |= is_news;
        is_news.then_some(News::StandsStill)
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It never panics and ends at once.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use gossip::clock::Wall;

    use super::*;

    #[test]
    fn a_loop_that_stands_still_is_told_of_once_and_so_is_its_end() {
        let clock = Clock::simulated(Wall(0));
        let ticked = Arc::new(AtomicBool::new(true));
        let mut watched =
            Watched { name: "a", meaning: "", ticked: ticked.clone(), heard: clock.now(), reported: false };
        let mut after = |seconds, ticks| {
            clock.advance(Duration::from_secs(seconds));
            ticked.store(ticks, Ordering::Relaxed);
            watched.news(clock.now())
        };
        assert_eq!(after(9, true), None, "late, but there");
        assert_eq!((after(5, false), after(1, false)), (None, Some(News::StandsStill)));
        assert_eq!((after(60, false), after(1, true)), (None, Some(News::TicksAgain)));
        assert_eq!((after(1, true), after(5, false)), (None, None));
    }

    #[tokio::test]
    async fn it_follows_each_loop_that_it_is_told_of() {
        let watchdog = Watchdog::start(Clock::system()).unwrap();
        let other = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        watchdog.watch("other", "", other.handle());
        let heard = |number: usize| watchdog.watched.lock().unwrap()[number].heard;
        let at_first = [heard(0), heard(1)];
        while heard(0) == at_first[0] {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(heard(1), at_first[1], "nothing runs it");
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let run = tokio::task::spawn_blocking(move || other.block_on(stopped));
        while heard(1) == at_first[1] {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        drop(stop);
        assert!(run.await.unwrap().is_err());
    }
}
