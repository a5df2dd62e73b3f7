//! What every room of a node is made with: the mesh, what it holds, and the list of control tasks.

use std::collections::BTreeSet;
use std::sync::Arc;

use gossip::Gossip;
use gossip::clock::Clock;
use gossip::id::NodeName;
use gossip::keyring::Keyring;
use gossip::state::MeshEvent;
use storage::{Storage, StorageConfig};
use tokio::sync::broadcast;

use super::control_tasks::{ControlTasks, Need};
use super::{StartError, first_apply, joining, tasks};
use crate::admin::EventLog;
use crate::config::model::NodeConfig;
use crate::config::services;

/// A member of the mesh that does nothing yet.
pub(super) struct Base {
    pub(super) config: NodeConfig,
    pub(super) clock: Clock,
    pub(super) keyring: Keyring,
    pub(super) gossip: Gossip,
    pub(super) storage: Storage,
    pub(super) events: Arc<EventLog>,
    /// What happened in the mesh since this node joined: others may have before there was a log to note it in.
    pub(super) happening: Option<broadcast::Receiver<MeshEvent>>,
    pub(super) tasks: ControlTasks,
}

impl Base {
    /// Joins the mesh and opens the store. `met`: in an upgrade, those that the process before saw.
    pub(super) async fn join(
        config: NodeConfig,
        keyring: Keyring,
        clock: Clock,
        met: Option<&[NodeName]>,
    ) -> Result<Self, StartError> {
        let gossip = joining::join(&config, &keyring, &clock, met.is_some()).await?;
        let happening = Some(gossip.events());
        joining::meet(&gossip, met.unwrap_or_default()).await;
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
        let events = Arc::new(EventLog::open(config.name.clone(), config.data.clone(), &clock));
        let mut tasks = ControlTasks::new(config.name.clone(), events.clone(), clock.clone());
        tasks.spawn("mesh", Need::Vital, tasks::outlive_mesh(gossip.view()));
        tasks.spawn("sessions", Need::Vital, storage.sessions().ended());
        Ok(Self { config, clock, keyring, gossip, storage, events, happening, tasks })
    }

    /// Applies what `--apply` brings along.
    pub(super) async fn apply(&self, body: String) {
        let Self { config, gossip, storage, .. } = self;
        let has_seeds = !config.mesh.seeds.is_empty();
        first_apply::apply(&storage.revisions(), gossip.view(), has_seeds, &config.data, body).await;
    }
}

/// The zones that the configuration on this node's disk signs.
fn signed_zones(storage: &Storage) -> BTreeSet<String> {
    let stored = storage.revisions().current();
    let services = stored.and_then(|revision| services::parse("services.toml", &revision.body).ok());
    let zones = services.into_iter().flat_map(|valid| valid.services.zones);
    zones.filter(|zone| zone.dnssec).map(|zone| zone.name).collect()
}
