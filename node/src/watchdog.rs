//! Watches the control runtime from a thread of its own: a loop that does not tick any more cannot report it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use gossip::clock::Clock;

/// How long the control runtime may be silent before that is reported.
const PATIENCE: Duration = Duration::from_secs(5);
const TICK: Duration = Duration::from_millis(500);

/// The watch; dropping it ends it.
#[derive(Debug)]
pub(crate) struct Watchdog {
    ended: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Watchdog {
    /// Begins to watch the tokio runtime this is called in.
    pub(crate) fn start(clock: Clock) -> std::io::Result<Self> {
        let ended = Arc::new(AtomicBool::new(false));
        let alive = Arc::new(AtomicBool::new(true));
        let pulse = alive.clone();
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(TICK);
            loop {
                ticks.tick().await;
                pulse.store(true, Ordering::Relaxed);
            }
        });
        let over = ended.clone();
        let thread = std::thread::Builder::new().name("watchdog".into()).spawn(move || {
            let mut heard = clock.now();
            let mut reported = false;
            while !over.load(Ordering::Relaxed) {
                std::thread::park_timeout(TICK);
                let now = clock.now();
                if alive.swap(false, Ordering::Relaxed) {
                    if reported {
                        tracing::warn!("the control loop ticks again");
                    }
                    (heard, reported) = (now, false);
                } else if !reported && now.duration_since(heard) > PATIENCE {
                    tracing::error!(
                        "the control loop has not ticked for 5 s; traffic is served from the last snapshot"
                    );
                    reported = true;
                }
            }
        })?;
        Ok(Self { ended, thread: Some(thread) })
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
