//! The far end: serves a stream from another node as it would an accepted connection, by backends that it reaches itself
//! and never through another tunnel (I14). The near end owns the session, the headers of the client, and the log.
use std::convert::Infallible;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use gossip::id::{BackendId, NodeName};
use http::{HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::near::{BACKEND, Crossing, END, FIELDS_MAX, HEAD_MAX_BYTES};
use super::preface::{Kind, Preface, Verdict};
use super::{InboundTunnel, TunnelIo};
use crate::backend::PoolView;
use crate::config::model::Service;
use crate::proxy::added::Added;
use crate::proxy::body::ResponseBody;
use crate::proxy::choose::{Hops, Place, Tried};
use crate::proxy::connection::OnWorker;
use crate::proxy::exchange::exchange;
use crate::proxy::fields::Fields;
use crate::proxy::keys::Keys;
use crate::proxy::multiplex::CROSSING_WINDOW_BYTES;
use crate::proxy::outgoing::Outgoing;
use crate::proxy::plan::{Plan, Reach, position};
use crate::proxy::record::Record;
use crate::proxy::usher::{Seat, Usher};
use crate::proxy::worker::Worker;
use crate::proxy::{headers, http as front, problem, tcp};

/// From the opening of the stream to the end of the preface.
const PREFACE: Duration = Duration::from_secs(5);
/// What may wait for a slow near end.
const SEND_BUFFER_BYTES: usize = 64 * 1024;

/// Serves one inbound tunnel to its end.
pub(in crate::proxy) async fn serve(worker: Rc<Worker>, tunnel: InboundTunnel) {
    let InboundTunnel { from, mut io } = tunnel;
    worker.shared.counters.tunnels_in.fetch_add(1, Ordering::Relaxed);
    let preface = match tokio::time::timeout(PREFACE, read(&mut io)).await {
        Ok(Ok(preface)) => preface,
        Ok(Err(error)) => return tracing::debug!(peer = %from, %error, "a tunnel without a preface"),
        Err(_) => return tracing::debug!(peer = %from, "a tunnel stayed silent"),
    };
    let plan = worker.plan();
    let (verdict, guest) = admit(&worker, &plan, preface);
    if io.write_all(&verdict.encode()).await.is_err() || io.flush().await.is_err() {
        return;
    }
    let Some(guest) = guest else { return };
    match guest.preface.kind {
        Kind::Http1 => http1(worker, plan, guest, io, &from).await,
        Kind::Http2 => http2(worker, plan, guest, io, &from).await,
        Kind::Tcp => tcp::far(worker, plan, guest, io).await,
    }
}

async fn read(io: &mut Box<dyn TunnelIo>) -> io::Result<Preface> {
    let mut head = [0; 3];
    io.read_exact(&mut head).await?;
    let mut bytes = vec![0; Preface::length(head).map_err(io::Error::other)?];
    io.read_exact(&mut bytes).await?;
    Preface::decode(&bytes).map_err(io::Error::other)
}

/// A stream that was accepted, and where its bytes go.
#[derive(Clone)]
pub(in crate::proxy) struct Guest {
    pub(in crate::proxy) preface: Preface,
    pub(in crate::proxy) service: Arc<Service>,
    pub(in crate::proxy) pool: Arc<PoolView>,
    pub(in crate::proxy) place: Place,
}

impl Guest {
    /// The seat to try first. Without a session: what the near end bound stays there or fails, as it told us.
    pub(in crate::proxy) fn seat(&self) -> Seat {
        Seat { pool: self.pool.clone(), place: self.place.clone(), session: None }
    }

    /// The service as this stream uses it: a bound session is not tried on other backends here, for only the near end
    /// may move it.
    pub(in crate::proxy) fn service(&self) -> Arc<Service> {
        if self.preface.wanted.is_none() {
            return self.service.clone();
        }
        let mut service = (*self.service).clone();
        service.retry.attempts = 0;
        Arc::new(service)
    }

    /// Who finds the guest a seat: no further hop (I14), and no other backend than what the near end bound.
    pub(in crate::proxy) fn usher<'a>(
        &self,
        worker: &'a Worker,
        plan: &'a Plan,
        service: &'a Service,
    ) -> Usher<'a> {
        Usher {
            worker,
            plan,
            service,
            forced: None,
            hops: Hops::None,
            bound: self.preface.wanted.is_some(),
            keys: Keys::new(plan, service, &worker.shared.source_keys, self.preface.client.ip(), None),
        }
    }

    /// What backends are told of the guest's user.
    pub(in crate::proxy) fn crossing(&self) -> Crossing<'static> {
        Crossing {
            kind: self.preface.kind,
            client: self.preface.client,
            local: self.preface.local,
            request_id: None,
        }
    }
}

