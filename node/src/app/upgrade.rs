//! The old process's part of an upgrade: what it lets go, in which order, and how it ends.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::App;
use super::handover::{self, Legacy, Successor, UpgradeError};
use crate::admin::UpgradeOrder;

/// How long other regions are given to send their tunnels to other nodes.
const TUNNELS_LEAVE: Duration = Duration::from_secs(1);
/// The answer to who ordered the upgrade is on its way for so long at most.
const ANSWERED_WITHIN: Duration = Duration::from_millis(500);

/// What became of the order.
pub(crate) enum Upgrade {
    /// This process stays.
    Stays(String),
    /// Another process serves: the new program, or after a failure the old one again. This one has to [`App::retire`].
    Replaced {
        /// The process.
        pid: u32,
        /// Why it is not the program that was asked for.
        failure: Option<String>,
    },
}

impl App {
    /// The next order to upgrade.
    pub(crate) async fn upgrade_ordered(&mut self) -> UpgradeOrder {
        match self.upgrades.recv().await {
            Some(order) => order,
            None => std::future::pending().await,
        }
    }

    /// Starts the next process and gives it everything. Users are served all the time.
    pub(crate) async fn upgrade(&mut self, program: Option<PathBuf>) -> Upgrade {
        let program = program.unwrap_or_else(handover::program);
        tracing::info!(program = %program.display(), "upgrade: the next process is started");
        let next = match Successor::start(&program).await {
            Ok(next) => next,
            Err(error) => return Upgrade::Stays(error.to_string()),
        };
        self.let_go().await;
        let error = match self.give(next).await {
            Ok(pid) => return Upgrade::Replaced { pid, failure: None },
            Err(error) => error,
        };
        tracing::error!(error, "upgrade: the next process does not serve; the old program is started again");
        let again = match Successor::start(&handover::running_program()).await {
            Ok(again) => self.give(again).await,
            Err(error) => Err(error.to_string()),
        };
        match again {
            Ok(pid) => Upgrade::Replaced { pid, failure: Some(UpgradeError::WentBack(error).to_string()) },
            Err(_) => Upgrade::Stays(UpgradeError::Stuck(error).to_string()),
        }
    }

    async fn give(&mut self, next: Successor) -> Result<u32, String> {
        let pid = next.pid;
        let legacy = self.legacy().map_err(|error| error.to_string())?;
        let served = next.take_over(legacy).await;
        if served.is_err()
            && let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw)
        {
            // It may hold what the next one needs. An error means that it has ended by itself.
            let _ = kill_process(pid, Signal::KILL);
        }
        served
    }

    /// Stops all that only one process can do: the store, the mesh, orders. The data plane serves from its last snapshot.
    async fn let_go(&mut self) {
        let abroad = {
            let view = self.gossip.view();
            let view = view.borrow();
            view.members
                .values()
                .any(|member| member.is_alive() && member.record.region != self.config.region)
        };
        if abroad {
            self.gossip.set_draining(true);
            tokio::time::sleep(TUNNELS_LEAVE).await;
        }
        self.tasks.shutdown().await;
        if let Some(storage) = self.storage.take() {
            storage.shutdown().await;
        }
        if let Err(error) = self.gossip.hand_over().await {
            tracing::error!(%error, "upgrade: the mesh's ports are not free");
        }
    }

    fn legacy(&mut self) -> io::Result<Legacy> {
        let (admin_tcp, admin_unix) = self.admin.hand_over()?;
        Ok(Legacy {
            lock: self.folder.hand_over()?,
            admin_tcp,
            admin_unix,
            proxy: self.proxy.hand_over()?,
            dns: self.dns.as_ref().map(dns::DnsServer::hand_over).transpose()?.unwrap_or_default(),
        })
    }

    /// Ends after another process serves: reads and accepts nothing more, answers who is connected, at the latest until
    /// `[node] drain` has passed.
    pub(crate) async fn retire(mut self) {
        tracing::info!(
            connections = self.proxy.connections(),
            "upgrade: another process serves; this one answers who is connected"
        );
        if let Some(mut dns) = self.dns.take() {
            dns.shutdown();
        }
        let answered = tokio::time::sleep(ANSWERED_WITHIN);
        self.proxy.retire(self.config.drain).await;
        answered.await;
        let cut = self.proxy.shutdown(Duration::ZERO).await;
        tracing::info!(cut, "upgrade: done");
    }
}
