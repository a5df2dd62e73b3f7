//! What the node wants the mesh to know of it: written by handles from any thread, read by the driver.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use crate::id::{BackendId, PoolName};
use crate::state::key;
use crate::state::{Failure, NodeRecord, PoolSummary, StateError, Verdict};

/// The latest wishes; a later one replaces an earlier one that was not yet carried out.
#[derive(Debug)]
pub(super) struct Wishes {
    state: Mutex<OwnState>,
    loads: ArcSwap<LoadSource>,
    /// What all of it weighed when it was last told.
    bytes: AtomicUsize,
    changed: Notify,
}

/// Tells what this node has in flight.
struct LoadSource(Box<dyn Fn() -> Vec<(BackendId, u32)> + Send + Sync>);

impl Default for LoadSource {
    fn default() -> Self {
        Self(Box::new(Vec::new))
    }
}

impl fmt::Debug for LoadSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadSource").finish_non_exhaustive()
    }
}

/// What this node says of itself.
#[derive(Debug, Clone)]
pub(super) struct OwnState {
    pub(super) record: NodeRecord,
    pub(super) verdicts: Arc<BTreeMap<PoolName, Vec<Verdict>>>,
    pub(super) summaries: Arc<BTreeMap<PoolName, PoolSummary>>,
    pub(super) failures: Arc<BTreeMap<PoolName, Vec<Failure>>>,
}

impl Wishes {
    pub(super) fn new(record: NodeRecord) -> Self {
        let state = OwnState {
            record,
            verdicts: Arc::default(),
            summaries: Arc::default(),
            failures: Arc::default(),
        };
        Self {
            state: Mutex::new(state),
            loads: ArcSwap::default(),
            bytes: AtomicUsize::new(0),
            changed: Notify::new(),
        }
    }

    /// It is gossiped as these entries now.
    pub(super) fn told(&self, entries: &BTreeMap<String, String>) {
        let bytes = entries.iter().map(|(key, value)| key.len() + value.len()).sum();
        self.bytes.store(bytes, Ordering::Relaxed);
    }

    /// What it weighed when it was last told.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn record(&self, change: impl FnOnce(&mut NodeRecord)) {
        change(&mut self.lock().record);
        self.changed.notify_one();
    }

    pub(super) fn verdicts(&self, mut verdicts: BTreeMap<PoolName, Vec<Verdict>>) -> Result<(), StateError> {
        let mut refused = None;
        verdicts.retain(|pool, vector| match key::verdicts_entry(pool, vector) {
            Ok(_) => true,
            Err(error) => {
                refused.get_or_insert(error);
                false
            }
        });
        self.lock().verdicts = Arc::new(verdicts);
        self.changed.notify_one();
        refused.map_or(Ok(()), Err)
    }

    pub(super) fn summaries(&self, summaries: BTreeMap<PoolName, PoolSummary>) {
        self.lock().summaries = Arc::new(summaries);
        self.changed.notify_one();
    }

    pub(super) fn failures(&self, failures: BTreeMap<PoolName, Vec<Failure>>) {
        self.lock().failures = Arc::new(failures);
        self.changed.notify_one();
    }

    pub(super) fn tell_load_of(&self, source: impl Fn() -> Vec<(BackendId, u32)> + Send + Sync + 'static) {
        self.loads.store(Arc::new(LoadSource(Box::new(source))));
    }

    pub(super) fn loads(&self) -> Vec<(BackendId, u32)> {
        (self.loads.load().0)()
    }

    pub(super) fn own(&self) -> OwnState {
        self.lock().clone()
    }

    /// Waits for a change. Cancel-safe.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, OwnState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OwnState {
    /// All of it as entries.
    pub(super) fn entries(&self) -> BTreeMap<String, String> {
        let verdicts =
            self.verdicts.iter().filter_map(|(pool, vector)| key::verdicts_entry(pool, vector).ok());
        let summaries = self.summaries.iter().map(|(pool, summary)| key::summary_entry(pool, summary));
        let failures = self.failures.iter().map(|(pool, told)| key::failures_entry(pool, told));
        key::record_entries(&self.record)
            .into_iter()
            .chain(verdicts)
            .chain(summaries)
            .chain(failures)
            .collect()
    }
}
