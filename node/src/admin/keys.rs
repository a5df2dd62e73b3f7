//! The mesh's keys: which there are, and orders about them. Never a secret but the one an operator brings (I13).

use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::Context;
use super::problem::{Refusal, problem};
use crate::keys::{KeyState, KeysError, MeshKeys, spell};

/// `GET /v1/keys`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct KeyList {
    /// All keys, those in use first.
    pub keys: Vec<KeyEntry>,
    /// The key that an order was about; null in a mere list.
    #[serde(default)]
    pub key: Option<String>,
}

/// One key.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct KeyEntry {
    /// Eight hexadecimal digits.
    pub id: String,
    /// Whether any node seals and signs with it.
    pub in_use: bool,
    /// How many living nodes hold it.
    pub nodes_with: usize,
    /// How many living nodes seal and sign with it.
    pub nodes_using: usize,
    /// How many living nodes tell which keys they hold.
    pub nodes: usize,
    /// Living nodes that do not hold it.
    pub lacking: Vec<String>,
}

/// The routes under `/v1/keys`.
pub(super) fn routes() -> Router<Arc<Context>> {
    Router::new()
        .route("/v1/keys", get(list).post(install))
        .route("/v1/keys/{id}/use", post(take))
        .route("/v1/keys/{id}", axum::routing::delete(remove))
}

#[derive(Deserialize)]
struct Force {
    #[serde(default)]
    force: bool,
}

async fn list(State(context): State<Arc<Context>>) -> Json<KeyList> {
    Json(listed(&context.mesh_keys, None))
}

/// An empty body: a fresh key. Else the key: one line of a keyring file.
async fn install(State(context): State<Arc<Context>>, body: String) -> Result<Json<KeyList>, Refusal> {
    let exported = Some(body).filter(|text| !text.trim().is_empty());
    let id = context.mesh_keys.install(exported).await?;
    Ok(Json(listed(&context.mesh_keys, Some(id))))
}

async fn take(
    State(context): State<Arc<Context>>,
    Path(id): Path<String>,
    Query(Force { force }): Query<Force>,
) -> Result<Json<KeyList>, Refusal> {
    let id = parse(&id)?;
    context.mesh_keys.use_key(id, force).await?;
    Ok(Json(listed(&context.mesh_keys, Some(id))))
}

async fn remove(
    State(context): State<Arc<Context>>,
    Path(id): Path<String>,
    Query(Force { force }): Query<Force>,
) -> Result<Json<KeyList>, Refusal> {
    let id = parse(&id)?;
    context.mesh_keys.remove(id, force).await?;
    Ok(Json(listed(&context.mesh_keys, Some(id))))
}

fn listed(keys: &MeshKeys, about: Option<u32>) -> KeyList {
    KeyList { keys: keys.list().iter().map(entry).collect(), key: about.map(spell) }
}

fn entry(key: &KeyState) -> KeyEntry {
    KeyEntry {
        id: spell(key.id),
        in_use: !key.used_by.is_empty(),
        nodes_with: key.held_by.len(),
        nodes_using: key.used_by.len(),
        nodes: key.held_by.len() + key.lacking.len(),
        lacking: key.lacking.iter().map(ToString::to_string).collect(),
    }
}

fn parse(id: &str) -> Result<u32, Refusal> {
    let digits = id.len() <= 8 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    let id = u32::from_str_radix(id, 16).ok().filter(|_| digits);
    id.ok_or_else(|| problem(StatusCode::BAD_REQUEST, "a key's id is 8 hexadecimal digits"))
}

impl From<KeysError> for Refusal {
    fn from(error: KeysError) -> Self {
        let status = match &error {
            KeysError::Objection(crate::keys::Objection::Unknown(_)) => StatusCode::NOT_FOUND,
            KeysError::Objection(_) => StatusCode::CONFLICT,
            KeysError::Keyring(gossip::keyring::KeyringError::NotAKey) => StatusCode::BAD_REQUEST,
            KeysError::Keyring(gossip::keyring::KeyringError::File { .. }) => {
                StatusCode::INSUFFICIENT_STORAGE
            }
            KeysError::Keyring(_) => StatusCode::CONFLICT,
            KeysError::Intent(_) | KeysError::Busy => StatusCode::SERVICE_UNAVAILABLE,
        };
        problem(status, error.to_string())
    }
}
