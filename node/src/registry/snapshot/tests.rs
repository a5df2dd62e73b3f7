use BackendState::{Down, Draining, Ejected, Maintenance, Unknown, Up};
use gossip::id::Tag;
use gossip::state::PoolSummary;
use proptest::prelude::*;
use std::time::Duration;

use super::*;
use crate::config::model::Backend;
use crate::registry::fixture::{member, node, pool, region, services, view};

const TWO: &[(&str, &str)] = &[("10.0.0.1:80", "eu"), ("10.0.1.1:80", "us")];

struct World {
    current: Current,
    view: ClusterView,
    health: HealthTable,
    orders: Orders,
    counters: Counters,
}

impl World {
    fn new(backends: &[(&str, &str)]) -> Self {
        let services = services(&["eu", "us", "ap"], vec![pool("web", backends)]);
        let mut counters = Counters::default();
        counters.follow(services.pools.iter());
        Self {
            current: Current { services: Arc::new(services), ..Current::default() },
            view: view("eu-1", vec![member("eu-1", "eu"), member("eu-2", "eu"), member("us-1", "us")]),
            health: HealthTable::new(),
            orders: Orders::default(),
            counters,
        }
    }

    fn id(&self, at: usize) -> BackendId {
        self.current.services.pools["web"].backends[at].id
    }

    fn set(&mut self, at: usize, state: BackendState, ejected: Option<Evidence>) {
        let health =
            BackendHealth { state, up_since: Hlc(7), down_since: Hlc::ZERO, ejected, reason: String::new() };
        self.health.insert(self.id(at), health);
    }

    fn snapshot(&self) -> Snapshot {
        self.rebuilt(&Snapshot::empty(region("eu")), Hlc(1))
    }

    fn rebuilt(&self, before: &Snapshot, now: Hlc) -> Snapshot {
        let (me, region) = (node("eu-1"), region("eu"));
        let inputs = Inputs {
            me: &me,
            region: &region,
            current: &self.current,
            view: &self.view,
            health: &self.health,
            orders: &self.orders,
        };
        build(inputs, &self.counters, before, now)
    }

    /// The state and the reason of each backend, in the order of the configuration.
    fn states(&self) -> Vec<(BackendState, String)> {
        let snapshot = self.snapshot();
        let of = |id| snapshot.pools["web"].backends.iter().find(move |view| view.config.id == id).unwrap();
        (0..self.current.services.pools["web"].backends.len())
            .map(|at| of(self.id(at)))
            .map(|view| (view.state, view.reason.clone()))
            .collect()
    }
}

#[test]
fn what_health_has_not_come_to_yet() {
    let mut world = World::new(TWO);
    assert_eq!(world.states()[0], (Unknown, "not yet probed".to_owned()));
    let mut unchecked = pool("web", TWO);
    unchecked.health = None;
    world.current.services = Arc::new(services(&["eu"], vec![unchecked]));
    assert_eq!(world.states()[0], (Up, String::new()));
}

#[test]
fn orders_lie_over_health() {
    for (ordered, health, ejected, expected, reason) in [
        ("drain", Up, None, Draining, "drain ordered"),
        ("drain", Unknown, None, Draining, "drain ordered"),
        ("drain", Down, None, Down, "drain ordered"),
        ("drain", Up, Some(Evidence::ConnectFailed), Ejected, "this node could not connect; drain ordered"),
        ("pool", Up, None, Draining, "drain ordered"),
        ("region", Up, None, Draining, "drain ordered"),
        ("maintenance", Up, Some(Evidence::ConnectFailed), Maintenance, "maintenance ordered"),
        ("maintenance", Down, None, Maintenance, "maintenance ordered"),
        ("nothing", Up, Some(Evidence::FailingRequests), Ejected, "requests of this node failed in a row"),
        ("nothing", Down, Some(Evidence::ConnectFailed), Down, ""),
    ] {
        let mut world = World::new(TWO);
        world.set(0, health, ejected);
        world.set(1, Up, None);
        let id = world.id(0);
        match ordered {
            "drain" => drop(world.orders.drained_backends.insert(id)),
            "maintenance" => drop(world.orders.maintenance_backends.insert(id)),
            "region" => drop(world.orders.drained_regions.insert(region("eu"))),
            // The other backend drains too, so nothing takes new sessions; that must not undo the drain.
            "pool" => drop(world.orders.drained_pools.insert(PoolName::new("web").unwrap())),
            _ => {}
        }
        assert_eq!(world.states()[0], (expected, reason.to_owned()), "{ordered} {health:?} {ejected:?}");
    }
}

