//! What happened, the last thousand of it: a list, or a stream that goes on (server-sent events).
//!
//! A stream's ids are `LIFE.NUMBER`. Who comes back with Last-Event-ID gets what it missed, and everything kept when this
//! node has started anew meanwhile.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Json;
use axum::extract::{Query, State};
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use gossip::clock::{Clock, Wall};
use gossip::state::MeshEvent;
use http::header::ACCEPT;
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::Context;
use super::problem::{Refusal, problem};

/// How many events are kept; older ones are forgotten.
const KEPT: usize = 1000;
/// Streams at once; the dashboard has one a page.
const STREAMS_MAX: usize = 64;
/// A sign of life in a stream where nothing happens: well before connections are taken for silent.
const BEAT: Duration = Duration::from_secs(5);

/// One thing that happened.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub(crate) struct Event {
    /// Grows by one with each event of this node.
    pub(crate) seq: u64,
    /// Milliseconds since 1970.
    pub(crate) at_ms: u64,
    /// `joined left suspect cleared dead verdict revision isolated rejoined name-taken order backends source-failing source-well lease
    /// scale ...`.
    pub(crate) kind: String,
    /// Whom it is about: a node, a pool and a backend's id, or what an order names.
    pub(crate) subject: String,
    /// In words.
    pub(crate) text: String,
}

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    events: VecDeque<Event>,
}

/// The last events of this node, oldest first.
#[derive(Debug)]
pub(crate) struct EventLog {
    inner: Mutex<Inner>,
    newest: watch::Sender<u64>,
    streams: Arc<Semaphore>,
    /// Tells this life of the node from others.
    life: u64,
}

impl EventLog {
    /// An empty log of a node that starts now.
    pub(crate) fn new(clock: &Clock) -> Self {
        Self {
            inner: Mutex::default(),
            newest: watch::Sender::new(0),
            streams: Arc::new(Semaphore::new(STREAMS_MAX)),
            life: clock.wall().0,
        }
    }

    /// Takes note of a mesh event, and logs it.
    pub(crate) fn record(&self, event: &MeshEvent, clock: &Clock) {
        let (kind, subject, text) = describe(event);
        match event {
            // One a prober and backend, one a node and apply: what they add up to is logged where it is concluded.
            MeshEvent::VerdictChanged { .. } | MeshEvent::RevisionChanged { .. } => {
                tracing::debug!(kind, "{text}");
            }
            MeshEvent::Joined(_) | MeshEvent::Left(_) | MeshEvent::Cleared(_) | MeshEvent::Rejoined => {
                tracing::info!(kind, "{text}");
            }
            _ => tracing::warn!(kind, "{text}"),
        }
        self.push(kind, subject, text, clock.wall());
    }

    /// Takes note of what this node itself did, and logs it.
    pub(crate) fn tell(&self, kind: &str, subject: String, text: String, clock: &Clock) {
        tracing::info!(kind, subject, "{text}");
        self.push(kind, subject, text, clock.wall());
    }

    fn push(&self, kind: &str, subject: String, text: String, at: Wall) {
        let Ok(mut inner) = self.inner.lock() else { return };
        inner.next += 1;
        let seq = inner.next;
        if inner.events.len() == KEPT {
            inner.events.pop_front();
        }
        inner.events.push_back(Event { seq, at_ms: at.0, kind: kind.into(), subject, text });
        drop(inner);
        self.newest.send_replace(seq);
    }

    /// The events after number `seq`.
    pub(crate) fn after(&self, seq: u64) -> Vec<Event> {
        let Ok(inner) = self.inner.lock() else { return Vec::new() };
        inner.events.iter().filter(|event| event.seq > seq).cloned().collect()
    }

    /// The number that a stream's id stands for in this life of the node; all that is kept for ids of others.
    fn resume(&self, id: &str) -> u64 {
        let number = id.split_once('.').filter(|(life, _)| life.parse() == Ok(self.life));
        number.and_then(|(_, number)| number.parse().ok()).unwrap_or(0)
    }
}

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct After {
    /// Only events with a greater number.
    #[serde(default)]
    #[param(required = false)]
    after: u64,
}

/// What happened. With `Accept: text/event-stream` a stream that goes on, resumed by `Last-Event-ID`.
#[utoipa::path(get, path = "/v1/events", tag = "mesh",
    params(After, ("last-event-id" = Option<String>, Header, description = "for a stream: the last id seen")),
    responses((status = 200, description = "a list, or a stream", content((Vec<Event> = "application/json"), (String = "text/event-stream"))),
        (status = 503, description = "too many streams", body = super::api::Problem, content_type = "application/problem+json")))]
