//! What the API says of users and their traffic.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `GET /v1/traffic`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub(crate) struct TrafficStatus {
    /// The newest first, at most 120, over the nodes that answered.
    pub seconds: Vec<SecondStatus>,
    /// By region.
    pub regions: Vec<RegionUsers>,
    /// Nodes that did not answer.
    pub silent: Vec<String>,
}

/// One second of the mesh.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub(crate) struct SecondStatus {
    /// Requests and TCP connections that ended.
    pub requests: u64,
    /// Of these, those that were not served though nothing was wrong with them.
    pub failed: u64,
    /// DNS queries.
    pub dns_queries: u64,
    /// Half of the requests were answered within this time; null: there was none.
    pub p50_ms: Option<f64>,
    /// 99 of 100 were.
    pub p99_ms: Option<f64>,
}

/// `GET /v1/users`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub(crate) struct UsersStatus {
    /// By service, since the nodes started.
    pub services: Vec<ServiceUsers>,
    /// By the region that served, since its nodes started.
    pub regions: Vec<RegionUsers>,
    /// The 50 networks that asked most of late, the first the most.
    pub networks: Vec<NetworkUsers>,
    /// "Of late": the last so many to so many seconds.
    pub networks_seconds: (u64, u64),
    /// Nodes that did not answer.
    pub silent: Vec<String>,
}

/// What was done for one service's users.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub(crate) struct ServiceUsers {
    /// The service.
    pub name: String,
    /// Requests and TCP connections.
    pub requests: u64,
    /// Of these, those that were not served though nothing was wrong with them, and answers from 500.
    pub failed: u64,
    /// Of these, those that a rule refused, or that were malformed.
    pub refused: u64,
    /// Bytes of bodies sent.
    pub sent_bytes: u64,
}

/// What one region's nodes did.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub(crate) struct RegionUsers {
    /// The region.
    pub name: String,
    /// Requests and TCP connections of services.
    pub requests: u64,
    /// In the last ten seconds.
    pub requests_per_second: f64,
    /// Of these, those that were not served though nothing was wrong with them, and answers from 500.
    pub failed: u64,
    /// Of these, those that a rule refused, or that were malformed.
    pub refused: u64,
    /// Bytes of bodies sent.
    pub sent_bytes: u64,
    /// Requests that crossed to another region from here.
    pub tunnels_out: u64,
    /// Requests that came from another region.
    pub tunnels_in: u64,
}

/// What one network's users asked for.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub(crate) struct NetworkUsers {
    /// An IPv4 /24 or an IPv6 /48.
    pub network: String,
    /// Requests and TCP connections.
    pub requests: u64,
    /// Of these, those that ended in an error or a refusal.
    pub errors: u64,
    /// Bytes of bodies sent.
    pub sent_bytes: u64,
    /// By how many requests the first number may be too great: memory is bounded.
    pub doubt: u64,
}
