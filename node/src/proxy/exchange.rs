//! One request and its answer: connect or reuse, send, and try again where that is safe.
//!
//! A try that never connected may always be repeated elsewhere, up to `retry.attempts`; one that was sent and broke
//! before any byte of an answer only when the request is idempotent, its body is at hand, and the budget allows. A
//! kept connection that turns out dead costs neither. The rescue through another region comes beyond the attempts.
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use gossip::id::BackendId;
use http::header::{CONTENT_LENGTH, HeaderValue, TRANSFER_ENCODING};
use http::request::Parts;
use http::{Request, Response};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;

use super::body::{Lease, RequestBody, Upload};
use super::choose::{Place, Tried};
use super::outcome::End;
use super::retry::{REPLAY_MAX_BYTES, is_idempotent};
use super::session::{Seat, Usher};
use super::tunnel::near::{self, Crossing, Refusal};
use super::upstream::{IDLE_FOR_ONCE, Sender, connect, handshake};
use crate::backend::{Evidence, InFlight};

/// A request on its way to a backend.
pub(super) struct Outgoing {
    /// `None` while a try that cannot be repeated has it.
    head: Option<Parts>,
    body: Payload,
    idempotent: bool,
}

enum Payload {
    Empty,
    Whole(Bytes),
    Stream(Option<Incoming>, Rc<Upload>),
}

impl Outgoing {
    /// Takes a client's request. The body of an idempotent one is read first when it is small, so that it can be sent
    /// again.
    ///
    /// # Errors
    /// `ClientGone` when such a body does not arrive within `patience`.
    pub(super) async fn new(request: Request<Incoming>, patience: Duration) -> Result<Self, End> {
        let (mut head, body) = request.into_parts();
        let idempotent = is_idempotent(&head.method);
        let exact = body.size_hint().exact();
        let body = if body.is_end_stream() {
            Payload::Empty
        } else if idempotent && exact.is_some_and(|bytes| bytes <= REPLAY_MAX_BYTES) {
            let collected = tokio::time::timeout(patience, body.collect()).await;
            let collected = collected.map_err(|_| End::ClientGone)?.map_err(|_| End::ClientGone)?;
            Payload::Whole(collected.to_bytes())
        } else {
            if exact.is_none() {
                // Else a GET with a body of unknown length would lose it on the way.
                head.headers.remove(CONTENT_LENGTH);
                head.headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
            }
            Payload::Stream(Some(body), Rc::default())
        };
        Ok(Self { head: Some(head), body, idempotent })
    }

    /// Whether all of it can be produced once more.
    fn is_at_hand(&self) -> bool {
        self.head.is_some() && !matches!(self.body, Payload::Stream(None, _))
    }

    /// Whether it may be sent once more though a backend may have acted on it.
    fn is_replayable(&self) -> bool {
        self.idempotent && !matches!(self.body, Payload::Stream(..))
    }

    /// The request for one try. What may be needed again is copied, the rest moves.
    fn request(&mut self) -> Option<Request<RequestBody>> {
        let (head, body) = match &mut self.body {
            Payload::Empty => (self.head.clone(), RequestBody::Empty),
            Payload::Whole(bytes) => (self.head.clone(), RequestBody::Whole(Some(bytes.clone()))),
            Payload::Stream(body, upload) => {
                (self.head.take(), RequestBody::Stream(body.take()?, upload.clone()))
            }
        };
        Some(Request::from_parts(head?, body))
    }

    /// Takes a request back that was never sent.
    fn restore(&mut self, request: Request<RequestBody>) {
        let (head, body) = request.into_parts();
        self.head = Some(head);
        if let (Payload::Stream(slot, _), RequestBody::Stream(body, _)) = (&mut self.body, body) {
            *slot = Some(body);
        }
    }

    fn progress(&self) -> u64 {
        self.upload().map_or(0, |upload| upload.progress())
    }

    fn upload(&self) -> Option<&Upload> {
        match &self.body {
            Payload::Stream(_, upload) => Some(upload),
            _ => None,
        }
    }
}

/// A backend's answer, its head complete.
pub(super) struct Answer {
    pub(super) response: Response<Incoming>,
    /// The connection, when it may be used again.
    pub(super) lease: Option<Lease>,
    pub(super) in_flight: Option<InFlight>,
    pub(super) seat: Seat,
    /// Whose answer it is; unknown when an old far end does not say.
    pub(super) backend: Option<BackendId>,
    pub(super) tries: u32,
}

/// There is no answer.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) end: End,
    pub(super) tries: u32,
}

/// How one try went.
enum Try {
    Answered(Response<Incoming>, Option<Lease>, Option<InFlight>, Option<BackendId>),
    /// Nothing reached the backend.
    NotSent,
    /// It broke after the request was sent and before any byte of an answer.
    Broke,
    /// It is over for another reason.
    Over(End),
}

