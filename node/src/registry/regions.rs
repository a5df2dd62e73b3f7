//! What is known of the regions: who carries tunnels there, what they can do, in which order rescue tries them. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use gossip::id::{PoolName, RegionName};
use gossip::state::{Member, MemberState, PoolSummary};

use super::snapshot::Inputs;
use crate::backend::{PoolView, RegionView, Snapshot, TunnelNode};
use crate::distance;

/// Round trips that differ by less are taken for equal, so that their noise does not turn the order over and over.
const RTT_STEP: Duration = Duration::from_millis(10);
/// The round trip that a distance stands for: light in fibre takes 10 µs a kilometre there and back, cables make detours.
const RTT_PER_KM: Duration = Duration::from_micros(15);

/// All regions with a node that is not gone, this node's own included. This node is not among the tunnel nodes.
pub(super) fn views(
    inputs: Inputs<'_>,
    pools: &BTreeMap<PoolName, Arc<PoolView>>,
) -> BTreeMap<RegionName, RegionView> {
    let mut names: BTreeSet<&RegionName> = inputs
        .view
        .members
        .values()
        .filter(|member| member.counts())
        .map(|member| &member.record.region)
        .collect();
    names.insert(inputs.region);
    names
        .into_iter()
        .map(|name| {
            let view =
                RegionView { nodes: tunnel_nodes(inputs, name), pools: summaries(inputs, pools, name) };
            (name.clone(), view)
        })
        .collect()
}

/// Alive and not told to leave. A region whose nodes are all leaving still carries its sessions, so then those.
fn tunnel_nodes(inputs: Inputs<'_>, region: &RegionName) -> Vec<TunnelNode> {
    let drained = |member: &Member| {
        member.state == MemberState::Draining || inputs.orders.drained_nodes.contains(&member.record.name)
    };
    let usable = |member: &&Arc<Member>| {
        matches!(member.state, MemberState::Alive | MemberState::Draining) && member.record.name != *inputs.me
    };
    let (leaving, staying): (Vec<_>, Vec<_>) =
        inputs.view.region(region).filter(usable).partition(|member| drained(member));
    let chosen = if staying.is_empty() { leaving } else { staying };
    chosen
        .into_iter()
        .filter_map(|member| {
            let mut addr = member.record.mesh;
            addr.set_port(addr.port().checked_add(1)?);
            Some(TunnelNode { name: member.record.name.clone(), addr, rtt: member.rtt })
        })
        .collect()
}

/// What a region can do: of its own region a node knows best itself; of another, its nodes say.
fn summaries(
    inputs: Inputs<'_>,
    pools: &BTreeMap<PoolName, Arc<PoolView>>,
    region: &RegionName,
) -> BTreeMap<PoolName, PoolSummary> {
    pools
        .iter()
        .map(|(name, pool)| {
            let own = summary(pool, region);
            let told = || told(inputs.view.region(region), name);
            let known_best = *region == *inputs.region || own.total == 0;
            (name.clone(), if known_best { own } else { told().unwrap_or(own) })
        })
        .collect()
}

/// The middle of what a region's living nodes say, the better of two middles: one confused node neither closes its
/// region nor keeps it open.
fn told<'a>(members: impl Iterator<Item = &'a Arc<Member>>, pool: &PoolName) -> Option<PoolSummary> {
    let mut told: Vec<PoolSummary> = members
        .filter(|member| matches!(member.state, MemberState::Alive | MemberState::Draining))
        .filter_map(|member| member.summaries.get(pool).copied())
        .collect();
    told.sort_unstable_by_key(|summary| (summary.healthy, summary.capacity, summary.in_flight));
    told.get(told.len() / 2).copied()
}

/// What the backends of one region can do for new sessions, as this node sees them.
pub(super) fn summary(pool: &PoolView, region: &RegionName) -> PoolSummary {
    let mut summary = PoolSummary::default();
    for backend in pool.backends.iter().filter(|backend| backend.config.region == *region) {
        let in_flight = backend.shared.in_flight().saturating_add(backend.shared.elsewhere());
        summary.total += 1;
        summary.in_flight = summary.in_flight.saturating_add(in_flight);
        if backend.takes_new() {
            summary.healthy += 1;
            summary.capacity = summary.capacity.saturating_add(backend.weight);
        }
    }
    summary
}

/// What this node tells the mesh of its own region: the pools that have backends in it.
pub(super) fn own_summaries(snapshot: &Snapshot) -> BTreeMap<PoolName, PoolSummary> {
    let all = snapshot.pools.iter().map(|(name, pool)| (name.clone(), summary(pool, &snapshot.region)));
    all.filter(|(_, summary)| summary.total > 0).collect()
}

/// The other regions, nearest first: by the round trip to their nodes; where this node knows none, by that between the regions
/// as others tell; where nobody does, by what the distance lets expect; then by distance; then by name. A region that
/// knows neither comes last.
pub(super) fn rescue_order(inputs: Inputs<'_>) -> Vec<RegionName> {
    let configured = inputs.current.services.regions.iter().map(|region| &region.name);
    let met =
        inputs.view.members.values().filter(|member| member.counts()).map(|member| &member.record.region);
    let names: BTreeSet<&RegionName> = configured.chain(met).filter(|name| *name != inputs.region).collect();
    let mut order: Vec<_> = names
        .into_iter()
        .map(|name| {
            let nodes = inputs.view.region(name).filter(|member| member.is_alive());
            let own = nodes.filter_map(|member| inputs.view.rtt(inputs.me, &member.record.name)).min();
            let rtt = own.or_else(|| inputs.view.rtt_of_regions(inputs.region, name));
            let km = distance::between(&inputs.current.services.regions, inputs.region, name);
            let steps = rtt
                .or_else(|| km.map(|km| RTT_PER_KM.saturating_mul(km)))
                .map_or(u128::MAX, |rtt| rtt.as_nanos() / RTT_STEP.as_nanos());
            (steps, km.unwrap_or(u32::MAX), name)
        })
        .collect();
    order.sort_unstable();
    order.into_iter().map(|(_, _, name)| name.clone()).collect()
}
