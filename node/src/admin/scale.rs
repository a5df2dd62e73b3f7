//! Pools that scale.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;

use super::Context;
use super::api::backends::ScaleStatus;
use crate::config::model::ScaleTarget;
use crate::scale::ScaleState;

/// The pools that grow and shrink, and what their load asks for now.
#[utoipa::path(get, path = "/v1/scale", tag = "pools", responses((status = 200, body = Vec<ScaleStatus>)))]
pub(super) async fn list(State(context): State<Arc<Context>>) -> Json<Vec<ScaleStatus>> {
    Json(context.scaling.states().iter().map(spell).collect())
}

fn spell(state: &ScaleState) -> ScaleStatus {
    let config = &state.config;
    ScaleStatus {
        pool: state.pool.to_string(),
        min: config.min,
        max: config.max,
        ready: state.ready,
        total: state.total,
        coming: state.coming,
        wanted: state.wanted,
        target: config.target.as_str().into(),
        each: match config.target {
            ScaleTarget::InFlight(each) | ScaleTarget::Requests(each) => each,
            ScaleTarget::P99(each) => each.as_secs_f64(),
        },
        measured: (state.measured * 1e3).round() / 1e3,
        dry_run: config.dry_run,
        actor: state.actor.as_ref().map(ToString::to_string),
        unable: state.unable.iter().map(|(node, why)| (node.to_string(), why.clone())).collect(),
        waits: state.waits.clone(),
    }
}
