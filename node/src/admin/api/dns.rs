//! What the API says of the name server.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `GET /v1/dns/explain`: what users and their resolvers are told, and why.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct DnsExplained {
    /// The node that would answer so.
    pub node: String,
    /// Its region, where users are taken to be whose place nobody knows.
    pub region: String,
    /// The name asked for.
    pub name: String,
    /// The type asked for.
    pub kind: String,
    /// Where nothing has the name: one that may have been meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meant: Option<String>,
    /// Its GeoIP file; null without one.
    pub geoip: Option<GeoipStatus>,
    /// One for each way in which the question may come.
    pub views: Vec<DnsView>,
    /// What the address itself would be told, when it is placed otherwise than the network that resolvers tell of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exact: Option<DnsView>,
}

/// A GeoIP file.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
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
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct DnsView {
    /// `ecs`: the resolver tells the user's network. `resolver`: it does not, and its own address counts. `address`: the user
    /// asks without a resolver, or by one that tells the whole address.
    pub by: String,
    /// The network whose place is looked for.
    pub client: String,
    /// The zone that answers; null: none here.
    pub zone: Option<String>,
    /// The response code.
    pub rcode: String,
    /// `OWNER TYPE DATA`, in order.
    pub answers: Vec<String>,
    /// Where the name lies in a zone of others: the name servers it is delegated to, `OWNER NS DATA`.
    #[serde(default)]
    pub referral: Vec<String>,
    /// The shortest TTL, in seconds.
    pub ttl: Option<u32>,
    /// How the region was chosen; null for names that are not steered.
    pub steering: Option<DnsSteering>,
}

/// How a region was chosen.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct DnsSteering {
    /// `nearest latency weighted failover`.
    pub policy: String,
    /// The service whose health decides.
    pub service: String,
    /// The address whose place was looked up: the network's first.
    pub looked_up: String,
    /// `prefixes geo-ip own-region`: how the place was found.
    pub source: String,
    /// Degrees north and east, as far as known.
    pub location: Option<(f64, f64)>,
    /// The length of the prefix around the client for which the same holds.
    pub scope: u8,
    /// That prefix.
    pub scope_prefix: String,
    /// The regions in the order of the policy.
    pub order: Vec<String>,
    /// With `weighted`: what is drawn from, and the free capacity that it is drawn by.
    pub shares: Vec<DnsShare>,
    /// With `latency`: the round-trip times that order; null when none were measured.
    pub measured: Option<DnsMeasured>,
    /// With `failover`: regions of its order that nobody has heard of.
    pub unknown: Vec<String>,
    /// With `failover`: regions that could take users, and are not in its order.
    pub unnamed: Vec<String>,
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
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct DnsSkip {
    /// Which.
    pub region: String,
    /// `unhealthy drained full no-nodes shedding`.
    pub why: String,
    /// More of it, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// A region's share of the users.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct DnsShare {
    /// Which.
    pub region: String,
    /// Its free capacity, in the unit of backend weights.
    pub free: u32,
}

/// Round-trip times.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct DnsMeasured {
    /// From the region that is nearest to the user.
    pub from: String,
    /// To each region, in the order of the policy.
    pub to: Vec<DnsRtt>,
}

/// A round-trip time.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct DnsRtt {
    /// To which region.
    pub region: String,
    /// In milliseconds; null: not measured.
    pub rtt_ms: Option<f64>,
}

/// A node in an answer.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct DnsNode {
    /// Its name.
    pub name: String,
    /// The address told.
    pub address: String,
}
