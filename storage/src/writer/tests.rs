//! The copy on disk under kill, damage and strange neighbours.
use std::path::Path;

use gossip::clock::{Hlc, Wall};
use gossip::id::BackendId;

use super::*;
use crate::pin::{Assignment, Pin};
use crate::table::Record;

const NOW: Wall = Wall(1_790_000_000_000);

fn record(id: u16, expires_in: u32) -> Record {
    let mut sid = [3; 16];
    sid[..2].copy_from_slice(&id.to_be_bytes());
    let assignment = Assignment {
        hlc: Hlc::from_millis(NOW.0),
        node: Tag(1),
        pool: Tag(2),
        backend: Some(BackendId(3)),
        weak: false,
        forwarded: false,
    };
    Record { home: Tag(9), pin: Pin { id: SessionId(sid), assignment, expires: 1_790_000_000 + expires_in } }
}

struct Node {
    table: Arc<Table>,
    clock: Clock,
    writer: Writer,
    shelves: disk::Shelves,
    set_aside: Option<PathBuf>,
}

fn start(data: &Path, now: Wall, max_bytes: u64) -> Node {
    let (table, clock) = (Arc::new(Table::default()), Clock::simulated(now));
    let opened = disk::open(data, &table, now).unwrap();
    let config = WriterConfig { data: data.into(), table: table.clone(), clock: clock.clone(), max_bytes };
    let writer = Writer::start(config, Some(opened.store), opened.set_aside.is_some()).unwrap();
    Node { table, clock, writer, shelves: opened.shelves, set_aside: opened.set_aside.map(|(path, _)| path) }
}

impl Node {
    fn put(&self, record: Record) {
        self.table.merge(record, self.clock.mesh_wall());
        self.writer.save(record.home, record.pin.id);
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (from, to) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            std::fs::copy(from, to).unwrap();
        }
    }
}

