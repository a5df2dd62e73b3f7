//! One peer's link: dials it, keeps the connection, sends what waits in the queue.
//!
//! ```text
//!          queue (bounded)                    ┌── open_uni ─▶ message
//! Mesh ───────────────▶ task: dial ─▶ Up ─────┤
//!   ▲                     ▲    │failed        └── closed ──▶ dial again
//!   │ watch<LinkState>    └────┴── Down until the back-off ends; the queue is dropped
//!   └── datagrams and exchanges go straight to the cached connection
//! ```
//!
//! The task owns the dialling; it ends when the link is closed by [`Link::close`] or the mesh stops. Stopping it at any
//! point loses only messages that were still queued.
//!
//! When the keyring changes, the link is dialled anew beside the connection that stands, which goes once what was under
//! way on it has had its time: so both ends hold certificates of the present ring before an old key is removed.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use quinn::Connection;
use tokio::sync::{Notify, mpsc, watch};

use super::dial::Backoff;
use super::endpoint::{Purpose, explain, peer_name};
use super::quic::Shared;
use super::wire::{GOODBYE, REPLACED, STREAM_PATIENCE};
use crate::id::NodeName;

/// Messages that may wait for one peer; further ones are refused.
pub(crate) const QUEUE: usize = 1024;
/// What they may weigh.
pub(crate) const QUEUE_BYTES: usize = 16 << 20;
const DIAL_PATIENCE: Duration = Duration::from_secs(3);
const MESSAGES_IN_FLIGHT: usize = 16;
/// A connection that was replaced stays so long for what is under way on it.
const FAREWELL: Duration = Duration::from_secs(10);

/// A connection that stands, and who is at its other end.
#[derive(Debug, Clone)]
pub(crate) struct Connected {
    pub(crate) connection: Connection,
    pub(crate) name: NodeName,
}

#[derive(Debug, Clone)]
pub(crate) enum LinkState {
    Dialling,
    Up(Connected),
    Down,
    Closed,
}

/// The handle of a link; its task holds another.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) addr: SocketAddr,
    state: watch::Sender<LinkState>,
    queue: mpsc::Sender<Waiting>,
    queued_bytes: AtomicUsize,
    kick: Notify,
    closed: AtomicBool,
    used: Mutex<Instant>,
}

/// A framed message, for one node or for whoever is at the address: a node that died may have left its address to
/// another one.
struct Waiting {
    to: Option<NodeName>,
    framed: Bytes,
}

/// The queue is full; nothing was queued.
pub(crate) struct Full;

impl Link {
    /// Makes the link and starts its task.
    pub(crate) fn start(shared: &Arc<Shared>, addr: SocketAddr) -> Arc<Self> {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let link = Arc::new(Self {
            addr,
            state: watch::Sender::new(LinkState::Dialling),
            queue,
            queued_bytes: AtomicUsize::new(0),
            kick: Notify::new(),
            closed: AtomicBool::new(false),
            used: Mutex::new(shared.clock.now()),
        });
        shared.runtime.spawn(run(link.clone(), shared.clone(), waiting));
        link
    }

    /// The connection, when one stands.
    pub(crate) fn connected(&self) -> Option<Connected> {
        match &*self.state.borrow() {
            LinkState::Up(connected) => Some(connected.clone()),
            _ => None,
        }
    }

    /// Waits while the link is being dialled. `None` when the dial failed.
    pub(crate) async fn wait(&self) -> Option<Connected> {
        let mut state = self.state.subscribe();
        let state = state.wait_for(|state| !matches!(state, LinkState::Dialling)).await.ok()?;
        match &*state {
            LinkState::Up(connected) => Some(connected.clone()),
            _ => None,
        }
    }

    /// Queues a framed message, for `to` alone when it is given.
    pub(crate) fn push(&self, to: Option<&NodeName>, framed: Bytes) -> Result<(), Full> {
        let bytes = framed.len();
        if self.queued_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes > QUEUE_BYTES {
            self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            return Err(Full);
        }
        self.queue.try_send(Waiting { to: to.cloned(), framed }).map_err(|_| {
            self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            Full
        })
    }

    /// Whether a message queued now would wait for the end of a back-off.
    pub(crate) fn is_down(&self) -> bool {
        matches!(&*self.state.borrow(), LinkState::Down | LinkState::Closed)
    }

    /// Messages that wait for a stream.
    pub(crate) fn queued(&self) -> usize {
        self.queue.max_capacity() - self.queue.capacity()
    }

    /// Bytes queued and not yet handed to a stream.
    pub(crate) fn backlog(&self) -> usize {
        self.queued_bytes.load(Ordering::Relaxed)
    }

    /// Gives the present connection up and dials at once: the peer is known to have restarted.
    pub(crate) fn redial(&self) {
        if let Some(connected) = self.connected() {
            connected.connection.close(REPLACED, b"dialling anew");
        }
        self.kick.notify_one();
    }

    /// Ends a back-off early: there is new reason to believe that the peer is there.
    pub(crate) fn hurry(&self) {
        if self.is_down() {
            self.kick.notify_one();
        }
    }

    /// Takes note that somebody uses the link.
    pub(crate) fn touch(&self, now: Instant) {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }

    pub(crate) fn last_used(&self) -> Instant {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the link and its task.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        if let Some(connected) = self.connected() {
            connected.connection.close(GOODBYE, b"");
        }
        self.kick.notify_one();
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    fn took(&self, framed: &Bytes) {
        self.queued_bytes.fetch_sub(framed.len(), Ordering::Relaxed);
    }
}

async fn run(link: Arc<Link>, shared: Arc<Shared>, mut waiting: mpsc::Receiver<Waiting>) {
    let mut backoff = Backoff::default();
    while !link.is_closed() {
        link.state.send_replace(LinkState::Dialling);
        match dial(&link, &shared).await {
            Ok(connected) => {
                if backoff.failures() > 0 {
                    tracing::info!(peer = %connected.name, addr = %link.addr, "connected again");
                }
                let since = shared.clock.now();
                keep(&link, &shared, connected, &mut waiting).await;
                // Only a connection that lasted shows that the peer is well.
                if shared.clock.now() - since > Duration::from_secs(1) {
                    backoff.connected();
                    continue;
                }
            }
            Err(reason) => {
                // A peer that leaves refuses a few times before its goodbye is heard: no news.
                let failures = backoff.failures() + 1;
                if failures >= 4 && failures.is_power_of_two() {
                    tracing::warn!(addr = %link.addr, reason, "cannot reach a peer, trying on");
                } else {
                    tracing::debug!(addr = %link.addr, reason, "cannot reach a peer");
                }
            }
        }
        if link.is_closed() {
            break;
        }
        let again = backoff.failed(shared.clock.now(), &mut rand::rng());
        link.state.send_replace(LinkState::Down);
        while let Ok(Waiting { framed, .. }) = waiting.try_recv() {
            link.took(&framed);
        }
        tokio::select! {
            () = tokio::time::sleep_until(again.into()) => {}
            () = link.kick.notified() => {}
        }
    }
    link.state.send_replace(LinkState::Closed);
}

async fn dial(link: &Link, shared: &Shared) -> Result<Connected, String> {
    let config = Purpose::Mesh.client(&shared.identity, None).map_err(|error| error.to_string())?;
    let connecting =
        shared.endpoint.connect_with(config, link.addr, "meridian").map_err(|error| error.to_string())?;
    let connection = match tokio::time::timeout(DIAL_PATIENCE, connecting).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            let reason = explain(&error);
            shared.strangers.refused(link.addr, &reason, shared.clock.now());
            return Err(reason);
        }
        Err(_) => return Err("no answer".into()),
    };
    let Some(name) = peer_name(&connection) else {
        connection.close(REPLACED, b"");
        return Err("its certificate names no node".into());
    };
    Ok(Connected { connection, name })
}

/// Serves a connection, and its successors after a change of the keyring, until one ends by itself or the link does.
async fn keep(link: &Link, shared: &Shared, mut connected: Connected, waiting: &mut mpsc::Receiver<Waiting>) {
    let mut rings = shared.identity.rings();
    loop {
        link.state.send_replace(LinkState::Up(connected.clone()));
        match serve(link, &connected, waiting, &mut rings).await {
            Served::Ended => return,
            Served::NewRing => match dial(link, shared).await {
                Ok(next) => {
                    let former = std::mem::replace(&mut connected, next).connection;
                    drop(shared.runtime.spawn(async move {
                        tokio::time::sleep(FAREWELL).await;
                        former.close(REPLACED, b"the keyring changed");
                    }));
                }
                Err(reason) => {
                    tracing::debug!(peer = %connected.name, reason, "cannot be dialled anew; the connection that stands stays");
                }
            },
        }
        if !shared.identity.still_trusts(&connected.connection) {
            tracing::warn!(peer = %connected.name, addr = %link.addr, "its mesh key was removed: disconnected");
            connected.connection.close(REPLACED, b"the key was removed");
        }
    }
}

/// Why a connection is no longer served.
enum Served {
    /// It, or the link, is over.
    Ended,
    /// Another keyring is in force.
    NewRing,
}

/// Sends what is queued until the connection or the link ends, or the keyring changes.
async fn serve(
    link: &Link,
    connected: &Connected,
    waiting: &mut mpsc::Receiver<Waiting>,
    rings: &mut watch::Receiver<u64>,
) -> Served {
    let Connected { connection, name } = connected;
    let mut sending = FuturesUnordered::new();
    let closed = connection.closed();
    tokio::pin!(closed);
    loop {
        tokio::select! {
            _ = &mut closed => return Served::Ended,
            // What is being sent is sent to its end before that.
            Ok(()) = rings.changed(), if sending.is_empty() => return Served::NewRing,
            () = link.kick.notified() => {
                if link.is_closed() {
                    return Served::Ended;
                }
            }
            framed = waiting.recv(), if sending.len() < MESSAGES_IN_FLIGHT => {
                let Some(Waiting { to, framed }) = framed else { return Served::Ended };
                if to.is_some_and(|to| to != *name) {
                    link.took(&framed);
                    continue;
                }
                sending.push(async move {
                    let sent = tokio::time::timeout(STREAM_PATIENCE, send(connection, &framed)).await;
                    link.took(&framed);
                    if !matches!(sent, Ok(Some(()))) {
                        tracing::debug!(addr = %link.addr, bytes = framed.len(), "a message was not delivered");
                    }
                });
            }
            Some(()) = sending.next() => {}
        }
    }
}

async fn send(connection: &Connection, framed: &[u8]) -> Option<()> {
    let mut stream = connection.open_uni().await.ok()?;
    stream.write_all(framed).await.ok()?;
    stream.finish().ok()
}
