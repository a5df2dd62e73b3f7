//! Who holds which session. Pure.
//!
//! Every region that has nodes is a *home* of 4,096 buckets; a session falls into one by its id. Each bucket has 3
//! replicas among the home's nodes: the highest rendezvous weights, distinct zones first. A home of one node borrows one
//! more in the next region. A node that joins or leaves moves only the buckets it enters or leaves.
//!
//! ```text
//!   sid ──first 12 bits──▶ bucket ──table of its home──▶ [node; ≤ 3], the first answers for counts
//! ```
//!
//! The tables are built once for a set of nodes, never for a request. All nodes that believe in the same set build the
//! same tables.

use std::collections::BTreeMap;
use std::sync::Arc;

use gossip::id::{NodeName, RegionName, SessionId, Tag, ZoneName, rendezvous};

/// Buckets of a home.
pub const BUCKETS: u16 = 4096;

/// Replicas of a bucket where there are enough nodes.
pub const REPLICAS: usize = 3;

/// The bucket of a session: the first 12 bits of its id, so that a bucket is a range of ids.
pub fn bucket_of(id: &SessionId) -> u16 {
    u16::from_be_bytes([id.0[0], id.0[1]]) >> 4
}

/// A node that can hold records.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Holder {
    /// Its name.
    pub name: NodeName,
    /// The zone it stands in; nodes without one count as one zone.
    pub zone: Option<ZoneName>,
}

/// Who holds which session, for one set of nodes. Immutable.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Placement {
    homes: BTreeMap<Tag, Arc<Home>>,
}

/// The replicas of one home's buckets.
#[derive(Debug, PartialEq, Eq)]
pub struct Home {
    region: RegionName,
    /// The nodes of the home, by name, then those it borrows from.
    holders: Vec<Holder>,
    own: usize,
    /// Indexes into `holders`, best first; [`NONE`] where there are fewer nodes than replicas.
    table: Vec<[u16; REPLICAS]>,
}

const NONE: u16 = u16::MAX;

impl Placement {
    /// For the nodes that count, by region. `before` lends the tables of regions whose nodes have not changed.
    ///
    /// The next region of a home is the one that follows it by name, in a circle: the same for all who ask.
    pub fn new(regions: &BTreeMap<RegionName, Vec<Holder>>, before: &Self) -> Self {
        let mut homes = BTreeMap::new();
        for (region, holders) in regions {
            if holders.is_empty() {
                continue;
            }
            let mut holders = holders.clone();
            holders.sort();
            holders.dedup_by(|a, b| a.name == b.name);
            holders.truncate(usize::from(NONE));
            let own = holders.len();
            if own == 1 {
                holders.extend(next_region(regions, region).iter().cloned());
            }
            let tag = Tag::of(region.as_str());
            let home = match before.homes.get(&tag) {
                Some(old) if old.region == *region && old.own == own && old.holders == holders => old.clone(),
                _ => Arc::new(Home::new(region.clone(), holders, own)),
            };
            homes.insert(tag, home);
        }
        Self { homes }
    }

    /// The home of that tag, when its region has a node.
    pub fn home(&self, home: Tag) -> Option<&Arc<Home>> {
        self.homes.get(&home)
    }

    /// All homes.
    pub fn homes(&self) -> impl Iterator<Item = (Tag, &Arc<Home>)> {
        self.homes.iter().map(|(tag, home)| (*tag, home))
    }

    /// The replicas of a bucket, best first; none when the home has no node.
    pub fn replicas(&self, home: Tag, bucket: u16) -> impl Iterator<Item = &NodeName> {
        self.homes.get(&home).into_iter().flat_map(move |home| home.replicas(bucket))
    }

    /// Whether `node` is among them.
    pub fn holds(&self, node: &NodeName, home: Tag, bucket: u16) -> bool {
        self.replicas(home, bucket).any(|replica| replica == node)
    }
}

impl Home {
    fn new(region: RegionName, holders: Vec<Holder>, own: usize) -> Self {
        let table = (0..BUCKETS).map(|bucket| place(&region, &holders, own, bucket)).collect();
        Self { region, holders, own, table }
    }

    /// The replicas of a bucket, best first.
    pub fn replicas(&self, bucket: u16) -> impl Iterator<Item = &NodeName> {
        let row = self.table.get(usize::from(bucket)).copied().unwrap_or([NONE; REPLICAS]);
        row.into_iter().filter_map(|at| self.holders.get(usize::from(at)).map(|holder| &holder.name))
    }

    /// The nodes that hold any bucket of this home.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeName> {
        self.holders.iter().map(|holder| &holder.name)
    }
}

fn next_region<'a>(regions: &'a BTreeMap<RegionName, Vec<Holder>>, of: &RegionName) -> &'a [Holder] {
    use std::ops::Bound::{Excluded, Unbounded};
    let after = regions.range((Excluded(of.clone()), Unbounded));
    let before = regions.range(..of.clone());
    after.chain(before).map(|(_, holders)| holders.as_slice()).find(|h| !h.is_empty()).unwrap_or(&[])
}

