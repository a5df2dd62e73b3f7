//! Upgrade without a lost request: one process of a node gives its sockets to the next.
//!
//! ```text
//!   old                                            new                       (a socket pair; the new one has it as its standard input)
//!    │ starts it ────────────────────────────────▶ │ reads and checks its configuration
//!    │ ◀──────────────────────────────── "ready" ── │
//!    │ lets requests of other regions end, writes   │
//!    │ its store, leaves the mesh's ports           │
//!    │ ── the data folder's lock, all sockets,      │
//!    │    who is there, who is down ──────────────▶ │ starts: store, mesh, proxy, name server
//!    │     (serves on, from its last snapshot)      │
//!    │ ◀────────────────────────────── "serving" ── │ accepts
//!    │ accepts nothing more, answers who is         │
//!    │ connected, and ends                          ▼
//! ```
//!
//! A connection that waits to be accepted, and a datagram that waits to be read, lie in a socket that both have: neither is lost.
//! What goes wrong before the lock changes hands changes nothing. After it, the old process starts its own program again in
//! the same way, so that the node goes on as it was.

mod legacy;
mod wire;

use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

pub(crate) use self::legacy::Legacy;
pub(crate) use self::wire::{Line, WireError};

/// The flag that tells a new process what its standard input is.
pub(crate) const FLAG: &str = "--take-over";
/// How long a new process may take to be ready, and then to serve.
const PATIENCE: Duration = Duration::from_secs(20);

/// Why a node was not upgraded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpgradeError {
    /// Nothing has changed.
    #[error("{program} cannot be started: {source}")]
    Start { program: String, source: std::io::Error },
    /// Nothing has changed.
    #[error("the new process is not ready: {0}; nothing was changed")]
    NotReady(String),
    /// The old program serves again.
    #[error("the new process does not serve: {0}; the old program was started again")]
    WentBack(String),
    /// This process serves from its last snapshot and takes no orders any more.
    #[error(
        "the new process does not serve: {0}; this one serves what it knew and takes no orders: restart the node"
    )]
    Stuck(String),
}

/// The process that comes next.
pub(crate) struct Successor {
    /// Its process id.
    pub(crate) pid: u32,
    line: Line,
}

impl Successor {
    /// Starts `program` as this process was started, and waits until it has checked its configuration.
    ///
    /// # Errors
    /// When it cannot be started, or says that it cannot.
    pub(crate) async fn start(program: &Path) -> Result<Self, UpgradeError> {
        let failed = |source| UpgradeError::Start { program: program.display().to_string(), source };
        let (line, theirs) = Line::pair().map_err(failed)?;
        let mut arguments: Vec<_> = std::env::args_os().skip(1).filter(|argument| argument != FLAG).collect();
        arguments.push(FLAG.into());
        let mut command = Command::new(program);
        // A group of its own: what the program started can be ended with it.
        command.args(arguments).stdin(Stdio::from(OwnedFd::from(theirs))).process_group(0);
        let mut child = command.spawn().map_err(failed)?;
        drop(command);
        let pid = child.id();
        let mut successor = Self { pid, line };
        if let Err(error) = successor.hear("ready").await {
            end(pid);
            let _ = tokio::task::spawn_blocking(move || child.wait()).await;
            return Err(UpgradeError::NotReady(error));
        }
        // Whoever ends before its child is nobody's parent; should the child end first, it is waited for.
        std::thread::Builder::new().name("successor".into()).spawn(move || child.wait()).map_err(failed)?;
        Ok(successor)
    }

    /// Lets it wait while something is done that takes its time: who hears nothing for long gives up.
    pub(crate) async fn wait_for<T>(&self, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        let mut words = tokio::time::interval(PATIENCE / 4);
        loop {
            tokio::select! {
                done = &mut work => return done,
                // Should it have ended, that is found out when it is given everything.
                _ = words.tick() => drop(self.line.say("wait", &[])),
            }
        }
    }

    /// Gives it everything and waits until it serves.
    pub(crate) async fn take_over(mut self, legacy: Legacy) -> Result<u32, String> {
        let sent = tokio::task::spawn_blocking(move || legacy.send(&self.line).map(|()| self)).await;
        self = sent.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        self.hear("serving").await?;
        Ok(self.pid)
    }

    async fn hear(&mut self, word: &'static str) -> Result<(), String> {
        let line = self.line.try_clone().map_err(|error| error.to_string())?;
        let said = tokio::task::spawn_blocking(move || line.hear(PATIENCE)).await;
        match said.map_err(|error| error.to_string())? {
            Ok((said, _)) if said == word => Ok(()),
            Ok((said, _)) => Err(said),
            Err(WireError::Ended) => Err("it ended; its log says why".into()),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// Ends a successor that is of no use, with all that it started. An error means that it has ended by itself.
pub(super) fn end(successor: u32) {
    if let Some(group) = process(successor) {
        let _ = kill_process_group(group, Signal::KILL);
    }
}

/// Passes SIGTERM on to the process that serves now.
pub(crate) fn ask_to_leave(successor: u32) {
    let asked = process(successor).map(|process| kill_process(process, Signal::TERM));
    if !matches!(asked, Some(Ok(()))) {
        tracing::error!(pid = successor, "the process that serves now could not be asked to leave");
    }
}

fn process(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}

/// The file that this process's program was started from: after a replacement on disk, the new one.
pub(crate) fn program() -> PathBuf {
    let own = std::env::current_exe().unwrap_or_else(|_| "/proc/self/exe".into());
    // Linux marks a program whose file was replaced.
    match own.to_string_lossy().strip_suffix(" (deleted)") {
        Some(path) => path.into(),
        None => own,
    }
}

/// The program that runs, whatever its file is now.
pub(crate) fn running_program() -> PathBuf {
    "/proc/self/exe".into()
}
