//! What the node knows and concludes: the configuration with its backends, the orders, the certificates, who is well, and the
//! snapshot that all of it makes.

use std::sync::Arc;

use gossip::id::BackendId;
use tokio::sync::{mpsc, watch};

use super::base::Base;
use super::control_tasks::Need;
use super::tasks;
use crate::backend::Evidence;
use crate::discovery::Discovery;
use crate::health::task::HealthConfig;
use crate::health::{self, HealthTable};
use crate::registry::{Orders, Registry, RegistryConfig};
use crate::tls::{self, TicketKeys, Tls, TlsConfig};

/// Evidence from the workers that health has not yet looked at; beyond it, evidence is dropped and counted.
const EVIDENCE_QUEUE: usize = 1024;

/// The rooms that the data plane looks into.
pub(super) struct ControlPlane {
    pub(super) discovery: Discovery,
    pub(super) orders: watch::Receiver<Arc<Orders>>,
    pub(super) tickets: TicketKeys,
    pub(super) tls: Tls,
    pub(super) health: watch::Receiver<Arc<HealthTable>>,
    pub(super) registry: Registry,
    /// Where the data plane says what it meets of backends.
    pub(super) evidence: mpsc::Sender<(BackendId, Evidence)>,
}

impl ControlPlane {
    /// Starts its tasks. `recalled` is what the process before concluded of the backends.
    pub(super) fn start(base: &mut Base, recalled: HealthTable) -> Self {
        let Base { config, clock, keyring, gossip, storage, events, tasks, .. } = base;
        let (discovery, current) = tasks::discover(tasks, config, gossip, storage, clock, events);
        let orders = tasks::follow_intents(tasks, storage, clock.clone());
        let tickets = TicketKeys::new(keyring, clock.clone());
        let secrets = TlsConfig { tickets: tickets.clone(), clock: clock.clone() };
        let (tls, tls_task) = tls::start(&secrets, current.clone(), |current| current.services.clone());
        tasks.adopt("certificates", Need::Useful, tls_task);
        let (evidence, evidence_seen) = mpsc::channel(EVIDENCE_QUEUE);
        let (publisher, witness) = (gossip.clone(), gossip.clone());
        let (health, health_task) = health::task::start(HealthConfig {
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
            recalled,
            tls: tls.clone(),
            clock: clock.clone(),
        });
        tasks.adopt("health", Need::Vital, health_task);
        let publisher = gossip.clone();
        let (registry, registry_task) = Registry::start(RegistryConfig {
            me: config.name.clone(),
            region: config.region.clone(),
            current,
            view: gossip.view(),
            health: health.clone(),
            orders: orders.clone(),
            clock: clock.clone(),
            loads: gossip.take_load_reports().unwrap_or_else(|| mpsc::channel(1).1),
            publish: Box::new(move |summaries| publisher.publish_summaries(summaries)),
        });
        tasks.adopt("registry", Need::Vital, registry_task);
        let served = tasks::tell_served(gossip.clone(), storage.revisions(), registry.changes());
        tasks.spawn("served revision", Need::Vital, served);
        let told = registry.clone();
        gossip.tell_load_of(move || told.loads());
        let failures = health::tally::follow(registry.snapshot(), evidence.clone(), clock.clone());
        tasks.spawn("failures of requests", Need::Useful, failures);
        let own_drain = tasks::follow_own_drain(gossip.clone(), config.name.clone(), orders.clone());
        tasks.spawn("own drain", Need::Vital, own_drain);
        let zone_keys = tasks::want_zone_keys(storage.zone_keys(), registry.changes());
        tasks.spawn("zone keys", Need::Useful, zone_keys);
        Self { discovery, orders, tickets, tls, health, registry, evidence }
    }
}
