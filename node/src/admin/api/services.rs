//! What the API says of services.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One service, as it is in force: orders laid over the file.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct ServiceStatus {
    /// Its name.
    pub name: String,
    /// The hosts it answers for; empty: any.
    pub hosts: Vec<String>,
    /// The path prefixes.
    pub paths: Vec<String>,
    /// The listeners that lead to it.
    pub listeners: Vec<String>,
    /// Who gets its new users.
    pub split: Vec<Share>,
    /// How its users stay, in words; null: they don't.
    pub sticky: Option<String>,
    /// Without a request for so long a session ends.
    pub sticky_idle_seconds: Option<u64>,
    /// Requests a second of one client, on each node; null: no limit.
    pub rate_per_client: Option<f64>,
    /// Requests a second of all clients, on each node; null: no limit.
    pub rate_whole: Option<f64>,
}

/// A pool's share of a service's new users.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct Share {
    /// The pool.
    pub pool: String,
    /// Of the sum of all shares; 0 keeps the users it has.
    pub share: u32,
    /// Its backends that take new users now.
    pub takes_new: usize,
}
