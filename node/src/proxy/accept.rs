//! Accepting: one task a socket, one task a connection, all on the worker's own thread.
use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::activity::{Activity, FIRST_LOOK, Verdict, Watched, look};
use super::http::{self, Door};
use super::outcome::End;
use super::tcp;
use super::worker::Worker;
use crate::config::model::{Listener, ListenerProtocol};

/// How long a worker accepts nothing when the system has no descriptors or memory left for a connection.
const EXHAUSTED: Duration = Duration::from_millis(100);
/// How often a connection that is asked to close is looked at again.
const CLOSING: Duration = Duration::from_secs(10);

/// One listening socket of one worker. Its configuration follows the revisions; the socket stays.
pub(super) struct Slot {
    listener: RefCell<Arc<Listener>>,
    permits: RefCell<Arc<Semaphore>>,
    closing: watch::Sender<bool>,
}

impl Slot {
    pub(super) fn new(listener: Arc<Listener>, permits: Arc<Semaphore>) -> Self {
        Self {
            listener: RefCell::new(listener),
            permits: RefCell::new(permits),
            closing: watch::Sender::new(false),
        }
    }

    pub(super) fn listener(&self) -> Arc<Listener> {
        self.listener.borrow().clone()
    }

    /// Takes over what a new revision says. Connections that are open keep the places they have.
    pub(super) fn update(&self, listener: Arc<Listener>, permits: Arc<Semaphore>) {
        *self.listener.borrow_mut() = listener;
        *self.permits.borrow_mut() = permits;
    }

    /// Asks its connections to close when what they do is done.
    pub(super) fn close(&self) {
        self.closing.send_replace(true);
    }
}

/// Accepts connections until it is aborted.
pub(super) async fn accept(worker: Rc<Worker>, slot: Rc<Slot>, socket: TcpListener) {
    loop {
        let (stream, peer) = match socket.accept().await {
            Ok(accepted) => accepted,
            Err(error) if concerns_one_connection(&error) => continue,
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections for the moment");
                tokio::time::sleep(EXHAUSTED).await;
                continue;
            }
        };
        let permits = slot.permits.borrow().clone();
        let permit = match permits.clone().try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                // Full: this one waits, and those behind it wait in the system's queue.
                worker.shared.counters.connections_held.fetch_add(1, Ordering::Relaxed);
                match permits.acquire_owned().await {
                    Ok(permit) => permit,
                    Err(_) => continue,
                }
            }
        };
        worker.shared.counters.connections.fetch_add(1, Ordering::Relaxed);
        tokio::task::spawn_local(connection(worker.clone(), slot.clone(), stream, peer, permit));
    }
}

fn concerns_one_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

async fn connection(
    worker: Rc<Worker>,
    slot: Rc<Slot>,
    stream: TcpStream,
    peer: SocketAddr,
    permit: OwnedSemaphorePermit,
) {
    let _open = worker.open();
    // A connection whose peer is gone already has no such option; its first read will tell.
    let _ = stream.set_nodelay(true);
    let protocol = slot.listener.borrow().protocol;
    match protocol {
        ListenerProtocol::Http => http(worker, slot, stream, peer).await,
        ListenerProtocol::Tcp => tcp::serve(worker, slot, stream, peer).await,
    }
    drop(permit);
}

async fn http(worker: Rc<Worker>, slot: Rc<Slot>, stream: TcpStream, peer: SocketAddr) {
    let Ok(local) = stream.local_addr() else { return };
    let clock = worker.clock().clone();
    let activity = Arc::new(Activity::new(clock.now()));
    let stream = Arc::new(stream);
    let io = TokioIo::new(Watched::new(stream.clone(), activity.clone(), clock.clone()));
    let mut closing = slot.closing.subscribe();
    let counters = worker.shared.counters.clone();
    let door = Rc::new(Door { worker, slot, peer, local, activity: activity.clone() });
    let service = service_fn(move |request| http::serve(door.clone(), request));
    let connection = http::server().serve_connection(io, service).with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let mut timer = std::pin::pin!(tokio::time::sleep(FIRST_LOOK));
    let mut asked = false;
    loop {
        tokio::select! {
            biased;
            served = connection.as_mut() => {
                if let Err(error) = served {
                    if error.is_parse() {
                        // Answered by hyper itself, for there is no request to speak of.
                        counters.ended(End::BadRequest);
                    }
                    tracing::debug!(client.addr = %peer, %error, "a client connection broke");
                }
                return;
            }
            () = timer.as_mut() => match activity.verdict(clock.now(), || look(&stream)) {
                Verdict::Wait(time) => timer.set(tokio::time::sleep(time)),
                Verdict::Cut => return,
                Verdict::Close => {
                    connection.as_mut().graceful_shutdown();
                    timer.set(tokio::time::sleep(CLOSING));
                }
            },
            _ = closing.wait_for(|closing| *closing), if !asked => {
                asked = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}
