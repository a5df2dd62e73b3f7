//! The mesh-wide configuration: the one in force, a new one, its history and the way back.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, ETAG, IF_MATCH};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};
use storage::revisions::{Expected, Revision};

use super::Context;
use super::api::{Applied, Finding};
use super::orders::rfc3339;
use super::problem::{Refusal, findings, invalid, problem};
use crate::cautions::{self, Caution};
use crate::config::model::Services;
use crate::config::services;

/// `GET /v1/revisions`.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub(crate) struct RevisionList {
    /// What the answering node keeps, newest first.
    pub revisions: Vec<RevisionEntry>,
}

/// One revision of the history.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
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

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Force {
    /// Also when it takes all listeners or services away.
    #[serde(default)]
    #[param(required = false)]
    force: bool,
}

/// How long `apply` waits until this node serves what it has taken.
const SERVED: Duration = Duration::from_secs(2);

/// The configuration in force, as TOML; its ETag is the revision's id, for If-Match.
#[utoipa::path(get, path = "/v1/revisions/current", tag = "configuration", responses(
    (status = 200, body = String, content_type = "application/toml", headers(("etag" = String, description = "\"EPOCH:HASH\""))),
    (status = 404, body = super::api::Problem, content_type = "application/problem+json")
))]
pub(super) async fn current(State(context): State<Arc<Context>>) -> Result<Response, Refusal> {
    let Some(revision) = context.revisions.current() else {
        return Err(problem(StatusCode::NOT_FOUND, "no configuration was applied yet"));
    };
    let toml = [(CONTENT_TYPE, HeaderValue::from_static("application/toml"))];
    let mut response = (toml, revision.body.clone()).into_response();
    tag(&mut response, &revision);
    Ok(response)
}

/// Checks a services.toml whole and makes it the revision in force on every node, or changes nothing. With If-Match
/// (`"EPOCH:HASH"`, `"none"` for the very first) only while that revision is in force.
#[utoipa::path(post, path = "/v1/revisions", tag = "configuration",
    params(("if-match" = Option<String>, Header, description = "\"EPOCH:HASH\", \"none\" or *"), Force),
    request_body(content((String = "application/toml"), (String = "text/plain"))), responses(
    (status = 200, body = Applied, headers(("etag" = String, description = "\"EPOCH:HASH\""))),
    (status = 409, description = "it takes all listeners or services away", body = super::api::Problem, content_type = "application/problem+json"),
    (status = 412, description = "another revision is in force", body = super::api::Problem, content_type = "application/problem+json"),
    (status = 422, description = "the configuration is invalid", body = super::api::Problem, content_type = "application/problem+json")
))]
pub(super) async fn apply(
    State(context): State<Arc<Context>>,
    Query(Force { force }): Query<Force>,
    headers: HeaderMap,
    body: String,
) -> Result<Response, Refusal> {
    let author = format!("api@{}", context.node);
    put_in_force(&context, body, author, expected(&headers)?, force).await
}

/// The history that this node keeps, newest first: what was applied, by whom, what lost.
#[utoipa::path(get, path = "/v1/revisions", tag = "configuration", responses((status = 200, body = RevisionList)))]
pub(super) async fn list(State(context): State<Arc<Context>>) -> Json<RevisionList> {
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

/// One revision's text, as TOML; its ETag is its id.
#[utoipa::path(get, path = "/v1/revisions/{id}", tag = "configuration",
    params(("id" = String, Path, description = "EPOCH, or EPOCH:HASH with as many digits as tell it apart")), responses(
    (status = 200, body = String, content_type = "application/toml", headers(("etag" = String, description = "\"EPOCH:HASH\""))),
    (status = 404, body = super::api::Problem, content_type = "application/problem+json")
))]
pub(super) async fn one(
    State(context): State<Arc<Context>>,
    Path(id): Path<String>,
) -> Result<Response, Refusal> {
    let revision = find(&context, &id)?;
    let toml = [(CONTENT_TYPE, HeaderValue::from_static("application/toml"))];
    let mut response = (toml, revision.body.clone()).into_response();
    tag(&mut response, &revision);
    Ok(response)
}

