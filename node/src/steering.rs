//! What the name server is told: the table from the configuration, the state from the snapshot and the view. Pure but
//! for [`follow`], which hands both on when they change.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dns::{NodeState, Policy, RecordSpec, RegionSpec, Responder, ServiceState, State, SteerSpec};
use dns::{Table, TableSpec, ZoneSpec};
use gossip::clock::Clock;
use gossip::id::{RegionName, RevisionId};
use gossip::state::{BackendState, ClusterView, Member, MemberState, PoolSummary};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::backend::{BackendView, Snapshot};
use crate::config::model::{DnsRecord, DnsZone, Service, Services, Steer, SteerPolicy};
use crate::registry::Orders;

/// The floor of shrinking TTLs, and the TTL of a node that hears no peers (DESIGN §8).
const TTL_FLOOR: Duration = Duration::from_secs(5);

/// How often the load of regions is told anew, where users are passed on by it.
const LOAD_EVERY: Duration = Duration::from_secs(1);

/// The table's specification.
pub(crate) fn table_spec(services: &Services, revision: Option<RevisionId>) -> TableSpec {
    let regions = services.regions.iter().map(|region| RegionSpec {
        name: region.name.to_string(),
        location: region.location,
        prefixes: region.prefixes.clone(),
    });
    TableSpec {
        // Serial arithmetic (RFC 1982) wraps; so may the epoch.
        serial: revision.map_or(0, |id| id.epoch as u32),
        zones: services.zones.iter().map(zone_spec).collect(),
        regions: regions.collect(),
    }
}

/// One zone's specification.
pub(crate) fn zone_spec(zone: &DnsZone) -> ZoneSpec {
    ZoneSpec {
        name: zone.name.clone(),
        nameservers: zone.nameservers.iter().map(|(label, glue)| (label.clone(), glue.clone())).collect(),
        contact: zone.contact.clone(),
        ttl: zone.ttl,
        steers: zone.steer.iter().map(|(label, steer)| steer_spec(label, steer)).collect(),
        records: zone.records.iter().map(record_spec).collect(),
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
    state.rtt = rtt(snapshot, view);
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
        for backend in &pool.backends {
            let region = state.regions.entry(backend.config.region.to_string()).or_default();
            let entry = region.services.entry(service.name.to_string()).or_default();
            count(entry, backend);
            uneasy |= matches!(backend.state, BackendState::GoingDown | BackendState::GoingUp);
        }
        for (region, view) in &snapshot.regions {
            loads.entry(region).or_default().add(view.pools.get(name).copied().unwrap_or_default());
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

fn count(entry: &mut ServiceState, backend: &BackendView) {
    if backend.takes_new() {
        entry.healthy = true;
        let busy = backend.shared.in_flight() + backend.shared.elsewhere();
        entry.free = entry.free.saturating_add(backend.weight.saturating_sub(busy).max(1));
    }
}

/// From this region to the others: the shortest round trip to any of their nodes.
fn rtt(snapshot: &Snapshot, view: &ClusterView) -> HashMap<(String, String), Duration> {
    let mut shortest: HashMap<(String, String), Duration> = HashMap::new();
    for member in view.members.values() {
        if let Some(rtt) = member.rtt.filter(|_| member.record.region != snapshot.region) {
            let (here, there) = (snapshot.region.to_string(), member.record.region.to_string());
            for pair in [(here.clone(), there.clone()), (there, here)] {
                let entry = shortest.entry(pair).or_insert(rtt);
                *entry = rtt.min(*entry);
            }
        }
    }
    shortest
}

/// Hands tables and states to the responder whenever they change. A change of health swaps the state only.
pub(crate) async fn follow(
    responder: Arc<Responder>,
    mut snapshot: watch::Receiver<Arc<Snapshot>>,
    mut view: watch::Receiver<Arc<ClusterView>>,
    mut orders: watch::Receiver<Arc<Orders>>,
    clock: Clock,
) {
    let mut built: Option<Arc<Services>> = None;
    let mut look = tokio::time::interval(LOAD_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let present = snapshot.borrow_and_update().clone();
        let members = view.borrow_and_update().clone();
        let ordered = orders.borrow_and_update().clone();
        if built.as_ref().is_none_or(|services| !Arc::ptr_eq(services, &present.services)) {
            match Table::build(&table_spec(&present.services, present.revision)) {
                Ok(table) => responder.set_table(Arc::new(table)),
                // The validator asked the same crate; only a node of another version can come here.
                Err(errors) => {
                    let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
                    tracing::error!(
                        errors = errors.join("; "),
                        "the zones cannot be served; the old ones stay"
                    );
                }
            }
            built = Some(present.services.clone());
        }
        responder.set_state(Arc::new(state(&present, &members, &ordered, clock.now())));
        let sheds =
            present.services.zones.iter().flat_map(|zone| &zone.steer).any(|(_, steer)| steer.shed.is_some());
        tokio::select! {
            // Load changes no snapshot; it matters where a region passes users on by it.
            _ = look.tick(), if sheds => {}
            changed = snapshot.changed() => if changed.is_err() { return },
            changed = view.changed() => if changed.is_err() { return },
            changed = orders.changed() => if changed.is_err() { return },
        }
    }
}

/// The name server's counters by name.
pub(crate) fn counters(responder: &Responder) -> BTreeMap<String, u64> {
    let counted = responder.counters().snapshot();
    let mut named = BTreeMap::from([
        ("queries_udp".to_owned(), counted.queries_udp),
        ("queries_tcp".to_owned(), counted.queries_tcp),
        ("dropped".to_owned(), counted.dropped),
        ("truncated".to_owned(), counted.truncated),
        ("fail_open".to_owned(), counted.fail_open),
        ("tcp_refused".to_owned(), counted.tcp_refused),
        ("limited".to_owned(), counted.limited),
        ("transfers".to_owned(), counted.transfers),
        ("panics".to_owned(), counted.panics),
    ]);
    named.extend(counted.rcodes.iter().map(|(rcode, count)| (format!("rcode_{}", rcode.0), *count)));
    named
}

#[cfg(test)]
mod tests {
    use super::*;

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
