//! DNS over TCP (RFC 7766): messages with their length before them, any number a connection, answered in order. DNS over TLS is
//! the same behind a handshake (`dot.rs`).
//!
//! One thread has all of them, and nothing else; one task accepts at each address, one serves each connection, and all end with
//! the thread. A connection holds one query and one answer at a time, so its memory is bounded; what a client sends ahead waits
//! in the kernel. After some answers it lets others have theirs. Who may connect and who gives way is `connections.rs`'s to say.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, Id, JoinError, JoinSet, LocalSet, yield_now};
use tokio::time::timeout;

use crate::connections::{Admission, Connections};
use crate::counters::Tally;
use crate::dot::{self, TlsListen};
use crate::moment::{Clock, Moment};
use crate::responder::{Clerk, Responder, SharedDesk, Transport, Verdict};
use crate::server::TcpLimits;
use crate::transfer::Next;
use crate::wire::pad;

/// A pause after `accept` failed, which it does again at once when descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Messages that one connection may send in a row, as long as others wait.
const TURN: u32 = 16;

/// A connection of a process that was replaced may ask nothing for so long, ...
const RETIRED_IDLE: Duration = Duration::from_millis(500);
/// ... and is closed after so long, behind an answer: it would be told what this process knew.
const RETIRED_MOST: Duration = Duration::from_secs(5);
/// Who is told that a connection ends may take so long to hear it. Until then what it sends is read: closing over unread
/// questions would take the last answers back.
const FAREWELL: Duration = Duration::from_secs(1);

/// How far a server is in ending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// It is not.
    Serving,
    /// Another process accepts; connections that stand are answered for a little.
    Retiring,
}

/// What the connections of one thread are served with.
#[derive(Clone)]
pub(crate) struct Serving {
    pub(crate) responder: Arc<Responder>,
    /// Of all connections.
    pub(crate) tally: Arc<Tally>,
    pub(crate) desk: SharedDesk,
    pub(crate) clock: Clock,
    pub(crate) limits: TcpLimits,
    /// With it, every connection begins with a handshake.
    pub(crate) tls: Option<Arc<TlsListen>>,
}

/// What a thread runs to serve these sockets, until the sender of `stage` is gone.
pub(crate) fn prepare(
    sockets: Vec<std::net::TcpListener>,
    serving: Serving,
    mut stage: watch::Receiver<Stage>,
) -> io::Result<impl FnOnce() + Send + 'static> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let entered = runtime.enter();
    let sockets = sockets.into_iter().map(TcpListener::from_std).collect::<io::Result<Vec<_>>>()?;
    drop(entered);
    Ok(move || {
        let tasks = LocalSet::new();
        tasks.block_on(&runtime, async {
            for socket in sockets {
                tokio::task::spawn_local(Listener::new(socket, serving.clone(), stage.clone()).run());
            }
            // However far it is, until nobody can say so any more.
            while stage.changed().await.is_ok() {}
        });
    })
}

struct Listener {
    socket: TcpListener,
    serving: Serving,
    tasks: JoinSet<()>,
    /// Which connection each task serves, and how each is closed; both no longer than there are tasks.
    numbers: HashMap<Id, u64>,
    handles: HashMap<u64, AbortHandle>,
    connections: Rc<RefCell<Connections>>,
    next: u64,
    stage: watch::Receiver<Stage>,
}

impl Listener {
    fn new(socket: TcpListener, serving: Serving, stage: watch::Receiver<Stage>) -> Self {
        serving.tally.places(serving.tls.is_some(), serving.limits.connections);
        let connections = Rc::new(RefCell::new(Connections::new(serving.limits)));
        let (numbers, handles) = (HashMap::new(), HashMap::new());
        Self { socket, serving, tasks: JoinSet::new(), numbers, handles, connections, next: 0, stage }
    }