/// Gets an answer for the request from `seat`, or from another one that `usher` finds.
pub(super) async fn exchange(
    usher: &Usher<'_>,
    mut seat: Seat,
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
        let at = match seat.place {
            Place::Direct(at) | Place::Tunnel(_, Some(at)) => Some(at),
            Place::Tunnel(_, None) => None,
        };
        let direct = matches!(seat.place, Place::Direct(_));
        let went = match seat.place {
            Place::Direct(at) => direct_try(usher, &mut seat, at, outgoing).await,
            Place::Tunnel(..) => crossing_try(usher, &mut seat, outgoing, crossing).await,
        };
        let end = match went {
            Try::Answered(response, lease, in_flight, backend) => {
                return Ok(Answer { response, lease, in_flight, seat, backend, tries });
            }
            Try::Over(end) => return Err(Failure { end, tries }),
            Try::NotSent => End::ConnectFailed,
            Try::Broke => End::UpstreamReset,
        };
        let failure = Failure { end, tries };
        let bound = seat.session.as_ref().is_some_and(super::session::Session::is_assigned);
        if end == End::UpstreamReset {
            if left == 0 || !outgoing.is_replayable() || !worker.take_retry(usher.service) {
                return Err(failure);
            }
            left -= 1;
            if !bound {
                // Another one if there is one, else the same again.
                tried.backends.extend(at.map(|at| seat.pool.backends[at].config.id));
                if let Some(place) = worker.place(usher.plan, &seat.pool, &tried, usher.hops) {
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
        seat = match usher.another(seat, &tried).await {
            Ok(seat) => seat,
            // That nothing is left to try is less telling than what was met.
            Err(End::NoBackend) => return Err(failure),
            Err(end) => return Err(Failure { end, tries }),
        };
    }
}

async fn direct_try(usher: &Usher<'_>, seat: &mut Seat, at: usize, outgoing: &mut Outgoing) -> Try {
    let worker = usher.worker;
    let pool = seat.pool.clone();
    let backend = &pool.backends[at];
    let id = backend.config.id;
    let max_idle = if outgoing.is_replayable() { Duration::MAX } else { IDLE_FOR_ONCE };
    let via = match &pool.config.tls {
        None => None,
        Some(_) => {
            let upstream = worker.shared.tls.upstream(&pool.config.name);
            match tokio::time::timeout(usher.service.timeout.connect, upstream).await {
                Ok(Some(upstream)) => Some(upstream),
                // Its authorities cannot be read on this node; `status` says so.
                Ok(None) | Err(_) => return Try::NotSent,
            }
        }
    };
    let mut kept = worker.upstreams.take(id, &via, max_idle, worker.clock().now());
    loop {
        let reused = kept.is_some();
        let connected = match kept.take() {
            Some(sender) => Ok(sender),
            None => connect(backend.config.address, &via, usher.service.timeout.connect).await,
        };
        let sender = match connected {
            Ok(sender) => sender,
            Err(error) => {
                tracing::debug!(pool = %pool.config.name, backend = %id, error = %error.error, "no connection");
                if error.blames_backend() {
                    worker.report(id, Evidence::ConnectFailed);
                }
                return Try::NotSent;
            }
        };
        if let Some(session) = &mut seat.session {
            session.assign(worker, &pool, id);
        }
        let in_flight = backend.shared.enter();
        match send(usher, sender, outgoing).await {
            Sent::Answered(response, sender) => {
                if matches!(response.status().as_u16(), 502..=504) {
                    worker.failed(backend);
                } else {
                    backend.shared.succeeded();
                }
                return Try::Answered(
                    response,
                    Some(Lease { sender, backend: id, via }),
                    Some(in_flight),
                    Some(id),
                );
            }
            // A kept connection that the backend closed meanwhile says nothing of the backend.
            Sent::Unsent if reused => {}
            Sent::Broke if reused && outgoing.is_replayable() => {}
            Sent::Unsent => {
                worker.failed(backend);
                return Try::NotSent;
            }
            Sent::Broke => {
                worker.failed(backend);
                return Try::Broke;
            }
            Sent::TimedOut => {
                worker.failed(backend);
                return Try::Over(End::UpstreamTimeout);
            }
            Sent::ClientFailed(end) => return Try::Over(end),
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
    let stream = match near::open(usher, &seat.pool, region, wanted, crossing).await {
        Ok(stream) => stream,
        Err(Refusal) => return Try::NotSent,
    };
    let Ok(sender) = handshake(stream).await else { return Try::NotSent };
    // A session that already knows its backend is bound to it; a new one learns it from the answer.
    match send(usher, sender, outgoing).await {
        Sent::Answered(mut response, sender) => {
            let told = near::told(response.headers_mut());
            drop(sender);
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
        Sent::Unsent => Try::NotSent,
        Sent::Broke => Try::Broke,
        Sent::TimedOut => Try::Over(End::UpstreamTimeout),
        Sent::ClientFailed(end) => Try::Over(end),
    }
}

/// What became of one request on one connection.
enum Sent {
    Answered(Response<Incoming>, Sender),
    Unsent,
    Broke,
    TimedOut,
    /// The client did not send all of its request: the backend is not to blame.
    ClientFailed(End),
}

async fn send(usher: &Usher<'_>, mut sender: Sender, outgoing: &mut Outgoing) -> Sent {
    let Some(request) = outgoing.request() else { return Sent::Broke };
    let mut answer = std::pin::pin!(sender.try_send_request(request));
    let mut progress = outgoing.progress();
    let answer = loop {
        match tokio::time::timeout(usher.service.timeout.response, &mut answer).await {
            Ok(answer) => break answer,
            // The time counts from the request, and that is not complete while the client still sends it.
            Err(_) if outgoing.progress() != progress => progress = outgoing.progress(),
            Err(_) if outgoing.upload().is_some_and(|upload| upload.waits()) => {
                return Sent::ClientFailed(End::ClientGone);
            }
            Err(_) => return Sent::TimedOut,
        }
    };
    match answer {
        Ok(response) => Sent::Answered(response, sender),
        Err(error) => unsent(error, outgoing),
    }
}

fn unsent(mut error: TrySendError<Request<RequestBody>>, outgoing: &mut Outgoing) -> Sent {
    match error.take_message() {
        Some(request) => {
            outgoing.restore(request);
            Sent::Unsent
        }
        None => {
            tracing::debug!(error = %error.error(), "a backend connection broke");
            outgoing.upload().and_then(|upload| upload.broke()).map_or(Sent::Broke, Sent::ClientFailed)
        }
    }
}
