//! The one thread that writes to disk. Nobody waits for it but a flush.
//!
//! ```text
//!   anybody ──mark──▶ what is not yet on disk ──1,000 or 50 ms──▶ writer thread ──▶ disk
//!                     (ids, not values: the table has those)
//! ```
//!
//! What waits is written in the order of its keys, round and round: the further the disk lags behind, the closer together lie the
//! records of a batch, and the fewer pages of the store it touches.
//!
//! Because only the *names* of changed records wait, a session refreshed a hundred times is written once, and what waits
//! is bounded: beyond [`IDS_MAX`] sessions whole buckets are marked instead. When the disk is full or broken the thread
//! says so once, tries again with growing pauses, and RAM goes on (I1, I11). It ends with the last [`Writer`].

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::Bound::{Excluded, Included, Unbounded};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use gossip::clock::Clock;
use gossip::id::{SessionId, Tag};
use tokio::sync::oneshot;

use crate::disk::{self, DiskError, Shelf, Store};
use crate::placement::bucket_of;
use crate::table::Table;

/// So many changes are not made to wait for more.
const URGENT: usize = 1000;
const BATCH_MAX: usize = 4096;
const BATCH_WAIT: Duration = Duration::from_millis(50);
const BUCKETS_A_BATCH: usize = 32;
const IDS_MAX: usize = 65_536;
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// Requests come first: nobody waits for this thread.
const NICE: i32 = 5;
const CHORES_EVERY: Duration = Duration::from_secs(60);

/// Where a store over this size is set aside and written anew. sled gives space back late.
pub(crate) const STORE_MAX_BYTES: u64 = 4 << 30;

/// The handle to the thread.
#[derive(Debug)]
pub(crate) struct Writer {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    changed: Condvar,
    behind: AtomicBool,
    /// The size of the files after the last write, and at which they are written anew.
    size_bytes: AtomicU64,
    limit_bytes: AtomicU64,
    aside: Mutex<Option<PathBuf>>,
}

#[derive(Debug, Default)]
struct Waiting {
    ids: BTreeSet<(Tag, SessionId)>,
    /// The last one that was taken.
    cursor: Option<(Tag, SessionId)>,
    buckets: HashSet<(Tag, u16)>,
    kept: BTreeMap<(Shelf, Vec<u8>), Option<Vec<u8>>>,
    flushes: Vec<oneshot::Sender<()>>,
    stop: bool,
}

/// What one turn writes.
#[derive(Debug, Default)]
struct Batch {
    ids: Vec<(Tag, SessionId)>,
    buckets: Vec<(Tag, u16)>,
    kept: BTreeMap<(Shelf, Vec<u8>), Option<Vec<u8>>>,
}

/// What the thread needs.
pub(crate) struct WriterConfig {
    /// The data folder.
    pub(crate) data: PathBuf,
    /// The records.
    pub(crate) table: Arc<Table>,
    /// For expiry.
    pub(crate) clock: Clock,
    /// See [`STORE_MAX_BYTES`].
    pub(crate) max_bytes: u64,
}