#[tokio::test]
async fn what_was_flushed_survives_a_kill() {
    let (data, killed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let node = start(data.path(), NOW, u64::MAX);
    (0..3000).for_each(|n| node.put(record(n, 600)));
    node.writer.keep(Shelf::Intents, vec![1], Some(vec![2]));
    node.writer.flush().await;
    (3000..6000).for_each(|n| node.put(record(n, 600)));
    // A copy of the files while the writer works is what a SIGKILL leaves behind.
    copy(data.path(), killed.path());
    let again = start(killed.path(), NOW, u64::MAX);
    assert_eq!(again.set_aside, None);
    assert!(again.table.held() >= 3000);
    for n in 0..3000 {
        assert_eq!(again.table.find(Tag(9), &record(n, 0).pin.id, NOW), Some(record(n, 600).pin));
    }
    assert_eq!(again.shelves.intents, [(vec![1], vec![2])]);
}

#[tokio::test]
async fn what_expired_leaves_the_disk() {
    let data = tempfile::tempdir().unwrap();
    let node = start(data.path(), NOW, u64::MAX);
    node.put(record(1, 60));
    node.put(record(2, 600));
    node.writer.flush().await;
    node.put(record(1, 300));
    node.clock.advance(Duration::from_secs(200));
    node.writer.flush().await;
    node.writer.stop();
    drop(node);
    let later = NOW.plus(Duration::from_secs(200));
    let node = start(data.path(), later, u64::MAX);
    assert_eq!(node.table.held(), 2);
    node.clock.advance(Duration::from_secs(200));
    let Record { home, pin } = record(1, 0);
    let gone = node.table.sweep(home, bucket_of(&pin.id), node.clock.mesh_wall());
    gone.iter().for_each(|id| node.writer.save(home, *id));
    node.writer.flush().await;
    node.writer.stop();
    drop(node);
    // Loaded as of the beginning nothing would be refused for its age: what is gone is gone from the disk.
    let node = start(data.path(), NOW, u64::MAX);
    assert_eq!(node.table.held(), 1);
    node.writer.stop();
    drop(node);
    // What expired while nobody ran is not loaded, and removed at the start once it is long over.
    for (later, left) in [(601, 1), (601 + 3 * 24 * 3600, 0)] {
        let node = start(data.path(), NOW.plus(Duration::from_secs(later)), u64::MAX);
        assert_eq!(node.table.held(), 0);
        node.writer.flush().await;
        node.writer.stop();
        drop(node);
        let node = start(data.path(), NOW, u64::MAX);
        assert_eq!(node.table.held(), left);
        node.writer.stop();
        drop(node);
    }
}

#[tokio::test]
async fn a_damaged_store_is_set_aside_and_written_anew() {
    for damage in ["garbage", "hole", "empty", "format", "file"] {
        let data = tempfile::tempdir().unwrap();
        let node = start(data.path(), NOW, u64::MAX);
        (0..500).for_each(|n| node.put(record(n, 600)));
        node.writer.flush().await;
        node.writer.stop();
        drop(node);
        let store = data.path().join("store");
        match damage {
            "garbage" => std::fs::write(store.join("db"), vec![0x5a; 100_000]).unwrap(),
            "hole" => {
                let mut db = std::fs::read(store.join("db")).unwrap();
                let end = db.len() - db.len() / 4;
                db[4096..end].fill(0xa5);
                std::fs::write(store.join("db"), db).unwrap();
            }
            "empty" => std::fs::write(store.join("db"), "").unwrap(),
            "format" => disk::pretend_to_be_of_the_future(&store),
            _ => {
                std::fs::remove_dir_all(&store).unwrap();
                std::fs::write(&store, "not a folder").unwrap();
            }
        }
        let node = start(data.path(), NOW, u64::MAX);
        // sled takes a hole for the torn end of its log and drops what follows; the peers still have that.
        if damage != "hole" {
            let aside = node.set_aside.clone().unwrap_or_else(|| panic!("{damage} was not noticed"));
            assert!(aside.exists() && aside.to_string_lossy().contains("store.corrupt-2026"), "{aside:?}");
        }
        node.put(record(7, 600));
        node.writer.flush().await;
        node.writer.stop();
        drop(node);
        let node = start(data.path(), NOW, u64::MAX);
        assert_eq!(
            (node.set_aside.as_ref(), node.table.find(Tag(9), &record(7, 0).pin.id, NOW)),
            (None, Some(record(7, 600).pin))
        );
    }
}

#[tokio::test]
async fn a_store_that_was_deleted_under_the_writer_is_written_anew() {
    let (data, killed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let node = start(data.path(), NOW, u64::MAX);
    (0..2000).for_each(|n| node.put(record(n, 600)));
    node.writer.keep(Shelf::Intents, vec![1], Some(vec![2]));
    node.writer.flush().await;
    std::fs::remove_dir_all(data.path().join("store")).unwrap();
    node.put(record(2000, 600));
    node.writer.flush().await;
    copy(data.path(), killed.path());
    let again = start(killed.path(), NOW, u64::MAX);
    assert_eq!(again.table.held(), 2001);
    assert_eq!((again.set_aside, again.shelves.intents), (None, vec![(vec![1], vec![2])]));
    assert_eq!(node.writer.aside(), None);
}

#[tokio::test]
async fn an_oversized_store_is_written_anew_from_memory() {
    let data = tempfile::tempdir().unwrap();
    let node = start(data.path(), NOW, 1);
    node.writer.keep(Shelf::Revisions, vec![1], Some(vec![2]));
    node.put(record(1, 600));
    node.writer.flush().await;
    node.writer.stop();
    drop(node);
    let node = start(data.path(), NOW, u64::MAX);
    assert_eq!(node.table.held(), 1);
    assert_eq!(node.shelves.revisions, [(vec![1], vec![2])]);
}

#[tokio::test]
async fn a_start_without_a_store_catches_up() {
    let data = tempfile::tempdir().unwrap();
    let node = start(data.path(), NOW, u64::MAX);
    node.put(record(1, 600));
    node.writer.flush().await;
    node.writer.stop();
    drop(node);
    // As after a start on a full disk that has room again.
    let (table, clock) = (Arc::new(Table::default()), Clock::simulated(NOW));
    table.merge(record(2, 600), NOW);
    let config = WriterConfig { data: data.path().into(), table: table.clone(), clock, max_bytes: u64::MAX };
    let writer = Writer::start(config, None, false).unwrap();
    assert!(writer.is_behind());
    writer.flush().await;
    assert!(!writer.is_behind());
    assert_eq!(table.held(), 2);
    writer.stop();
    assert_eq!(start(data.path(), NOW, u64::MAX).table.held(), 2);
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_delays_nobody() {
    let data = tempfile::tempdir().unwrap();
    let gone = data.path().join("gone");
    let (table, clock) = (Arc::new(Table::default()), Clock::simulated(NOW));
    std::fs::write(&gone, "a file where a folder should be").unwrap();
    let config = WriterConfig { data: gone.clone(), table: table.clone(), clock, max_bytes: u64::MAX };
    let writer = Writer::start(config, None, false).unwrap();
    for n in 0..2000 {
        table.merge(record(n, 600), NOW);
        writer.save(Tag(9), record(n, 600).pin.id);
    }
    assert!(writer.is_behind());
    std::fs::remove_file(&gone).unwrap();
    // The writer may have made it in the same moment.
    std::fs::create_dir_all(&gone).unwrap();
    writer.flush().await;
    assert!(!writer.is_behind());
    writer.stop();
    assert_eq!(start(&gone, NOW, u64::MAX).table.held(), 2000);
}

#[test]
fn a_store_in_use_is_left_alone() {
    let data = tempfile::tempdir().unwrap();
    let _node = start(data.path(), NOW, u64::MAX);
    let second = disk::open(data.path(), &Table::default(), NOW);
    assert!(matches!(second, Err(DiskError::InUse)), "{second:?}");
}

#[test]
fn few_old_stores_are_kept() {
    let data = tempfile::tempdir().unwrap();
    for n in 0..6 {
        std::fs::create_dir(data.path().join("store")).unwrap();
        disk::set_aside(data.path(), "corrupt", NOW.plus(Duration::from_secs(n))).unwrap();
    }
    assert_eq!(std::fs::read_dir(data.path()).unwrap().count(), 3);
}

#[test]
fn beyond_the_bound_buckets_are_marked() {
    let mut waiting = Waiting::default();
    let ids = (0..=IDS_MAX as u32)
        .map(|n| (Tag(1), SessionId([n.to_be_bytes(), [0; 4], [0; 4], [0; 4]].concat().try_into().unwrap())));
    waiting.put_back(Batch { ids: ids.collect(), ..Batch::default() });
    assert_eq!((waiting.ids.len(), waiting.buckets.len()), (IDS_MAX, 1));
}

#[test]
fn what_waits_is_taken_in_order_and_nothing_waits_for_ever() {
    let id = |n: u32| {
        let mut id = [0; 16];
        id[..4].copy_from_slice(&n.to_be_bytes());
        (Tag(1), SessionId(id))
    };
    let room = BATCH_MAX as u32;
    let mut waiting = Waiting::default();
    waiting.ids.extend((room..3 * room).map(id));
    assert_eq!(waiting.take().ids, (room..2 * room).map(id).collect::<Vec<_>>());
    // What comes behind it meanwhile has its turn after the rest.
    waiting.ids.extend((0..room).map(id));
    assert_eq!(waiting.take().ids, (2 * room..3 * room).map(id).collect::<Vec<_>>());
    assert_eq!(waiting.take().ids, (0..room).map(id).collect::<Vec<_>>());
    assert!(waiting.is_empty() && waiting.take().ids.is_empty());
    waiting.ids.insert(id(7));
    assert_eq!(waiting.take().ids, [id(7)]);
}

#[tokio::test]
async fn a_bucket_that_is_written_as_a_whole_is_as_in_memory() {
    let data = tempfile::tempdir().unwrap();
    let node = start(data.path(), NOW, u64::MAX);
    // Ids 0 to 15 share a bucket: some change, some go, some come.
    (0..10).for_each(|n| node.put(record(n, 60 + 60 * u32::from(n % 2))));
    node.writer.flush().await;
    node.clock.advance(Duration::from_secs(90));
    for n in 5..16 {
        node.table.merge(record(n, 600), node.clock.mesh_wall());
    }
    lock(&node.writer.shared.waiting).buckets.insert((Tag(9), 0));
    node.writer.flush().await;
    node.writer.stop();
    drop(node);
    let node = start(data.path(), NOW, u64::MAX);
    let mut held: Vec<_> =
        node.table.pins(Tag(9), 0, NOW).iter().map(|pin| (pin.id.0[1], pin.expires)).collect();
    held.sort_unstable();
    let wanted = [1, 3].map(|n| (n, 1_790_000_120)).into_iter().chain((5..16).map(|n| (n, 1_790_000_600)));
    assert_eq!(held, wanted.collect::<Vec<_>>());
}