#[test]
fn ejections_alone_never_close_a_pool() {
    let mut world = World::new(TWO);
    world.set(0, Up, Some(Evidence::ConnectFailed));
    world.set(1, Up, None);
    assert_eq!(world.states()[0].0, Ejected, "the other region can rescue");
    world.set(1, Up, Some(Evidence::ConnectFailed));
    assert_eq!(world.states()[0].0, Up);
    assert_eq!(world.states()[1].0, Up);
    assert!(world.states()[1].1.ends_with("used all the same, nothing else is left"));
    world.set(1, Down, None);
    assert_eq!((world.states()[0].0, world.states()[1].0), (Up, Down), "what the mesh says stays");
}

#[test]
fn weights_of_operators_go_before_the_file() {
    let mut world = World::new(TWO);
    world.orders.weights.insert(world.id(0), 0);
    let snapshot = world.snapshot();
    let view = snapshot.pools["web"].backends.iter().find(|view| view.config.id == world.id(0)).unwrap();
    assert_eq!((view.weight, view.takes_new(), view.serves()), (0, false, true));
}

/// RFC 2782: a client must attempt to contact the target host with the lowest-numbered priority it can reach.
#[test]
fn the_next_priority_stands_by_until_the_first_has_nobody_left() {
    let mut three = pool("web", &[("10.0.0.1:80", "eu"), ("10.0.0.2:80", "eu"), ("10.0.0.3:80", "us")]);
    for (at, priority) in [0, 0, 10].into_iter().enumerate() {
        three.backends[at] = Arc::new(Backend { priority, ..(*three.backends[at]).clone() });
    }
    let mut world = World::new(&[]);
    world.current.services = Arc::new(services(&["eu", "us"], vec![three]));
    world.counters.follow(world.current.services.pools.iter());
    let taking = |world: &World| {
        let snapshot = world.snapshot();
        let pool = &snapshot.pools["web"];
        let of = |id| pool.backends.iter().find(move |view| view.config.id == id).unwrap().takes_new();
        [0, 1, 2].map(|at| of(world.id(at)))
    };
    (0..3).for_each(|at| world.set(at, Up, None));
    assert_eq!(taking(&world), [true, true, false]);
    assert!(world.states()[2].1.contains("stands by, priority 10"), "{:?}", world.states()[2]);
    world.set(0, Down, None);
    assert_eq!(taking(&world), [false, true, false]);
    world.set(1, Down, None);
    assert_eq!(taking(&world), [false, false, true]);
    world.set(0, Up, None);
    assert_eq!(taking(&world), [true, false, false]);
}

#[test]
fn counters_outlive_revisions() {
    let mut world = World::new(TWO);
    let before = world.counters.get(world.id(0)).unwrap().clone();
    let _in_flight = before.enter();
    let fewer = services(&["eu"], vec![pool("web", &TWO[..1])]);
    world.counters.follow(fewer.pools.iter());
    assert!(Arc::ptr_eq(&before, world.counters.get(world.id(0)).unwrap()));
    assert!(world.counters.get(world.id(1)).is_none());
}

