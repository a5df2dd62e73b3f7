//! What the name server is told: the table from the configuration, the state from the snapshot and the view. Pure but
//! for [`follow`], which hands both on when they change.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dns::{NodeState, Policy, RecordSpec, RegionSpec, Responder};
use dns::{State, SteerSpec, Table, TableSpec, ZoneSpec};
use gossip::clock::Clock;
use gossip::id::{RegionName, RevisionId};
use gossip::state::{BackendState, ClusterView, Member, MemberState, PoolSummary};
use storage::zone_keys::Known;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::backend::{BackendView, Snapshot};
use crate::config::model::{DnsRecord, DnsZone, Service, Services, Steer, SteerPolicy};
use crate::registry::Orders;
use crate::signing::{RetiredKeys, signing};

/// The floor of shrinking TTLs, and the TTL of a node that hears no peers (DESIGN §8).
const TTL_FLOOR: Duration = Duration::from_secs(5);

/// How often the load of regions is told anew, where users are passed on by it.
const LOAD_EVERY: Duration = Duration::from_secs(1);

/// The table's specification.
pub(crate) fn table_spec(
    services: &Services,
    revision: Option<RevisionId>,
    keys: &Known,
    retired: &RetiredKeys,
) -> TableSpec {
    let regions = services.regions.iter().map(|region| RegionSpec {
        name: region.name.to_string(),
        location: region.location,
        prefixes: region.prefixes.clone(),
    });
    TableSpec {
        // Serial arithmetic (RFC 1982) wraps; so may the epoch.
        serial: revision.map_or(0, |id| id.epoch as u32),
        zones: services.zones.iter().map(|zone| zone_spec(zone, keys, retired)).collect(),
        regions: regions.collect(),
    }
}

/// One zone's specification.
pub(crate) fn zone_spec(zone: &DnsZone, keys: &Known, retired: &RetiredKeys) -> ZoneSpec {
    ZoneSpec {
        name: zone.name.clone(),
        nameservers: zone.nameservers.iter().map(|(label, glue)| (label.clone(), glue.clone())).collect(),
        contact: zone.contact.clone(),
        ttl: zone.ttl,
        steers: zone.steer.iter().map(|(label, steer)| steer_spec(label, steer)).collect(),
        records: zone.records.iter().map(record_spec).collect(),
        file: zone.file.clone(),
        signed: zone.dnssec.then(|| signing(&zone.name, keys, retired)),
    }
}

fn steer_spec(label: &str, steer: &Steer) -> SteerSpec {
    SteerSpec {
        label: label.to_owned(),
        service: steer.service.to_string(),
        policy: policy(&steer.policy),
        answers: steer.answers,
        shed: steer.shed,
    }
}

fn record_spec(record: &DnsRecord) -> RecordSpec {
    RecordSpec {
        name: record.name.clone(),
        kind: record.kind.clone(),
        value: record.value.clone(),
        ttl: record.ttl,
    }
}

fn policy(policy: &SteerPolicy) -> Policy {
    match policy {
        SteerPolicy::Nearest => Policy::Nearest,
        SteerPolicy::Latency => Policy::Latency,
        SteerPolicy::Weighted => Policy::Weighted,
        SteerPolicy::Failover(order) => Policy::Failover(order.iter().map(ToString::to_string).collect()),
    }
}

/// The state: which regions can serve which service, and which nodes users may be sent to.
pub(crate) fn state(snapshot: &Snapshot, view: &ClusterView, orders: &Orders, now: Instant) -> State {
    let mut state = State { own_region: snapshot.region.to_string(), ..State::default() };
    for member in view.members.values() {
        place(&mut state, orders, member);
    }
    for service in snapshot.services.services.values() {
        serve(&mut state, snapshot, service, now);
    }
    let uneasy = view.members.values().any(|member| member.state == MemberState::Suspect);
    if view.isolated_since.is_some() || uneasy {
        state.ttl_ceiling = Some(TTL_FLOOR);
    }
    state.rtt = rtt(view);
    state
}

fn place(state: &mut State, orders: &Orders, member: &Member) {
    if matches!(member.state, MemberState::Dead | MemberState::Left) || member.record.public.is_empty() {
        return;
    }
    let record = &member.record;
    let node = NodeState { name: record.name.to_string(), addresses: record.public.clone(), weight: 1 };
    let region = state.regions.entry(record.region.to_string()).or_default();
    let takes_users = member.is_alive() && !orders.drained_nodes.contains(&record.name);
    match takes_users {
        true => region.nodes.push(node),
        false => region.last_resort.push(node),
    }
}

