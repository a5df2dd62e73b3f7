//! Operators' runtime orders as a map that merges. Pure.
//!
//! For each target and aspect the entry with the greater `(hlc, node)` wins; taking an order back leaves an entry
//! without one (a *mark*), so that an old copy of the order does not come back. Marks are dropped after
//! [`MARK_LIFE`]; a node that was away for longer may bring back an order that was taken back meanwhile. The end of
//! sessions is an order too, which nobody takes back: it lapses when none of those sessions can come again.
//!
//! Entries travel and lie on disk as `version 1 ‖ bincode of the mirror types below`, fixed-width, little endian.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bincode::Options;
use gossip::clock::{HLC_MAX_AHEAD, Hlc, Wall};
use gossip::id::{NodeName, PoolName, RegionName, ServiceName, SessionId};
use serde::{Deserialize, Serialize};

use crate::pin::LIFE_MAX_SECONDS;

/// How long the mark of an order that was taken back is kept.
pub const MARK_LIFE: Duration = Duration::from_secs(7 * 86_400);

/// All entries together, encoded: what fits in one message with room to spare.
pub const MAP_MAX_BYTES: usize = 512 * 1024;

/// The most pools in a split.
pub const SPLIT_MAX: usize = 64;

/// The longest that an end of sessions stands: no seal opens after that.
pub const END_LIFE_MAX: Duration = Duration::from_secs(LIFE_MAX_SECONDS as u64);

const ENTRY_MAX_BYTES: u64 = 8 * 1024;
const VERSION: u8 = 1;

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
    /// There is no room.
    Full,
}

/// All entries, marks too.
#[derive(Debug, Clone, Default)]
pub struct Entries {
    entries: BTreeMap<(Target, Aspect), (Entry, Vec<u8>)>,
    bytes: usize,
    digest: u64,
}

impl Entries {
    /// Takes an entry in.
    pub fn merge(&mut self, entry: Entry, now: Wall) -> Told {
        let ahead = entry.at.wall().since(now) > HLC_MAX_AHEAD || is_endless(&entry, now);
        if ahead || is_stale(&entry, now) {
            return Told::Ignored;
        }
        let key = (entry.target.clone(), entry.aspect);
        let bytes = entry.encode();
        let before = self.entries.get(&key);
        // The encoding breaks a tie that no honest clock makes, the same way everywhere.
        if before
            .is_some_and(|(old, old_bytes)| (old.at, &old.by, old_bytes) >= (entry.at, &entry.by, &bytes))
        {
            return Told::Ignored;
        }
        let room = MAP_MAX_BYTES + before.map_or(0, |(_, old)| old.len());
        if self.bytes + bytes.len() > room || bytes.len() as u64 > ENTRY_MAX_BYTES {
            return Told::Full;
        }
        self.bytes += bytes.len();
        self.digest = self.digest.wrapping_add(hash(&bytes));
        if let Some((_, old)) = self.entries.insert(key, (entry, bytes)) {
            self.bytes -= old.len();
            self.digest = self.digest.wrapping_sub(hash(&old));
        }
        Told::News
    }

    /// Drops marks and ends that are past their life; returns their keys.
    pub fn sweep(&mut self, now: Wall) -> Vec<(Target, Aspect)> {
        let stale = self.entries.iter().filter(|(_, (entry, _))| is_stale(entry, now));
        let stale: Vec<_> = stale.map(|(key, _)| key.clone()).collect();
        for key in &stale {
            if let Some((_, old)) = self.entries.remove(key) {
                self.bytes -= old.len();
                self.digest = self.digest.wrapping_sub(hash(&old));
            }
        }
        stale
    }

    /// The sum of the entries' hashes: equal maps, equal digests.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// The entry of that key.
    pub fn find(&self, target: &Target, aspect: Aspect) -> Option<&Entry> {
        self.entries.get(&(target.clone(), aspect)).map(|(entry, _)| entry)
    }

    /// All, marks too.
    pub fn all(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values().map(|(entry, _)| entry)
    }

    /// The orders in force.
    pub fn in_force(&self) -> IntentMap {
        let orders = self.entries.iter().filter_map(|(key, (entry, _))| {
            let order = entry.order.clone()?;
            Some((key.clone(), Intent { order, at: entry.at, by: entry.by.clone() }))
        });
        orders.collect()
    }
}