impl Writer {
    /// Starts the thread; without a store it keeps trying to open one. `all` marks everything in the table: for a fresh
    /// store.
    ///
    /// # Errors
    /// When the system has no more threads.
    pub(crate) fn start(config: WriterConfig, store: Option<Store>, all: bool) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            behind: AtomicBool::new(store.is_none()),
            limit_bytes: AtomicU64::new(config.max_bytes),
            ..Shared::default()
        });
        if all {
            lock(&shared.waiting).buckets.extend(config.table.buckets());
        }
        let config_max = config.max_bytes;
        let mut thread =
            Thread { config, shared: shared.clone(), store, pause: PAUSE_MIN, limit: config_max };
        let thread = std::thread::Builder::new().name("store".into()).spawn(move || thread.run())?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)) })
    }

    /// A session's record has changed.
    pub(crate) fn save(&self, home: Tag, id: SessionId) {
        self.mark(|waiting| {
            if waiting.ids.len() < IDS_MAX || waiting.ids.contains(&(home, id)) {
                waiting.ids.insert((home, id));
            } else {
                waiting.buckets.insert((home, bucket_of(&id)));
            }
        });
    }

    /// Something on a shelf has changed or, with `None`, is gone.
    pub(crate) fn keep(&self, shelf: Shelf, key: Vec<u8>, value: Option<Vec<u8>>) {
        self.mark(|waiting| drop(waiting.kept.insert((shelf, key), value)));
    }

    /// Resolves when all that was marked before is on disk. Waits as long as the disk is full or broken.
    pub(crate) async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        self.mark(|waiting| waiting.flushes.push(done));
        // A thread that is gone drops the sender: then there is nothing to wait for.
        let _ = flushed.await;
    }

    /// Whether the last attempt to write failed.
    pub(crate) fn is_behind(&self) -> bool {
        self.shared.behind.load(Ordering::Relaxed)
    }

    /// The size of the store after the last write, and the one at which it is written anew, in bytes.
    pub(crate) fn size_bytes(&self) -> (u64, u64) {
        let read = |size: &AtomicU64| size.load(Ordering::Relaxed);
        (read(&self.shared.size_bytes), read(&self.shared.limit_bytes))
    }

    /// A damaged store was set aside there.
    pub(crate) fn note_aside(&self, aside: PathBuf) {
        *lock(&self.shared.aside) = Some(aside);
    }

    /// Where a damaged store lies, as long as nobody has taken it away.
    pub(crate) fn aside(&self) -> Option<PathBuf> {
        lock(&self.shared.aside).clone().filter(|path| path.exists())
    }

    /// Writes what waits, once, and ends the thread. Blocks.
    pub(crate) fn stop(&self) {
        self.mark(|waiting| waiting.stop = true);
        let thread = lock(&self.thread).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the store's thread has panicked");
        }
    }

    fn mark(&self, change: impl FnOnce(&mut Waiting)) {
        let mut waiting = lock(&self.shared.waiting);
        let was_idle = waiting.is_empty();
        change(&mut waiting);
        if was_idle || waiting.is_urgent() {
            self.shared.changed.notify_one();
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        lock(&self.shared.waiting).stop = true;
        self.shared.changed.notify_one();
    }
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.ids.is_empty()
            && self.buckets.is_empty()
            && self.kept.is_empty()
            && self.flushes.is_empty()
            && !self.stop
    }

    fn is_urgent(&self) -> bool {
        self.stop || !self.flushes.is_empty() || self.ids.len() >= URGENT
    }

    fn take(&mut self) -> Batch {
        let ahead = self.cursor.map_or(Unbounded, Excluded);
        let behind = self.cursor.map_or(Excluded((Tag::default(), SessionId([0; 16]))), Included);
        let round = self.ids.range((ahead, Unbounded)).chain(self.ids.range((Unbounded, behind)));
        let ids: Vec<_> = round.take(BATCH_MAX).copied().collect();
        self.cursor = ids.last().copied().or(self.cursor);
        for id in &ids {
            self.ids.remove(id);
        }
        let buckets: Vec<_> = self.buckets.iter().take(BUCKETS_A_BATCH).copied().collect();
        for bucket in &buckets {
            self.buckets.remove(bucket);
        }
        Batch { ids, buckets, kept: std::mem::take(&mut self.kept) }
    }

    /// Puts back what could not be written, behind what has changed since.
    fn put_back(&mut self, batch: Batch) {
        for (home, id) in batch.ids {
            if self.ids.len() < IDS_MAX {
                self.ids.insert((home, id));
            } else {
                self.buckets.insert((home, bucket_of(&id)));
            }
        }
        self.buckets.extend(batch.buckets);
        for (key, value) in batch.kept {
            self.kept.entry(key).or_insert(value);
        }
    }
}

struct Thread {
    config: WriterConfig,
    shared: Arc<Shared>,
    store: Option<Store>,
    pause: Duration,
    /// The size at which the store is written anew.
    limit: u64,
}

impl Thread {
    fn run(&mut self) {
        // Where the system does not allow even that, the thread is as good as any.
        let _ = rustix::process::nice(NICE);
        let shared = self.shared.clone();
        loop {
            let (batch, flushes, stop) = self.gather();
            match self.write(&batch) {
                Ok(()) => {
                    if self.shared.behind.swap(false, Ordering::Relaxed) {
                        tracing::info!("the store is written again");
                    }
                    self.pause = PAUSE_MIN;
                    let mut waiting = lock(&shared.waiting);
                    if waiting.ids.is_empty() && waiting.buckets.is_empty() && waiting.kept.is_empty() {
                        self.measure();
                        for flush in flushes {
                            // Who no longer waits need not know.
                            let _ = flush.send(());
                        }
                        if stop {
                            return;
                        }
                    } else {
                        waiting.flushes.extend(flushes);
                    }
                }
                Err(error) => {
                    if !self.shared.behind.swap(true, Ordering::Relaxed) {
                        tracing::error!(%error, "cannot write the store; sessions go on in memory, will try again");
                    }
                    let mut waiting = lock(&shared.waiting);
                    waiting.put_back(batch);
                    waiting.flushes.extend(flushes);
                    if stop {
                        return;
                    }
                    let pause = self.pause;
                    self.pause = (pause * 2).min(PAUSE_MAX);
                    let paused = shared.changed.wait_timeout_while(waiting, pause, |waiting| !waiting.stop);
                    drop(paused.unwrap_or_else(PoisonError::into_inner));
                }
            }
        }
    }

