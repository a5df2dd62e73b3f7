//! The keys that zones are signed with, on this node and on all others.
//!
//! ```text
//!   want(zones) ──▶ task ── asks all, makes what nobody has ──▶ ZoneKeySet ──▶ watch
//!                    │  ▲                                          │
//!                    ▼  │ the other nodes                          ▼ DATA/zone.keys, sealed, mode 0600
//! ```
//!
//! A key is on this node's disk before others hear of it, and it is never deleted: the parent zone may name it.

pub(crate) mod file;
pub(crate) mod task;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gossip::clock::{Clock, Wall};
use gossip::id::NodeName;
use gossip::keyring::Keyring;
use gossip::state::ClusterView;
use tokio::sync::{Notify, watch};

use crate::transport::Network;
pub use crate::zone_key::ZoneKey;
use crate::zone_key::{Merged, Sealer, ZoneKeySet};
use file::Unreadable;

/// How long all keys of a zone sign after a further one turned up, and after each start with several: longer than resolvers
/// remember which keys there are.
const SETTLING: Duration = Duration::from_secs(600);

/// Makes the secret of a new key; `None` when the system gives no randomness.
pub type MakeSecret = Arc<dyn Fn() -> Option<Vec<u8>> + Send + Sync>;

/// The keys that are known, and how they are to be used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    keys: ZoneKeySet,
    settling: BTreeSet<String>,
}

impl Known {
    /// Of these keys, none of which turned up lately.
    pub fn of_keys(keys: impl IntoIterator<Item = ZoneKey>) -> Self {
        let mut known = Self::default();
        for key in keys {
            known.keys.merge(key);
        }
        known
    }

    /// The keys of a zone, the active one first. Empty: this node has none yet.
    pub fn of(&self, zone: &str) -> impl Iterator<Item = &Arc<ZoneKey>> {
        self.keys.of(zone)
    }

    /// How many keys are known of all zones; at most [`KEYS_MAX`](crate::zone_key::KEYS_MAX).
    pub fn count(&self) -> usize {
        self.keys.count()
    }

    /// Whether a further key turned up so lately that resolvers may know some of them alone: all are to sign.
    pub fn is_settling(&self, zone: &str) -> bool {
        self.settling.contains(zone)
    }
}

/// The keys. Cheap to clone.
#[derive(Clone)]
pub struct ZoneKeys(Arc<Inner>);

/// What this node needs to keep keys.
pub(crate) struct ZoneKeysConfig {
    pub(crate) data: PathBuf,
    pub(crate) me: NodeName,
    pub(crate) clock: Clock,
    pub(crate) network: Network,
    pub(crate) view: watch::Receiver<Arc<ClusterView>>,
    pub(crate) keyring: Keyring,
    pub(crate) make: MakeSecret,
}

pub(crate) struct Inner {
    pub(crate) config: ZoneKeysConfig,
    state: Mutex<State>,
    /// Something is to be made, asked for or written.
    pub(crate) stir: Notify,
    current: watch::Sender<Arc<Known>>,
}

pub(crate) struct State {
    pub(crate) sealer: Arc<Sealer>,
    pub(crate) keys: ZoneKeySet,
    pub(crate) wanted: BTreeSet<String>,
    /// Zones that had a key before this start, as their configuration says.
    pub(crate) signed_before: BTreeSet<String>,
    /// When this node made another key for one of them, since nobody had theirs.
    pub(crate) remade: BTreeMap<String, Wall>,
    /// Lines of the file that could not be read, which stay in it.
    pub(crate) unreadable: Vec<Unreadable>,
    /// Why the file as a whole could not be read: it stays as it is, and what it holds is not known.
    pub(crate) unusable: Option<String>,
    /// Until when all keys of a zone sign.
    settling: HashMap<String, Instant>,
    /// What is held differs from the file.
    pub(crate) unwritten: bool,
    /// Why it could not be written.
    pub(crate) failure: Option<String>,
}

impl ZoneKeys {
    /// With what lies in the file. When that cannot be read the node starts without: the others tell it their keys, and it makes none.
    pub(crate) fn load(config: ZoneKeysConfig) -> Self {
        let sealer = Sealer::new(&config.keyring);
        let (lines, unusable) = match file::read(&config.data) {
            Ok(lines) => (lines, None),
            Err(error) => {
                tracing::error!(file = file::NAME, %error, "the keys of zones cannot be read; asking the others");
                (Vec::new(), Some(error.to_string()))
            }
        };
        let (mut keys, mut unreadable, mut unwritten) = (ZoneKeySet::default(), Vec::new(), false);
        for line in lines {
            match line.open(&sealer) {
                Ok((key, sealed_anew)) => {
                    unwritten |= sealed_anew;
                    keys.merge(key);
                }
                Err(line) => {
                    tracing::error!(file = file::NAME, line = line.number, error = %line.error, "a zone's key cannot be read");
                    unreadable.push(line);
                }
            }
        }
        // When a further key turned up is not written down; it may have been right before this start.
        let until = config.clock.now() + SETTLING;
        let several = keys.zones().filter(|zone| keys.of(zone).nth(1).is_some());
        let settling: HashMap<String, Instant> = several.map(|zone| (zone.to_owned(), until)).collect();
        let known = Known { keys: keys.clone(), settling: settling.keys().cloned().collect() };
        let state = State {
            sealer: Arc::new(sealer),
            keys,
            wanted: BTreeSet::new(),
            signed_before: BTreeSet::new(),
            remade: BTreeMap::new(),
            unreadable,
            unusable,
            settling,
            unwritten,
            failure: None,
        };
        let (state, stir) = (Mutex::new(state), Notify::new());
        let current = watch::Sender::new(Arc::new(known));
        Self(Arc::new(Inner { config, state, stir, current }))
    }

