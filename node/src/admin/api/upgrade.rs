//! What the API takes and says of an upgrade.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `POST /v1/upgrade`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct UpgradeRequest {
    /// The program to go on with, an absolute path; without it the file that this node was started from.
    #[serde(default)]
    pub program: Option<String>,
}

/// The answer to it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct Upgraded {
    /// The process that serves now.
    pub pid: u32,
    /// How long the node took no orders, in milliseconds. Users were served all the time.
    pub took_ms: u64,
}
