//! The state of the mesh in the API's words. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use gossip::clock::Wall;
use gossip::id::{BackendId, PoolName, RegionName, RevisionId};
use gossip::state::{BackendState, ClusterView, Member, MemberState};

use storage::revisions::Revisions;

use super::api::{
    BackendStatus, MemberStatus, PoolStatus, RegionPool, RegionStatus, RevisionStatus, RttMatrix,
};
use super::reports::Load;
use crate::backend::{BackendView, PoolView, Snapshot};
use crate::config::model::{OnDown, Service};

/// What a clock may be off without a word (the mesh goes by the median anyway).
const CLOCK_MAY_DIFFER: Duration = Duration::from_millis(500);

/// So long a new revision may be on its way to the other nodes without a word.
const ROLLS_OUT: Duration = Duration::from_secs(10);

/// For how long the loss of a revision is told.
const LOST_IS_NEWS: Duration = Duration::from_secs(3600);

/// All nodes, by name.
pub(super) fn members(view: &ClusterView, now: Instant) -> Vec<MemberStatus> {
    let told = |member: &Member| MemberStatus {
        stale_seconds: unheard(view, member, now).map(|age| age.as_secs()),
        ..self::member(member, now)
    };
    view.members.values().map(|member| told(member)).collect()
}

/// The round trips between all nodes that have not left. Who is not heard has a row and a column that say so: what was measured
/// last is not told, since it has no age.
pub(super) fn rtt(view: &ClusterView) -> RttMatrix {
    let present: Vec<&Member> = view
        .members
        .values()
        .map(|member| &**member)
        .filter(|member| member.state != MemberState::Left)
        .collect();
    let cell = |from: &Member, to: &Member| {
        let heard = view.isolated_since.is_none() && speaks(from) && speaks(to);
        view.rtt(&from.record.name, &to.record.name).filter(|_| heard).map(millis)
    };
    let row = |from: &Member| -> BTreeMap<String, Option<f64>> {
        let others = present.iter().filter(|to| to.record.name != from.record.name);
        others.map(|to| (to.record.name.to_string(), cell(from, to))).collect()
    };
    present.iter().map(|from| (from.record.name.to_string(), row(from))).collect()
}

fn millis(rtt: Duration) -> f64 {
    (rtt.as_secs_f64() * 1e6).round() / 1e3
}

fn speaks(member: &Member) -> bool {
    matches!(member.state, MemberState::Alive | MemberState::Draining)
}

/// For how long a node has not been heard; `None` while it is, as this node itself.
fn unheard(view: &ClusterView, member: &Member, now: Instant) -> Option<Duration> {
    let since = match view.isolated_since {
        _ if member.record.name == view.me => return None,
        _ if !speaks(member) => member.since,
        Some(since) => since,
        None => return None,
    };
    Some(now.saturating_duration_since(since))
}

/// For how long nobody of a region has spoken; `None` while somebody does, or where there are no nodes.
fn silence(view: &ClusterView, region: &RegionName, now: Instant) -> Option<Duration> {
    let of_region: Vec<_> = view.region(region).collect();
    let own = view.own().is_some_and(|own| own.record.region == *region);
    if own || of_region.is_empty() {
        return None;
    }
    match view.isolated_since {
        Some(since) => Some(now.saturating_duration_since(since)),
        None if of_region.iter().any(|member| speaks(member)) => None,
        None => of_region.iter().map(|member| now.saturating_duration_since(member.since)).min(),
    }
}

