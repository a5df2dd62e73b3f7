//! The warm copy on disk (I11), and the only file that names sled.
//!
//! ```text
//!   DATA/store/   meta         "format" → 1
//!                 pins-1       home 4 ‖ sid 16 → version 2 ‖ the rest of the pin 29      big endian: a bucket is a range
//!                 revisions-1  epoch 8 ‖ hash 32 → the encoded revision
//!                 intents-1    a hash of the target → the encoded entry
//! ```
//!
//! Version 1 of a pin repeated its id; it is still read. What expires is not looked for here: RAM says what is gone, and what
//! it does not take at the start is removed.
//!
//! Everything here blocks; the writer's thread and the start are the only callers. sled answers damage with an error or a
//! panic; both are caught, and then the store is set aside under a dated name and written anew from RAM.

use std::collections::BTreeMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use gossip::clock::Wall;
use gossip::id::{SessionId, Tag};

use crate::pin::{PACKED_BYTES, Pin};
use crate::placement::{BUCKETS, bucket_of};
use crate::table::{Record, Table};

const FORMAT: &[u8] = &[1];
const PIN_VERSION: u8 = 2;
const PIN_VERSION_WITH_ID: u8 = 1;
/// An index by expiry that former versions kept.
const FORMER_TREE: &str = "expiry-1";
const CACHE_BYTES: u64 = 1024 * 1024;
const SET_ASIDE_MAX: usize = 3;
const LONG: Duration = Duration::from_secs(2 * 24 * 3600);

/// A part of the store that is no session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Shelf {
    /// The history of revisions.
    Revisions,
    /// The intents.
    Intents,
}

/// What lay on the shelves.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Shelves {
    /// Keys and values of the history of revisions.
    pub(crate) revisions: Vec<(Vec<u8>, Vec<u8>)>,
    /// Keys and values of the intents.
    pub(crate) intents: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Why the store does not open or does not write.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DiskError {
    /// Another process holds it.
    #[error("the store is in use by another process")]
    InUse,
    /// No space is left: the store may be sound.
    #[error("the disk is full")]
    Full,
    /// The folder cannot be used.
    #[error("{0}")]
    Io(io::Error),
    /// What lies there cannot be read.
    #[error("the store is damaged: {0}")]
    Damaged(String),
}

impl From<sled::Error> for DiskError {
    fn from(error: sled::Error) -> Self {
        match error {
            sled::Error::Io(error) if error.to_string().contains("could not acquire lock") => Self::InUse,
            sled::Error::Io(error)
                if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) =>
            {
                Self::Full
            }
            sled::Error::Io(error) => Self::Io(error),
            other => Self::Damaged(other.to_string()),
        }
    }
}

/// The open store.
#[derive(Debug)]
pub(crate) struct Store {
    db: sled::Db,
    pins: sled::Tree,
    revisions: sled::Tree,
    intents: sled::Tree,
}

/// A store that was opened, one way or the other.
#[derive(Debug)]
pub(crate) struct Opened {
    /// Ready to be written to.
    pub(crate) store: Store,
    /// What was on the shelves.
    pub(crate) shelves: Shelves,
    /// Where the former store lies now and why, when it could not be used. Then the new one is empty, and what could be
    /// read of the old one is in the table and on `shelves`.
    pub(crate) set_aside: Option<(PathBuf, String)>,
}

/// Opens the store in the data folder and merges its sessions into `table`; sets a damaged one aside.
///
/// # Errors
/// When it is in use, when the disk is full, and when not even a fresh store can be made.
pub(crate) fn open(data: &Path, table: &Table, now: Wall) -> Result<Opened, DiskError> {
    let path = data.join("store");
    let mut shelves = Shelves::default();
    let why = match caught(|| {
        let store = Store::open_patiently(&path)?;
        store.load(table, &mut shelves, now)?;
        Ok(store)
    }) {
        Ok(store) => return Ok(Opened { store, shelves, set_aside: None }),
        Err(error @ (DiskError::InUse | DiskError::Full)) => return Err(error),
        Err(error) => error.to_string(),
    };
    let aside = set_aside(data, "corrupt", now)?;
    let store = caught(|| Store::open(&path))?;
    for (shelf, items) in [(Shelf::Revisions, &shelves.revisions), (Shelf::Intents, &shelves.intents)] {
        caught(|| items.iter().try_for_each(|(key, value)| store.keep(shelf, key, Some(value))))?;
    }
    Ok(Opened { store, shelves, set_aside: Some((aside, why)) })
}

