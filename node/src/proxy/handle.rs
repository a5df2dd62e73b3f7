//! The face of the proxy: what it needs, how it starts, how it is watched and stopped.
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::num::NonZero;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use gossip::clock::Clock;
use gossip::id::{BackendId, ListenerName, NodeName, ServiceName, Tag};
use gossip::mesh::tunnel::TunnelAccept;
use storage::cookie::Cookies;
use storage::ends::Ends;
use tokio::sync::{mpsc, watch};

use super::bind::{BindError, BindProblem};
use super::crowd::{Asked, Network, WINDOW};
use super::limit::Limiters;
use super::listeners::{Inherited, Listeners, Listening};
use super::log::AccessLogger;
use super::outcome::Counters;
use super::plan::RouteCache;
use super::retry::Budgets;
use super::source::SourceKeys;
use super::store::SessionStore;
use super::tally::{ServiceCounts, Tallies};
use super::thread::{self, Order};
use super::tunnel::{InboundTunnel, TunnelDial};
use super::worker::{Gauges, Phase, Shared};
use crate::backend::{Evidence, Snapshot};
use crate::config::model::{AccessFormat, AccessLog, Services};
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
    /// Listening sockets of the process before this one; empty: there was none.
    pub inherited: Inherited,
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
    pub access_format: AccessFormat,
    /// The clock.
    pub clock: Clock,
}

/// The running proxy. Dropping it stops nothing; [`ProxyHandle::shutdown`] does.
pub struct ProxyHandle {
    counters: Arc<Counters>,
    tallies: Arc<Tallies>,
    budgets: Arc<Budgets>,
    limiters: Arc<Limiters>,
    evidence: mpsc::Sender<(BackendId, Evidence)>,
    log: Option<AccessLogger>,
    clock: Clock,
    origin: Instant,
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
    let mut listeners = Listeners::new(config.listen, workers, config.inherited);
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
        tallies: Arc::default(),
        budgets: Arc::default(),
        workers,
    });
    let log = shared.log.clone();
    let (tallies, clock, origin) = (shared.tallies.clone(), shared.clock.clone(), shared.origin);
    let (budgets, limiters) = (shared.budgets.clone(), shared.routes.limiters());
    let evidence = shared.evidence.clone();
    let (phase, phases) = watch::channel(Phase::Serving);
    let (mut gauges, mut orders, mut threads) = (Vec::new(), Vec::new(), Vec::new());
    for (index, first) in changes.drain(..).enumerate() {
        let gauge = Arc::new(Gauges::new(index));
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
    Ok(ProxyHandle {
        counters,
        tallies,
        budgets,
        limiters,
        evidence,
        log,
        clock,
        origin,
        gauges,
        threads: Mutex::new(threads),
        listening,
        phase,
    })
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
    let mut follows = true;
    loop {
        let missing = !listening.load().problems.is_empty();
        tokio::select! {
            changed = changes.changed(), if follows => {
                if changed.is_err() {
                    // Nobody makes snapshots any more: the last one is served to the end.
                    follows = false;
                    continue;
                }
                let next = changes.borrow_and_update().clone();
                if Arc::ptr_eq(&next.services, &present.services) {
                    continue;
                }
                present = next;
            }
            // What could not be bound may become free.
            () = tokio::time::sleep(REBIND), if missing => {}
            phase = reached(&mut phase, Phase::Retiring) => {
                if phase == Phase::Retiring {
                    // The next process has the sockets: here they are closed, and connections are told to go.
                    let (leave, _) = listeners.follow(&Services::default());
                    listening.store(Arc::default());
                    give(&orders, leave).await;
                }
                listening.store(Arc::default());
                return;
            }
        }
        let (changes, problems) = listeners.follow(&present.services);
        let known = listening.load().problems.clone();
        for problem in problems.iter().filter(|problem| !known.contains(problem)) {
            tracing::error!(listener = %problem.listener, "{problem}; all other listeners serve");
        }
        listening.store(Arc::new(listeners.present()));
        if !give(&orders, changes).await {
            return;
        }
    }
}

