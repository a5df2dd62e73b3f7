//! Pools and backends as the data plane sees them: what outlives a revision, and the immutable snapshot of the rest.
//!
//! ```text
//! registry ──(config + health + intents)──▶ Snapshot ──ArcSwap──▶ workers, dns, admin
//!                                            └ Arc<BackendShared>: counters that live as long as the backend
//! ```

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use gossip::clock::Hlc;
use gossip::id::{NodeName, PoolName, RegionName, RevisionId, ZoneName};
use gossip::state::{BackendState, PoolSummary};
use std::net::SocketAddr;
use std::time::Duration;

use crate::balance::peak_ewma::Latency;
use crate::balance::rack::Rack;
use crate::config::model::{Backend, Pool, Services};
use crate::queue::Queue;
use crate::timings::Timings;

/// What belongs to a backend as long as its pool names it, over all revisions. Padded to a cache line pair so that
/// workers on different cores do not share one by accident.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct BackendShared {
    in_flight: AtomicU32,
    elsewhere: AtomicU32,
    failures_in_a_row: AtomicU32,
    requests: AtomicU64,
    errors: AtomicU64,
    latency: Latency,
    timings: OnceLock<Box<Timings>>,
    queue: Queue,
}

impl BackendShared {
    /// Counts one request in; dropping the guard counts it out.
    pub fn enter(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.requests.fetch_add(1, Ordering::Relaxed);
        InFlight(self.clone(), None)
    }
    /// Counts one request in unless `limit` are in flight from this node. Dropping the guard counts it out and wakes who
    /// waits for the backend, else who waits for `pool`.
    pub fn try_enter(self: &Arc<Self>, limit: u32, pool: &Arc<Queue>) -> Option<InFlight> {
        let room = |in_flight| (in_flight < limit).then_some(in_flight + 1);
        self.in_flight.fetch_update(Ordering::SeqCst, Ordering::SeqCst, room).ok()?;
        self.requests.fetch_add(1, Ordering::Relaxed);
        Some(InFlight(self.clone(), Some(pool.clone())))
    }
    /// Those who wait for this backend and no other.
    pub fn queue(&self) -> &Queue {
        &self.queue
    }
    /// Requests in flight from this node.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }
    /// Requests in flight from the other nodes of the mesh, as last heard.
    pub fn elsewhere(&self) -> u32 {
        self.elsewhere.load(Ordering::Relaxed)
    }
    /// Takes note of the other nodes' load.
    pub fn set_elsewhere(&self, in_flight: u32) {
        self.elsewhere.store(in_flight, Ordering::Relaxed);
    }
    /// Requests ever sent from this node.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
    /// How long requests of this node took, while the pool's policy wants to know.
    pub fn latency(&self) -> &Latency {
        &self.latency
    }
    /// How long requests of this node took, by step, once one was measured.
    pub fn timings(&self) -> Option<&Timings> {
        self.timings.get().map(Box::as_ref)
    }
    /// A measured request took so long.
    pub fn took(&self, took: Duration) {
        self.timings.get_or_init(Box::default).add(took);
    }
    /// A request went well: the run of failures is over.
    pub fn succeeded(&self) {
        if self.failures_in_a_row.load(Ordering::Relaxed) != 0 {
            self.failures_in_a_row.store(0, Ordering::Relaxed);
        }
    }
    /// A request was answered with an error of the backend's own, or not at all.
    pub fn erred(&self) {
        self.errors.fetch_add(1, Ordering::Relaxed);
    }
    /// What became of all requests of this node since it knows the backend.
    pub fn totals(&self) -> Totals {
        let ended = self.requests().saturating_sub(self.in_flight().into());
        Totals { ended, failed: self.errors.load(Ordering::Relaxed) }
    }
    /// A request failed; how many have in a row.
    pub fn failed(&self) -> u32 {
        self.erred();
        self.failures_in_a_row.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// Requests that are over, and those among them that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// However they ended.
    pub ended: u64,
    /// Without an answer, or with a status from 500.
    pub failed: u64,
}

/// One request in flight on a backend.
#[derive(Debug)]
pub struct InFlight(Arc<BackendShared>, Option<Arc<Queue>>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::SeqCst);
        if let Some(pool) = &self.1
            && !self.0.queue.wake()
        {
            pool.wake();
        }
    }
}