#[test]
fn an_unchanged_pool_is_shared_and_an_unchanged_snapshot_is_the_same() {
    let mut world = World::new(TWO);
    let first = world.snapshot();
    let second = world.rebuilt(&first, Hlc(2));
    assert!(same(&first, &second));
    assert!(Arc::ptr_eq(&first.pools["web"], &second.pools["web"]));
    world.set(0, Down, None);
    let third = world.rebuilt(&second, Hlc(3));
    assert!(!same(&second, &third));
}

#[test]
fn maintenance_is_a_break_and_a_drain_is_none() {
    let mut world = World::new(TWO);
    world.set(0, Up, None);
    let id = world.id(0);
    let up_since = |snapshot: &Snapshot| {
        snapshot.pools["web"].backends.iter().find(|view| view.config.id == id).unwrap().up_since
    };
    let mut snapshot = world.snapshot();
    world.orders.drained_backends.insert(id);
    snapshot = world.rebuilt(&snapshot, Hlc(100));
    world.orders = Orders::default();
    snapshot = world.rebuilt(&snapshot, Hlc(200));
    assert_eq!(up_since(&snapshot), Hlc(7), "nobody had to leave");
    world.orders.maintenance_backends.insert(id);
    snapshot = world.rebuilt(&snapshot, Hlc(300));
    world.orders = Orders::default();
    snapshot = world.rebuilt(&snapshot, Hlc(400));
    assert_eq!(up_since(&snapshot), Hlc(400));
    snapshot = world.rebuilt(&snapshot, Hlc(500));
    assert_eq!(up_since(&snapshot), Hlc(400), "it stays known");
}

#[test]
fn tunnels_go_to_nodes_that_live_and_stay() {
    use gossip::state::MemberState::{Alive, Dead, Suspect};
    let mut world = World::new(TWO);
    let set = |world: &mut World, name: &str, state| {
        let mut changed = member(name, "us");
        changed.state = state;
        world.view.members.insert(node(name), Arc::new(changed));
    };
    let tunnels = |world: &World| -> Vec<String> {
        let snapshot = world.snapshot();
        let nodes = snapshot.regions.get("us").map(|view| view.nodes.clone()).unwrap_or_default();
        nodes.iter().map(|node| format!("{}@{}", node.name, node.addr.port())).collect()
    };
    assert_eq!(tunnels(&world), ["us-1@7947"]);
    set(&mut world, "us-2", Alive);
    world.orders.drained_nodes.insert(node("us-1"));
    assert_eq!(tunnels(&world), ["us-2@7947"]);
    set(&mut world, "us-2", Suspect);
    assert_eq!(tunnels(&world), ["us-1@7947"], "a leaving node rather than none");
    set(&mut world, "us-1", Dead);
    assert_eq!(tunnels(&world), [""; 0]);
    assert!(world.snapshot().regions.contains_key("us"), "a suspect is known");
    set(&mut world, "us-2", Dead);
    assert!(!world.snapshot().regions.contains_key("us"));
    let own = world.snapshot();
    assert_eq!(own.regions["eu"].nodes.len(), 1, "this node needs no tunnel to itself");
}

#[test]
fn what_a_region_can_do_is_the_middle_of_what_its_nodes_say() {
    let mut world = World::new(TWO);
    let say = |world: &mut World, name: &str, healthy| {
        let mut speaker = member(name, "us");
        let summary = PoolSummary { healthy, total: 3, capacity: healthy * 100, in_flight: 0 };
        speaker.summaries = Arc::new([(PoolName::new("web").unwrap(), summary)].into());
        world.view.members.insert(node(name), Arc::new(speaker));
    };
    let healthy = |world: &World| world.snapshot().regions["us"].pools["web"].healthy;
    assert_eq!(healthy(&world), 1, "nobody said anything: by the states of its backends");
    say(&mut world, "us-1", 0);
    assert_eq!(healthy(&world), 0);
    say(&mut world, "us-2", 2);
    assert_eq!(healthy(&world), 2, "the better of two");
    say(&mut world, "us-3", 0);
    assert_eq!(healthy(&world), 0);
    assert_eq!(world.snapshot().regions["eu"].pools["web"].total, 1);
    say(&mut world, "us-1", 1);
    assert_eq!(healthy(&world), 1);
}