fn serve(state: &mut State, snapshot: &Snapshot, service: &Service, now: Instant) {
    let mut uneasy = false;
    let mut loads: BTreeMap<&RegionName, Load> = BTreeMap::new();
    for (name, _) in &service.split {
        let Some(pool) = snapshot.pools.get(name) else { continue };
        let mut shares: BTreeMap<&RegionName, u32> = BTreeMap::new();
        for backend in &pool.backends {
            let share = shares.entry(&backend.config.region).or_default();
            if backend.takes_new() {
                *share = share.saturating_add(free(backend));
            }
            uneasy |= matches!(backend.state, BackendState::GoingDown | BackendState::GoingUp);
        }
        for (region, view) in &snapshot.regions {
            loads.entry(region).or_default().add(view.pools.get(name).copied().unwrap_or_default());
        }
        for (region, share) in shares {
            let told = snapshot.regions.get(region).and_then(|region| region.pools.get(name)).copied();
            let entry = state.regions.entry(region.to_string()).or_default();
            let full = is_full(told.unwrap_or_default(), pool.config.max_connections, entry.nodes.len());
            let entry = entry.services.entry(service.name.to_string()).or_default();
            entry.healthy |= share > 0;
            entry.free = entry.free.saturating_add(if full { 0 } else { share });
        }
    }
    for (region, load) in loads {
        let entry = state.regions.get_mut(region.as_str());
        if let Some(entry) = entry.and_then(|region| region.services.get_mut(service.name.as_str())) {
            entry.load_permille = load.permille();
        }
    }
    if uneasy {
        state.change_expected.insert(service.name.to_string(), now + TTL_FLOOR);
    }
}

/// What a region's pools have in use and could have.
#[derive(Debug, Default)]
struct Load {
    in_flight: u64,
    capacity: u64,
}

impl Load {
    fn add(&mut self, pool: PoolSummary) {
        self.in_flight += u64::from(pool.in_flight);
        self.capacity += u64::from(pool.capacity);
    }

    /// In thousandths of the capacity; without any, as much as can be said.
    fn permille(&self) -> u16 {
        let share = (self.in_flight * 1000).checked_div(self.capacity);
        share.map_or(u16::MAX, |share| u16::try_from(share).unwrap_or(u16::MAX))
    }
}

/// What a backend that takes new sessions has left of its weight; a weight is a share and no limit, so never nothing.
fn free(backend: &BackendView) -> u32 {
    let busy = backend.shared.in_flight().saturating_add(backend.shared.elsewhere());
    backend.weight.saturating_sub(busy).max(1)
}

/// Whether a region has no room in a pool: all of its nodes have as much in flight on all its healthy backends as the pool lets
/// them. A pool without that limit always has room.
fn is_full(told: PoolSummary, most: Option<u32>, nodes: usize) -> bool {
    let Some(most) = most else { return false };
    let room = u64::from(most) * u64::from(told.healthy) * nodes.max(1) as u64;
    told.healthy > 0 && u64::from(told.in_flight) >= room
}

/// Between all regions: the shortest round trip of any two of their nodes, as this node or one of them measures it.
fn rtt(view: &ClusterView) -> HashMap<(String, String), Duration> {
    let regions: BTreeSet<&RegionName> =
        view.members.values().filter(|member| member.counts()).map(|member| &member.record.region).collect();
    let pairs = regions.iter().flat_map(|from| regions.iter().map(move |to| (*from, *to)));
    let other = pairs.filter(|(from, to)| from != to);
    other
        .filter_map(|(from, to)| Some(((from.to_string(), to.to_string()), view.rtt_of_regions(from, to)?)))
        .collect()
}

/// Hands the responder what there is now, before its sockets are bound: whoever asks first is answered.
pub(crate) fn prime(
    responder: &Responder,
    present: &Snapshot,
    members: &ClusterView,
    ordered: &Orders,
    known: &Known,
    clock: &Clock,
) {
    lay(responder, present, known, &ordered.retired_keys);
    responder.set_state(Arc::new(state(present, members, ordered, clock.now())));
}

