//! Bounds what strangers can hold at the admin sockets: so many connections, and none that is silent for long.
//!
//! Who comes always finds a place. When all are taken it is that of somebody who has shown no right to be there (`places.rs`), so
//! whoever holds connections, or asks a byte at a time, keeps out nobody and cuts no operator's request.

mod places;

use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, Request};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::serve::{IncomingStream, Listener};
use http::header::RETRY_AFTER;
use http::{HeaderValue, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::oneshot;
use tokio::time::{Sleep, sleep};

use self::places::{Bounds, Crowd, NoPlace, Places, Shown};
use super::access::{Tokens, is_open};
use super::problem::problem;

/// Connections at once on one socket.
pub(super) const CONNECTIONS_MAX: usize = 256;
/// Those among them whose requests were let in. The others' places are always enough to show a token.
pub(super) const OPERATORS_MAX: usize = 192;
/// Connections of one address that have not shown a token, where one is needed.
const CROWD_MAX: usize = 32;
/// A connection on which nothing moves is cut after once to twice this time.
const SILENCE: Duration = Duration::from_secs(15);
/// On the Unix socket one that was asked something may work on it for so long: an upgrade waits for requests of other regions.
const WORK: Duration = Duration::from_secs(240);

/// The places at both sockets.
#[derive(Debug, Clone)]
pub(crate) struct Doors {
    tcp: Hall,
    unix: Hall,
}

/// How full a socket is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) socket: &'static str,
    /// At most [`CONNECTIONS_MAX`].
    pub(super) connections: usize,
    /// At most [`OPERATORS_MAX`].
    pub(super) operators: usize,
}

impl Doors {
    /// All of them free.
    pub(super) fn new() -> Self {
        let bounds = Bounds { places: CONNECTIONS_MAX, operators: OPERATORS_MAX, crowd: CROWD_MAX };
        Self { tcp: Hall::of(bounds), unix: Hall::of(bounds) }
    }

    /// At the TCP port, for everybody who may speak to it. Where no token is needed one address is as good as another: a machine's own.
    pub(super) fn tcp(&self, listener: TcpListener, tokens: Tokens) -> Doorkeeper<TcpListener> {
        let crowd = move |addr: &std::net::SocketAddr| tokens.load().is_some().then(|| addr.ip());
        Doorkeeper {
            listener,
            hall: self.tcp.clone(),
            silence: SILENCE,
            work: SILENCE,
            crowd: Box::new(crowd),
        }
    }

    /// At the Unix socket, for the operators of this machine.
    pub(super) fn unix(&self, listener: UnixListener) -> Doorkeeper<UnixListener> {
        let crowd = Box::new(|_: &_| None);
        Doorkeeper { listener, hall: self.unix.clone(), silence: SILENCE, work: WORK, crowd }
    }

    /// How full each socket is.
    pub(super) fn taken(&self) -> [Taken; 2] {
        [("tcp", &self.tcp), ("unix", &self.unix)].map(|(socket, hall)| {
            let places = hall.places();
            Taken { socket, connections: places.taken(), operators: places.operators() }
        })
    }
}

/// The places at one socket. Whose sender is dropped has to go.
#[derive(Debug, Clone)]
struct Hall(Arc<Mutex<Places<oneshot::Sender<()>>>>);

impl Hall {
    fn of(bounds: Bounds) -> Self {
        Self(Arc::new(Mutex::new(Places::new(bounds))))
    }

    fn places(&self) -> MutexGuard<'_, Places<oneshot::Sender<()>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for who comes, and word when it has to be left.
    fn enter(&self, ip: Option<IpAddr>) -> (Held, oneshot::Receiver<()>) {
        let (guest, leave) = oneshot::channel();
        let (number, _) = self.places().enter(ip.map(Crowd::of), guest);
        (Held(Seat { hall: self.clone(), number }), leave)
    }
}

/// One connection's place, as its requests know it.
#[derive(Debug, Clone)]
pub(super) struct Seat {
    hall: Hall,
    number: u64,
}

