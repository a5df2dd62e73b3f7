//! HTTP: from a parsed request to its answer, one step after the other.
use std::cell::RefCell;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HeaderValue, LOCATION, STRICT_TRANSPORT_SECURITY};
use http::{Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use rand::RngExt;
use tokio::sync::Notify;

use super::accept::Slot;
use super::acquaintance::Acquaintance;
use super::activity::Activity;
use super::added::Added;
use super::addressee::{self, Addressee};
use super::affinity;
use super::body::ResponseBody;
use super::choose::{Hops, Tried, forced};
use super::disguise::disguise;
use super::exchange::{Answer, Failure, exchange};
use super::fields::Fields;
use super::headers;
use super::keys::Keys;
use super::opening::Seen;
use super::outcome::End;
use super::outgoing::Outgoing;
use super::record::Record;
use super::relay::{Relayed, relay};
use super::trace::Trace;
use super::tunnel::near::Crossing;
use super::tunnel::preface::Kind;
use super::usher::Usher;
use super::worker::{Phase, Worker};
use super::{forwarded, grpc, problem, redirect, websocket};
use crate::config::model::{Listener, Service};

const HEAD_MAX_BYTES: usize = 64 * 1024;
/// An agreed upgrade that does not happen within this time will not.
const UPGRADE: Duration = Duration::from_secs(10);

/// The settings of every HTTP/1.1 server connection. Its fields are at most 100, which is hyper's own limit.
pub(super) fn server() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .half_close(true)
        .max_header_size(HEAD_MAX_BYTES)
        .max_buf_size(HEAD_MAX_BYTES)
        // The connection's own timer keeps the limits (see `activity`).
        .header_read_timeout(None);
    builder
}

/// A client's connection, as its requests see it.
pub(super) struct Door {
    pub(super) worker: Rc<Worker>,
    pub(super) slot: Rc<Slot>,
    pub(super) peer: SocketAddr,
    pub(super) local: SocketAddr,
    /// It came over TLS.
    pub(super) is_secure: bool,
    pub(super) wire: Wire,
    pub(super) activity: Arc<Activity>,
    pub(super) seen: Arc<Seen>,
    pub(super) acquaintance: RefCell<Acquaintance>,
    /// Asks the connection's task to let the connection end.
    pub(super) leave: Notify,
}

/// What a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wire {
    /// HTTP/1.1 and 1.0.
    Http1,
    /// HTTP/2.
    Http2,
}

/// A request that is answered here instead of by a backend.
struct Refused {
    end: End,
    detail: Option<&'static str>,
    /// Where the client is sent.
    location: Option<HeaderValue>,
    /// When it may be asked again.
    wait: Option<Duration>,
}

impl From<End> for Refused {
    fn from(end: End) -> Self {
        Self { end, detail: None, location: None, wait: None }
    }
}

impl Refused {
    fn tell(self, id: Option<&HeaderValue>) -> Response<Bytes> {
        if self.end == End::Answered {
            return problem::nothing();
        }
        let mut response = problem::response(self.end, self.detail, id);
        response.headers_mut().extend(self.location.map(|location| (LOCATION, location)));
        if let Some(wait) = self.wait {
            problem::retry_after(response.headers_mut(), wait);
        }
        response
    }
}

