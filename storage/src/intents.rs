//! Operators' runtime orders: a small map that every node holds and that outlives revisions.
//!
//! ```text
//!   set, clear ─▶ merged here ─▶ watch      message to all peers ─▶ merged there
//!   end ──────▶ the same                    exchange with all living peers, each acknowledges
//!   every 5 s with one peer at random: digests; where they differ, all entries one way and what is newer back
//! ```

mod file;
pub(crate) mod task;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gossip::clock::{Clock, Wall};
use gossip::id::NodeName;
use gossip::state::ClusterView;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::disk::Shelf;
use crate::ends::Ends;
pub use crate::intent::{Aspect, Intent, IntentMap, MAP_MAX_BYTES, Order, Target};
use crate::intent::{Entries, Entry, SPLIT_MAX, Told};
use crate::transport::{INTENTS, Network};
use crate::writer::Writer;

/// How long an order waits for the disk: what is longer is written when the disk is well again.
const DISK_WAIT: Duration = Duration::from_secs(1);

/// The most ends of sessions that stand at once.
pub const ENDS_MAX: usize = 1024;

/// How long a peer may take to acknowledge the end of sessions.
const TELL_WAIT: Duration = Duration::from_secs(1);

/// Why an order was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IntentError {
    /// The map is full: clear orders that are no longer needed.
    #[error("too many orders are in force; clear some with --reset")]
    Full,
    /// There is no room for more ends of sessions until some lapse.
    #[error(
        "{ENDS_MAX} ends of sessions stand already, and each stands until its sessions cannot come again; end all sessions of a backend, a pool or a service at once"
    )]
    Ends,
    /// A split of no pools, or of more than 64.
    #[error("a split names 1 to 64 pools")]
    Split,
    /// This node has given or seen orders of a time that its clock has not reached yet, and peers would not take this one.
    #[error(
        "this node's clock was set back: its last orders are of a time more than 10 minutes ahead; give the order on another node, or restart this one"
    )]
    Clock,
    /// The store has stopped.
    #[error("the node is shutting down")]
    Stopped,
}

/// The orders. Cheap to clone.
#[derive(Clone)]
pub struct Intents(Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) me: NodeName,
    pub(crate) clock: Clock,
    pub(crate) network: Network,
    pub(crate) view: watch::Receiver<Arc<ClusterView>>,
    pub(crate) writer: Arc<Writer>,
    entries: Mutex<Entries>,
    current: watch::Sender<Arc<IntentMap>>,
    ends: Ends,
    stopped: AtomicBool,
    data: PathBuf,
    /// The plain file is not what is in force.
    unwritten: AtomicBool,
    /// It could not be written the last time.
    behind: AtomicBool,
    /// It was said that a peer's clock is ahead.
    ahead_told: AtomicBool,
}

impl Intents {
    /// With what lay on the shelf.
    pub(crate) fn new(
        me: NodeName,
        clock: Clock,
        network: Network,
        view: watch::Receiver<Arc<ClusterView>>,
        writer: Arc<Writer>,
        shelf: &[(Vec<u8>, Vec<u8>)],
        data: PathBuf,
    ) -> Self {
        let mut entries = Entries::default();
        let now = clock.mesh_wall();
        let mut stored = file::read(&data);
        for (_, bytes) in shelf {
            match Entry::decode(bytes) {
                Ok(entry) => stored.push(entry),
                Err(error) => tracing::warn!(%error, "an intent on disk cannot be read"),
            }
        }
        // In the order of their times: of two that a clock gave in the future, the later one holds.
        stored.sort_by_key(|entry| entry.at);
        for entry in stored {
            let was = entry.at;
            let Some(entry) = entries.load(entry, now) else { continue };
            // What is ordered from now on comes after it.
            let _ = clock.observe(entry.at);
            if entry.at != was {
                tracing::warn!(target = ?entry.target, "an order was given while this node's clock was ahead; it holds");
                writer.keep(Shelf::Intents, shelf_key(&entry.target, entry.aspect), Some(entry.encode()));
            }
        }
        let in_force = Arc::new(entries.in_force());
        let ends = Ends::default();
        ends.set(&in_force);
        let current = watch::Sender::new(in_force);
        let (entries, stopped) = (Mutex::new(entries), AtomicBool::new(false));
        let (unwritten, ahead_told) = (AtomicBool::new(true), AtomicBool::new(false));
        Self(Arc::new(Inner {
            me,
            clock,
            network,
            view,
            writer,
            entries,
            current,
            ends,
            stopped,
            data,
            unwritten,
            behind: AtomicBool::new(false),
            ahead_told,
        }))
    }

