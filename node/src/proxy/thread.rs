//! A worker's thread: its runtime, the orders it takes, and its housekeeping. It owns its sockets and tasks; when it ends,
//! all of them end.
use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::LocalOptions;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

use super::accept::{Slot, Stay, accept};
use super::places::Places;
use super::tunnel::{InboundTunnel, far};
use super::worker::{Gauges, Phase, Shared, Worker};
use crate::config::model::Listener;

/// How often idle backend connections are looked through.
const SWEEP: Duration = Duration::from_secs(5);

/// What a worker is told.
pub(super) enum Order {
    /// Listen on a socket.
    Listen(Opened),
    /// The listener at this address has another configuration now.
    Update(SocketAddr, Arc<Listener>, Arc<Places>),
    /// Stop listening at this address.
    Close(SocketAddr),
    /// Serve an inbound tunnel.
    Tunnel(InboundTunnel),
}

/// A socket for one worker.
pub(super) struct Opened {
    pub(super) addr: SocketAddr,
    pub(super) listener: Arc<Listener>,
    pub(super) places: Arc<Places>,
    pub(super) socket: TcpListener,
}

struct Listening {
    slot: Rc<Slot>,
    task: AbortHandle,
}

/// The sockets of a worker.
#[derive(Default)]
struct Sockets {
    open: HashMap<SocketAddr, Listening>,
    /// Those that were closed while connections of theirs are still served.
    left: Vec<Weak<Slot>>,
}

impl Sockets {
    /// Accepts nothing more at this address; its clients are told to go elsewhere.
    fn leave(&mut self, addr: SocketAddr) {
        if let Some(Listening { slot, .. }) = self.open.remove(&addr) {
            slot.let_go(Stay::Leaving);
            self.left.retain(|left| left.strong_count() > 0);
            self.left.push(Rc::downgrade(&slot));
        }
    }

    /// Accepts nothing more at all; connections close when what they do is done.
    fn close(&mut self) {
        for (_, Listening { slot, task }) in self.open.drain() {
            task.abort();
            slot.let_go(Stay::Closing);
        }
        self.left.drain(..).filter_map(|left| left.upgrade()).for_each(|slot| slot.let_go(Stay::Closing));
    }
}

/// Runs a worker until it is told to stop.
pub(super) fn run(
    shared: Arc<Shared>,
    gauges: Arc<Gauges>,
    first: Vec<Order>,
    orders: mpsc::Receiver<Order>,
    phase: watch::Receiver<Phase>,
) {
    // Its tasks are the thread's own, so they need neither a lock nor a set of their own to be woken.
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = match builder.enable_all().build_local(LocalOptions::default()) {
        Ok(runtime) => runtime,
        Err(error) => return tracing::error!(%error, "a worker has no runtime and does not serve"),
    };
    runtime.block_on(serve(shared, gauges, first, orders, phase));
}

async fn serve(
    shared: Arc<Shared>,
    gauges: Arc<Gauges>,
    first: Vec<Order>,
    mut orders: mpsc::Receiver<Order>,
    mut phase: watch::Receiver<Phase>,
) {
    let worker = Rc::new(Worker::new(shared, gauges));
    let mut sockets = Sockets::default();
    for order in first {
        obey(&worker, &mut sockets, order);
    }
    let mut closed = false;
    let mut sweep = tokio::time::interval(SWEEP);
    loop {
        tokio::select! {
            order = orders.recv(), if !closed => match order {
                // Those who give orders end first when the node closes.
                None => closed = true,
                // What was on its way when the node began to close finds it closed.
                Some(_) if worker.phase.get() == Phase::Closing => {}
                Some(order) => obey(&worker, &mut sockets, order),
            },
            changed = phase.changed() => {
                let phase = *phase.borrow_and_update();
                if changed.is_err() || phase == Phase::Stopped {
                    return;
                }
                worker.phase.set(phase);
                if phase == Phase::Closing {
                    sockets.close();
                }
            }
            _ = sweep.tick() => {
                let plan = worker.plan();
                let pools = &plan.snapshot.pools;
                worker.upstreams.sweep(worker.clock().now(), |id| {
                    pools.values().flat_map(|pool| &pool.backends).any(|backend| backend.config.id == id)
                });
            }
        }
    }
}

fn obey(worker: &Rc<Worker>, sockets: &mut Sockets, order: Order) {
    match order {
        Order::Listen(Opened { addr, listener, places, socket }) => {
            let name = listener.name.clone();
            let socket = match tokio::net::TcpListener::from_std(socket) {
                Ok(socket) => socket,
                Err(error) => return tracing::error!(listener = %name, %error, "cannot listen"),
            };
            let slot = Rc::new(Slot::new(listener, places));
            let task = tokio::task::spawn_local(accept(worker.clone(), slot.clone(), socket)).abort_handle();
            sockets.open.insert(addr, Listening { slot, task });
        }
        Order::Update(addr, listener, places) => {
            if let Some(listening) = sockets.open.get(&addr) {
                listening.slot.update(listener, places);
            }
        }
        Order::Close(addr) => sockets.leave(addr),
        Order::Tunnel(tunnel) => {
            let worker = worker.clone();
            tokio::task::spawn_local(async move {
                let _open = worker.open();
                far::serve(worker, tunnel).await;
            });
        }
    }
}
