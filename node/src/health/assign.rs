//! Which nodes probe which backend. Pure; every node comes to the same answer from the same view, unasked.
//!
//! Three nodes of the backend's region, or all when it has fewer, by rendezvous hash; when its region has no nodes,
//! three of the nearest region that has. So a backend is probed by at most [`PROBERS`] nodes however large the mesh is
//! (I7), and a node that comes or goes changes only the assignments it takes part in.
//!
//! A suspect keeps its work until it is dead: a false suspicion must cost nothing (DESIGN §5).

use std::collections::BTreeMap;

use gossip::id::{BackendId, NodeName, RegionName, rendezvous};
use gossip::state::ClusterView;

use crate::config::model::Region;
use crate::distance;

/// Probers of one backend.
pub const PROBERS: usize = 3;

/// The nodes that can probe, by region.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Roster {
    by_region: BTreeMap<RegionName, Vec<NodeName>>,
}

impl Roster {
    /// Just this node.
    pub fn alone(me: &NodeName, region: &RegionName) -> Self {
        Self { by_region: BTreeMap::from([(region.clone(), vec![me.clone()])]) }
    }

    /// The members that count, and this node in any case: it is there, whatever the view says.
    pub fn new(view: &ClusterView, me: &NodeName, region: &RegionName) -> Self {
        let others = view.members.values().filter(|member| member.counts() && member.record.name != *me);
        let mut by_region: BTreeMap<RegionName, Vec<NodeName>> = BTreeMap::new();
        for (region, name) in others
            .map(|member| (&member.record.region, &member.record.name))
            .chain(std::iter::once((region, me)))
        {
            by_region.entry(region.clone()).or_default().push(name.clone());
        }
        Self { by_region }
    }

    /// The nodes that probe `backend`, which stands in `region`; the first by hash first. Never empty.
    pub fn probers(&self, backend: BackendId, region: &RegionName, regions: &[Region]) -> Vec<NodeName> {
        let nodes = self.by_region.get(region).or_else(|| self.nearest(region, regions));
        let mut ranked: Vec<_> = nodes
            .into_iter()
            .flatten()
            .map(|node| (rendezvous(&backend.0.to_be_bytes(), node.as_str().as_bytes()), node))
            .collect();
        ranked.sort_unstable_by(|a, b| b.cmp(a));
        ranked.into_iter().take(PROBERS).map(|(_, node)| node.clone()).collect()
    }

    /// By the map, never by round-trip times: those differ from node to node.
    fn nearest(&self, region: &RegionName, regions: &[Region]) -> Option<&Vec<NodeName>> {
        self.by_region
            .iter()
            .min_by_key(|(other, _)| (distance::between(regions, region, other).unwrap_or(u32::MAX), *other))
            .map(|(_, nodes)| nodes)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn region(name: &str) -> RegionName {
        RegionName::new(name).unwrap()
    }

    fn roster(regions: &[(&str, usize)]) -> Roster {
        let nodes =
            |name: &str, count| (1..=count).map(|n| NodeName::new(&format!("{name}-{n}")).unwrap()).collect();
        Roster {
            by_region: regions.iter().map(|(name, count)| (region(name), nodes(name, *count))).collect(),
        }
    }

    fn placed(name: &str, location: (f64, f64)) -> Region {
        Region { name: region(name), location: Some(location), prefixes: Vec::new() }
    }

    #[test]
    fn three_of_the_region_or_all_it_has() {
        for (nodes, probers) in [(1, 1), (2, 2), (3, 3), (4, 3), (50, 3)] {
            let chosen = roster(&[("eu", nodes), ("us", 5)]).probers(BackendId(7), &region("eu"), &[]);
            assert_eq!(chosen.len(), probers);
            assert!(chosen.iter().all(|node| node.as_str().starts_with("eu-")));
        }
    }

    #[test]
    fn the_nearest_region_stands_in() {
        let regions = [placed("eu", (50.0, 8.0)), placed("us", (39.0, -77.0)), placed("ap", (1.0, 103.0))];
        let roster = roster(&[("us", 2), ("ap", 2)]);
        let chosen = roster.probers(BackendId(7), &region("eu"), &regions);
        assert!(chosen.iter().all(|node| node.as_str().starts_with("us-")));
        let chosen = roster.probers(BackendId(7), &region("eu"), &[]);
        assert!(
            chosen.iter().all(|node| node.as_str().starts_with("ap-")),
            "by name where the map is silent"
        );
    }

    #[test]
    fn the_work_is_spread_evenly() {
        let roster = roster(&[("eu", 10)]);
        let mut work: BTreeMap<NodeName, usize> = BTreeMap::new();
        for backend in 0..2000 {
            for node in roster.probers(BackendId(backend), &region("eu"), &[]) {
                *work.entry(node).or_default() += 1;
            }
        }
        assert!(work.values().all(|probes| (480..720).contains(probes)), "600 each on average: {work:?}");
    }

    proptest! {
        /// A node that leaves is replaced by one other where it had work, and nothing else moves; read backwards, the
        /// same holds for a node that joins.
        #[test]
        fn movement_is_minimal(nodes in 2usize..20, leaver in 0usize..20, backends in prop::collection::vec(any::<u64>(), 1..50)) {
            let before = roster(&[("eu", nodes)]);
            let mut after = before.clone();
            let gone = after.by_region.get_mut("eu").unwrap().remove(leaver % nodes);
            for backend in backends.into_iter().map(BackendId) {
                let old: BTreeSet<_> = before.probers(backend, &region("eu"), &[]).into_iter().collect();
                let new: BTreeSet<_> = after.probers(backend, &region("eu"), &[]).into_iter().collect();
                let lost: Vec<_> = old.difference(&new).collect();
                prop_assert_eq!(new.len(), PROBERS.min(nodes - 1));
                if old.contains(&gone) {
                    prop_assert_eq!(lost, vec![&gone]);
                } else {
                    prop_assert_eq!(old, new);
                }
            }
        }
    }
}
