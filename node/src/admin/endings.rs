//! The end of sessions by an operator's word: of one, or of all that a backend, a pool or a service has now.
//!
//! The users go on; with their next request each begins a new session, where balance sends it. Requests and connections in
//! flight are not cut.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Query, State};
use gossip::id::{BackendId, PoolName};
use http::StatusCode;
use serde::Deserialize;
use storage::intents::Target;

use super::Context;
use super::api::SessionsEnded;
use super::orders::rfc3339;
use super::problem::{Refusal, problem};
use super::sessions::{known_id, nowhere};
use super::targets::{backends, backends_like, there_are};
use crate::backend::Snapshot;
use crate::config::model::Service;

/// Clocks may differ by this much; a session must have expired on all of them before its end is forgotten.
const CLOCKS_DIFFER: Duration = Duration::from_secs(60);

/// Whose sessions: exactly one of these, but a pool may stand beside a backend.
#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Whose {
    session: Option<String>,
    backend: Option<String>,
    pool: Option<String>,
    service: Option<String>,
}

/// What an order is about.
#[derive(Debug, Default, PartialEq, Eq)]
struct Aim {
    targets: Vec<Target>,
    /// The backends whose sessions end, to count them.
    backends: BTreeSet<BackendId>,
    shared: Vec<String>,
}

/// Ends sessions: one, or all that a backend, a pool or a service has now. Nothing takes it back.
#[utoipa::path(post, path = "/v1/sessions/ends", tag = "sessions", params(Whose), responses((status = 200, body = SessionsEnded)))]
pub(super) async fn end(
    State(context): State<Arc<Context>>,
    Query(whose): Query<Whose>,
) -> Result<Json<SessionsEnded>, Refusal> {
    let snapshot = context.snapshot.borrow().clone();
    let (kind, name, aim, sessions) = match whose {
        Whose { session: Some(id), backend: None, pool: None, service: None } => {
            let (aim, sessions) = one(&context, &id).await?;
            ("session", id.to_lowercase(), aim, sessions)
        }
        Whose { session: None, backend: Some(backend), pool, service: None } => {
            let named = match &pool {
                Some(pool) if !backend.contains('/') => format!("{pool}/{backend}"),
                _ => backend,
            };
            let aim = of_backend(&snapshot, &named)?;
            let sessions = count(&context, &aim).await;
            ("backend", named, aim, sessions)
        }
        Whose { session: None, backend: None, pool: Some(pool), service: None } => {
            let aim = of_pool(&snapshot, &pool)?;
            let sessions = count(&context, &aim).await;
            ("pool", pool, aim, sessions)
        }
        Whose { session: None, backend: None, pool: None, service: Some(service) } => {
            let aim = of_service(&snapshot, &service)?;
            let sessions = count(&context, &aim).await;
            ("service", service, aim, sessions)
        }
        _ => {
            let detail = "say whose sessions end: session, backend, pool or service, and one of them alone";
            return Err(problem(StatusCode::BAD_REQUEST, detail));
        }
    };
    let until = context.clock.mesh_wall().plus(longest(&snapshot) + CLOCKS_DIFFER);
    let silent = context.intents.end(&aim.targets, until).await?;
    // The session's id is a secret of its user's.
    let (subject, text) = match kind {
        "session" => ("sessions".to_owned(), "an operator ends one".to_owned()),
        _ => (format!("{kind} {name}"), format!("an operator ends its {sessions} sessions")),
    };
    context.events.tell("order", subject, text, &context.clock);
    Ok(Json(SessionsEnded {
        kind: kind.to_owned(),
        name,
        sessions,
        shared: aim.shared,
        until: rfc3339(until),
        silent: silent.iter().map(ToString::to_string).collect(),
    }))
}

async fn one(context: &Context, id: &str) -> Result<(Aim, u64), Refusal> {
    let id = known_id(context, id)?;
    let surveyed = context.survey.find(id).await;
    let newest = surveyed.found.0.iter().map(|copy| copy.record.pin.assignment).max();
    let Some(newest) = newest else {
        let silent: Vec<_> = surveyed.silent.iter().map(ToString::to_string).collect();
        return Err(nowhere(&silent));
    };
    let stands = newest.backend.is_some() || newest.forwarded;
    Ok((Aim { targets: vec![Target::Session(id)], ..Aim::default() }, u64::from(stands)))
}

async fn count(context: &Context, aim: &Aim) -> u64 {
    let counts = context.survey.counts().await.found;
    aim.backends.iter().filter_map(|backend| counts.get(backend)).sum()
}

