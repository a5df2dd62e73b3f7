//! A client's HTTP connection from its first byte to its last: which protocol it speaks, how long it may take for what,
//! and how it is asked to go.
//!
//! ```text
//! plain listener ── http1 ── "PRI " ─▶ http2          (prior knowledge, RFC 9113 §3.3)
//! TLS listener ──── ALPN ──┬─ http1
//!                          └─ http2
//! ```
use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_rustls::server::TlsStream;

use super::accept::{Slot, Stay};
use super::activity::{Activity, FIRST_LOOK, Verdict, Watched, look};
use super::body::ResponseBody;
use super::http::{self, Door, Wire};
use super::opening::{Opening, Seen};
use super::outcome::{Cut, End};
use super::worker::Worker;

/// How often a connection that is asked to close is looked at again.
const CLOSING: Duration = Duration::from_secs(10);

/// Streams that one HTTP/2 connection may have open.
const STREAMS_MAX: u32 = 128;
/// What a head may take, names and values and 32 bytes a field (RFC 9113 §6.5.2).
const HEAD_MAX_BYTES: u32 = 64 * 1024;
/// What may wait for a slow client, a stream.
const SEND_BUFFER_BYTES: usize = 64 * 1024;
/// What a client may send ahead on one stream, and on all of them.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// Streams that were reset before they were accepted ("rapid reset", CVE-2023-44487), and streams that this end reset
/// for a client's errors: beyond, the connection is ended with ENHANCE_YOUR_CALM.
const RESET_BEFORE_ACCEPT_MAX: usize = 32;
const RESET_FOR_ERRORS_MAX: usize = 128;
/// A connection that was idle for so long when it is looked at gives its buffers back.
const REST_AFTER: Duration = if cfg!(test) { Duration::from_millis(1) } else { Duration::from_millis(200) };
/// An HTTP/2 connection without a sign of life is asked for one this often, ...
const PING: Duration = Duration::from_secs(20);
/// ... and cut when none comes.
const PONG: Duration = Duration::from_secs(10);

/// A connection that was accepted, whatever its bytes travel in.
pub(super) struct Client {
    pub(super) worker: Rc<Worker>,
    pub(super) slot: Rc<Slot>,
    pub(super) peer: SocketAddr,
    pub(super) local: SocketAddr,
    /// It came over TLS.
    pub(super) is_secure: bool,
    pub(super) activity: Arc<Activity>,
    /// The socket, which is looked at without reading.
    pub(super) socket: Arc<TcpStream>,
}

impl Client {
    fn door(&self, wire: Wire, seen: &Arc<Seen>) -> Rc<Door> {
        Rc::new(Door {
            worker: self.worker.clone(),
            slot: self.slot.clone(),
            peer: self.peer,
            local: self.local,
            is_secure: self.is_secure,
            wire,
            activity: self.activity.clone(),
            seen: seen.clone(),
            acquaintance: RefCell::default(),
            leave: Notify::new(),
        })
    }
}

/// Serves a plain connection: HTTP/1.1, or HTTP/2 when the client begins with it.
pub(super) async fn plain(client: Client) {
    let watched =
        || Watched::new(client.socket.clone(), client.activity.clone(), client.worker.clock().clone());
    if let Some(first) = http1(&client, watched(), true).await {
        let again = io::Cursor::new(first).chain(watched());
        http2(&client, tokio::io::join(again, watched())).await;
    }
}

/// Serves a connection whose TLS handshake is done, in the protocol that was agreed on (ALPN).
pub(super) async fn secured<S>(client: Client, stream: Box<TlsStream<S>>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    match stream.get_ref().1.alpn_protocol() {
        Some(b"h2") => http2(&client, stream).await,
        _ => drop(http1(&client, stream, false).await),
    }
}

