//! The mesh as it is: as a whole, and by nodes, regions, pools, backends and services. Nothing here changes anything.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use http::StatusCode;
use serde::Deserialize;
use storage::intents::Target;

use super::api::{
    BackendEntry, MemberStatus, PoolStatus, Problem, RegionStatus, ServiceStatus, SessionStatus, Status,
};
use super::problem::{Refusal, problem};
use super::targets::there_are;
use super::{Context, counted, orders, services, status};

type Shared = State<Arc<Context>>;

/// The state of the whole mesh, as this node sees it.
#[utoipa::path(get, path = "/v1/status", tag = "mesh", responses((status = 200, body = Status)))]
pub(super) async fn whole(State(context): Shared) -> Json<Status> {
    let (reports, sessions) = tokio::join!(context.reports.collect(), context.survey.glance());
    let sessions = sessions.found;
    let snapshot = context.snapshot.borrow().clone();
    let view = context.view.borrow().clone();
    let stats = context.sessions.stats();
    let applied = context.revisions.current().map(|current| context.clock.mesh_wall().since(current.time));
    let problems =
        status::problems(&view, &snapshot, &context.seeds, reports.problems, applied, context.clock.now());
    // There may be a thousand sessions' ends, and keys have a list of their own: they are listed where they are asked for.
    let is_elsewhere = |target: &Target| matches!(target, Target::Session(_) | Target::Key(_) | Target::Mesh);
    Json(Status {
        node: context.node.to_string(),
        version: env!("CARGO_PKG_VERSION").into(),
        degraded: !problems.is_empty(),
        problems,
        warnings: status::warnings(&snapshot),
        members: status::members(&view, context.clock.now()),
        intents: orders::spell(
            context.intents.list().iter().filter(|((target, _), _)| !is_elsewhere(target)),
            context.clock.mesh_wall(),
        ),
        revision: status::revision(&view, snapshot.revision),
        pools: status::pools(&snapshot, &view, context.clock.now(), &reports.loads, &sessions),
        sessions: SessionStatus { count: sessions.values().sum(), held_here: stats.held },
        rtt_ms: status::rtt(&view),
        clock_behind_ms: Some(context.clock.deviation()),
        counters: counted::counters(&context, stats.degraded),
    })
}

/// All nodes known.
#[utoipa::path(get, path = "/v1/members", tag = "mesh", responses((status = 200, body = Vec<MemberStatus>)))]
pub(super) async fn members(State(context): Shared) -> Json<Vec<MemberStatus>> {
    Json(status::members(&context.view.borrow(), context.clock.now()))
}

/// All nodes known: another name of `/v1/members`.
#[utoipa::path(get, path = "/v1/nodes", tag = "mesh", responses((status = 200, body = Vec<MemberStatus>)))]
pub(super) async fn nodes(State(context): Shared) -> Json<Vec<MemberStatus>> {
    Json(status::members(&context.view.borrow(), context.clock.now()))
}

/// One node.
#[utoipa::path(get, path = "/v1/nodes/{name}", tag = "mesh", params(("name" = String, Path)), responses(
    (status = 200, body = MemberStatus),
    (status = 404, body = Problem, content_type = "application/problem+json")
))]
pub(super) async fn node(
    State(context): Shared,
    Path(name): Path<String>,
) -> Result<Json<MemberStatus>, Refusal> {
    let mut members = status::members(&context.view.borrow(), context.clock.now());
    match members.iter().position(|member| member.name == name) {
        Some(at) => Ok(Json(members.swap_remove(at))),
        None => {
            let known = members.iter().map(|member| member.name.as_str()).collect();
            let detail = format!("there is no node {name:?}{}", there_are(&name, known));
            Err(problem(StatusCode::NOT_FOUND, detail))
        }
    }
}

/// All regions that nodes, backends or the configuration name, with what each can do.
#[utoipa::path(get, path = "/v1/regions", tag = "mesh", responses((status = 200, body = Vec<RegionStatus>)))]
pub(super) async fn regions(State(context): Shared) -> Json<Vec<RegionStatus>> {
    let reports = context.reports.collect().await;
    let snapshot = context.snapshot.borrow().clone();
    let view = context.view.borrow().clone();
    Json(status::regions(&view, &snapshot, &reports.loads, context.clock.now()))
}

