//! Connections for users' bytes: an endpoint of their own at the mesh port + 1, so that they never starve gossip.
//!
//! The endpoint runs on a thread of its own; opening and using streams is done by whoever holds them, on any runtime.
//! A node that goes on as another process says `MOVED`: first to streams that come too late, then, once those that it serves have
//! ended, to whole connections. Whoever hears that dials anew, which reaches the next process; see [`has_moved`].
//!
//! Connections are dialled when first needed, kept, and dialled again when they break or the keyring changed: then streams
//! that stand end on the old one. What the streams carry is the affair of both ends: the far end should acknowledge before
//! the near end relies on it.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::Duration;

use quinn::{Connection, ConnectionError, Endpoint, ReadError, RecvStream, SendStream, WriteError};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{mpsc, watch};

use super::Peer;
use super::door::Door;
use super::endpoint::{Purpose, explain, leave_port, peer_name};
use super::tls::Identity;
use super::wire::{GOODBYE, MOVED, REFUSED, REPLACED};
use crate::id::NodeName;
use crate::thread::Thread;

const DIAL_PATIENCE: Duration = Duration::from_secs(3);
/// How often it is looked whether peers' streams have ended.
const LOOK: Duration = Duration::from_millis(10);
/// How long the closing of connections may take.
const LAST_WORDS: Duration = Duration::from_millis(300);
/// Streams that wait for the reader. Beyond it new ones are reset at once.
const ACCEPT_QUEUE: usize = 1024;

/// The tunnel endpoint of this node. Clones are the same endpoint; usable from any tokio runtime.
#[derive(Clone)]
pub struct Tunnels(Arc<Shared>);

struct Shared {
    endpoint: Endpoint,
    identity: Arc<Identity>,
    links: RwLock<HashMap<NodeName, Link>>,
    inbound: Arc<Inbound>,
    /// How far this process is in handing over.
    phase: watch::Sender<Phase>,
    thread: Thread,
}

/// The connection to one peer; the lock makes those that need it together dial it once.
#[derive(Clone)]
struct Link {
    addr: SocketAddr,
    connection: Arc<tokio::sync::Mutex<Option<Dialled>>>,
    present: Arc<RwLock<Option<Dialled>>>,
}

/// What becomes of streams that peers open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    /// They are served.
    Serving,
    /// They are sent to the next process; those that were accepted go on.
    Moving,
    /// Connections are closed.
    Moved,
}

/// A connection, and under the how manieth keyring it was dialled.
#[derive(Clone)]
struct Dialled {
    connection: Connection,
    ring: u64,
    /// Its peer goes on as another process.
    moved: Arc<AtomicBool>,
}

impl Dialled {
    fn is_usable(&self, identity: &Identity) -> bool {
        let moved = self.moved.load(Ordering::Relaxed);
        !moved && self.connection.close_reason().is_none() && self.ring == *identity.rings().borrow()
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
    side: Side,
}

/// What is known of a stream beside its bytes.
#[derive(Debug)]
enum Side {
    /// Opened here, over a connection that takes note when its peer has moved.
    Near(Arc<AtomicBool>),
    /// A peer's.
    Far { _counted: Counted },
}

/// Whether a stream broke because its peer goes on as another process. What the peer had not acknowledged it has not done.
pub fn has_moved(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Moved>())
}

/// The peer goes on as another process.
#[derive(Debug, thiserror::Error)]
#[error("the node goes on as another process")]
struct Moved;

/// How many streams each peer has open here. Locked when a connection begins, and by who watches; never for a stream.
#[derive(Debug, Default)]
struct Inbound(Mutex<HashMap<NodeName, Arc<AtomicUsize>>>);

/// One open stream; dropping it counts it out.
#[derive(Debug)]
struct Counted(Arc<AtomicUsize>);

impl Inbound {
    /// The count of a peer that has connected; those of peers that have gone are forgotten.
    fn of(&self, peer: &NodeName) -> Arc<AtomicUsize> {
        let mut peers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        peers.retain(|_, open| Arc::strong_count(open) > 1);
        peers.entry(peer.clone()).or_default().clone()
    }
}

