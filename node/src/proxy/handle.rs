//! The face of the proxy: what it needs, how it starts, how it is watched and stopped.
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZero;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use gossip::clock::Clock;
use gossip::id::{BackendId, ListenerName, NodeName, Tag};
use gossip::mesh::tunnel::TunnelAccept;
use storage::cookie::Cookies;
use storage::ends::Ends;
use tokio::sync::{mpsc, watch};

use super::bind::{BindError, BindProblem};
use super::listeners::{Listeners, Listening};
use super::log::AccessLogger;
use super::outcome::Counters;
use super::plan::RouteCache;
use super::source::SourceKeys;
use super::store::SessionStore;
use super::thread::{self, Order};
use super::tunnel::{InboundTunnel, TunnelDial};
use super::worker::{Gauges, Phase, Shared};
use crate::backend::{Evidence, Snapshot};
use crate::config::model::{AccessLog, LogFormat};
use crate::tls::Tls;

/// Orders that may wait for one worker; inbound tunnels beyond it are dropped and counted.
const ORDERS: usize = 1024;
/// How often a listener that could not be bound is tried again.
const REBIND: Duration = Duration::from_secs(5);
/// How often a shutdown looks whether all is done.
const LOOK: Duration = Duration::from_millis(10);

/// Why the proxy did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Some addresses cannot be listened on.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The access log cannot be written.
    #[error("cannot open the access log: {0}")]
    AccessLog(#[source] io::Error),
    /// The system gives no thread.
    #[error("cannot start a worker thread: {0}")]
    Thread(#[source] io::Error),
}

/// All that the proxy needs from the rest of the node.
pub struct ProxyConfig<A = TunnelAccept> {
    /// This node: breaks ties between assignments made at the same time.
    pub node: NodeName,
    /// The addresses to listen on; the ports come from the snapshot's listeners.
    pub listen: Vec<IpAddr>,
    /// Worker threads; `None`: one per core.
    pub workers: Option<usize>,
    /// What each request reads (I1).
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// Says when the snapshot changed, so that listeners follow it. Published after `snapshot` was swapped.
    pub changes: watch::Receiver<Arc<Snapshot>>,
    /// The replicated sessions: `Arc::new(sessions)`.
    pub sessions: Arc<dyn SessionStore>,
    /// Seals and opens cookies.
    pub cookies: Cookies,
    /// Which sessions operators have ended.
    pub ends: Ends,
    /// What the ids of source-address sessions are made with, the same on all nodes.
    pub source_keys: SourceKeys,
    /// Opens streams to other nodes: `Arc::new(tunnels)`.
    pub tunnels: Arc<dyn TunnelDial>,
    /// The streams that other nodes open to this one.
    pub tunnel_accepts: mpsc::Receiver<A>,
    /// Takes what requests meet of backends; what does not fit is dropped and counted.
    pub evidence: mpsc::Sender<(BackendId, Evidence)>,
    /// What https listeners show, and how https pools are spoken to.
    pub tls: Tls,
    /// Where the access log goes ...
    pub access: AccessLog,
    /// ... and how its lines look.
    pub access_format: LogFormat,
    /// The clock.
    pub clock: Clock,
}

/// The running proxy. Dropping it stops nothing; [`ProxyHandle::shutdown`] does.
pub struct ProxyHandle {
    counters: Arc<Counters>,
    gauges: Vec<Arc<Gauges>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    listening: Arc<ArcSwap<Listening>>,
    phase: watch::Sender<Phase>,
}

/// Binds the listeners of the present snapshot and starts the workers. Must be called in a tokio runtime: the task
/// that makes listeners follow the snapshot lives there.
///
/// # Errors
/// When any address cannot be bound or the access log not be opened; nothing runs then.
pub fn start<A: Into<InboundTunnel> + Send + 'static>(
    config: ProxyConfig<A>,
) -> Result<ProxyHandle, StartError> {
    let cores = || std::thread::available_parallelism().map_or(1, NonZero::get);
    let workers = config.workers.unwrap_or_else(cores).max(1);
    let counters = Arc::new(Counters::default());
    let log = AccessLogger::open(&config.access, config.access_format, counters.clone())
        .map_err(StartError::AccessLog)?;
    let mut listeners = Listeners::new(config.listen, workers);
    let present = config.snapshot.load_full();
    let (mut changes, problems) = listeners.follow(&present.services);
    if !problems.is_empty() {
        return Err(BindError { problems }.into());
    }
    let shared = Arc::new(Shared {
        node: Tag::of(config.node.as_str()),
        snapshot: config.snapshot,
        routes: RouteCache::default(),
        sessions: config.sessions,
        cookies: config.cookies,
        ends: config.ends,
        source_keys: config.source_keys,
        tunnels: config.tunnels,
        evidence: config.evidence,
        tls: config.tls,
        log,
        origin: config.clock.now(),
        clock: config.clock,
        counters: counters.clone(),
        workers,
    });
    let (phase, phases) = watch::channel(Phase::Serving);
    let (mut gauges, mut orders, mut threads) = (Vec::new(), Vec::new(), Vec::new());
    for (index, first) in changes.drain(..).enumerate() {
        let gauge = Arc::new(Gauges::default());
        let (sender, receiver) = mpsc::channel(ORDERS);
        let (shared, its_gauge, its_phase) = (shared.clone(), gauge.clone(), phases.clone());
        let thread = std::thread::Builder::new()
            .name(format!("proxy-{index}"))
            .spawn(move || thread::run(shared, its_gauge, first, receiver, its_phase))
            .map_err(StartError::Thread)?;
        gauges.push(gauge);
        orders.push(sender);
        threads.push(thread);
    }
    let listening = Arc::new(ArcSwap::from_pointee(listeners.present()));
    tokio::spawn(follow(
        listeners,
        config.changes,
        present,
        orders.clone(),
        listening.clone(),
        phases.clone(),
    ));
    tokio::spawn(hand_out(config.tunnel_accepts, orders.clone(), counters.clone(), phases));
    Ok(ProxyHandle { counters, gauges, threads: Mutex::new(threads), listening, phase })
}