/// Moves the store away under a dated name; the oldest of several such is deleted.
///
/// # Errors
/// When the data folder cannot be written.
pub(crate) fn set_aside(data: &Path, why: &str, now: Wall) -> Result<PathBuf, DiskError> {
    let mut aside = data.join(format!("store.{why}-{}", date(now)));
    let mut more = 1;
    while aside.exists() {
        more += 1;
        aside = data.join(format!("store.{why}-{}-{more}", date(now)));
    }
    std::fs::rename(data.join("store"), &aside).map_err(DiskError::Io)?;
    let is_aside = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with("store.corrupt-") || name.starts_with("store.oversized-")
    };
    let mut old: Vec<_> = std::fs::read_dir(data)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(is_aside)
        .collect();
    old.sort_by_key(|path| path.to_string_lossy().split_once('-').map(|(_, date)| date.to_owned()));
    for path in old.iter().rev().skip(SET_ASIDE_MAX).filter(|path| **path != aside) {
        // What cannot be deleted stays; it is in nobody's way.
        let _ = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    }
    Ok(aside)
}

impl Store {
    /// sled's own threads let go of a closed store a moment after it was dropped, and a process that is restarted may
    /// meet its predecessor: a lock is tried again for a second.
    fn open_patiently(path: &Path) -> Result<Self, DiskError> {
        for _ in 0..20 {
            match Self::open(path) {
                Err(DiskError::InUse) => std::thread::park_timeout(Duration::from_millis(50)),
                opened => return opened,
            }
        }
        Self::open(path)
    }

    fn open(path: &Path) -> Result<Self, DiskError> {
        let fresh = !path.exists();
        let config = sled::Config::new().path(path).cache_capacity(CACHE_BYTES).flush_every_ms(None);
        let db = config.open()?;
        db.drop_tree(FORMER_TREE)?;
        let meta = db.open_tree("meta")?;
        if fresh {
            meta.insert("format", FORMAT)?;
            db.flush()?;
        } else if meta.get("format")?.is_none_or(|format| format != FORMAT) {
            return Err(DiskError::Damaged("its format is of another version".into()));
        }
        Ok(Self {
            pins: db.open_tree("pins-1")?,
            revisions: db.open_tree("revisions-1")?,
            intents: db.open_tree("intents-1")?,
            db,
        })
    }

    /// Reads all there is: the shelves first, since nobody else may have them.
    fn load(&self, table: &Table, shelves: &mut Shelves, now: Wall) -> Result<(), DiskError> {
        shelves.revisions = all(&self.revisions)?;
        shelves.intents = all(&self.intents)?;
        let mut strange = 0_u64;
        for row in &self.pins {
            let (key, value) = row?;
            match decode(&key, &value) {
                // What lies here was taken in once: a clock that is behind since then makes it no worse.
                Some(record) => {
                    let written = record.pin.assignment.hlc.wall();
                    if table.merge(record, now.max(written)).held().is_none()
                        && is_long_over(&record.pin, now)
                    {
                        drop(self.pins.remove(key)?);
                    }
                }
                None => strange += 1,
            }
        }
        if strange > 0 {
            return Err(DiskError::Damaged(format!("{strange} records cannot be read")));
        }
        Ok(())
    }

    /// Makes the disk say of a session what the table says.
    ///
    /// # Errors
    /// When the disk cannot be written; a retry later may succeed.
    pub(crate) fn save(&self, table: &Table, home: Tag, id: SessionId, now: Wall) -> Result<(), DiskError> {
        let key = key(home, &id);
        match table.find(home, &id, now) {
            Some(pin) => self.pins.insert(key, &value(&pin))?,
            None => self.pins.remove(key)?,
        };
        Ok(())
    }

    /// The same for a whole bucket.
    ///
    /// # Errors
    /// As [`Store::save`].
    pub(crate) fn save_bucket(
        &self,
        table: &Table,
        home: Tag,
        bucket: u16,
        now: Wall,
    ) -> Result<(), DiskError> {
        let mut first = [0; 20];
        first[..4].copy_from_slice(&home.0.to_be_bytes());
        first[4..6].copy_from_slice(&(bucket << 4).to_be_bytes());
        let mut last = [0xff; 20];
        last[..4].copy_from_slice(&home.0.to_be_bytes());
        last[4..6].copy_from_slice(&((bucket << 4) | 0xf).to_be_bytes());
        let mut wanted: BTreeMap<_, _> =
            table.pins(home, bucket, now).iter().map(|pin| (key(home, &pin.id), value(pin))).collect();
        for row in self.pins.range(first..=last) {
            let (key, value) = row?;
            match wanted.get(&key[..]) {
                Some(same) if *same == value[..] => drop(wanted.remove(&key[..])),
                Some(_) => {}
                None => drop(self.pins.remove(key)?),
            }
        }
        wanted.iter().try_for_each(|(key, value)| self.pins.insert(key, value).map(drop))?;
        Ok(())
    }