    /// Gives an order; it replaces the target's order of the same aspect. Returns when this node holds it; the others
    /// get it at once or, when they cannot be reached, by repair.
    ///
    /// # Errors
    /// See [`IntentError`]; nothing has changed then.
    pub async fn set(&self, target: Target, order: Order) -> Result<(), IntentError> {
        if let Order::Split(pools) = &order
            && !(1..=SPLIT_MAX).contains(&pools.len())
        {
            return Err(IntentError::Split);
        }
        let aspect = order.aspect();
        self.tell(target, aspect, Some(order)).await
    }

    /// Takes an order back. Whether there was one.
    ///
    /// # Errors
    /// See [`IntentError`]; nothing has changed then.
    pub async fn clear(&self, target: Target, aspect: Aspect) -> Result<bool, IntentError> {
        let there = self.0.lock().find(&target, aspect).is_some_and(|entry| entry.order.is_some());
        if there {
            self.tell(target, aspect, None).await?;
        }
        Ok(there)
    }

    /// Ends the sessions of these targets that stand now, until `until` at least, when none of them can come again.
    /// Returns when this node and all that answer in a second know of it, and names those that do not: they get it by
    /// repair. Nothing takes it back.
    ///
    /// # Errors
    /// See [`IntentError`]; nothing has changed then.
    pub async fn end(&self, targets: &[Target], until: Wall) -> Result<Vec<NodeName>, IntentError> {
        let Inner { me, clock, network, view, writer, .. } = &*self.0;
        if self.0.stopped.load(Ordering::Relaxed) {
            return Err(IntentError::Stopped);
        }
        let present = self.list();
        let standing = |target: &Target| present.get(&(target.clone(), Aspect::End));
        let ends = present.keys().filter(|(_, aspect)| *aspect == Aspect::End).count();
        let new = targets.iter().filter(|target| standing(target).is_none()).count();
        if ends + new > ENDS_MAX {
            return Err(IntentError::Ends);
        }
        let at = clock.hlc();
        let entry = |target: &Target| {
            // One that stands for longer covers sessions that this one may not know the age of.
            let until = match standing(target).map(|intent| &intent.order) {
                Some(Order::End { until: before }) => until.max(*before),
                _ => until,
            };
            let order = Some(Order::End { until });
            Entry { target: target.clone(), aspect: Aspect::End, order, at, by: me.clone() }
        };
        let entries: Vec<Entry> = targets.iter().map(entry).collect();
        let message = task::put(&entries);
        self.0.give(entries)?;
        let mut told = JoinSet::new();
        let peers: Vec<_> =
            view.borrow().members.values().filter(|member| member.counts()).cloned().collect();
        for peer in peers.iter().map(|peer| peer.record.name.clone()).filter(|name| name != me) {
            let answer = network.ask(&peer, INTENTS, message.clone(), TELL_WAIT);
            told.spawn(async move { (peer, answer.await.is_some()) });
        }
        let _ = tokio::time::timeout(DISK_WAIT, writer.flush()).await;
        let told = told.join_all().await;
        let mut silent: Vec<_> = told.into_iter().filter(|(_, heard)| !heard).map(|(name, _)| name).collect();
        silent.sort();
        Ok(silent)
    }

    /// The ends of sessions that stand.
    pub fn ends(&self) -> Ends {
        self.0.ends.clone()
    }

    /// The orders in force.
    pub fn list(&self) -> Arc<IntentMap> {
        self.0.current.borrow().clone()
    }

    /// Whether what is in force could not be written: a crash of all nodes would lose it.
    pub fn is_file_behind(&self) -> bool {
        self.0.behind.load(Ordering::Relaxed)
    }

    /// What all entries weigh, those that were taken back too, in bytes; at most [`MAP_MAX_BYTES`].
    pub fn bytes(&self) -> usize {
        self.0.lock().bytes()
    }

    /// Follows them.
    pub fn watch(&self) -> watch::Receiver<Arc<IntentMap>> {
        self.0.current.subscribe()
    }

    async fn tell(&self, target: Target, aspect: Aspect, order: Option<Order>) -> Result<(), IntentError> {
        let Inner { me, clock, network, view, writer, .. } = &*self.0;
        if self.0.stopped.load(Ordering::Relaxed) {
            return Err(IntentError::Stopped);
        }
        let entry = Entry { target, aspect, order, at: clock.hlc(), by: me.clone() };
        self.0.give(vec![entry.clone()])?;
        let message = task::put(&[entry]);
        for name in view.borrow().members.keys().filter(|name| *name != me) {
            network.tell(name, INTENTS, message.clone());
        }
        // A full disk delays an order by no more than this; it holds all the same.
        let _ = tokio::time::timeout(DISK_WAIT, writer.flush()).await;
        Ok(())
    }