#[test]
fn rescue_tries_the_nearest_first() {
    let mut world = World::new(TWO);
    let order = |world: &World| -> Vec<String> {
        world.snapshot().rescue_order.iter().map(|region| region.to_string()).collect()
    };
    assert_eq!(order(&world), ["ap", "us"], "nothing is known: by name");

    let mut placed = (*world.current.services).clone();
    for (at, location) in [(50.1, 8.7), (38.9, -77.4), (1.3, 103.8)].into_iter().enumerate() {
        placed.regions[at].location = Some(location);
    }
    world.current.services = Arc::new(placed);
    assert_eq!(order(&world), ["us", "ap"], "by the map");

    let mut near = member("ap-1", "ap");
    near.rtt = Some(Duration::from_millis(40));
    world.view.members.insert(node("ap-1"), Arc::new(near.clone()));
    assert_eq!(order(&world), ["ap", "us"], "40 ms are less than 6,500 km let expect");

    let mut loopback = member("us-1", "us");
    loopback.rtt = Some(Duration::from_micros(300));
    near.rtt = Some(Duration::from_micros(100));
    world.view.members.insert(node("us-1"), Arc::new(loopback));
    world.view.members.insert(node("ap-1"), Arc::new(near));
    assert_eq!(order(&world), ["us", "ap"], "alike by time: by the map");
}

#[test]
fn rescue_follows_the_matrix_of_round_trips() {
    let mut world = World::new(TWO);
    let order = |world: &World| -> Vec<String> {
        world.snapshot().rescue_order.iter().map(|region| region.to_string()).collect()
    };
    let tell = |world: &mut World, by: (&str, &str), told: &[(&str, u64)], measured: Option<u64>| {
        let mut speaker = member(by.0, by.1);
        let rtts = told.iter().map(|(to, millis)| (Tag::of(to), Duration::from_millis(*millis)));
        speaker.rtts = Arc::new(rtts.collect());
        speaker.rtt = measured.map(Duration::from_millis);
        world.view.members.insert(node(by.0), Arc::new(speaker));
    };
    tell(&mut world, ("us-1", "us"), &[], Some(80));
    tell(&mut world, ("ap-1", "ap"), &[], Some(120));
    assert_eq!(order(&world), ["us", "ap"], "as measured here");
    tell(&mut world, ("us-1", "us"), &[], Some(160));
    assert_eq!(order(&world), ["ap", "us"], "the way to us has become longer");
    tell(&mut world, ("ap-1", "ap"), &[("eu-1", 200)], None);
    assert_eq!(order(&world), ["us", "ap"], "what the other end measures, while this node has no connection");
    tell(&mut world, ("ap-1", "ap"), &[], None);
    tell(&mut world, ("eu-2", "eu"), &[("ap-1", 50)], Some(1));
    assert_eq!(order(&world), ["ap", "us"], "what the neighbour measures, when neither end does");
    tell(&mut world, ("eu-2", "eu"), &[("ap-1", 300)], Some(1));
    assert_eq!(order(&world), ["us", "ap"], "and when that changes");
}

proptest! {
    /// Whatever health, ejections and orders say: a pool in which the mesh and the operators leave anything open takes
    /// new sessions.
    #[test]
    fn ejections_never_empty_a_pool(
        backends in prop::collection::vec((0usize..5, any::<bool>(), 0u8..6), 3),
    ) {
        let three = [("10.0.0.1:80", "eu"), ("10.0.0.2:80", "eu"), ("10.0.1.1:80", "us")];
        let mut world = World::new(&three);
        let mut open = false;
        for (at, (state, ejected, order)) in backends.into_iter().enumerate() {
            let state = [Unknown, Up, BackendState::GoingDown, Down, BackendState::GoingUp][state];
            world.set(at, state, ejected.then_some(Evidence::ConnectFailed));
            let id = world.id(at);
            match order {
                0 => drop(world.orders.drained_backends.insert(id)),
                1 => drop(world.orders.maintenance_backends.insert(id)),
                _ => open |= matches!(state, Unknown | Up | BackendState::GoingDown),
            }
        }
        let snapshot = world.snapshot();
        prop_assert_eq!(snapshot.pools["web"].backends.iter().any(BackendView::takes_new), open);
    }
}

