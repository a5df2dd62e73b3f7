//! What can be asked and ordered.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use gossip::clock::Wall;
use http::header::{ETAG, IF_MATCH};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::Deserialize;
use storage::intents::{Aspect, Intent, Order, Target};
use storage::revisions::{Expected, Revision};

use super::api::{Applied, Counters, IntentStatus, MemberStatus, PoolStatus, SessionStatus, Status};
use super::events::Event;
use super::problem::{Refusal, findings, invalid, problem};
use super::{
    Context, backends as registered, endings, explain, keys, revisions, scale, sessions, status, zones,
};
use crate::backend::Snapshot;
use crate::config::services;
use crate::proxy::{Affinity, Cut, End};

/// The largest configuration that is taken.
const BODY_MAX_BYTES: usize = 4 << 20;

/// How long `apply` waits until this node serves what it has taken.
const SERVED: Duration = Duration::from_secs(2);

type Shared = State<Arc<Context>>;

/// All routes.
pub(super) fn router(context: Arc<Context>) -> Router {
    Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/v1/status", get(whole))
        .route("/v1/members", get(members))
        .route("/v1/pools", get(pools))
        .route("/v1/pools/{pool}/backends/{address}", put(registered::put).delete(registered::remove))
        .route("/v1/sources", get(registered::sources))
        .route("/v1/scale", get(scale::list))
        .route("/v1/events", get(events))
        .route("/v1/sessions", get(sessions::list))
        .route("/v1/sessions/ends", post(endings::end))
        .route("/v1/sessions/{id}", get(sessions::one))
        .route("/v1/consistency", get(sessions::consistency))
        .route("/v1/dns/explain", get(explain::explain))
        .route("/v1/intents", get(intents))
        .route("/v1/revisions", post(apply))
        .merge(keys::routes())
        .merge(revisions::routes())
        .route("/v1/revisions/current", get(current))
        .route("/v1/dns/zones/{zone}/ds", get(zones::ds))
        .route("/v1/drains/{kind}/{name}", put(drain).delete(undrain))
        .fallback(async || problem(StatusCode::NOT_FOUND, "there is nothing here; the API is under /v1"))
        .method_not_allowed_fallback(async || {
            problem(StatusCode::METHOD_NOT_ALLOWED, "this can be asked for in another way only")
        })
        .layer(DefaultBodyLimit::max(BODY_MAX_BYTES))
        .with_state(context)
}

async fn ready(State(context): Shared) -> Result<&'static str, Refusal> {
    match context.snapshot.borrow().revision {
        Some(_) => Ok("ready\n"),
        None => Err(problem(StatusCode::SERVICE_UNAVAILABLE, "no configuration is in force yet")),
    }
}

async fn whole(State(context): Shared) -> Json<Status> {
    let (reports, sessions) = tokio::join!(context.reports.collect(), context.survey.glance());
    let sessions = sessions.found;
    let snapshot = context.snapshot.borrow().clone();
    let view = context.view.borrow().clone();
    let stats = context.sessions.stats();
    let problems = status::problems(&view, &snapshot, &context.seeds, reports.problems);
    Json(Status {
        node: context.node.to_string(),
        version: env!("CARGO_PKG_VERSION").into(),
        degraded: !problems.is_empty(),
        problems,
        warnings: status::warnings(&snapshot),
        members: status::members(&view),
        intents: spell(context.intents.list().iter().filter(|((target, _), _)| !is_elsewhere(target))),
        revision: status::revision(&view, snapshot.revision),
        pools: status::pools(&snapshot, &reports.loads, &sessions),
        sessions: SessionStatus { count: sessions.values().sum(), held_here: stats.held },
        counters: counters(&context, stats.degraded),
    })
}

fn counters(context: &Context, degraded_commits: u64) -> Counters {
    let counted = context.proxy.counters();
    Counters {
        ends: End::ALL.iter().map(|&end| (end.as_str().to_owned(), counted.ends(end))).collect(),
        sessions: Affinity::ALL.iter().map(|&how| (how.as_str().to_owned(), counted.affinity(how))).collect(),
        connections: [
            ("accepted", &counted.connections),
            ("held", &counted.connections_held),
            ("rested", &counted.rested),
            ("refused", &counted.connections_refused),
            ("tls_done", &counted.tls_handshakes),
            ("tls_resumed", &counted.tls_resumed),
            ("tls_failed", &counted.tls_failed),
        ]
        .map(|(what, count)| (what.to_owned(), count.load(Ordering::Relaxed)))
        .into(),
        cut: Cut::ALL.iter().map(|&why| (why.as_str().to_owned(), counted.cut(why))).collect(),
        cookies_dropped: counted.cookies_dropped.load(Ordering::Relaxed),
        retries: counted.retries.load(Ordering::Relaxed),
        tunnels_out: counted.tunnels_out.load(Ordering::Relaxed),
        tunnels_in: counted.tunnels_in.load(Ordering::Relaxed),
        degraded_commits,
        dns: context.dns.as_deref().map(crate::steering::counters).unwrap_or_default(),
    }
}

