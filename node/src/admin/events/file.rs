//! The events in the data folder, for the next process: what happened before a restart or an upgrade is still told after it.
//!
//! ```text
//!   DATA/events      version 1 │ bincode
//! ```
//!
//! It is written a few seconds after a change, and when the node ends. One that is damaged is set aside under a dated name.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use bincode::Options;
use gossip::clock::Wall;
use gossip::id::{BackendId, NodeName};
use serde::{Deserialize, Serialize};

use super::ring::{Cursor, Entry, Fact, KEPT, OWN_KEPT, Ring};
use super::shelf::Shelf;
use super::wire::{WireFact, read as read_fact, spell};

const NAME: &str = "events";
const STAGED: &str = ".events.new";
const ASIDE: &str = "events.corrupt-";
/// As many events as are kept, each seen by hundreds of nodes.
const FILE_MAX_BYTES: u64 = 64 << 20;
const VERSION: u8 = 1;

/// What is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(super) ring: Ring,
    /// See [`super::log::Inner`].
    pub(super) unwell: BTreeSet<(NodeName, BackendId)>,
}

/// Why a file is not read.
#[derive(Debug)]
pub(super) enum Unread {
    /// It cannot be read.
    Io(io::Error),
    /// It was damaged, and lies there now.
    Aside(PathBuf),
}

// The mirror type: its order and its fields are the format.
#[derive(Serialize, Deserialize)]
struct Disk {
    me: NodeName,
    own: Cursor,
    newest: u64,
    entries: Vec<(u64, WireFact, Vec<NodeName>)>,
    own_facts: Vec<(u64, WireFact)>,
    heard: Vec<(NodeName, Cursor)>,
    unwell: Vec<(NodeName, u64)>,
}

fn options() -> impl Options {
    bincode::DefaultOptions::new().with_limit(FILE_MAX_BYTES - 1)
}

/// The bytes of the file; `None`: they would be too many.
pub(crate) fn encode(Kept { ring, unwell }: &Kept) -> Option<Vec<u8>> {
    let disk = Disk {
        me: ring.me.clone(),
        own: ring.own,
        newest: ring.newest,
        entries: ring.entries.iter().map(|of| (of.seq, spell(&of.fact), of.seen_by.clone())).collect(),
        own_facts: ring.own_facts.iter().map(|(number, fact)| (*number, spell(fact))).collect(),
        heard: ring.heard.iter().map(|(peer, cursor)| (peer.clone(), *cursor)).collect(),
        unwell: unwell.iter().map(|(by, backend)| (by.clone(), backend.0)).collect(),
    };
    let mut bytes = vec![VERSION];
    bytes.extend(options().serialize(&disk).ok()?);
    Some(bytes)
}

/// Reads them; `None`: they are damaged, or of another version.
pub(crate) fn decode(bytes: &[u8]) -> Option<Kept> {
    let disk: Disk = options().deserialize(bytes.strip_prefix(&[VERSION])?).ok()?;
    let entry = |(seq, fact, seen_by): &(u64, WireFact, Vec<NodeName>)| {
        let named = !seen_by.is_empty();
        named.then(|| Entry { seq: *seq, fact: read_fact(fact), seen_by: seen_by.clone() })
    };
    let entries: Vec<Entry> = disk.entries.iter().take(KEPT).map(entry).collect::<Option<_>>()?;
    let own_facts: Vec<(u64, Fact)> =
        disk.own_facts.iter().take(OWN_KEPT).map(|(number, fact)| (*number, read_fact(fact))).collect();
    let numbers_grow = entries.iter().is_sorted_by(|a, b| a.seq < b.seq)
        && own_facts.iter().is_sorted_by(|(a, _), (b, _)| a < b)
        && entries.last().is_none_or(|last| last.seq <= disk.newest)
        && own_facts.last().is_none_or(|(last, _)| *last <= disk.own.number);
    // Far from the end of the numbers: they only grow.
    let is_sound = numbers_grow && disk.newest < u64::MAX / 2 && disk.own.number < u64::MAX / 2;
    is_sound.then(|| Kept {
        ring: Ring {
            me: disk.me,
            own: disk.own,
            newest: disk.newest,
            entries: Shelf::of(KEPT, entries),
            own_facts: Shelf::of(OWN_KEPT, own_facts),
            heard: disk.heard.into_iter().collect(),
        },
        unwell: disk.unwell.into_iter().map(|(by, backend)| (by, BackendId(backend))).collect(),
    })
}

