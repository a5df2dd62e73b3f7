use std::net::SocketAddr;

use gossip::clock::{Clock, Wall};
use gossip::id::NodeName;
use gossip::state::{BackendState, PoolSummary};
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::*;
use crate::backend::{RegionView, Snapshot, TunnelNode};
use crate::proxy::fixture;
use crate::proxy::pick::Turns;
use crate::proxy::plan::RouteCache;

fn addr(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Two backends in eu (this region), one in us (with a node), one in ap (without nodes).
fn snapshot() -> Snapshot {
    let pool = fixture::pool("web", &[(addr(1), "eu"), (addr(2), "eu"), (addr(3), "us"), (addr(4), "ap")]);
    let mut snapshot =
        fixture::snapshot("eu", vec![], vec![fixture::service("web", &[("web", 1)])], vec![pool]);
    let node = TunnelNode { name: NodeName::new("us-1").unwrap(), addr: addr(9), rtt: None };
    let healthy = PoolSummary { healthy: 1, total: 1, capacity: 100, in_flight: 0 };
    snapshot.regions.insert(
        fixture::region("us"),
        RegionView { nodes: vec![node], pools: [(fixture::pool_name("web"), healthy)].into() },
    );
    snapshot.rescue_order = vec![fixture::region("us"), fixture::region("ap")];
    snapshot
}

fn set_state(snapshot: &mut Snapshot, at: usize, state: BackendState) {
    let pool = snapshot.pools.get_mut(&fixture::pool_name("web")).unwrap();
    Arc::make_mut(pool).backends[at].state = state;
}

fn choose(snapshot: &Snapshot, tried: &Tried, hops: Hops) -> Option<Place> {
    let plan = Plan::new(Arc::new(snapshot.clone()), &RouteCache::default(), Default::default());
    let pool = plan.pool(&fixture::pool_name("web")).unwrap();
    let (mut turns, mut rng) = (Turns::default(), SmallRng::seed_from_u64(1));
    let clock = Clock::simulated(Wall(0));
    let mut dice = Dice { turns: &mut turns, rng: &mut rng, clock: &clock, origin: clock.now() };
    place(&plan, pool, tried, hops, &Keys::default(), &mut dice)
}

#[test]
fn this_region_goes_first() {
    let snapshot = snapshot();
    assert!(matches!(choose(&snapshot, &Tried::default(), Hops::One), Some(Place::Direct(0 | 1))));
}

#[test]
fn what_was_tried_is_not_tried_again() {
    let snapshot = snapshot();
    let ids: Vec<_> =
        snapshot.pools[&fixture::pool_name("web")].backends.iter().map(|b| b.config.id).collect();
    let one = Tried { backends: vec![ids[0]], ..Tried::default() };
    assert_eq!(choose(&snapshot, &one, Hops::One), Some(Place::Direct(1)));
    let both = Tried { backends: vec![ids[0], ids[1]], ..Tried::default() };
    assert_eq!(choose(&snapshot, &both, Hops::One), Some(Place::Tunnel(fixture::region("us"), None)));
    let us_too =
        Tried { backends: vec![ids[0], ids[1]], regions: vec![fixture::region("us")], ..Tried::default() };
    assert_eq!(choose(&snapshot, &us_too, Hops::One), Some(Place::Direct(3)));
}

#[test]
fn a_region_that_says_it_has_nothing_is_passed_over() {
    let mut snapshot = snapshot();
    set_state(&mut snapshot, 0, BackendState::Down);
    set_state(&mut snapshot, 1, BackendState::Draining);
    let us = Place::Tunnel(fixture::region("us"), None);
    assert_eq!(choose(&snapshot, &Tried::default(), Hops::One), Some(us.clone()));
    let view = snapshot.regions.get_mut(&fixture::region("us")).unwrap();
    view.pools.get_mut(&fixture::pool_name("web")).unwrap().healthy = 0;
    assert_eq!(choose(&snapshot, &Tried::default(), Hops::One), Some(Place::Direct(3)));
    // Unknown is tried, but last.
    snapshot.regions.get_mut(&fixture::region("us")).unwrap().pools.clear();
    assert_eq!(choose(&snapshot, &Tried::default(), Hops::One), Some(Place::Direct(3)));
    set_state(&mut snapshot, 3, BackendState::Down);
    assert_eq!(choose(&snapshot, &Tried::default(), Hops::One), Some(us));
    set_state(&mut snapshot, 2, BackendState::Down);
    assert_eq!(choose(&snapshot, &Tried::default(), Hops::One), None);
}

#[test]
fn the_far_end_never_crosses_again() {
    let mut snapshot = snapshot();
    set_state(&mut snapshot, 0, BackendState::Down);
    set_state(&mut snapshot, 1, BackendState::Down);
    assert_eq!(choose(&snapshot, &Tried::default(), Hops::None), Some(Place::Direct(3)));
    set_state(&mut snapshot, 3, BackendState::Down);
    assert_eq!(choose(&snapshot, &Tried::default(), Hops::None), None);
}

#[test]
fn two_nodes_in_two_regions_propose_the_same_successor() {
    let seen_from_eu = snapshot();
    let mut seen_from_us = seen_from_eu.clone();
    seen_from_us.region = fixture::region("us");
    seen_from_us.rescue_order = vec![fixture::region("ap"), fixture::region("eu")];
    let pool = fixture::pool_name("web");
    let gone = seen_from_eu.pools[&pool].backends[0].config.id;
    let tried = Tried { backends: vec![gone], ..Tried::default() };
    for n in 0..50u8 {
        let session = SessionId([n; 16]);
        let propose =
            |s: &Snapshot| successor(&s.pools[&pool], &session, &fixture::region("ap"), Some(gone), &tried);
        // The other backend of the region it was in.
        assert_eq!(propose(&seen_from_eu), Some(1));
        assert_eq!(propose(&seen_from_us), Some(1));
    }
}

#[test]
fn a_rule_forces_the_pool() {
    let mut service = fixture::service("web", &[("v1", 1)]);
    service.force.push(crate::config::model::ForceRule {
        header: http::HeaderName::from_static("x-version"),
        value: http::HeaderValue::from_static("v2"),
        pool: fixture::pool_name("v2"),
    });
    let mut headers = HeaderMap::new();
    assert_eq!(forced(&service, &headers), None);
    headers.insert("x-version", http::HeaderValue::from_static("v2"));
    assert_eq!(forced(&service, &headers), Some(&fixture::pool_name("v2")));
}