/// Serves HTTP/1.1 over a stream. Where `detects_http2` says so and the client begins with HTTP/2, nothing is answered
/// and what was read is handed back.
pub(super) async fn http1<I>(client: &Client, io: I, detects_http2: bool) -> Option<Vec<u8>>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let seen = Arc::new(Seen::default());
    let door = client.door(Wire::Http1, &seen);
    let mut io = Opening::new(io, client.activity.clone(), seen.clone(), detects_http2);
    loop {
        let at = door.clone();
        let service = service_fn(move |request| http::serve(at.clone(), request));
        let parts = {
            // On the heap, and given back before the rest: its room alone is several kilobytes.
            let mut connection =
                Box::new(http::server().serve_connection(TokioIo::new(io), service).with_upgrades());
            match drive(client, &door, Pin::new(&mut *connection)).await {
                Driven::Over => break,
                Driven::Idle => {}
            }
            connection.into_parts()
        };
        // What hyper holds for a connection is a hundred times what an idle one needs.
        let Some(parts) = parts else { break };
        io = parts.io.into_inner();
        client.worker.shared.counters.rested.fetch_add(1, Ordering::Relaxed);
        let came = !parts.read_buf.is_empty();
        io.put_back(&parts.read_buf);
        // Even empty it holds all its room.
        drop(parts.read_buf);
        if came {
            // It came with the last request, so nobody has counted its time yet.
            client.activity.awaits_head(client.worker.clock().now());
        } else if !rests(client).await {
            let _ = tokio::time::timeout(CLOSING, io.shutdown()).await;
            break;
        }
    }
    seen.http2().map(<[u8]>::to_vec)
}

/// Waits beside an idle connection until its client speaks again or has gone. `false`: the connection is to be closed.
async fn rests(client: &Client) -> bool {
    let mut stay = client.slot.stay();
    loop {
        let time = match client.activity.verdict(client.worker.clock().now(), || look(&client.socket)) {
            Verdict::Wait(time) => time,
            Verdict::Close => return false,
            Verdict::Cut(why) => {
                client.worker.shared.counters.was_cut(why);
                return false;
            }
        };
        tokio::select! {
            spoke = client.socket.readable() => return spoke.is_ok(),
            () = tokio::time::sleep(time) => {}
            _ = stay.wait_for(|stay| *stay == Stay::Closing) => return false,
        }
    }
}

/// Serves HTTP/2 over a stream.
pub(super) async fn http2<I>(client: &Client, io: I)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    client.activity.multiplex(client.worker.clock().now());
    let door = client.door(Wire::Http2, &Arc::default());
    let at = door.clone();
    // In a box, since hyper moves it some seven times on its way to a task of its own, and it takes several kilobytes.
    let service = service_fn(move |request| Box::pin(http::serve(at.clone(), request)));
    let mut builder = hyper::server::conn::http2::Builder::new(OnWorker);
    builder
        .timer(TokioTimer::new())
        .enable_connect_protocol()
        .keep_alive_interval(PING)
        .keep_alive_timeout(PONG)
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEAD_MAX_BYTES)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_pending_accept_reset_streams(RESET_BEFORE_ACCEPT_MAX)
        .max_local_error_reset_streams(RESET_FOR_ERRORS_MAX);
    let mut connection = Box::pin(builder.serve_connection(TokioIo::new(io), service));
    drive(client, &door, connection.as_mut()).await;
}

/// Runs hyper's tasks on the worker's own thread.
#[derive(Debug, Clone, Copy)]
pub(super) struct OnWorker;

impl<F: Future + 'static> hyper::rt::Executor<F> for OnWorker {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

/// What both servers of hyper can do.
trait Connection: Future<Output = hyper::Result<()>> {
    /// Ends when what is under way is done.
    fn leave(self: Pin<&mut Self>);
}

type Answered = Result<::http::Response<ResponseBody>, std::convert::Infallible>;

