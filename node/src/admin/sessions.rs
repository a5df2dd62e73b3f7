//! What operators ask about sessions: which there are, where the copies of one lie, whether all replicas agree.
//!
//! An id is shown in hexadecimal to who may ask this API and to nobody else; who knows it cannot forge the cookie.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use gossip::clock::{Clock, Wall};
use gossip::id::{BackendId, SessionId, Tag};
use http::StatusCode;
use serde::Deserialize;
use storage::cookie::Cookies;
use storage::pin::Pin;
use storage::table::Record;

use super::Context;
use super::api::{
    BackendSessions, ClientSession, ClientSessions, ConsistencyStatus, CopyStatus, DisagreementStatus,
    SessionCopies, SessionEntry, SessionList,
};
use super::orders::rfc3339;
use super::problem::{Refusal, problem};
use super::targets::backends_like;
use crate::backend::Snapshot;

/// Sessions listed at once unless more are asked for.
const LIST: usize = 100;

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Which {
    /// A backend's address.
    backend: Option<String>,
    /// How many are listed: 100 unless it says otherwise.
    limit: Option<usize>,
}

/// Counts all sessions by backend and lists some of them.
#[utoipa::path(get, path = "/v1/sessions", tag = "sessions", params(Which), responses((status = 200, body = SessionList)))]
pub(super) async fn list(
    State(context): State<Arc<Context>>,
    Query(Which { backend, limit }): Query<Which>,
) -> Result<Json<SessionList>, Refusal> {
    let names = Names::new(&context);
    let wanted = match &backend {
        None => None,
        Some(address) => Some(names.backend(address).ok_or_else(|| {
            problem(
                StatusCode::NOT_FOUND,
                format!("there is no backend {address:?}{}", backends_like(&names.snapshot, address)),
            )
        })?),
    };
    let limit = limit.unwrap_or(LIST);
    let (counts, listed) = tokio::join!(context.survey.counts(), context.survey.list(wanted, limit));
    let records = listed.found;
    let count =
        |(backend, sessions): (BackendId, u64)| BackendSessions { backend: names.of(backend), sessions };
    let mut backends: Vec<_> = counts.found.into_iter().map(count).collect();
    backends.sort_by(|a, b| a.backend.cmp(&b.backend));
    Ok(Json(SessionList {
        backends,
        sessions: records.iter().map(|record| names.entry(record)).collect(),
        silent: counts.silent.iter().map(ToString::to_string).collect(),
    }))
}

/// All copies of one session's record.
#[utoipa::path(get, path = "/v1/sessions/{id}", tag = "sessions", params(("id" = String, Path, description = "32 hexadecimal digits, or the value of a cookie")),
    responses((status = 200, body = SessionCopies)))]
pub(super) async fn one(
    State(context): State<Arc<Context>>,
    Path(id): Path<String>,
) -> Result<Json<SessionCopies>, Refusal> {
    let id = known_id(&context, &id)?;
    let names = Names::new(&context);
    let surveyed = context.survey.find(id).await;
    let (copies, lacking) = surveyed.found;
    let silent: Vec<_> = surveyed.silent.iter().map(ToString::to_string).collect();
    let Some(newest) = copies.iter().map(|copy| copy.record).max_by_key(|record| record.pin.assignment)
    else {
        return Err(nowhere(&silent));
    };
    // One address may have a session in several regions: only copies of one home are copies of one record.
    let newest_of = |home: Tag| {
        let of_home = copies.iter().map(|copy| copy.record).filter(|record| record.home == home);
        of_home.max_by_key(|record| record.pin.assignment)
    };
    let is_newest = |copy: &storage::survey::Copy| newest_of(copy.record.home) == Some(copy.record);
    let agree = lacking.is_empty() && copies.iter().all(is_newest);
    let copy = |copy: &storage::survey::Copy| CopyStatus {
        node: copy.node.to_string(),
        replica: copy.is_replica,
        newest: is_newest(copy),
        session: names.entry(&copy.record),
    };
    Ok(Json(SessionCopies {
        session: names.entry(&newest),
        agree,
        copies: copies.iter().map(copy).collect(),
        lacking: lacking.iter().map(ToString::to_string).collect(),
        silent,
    }))
}

/// The sessions of a client that is known by its address alone. Whoever asks knows the address already: no session tells it.
#[utoipa::path(get, path = "/v1/clients/{address}/sessions", tag = "sessions", params(("address" = String, Path)),
    responses((status = 200, body = ClientSessions)))]
