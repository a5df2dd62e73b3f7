//! The state of the mesh in the API's words. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use gossip::clock::Wall;
use gossip::id::{BackendId, RegionName, RevisionId};
use gossip::state::{ClusterView, Member, MemberState};

use storage::revisions::Revisions;

use super::api::{BackendStatus, MemberStatus, PoolStatus, RegionPool, RegionStatus, RevisionStatus};
use super::reports::Load;
use crate::backend::{BackendView, PoolView, Snapshot};

/// For how long the loss of a revision is told.
const LOST_IS_NEWS: Duration = Duration::from_secs(3600);

/// All nodes, by name.
pub(super) fn members(view: &ClusterView) -> Vec<MemberStatus> {
    view.members.values().map(|member| self::member(member)).collect()
}

fn member(member: &Member) -> MemberStatus {
    let record = &member.record;
    MemberStatus {
        name: record.name.to_string(),
        region: record.region.to_string(),
        zone: record.zone.as_ref().map(ToString::to_string),
        state: spell_member(member.state).into(),
        version: record.version.clone(),
        rtt_ms: member.rtt.map(|rtt| (rtt.as_secs_f64() * 1e6).round() / 1e3),
        address: record.mesh.to_string(),
        public: record.public.iter().map(ToString::to_string).collect(),
        revision: record.revision.map(|id| id.to_string()),
    }
}

fn spell_member(state: MemberState) -> &'static str {
    match state {
        MemberState::Alive => "alive",
        MemberState::Suspect => "suspect",
        MemberState::Dead => "dead",
        MemberState::Draining => "draining",
        MemberState::Left => "left",
    }
}

/// The revision in force here, and how far it has spread.
pub(super) fn revision(view: &ClusterView, current: Option<RevisionId>) -> Option<RevisionStatus> {
    let current = current?;
    let living = || view.members.values().filter(|member| member.counts());
    Some(RevisionStatus {
        epoch: current.epoch,
        hash: current.hash_hex(),
        nodes_on: living().filter(|member| member.record.revision == Some(current)).count(),
        nodes: living().count(),
    })
}

/// All pools with what the nodes that answered count: their load, and the sessions that stay.
pub(super) fn pools(
    snapshot: &Snapshot,
    loads: &BTreeMap<BackendId, Load>,
    sessions: &BTreeMap<BackendId, u64>,
) -> Vec<PoolStatus> {
    snapshot.pools.values().map(|view| pool(view, loads, sessions)).collect()
}

fn pool(
    view: &PoolView,
    loads: &BTreeMap<BackendId, Load>,
    sessions: &BTreeMap<BackendId, u64>,
) -> PoolStatus {
    // The data plane keeps them by id; people look for them by place.
    let mut sorted: Vec<_> = view.backends.iter().collect();
    sorted.sort_by_key(|backend| (&backend.config.region, backend.config.address));
    let backends = sorted.into_iter().map(|backend| {
        let load = loads.get(&backend.config.id).copied().unwrap_or_default();
        BackendStatus {
            address: backend.config.address.to_string(),
            region: backend.config.region.to_string(),
            zone: backend.config.zone.as_ref().map(ToString::to_string),
            state: backend.state.as_str().into(),
            source: backend.config.sources.to_string(),
            weight: backend.weight,
            in_flight: load.in_flight,
            requests: load.requests,
            sessions: sessions.get(&backend.config.id).copied().unwrap_or_default(),
            reason: backend.reason.clone(),
        }
    });
    PoolStatus {
        name: view.config.name.to_string(),
        balance: view.config.balance.as_str().into(),
        backends: backends.collect(),
    }
}

/// All regions, by name.
pub(super) fn regions(
    view: &ClusterView,
    snapshot: &Snapshot,
    loads: &BTreeMap<BackendId, Load>,
) -> Vec<RegionStatus> {
    let backends = || snapshot.pools.values().flat_map(|pool| &pool.backends);
    let names: BTreeSet<&RegionName> = view
        .members
        .values()
        .map(|member| &member.record.region)
        .chain(snapshot.services.regions.iter().map(|region| &region.name))
        .chain(backends().map(|backend| &backend.config.region))
        .collect();
    let region = |name: &RegionName| {
        let located = snapshot.services.regions.iter().find(|region| region.name == *name);
        let location = located.and_then(|region| region.location);
        let pools: Vec<RegionPool> =
            snapshot.pools.values().filter_map(|pool| region_pool(name, pool, loads)).collect();
        RegionStatus {
            name: name.to_string(),
            latitude: location.map(|location| location.0),
            longitude: location.map(|location| location.1),
            nodes: view.region(name).map(|member| member.record.name.to_string()).collect(),
            nodes_alive: view.region(name).filter(|member| member.is_alive()).count(),
            in_flight: pools.iter().map(|pool| pool.in_flight).sum(),
            pools,
        }
    };
    names.into_iter().map(region).collect()
}

