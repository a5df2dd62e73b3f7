//! The old process's part of an upgrade: what it lets go, in which order, and how it ends.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use gossip::state::Member;

use super::App;
use super::handover::{self, Legacy, Successor, UpgradeError};
use crate::admin::UpgradeOrder;

/// How long other regions are given to send their tunnels to other nodes.
const TUNNELS_LEAVE: Duration = Duration::from_secs(1);
/// How long their requests here are waited for at most, where other nodes take the further ones; `[node] drain` if that is less.
const TUNNELS_QUIET: Duration = Duration::from_secs(60);
/// How long other orders may take that are under way when the store is closed.
const ORDERS_END_WITHIN: Duration = Duration::from_secs(5);
/// How often it is looked whether resolvers have gone.
const LOOK: Duration = Duration::from_millis(20);
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
        next.wait_for(self.quiet_tunnels()).await;
        // The order to upgrade is one of them.
        self.admin.answered(1, ORDERS_END_WITHIN).await;
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
        if served.is_err() {
            // It may hold what the next one needs.
            handover::end(pid);
        }
        served
    }

    /// Lets other regions send their requests to other nodes, and waits for those that are here.
    async fn quiet_tunnels(&self) {
        let (abroad, alone) = {
            let view = self.gossip.view();
            let view = view.borrow();
            let near = |member: &Member| member.record.region == self.config.region;
            let living = || view.members.values().filter(|member| member.is_alive());
            (
                living().any(|member| !near(member)),
                !living().any(|member| near(member) && member.record.name != self.config.name),
            )
        };
        if abroad {
            self.gossip.set_draining(true);
            tokio::time::sleep(TUNNELS_LEAVE).await;
            // Where nobody else takes them, waiting would only let more of them come.
            let quiet = if alone { Duration::ZERO } else { TUNNELS_QUIET.min(self.config.drain) };
            let cut = self.gossip.move_tunnels(quiet).await;
            if cut > 0 {
                tracing::warn!(cut, "upgrade: requests of other regions last too long to be waited for");
            }
        }
    }

    /// Stops all that only one process can do: the store, the mesh, orders. The data plane serves from its last snapshot.
    async fn let_go(&mut self) {
        self.tasks.shutdown().await;
        super::keep_events(&self.events);
        if let Some(storage) = self.storage.take() {
            storage.shutdown().await;
        }
        if let Err(error) = self.gossip.hand_over().await {
            tracing::error!(%error, "upgrade: the mesh's ports are not free");
        }
    }

    fn legacy(&mut self) -> io::Result<Legacy> {
        let (admin_tcp, admin_unix) = self.admin.hand_over()?;
        let members = {
            let view = self.gossip.view();
            let view = view.borrow();
            let living = view.members.values().filter(|member| member.is_alive());
            living.map(|member| member.record.name.clone()).collect()
        };
        Ok(Legacy {
            lock: self.folder.hand_over()?,
            admin_tcp,
            admin_unix,
            members,
            health: (**self.health.borrow()).clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            proxy: self.proxy.hand_over()?,
            dns: self.dns.as_ref().map(dns::DnsServer::hand_over).transpose()?.unwrap_or_default(),
        })
    }

    /// Ends after another process serves: reads no datagram and accepts nothing more, answers who is connected, resolvers too, at the
    /// latest until `[node] drain` has passed.
    pub(crate) async fn retire(mut self) {
        self.upgrades.close();
        while let Ok(late) = self.upgrades.try_recv() {
            // Whoever asked may have gone.
            let _ = late.reply.send(Err("another upgrade came first; ask again".into()));
        }
        tracing::info!(
            connections = self.proxy.connections(),
            "upgrade: another process serves; this one answers who is connected"
        );
        let mut dns = self.dns.take();
        let resolvers = async {
            let Some(dns) = &mut dns else { return };
            dns.retire();
            while dns.connections() > 0 {
                tokio::time::sleep(LOOK).await;
            }
        };
        let answered = async {
            self.admin.answered(0, self.config.drain).await;
            tokio::time::sleep(ANSWERED_WITHIN).await;
        };
        let resolvers = tokio::time::timeout(self.config.drain, resolvers);
        // Resolvers that do not go in time are cut below.
        let _ = tokio::join!(self.proxy.retire(self.config.drain), resolvers, answered);
        if let Some(mut dns) = dns {
            dns.shutdown();
        }
        let cut = self.proxy.shutdown(Duration::ZERO).await;
        tracing::info!(cut, "upgrade: done");
    }
}