#[test]
fn slow_start_counts_from_the_return_and_not_from_the_start() {
    let mut world = World::new(TWO);
    world.current.revision = Some(gossip::id::RevisionId { epoch: 1, hash: [0; 32] });
    let joined = |world: &World, snapshot: &Snapshot, at: usize| {
        let id = world.id(at);
        snapshot.pools["web"].backends.iter().find(|view| view.config.id == id).unwrap().joined
    };
    let first = world.snapshot();
    assert_eq!(joined(&world, &first, 0), Hlc::ZERO, "all begin together");
    world.set(0, Down, None);
    let down = world.rebuilt(&first, Hlc(50));
    world.set(0, Up, None);
    let back = world.rebuilt(&down, Hlc(60));
    assert_eq!((joined(&world, &back, 0), joined(&world, &back, 1)), (Hlc(60), Hlc::ZERO));
    assert_eq!(joined(&world, &world.rebuilt(&back, Hlc(70)), 0), Hlc(60));

    let three: Vec<_> = TWO.iter().copied().chain([("10.0.0.9:80", "eu")]).collect();
    world.current.services = Arc::new(services(&["eu"], vec![pool("web", &three)]));
    let grown = world.rebuilt(&back, Hlc(80));
    assert_eq!(joined(&world, &grown, 2), Hlc(80), "it comes later than the others");
    assert_eq!(grown.zone, None);
}

const FOUR: &[(&str, &str)] =
    &[("10.0.0.1:80", "eu"), ("10.0.0.2:80", "eu"), ("10.0.0.3:80", "eu"), ("10.0.0.4:80", "eu")];

fn ejected(world: &World) -> usize {
    world.states().iter().filter(|(state, _)| *state == Ejected).count()
}

#[test]
fn failing_requests_eject_at_most_their_share_where_nobody_else_can_take_over() {
    let mut world = World::new(FOUR);
    for at in 0..4 {
        world.set(at, Up, Some(Evidence::FailingRequests));
    }
    // Nobody is left, which is panic.
    assert_eq!(ejected(&world), 0);
    world.set(3, Up, None);
    world.set(2, Up, None);
    assert_eq!(ejected(&world), 2, "half of them");
    let mut strict = pool("web", FOUR);
    strict.ejection.max_share = 0.0;
    world.current.services = Arc::new(services(&["eu"], vec![strict]));
    assert_eq!(ejected(&world), 1, "one always");
    // A refused connection is certain, and not limited.
    for at in 0..3 {
        world.set(at, Up, Some(Evidence::ConnectFailed));
    }
    assert_eq!(ejected(&world), 3);
}

#[test]
fn below_the_panic_threshold_failing_requests_eject_nobody() {
    let mut world = World::new(FOUR);
    world.set(0, Down, None);
    world.set(1, Down, None);
    world.set(2, Up, Some(Evidence::FailingRequests));
    assert_eq!(ejected(&world), 0, "one of four would be left");
    assert!(world.states()[2].1.ends_with("used all the same, too few others are left"));
    world.set(1, Up, None);
    assert_eq!(ejected(&world), 1);
}

#[test]
fn another_region_that_can_take_over_lifts_the_limits() {
    let five: Vec<_> = FOUR.iter().copied().chain([("10.9.0.1:80", "us")]).collect();
    let mut world = World::new(&five);
    for at in 0..4 {
        world.set(at, Up, Some(Evidence::FailingRequests));
    }
    world.set(4, Up, None);
    assert_eq!(ejected(&world), 4);
}
