//! Who the users are, and how they are served.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;

use super::sum;
use crate::admin::Context;
use crate::admin::api::{TrafficStatus, UsersStatus};
use crate::proxy::WINDOW;

/// The last two minutes of the whole mesh, second by second.
#[utoipa::path(get, path = "/v1/traffic", tag = "users", responses((status = 200, body = TrafficStatus)))]
pub(in crate::admin) async fn traffic(State(context): State<Arc<Context>>) -> Json<TrafficStatus> {
    let (accounts, silent) = context.traffic.collect().await;
    Json(TrafficStatus {
        seconds: sum::seconds(&accounts),
        regions: sum::regions(&accounts),
        silent: silent.iter().map(ToString::to_string).collect(),
    })
}

/// Who the users are: by service, by the region that served them, and by network (the 50 that ask most; no address is kept).
#[utoipa::path(get, path = "/v1/users", tag = "users", responses((status = 200, body = UsersStatus)))]
pub(in crate::admin) async fn users(State(context): State<Arc<Context>>) -> Json<UsersStatus> {
    let (accounts, silent) = context.traffic.collect().await;
    Json(UsersStatus {
        services: sum::services(&accounts),
        regions: sum::regions(&accounts),
        networks: sum::networks(&accounts),
        networks_seconds: (WINDOW.as_secs(), 2 * WINDOW.as_secs()),
        silent: silent.iter().map(ToString::to_string).collect(),
    })
}