/// Opens what is a file: a pipe in its place would be waited for.
fn open(path: &Path) -> io::Result<File> {
    if !fs::symlink_metadata(path)?.is_file() {
        return Err(io::Error::other(format!("{} is not a file", path.display())));
    }
    File::open(path)
}

/// Reads the file; nothing when there is none.
pub(super) fn load(data: &Path, now: Wall) -> Result<Option<Kept>, Unread> {
    let path = data.join(NAME);
    let mut bytes = Vec::new();
    match open(&path).and_then(|file| file.take(FILE_MAX_BYTES).read_to_end(&mut bytes)) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Unread::Io(error)),
    }
    if let Some(kept) = decode(&bytes) {
        return Ok(Some(kept));
    }
    let date = humantime::format_rfc3339_seconds(now.system_time()).to_string().replace(':', "");
    let aside = data.join(format!("{ASIDE}{date}"));
    // One damaged file is enough to find out why.
    for old in fs::read_dir(data).into_iter().flatten().flatten() {
        if old.file_name().to_string_lossy().starts_with(ASIDE) {
            // What cannot be deleted stays; it is in nobody's way.
            let _ = fs::remove_file(old.path());
        }
    }
    fs::rename(path, &aside).map_err(Unread::Io)?;
    Err(Unread::Aside(aside))
}

/// Writes it whole or not at all. Blocks.
pub(super) fn write(data: &Path, kept: &Kept) -> io::Result<()> {
    let bytes = encode(kept).ok_or_else(|| io::Error::other("there is more than the file may hold"))?;
    let staged = data.join(STAGED);
    // What a link leads to is not to be written.
    let _ = fs::remove_file(&staged);
    let written = File::create_new(&staged).and_then(|mut file| file.write_all(&bytes));
    if let Err(error) = written {
        // It takes room that others need.
        let _ = fs::remove_file(&staged);
        return Err(error);
    }
    fs::rename(staged, data.join(NAME))
}

/// A file of version 1.
#[cfg(any(test, fuzzing))]
pub(crate) fn golden() -> Vec<Vec<u8>> {
    let entry = [&[1, 251, 44, 1, 9, 1, b'k', 1, b's', 1, b't'][..], &[1, 1, b'b']].concat();
    let head = [1, 1, b'a', 7, 3, 251, 44, 1];
    let rest = [1, 3, 9, 1, b'k', 1, b's', 1, b't', 1, 1, b'b', 5, 2, 1, 1, b'b', 17];
    vec![[&head[..], &entry, &rest].concat()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept() -> Kept {
        let (a, b): (NodeName, NodeName) = ("a".parse().unwrap(), "b".parse().unwrap());
        let fact = Fact::new(Wall(9), "k", "s", "t");
        Kept {
            ring: Ring {
                me: a,
                own: Cursor { life: 7, number: 3 },
                newest: 300,
                entries: Shelf::of(KEPT, [Entry { seq: 300, fact: fact.clone(), seen_by: vec![b.clone()] }]),
                own_facts: Shelf::of(OWN_KEPT, [(3, fact)]),
                heard: [(b.clone(), Cursor { life: 5, number: 2 })].into(),
            },
            unwell: [(b, BackendId(17))].into(),
        }
    }

    #[test]
    fn golden_bytes() {
        assert_eq!(encode(&kept()), Some(golden()[0].clone()));
        assert_eq!(decode(&golden()[0]), Some(kept()));
    }

    #[test]
    fn a_damaged_file_is_set_aside_and_the_next_one_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path();
        assert!(load(data, Wall(0)).unwrap().is_none());
        write(data, &kept()).unwrap();
        assert_eq!(load(data, Wall(0)).unwrap(), Some(kept()));
        for damage in [&b"nonsense"[..], &golden()[0][..9], &[]] {
            fs::write(data.join(NAME), damage).unwrap();
            let Err(Unread::Aside(aside)) = load(data, Wall(damage.len() as u64 * 1000)) else {
                panic!("{damage:?} is taken for events")
            };
            assert_eq!(fs::read(aside).unwrap(), damage);
            assert!(load(data, Wall(0)).unwrap().is_none());
        }
        assert_eq!(fs::read_dir(data).unwrap().count(), 1, "the last damaged one is kept");
        let mut wrong = kept();
        wrong.ring.newest = 1;
        assert!(decode(&encode(&wrong).unwrap()).is_none(), "numbers would be given twice");
    }
}
