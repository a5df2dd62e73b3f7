//! Operators' runtime orders as a map that merges. Pure.
//!
//! For each target and aspect the entry with the greater `(hlc, node)` wins; taking an order back leaves an entry
//! without one (a *mark*), so that an old copy of the order does not come back. Marks are dropped after
//! [`MARK_LIFE`], when their order would have lapsed, and, the oldest first, when they weigh more than [`MARKS_MAX_BYTES`] or an
//! order needs the room; a node that was away for longer may bring back an order that was taken back meanwhile. So nodes need
//! not hold the same marks, and the digest that they compare is of the orders alone. The end of
//! sessions is an order too, which nobody takes back: it lapses when none of those sessions can come again.
//!
//! Entries travel and lie on disk as `version 1 ‖ bincode of the mirror types below`, fixed-width, little endian.

mod codec;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use gossip::clock::{HLC_MAX_AHEAD, Hlc, Wall};
use gossip::id::{NodeName, PoolName, RegionName, ServiceName, SessionId};

use crate::pin::LIFE_MAX_SECONDS;

/// How long the mark of an order that was taken back is kept.
pub const MARK_LIFE: Duration = Duration::from_secs(7 * 86_400);

/// All entries together, encoded: what fits in one message with room to spare.
pub const MAP_MAX_BYTES: usize = 512 * 1024;

/// The marks among them.
pub const MARKS_MAX_BYTES: usize = MAP_MAX_BYTES / 4;

/// The most pools in a split.
pub const SPLIT_MAX: usize = 64;

/// The longest that an end of sessions stands: no seal opens after that.
pub const END_LIFE_MAX: Duration = Duration::from_secs(LIFE_MAX_SECONDS as u64);

const ENTRY_MAX_BYTES: u64 = 8 * 1024;

/// Whom an order is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// A node.
    Node(NodeName),
    /// A region.
    Region(RegionName),
    /// A pool.
    Pool(PoolName),
    /// One backend of a pool.
    Backend(PoolName, SocketAddr),
    /// A service.
    Service(ServiceName),
    /// One session.
    Session(SessionId),
    /// A mesh key, by its id.
    Key(u32),
    /// The mesh as a whole.
    Mesh,
    /// A network of users: its first address, and how many bits of it count.
    Network(IpAddr, u8),
    /// A key that a zone is signed with.
    ZoneKey {
        /// The zone, in lower case, without the final dot.
        zone: String,
        /// The key's tag, for people.
        tag: u16,
        /// What names it: see [`crate::zone_key::ZoneKey::id`].
        id: [u8; 16],
    },
}

/// What is ordered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Keep the sessions, take no new ones; after the deadline nothing at all.
    Drain {
        /// When sessions that are left are moved; `None`: never.
        deadline: Option<Wall>,
    },
    /// Take nothing.
    Maintenance,
    /// This weight instead of the file's.
    Weight(u32),
    /// These shares of the pools instead of the file's.
    Split(Vec<(PoolName, u32)>),
    /// The target's sessions of before the order have ended.
    End {
        /// When it lapses, since none of them can come again.
        until: Wall,
    },
    /// Every node is to hold this mesh key. The order names it; the secret is asked for elsewhere (I13).
    InstallKey,
    /// No node is to hold this mesh key.
    RemoveKey,
    /// Every node is to seal and sign with the mesh key of this id.
    UseKey(u32),
    /// Users of the target network are refused by every service.
    Deny {
        /// When it lapses; `None`: never.
        until: Option<Wall>,
    },
    /// The zone is not to be signed with this key any more, nor to name it when none remembers it.
    RetireZoneKey,
}

/// Which of a target's properties an order sets. One order of each aspect can hold for one target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Aspect {
    /// Drain, maintenance.
    State,
    /// Weight.
    Weight,
    /// Split.
    Split,
    /// The end of sessions.
    End,
    /// Whether a mesh key is held.
    Key,
    /// Which mesh key is used.
    KeyInUse,
    /// Who is refused.
    Deny,
    /// Whether a zone's key is used.
    ZoneKey,
}

