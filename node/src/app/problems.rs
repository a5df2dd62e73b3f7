//! What troubles this node that nobody else sees, in sentences.

use std::sync::Arc;

use gossip::clock::Clock;
use gossip::mesh::Mesh;
use storage::intents::Intents;
use storage::revisions::Revisions;
use storage::sessions::Sessions;
use storage::zone_keys::ZoneKeys;

use super::base::Base;
use super::control_plane::ControlPlane;
use super::control_tasks::{Ended, EndedTasks};
use super::data_plane::DataPlane;
use crate::admin::status;
use crate::discovery::Discovery;
use crate::geoip::Geo;
use crate::keys::MeshKeys;
use crate::proxy::ProxyHandle;
use crate::scale::Scaling;
use crate::tls::Tls;
use crate::tls::dot::Dot;

/// Whoever may have something to say.
pub(super) struct Problems {
    tasks: EndedTasks,
    proxy: Arc<ProxyHandle>,
    tls: Tls,
    geo: Geo,
    dot: Dot,
    zone_keys: ZoneKeys,
    discovery: Discovery,
    keys: MeshKeys,
    scaling: Scaling,
    revisions: Revisions,
    mesh: Mesh,
    sessions: Sessions,
    intents: Intents,
    clock: Clock,
}

impl Problems {
    /// Of all rooms.
    pub(super) fn of(
        base: &Base,
        control: &ControlPlane,
        data: &DataPlane,
        keys: &MeshKeys,
        scaling: &Scaling,
    ) -> Self {
        Self {
            tasks: base.tasks.ended(),
            proxy: data.proxy.clone(),
            tls: control.tls.clone(),
            geo: data.name_server.geo.clone(),
            dot: data.name_server.dot.clone(),
            zone_keys: base.storage.zone_keys(),
            discovery: control.discovery.clone(),
            keys: keys.clone(),
            scaling: scaling.clone(),
            revisions: base.storage.revisions(),
            mesh: base.gossip.mesh(),
            sessions: base.storage.sessions(),
            intents: base.storage.intents(),
            clock: base.clock.clone(),
        }
    }

    /// All, as they are now.
    pub(super) fn list(&self) -> Vec<String> {
        let mut problems: Vec<String> = self.proxy.problems().iter().map(ToString::to_string).collect();
        problems.extend(self.tasks.list().iter().map(Ended::text));
        problems.extend(self.tls.problems());
        problems.extend(self.geo.problem());
        problems.extend(self.dot.problems());
        problems.extend(self.zone_keys.problems());
        problems.extend(self.discovery.problems().iter().cloned());
        problems.extend(self.keys.problems());
        problems.extend(self.scaling.problems());
        problems.extend(status::of_revisions(&self.revisions, self.clock.mesh_wall()));
        problems.extend(self.mesh.strangers());
        problems.extend(status::of_clock(self.clock.deviation(), self.clock.correction()));
        problems.extend(self.of_store());
        problems
    }

    fn of_store(&self) -> impl Iterator<Item = String> + use<> {
        let behind = self.sessions.stats().disk_behind;
        let behind = behind
            .then(|| "the store on disk lags behind; sessions are safe in memory and on other nodes".into());
        let aside = self.sessions.set_aside().map(|aside| {
            format!(
                "the store on disk was damaged and lies in {} now; sessions came back from other nodes: delete that folder \
                 when you have seen it",
                aside.display()
            )
        });
        let orders = self.intents.is_file_behind().then(|| {
            "orders cannot be written to the data folder; they are in force, and lost if all nodes crash: make room on its disk"
                .into()
        });
        behind.into_iter().chain(aside).chain(orders)
    }
}