    /// Says which zones are to have keys, in lower case without the final dot. Those without get one; keys of others stay.
    pub fn want(&self, zones: BTreeSet<String>) {
        let mut state = self.0.lock();
        if state.wanted != zones {
            state.wanted = zones;
            self.0.stir.notify_one();
        }
    }

    /// Says which zones were signed already when this node was started, before any is wanted: when a key has to be made for one
    /// of those, theirs is lost, and [`problems`](Self::problems) say so.
    pub fn expect(&self, zones: BTreeSet<String>) {
        self.0.lock().signed_before = zones;
    }

    /// The keys that are known.
    pub fn known(&self) -> Arc<Known> {
        self.0.current.borrow().clone()
    }

    /// Follows them.
    pub fn watch(&self) -> watch::Receiver<Arc<Known>> {
        self.0.current.subscribe()
    }

    /// Takes another keyring into use: what lies in the file is sealed anew.
    pub fn rekey(&self, ring: &Keyring) {
        let mut state = self.0.lock();
        state.sealer = Arc::new(Sealer::new(ring));
        state.unwritten = true;
        self.0.stir.notify_one();
    }

    /// What an operator should know, in sentences.
    pub fn problems(&self) -> Vec<String> {
        let state = self.0.lock();
        let file = self.0.config.data.join(file::NAME);
        let file = file.display();
        let unread = state.unreadable.iter().map(|line| {
            format!(
                "{file}, line {}: {}; no keys are made here until it can be read or is deleted",
                line.number, line.error
            )
        });
        let unusable = state.unusable.iter().map(|error| {
            format!(
                "{file} cannot be read: {error}; no keys are made or written here until it is mended, or taken away, \
                 and the node starts again"
            )
        });
        let failed = state.failure.iter().map(|failure| {
            format!(
                "{file} cannot be written: {failure}; the keys of zones are safe in memory and on other nodes"
            )
        });
        let missing = state
            .wanted
            .iter()
            .filter(|zone| state.keys.of(zone).next().is_none())
            .map(|zone| format!("there is no key yet for zone {zone}: who validates gets SERVFAIL here"));
        // Where the old key comes back it is the oldest, and signs.
        let lost = state
            .remade
            .iter()
            .filter(|(zone, made)| state.keys.of(zone).next().is_some_and(|active| active.made == **made));
        let lost = lost.map(|(zone, _)| {
            format!(
                "zone {zone} was signed before, and no node had its key any more: this node made a new one. Where the parent has a DS \
                 record, resolvers that validate refuse the zone until it has the one that `meridian dns ds {zone}` prints, or until \
                 {file} is back from a copy and the node restarted (said until it is restarted)"
            )
        });
        unusable.chain(unread).chain(failed).chain(missing).chain(lost).collect()
    }

    /// Runs the exchange with the peers until `stop` changes or its sender is gone.
    pub(crate) async fn run(self, stop: watch::Receiver<bool>) {
        task::run(self.0, stop).await;
    }
}

impl Inner {
    /// Takes keys in that others have; true when there was room for all.
    pub(crate) fn merge(&self, keys: Vec<ZoneKey>) -> bool {
        let mut state = self.lock();
        let (mut news, mut full) = (false, false);
        for key in keys {
            let (zone, had_one) = (key.zone.clone(), state.keys.of(&key.zone).next().is_some());
            match state.keys.merge(key) {
                Merged::News => {
                    news = true;
                    if had_one {
                        tracing::warn!(
                            zone,
                            "a further key turned up, made while the mesh was cut; all are published, the oldest signs"
                        );
                        state.settling.insert(zone, self.config.clock.now() + SETTLING);
                    }
                }
                Merged::Known => {}
                Merged::Full => full = true,
            }
        }
        if news {
            state.unwritten = true;
            self.stir.notify_one();
            self.publish(&mut state);
        }
        !full
    }

    /// Tells who follows, when something changed.
    pub(crate) fn publish(&self, state: &mut State) {
        let now = self.config.clock.now();
        state.settling.retain(|_, until| *until > now);
        let settling = state.settling.keys().cloned().collect();
        let known = Known { keys: state.keys.clone(), settling };
        self.current.send_if_modified(|present| {
            let changed = **present != known;
            if changed {
                *present = Arc::new(known);
            }
            changed
        });
    }

    // Nothing panics under the lock.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for ZoneKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ZoneKeys").field(&self.known()).finish()
    }
}