fn of_backend(snapshot: &Snapshot, name: &str) -> Result<Aim, Refusal> {
    let targets = backends(snapshot, name);
    if targets.is_empty() {
        let detail = format!("there is no backend {name:?}{}", backends_like(snapshot, name));
        return Err(problem(StatusCode::NOT_FOUND, detail));
    }
    let ids = targets.iter().filter_map(|target| match target {
        Target::Backend(pool, address) => Some(BackendId::of(pool, *address)),
        _ => None,
    });
    Ok(Aim { backends: ids.collect(), targets, shared: Vec::new() })
}

fn of_pool(snapshot: &Snapshot, name: &str) -> Result<Aim, Refusal> {
    let Some((pool, _)) = snapshot.pools.get_key_value(name) else {
        let known = snapshot.pools.keys().map(|name| name.as_str()).collect();
        let detail = format!("there is no pool {name:?}{}", there_are(name, known));
        return Err(problem(StatusCode::NOT_FOUND, detail));
    };
    let backends = backends_of(snapshot, pool).collect();
    Ok(Aim { targets: vec![Target::Pool(pool.clone())], backends, shared: Vec::new() })
}

/// A service, and those pools that serve it alone: their records are its own.
fn of_service(snapshot: &Snapshot, name: &str) -> Result<Aim, Refusal> {
    let services = &snapshot.services.services;
    let Some((name, service)) = services.get_key_value(name) else {
        let known = services.keys().map(|name| name.as_str()).collect();
        let detail = format!("there is no service {name:?}{}", there_are(name, known));
        return Err(problem(StatusCode::NOT_FOUND, detail));
    };
    let mut aim = Aim { targets: vec![Target::Service(name.clone())], ..Aim::default() };
    for pool in pools_of(service).into_iter().filter(|pool| snapshot.pools.contains_key(*pool)) {
        let others = services.values().filter(|other| other.name != *name);
        if others.clone().any(|other| pools_of(other).contains(pool)) {
            aim.shared.push(pool.to_string());
        } else {
            aim.targets.push(Target::Pool(pool.clone()));
            aim.backends.extend(backends_of(snapshot, pool));
        }
    }
    Ok(aim)
}

fn pools_of(service: &Service) -> BTreeSet<&PoolName> {
    service.split.iter().map(|(pool, _)| pool).chain(service.force.iter().map(|rule| &rule.pool)).collect()
}

fn backends_of<'a>(snapshot: &'a Snapshot, pool: &PoolName) -> impl Iterator<Item = BackendId> + use<'a> {
    snapshot.pools.get(pool).into_iter().flat_map(|pool| &pool.backends).map(|backend| backend.config.id)
}

/// How long a session that stands now can last without being seen by a node.
fn longest(snapshot: &Snapshot) -> Duration {
    let lives = snapshot.services.services.values().map(|service| {
        let cookie = service.sticky_cookie.as_ref().map(|sticky| sticky.ttl.max(sticky.max_age));
        cookie.unwrap_or_default().max(service.sticky_source_ip.unwrap_or_default())
    });
    lives.max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::fixture;

    fn snapshot() -> Snapshot {
        let address = |port: u16| std::net::SocketAddr::from(([10, 0, 0, 1], port));
        let mut web = fixture::service("web", &[("v1", 1), ("v2", 1)]);
        web.sticky_cookie = Some(fixture::sticky());
        let mut chat = fixture::service("chat", &[("v2", 1)]);
        chat.sticky_source_ip = Some(Duration::from_secs(90_000));
        let pools = vec![
            fixture::pool("v1", &[(address(1), "eu"), (address(2), "us")]),
            fixture::pool("v2", &[(address(1), "eu")]),
        ];
        fixture::snapshot("eu", Vec::new(), vec![web, chat], pools)
    }

    #[test]
    fn a_service_ends_with_the_pools_that_are_its_own() {
        let snapshot = snapshot();
        let aim = of_service(&snapshot, "web").unwrap();
        let service = snapshot.services.services.keys().find(|name| name.as_str() == "web").unwrap();
        let own = Target::Pool(fixture::pool_name("v1"));
        assert_eq!(aim.targets, [Target::Service(service.clone()), own]);
        assert_eq!((aim.backends.len(), aim.shared), (2, vec!["v2".to_owned()]));
        assert!(of_service(&snapshot, "shop").is_err() && of_pool(&snapshot, "v3").is_err());
    }

    #[test]
    fn a_backend_is_one_of_each_pool_that_has_its_address() {
        let snapshot = snapshot();
        assert_eq!(of_backend(&snapshot, "10.0.0.1:1").unwrap().targets.len(), 2);
        assert_eq!(of_backend(&snapshot, "v2/10.0.0.1:1").unwrap().backends.len(), 1);
        assert!(of_backend(&snapshot, "v2/10.0.0.1:2").is_err());
    }

    #[test]
    fn an_end_is_kept_in_mind_as_long_as_any_session_can_last() {
        assert_eq!(longest(&snapshot()), Duration::from_secs(90_000));
    }
}
