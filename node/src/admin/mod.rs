//! The admin API: what the mesh is, and orders for it. HTTP/1.1 on a Unix socket in the data folder and on one TCP port.
//!
//! ```text
//!   CLI, curl ──▶ server (sockets) ──▶ access (who may) ──▶ routes ──▶ state, sessions, events …   what is
//!                                                             │    └▶ orders, revisions, endings   what shall be
//!                          view, snapshot, sessions, revisions, intents, other nodes' reports
//! ```
//!
//! Any node answers for the whole mesh. Nothing changes on a GET. Errors are problem+json (RFC 9457). A new route is a function
//! with its description (`utoipa::path`) in the file of its subject and one line in `routes.rs`; its JSON stands in `api`.

mod access;
pub(crate) mod api;
mod backends;
mod counted;
mod doorkeeper;
mod endings;
pub(crate) mod events;
mod explain;
pub(crate) mod keys;
mod metrics;
mod openapi;
mod orders;
mod probes;
mod problem;
pub(crate) mod reports;
pub(crate) mod revisions;
mod routes;
mod scale;
mod server;
mod services;
mod sessions;
mod shield;
mod shortage;
mod state;
pub(crate) mod status;
mod targets;
pub(crate) mod traffic;
mod upgrade;
mod zones;

use std::sync::Arc;

use gossip::Gauges;
use gossip::clock::Clock;
use gossip::id::NodeName;
use gossip::mesh::Mesh;
use gossip::state::ClusterView;
use storage::cookie::Cookies;
use storage::intents::Intents;
use storage::revisions::Revisions;
use storage::sessions::Sessions;
use storage::survey::Survey;
use storage::zone_keys::ZoneKeys;
use tokio::sync::{mpsc, watch};

pub(crate) use self::access::Token;
pub(crate) use self::doorkeeper::Doors;
pub(crate) use self::events::{Event, EventLog, Spread};
pub(crate) use self::reports::Reports;
pub(crate) use self::server::{Admin, AdminError, Serving};
pub(crate) use self::traffic::Traffic;
pub(crate) use self::upgrade::UpgradeOrder;
use crate::app::control_tasks::EndedTasks;
use crate::backend::Snapshot;
use crate::discovery::Discovery;
use crate::geoip::Geo;
use crate::keys::MeshKeys;
use crate::proxy::{ProxyHandle, SourceKeys};
use crate::scale::Scaling;

/// What the admin API speaks about.
pub(crate) struct Context {
    /// This node.
    pub(crate) node: NodeName,
    /// What the data plane knows.
    pub(crate) snapshot: watch::Receiver<Arc<Snapshot>>,
    /// Who is there.
    pub(crate) view: watch::Receiver<Arc<ClusterView>>,
    /// The sessions.
    pub(crate) sessions: Sessions,
    /// What opens their cookies.
    pub(crate) cookies: Cookies,
    /// What makes ids of the addresses of those who are known by nothing else.
    pub(crate) source_keys: SourceKeys,
    /// What operators ask about them.
    pub(crate) survey: Survey,
    /// The configuration.
    pub(crate) revisions: Revisions,
    /// The operators' orders.
    pub(crate) intents: Intents,
    /// The keys that zones are signed with.
    pub(crate) zone_keys: ZoneKeys,
    /// The mesh's own keys.
    pub(crate) mesh_keys: MeshKeys,
    /// The proxy.
    pub(crate) proxy: Arc<ProxyHandle>,
    /// The mesh.
    pub(crate) mesh: Mesh,
    /// How full it is.
    pub(crate) mesh_gauges: Gauges,
    /// What the other nodes count.
    pub(crate) reports: Reports,
    /// Who the users are.
    pub(crate) traffic: Traffic,
    /// What happened.
    pub(crate) events: Arc<EventLog>,
    /// Control tasks that ended though they should not.
    pub(crate) ended: EndedTasks,
    /// The way to what other nodes saw of it.
    pub(crate) spread: Spread,
    /// Who is in the pools beside those in the file.
    pub(crate) discovery: Discovery,
    /// The pools that grow and shrink.
    pub(crate) scaling: Scaling,
    /// The nodes to meet first, as this node was told.
    pub(crate) seeds: Vec<String>,
    /// The name server, where there is one.
    pub(crate) dns: Option<Arc<dns::Responder>>,
    /// Its GeoIP file.
    pub(crate) geo: Geo,
    /// Whether this node lets anybody transfer zones.
    pub(crate) transfers: bool,
    /// Where orders to upgrade this node go.
    pub(crate) upgrades: mpsc::Sender<UpgradeOrder>,
    /// How full the admin sockets are.
    pub(crate) doors: Doors,
    /// The clock.
    pub(crate) clock: Clock,
}
