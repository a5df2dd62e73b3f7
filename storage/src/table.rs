//! The records this node holds, in RAM: the authority (I11).
//!
//! One map a bucket behind its own lock, held for the time of one look-up or merge, so that workers read while the
//! store's task writes and rarely meet. Which records a node *should* hold is not decided here.
//!
//! ```text
//!   home ─▶ bucket ─┬─ pins          id 16 ‖ the rest of the encoded pin 29     45 bytes a slot, see `slots`
//!                   ├─ fingerprint   atomic, so that comparing takes no lock
//!                   └─ length        the same
//! ```
//!
//! Bounded: [`PINS_MAX`] records and [`HOMES_MAX`] homes; beyond, new sessions are refused and counted, known ones go on.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use arc_swap::ArcSwap;
use gossip::clock::Wall;
use gossip::id::{SessionId, Tag};

use crate::digest::Fingerprint;
use crate::pin::Pin;
use crate::placement::{BUCKETS, bucket_of};
use crate::plant::{Plant, Plants};
use crate::slots::Slots;

/// The most records one node holds.
pub const PINS_MAX: u64 = 4_000_000;

/// The most homes one node holds records of.
pub const HOMES_MAX: usize = 256;

/// A record and the region that keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// The home region.
    pub home: Tag,
    /// The record.
    pub pin: Pin,
}

/// What became of a record that arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Merged {
    /// It was new or brought something new; this is held now.
    Changed(Pin),
    /// It said nothing that was not known; this is held.
    Known(Pin),
    /// It is expired or from too far in the future.
    Refused,
    /// There is no room.
    Full,
}

impl Merged {
    /// What is held after it.
    pub fn held(self) -> Option<Pin> {
        match self {
            Self::Changed(pin) | Self::Known(pin) => Some(pin),
            Self::Refused | Self::Full => None,
        }
    }
}

#[derive(Debug, Default)]
struct Bucket {
    pins: RwLock<Slots>,
    /// Written under the lock, read without it.
    fingerprint: AtomicU64,
    len: AtomicU32,
}

#[derive(Debug)]
struct HomeTable {
    home: Tag,
    buckets: Box<[Bucket]>,
}

/// The records.
#[derive(Debug)]
pub struct Table {
    homes: ArcSwap<Vec<Arc<HomeTable>>>,
    held: AtomicU64,
    pins_max: u64,
    plants: Plants,
}

impl Default for Table {
    fn default() -> Self {
        Self::with_room(PINS_MAX)
    }
}

impl Table {
    /// For at most `pins_max` records.
    pub fn with_room(pins_max: u64) -> Self {
        Self { homes: ArcSwap::default(), held: AtomicU64::new(0), pins_max, plants: Plants::default() }
    }

    /// Records held.
    pub fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// The bugs on purpose.
    pub fn plants(&self) -> &Plants {
        &self.plants
    }

    /// The record of a session that has its home there, unless it is expired.
    pub fn find(&self, home: Tag, id: &SessionId, now: Wall) -> Option<Pin> {
        let homes = self.homes.load();
        let table = homes.iter().find(|table| table.home == home)?;
        let pin = read(&table.bucket(id).pins).find(id).map(|packed| Pin::unpack(*id, packed));
        pin.filter(|pin| !pin.is_expired(now))
    }

    /// The record of a session wherever its home is, `first` before others.
    pub fn find_anywhere(&self, first: Tag, id: &SessionId, now: Wall) -> Option<Pin> {
        self.find(first, id, now).or_else(|| {
            let homes = self.homes.load();
            homes.iter().filter(|table| table.home != first).find_map(|table| self.find(table.home, id, now))
        })
    }

    /// The homes at which a record of this session lies here, with the record.
    pub fn find_all(&self, id: &SessionId, now: Wall) -> Vec<Record> {
        let found = |home| Some(Record { home, pin: self.find(home, id, now)? });
        self.homes().into_iter().filter_map(found).collect()
    }

    /// Takes a record in.
    pub fn merge(&self, record: Record, now: Wall) -> Merged {
        if !record.pin.is_acceptable(now) {
            return Merged::Refused;
        }
        let Some(home) = self.home_or_new(record.home) else {
            return Merged::Full;
        };
        let id = record.pin.id;
        let bucket = home.bucket(&id);
        let mut pins = write(&bucket.pins);
        match pins.find(&id).map(|packed| Pin::unpack(id, packed)) {
            Some(held) => {
                let merged = match self.plants.has(Plant::MergeByArrival) {
                    true => record.pin,
                    false => held.merge(record.pin),
                };
                if merged == held {
                    return Merged::Known(merged);
                }
                pins.put(&id, &merged.pack());
                bucket.count(|sum| {
                    sum.remove(&held);
                    sum.add(&merged);
                });
                Merged::Changed(merged)
            }
            None => {
                // Threads that meet here may overshoot the bound by one each; it is no exact number.
                if self.held() >= self.pins_max {
                    return Merged::Full;
                }
                pins.put(&id, &record.pin.pack());
                bucket.count(|sum| sum.add(&record.pin));
                bucket.len.store(pins.len() as u32, Ordering::Relaxed);
                self.held.fetch_add(1, Ordering::Relaxed);
                Merged::Changed(record.pin)
            }
        }
    }