fn member(member: &Member, now: Instant) -> MemberStatus {
    let record = &member.record;
    MemberStatus {
        name: record.name.to_string(),
        region: record.region.to_string(),
        zone: record.zone.as_ref().map(ToString::to_string),
        state: spell_member(member.state).into(),
        version: record.version.clone(),
        state_seconds: now.saturating_duration_since(member.since).as_secs(),
        stale_seconds: None,
        rtt_ms: member.rtt.map(millis),
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
    mesh: &ClusterView,
    now: Instant,
    loads: &BTreeMap<BackendId, Load>,
    sessions: &BTreeMap<BackendId, u64>,
) -> Vec<PoolStatus> {
    let silence = |region: &RegionName| silence(mesh, region, now).map(|silence| silence.as_secs());
    let lends = |pool: &PoolView| lends(snapshot, &pool.config.name);
    let is_sticky = |pool: &PoolView| is_sticky(snapshot, &pool.config.name);
    let pools = snapshot.pools.values();
    pools.map(|view| pool(view, lends(view), is_sticky(view), &silence, loads, sessions)).collect()
}

/// Whether the sessions of a pool's backends that are gone are served by others until these are back. Records do not say
/// which service a session is of: where those of a pool differ in this, they are not counted as lent.
fn lends(snapshot: &Snapshot, pool: &PoolName) -> bool {
    let services = snapshot.services.services.values();
    let mut sticky = services
        .filter(|service| service.split.iter().any(|(name, _)| name == pool))
        .filter(|service| service.sticky_cookie.is_some() || service.sticky_source_ip.is_some())
        .peekable();
    let is_lent = |service: &Service| {
        service.sticky_cookie.as_ref().is_some_and(|sticky| sticky.on_down == OnDown::Temporary)
    };
    sticky.peek().is_some() && sticky.all(|service| is_lent(service))
}

/// Whether users of some service stay on this pool's backends.
fn is_sticky(snapshot: &Snapshot, pool: &PoolName) -> bool {
    let mut services = snapshot.services.services.values();
    services.any(|service| {
        let split = service.split.iter().map(|(name, _)| name);
        let mut pools = split.chain(service.force.iter().map(|rule| &rule.pool));
        (service.sticky_cookie.is_some() || service.sticky_source_ip.is_some())
            && pools.any(|name| name == pool)
    })
}

fn pool(
    view: &PoolView,
    lends: bool,
    sticky: bool,
    silence: &dyn Fn(&RegionName) -> Option<u64>,
    loads: &BTreeMap<BackendId, Load>,
    sessions: &BTreeMap<BackendId, u64>,
) -> PoolStatus {
    // The data plane keeps them by id; people look for them by place.
    let mut sorted: Vec<_> = view.backends.iter().collect();
    sorted.sort_by_key(|backend| (&backend.config.region, backend.config.address));
    let backends = sorted.into_iter().map(|backend| {
        let load = loads.get(&backend.config.id).copied().unwrap_or_default();
        // What a service that is sticky no more left behind can never come again, and lapses.
        let sessions = if sticky { sessions.get(&backend.config.id).copied().unwrap_or_default() } else { 0 };
        BackendStatus {
            address: backend.config.address.to_string(),
            region: backend.config.region.to_string(),
            zone: backend.config.zone.as_ref().map(ToString::to_string),
            rack: backend.config.rack.as_ref().map(ToString::to_string),
            state: backend.state.as_str().into(),
            source: backend.config.sources.to_string(),
            weight: backend.weight,
            in_flight: load.in_flight,
            requests: load.requests,
            sessions,
            sessions_lent: if lends && !backend.serves() { sessions } else { 0 },
            reason: aged(&backend.reason, silence(&backend.config.region)),
            stale_seconds: silence(&backend.config.region),
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
    now: Instant,
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
            stale_seconds: silence(view, name, now).map(|age| age.as_secs()),
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
    if let Some((id, again)) = revisions.distrusted() {
        let next =
            if again { "tries it once more in some minutes" } else { "does not try it again by itself" };
        problems.push(format!(
            "this node ended while it put revision {} ({}) in force: it runs the one before and {next}; apply another one to be \
             done with it, or the same text again to have it",
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

/// What an operator should know of this node's clock, which the mesh's is ahead of by so much, and of what it adds to it.
pub(crate) fn of_clock(ahead_millis: i64, correction_millis: i64) -> Option<String> {
    let off = Duration::from_millis(ahead_millis.unsigned_abs());
    let side = if ahead_millis > 0 { "behind" } else { "ahead of" };
    (off > CLOCK_MAY_DIFFER).then(|| {
        let off = humantime::format_duration(off);
        let goes_by = if correction_millis == 0 { "its own, since nobody can say which is wrong" } else { "the mesh's" };
        format!("this node's clock is {off} {side} the mesh's; it goes by {goes_by}; is the time synchronized (NTP)?")
    })
}

/// A reason, and how old it is where nobody speaks for the backend any more.
fn aged(reason: &str, silence: Option<u64>) -> String {
    match (reason, silence) {
        (_, None) => reason.to_owned(),
        ("", Some(seconds)) => format!("its region was last heard {seconds} s ago"),
        (_, Some(seconds)) => format!("{reason}; its region was last heard {seconds} s ago"),
    }
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

/// What needs attention, in words: first `told`, what the nodes say of themselves. `applied`: how long ago the revision in
/// force was.
pub(super) fn problems(
    view: &ClusterView,
    snapshot: &Snapshot,
    seeds: &[String],
    told: Vec<String>,
    applied: Option<Duration>,
    now: Instant,
) -> Vec<String> {
    let mut problems = told;
    if let Some(since) = view.isolated_since {
        let age = now.saturating_duration_since(since).as_secs();
        problems.push(format!("no peer is heard for {age} s; this node goes on with what it last knew"));
    } else if !seeds.is_empty() && view.members.len() < 2 {
        problems.push(format!("no seed answers yet ({}): this node is a mesh of its own", seeds.join(", ")));
    }
    for member in view.members.values() {
        if matches!(member.state, MemberState::Suspect | MemberState::Dead) {
            let age = now.saturating_duration_since(member.since).as_secs();
            let (name, state) = (&member.record.name, spell_member(member.state));
            let end = match member.state {
                MemberState::Dead => "; it is forgotten some 15 min after its last word",
                _ => "",
            };
            let age = if age == 0 { "less than 1".into() } else { age.to_string() };
            problems.push(format!("node {name} is {state} for {age} s{end}"));
        }
    }
    for pool in snapshot.pools.values() {
        of_pool(snapshot, pool, &mut problems);
    }
    let current = snapshot.revision;
    let behind = |m: &&std::sync::Arc<Member>| m.counts() && current.is_some() && m.record.revision < current;
    let behind: Vec<String> =
        view.members.values().filter(behind).map(|member| member.record.name.to_string()).collect();
    if !behind.is_empty() && applied.is_none_or(|applied| applied >= ROLLS_OUT) {
        problems.push(format!(
            "not yet on revision {}: {}",
            current.map_or(0, |id| id.epoch),
            behind.join(", ")
        ));
    }
    problems
}

/// What is wrong with a pool. What an operator ordered is none of it, as long as users have somewhere to go: the orders stand
/// in a list of their own.
fn of_pool(snapshot: &Snapshot, pool: &PoolView, problems: &mut Vec<String>) {
    let name = &pool.config.name;
    let is_ordered = |backend: &BackendView| {
        matches!(backend.state, BackendState::Draining | BackendState::Maintenance) || backend.weight == 0
    };
    let out: Vec<_> = pool.backends.iter().filter(|backend| !backend.serves()).collect();
    let planned = pool.backends.iter().filter(|backend| !backend.takes_new()).all(is_ordered);
    // A service that has somebody else for its new users does not miss this pool.
    let missed = || {
        let taking = |name: &PoolName| {
            let pool = snapshot.pools.get(name);
            pool.is_some_and(|pool| pool.backends.iter().any(BackendView::takes_new))
        };
        let mut services = snapshot.services.services.values();
        services.any(|service| {
            let mut shares = service.split.iter().filter(|(_, share)| *share > 0).map(|(name, _)| name);
            shares.clone().any(|of| of == name) && !shares.any(taking)
        })
    };
    match () {
        () if pool.backends.is_empty() => problems.push(format!("pool {name} has no backends")),
        () if pool.backends.iter().any(BackendView::takes_new) => {}
        () if planned && !missed() => {}
        () if out.len() == pool.backends.len() => {
            return problems.push(format!("pool {name} has no backend that serves"));
        }
        () => problems.push(format!("pool {name} has no backend that takes new sessions")),
    }
    problems.extend(out.iter().filter(|backend| !is_ordered(backend)).map(|backend| {
        format!("backend {} of pool {name} is {}", backend.config.address, backend.state.as_str())
    }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::fixture;
    use crate::registry::fixture::{member, node, region, view};

    #[test]
    fn a_clock_that_is_off_is_told_with_its_side() {
        assert_eq!(of_clock(500, 500), None);
        assert!(
            of_clock(60_000, 60_000)
                .is_some_and(|told| told.contains("1m behind") && told.contains("by the mesh's"))
        );
        assert!(
            of_clock(-501, 0)
                .is_some_and(|told| told.contains("501ms ahead of") && told.contains("by its own"))
        );
    }

    #[test]
    fn sessions_that_nobody_can_come_back_to_are_not_counted() {
        let address: std::net::SocketAddr = "10.0.0.1:80".parse().unwrap();
        let pools = ["v1", "v2", "v3"].map(|name| fixture::pool(name, &[(address, "eu")]));
        let web = fixture::service("web", &[("v1", 1)]);
        let mut shop = fixture::service("shop", &[("v2", 1)]);
        shop.sticky_cookie = Some(fixture::sticky());
        let snapshot = fixture::snapshot("eu", Vec::new(), vec![web, shop], pools.into());
        let ids = ["v1", "v2", "v3"].map(|name| BackendId::of(&fixture::pool_name(name), address));
        let sessions = ids.map(|id| (id, 17)).into();
        let mesh = view("eu-1", vec![member("eu-1", "eu")]);
        let now = gossip::clock::Clock::simulated(Wall(0)).now();
        let told = pools_of(&snapshot, &mesh, now, &sessions);
        assert_eq!(told, [("v1".into(), 0), ("v2".into(), 17), ("v3".into(), 0)]);
    }

    fn pools_of(
        snapshot: &Snapshot,
        mesh: &ClusterView,
        now: Instant,
        sessions: &BTreeMap<BackendId, u64>,
    ) -> Vec<(String, u64)> {
        let pools = pools(snapshot, mesh, now, &BTreeMap::new(), sessions);
        pools.into_iter().map(|pool| (pool.name, pool.backends[0].sessions)).collect()
    }

    #[test]
    fn what_was_ordered_is_no_problem_while_users_have_somewhere_to_go() {
        use BackendState::{Down, Draining, Maintenance, Up};
        let address = |port: u16| std::net::SocketAddr::from(([10, 0, 0, 1], port));
        let pools = ["v1", "v2"].map(|name| fixture::pool(name, &[(address(1), "eu"), (address(2), "eu")]));
        let service = fixture::service("web", &[("v1", 1), ("v2", 1)]);
        let mut snapshot = fixture::snapshot("eu", Vec::new(), vec![service], pools.into());
        let mesh = view("eu-1", vec![member("eu-1", "eu")]);
        let now = gossip::clock::Clock::simulated(Wall(0)).now();
        let mut told = |states: [[BackendState; 2]; 2]| {
            for (pool, states) in snapshot.pools.values_mut().zip(states) {
                let mut changed = PoolView::clone(pool);
                changed.backends.sort_by_key(|backend| backend.config.address);
                changed.backends.iter_mut().zip(states).for_each(|(backend, state)| backend.state = state);
                *pool = std::sync::Arc::new(changed);
            }
            problems(&mesh, &snapshot, &[], Vec::new(), None, now)
        };
        assert!(told([[Up, Up], [Up, Up]]).is_empty());
        assert!(told([[Maintenance, Up], [Draining, Up]]).is_empty());
        assert!(told([[Maintenance, Maintenance], [Up, Up]]).is_empty(), "v2 takes its users");
        assert_eq!(told([[Maintenance, Down], [Up, Up]]), ["pool v1 has no backend that serves"]);
        assert_eq!(told([[Up, Down], [Draining, Up]]), ["backend 10.0.0.1:2 of pool v1 is down"]);
        let nobody = told([[Maintenance, Maintenance], [Draining, Draining]]);
        assert_eq!(
            nobody,
            ["pool v1 has no backend that serves", "pool v2 has no backend that takes new sessions"]
        );
    }

    #[test]
    fn a_revision_may_take_a_moment_to_get_around() {
        let id = |epoch| RevisionId { epoch, hash: [0; 32] };
        let on = |name: &str, epoch| {
            let mut member = member(name, "eu");
            member.record.revision = Some(id(epoch));
            member
        };
        let mesh = view("eu-1", vec![on("eu-1", 4), on("eu-2", 3)]);
        let mut snapshot = Snapshot::empty(region("eu"));
        snapshot.revision = Some(id(4));
        let now = gossip::clock::Clock::simulated(Wall(0)).now();
        let told = |applied| problems(&mesh, &snapshot, &[], Vec::new(), applied, now);
        assert!(told(Some(Duration::from_secs(9))).is_empty());
        assert_eq!(told(Some(Duration::from_secs(10))), ["not yet on revision 4: eu-2"]);
        assert_eq!(told(None).len(), 1);
    }

    #[test]
    fn what_nobody_tells_is_shown_with_its_age() {
        let clock = gossip::clock::Clock::simulated(Wall(0));
        let at = |name: &str, of: &str, state| Member { state, since: clock.now(), ..member(name, of) };
        let (alive, dead) = (MemberState::Alive, MemberState::Dead);
        let mesh =
            view("eu-1", vec![at("eu-1", "eu", alive), at("us-1", "us", dead), at("us-2", "us", alive)]);
        clock.advance(Duration::from_secs(7));
        assert_eq!(silence(&mesh, &region("us"), clock.now()), None, "one of them speaks");
        let mesh = view("eu-1", vec![at("eu-1", "eu", alive), at("us-1", "us", dead)]);
        clock.advance(Duration::from_secs(7));
        assert_eq!(silence(&mesh, &region("us"), clock.now()), Some(Duration::from_secs(7)));
        assert_eq!(silence(&mesh, &region("eu"), clock.now()), None);
        assert_eq!(silence(&mesh, &region("ap"), clock.now()), None, "it never had a node");
        let ages = |mesh: &ClusterView| {
            members(mesh, clock.now()).into_iter().map(|member| member.stale_seconds).collect::<Vec<_>>()
        };
        assert_eq!(ages(&mesh), [None, Some(7)]);
        let mut alone = view("eu-1", vec![at("eu-1", "eu", alive), at("us-1", "us", alive)]);
        alone.isolated_since = Some(clock.now());
        clock.advance(Duration::from_secs(3));
        assert_eq!(ages(&alone), [None, Some(3)], "nobody is heard, whatever is believed of them");
        let cells = |mesh: &ClusterView| rtt(mesh).into_values().flatten().collect::<Vec<_>>();
        assert_eq!(cells(&alone), [("us-1".to_owned(), None), ("eu-1".to_owned(), None)]);
        assert_eq!(aged("", Some(7)), "its region was last heard 7 s ago");
        assert_eq!(aged("x", None), "x");
    }

    #[test]
    fn round_trips_are_shown_as_both_ends_know_them() {
        let mut us = member("us-1", "us");
        us.rtt = Some(Duration::from_micros(80_123));
        let mut ap = member("ap-1", "ap");
        ap.rtts = std::sync::Arc::new([(gossip::id::Tag::of("us-1"), Duration::from_millis(200))].into());
        let mesh = view("eu-1", vec![member("eu-1", "eu"), us, ap]);
        let matrix = rtt(&mesh);
        assert_eq!(matrix["eu-1"]["us-1"], Some(80.123));
        assert_eq!(matrix["us-1"]["eu-1"], Some(80.123));
        assert_eq!((matrix["us-1"]["ap-1"], matrix["ap-1"]["us-1"]), (Some(200.0), Some(200.0)));
        assert_eq!(matrix["eu-1"].get("ap-1"), Some(&None));
        assert_eq!(mesh.rtt(&node("eu-1"), &node("eu-1")), None);
        assert_eq!(mesh.rtt_of_regions(&region("us"), &region("ap")), Some(Duration::from_millis(200)));
        // Who is no longer heard is shown without what was measured last; who has left is not shown.
        for (state, rows) in [(MemberState::Suspect, 2), (MemberState::Dead, 2), (MemberState::Left, 1)] {
            let mut us = member("us-1", "us");
            (us.rtt, us.state) = (Some(Duration::from_micros(80_123)), state);
            let matrix = rtt(&view("eu-1", vec![member("eu-1", "eu"), us]));
            assert_eq!(matrix.len(), rows, "{state:?}");
            assert_eq!(matrix["eu-1"].get("us-1"), (rows > 1).then_some(&None), "{state:?}");
        }
    }
}
