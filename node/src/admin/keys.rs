//! The mesh's keys: which there are, and orders about them. Never a secret but the one an operator brings (I13).

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::Context;
use super::problem::{Refusal, problem};
use crate::keys::{KeyState, KeysError, MeshKeys, spell};

/// `GET /v1/keys`.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub(crate) struct KeyList {
    /// All keys, those in use first.
    pub keys: Vec<KeyEntry>,
    /// The key that an order was about; null in a mere list.
    #[serde(default)]
    pub key: Option<String>,
}

/// One key.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
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

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Force {
    /// Though nodes lack the key, or sessions end by it.
    #[serde(default)]
    #[param(required = false)]
    force: bool,
}

/// The mesh's keys, and how far each has spread. Never a secret.
#[utoipa::path(get, path = "/v1/keys", tag = "keys", responses((status = 200, body = KeyList)))]
pub(super) async fn list(State(context): State<Arc<Context>>) -> Json<KeyList> {
    Json(listed(&context.mesh_keys, None))
}

/// Installs a key on every node. An empty body: a fresh key. Else the key: one line of a keyring file.
#[utoipa::path(post, path = "/v1/keys", tag = "keys", request_body(content = String, content_type = "text/plain"), responses((status = 200, body = KeyList), (status = 400, body = super::api::Problem, content_type = "application/problem+json")))]
pub(super) async fn install(
    State(context): State<Arc<Context>>,
    body: String,
) -> Result<Json<KeyList>, Refusal> {
    let exported = Some(body).filter(|text| !text.trim().is_empty());
    let id = context.mesh_keys.install(exported).await?;
    Ok(Json(listed(&context.mesh_keys, Some(id))))
}

/// Lets every node seal and sign with a key.
#[utoipa::path(post, path = "/v1/keys/{id}/use", tag = "keys", params(("id" = String, Path, description = "8 hexadecimal digits"), Force), responses((status = 200, body = KeyList), (status = 404, body = super::api::Problem, content_type = "application/problem+json"), (status = 409, body = super::api::Problem, content_type = "application/problem+json")))]
pub(super) async fn take(
    State(context): State<Arc<Context>>,
    Path(id): Path<String>,
    Query(Force { force }): Query<Force>,
) -> Result<Json<KeyList>, Refusal> {
    let id = parse(&id)?;
    context.mesh_keys.use_key(id, force).await?;
    Ok(Json(listed(&context.mesh_keys, Some(id))))
}

/// Takes a key from every node.
#[utoipa::path(delete, path = "/v1/keys/{id}", tag = "keys", params(("id" = String, Path), Force), responses((status = 200, body = KeyList), (status = 404, body = super::api::Problem, content_type = "application/problem+json"), (status = 409, body = super::api::Problem, content_type = "application/problem+json")))]
pub(super) async fn remove(
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
