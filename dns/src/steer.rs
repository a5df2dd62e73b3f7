//! Which region answers a client, and with which nodes of it.
//!
//! ```text
//!   client ──► prefixes? ──► GeoIP? ──► own region          where is the user
//!                 └────────────┴───────────┴──► order        by policy
//!   order ──► healthy, with room and nodes ──► healthy ──► configured order ──► any known node
//!                                                          └─────── fail open (I6) ───────┘
//! ```
//!
//! Region first, then family: a region without addresses of the family asked for still answers, with nothing.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use rand::{Rng, RngExt};
use serde::Serialize;

use crate::geo::{GeoIp, Location};
use crate::spec::Policy;
use crate::state::{NodeState, RegionState, State};
use crate::table::{Region, Table};
use crate::zone::Steer;

/// A TTL that shrinks before an expected change never falls below this.
pub const MIN_SHRUNK_TTL: Duration = Duration::from_secs(5);

/// Which addresses are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// A.
    V4,
    /// AAAA.
    V6,
}

/// What steering looks at: three snapshots.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings<'a> {
    /// The regions and their prefixes.
    pub table: &'a Table,
    /// Their health and nodes.
    pub state: &'a State,
    /// Where addresses are, when there is a file.
    pub geo: Option<&'a GeoIp>,
}

/// How the client's place was found.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// A region's prefixes hold the address.
    Prefixes,
    /// The GeoIP file knows it.
    GeoIp,
    /// Neither; a resolver tends to ask the nearest name server, so the client is taken to be here.
    OwnRegion,
}

/// Why a region was passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Skip {
    /// No backend of the service is healthy there.
    Unhealthy,
    /// Its backends have no free capacity.
    Full,
    /// It has no node that users may be sent to.
    NoNodes,
}

/// How far the choice had to go down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// The first region in order that is healthy, has room and nodes.
    Healthy,
    /// All healthy regions are full: the first of them.
    NoRoom,
    /// No healthy region has nodes: the first with nodes in the configured order.
    FailOpen,
    /// No region has usable nodes: the first with any known node, suspect or draining.
    LastResort,
    /// The mesh has no node with an address.
    Nobody,
}

/// The answer and everything that led to it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Decision<'a> {
    /// The client's prefix.
    pub client: IpNet,
    /// How its place was found.
    pub source: Source,
    /// Its place, as far as known.
    pub location: Option<Location>,
    /// The shortest prefix length around the client for which the place is the same; never 0.
    pub scope: u8,
    /// The regions in the order of the policy.
    pub order: Vec<&'a str>,
    /// Those passed over, and why.
    pub skipped: Vec<(&'a str, Skip)>,
    /// How far it went.
    pub step: Step,
    /// The region that answers.
    pub region: Option<&'a str>,
    /// Nodes and their addresses of the family asked for.
    pub chosen: Vec<(&'a str, IpAddr)>,
    /// In seconds.
    pub ttl: u32,
}

/// Decides for one client.
pub fn decide<'a>(
    surroundings: Surroundings<'a>,
    steer: &Steer,
    family: Family,
    client: IpNet,
    now: Instant,
    rng: &mut impl Rng,
) -> Decision<'a> {
    let candidates = candidates(surroundings.table, surroundings.state);
    let place = locate(surroundings, &candidates, client.addr());
    let order = order(surroundings.state, &candidates, &place, steer, rng);
    let choice = choose(&candidates, &order, steer);
    let nodes = match (choice.step, choice.region) {
        (Step::LastResort, Some(region)) => region.last_resort(),
        (_, Some(region)) => region.nodes(),
        (_, None) => &[],
    };
    Decision {
        client,
        source: place.source,
        location: place.location,
        scope: place.scope,
        order: order.iter().map(|candidate| candidate.name).collect(),
        skipped: choice.skipped,
        step: choice.step,
        region: choice.region.map(|region| region.name),
        chosen: draw(nodes, family, steer.answers, rng),
        ttl: ttl(surroundings.state, steer, now),
    }
}

/// A region that may answer: declared in the table, known from the state, or both.
#[derive(Debug, Clone, Copy)]
struct Candidate<'a> {
    name: &'a str,
    location: Option<Location>,
    state: Option<&'a RegionState>,
}