impl Order {
    /// The property it sets.
    pub fn aspect(&self) -> Aspect {
        match self {
            Self::Drain { .. } | Self::Maintenance => Aspect::State,
            Self::Weight(_) => Aspect::Weight,
            Self::Split(_) => Aspect::Split,
            Self::End { .. } => Aspect::End,
            Self::InstallKey | Self::RemoveKey => Aspect::Key,
            Self::UseKey(_) => Aspect::KeyInUse,
            Self::Deny { .. } => Aspect::Deny,
            Self::RetireZoneKey => Aspect::ZoneKey,
        }
    }
}

/// An order in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intent {
    /// What.
    pub order: Order,
    /// When it was given.
    pub at: Hlc,
    /// On which node.
    pub by: NodeName,
}

/// All orders in force.
pub type IntentMap = BTreeMap<(Target, Aspect), Intent>;

/// What is known of one aspect of one target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Whom it is about.
    pub target: Target,
    /// Which property.
    pub aspect: Aspect,
    /// The order; `None` when it was taken back.
    pub order: Option<Order>,
    /// When.
    pub at: Hlc,
    /// On which node.
    pub by: NodeName,
}

/// Bytes that are no entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an intent")]
pub struct NotAnIntent;

/// What became of an entry that arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// It is held now.
    News,
    /// Nothing new, or nothing that may be taken.
    Ignored,
    /// Its time lies more than [`HLC_MAX_AHEAD`] in the future.
    Ahead,
    /// There is no room.
    Full,
}

type Key = (Target, Aspect);

#[derive(Debug, Clone)]
struct Held {
    entry: Entry,
    bytes: Vec<u8>,
    /// Of a mark: when the order that it took back would have lapsed, where that is known.
    until: Option<Wall>,
}

/// All entries, marks too.
#[derive(Debug, Clone, Default)]
pub struct Entries {
    entries: BTreeMap<Key, Held>,
    /// The marks, oldest first.
    marks: BTreeSet<(Hlc, Key)>,
    bytes: usize,
    marks_bytes: usize,
    digest: u64,
    evicted: Vec<Key>,
}

impl Entries {
    /// Takes an entry in. Marks may have to go for it: see [`Entries::take_evicted`].
    pub fn merge(&mut self, entry: Entry, now: Wall) -> Told {
        if entry.at.wall().since(now) > HLC_MAX_AHEAD {
            return Told::Ahead;
        }
        if is_endless(&entry, now) || is_stale(&entry, None, now) {
            return Told::Ignored;
        }
        let key = (entry.target.clone(), entry.aspect);
        let bytes = entry.encode();
        let before = self.entries.get(&key);
        // The encoding breaks a tie that no honest clock makes, the same way everywhere.
        if before
            .is_some_and(|old| (old.entry.at, &old.entry.by, &old.bytes) >= (entry.at, &entry.by, &bytes))
        {
            return Told::Ignored;
        }
        let order_before = before.filter(|old| old.entry.order.is_some()).map_or(0, |old| old.bytes.len());
        let orders = self.bytes - self.marks_bytes - order_before;
        let is_order = entry.order.is_some();
        if bytes.len() as u64 > ENTRY_MAX_BYTES || is_order && orders + bytes.len() > MAP_MAX_BYTES {
            return Told::Full;
        }
        let until = before.and_then(|old| old.until.or_else(|| lapses(&old.entry))).filter(|_| !is_order);
        self.remove(&key);
        self.insert(key, Held { entry, bytes, until });
        while self.marks_bytes > MARKS_MAX_BYTES || self.bytes > MAP_MAX_BYTES {
            let Some((_, oldest)) = self.marks.first().cloned() else { break };
            self.remove(&oldest);
            self.evicted.push(oldest);
        }
        Told::News
    }

