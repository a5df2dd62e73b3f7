//! DNS over TCP (RFC 7766): messages with their length before them, any number a connection, answered in order. DNS over TLS is
//! the same behind a handshake (`dot.rs`).
//!
//! One task accepts, one task serves each connection; both end with the listener, whose task owns them. A connection
//! holds one query and one answer at a time, so its memory is bounded; what a client sends ahead waits in the kernel.
//! How many connections there are is bounded as a whole and for each client, so that one cannot keep out the others.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::timeout;

use crate::counters::Tally;
use crate::dot::{self, TlsListen};
use crate::moment::Clock;
use crate::responder::{Clerk, Responder, Transport, Verdict};
use crate::server::TcpLimits;
use crate::transfer::Next;
use crate::wire::pad;

/// A pause after `accept` failed, which it does again at once when descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

pub(crate) struct Listener {
    socket: TcpListener,
    responder: Arc<Responder>,
    /// Of all connections.
    tally: Arc<Tally>,
    clock: Clock,
    limits: TcpLimits,
    /// With it, every connection begins with a handshake.
    tls: Option<Arc<TlsListen>>,
    connections: JoinSet<()>,
    /// Whose each connection is, and how many each client has; both no longer than there are connections.
    clients: HashMap<Id, IpAddr>,
    held: HashMap<IpAddr, usize>,
}

impl Listener {
    pub(crate) fn new(
        socket: TcpListener,
        responder: Arc<Responder>,
        clock: Clock,
        limits: TcpLimits,
        tls: Option<Arc<TlsListen>>,
    ) -> Self {
        let tally = responder.counters().tally();
        let (clients, held) = (HashMap::new(), HashMap::new());
        Self { socket, responder, tally, clock, limits, tls, connections: JoinSet::new(), clients, held }
    }

    /// Accepts until aborted; connections are aborted with it.
    pub(crate) async fn run(mut self) {
        loop {
            tokio::select! {
                accepted = self.socket.accept() => match accepted {
                    Ok((stream, peer)) => self.admit(stream, peer),
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept DNS connections");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(ended) = self.connections.join_next_with_id() => self.release(ended),
            }
        }
    }

    fn admit(&mut self, stream: TcpStream, peer: SocketAddr) {
        let client = client_of(peer.ip());
        let held = self.held.get(&client).copied().unwrap_or(0);
        if self.connections.len() >= self.limits.connections || held >= self.limits.per_client {
            return self.tally.tcp_refuse();
        }
        let clerk = self.responder.clerk_with(Arc::clone(&self.tally));
        let (clock, limits) = (Arc::clone(&self.clock), self.limits);
        let task = match &self.tls {
            None => {
                // An answer is written in one piece; without this it would only be slower.
                let _ = stream.set_nodelay(true);
                let connection = Connection { stream, peer, clerk, clock, limits, encrypted: false };
                self.connections.spawn(connection.serve())
            }
            Some(tls) => {
                let tls = Arc::clone(tls);
                self.connections.spawn(async move {
                    // As slow as a query may be.
                    let shaken = timeout(limits.transfer, dot::accept(stream, &tls)).await;
                    match shaken.map_err(io::Error::from).flatten() {
                        Ok(stream) => {
                            Connection { stream, peer, clerk, clock, limits, encrypted: true }.serve().await;
                        }
                        Err(error) => {
                            clerk.tally().tls_fail();
                            tracing::debug!(client.addr = %peer, %error, "no TLS with a DNS client");
                        }
                    }
                })
            }
        };
        self.clients.insert(task.id(), client);
        self.held.insert(client, held + 1);
    }

    fn release(&mut self, ended: Result<(Id, ()), JoinError>) {
        let id = match ended {
            Ok((id, ())) => id,
            Err(error) => {
                let panics = self.tally.panic();
                if panics.is_power_of_two() {
                    tracing::error!(%error, panics, "a DNS connection's task failed; this is a bug, please report it");
                }
                error.id()
            }
        };
        let Some(client) = self.clients.remove(&id) else { return };
        if let Some(held) = self.held.get_mut(&client) {
            *held -= 1;
            if *held == 0 {
                self.held.remove(&client);
            }
        }
    }
}

/// What counts as one client: an IPv4 address, or the /64 that one IPv6 host commonly has.
fn client_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & u128::MAX << 64).into(),
        v4 => v4,
    }
}

struct Connection<S> {
    stream: S,
    peer: SocketAddr,
    clerk: Clerk,
    clock: Clock,
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
        loop {
            let mut length = [0; 2];
            // Nothing at all is idleness; a part of something must go on.
            match timeout(self.limits.idle, self.stream.read(&mut length)).await {
                Err(_) | Ok(Ok(0)) => return Ok(()),
                Ok(Err(error)) => return Err(error),
                Ok(Ok(read)) => {
                    let rest = async {
                        self.stream.read_exact(&mut length[read..]).await?;
                        query.resize(usize::from(u16::from_be_bytes(length)), 0);
                        self.stream.read_exact(&mut query).await
                    };
                    timeout(self.limits.transfer, rest).await??;
                }
            }
            let now = (self.clock)();
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
                }
                continue;
            }
            if self.clerk.respond(&query, self.peer, Transport::Tcp, now, &mut answer) == Verdict::Drop {
                return Ok(());
            }
            if self.encrypted {
                pad(&query, &mut answer);
            }
            self.send(&answer, &mut framed).await?;
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
