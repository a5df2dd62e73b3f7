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
use tokio::sync::oneshot;
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

/// What a thread runs to serve these sockets, until `stop` is told or its sender is gone.
pub(crate) fn prepare(
    sockets: Vec<std::net::TcpListener>,
    serving: Serving,
    stop: oneshot::Receiver<()>,
) -> io::Result<impl FnOnce() + Send + 'static> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let entered = runtime.enter();
    let sockets = sockets.into_iter().map(TcpListener::from_std).collect::<io::Result<Vec<_>>>()?;
    drop(entered);
    Ok(move || {
        let tasks = LocalSet::new();
        tasks.block_on(&runtime, async {
            for socket in sockets {
                tokio::task::spawn_local(Listener::new(socket, serving.clone()).run());
            }
            // Told or gone is the same.
            let _ = stop.await;
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
}

impl Listener {
    fn new(socket: TcpListener, serving: Serving) -> Self {
        let connections = Rc::new(RefCell::new(Connections::new(serving.limits)));
        let (numbers, handles) = (HashMap::new(), HashMap::new());
        Self { socket, serving, tasks: JoinSet::new(), numbers, handles, connections, next: 0 }
    }

    /// Accepts until its thread ends, and the connections with it.
    async fn run(mut self) {
        loop {
            tokio::select! {
                accepted = self.socket.accept() => match accepted {
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
        let now = (self.serving.clock)().monotonic;
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
        let seat = Seat { connections: Rc::clone(&self.connections), number, clock };
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
}

impl Seat {
    /// A message is on its way.
    fn work(&self) -> Moment {
        let now = (self.clock)();
        self.connections.borrow_mut().work(self.number, now.monotonic);
        now
    }

    /// The answer is sent.
    fn rest(&self) {
        self.connections.borrow_mut().rest(self.number, (self.clock)().monotonic);
    }

    /// How long it may ask nothing.
    fn idle(&self) -> Duration {
        self.connections.borrow().idle()
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
        // TLS says goodbye, so that nobody takes a cut for the end; who does not listen has had its time.
        if self.encrypted && timeout(self.limits.transfer, self.stream.shutdown()).await.is_err() {
            tracing::debug!(client.addr = %self.peer, "a DNS client does not take the goodbye");
        }
    }

    /// Answers until the client closes, idles or is too slow.
    async fn exchange(&mut self) -> io::Result<()> {
        let (mut query, mut answer, mut framed) = (Vec::new(), Vec::new(), Vec::new());
        let mut sent = 0;
        loop {
            let mut length = [0; 2];
            // Nothing at all is idleness; a part of something must go on.
            match timeout(self.seat.idle(), self.stream.read(&mut length)).await {
                Err(_) | Ok(Ok(0)) => return Ok(()),
                Ok(Err(error)) => return Err(error),
                Ok(Ok(read)) => {
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
            sent += 1;
            if sent % TURN == 0 {
                yield_now().await;
            }
        }
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
