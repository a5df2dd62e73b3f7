//! What operators ask about sessions: which there are, where the copies of one lie, whether all replicas agree.
//!
//! An id is shown in hexadecimal to who may ask this API and to nobody else; who knows it cannot forge the cookie.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use gossip::clock::Clock;
use gossip::id::{BackendId, SessionId, Tag};
use http::StatusCode;
use serde::Deserialize;
use storage::pin::Pin;
use storage::table::Record;

use super::Context;
use super::api::{
    BackendSessions, ConsistencyStatus, CopyStatus, DisagreementStatus, SessionCopies, SessionEntry,
    SessionList,
};
use super::orders::rfc3339;
use super::problem::{Refusal, problem};
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
                format!("there is no backend {address:?}; name one as POOL/ADDRESS or ADDRESS"),
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
#[utoipa::path(get, path = "/v1/sessions/{id}", tag = "sessions", params(("id" = String, Path, description = "32 hexadecimal digits")),
    responses((status = 200, body = SessionCopies)))]
pub(super) async fn one(
    State(context): State<Arc<Context>>,
    Path(id): Path<String>,
) -> Result<Json<SessionCopies>, Refusal> {
    let id = known_id(&id)?;
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

/// The id that an operator names.
pub(super) fn known_id(id: &str) -> Result<SessionId, Refusal> {
    let detail = "a session's id has 32 hexadecimal digits: see 'meridian sessions'";
    read_id(id).ok_or_else(|| problem(StatusCode::BAD_REQUEST, detail))
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
