//! One request and its answer: connect or reuse, send, and try again where that is safe.
//!
//! A try that never connected may always be repeated elsewhere, up to `retry.attempts`; one that was sent and broke
//! before any byte of an answer only when the request is idempotent, its body is at hand, and the budget allows. A
//! kept connection that turns out dead costs neither. The rescue through another region comes beyond the attempts.
//!
//! What is rare is boxed: a future is as large as its largest path, is moved when it begins, and stays in the cache of a
//! core only while many of them fit.
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use gossip::id::BackendId;
use http::{Request, Response};
use hyper::client::conn::TrySendError;

use super::admission::{admit, admit_now};
use super::body::{Inbound, Lease, RequestBody};
use super::choose::{Place, Tried};
use super::fields::Fields;
use super::multiplex::is_refused;
use super::outcome::End;
use super::outgoing::Outgoing;
use super::secure::Via;
use super::tunnel::near::{self, Crossing, Refusal};
use super::upload::{Patience, Verdict};
use super::upstream::{self, ConnectError, Driven, Form, IDLE_FOR_ONCE, Sender, connect};
use super::usher::{Seat, Usher};
use super::worker::Went;
use super::{headers, http1, websocket};
use crate::backend::{Evidence, InFlight, PoolView};
use crate::config::model::PoolProtocol;

/// Nodes of another region that may accept a request and be gone before it is sent, until the try counts as failed.
const CROSSINGS: u32 = 3;
/// How often one backend may refuse a request that it did not begin with before another one is tried.
const REFUSALS_MAX: u32 = 2;

/// A backend's answer, its head complete.
pub(super) struct Answer {
    pub(super) response: Response<Inbound>,
    /// The fields of its head that matter.
    pub(super) fields: Fields,
    /// The connection, when it may be used again.
    pub(super) lease: Option<Lease>,
    pub(super) in_flight: Option<InFlight>,
    /// Whose answer it is; unknown when an old far end does not say.
    pub(super) backend: Option<BackendId>,
    pub(super) tries: u32,
}

/// There is no answer.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) end: End,
    /// The pool, and the backend that was tried last.
    pub(super) pool: Arc<PoolView>,
    pub(super) backend: Option<BackendId>,
    pub(super) tries: u32,
}

impl Failure {
    fn new(end: End, seat: &Seat, tries: u32) -> Self {
        let backend = seat.place.backend().map(|at| seat.pool.backends[at].config.id);
        Self { end, pool: seat.pool.clone(), backend, tries }
    }
}

/// How one try went.
#[expect(clippy::large_enum_variant, reason = "it lives for a moment, and a box would cost every request")]
enum Try {
    Answered(Response<Inbound>, Option<Lease>, Option<InFlight>, Option<BackendId>),
    /// Nothing reached the backend.
    NotSent,
    /// It broke so after the request was sent and before there was an answer.
    Broke(End),
    /// It is over for another reason.
    Over(End),
}