/// One backend in a snapshot.
#[derive(Debug, Clone)]
pub struct BackendView {
    /// What the file says of it.
    pub config: Arc<Backend>,
    /// Its counters.
    pub shared: Arc<BackendShared>,
    /// What the mesh, this node and the operator together make of it.
    pub state: BackendState,
    /// The end of its last break that anybody knows of; [`Hlc::ZERO`] when nobody knows of one (I2).
    pub up_since: Hlc,
    /// When it last began to take requests as this node saw it, later than the node itself and its first revision; else
    /// [`Hlc::ZERO`]. Slow start counts from it.
    pub joined: Hlc,
    /// Where it stands among the racks of its pool.
    pub rack: Rack,
    /// The weight in force: the file's unless an intent says otherwise.
    pub weight: u32,
    /// In words for people: `eu-1 and eu-2: HTTP 503`. Never shown to users.
    pub reason: String,
}

impl BackendView {
    /// Whether sessions that stay on it may use it.
    pub fn serves(&self) -> bool {
        use BackendState::{Draining, GoingDown, Unknown, Up};
        matches!(self.state, Up | GoingDown | Draining | Unknown)
    }
    /// Whether new sessions may go to it.
    pub fn takes_new(&self) -> bool {
        self.serves() && self.state != BackendState::Draining && self.weight > 0
    }
}

/// One pool in a snapshot.
#[derive(Debug, Clone)]
pub struct PoolView {
    /// What the file says of it.
    pub config: Arc<Pool>,
    /// All its backends in all regions, by id.
    pub backends: Vec<BackendView>,
    /// Those who wait on this node for any of them.
    pub queue: Arc<Queue>,
}

/// A node that tunnels may go to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelNode {
    /// Its name.
    pub name: NodeName,
    /// Its tunnel endpoint.
    pub addr: SocketAddr,
    /// The round trip to it, when known.
    pub rtt: Option<Duration>,
}

/// Another region as this node sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RegionView {
    /// Its nodes that tunnels may go to, never this node: alive and staying, else those that are leaving.
    pub nodes: Vec<TunnelNode>,
    /// What it can do, by pool.
    pub pools: BTreeMap<PoolName, PoolSummary>,
}

/// Everything the data plane needs to know, immutable (I1). Swapped whole.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The revision it is built from.
    pub revision: Option<RevisionId>,
    /// The configuration.
    pub services: Arc<Services>,
    /// The pools with their backends' present states.
    pub pools: BTreeMap<PoolName, Arc<PoolView>>,
    /// This node's region.
    pub region: RegionName,
    /// This node's zone in it.
    pub zone: Option<ZoneName>,
    /// Regions with at least one node known, this node's own included, nearest first is not promised.
    pub regions: BTreeMap<RegionName, RegionView>,
    /// The other regions in the order in which rescue tries them: nearest first.
    pub rescue_order: Vec<RegionName>,
}

impl Snapshot {
    /// What a node in `region` knows before the first revision.
    pub fn empty(region: RegionName) -> Self {
        Self {
            revision: None,
            services: Arc::default(),
            pools: BTreeMap::new(),
            region,
            zone: None,
            regions: BTreeMap::new(),
            rescue_order: Vec::new(),
        }
    }
}

/// What a worker saw of a backend by itself; goes to health over a bounded channel, dropped when it is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    /// The connection was refused, reset or timed out before it stood.
    ConnectFailed,
    /// As many requests in a row failed as the pool lets pass.
    FailingRequests,
    /// Of all requests of an interval a greater share failed than the pool lets pass, or than on its other backends.
    FailingOften,
}

impl Evidence {
    /// Whether requests failed that reached the backend: that may be the application's fault on every backend alike.
    pub fn is_of_requests(self) -> bool {
        matches!(self, Self::FailingRequests | Self::FailingOften)
    }
}