fn region_pool(
    region: &RegionName,
    pool: &PoolView,
    loads: &BTreeMap<BackendId, Load>,
) -> Option<RegionPool> {
    let here: Vec<_> = pool.backends.iter().filter(|backend| backend.config.region == *region).collect();
    let takes = || here.iter().filter(|backend| backend.takes_new());
    let in_flight = |id| loads.get(&id).map_or(0, |load| u64::from(load.in_flight));
    (!here.is_empty()).then(|| RegionPool {
        pool: pool.config.name.to_string(),
        healthy: takes().count(),
        total: here.len(),
        capacity: takes().map(|backend| u64::from(backend.weight)).sum(),
        in_flight: here.iter().map(|backend| in_flight(backend.config.id)).sum(),
    })
}

/// What an operator should know of the configuration's history, at `now` of the mesh's clock.
pub(crate) fn of_revisions(revisions: &Revisions, now: Wall) -> Vec<String> {
    let mut problems = Vec::new();
    if let Some(id) = revisions.distrusted() {
        problems.push(format!(
            "this node ended while it put revision {} ({}) in force: it runs the one before and tries again later; apply \
             another one to be done with it",
            id.epoch,
            &id.hash_hex()[..12]
        ));
    }
    let fresh = revisions.lost().into_iter().filter(|lost| now.since(lost.time) < LOST_IS_NEWS);
    problems.extend(fresh.map(|lost| {
        let name = format!("{}:{}", lost.id.epoch, &lost.id.hash_hex()[..12]);
        let (author, node) = (&lost.author, &lost.node);
        format!(
            "revision {name} by {author} on {node} was applied at the same time as another one and lost; meridian rollback \
             {name} puts it in force"
        )
    }));
    problems
}

/// What one loss would take with it: pools whose backends in a region all stand in one zone, or in one rack. Only where
/// places are named: what is not known is no warning.
pub(super) fn warnings(snapshot: &Snapshot) -> Vec<String> {
    let mut warnings = Vec::new();
    for pool in snapshot.pools.values() {
        let mut by_region: BTreeMap<_, Vec<&BackendView>> = BTreeMap::new();
        for backend in pool.backends.iter().filter(|backend| backend.takes_new()) {
            by_region.entry(&backend.config.region).or_default().push(backend);
        }
        for (region, backends) in by_region.into_iter().filter(|(_, backends)| backends.len() > 1) {
            let config = &backends[0].config;
            let same = |what: &dyn Fn(&BackendView) -> bool| backends.iter().all(|backend| what(backend));
            let same_zone = same(&|backend| backend.config.zone == config.zone);
            let same_rack = same_zone && same(&|backend| backend.config.rack == config.rack);
            let place = match (&config.rack, &config.zone) {
                (Some(rack), _) if same_rack => format!("rack {rack}"),
                (_, Some(zone)) if same_zone => format!("zone {zone}"),
                _ => continue,
            };
            let (name, many) = (&pool.config.name, backends.len());
            warnings.push(format!(
                "pool {name}: all its {many} backends in {region} stand in {place}, and go with it"
            ));
        }
    }
    warnings
}

/// What needs attention, in words: first `told`, what the nodes say of themselves.
pub(super) fn problems(
    view: &ClusterView,
    snapshot: &Snapshot,
    seeds: &[String],
    told: Vec<String>,
) -> Vec<String> {
    let mut problems = told;
    if view.isolated_since.is_some() {
        problems.push("no peer is heard; this node goes on with what it last knew".into());
    } else if !seeds.is_empty() && view.members.len() < 2 {
        problems.push(format!("no seed answers yet ({}): this node is a mesh of its own", seeds.join(", ")));
    }
    for member in view.members.values() {
        if matches!(member.state, MemberState::Suspect | MemberState::Dead) {
            problems.push(format!("node {} is {}", member.record.name, spell_member(member.state)));
        }
    }
    for pool in snapshot.pools.values() {
        let name = &pool.config.name;
        let down: Vec<_> = pool.backends.iter().filter(|backend| !backend.serves()).collect();
        if pool.backends.is_empty() {
            problems.push(format!("pool {name} has no backends"));
            continue;
        }
        if down.len() == pool.backends.len() {
            problems.push(format!("pool {name} has no backend that serves"));
            continue;
        }
        if !pool.backends.iter().any(|backend| backend.takes_new()) {
            problems.push(format!("pool {name} has no backend that takes new sessions"));
        }
        problems.extend(down.iter().map(|backend| {
            format!("backend {} of pool {name} is {}", backend.config.address, backend.state.as_str())
        }));
    }
    let current = snapshot.revision;
    let behind = |m: &&std::sync::Arc<Member>| m.counts() && current.is_some() && m.record.revision < current;
    let behind: Vec<String> =
        view.members.values().filter(behind).map(|member| member.record.name.to_string()).collect();
    if !behind.is_empty() {
        problems.push(format!(
            "not yet on revision {}: {}",
            current.map_or(0, |id| id.epoch),
            behind.join(", ")
        ));
    }
    problems
}