pub(super) async fn of_client(
    State(context): State<Arc<Context>>,
    Path(address): Path<String>,
) -> Result<Json<ClientSessions>, Refusal> {
    let client: IpAddr = address.parse().map_err(|_| {
        let detail = format!("{address:?} is no address, such as 192.0.2.7 or 2001:db8::7");
        problem(StatusCode::BAD_REQUEST, detail)
    })?;
    let (client, names) = (client.to_canonical(), Names::new(&context));
    let services = names.snapshot.services.services.values();
    let ids = services.filter(|service| service.sticky_source_ip.is_some()).flat_map(|service| {
        let (present, others) = context.source_keys.sessions(&service.name, client);
        std::iter::once(present).chain(others).map(move |id| (&service.name, id))
    });
    let mut told = ClientSessions { client: client.to_string(), sessions: Vec::new(), silent: Vec::new() };
    for (service, id) in ids {
        let surveyed = context.survey.find(id).await;
        let mut newest: BTreeMap<Tag, Record> = BTreeMap::new();
        for copy in surveyed.found.0 {
            let held = newest.entry(copy.record.home).or_insert(copy.record);
            if held.pin.assignment < copy.record.pin.assignment {
                *held = copy.record;
            }
        }
        told.sessions.extend(
            newest
                .values()
                .map(|record| ClientSession { service: service.to_string(), session: names.entry(record) }),
        );
        told.silent.extend(surveyed.silent.iter().map(ToString::to_string));
    }
    told.silent.sort();
    told.silent.dedup();
    Ok(Json(told))
}

/// The id that an operator names, or that of the cookie which a user has shown.
pub(super) fn known_id(context: &Context, text: &str) -> Result<SessionId, Refusal> {
    let snapshot = context.snapshot.borrow().clone();
    let now = context.clock.mesh_wall();
    if let Some(id) = read_id(text).or_else(|| of_cookie(&snapshot, &context.cookies, text, now)) {
        return Ok(id);
    }
    let detail = "a session is named by its id, 32 hexadecimal digits as 'meridian sessions' lists them, or by the value of its \
                  cookie, whole and of a service that there is";
    Err(problem(StatusCode::BAD_REQUEST, detail))
}

/// The session of a cookie, `VALUE` or `NAME=VALUE`, of any service that makes some.
fn of_cookie(snapshot: &Snapshot, cookies: &Cookies, text: &str, now: Wall) -> Option<SessionId> {
    let value = text.rsplit_once('=').map_or(text, |(_, value)| value);
    let services = snapshot.services.services.values().filter(|service| service.sticky_cookie.is_some());
    services.filter_map(|service| cookies.open(&service.name, value, now).ok()).map(|cookie| cookie.id).next()
}

/// A session of which no node that answered has a record.
pub(super) fn nowhere(silent: &[String]) -> Refusal {
    let detail = match silent.is_empty() {
        true => "no node holds a session of this id: it has ended, or never was".to_owned(),
        false => {
            format!("no node that answered holds a session of this id; {} did not answer", silent.join(", "))
        }
    };
    problem(StatusCode::NOT_FOUND, detail)
}

/// Whether all replicas of all sessions hold the same.
#[utoipa::path(get, path = "/v1/consistency", tag = "sessions", responses((status = 200, body = ConsistencyStatus)))]
pub(super) async fn consistency(State(context): State<Arc<Context>>) -> Json<ConsistencyStatus> {
    let names = Names::new(&context);
    let surveyed = context.survey.consistency().await;
    let differ = surveyed.found.differ.iter().map(|one| DisagreementStatus {
        home: names.region(one.home),
        bucket: one.bucket,
        held: one.held.iter().map(|(node, records)| (node.to_string(), *records)).collect(),
        since: one.since.map(rfc3339),
    });
    Json(ConsistencyStatus {
        agree: surveyed.found.differ.is_empty() && surveyed.silent.is_empty(),
        buckets: surveyed.found.compared,
        records: surveyed.found.records,
        differ: differ.collect(),
        silent: surveyed.silent.iter().map(ToString::to_string).collect(),
    })
}

/// Names for what records know by tags and ids alone.
struct Names {
    snapshot: Arc<Snapshot>,
    clock: Clock,
}

impl Names {
    fn new(context: &Context) -> Self {
        Self { snapshot: context.snapshot.borrow().clone(), clock: context.clock.clone() }
    }

