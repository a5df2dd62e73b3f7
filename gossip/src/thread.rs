//! A thread with a tokio runtime of its own: what runs there waits for nobody else's work.

use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::{EnterGuard, Handle};
use tokio::sync::watch;

/// A running thread. When it is dropped it ends, once its farewell is said if it was given one; what still runs there is dropped.
#[derive(Debug)]
pub(crate) struct Thread {
    runtime: Handle,
    end: watch::Sender<bool>,
    joined: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl Thread {
    /// Starts one of this name.
    pub(crate) fn start(name: &str) -> io::Result<Self> {
        let (end, mut ended) = watch::channel(false);
        let (made, making) = std::sync::mpsc::sync_channel(1);
        // Made there, since it may not be dropped where tasks run, should there be no thread for it.
        let thread = std::thread::Builder::new().name(name.into()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let _ =
                made.send(runtime.as_ref().map(|runtime| runtime.handle().clone()).map_err(io::Error::kind));
            if let Ok(runtime) = runtime {
                // An error says that whoever could end it has gone.
                let _ = runtime.block_on(ended.wait_for(|end| *end));
            }
        })?;
        let runtime = making.recv().map_err(io::Error::other)??;
        Ok(Self { runtime, end, joined: Mutex::new(Some(thread)) })
    }

    /// Its runtime.
    pub(crate) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// What is bound or spawned while the guard lives belongs to it.
    pub(crate) fn enter(&self) -> EnterGuard<'_> {
        self.runtime.enter()
    }

    /// Runs something there and waits for it, on any runtime.
    ///
    /// # Panics
    /// When the work does, and when the thread ends before it.
    pub(crate) async fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        match self.runtime.spawn(work).await {
            Ok(done) => done,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    /// Ends it after this.
    pub(crate) fn end_after(&self, farewell: impl Future<Output = ()> + Send + 'static) {
        let end = self.end.clone();
        self.runtime.spawn(async move {
            farewell.await;
            end.send_replace(true);
        });
    }

    /// After [`Thread::end_after`]: waits until it has ended, at most `patience`.
    pub(crate) async fn ended(&self, patience: Duration) {
        let thread = self.joined.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = tokio::time::timeout(patience, tokio::task::spawn_blocking(|| thread.join())).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here() -> Option<String> {
        std::thread::current().name().map(ToOwned::to_owned)
    }

    #[tokio::test]
    async fn what_it_runs_runs_there_and_its_farewell_is_its_last_word() {
        let thread = Thread::start("apart").unwrap();
        assert_eq!(thread.run(async { here() }).await.as_deref(), Some("apart"));
        assert_ne!(here().as_deref(), Some("apart"));
        let spawned = {
            let _entered = thread.enter();
            tokio::spawn(async { here() })
        };
        assert_eq!(spawned.await.unwrap().as_deref(), Some("apart"));
        let for_ever = thread.runtime().spawn(std::future::pending::<()>());
        let (said, mut heard) = watch::channel(false);
        thread.end_after(async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            said.send_replace(true);
        });
        thread.ended(Duration::from_secs(10)).await;
        assert!(*heard.borrow_and_update(), "the farewell came first");
        assert!(for_ever.await.unwrap_err().is_cancelled(), "the rest is dropped");
    }

    #[tokio::test]
    async fn dropped_it_ends_but_not_before_its_farewell() {
        let thread = Thread::start("apart").unwrap();
        let (go, gone) = tokio::sync::oneshot::channel::<()>();
        thread.end_after(async { drop(gone.await) });
        let waits = thread.runtime().spawn(std::future::pending::<()>());
        drop(thread);
        tokio::task::yield_now().await;
        assert!(!waits.is_finished());
        go.send(()).unwrap();
        assert!(waits.await.unwrap_err().is_cancelled());
        let thread = Thread::start("apart").unwrap();
        let waits = thread.runtime().spawn(std::future::pending::<()>());
        drop(thread);
        assert!(waits.await.unwrap_err().is_cancelled(), "without one it ends at once");
    }
}