    /// Writes something on a shelf, or takes it away.
    ///
    /// # Errors
    /// As [`Store::save`].
    pub(crate) fn keep(&self, shelf: Shelf, key: &[u8], value: Option<&Vec<u8>>) -> Result<(), DiskError> {
        let tree = match shelf {
            Shelf::Revisions => &self.revisions,
            Shelf::Intents => &self.intents,
        };
        match value {
            Some(value) => tree.insert(key, &value[..])?,
            None => tree.remove(key)?,
        };
        Ok(())
    }

    /// Waits until all that was written is on the medium.
    ///
    /// # Errors
    /// As [`Store::save`].
    pub(crate) fn sync(&self) -> Result<(), DiskError> {
        self.db.flush()?;
        Ok(())
    }

    /// Whether the files that are written to still have their name. Somebody who deletes the folder takes nothing from a
    /// process that has them open, until it ends.
    pub(crate) fn is_there(data: &Path) -> bool {
        data.join("store").join("db").exists()
    }

    /// Its size.
    ///
    /// # Errors
    /// When it cannot be told.
    pub(crate) fn size_bytes(&self) -> Result<u64, DiskError> {
        Ok(self.db.size_on_disk()?)
    }

    /// Gives the store up for a fresh one, which holds the shelves; the sessions are the caller's to write.
    ///
    /// # Errors
    /// When the old one cannot be read or moved, or no new one be made.
    pub(crate) fn replace(self, data: &Path, now: Wall) -> Result<(Self, PathBuf), DiskError> {
        let shelves = Shelves { revisions: all(&self.revisions)?, intents: all(&self.intents)? };
        self.sync()?;
        drop(self);
        let aside = set_aside(data, "oversized", now)?;
        Ok((Self::fill(data, &shelves)?, aside))
    }

    /// The same for a store whose files were deleted: there is nothing to set aside, and large values may be gone.
    ///
    /// # Errors
    /// When no new one can be made.
    pub(crate) fn restore(self, data: &Path) -> Result<Self, DiskError> {
        let shelf = |tree| caught(|| all(tree)).unwrap_or_default();
        let shelves = Shelves { revisions: shelf(&self.revisions), intents: shelf(&self.intents) };
        drop(self);
        match std::fs::remove_dir_all(data.join("store")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(DiskError::Io(error)),
            _ => Self::fill(data, &shelves),
        }
    }

    /// A fresh store that holds the shelves.
    fn fill(data: &Path, shelves: &Shelves) -> Result<Self, DiskError> {
        let store = Self::open_patiently(&data.join("store"))?;
        for (shelf, items) in [(Shelf::Revisions, &shelves.revisions), (Shelf::Intents, &shelves.intents)] {
            items.iter().try_for_each(|(key, value)| store.keep(shelf, key, Some(value)))?;
        }
        Ok(store)
    }
}

/// Runs what calls sled; a panic in it is damage.
pub(crate) fn caught<T>(call: impl FnOnce() -> Result<T, DiskError>) -> Result<T, DiskError> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no reason given");
        Err(DiskError::Damaged(text.chars().take(200).collect()))
    })
}

fn all(tree: &sled::Tree) -> Result<Vec<(Vec<u8>, Vec<u8>)>, DiskError> {
    tree.iter()
        .map(|row| row.map(|(key, value)| (key.to_vec(), value.to_vec())).map_err(Into::into))
        .collect()
}

pub(crate) fn key(home: Tag, id: &SessionId) -> [u8; 20] {
    let mut key = [0; 20];
    key[..4].copy_from_slice(&home.0.to_be_bytes());
    key[4..].copy_from_slice(&id.0);
    key
}

fn split_key(key: &[u8]) -> Option<(Tag, SessionId)> {
    let (home, id) = key.split_first_chunk::<4>()?;
    Some((Tag(u32::from_be_bytes(*home)), SessionId(id.try_into().ok()?)))
}

