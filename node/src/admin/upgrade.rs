//! The order to go on as another process of the same node. By the Unix socket alone: who may give it may start programs here.

use std::path::PathBuf;
use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json};
use http::StatusCode;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::oneshot;

use super::Context;
use super::api::{Problem, UpgradeRequest, Upgraded};
use super::problem::{Refusal, problem};
use super::server::Local;

/// An order on its way to whoever runs the node.
#[derive(Debug)]
pub(crate) struct UpgradeOrder {
    /// The program to go on with; `None`: the file that this one was started from.
    pub(crate) program: Option<PathBuf>,
    /// The process that serves now, or why there is none.
    pub(crate) reply: oneshot::Sender<Result<u32, String>>,
}

/// Starts the node's program anew, gives it all sockets, and ends when nobody is connected any more: no request is lost. By
/// the Unix socket alone.
#[utoipa::path(post, path = "/v1/upgrade", tag = "mesh", request_body = UpgradeRequest, responses(
    (status = 200, body = Upgraded),
    (status = 403, description = "not by the Unix socket", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "it goes on as it was", body = Problem, content_type = "application/problem+json")
))]
pub(super) async fn upgrade(
    State(context): State<Arc<Context>>,
    local: Option<Extension<Local>>,
    Json(UpgradeRequest { program }): Json<UpgradeRequest>,
) -> Result<Json<Upgraded>, Refusal> {
    if local.is_none() {
        let detail = "a node is upgraded by its Unix socket alone: on its machine, as its user";
        return Err(problem(StatusCode::FORBIDDEN, detail));
    }
    let program = program.map(PathBuf::from);
    if program.as_ref().is_some_and(|program| !program.is_absolute()) {
        return Err(problem(StatusCode::UNPROCESSABLE_ENTITY, "the program is named by an absolute path"));
    }
    let began = context.clock.now();
    let (reply, replied) = oneshot::channel();
    context.upgrades.try_send(UpgradeOrder { program, reply }).map_err(|error| match error {
        TrySendError::Full(_) => problem(
            StatusCode::CONFLICT,
            "another upgrade is under way; nothing was changed: wait until that has ended, then ask again",
        ),
        TrySendError::Closed(_) => gone(),
    })?;
    match replied.await {
        Ok(Ok(pid)) => {
            let took = context.clock.now().saturating_duration_since(began);
            Ok(Json(Upgraded { pid, took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX) }))
        }
        Ok(Err(why)) => Err(problem(StatusCode::CONFLICT, why)),
        Err(_) => Err(gone()),
    }
}

/// Nobody is left who would take the order.
fn gone() -> Refusal {
    problem(
        StatusCode::CONFLICT,
        "this process leaves, or another one serves in its place already: ask again, and the node as it is then answers",
    )
}