/// Gives every worker its orders; false when one has ended.
async fn give(workers: &[mpsc::Sender<Order>], orders: Vec<Vec<Order>>) -> bool {
    for (worker, orders_for_it) in workers.iter().zip(orders) {
        for order in orders_for_it {
            if worker.send(order).await.is_err() {
                return false;
            }
        }
    }
    true
}

/// Resolves with the phase once it is at least this one.
async fn reached(phase: &mut watch::Receiver<Phase>, least: Phase) -> Phase {
    match phase.wait_for(|phase| *phase >= least).await {
        Ok(phase) => *phase,
        Err(_) => Phase::Stopped,
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

    /// The listeners by name, with the connections each has and may have.
    pub fn places(&self) -> Vec<(String, usize, usize)> {
        let listening = self.listening.load();
        let places = listening.places.iter().map(|(name, places)| {
            let (taken, most) = places.taken();
            (name.to_string(), taken, most)
        });
        places.collect()
    }

    /// Opens the access log anew, here or elsewhere. Whether it can be: a log that is off, or shall be, needs a new start.
    ///
    /// # Errors
    /// When the file cannot be opened; the lines then go where they went.
    pub fn reopen_log(&self, to: &AccessLog, format: AccessFormat) -> io::Result<bool> {
        match (&self.log, to) {
            (None, AccessLog::Off) => Ok(true),
            (Some(log), AccessLog::Stdout | AccessLog::File(_)) => log.redirect(to, format).map(|()| true),
            _ => Ok(false),
        }
    }

    /// What was done so far.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// What was done for each service of the present revision.
    pub fn services(&self) -> BTreeMap<ServiceName, ServiceCounts> {
        self.tallies.sum()
    }

    /// The retries left to each service that has had a request, and how many can be saved up; as they were at the last request.
    pub fn retry_budgets(&self) -> BTreeMap<ServiceName, (f64, f64)> {
        self.budgets.left()
    }

    /// The clients that each service with a limit by client knows now.
    pub fn limited_clients(&self) -> Vec<(ServiceName, usize)> {
        self.limiters.tracked(self.clock.now().saturating_duration_since(self.origin))
    }

    /// What waits for health to look at it, and how much may.
    pub fn evidence_waiting(&self) -> (usize, usize) {
        let most = self.evidence.max_capacity();
        (most - self.evidence.capacity(), most)
    }

    /// Where the users of the last one to two minutes came from; not sorted.
    pub fn networks(&self) -> Vec<(Network, Asked)> {
        let since = self.clock.now().saturating_duration_since(self.origin);
        let window = since.as_secs() / WINDOW.as_secs();
        let mut sum: HashMap<Network, Asked> = HashMap::new();
        for (network, asked) in self.gauges.iter().flat_map(|gauges| gauges.crowd().all(window)) {
            let all = sum.entry(network).or_default();
            all.requests += asked.requests;
            all.errors += asked.errors;
            all.bytes = all.bytes.saturating_add(asked.bytes);
            all.doubt += asked.doubt;
        }
        sum.into_iter().collect()
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

    /// Copies of the listening sockets, for the process that comes after this one.
    ///
    /// # Errors
    /// When this process has no descriptors left.
    pub fn hand_over(&self) -> io::Result<Inherited> {
        let listening = self.listening.load();
        let copies = listening.kept.iter().map(|(addr, kept)| {
            let copies = kept.iter().map(TcpListener::try_clone).collect::<io::Result<Vec<_>>>();
            Ok((*addr, copies?))
        });
        copies.collect()
    }

    /// Accepts nothing more, since the next process does; who is connected is answered and asked to go. Returns when all
    /// have, at the latest after `deadline`.
    pub async fn retire(&self, deadline: Duration) {
        self.phase.send_replace(Phase::Retiring);
        let all_gone = async {
            let mut look = tokio::time::interval(LOOK);
            while self.connections() > 0 {
                look.tick().await;
            }
        };
        let _ = tokio::time::timeout(deadline, all_gone).await;
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
