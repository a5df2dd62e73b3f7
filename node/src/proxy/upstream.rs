//! Connections to backends: each worker has its own, the one used last is used first.
use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures_util::future::Either;
use gossip::clock::Clock;
use gossip::id::BackendId;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use rustc_hash::FxHashMap;
use tokio::net::TcpStream;

use super::body::RequestBody;
use super::gather::Gathered;
use super::http1::{Connection, Io};
use super::multiplex::{Multiplexed, Stream};
use super::secure::{Via, same};
use crate::config::model::PoolProtocol;

/// How a request is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// As HTTP/1.1 does.
    Http1,
    /// As HTTP/2 does, with a scheme.
    Http2(&'static str),
    /// As HTTP/2 does, for another node, which is to find the target and the Host as they came.
    Crossing,
}

/// What a request is sent over.
pub(super) enum Sender {
    /// A connection of its own, by the request's own task.
    Http1(Connection),
    /// By hyper, which runs a task for each connection.
    Driven(Driven),
}

/// What hyper drives.
pub(super) enum Driven {
    /// A connection of its own.
    Http1(SendRequest<RequestBody>),
    /// A place on a shared one.
    Http2(Stream),
}

impl Driven {
    /// The form that its requests have.
    pub(super) fn form(&self) -> Form {
        match self {
            Self::Http1(_) => Form::Http1,
            Self::Http2(stream) => stream.form(),
        }
    }

    /// Sends the request.
    pub(super) fn try_send_request(
        &mut self,
        request: Request<RequestBody>,
    ) -> impl Future<Output = Result<Response<Incoming>, TrySendError<Request<RequestBody>>>> {
        match self {
            Self::Http1(sender) => Either::Left(sender.try_send_request(request)),
            Self::Http2(stream) => Either::Right(stream.try_send_request(request)),
        }
    }
}

impl Sender {
    /// Whether a connection of its own can take a request now.
    fn is_ready(&mut self) -> bool {
        match self {
            Self::Http1(connection) => connection.is_open(),
            Self::Driven(Driven::Http1(sender)) => !sender.is_closed() && sender.is_ready(),
            Self::Driven(Driven::Http2(_)) => false,
        }
    }
}

/// How long a connection waits for its next request.
const IDLE: Duration = Duration::from_secs(60);
/// A request that cannot be sent again takes no connection that was idle for longer: the backend may be about to close
/// it, and nobody could tell whether it acted.
pub(super) const IDLE_FOR_ONCE: Duration = Duration::from_secs(1);
/// Idle connections kept for one backend by one worker; the coldest is closed beyond.
const IDLE_MAX: usize = 1024;
const HEAD_MAX_BYTES: usize = 64 * 1024;

#[derive(Default)]
pub(super) struct Upstreams {
    pub(super) multiplexed: Multiplexed,
    idle: RefCell<FxHashMap<BackendId, Vec<Idle>>>,
}

struct Idle {
    sender: Sender,
    via: Via,
    since: Instant,
}

impl Upstreams {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// The warmest idle connection to a backend that was used within `max_idle`, when that is bounded, and is spoken over
    /// as now wanted.
    pub(super) fn take(
        &self,
        backend: BackendId,
        via: &Via,
        max_idle: Option<Duration>,
        clock: &Clock,
    ) -> Option<Sender> {
        let mut idle = self.idle.borrow_mut();
        let connections = idle.get_mut(&backend)?;
        while let Some(mut last) = connections.pop() {
            if !same(&last.via, via) || !last.sender.is_ready() {
                continue;
            }
            if max_idle.is_some_and(|most| clock.now().saturating_duration_since(last.since) > most) {
                // All below it are colder still.
                connections.push(last);
                return None;
            }
            return Some(last.sender);
        }
        None
    }

    /// Takes a connection back whose answer is complete.
    pub(super) fn put(&self, backend: BackendId, sender: Sender, via: Via, now: Instant) {
        match &sender {
            Sender::Http1(_) => {}
            Sender::Driven(Driven::Http1(sender)) if !sender.is_closed() => {}
            // A place on a shared connection is given back by dropping it.
            Sender::Driven(_) => return,
        }
        let mut idle = self.idle.borrow_mut();
        let connections = idle.entry(backend).or_default();
        if connections.len() >= IDLE_MAX {
            connections.remove(0);
        }
        connections.push(Idle { sender, via, since: now });
    }

    /// Closes what waited too long and what goes to backends that are not wanted any more.
    pub(super) fn sweep(&self, now: Instant, wanted: impl Fn(BackendId) -> bool) {
        self.multiplexed.sweep(now, &wanted);
        self.idle.borrow_mut().retain(|backend, connections| {
            let fresh = |idle: &Idle| now.saturating_duration_since(idle.since) < IDLE;
            connections.retain_mut(|idle| fresh(idle) && idle.sender.is_ready());
            !connections.is_empty() && wanted(*backend)
        });
    }
}

/// Why there is no connection.
#[derive(Debug)]
pub(super) struct ConnectError {
    /// What the system said.
    pub(super) error: io::Error,
}