    /// Accepts until another process does or its thread ends, and the connections with it.
    async fn run(mut self) {
        loop {
            let accepts = *self.stage.borrow_and_update() == Stage::Serving;
            if !accepts && self.tasks.is_empty() {
                return;
            }
            tokio::select! {
                changed = self.stage.changed(), if accepts => if changed.is_err() { return },
                accepted = self.socket.accept(), if accepts => match accepted {
                    Ok((stream, peer)) => self.admit(stream, peer),
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept DNS connections");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(ended) = self.tasks.join_next_with_id() => self.release(ended),
            }
        }
    }

    fn admit(&mut self, stream: TcpStream, peer: SocketAddr) {
        let number = self.next;
        let now = self.serving.clock.monotonic();
        let admission = self.connections.borrow_mut().arrive(number, peer.ip(), now);
        match admission {
            Admission::Refused => return self.serving.tally.tcp_refuse(),
            Admission::InPlaceOf(other) => {
                self.serving.tally.tcp_evict();
                if let Some(handle) = self.handles.remove(&other) {
                    handle.abort();
                }
            }
            Admission::Admitted => {}
        }
        self.next += 1;
        let Serving { responder, tally, desk, clock, limits, tls } = self.serving.clone();
        let clerk = responder.clerk_with(tally, &desk);
        let seat =
            Seat { connections: Rc::clone(&self.connections), number, clock, stage: self.stage.clone() };
        let handle = match tls {
            None => {
                // An answer is written in one piece; without this it would only be slower.
                let _ = stream.set_nodelay(true);
                let connection = Connection { stream, peer, clerk, seat, limits, encrypted: false };
                self.tasks.spawn_local(connection.serve())
            }
            Some(tls) => self.tasks.spawn_local(async move {
                // As slow as a query may be.
                let shaken = timeout(limits.transfer, dot::accept(stream, &tls)).await;
                match shaken.map_err(io::Error::from).flatten() {
                    Ok(stream) => {
                        Connection { stream, peer, clerk, seat, limits, encrypted: true }.serve().await;
                    }
                    Err(error) => {
                        clerk.tally().tls_fail();
                        tracing::debug!(client.addr = %peer, %error, "no TLS with a DNS client");
                    }
                }
            }),
        };
        self.serving.tally.connected(self.serving.tls.is_some());
        self.numbers.insert(handle.id(), number);
        self.handles.insert(number, handle);
    }

    fn release(&mut self, ended: Result<(Id, ()), JoinError>) {
        let id = match ended {
            Ok((id, ())) => id,
            Err(error) => {
                if error.is_panic() {
                    let panics = self.serving.tally.panic();
                    if panics.is_power_of_two() {
                        tracing::error!(%error, panics, "a DNS connection's task failed; this is a bug, please report it");
                    }
                }
                error.id()
            }
        };
        if let Some(number) = self.numbers.remove(&id) {
            self.serving.tally.disconnected(self.serving.tls.is_some());
            self.handles.remove(&number);
            self.connections.borrow_mut().leave(number);
        }
    }
}

/// A connection's place among the others.
struct Seat {
    connections: Rc<RefCell<Connections>>,
    number: u64,
    clock: Clock,
    stage: watch::Receiver<Stage>,
}

impl Seat {
    /// A message is on its way.
    fn work(&self) -> Moment {
        let now = self.clock.now();
        self.connections.borrow_mut().work(self.number, now.monotonic);
        now
    }

    /// The answer is sent.
    fn rest(&self) {
        self.connections.borrow_mut().rest(self.number, self.clock.monotonic());
    }

    /// How long it may ask nothing.
    fn idle(&self) -> Duration {
        let idle = self.connections.borrow().idle();
        if self.retires() { idle.min(RETIRED_IDLE) } else { idle }
    }

    /// Whether another process has taken this one's place.
    fn retires(&self) -> bool {
        *self.stage.borrow() == Stage::Retiring
    }
}

struct Connection<S> {
    stream: S,
    peer: SocketAddr,
    clerk: Clerk,
    seat: Seat,
    limits: TcpLimits,
    /// Its bytes are not to be read, so their number is hidden for who asks that.
    encrypted: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    async fn serve(mut self) {
        if let Err(error) = self.exchange().await {
            tracing::debug!(client.addr = %self.peer, %error, "a DNS connection ended");
        }
        if self.seat.retires() {
            // Who does not go has had its time.
            let _ = timeout(FAREWELL, self.farewell()).await;
            return;
        }
        // TLS says goodbye, so that nobody takes a cut for the end; who does not listen has had its time.
        if self.encrypted && timeout(self.limits.transfer, self.stream.shutdown()).await.is_err() {
            tracing::debug!(client.addr = %self.peer, "a DNS client does not take the goodbye");
        }
    }