/// Serves one request of a client's connection.
#[expect(clippy::manual_async_fn, reason = "an async fn holds its arguments twice, and a request is large")]
pub(super) fn serve(
    door: Rc<Door>,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response<ResponseBody>, Infallible>> {
    async move {
        door.activity.busy();
        let listener = door.slot.listener();
        let peer = forwarded::plain(door.peer.ip());
        let mut record = Record::begin(&door.worker, peer, Some(&listener.name), Some(door.activity.clone()));
        let mut trace = None;
        if door.wire == Wire::Http2 && door.activity.is_abused() {
            door.leave.notify_one();
        }
        let head = request.method() == Method::HEAD;
        let calls = door.wire == Wire::Http2 && grpc::is_grpc(request.headers());
        let mut leaves = false;
        let deadline = if calls { grpc::deadline(request.headers()) } else { None };
        let mut response = match answer(&door, &listener, request, deadline, &mut record, &mut trace).await {
            Ok(ready) => deliver(ready.answer, record, ready.on_client, ready.idle),
            Err(refused) => {
                record.end(refused.end);
                let id = trace.as_ref().map(Trace::to_value);
                // Where one request is not understood, nobody can say where the next begins.
                leaves |=
                    door.wire == Wire::Http1 && matches!(refused.end, End::BadRequest | End::SlowClient);
                let response = match calls {
                    true => grpc::refusal(refused.end, refused.detail, refused.wait, id.as_ref()),
                    false => refused.tell(id.as_ref()),
                };
                record.status(response.status().as_u16());
                // hyper leaves the body of HEAD's answer out of HTTP/1.1 alone.
                response.map(|bytes| ResponseBody::own(if head { Bytes::new() } else { bytes }, record))
            }
        };
        if let Some(hsts) = listener.hsts.as_ref().filter(|_| door.is_secure) {
            // The listener's word replaces the backend's: clients read only one (RFC 6797 §8.1).
            response.headers_mut().insert(STRICT_TRANSPORT_SECURITY, hsts.clone());
        }
        leaves |= door.worker.phase.get() != Phase::Serving || door.slot.is_leaving();
        match door.wire {
            Wire::Http1 if response.status() == StatusCode::SWITCHING_PROTOCOLS => {}
            Wire::Http1 => {
                headers::announce_trailers(response.headers_mut());
                if leaves {
                    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
            }
            Wire::Http2 => {
                if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                    websocket::into_connected(&mut response);
                }
                if leaves {
                    door.leave.notify_one();
                }
            }
        }
        Ok(response)
    }
}

/// An answer and what its delivery needs.
struct Ready {
    answer: Answer,
    on_client: Option<OnUpgrade>,
    idle: Duration,
}

#[expect(clippy::manual_async_fn, reason = "an async fn holds its arguments twice, and a request is large")]
fn answer(
    door: &Door,
    listener: &Listener,
    mut request: Request<Incoming>,
    deadline: Option<Duration>,
    record: &mut Record,
    trace: &mut Option<Trace>,
) -> impl Future<Output = Result<Ready, Refused>> {
    async move {
        let worker = &*door.worker;
        let connects = websocket::is_asked(&request);
        if connects {
            websocket::into_upgrade(&mut request, worker.random(RngExt::random));
        }
        let fields = Fields::of(request.headers());
        let host = match door.seen.take_ambiguous() {
            true => Err(headers::Malformed::Lengths),
            false => headers::check(&mut request, fields),
        };
        record.asked(&request, host.as_ref().ok());
        let peer = forwarded::plain(door.peer.ip());
        let trusted = forwarded::holds(&listener.trusted_proxies, peer);
        let client = forwarded::client(request.headers(), peer, &listener.trusted_proxies);
        let (random, span) = worker.random(|rng| (rng.random(), rng.random()));
        let trace = &*trace.insert(Trace::of(request.headers(), fields, trusted, random, span));
        record.known_as(client, trace);
        let host =
            host.map_err(|malformed| Refused { detail: Some(malformed.detail()), ..End::BadRequest.into() })?;
        let is_secure = door.is_secure || (trusted && forwarded::says_https(request.headers()));
        if let Some(port) = listener.redirect_https.filter(|_| !is_secure) {
            let location = redirect::location(&host, port, request.uri()).ok_or(End::BadRequest)?;
            return Err(Refused { location: Some(location), ..End::Redirected.into() });
        }

        let plan = worker.plan();
        let service = plan.routes.find(host.to_str().unwrap_or_default(), request.uri().path());
        let service = service.ok_or(End::NoRoute)?;
        record.routed(&plan, &service.name);
        if !admits(service, client) {
            return Err(End::Denied.into());
        }
        if forwarded::goes_in_circles(request.headers(), fields) {
            return Err(End::Loop.into());
        }
        if let Err(wait) = worker.limit(&plan, service, client) {
            return Err(Refused { wait: Some(wait), ..End::RateLimited.into() });
        }
        match addressee::of(&mut request) {
            Addressee::Backend => {}
            Addressee::Node => return Err(End::Answered.into()),
            Addressee::Nobody => {
                return Err(Refused {
                    detail: Some("no request is repeated here"),
                    ..End::BadRequest.into()
                });
            }
        }

        if connects {
            *request.version_mut() = Version::HTTP_11;
        }
        let upgrade = headers::wanted_upgrade(&request, fields);
        let on_client = upgrade.as_ref().map(|_| hyper::upgrade::on(&mut request));
        let forced = forced(service, request.headers());
        let keys = Keys::new(&plan, service, &worker.shared.source_keys, client, Some(request.headers()));
        let usher = Usher { worker, plan: &plan, service, forced, hops: Hops::One, bound: false, keys };
        let mut seat = match (&service.sticky_cookie, service.sticky_source_ip) {
            (Some(sticky), _) => {
                let now = worker.clock().wall();
                let told = door.acquaintance.borrow_mut().session(
                    request.headers_mut(),
                    fields,
                    &service.name,
                    sticky,
                    &worker.shared.cookies,
                    now,
                );
                usher.by_cookie(sticky, told, now).await?
            }
            (None, Some(ttl)) => Box::pin(usher.by_source(ttl, client)).await?,
            (None, None) => usher.free(&Tried::default())?,
        };

        let head = request.headers_mut();
        headers::for_backend(head, fields, upgrade.as_ref());
        let scheme = if door.is_secure { "https" } else { "http" };
        let added = {
            let mut acquaintance = door.acquaintance.borrow_mut();
            Added::to(head, fields, acquaintance.introduce(peer, scheme, &host), trace, trusted)
        };
        *request.version_mut() = Version::HTTP_11;
        let mut outgoing = Outgoing::new(request, added);
        if outgoing.is_worth_reading() {
            Box::pin(outgoing.read(service.timeout.response)).await?;
        }
        let crossing = Crossing {
            kind: if on_client.is_some() { Kind::Http1 } else { Kind::Http2 },
            client: SocketAddr::new(client, if client == peer { door.peer.port() } else { 0 }),
            local: door.local,
            request_id: Some(trace.id()),
        };
        let exchanged = match deadline {
            None => exchange(&usher, &mut seat, &mut outgoing, &crossing).await,
            // Whoever asks for too little time is told so, and no backend is to blame.
            Some(limit) => {
                let exchanging = exchange(&usher, &mut seat, &mut outgoing, &crossing);
                let bounded = Box::pin(tokio::time::timeout(limit, exchanging)).await;
                bounded.map_err(|_| End::Deadline)?
            }
        };
        let mut answer = match exchanged {
            Ok(answer) => answer,
            Err(Failure { end, pool, backend, tries }) => {
                record.served(&pool, backend, tries);
                tracing::debug!(service = %service.name, request.id = ?trace.to_value(), tries, end = end.as_str(), "no answer");
                return Err(end.into());
            }
        };
        record.served(&seat.pool, answer.backend, answer.tries);
        if connects && answer.response.status().is_success() {
            // To a CONNECT that would mean yes, and the backend did not switch.
            return Err(End::UpstreamReset.into());
        }
        let own_cookie = service.sticky_cookie.as_ref().map(|sticky| sticky.name.as_str());
        let dropped = disguise(answer.response.headers_mut(), answer.fields, &service.disclosure, own_cookie);
        if dropped > 0 {
            worker.shared.counters.dropped_cookies(dropped, &service.name);
        }

        if let Some(session) = &mut seat.session {
            session.settle(worker).await;
            record.affine(session.outcome());
            if let (Some((sealed, max_age)), Some(sticky)) =
                (session.renew(worker, &service.name), &service.sticky_cookie)
            {
                let status = answer.response.status();
                let headers = answer.response.headers_mut();
                affinity::set_cookie(headers, status, &sticky.name, &sealed, max_age, is_secure);
            }
        }
        Ok(Ready { answer, on_client, idle: service.timeout.idle })
    }
}

/// Whether the service's lists let the client in.
pub(super) fn admits(service: &Service, client: std::net::IpAddr) -> bool {
    !service.deny.contains(client) && (service.allow.is_empty() || service.allow.contains(client))
}

/// Turns a backend's answer into the client's.
pub(super) fn deliver(
    answer: Answer,
    mut record: Record,
    on_client: Option<OnUpgrade>,
    idle: Duration,
) -> Response<ResponseBody> {
    let Answer { mut response, fields, lease, in_flight, .. } = answer;
    let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    record.status(response.status().as_u16());
    // What this node speaks, not what the backend spoke (RFC 9110 §2.5).
    *response.version_mut() = Version::HTTP_11;
    if !switched {
        headers::for_client(response.headers_mut(), fields, false);
        return response.map(|inbound| ResponseBody::relayed(inbound, lease, in_flight, record));
    }
    let Some(on_client) = on_client else {
        // Nobody asked to switch: the backend does not speak HTTP.
        record.end(End::UpstreamReset);
        return problem::response(End::UpstreamReset, None, None)
            .map(|bytes: Bytes| ResponseBody::own(bytes, record));
    };
    let on_backend = hyper::upgrade::on(&mut response);
    headers::for_client(response.headers_mut(), fields, true);
    let (head, inbound) = response.into_parts();
    tokio::task::spawn_local(async move {
        let both = async { tokio::try_join!(on_client, on_backend) };
        let Ok(Ok((client, backend))) = tokio::time::timeout(UPGRADE, both).await else {
            return record.end(End::UpstreamReset);
        };
        let clock = record.worker().clock().clone();
        let (end, bytes) = relay(TokioIo::new(client), TokioIo::new(backend), idle, &clock).await;
        record.sent(usize::try_from(bytes).unwrap_or(usize::MAX));
        record.end(relayed_end(&end));
        // Over HTTP/2 it held a place on the connection until now.
        drop((in_flight, inbound));
    });
    Response::from_parts(head, ResponseBody::Own(None, None))
}

/// The end that a relay's end amounts to; its first stream is the client's.
pub(super) fn relayed_end(relayed: &Relayed) -> End {
    match relayed {
        Relayed::Done => End::Ok,
        Relayed::Idle => End::Idle,
        Relayed::FirstBroke => End::ClientGone,
        Relayed::SecondBroke => End::UpstreamReset,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes<A, B, F>(_: impl FnOnce(A, B) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn what_a_request_needs_while_it_runs_stays_small() {
        // Each connection that is busy holds one, and moves it when a request begins.
        let bytes = bytes(serve);
        assert!(bytes <= 3072, "{bytes} bytes");
    }
}