    /// Waits for something to write, then a little for more. An empty batch is for the chores.
    fn gather(&self) -> (Batch, Vec<oneshot::Sender<()>>, bool) {
        let changed = &self.shared.changed;
        let waiting = lock(&self.shared.waiting);
        let rest = if self.store.is_some() { CHORES_EVERY } else { self.pause };
        let waiting = changed.wait_timeout_while(waiting, rest, |waiting| waiting.is_empty());
        let (waiting, idle) = waiting.unwrap_or_else(PoisonError::into_inner);
        let mut waiting = waiting;
        if !idle.timed_out() {
            let more = changed.wait_timeout_while(waiting, BATCH_WAIT, |waiting| !waiting.is_urgent());
            waiting = more.unwrap_or_else(PoisonError::into_inner).0;
        }
        (waiting.take(), std::mem::take(&mut waiting.flushes), waiting.stop)
    }

    fn write(&mut self, batch: &Batch) -> Result<(), DiskError> {
        if self.store.is_some() && !Store::is_there(&self.config.data) {
            self.restore()?;
        }
        let WriterConfig { data, table, clock, .. } = &self.config;
        let now = clock.mesh_wall();
        let store = match &self.store {
            Some(store) => store,
            None => {
                let opened = disk::open(data, table, now)?;
                lock(&self.shared.waiting).buckets.extend(table.buckets());
                self.store.insert(opened.store)
            }
        };
        let written = disk::caught(|| {
            for (home, id) in &batch.ids {
                store.save(table, *home, *id, now)?;
            }
            for (home, bucket) in &batch.buckets {
                store.save_bucket(table, *home, *bucket, now)?;
            }
            for ((shelf, key), value) in &batch.kept {
                store.keep(*shelf, key, value.as_ref())?;
            }
            store.sync()?;
            store.size_bytes()
        });
        if let Ok(size) = written {
            self.shared.size_bytes.store(size, Ordering::Relaxed);
        }
        match written {
            Ok(size) if size <= self.limit => Ok(()),
            Ok(_) => self.replace(),
            Err(DiskError::Damaged(why)) => {
                // What RAM holds is worth more than what lies there.
                self.store = None;
                let aside = disk::set_aside(&self.config.data, "corrupt", now)?;
                tracing::error!(aside = %aside.display(), why, "the store is damaged and was set aside");
                *lock(&self.shared.aside) = Some(aside);
                Err(DiskError::Damaged(why))
            }
            Err(error) => Err(error),
        }
    }

    /// Somebody has deleted the files. What was on the shelves can still be read; the sessions are in RAM.
    fn restore(&mut self) -> Result<(), DiskError> {
        let Some(store) = self.store.take() else {
            return Ok(());
        };
        let data = &self.config.data;
        self.store = Some(disk::caught(|| store.restore(data))?);
        tracing::error!(store = %data.join("store").display(), "the store was deleted and is written anew");
        lock(&self.shared.waiting).buckets.extend(self.config.table.buckets());
        Ok(())
    }

    fn replace(&mut self) -> Result<(), DiskError> {
        let Some(store) = self.store.take() else {
            return Ok(());
        };
        let now = self.config.clock.mesh_wall();
        let (store, aside) = disk::caught(|| store.replace(&self.config.data, now))?;
        tracing::warn!(aside = %aside.display(), "the store was too large and is written anew");
        self.store = Some(store);
        self.limit = u64::MAX;
        lock(&self.shared.waiting).buckets.extend(self.config.table.buckets());
        Ok(())
    }

    /// After a fresh store has been filled: what fills half the limit by itself raises it, or it would be written anew
    /// for ever.
    fn measure(&mut self) {
        if self.limit == u64::MAX
            && let Some(Ok(size)) = self.store.as_ref().map(Store::size_bytes)
        {
            self.limit = self.config.max_bytes.max(size * 2);
            self.shared.limit_bytes.store(self.limit, Ordering::Relaxed);
        }
    }
}

// The thread never panics under the lock, and what it guards stays usable if one ever did.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
