//! The small tasks between the rooms: each follows one thing and tells another.

use std::net::SocketAddr;
use std::sync::Arc;

use gossip::Gossip;
use gossip::clock::Clock;
use gossip::id::NodeName;
use gossip::state::{ClusterView, MeshEvent};
use storage::Storage;
use storage::revisions::{Revision, Revisions};
use storage::zone_keys::ZoneKeys;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, watch};

use super::control_tasks::{ControlTasks, Need};
use super::intents;
use crate::admin::EventLog;
use crate::backend::Snapshot;
use crate::cautions::{self, Caution};
use crate::config::model::NodeConfig;
use crate::config::services;
use crate::discovery::{self, Discovery, DiscoveryConfig};
use crate::registry::{Current, Orders, Registry};
use crate::scale::{self, ScaleConfig, Scaling};

/// Pools that grow and shrink with their load.
pub(super) fn scale(
    tasks: &mut ControlTasks,
    config: &NodeConfig,
    gossip: &Gossip,
    registry: &Registry,
    discovery: &Discovery,
    clock: &Clock,
    events: &Arc<EventLog>,
) -> Scaling {
    let (log, noting) = (events.clone(), clock.clone());
    let (scaling, task) = scale::start(ScaleConfig {
        me: config.name.clone(),
        region: config.region.clone(),
        zone: config.zone.clone(),
        data: config.data.clone(),
        programs: config.scale_exec.clone(),
        snapshot: registry.changes(),
        view: gossip.view(),
        mesh: gossip.mesh(),
        discovery: discovery.clone(),
        clock: clock.clone(),
        notes: Arc::new(move |kind, pool, text| log.tell(kind, pool, text, &noting)),
    });
    tasks.adopt("scaling", Need::Useful, task);
    scaling
}

/// The configuration in force with all the backends that sources found.
pub(super) fn discover(
    tasks: &mut ControlTasks,
    config: &NodeConfig,
    gossip: &Gossip,
    storage: &Storage,
    clock: &Clock,
    events: &Arc<EventLog>,
) -> (Discovery, watch::Receiver<Current>) {
    let (log, noting) = (events.clone(), clock.clone());
    let (discovery, current, task) = discovery::start(DiscoveryConfig {
        me: config.name.clone(),
        region: config.region.clone(),
        zone: config.zone.clone(),
        admin: config.admin.listen,
        data: config.data.clone(),
        current: follow_revisions(tasks, storage),
        view: gossip.view(),
        mesh: gossip.mesh(),
        clock: clock.clone(),
        notes: Box::new(move |note| log.tell(note.kind, note.subject, note.text, &noting)),
    });
    tasks.adopt("discovery", Need::Vital, task);
    (discovery, current)
}

/// The configuration in force, parsed, whenever a revision becomes current.
fn follow_revisions(tasks: &mut ControlTasks, storage: &Storage) -> watch::Receiver<Current> {
    let mut revisions = storage.revisions().watch();
    let first = parse(revisions.borrow_and_update().as_deref()).unwrap_or_default();
    let (sender, receiver) = watch::channel(first);
    tasks.spawn("configuration", Need::Vital, async move {
        while revisions.changed().await.is_ok() {
            let revision = revisions.borrow_and_update().clone();
            if let Some(current) = parse(revision.as_deref()) {
                let id = current.revision;
                sender.send_replace(current);
                tracing::info!(revision = id.map(|id| id.epoch), "configuration in force");
            }
        }
    });
    receiver
}

/// Says which revision is served: first to the store, where it is on trial, and then to the mesh.
pub(super) async fn tell_served(
    gossip: Gossip,
    revisions: Revisions,
    mut changes: watch::Receiver<Arc<Snapshot>>,
) {
    loop {
        let served = changes.borrow_and_update().revision;
        if let Some(id) = served {
            revisions.served(id);
        }
        gossip.set_revision(served);
        if changes.changed().await.is_err() {
            return;
        }
    }
}

