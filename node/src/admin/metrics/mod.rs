//! `GET /metrics`: what this node counts, for Prometheus (OpenMetrics text).
//!
//! ```text
//!   Context ──▶ families: data_plane, mesh, store, name_server, discovery, admin, process ──▶ page (the one home of prometheus-client)
//! ```
//!
//! Every name begins with `meridian_` and is in base units (seconds, bytes). Labels are bounded by the configuration, the
//! number of nodes, or a fixed list; no label comes from a user. What has a limit stands beside it, as `..._limit`.

mod admin;
mod data_plane;
mod discovery;
mod family;
mod mesh;
mod name_server;
mod page;
mod process;
mod store;

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::CONTENT_TYPE;

use self::family::Family;
use super::Context;
use super::problem::{Refusal, problem};

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What this node counts, as OpenMetrics text.
#[utoipa::path(get, path = "/metrics", tag = "probes", responses((status = 200, body = String, content_type = "application/openmetrics-text")))]
pub(super) async fn metrics(State(context): State<Arc<Context>>) -> Result<Response, Refusal> {
    match page::page(families(&context)) {
        Ok(text) => Ok(([(CONTENT_TYPE, OPEN_METRICS)], text).into_response()),
        Err(error) => Err(problem(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
    }
}

fn families(context: &Context) -> Vec<Family> {
    let snapshot = context.snapshot.borrow().clone();
    let view = context.view.borrow().clone();
    let rooms = [
        data_plane::of_node(&context.proxy),
        data_plane::of_services(&context.proxy),
        data_plane::of_pools(&snapshot),
        mesh::families(context, &view, &snapshot),
        store::families(context),
        name_server::families(context),
        discovery::families(context),
        admin::families(context),
        process::families(),
    ];
    rooms.into_iter().flatten().collect()
}
