//! What backends make the nodes say: verdicts by the real assignment, and summaries under a load that changes every second.
//!
//! Each region has its share of the backends, in [`POOLS`] pools that stand in all regions.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use gossip::clock::Hlc;
use gossip::fastlane::LoadReport;
use gossip::id::{BackendId, NodeName, PoolName, RegionName};
use gossip::simulated::Node;
use gossip::state::{BackendState, ClusterView, PoolSummary, Verdict};
use node::health::assign::Roster;
use rand::RngExt;
use rand::rngs::StdRng;

const POOLS: usize = 10;
const WEIGHT: u32 = 100;

/// One backend.
#[derive(Debug, Clone)]
pub(crate) struct Backend {
    pub(crate) id: BackendId,
    pub(crate) pool: PoolName,
    pub(crate) region: RegionName,
}

/// So many backends, evenly over the regions and pools.
pub(crate) fn backends(count: usize, regions: &[RegionName]) -> Vec<Backend> {
    let backend = |number: usize| {
        let pool: PoolName = format!("pool-{}", number / regions.len() % POOLS).parse().expect("a name");
        let [high, low] = (number as u16).to_be_bytes();
        let id = BackendId::of(&pool, SocketAddr::from(([10, 200, high, low], 80)));
        Backend { id, pool, region: regions[number % regions.len()].clone() }
    };
    (0..count).map(backend).collect()
}

/// Who probes a backend, as every node works it out from its view.
pub(crate) fn probers(view: &ClusterView, region: &RegionName, backend: &Backend) -> Vec<NodeName> {
    Roster::new(view, &view.me, region).probers(backend.id, &backend.region, &[])
}

/// What one node has to say.
#[derive(Debug)]
pub(crate) struct Duties {
    region: RegionName,
    /// The backends of its region.
    backends: Vec<Backend>,
    in_flight: Vec<u32>,
    elsewhere: BTreeMap<NodeName, u32>,
    /// Its verdicts, and among whom the work was divided for them: the same as long as those are the same.
    divided: Option<(Roster, BTreeMap<PoolName, Vec<Verdict>>)>,
    rng: StdRng,
}

impl Duties {
    pub(crate) fn new(region: RegionName, all: &[Backend], rng: StdRng) -> Self {
        let backends: Vec<_> = all.iter().filter(|backend| backend.region == region).cloned().collect();
        let in_flight = vec![0; backends.len()];
        Self { region, backends, in_flight, elsewhere: BTreeMap::new(), divided: None, rng }
    }

    /// Publishes verdicts, load and summaries; `busy`: users come and go.
    pub(crate) fn publish(&mut self, node: &Node, reports: Vec<LoadReport>, busy: bool) {
        let view = node.view();
        let roster = Roster::new(&view, &view.me, &self.region);
        let verdicts = match self.divided.take().filter(|(among, _)| *among == roster) {
            Some((_, verdicts)) => verdicts,
            None => self.verdicts(&roster, &view.me),
        };
        node.publish_verdicts(verdicts.clone()).expect("a pool of a hundred fits");
        self.divided = Some((roster, verdicts));
        if !busy {
            return node.publish_summaries(self.summaries());
        }
        for in_flight in &mut self.in_flight {
            let step = self.rng.random_range(-3..=3);
            *in_flight = in_flight.saturating_add_signed(step).clamp(1, 40);
        }
        for report in reports {
            self.elsewhere.insert(report.from, report.loads.iter().map(|(_, in_flight)| in_flight).sum());
        }
        let loads = self.backends.iter().zip(&self.in_flight);
        node.publish_load(loads.map(|(backend, in_flight)| (backend.id, *in_flight)).collect());
        node.publish_summaries(self.summaries());
    }

    fn verdicts(&self, roster: &Roster, me: &NodeName) -> BTreeMap<PoolName, Vec<Verdict>> {
        let mut verdicts: BTreeMap<PoolName, Vec<Verdict>> = BTreeMap::new();
        for backend in &self.backends {
            if roster.probers(backend.id, &backend.region, &[]).contains(me) {
                let verdict = Verdict { backend: backend.id, state: BackendState::Up, since: Hlc::ZERO };
                verdicts.entry(backend.pool.clone()).or_default().push(verdict);
            }
        }
        verdicts
    }

    fn summaries(&self) -> BTreeMap<PoolName, PoolSummary> {
        let elsewhere = self.elsewhere.values().sum::<u32>() / POOLS as u32;
        let mut summaries: BTreeMap<PoolName, PoolSummary> = BTreeMap::new();
        for (backend, in_flight) in self.backends.iter().zip(&self.in_flight) {
            let begun = PoolSummary { in_flight: elsewhere, ..PoolSummary::default() };
            let summary = summaries.entry(backend.pool.clone()).or_insert(begun);
            summary.healthy += 1;
            summary.total += 1;
            summary.capacity += WEIGHT;
            summary.in_flight += in_flight;
        }
        summaries
    }
}