impl<'a> Candidate<'a> {
    fn nodes(&self) -> &'a [NodeState] {
        self.state.map_or(&[], |state| &state.nodes)
    }

    fn last_resort(&self) -> &'a [NodeState] {
        self.state.map_or(&[], |state| &state.last_resort)
    }

    fn is_healthy(&self, service: &str) -> bool {
        self.state.and_then(|state| state.services.get(service)).is_some_and(|service| service.healthy)
    }

    fn free(&self, service: &str) -> u32 {
        self.state.and_then(|state| state.services.get(service)).map_or(0, |service| service.free)
    }
}

fn has_address(nodes: &[NodeState]) -> bool {
    nodes.iter().any(|node| !node.addresses.is_empty())
}

/// All regions, in the configured order; those that no configuration names come last.
fn candidates<'a>(table: &'a Table, state: &'a State) -> Vec<Candidate<'a>> {
    let declared = table.regions.iter().map(|Region { name, location }| Candidate {
        name,
        location: *location,
        state: state.regions.get(name),
    });
    let others = state
        .regions
        .iter()
        .filter(|(name, _)| !table.regions.iter().any(|region| region.name == **name))
        .map(|(name, region)| Candidate { name, location: None, state: Some(region) });
    declared.chain(others).collect()
}

#[derive(Debug)]
struct Place {
    source: Source,
    /// Index of the region the client belongs to, when that is known without distances.
    region: Option<usize>,
    location: Option<Location>,
    scope: u8,
}

fn locate(surroundings: Surroundings<'_>, candidates: &[Candidate<'_>], client: IpAddr) -> Place {
    let client = client.to_canonical();
    let by_prefix = surroundings.table.prefixes.find(client);
    if let Some(region) = by_prefix.region {
        let location = candidates.get(region).and_then(|candidate| candidate.location);
        let scope = by_prefix.scope.max(1);
        return Place { source: Source::Prefixes, region: Some(region), location, scope };
    }
    let by_file = surroundings.geo.map(|geo| geo.locate(client));
    let scope = by_prefix.scope.max(by_file.map_or(0, |found| found.prefix_len)).max(1);
    if let Some(location) = by_file.and_then(|found| found.location) {
        return Place { source: Source::GeoIp, region: None, location: Some(location), scope };
    }
    let own = candidates.iter().position(|candidate| candidate.name == surroundings.state.own_region);
    let location = own.and_then(|own| candidates.get(own)).and_then(|candidate| candidate.location);
    Place { source: Source::OwnRegion, region: own, location, scope }
}

fn order<'a>(
    state: &State,
    candidates: &[Candidate<'a>],
    place: &Place,
    steer: &Steer,
    rng: &mut impl Rng,
) -> Vec<Candidate<'a>> {
    match &steer.policy {
        Policy::Nearest => nearest(candidates, place),
        Policy::Latency => {
            let mut order = nearest(candidates, place);
            let Some(home) = order.first().map(|candidate| candidate.name) else { return order };
            let from_home: HashMap<&str, Duration> = state
                .rtt
                .iter()
                .filter(|((from, _), _)| from == home)
                .map(|((_, to), rtt)| (to.as_str(), *rtt))
                .collect();
            // Stable: regions without a measurement keep their order by distance, behind the measured ones.
            order.sort_by_key(|candidate| {
                let rtt = if candidate.name == home {
                    Some(Duration::ZERO)
                } else {
                    from_home.get(candidate.name).copied()
                };
                rtt.unwrap_or(Duration::MAX)
            });
            order
        }
        Policy::Weighted => {
            let weights: Vec<u32> =
                candidates.iter().map(|candidate| candidate.free(&steer.service)).collect();
            shuffle(&weights, rng).into_iter().map(|index| candidates[index]).collect()
        }
        Policy::Failover(order) => order
            .iter()
            .filter_map(|name| candidates.iter().find(|candidate| candidate.name == name))
            .copied()
            .collect(),
    }
}

/// The client's own region, then by distance, then those without a location in the configured order.
fn nearest<'a>(candidates: &[Candidate<'a>], place: &Place) -> Vec<Candidate<'a>> {
    let mut order: Vec<(usize, f64, Candidate<'a>)> = candidates
        .iter()
        .enumerate()
        .map(|(index, candidate)| {
            let distance = place.location.zip(candidate.location).map(|(from, to)| from.distance_km(&to));
            (index, distance.unwrap_or(f64::INFINITY), *candidate)
        })
        .collect();
    order.sort_by(|(index, distance, _), (other_index, other_distance, _)| {
        let home = |index: &usize| Some(*index) != place.region;
        home(index)
            .cmp(&home(other_index))
            .then(distance.partial_cmp(other_distance).unwrap_or(Ordering::Equal))
            .then(index.cmp(other_index))
    });
    order.into_iter().map(|(_, _, candidate)| candidate).collect()
}

