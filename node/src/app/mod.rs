//! The only wiring: every room of this node, started in order and stopped in the opposite one.
//!
//! ```text
//!   Ground              Base                 ControlPlane                      DataPlane       operators
//!   data folder, key ─▶ gossip ─▶ storage ─▶ tls ─▶ health ─▶ registry ─▶ proxy ─▶ dns ─▶ admin
//!                         │          │ revisions ──▶ Current ──┘
//!                         └── view ──┴── intents ──▶ Orders ──┘
//! ```
//!
//! A node that cannot have what it was asked for (a port, a folder, a key) does not start and says why. Once it has
//! started, nothing from outside stops it but a signal.

mod base;
mod control_plane;
pub(crate) mod control_tasks;
mod data_plane;
mod error;
mod first_apply;
mod ground;
pub(crate) mod handover;
mod intents;
mod joining;
mod keyring;
pub(crate) mod logging;
pub(crate) mod machine;
mod name_server;
mod operators;
mod problems;
mod reload;
mod tasks;
mod upgrade;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use gossip::Gossip;
use gossip::clock::Clock;
use storage::Storage;
use tokio::sync::{mpsc, watch};

use self::base::Base;
use self::control_plane::ControlPlane;
use self::control_tasks::{ControlTasks, Ended};
use self::data_plane::DataPlane;
pub(crate) use self::error::StartError;
use self::ground::Ground;
use self::handover::Legacy;
use self::machine::DataFolder;
use self::name_server::NameServer;
pub(crate) use self::upgrade::Upgrade;
use crate::admin::{self, EventLog, Token, UpgradeOrder};
use crate::config::model::NodeConfig;
use crate::health::HealthTable;
use crate::proxy::ProxyHandle;
use crate::watchdog::Watchdog;

/// The least time between SIGTERM and the end: resolvers and peers must have seen that this node leaves.
const LEAVE_AT_LEAST: Duration = Duration::from_secs(2);

/// Makes aws-lc-rs the process's TLS provider. Calling it again changes nothing.
pub(crate) fn install_crypto() {
    // An error means that it is installed already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// Why a node leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leaving {
    /// Somebody wants it to.
    Ordered,
    /// It cannot go on. A revision that is on trial may be the reason.
    Failed,
}

/// A running node.
pub(crate) struct App {
    config: NodeConfig,
    gossip: Gossip,
    storage: Option<Storage>,
    proxy: Arc<ProxyHandle>,
    health: watch::Receiver<Arc<HealthTable>>,
    dns: Option<dns::DnsServer>,
    responder: Option<Arc<dns::Responder>>,
    shared_config: Arc<ArcSwap<NodeConfig>>,
    token: Arc<ArcSwapOption<Token>>,
    clock: Clock,
    admin: admin::Serving,
    tasks: ControlTasks,
    events: Arc<EventLog>,
    upgrades: mpsc::Receiver<UpgradeOrder>,
    _watchdog: Watchdog,
    folder: DataFolder,
}

impl App {
    /// Starts everything; returns when every socket is bound. `services` is what `--apply` brings along, already
    /// validated; `legacy` is what the process before gives, in an upgrade.
    pub(crate) async fn start(
        config: NodeConfig,
        services: Option<String>,
        legacy: Option<Legacy>,
    ) -> Result<Self, StartError> {
        let clock = Clock::system();
        let (inheritance, met, before, proxy, dns, health) = match legacy {
            Some(Legacy { lock, admin_tcp, admin_unix, proxy, dns, members, health, version }) => {
                (Some((lock, admin_tcp, admin_unix)), Some(members), Some(version), proxy, dns, health)
            }
            None => Default::default(),
        };
        let Ground { folder, files, watchdog, keyring, made, token, admin } =
            Ground::take(&config, services.as_deref(), inheritance, &clock).await?;
        let mut base = Base::join(config, keyring, clock, met.as_deref()).await?;
        watchdog.watch("mesh", "peers take this node for silent", base.gossip.runtime());
        let made = made.keep();
        let told = |error| match made.clone() {
            Some(path) => StartError::KeyStays { path, error: Box::new(error) },
            None => error,
        };
        if let Some(body) = services {
            base.apply(body).await;
        }
        let control = ControlPlane::start(&mut base, health);
        let data = DataPlane::start(&mut base, &control, proxy, dns).map_err(told)?;
        let keys = data.keys(&mut base, &control);
        let (admin, upgrades) = operators::serve(&mut base, &control, &data, keys, admin).map_err(told)?;
        announce(&base, &data, files, before.as_deref());
        let Base { config, clock, gossip, storage, events, tasks, .. } = base;
        let DataPlane { proxy, name_server, config: shared_config, .. } = data;
        let NameServer { server: dns, responder, .. } = name_server;
        Ok(Self {
            config,
            gossip,
            storage: Some(storage),
            proxy,
            health: control.health,
            dns,
            responder,
            shared_config,
            token,
            clock,
            admin,
            tasks,
            events,
            upgrades,
            _watchdog: watchdog,
            folder,
        })
    }

