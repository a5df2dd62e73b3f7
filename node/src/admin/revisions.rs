//! The mesh-wide configuration: the one in force, and a new one.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, ETAG, IF_MATCH};
use http::{HeaderMap, HeaderValue, StatusCode};
use storage::revisions::{Expected, Revision};

use super::Context;
use super::api::Applied;
use super::problem::{Refusal, findings, invalid, problem};
use crate::config::services;

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
    params(("if-match" = Option<String>, Header, description = "\"EPOCH:HASH\", \"none\" or *")),
    request_body(content((String = "application/toml"), (String = "text/plain"))), responses(
    (status = 200, body = Applied, headers(("etag" = String, description = "\"EPOCH:HASH\""))),
    (status = 412, description = "another revision is in force", body = super::api::Problem, content_type = "application/problem+json"),
    (status = 422, description = "the configuration is invalid", body = super::api::Problem, content_type = "application/problem+json")
))]
pub(super) async fn apply(
    State(context): State<Arc<Context>>,
    headers: HeaderMap,
    body: String,
) -> Result<Response, Refusal> {
    let valid = services::parse("services.toml", &body).map_err(|report| invalid(&report))?;
    let expected = expected(&headers)?;
    let before = context.revisions.current().map(|revision| revision.id);
    let author = format!("api@{}", context.node);
    let revision = context.revisions.apply(body, author, expected).await?;
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
        warnings: findings(&valid.warnings),
    })
    .into_response();
    tag(&mut response, &revision);
    Ok(response)
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