struct Choice<'a> {
    step: Step,
    region: Option<Candidate<'a>>,
    skipped: Vec<(&'a str, Skip)>,
}

fn choose<'a>(candidates: &[Candidate<'a>], order: &[Candidate<'a>], steer: &Steer) -> Choice<'a> {
    let mut skipped = Vec::new();
    let mut full = None;
    for candidate in order {
        let reason = if !candidate.is_healthy(&steer.service) {
            Skip::Unhealthy
        } else if !has_address(candidate.nodes()) {
            Skip::NoNodes
        } else if candidate.free(&steer.service) == 0 {
            full = full.or(Some(*candidate));
            Skip::Full
        } else {
            return Choice { step: Step::Healthy, region: Some(*candidate), skipped };
        };
        skipped.push((candidate.name, reason));
    }
    if full.is_some() {
        return Choice { step: Step::NoRoom, region: full, skipped };
    }
    // Fail open: in the configured order, which for failover is the policy's, and then everyone else.
    let named = if matches!(steer.policy, Policy::Failover(_)) { order } else { &[] };
    let mut configured = named.iter().chain(candidates);
    if let Some(region) = configured.clone().find(|candidate| has_address(candidate.nodes())) {
        return Choice { step: Step::FailOpen, region: Some(*region), skipped };
    }
    let region = configured.find(|candidate| has_address(candidate.last_resort())).copied();
    Choice { step: if region.is_some() { Step::LastResort } else { Step::Nobody }, region, skipped }
}

/// Draws up to `count` nodes by weight, without putting any back, and one address of each.
fn draw<'a>(
    nodes: &'a [NodeState],
    family: Family,
    count: usize,
    rng: &mut impl Rng,
) -> Vec<(&'a str, IpAddr)> {
    let of_family = |address: &IpAddr| address.is_ipv4() == (family == Family::V4);
    let able: Vec<&NodeState> = nodes.iter().filter(|node| node.addresses.iter().any(of_family)).collect();
    let weights: Vec<u32> = able.iter().map(|node| node.weight).collect();
    shuffle(&weights, rng)
        .into_iter()
        .take(count)
        .filter_map(|index| {
            let node = able[index];
            let addresses: Vec<IpAddr> = node.addresses.iter().copied().filter(of_family).collect();
            let address = *addresses.get(rng.random_range(0..addresses.len()))?;
            Some((node.name.as_str(), address))
        })
        .collect()
}

/// A random order of indices in which each next one is drawn by weight from those left (Efraimidis and Spirakis,
/// "Weighted random sampling with a reservoir", 2006). Those of weight zero come last.
fn shuffle(weights: &[u32], rng: &mut impl Rng) -> Vec<usize> {
    let mut keys: Vec<(bool, f64, usize)> = weights
        .iter()
        .enumerate()
        .map(|(index, &weight)| {
            // In (0, 1], so that the logarithm is finite.
            let uniform = 1.0 - rng.random::<f64>();
            (weight == 0, -uniform.ln() / f64::from(weight.max(1)), index)
        })
        .collect();
    keys.sort_by(|left, right| {
        left.0.cmp(&right.0).then(left.1.partial_cmp(&right.1).unwrap_or(Ordering::Equal))
    });
    keys.into_iter().map(|(_, _, index)| index).collect()
}

/// The steer's own TTL, or less when a change may come sooner; never below [`MIN_SHRUNK_TTL`] for that reason.
fn ttl(state: &State, steer: &Steer, now: Instant) -> u32 {
    let expected = state.change_expected.get(&steer.service).map(|at| at.saturating_duration_since(now));
    let shrunk = [expected, state.ttl_ceiling].into_iter().flatten().min();
    shrunk.map_or(steer.ttl, |shrunk| steer.ttl.min(shrunk.max(MIN_SHRUNK_TTL).as_secs() as u32))
}

#[cfg(test)]
mod tests;
