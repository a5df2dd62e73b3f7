//! Accepting: one task a socket, one task a connection, all on the worker's own thread.
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::activity::{Activity, Watched};
use super::connection::{self, Client};
use super::places::Places;
use super::proxy_protocol::{self, Arrival};
use super::record::Record;
use super::worker::Worker;
use super::{forwarded, secure, tcp};
use crate::config::model::{Listener, ListenerProtocol};

/// How long a worker accepts nothing when the system has no descriptors or memory left for a connection.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// How long the connections of a socket may stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stay {
    /// As long as they like.
    Welcome,
    /// The configuration closed the socket, the node stays: what is asked is still answered, and clients are told to go. A
    /// connection that is cut while idle could cross a request on its way, and its user would see an error.
    Leaving,
    /// The node ends: connections close when what they do is done.
    Closing,
}

/// Connections that are still taken from a socket that closes, so that a flood cannot keep it open.
const QUEUED_MAX: usize = 4096;

/// One listening socket of one worker. Its configuration follows the revisions; the socket stays.
pub(super) struct Slot {
    listener: RefCell<Arc<Listener>>,
    places: RefCell<Arc<Places>>,
    /// What `stay` says, for requests to look at without a lock.
    now: Cell<Stay>,
    stay: watch::Sender<Stay>,
}

impl Slot {
    pub(super) fn new(listener: Arc<Listener>, places: Arc<Places>) -> Self {
        Self {
            listener: RefCell::new(listener),
            places: RefCell::new(places),
            now: Cell::new(Stay::Welcome),
            stay: watch::Sender::new(Stay::Welcome),
        }
    }

    pub(super) fn listener(&self) -> Arc<Listener> {
        self.listener.borrow().clone()
    }

    /// Takes over what a new revision says. Connections that are open keep the places they have.
    pub(super) fn update(&self, listener: Arc<Listener>, places: Arc<Places>) {
        *self.listener.borrow_mut() = listener;
        *self.places.borrow_mut() = places;
    }

    /// Says when its connections shall go.
    pub(super) fn stay(&self) -> watch::Receiver<Stay> {
        self.stay.subscribe()
    }

    /// Whether its clients are to be told to go.
    pub(super) fn is_leaving(&self) -> bool {
        self.now.get() != Stay::Welcome
    }

    /// Lets its connections go.
    pub(super) fn let_go(&self, stay: Stay) {
        self.now.set(stay);
        self.stay.send_replace(stay);
    }
}

/// Accepts connections until the slot lets them go, those last that the system had already taken when it did: their clients
/// believe that they are connected, and a reset would be an error to them.
pub(super) async fn accept(worker: Rc<Worker>, slot: Rc<Slot>, socket: TcpListener) {
    let mut stay = slot.stay();
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            _ = stay.wait_for(|stay| *stay != Stay::Welcome) => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) if concerns_one_connection(&error) => continue,
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections for the moment");
                tokio::time::sleep(EXHAUSTED).await;
                continue;
            }
        };
        let places = slot.places.borrow().clone();
        let permit = match places.try_take() {
            Some(permit) => permit,
            None => {
                // Full: this one waits, and those behind it wait in the system's queue.
                worker.shared.counters.connections_held.fetch_add(1, Ordering::Relaxed);
                let permit = tokio::select! {
                    permit = places.take() => permit,
                    _ = stay.wait_for(|stay| *stay != Stay::Welcome) => break,
                };
                match permit {
                    Some(permit) => permit,
                    None => continue,
                }
            }
        };
        admit(&worker, &slot, stream, peer, permit);
    }
    // The system's word on what is queued is heard when this task has waited once more.
    tokio::task::yield_now().await;
    for _ in 0..QUEUED_MAX {
        let queued = tokio::task::unconstrained(socket.accept()).now_or_never();
        let Some(Ok((stream, peer))) = queued else { break };
        let Some(permit) = slot.places.borrow().try_take() else { break };
        admit(&worker, &slot, stream, peer, permit);
    }
}

