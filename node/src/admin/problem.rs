//! What went wrong, as HTTP says it: the one place that maps errors to statuses.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderValue};
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
            IntentError::Stopped => StatusCode::SERVICE_UNAVAILABLE,
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