pub(super) async fn events(
    State(context): State<Arc<Context>>,
    Query(After { after }): Query<After>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if !header(ACCEPT.as_str()).is_some_and(|accept| accept.contains("text/event-stream")) {
        return Ok(Json(context.events.after(after)).into_response());
    }
    let log = context.events.clone();
    let Ok(place) = log.streams.clone().try_acquire_owned() else {
        let detail = format!("{STREAMS_MAX} streams are open; close one, or ask for the list");
        return Err(problem(StatusCode::SERVICE_UNAVAILABLE, detail));
    };
    let after = header("last-event-id").map_or(after, |id| log.resume(id));
    let changes = log.newest.subscribe();
    let state = Streaming { log, changes, after, ready: VecDeque::new(), _place: place };
    let stream = stream::unfold(state, Streaming::next);
    Ok(Sse::new(stream).keep_alive(KeepAlive::new().interval(BEAT)).into_response())
}

struct Streaming {
    log: Arc<EventLog>,
    changes: watch::Receiver<u64>,
    after: u64,
    ready: VecDeque<Event>,
    _place: OwnedSemaphorePermit,
}

impl Streaming {
    async fn next(mut self) -> Option<(Result<sse::Event, Infallible>, Self)> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                self.after = event.seq;
                let id = format!("{}.{}", self.log.life, event.seq);
                // A struct of strings and numbers is always JSON.
                let data = serde_json::to_string(&event).unwrap_or_default();
                return Some((Ok(sse::Event::default().id(id).event("mesh").data(data)), self));
            }
            self.changes.borrow_and_update();
            self.ready = self.log.after(self.after).into();
            if self.ready.is_empty() && self.changes.changed().await.is_err() {
                return None;
            }
        }
    }
}

fn describe(event: &MeshEvent) -> (&'static str, String, String) {
    match event {
        MeshEvent::Joined(name) => ("joined", name.to_string(), format!("{name} joined the mesh")),
        MeshEvent::Left(name) => ("left", name.to_string(), format!("{name} left the mesh")),
        MeshEvent::Suspect(name) => ("suspect", name.to_string(), format!("{name} is silent: suspected")),
        MeshEvent::Cleared(name) => ("cleared", name.to_string(), format!("{name} speaks again")),
        MeshEvent::Dead(name) => ("dead", name.to_string(), format!("{name} is dead")),
        MeshEvent::VerdictChanged { by, pool, verdict } => (
            "verdict",
            format!("{pool}/{}", verdict.backend),
            format!("{by} says {} of backend {} in pool {pool}", verdict.state.as_str(), verdict.backend),
        ),
        MeshEvent::RevisionChanged { node, revision } => (
            "revision",
            node.to_string(),
            match revision {
                Some(id) => format!("{node} runs revision {} ({:.12})", id.epoch, id.hash_hex()),
                None => format!("{node} runs no revision"),
            },
        ),
        MeshEvent::Isolated => ("isolated", String::new(), "no peer is heard any more".into()),
        MeshEvent::Rejoined => ("rejoined", String::new(), "peers are heard again".into()),
        MeshEvent::ClockOff { offset_millis } => {
            ("clock-off", String::new(), format!("this node's clock is {offset_millis} ms off the mesh's"))
        }
        MeshEvent::NameLost { to } => {
            ("name-lost", String::new(), format!("the living node at {to} has this node's name"))
        }
        MeshEvent::NameTaken { name, by } => {
            ("name-taken", name.to_string(), format!("{by} claims the name {name} and was refused"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_forgets_the_oldest() {
        let clock = Clock::simulated(Wall(1));
        let log = EventLog::new(&clock);
        for _ in 0..KEPT + 10 {
            log.record(&MeshEvent::Isolated, &clock);
        }
        let all = log.after(0);
        assert_eq!(all.len(), KEPT);
        assert_eq!(all[0].seq, 11);
        assert_eq!(log.after(KEPT as u64 + 9).len(), 1);
    }

    #[test]
    fn a_stream_goes_on_where_it_was_in_the_same_life_only() {
        let log = EventLog::new(&Clock::simulated(Wall(7)));
        assert_eq!(
            (log.resume("7.12"), log.resume("6.12"), log.resume("nonsense"), log.resume("")),
            (12, 0, 0, 0)
        );
    }

    #[tokio::test]
    async fn a_stream_tells_what_was_missed_and_what_comes() {
        let clock = Clock::simulated(Wall(1));
        let log = Arc::new(EventLog::new(&clock));
        log.tell("order", "a".into(), "first".into(), &clock);
        let place = log.streams.clone().try_acquire_owned().unwrap();
        let changes = log.newest.subscribe();
        let state = Streaming { log: log.clone(), changes, after: 0, ready: VecDeque::new(), _place: place };
        let (_, state) = state.next().await.unwrap();
        assert_eq!(state.after, 1);
        let (told, waited) =
            tokio::join!(async { log.tell("order", "b".into(), "second".into(), &clock) }, state.next());
        let ((), (_, state)) = (told, waited.unwrap());
        assert_eq!((state.after, log.streams.available_permits()), (2, STREAMS_MAX - 1));
        drop(state);
        assert_eq!(log.streams.available_permits(), STREAMS_MAX);
    }
}