fn lay(responder: &Responder, present: &Snapshot, known: &Known, retired: &RetiredKeys) {
    match Table::build(&table_spec(&present.services, present.revision, known, retired)) {
        Ok(table) => responder.set_table(Arc::new(table)),
        // The validator asked the same crate; only a node of another version can come here.
        Err(errors) => {
            let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
            tracing::error!(errors = errors.join("; "), "the zones cannot be served; the old ones stay");
        }
    }
}

/// Hands tables and states to the responder whenever they change. A change of health swaps the state only.
pub(crate) async fn follow(
    responder: Arc<Responder>,
    mut snapshot: watch::Receiver<Arc<Snapshot>>,
    mut view: watch::Receiver<Arc<ClusterView>>,
    mut orders: watch::Receiver<Arc<Orders>>,
    mut keys: watch::Receiver<Arc<Known>>,
    clock: Clock,
) {
    let mut built: Option<(Arc<Services>, Arc<Known>, RetiredKeys)> = None;
    let mut look = tokio::time::interval(LOAD_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let present = snapshot.borrow_and_update().clone();
        let members = view.borrow_and_update().clone();
        let ordered = orders.borrow_and_update().clone();
        let known = keys.borrow_and_update().clone();
        let is_built = built.as_ref().is_some_and(|(services, keys, retired)| {
            Arc::ptr_eq(services, &present.services)
                && Arc::ptr_eq(keys, &known)
                && *retired == ordered.retired_keys
        });
        if !is_built {
            lay(&responder, &present, &known, &ordered.retired_keys);
            built = Some((present.services.clone(), known, ordered.retired_keys.clone()));
        }
        responder.set_state(Arc::new(state(&present, &members, &ordered, clock.now())));
        let looks = depends_on_load(&present.services);
        tokio::select! {
            // Load changes no snapshot.
            _ = look.tick(), if looks => {}
            changed = snapshot.changed() => if changed.is_err() { return },
            changed = view.changed() => if changed.is_err() { return },
            changed = orders.changed() => if changed.is_err() { return },
            changed = keys.changed() => if changed.is_err() { return },
        }
    }
}

/// Whether answers follow the load: a region passes users on by it, or may be full.
fn depends_on_load(services: &Services) -> bool {
    let limited = |service: &Service| {
        let pools = service.split.iter().filter_map(|(pool, _)| services.pools.get(pool));
        pools.into_iter().any(|pool| pool.max_connections.is_some())
    };
    let steers = services.zones.iter().flat_map(|zone| zone.steer.values());
    steers.into_iter().any(|steer| {
        steer.shed.is_some() || services.services.get(&steer.service).is_some_and(|of| limited(of))
    })
}

/// The name server's counters by name.
pub(crate) fn counters(responder: &Responder) -> BTreeMap<String, u64> {
    let counted = responder.counters().snapshot();
    let mut named = BTreeMap::from([
        ("queries_udp".to_owned(), counted.queries_udp),
        ("queries_tcp".to_owned(), counted.queries_tcp),
        ("queries_tls".to_owned(), counted.queries_tls),
        ("tls_failed".to_owned(), counted.tls_failed),
        ("dropped".to_owned(), counted.dropped),
        ("truncated".to_owned(), counted.truncated),
        ("fail_open".to_owned(), counted.fail_open),
        ("tcp_refused".to_owned(), counted.tcp_refused),
        ("tcp_evicted".to_owned(), counted.tcp_evicted),
        ("limited".to_owned(), counted.limited),
        ("transfers".to_owned(), counted.transfers),
        ("signed".to_owned(), counted.signed),
        ("unsigned".to_owned(), counted.unsigned),
        ("panics".to_owned(), counted.panics),
    ]);
    named.extend(counted.rcodes.iter().map(|(rcode, count)| (format!("rcode_{}", rcode.0), *count)));
    named
}

#[cfg(test)]
mod tests {
    use gossip::clock::Hlc;

    use super::*;
    use crate::backend::{PoolView, RegionView};
    use crate::config::services;
    use crate::registry::fixture;

