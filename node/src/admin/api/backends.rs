//! Backends that register themselves, and the sources of all others.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The body of `PUT /v1/pools/{pool}/backends/{address}`; everything may be left out.
#[derive(Debug, Clone, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Registration {
    /// How long the lease lasts, `"15s"`, 1 s to 1 d; default: what the pool's `lease` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<String>,
    /// Without a lease: until it is removed.
    #[serde(default)]
    pub permanent: bool,
    /// Where it stands; default: the region of the node that is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// The zone there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// The rack in that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rack: Option<String>,
    /// Its share, 0 to 65,535; default 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u16>,
    /// It is about to go: it keeps its sessions and gets no new ones.
    #[serde(default)]
    pub leaving: bool,
}

/// The answer to it.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub(crate) struct Registered {
    /// The pool.
    pub pool: String,
    /// `IP:PORT`.
    pub address: String,
    /// `lease` or `added`.
    pub source: String,
    /// How long the lease lasts without another PUT, in milliseconds; null when it needs none.
    pub ttl_ms: Option<u64>,
    /// When the next PUT is best sent, in milliseconds from now: a third of the TTL.
    pub renew_in_ms: Option<u64>,
}

/// One source of one pool, as one node asks it: `GET /v1/sources`.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub(crate) struct SourceStatus {
    /// The pool.
    pub pool: String,
    /// `added lease file dns docker kubernetes`.
    pub source: String,
    /// What it looks at; empty for leases and added backends.
    pub of: String,
    /// The node that asks it; of leases, the one that holds them.
    pub node: String,
    /// `well` or `failing`.
    pub state: String,
    /// Backends in its last good answer.
    pub backends: usize,
    /// Since when it fails, RFC 3339; null while it is well.
    pub failing_since: Option<String>,
    /// Why it fails.
    pub error: Option<String>,
    /// When its answer last changed, RFC 3339.
    pub changed: String,
}

/// A pool that scales, as the node that is asked sees it: `GET /v1/scale`.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub(crate) struct ScaleStatus {
    /// The pool.
    pub pool: String,
    /// Never fewer backends than this.
    pub min: u32,
    /// Never more.
    pub max: u32,
    /// Backends that take requests.
    pub ready: u32,
    /// Those and the ones that are coming up or down.
    pub total: u32,
    /// How many were started and have not appeared in the pool yet.
    #[serde(default)]
    pub coming: u32,
    /// How many the load asks for now, with those that have not appeared yet.
    pub wanted: u32,
    /// `in_flight`, `requests` or `p99`.
    pub target: String,
    /// What each backend is to have; seconds for `p99`.
    pub each: f64,
    /// What each that is ready has.
    pub measured: f64,
    /// Whether decisions are only told.
    pub dry_run: bool,
    /// The node whose turn it is to act; null when there is none.
    pub actor: Option<String>,
    /// The living nodes that cannot act, and why: one without the program, the Docker Engine, or whose last act failed.
    #[serde(default)]
    pub unable: BTreeMap<String, String>,
    /// Why nothing is done though something should be, or what is waited for.
    pub waits: Option<String>,
}