    /// Moves the expiry of a session that is held; what is held then when that changed something.
    pub fn refresh(&self, home: Tag, id: &SessionId, expires: u32, now: Wall) -> Option<Pin> {
        let pin = self.find(home, id, now)?;
        match self.merge(Record { home, pin: Pin { expires, ..pin } }, now) {
            Merged::Changed(pin) => Some(pin),
            _ => None,
        }
    }

    /// Drops the expired records of a bucket; which these were.
    pub fn sweep(&self, home: Tag, bucket: u16, now: Wall) -> Vec<SessionId> {
        let now = match self.plants.has(Plant::PurgeEarly) {
            true => now.plus(std::time::Duration::from_secs(600)),
            false => now,
        };
        self.remove_if(home, bucket, |pin| pin.is_expired(now))
    }

    /// Drops these records of a bucket where they are still as given: what was handed to others.
    pub fn remove_unchanged(&self, home: Tag, bucket: u16, handed: &HashMap<SessionId, Pin>) {
        drop(self.remove_if(home, bucket, |pin| handed.get(&pin.id) == Some(pin)));
    }

    /// The fingerprint of a bucket.
    pub fn fingerprint(&self, home: Tag, bucket: u16) -> Fingerprint {
        let fingerprint = |bucket: &Bucket| Fingerprint(bucket.fingerprint.load(Ordering::Relaxed));
        self.bucket(home, bucket, fingerprint).unwrap_or_default()
    }

    /// The fingerprints of these buckets, in their order.
    pub fn fingerprints(&self, home: Tag, buckets: &[u16]) -> Vec<Fingerprint> {
        let homes = self.homes.load();
        let Some(table) = homes.iter().find(|table| table.home == home) else {
            return vec![Fingerprint::default(); buckets.len()];
        };
        let of = |bucket: &u16| table.buckets.get(usize::from(*bucket));
        let sum = |bucket: &Bucket| Fingerprint(bucket.fingerprint.load(Ordering::Relaxed));
        buckets.iter().map(|bucket| of(bucket).map(sum).unwrap_or_default()).collect()
    }

    /// The records of a bucket that are not expired.
    pub fn pins(&self, home: Tag, bucket: u16, now: Wall) -> Vec<Pin> {
        let live = |bucket: &Bucket| {
            let pins = read(&bucket.pins);
            let pins = pins.iter().map(|(id, packed)| Pin::unpack(id, packed));
            pins.filter(|pin| !pin.is_expired(now)).collect()
        };
        self.bucket(home, bucket, live).unwrap_or_default()
    }

    /// How many records a bucket holds.
    pub fn bucket_len(&self, home: Tag, bucket: u16) -> usize {
        self.bucket(home, bucket, |bucket| bucket.len.load(Ordering::Relaxed) as usize).unwrap_or_default()
    }

    /// The buckets that hold anything, by home.
    pub fn buckets(&self) -> Vec<(Tag, u16)> {
        let mut filled = Vec::new();
        for table in self.homes.load().iter() {
            let lens = table.buckets.iter().map(|bucket| bucket.len.load(Ordering::Relaxed));
            let held = (0..BUCKETS).zip(lens).filter(|(_, len)| *len > 0);
            filled.extend(held.map(|(bucket, _)| (table.home, bucket)));
        }
        filled
    }

    /// The homes this node holds records of, or once did.
    pub fn homes(&self) -> Vec<Tag> {
        self.homes.load().iter().map(|table| table.home).collect()
    }

    fn bucket<T>(&self, home: Tag, bucket: u16, look: impl FnOnce(&Bucket) -> T) -> Option<T> {
        let homes = self.homes.load();
        let table = homes.iter().find(|table| table.home == home)?;
        Some(look(table.buckets.get(usize::from(bucket))?))
    }

    fn remove_if(&self, home: Tag, bucket: u16, gone: impl Fn(&Pin) -> bool) -> Vec<SessionId> {
        let homes = self.homes.load();
        let table = homes.iter().find(|table| table.home == home);
        let Some(bucket) = table.and_then(|table| table.buckets.get(usize::from(bucket))) else {
            return Vec::new();
        };
        if bucket.len.load(Ordering::Relaxed) == 0 {
            return Vec::new();
        }
        let mut pins = write(&bucket.pins);
        let mut removed = Vec::new();
        pins.retain(|id, packed| {
            let pin = Pin::unpack(id, packed);
            let gone = gone(&pin);
            if gone {
                bucket.count(|sum| sum.remove(&pin));
                removed.push(id);
            }
            !gone
        });
        bucket.len.store(pins.len() as u32, Ordering::Relaxed);
        self.held.fetch_sub(removed.len() as u64, Ordering::Relaxed);
        removed
    }

