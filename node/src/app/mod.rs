//! The only wiring: every room of this node, started in order and stopped in the opposite one.
//!
//! ```text
//!   data folder ─▶ keyring ─▶ gossip ─▶ storage ─▶ tls ─▶ health ─▶ registry ─▶ proxy ─▶ dns ─▶ admin
//!                               │          │ revisions ──▶ Current ──┘
//!                               └── view ──┴── intents ──▶ Orders ──┘
//! ```
//!
//! A node that cannot have what it was asked for (a port, a folder, a key) does not start and says why. Once it has
//! started, nothing from outside stops it but a signal.

mod first_apply;
pub(crate) mod handover;
mod intents;
mod joining;
mod keyring;
pub(crate) mod logging;
pub(crate) mod machine;
mod name_server;
mod reload;
mod tasks;
mod upgrade;

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use gossip::Gossip;
use gossip::clock::Clock;
use gossip::keyring::KeyringError;
use storage::{Storage, StorageConfig};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use self::handover::Legacy;
use self::machine::{DataError, DataFolder};
use self::name_server::NameServer;
pub(crate) use self::upgrade::Upgrade;
use crate::admin::{self, Admin, AdminError, EventLog, Reports, Token, Traffic, UpgradeOrder, status};
use crate::config::model::NodeConfig;
use crate::config::services;
use crate::health::task::HealthConfig;
use crate::keys::{KeysConfig, MeshKeys};
use crate::proxy::{ProxyConfig, ProxyHandle, SourceKeys};
use crate::registry::{Registry, RegistryConfig};
use crate::tls::{TicketKeys, TlsConfig};
use crate::watchdog::Watchdog;
use crate::{health, proxy, steering, tls};

/// Evidence from the workers that health has not yet looked at; beyond it, evidence is dropped and counted.
const EVIDENCE_QUEUE: usize = 1024;
/// The least time between SIGTERM and the end: resolvers and peers must have seen that this node leaves.
const LEAVE_AT_LEAST: Duration = Duration::from_secs(2);