impl Counted {
    fn new(open: &Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        Self(open.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Tunnels {
    /// Runs an endpoint on a bound socket, on a thread of its own.
    pub(crate) fn start(
        identity: Arc<Identity>,
        socket: std::net::UdpSocket,
    ) -> io::Result<(Self, mpsc::Receiver<TunnelAccept>)> {
        let thread = Thread::start("tunnel")?;
        let endpoint = {
            let _entered = thread.enter();
            Purpose::Tunnel.endpoint(&identity, socket)?
        };
        let (accepted, streams) = mpsc::channel(ACCEPT_QUEUE);
        let inbound = Arc::new(Inbound::default());
        let (phase, phases) = watch::channel(Phase::Serving);
        let receiver = Receiver { identity: identity.clone(), accepted, counts: inbound.clone(), phases };
        thread.runtime().spawn(accept(endpoint.clone(), receiver));
        let shared = Shared { endpoint, identity, links: RwLock::default(), inbound, phase, thread };
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
        let dialled = match present.filter(|dialled| dialled.is_usable(&self.0.identity)) {
            Some(dialled) => dialled,
            None => self.dial(to, &link).await?,
        };
        let opened = tokio::time::timeout(DIAL_PATIENCE, dialled.connection.open_bi()).await;
        let (send, recv) = opened.map_err(|_| busy(to))?.map_err(|error| match has_closed(&error) {
            true => io::Error::other(Moved),
            false => error.into(),
        })?;
        Ok(TunnelStream { send, recv, finished: false, side: Side::Near(dialled.moved) })
    }

    /// The smoothed round trip to a connected peer.
    pub fn rtt(&self, to: &NodeName) -> Option<Duration> {
        let links = self.0.links.read().unwrap_or_else(PoisonError::into_inner);
        let present =
            links.get(to)?.present.read().unwrap_or_else(PoisonError::into_inner).clone()?.connection;
        present.close_reason().is_none().then(|| present.rtt())
    }

    /// The streams that each connected peer has open here.
    pub(crate) fn inbound(&self) -> BTreeMap<NodeName, usize> {
        let peers = self.0.inbound.0.lock().unwrap_or_else(PoisonError::into_inner);
        let present = peers.iter().filter(|(_, open)| Arc::strong_count(open) > 1);
        present.map(|(name, open)| (name.clone(), open.load(Ordering::Relaxed))).collect()
    }

    /// Gives up the connection to a peer that is gone for good or came back as another life; its streams break.
    pub(crate) fn forget(&self, peer: &NodeName) {
        let link = self.0.links.write().unwrap_or_else(PoisonError::into_inner).remove(peer);
        if let Some(dialled) = link.and_then(|link| link.present.read().ok()?.clone()) {
            dialled.connection.close(REPLACED, b"");
        }
    }

    /// Hands what peers send here to the next process: for `quiet` at most they are waited for to have sent it elsewhere, then further
    /// streams are turned away, those that are open end within `last`, and the peers' connections are closed. How many streams were cut.
    pub(crate) async fn move_inbound(&self, quiet: Duration, last: Duration) -> usize {
        let open = || self.inbound().values().sum::<usize>();
        let ended = async || {
            while open() > 0 {
                tokio::time::sleep(LOOK).await;
            }
        };
        // Those that do not end are the reason for the bounds.
        let _ = tokio::time::timeout(quiet, ended()).await;
        self.0.phase.send_replace(Phase::Moving);
        let _ = tokio::time::timeout(last, ended()).await;
        let cut = open();
        self.0.phase.send_replace(Phase::Moved);
        // The closes go out before the port is given up.
        tokio::time::sleep(LOOK * 2).await;
        cut
    }

    /// Gives the UDP port to another process: streams that were opened here move to another port and go on (RFC 9000 §9),
    /// those that peers opened end.
    pub(crate) fn release(&self) -> io::Result<()> {
        let _entered = self.0.thread.enter();
        leave_port(&self.0.endpoint)
    }

    /// Closes the endpoint and lets its thread end.
    pub(crate) fn stop(&self) {
        self.0.stop();
    }

    /// After [`Tunnels::stop`]: waits for the thread, at most `patience`.
    pub(crate) async fn stopped(&self, patience: Duration) {
        self.0.thread.ended(patience).await;
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

    async fn dial(&self, to: &NodeName, link: &Link) -> io::Result<Dialled> {
        let mut slot = link.connection.lock().await;
        if let Some(dialled) = slot.as_ref().filter(|dialled| dialled.is_usable(&self.0.identity)) {
            return Ok(dialled.clone());
        }
        let ring = *self.0.identity.rings().borrow();
        let config = Purpose::Tunnel.client(&self.0.identity, Some(to.clone())).map_err(io::Error::other)?;
        let (endpoint, addr) = (self.0.endpoint.clone(), link.addr);
        // The connection's driver runs where it is dialled: on the tunnels' own thread.
        let dialled = self.0.thread.runtime().spawn(async move {
            let connecting = endpoint.connect_with(config, addr, "meridian").map_err(io::Error::other)?;
            match tokio::time::timeout(DIAL_PATIENCE, connecting).await {
                Ok(Ok(connection)) => Ok(connection),
                Ok(Err(error)) => Err(io::Error::new(io::ErrorKind::ConnectionRefused, explain(&error))),
                Err(_) => Err(io::ErrorKind::TimedOut.into()),
            }
        });
        let connection = dialled.await.map_err(|_| io::Error::from(io::ErrorKind::NotConnected))??;
        let dialled = Dialled { connection, ring, moved: Arc::default() };
        *slot = Some(dialled.clone());
        *link.present.write().unwrap_or_else(PoisonError::into_inner) = Some(dialled.clone());
        Ok(dialled)
    }
}

impl Shared {
    fn stop(&self) {
        let endpoint = self.endpoint.clone();
        self.thread.end_after(async move {
            endpoint.close(GOODBYE, b"");
            let _ = tokio::time::timeout(LAST_WORDS, endpoint.wait_idle()).await;
        });
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.stop();
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

async fn accept(endpoint: Endpoint, receiver: Receiver) {
    let door = Door::default();
    while let Some(incoming) = endpoint.accept().await {
        let Ok(entering) = door.admit(&endpoint, incoming) else { continue };
        let receiver = receiver.clone();
        tokio::spawn(async move {
            if let Ok(connection) = entering.finished().await {
                receiver.receive(connection).await;
            }
        });
    }
}

/// Takes the streams of peers' connections.
#[derive(Clone)]
struct Receiver {
    identity: Arc<Identity>,
    accepted: mpsc::Sender<TunnelAccept>,
    counts: Arc<Inbound>,
    phases: watch::Receiver<Phase>,
}

impl Receiver {
    async fn receive(mut self, connection: Connection) {
        let Some(name) = peer_name(&connection) else { return };
        let from = Peer { name, addr: connection.remote_address() };
        let open = self.counts.of(&from.name);
        let mut rings = self.identity.rings();
        loop {
            let opened = tokio::select! {
                opened = connection.accept_bi() => opened,
                Ok(()) = rings.changed() => {
                    if !self.identity.still_trusts(&connection) {
                        tracing::warn!(peer = %from.name, addr = %from.addr, "its mesh key was removed: its tunnels are cut");
                        return connection.close(REPLACED, b"the key was removed");
                    }
                    continue;
                }
                Ok(_) = self.phases.wait_for(|phase| *phase == Phase::Moved) => {
                    return connection.close(MOVED, b"the node goes on as another process");
                }
            };
            let Ok((mut send, mut recv)) = opened else { return };
            if *self.phases.borrow() == Phase::Moving {
                // Fails only when the connection is gone, which says the same.
                let _ = (send.reset(MOVED), recv.stop(MOVED));
                continue;
            }
            let side = Side::Far { _counted: Counted::new(&open) };
            let stream = TunnelStream { send, recv, finished: false, side };
            // A stream that finds the queue full is dropped here, which resets it.
            if self.accepted.try_send(TunnelAccept { from: from.clone(), stream }).is_err() {
                tracing::warn!(peer = %from.name, "a tunnel stream was refused: too many wait");
            }
        }
    }
}

/// Whether the peer closed the connection because it goes on as another process.
fn has_closed(error: &ConnectionError) -> bool {
    matches!(error, ConnectionError::ApplicationClosed(close) if close.error_code == MOVED)
}

impl TunnelStream {
    /// Tells a peer that has moved from one that failed, and has the next stream dial anew.
    fn explained(&self, error: io::Error) -> io::Error {
        let Side::Near(moved) = &self.side else { return error };
        let inner = error.get_ref();
        let read =
            inner.and_then(|inner| inner.downcast_ref::<ReadError>()).is_some_and(|error| match error {
                ReadError::Reset(code) => *code == MOVED,
                ReadError::ConnectionLost(error) => has_closed(error),
                _ => false,
            });
        let write =
            inner.and_then(|inner| inner.downcast_ref::<WriteError>()).is_some_and(|error| match error {
                WriteError::Stopped(code) => *code == MOVED,
                WriteError::ConnectionLost(error) => has_closed(error),
                _ => false,
            });
        if !read && !write {
            return error;
        }
        moved.store(true, Ordering::Relaxed);
        io::Error::other(Moved)
    }
}

impl AsyncRead for TunnelStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        AsyncRead::poll_read(Pin::new(&mut this.recv), cx, buf).map_err(|error| this.explained(error))
    }
}

impl AsyncWrite for TunnelStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        AsyncWrite::poll_write(Pin::new(&mut this.send), cx, buf).map_err(|error| this.explained(error))
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
