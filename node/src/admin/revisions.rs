//! The history of the configuration: what was applied, by whom, what lost; and the way back.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use storage::revisions::Revision;

use super::Context;
use super::problem::{Refusal, problem};
use super::routes::{expected, put_in_force, rfc3339, tag};

/// `GET /v1/revisions`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RevisionList {
    /// What the answering node keeps, newest first.
    pub revisions: Vec<RevisionEntry>,
}

/// One revision of the history.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RevisionEntry {
    /// Its number: one more than its parent's.
    pub epoch: u64,
    /// BLAKE3, 64 hexadecimal digits.
    pub hash: String,
    /// The hash of the one it replaced; null for the first.
    pub parent: Option<String>,
    /// Who applied it.
    pub author: String,
    /// The node that took it.
    pub node: String,
    /// When, RFC 3339.
    pub time: String,
    /// How long its text is.
    pub bytes: usize,
    /// `current`, `past`, or `lost`: applied when another one was, and not in force since.
    pub state: String,
    /// Living nodes that serve it.
    pub nodes_on: Vec<String>,
}

/// The routes under `/v1/revisions` that only read, and the way back.
pub(super) fn routes() -> Router<Arc<Context>> {
    Router::new()
        .route("/v1/revisions", get(list))
        .route("/v1/revisions/{id}", get(one))
        .route("/v1/revisions/{id}/rollback", post(rollback))
}

async fn list(State(context): State<Arc<Context>>) -> Json<RevisionList> {
    let current = context.revisions.current().map(|current| current.id);
    let lost = context.revisions.lost();
    let view = context.view.borrow().clone();
    let entry = |revision: &Arc<Revision>| {
        let on = view
            .members
            .values()
            .filter(|member| member.counts() && member.record.revision == Some(revision.id));
        let state = match () {
            () if current == Some(revision.id) => "current",
            () if lost.iter().any(|lost| lost.id == revision.id) => "lost",
            () => "past",
        };
        RevisionEntry {
            epoch: revision.id.epoch,
            hash: revision.id.hash_hex(),
            parent: revision.parent.map(|parent| blake3::Hash::from(parent).to_hex().to_string()),
            author: revision.author.clone(),
            node: revision.node.to_string(),
            time: rfc3339(revision.time),
            bytes: revision.body.len(),
            state: state.to_owned(),
            nodes_on: on.map(|member| member.record.name.to_string()).collect(),
        }
    };
    Json(RevisionList { revisions: context.revisions.history().iter().map(entry).collect() })
}

async fn one(State(context): State<Arc<Context>>, Path(id): Path<String>) -> Result<Response, Refusal> {
    let revision = find(&context, &id)?;
    let mut response = revision.body.clone().into_response();
    tag(&mut response, &revision);
    Ok(response)
}

/// Makes an old text the newest revision. History only grows: what is undone stays in it.
async fn rollback(
    State(context): State<Arc<Context>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let revision = find(&context, &id)?;
    let author = format!("rollback to {}@{}", revision.id.epoch, context.node);
    put_in_force(&context, revision.body.clone(), author, expected(&headers)?).await
}

/// `EPOCH`, or `EPOCH:HASH` with as many digits of the hash as tell it apart. Of several with one epoch the winner is meant.
fn find(context: &Context, id: &str) -> Result<Arc<Revision>, Refusal> {
    let (epoch, hash) = id.split_once(':').unwrap_or((id, ""));
    let epoch: u64 = epoch
        .parse()
        .map_err(|_| problem(StatusCode::BAD_REQUEST, "a revision is named by its number, or NUMBER:HASH"))?;
    let history = context.revisions.history();
    let hash = hash.to_ascii_lowercase();
    let named =
        |revision: &&Arc<Revision>| revision.id.epoch == epoch && revision.id.hash_hex().starts_with(&hash);
    let lost = context.revisions.lost();
    let is_lost = |revision: &Arc<Revision>| lost.iter().any(|lost| lost.id == revision.id);
    let found = history.iter().filter(named).min_by_key(|revision| is_lost(revision));
    found.cloned().ok_or_else(|| {
        let oldest = history.last().map_or(0, |oldest| oldest.id.epoch);
        let detail = format!("revision {id} is not in the history, which goes back to revision {oldest}");
        problem(StatusCode::NOT_FOUND, detail)
    })
}