    /// Takes in what this node had on its own disk: that is not hearsay. What was written while its clock was ahead counts as
    /// given as late as a peer may say; returns what is held then, if anything.
    pub fn load(&mut self, mut entry: Entry, now: Wall) -> Option<Entry> {
        let latest = now.plus(HLC_MAX_AHEAD);
        if entry.at.wall() > latest {
            entry.at = Hlc::from_millis(latest.0);
        }
        if let Some(Order::End { until }) = &mut entry.order {
            *until = (*until).min(now.plus(END_LIFE_MAX));
        }
        (self.merge(entry.clone(), now) == Told::News).then_some(entry)
    }

    /// The marks that had to go since this was called last.
    pub fn take_evicted(&mut self) -> Vec<Key> {
        std::mem::take(&mut self.evicted)
    }

    fn insert(&mut self, key: Key, held: Held) {
        self.bytes += held.bytes.len();
        if held.entry.order.is_none() {
            self.marks_bytes += held.bytes.len();
            self.marks.insert((held.entry.at, key.clone()));
        } else {
            self.digest = self.digest.wrapping_add(hash(&held.bytes));
        }
        self.entries.insert(key, held);
    }

    fn remove(&mut self, key: &Key) {
        let Some(held) = self.entries.remove(key) else { return };
        self.bytes -= held.bytes.len();
        if held.entry.order.is_none() {
            self.marks_bytes -= held.bytes.len();
            self.marks.remove(&(held.entry.at, key.clone()));
        } else {
            self.digest = self.digest.wrapping_sub(hash(&held.bytes));
        }
    }

    /// Drops marks and orders that are past their life; returns their keys.
    pub fn sweep(&mut self, now: Wall) -> Vec<Key> {
        let stale = self.entries.iter().filter(|(_, held)| is_stale(&held.entry, held.until, now));
        let stale: Vec<_> = stale.map(|(key, _)| key.clone()).collect();
        stale.iter().for_each(|key| self.remove(key));
        stale
    }

    /// What they weigh, in bytes; at most [`MAP_MAX_BYTES`].
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The sum of the hashes of the orders in force: equal orders, equal digests.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// The entry of that key.
    pub fn find(&self, target: &Target, aspect: Aspect) -> Option<&Entry> {
        self.entries.get(&(target.clone(), aspect)).map(|held| &held.entry)
    }

    /// All, marks too.
    pub fn all(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values().map(|held| &held.entry)
    }

    /// The orders in force.
    pub fn in_force(&self) -> IntentMap {
        let orders = self.entries.iter().filter_map(|(key, Held { entry, .. })| {
            let order = entry.order.clone()?;
            Some((key.clone(), Intent { order, at: entry.at, by: entry.by.clone() }))
        });
        orders.collect()
    }
}

fn is_stale(entry: &Entry, until: Option<Wall>, now: Wall) -> bool {
    let over = until.or_else(|| lapses(entry)).is_some_and(|until| until <= now);
    over || entry.order.is_none() && now.since(entry.at.wall()) > MARK_LIFE
}

/// When an order lapses by itself.
fn lapses(entry: &Entry) -> Option<Wall> {
    match &entry.order {
        Some(Order::End { until } | Order::Deny { until: Some(until) }) => Some(*until),
        _ => None,
    }
}

fn is_endless(entry: &Entry, now: Wall) -> bool {
    matches!(&entry.order, Some(Order::End { until }) if until.since(now) > END_LIFE_MAX + HLC_MAX_AHEAD)
}