    fn entry(&self, record: &Record) -> SessionEntry {
        let Pin { id, assignment, expires } = record.pin;
        let left = u64::from(expires).saturating_sub(self.clock.mesh_wall().seconds());
        SessionEntry {
            id: spell_id(&id),
            home: self.region(record.home),
            backend: match (assignment.backend, assignment.forwarded) {
                (Some(backend), _) => self.of(backend),
                (None, true) => format!("moved to {}", self.region(assignment.pool)),
                (None, false) => "ended".to_owned(),
            },
            assigned: rfc3339(assignment.hlc.wall()),
            weak: assignment.weak,
            seconds_left: left,
        }
    }

    /// `POOL/ADDRESS`, or the id of a backend that is no longer configured.
    fn of(&self, id: BackendId) -> String {
        let of_pools =
            self.snapshot.pools.values().flat_map(|pool| {
                pool.backends.iter().map(move |backend| (&pool.config.name, &backend.config))
            });
        match of_pools.into_iter().find(|(_, backend)| backend.id == id) {
            Some((pool, backend)) => format!("{pool}/{}", backend.address),
            None => format!("unknown backend {id}"),
        }
    }

    fn backend(&self, name: &str) -> Option<BackendId> {
        let (pool, address) = match name.split_once('/') {
            Some((pool, address)) => (Some(pool), address),
            None => (None, name),
        };
        let pools =
            self.snapshot.pools.iter().filter(|(name, _)| pool.is_none_or(|pool| name.as_str() == pool));
        let mut backends = pools.flat_map(|(_, pool)| &pool.backends);
        backends
            .find(|backend| backend.config.address.to_string() == address)
            .map(|backend| backend.config.id)
    }

    fn region(&self, tag: Tag) -> String {
        let of_backends =
            self.snapshot.pools.values().flat_map(|pool| &pool.backends).map(|b| &b.config.region);
        let mut regions = self.snapshot.regions.keys().chain([&self.snapshot.region]).chain(of_backends);
        let known = regions.find(|region| Tag::of(region.as_str()) == tag);
        known.map_or_else(|| format!("unknown region {:08x}", tag.0), ToString::to_string)
    }
}

/// 32 hexadecimal digits.
pub(super) fn spell_id(id: &SessionId) -> String {
    id.0.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn read_id(text: &str) -> Option<SessionId> {
    let digits: Vec<u32> = text.chars().map(|c| c.to_digit(16)).collect::<Option<_>>()?;
    let bytes: Vec<u8> =
        digits.chunks(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | *digit as u8)).collect();
    (digits.len() == 32).then(|| bytes.try_into().ok().map(SessionId)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_names_its_session() {
        use crate::proxy::fixture;
        let cookies = Cookies::new(&gossip::keyring::Keyring::generate());
        let mut shop = fixture::service("shop", &[("v1", 1)]);
        shop.sticky_cookie = Some(fixture::sticky());
        let web = fixture::service("web", &[("v1", 1)]);
        let pools = vec![fixture::pool("v1", &[("10.0.0.1:80".parse().unwrap(), "eu")])];
        let snapshot = fixture::snapshot("eu", Vec::new(), vec![web, shop], pools);
        let now = Wall(1_800_000_000_000);
        let session = storage::cookie::SessionCookie {
            id: SessionId([7; 16]),
            pool: Tag::of("v1"),
            backend: BackendId(1),
            assigned: gossip::clock::Hlc(1),
            home: Tag::of("eu"),
            first_seen: 1_800_000_000,
            last_seen: 1_800_000_000,
        };
        let value = cookies.seal(&"shop".parse().unwrap(), &session, now);
        let read = |text: &str| of_cookie(&snapshot, &cookies, text, now);
        assert_eq!(read(&value), Some(session.id));
        assert_eq!(read(&format!("meridian={value}")), Some(session.id));
        assert_eq!((read(&value[1..]), read("")), (None, None));
        let of_other = cookies.seal(&"gone".parse().unwrap(), &session, now);
        assert_eq!(read(&of_other), None);
    }

    #[test]
    fn an_id_is_read_as_it_is_shown() {
        let id = SessionId(std::array::from_fn(|at| at as u8 * 16 + 3));
        let shown = spell_id(&id);
        assert_eq!(read_id(&shown), Some(id));
        for wrong in [
            "",
            "0",
            &shown[1..],
            &format!("{shown}0"),
            &shown.replace('3', "x"),
            "äääääääääääääääääääääääääääääääää",
        ] {
            assert_eq!(read_id(wrong), None, "{wrong}");
        }
    }
}