impl Seat {
    fn shows(&self, shown: Shown) -> Result<(), NoPlace> {
        self.hall.places().shows(self.number, shown)
    }

    /// Takes note that a request was refused.
    pub(super) fn was_refused(&self) {
        // Who has no place any more needs no note.
        let _ = self.shows(Shown::Wrong);
    }
}

impl<L: Listener> Connected<IncomingStream<'_, Doorkeeper<L>>> for Seat {
    fn connect_info(stream: IncomingStream<'_, Doorkeeper<L>>) -> Self {
        stream.io().seat.0.clone()
    }
}

/// The middleware behind all checks: who comes so far is an operator, unless anybody may have what is asked for.
pub(super) async fn seat(ConnectInfo(seat): ConnectInfo<Seat>, request: Request, next: Next) -> Response {
    if is_open(request.uri().path()) {
        let response = next.run(request).await;
        // Only an operator can lack a place.
        let _ = seat.shows(Shown::Nothing);
        return response;
    }
    match seat.shows(Shown::Right) {
        Ok(()) => next.run(request).await,
        Err(NoPlace) => {
            let detail = "as many connections of operators are open as may be; nothing was done: try again in a moment";
            let mut response = problem(StatusCode::SERVICE_UNAVAILABLE, detail).into_response();
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
            response
        }
    }
}

/// A place that is taken until this is dropped.
#[derive(Debug)]
struct Held(Seat);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.hall.places().leave(self.0.number);
    }
}

/// A listener with a limit.
pub(super) struct Doorkeeper<L: Listener> {
    listener: L,
    hall: Hall,
    silence: Duration,
    /// How long an answer may take.
    work: Duration,
    /// The address with which a connection is counted, if it is.
    crowd: Box<dyn Fn(&L::Addr) -> Option<IpAddr> + Send>,
}