fn admit(
    worker: &Rc<Worker>,
    slot: &Rc<Slot>,
    stream: TcpStream,
    peer: SocketAddr,
    permit: OwnedSemaphorePermit,
) {
    worker.shared.counters.connections.fetch_add(1, Ordering::Relaxed);
    tokio::task::spawn_local(admitted(worker.clone(), slot.clone(), stream, peer, permit));
}

fn concerns_one_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

async fn admitted(
    worker: Rc<Worker>,
    slot: Rc<Slot>,
    stream: TcpStream,
    peer: SocketAddr,
    permit: OwnedSemaphorePermit,
) {
    let _open = worker.open();
    // A connection whose peer is gone already has no such option; its first read will tell.
    let _ = stream.set_nodelay(true);
    let listener = slot.listener();
    let mut stay = slot.stay();
    let arrived = tokio::select! {
        biased;
        arrived = proxy_protocol::arrive(&listener, &stream, peer) => arrived,
        // Nothing was asked yet.
        _ = stay.wait_for(|stay| *stay == Stay::Closing) => return,
    };
    let arrival = match arrived {
        Ok(arrival) => arrival,
        Err(end) => {
            return Record::begin(&worker, forwarded::plain(peer.ip()), Some(&listener.name), None).end(end);
        }
    };
    let places = slot.places.borrow().clone();
    let Ok(place) = places.of_client(&listener, arrival.client.ip()) else {
        worker.shared.counters.connections_refused.fetch_add(1, Ordering::Relaxed);
        return;
    };
    drop(places);
    match listener.protocol {
        ListenerProtocol::Http => http(worker, slot, stream, arrival).await,
        // What only some connections need, the others do not hold.
        ListenerProtocol::Https => Box::pin(https(worker, slot, stream, arrival)).await,
        ListenerProtocol::Tcp | ListenerProtocol::Tls => {
            Box::pin(tcp::serve(worker, slot, stream, arrival)).await;
        }
    }
    drop((permit, place));
}

async fn http(worker: Rc<Worker>, slot: Rc<Slot>, stream: TcpStream, arrival: Arrival) {
    let Arrival { client: peer, local } = arrival;
    let activity = Arc::new(Activity::new(worker.clock().now()));
    let socket = Arc::new(stream);
    connection::plain(Client { worker, slot, peer, local, is_secure: false, activity, socket }).await;
}

async fn https(worker: Rc<Worker>, slot: Rc<Slot>, stream: TcpStream, arrival: Arrival) {
    let Arrival { client: peer, local } = arrival;
    let activity = Arc::new(Activity::new(worker.clock().now()));
    let socket = Arc::new(stream);
    let io = Watched::new(socket.clone(), activity.clone(), worker.clock().clone());
    let name = slot.listener.borrow().name.clone();
    let mut stay = slot.stay();
    let stream = tokio::select! {
        stream = Box::pin(secure::handshake(&worker, &name, io)) => stream,
        // Nothing was asked yet; the client will ask elsewhere.
        _ = stay.wait_for(|stay| *stay == Stay::Closing) => None,
    };
    let Some(stream) = stream else { return };
    activity.awaits_head(worker.clock().now());
    let client = Client { worker, slot, peer, local, is_secure: true, activity, socket };
    connection::secured(client, stream).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task<A, B, C, D, E, F>(_: impl FnOnce(A, B, C, D, E) -> F) -> usize {
        size_of::<F>()
    }

    fn part<A, B, C, D, F>(_: impl FnOnce(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn what_a_connection_holds_at_rest_stays_small() {
        // It is held for as long as the connection stands, whatever the connection does.
        let bytes = [task(admitted), part(https)];
        assert!(bytes.iter().all(|bytes| *bytes <= 2 * 1024), "{bytes:?}");
    }
}