/// Gets an answer for the request from `seat`, or from another one that `usher` finds and that takes its place.
pub(super) async fn exchange(
    usher: &Usher<'_>,
    seat: &mut Seat,
    outgoing: &mut Outgoing,
    crossing: &Crossing<'_>,
) -> Result<Answer, Failure> {
    let worker = usher.worker;
    let mut left = usher.service.retry.attempts;
    let mut tried = Tried::default();
    let mut tries = 0;
    worker.pay_in(usher.service);
    loop {
        tries += 1;
        if tries > 1 {
            worker.shared.counters.retries.fetch_add(1, Ordering::Relaxed);
        }
        let admitted = match seat.place {
            Place::Direct(_) => match admit_now(usher, seat) {
                Some(in_flight) => Some(in_flight),
                None => match Box::pin(admit(usher, seat, &tried)).await {
                    Ok(in_flight) => Some(in_flight),
                    Err(end) => return Err(Failure::new(end, seat, tries)),
                },
            },
            Place::Tunnel(..) => None,
        };
        let at = seat.place.backend();
        let direct = admitted.is_some();
        let went = match (at, admitted) {
            (Some(at), Some(in_flight)) => direct_try(usher, seat, at, in_flight, outgoing).await,
            _ => Box::pin(crossing_try(usher, seat, outgoing, crossing)).await,
        };
        let (end, sent) = match went {
            Try::Answered(mut response, lease, in_flight, backend) => {
                let fields = Fields::of(response.headers());
                if let (true, Some(at)) = (direct, at) {
                    let address = seat.pool.backends[at].config.address;
                    headers::hide_inside(response.headers_mut(), fields, address);
                }
                return Ok(Answer { response, fields, lease, in_flight, backend, tries });
            }
            Try::Over(end) => return Err(Failure::new(end, seat, tries)),
            Try::NotSent => (End::ConnectFailed, false),
            Try::Broke(end) => (end, true),
        };
        let failure = Failure::new(end, seat, tries);
        let bound = seat.session.as_ref().is_some_and(super::session::Session::is_assigned);
        if sent {
            if left == 0 || !outgoing.is_replayable() || !worker.take_retry(usher.service) {
                return Err(failure);
            }
            left -= 1;
            if !bound {
                // Another one if there is one, else the same again.
                tried.backends.extend(at.map(|at| seat.pool.backends[at].config.id));
                if let Some(place) = worker.place(usher.plan, &seat.pool, &tried, usher.hops, &usher.keys) {
                    seat.place = place;
                }
            }
            continue;
        } else if !outgoing.is_at_hand() {
            return Err(failure);
        } else if direct && left == 0 {
            if bound {
                return Err(failure);
            }
            tried.only_rescue = true;
        } else if direct {
            left -= 1;
        }
        match &seat.place {
            Place::Tunnel(region, None) => tried.regions.push(region.clone()),
            _ => tried.backends.extend(at.map(|at| seat.pool.backends[at].config.id)),
        }
        match Box::pin(usher.another(seat, &tried)).await {
            Ok(()) => {}
            // That nothing is left to try is less telling than what was met.
            Err(End::NoBackend) => return Err(failure),
            Err(end) => return Err(Failure { end, ..failure }),
        }
    }
}

async fn direct_try(
    usher: &Usher<'_>,
    seat: &mut Seat,
    at: usize,
    in_flight: InFlight,
    outgoing: &mut Outgoing,
) -> Try {
    let worker = usher.worker;
    let pool = seat.pool.clone();
    let backend = &pool.backends[at];
    let id = backend.config.id;
    let max_idle = (!outgoing.is_replayable()).then_some(IDLE_FOR_ONCE);
    let via = match &pool.config.tls {
        None => None,
        Some(_) => {
            let upstream = worker.shared.tls.upstream(&pool.config.name);
            match Box::pin(tokio::time::timeout(usher.service.timeout.connect, upstream)).await {
                Ok(Some(upstream)) => Some(upstream),
                // Its authorities cannot be read on this node; `status` says so.
                Ok(None) | Err(_) => return Try::NotSent,
            }
        }
    };
    let protocol = pool.config.protocol;
    let kept_now = || match protocol {
        PoolProtocol::Http1 => worker.upstreams.take(id, &via, max_idle, worker.clock()),
        PoolProtocol::Http2 => {
            worker.upstreams.multiplexed.take(id, &via).map(|stream| Sender::Driven(Driven::Http2(stream)))
        }
    };
    if !outgoing.is_replayable() {
        // It can be sent once only, so the sockets are looked at first: a kept connection that the backend has closed
        // meanwhile must not get it.
        tokio::task::yield_now().await;
    }
    let mut kept = kept_now();
    let mut rounds = 0;
    loop {
        rounds += 1;
        let reused = kept.is_some();
        let connected = match kept.take() {
            Some(sender) => Ok(sender),
            None => Box::pin(connect_by(usher, id, backend.config.address, &via, protocol)).await,
        };
        let sender = match connected {
            Ok(sender) => sender,
            Err(error) => {
                tracing::debug!(pool = %pool.config.name, backend = %id, error = %error.error, "no connection");
                if error.blames_backend() {
                    backend.shared.erred();
                    worker.report(id, Evidence::ConnectFailed);
                }
                return Try::NotSent;
            }
        };
        let switch = match &sender {
            Sender::Driven(Driven::Http2(stream)) if outgoing.switches() => {
                match Box::pin(websocket::admit(stream, usher, outgoing)).await {
                    Ok(switch) => switch,
                    Err(end) => return Try::Over(end),
                }
            }
            _ => None,
        };
        if let Some(session) = &mut seat.session {
            session.assign(worker, &pool, id);
        }
        let began = worker.measure(&pool);
        match send(usher, sender, outgoing, backend.config.address).await {
            Sent::Answered(mut response) => {
                websocket::answered(&mut response, switch);
                let status = response.status().as_u16();
                if matches!(status, 502..=504) {
                    worker.measured(backend, began, Went::Wrong);
                    worker.failed(&pool, backend);
                } else {
                    worker.measured(backend, began, Went::Well);
                    backend.shared.succeeded();
                    if status >= 500 {
                        backend.shared.erred();
                    }
                }
                return Try::Answered(response, Some(Lease { backend: id, via }), Some(in_flight), Some(id));
            }
            // A kept connection that the backend closed meanwhile says nothing of the backend.
            Sent::Unsent if reused => {}
            Sent::Broke(_) if reused && outgoing.is_replayable() => {}
            // It goes on elsewhere where it is told to stop: a full or leaving backend is not a broken one.
            Sent::Refused if !outgoing.is_at_hand() => return Try::Broke(End::UpstreamReset),
            Sent::Refused if rounds < REFUSALS_MAX => kept = kept_now(),
            Sent::Refused => return Try::NotSent,
            Sent::Unsent => {
                worker.measured(backend, began, Went::Wrong);
                worker.failed(&pool, backend);
                return Try::NotSent;
            }
            Sent::Broke(end) => {
                worker.measured(backend, began, Went::Wrong);
                worker.failed(&pool, backend);
                return Try::Broke(end);
            }
            Sent::TimedOut => {
                worker.measured(backend, began, Went::Wrong);
                worker.failed(&pool, backend);
                return Try::Over(End::UpstreamTimeout);
            }
            Sent::ClientFailed(end) => return Try::Over(end),
        }
    }
}

