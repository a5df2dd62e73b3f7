//! HTTP/2 connections to backends: each worker has its own, and many requests share one. The only file that knows the h2
//! crate's errors.
use std::cell::{Cell, RefCell};
use std::error::Error as _;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gossip::clock::Clock;
use gossip::id::BackendId;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustc_hash::FxHashMap;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::body::RequestBody;
use super::connection::OnWorker;
use super::secure::{Via, same};
use super::settings::announced;
use super::upstream::{ConnectError, Form, connect_tcp};
use crate::config::model::PoolProtocol;

/// Requests that share one connection at most; fewer where the backend says so.
const STREAMS_MAX: usize = 100;
/// How long a connection without streams is kept.
const IDLE: Duration = Duration::from_secs(60);
const HEAD_MAX_BYTES: u32 = 64 * 1024;
/// What may wait for a slow backend, a stream.
const SEND_BUFFER_BYTES: usize = 64 * 1024;
/// What a backend may send ahead on one stream, and on all of them.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 2 * 1024 * 1024;
/// The same of another node, whose connection has one stream: what the tunnel's own window lets through.
pub(super) const CROSSING_WINDOW_BYTES: u32 = 1 << 20;
/// A connection with streams that is silent is asked for a sign of life this often, ...
const PING: Duration = Duration::from_secs(20);
/// ... and given up when none comes.
const PONG: Duration = Duration::from_secs(10);

/// A worker's HTTP/2 connections.
#[derive(Default)]
pub(super) struct Multiplexed {
    backends: RefCell<FxHashMap<BackendId, Rc<Backend>>>,
}

#[derive(Default)]
struct Backend {
    open: RefCell<Vec<Rc<Shared>>>,
    /// The connection that is being made, which all who need one wait for.
    connecting: RefCell<Option<watch::Receiver<Option<Result<(), Arc<io::Error>>>>>>,
}

struct Shared {
    sender: SendRequest<RequestBody>,
    via: Via,
    form: Form,
    streams: Cell<usize>,
    streams_max: Rc<Cell<usize>>,
    /// Whether the backend takes an extended CONNECT; `None` until it has said so.
    connects: watch::Receiver<Option<bool>>,
    idle_since: Cell<Instant>,
    clock: Clock,
}

impl Shared {
    fn takes_more(&self, via: &Via) -> bool {
        !self.sender.is_closed() && self.streams.get() < self.streams_max.get() && same(&self.via, via)
    }
}

/// A place for one request on a shared connection; dropping it gives the place back.
pub(super) struct Stream {
    shared: Rc<Shared>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        let left = self.shared.streams.get() - 1;
        self.shared.streams.set(left);
        if left == 0 {
            self.shared.idle_since.set(self.shared.clock.now());
        }
    }
}

impl Stream {
    fn on(shared: &Rc<Shared>) -> Self {
        shared.streams.set(shared.streams.get() + 1);
        Self { shared: shared.clone() }
    }

    /// The form that its requests have.
    pub(super) fn form(&self) -> Form {
        self.shared.form
    }

    /// Whether the backend takes an extended CONNECT (RFC 8441 §3). A new connection waits for its word, at most for `limit`.
    pub(super) async fn takes_connect(&self, limit: Duration) -> bool {
        let mut connects = self.shared.connects.clone();
        let told = tokio::time::timeout(limit, connects.wait_for(Option::is_some)).await;
        matches!(told, Ok(Ok(said)) if *said == Some(true))
    }

    /// Sends the request.
    pub(super) fn try_send_request(
        &self,
        request: Request<RequestBody>,
    ) -> impl Future<Output = Result<Response<Incoming>, TrySendError<Request<RequestBody>>>> + use<> {
        self.shared.sender.clone().try_send_request(request)
    }
}

impl Multiplexed {
    fn backend(&self, id: BackendId) -> Rc<Backend> {
        self.backends.borrow_mut().entry(id).or_default().clone()
    }

    /// A place on a connection that stands already and is spoken over as now wanted.
    pub(super) fn take(&self, id: BackendId, via: &Via) -> Option<Stream> {
        let backends = self.backends.borrow();
        let backend = backends.get(&id)?;
        backend.take(via)
    }

    /// A place on a connection that is made now; whoever needs one at the same time waits for the same.
    ///
    /// # Errors
    /// When the backend cannot be reached within `timeout`, or speaks no HTTP/2.
    pub(super) async fn connect(
        &self,
        id: BackendId,
        addr: SocketAddr,
        via: &Via,
        timeout: Duration,
        clock: &Clock,
    ) -> Result<Stream, ConnectError> {
        let backend = self.backend(id);
        loop {
            let present = backend.connecting.borrow().clone();
            let mut connecting = present.unwrap_or_else(|| backend.dial(addr, via, timeout, clock));
            let made = connecting.wait_for(Option::is_some).await.map(|made| made.clone());
            match made {
                Ok(Some(Err(error))) => {
                    return Err(ConnectError { error: io::Error::new(error.kind(), error) });
                }
                Ok(_) => {}
                // The task that dialled ended without a word: the worker is ending.
                Err(_) => return Err(ConnectError { error: io::ErrorKind::Interrupted.into() }),
            }
            // With many waiting, others may have filled it: then one more is made.
            if let Some(stream) = backend.take(via) {
                return Ok(stream);
            }
        }
    }

