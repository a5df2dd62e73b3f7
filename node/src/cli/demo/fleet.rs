//! The demo's nodes: child processes that end with this one, whatever way it ends.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, ChildStdin, Command};

use super::plan::{Node, Plan};

/// How long nodes may take to leave before they are killed.
const LEAVE_PATIENCE: Duration = Duration::from_secs(8);

/// A running node. It leaves when its standard input ends, so it cannot outlive this process.
#[derive(Debug)]
struct Running {
    child: Child,
    lifeline: Option<ChildStdin>,
    pid: u32,
}

/// All nodes of the demo.
#[derive(Debug)]
pub(super) struct Fleet {
    folder: PathBuf,
    running: BTreeMap<String, Running>,
}

impl Fleet {
    /// Starts every node, each with its own data folder and log file below `folder`.
    pub(super) fn start(plan: &Plan, folder: &Path, key: &Path) -> anyhow::Result<Self> {
        let mut fleet = Self { folder: folder.to_owned(), running: BTreeMap::new() };
        for node in plan.nodes() {
            let data = folder.join(&node.name);
            std::fs::create_dir_all(&data)?;
            let file = data.join("node.toml");
            std::fs::write(&file, plan.node_toml(node, &data, key))?;
            let log = File::create(fleet.log(&node.name))?;
            let mut child = Command::new(std::env::current_exe()?)
                .args(["start", "--until-stdin-ends", "--config"])
                .arg(&file)
                .env_remove("MERIDIAN_DATA")
                .env_remove("MERIDIAN_NODE")
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(log)
                // Ctrl-C is for the demo, which tells its nodes itself.
                .process_group(0)
                .kill_on_drop(true)
                .spawn()?;
            let lifeline = child.stdin.take();
            let pid = child.id().unwrap_or_default();
            fleet.running.insert(node.name.clone(), Running { child, lifeline, pid });
        }
        Ok(fleet)
    }

    /// Where a node's log is.
    pub(super) fn log(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.log"))
    }

    /// A node's process id.
    pub(super) fn pid(&self, node: &Node) -> u32 {
        self.running.get(&node.name).map(|running| running.pid).unwrap_or_default()
    }

    /// Whether a node runs.
    pub(super) fn runs(&self, name: &str) -> bool {
        self.running.contains_key(name)
    }

    /// Ends a node with SIGKILL.
    pub(super) async fn kill(&mut self, name: &str) -> std::io::Result<()> {
        match self.running.remove(name) {
            Some(mut running) => running.child.kill().await,
            None => Ok(()),
        }
    }

    /// The nodes that ended by themselves since the last call, with how.
    pub(super) fn ended(&mut self) -> Vec<(String, String)> {
        let mut ended = Vec::new();
        self.running.retain(|name, running| match running.child.try_wait() {
            Ok(Some(status)) => {
                ended.push((name.clone(), status.to_string()));
                false
            }
            _ => true,
        });
        ended
    }

    /// Lets all nodes leave, and kills those that take too long.
    pub(super) async fn stop(mut self) {
        for running in self.running.values_mut() {
            running.lifeline.take();
        }
        let leaving = async {
            for running in self.running.values_mut() {
                // An error means that it is gone.
                let _ = running.child.wait().await;
            }
        };
        let _ = tokio::time::timeout(LEAVE_PATIENCE, leaving).await;
        for (_, mut running) in std::mem::take(&mut self.running) {
            let _ = running.child.kill().await;
        }
    }

    /// The last lines of a node's log, for an error message.
    pub(super) fn last_words(&self, name: &str) -> String {
        let text = std::fs::read_to_string(self.log(name)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(5)..].join("\n")
    }
}