async fn connect_by(
    usher: &Usher<'_>,
    id: BackendId,
    address: SocketAddr,
    via: &Via,
    protocol: PoolProtocol,
) -> Result<Sender, ConnectError> {
    let (worker, timeout) = (usher.worker, usher.service.timeout.connect);
    match protocol {
        PoolProtocol::Http1 => connect(address, via, timeout, worker.clock()).await,
        PoolProtocol::Http2 => {
            let made = worker.upstreams.multiplexed.connect(id, address, via, timeout, worker.clock());
            made.await.map(|stream| Sender::Driven(Driven::Http2(stream)))
        }
    }
}

async fn crossing_try(
    usher: &Usher<'_>,
    seat: &mut Seat,
    outgoing: &mut Outgoing,
    crossing: &Crossing<'_>,
) -> Try {
    let Place::Tunnel(region, wanted) = &seat.place else { return Try::NotSent };
    let wanted = wanted.map(|at| seat.pool.backends[at].config.id);
    let mut left = CROSSINGS;
    let sent = loop {
        left -= 1;
        let stream = match near::open(usher, &seat.pool, region, wanted, crossing).await {
            Ok(stream) => stream,
            Err(Refusal) => return Try::NotSent,
        };
        let sent = match near::sender(stream, crossing, usher.worker).await {
            Ok(sender) => send_driven(usher, sender, outgoing, crossing.local).await,
            Err(_) => Sent::Unsent,
        };
        match sent {
            // The node that had accepted is gone: that says nothing of the backend behind it.
            Sent::Unsent | Sent::Refused if left > 0 && outgoing.is_at_hand() => {}
            sent => break sent,
        }
    };
    // A session that already knows its backend is bound to it; a new one learns it from the answer.
    match sent {
        Sent::Answered(mut response) => {
            let told = near::told(response.headers_mut());
            match told.end {
                None => {
                    let backend = told.backend.or(wanted);
                    if let (Some(session), Some(backend)) = (&mut seat.session, backend) {
                        session.assign(usher.worker, &seat.pool, backend);
                    }
                    Try::Answered(response, None, None, backend)
                }
                Some(End::NoBackend | End::ConnectFailed) => Try::NotSent,
                Some(end) => Try::Over(end),
            }
        }
        Sent::Unsent | Sent::Refused => Try::NotSent,
        Sent::Broke(end) => Try::Broke(end),
        Sent::TimedOut => Try::Over(End::UpstreamTimeout),
        Sent::ClientFailed(end) => Try::Over(end),
    }
}

