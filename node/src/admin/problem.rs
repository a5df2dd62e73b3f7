//! What went wrong, as HTTP says it: the one place that maps errors to statuses.

use axum::Json;
use axum::body::to_bytes;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use storage::intents::IntentError;
use storage::revisions::ApplyError;

use super::api::{Finding, Problem};
use crate::config::Report;

/// An error as an answer.
#[derive(Debug)]
pub(super) struct Refusal(StatusCode, Box<Problem>);

/// A problem with a status and a sentence.
pub(super) fn problem(status: StatusCode, detail: impl Into<String>) -> Refusal {
    let title = status.canonical_reason().unwrap_or("error").to_owned();
    let detail = Some(detail.into());
    let problem = Problem { title, status: status.as_u16(), detail, findings: Vec::new(), rendered: None };
    Refusal(status, Box::new(problem))
}

/// A configuration that is not valid.
pub(super) fn invalid(report: &Report) -> Refusal {
    let mut refusal =
        problem(StatusCode::UNPROCESSABLE_ENTITY, "the configuration is invalid; nothing was changed");
    refusal.1.findings = findings(report);
    refusal.1.rendered = Some(report.render(false));
    refusal
}

/// A report's entries as the API shows them.
pub(super) fn findings(report: &Report) -> Vec<Finding> {
    let entries = report.entries().iter();
    entries
        .map(|entry| Finding {
            line: entry.line,
            column: entry.column,
            message: entry.message.clone(),
            hint: entry.hint.clone(),
            file: entry.file.clone(),
        })
        .collect()
}

/// The longest explanation that is passed on.
const EXPLANATION_MAX_BYTES: usize = 4096;

/// The middleware that makes problems of what axum itself refuses: a number that is none, a body that is too large.
pub(super) async fn explained(request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    let status = response.status();
    let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if !status.is_client_error() && !status.is_server_error() || kind.contains("json") {
        return response;
    }
    let (head, body) = response.into_parts();
    let text = to_bytes(body, EXPLANATION_MAX_BYTES).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let mut told = problem(status, text.trim()).into_response();
    // What a client needs to do better: Allow, Retry-After.
    for (name, value) in
        head.headers.iter().filter(|(name, _)| **name != CONTENT_TYPE && **name != CONTENT_LENGTH)
    {
        told.headers_mut().entry(name).or_insert_with(|| value.clone());
    }
    told
}

impl From<ApplyError> for Refusal {
    fn from(error: ApplyError) -> Self {
        let status = match &error {
            ApplyError::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            ApplyError::Conflict { .. } => StatusCode::PRECONDITION_FAILED,
            ApplyError::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            ApplyError::Io(_) => StatusCode::INSUFFICIENT_STORAGE,
            ApplyError::Stopped => StatusCode::SERVICE_UNAVAILABLE,
        };
        problem(status, error.to_string())
    }
}

impl From<IntentError> for Refusal {
    fn from(error: IntentError) -> Self {
        let status = match &error {
            IntentError::Full => StatusCode::INSUFFICIENT_STORAGE,
            IntentError::Stopped | IntentError::Clock => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::UNPROCESSABLE_ENTITY,
        };
        problem(status, error.to_string())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.0, Json(self.1)).into_response();
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        response
    }
}
