//! Connections for users' bytes: an endpoint of their own at the mesh port + 1, so that they never starve gossip.
//!
//! The endpoint runs on a thread of its own; opening and using streams is done by whoever holds them, on any runtime.
//! Connections are dialled when first needed, kept, and dialled again when they break or the keyring changed: then streams
//! that stand end on the old one. What the streams carry is the affair of both ends: the far end should acknowledge before
//! the near end relies on it.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::Duration;

use quinn::{Connection, Endpoint, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{mpsc, watch};

use super::Peer;
use super::endpoint::{Purpose, admit, explain, leave_port, peer_name};
use super::tls::Identity;
use super::wire::{GOODBYE, REFUSED, REPLACED, STREAM_PATIENCE};
use crate::id::NodeName;

const DIAL_PATIENCE: Duration = Duration::from_secs(3);
/// Streams that wait for the reader. Beyond it new ones are reset at once.
const ACCEPT_QUEUE: usize = 1024;

/// The tunnel endpoint of this node. Clones are the same endpoint; usable from any tokio runtime.
#[derive(Clone)]
pub struct Tunnels(Arc<Shared>);

struct Shared {
    endpoint: Endpoint,
    identity: Arc<Identity>,
    runtime: tokio::runtime::Handle,
    links: RwLock<HashMap<NodeName, Link>>,
    /// Ends the thread when set or dropped.
    stop: watch::Sender<bool>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

/// The connection to one peer; the lock makes those that need it together dial it once.
#[derive(Clone)]
struct Link {
    addr: SocketAddr,
    connection: Arc<tokio::sync::Mutex<Option<Dialled>>>,
    present: Arc<RwLock<Option<Dialled>>>,
}

/// A connection, and under the how manieth keyring it was dialled.
#[derive(Clone)]
struct Dialled {
    connection: Connection,
    ring: u64,
}

impl Dialled {
    fn is_usable(&self, identity: &Identity) -> bool {
        self.connection.close_reason().is_none() && self.ring == *identity.rings().borrow()
    }
}

/// A stream that a peer opened to this node.
#[derive(Debug)]
pub struct TunnelAccept {
    /// Who opened it.
    pub from: Peer,
    /// Its bytes both ways.
    pub stream: TunnelStream,
}

/// Bytes both ways to another node; shutting the write half down is a half-close. Dropped without it, the stream is
/// reset and the other end reads an error.
#[derive(Debug)]
pub struct TunnelStream {
    send: SendStream,
    recv: RecvStream,
    finished: bool,
}

impl Tunnels {
    /// Runs an endpoint on a bound socket, on a thread of its own.
    pub(crate) fn start(
        identity: Arc<Identity>,
        socket: std::net::UdpSocket,
    ) -> io::Result<(Self, mpsc::Receiver<TunnelAccept>)> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let endpoint = {
            let _entered = runtime.enter();
            Purpose::Tunnel.endpoint(&identity, socket)?
        };
        let (stop, mut stopped) = watch::channel(false);
        let (accepted, streams) = mpsc::channel(ACCEPT_QUEUE);
        let handle = runtime.handle().clone();
        let (acceptor, its_identity) = (endpoint.clone(), identity.clone());
        let thread = std::thread::Builder::new().name("tunnel".into()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = accept(acceptor.clone(), its_identity, accepted) => {}
                    _ = stopped.wait_for(|stop| *stop) => {}
                }
                acceptor.close(GOODBYE, b"");
                let _ = tokio::time::timeout(Duration::from_millis(500), acceptor.wait_idle()).await;
            });
        })?;
        let shared = Shared {
            endpoint,
            identity,
            runtime: handle,
            links: RwLock::default(),
            stop,
            thread: Mutex::new(Some(thread)),
        };
        Ok((Self(Arc::new(shared)), streams))
    }

    /// Opens a stream to `to` at `addr` (its mesh address + 1), connecting first when there is no connection. The peer
    /// sees it with its first byte.
    ///
    /// # Errors
    /// When the peer cannot be reached within 3 s or has no room for another stream.
    pub async fn open(&self, to: &NodeName, addr: SocketAddr) -> io::Result<TunnelStream> {
        let link = self.link(to, addr);
        let present = link.present.read().unwrap_or_else(PoisonError::into_inner).clone();
        let connection = match present.filter(|dialled| dialled.is_usable(&self.0.identity)) {
            Some(dialled) => dialled.connection,
            None => self.dial(to, &link).await?,
        };
        let opened = tokio::time::timeout(DIAL_PATIENCE, connection.open_bi()).await;
        let (send, recv) = opened.map_err(|_| busy(to))?.map_err(io::Error::from)?;
        Ok(TunnelStream { send, recv, finished: false })
    }

    /// The smoothed round trip to a connected peer.
    pub fn rtt(&self, to: &NodeName) -> Option<Duration> {
        let links = self.0.links.read().unwrap_or_else(PoisonError::into_inner);
        let present =
            links.get(to)?.present.read().unwrap_or_else(PoisonError::into_inner).clone()?.connection;
        present.close_reason().is_none().then(|| present.rtt())
    }

    /// Gives up the connection to a peer that is gone for good or came back as another life; its streams break.
    pub(crate) fn forget(&self, peer: &NodeName) {
        let link = self.0.links.write().unwrap_or_else(PoisonError::into_inner).remove(peer);
        if let Some(dialled) = link.and_then(|link| link.present.read().ok()?.clone()) {
            dialled.connection.close(REPLACED, b"");
        }
    }

    /// Gives the UDP port to another process: streams that were opened here move to another port and go on (RFC 9000 §9),
    /// those that peers opened end.
    pub(crate) fn release(&self) -> io::Result<()> {
        let _entered = self.0.runtime.enter();
        leave_port(&self.0.endpoint)
    }

    /// Closes the endpoint and lets its thread end.
    pub(crate) fn stop(&self) {
        self.0.stop.send_replace(true);
    }

    /// After [`Tunnels::stop`]: waits for the thread, at most `patience`.
    pub(crate) async fn stopped(&self, patience: Duration) {
        let thread = self.0.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = tokio::time::timeout(patience, tokio::task::spawn_blocking(|| thread.join())).await;
        }
    }

    fn link(&self, to: &NodeName, addr: SocketAddr) -> Link {
        let known = {
            let links = self.0.links.read().unwrap_or_else(PoisonError::into_inner);
            links.get(to).filter(|link| link.addr == addr).cloned()
        };
        known.unwrap_or_else(|| {
            let link = Link { addr, connection: Arc::default(), present: Arc::default() };
            let mut links = self.0.links.write().unwrap_or_else(PoisonError::into_inner);
            match links.get(to).filter(|link| link.addr == addr) {
                Some(link) => link.clone(),
                None => {
                    links.insert(to.clone(), link.clone());
                    link
                }
            }
        })
    }

    async fn dial(&self, to: &NodeName, link: &Link) -> io::Result<Connection> {
        let mut slot = link.connection.lock().await;
        if let Some(dialled) = slot.as_ref().filter(|dialled| dialled.is_usable(&self.0.identity)) {
            return Ok(dialled.connection.clone());
        }
        let ring = *self.0.identity.rings().borrow();
        let config = Purpose::Tunnel.client(&self.0.identity, Some(to.clone())).map_err(io::Error::other)?;
        let (endpoint, addr) = (self.0.endpoint.clone(), link.addr);
        // The connection's driver runs where it is dialled: on the tunnels' own thread.
        let dialled = self.0.runtime.spawn(async move {
            let connecting = endpoint.connect_with(config, addr, "meridian").map_err(io::Error::other)?;
            match tokio::time::timeout(DIAL_PATIENCE, connecting).await {
                Ok(Ok(connection)) => Ok(connection),
                Ok(Err(error)) => Err(io::Error::new(io::ErrorKind::ConnectionRefused, explain(&error))),
                Err(_) => Err(io::ErrorKind::TimedOut.into()),
            }
        });
        let connection = dialled.await.map_err(|_| io::Error::from(io::ErrorKind::NotConnected))??;
        let dialled = Dialled { connection: connection.clone(), ring };
        *slot = Some(dialled.clone());
        *link.present.write().unwrap_or_else(PoisonError::into_inner) = Some(dialled);
        Ok(connection)
    }
}

