//! Backends that register themselves or are added, and what the sources of all others say.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, Query, State};
use bytes::Bytes;
use gossip::id::{NameError, PoolName, RegionName};
use gossip::state::ClusterView;
use http::StatusCode;
use serde::Deserialize;

use super::Context;
use super::api::backends::{Registered, Registration, SourceStatus};
use super::orders::rfc3339;
use super::problem::{Refusal, problem};
use super::targets::there_are;
use crate::backend::Snapshot;
use crate::discovery::{Found, OrderError, SourceState, Standing, TTL, is_reachable};

type Shared = State<Arc<Context>>;

/// Takes or renews a lease for a backend, or adds one until it is removed.
#[utoipa::path(put, path = "/v1/pools/{pool}/backends/{address}", tag = "pools", params(("pool" = String, Path), ("address" = String, Path, description = "IP:PORT")), request_body = Option<Registration>, responses((status = 200, body = Registered), (status = 400, body = super::api::Problem, content_type = "application/problem+json"), (status = 404, body = super::api::Problem, content_type = "application/problem+json"), (status = 409, body = super::api::Problem, content_type = "application/problem+json")))]
pub(super) async fn put(
    State(context): Shared,
    Path((pool, address)): Path<(String, String)>,
    body: Bytes,
) -> Result<Json<Registered>, Refusal> {
    let asked: Registration = match body.is_empty() {
        true => Registration::default(),
        false => serde_json::from_slice(&body)
            .map_err(|error| problem(StatusCode::BAD_REQUEST, format!("the body is none: {error}")))?,
    };
    let (pool, ttl) = terms(&context, &pool, &asked)?;
    let address = self::address(&address)?;
    let found = found(&context, address, &asked)?;
    context.discovery.put(pool.clone(), found, ttl).await?;
    let ms = |ttl: Duration| ttl.as_millis() as u64;
    Ok(Json(Registered {
        pool: pool.to_string(),
        address: address.to_string(),
        source: if ttl.is_some() { "lease" } else { "added" }.into(),
        ttl_ms: ttl.map(ms),
        renew_in_ms: ttl.map(|ttl| ms(ttl / 3)),
    }))
}

#[derive(Deserialize, utoipa::IntoParams)]
pub(super) struct Removal {
    /// It has ended: there is nothing to drain.
    #[serde(default)]
    gone: bool,
}