    /// Closes what waited too long and what goes to backends that are not wanted any more.
    pub(super) fn sweep(&self, now: Instant, wanted: impl Fn(BackendId) -> bool) {
        self.backends.borrow_mut().retain(|id, backend| {
            let mut open = backend.open.borrow_mut();
            open.retain(|shared| {
                let idle = shared.streams.get() == 0;
                !(shared.sender.is_closed()
                    || idle && now.saturating_duration_since(shared.idle_since.get()) >= IDLE)
            });
            let used = !open.is_empty() || backend.connecting.borrow().is_some();
            used && wanted(*id)
        });
    }
}

impl Backend {
    fn take(&self, via: &Via) -> Option<Stream> {
        let mut open = self.open.borrow_mut();
        if let Some(shared) = open.iter().find(|shared| shared.takes_more(via)) {
            return Some(Stream::on(shared));
        }
        // One of another configuration ends with its last stream.
        open.retain(|shared| !shared.sender.is_closed() && same(&shared.via, via));
        None
    }

    fn dial(
        self: &Rc<Self>,
        addr: SocketAddr,
        via: &Via,
        timeout: Duration,
        clock: &Clock,
    ) -> watch::Receiver<Option<Result<(), Arc<io::Error>>>> {
        let (tell, told) = watch::channel(None);
        *self.connecting.borrow_mut() = Some(told.clone());
        let (backend, via, clock) = (self.clone(), via.clone(), clock.clone());
        tokio::task::spawn_local(async move {
            let made = match connect_tcp(addr, timeout).await {
                Ok(stream) => tokio::time::timeout(timeout, secured(stream, addr, via, clock))
                    .await
                    .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())),
                Err(error) => Err(error.error),
            };
            *backend.connecting.borrow_mut() = None;
            tell.send_replace(Some(match made {
                Ok(shared) => {
                    backend.open.borrow_mut().push(Rc::new(shared));
                    Ok(())
                }
                Err(error) => Err(Arc::new(error)),
            }));
        });
        told
    }
}

/// Prepares to speak HTTP/2 with a backend, over TLS where the pool wants it.
async fn secured(stream: TcpStream, addr: SocketAddr, via: Via, clock: Clock) -> io::Result<Shared> {
    let mut builder = client(HEAD_MAX_BYTES);
    builder.timer(TokioTimer::new()).keep_alive_interval(PING).keep_alive_timeout(PONG);
    builder.initial_connection_window_size(CONNECTION_WINDOW_BYTES);
    let Some(upstream) = &via else {
        return handshake(&builder, stream, via, Form::Http2("http"), clock).await;
    };
    let stream = upstream.handshake(stream, addr.ip(), PoolProtocol::Http2).await?;
    handshake(&builder, stream, via, Form::Http2("https"), clock).await
}

/// A connection for one request that nobody shares, over a stream to another node.
///
/// # Errors
/// When the stream broke.
pub(super) async fn alone<T>(stream: T, head_max_bytes: u32, clock: &Clock) -> io::Result<Stream>
where
    T: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let mut builder = client(head_max_bytes);
    // The stream below has a window of its own, and its connection is watched over.
    builder
        .initial_stream_window_size(CROSSING_WINDOW_BYTES)
        .initial_connection_window_size(CROSSING_WINDOW_BYTES);
    let shared = handshake(&builder, stream, None, Form::Crossing, clock.clone()).await?;
    Ok(Stream::on(&Rc::new(shared)))
}

fn client(head_max_bytes: u32) -> Builder<OnWorker> {
    let mut builder = Builder::new(OnWorker);
    builder
        .max_header_list_size(head_max_bytes)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .initial_max_send_streams(STREAMS_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES);
    builder
}

/// Prepares to speak HTTP/2 over a stream; its driver is a task of this worker and ends with the connection.
async fn handshake<T>(
    builder: &Builder<OnWorker>,
    stream: T,
    via: Via,
    form: Form,
    clock: Clock,
) -> io::Result<Shared>
where
    T: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let (stream, connects) = announced(stream);
    let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let streams_max = Rc::new(Cell::new(STREAMS_MAX));
    let limit = streams_max.clone();
    tokio::task::spawn_local(async move {
        let mut connection = connection;
        let ended = std::future::poll_fn(|cx| {
            let polled = Pin::new(&mut connection).poll(cx);
            limit.set(connection.current_max_send_streams().clamp(1, STREAMS_MAX));
            polled
        });
        if let Err(error) = ended.await {
            tracing::trace!(%error, "a backend connection ended");
        }
    });
    let idle_since = Cell::new(clock.now());
    Ok(Shared { sender, via, form, streams: Cell::new(0), streams_max, connects, idle_since, clock })
}

fn cause(error: &hyper::Error) -> Option<&h2::Error> {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(h2) = cause.downcast_ref::<h2::Error>() {
            return Some(h2);
        }
        source = cause.source();
    }
    None
}

/// Whether the backend says that it did not begin with the request: REFUSED_STREAM, or a GOAWAY whose last stream is an
/// earlier one (RFC 9113 §8.7).
pub(super) fn is_refused(error: &hyper::Error) -> bool {
    cause(error).is_some_and(|error| {
        let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
        let going = error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR);
        error.is_remote() && (refused || going)
    })
}

/// Whether the peer did what the protocol allows far too often, so that this end closed the connection (RFC 9113 §10.5).
pub(super) fn is_flood(error: &hyper::Error) -> bool {
    let calmed =
        |error: &h2::Error| error.is_library() && error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM);
    cause(error).is_some_and(calmed)
}

/// Whether the peer broke the protocol, so that this end closed the connection.
pub(super) fn is_violation(error: &hyper::Error) -> bool {
    cause(error).is_some_and(|error| {
        error.is_go_away() && error.is_library() && error.reason() != Some(h2::Reason::NO_ERROR)
    })
}
