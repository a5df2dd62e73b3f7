//! The other nodes' load, added up by backend. Pure but for the counters it writes.

use std::collections::HashMap;

use gossip::fastlane::LoadReport;
use gossip::id::{BackendId, NodeName};
use gossip::state::ClusterView;

use super::snapshot::Counters;

/// What every other node last reported, and the sums.
#[derive(Debug, Default)]
pub(super) struct Loads {
    by_node: HashMap<NodeName, Vec<(BackendId, u32)>>,
    sums: HashMap<BackendId, u64>,
}

impl Loads {
    /// Takes a report, which replaces the node's last one. Backends that are not configured are left out.
    pub(super) fn report(&mut self, report: LoadReport, counters: &Counters) {
        let LoadReport { from, mut loads } = report;
        loads.retain(|(backend, in_flight)| *in_flight > 0 && counters.get(*backend).is_some());
        let before = self.by_node.remove(&from).unwrap_or_default();
        for (backend, in_flight) in &before {
            if let Some(sum) = self.sums.get_mut(backend) {
                *sum = sum.saturating_sub((*in_flight).into());
            }
        }
        for (backend, in_flight) in &loads {
            *self.sums.entry(*backend).or_default() += u64::from(*in_flight);
        }
        for (backend, _) in before.iter().chain(&loads) {
            let sum = self.sums.get(backend).copied().unwrap_or(0);
            if let Some(shared) = counters.get(*backend) {
                shared.set_elsewhere(sum.try_into().unwrap_or(u32::MAX));
            }
            if sum == 0 {
                self.sums.remove(backend);
            }
        }
        if !loads.is_empty() {
            self.by_node.insert(from, loads);
        }
    }

    /// Forgets nodes that are gone.
    pub(super) fn follow(&mut self, view: &ClusterView, counters: &Counters) {
        let counts = |name: &NodeName| view.members.get(name).is_some_and(|member| member.counts());
        let gone: Vec<NodeName> = self.by_node.keys().filter(|name| !counts(name)).cloned().collect();
        for from in gone {
            self.report(LoadReport { from, loads: Vec::new() }, counters);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::registry::fixture::{member, pool, services, view};

    fn node(number: usize) -> NodeName {
        NodeName::new(&format!("eu-{number}")).unwrap()
    }

    fn counters() -> (Counters, Vec<BackendId>) {
        let pool = pool("web", &[("10.0.0.1:80", "eu"), ("10.0.0.2:80", "eu"), ("10.0.0.3:80", "eu")]);
        let ids = pool.backends.iter().map(|backend| backend.id).collect();
        let mut counters = Counters::default();
        counters.follow(services(&["eu"], vec![pool]).pools.iter());
        (counters, ids)
    }

    #[test]
    fn reports_add_up_and_replace_each_other() {
        let (counters, ids) = counters();
        let elsewhere = |at: usize| counters.get(ids[at]).unwrap().elsewhere();
        let mut loads = Loads::default();
        loads.report(LoadReport { from: node(1), loads: vec![(ids[0], 3), (ids[1], 1)] }, &counters);
        loads.report(LoadReport { from: node(2), loads: vec![(ids[0], 4), (BackendId(9), 7)] }, &counters);
        assert_eq!((elsewhere(0), elsewhere(1)), (7, 1));
        loads.report(LoadReport { from: node(1), loads: vec![(ids[1], 2)] }, &counters);
        assert_eq!((elsewhere(0), elsewhere(1)), (4, 2));
        loads.follow(&view("eu-1", vec![member("eu-1", "eu")]), &counters);
        assert_eq!((elsewhere(0), elsewhere(1)), (0, 2), "eu-2 is gone");
    }

    proptest! {
        #[test]
        fn the_sum_is_the_sum_of_the_last_reports(
            reports in prop::collection::vec((0usize..4, prop::collection::vec((0usize..3, 0u32..10), 0..4)), 0..40),
        ) {
            let (counters, ids) = counters();
            let mut loads = Loads::default();
            let mut last: BTreeMap<usize, Vec<(usize, u32)>> = BTreeMap::new();
            for (from, report) in reports {
                let named = report.iter().map(|(at, load)| (ids[*at], *load)).collect();
                loads.report(LoadReport { from: node(from), loads: named }, &counters);
                last.insert(from, report);
                for (at, id) in ids.iter().enumerate() {
                    let sum: u32 = last.values().flatten().filter(|(to, _)| *to == at).map(|(_, load)| load).sum();
                    prop_assert_eq!(counters.get(*id).unwrap().elsewhere(), sum);
                }
            }
        }
    }
}