    /// Runs the exchange with the peers until `stop` changes or its sender is gone.
    pub(crate) async fn run(self, stop: watch::Receiver<bool>) {
        task::run(self.0.clone(), stop).await;
        self.0.stopped.store(true, Ordering::Relaxed);
    }
}

#[derive(Debug, Default)]
struct Outcome {
    full: bool,
    ahead: bool,
}

impl Inner {
    /// Takes this node's own orders in.
    fn give(&self, new: Vec<Entry>) -> Result<(), IntentError> {
        match self.merge(new) {
            Outcome { full: true, .. } => Err(IntentError::Full),
            Outcome { ahead: true, .. } => Err(IntentError::Clock),
            Outcome { .. } => Ok(()),
        }
    }

    /// Takes the orders of a peer in; whether there was room.
    fn hear(&self, from: &NodeName, new: Vec<Entry>) -> bool {
        let outcome = self.merge(new);
        if outcome.ahead && !self.ahead_told.swap(true, Ordering::Relaxed) {
            tracing::warn!(peer = %from, "orders of a time more than 10 minutes ahead are not obeyed here; check the clocks of the nodes");
        }
        !outcome.full
    }

    fn has_unwritten(&self) -> bool {
        self.unwritten.load(Ordering::Relaxed)
    }

    /// Writes the plain file when it is not what is in force. Blocks.
    fn write_file(&self) {
        if self.unwritten.swap(false, Ordering::Relaxed) {
            let all: Vec<Entry> = self.lock().all().cloned().collect();
            match file::write(&self.data, &all) {
                Ok(()) if self.behind.swap(false, Ordering::Relaxed) => {
                    tracing::info!("the orders are written to their file again");
                }
                Ok(()) => {}
                Err(error) => {
                    self.unwritten.store(true, Ordering::Relaxed);
                    if !self.behind.swap(true, Ordering::Relaxed) {
                        tracing::error!(%error, "the orders cannot be written to their file; they are in force, and a crash of all nodes would lose them; will try again");
                    }
                }
            }
        }
    }

    fn merge(&self, new: Vec<Entry>) -> Outcome {
        let mut entries = self.lock();
        let now = self.clock.mesh_wall();
        let (mut outcome, mut news) = (Outcome::default(), false);
        for entry in new {
            let (key, bytes, at) = (shelf_key(&entry.target, entry.aspect), entry.encode(), entry.at);
            match entries.merge(entry, now) {
                Told::News => {
                    news = true;
                    // What was merged is not too far ahead.
                    let _ = self.clock.observe(at);
                    self.writer.keep(Shelf::Intents, key, Some(bytes));
                }
                Told::Ignored => {}
                Told::Ahead => outcome.ahead = true,
                Told::Full => outcome.full = true,
            }
        }
        for (target, aspect) in entries.take_evicted() {
            self.writer.keep(Shelf::Intents, shelf_key(&target, aspect), None);
        }
        if news {
            self.unwritten.store(true, Ordering::Relaxed);
            self.publish(&entries);
        }
        outcome
    }

    fn publish(&self, entries: &Entries) {
        let in_force = Arc::new(entries.in_force());
        self.ends.set(&in_force);
        self.current.send_replace(in_force);
    }

    fn sweep(&self) {
        let stale = {
            let mut entries = self.lock();
            let stale = entries.sweep(self.clock.mesh_wall());
            if stale.iter().any(|(_, aspect)| matches!(aspect, Aspect::End | Aspect::Deny)) {
                self.publish(&entries);
            }
            stale
        };
        for (target, aspect) in stale {
            self.writer.keep(Shelf::Intents, shelf_key(&target, aspect), None);
        }
    }

    // Nothing panics under the lock, and a map stays a map.
    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Intents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Intents").field(&self.list()).finish()
    }
}

/// The same for all entries of one key: the encoding of an entry with nothing else in it.
fn shelf_key(target: &Target, aspect: Aspect) -> Vec<u8> {
    let by = NodeName::new("x").expect("x is a name");
    let bare = Entry { target: target.clone(), aspect, order: None, at: gossip::clock::Hlc::ZERO, by };
    blake3::hash(&bare.encode()).as_bytes().to_vec()
}
