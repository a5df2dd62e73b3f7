//! What supervisors and balancers in front ask: is the process alive, is it ready for users.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde::Deserialize;

use super::Context;
use super::api::{Check, Readiness};
use super::problem::{Refusal, problem};
use crate::app::control_tasks::Need;

/// Says that the process answers. It needs no token and looks at nothing.
#[utoipa::path(get, path = "/livez", tag = "probes", responses((status = 200, body = String, content_type = "text/plain")))]
pub(super) async fn livez() -> &'static str {
    "ok\n"
}

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Verbose {
    /// Present: every check by name, as JSON.
    verbose: Option<String>,
}

/// Says whether this node should get users: a configuration is in force, its listeners are bound, and it is not leaving.
#[utoipa::path(get, path = "/readyz", tag = "probes", params(Verbose), responses(
    (status = 200, description = "ready", content((String = "text/plain"), (Readiness = "application/json"))),
    (status = 503, description = "not ready", content((super::api::Problem = "application/problem+json"), (Readiness = "application/json")))
))]
pub(super) async fn readyz(
    State(context): State<Arc<Context>>,
    Query(Verbose { verbose }): Query<Verbose>,
) -> Result<Response, Refusal> {
    let checks = checks(&context);
    let ready = checks.iter().all(|check| check.ok);
    if verbose.is_some() {
        let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        return Ok((status, Json(Readiness { ready, checks })).into_response());
    }
    match checks.into_iter().find(|check| !check.ok) {
        None => Ok("ready\n".into_response()),
        Some(check) => Err(problem(StatusCode::SERVICE_UNAVAILABLE, check.detail)),
    }
}

fn checks(context: &Context) -> Vec<Check> {
    let check = |name: &str, ok: bool, detail: String| Check { name: name.into(), ok, detail };
    let revision = context.snapshot.borrow().revision;
    let problems = context.proxy.problems();
    let view = context.view.borrow();
    let draining = view.own().is_some_and(|own| own.record.draining);
    let greatest =
        view.members.values().filter(|member| member.counts()).filter_map(|m| m.record.revision).max();
    let left_out = context.revisions.distrusted().filter(|_| greatest > revision);
    vec![
        match revision {
            Some(id) if left_out.is_some() => check(
                "configuration",
                false,
                format!(
                    "revision {} is in force: this node ended with the one that others run, and left it out",
                    id.epoch
                ),
            ),
            Some(id) => check("configuration", true, format!("revision {} is in force", id.epoch)),
            None => check("configuration", false, "no configuration is in force yet".into()),
        },
        match problems.first() {
            None => {
                let bound = context.proxy.listening().len();
                let words = if bound == 1 { "socket is" } else { "sockets are" };
                check("listeners", true, format!("{bound} {words} bound"))
            }
            Some(problem) => check("listeners", false, problem.to_string()),
        },
        match context.ended.list().iter().find(|ended| ended.need == Need::Vital) {
            None => check("control", true, "what this node cannot do without runs".into()),
            Some(ended) => check("control", false, ended.text()),
        },
        match draining {
            true => check("stays", false, "this node is draining or leaving".into()),
            false => check("stays", true, "this node takes new users".into()),
        },
        // A node alone serves all the same (I5): this is told, and keeps nobody away.
        match view.isolated_since {
            Some(_) => {
                check("mesh", true, "no peer is heard; the node goes on with what it last knew".into())
            }
            None => check("mesh", true, format!("{} nodes are known", view.members.len())),
        },
    ]
}
