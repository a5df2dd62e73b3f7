//! What operators are told and may order: events, traffic, reports of all nodes, and the admin API over all of it.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::base::Base;
use super::control_plane::ControlPlane;
use super::control_tasks::Need;
use super::data_plane::DataPlane;
use super::problems::Problems;
use super::{StartError, tasks};
use crate::admin::{self, Admin, Reports, Spread, Traffic, UpgradeOrder};
use crate::keys::MeshKeys;

/// Serves the admin API from now on. Orders to upgrade come by the receiver.
pub(super) fn serve(
    base: &mut Base,
    control: &ControlPlane,
    data: &DataPlane,
    mesh_keys: MeshKeys,
    admin: Admin,
) -> Result<(admin::Serving, mpsc::Receiver<UpgradeOrder>), StartError> {
    let Base { config, clock, gossip, events, happening, tasks, .. } = base;
    let ControlPlane { discovery, registry, .. } = control;
    let scaling = tasks::scale(tasks, config, gossip, registry, discovery, clock, events);
    if let Some(happening) = happening.take() {
        let (snapshot, view) = (registry.changes(), gossip.view());
        let record = tasks::record_events(happening, events.clone(), snapshot, view, clock.clone());
        tasks.spawn("events", Need::Useful, record);
    }
    let (spread, answer, ask) =
        Spread::start(gossip.mesh(), gossip.view(), registry.changes(), events.clone(), clock.clone());
    tasks.spawn("events for others", Need::Useful, answer);
    tasks.spawn("events of others", Need::Useful, ask);

    let problems = Problems::of(base, control, data, &mesh_keys, &scaling);
    let Base { config, clock, gossip, storage, events, tasks, .. } = base;
    let snapshot = control.registry.changes();
    let problems = Arc::new(move || problems.list());
    let reports = Reports::start(gossip.mesh(), gossip.view(), snapshot.clone(), problems);
    let dns = data.name_server.responder.clone();
    let (upgrades, ordered) = mpsc::channel(1);
    let context = Arc::new(admin::Context {
        node: config.name.clone(),
        snapshot,
        view: gossip.view(),
        cookies: storage.cookies(),
        sessions: storage.sessions(),
        source_keys: data.source_keys.clone(),
        survey: storage.survey(),
        revisions: storage.revisions(),
        intents: storage.intents(),
        zone_keys: storage.zone_keys(),
        mesh_keys,
        proxy: data.proxy.clone(),
        mesh: gossip.mesh(),
        mesh_gauges: gossip.gauges(),
        reports,
        traffic: Traffic::start(gossip.mesh(), gossip.view(), data.proxy.clone(), dns.clone()),
        events: events.clone(),
        ended: tasks.ended(),
        spread,
        scaling,
        discovery: control.discovery.clone(),
        seeds: config.mesh.seeds.clone(),
        dns,
        geo: data.name_server.geo.clone(),
        transfers: !config.dns_transfer.is_empty(),
        upgrades,
        doors: admin.doors(),
        clock: clock.clone(),
    });
    Ok((admin.serve(context)?, ordered))
}
