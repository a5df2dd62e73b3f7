//! Steering as its rules are told, name by name: slow, plain, and what the numbered one must agree with.

use std::cmp::Ordering;
use std::net::IpAddr;
use std::time::Duration;

use crate::explain::Skip;
use crate::geo::{GeoIp, Location};
use crate::spec::{Policy, TableSpec};
use crate::state::{NodeState, RegionState, State};
use crate::steer::{Family, Source, Step};

/// What the rules say.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Ruling {
    pub(super) source: Source,
    pub(super) order: Vec<String>,
    pub(super) skipped: Vec<(String, Skip)>,
    pub(super) step: Step,
    pub(super) region: Option<String>,
}

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

    fn service(&self) -> (bool, u32) {
        let service = self.state.and_then(|state| state.services.get("web"));
        service.map_or((false, 0), |service| (service.healthy, service.free))
    }
}

pub(super) fn has_address(nodes: &[NodeState], family: Family) -> bool {
    nodes.iter().flat_map(|node| &node.addresses).any(|address| family.holds(*address))
}

/// Rules on the service `web`. For the random policy the order is that of the regions with the most capacity, and the
/// region that answers is one of those that could.
pub(super) fn rule(
    spec: &TableSpec,
    state: &State,
    policy: &Policy,
    family: Family,
    client: IpAddr,
    geo: Option<&GeoIp>,
) -> Ruling {
    let candidates = candidates(spec, state);
    let (source, home, location) = locate(spec, state, &candidates, client, geo);
    let order = order(state, &candidates, home, location, policy);
    let mut ruling = Ruling {
        source,
        order: order.iter().map(|candidate| candidate.name.to_owned()).collect(),
        skipped: Vec::new(),
        step: Step::Healthy,
        region: None,
    };
    let mut full = None;
    for candidate in &order {
        let reason = match candidate.service() {
            (false, _) => Skip::Unhealthy,
            _ if !has_address(candidate.nodes(), family) => Skip::NoNodes,
            (_, 0) => {
                full = full.or(Some(candidate.name));
                Skip::Full
            }
            _ => {
                ruling.region = Some(candidate.name.to_owned());
                return ruling;
            }
        };
        ruling.skipped.push((candidate.name.to_owned(), reason));
    }
    let named: &[Candidate<'_>] = if matches!(policy, Policy::Failover(_)) { &order } else { &[] };
    let mut configured = named.iter().chain(&candidates);
    let open = configured.clone().find(|candidate| has_address(candidate.nodes(), family));
    let last = configured.find(|candidate| has_address(candidate.last_resort(), family));
    let nobody = candidates.iter().all(|candidate| {
        [candidate.nodes(), candidate.last_resort()]
            .into_iter()
            .flatten()
            .all(|node| node.addresses.is_empty())
    });
    let (step, region) = match (full, open, last) {
        (Some(full), ..) => (Step::NoRoom, Some(full)),
        (_, Some(open), _) => (Step::FailOpen, Some(open.name)),
        (.., Some(last)) => (Step::LastResort, Some(last.name)),
        _ if nobody => (Step::Nobody, None),
        _ => (Step::NoFamily, None),
    };
    Ruling { step, region: region.map(str::to_owned), ..ruling }
}

/// All regions, in the configured order; those that no configuration names come last.
fn candidates<'a>(spec: &'a TableSpec, state: &'a State) -> Vec<Candidate<'a>> {
    let declared = spec.regions.iter().map(|region| Candidate {
        name: &region.name,
        location: region.location.and_then(|(latitude, longitude)| Location::new(latitude, longitude)),
        state: state.regions.get(&region.name),
    });
    let others = state
        .regions
        .iter()
        .filter(|(name, _)| !spec.regions.iter().any(|region| region.name == **name))
        .map(|(name, region)| Candidate { name, location: None, state: Some(region) });
    declared.chain(others).collect()
}

fn locate(
    spec: &TableSpec,
    state: &State,
    candidates: &[Candidate<'_>],
    client: IpAddr,
    geo: Option<&GeoIp>,
) -> (Source, Option<usize>, Option<Location>) {
    let prefixes = spec
        .regions
        .iter()
        .enumerate()
        .flat_map(|(index, region)| region.prefixes.iter().map(move |prefix| (prefix, index)));
    let by_prefix = prefixes.filter(|(net, _)| net.contains(&client)).max_by_key(|(net, _)| net.prefix_len());
    if let Some((_, region)) = by_prefix {
        return (Source::Prefixes, Some(region), candidates[region].location);
    }
    if let Some(location) = geo.and_then(|geo| geo.locate(client).location) {
        return (Source::GeoIp, None, Some(location));
    }
    let own = candidates.iter().position(|candidate| candidate.name == state.own_region);
    (Source::OwnRegion, own, own.and_then(|own| candidates[own].location))
}

fn order<'a>(
    state: &State,
    candidates: &[Candidate<'a>],
    home: Option<usize>,
    location: Option<Location>,
    policy: &Policy,
) -> Vec<Candidate<'a>> {
    match policy {
        Policy::Nearest => nearest(candidates, home, location),
        Policy::Latency => {
            let mut order = nearest(candidates, home, location);
            let Some(first) = order.first().map(|candidate| candidate.name) else { return order };
            order.sort_by_key(|candidate| {
                let measured = state.rtt.get(&(first.to_owned(), candidate.name.to_owned())).copied();
                if candidate.name == first { Duration::ZERO } else { measured.unwrap_or(Duration::MAX) }
            });
            order
        }
        Policy::Weighted => {
            let mut order = candidates.to_vec();
            order.sort_by_key(|candidate| std::cmp::Reverse(candidate.service().1));
            order
        }
        Policy::Failover(order) => order
            .iter()
            .filter_map(|name| candidates.iter().find(|candidate| candidate.name == name))
            .copied()
            .collect(),
    }
}

/// The client's own region, then by distance, then those without a location in the configured order.
fn nearest<'a>(
    candidates: &[Candidate<'a>],
    home: Option<usize>,
    location: Option<Location>,
) -> Vec<Candidate<'a>> {
    let mut order: Vec<(bool, f64, usize)> = candidates
        .iter()
        .enumerate()
        .map(|(index, candidate)| {
            let distance = location.zip(candidate.location).map(|(from, to)| from.distance_km(&to));
            (Some(index) != home, distance.unwrap_or(f64::INFINITY), index)
        })
        .collect();
    order.sort_by(|left, right| left.partial_cmp(right).unwrap_or(Ordering::Equal));
    order.into_iter().map(|(_, _, index)| candidates[index]).collect()
}