fn place(region: &RegionName, holders: &[Holder], own: usize, bucket: u16) -> [u16; REPLICAS] {
    let key = [region.as_str().as_bytes(), &bucket.to_le_bytes()].concat();
    let ranked = |from: usize, to: usize| {
        let mut ranked: Vec<usize> = (from..to).collect();
        // Ties are as good as impossible; the name breaks them the same way everywhere.
        ranked.sort_by_cached_key(|at| {
            let name = &holders[*at].name;
            (std::cmp::Reverse(rendezvous(&key, name.as_str().as_bytes())), name.clone())
        });
        ranked
    };
    let ranked_own = ranked(0, own);
    let mut chosen: Vec<usize> = Vec::with_capacity(REPLICAS);
    for at in &ranked_own {
        if chosen.len() < REPLICAS && chosen.iter().all(|other| holders[*other].zone != holders[*at].zone) {
            chosen.push(*at);
        }
    }
    for at in &ranked_own {
        if chosen.len() < REPLICAS && !chosen.contains(at) {
            chosen.push(*at);
        }
    }
    // Only a home of one node has borrowed holders.
    chosen.extend(ranked(own, holders.len()).first());
    let mut row = [NONE; REPLICAS];
    for (place, at) in row.iter_mut().zip(chosen) {
        *place = at as u16;
    }
    row
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn holder(name: &str, zone: &str) -> Holder {
        Holder { name: NodeName::new(name).unwrap(), zone: ZoneName::new(zone).ok() }
    }

    fn region(name: &str) -> RegionName {
        RegionName::new(name).unwrap()
    }

    fn placement(regions: &[(&str, Vec<Holder>)]) -> Placement {
        let regions = regions.iter().map(|(name, holders)| (region(name), holders.clone())).collect();
        Placement::new(&regions, &Placement::default())
    }

    fn row(placement: &Placement, home: &str, bucket: u16) -> Vec<String> {
        placement.replicas(Tag::of(home), bucket).map(ToString::to_string).collect()
    }

    #[test]
    fn three_replicas_in_distinct_zones_first() {
        let nodes = vec![
            holder("n1", "a"),
            holder("n2", "a"),
            holder("n3", "a"),
            holder("n4", "b"),
            holder("n5", "c"),
        ];
        let placed = placement(&[("eu", nodes)]);
        for bucket in 0..BUCKETS {
            let row = row(&placed, "eu", bucket);
            assert_eq!(row.len(), 3);
            assert!(row.contains(&"n4".into()) && row.contains(&"n5".into()), "{row:?}");
        }
        let two = placement(&[("eu", vec![holder("n1", "a"), holder("n2", "a")])]);
        assert!((0..BUCKETS).all(|bucket| row(&two, "eu", bucket).len() == 2));
    }

    #[test]
    fn a_lonely_node_borrows_next_door() {
        let placed = placement(&[
            ("ap", vec![holder("ap-1", "")]),
            ("eu", vec![holder("eu-1", ""), holder("eu-2", "")]),
            ("us", vec![holder("us-1", "")]),
        ]);
        for bucket in 0..BUCKETS {
            let lonely = row(&placed, "ap", bucket);
            assert!(lonely.len() == 2 && lonely[0] == "ap-1" && lonely[1].starts_with("eu-"), "{lonely:?}");
            assert_eq!(row(&placed, "us", bucket), ["us-1", "ap-1"]);
            assert_eq!(row(&placed, "eu", bucket).len(), 2);
        }
        assert!(row(&placed, "sa", 0).is_empty());
        assert_eq!(row(&placement(&[("eu", vec![holder("eu-1", "")])]), "eu", 7), ["eu-1"]);
    }

    #[test]
    fn unchanged_homes_are_lent() {
        let mut regions = BTreeMap::from([
            (region("eu"), vec![holder("eu-1", ""), holder("eu-2", "")]),
            (region("us"), vec![holder("us-1", ""), holder("us-2", "")]),
        ]);
        let before = Placement::new(&regions, &Placement::default());
        regions.insert(region("us"), vec![holder("us-1", ""), holder("us-3", "")]);
        let after = Placement::new(&regions, &before);
        let (eu, us) = (Tag::of("eu"), Tag::of("us"));
        assert!(Arc::ptr_eq(before.home(eu).unwrap(), after.home(eu).unwrap()));
        assert_ne!(before.home(us), after.home(us));
        assert_eq!(after, Placement::new(&regions, &Placement::default()));
    }

    #[test]
    fn load_is_even() {
        let nodes: Vec<_> = (0..6).map(|n| holder(&format!("n{n}"), "")).collect();
        let placed = placement(&[("eu", nodes)]);
        for n in 0..6 {
            let name = NodeName::new(&format!("n{n}")).unwrap();
            let held = (0..BUCKETS).filter(|b| placed.holds(&name, Tag::of("eu"), *b)).count();
            assert!((1850..2250).contains(&held), "{held} of 4096 * 3 / 6 = 2048");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn a_node_that_joins_moves_only_what_it_takes(zones in proptest::collection::vec(0u8..4, 3..9), joins in 0u8..4) {
            let mut nodes: Vec<_> =
                zones.iter().enumerate().map(|(n, zone)| holder(&format!("n{n}"), &format!("z{zone}"))).collect();
            let before = placement(&[("eu", nodes.clone())]);
            nodes.push(holder("new", &format!("z{joins}")));
            let after = placement(&[("eu", nodes)]);
            for bucket in 0..BUCKETS {
                let before: BTreeSet<_> = row(&before, "eu", bucket).into_iter().collect();
                let after: BTreeSet<_> = row(&after, "eu", bucket).into_iter().collect();
                let moved_to: Vec<_> = after.difference(&before).collect();
                prop_assert!(moved_to.is_empty() || moved_to == ["new"], "{:?} to {:?}", before, after);
            }
        }
    }
}
