//! A list, or a stream that goes on (server-sent events).
//!
//! A stream's ids are `LOG.NUMBER`. Who comes back with Last-Event-ID gets what it missed, also from the process that follows this one;
//! and everything that is kept where the id is another log's.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Query, State};
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use futures_util::{StreamExt, stream};
use http::header::ACCEPT;
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::{Event, EventLog};
use crate::admin::problem::{Refusal, problem};
use crate::admin::server::Local;
use crate::admin::{Context, api};

/// Streams at once; the dashboard has one a page.
pub(in crate::admin) const STREAMS_MAX: usize = 64;
/// Of them those that only the Unix socket gives: an operator on the machine finds a place, whoever holds the others.
const STREAMS_LOCAL: usize = 8;
/// A sign of life in a stream where nothing happens: well before connections are taken for silent.
const BEAT: Duration = Duration::from_secs(5);
/// Names the nodes that did not answer, beside a list.
const SILENT: &str = "meridian-silent";

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(in crate::admin) struct After {
    /// Only events with a greater number.
    #[serde(default)]
    #[param(required = false)]
    after: u64,
}

/// What happened, anywhere in the mesh, by time. With `Accept: text/event-stream` a stream that goes on, as this node learns of it, resumed by
/// `Last-Event-ID`. Its first message has an id alone: where it begins.
#[utoipa::path(get, path = "/v1/events", tag = "mesh",
    params(After, ("last-event-id" = Option<String>, Header, description = "for a stream: the last id seen")),
    responses((status = 200, description = "a list, or a stream", content((Vec<Event> = "application/json"), (String = "text/event-stream")),
            headers(("meridian-silent" = String, description = "of a list: nodes that did not answer, with commas between; what they saw last is missing"))),
        (status = 503, description = "too many streams", body = api::Problem, content_type = "application/problem+json")))]
pub(in crate::admin) async fn events(
    State(context): State<Arc<Context>>,
    Query(After { after }): Query<After>,
    local: Option<Extension<Local>>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let log = context.events.clone();
    if !header(ACCEPT.as_str()).is_some_and(|accept| accept.contains("text/event-stream")) {
        let silent = context.spread.gather().await;
        let mut response = Json(by_time(log.after(after))).into_response();
        let names: Vec<&str> = silent.iter().map(|name| name.as_str()).collect();
        if let Ok(names) = HeaderValue::from_str(&names.join(","))
            && !silent.is_empty()
        {
            response.headers_mut().insert(SILENT, names);
        }
        return Ok(response);
    }
    let there_is_room = local.is_some() || log.streams.available_permits() > STREAMS_LOCAL;
    let place = there_is_room.then(|| log.streams.clone().try_acquire_owned().ok()).flatten();
    let Some(place) = place else {
        let open = log.streaming();
        let detail = format!("{open} streams are open, as many as may be; close one, or ask for the list");
        return Err(problem(StatusCode::SERVICE_UNAVAILABLE, detail));
    };
    let after = header("last-event-id").map_or(after, |id| log.resume(id));
    log.wanted.notify_one();
    // So that who loses the stream before the first event knows where to go on.
    let begins = stream::iter([Ok(sse::Event::default().id(log.id(after)))]);
    let stream = begins.chain(stream::unfold(Streaming::new(log, after, place), Streaming::next));
    Ok(Sse::new(stream).keep_alive(KeepAlive::new().interval(BEAT)).into_response())
}

/// In the order in which it happened: this node may have learned of it in another.
fn by_time(mut events: Vec<Event>) -> Vec<Event> {
    events.sort_by_key(|event| (event.at_ms, event.seq));
    events
}

struct Streaming {
    log: Arc<EventLog>,
    changes: watch::Receiver<u64>,
    after: u64,
    ready: VecDeque<Event>,
    _place: OwnedSemaphorePermit,
}

impl Streaming {
    fn new(log: Arc<EventLog>, after: u64, place: OwnedSemaphorePermit) -> Self {
        Self { changes: log.changes(), log, after, ready: VecDeque::new(), _place: place }
    }

    async fn next(mut self) -> Option<(Result<sse::Event, Infallible>, Self)> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                self.after = event.seq;
                // A struct of strings and numbers is always JSON.
                let data = serde_json::to_string(&event).unwrap_or_default();
                return Some((
                    Ok(sse::Event::default().id(self.log.id(event.seq)).event("mesh").data(data)),
                    self,
                ));
            }
            self.changes.borrow_and_update();
            self.ready = self.log.after(self.after).into();
            if self.ready.is_empty() && self.changes.changed().await.is_err() {
                return None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use gossip::clock::{Clock, Wall};

    use super::*;

    #[tokio::test]
    async fn a_stream_tells_what_was_missed_and_what_comes() {
        let (clock, folder) = (Clock::simulated(Wall(1)), tempfile::tempdir().unwrap());
        let log = Arc::new(EventLog::open("eu-1".parse().unwrap(), folder.path().into(), &clock));
        log.tell("order", "a".into(), "first".into(), &clock);
        let first = log.after(0)[0].seq;
        let place = log.streams.clone().try_acquire_owned().unwrap();
        let (_, state) = Streaming::new(log.clone(), 0, place).next().await.unwrap();
        assert_eq!(state.after, first);
        let (told, waited) =
            tokio::join!(async { log.tell("order", "b".into(), "second".into(), &clock) }, state.next());
        let ((), (_, state)) = (told, waited.unwrap());
        assert_eq!((state.after, log.streams.available_permits()), (first + 1, STREAMS_MAX - 1));
        drop(state);
        assert_eq!(log.streams.available_permits(), STREAMS_MAX);
    }
}