/// Makes aws-lc-rs the process's TLS provider. Calling it again changes nothing.
pub(crate) fn install_crypto() {
    // An error means that it is installed already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// Why a node does not start. Nothing stays bound or running after it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error(transparent)]
    Data(#[from] DataError),
    #[error(transparent)]
    Key(#[from] KeyringError),
    #[error("there is no mesh key at {}, and a node with seeds joins a mesh that has one: copy it from another node", .0.display())]
    NoKey(PathBuf),
    #[error(transparent)]
    Gossip(#[from] gossip::StartError),
    #[error(transparent)]
    Storage(#[from] storage::StartError),
    #[error(transparent)]
    Proxy(#[from] proxy::StartError),
    #[error(transparent)]
    Dns(#[from] dns::BindError),
    #[error(transparent)]
    Admin(#[from] AdminError),
    #[error("cannot read the admin token {}: {source}", path.display())]
    Token { path: PathBuf, source: std::io::Error },
    #[error(
        "peers cannot be told where this node is: {0} is a wildcard and there is no default route; set [mesh] advertise (--advertise)"
    )]
    Advertise(SocketAddr),
    #[error("cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
}

impl StartError {
    /// What to do about it, where the error itself does not say.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Gossip(gossip::StartError::Listen { addr, source }) => {
                bind_hint(source.kind(), *addr, "[mesh] listen (--mesh-listen)")
            }
            Self::Admin(AdminError::Tcp { addr, source }) => {
                bind_hint(source.kind(), *addr, "[admin] listen (--admin-listen)")
            }
            Self::Dns(dns::BindError::InUse { address, .. }) => {
                bind_hint(ErrorKind::AddrInUse, *address, DNS_SETTING)
            }
            Self::Dns(dns::BindError::Refused { address, error, .. }) => {
                bind_hint(error.kind(), *address, DNS_SETTING)
            }
            Self::Proxy(proxy::StartError::Bind(error)) => error
                .problems
                .iter()
                .find_map(|problem| bind_hint(problem.kind, problem.addr, "[proxy] listen (--proxy-listen)")),
            Self::NoKey(_) => Some("mode 0600; --key-file names another place".into()),
            _ => None,
        }
    }
}

/// Where DNS's sockets are chosen.
const DNS_SETTING: &str = "[dns] listen (--dns-listen), or tls in [dns],";

fn bind_hint(kind: ErrorKind, addr: SocketAddr, setting: &str) -> Option<String> {
    let (port, ip) = (addr.port(), addr.ip());
    match kind {
        ErrorKind::AddrInUse => {
            Some(format!("`ss -lntup 'sport = :{port}'` shows who has it; {setting} chooses another address"))
        }
        ErrorKind::AddrNotAvailable => Some(format!(
            "{ip} is no address of this machine (`ip address` lists them); {setting} chooses another"
        )),
        ErrorKind::PermissionDenied if port < 1024 => Some(format!(
            "ports below 1024 need root or CAP_NET_BIND_SERVICE (systemd: AmbientCapabilities=); {setting} chooses another address"
        )),
        _ => None,
    }
}

/// A running node.
pub(crate) struct App {
    config: NodeConfig,
    gossip: Gossip,
    storage: Option<Storage>,
    proxy: Arc<ProxyHandle>,
    dns: Option<dns::DnsServer>,
    responder: Option<Arc<dns::Responder>>,
    shared_config: Arc<ArcSwap<NodeConfig>>,
    token: Arc<ArcSwapOption<Token>>,
    clock: Clock,
    admin: admin::Serving,
    tasks: JoinSet<()>,
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
        let takes_over = legacy.is_some();
        let (lock, admin_sockets, inherited, dns_inherited) = match legacy {
            Some(Legacy { lock, admin_tcp, admin_unix, proxy, dns }) => {
                (Some(lock), Some((admin_tcp, admin_unix)), proxy, dns)
            }
            None => Default::default(),
        };
        let folder = match lock {
            Some(lock) => DataFolder::adopt(lock),
            None => DataFolder::lock(&config.data)?,
        };
        let files = machine::raise_file_limit();
        let watchdog = Watchdog::start(clock.clone())?;
        let keyring = keyring::load(&config)?;
        let token = Arc::new(ArcSwapOption::from(match &config.admin.token_file {
            None => None,
            Some(path) => {
                let failed = |source| StartError::Token { path: path.clone(), source };
                Some(Arc::new(Token::load(path).map_err(failed)?))
            }
        }));
        if let Some(body) = &services {
            // Before anything is applied: a node that cannot serve the file must not give it to the mesh.
            let ports = services::parse("services.toml", body).ok();
            let checked = ports.map(|valid| proxy::check_ports(&config.proxy_listen, &valid.services));
            checked.transpose().map_err(proxy::StartError::Bind)?;
        }
        let admin = match admin_sockets {
            Some((tcp, unix)) => Admin::adopt(tcp, unix, token.clone(), &config.data),
            None => Admin::bind(config.admin.listen, token.clone(), &config.data).await?,
        };
        let gossip = joining::join(&config, &keyring, &clock, takes_over).await?;
        let storage = Storage::start(StorageConfig {
            data: config.data.clone(),
            me: config.name.clone(),
            region: config.region.clone(),
            mesh: gossip.mesh(),
            view: gossip.view(),
            keyring: keyring.clone(),
            clock: clock.clone(),
            validate: Arc::new(|body| {
                services::parse("services.toml", body).map(|_| ()).map_err(|report| report.to_string())
            }),
            make_zone_key: Arc::new(|| dns::SigningKey::generate().ok()),
        })
        .await?;

        storage.zone_keys().expect(signed_zones(&storage));
        if let Some(body) = services {
            let has_seeds = !config.mesh.seeds.is_empty();
            first_apply::apply(&storage.revisions(), gossip.view(), has_seeds, body).await;
        }

        let mut tasks = JoinSet::new();
        let events = Arc::new(EventLog::new(&clock));
        let (discovery, current) = tasks::discover(&mut tasks, &config, &gossip, &storage, &clock, &events);
        let orders = tasks::follow_intents(&mut tasks, &storage, clock.clone());
        let tickets = TicketKeys::new(&keyring, clock.clone());
        let secrets = TlsConfig { tickets: tickets.clone(), clock: clock.clone() };
        let (tls, tls_task) = tls::start(&secrets, current.clone(), |current| current.services.clone());
        tasks.spawn(tasks::supervise("tls", tls_task));
        let (evidence, evidence_seen) = mpsc::channel(EVIDENCE_QUEUE);
        let (publisher, witness) = (gossip.clone(), gossip.clone());
        let (table, health_task) = health::task::start(HealthConfig {
            me: config.name.clone(),
            region: config.region.clone(),
            current: current.clone(),
            view: gossip.view(),
            evidence: evidence_seen,
            publish: Box::new(move |verdicts| {
                if let Err(error) = publisher.publish_verdicts(verdicts) {
                    tracing::error!(%error, "verdicts are not told to the mesh");
                }
            }),
            publish_failures: Box::new(move |failures| witness.publish_failures(failures)),
            tls: tls.clone(),
            clock: clock.clone(),
        });
        tasks.spawn(tasks::supervise("health", health_task));
        let publisher = gossip.clone();
        let (registry, registry_task) = Registry::start(RegistryConfig {
            me: config.name.clone(),
            region: config.region.clone(),
            current,
            view: gossip.view(),
            health: table,
            orders: orders.clone(),
            clock: clock.clone(),
            loads: gossip.take_load_reports().unwrap_or_else(|| mpsc::channel(1).1),
            publish: Box::new(move |summaries| publisher.publish_summaries(summaries)),
        });
        tasks.spawn(tasks::supervise("registry", registry_task));
        tasks.spawn(tasks::tell_served(gossip.clone(), storage.revisions(), registry.changes()));
        tasks.spawn(tasks::publish_load(gossip.clone(), registry.clone()));
        tasks.spawn(health::tally::follow(registry.snapshot(), evidence.clone(), clock.clone()));

        let source_keys = SourceKeys::new(&keyring);
        let proxy = Arc::new(proxy::start(ProxyConfig {
            node: config.name.clone(),
            listen: config.proxy_listen.clone(),
            workers: config.workers,
            inherited,
            snapshot: registry.snapshot(),
            changes: registry.changes(),
            sessions: Arc::new(storage.sessions()),
            cookies: storage.cookies(),
            ends: storage.ends(),
            source_keys: source_keys.clone(),
            tunnels: Arc::new(gossip.tunnels()),
            tunnel_accepts: gossip.take_tunnel_accepts().unwrap_or_else(|| mpsc::channel(1).1),
            evidence,
            tls: tls.clone(),
            access: config.log.access.clone(),
            access_format: config.log.access_format,
            clock: clock.clone(),
        })?);
        tasks.spawn(tasks::follow_own_drain(gossip.clone(), config.name.clone(), orders.clone()));
        tasks.spawn(tasks::want_zone_keys(storage.zone_keys(), registry.changes()));
        let NameServer { server: dns, responder, geo, dot } = name_server::start(
            &config,
            &keyring,
            &secrets,
            &clock,
            &mut tasks,
            dns_inherited,
            |responder| {
                let (present, members) = (registry.changes(), gossip.view());
                let (present, members) = (present.borrow().clone(), members.borrow().clone());
                let known = storage.zone_keys().known();
                steering::prime(responder, &present, &members, &orders.borrow(), &known, &clock);
            },
        )?;
        let shared_config = Arc::new(ArcSwap::from_pointee(config.clone()));
        let (mesh_keys, keeper) = MeshKeys::start(KeysConfig {
            path: keyring::path(&config),
            ring: keyring,
            gossip: gossip.clone(),
            intents: storage.intents(),
            snapshot: registry.changes(),
            clock: clock.clone(),
            apply: keyring::apply_to(
                &storage,
                tickets,
                source_keys,
                responder.clone(),
                shared_config.clone(),
            ),
        });
        tasks.spawn(keeper);
        if let Some(responder) = &responder {
            let (changes, keys) = (registry.changes(), storage.zone_keys().watch());
            let follow =
                steering::follow(responder.clone(), changes, gossip.view(), orders, keys, clock.clone());
            tasks.spawn(follow);
            if !config.dns_transfer.is_empty() {
                tasks.spawn(tasks::caution_of_transfers(registry.changes()));
            }
        }

        let (bound, sessions) = (proxy.clone(), storage.sessions());
        let (places, zone_keys, keys) = (geo.clone(), storage.zone_keys(), mesh_keys.clone());
        let (revisions, now, mesh, found) =
            (storage.revisions(), clock.clone(), gossip.mesh(), discovery.clone());
        let problems = Arc::new(move || {
            let mut problems: Vec<String> = bound.problems().iter().map(ToString::to_string).collect();
            problems.extend(tls.problems());
            problems.extend(places.problem());
            problems.extend(dot.problems());
            problems.extend(zone_keys.problems());
            problems.extend(found.problems().iter().cloned());
            problems.extend(keys.problems());
            problems.extend(status::of_revisions(&revisions, now.mesh_wall()));
            problems.extend(mesh.strangers());
            problems.extend(status::of_clock(now.deviation(), now.correction()));
            if sessions.stats().disk_behind {
                let text = "the store on disk lags behind; sessions are safe in memory and on other nodes";
                problems.push(text.into());
            }
            if let Some(aside) = sessions.set_aside() {
                let aside = aside.display();
                problems.push(format!(
                    "the store on disk was damaged and lies in {aside} now; sessions came back from other nodes: delete \
                     that folder when you have seen it"
                ));
            }
            problems
        });
        let reports = Reports::start(gossip.mesh(), gossip.view(), registry.changes(), problems);
        tasks.spawn(tasks::record_events(gossip.events(), events.clone(), clock.clone()));
        let scaling = tasks::scale(&mut tasks, &config, &gossip, &registry, &discovery, &clock, &events);
        let traffic = Traffic::start(gossip.mesh(), gossip.view(), proxy.clone(), responder.clone());
        let (upgrades, upgrades_ordered) = mpsc::channel(1);
        let context = Arc::new(admin::Context {
            node: config.name.clone(),
            snapshot: registry.changes(),
            view: gossip.view(),
            sessions: storage.sessions(),
            survey: storage.survey(),
            revisions: storage.revisions(),
            intents: storage.intents(),
            zone_keys: storage.zone_keys(),
            mesh_keys,
            proxy: proxy.clone(),
            mesh: gossip.mesh(),
            reports,
            traffic,
            events,
            scaling,
            discovery,
            seeds: config.mesh.seeds.clone(),
            dns: responder.clone(),
            geo,
            transfers: !config.dns_transfer.is_empty(),
            upgrades,
            clock: clock.clone(),
        });
        let admin = admin.serve(context)?;
        announce(&config, &gossip, &proxy, dns.as_ref(), files);
        Ok(Self {
            config,
            gossip,
            storage: Some(storage),
            proxy,
            dns,
            responder,
            shared_config,
            token,
            clock,
            admin,
            tasks,
            upgrades: upgrades_ordered,
            _watchdog: watchdog,
            folder,
        })
    }

    /// Resolves when a living node turns out to have this node's name.
    pub(crate) fn name_lost(&self) -> impl Future<Output = SocketAddr> + use<> {
        tasks::name_lost(self.gossip.events())
    }

    /// Leaves as SIGTERM asks: out of the DNS answers first, then serves until nothing is in flight (not before 2 s, at
    /// the latest after `[node] drain`), then says goodbye to the mesh and writes what is not yet on disk.
    pub(crate) async fn leave(mut self) {
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
        self.gossip.leave().await;
        if let Some(mut dns) = self.dns.take() {
            dns.shutdown();
        }
        self.tasks.shutdown().await;
        if let Some(storage) = self.storage.take() {
            storage.shutdown().await;
        }
        tracing::info!("left");
    }
}

/// The zones that the configuration on this node's disk signs.
fn signed_zones(storage: &Storage) -> BTreeSet<String> {
    let stored = storage.revisions().current();
    let services = stored.and_then(|revision| services::parse("services.toml", &revision.body).ok());
    let zones = services.into_iter().flat_map(|valid| valid.services.zones);
    zones.filter(|zone| zone.dnssec).map(|zone| zone.name).collect()
}

fn announce(
    config: &NodeConfig,
    gossip: &Gossip,
    proxy: &ProxyHandle,
    dns: Option<&dns::DnsServer>,
    files: Option<u64>,
) {
    tracing::info!(
        node = %config.name,
        region = %config.region,
        data = %config.data.display(),
        mesh = %gossip.listen_addr(),
        admin = %config.admin.listen,
        dns = ?dns.map(|server| server.local_addrs()).unwrap_or_default(),
        dns_tls = ?dns.map(|server| server.tls_addrs()).unwrap_or_default(),
        listeners = proxy.listening().len(),
        open_files = files,
        "started"
    );
    if proxy.listening().is_empty() {
        tracing::info!("nothing to serve yet; give the mesh a configuration: meridian apply services.toml");
    }
}