    fn home_or_new(&self, home: Tag) -> Option<Arc<HomeTable>> {
        let find = |homes: &[Arc<HomeTable>]| homes.iter().find(|table| table.home == home).cloned();
        if let Some(table) = find(&self.homes.load()) {
            return Some(table);
        }
        let buckets = (0..BUCKETS).map(|_| Bucket::default()).collect();
        let new = Arc::new(HomeTable { home, buckets });
        self.homes.rcu(|homes| {
            let mut next = Vec::clone(homes);
            if find(&next).is_none() && next.len() < HOMES_MAX {
                next.push(new.clone());
            }
            next
        });
        find(&self.homes.load())
    }
}

impl HomeTable {
    fn bucket(&self, id: &SessionId) -> &Bucket {
        &self.buckets[usize::from(bucket_of(id))]
    }
}

impl Bucket {
    /// Changes the fingerprint; only who holds the lock for writing calls this.
    fn count(&self, change: impl FnOnce(&mut Fingerprint)) {
        let mut sum = Fingerprint(self.fingerprint.load(Ordering::Relaxed));
        change(&mut sum);
        self.fingerprint.store(sum.0, Ordering::Relaxed);
    }
}

// A panic under one of these locks is impossible short of a failed allocation; what it guards stays usable.
fn read(pins: &RwLock<Slots>) -> RwLockReadGuard<'_, Slots> {
    pins.read().unwrap_or_else(PoisonError::into_inner)
}

fn write(pins: &RwLock<Slots>) -> RwLockWriteGuard<'_, Slots> {
    pins.write().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use gossip::clock::Hlc;
    use gossip::id::BackendId;
    use proptest::prelude::*;

    use super::*;
    use crate::pin::Assignment;

    const NOW: Wall = Wall(1_790_000_000_000);

    fn record(id: u8, hlc: u64, expires_in: u32) -> Record {
        let assignment = Assignment {
            hlc: Hlc::from_millis(NOW.0 - 1000 + hlc),
            node: Tag(1),
            pool: Tag(2),
            backend: Some(BackendId(3)),
            weak: false,
            forwarded: false,
        };
        let id = SessionId([id; 16]);
        Record { home: Tag(9), pin: Pin { id, assignment, expires: 1_790_000_000 + expires_in } }
    }

    proptest! {
        #[test]
        fn the_fingerprint_depends_on_what_is_held_alone(
            steps in proptest::collection::vec((0u8..3, 0u64..4, 0u32..4), 1..30), rotate in 0usize..30,
        ) {
            let (a, b) = (Table::default(), Table::default());
            let records: Vec<_> = steps.iter().map(|(id, hlc, expires)| record(*id, *hlc, *expires)).collect();
            for record in &records {
                a.merge(*record, NOW);
            }
            let mut other = records.clone();
            other.rotate_left(rotate % records.len());
            for record in other.iter().chain(&records) {
                b.merge(*record, NOW);
            }
            prop_assert_eq!(a.held(), b.held());
            for id in 0..3 {
                let bucket = bucket_of(&SessionId([id; 16]));
                prop_assert_eq!(a.fingerprint(Tag(9), bucket), b.fingerprint(Tag(9), bucket));
                let mut sum = Fingerprint::default();
                a.pins(Tag(9), bucket, NOW).iter().for_each(|pin| sum.add(pin));
                prop_assert_eq!(a.fingerprint(Tag(9), bucket), sum);
            }
        }
    }

    #[test]
    fn swept_and_handed_records_leave_no_trace() {
        let table = Table::default();
        table.merge(record(1, 0, 5), NOW);
        table.merge(record(1, 9, 5), NOW);
        let bucket = bucket_of(&SessionId([1; 16]));
        let stale = HashMap::from([(SessionId([1; 16]), record(1, 0, 5).pin)]);
        table.remove_unchanged(Tag(9), bucket, &stale);
        assert_eq!(table.held(), 1);
        let later = Wall(NOW.0 + 6000);
        assert_eq!(table.find(Tag(9), &SessionId([1; 16]), later), None);
        assert_eq!(table.sweep(Tag(9), bucket, later), [SessionId([1; 16])]);
        assert_eq!((table.held(), table.fingerprint(Tag(9), bucket)), (0, Fingerprint(0)));
    }

    #[test]
    fn a_full_table_refuses_strangers_and_keeps_its_own() {
        let table = Table::with_room(1);
        assert!(matches!(table.merge(record(1, 0, 5), NOW), Merged::Changed(_)));
        assert_eq!(table.merge(record(2, 0, 5), NOW), Merged::Full);
        assert!(matches!(table.merge(record(1, 1, 5), NOW), Merged::Changed(_)));
        assert_eq!(table.merge(record(1, 1, 5), Wall(NOW.0 + 6000)), Merged::Refused);
    }
}
