//! The face of the store that the proxy sees.
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arc_swap::ArcSwap;
use gossip::clock::{Clock, Hlc};
use gossip::id::{BackendId, RegionName, SessionId, Tag};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::pin::{Assignment, Pin};
use crate::placement::bucket_of;
use crate::replica::{Command, Counters, FIND_MAX, Mates, WAIT_MAX};
use crate::table::{Record, Table};
use crate::task::{Order, Waiter};
use crate::writer::Writer;

/// The sessions of the mesh, as this node reaches them. Cheap to clone, usable from any tokio runtime.
///
/// Look-ups of what this node holds are done here, at once; all else goes to the store's task over a bounded queue. A
/// task that stalls or a queue that is full looks like replicas that cannot be reached.
#[derive(Clone)]
pub struct Sessions {
    shared: Arc<Shared>,
    orders: mpsc::Sender<Order>,
}

/// What the face shares with the store's task.
pub(crate) struct Shared {
    pub(crate) table: Arc<Table>,
    pub(crate) mates: ArcSwap<Mates>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) clock: Clock,
    pub(crate) writer: Arc<Writer>,
    /// This node's region.
    pub(crate) home: Tag,
}

/// What became of a new pin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Committed {
    /// Another node holds it too.
    Acknowledged,
    /// This node is the whole mesh, for all it knows: there is nobody to ask.
    Alone,
    /// No other node answered in time (I3); counted, and sent again by repair.
    Degraded,
}

/// What became of a proposal to move a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repinned {
    /// A majority of the bucket's replicas took it: two of three.
    Committed(Pin),
    /// Another assignment is already there, newer than the one to replace: use that one. It may be the end of the
    /// session: then its backend is `None`.
    Superseded(Pin),
    /// The replicas cannot be reached: use the proposal, it is marked weak.
    Weak(Pin),
}

/// What happened since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Records this node holds, as a replica or waiting to be handed on.
    pub held: u64,
    /// Commits that no other node acknowledged in time (I3).
    pub degraded: u64,
    /// Re-pins that became weak.
    pub weak: u64,
    /// Records that repair brought or sent.
    pub repaired: u64,
    /// Records refused: expired, or from too far in the future.
    pub refused: u64,
    /// Records refused because the table is full.
    pub full: u64,
    /// Records that other nodes have not acknowledged yet and that wait to be delivered (hinted hand-off).
    pub hinted: u64,
    /// Commits, look-ups and moves under way, at most [`OPS_MAX`](crate::replica::OPS_MAX).
    pub operations: u64,
    /// Elections in which this replica has promised something, at most [`PROMISES_MAX`](crate::replica::PROMISES_MAX).
    pub promises: u64,
    /// The size of the copy on disk after the last write, in bytes.
    pub disk_bytes: u64,
    /// The size at which it is written anew, in bytes.
    pub disk_limit_bytes: u64,
    /// What waits for the store's task ...
    pub waiting: usize,
    /// ... and how much may; what comes then is as if no replica could be reached.
    pub waiting_limit: usize,
    /// Whether the copy on disk lags behind because the disk is full, slow or broken.
    pub disk_behind: bool,
}

impl Sessions {
    pub(crate) fn new(shared: Arc<Shared>, orders: mpsc::Sender<Order>) -> Self {
        Self { shared, orders }
    }

    /// Ends when the task does that answers for all sessions, which it does when the store stops.
    pub fn ended(&self) -> impl Future<Output = ()> + Send + use<> {
        let orders = self.orders.clone();
        async move { orders.closed().await }
    }

    /// What waits for that task, and how much may: then pins are told to users without another node's word.
    pub fn queued(&self) -> (usize, usize) {
        let most = self.orders.max_capacity();
        (most - self.orders.capacity(), most)
    }

    /// What this node itself holds of a session. Never waits.
    pub fn local(&self, id: &SessionId) -> Option<Pin> {
        let Shared { table, clock, home, .. } = &*self.shared;
        table.find_anywhere(*home, id, clock.mesh_wall())
    }

