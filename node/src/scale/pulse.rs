//! What the requests of a pool are, as its nodes count them, once a second. Pure.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use gossip::id::{NodeName, PoolName};

use super::target::Sample;
use super::turn::Ability;
use crate::backend::{BackendView, PoolView};
use crate::timings::{STEPS, quantile};

/// Latency is that of so many seconds.
const WINDOW: usize = 5;
/// What a node said counts for so long.
const FRESH: Duration = Duration::from_secs(3);

/// What one node says of its own requests of one pool.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Pulse {
    pub(super) pool: PoolName,
    /// In flight now.
    pub(super) in_flight: u32,
    /// A second, over the last one.
    pub(super) requests: f32,
    /// How long those of the last seconds took, by step.
    pub(super) took: [u32; STEPS],
    /// Whether the node can act for the pool.
    pub(super) ability: Ability,
}

/// Makes this node's pulses out of counters that only grow.
#[derive(Debug, Default)]
pub(super) struct Meter {
    last: BTreeMap<PoolName, Last>,
}

#[derive(Debug)]
struct Last {
    at: Instant,
    requests: BTreeMap<u64, u64>,
    took: BTreeMap<u64, [u32; STEPS]>,
    window: VecDeque<[u32; STEPS]>,
}

impl Meter {
    /// One pool's pulse now; the first says nothing of requests.
    pub(super) fn beat(&mut self, pool: &PoolView, now: Instant) -> Pulse {
        let backends = &pool.backends;
        let requests: BTreeMap<u64, u64> =
            backends.iter().map(|backend| (backend.config.id.0, backend.shared.requests())).collect();
        let took: BTreeMap<u64, [u32; STEPS]> = backends
            .iter()
            .filter_map(|backend| Some((backend.config.id.0, backend.shared.timings()?.counts())))
            .collect();
        let in_flight = backends.iter().map(|backend| backend.shared.in_flight()).sum();
        let name = pool.config.name.clone();
        let Some(last) = self.last.get_mut(&name) else {
            let last = Last { at: now, requests, took, window: VecDeque::new() };
            self.last.insert(name.clone(), last);
            return Pulse {
                pool: name,
                in_flight,
                requests: 0.0,
                took: [0; STEPS],
                ability: Ability::default(),
            };
        };
        let seconds = now.saturating_duration_since(last.at).as_secs_f32().max(0.001);
        let new: u64 = requests
            .iter()
            .map(|(id, count)| count.saturating_sub(last.requests.get(id).copied().unwrap_or_default()))
            .sum();
        let mut second = [0; STEPS];
        for (id, counts) in &took {
            let before = last.took.get(id).copied().unwrap_or([0; STEPS]);
            for (at, sum) in second.iter_mut().enumerate() {
                *sum += counts[at].wrapping_sub(before[at]);
            }
        }
        last.window.push_back(second);
        if last.window.len() > WINDOW {
            last.window.pop_front();
        }
        (last.at, last.requests, last.took) = (now, requests, took);
        let took = std::array::from_fn(|at| last.window.iter().map(|counts| counts[at]).sum());
        Pulse { pool: name, in_flight, requests: new as f32 / seconds, took, ability: Ability::default() }
    }

    /// Forgets pools that are not measured any more.
    pub(super) fn keep(&mut self, is_measured: impl Fn(&PoolName) -> bool) {
        self.last.retain(|pool, _| is_measured(pool));
    }
}

/// The pulses of all nodes.
#[derive(Debug, Default)]
pub(super) struct Pulses(BTreeMap<(PoolName, NodeName), (Instant, Pulse)>);

impl Pulses {
    /// A node says this.
    pub(super) fn take(&mut self, from: NodeName, pulse: Pulse, now: Instant) {
        self.0.retain(|_, (at, _)| now.saturating_duration_since(*at) < FRESH);
        self.0.insert((pulse.pool.clone(), from), (now, pulse));
    }

    /// All together, with the backends as this node sees them.
    pub(super) fn sample(&self, pool: &PoolView, now: Instant) -> Sample {
        let mut sample = Sample::default();
        let mut took = [0_u32; STEPS];
        let name = &pool.config.name;
        let fresh = self
            .0
            .iter()
            .filter(|((of, _), (at, _))| of == name && now.saturating_duration_since(*at) < FRESH);
        for (_, (_, pulse)) in fresh {
            sample.in_flight += f64::from(pulse.in_flight);
            sample.requests += f64::from(pulse.requests);
            for (sum, count) in took.iter_mut().zip(pulse.took) {
                *sum = sum.saturating_add(count);
            }
        }
        sample.p99 = quantile(&took, 0.99);
        sample.ready = pool.backends.iter().filter(|backend| backend.takes_new()).count() as u32;
        sample.total = pool.backends.iter().filter(|backend| stays(backend)).count() as u32;
        sample
    }
}

/// Whether it is to be counted on: neither leaving nor taken out.
pub(super) fn stays(backend: &BackendView) -> bool {
    use gossip::state::BackendState::{Draining, Maintenance};
    !backend.config.leaving && !matches!(backend.state, Draining | Maintenance)
}
