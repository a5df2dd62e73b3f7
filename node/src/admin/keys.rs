//! The mesh's keys: which there are, and orders about them. Never a secret but the one an operator brings (I13).

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use gossip::id::NodeName;
use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::Context;
use super::problem::{Refusal, problem};
use crate::keys::{Files, KeyState, KeysError, MeshKeys, Stored, spell};

/// `GET /v1/keys`.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub(crate) struct KeyList {
    /// All keys, those in use first.
    pub keys: Vec<KeyEntry>,
    /// Nodes that cannot write their key file: it is mounted read-only, and changed where it comes from.
    #[serde(default)]
    pub read_only: Vec<KeysOf>,
    /// Nodes that are not heard, with the keys that they held then.
    #[serde(default)]
    pub away: Vec<KeysOf>,
    /// Nodes that live and did not answer: what is in their key files is not known.
    #[serde(default)]
    pub silent: Vec<String>,
    /// The key that an order was about; null in a mere list.
    #[serde(default)]
    pub key: Option<String>,
}

/// What a node would come back with.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub(crate) struct KeysOf {
    /// The node.
    pub node: String,
    /// The keys.
    pub keys: Vec<String>,
}

/// One key.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub(crate) struct KeyEntry {
    /// Eight hexadecimal digits.
    pub id: String,
    /// Whether any node seals and signs with it.
    pub in_use: bool,
    /// How many living nodes hold it, of those that answered.
    pub nodes_with: usize,
    /// How many living nodes seal and sign with it.
    pub nodes_using: usize,
    /// How many living nodes tell which keys they hold, those too that did not answer now.
    pub nodes: usize,
    /// Living nodes that do not hold it. Who did not answer is not among them.
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
    Json(listed(&context.mesh_keys, None).await)
}

/// Installs a key on every node. An empty body: a fresh key. Else the key: one line of a keyring file.
#[utoipa::path(post, path = "/v1/keys", tag = "keys", request_body(content = String, content_type = "text/plain"), responses((status = 200, body = KeyList), (status = 400, body = super::api::Problem, content_type = "application/problem+json")))]
pub(super) async fn install(
    State(context): State<Arc<Context>>,
    body: String,
) -> Result<Json<KeyList>, Refusal> {
    let exported = Some(body).filter(|text| !text.trim().is_empty());
    let brought = exported.is_some();
    let id = context.mesh_keys.install(exported).await?;
    told(
        &context,
        id,
        if brought {
            "an operator installs it on all nodes"
        } else {
            "an operator has it made and installs it on all nodes"
        },
    );
    Ok(Json(listed(&context.mesh_keys, Some(id)).await))
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
    told(&context, id, "an operator takes it into use on all nodes");
    Ok(Json(listed(&context.mesh_keys, Some(id)).await))
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
    told(&context, id, "an operator takes it from all nodes");
    Ok(Json(listed(&context.mesh_keys, Some(id)).await))
}

fn told(context: &Context, id: u32, text: &str) {
    context.events.tell("order", format!("mesh key {}", spell(id)), text.into(), &context.clock);
}

async fn listed(keys: &MeshKeys, about: Option<u32>) -> KeyList {
    let of = |node: NodeName, keys: Vec<u32>| KeysOf {
        node: node.to_string(),
        keys: keys.into_iter().map(spell).collect(),
    };
    let Files { told, silent } = keys.files().await;
    let read_only = told.into_iter().filter(|file| !file.writable);
    let read_only = read_only.map(|Stored { node, keys, .. }| of(node, keys));
    KeyList {
        read_only: read_only.collect(),
        away: keys.away().into_iter().map(|(node, keys)| of(node, keys)).collect(),
        silent: silent.iter().map(ToString::to_string).collect(),
        keys: keys.list(&silent).iter().map(entry).collect(),
        key: about.map(spell),
    }
}

fn entry(key: &KeyState) -> KeyEntry {
    KeyEntry {
        id: spell(key.id),
        in_use: key.in_use,
        nodes_with: key.held_by.len(),
        nodes_using: key.used_by.len(),
        nodes: key.held_by.len() + key.lacking.len() + key.unknown.len(),
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
