//! The control tasks of this node, and what it does when one of them ends though it should not.
//!
//! ```text
//!   a task ends or panics ─▶ problem, event, metric; /readyz says no
//!                              └─ vital: the node leaves as SIGTERM asks, and its process fails: the supervisor starts it anew
//! ```
//!
//! The data plane never waits for them (I1), so users would be served on without one: from a snapshot, a table of names, a ring of
//! keys that nobody changes any more. That is right for seconds and wrong for hours.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::FutureExt;
use gossip::clock::Clock;
use gossip::id::NodeName;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::admin::EventLog;

/// What the node is without a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// It would go on telling users, resolvers or peers what is not so any more.
    Vital,
    /// It lacks something, and says so.
    Useful,
}

/// A task that ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ended {
    /// Its name.
    pub(crate) task: &'static str,
    /// What the node is without it.
    pub(crate) need: Need,
    why: String,
}

impl Ended {
    /// In a sentence.
    pub(crate) fn text(&self) -> String {
        let Self { task, why, .. } = self;
        match self.need {
            Need::Vital => format!(
                "control task {task} ended ({why}): this node leaves, and is started anew by its supervisor where it has one"
            ),
            Need::Useful => format!("control task {task} ended ({why}): restart the node to have it again"),
        }
    }
}

/// Those that ended, for whoever asks. Cheap to clone.
#[derive(Clone)]
pub(crate) struct EndedTasks(watch::Receiver<Vec<Ended>>);

impl EndedTasks {
    /// All of them.
    pub(crate) fn list(&self) -> Vec<Ended> {
        self.0.borrow().clone()
    }

    /// Resolves with the first vital one.
    pub(crate) async fn vital(mut self) -> Ended {
        loop {
            let vital = self.0.borrow_and_update().iter().find(|ended| ended.need == Need::Vital).cloned();
            match vital {
                Some(ended) => return ended,
                // The node stops: nothing more is reported.
                None if self.0.changed().await.is_err() => std::future::pending().await,
                None => {}
            }
        }
    }
}

/// All control tasks that this node started.
pub(crate) struct ControlTasks {
    tasks: JoinSet<()>,
    report: Report,
}

impl ControlTasks {
    /// None yet.
    pub(crate) fn new(node: NodeName, events: Arc<EventLog>, clock: Clock) -> Self {
        let report =
            Report { node, events, clock, ended: watch::Sender::new(Vec::new()), parting: Arc::default() };
        Self { tasks: JoinSet::new(), report }
    }

    /// Runs a task that never ends by itself.
    pub(crate) fn spawn(
        &mut self,
        task: &'static str,
        need: Need,
        run: impl Future<Output = ()> + Send + 'static,
    ) {
        let report = self.report.clone();
        self.tasks.spawn(async move {
            let run = AssertUnwindSafe(run).catch_unwind();
            let why = tokio::select! {
                ended = run => ended.map_or_else(|panic| said(&*panic), |()| "it had nothing more to follow".into()),
                () = planted(task) => "a test ended it".into(),
            };
            report.tell(Ended { task, need, why });
        });
    }

    /// Watches over a task that runs already, and ends it with the others.
    pub(crate) fn adopt(&mut self, task: &'static str, need: Need, running: JoinHandle<()>) {
        let abort = AbortOnDrop(running.abort_handle());
        self.spawn(task, need, async move {
            let _abort = abort;
            if let Err(error) = running.await {
                std::panic::resume_unwind(match error.try_into_panic() {
                    Ok(panic) => panic,
                    Err(error) => Box::new(error.to_string()),
                });
            }
        });
    }

    /// Those that ended.
    pub(crate) fn ended(&self) -> EndedTasks {
        EndedTasks(self.report.ended.subscribe())
    }

    /// The node stops: what ends from now on ends for want of what it followed, and is not reported.
    pub(crate) fn part(&self) {
        self.report.parting.store(true, Ordering::Relaxed);
    }

