//! What the API says of the name server.

use serde::{Deserialize, Serialize};

/// `GET /v1/dns/explain`: what users and their resolvers are told, and why.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct DnsExplained {
    /// The node that would answer so.
    pub node: String,
    /// Its region, where users are taken to be whose place nobody knows.
    pub region: String,
    /// The name asked for.
    pub name: String,
    /// The type asked for.
    pub kind: String,
    /// Its GeoIP file; null without one.
    pub geoip: Option<GeoipStatus>,
    /// One for each way in which the question may come.
    pub views: Vec<DnsView>,
}

/// A GeoIP file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct GeoipStatus {
    /// The file.
    pub path: String,
    /// The kind of the database in use; null while none is.
    pub database: Option<String>,
    /// When it was built, RFC 3339.
    pub built: Option<String>,
    /// Why the file is of no use as it is now.
    pub problem: Option<String>,
}

/// What is answered to one who asks.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct DnsView {
    /// `ecs`: the resolver tells the user's network. `resolver`: it does not, and its own address counts.
    pub by: String,
    /// The network whose place is looked for.
    pub client: String,
    /// The zone that answers; null: none here.
    pub zone: Option<String>,
    /// The response code.
    pub rcode: String,
    /// `OWNER TYPE DATA`, in order.
    pub answers: Vec<String>,
    /// The shortest TTL, in seconds.
    pub ttl: Option<u32>,
    /// How the region was chosen; null for names that are not steered.
    pub steering: Option<DnsSteering>,
}

/// How a region was chosen.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct DnsSteering {
    /// `prefixes geo-ip own-region`: how the place was found.
    pub source: String,
    /// Degrees north and east, as far as known.
    pub location: Option<(f64, f64)>,
    /// The length of the prefix around the client for which the same holds.
    pub scope: u8,
    /// The regions in the order of the policy.
    pub order: Vec<String>,
    /// Those passed over.
    pub skipped: Vec<DnsSkip>,
    /// `healthy no-room fail-open last-resort no-family nobody`: how far down it had to go.
    pub step: String,
    /// The region that answers.
    pub region: Option<String>,
    /// Its nodes, drawn anew for every query.
    pub nodes: Vec<DnsNode>,
    /// The TTL at rest, in seconds.
    pub full_ttl: u32,
}

/// A region that was passed over.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct DnsSkip {
    /// Which.
    pub region: String,
    /// `unhealthy full no-nodes shedding`.
    pub why: String,
}

/// A node in an answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct DnsNode {
    /// Its name.
    pub name: String,
    /// The address told.
    pub address: String,
}
