//! What `/readyz?verbose` says.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Whether a node should get users.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct Readiness {
    /// All checks are well.
    pub ready: bool,
    /// By name.
    pub checks: Vec<Check>,
}

/// One thing that is looked at.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct Check {
    /// `configuration listeners stays mesh`.
    pub name: String,
    /// Whether it is well.
    pub ok: bool,
    /// In words.
    pub detail: String,
}