async fn members(State(context): Shared) -> Json<Vec<MemberStatus>> {
    Json(status::members(&context.view.borrow()))
}

async fn pools(State(context): Shared) -> Json<Vec<PoolStatus>> {
    let (reports, sessions) = tokio::join!(context.reports.collect(), context.survey.glance());
    let snapshot = context.snapshot.borrow().clone();
    Json(status::pools(&snapshot, &reports.loads, &sessions.found))
}

#[derive(Deserialize)]
struct After {
    #[serde(default)]
    after: u64,
}

async fn events(State(context): Shared, Query(After { after }): Query<After>) -> Json<Vec<Event>> {
    Json(context.events.after(after))
}

async fn current(State(context): Shared) -> Result<Response, Refusal> {
    let Some(revision) = context.revisions.current() else {
        return Err(problem(StatusCode::NOT_FOUND, "no configuration was applied yet"));
    };
    let mut response = revision.body.clone().into_response();
    tag(&mut response, &revision);
    Ok(response)
}

async fn apply(State(context): Shared, headers: HeaderMap, body: String) -> Result<Response, Refusal> {
    let author = format!("api@{}", context.node);
    put_in_force(&context, body, author, expected(&headers)?).await
}

/// Makes a text the newest revision, and answers when this node serves it.
pub(super) async fn put_in_force(
    context: &Context,
    body: String,
    author: String,
    expected: Expected,
) -> Result<Response, Refusal> {
    let valid = services::parse("services.toml", &body).map_err(|report| invalid(&report))?;
    let before = context.revisions.current().map(|revision| revision.id);
    let revision = context.revisions.apply(body, author, expected).await?;
    // Who reads what it has just written finds it: this node answers when it serves the revision (or a later one).
    let mut snapshot = context.snapshot.clone();
    let served = snapshot.wait_for(|snapshot| snapshot.revision >= Some(revision.id));
    if tokio::time::timeout(SERVED, served).await.is_err() {
        tracing::warn!(epoch = revision.id.epoch, "the revision is stored, but not yet served");
    } else {
        let (revisions, id) = (context.revisions.clone(), revision.id);
        // A kill right after the answer is no death of this revision. It fails only when the runtime ends.
        let _ = tokio::task::spawn_blocking(move || revisions.served(id)).await;
    }
    let mut response = Json(Applied {
        epoch: revision.id.epoch,
        hash: revision.id.hash_hex(),
        unchanged: before == Some(revision.id),
        warnings: findings(&valid.warnings),
    })
    .into_response();
    tag(&mut response, &revision);
    Ok(response)
}

pub(super) fn tag(response: &mut Response, revision: &Revision) {
    // A revision id is made of digits and letters: always a valid header value.
    if let Ok(value) = HeaderValue::from_str(&format!("\"{}\"", revision.id)) {
        response.headers_mut().insert(ETAG, value);
    }
}

pub(super) fn expected(headers: &HeaderMap) -> Result<Expected, Refusal> {
    let Some(value) = headers.get(IF_MATCH) else { return Ok(Expected::Any) };
    let text = value.to_str().unwrap_or_default().trim().trim_matches('"');
    match text {
        "*" => Ok(Expected::Any),
        "none" => Ok(Expected::Nothing),
        _ => text
            .parse()
            .map(Expected::Revision)
            .map_err(|error| problem(StatusCode::BAD_REQUEST, format!("If-Match: {error}"))),
    }
}

async fn intents(State(context): Shared) -> Json<Vec<IntentStatus>> {
    Json(spell(context.intents.list().iter()))
}

/// There may be a thousand sessions, and keys have a list of their own: they are listed where they are asked for.
fn is_elsewhere(target: &Target) -> bool {
    matches!(target, Target::Session(_) | Target::Key(_) | Target::Mesh)
}

#[derive(Deserialize)]
struct Deadline {
    /// From now, in milliseconds.
    deadline_ms: Option<u64>,
}

async fn drain(
    State(context): Shared,
    Path((kind, name)): Path<(String, String)>,
    Query(Deadline { deadline_ms }): Query<Deadline>,
) -> Result<Json<Vec<IntentStatus>>, Refusal> {
    let deadline = deadline_ms.map(|after| context.clock.mesh_wall().plus(Duration::from_millis(after)));
    for target in targets(&context, &kind, &name)? {
        context.intents.set(target, Order::Drain { deadline }).await?;
    }
    tracing::info!(kind, name, "an operator drains");
    Ok(intents(State(context)).await)
}