    /// Answers until the client closes, idles or is too slow.
    async fn exchange(&mut self) -> io::Result<()> {
        let (mut query, mut answer, mut framed) = (Vec::new(), Vec::new(), Vec::new());
        let (mut sent, mut retired) = (0, None);
        loop {
            let mut length = [0; 2];
            // Nothing at all is idleness; a part of something must go on.
            match self.begin(&mut length).await? {
                0 => return Ok(()),
                read => {
                    self.seat.work();
                    let rest = async {
                        self.stream.read_exact(&mut length[read..]).await?;
                        query.resize(usize::from(u16::from_be_bytes(length)), 0);
                        self.stream.read_exact(&mut query).await
                    };
                    timeout(self.limits.transfer, rest).await??;
                }
            }
            let now = self.seat.work();
            if self.encrypted {
                self.clerk.tally().tls_query();
            }
            if let Some(mut transfer) = self.clerk.transfer(&query, self.peer, now) {
                loop {
                    match transfer.next(&mut answer) {
                        Next::Message => self.send(&answer, &mut framed).await?,
                        Next::Failure => return self.send(&answer, &mut framed).await,
                        Next::End => break,
                    }
                    self.seat.work();
                    // Each of these messages is as much work as many answers.
                    yield_now().await;
                }
                self.seat.rest();
                continue;
            }
            if self.clerk.respond(&query, self.peer, Transport::Tcp, now, &mut answer) == Verdict::Drop {
                return Ok(());
            }
            if self.encrypted {
                pad(&query, &mut answer);
            }
            self.send(&answer, &mut framed).await?;
            self.seat.rest();
            if self.seat.retires() {
                let since = *retired.get_or_insert(now.monotonic);
                if now.monotonic.saturating_duration_since(since) >= RETIRED_MOST {
                    return Ok(());
                }
            }
            sent += 1;
            if sent % TURN == 0 {
                yield_now().await;
            }
        }
    }

    /// Waits for the first bytes of a question; none: nobody asks any more.
    async fn begin(&mut self, length: &mut [u8]) -> io::Result<usize> {
        let mut stage = self.seat.stage.clone();
        loop {
            let (retires, idle) = (self.seat.retires(), self.seat.idle());
            tokio::select! {
                read = timeout(idle, self.stream.read(length)) => return read.unwrap_or(Ok(0)),
                // With less patience from now on.
                Ok(_) = stage.wait_for(|stage| *stage == Stage::Retiring), if !retires => {}
            }
        }
    }

    /// Ends a connection to whom the next process is to answer.
    async fn farewell(&mut self) -> io::Result<()> {
        self.stream.shutdown().await?;
        let mut unread = [0; 512];
        while self.stream.read(&mut unread).await? > 0 {}
        Ok(())
    }

    /// Sends one message with its length before it, in one piece.
    async fn send(&mut self, message: &[u8], framed: &mut Vec<u8>) -> io::Result<()> {
        framed.clear();
        framed.extend_from_slice(&(message.len() as u16).to_be_bytes());
        framed.extend_from_slice(message);
        let sent = async {
            self.stream.write_all(framed).await?;
            self.stream.flush().await
        };
        timeout(self.limits.transfer, sent).await?
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::{Pin, pin};
    use std::task::{Context, Poll};

    use tokio::io::ReadBuf;

    use super::*;
    use crate::fixtures::{QueryBytes, responder, start};

    /// A client that has always sent something more and takes everything at once, so that nothing but the connection
    /// itself ever pauses.
    struct Greedy {
        /// One framed query, again and again.
        query: Vec<u8>,
        read: usize,
        answers: Rc<RefCell<u32>>,
    }

    impl AsyncRead for Greedy {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let from = self.read % self.query.len();
            let bytes = buffer.remaining().min(self.query.len() - from);
            buffer.put_slice(&self.query[from..from + bytes]);
            self.read += bytes;
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Greedy {
        /// An answer is written in one piece.
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            *self.answers.borrow_mut() += 1;
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn who_always_has_a_query_more_lets_others_go_first_after_a_turn() {
        let query = QueryBytes::new("www.lb.example.com", "A").bytes();
        let query = [&(query.len() as u16).to_be_bytes(), query.as_slice()].concat();
        let answers = Rc::<RefCell<u32>>::default();
        let limits = TcpLimits::default();
        let connections = Rc::new(RefCell::new(Connections::new(limits)));
        let peer: SocketAddr = "198.51.100.7:4000".parse().unwrap();
        connections.borrow_mut().arrive(0, peer.ip(), start().monotonic);
        let (_stages, stage) = watch::channel(Stage::Serving);
        let connection = Connection {
            stream: Greedy { query, read: 0, answers: Rc::clone(&answers) },
            peer,
            clerk: responder().clerk(),
            seat: Seat {
                connections,
                number: 0,
                clock: Clock::new(|| start().monotonic, || start().unix),
                stage,
            },
            limits,
            encrypted: false,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let mut serving = pin!(connection.serve());
            for turns in 1..=5 {
                let paused =
                    poll_fn(|context| Poll::Ready(serving.as_mut().poll(context).is_pending())).await;
                assert!(paused, "it serves as long as it is asked");
                assert_eq!(*answers.borrow(), turns * TURN, "answers after {turns} turns");
            }
        });
    }
}