pub(crate) fn value(pin: &Pin) -> [u8; 1 + PACKED_BYTES] {
    let mut value = [PIN_VERSION; 1 + PACKED_BYTES];
    value[1..].copy_from_slice(&pin.pack());
    value
}

pub(crate) fn decode(key: &[u8], value: &[u8]) -> Option<Record> {
    let (home, id) = split_key(key)?;
    let (version, pin) = value.split_first()?;
    let pin = match *version {
        PIN_VERSION => Pin::decode(&[&id.0, pin].concat()),
        PIN_VERSION_WITH_ID => Pin::decode(pin),
        _ => return None,
    };
    let pin = pin.ok()?;
    (pin.id == id && bucket_of(&id) < BUCKETS).then_some(Record { home, pin })
}

/// Expired for so long that no clock is wrong by as much. What is only expired stays until then: the clock may be ahead.
fn is_long_over(pin: &Pin, now: Wall) -> bool {
    u64::from(pin.expires) + LONG.as_secs() < now.seconds()
}

fn date(now: Wall) -> String {
    let date = time::OffsetDateTime::from_unix_timestamp(now.seconds() as i64)
        .unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
    let (year, month, day) = date.to_calendar_date();
    let (hour, minute, second) = date.to_hms();
    format!("{year:04}{:02}{day:02}T{hour:02}{minute:02}{second:02}Z", u8::from(month))
}

#[cfg(test)]
pub(crate) fn pretend_to_be_of_the_future(path: &Path) {
    let store = Store::open(path).unwrap();
    store.db.open_tree("meta").unwrap().insert("format", &[99]).unwrap();
    store.sync().unwrap();
}

#[cfg(test)]
mod tests {
    use gossip::clock::Hlc;

    use super::*;
    use crate::pin::Assignment;

    #[test]
    fn the_format_is_the_same_for_ever() {
        let assignment = Assignment {
            hlc: Hlc(2),
            node: Tag(3),
            pool: Tag(4),
            backend: None,
            weak: false,
            forwarded: false,
        };
        let pin = Pin { id: SessionId([7; 16]), assignment, expires: 600 };
        let record = Record { home: Tag(0x0102_0304), pin };
        let golden = [&[1, 2, 3, 4][..], &[7; 16]].concat();
        assert_eq!(key(record.home, &pin.id)[..], golden);
        let written = [&[2][..], &pin.encode()[16..]].concat();
        assert_eq!(value(&pin)[..], written);
        assert_eq!(decode(&golden, &written), Some(record));
        let value = [&[1][..], &pin.encode()].concat();
        assert_eq!(decode(&golden, &value), Some(record), "what former versions wrote");
        assert_eq!(decode(&golden, &[&[2][..], &pin.encode()].concat()), None);
        assert_eq!(decode(&golden, &[&[3][..], &written[1..]].concat()), None);
        assert_eq!(decode(&[0; 20], &value), None);
        assert_eq!(decode(&golden[1..], &value), None);
    }

    #[test]
    fn a_clock_that_is_wrong_at_the_start_loses_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let now = Wall(1_790_000_000_000);
        let at = |hours: i64| Wall(now.0.saturating_add_signed(hours * 3_600_000));
        let held = |now: Wall| {
            let table = Table::default();
            drop(open(folder.path(), &table, now).unwrap());
            table.held()
        };
        let table = Table::default();
        let assignment = Assignment {
            hlc: Hlc::from_millis(now.0),
            node: Tag(3),
            pool: Tag(4),
            backend: None,
            weak: false,
            forwarded: false,
        };
        let pin = Pin { id: SessionId([7; 16]), assignment, expires: (now.seconds() + 3600) as u32 };
        table.merge(Record { home: Tag(1), pin }, now);
        let store = open(folder.path(), &Table::default(), now).unwrap().store;
        store.save(&table, Tag(1), pin.id, now).unwrap();
        store.sync().unwrap();
        drop(store);
        for (hours, kept) in [(0, 1), (-24, 1), (0, 1), (24, 0), (0, 1), (24 * 30, 0), (0, 0)] {
            assert_eq!(held(at(hours)), kept, "the clock is {hours} hours ahead");
        }
    }

    #[test]
    fn old_stores_carry_their_date() {
        assert_eq!(date(Wall(1_790_000_000_000)), "20260921T141320Z");
    }
}