/// Takes back a lease or an added backend, which drains first.
#[utoipa::path(delete, path = "/v1/pools/{pool}/backends/{address}", tag = "pools", params(("pool" = String, Path), ("address" = String, Path, description = "IP:PORT"), Removal), responses((status = 204), (status = 404, body = super::api::Problem, content_type = "application/problem+json"), (status = 409, body = super::api::Problem, content_type = "application/problem+json")))]
pub(super) async fn remove(
    State(context): Shared,
    Path((pool, address)): Path<(String, String)>,
    Query(Removal { gone }): Query<Removal>,
) -> Result<StatusCode, Refusal> {
    let pool = known(&context, &pool)?;
    context.discovery.remove(pool, self::address(&address)?, gone).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Where the backends of pools come from, and whether that can be asked.
#[utoipa::path(get, path = "/v1/sources", tag = "pools", responses((status = 200, body = Vec<SourceStatus>)))]
pub(super) async fn sources(State(context): Shared) -> Result<Json<Vec<SourceStatus>>, Refusal> {
    Ok(Json(context.discovery.sources().await?.into_iter().map(spell).collect()))
}

fn spell(state: SourceState) -> SourceStatus {
    SourceStatus {
        pool: state.pool.to_string(),
        source: state.kind.as_str().into(),
        of: state.scope,
        node: state.node.to_string(),
        state: if state.failing.is_some() { "failing" } else { "well" }.into(),
        backends: state.backends,
        failing_since: state.failing.as_ref().map(|failing| rfc3339(failing.since)),
        error: state.failing.map(|failing| failing.error),
        changed: rfc3339(state.changed),
    }
}

/// The pool, and the lease it grants; `None` when none is asked for.
fn terms(
    context: &Context,
    pool: &str,
    asked: &Registration,
) -> Result<(PoolName, Option<Duration>), Refusal> {
    let bad = |detail: String| problem(StatusCode::BAD_REQUEST, detail);
    let name = known(context, pool)?;
    if asked.permanent {
        return match asked.ttl {
            Some(_) => Err(bad("what is permanent has no ttl".into())),
            None => Ok((name, None)),
        };
    }
    let ttl = match &asked.ttl {
        Some(text) => {
            let ttl = humantime::parse_duration(text)
                .map_err(|_| bad(format!("{text:?} is no time; a time is written \"15s\"")))?;
            if !TTL.contains(&ttl) {
                return Err(bad(format!("a lease lasts 1 s to 1 d, not {text}")));
            }
            Some(ttl)
        }
        None => {
            let snapshot = context.snapshot.borrow();
            snapshot.pools.get(&name).and_then(|pool| pool.config.lease).map(|lease| lease.ttl)
        }
    };
    match ttl {
        Some(ttl) => Ok((name, Some(ttl))),
        None => Err(OrderError::NoLease(name).into()),
    }
}

fn known(context: &Context, pool: &str) -> Result<PoolName, Refusal> {
    let snapshot = context.snapshot.borrow();
    match snapshot.pools.get_key_value(pool) {
        Some((name, _)) => Ok(name.clone()),
        None => {
            let known = snapshot.pools.keys().map(|name| name.as_str()).collect();
            Err(problem(
                StatusCode::NOT_FOUND,
                format!("there is no pool {pool:?}{}", there_are(pool, known)),
            ))
        }
    }
}

fn address(text: &str) -> Result<SocketAddr, Refusal> {
    text.parse().ok().filter(|address| is_reachable(*address)).ok_or_else(|| {
        let detail = format!("nothing can be reached at {text:?}; a backend is an IP address with a port");
        problem(StatusCode::BAD_REQUEST, detail)
    })
}

fn found(context: &Context, address: SocketAddr, asked: &Registration) -> Result<Found, Refusal> {
    let bad = |error: NameError| problem(StatusCode::BAD_REQUEST, error.to_string());
    let region = match &asked.region {
        Some(region) => {
            let region = region.parse().map_err(bad)?;
            known_region(&context.snapshot.borrow(), &context.view.borrow(), &region)?;
            region
        }
        None => context.snapshot.borrow().region.clone(),
    };
    Ok(Found {
        zone: asked.zone.as_deref().map(str::parse).transpose().map_err(bad)?,
        rack: asked.rack.as_deref().map(str::parse).transpose().map_err(bad)?,
        weight: asked.weight.unwrap_or(100),
        standing: if asked.leaving { Standing::Leaving } else { Standing::Serving },
        ..Found::at(address, region)
    })
}

/// A region that nothing else is in is most likely a slip of the pen: nobody would check the health of what stands there.
fn known_region(snapshot: &Snapshot, view: &ClusterView, region: &RegionName) -> Result<(), Refusal> {
    let of_nodes = view.members.values().map(|member| &member.record.region);
    let declared = snapshot.services.regions.iter().map(|region| &region.name);
    let of_backends =
        snapshot.pools.values().flat_map(|pool| &pool.backends).map(|backend| &backend.config.region);
    let known: Vec<&str> = of_nodes.chain(declared).chain(of_backends).map(RegionName::as_str).collect();
    if known.contains(&region.as_str()) {
        return Ok(());
    }
    let detail = format!("there is no region {:?}{}", region.as_str(), there_are(region.as_str(), known));
    Err(problem(StatusCode::BAD_REQUEST, detail))
}

impl From<OrderError> for Refusal {
    fn from(error: OrderError) -> Self {
        let status = match &error {
            OrderError::NoPool(_) | OrderError::NotThere(..) => StatusCode::NOT_FOUND,
            OrderError::NoLease(_)
            | OrderError::Configured(..)
            | OrderError::OfSource(..)
            | OrderError::InFile(..)
            | OrderError::Admin(_) => StatusCode::CONFLICT,
            OrderError::Full => StatusCode::INSUFFICIENT_STORAGE,
            OrderError::Stopped => StatusCode::SERVICE_UNAVAILABLE,
        };
        problem(status, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::fixture;
    use crate::registry::fixture::{member, view};

    #[test]
    fn a_backend_stands_where_a_node_or_the_file_is() {
        let pools = vec![fixture::pool("web", &[("10.0.0.1:80".parse().unwrap(), "us")])];
        let snapshot = fixture::snapshot("eu", Vec::new(), Vec::new(), pools);
        let mesh = view("eu-1", vec![member("eu-1", "eu")]);
        let ask = |region| known_region(&snapshot, &mesh, &fixture::region(region));
        assert!(ask("eu").is_ok() && ask("us").is_ok());
        let refused = format!("{:?}", ask("mars").unwrap_err());
        assert!(refused.contains("there is eu, us"), "{refused}");
    }
}