/// Makes an old text the newest revision. History only grows: what is undone stays in it.
#[utoipa::path(post, path = "/v1/revisions/{id}/rollback", tag = "configuration",
    params(("id" = String, Path), ("if-match" = Option<String>, Header, description = "\"EPOCH:HASH\" or *"), Force), responses(
    (status = 200, body = Applied),
    (status = 404, body = super::api::Problem, content_type = "application/problem+json"),
    (status = 409, description = "it takes all listeners or services away", body = super::api::Problem, content_type = "application/problem+json"),
    (status = 412, body = super::api::Problem, content_type = "application/problem+json")
))]
pub(super) async fn rollback(
    State(context): State<Arc<Context>>,
    Path(id): Path<String>,
    Query(Force { force }): Query<Force>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let revision = find(&context, &id)?;
    let author = format!("rollback to {}@{}", revision.id.epoch, context.node);
    put_in_force(&context, revision.body.clone(), author, expected(&headers)?, force).await
}

/// Makes a text the newest revision, and answers when this node serves it.
async fn put_in_force(
    context: &Context,
    body: String,
    author: String,
    expected: Expected,
    force: bool,
) -> Result<Response, Refusal> {
    let valid = services::parse("services.toml", &body).map_err(|report| invalid(&report))?;
    let before = context.revisions.current().map(|revision| revision.id);
    let served = context.snapshot.borrow().services.clone();
    if let Some(lost) = cautions::of_loss(&served, &valid.services).filter(|_| !force) {
        let detail = format!("{lost}; nothing was changed; is the file whole? force does it all the same");
        return Err(problem(StatusCode::CONFLICT, detail));
    }
    let cautions = cautions(context, &valid.services).chain(unreadable(valid.services).await);
    let revision = context.revisions.apply(body, author, expected).await?;
    if before != Some(revision.id) {
        let text = format!(
            "an operator applies revision {} ({:.12}): {}",
            revision.id.epoch,
            revision.id.hash_hex(),
            revision.author
        );
        context.events.tell("order", "configuration".into(), text, &context.clock);
    }
    // Who reads what it has just written finds it: this node answers when it serves the revision (or a later one).
    let mut snapshot = context.snapshot.clone();
    let served = snapshot.wait_for(|snapshot| snapshot.revision >= Some(revision.id));
    if tokio::time::timeout(SERVED, served).await.is_err() {
        tracing::warn!(epoch = revision.id.epoch, "the revision is stored, but not yet served");
    }
    let mut response = Json(Applied {
        epoch: revision.id.epoch,
        hash: revision.id.hash_hex(),
        unchanged: before == Some(revision.id),
        warnings: findings(&valid.warnings).into_iter().chain(cautions).collect(),
    })
    .into_response();
    tag(&mut response, &revision);
    Ok(response)
}

/// What is to be said of a configuration that is about to be applied here, beside what is odd in itself.
fn cautions(context: &Context, services: &Services) -> impl Iterator<Item = Finding> + use<> {
    let before = context.snapshot.borrow().services.clone();
    let stands = context.view.borrow().members.values().map(|member| member.record.region.clone()).collect();
    let mut cautions = cautions::of_unsigned(&before, services);
    cautions.extend(cautions::of_orders(services, &stands));
    if context.transfers {
        cautions.extend(cautions::of_transfers(services));
    }
    cautions.into_iter().map(spell)
}

/// The files that the new configuration names and that this node cannot read.
async fn unreadable(services: Services) -> impl Iterator<Item = Finding> {
    let why = |path: &std::path::Path| match std::fs::metadata(path) {
        // A pipe would be waited for.
        Ok(about) if !about.is_file() => Some("it is no file".to_owned()),
        Ok(_) => std::fs::File::open(path).err().map(|error| error.to_string()),
        Err(error) => Some(error.to_string()),
    };
    let look = tokio::task::spawn_blocking(move || cautions::of_files(&services, why));
    // It fails only when the runtime ends.
    look.await.unwrap_or_default().into_iter().map(spell)
}

fn spell(Caution { what, advice }: Caution) -> Finding {
    Finding { line: 0, column: 0, message: what, hint: Some(advice), file: None }
}

fn tag(response: &mut Response, revision: &Revision) {
    // A revision id is made of digits and letters: always a valid header value.
    if let Ok(value) = HeaderValue::from_str(&format!("\"{}\"", revision.id)) {
        response.headers_mut().insert(ETAG, value);
    }
}

fn expected(headers: &HeaderMap) -> Result<Expected, Refusal> {
    let Some(value) = headers.get(IF_MATCH) else { return Ok(Expected::Any) };
    let text = value.to_str().unwrap_or_default().trim().trim_matches('"');
    match text {
        "*" => Ok(Expected::Any),
        "none" => Ok(Expected::Nothing),
        _ => text
            .parse()
            .map(Expected::Revision)
            .map_err(|error| problem(StatusCode::BAD_REQUEST, format!("If-Match: {error}"))),
    }
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
