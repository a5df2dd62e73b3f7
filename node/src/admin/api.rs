//! What the admin API says: JSON shapes, apart from the types of the domain, so that renaming a field there breaks
//! no script. More keys may come; none goes away or changes its meaning.

pub(crate) mod backends;
pub(crate) mod dns;
mod orders;
mod places;
mod probes;
mod services;
mod upgrade;
mod users;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub(crate) use self::orders::{IntentStatus, SplitOrder, WeightOrder};
pub(crate) use self::places::{BackendEntry, RegionPool, RegionStatus};
pub(crate) use self::probes::{Check, Readiness};
pub(crate) use self::services::{ServiceStatus, Share};
pub(crate) use self::upgrade::{UpgradeRequest, Upgraded};
pub(crate) use self::users::{
    NetworkUsers, RegionUsers, SecondStatus, ServiceUsers, TrafficStatus, UsersStatus,
};

/// `GET /v1/status`: the state of the whole mesh as one node sees it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct Status {
    /// The node that answers.
    pub node: String,
    /// Its program's version.
    pub version: String,
    /// True when something needs attention; `problems` says what.
    pub degraded: bool,
    /// In words.
    pub problems: Vec<String>,
    /// What may become a problem, in words: it does not make the mesh degraded.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// All nodes known.
    pub members: Vec<MemberStatus>,
    /// The operators' orders in force.
    #[serde(default)]
    pub intents: Vec<IntentStatus>,
    /// The configuration in force; null before the first apply.
    pub revision: Option<RevisionStatus>,
    /// All pools.
    pub pools: Vec<PoolStatus>,
    /// The sessions.
    pub sessions: SessionStatus,
    /// Round trips in milliseconds, from node to node, as they measure them; null to and from nodes that are not heard
    /// (`stale_seconds` of `members` says for how long).
    #[serde(default)]
    pub rtt_ms: RttMatrix,
    /// How far the mesh's clock is ahead of this node's own, in milliseconds.
    #[serde(default)]
    pub clock_behind_ms: Option<i64>,
    /// What this node itself counted.
    pub counters: Counters,
}

/// Round trips in milliseconds: from, to; `None` where nobody knows.
pub(crate) type RttMatrix =
    std::collections::BTreeMap<String, std::collections::BTreeMap<String, Option<f64>>>;

/// One node.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct MemberStatus {
    /// Its name.
    pub name: String,
    /// Its region.
    pub region: String,
    /// Its zone.
    pub zone: Option<String>,
    /// `alive suspect dead draining left`.
    pub state: String,
    /// Its program's version.
    pub version: String,
    /// For how long it has been in that state, in seconds.
    #[serde(default)]
    pub state_seconds: u64,
    /// When it is not heard: for how long, in seconds. All that is shown of it is as old.
    #[serde(default)]
    pub stale_seconds: Option<u64>,
    /// The round trip from the answering node; null for itself and without a connection.
    pub rtt_ms: Option<f64>,
    /// Its mesh address.
    pub address: String,
    /// What DNS tells users.
    pub public: Vec<String>,
    /// `EPOCH:HASH` of the revision it runs.
    pub revision: Option<String>,
}

/// The configuration in force.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct RevisionStatus {
    /// Its number.
    pub epoch: u64,
    /// BLAKE3, 64 hexadecimal digits.
    pub hash: String,
    /// How many living nodes run it.
    pub nodes_on: usize,
    /// How many living nodes there are.
    pub nodes: usize,
}

/// One pool.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct PoolStatus {
    /// Its name.
    pub name: String,
    /// How its backends are chosen.
    pub balance: String,
    /// Its backends.
    pub backends: Vec<BackendStatus>,
}