/// Makes the workers' listeners follow the snapshots. Owns the sockets' list; ends with the proxy.
async fn follow(
    mut listeners: Listeners,
    mut changes: watch::Receiver<Arc<Snapshot>>,
    mut present: Arc<Snapshot>,
    orders: Vec<mpsc::Sender<Order>>,
    listening: Arc<ArcSwap<Listening>>,
    mut phase: watch::Receiver<Phase>,
) {
    changes.mark_changed();
    loop {
        let missing = !listening.load().problems.is_empty();
        tokio::select! {
            changed = changes.changed() => {
                if changed.is_err() {
                    return;
                }
                let next = changes.borrow_and_update().clone();
                if Arc::ptr_eq(&next.services, &present.services) {
                    continue;
                }
                present = next;
            }
            // What could not be bound may become free.
            () = tokio::time::sleep(REBIND), if missing => {}
            _ = phase.wait_for(|phase| *phase >= Phase::Closing) => return,
        }
        let (changes, problems) = listeners.follow(&present.services);
        let known = listening.load().problems.clone();
        for problem in problems.iter().filter(|problem| !known.contains(problem)) {
            tracing::error!(listener = %problem.listener, "{problem}; all other listeners serve");
        }
        listening.store(Arc::new(listeners.present()));
        for (worker, orders_for_it) in orders.iter().zip(changes) {
            for order in orders_for_it {
                if worker.send(order).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Hands inbound tunnels to the workers in turn; a worker whose queue is full is passed over.
async fn hand_out<A: Into<InboundTunnel>>(
    mut accepts: mpsc::Receiver<A>,
    orders: Vec<mpsc::Sender<Order>>,
    counters: Arc<Counters>,
    mut phase: watch::Receiver<Phase>,
) {
    let mut turn = 0;
    loop {
        let accepted = tokio::select! {
            accepted = accepts.recv() => accepted,
            _ = phase.wait_for(|phase| *phase >= Phase::Closing) => None,
        };
        let Some(accepted) = accepted else { return };
        let mut order = Some(Order::Tunnel(accepted.into()));
        for _ in 0..orders.len() {
            turn = (turn + 1) % orders.len();
            match order.take().map(|order| orders[turn].try_send(order)) {
                Some(Err(
                    mpsc::error::TrySendError::Full(back) | mpsc::error::TrySendError::Closed(back),
                )) => {
                    order = Some(back);
                }
                Some(Ok(())) | None => break,
            }
        }
        if order.is_some() {
            counters.tunnels_dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl ProxyHandle {
    /// What is listened on now.
    pub fn listening(&self) -> Vec<(ListenerName, SocketAddr)> {
        self.listening.load().sockets.clone()
    }

    /// Listeners of the present revision that could not be bound: for `status`. The rest serves.
    pub fn problems(&self) -> Vec<BindProblem> {
        self.listening.load().problems.clone()
    }

    /// What was done so far.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Requests and TCP relays in flight, those of inbound tunnels included.
    pub fn in_flight(&self) -> usize {
        self.gauges.iter().map(|gauge| gauge.in_flight()).sum()
    }

    /// Open connections and inbound tunnels, idle ones included.
    pub fn connections(&self) -> usize {
        self.gauges.iter().map(|gauge| gauge.open()).sum()
    }

    /// Begins to leave: goes on accepting and serving, but asks clients to close after each response.
    pub fn drain(&self) {
        self.phase.send_replace(Phase::Draining);
    }

    /// Stays after all.
    pub fn undrain(&self) {
        self.phase.send_replace(Phase::Serving);
    }

    /// Stops accepting, lets what is in flight end, at most until `deadline` from now, and stops the workers. Returns
    /// how many connections were cut.
    pub async fn shutdown(&self, deadline: Duration) -> usize {
        self.phase.send_replace(Phase::Closing);
        let all_closed = async {
            let mut look = tokio::time::interval(LOOK);
            while self.connections() > 0 {
                look.tick().await;
            }
        };
        let _ = tokio::time::timeout(deadline, all_closed).await;
        let cut = self.connections();
        self.phase.send_replace(Phase::Stopped);
        let threads =
            self.threads.lock().map(|mut threads| std::mem::take(&mut *threads)).unwrap_or_default();
        let joined = tokio::task::spawn_blocking(move || {
            threads.into_iter().map(JoinHandle::join).all(|ended| ended.is_ok())
        });
        if !joined.await.unwrap_or(false) {
            tracing::error!("a worker ended in a panic");
        }
        cut
    }
}
