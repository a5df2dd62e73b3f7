//! DNS over TCP (RFC 7766): messages with their length before them, any number a connection, answered in order.
//!
//! One task accepts, one task serves each connection; both end with the listener, whose task owns them. A connection
//! holds one query and one answer at a time, so its memory is bounded; what a client sends ahead waits in the kernel.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::responder::{Responder, Transport, Verdict};
use crate::server::{MonotonicClock, TcpLimits};

/// A pause after `accept` failed, which it does again at once when descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

pub(crate) struct Listener {
    socket: TcpListener,
    responder: Arc<Responder>,
    clock: MonotonicClock,
    limits: TcpLimits,
}

impl Listener {
    pub(crate) fn new(
        socket: TcpListener,
        responder: Arc<Responder>,
        clock: MonotonicClock,
        limits: TcpLimits,
    ) -> Self {
        Self { socket, responder, clock, limits }
    }

    /// Accepts until aborted; connections are aborted with it.
    pub(crate) async fn run(self) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = self.socket.accept() => match accepted {
                    Ok((stream, peer)) if connections.len() < self.limits.connections => {
                        let connection = Connection {
                            stream,
                            peer,
                            responder: Arc::clone(&self.responder),
                            clock: Arc::clone(&self.clock),
                            limits: self.limits,
                        };
                        connections.spawn(connection.serve());
                    }
                    Ok(_) => self.responder.counters().tcp_refuse(),
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept DNS connections");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(ended) = connections.join_next() => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "a DNS connection's task failed");
                    }
                }
            }
        }
    }
}

struct Connection {
    stream: TcpStream,
    peer: SocketAddr,
    responder: Arc<Responder>,
    clock: MonotonicClock,
    limits: TcpLimits,
}

impl Connection {
    async fn serve(mut self) {
        if let Err(error) = self.exchange().await {
            tracing::debug!(client.addr = %self.peer, %error, "a DNS connection ended");
        }
    }

    /// Answers until the client closes, idles or is too slow.
    async fn exchange(&mut self) -> io::Result<()> {
        self.stream.set_nodelay(true)?;
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
            let verdict =
                self.responder.respond(&query, self.peer, Transport::Tcp, (self.clock)(), &mut answer);
            if verdict == Verdict::Drop {
                return Ok(());
            }
            framed.clear();
            framed.extend_from_slice(&(answer.len() as u16).to_be_bytes());
            framed.extend_from_slice(&answer);
            timeout(self.limits.transfer, self.stream.write_all(&framed)).await??;
        }
    }
}