    /// Stores a new pin at its home's replicas and resolves when one other node has acknowledged it, or after I3's
    /// bound. Starts at once, not when first polled; dropping the future stops nothing.
    pub fn commit(
        &self,
        home: &RegionName,
        pin: Pin,
    ) -> impl Future<Output = Committed> + Send + 'static + use<> {
        self.commit_by(Command::Commit, home, pin)
    }

    /// The same for a session that nobody but the store remembers, since its user has no cookie: waits for the
    /// acknowledgement as long as I3 allows, 250 ms, while any other replica lives.
    pub fn commit_patiently(
        &self,
        home: &RegionName,
        pin: Pin,
    ) -> impl Future<Output = Committed> + Send + 'static + use<> {
        self.commit_by(Command::CommitPatiently, home, pin)
    }

    fn commit_by(
        &self,
        command: fn(Record) -> Command,
        home: &RegionName,
        pin: Pin,
    ) -> impl Future<Output = Committed> + Send + 'static + use<> {
        let record = Record { home: Tag::of(home.as_str()), pin };
        let shared = self.shared.clone();
        if shared.mates.load().is_mine(record.home, bucket_of(&pin.id)) {
            // Here, not in the task: the next request on this node may come sooner than the task.
            shared.table.merge(record, shared.clock.mesh_wall());
        }
        let (waiter, committed) = oneshot::channel();
        self.order(command(record), Waiter::Commit(waiter));
        async move {
            match timeout(WAIT_MAX, committed).await {
                Ok(Ok(committed)) => committed,
                _ => {
                    shared.counters.degraded.fetch_add(1, Ordering::Relaxed);
                    Committed::Degraded
                }
            }
        }
    }

    /// The pin as its home's replicas know it: this node's own copy when it is one of them and has missed nothing, else
    /// what the first answer adds to it. `None` when all but one of the replicas are known to lack it. At most 250 ms, but
    /// 2 s when nobody has it and too few have said so.
    pub async fn find(&self, home: &RegionName, id: SessionId) -> Option<Pin> {
        let Shared { table, clock, mates, counters, .. } = &*self.shared;
        let home = Tag::of(home.as_str());
        let own = table.find(home, &id, clock.mesh_wall());
        let settled = counters.settled.load(Ordering::Acquire);
        if own.is_some() && settled && mates.load().is_mine(home, bucket_of(&id)) {
            return own;
        }
        let (waiter, found) = oneshot::channel();
        self.order(Command::Find(home, id), Waiter::Find(waiter));
        match timeout(if own.is_some() { WAIT_MAX } else { FIND_MAX }, found).await {
            Ok(Ok(found)) => found,
            _ => own,
        }
    }

    /// Proposes to move a session from the assignment made at `replaces` (compare and set). At most 250 ms.
    ///
    /// The time of the proposal must be a fresh one of the node's clock: replicas compare it with `replaces`.
    pub async fn repin(&self, home: &RegionName, proposal: Pin, replaces: Hlc) -> Repinned {
        let record = Record { home: Tag::of(home.as_str()), pin: proposal };
        let (waiter, repinned) = oneshot::channel();
        self.order(Command::Repin { record, replaces }, Waiter::Repin(waiter));
        match timeout(WAIT_MAX, repinned).await {
            Ok(Ok(repinned)) => repinned,
            _ => {
                self.shared.counters.weak.fetch_add(1, Ordering::Relaxed);
                let assignment = Assignment { weak: true, ..proposal.assignment };
                Repinned::Weak(Pin { assignment, ..proposal })
            }
        }
    }

    /// Moves the expiry; in the background.
    pub fn refresh(&self, home: &RegionName, id: SessionId, expires: u32) {
        self.order(Command::Refresh(Tag::of(home.as_str()), id, expires), Waiter::Nobody);
    }

    /// Tells a session's former home, which cannot be reached now, that the session lives at `to` since `pin` was made. This
    /// node keeps the message until it can be delivered.
    pub fn forward(&self, from: &RegionName, to: &RegionName, pin: Pin) {
        let pin = pin.forwarded_to(Tag::of(to.as_str()));
        self.order(Command::Keep(Record { home: Tag::of(from.as_str()), pin }), Waiter::Nobody);
    }

    /// Ends a session: it is assigned to nothing until `expires`, when no cookie of it can be valid any more. In the
    /// background.
    pub fn end(&self, home: &RegionName, id: SessionId, expires: u32) {
        let assignment = Assignment {
            hlc: self.shared.clock.hlc(),
            node: Tag::of(self.shared.mates.load().me.as_str()),
            pool: Tag::default(),
            backend: None,
            weak: false,
            forwarded: false,
        };
        drop(self.commit(home, Pin { id, assignment, expires }));
    }

    /// The sessions this node answers for (it is the first living replica of their bucket), by backend. Their sum
    /// over all nodes is the mesh's. Walks everything held: for operators, not for requests.
    pub fn counts(&self) -> BTreeMap<BackendId, u64> {
        let Shared { table, clock, mates, .. } = &*self.shared;
        let (mates, now) = (mates.load(), clock.mesh_wall());
        let mut counts = BTreeMap::new();
        for (home, bucket) in table.buckets() {
            if mates.is_first(home, bucket) {
                let pins = table.pins(home, bucket, now);
                let backends = pins.iter().filter_map(|pin| pin.assignment.backend);
                backends.for_each(|backend| *counts.entry(backend).or_default() += 1);
            }
        }
        counts
    }

    /// What happened so far, for metrics.
    pub fn stats(&self) -> Stats {
        let Counters { degraded, weak, repaired, refused, full, hinted, operations, promises, .. } =
            &*self.shared.counters;
        let (disk_bytes, disk_limit_bytes) = self.shared.writer.size_bytes();
        Stats {
            held: self.shared.table.held(),
            degraded: degraded.load(Ordering::Relaxed),
            weak: weak.load(Ordering::Relaxed),
            repaired: repaired.load(Ordering::Relaxed),
            refused: refused.load(Ordering::Relaxed),
            full: full.load(Ordering::Relaxed),
            hinted: hinted.load(Ordering::Relaxed),
            operations: operations.load(Ordering::Relaxed),
            promises: promises.load(Ordering::Relaxed),
            disk_bytes,
            disk_limit_bytes,
            waiting: self.orders.max_capacity() - self.orders.capacity(),
            waiting_limit: self.orders.max_capacity(),
            disk_behind: self.shared.writer.is_behind(),
        }
    }

    /// Where a damaged store was set aside in this life of the node, as long as the folder is there.
    pub fn set_aside(&self) -> Option<PathBuf> {
        self.shared.writer.aside()
    }

    /// A full queue or a task that has ended drops the waiter, which tells its owner.
    fn order(&self, command: Command, waiter: Waiter) {
        let _ = self.orders.try_send((command, waiter));
    }
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions").field("held", &self.shared.table.held()).finish_non_exhaustive()
    }
}