impl fmt::Debug for Tunnels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tunnels").finish_non_exhaustive()
    }
}

fn busy(to: &NodeName) -> io::Error {
    io::Error::new(io::ErrorKind::WouldBlock, format!("{to} takes no more streams now"))
}

async fn accept(endpoint: Endpoint, identity: Arc<Identity>, accepted: mpsc::Sender<TunnelAccept>) {
    while let Some(incoming) = endpoint.accept().await {
        let Some(connecting) = admit(&endpoint, incoming) else { continue };
        let (accepted, identity) = (accepted.clone(), identity.clone());
        tokio::spawn(async move {
            if let Ok(Ok(connection)) = tokio::time::timeout(STREAM_PATIENCE, connecting).await {
                receive(connection, identity, accepted).await;
            }
        });
    }
}

async fn receive(connection: Connection, identity: Arc<Identity>, accepted: mpsc::Sender<TunnelAccept>) {
    let Some(name) = peer_name(&connection) else { return };
    let from = Peer { name, addr: connection.remote_address() };
    let mut rings = identity.rings();
    loop {
        let opened = tokio::select! {
            opened = connection.accept_bi() => opened,
            Ok(()) = rings.changed() => {
                if !identity.still_trusts(&connection) {
                    tracing::warn!(peer = %from.name, addr = %from.addr, "its mesh key was removed: its tunnels are cut");
                    return connection.close(REPLACED, b"the key was removed");
                }
                continue;
            }
        };
        let Ok((send, recv)) = opened else { return };
        let stream = TunnelStream { send, recv, finished: false };
        // A stream that finds the queue full is dropped here, which resets it.
        if accepted.try_send(TunnelAccept { from: from.clone(), stream }).is_err() {
            tracing::warn!(peer = %from.name, "a tunnel stream was refused: too many wait");
        }
    }
}

impl AsyncRead for TunnelStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        AsyncRead::poll_read(Pin::new(&mut self.get_mut().recv), cx, buf)
    }
}

impl AsyncWrite for TunnelStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write(Pin::new(&mut self.get_mut().send), cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_flush(Pin::new(&mut self.get_mut().send), cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.finished = true;
        AsyncWrite::poll_shutdown(Pin::new(&mut this.send), cx)
    }
}

impl Drop for TunnelStream {
    fn drop(&mut self) {
        if !self.finished {
            // Fails only when the connection is gone, which ends the stream as well.
            let _ = self.send.reset(REFUSED);
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}