async fn undrain(
    State(context): Shared,
    Path((kind, name)): Path<(String, String)>,
) -> Result<Json<Vec<IntentStatus>>, Refusal> {
    let mut any = false;
    for target in targets(&context, &kind, &name)? {
        any |= context.intents.clear(target, Aspect::State).await?;
    }
    match any {
        true => {
            tracing::info!(kind, name, "an operator takes a drain back");
            Ok(intents(State(context)).await)
        }
        false => Err(problem(StatusCode::NOT_FOUND, format!("{kind} {name} is not draining"))),
    }
}

/// What an operator means by a kind and a name: checked against what exists.
fn targets(context: &Context, kind: &str, name: &str) -> Result<Vec<Target>, Refusal> {
    let snapshot = context.snapshot.borrow().clone();
    let view = context.view.borrow().clone();
    let found: Vec<Target> = match kind {
        "node" => {
            view.members.get_key_value(name).map(|(name, _)| Target::Node(name.clone())).into_iter().collect()
        }
        "pool" => snapshot
            .pools
            .get_key_value(name)
            .map(|(name, _)| Target::Pool(name.clone()))
            .into_iter()
            .collect(),
        "region" => {
            let of_backends =
                snapshot.pools.values().flat_map(|pool| &pool.backends).map(|b| &b.config.region);
            let of_nodes = view.members.values().map(|member| &member.record.region);
            let region = of_backends.chain(of_nodes).find(|region| region.as_str() == name);
            region.cloned().map(Target::Region).into_iter().collect()
        }
        "backend" => backends(&snapshot, name),
        _ => {
            let detail = "what can be drained is a node, backend, region or pool";
            return Err(problem(StatusCode::NOT_FOUND, detail));
        }
    };
    if found.is_empty() {
        let known: Vec<&str> = match kind {
            "node" => view.members.keys().map(|name| name.as_str()).collect(),
            "pool" => snapshot.pools.keys().map(|name| name.as_str()).collect(),
            "region" => view.members.values().map(|member| member.record.region.as_str()).collect(),
            _ => Vec::new(),
        };
        let detail = format!("there is no {kind} {name:?}{}", there_are(known));
        return Err(problem(StatusCode::NOT_FOUND, detail));
    }
    Ok(found)
}

/// What there is instead, as far as it can be read at a glance.
pub(super) fn there_are(known: Vec<&str>) -> String {
    let known = std::collections::BTreeSet::from_iter(known);
    match known.len() {
        1..=12 => format!("; there is {}", Vec::from_iter(known).join(", ")),
        _ => String::new(),
    }
}

/// The backends that an `ADDRESS` or `POOL/ADDRESS` names.
pub(super) fn backends(snapshot: &Snapshot, name: &str) -> Vec<Target> {
    let (pool, address) = match name.split_once('/') {
        Some((pool, address)) => (Some(pool), address),
        None => (None, name),
    };
    let pools = snapshot.pools.iter().filter(|(name, _)| pool.is_none_or(|pool| name.as_str() == pool));
    pools
        .flat_map(|(name, pool)| pool.backends.iter().map(move |backend| (name, backend.config.address)))
        .filter(|(_, of)| of.to_string() == address)
        .map(|(name, of)| Target::Backend(name.clone(), of))
        .collect()
}

fn spell<'a>(intents: impl Iterator<Item = (&'a (Target, Aspect), &'a Intent)>) -> Vec<IntentStatus> {
    intents
        .map(|((target, _), intent)| {
            let (kind, name) = match target {
                Target::Node(name) => ("node", name.to_string()),
                Target::Region(name) => ("region", name.to_string()),
                Target::Pool(name) => ("pool", name.to_string()),
                Target::Backend(pool, address) => ("backend", format!("{pool}/{address}")),
                Target::Service(name) => ("service", name.to_string()),
                Target::Session(id) => ("session", sessions::spell_id(id)),
                Target::Key(id) => ("key", crate::keys::spell(*id)),
                Target::Mesh => ("mesh", String::new()),
            };
            let order = match &intent.order {
                Order::Drain { deadline: None } => "drain".to_owned(),
                Order::Drain { deadline: Some(deadline) } => format!("drain until {}", rfc3339(*deadline)),
                Order::Maintenance => "maintenance".to_owned(),
                Order::InstallKey => "install".to_owned(),
                Order::RemoveKey => "remove".to_owned(),
                Order::UseKey(id) => format!("use key {}", crate::keys::spell(*id)),
                Order::End { until } => format!("sessions ended, kept in mind until {}", rfc3339(*until)),
                Order::Weight(weight) => format!("weight {weight}"),
                Order::Split(shares) => {
                    let shares: BTreeMap<_, _> =
                        shares.iter().map(|(pool, share)| (pool.as_str(), share)).collect();
                    format!("split {shares:?}")
                }
            };
            let (kind, by, at) = (kind.to_owned(), intent.by.to_string(), rfc3339(intent.at.wall()));
            IntentStatus { kind, name, order, by, at }
        })
        .collect()
}

pub(super) fn rfc3339(at: Wall) -> String {
    humantime::format_rfc3339_seconds(at.system_time()).to_string()
}