fn admit(worker: &Worker, plan: &Plan, preface: Preface) -> (Verdict, Option<Guest>) {
    let service = plan.snapshot.services.services.get(&preface.service);
    let Some((service, pool)) = service.zip(plan.pool(&preface.pool)) else {
        return (Verdict::Unknown, None);
    };
    let place = match preface.wanted {
        None => {
            let keys = Keys::new(plan, service, &worker.shared.source_keys, preface.client.ip(), None);
            worker.place(plan, pool, &Tried::default(), Hops::None, &keys)
        }
        Some(wanted) => position(pool, wanted)
            .filter(|at| {
                let backend = &pool.backends[*at];
                backend.serves() && plan.reach(&backend.config.region) == Reach::Direct
            })
            .map(Place::Direct),
    };
    match place {
        None => (Verdict::Unavailable, None),
        Some(place) => {
            let guest = Guest { service: service.clone(), pool: pool.clone(), place, preface };
            (Verdict::Accepted, Some(guest))
        }
    }
}

async fn http1(worker: Rc<Worker>, plan: Rc<Plan>, guest: Guest, io: Box<dyn TunnelIo>, from: &NodeName) {
    let guest = Rc::new(guest);
    let mut builder = front::server();
    let bytes = HEAD_MAX_BYTES as usize;
    builder.keep_alive(false).max_headers(FIELDS_MAX).max_header_size(bytes).max_buf_size(bytes);
    let service = service_fn(|request| {
        let (worker, plan, guest) = (worker.clone(), plan.clone(), guest.clone());
        async move { Ok::<_, Infallible>(answer(&worker, &plan, &guest, request).await) }
    });
    let served = builder.serve_connection(TokioIo::new(io), service).with_upgrades().await;
    if let Err(error) = served {
        tracing::debug!(peer = %from, %error, "a tunnel broke");
    }
}

async fn http2(worker: Rc<Worker>, plan: Rc<Plan>, guest: Guest, io: Box<dyn TunnelIo>, from: &NodeName) {
    let guest = Rc::new(guest);
    let mut builder = hyper::server::conn::http2::Builder::new(OnWorker);
    builder
        .max_concurrent_streams(1)
        .max_header_list_size(HEAD_MAX_BYTES)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .initial_stream_window_size(CROSSING_WINDOW_BYTES)
        .initial_connection_window_size(CROSSING_WINDOW_BYTES);
    let service = service_fn(|mut request| {
        let (worker, plan, guest) = (worker.clone(), plan.clone(), guest.clone());
        headers::from_crossing(&mut request);
        async move { Ok::<_, Infallible>(answer(&worker, &plan, &guest, request).await) }
    });
    if let Err(error) = builder.serve_connection(TokioIo::new(io), service).await {
        tracing::debug!(peer = %from, %error, "a tunnel broke");
    }
}

async fn answer(
    worker: &Rc<Worker>,
    plan: &Plan,
    guest: &Guest,
    mut request: Request<Incoming>,
) -> Response<ResponseBody> {
    let mut record = Record::far(worker);
    let fields = Fields::of(request.headers());
    let upgrade = headers::wanted_upgrade(&request, fields);
    let on_client = upgrade.as_ref().map(|_| hyper::upgrade::on(&mut request));
    headers::for_backend(request.headers_mut(), fields, upgrade.as_ref());
    let service = guest.service();
    let usher = guest.usher(worker, plan, &service);
    let crossing = guest.crossing();
    let stays = on_client.clone();
    let answered = async {
        let mut outgoing = Outgoing::new(request, Added::default());
        if outgoing.is_worth_reading() {
            Box::pin(outgoing.read(service.timeout.response)).await?;
        }
        let exchanged = exchange(&usher, &mut guest.seat(), &mut outgoing, &crossing).await;
        exchanged.map_err(|failure| failure.end)
    };
    let response = match answered.await {
        Ok(mut answer) => {
            let said = answer.backend.map(say);
            answer.response.headers_mut().remove(END);
            let mut response = front::deliver(answer, record, on_client, service.timeout.idle);
            response.headers_mut().remove(BACKEND);
            if let Some(said) = said {
                response.headers_mut().insert(BACKEND, said);
            }
            response
        }
        Err(end) => {
            record.end(end);
            // The near end tells the user in its own words.
            let mut response = Response::new(ResponseBody::own(Bytes::new(), record));
            *response.status_mut() = problem::status(end).0;
            response.headers_mut().insert(END, HeaderValue::from_static(end.as_str()));
            response
        }
    };
    if let Some(stays) = stays.filter(|_| response.status() != StatusCode::SWITCHING_PROTOCOLS) {
        tokio::task::spawn_local(end_unswitched(stays));
    }
    response
}

/// hyper hands the stream over for an upgrade that was not agreed on too. Dropped, it would be reset, and the near end lose
/// the answer; so it is ended.
async fn end_unswitched(stream: OnUpgrade) {
    if let Ok(stream) = stream.await {
        let _ = TokioIo::new(stream).shutdown().await;
    }
}

fn say(backend: BackendId) -> HeaderValue {
    HeaderValue::from_str(&backend.to_string()).unwrap_or_else(|_| HeaderValue::from_static("0"))
}