    /// Resolves when a living node turns out to have this node's name.
    pub(crate) fn name_lost(&self) -> impl Future<Output = SocketAddr> + use<> {
        tasks::name_lost(self.gossip.events())
    }

    /// Resolves when a task has ended without which this node should not go on.
    pub(crate) fn failed(&self) -> impl Future<Output = Ended> + use<> {
        self.tasks.ended().vital()
    }

    /// Leaves as SIGTERM asks: out of the DNS answers first, then serves until nothing is in flight (not before 2 s, at
    /// the latest after `[node] drain`), then says goodbye to the mesh and writes what is not yet on disk.
    pub(crate) async fn leave(mut self, why: Leaving) {
        let began = self.clock.now();
        let latest = began + self.config.drain.max(LEAVE_AT_LEAST);
        tracing::info!(drain = ?self.config.drain, "leaving: no new users from DNS, present ones are served");
        self.gossip.set_draining(true);
        self.proxy.drain();
        loop {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let now = self.clock.now();
            if now >= latest || (now >= began + LEAVE_AT_LEAST && self.proxy.in_flight() == 0) {
                break;
            }
        }
        self.proxy.shutdown(latest.saturating_duration_since(self.clock.now())).await;
        self.tasks.part();
        self.gossip.leave().await;
        if let Some(mut dns) = self.dns.take() {
            dns.shutdown();
        }
        self.tasks.shutdown().await;
        keep_events(&self.events);
        if let Some(storage) = self.storage.take() {
            if why == Leaving::Failed {
                storage.blame_trial();
            }
            storage.shutdown().await;
        }
        tracing::info!("left");
    }
}

/// For the next process. What cannot be written was said before.
fn keep_events(events: &EventLog) {
    if let Err(error) = events.save() {
        tracing::warn!(%error, "the last events are not in the data folder");
    }
}

/// `before` is the version of the process before, in an upgrade; empty where it did not say.
fn announce(base: &Base, data: &DataPlane, files: Option<u64>, before: Option<&str>) {
    let Base { config, gossip, .. } = base;
    let dns = data.name_server.server.as_ref();
    tracing::info!(
        node = %config.name,
        region = %config.region,
        data = %config.data.display(),
        mesh = %gossip.listen_addr(),
        admin = %config.admin.listen,
        dns = ?dns.map(|server| server.local_addrs()).unwrap_or_default(),
        dns_tls = ?dns.map(|server| server.tls_addrs()).unwrap_or_default(),
        listeners = data.proxy.listening().len(),
        open_files = files,
        "started"
    );
    if data.proxy.listening().is_empty() {
        tracing::info!("nothing to serve yet; give the mesh a configuration: meridian apply services.toml");
    }
    let version = env!("CARGO_PKG_VERSION");
    let (kind, what) = match before {
        None => ("started", format!("started, version {version}")),
        Some("") => ("upgraded", format!("upgraded to {version}")),
        Some(before) => ("upgraded", format!("upgraded {before} → {version}")),
    };
    base.events.tell(kind, config.name.to_string(), format!("{} {what}", config.name), &base.clock);
}