fn hash(bytes: &[u8]) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&blake3::hash(bytes).as_bytes()[..8]);
    u64::from_le_bytes(first)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::codec::VERSION;
    use super::*;

    const NOW: Wall = Wall(1_790_000_000_000);

    fn node(name: &str) -> NodeName {
        NodeName::new(name).unwrap()
    }

    fn any_entry() -> impl Strategy<Value = Entry> {
        let order = prop_oneof![
            Just(Some(Order::Maintenance)),
            proptest::option::of(any::<u64>().prop_map(Wall))
                .prop_map(|deadline| Some(Order::Drain { deadline })),
            (0u32..3).prop_map(|weight| Some(Order::Weight(weight))),
            (1u32..3).prop_map(|share| Some(Order::Split(vec![(PoolName::new("p").unwrap(), share)]))),
            (1u64..3).prop_map(|until| Some(Order::End { until: Wall(NOW.0 + until) })),
            (1u64..3).prop_map(|until| Some(Order::Deny { until: Some(Wall(NOW.0 + until)) })),
            prop::sample::select(vec![
                Order::InstallKey,
                Order::RemoveKey,
                Order::UseKey(7),
                Order::RetireZoneKey
            ])
            .prop_map(Some),
            Just(Some(Order::Deny { until: None })),
            Just(None),
        ];
        (0u8..10, order, 0u64..4, 0u8..2).prop_map(|(target, order, at, by)| {
            let target = match target {
                0 => Target::Node(node("x")),
                1 => Target::Region(RegionName::new("x").unwrap()),
                2 => Target::Pool(PoolName::new("x").unwrap()),
                3 => Target::Backend(PoolName::new("x").unwrap(), "[::1]:80".parse().unwrap()),
                4 => Target::Service(ServiceName::new("x").unwrap()),
                5 => Target::Session(SessionId([7; 16])),
                6 => Target::Key(7),
                7 => Target::Network("2001:db8::".parse().unwrap(), 48),
                8 => Target::ZoneKey { zone: "lb.example.com".into(), tag: 7, id: [9; 16] },
                _ => Target::Mesh,
            };
            let aspect = order.as_ref().map_or(Aspect::State, Order::aspect);
            let by = node(if by == 0 { "a" } else { "b" });
            Entry { target, aspect, order, at: Hlc::from_millis(NOW.0 + at), by }
        })
    }

    proptest! {
        #[test]
        fn maps_that_saw_the_same_are_the_same(
            entries in proptest::collection::vec(any_entry(), 1..30), rotate in 0usize..30,
        ) {
            let (mut a, mut b) = (Entries::default(), Entries::default());
            entries.iter().for_each(|entry| { a.merge(entry.clone(), NOW); });
            let mut other = entries.clone();
            other.rotate_left(rotate % entries.len());
            other.iter().chain(&entries).for_each(|entry| { b.merge(entry.clone(), NOW); });
            prop_assert_eq!(a.in_force(), b.in_force());
            prop_assert_eq!((a.digest(), a.bytes), (b.digest(), b.bytes));
        }

        #[test]
        fn an_entry_reads_what_it_writes(entry in any_entry()) {
            prop_assert_eq!(Entry::decode(&entry.encode()), Ok(entry));
        }

        #[test]
        fn random_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 1..200), valid: bool) {
            if valid {
                bytes[0] = VERSION;
            }
            let _ = Entry::decode(&bytes);
        }
    }

    fn drain(at: u64, order: Option<Order>) -> Entry {
        Entry {
            target: Target::Node(node("n")),
            aspect: Aspect::State,
            order,
            at: Hlc::from_millis(at),
            by: node("a"),
        }
    }

    #[test]
    fn the_format_is_the_same_for_ever() {
        let entry = Entry { at: Hlc(5), ..drain(0, Some(Order::Drain { deadline: None })) };
        let golden = [
            1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, b'n', 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0,
            0, 1, 0, 0, 0, 0, 0, 0, 0, b'a',
        ];
        assert_eq!(entry.encode(), golden);
        let target = Target::Session(SessionId([9; 16]));
        let end = Some(Order::End { until: Wall(6) });
        let entry = Entry { target, aspect: Aspect::End, order: end, at: Hlc(5), by: node("a") };
        let golden = [
            &[1, 5, 0, 0, 0][..],
            &[9; 16],
            &[3, 0, 0, 0, 1, 4, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0],
            &[0, 1, 0, 0, 0, 0, 0, 0, 0, b'a'],
        ];
        assert_eq!(entry.encode(), golden.concat());
        let used = Some(Order::UseKey(0x0102));
        let entry =
            Entry { target: Target::Mesh, aspect: Aspect::KeyInUse, order: used, at: Hlc(5), by: node("a") };
        let golden = [
            &[1, 7, 0, 0, 0, 5, 0, 0, 0, 1, 7, 0, 0, 0, 2, 1, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0][..],
            &[1, 0, 0, 0, 0, 0, 0, 0, b'a'],
        ];
        assert_eq!(entry.encode(), golden.concat());
        let (target, held) = (Target::Key(9), Some(Order::InstallKey));
        let entry = Entry { target, aspect: Aspect::Key, order: held, at: Hlc(5), by: node("a") };
        let golden = [
            &[1, 6, 0, 0, 0, 9, 0, 0, 0, 4, 0, 0, 0, 1, 5, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0][..],
            &[1, 0, 0, 0, 0, 0, 0, 0, b'a'],
        ];
        assert_eq!(entry.encode(), golden.concat());
        let target = Target::Network([192, 0, 2, 0].into(), 24);
        let deny = Some(Order::Deny { until: Some(Wall(7)) });
        let entry = Entry { target, aspect: Aspect::Deny, order: deny, at: Hlc(5), by: node("a") };
        let golden = [
            &[1, 8, 0, 0, 0, 0, 0, 0, 0, 192, 0, 2, 0, 24][..],
            &[6, 0, 0, 0, 1, 8, 0, 0, 0, 1, 7, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0],
            &[0, 1, 0, 0, 0, 0, 0, 0, 0, b'a'],
        ];
        assert_eq!(entry.encode(), golden.concat());
        let target = Target::ZoneKey { zone: "z".into(), tag: 0x0102, id: [9; 16] };
        let (aspect, order) = (Aspect::ZoneKey, Some(Order::RetireZoneKey));
        let entry = Entry { target, aspect, order, at: Hlc(5), by: node("a") };
        let golden = [
            &[1, 9, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, b'z', 2, 1][..],
            &[9; 16],
            &[7, 0, 0, 0, 1, 9, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0],
            &[1, 0, 0, 0, 0, 0, 0, 0, b'a'],
        ];
        assert_eq!(entry.encode(), golden.concat());
    }

    #[test]
    fn an_end_of_sessions_lapses() {
        let mut entries = Entries::default();
        let until = |seconds| Some(Order::End { until: NOW.plus(Duration::from_secs(seconds)) });
        let end = |at, seconds| Entry { aspect: Aspect::End, ..drain(at, until(seconds)) };
        assert_eq!(entries.merge(end(NOW.0, 60), NOW), Told::News);
        let later = NOW.plus(Duration::from_secs(60));
        assert_eq!(entries.sweep(NOW), []);
        assert_eq!(entries.sweep(later).len(), 1);
        assert_eq!(entries.merge(end(NOW.0, 60), later), Told::Ignored);
        assert_eq!(entries.merge(end(NOW.0, 500 * 86_400), NOW), Told::Ignored);
        assert_eq!((entries.digest(), entries.bytes), (0, 0));
    }

    #[test]
    fn a_denial_lapses_where_it_was_given_an_end() {
        let mut entries = Entries::default();
        let deny = |bits, until: Option<u64>| Entry {
            target: Target::Network([192, 0, 2, 0].into(), bits),
            aspect: Aspect::Deny,
            order: Some(Order::Deny { until: until.map(|seconds| NOW.plus(Duration::from_secs(seconds))) }),
            at: Hlc::from_millis(NOW.0),
            by: node("a"),
        };
        assert_eq!(entries.merge(deny(24, Some(60)), NOW), Told::News);
        assert_eq!(entries.merge(deny(25, None), NOW), Told::News);
        assert_eq!(entries.sweep(NOW.plus(Duration::from_secs(60))).len(), 1);
        assert_eq!(entries.in_force().len(), 1);
    }

    #[test]
    fn an_old_order_does_not_undo_its_end() {
        let mut entries = Entries::default();
        let order = drain(NOW.0, Some(Order::Maintenance));
        assert_eq!(entries.merge(order.clone(), NOW), Told::News);
        assert_eq!(entries.merge(drain(NOW.0 + 1, None), NOW), Told::News);
        assert_eq!(entries.merge(order, NOW), Told::Ignored);
        assert!(entries.in_force().is_empty());
        let later = NOW.plus(MARK_LIFE + Duration::from_secs(1));
        assert_eq!(entries.sweep(later).len(), 1);
        assert_eq!((entries.digest(), entries.bytes), (0, 0));
        assert_eq!(entries.merge(drain(NOW.0 + 1, None), later), Told::Ignored);
    }

    fn denial(n: u32, at: u64, order: Option<Order>) -> Entry {
        let target = Target::Network(IpAddr::from(n.to_be_bytes()), 32);
        Entry { target, aspect: Aspect::Deny, order, at: Hlc::from_millis(NOW.0 + at), by: node("a") }
    }

    #[test]
    fn orders_that_were_taken_back_leave_room_for_others() {
        let (mut entries, until) = (Entries::default(), Some(NOW.plus(Duration::from_secs(600))));
        for n in 0..20_000 {
            assert_eq!(entries.merge(denial(n, 0, Some(Order::Deny { until })), NOW), Told::News);
            assert_eq!(entries.merge(denial(n, u64::from(n) + 1, None), NOW), Told::News);
        }
        assert!(entries.bytes <= MARKS_MAX_BYTES);
        let evicted = entries.take_evicted();
        assert!(evicted.first() == Some(&(denial(0, 0, None).target, Aspect::Deny)), "the oldest goes first");
        assert_eq!(evicted.len() + entries.all().count(), 20_000);
        assert_eq!(entries.take_evicted(), []);
        // What is ordered finds room over all marks, and counts them as none.
        let mut orders = 0;
        while entries.merge(denial(1 << 20 | orders, 0, Some(Order::Deny { until: None })), NOW) == Told::News
        {
            orders += 1;
        }
        assert!(entries.all().all(|entry| entry.order.is_some()) && entries.bytes <= MAP_MAX_BYTES);
        assert!(MAP_MAX_BYTES - entries.bytes < 100 && orders == entries.in_force().len() as u32);
        // A mark takes its order away, whatever room there is.
        assert_eq!(entries.merge(denial(1 << 20, 9, None), NOW), Told::News);
        assert_eq!(entries.in_force().len() as u32, orders - 1);
    }

    #[test]
    fn a_mark_lives_no_longer_than_its_order_could() {
        let (mut entries, until) = (Entries::default(), NOW.plus(Duration::from_secs(600)));
        entries.merge(denial(1, 0, Some(Order::Deny { until: Some(until) })), NOW);
        entries.merge(denial(1, 1, None), NOW);
        assert_eq!(entries.sweep(NOW.plus(Duration::from_secs(599))), []);
        assert_eq!(entries.sweep(until).len(), 1);
        assert_eq!((entries.digest(), entries.bytes, entries.marks.len()), (0, 0, 0));
    }

    #[test]
    fn an_order_of_a_clock_that_was_ahead_is_not_lost() {
        let ahead = Duration::from_secs(2 * 3600).as_millis() as u64;
        let order = drain(NOW.0 + ahead, Some(Order::Maintenance));
        let mut entries = Entries::default();
        assert_eq!(entries.merge(order.clone(), NOW), Told::Ahead);
        let loaded = entries.load(order, NOW).unwrap();
        assert_eq!(loaded.at.wall(), NOW.plus(HLC_MAX_AHEAD));
        assert_eq!(entries.in_force().len(), 1);
        // Peers take what was loaded.
        assert_eq!(Entries::default().merge(loaded, NOW), Told::News);
        let end = Some(Order::End { until: NOW.plus(END_LIFE_MAX).plus(Duration::from_secs(7200)) });
        assert!(entries.load(Entry { aspect: Aspect::End, ..drain(NOW.0 + ahead, end) }, NOW).is_some());
    }

    #[test]
    fn the_map_is_bounded() {
        let mut entries = Entries::default();
        let mut told = Told::News;
        for n in 0..20_000 {
            let target = Target::Node(node(&format!("n{n}")));
            told = entries.merge(Entry { target, ..drain(NOW.0, Some(Order::Maintenance)) }, NOW);
        }
        assert_eq!(told, Told::Full);
        assert!(entries.bytes <= MAP_MAX_BYTES);
    }
}