/// What became of one request on one connection.
enum Sent {
    Answered(Response<Inbound>),
    Unsent,
    /// Sent, but the backend says that it did not begin with it.
    Refused,
    Broke(End),
    TimedOut,
    /// The client did not send all of its request: the backend is not to blame.
    ClientFailed(End),
}

impl From<http1::Failure> for Sent {
    fn from(failure: http1::Failure) -> Self {
        match failure {
            http1::Failure::Unsent => Self::Unsent,
            http1::Failure::TimedOut => Self::TimedOut,
            http1::Failure::Broke(error) => {
                tracing::debug!(%error, "a backend connection broke");
                Self::Broke(End::of_broken(&error))
            }
        }
    }
}

async fn send(usher: &Usher<'_>, sender: Sender, outgoing: &mut Outgoing, to: SocketAddr) -> Sent {
    let sender = match (sender, outgoing.at_hand()) {
        (Sender::Http1(connection), Some((head, added, body))) => {
            let answer = connection.exchange(head, added, body, &usher.service.timeout);
            return answer
                .await
                .map_or_else(Sent::from, |response| Sent::Answered(response.map(Inbound::Http1)));
        }
        (Sender::Http1(connection), None) => {
            match Box::pin(upstream::drive(&upstream::client(), connection.into_io())).await {
                Ok(sender) => sender,
                Err(_) => return Sent::Unsent,
            }
        }
        (Sender::Driven(sender), _) => sender,
    };
    Box::pin(send_driven(usher, sender, outgoing, to)).await
}

async fn send_driven(usher: &Usher<'_>, mut sender: Driven, outgoing: &mut Outgoing, to: SocketAddr) -> Sent {
    let min_rate = outgoing.min_rate(usher.service, sender.form());
    let Some(request) = outgoing.request(sender.form(), to) else { return Sent::Broke(End::UpstreamReset) };
    let upload = outgoing.upload();
    let mut patience = Patience::new(usher.service.timeout.response, min_rate, upload);
    let answer = {
        let mut answer = std::pin::pin!(sender.try_send_request(request));
        loop {
            match tokio::time::timeout(patience.pause(upload), &mut answer).await {
                Ok(answer) => break answer,
                // The time counts from the request, and that is not complete while the client still sends it.
                Err(_) => match patience.look(upload) {
                    Verdict::Wait => {}
                    Verdict::TooSlow => return Sent::ClientFailed(End::SlowClient),
                    Verdict::ClientSilent => return Sent::ClientFailed(End::ClientGone),
                    Verdict::BackendSilent => return Sent::TimedOut,
                },
            }
        }
    };
    match answer {
        Ok(mut response) => {
            if sender.form() == Form::Http1 && !headers::settle_length(response.headers_mut()) {
                return Sent::Broke(End::UpstreamMalformed);
            }
            Sent::Answered(response.map(|incoming| Inbound::Driven(incoming, Some(sender))))
        }
        Err(error) => Box::pin(unsent(error, outgoing)).await,
    }
}

async fn unsent(mut error: TrySendError<Request<RequestBody>>, outgoing: &mut Outgoing) -> Sent {
    match error.take_message() {
        Some(request) => {
            outgoing.restore(request);
            Sent::Unsent
        }
        None if is_refused(error.error()) => {
            // The task that sends the body learns of it a moment later and gives the body back.
            for _ in 0..4 {
                outgoing.reclaim();
                if outgoing.is_at_hand() {
                    break;
                }
                tokio::task::yield_now().await;
            }
            Sent::Refused
        }
        None => {
            tracing::debug!(error = %error.error(), "a backend connection broke");
            let end = if error.error().is_parse() { End::UpstreamMalformed } else { End::UpstreamReset };
            outgoing.upload().and_then(|upload| upload.broke()).map_or(Sent::Broke(end), Sent::ClientFailed)
        }
    }
}