/// All pools with their backends.
#[utoipa::path(get, path = "/v1/pools", tag = "pools", responses((status = 200, body = Vec<PoolStatus>)))]
pub(super) async fn pools(State(context): Shared) -> Json<Vec<PoolStatus>> {
    Json(all_pools(&context).await)
}

/// One pool.
#[utoipa::path(get, path = "/v1/pools/{pool}", tag = "pools", params(("pool" = String, Path)), responses(
    (status = 200, body = PoolStatus),
    (status = 404, body = Problem, content_type = "application/problem+json")
))]
pub(super) async fn pool(
    State(context): Shared,
    Path(name): Path<String>,
) -> Result<Json<PoolStatus>, Refusal> {
    let mut pools = all_pools(&context).await;
    match pools.iter().position(|pool| pool.name == name) {
        Some(at) => Ok(Json(pools.swap_remove(at))),
        None => {
            let known = pools.iter().map(|pool| pool.name.as_str()).collect();
            let detail = format!("there is no pool {name:?}{}", there_are(&name, known));
            Err(problem(StatusCode::NOT_FOUND, detail))
        }
    }
}

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Which {
    /// Only of this pool.
    pool: Option<String>,
    /// Only of this region.
    region: Option<String>,
    /// Only in this state.
    state: Option<String>,
}

/// All backends of all pools, or those that are asked for.
#[utoipa::path(get, path = "/v1/backends", tag = "pools", params(Which), responses((status = 200, body = Vec<BackendEntry>)))]
pub(super) async fn backends(State(context): Shared, Query(which): Query<Which>) -> Json<Vec<BackendEntry>> {
    let is = |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|wanted| wanted == is);
    let pools = all_pools(&context).await;
    let entries = pools.into_iter().flat_map(|pool| {
        let name = pool.name;
        pool.backends.into_iter().map(move |backend| BackendEntry { pool: name.clone(), backend })
    });
    let wanted = entries.filter(|entry| {
        let backend = &entry.backend;
        is(&which.pool, &entry.pool) && is(&which.region, &backend.region) && is(&which.state, &backend.state)
    });
    Json(wanted.collect())
}

/// One backend of one pool.
#[utoipa::path(get, path = "/v1/backends/{pool}/{address}", tag = "pools",
    params(("pool" = String, Path), ("address" = String, Path, description = "IP:PORT")), responses(
    (status = 200, body = BackendEntry),
    (status = 404, body = Problem, content_type = "application/problem+json")
))]
pub(super) async fn backend(
    State(context): Shared,
    Path((pool, address)): Path<(String, String)>,
) -> Result<Json<BackendEntry>, Refusal> {
    let pools = all_pools(&context).await;
    let found = pools.into_iter().find(|of| of.name == pool);
    let backend = found.into_iter().flat_map(|pool| pool.backends).find(|backend| backend.address == address);
    match backend {
        Some(backend) => Ok(Json(BackendEntry { pool, backend })),
        None => Err(problem(StatusCode::NOT_FOUND, format!("pool {pool:?} has no backend {address:?}"))),
    }
}

/// All services.
#[utoipa::path(get, path = "/v1/services", tag = "services", responses((status = 200, body = Vec<ServiceStatus>)))]
pub(super) async fn all_services(State(context): Shared) -> Json<Vec<ServiceStatus>> {
    Json(services::all(&context.snapshot.borrow()))
}

/// One service.
#[utoipa::path(get, path = "/v1/services/{service}", tag = "services", params(("service" = String, Path)), responses(
    (status = 200, body = ServiceStatus),
    (status = 404, body = Problem, content_type = "application/problem+json")
))]
pub(super) async fn service(
    State(context): Shared,
    Path(name): Path<String>,
) -> Result<Json<ServiceStatus>, Refusal> {
    let mut all = services::all(&context.snapshot.borrow());
    match all.iter().position(|service| service.name == name) {
        Some(at) => Ok(Json(all.swap_remove(at))),
        None => {
            let known = all.iter().map(|service| service.name.as_str()).collect();
            let detail = format!("there is no service {name:?}{}", there_are(&name, known));
            Err(problem(StatusCode::NOT_FOUND, detail))
        }
    }
}

async fn all_pools(context: &Context) -> Vec<PoolStatus> {
    let (reports, sessions) = tokio::join!(context.reports.collect(), context.survey.glance());
    let snapshot = context.snapshot.borrow().clone();
    let view = context.view.borrow().clone();
    status::pools(&snapshot, &view, context.clock.now(), &reports.loads, &sessions.found)
}