    /// Ends all; none is reported.
    pub(crate) async fn shutdown(&mut self) {
        self.tasks.shutdown().await;
    }
}

struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[derive(Clone)]
struct Report {
    node: NodeName,
    events: Arc<EventLog>,
    clock: Clock,
    ended: watch::Sender<Vec<Ended>>,
    parting: Arc<AtomicBool>,
}

impl Report {
    fn tell(&self, ended: Ended) {
        if self.parting.load(Ordering::Relaxed) {
            return;
        }
        tracing::error!(
            task = ended.task,
            vital = ended.need == Need::Vital,
            why = ended.why,
            "a control task ended"
        );
        let text = format!("{}: {}", self.node, ended.text());
        self.events.tell("task-ended", self.node.to_string(), text, &self.clock);
        self.ended.send_modify(|all| all.push(ended));
    }
}

/// What a panic said.
fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(String::as_str));
    format!("panic: {}", text.unwrap_or("it says nothing"))
}

/// In builds for tests: ends a task when a file is there. `MERIDIAN_TEST_END_TASK` holds its name and the path.
#[cfg(debug_assertions)]
async fn planted(task: &'static str) {
    let planted = std::env::var("MERIDIAN_TEST_END_TASK").unwrap_or_default();
    let Some((_, file)) = planted.split_once(' ').filter(|(name, _)| *name == task) else {
        return std::future::pending().await;
    };
    while !std::path::Path::new(file).exists() {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}

#[cfg(not(debug_assertions))]
async fn planted(_task: &'static str) {
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use gossip::clock::Wall;

    use super::*;

    fn tasks(folder: &std::path::Path) -> (ControlTasks, Arc<EventLog>) {
        let clock = Clock::simulated(Wall(1));
        let name: NodeName = "eu-1".parse().unwrap();
        let events = Arc::new(EventLog::open(name.clone(), folder.into(), &clock));
        (ControlTasks::new(name, events.clone(), clock), events)
    }

    #[tokio::test]
    async fn one_that_panics_or_ends_is_told_and_a_vital_one_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let (mut tasks, events) = tasks(folder.path());
        let ended = tasks.ended();
        tasks.spawn("one", Need::Useful, async {});
        tasks.spawn("two", Need::Vital, std::future::pending());
        tasks.adopt("three", Need::Vital, tokio::spawn(async { panic!("a bug") }));
        let vital = ended.clone().vital().await;
        assert_eq!((vital.task, vital.why.as_str()), ("three", "panic: a bug"));
        let running = tokio::spawn(std::future::pending());
        let abort = running.abort_handle();
        tasks.adopt("four", Need::Useful, running);
        abort.abort();
        let mut all = ended.clone();
        all.0.wait_for(|all| all.len() == 3).await.unwrap();
        let mut names: Vec<_> = ended.list().iter().map(|ended| ended.task).collect();
        names.sort_unstable();
        assert_eq!(names, ["four", "one", "three"]);
        let told = events.after(0);
        assert!(told.iter().all(|event| event.kind == "task-ended" && event.subject == "eu-1"), "{told:?}");
    }

    #[tokio::test]
    async fn what_the_node_ends_itself_is_nobodys_fault() {
        let folder = tempfile::tempdir().unwrap();
        let (mut tasks, events) = tasks(folder.path());
        let (sender, mut receiver) = watch::channel(());
        let running = tokio::spawn(async move { while receiver.changed().await.is_ok() {} });
        tasks.adopt("one", Need::Vital, running);
        tasks.spawn("two", Need::Vital, std::future::pending());
        // The mesh has been left, and whoever followed it has nothing more to follow.
        tasks.part();
        tasks.spawn("three", Need::Vital, async {});
        while tasks.tasks.try_join_next().is_none() {
            tokio::task::yield_now().await;
        }
        tasks.shutdown().await;
        sender.closed().await;
        assert!(tasks.ended().list().is_empty() && events.after(0).is_empty());
    }
}
