//! What users and resolvers meet: the proxy and the name server.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::mpsc;

use super::base::Base;
use super::control_plane::ControlPlane;
use super::control_tasks::Need;
use super::name_server::{self, NameServer};
use super::{StartError, keyring, tasks};
use crate::config::model::NodeConfig;
use crate::keys::{KeysConfig, MeshKeys};
use crate::proxy::{self, Inherited, ProxyConfig, ProxyHandle, SourceKeys};
use crate::steering;
use crate::tls::TlsConfig;

/// Both, and what they are told while they run.
pub(super) struct DataPlane {
    pub(super) proxy: Arc<ProxyHandle>,
    pub(super) source_keys: SourceKeys,
    pub(super) name_server: NameServer,
    /// The node's file as it is now.
    pub(super) config: Arc<ArcSwap<NodeConfig>>,
}

impl DataPlane {
    /// Binds, and serves from now on.
    pub(super) fn start(
        base: &mut Base,
        control: &ControlPlane,
        inherited: Inherited,
        dns_inherited: Vec<dns::Inherited>,
    ) -> Result<Self, StartError> {
        let Base { config, clock, keyring, gossip, storage, tasks, .. } = base;
        let ControlPlane { orders, tickets, tls, registry, evidence, .. } = control;
        let source_keys = SourceKeys::new(keyring);
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
            evidence: evidence.clone(),
            tls: tls.clone(),
            access: config.log.access.clone(),
            access_format: config.log.access_format,
            clock: clock.clone(),
        })?);
        let secrets = TlsConfig { tickets: tickets.clone(), clock: clock.clone() };
        let name_server =
            name_server::start(config, keyring, &secrets, clock, tasks, dns_inherited, |responder| {
                let (present, members) = (registry.changes(), gossip.view());
                let (present, members) = (present.borrow().clone(), members.borrow().clone());
                let known = storage.zone_keys().known();
                steering::prime(responder, &present, &members, &orders.borrow(), &known, clock);
            })?;
        if let Some(responder) = &name_server.responder {
            let (changes, keys) = (registry.changes(), storage.zone_keys().watch());
            let (responder, orders) = (responder.clone(), orders.clone());
            let follow = steering::follow(responder, changes, gossip.view(), orders, keys, clock.clone());
            tasks.spawn("steering", Need::Vital, follow);
            if !config.dns_transfer.is_empty() {
                let cautions = tasks::caution_of_transfers(registry.changes());
                tasks.spawn("cautions of transfers", Need::Useful, cautions);
            }
        }
        let config = Arc::new(ArcSwap::from_pointee(config.clone()));
        Ok(Self { proxy, source_keys, name_server, config })
    }

    /// The mesh's keys, which all of it follows.
    pub(super) fn keys(&self, base: &mut Base, control: &ControlPlane) -> MeshKeys {
        let Base { config, clock, keyring, gossip, storage, tasks, .. } = base;
        let responder = self.name_server.responder.clone();
        let (tickets, source_keys) = (control.tickets.clone(), self.source_keys.clone());
        let (keys, keeper) = MeshKeys::start(KeysConfig {
            path: keyring::path(config),
            ring: keyring.clone(),
            gossip: gossip.clone(),
            intents: storage.intents(),
            snapshot: control.registry.changes(),
            clock: clock.clone(),
            apply: keyring::apply_to(storage, tickets, source_keys, responder, self.config.clone()),
        });
        tasks.spawn("mesh keys", Need::Vital, keeper);
        keys
    }
}