impl<I, S, F> Connection for hyper::server::conn::http1::UpgradeableConnection<TokioIo<I>, S>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: hyper::service::Service<
            ::http::Request<hyper::body::Incoming>,
            Response = ::http::Response<ResponseBody>,
            Error = std::convert::Infallible,
            Future = F,
        >,
    F: Future<Output = Answered>,
{
    fn leave(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<I, S, F> Connection for hyper::server::conn::http2::Connection<TokioIo<I>, S, OnWorker>
where
    I: AsyncRead + AsyncWrite + Unpin + 'static,
    S: hyper::service::Service<
            ::http::Request<hyper::body::Incoming>,
            Response = ::http::Response<ResponseBody>,
            Error = std::convert::Infallible,
            Future = F,
        >,
    F: Future<Output = Answered> + 'static,
{
    fn leave(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

/// What a connection's task hears beside the connection itself.
enum Word {
    /// It is time to look at the connection.
    Look,
    /// Its socket closes.
    Go,
    /// A request asks to let the connection end.
    Leave,
}

/// How a connection's driving ended.
enum Driven {
    /// The connection is over, or its client speaks HTTP/2.
    Over,
    /// An HTTP/1.1 connection stands, and nothing is under way on it.
    Idle,
}

/// Drives a connection until it ends, is cut, turns out to speak HTTP/2, or is found idle.
async fn drive(client: &Client, door: &Door, mut connection: Pin<&mut impl Connection>) -> Driven {
    let clock = client.worker.clock();
    let mut stay = client.slot.stay();
    // HTTP/2 can say goodbye at any time and still answers what crosses it on the way (GOAWAY); HTTP/1.1 can only with
    // an answer.
    let goes = |stay: &Stay| match stay {
        Stay::Welcome => false,
        Stay::Leaving => door.wire == Wire::Http2,
        Stay::Closing => true,
    };
    let look_in = |time: Duration| tokio::time::sleep(time).map(|()| Word::Look).left_future();
    let leave = || door.leave.notified().map(|()| Word::Leave).right_future();
    let go = async {
        let _ = stay.wait_for(goes).await;
        Word::Go
    };
    // The set polls only what was woken; each request wakes the connection alone.
    let mut words = FuturesUnordered::new();
    words.push(look_in(FIRST_LOOK).left_future());
    words.push(leave().left_future());
    words.push(go.right_future());
    let (mut asked, mut overdue) = (false, false);
    loop {
        let word = tokio::select! {
            biased;
            served = connection.as_mut() => {
                if let Err(error) = served {
                    ended(client, &error);
                }
                return Driven::Over;
            }
            () = turned(&door.seen) => return Driven::Over,
            Some(word) = words.next() => word,
        };
        let leaves = match word {
            Word::Look => match client.activity.verdict(clock.now(), || look(&client.socket)) {
                Verdict::Wait(_)
                    if door.wire == Wire::Http1
                        && !asked
                        && client.activity.is_idle_for(REST_AFTER, clock.now()) =>
                {
                    return Driven::Idle;
                }
                Verdict::Wait(time) => {
                    overdue = false;
                    words.push(look_in(time).left_future());
                    false
                }
                Verdict::Cut(why) => {
                    client.worker.shared.counters.was_cut(why);
                    return Driven::Over;
                }
                // It was asked to go and is still idle: nobody is there to go.
                Verdict::Close if overdue => return Driven::Over,
                Verdict::Close => {
                    overdue = true;
                    words.push(look_in(CLOSING).left_future());
                    true
                }
            },
            Word::Go => !asked,
            Word::Leave if client.activity.is_abused() => {
                tracing::debug!(client.addr = %client.peer, "a client resets its own requests");
                client.worker.shared.counters.ended(End::BadRequest);
                client.worker.shared.counters.was_cut(Cut::Flood);
                return Driven::Over;
            }
            Word::Leave => {
                words.push(leave().left_future());
                !asked
            }
        };
        if leaves {
            asked = true;
            connection.as_mut().leave();
        }
    }
}

/// Resolves when the client turns out to speak HTTP/2. It is polled right after the connection, which alone can change it.
async fn turned(seen: &Seen) {
    std::future::poll_fn(
        |_| if seen.is_http2() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending },
    )
    .await;
}

/// A connection broke: counts what the client is to blame for, which hyper answered itself.
fn ended(client: &Client, error: &hyper::Error) {
    let counters = &client.worker.shared.counters;
    if error.is_parse() || super::multiplex::is_violation(error) {
        counters.ended(End::BadRequest);
        let flood = super::multiplex::is_flood(error);
        counters.was_cut(if flood { Cut::Flood } else { Cut::Malformed });
    }
    tracing::debug!(client.addr = %client.peer, %error, "a client connection broke");
}
