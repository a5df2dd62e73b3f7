//! What the API says and takes of orders.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// An operator's order, as `GET /v1/intents` lists it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct IntentStatus {
    /// `node backend region pool service session network`.
    pub kind: String,
    /// Of what.
    pub name: String,
    /// In words: `drain`, `maintenance`, `weight 50`, `split v1=95 v2=5`, `deny` ...
    pub order: String,
    /// When it ends, or when what is left is moved, RFC 3339; null: never.
    #[serde(default)]
    pub until: Option<String>,
    /// From now until then, in seconds; 0 when that has passed.
    #[serde(default)]
    pub seconds_left: Option<u64>,
    /// The node that took it.
    pub by: String,
    /// When, RFC 3339.
    pub at: String,
}

/// `PUT /v1/weights/{backend}`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct WeightOrder {
    /// 0 takes no new sessions.
    #[schema(maximum = 65535)]
    pub weight: u32,
}

/// `PUT /v1/splits/{service}`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SplitOrder {
    /// The share of new users by pool, 1 to 64 of them; at least one is greater than 0.
    pub split: BTreeMap<String, u32>,
}