/// One backend.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct BackendStatus {
    /// `IP:PORT`.
    pub address: String,
    /// Where it stands.
    pub region: String,
    /// The zone there.
    pub zone: Option<String>,
    /// The rack in that.
    #[serde(default)]
    pub rack: Option<String>,
    /// `up going-down down going-up draining maintenance ejected unknown`.
    pub state: String,
    /// Who names it: `static added lease file dns docker kubernetes`, several with commas between.
    pub source: String,
    /// The weight in force.
    pub weight: u32,
    /// Requests in flight over the mesh.
    pub in_flight: u32,
    /// Requests ever, over the nodes that answered.
    pub requests: u64,
    /// Sessions that stay there, over the nodes that answered: what is left while it drains.
    #[serde(default)]
    pub sessions: u64,
    /// How many of them other backends serve until it is back (`on_down = "temporary"`): all while it is gone, none while it serves.
    #[serde(default)]
    pub sessions_lent: u64,
    /// Why it is in that state.
    pub reason: String,
    /// When nobody of its region speaks: for how long, in seconds. All that is shown of it is as old.
    #[serde(default)]
    pub stale_seconds: Option<u64>,
}

/// The sessions.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct SessionStatus {
    /// Sessions of the mesh, each counted once, over the nodes that answered.
    pub count: u64,
    /// Records on the answering node, replicas included.
    pub held_here: u64,
}

/// What one node counted since it started.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub(crate) struct Counters {
    /// Requests and TCP connections by the reason they ended with.
    pub ends: std::collections::BTreeMap<String, u64>,
    /// Requests of sticky services by what became of the session: new, kept, moved, expired, invalid.
    pub sessions: std::collections::BTreeMap<String, u64>,
    /// Connections of users: accepted, held back because a listener had all it may have, refused because their client
    /// had, and TLS handshakes.
    #[serde(default)]
    pub connections: std::collections::BTreeMap<String, u64>,
    /// Connections and inbound tunnels that are open now, idle ones included.
    #[serde(default)]
    pub connections_open: u64,
    /// Connections that were cut for what the client did, by the reason.
    #[serde(default)]
    pub cut: std::collections::BTreeMap<String, u64>,
    /// Cookies of the sessions' own name that backends tried to set.
    #[serde(default)]
    pub cookies_dropped: u64,
    /// Second and further tries.
    pub retries: u64,
    /// Requests and connections that crossed to another region from here.
    pub tunnels_out: u64,
    /// Requests and connections that other nodes sent here.
    pub tunnels_in: u64,
    /// Pins answered for without another node's acknowledgement (I3).
    pub degraded_commits: u64,
    /// DNS answers by response code, and packets that got none.
    pub dns: std::collections::BTreeMap<String, u64>,
}

/// The answer to `POST /v1/revisions`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct Applied {
    /// Its number.
    pub epoch: u64,
    /// BLAKE3, 64 hexadecimal digits.
    pub hash: String,
    /// True when the file was what already runs: no revision was made.
    pub unchanged: bool,
    /// What may not be meant.
    pub warnings: Vec<Finding>,
}

/// One thing wrong, or maybe not meant, in a configuration.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct Finding {
    /// From 1; 0 when it belongs to no line.
    pub line: usize,
    /// From 1.
    pub column: usize,
    /// What.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
    /// The file whose line it is, when it is one that the configuration names: a zone file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
}

/// An error: RFC 9457.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct Problem {
    /// In a few words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// In a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// For an invalid configuration: every error.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<Finding>,
    /// For an invalid configuration: the errors as a terminal shows them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rendered: Option<String>,
}

/// `GET /v1/sessions`: how many there are, and some of them.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct SessionList {
    /// By backend, over the nodes that answered.
    pub backends: Vec<BackendSessions>,
    /// As many as were asked for.
    pub sessions: Vec<SessionEntry>,
    /// Nodes that did not answer.
    pub silent: Vec<String>,
}

/// The sessions of one backend.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct BackendSessions {
    /// `POOL/ADDRESS`.
    pub backend: String,
    /// How many stay there.
    pub sessions: u64,
}

/// One session.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct SessionEntry {
    /// 32 hexadecimal digits.
    pub id: String,
    /// The region that keeps its record.
    pub home: String,
    /// `POOL/ADDRESS`, `ended`, or `moved to REGION`.
    pub backend: String,
    /// When it was assigned there, RFC 3339.
    pub assigned: String,
    /// Whether that was done without the consent of its replicas.
    pub weak: bool,
    /// Until it ends, when it is not used.
    pub seconds_left: u64,
}