impl ConnectError {
    /// Whether it tells something of the backend: that it refuses, is not reached, or shakes hands as it should not. A lack of
    /// descriptors, ports or memory tells only of this node.
    pub(super) fn blames_backend(&self) -> bool {
        use rustix::io::Errno;
        const OWN: [Errno; 8] = [
            Errno::MFILE,
            Errno::NFILE,
            Errno::NOBUFS,
            Errno::NOMEM,
            Errno::ADDRNOTAVAIL,
            Errno::AGAIN,
            Errno::ACCESS,
            Errno::PERM,
        ];
        let own = Errno::from_io_error(&self.error).is_some_and(|errno| OWN.contains(&errno));
        !own && self.error.kind() != io::ErrorKind::Interrupted
    }
}

/// Connects to a backend.
pub(super) async fn connect_tcp(addr: SocketAddr, timeout: Duration) -> Result<TcpStream, ConnectError> {
    let connected = tokio::time::timeout(timeout, TcpStream::connect(addr)).await;
    let stream = connected
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .and_then(|stream| stream.set_nodelay(true).map(|()| stream))
        .map_err(|error| ConnectError { error })?;
    Ok(stream)
}

/// Connects to a backend, over TLS where the pool wants it, to speak HTTP/1.1 with it.
pub(super) async fn connect(
    addr: SocketAddr,
    via: &Via,
    timeout: Duration,
    clock: &Clock,
) -> Result<Sender, ConnectError> {
    let stream = connect_tcp(addr, timeout).await?;
    let Some(upstream) = via else {
        return Ok(Sender::Http1(Connection::new(Box::new(Gathered(stream)), clock.clone())));
    };
    let secured =
        tokio::time::timeout(timeout, upstream.handshake(stream, addr.ip(), PoolProtocol::Http1)).await;
    let secured = secured.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    let secured = secured.map_err(|error| ConnectError { error })?;
    Ok(Sender::Http1(Connection::new(Box::new(secured), clock.clone())))
}

/// The settings of a backend's HTTP/1.1 connection that hyper drives.
pub(super) fn client() -> Builder {
    let mut builder = Builder::new();
    builder.max_header_size(HEAD_MAX_BYTES).max_buf_size(HEAD_MAX_BYTES);
    builder
}

/// Lets hyper speak HTTP/1.1 over a stream; its driver is a task of this worker and ends with the connection.
pub(super) async fn drive(builder: &Builder, stream: impl Io + 'static) -> Result<Driven, ConnectError> {
    let (sender, connection) = builder
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| ConnectError { error: io::Error::other(error) })?;
    tokio::task::spawn_local(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::trace!(%error, "a backend connection ended");
        }
    });
    Ok(Driven::Http1(sender))
}

#[cfg(test)]
mod tests {
    use gossip::clock::Wall;
    use tokio::io::{AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    const BACKEND: BackendId = BackendId(7);

    /// Keeps a connection that was used last so long after `at`; returns its far end.
    fn keep(upstreams: &Upstreams, at: Instant, later: u64) -> DuplexStream {
        let (near, far) = duplex(64);
        let sender = Sender::Http1(Connection::new(Box::new(near), Clock::system()));
        upstreams.put(BACKEND, sender, None, at + Duration::from_secs(later));
        far
    }

    fn count(upstreams: &Upstreams) -> usize {
        upstreams.idle.borrow().values().map(Vec::len).sum()
    }

    #[tokio::test]
    async fn a_connection_waits_a_minute_for_its_next_request() {
        let (upstreams, now) = (Upstreams::new(), Clock::system().now());
        let _far = (keep(&upstreams, now, 0), keep(&upstreams, now, 10));
        upstreams.sweep(now + Duration::from_secs(59), |_| true);
        assert_eq!(count(&upstreams), 2);
        upstreams.sweep(now + Duration::from_secs(61), |_| true);
        assert_eq!(count(&upstreams), 1);
        upstreams.sweep(now + Duration::from_secs(62), |backend| backend != BACKEND);
        assert_eq!(count(&upstreams), 0, "its backend is not wanted any more");
    }

    #[tokio::test]
    async fn the_warmest_one_that_still_stands_is_taken() {
        let clock = Clock::simulated(Wall(0));
        let (upstreams, now) = (Upstreams::new(), clock.now());
        let mut colder = keep(&upstreams, now, 0);
        let warmer = keep(&upstreams, now, 1);
        let said = keep(&upstreams, now, 2);
        let gone = keep(&upstreams, now, 3);
        drop(gone);
        let mut said = said;
        said.write_all(b"unasked").await.unwrap();
        clock.advance(Duration::from_secs(10));
        let once = Some(Duration::from_secs(5));
        assert!(upstreams.take(BACKEND, &None, once, &clock).is_none(), "too cold for what is sent once");
        let Some(Sender::Http1(taken)) = upstreams.take(BACKEND, &None, None, &clock) else { panic!() };
        drop(taken);
        drop(warmer);
        colder.write_all(b"x").await.unwrap();
        assert!(
            upstreams.take(BACKEND, &None, None, &clock).is_none(),
            "the last one said what nobody asked"
        );
        assert_eq!(count(&upstreams), 0);
    }

    #[tokio::test]
    async fn no_more_are_kept_than_the_bound() {
        let (upstreams, now) = (Upstreams::new(), Clock::system().now());
        let far: Vec<_> = (0..IDLE_MAX as u64 + 5).map(|later| keep(&upstreams, now, later)).collect();
        assert_eq!(count(&upstreams), IDLE_MAX);
        drop(far);
        upstreams.sweep(now, |_| true);
        assert_eq!(count(&upstreams), 0, "what the backend closed goes at once");
    }
}
