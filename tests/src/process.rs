//! Child processes that end with this one, however it ends.
//!
//! A [`Process`] kills its child when dropped. That does not help when the test process itself is killed, so a
//! *reaper* watches over all of them: one small shell whose standard input is a pipe that only this process holds.
//! It is told every child's id; when the pipe ends, it kills those that are left. (A parent-death signal would need
//! code between fork and exec, and it fires already when the *thread* that made the child ends.)

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

use crate::wait::{Hopeless, eventually, secs};

const REAPER: &str = r#"
trap '' INT TERM HUP
alive=
while read -r verb pid; do
  case $verb in
    watch) alive="$alive $pid" ;;
    forget) rest=; for each in $alive; do [ "$each" = "$pid" ] || rest="$rest $each"; done; alive=$rest ;;
  esac
done
for each in $alive; do kill -9 "$each" 2>/dev/null; done
"#;

fn tell_reaper(verb: &str, pid: u32) -> Result<()> {
    static PIPE: OnceLock<Mutex<ChildStdin>> = OnceLock::new();
    if PIPE.get().is_none() {
        let mut reaper = Command::new("sh")
            .args(["-c", REAPER])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("starting sh, which ends the children of a killed test")?;
        // When another thread was first, this one's pipe closes here and its shell goes home.
        let _ = PIPE.set(Mutex::new(reaper.stdin.take().context("the reaper's pipe")?));
    }
    let pipe = PIPE.get().context("the reaper's pipe")?;
    writeln!(pipe.lock().unwrap_or_else(PoisonError::into_inner), "{verb} {pid}")
        .context("telling the reaper")
}

/// A running child; killed and waited for when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts `command` with both outputs appended to the file `log`.
    pub fn spawn(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        let open = || File::options().create(true).append(true).open(log);
        let child = command
            .stdin(Stdio::null())
            .stdout(open()?)
            .stderr(open()?)
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        let process = Self { name: name.to_owned(), child, log: log.to_owned(), ended: None };
        tell_reaper("watch", process.child.id())?;
        Ok(process)
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait()?;
            if self.ended.is_some() {
                tell_reaper("forget", self.child.id())?;
            }
        }
        Ok(self.ended)
    }

    /// An error with the end of the log when it is no longer running: whatever it was to do, it never will.
    pub fn must_run(&mut self) -> Result<()> {
        match self.ended()? {
            None => Ok(()),
            Some(status) => {
                Err(Hopeless(format!("{} ended with {status}: {}", self.name, self.log_tail(5))).into())
            }
        }
    }

    /// Sends a signal; nothing happens when it has already ended.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if self.ended()?.is_none() {
            let pid = Pid::from_raw(self.child.id() as i32).context("a process id")?;
            kill_process(pid, signal).with_context(|| format!("signalling {}", self.name))?;
        }
        Ok(())
    }

    /// SIGKILL, and waits until it is gone.
    pub async fn kill(&mut self) -> Result<()> {
        self.signal(Signal::KILL)?;
        self.exit(secs(5)).await.map(drop)
    }

    /// SIGTERM, and waits for its end.
    pub async fn stop(&mut self, within: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.exit(within).await
    }

    /// Waits for its end.
    pub async fn exit(&mut self, within: Duration) -> Result<ExitStatus> {
        let what = format!("{} ends", self.name);
        eventually(&what, within, async || self.ended()?.context("still running")).await
    }

    /// All it has said so far.
    pub fn log(&self) -> String {
        std::fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// The last `lines` of its log.
    pub fn log_tail(&self, lines: usize) -> String {
        tail(&self.log(), lines)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.ended.is_none() {
            let _ = self.child.kill();
            let _ = tell_reaper("forget", self.child.id());
            let _ = self.child.wait();
        }
    }
}

/// The last `lines` of a text.
pub(crate) fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[tokio::test]
    async fn a_process_is_seen_running_heard_and_stopped() {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo here I am; exec sleep 60"]);
        let mut process = Process::spawn("sleeper", command, &folder.path().join("log")).unwrap();
        process.must_run().unwrap();
        eventually("it speaks", secs(5), async || {
            if process.log().contains("here I am") { Ok(()) } else { Err(anyhow!("silent")) }
        })
        .await
        .unwrap();
        assert!(!process.stop(secs(5)).await.unwrap().success());
        assert!(process.must_run().is_err());
    }

    #[tokio::test]
    async fn dropping_a_process_ends_it() {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("sleep");
        command.arg("60");
        let process = Process::spawn("sleeper", command, &folder.path().join("log")).unwrap();
        let id = process.id();
        drop(process);
        assert!(!Path::new(&format!("/proc/{id}/stat")).exists());
    }

    /// Only when the test below starts this program again: has a child, and waits to be killed.
    #[test]
    fn a_victim() {
        let Some(folder) = std::env::var_os("TESTS_VICTIM").map(PathBuf::from) else { return };
        let mut command = Command::new("sleep");
        command.arg("600");
        let process = Process::spawn("orphan", command, &folder.join("log")).unwrap();
        std::fs::write(folder.join("pid.new"), process.id().to_string()).unwrap();
        std::fs::rename(folder.join("pid.new"), folder.join("pid")).unwrap();
        loop {
            std::thread::park();
        }
    }

    #[tokio::test]
    async fn the_children_of_a_killed_test_process_die_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .args(["process::tests::a_victim", "--exact"])
            .env("TESTS_VICTIM", folder.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let orphan = eventually("the victim has a child", secs(10), async || {
            Ok(std::fs::read_to_string(folder.path().join("pid"))?)
        })
        .await
        .unwrap();
        victim.kill().unwrap();
        victim.wait().unwrap();
        eventually("the child is gone", secs(10), async || {
            match std::fs::read_to_string(format!("/proc/{orphan}/stat")) {
                // A zombie is dead; whoever inherited it has yet to notice.
                Ok(stat) if !stat.contains(") Z ") => Err(anyhow!("{stat}")),
                _ => Ok(()),
            }
        })
        .await
        .unwrap();
    }
}