/// `GET /v1/clients/ADDRESS/sessions`: the sessions of a client that is known by its address alone.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct ClientSessions {
    /// The address.
    pub client: String,
    /// One a service and home region.
    pub sessions: Vec<ClientSession>,
    /// Nodes that did not answer.
    pub silent: Vec<String>,
}

/// One of them.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct ClientSession {
    /// The service, sticky by source address.
    pub service: String,
    /// The session.
    pub session: SessionEntry,
}

/// `GET /v1/sessions/ID`: all copies of one session's record.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct SessionCopies {
    /// The newest copy.
    pub session: SessionEntry,
    /// Whether every replica that answered holds the same.
    pub agree: bool,
    /// Every copy.
    pub copies: Vec<CopyStatus>,
    /// Replicas without a copy.
    pub lacking: Vec<String>,
    /// Nodes that did not answer.
    pub silent: Vec<String>,
}

/// One copy.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct CopyStatus {
    /// Where it lies.
    pub node: String,
    /// Whether that node is one of the session's replicas.
    pub replica: bool,
    /// Whether it is the same as the newest.
    pub newest: bool,
    /// The record.
    pub session: SessionEntry,
}

/// The answer to `POST /v1/sessions/ends`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct SessionsEnded {
    /// `session backend pool service`.
    pub kind: String,
    /// Of what.
    pub name: String,
    /// How many sessions stood, over the nodes that answered.
    pub sessions: u64,
    /// Pools of the service that serve others too. The sessions there have ended like all others, but their records, which
    /// do not say whose they are, are neither counted here nor gone before they expire.
    #[serde(default)]
    pub shared: Vec<String>,
    /// Until when every node keeps this in mind: no session of before can come again then. RFC 3339.
    pub until: String,
    /// Nodes that did not answer. They learn of it when they do.
    pub silent: Vec<String>,
}

/// `GET /v1/dns/zones/{zone}/ds`: what the parent of a signed zone needs.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct ZoneDs {
    /// The zone, absolute, with the final dot.
    pub zone: String,
    /// The keys that the parent may name, the one that signs first. Further ones were made while the mesh was cut.
    pub keys: Vec<DsEntry>,
}

/// One key of a zone, as its parent names it (RFC 4034 §5).
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct DsEntry {
    /// Whether it signs the zone. All are published, and any of them may stand at the parent.
    pub active: bool,
    /// `active extra retiring retired`: an extra one is published and signs the keys alone, a retiring one does so until it
    /// leaves, a retired one is not used any more.
    #[serde(default)]
    pub role: String,
    /// When a retiring one leaves. RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaves: Option<String>,
    /// When it was made. RFC 3339.
    pub made: String,
    /// A hint at the key; not unique.
    pub key_tag: u16,
    /// 13: ECDSA on P-256 with SHA-256.
    pub algorithm: u8,
    /// 2: SHA-256.
    pub digest_type: u8,
    /// In hexadecimal digits.
    pub digest: String,
    /// The public key in base64, for parents that ask for the DNSKEY record.
    pub public_key: String,
    /// The whole DS record in presentation format.
    pub record: String,
}

/// `GET /v1/consistency`: whether all replicas hold the same.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct ConsistencyStatus {
    /// True when all nodes answered and no bucket differs.
    pub agree: bool,
    /// Buckets with sessions.
    pub buckets: u64,
    /// Records, each counted once a replica.
    pub records: u64,
    /// Those that differ.
    pub differ: Vec<DisagreementStatus>,
    /// Nodes that did not answer.
    pub silent: Vec<String>,
}

/// A bucket whose replicas differ.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct DisagreementStatus {
    /// The home region.
    pub home: String,
    /// Its number.
    pub bucket: u16,
    /// Records held, by node.
    pub held: std::collections::BTreeMap<String, u32>,
    /// Since when two of them are known to differ, RFC 3339.
    pub since: Option<String>,
}