fn is_stale(entry: &Entry, now: Wall) -> bool {
    match &entry.order {
        None => now.since(entry.at.wall()) > MARK_LIFE,
        Some(Order::End { until } | Order::Deny { until: Some(until) }) => *until <= now,
        Some(_) => false,
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

fn codec() -> impl Options {
    bincode::DefaultOptions::new().with_fixint_encoding().with_limit(ENTRY_MAX_BYTES)
}

impl Entry {
    /// In bytes; more than a few kilobytes are refused by whoever reads them.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        let wire = bincode::DefaultOptions::new().with_fixint_encoding().serialize(&EntryV1::from(self));
        bytes.extend(wire.expect("plain data in memory can be serialized"));
        bytes
    }

    /// Reads what [`Entry::encode`] wrote.
    ///
    /// # Errors
    /// On anything else, on splits beyond the limit, and when order and aspect do not fit.
    pub fn decode(bytes: &[u8]) -> Result<Self, NotAnIntent> {
        let bytes = bytes.strip_prefix(&[VERSION]).ok_or(NotAnIntent)?;
        let wire: EntryV1 = codec().deserialize(bytes).map_err(|_| NotAnIntent)?;
        let entry = Self::from(wire);
        let fits = match &entry.order {
            Some(Order::Split(pools)) => {
                (1..=SPLIT_MAX).contains(&pools.len()) && entry.aspect == Aspect::Split
            }
            Some(order) => order.aspect() == entry.aspect,
            None => true,
        };
        if fits { Ok(entry) } else { Err(NotAnIntent) }
    }
}

// The mirror types: their order and their fields are the format.

#[derive(Serialize, Deserialize)]
struct EntryV1 {
    target: TargetV1,
    aspect: AspectV1,
    order: Option<OrderV1>,
    at: u64,
    by: NodeName,
}

#[derive(Serialize, Deserialize)]
enum TargetV1 {
    Node(NodeName),
    Region(RegionName),
    Pool(PoolName),
    Backend(PoolName, SocketAddr),
    Service(ServiceName),
    Session(SessionId),
    Key(u32),
    Mesh,
    Network(IpAddr, u8),
}

#[derive(Serialize, Deserialize)]
enum AspectV1 {
    State,
    Weight,
    Split,
    End,
    Key,
    KeyInUse,
    Deny,
}

#[derive(Serialize, Deserialize)]
enum OrderV1 {
    Drain(Option<u64>),
    Maintenance,
    Weight(u32),
    Split(Vec<(PoolName, u32)>),
    End(u64),
    InstallKey,
    RemoveKey,
    UseKey(u32),
    Deny(Option<u64>),
}

impl From<&Entry> for EntryV1 {
    fn from(entry: &Entry) -> Self {
        let target = match entry.target.clone() {
            Target::Node(name) => TargetV1::Node(name),
            Target::Region(name) => TargetV1::Region(name),
            Target::Pool(name) => TargetV1::Pool(name),
            Target::Backend(pool, address) => TargetV1::Backend(pool, address),
            Target::Service(name) => TargetV1::Service(name),
            Target::Session(id) => TargetV1::Session(id),
            Target::Key(id) => TargetV1::Key(id),
            Target::Mesh => TargetV1::Mesh,
            Target::Network(address, bits) => TargetV1::Network(address, bits),
        };
        let aspect = match entry.aspect {
            Aspect::State => AspectV1::State,
            Aspect::Weight => AspectV1::Weight,
            Aspect::Split => AspectV1::Split,
            Aspect::End => AspectV1::End,
            Aspect::Key => AspectV1::Key,
            Aspect::KeyInUse => AspectV1::KeyInUse,
            Aspect::Deny => AspectV1::Deny,
        };
        let order = entry.order.clone().map(|order| match order {
            Order::Drain { deadline } => OrderV1::Drain(deadline.map(|deadline| deadline.0)),
            Order::Maintenance => OrderV1::Maintenance,
            Order::Weight(weight) => OrderV1::Weight(weight),
            Order::Split(pools) => OrderV1::Split(pools),
            Order::End { until } => OrderV1::End(until.0),
            Order::InstallKey => OrderV1::InstallKey,
            Order::RemoveKey => OrderV1::RemoveKey,
            Order::UseKey(id) => OrderV1::UseKey(id),
            Order::Deny { until } => OrderV1::Deny(until.map(|until| until.0)),
        });
        Self { target, aspect, order, at: entry.at.0, by: entry.by.clone() }
    }
}

impl From<EntryV1> for Entry {
    fn from(wire: EntryV1) -> Self {
        let target = match wire.target {
            TargetV1::Node(name) => Target::Node(name),
            TargetV1::Region(name) => Target::Region(name),
            TargetV1::Pool(name) => Target::Pool(name),
            TargetV1::Backend(pool, address) => Target::Backend(pool, address),
            TargetV1::Service(name) => Target::Service(name),
            TargetV1::Session(id) => Target::Session(id),
            TargetV1::Key(id) => Target::Key(id),
            TargetV1::Mesh => Target::Mesh,
            TargetV1::Network(address, bits) => Target::Network(address, bits),
        };
        let aspect = match wire.aspect {
            AspectV1::State => Aspect::State,
            AspectV1::Weight => Aspect::Weight,
            AspectV1::Split => Aspect::Split,
            AspectV1::End => Aspect::End,
            AspectV1::Key => Aspect::Key,
            AspectV1::KeyInUse => Aspect::KeyInUse,
            AspectV1::Deny => Aspect::Deny,
        };
        let order = wire.order.map(|order| match order {
            OrderV1::Drain(deadline) => Order::Drain { deadline: deadline.map(Wall) },
            OrderV1::Maintenance => Order::Maintenance,
            OrderV1::Weight(weight) => Order::Weight(weight),
            OrderV1::Split(pools) => Order::Split(pools),
            OrderV1::End(until) => Order::End { until: Wall(until) },
            OrderV1::InstallKey => Order::InstallKey,
            OrderV1::RemoveKey => Order::RemoveKey,
            OrderV1::UseKey(id) => Order::UseKey(id),
            OrderV1::Deny(until) => Order::Deny { until: until.map(Wall) },
        });
        Self { target, aspect, order, at: Hlc(wire.at), by: wire.by }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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
            prop::sample::select(vec![Order::InstallKey, Order::RemoveKey, Order::UseKey(7)]).prop_map(Some),
            Just(Some(Order::Deny { until: None })),
            Just(None),
        ];
        (0u8..9, order, 0u64..4, 0u8..2).prop_map(|(target, order, at, by)| {
            let target = match target {
                0 => Target::Node(node("x")),
                1 => Target::Region(RegionName::new("x").unwrap()),
                2 => Target::Pool(PoolName::new("x").unwrap()),
                3 => Target::Backend(PoolName::new("x").unwrap(), "[::1]:80".parse().unwrap()),
                4 => Target::Service(ServiceName::new("x").unwrap()),
                5 => Target::Session(SessionId([7; 16])),
                6 => Target::Key(7),
                7 => Target::Network("2001:db8::".parse().unwrap(), 48),
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