impl<L: Listener> Listener for Doorkeeper<L> {
    type Io = Visit<L::Io>;
    type Addr = L::Addr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let (io, addr) = self.listener.accept().await;
        let (seat, leave) = self.hall.enter((self.crowd)(&addr));
        let timer = Box::pin(sleep(self.silence));
        let Self { silence, work, .. } = *self;
        let waits = Waits { silence, work, moved: false, asked: false, waited: Duration::ZERO };
        (Visit { io, timer, waits, seat, leave: Some(leave) }, addr)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// A connection that has a place, until it is silent for too long or another needs it more.
#[derive(Debug)]
pub(super) struct Visit<T> {
    io: T,
    timer: Pin<Box<Sleep>>,
    waits: Waits,
    seat: Held,
    /// `None` once it has to leave.
    leave: Option<oneshot::Receiver<()>>,
}

/// For how long nothing has moved, and whose turn it is.
#[derive(Debug)]
struct Waits {
    silence: Duration,
    work: Duration,
    /// Something has, since the timer was set.
    moved: bool,
    /// Something came that was not answered yet.
    asked: bool,
    waited: Duration,
}

impl Waits {
    /// Whether the connection is silent for too long, when the timer has run out once more.
    fn is_over(&mut self) -> bool {
        if std::mem::take(&mut self.moved) {
            self.waited = Duration::ZERO;
            return false;
        }
        self.waited += self.silence;
        !self.asked || self.waited >= self.work
    }
}

impl<T> Visit<T> {
    /// `polled`, or an error when it waits and nothing has moved for too long, or its place was given away.
    fn patient<V>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<V>>) -> Poll<io::Result<V>> {
        if self.leave.as_mut().is_none_or(|leave| Pin::new(leave).poll(cx).is_ready()) {
            self.leave = None;
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        if polled.is_ready() {
            self.waits.moved = true;
            return polled;
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            if self.waits.is_over() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            self.timer.set(sleep(self.waits.silence));
        }
        Poll::Pending
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Visit<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        self.waits.asked |= polled.is_ready();
        self.patient(cx, polled)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Visit<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(cx, buf);
        if polled.is_ready() {
            self.waits.asked = false;
        }
        self.patient(cx, polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use axum::middleware::from_fn;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    /// Serves in a hall with two places, one of them for an operator.
    async fn serve(silence: Duration, work: Duration) -> (SocketAddr, Hall) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let slow = move || async move {
            sleep(silence * 5).await;
            "here"
        };
        let router = axum::Router::new().route("/v1/status", axum::routing::get(|| async { "here" }));
        let router = router.route("/livez", axum::routing::get(|| async { "here" }));
        let router = router.route("/slow", axum::routing::get(slow)).layer(from_fn(seat));
        let hall = Hall::of(Bounds { places: 2, operators: 1, crowd: 2 });
        let keeper = Doorkeeper {
            listener,
            hall: hall.clone(),
            silence,
            work,
            crowd: Box::new(|_: &SocketAddr| None),
        };
        let service = router.into_make_service_with_connect_info::<Seat>();
        tokio::spawn(async move { axum::serve(keeper, service).await });
        (addr, hall)
    }

    /// Somebody who begins to ask and does not go on.
    async fn begin(addr: SocketAddr) -> TcpStream {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream.write_all(b"GET / HT").await.unwrap();
        stream
    }

    /// Waits until the connection has ended, without an answer.
    async fn ended(mut stream: TcpStream) {
        let mut answer = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await;
        // A reset is an end as well.
        drop(read.expect("it keeps its place"));
        assert_eq!(answer, b"");
    }

    /// Asks, and waits for the answer, which ends so.
    async fn ask(stream: &mut TcpStream, path: &str, ends: &str) {
        stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(ends.as_bytes()) {
            let read = tokio::time::timeout(Duration::from_secs(10), stream.read_buf(&mut answer)).await;
            assert_ne!(read.expect("no answer").unwrap(), 0, "it was sent away");
        }
    }

    #[tokio::test]
    async fn the_silent_leave() {
        let (addr, _) = serve(Duration::from_millis(100), Duration::from_millis(100)).await;
        ended(begin(addr).await).await;
    }

    #[tokio::test]
    async fn an_answer_may_take_its_time_where_it_is_allowed_to() {
        let head = b"GET /slow HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        let silence = Duration::from_millis(100);
        for (work, answered) in [(silence, false), (Duration::from_secs(60), true)] {
            let (addr, _) = serve(silence, work).await;
            let mut stream = TcpStream::connect(addr).await.unwrap();
            stream.write_all(head).await.unwrap();
            let mut answer = Vec::new();
            // A reset is an end as well.
            let _ = stream.read_to_end(&mut answer).await;
            assert_eq!(answer.ends_with(b"here"), answered, "{work:?}");
        }
    }

    /// Waits until so many are there.
    async fn full(hall: &Hall) {
        while hall.places().taken() < 2 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn who_comes_gets_the_place_of_who_has_shown_nothing() {
        let (addr, hall) = serve(Duration::from_secs(600), Duration::from_secs(600)).await;
        let mut operator = TcpStream::connect(addr).await.unwrap();
        ask(&mut operator, "/v1/status", "here").await;
        let mut slow = begin(addr).await;
        full(&hall).await;
        for _ in 0..8 {
            let next = begin(addr).await;
            ended(slow).await;
            slow = next;
        }
        ask(&mut operator, "/v1/status", "here").await;
        let places = hall.places();
        assert_eq!((places.taken(), places.operators()), (2, 1));
    }

    #[tokio::test]
    async fn one_operator_too_many_is_told_so_and_what_is_open_to_all_stays_so() {
        let (addr, hall) = serve(Duration::from_secs(600), Duration::from_secs(600)).await;
        let (mut first, mut second) =
            (TcpStream::connect(addr).await.unwrap(), TcpStream::connect(addr).await.unwrap());
        ask(&mut first, "/v1/status", "here").await;
        ask(&mut second, "/v1/status", "in a moment\"}").await;
        ask(&mut second, "/livez", "here").await;
        drop(first);
        while hall.places().operators() > 0 {
            tokio::task::yield_now().await;
        }
        ask(&mut second, "/v1/status", "here").await;
    }
}
