//! The records this node holds, in RAM: the authority (I11).
//!
//! One map a bucket behind its own lock, held for the time of one look-up or merge, so that workers read while the
//! store's task writes and rarely meet. Which records a node *should* hold is not decided here.
//!
//! ```text
//!   home ─▶ bucket ─┬─ pins          id 16 ‖ row 17     33 bytes a slot, see `slots`; where it stays in `places`
//!                   ├─ fingerprint   atomic, so that comparing takes no lock
//!                   └─ length        the same
//! ```
//!
//! Bounded: [`PINS_MAX`] records and [`HOMES_MAX`] homes; beyond, new sessions are refused and counted, known ones go on.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use gossip::clock::Wall;
use gossip::id::{SessionId, Tag};

use crate::digest::Fingerprint;
use crate::pin::Pin;
use crate::placement::{BUCKETS, bucket_of};
use crate::places::Places;
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
    /// Filled from the front, and never emptied.
    homes: Box<[OnceLock<HomeTable>]>,
    /// What rows name; read under the lock of the row's bucket.
    places: Places,
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
        let homes = (0..HOMES_MAX).map(|_| OnceLock::new()).collect();
        let (held, plants) = Default::default();
        Self { homes, places: Places::with_room(pins_max), held, pins_max, plants }
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
        let table = self.home(home)?;
        let pin = read(&table.bucket(id).pins).find(id).map(|row| self.places.pin(*id, row));
        pin.filter(|pin| !pin.is_expired(now))
    }

    /// The record of a session wherever its home is, `first` before others.
    pub fn find_anywhere(&self, first: Tag, id: &SessionId, now: Wall) -> Option<Pin> {
        let elsewhere = || {
            let mut others = self.tables().filter(|table| table.home != first);
            others.find_map(|table| self.find(table.home, id, now))
        };
        self.find(first, id, now).or_else(elsewhere)
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
        match pins.find(&id).copied() {
            Some(former) => {
                let held = self.places.pin(id, &former);
                let merged = match self.plants.has(Plant::MergeByArrival) {
                    true => record.pin,
                    false => held.merge(record.pin),
                };
                if merged == held {
                    return Merged::Known(merged);
                }
                let Some(row) = self.places.replace(&former, &merged) else { return Merged::Full };
                pins.put(&id, &row);
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
                let Some(row) = self.places.row(&record.pin) else { return Merged::Full };
                pins.put(&id, &row);
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
        let Some(table) = self.home(home) else {
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
            let pins = pins.iter().map(|(id, row)| self.places.pin(id, row));
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
        for table in self.tables() {
            let lens = table.buckets.iter().map(|bucket| bucket.len.load(Ordering::Relaxed));
            let held = (0..BUCKETS).zip(lens).filter(|(_, len)| *len > 0);
            filled.extend(held.map(|(bucket, _)| (table.home, bucket)));
        }
        filled
    }

    /// The homes this node holds records of, or once did.
    pub fn homes(&self) -> Vec<Tag> {
        self.tables().map(|table| table.home).collect()
    }

    fn bucket<T>(&self, home: Tag, bucket: u16, look: impl FnOnce(&Bucket) -> T) -> Option<T> {
        Some(look(self.home(home)?.buckets.get(usize::from(bucket))?))
    }

    fn remove_if(&self, home: Tag, bucket: u16, gone: impl Fn(&Pin) -> bool) -> Vec<SessionId> {
        let Some(bucket) = self.home(home).and_then(|table| table.buckets.get(usize::from(bucket))) else {
            return Vec::new();
        };
        if bucket.len.load(Ordering::Relaxed) == 0 {
            return Vec::new();
        }
        let mut pins = write(&bucket.pins);
        let mut removed = Vec::new();
        pins.retain(|id, row| {
            let pin = self.places.pin(id, row);
            let gone = gone(&pin);
            if gone {
                self.places.give_back(row);
                bucket.count(|sum| sum.remove(&pin));
                removed.push(id);
            }
            !gone
        });
        bucket.len.store(pins.len() as u32, Ordering::Relaxed);
        self.held.fetch_sub(removed.len() as u64, Ordering::Relaxed);
        removed
    }

    fn tables(&self) -> impl Iterator<Item = &HomeTable> {
        self.homes.iter().map_while(OnceLock::get)
    }

    fn home(&self, home: Tag) -> Option<&HomeTable> {
        self.tables().find(|table| table.home == home)
    }

    fn home_or_new(&self, home: Tag) -> Option<&HomeTable> {
        let buckets = || (0..BUCKETS).map(|_| Bucket::default()).collect();
        // Of two that come at once one fills the first empty place, and the other one looks on.
        let mut known =
            self.homes.iter().map(|place| place.get_or_init(|| HomeTable { home, buckets: buckets() }));
        known.find(|table| table.home == home)
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