    /// Two backends in eu and one in us, four places each a node; two nodes in eu, one in us.
    fn world() -> (Snapshot, ClusterView) {
        let text = "[dns.zone.\"example.com\"]\nnameserver.ns1 = [\"192.0.2.1\"]\nsteer.www = { service = \"web\" }\n\
            [listener.http]\nport = 80\nprotocol = \"http\"\n[service.web]\nsplit.p = 1\n[pool.p]\nmax_connections = 4\n\
            backend = [{ address = \"10.0.0.1:80\", region = \"eu\" }, { address = \"10.0.0.2:80\", region = \"eu\" },\n\
            { address = \"10.0.1.1:80\", region = \"us\" }]\n";
        let services = services::parse("services.toml", text).unwrap().services;
        let config = services.pools["p"].clone();
        let backends = config.backends.iter().map(|config| BackendView {
            config: config.clone(),
            shared: Arc::default(),
            state: BackendState::Up,
            up_since: Hlc::ZERO,
            joined: Hlc::ZERO,
            rack: Default::default(),
            weight: u32::from(config.weight),
            reason: String::new(),
        });
        let pool = PoolView { backends: backends.collect(), queue: Arc::default(), config };
        let mut snapshot = Snapshot::empty(fixture::region("eu"));
        snapshot.pools.insert("p".parse().unwrap(), Arc::new(pool));
        snapshot.services = Arc::new(services);
        let members = ["eu-1", "eu-2", "us-1"].map(|name| {
            let mut member = fixture::member(name, &name[..2]);
            member.record.public = vec!["198.51.100.1".parse().unwrap()];
            member
        });
        (snapshot, fixture::view("eu-1", members.into()))
    }

    /// What regions can do for web when eu tells this of its pool.
    fn offered(told: PoolSummary, most: Option<u32>) -> (dns::ServiceState, dns::ServiceState) {
        let (mut snapshot, view) = world();
        let mut pool = (*snapshot.pools["p"]).clone();
        let mut config = (*pool.config).clone();
        config.max_connections = most;
        pool.config = Arc::new(config);
        snapshot.pools.insert("p".parse().unwrap(), Arc::new(pool));
        let pools = BTreeMap::from([("p".parse().unwrap(), told)]);
        snapshot.regions.insert(fixture::region("eu"), RegionView { nodes: Vec::new(), pools });
        let now = Clock::simulated(gossip::clock::Wall(0)).now();
        let state = state(&snapshot, &view, &Orders::default(), now);
        (state.regions["eu"].services["web"], state.regions["us"].services["web"])
    }

    #[test]
    fn a_region_is_full_when_its_nodes_may_send_no_more() {
        let told = |healthy, in_flight| PoolSummary { healthy, total: 2, capacity: 200, in_flight };
        // Two nodes, two backends, four places each.
        for (told, most, free) in [
            (told(2, 0), Some(4), 200),
            (told(2, 15), Some(4), 200),
            (told(2, 16), Some(4), 0),
            (told(2, 400), Some(4), 0),
            (told(1, 8), Some(4), 0),
            (told(2, 4_000), None, 200),
            (told(0, 9), Some(4), 200),
        ] {
            let (eu, us) = offered(told, most);
            assert_eq!((eu.free, eu.healthy), (free, true), "{told:?}");
            assert_eq!((us.free, us.healthy), (100, true), "the other region has room");
        }
    }

    #[test]
    fn load_is_looked_at_where_it_matters() {
        let (snapshot, _) = world();
        assert!(depends_on_load(&snapshot.services));
        let mut unlimited = (*snapshot.services).clone();
        let mut pool = (*unlimited.pools["p"]).clone();
        pool.max_connections = None;
        unlimited.pools.insert("p".parse().unwrap(), Arc::new(pool));
        assert!(!depends_on_load(&unlimited));
    }

    #[test]
    fn load_is_what_is_in_use_of_all_pools() {
        let pool = |in_flight, capacity| PoolSummary { in_flight, capacity, ..PoolSummary::default() };
        let permille = |pools: &[PoolSummary]| {
            let mut load = Load::default();
            pools.iter().for_each(|pool| load.add(*pool));
            load.permille()
        };
        assert_eq!(permille(&[pool(0, 100)]), 0);
        assert_eq!(permille(&[pool(70, 100), pool(10, 300)]), 200);
        assert_eq!(permille(&[pool(500, 100)]), 5000);
        assert_eq!(permille(&[pool(u32::MAX, 1)]), u16::MAX);
        assert_eq!(permille(&[]), u16::MAX, "a region without capacity is not idle");
    }
}