fn parse(revision: Option<&Revision>) -> Option<Current> {
    let revision = revision?;
    match services::parse("services.toml", &revision.body) {
        Ok(valid) => Some(Current {
            revision: Some(revision.id),
            services: Arc::new(valid.services),
            ..Current::default()
        }),
        Err(report) => {
            let epoch = revision.id.epoch;
            tracing::error!(epoch, %report, "this program does not accept the mesh's configuration; the last one stays");
            None
        }
    }
}

/// The orders in force, resolved to ids; again when one is given or taken back, and when a deadline passes.
pub(super) fn follow_intents(
    tasks: &mut ControlTasks,
    storage: &Storage,
    clock: Clock,
) -> watch::Receiver<Arc<Orders>> {
    let mut given = storage.intents().watch();
    let (first, mut next) = intents::orders(&given.borrow_and_update(), clock.mesh_wall());
    let (sender, receiver) = watch::channel(Arc::new(first));
    tasks.spawn("orders", Need::Vital, async move {
        loop {
            let wait = next.map(|at| at.since(clock.mesh_wall()));
            let deadline = async {
                match wait {
                    Some(wait) => tokio::time::sleep(wait).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = given.changed() => if changed.is_err() { return },
                () = deadline => {}
            }
            let (orders, following) = intents::orders(&given.borrow_and_update(), clock.mesh_wall());
            next = following;
            sender.send_if_modified(|present| {
                let changed = **present != orders;
                if changed {
                    *present = Arc::new(orders);
                }
                changed
            });
        }
    });
    receiver
}

/// Tells the mesh that this node is draining while an operator's order says so. At SIGTERM this task is not needed any
/// more: a node that leaves does not come back.
pub(super) async fn follow_own_drain(gossip: Gossip, me: NodeName, mut orders: watch::Receiver<Arc<Orders>>) {
    let mut draining = false;
    loop {
        let ordered = orders.borrow_and_update().drained_nodes.contains(&me);
        if ordered != draining {
            gossip.set_draining(ordered);
            draining = ordered;
        }
        if orders.changed().await.is_err() {
            return;
        }
    }
}

/// Says which zones are to have keys, whenever the configuration changes; also on nodes that answer no questions, since it
/// may be their turn to make one.
pub(super) async fn want_zone_keys(keys: ZoneKeys, mut changes: watch::Receiver<Arc<Snapshot>>) {
    loop {
        let services = changes.borrow_and_update().services.clone();
        let signed = services.zones.iter().filter(|zone| zone.dnssec).map(|zone| zone.name.clone());
        keys.want(signed.collect());
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// Logs what secondaries do not get, on a node that lets some transfer, with every configuration that says something else of it.
pub(super) async fn caution_of_transfers(mut changes: watch::Receiver<Arc<Snapshot>>) {
    let mut told = Vec::new();
    loop {
        let services = changes.borrow_and_update().services.clone();
        let cautions = cautions::of_transfers(&services);
        if cautions != told {
            for Caution { what, advice } in &cautions {
                tracing::warn!(advice, "{what}");
            }
            told = cautions;
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// Keeps what happens in the mesh for operators.
pub(super) async fn record_events(
    mut events: broadcast::Receiver<MeshEvent>,
    log: Arc<EventLog>,
    snapshot: watch::Receiver<Arc<Snapshot>>,
    view: watch::Receiver<Arc<ClusterView>>,
    clock: Clock,
) {
    loop {
        match events.recv().await {
            Ok(event) => log.record(&event, &snapshot.borrow().clone(), &view.borrow().clone(), &clock),
            Err(RecvError::Lagged(missed)) => {
                tracing::warn!(missed, "events came faster than they were kept")
            }
            Err(RecvError::Closed) => return,
        }
    }
}

/// Ends when the mesh does: whoever drives it drops its last word.
pub(super) async fn outlive_mesh(mut view: watch::Receiver<Arc<ClusterView>>) {
    while view.changed().await.is_ok() {}
}

/// Resolves when a living node turns out to have this node's name: this one came later and must go.
pub(super) async fn name_lost(mut events: broadcast::Receiver<MeshEvent>) -> SocketAddr {
    loop {
        match events.recv().await {
            Ok(MeshEvent::NameLost { to }) => return to,
            Ok(_) | Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}
