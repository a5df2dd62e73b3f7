//! Which region, which nodes, how long: policies case by case, and the promises that hold for any mesh.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use ipnet::IpNet;

use super::oracle::{has_address, rule};
use super::*;
use crate::explain::Steering;
use crate::fixtures::{node, start, state, table_spec};
use crate::name::Folded;
use crate::spec::{Policy, RegionSpec, SteerSpec, TableSpec};
use crate::state::{NodeState, RegionState, ServiceState, State};
use crate::zone::{Found, Kind};

const EU: &str = "10.1.2.3/32";
const US: &str = "10.2.2.3/32";
const AP: &str = "10.3.2.3/32";

/// A scene whose one steered name has this policy.
fn scene(spec: &TableSpec, state: &State, policy: Policy, answers: usize) -> Scene {
    let mut spec = spec.clone();
    spec.zones[0].steers =
        vec![SteerSpec { label: "www".into(), service: "web".into(), policy, answers, shed: None }];
    let table = Arc::new(Table::build(&spec).unwrap());
    Scene {
        board: Board::new(&table, Arc::new(state.clone())),
        table,
        geo: None,
        terms: Arc::default(),
        limiter: None,
        signatures: None,
    }
}

/// What is decided there, with names.
fn told(scene: &Scene, family: Family, client: &str, rng: &mut SmallRng) -> Steering {
    let client: IpNet = client.parse().unwrap();
    let (mut decided, now) = (None, start().monotonic);
    Steering::of(scene, client, decide(&mut decided, scene, steer(scene), family, client.addr(), now, rng))
}

fn steer(scene: &Scene) -> &Steer {
    let name = Folded::new(b"\x03www\x02lb\x07example\x03com\x00");
    let zone = scene.table.zone_of(name.as_slice(), Kind::A).unwrap();
    let Found::Here(node) = zone.find(name.as_slice(), Kind::A) else { panic!("the name is there") };
    node.steer.as_ref().unwrap()
}

/// Region, step, order and nodes for a client.
fn decided(state: &State, policy: Policy, client: &str) -> (Option<String>, Step, Vec<String>, Vec<String>) {
    let scene = scene(&table_spec(), state, policy, 8);
    let told = told(&scene, Family::V4, client, &mut SmallRng::seed_from_u64(1));
    let mut nodes: Vec<String> = told.chosen.into_iter().map(|(node, _)| node).collect();
    nodes.sort();
    (told.region, told.step, told.order, nodes)
}

fn set_service(state: &mut State, region: &str, healthy: bool, free: u32) {
    let region = state.regions.get_mut(region).unwrap();
    region.services.insert("web".into(), ServiceState { healthy, free, load_permille: 0 });
}

fn region_of(state: &State, client: &str) -> Option<String> {
    decided(state, Policy::Nearest, client).0
}

#[test]
fn users_reach_their_region_and_the_next_one_when_it_fails() {
    let mut state = state();
    for (client, region) in [(EU, "eu"), (US, "us"), (AP, "ap")] {
        assert_eq!(region_of(&state, client).as_deref(), Some(region));
    }
    assert_eq!(decided(&state, Policy::Nearest, EU).2, ["eu", "us", "ap"]);
    assert_eq!(decided(&state, Policy::Nearest, AP).2, ["ap", "eu", "us"]);
    set_service(&mut state, "eu", false, 0);
    assert_eq!(region_of(&state, EU).as_deref(), Some("us"));
    set_service(&mut state, "us", false, 0);
    assert_eq!(region_of(&state, EU).as_deref(), Some("ap"));
    set_service(&mut state, "eu", true, 100);
    assert_eq!(region_of(&state, EU).as_deref(), Some("eu"));
}

#[test]
fn a_full_region_passes_users_on_until_all_are_full() {
    let mut state = state();
    set_service(&mut state, "eu", true, 0);
    assert_eq!(region_of(&state, EU).as_deref(), Some("us"));
    set_service(&mut state, "us", true, 0);
    set_service(&mut state, "ap", true, 0);
    let (region, step, ..) = decided(&state, Policy::Nearest, EU);
    assert_eq!((region.as_deref(), step), (Some("eu"), Step::NoRoom));
}

#[test]
fn a_region_without_nodes_is_passed_over() {
    let mut state = state();
    state.regions.get_mut("eu").unwrap().nodes.clear();
    assert_eq!(region_of(&state, EU).as_deref(), Some("us"));
    state.regions.get_mut("us").unwrap().nodes = vec![node("mute", &[])];
    assert_eq!(region_of(&state, EU).as_deref(), Some("ap"));
}

#[test]
fn all_down_is_answered_in_the_configured_order() {
    let mut state = state();
    for region in ["eu", "us", "ap"] {
        set_service(&mut state, region, false, 0);
    }
    let (region, step, _, nodes) = decided(&state, Policy::Nearest, AP);
    assert_eq!((region.as_deref(), step, nodes.len()), (Some("eu"), Step::FailOpen, 2));
    let failover = Policy::Failover(vec!["ap".into(), "us".into()]);
    assert_eq!(decided(&state, failover, EU).0.as_deref(), Some("ap"));
    // And when no node is to be used, with those that are known.
    for region in state.regions.values_mut() {
        region.last_resort = std::mem::take(&mut region.nodes);
    }
    let (region, step, _, nodes) = decided(&state, Policy::Nearest, AP);
    assert_eq!((region.as_deref(), step, nodes.len()), (Some("eu"), Step::LastResort, 2));
    state.regions.clear();
    assert_eq!(decided(&state, Policy::Nearest, AP).1, Step::Nobody);
}

#[test]
fn a_region_is_chosen_for_the_family_that_is_asked_for() {
    let mut state = state();
    let v6 = |state: &State, client: &str| {
        let scene = scene(&table_spec(), state, Policy::Nearest, 8);
        let told = told(&scene, Family::V6, client, &mut SmallRng::seed_from_u64(1));
        (told.region, told.step, told.chosen.len())
    };
    let at = |region: &str, step, count| (Some(region.to_owned()), step, count);
    assert_eq!(v6(&state, EU), at("eu", Step::Healthy, 2));
    assert_eq!(v6(&state, US), at("eu", Step::Healthy, 2), "the next one that has the family");
    // One of the two is suspect, then both.
    let eu = state.regions.get_mut("eu").unwrap();
    eu.last_resort.push(eu.nodes.remove(0));
    assert_eq!(v6(&state, EU), at("eu", Step::Healthy, 1));
    let eu = state.regions.get_mut("eu").unwrap();
    eu.last_resort.push(eu.nodes.remove(0));
    eu.nodes.push(node("1-3", &["127.1.0.3"]));
    assert_eq!(v6(&state, EU), at("eu", Step::LastResort, 2), "no other region has it");
    state.regions.get_mut("ap").unwrap().nodes.push(node("3-3", &["2001:db8:3::3"]));
    assert_eq!(v6(&state, EU), at("ap", Step::Healthy, 1));
    set_service(&mut state, "ap", false, 0);
    assert_eq!(v6(&state, EU), at("ap", Step::FailOpen, 1));
    assert_eq!(region_of(&state, EU).as_deref(), Some("eu"), "A is as it was");
    for region in state.regions.values_mut() {
        region
            .nodes
            .iter_mut()
            .chain(&mut region.last_resort)
            .for_each(|node| node.addresses.retain(IpAddr::is_ipv4));
    }
    assert_eq!(v6(&state, EU), (None, Step::NoFamily, 0));
}

#[test]
fn who_cannot_be_placed_is_here() {
    let mut state = state();
    assert_eq!(decided(&state, Policy::Nearest, "192.0.2.1/32").2, ["us", "eu", "ap"]);
    state.own_region = "ap".into();
    assert_eq!(decided(&state, Policy::Nearest, "192.0.2.1/32").2, ["ap", "eu", "us"]);
    state.own_region = "unheard-of".into();
    assert_eq!(decided(&state, Policy::Nearest, "192.0.2.1/32").2, ["eu", "us", "ap"]);
}

#[test]
fn regions_that_no_configuration_names_answer_too() {
    let mut state = state();
    let local = state.regions.remove("us").unwrap();
    state.regions = [("local".to_owned(), local)].into();
    state.own_region = "local".into();
    let (region, step, order, _) = decided(&state, Policy::Nearest, "192.0.2.1/32");
    assert_eq!((region.as_deref(), step), (Some("local"), Step::Healthy));
    assert_eq!(order, ["local", "eu", "us", "ap"]);
}

#[test]
fn failover_keeps_to_its_order() {
    let mut state = state();
    let order = || Policy::Failover(vec!["us".into(), "ap".into()]);
    assert_eq!(decided(&state, order(), EU).0.as_deref(), Some("us"));
    set_service(&mut state, "us", false, 0);
    assert_eq!(decided(&state, order(), EU).0.as_deref(), Some("ap"));
    // Regions it does not name have no part in it, unless those it names have no nodes at all.
    set_service(&mut state, "ap", false, 0);
    assert_eq!(decided(&state, order(), EU).0.as_deref(), Some("us"));
    state.regions.remove("us");
    state.regions.remove("ap");
    assert_eq!(decided(&state, order(), EU).0.as_deref(), Some("eu"));
}

#[test]
fn latency_follows_measurements_where_there_are_any() {
    let mut state = state();
    assert_eq!(decided(&state, Policy::Latency, EU).2, ["eu", "us", "ap"]);
    state.rtt.insert(("eu".into(), "ap".into()), Duration::from_millis(50));
    assert_eq!(decided(&state, Policy::Latency, EU).2, ["eu", "ap", "us"]);
    state.rtt.insert(("eu".into(), "us".into()), Duration::from_millis(40));
    assert_eq!(decided(&state, Policy::Latency, EU).2, ["eu", "us", "ap"]);
}

/// How often each key comes in many draws.
fn shares(
    state: &State,
    policy: Policy,
    answers: usize,
    key: impl Fn(&Steering) -> String,
) -> BTreeMap<String, f64> {
    const DRAWS: u32 = 4000;
    let scene = scene(&table_spec(), state, policy, answers);
    let mut rng = SmallRng::seed_from_u64(2);
    let mut counts = BTreeMap::new();
    for _ in 0..DRAWS {
        let told = told(&scene, Family::V4, EU, &mut rng);
        *counts.entry(key(&told)).or_insert(0.0) += 1.0 / f64::from(DRAWS);
    }
    counts
}

#[test]
fn weighted_regions_and_nodes_get_their_shares() {
    let mut state = state();
    set_service(&mut state, "eu", true, 300);
    set_service(&mut state, "us", true, 100);
    set_service(&mut state, "ap", true, 0);
    let regions = shares(&state, Policy::Weighted, 1, |told| told.region.clone().unwrap());
    assert!((regions["eu"] - 0.75).abs() < 0.03 && !regions.contains_key("ap"), "{regions:?}");

    let eu = state.regions.get_mut("eu").unwrap();
    eu.nodes = vec![node("a", &["127.0.0.1"]), node("b", &["127.0.0.2"]), node("c", &["127.0.0.3"])];
    eu.nodes[0].weight = 300;
    eu.nodes[2].weight = 0;
    let nodes = shares(&state, Policy::Nearest, 1, |told| told.chosen[0].0.clone());
    assert!((nodes["a"] - 0.75).abs() < 0.03 && !nodes.contains_key("c"), "{nodes:?}");
    // The second is drawn from what the first left: a comes first or second unless b and c do, which never happens.
    let pairs =
        shares(&state, Policy::Nearest, 2, |told| told.chosen.iter().map(|(node, _)| &**node).collect());
    assert!((pairs["ab"] - 0.75).abs() < 0.03 && (pairs["ba"] - 0.25).abs() < 0.03, "{pairs:?}");
    // One of weight zero fills an answer that the others cannot.
    let all = shares(&state, Policy::Nearest, 3, |told| told.chosen.len().to_string());
    assert_eq!(all.keys().collect::<Vec<_>>(), ["3"]);
}

#[test]
fn a_region_that_fills_up_passes_a_growing_share_on() {
    let shed = Some(Shed { low_permille: 700, high_permille: 900 });
    let share_of_eu = |loads: [u16; 3], policy: &Policy| {
        const DRAWS: u32 = 2000;
        let (mut spec, mut state) = (table_spec(), state());
        for (region, load_permille) in ["eu", "us", "ap"].into_iter().zip(loads) {
            let services = &mut state.regions.get_mut(region).unwrap().services;
            services.get_mut("web").unwrap().load_permille = load_permille;
        }
        spec.zones[0].steers = vec![SteerSpec {
            label: "www".into(),
            service: "web".into(),
            policy: policy.clone(),
            answers: 1,
            shed,
        }];
        let table = Arc::new(Table::build(&spec).unwrap());
        let board = Board::new(&table, Arc::new(state));
        let scene = Scene { board, table, geo: None, terms: Arc::default(), limiter: None, signatures: None };
        let mut rng = SmallRng::seed_from_u64(5);
        let told: Vec<Steering> = (0..DRAWS).map(|_| told(&scene, Family::V4, EU, &mut rng)).collect();
        for told in &told {
            let passed = told.skipped.iter().all(|(_, reason)| *reason == crate::explain::Skip::Shedding);
            assert!(passed && told.step == Step::Healthy, "{told:?}");
        }
        let share = |region: &str| {
            let count = told.iter().filter(|told| told.region.as_deref() == Some(region)).count();
            f64::from(count as u32) / f64::from(DRAWS)
        };
        [share("eu"), share("us"), share("ap")]
    };
    let near = |found: [f64; 3], expected: [f64; 3]| {
        assert!(
            found.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 0.04),
            "{found:?}"
        );
    };
    let order = ["eu", "us", "ap"].map(str::to_owned).to_vec();
    for policy in [Policy::Nearest, Policy::Latency, Policy::Failover(order)] {
        near(share_of_eu([0, 0, 0], &policy), [1.0, 0.0, 0.0]);
        near(share_of_eu([700, 0, 0], &policy), [1.0, 0.0, 0.0]);
        near(share_of_eu([750, 0, 0], &policy), [0.75, 0.25, 0.0]);
        near(share_of_eu([900, 0, 0], &policy), [0.0, 1.0, 0.0]);
        // The next one passes on too, and when all do there is no better one than the first.
        near(share_of_eu([900, 800, 0], &policy), [0.0, 0.5, 0.5]);
        near(share_of_eu([900, 2000, 900], &policy), [1.0, 0.0, 0.0]);
        near(share_of_eu([800, 900, 900], &policy), [1.0, 0.0, 0.0]);
    }
}

#[test]
fn the_ttl_shrinks_towards_a_change_but_not_to_nothing() {
    let now = start().monotonic;
    let mut state = state();
    let ttl = |state: &State, ttl| scene(&table_spec(), state, Policy::Nearest, 1).board.ttl(0, ttl, now);
    assert_eq!(ttl(&state, 30), 30);
    for (seconds, expected) in [(60, 30), (20, 20), (7, 7), (2, 5), (0, 5)] {
        state.change_expected.insert("web".into(), now + Duration::from_secs(seconds));
        assert_eq!(ttl(&state, 30), expected);
    }
    state.change_expected.clear();
    state.ttl_ceiling = Some(Duration::ZERO);
    assert_eq!(ttl(&state, 30), 5);
    assert_eq!(ttl(&state, 1), 1, "a TTL that was small already is kept");
}

#[derive(Debug, Clone)]
struct Mesh {
    state: State,
    regions: Vec<RegionSpec>,
}

/// Regions that are declared, placed, known or none of these; on a grid, so that distances are often equal.
fn any_mesh() -> impl Strategy<Value = Mesh> {
    let place = prop::option::weighted(0.8, (-8i8..=8, -17i8..=17));
    let region = (any::<bool>(), 0u32..3, 0usize..3, 0usize..2, any::<bool>(), any::<bool>(), 0u8..6, place);
    let rtt = prop::collection::btree_map((0usize..6, 0usize..6), 0u64..5, 0..12);
    (prop::collection::vec(region, 1..6), rtt, 0usize..7).prop_map(|(regions, rtt, own)| {
        let mut mesh =
            Mesh { state: State { own_region: format!("r{own}"), ..State::default() }, regions: Vec::new() };
        for (index, (healthy, free, nodes, idle, v6, served, known, place)) in regions.into_iter().enumerate()
        {
            let name = format!("r{index}");
            let make = |kind: u8, count: usize| -> Vec<NodeState> {
                (0..count)
                    .map(|number| {
                        let v4 = format!("127.{index}.{kind}.{number}");
                        let v6 = (v6 != (kind == 1)).then(|| format!("2001:db8:{index}:{kind}::{number}"));
                        let addresses = match &v6 {
                            Some(v6) if number % 2 == 1 => vec![v4.as_str(), v6],
                            Some(v6) => vec![v6.as_str()],
                            None => vec![v4.as_str()],
                        };
                        node(&format!("{name}-{kind}-{number}"), &addresses)
                    })
                    .collect()
            };
            let service =
                served.then(|| ("web".to_owned(), ServiceState { healthy, free, load_permille: 0 }));
            let state = RegionState {
                services: service.into_iter().collect(),
                nodes: make(0, nodes),
                last_resort: make(1, idle),
            };
            // One in six is declared only, one in six is known only.
            if known != 0 {
                mesh.state.regions.insert(name.clone(), state);
            }
            if known != 1 {
                let location = place.map(|(north, east)| (f64::from(north) * 10.0, f64::from(east) * 10.0));
                let prefixes = vec![format!("10.{index}.0.0/16").parse().unwrap()];
                mesh.regions.push(RegionSpec { name, location, prefixes });
            }
        }
        let pairs = rtt.into_iter();
        mesh.state.rtt = pairs
            .map(|((from, to), rtt)| ((format!("r{from}"), format!("r{to}")), Duration::from_millis(rtt)))
            .collect();
        mesh
    })
}

fn any_policy() -> impl Strategy<Value = Policy> {
    prop_oneof![
        Just(Policy::Nearest),
        Just(Policy::Latency),
        Just(Policy::Weighted),
        Just(Policy::Failover(vec!["r1".into(), "r0".into()])),
        Just(Policy::Failover(vec!["r9".into(), "r2".into()])),
    ]
}

/// Distances that should be equal differ in the last bits of one formula or the other.
fn equal_distances(spec: &TableSpec) -> bool {
    let places: Vec<Location> = spec
        .regions
        .iter()
        .filter_map(|region| Location::new(region.location?.0, region.location?.1))
        .collect();
    places.iter().any(|from| {
        let mut distances: Vec<f64> = places.iter().map(|to| from.distance_km(to)).collect();
        distances.sort_by(f64::total_cmp);
        distances.windows(2).any(|pair| pair[1] - pair[0] < 1e-3)
    })
}

#[test]
fn the_scope_tells_the_truth_about_a_geoip_file_too() {
    let Some(folder) = crate::fixtures::geoip_databases() else { return };
    let geo = Arc::new(GeoIp::load(&folder.join("GeoLite2-City-Test.mmdb"), &std::env::temp_dir()).unwrap());
    for policy in [Policy::Nearest, Policy::Latency] {
        let mut scene = scene(&table_spec(), &state(), policy.clone(), 1);
        scene.geo = Some(Arc::clone(&geo));
        let mut rng = SmallRng::seed_from_u64(4);
        let mut decide_for = |address: IpAddr| {
            let told = told(&scene, Family::V4, &IpNet::from(address).to_string(), &mut rng);
            let ruling = rule(&table_spec(), &state(), &policy, Family::V4, address, Some(&geo));
            assert_eq!((&told.order, &told.region), (&ruling.order, &ruling.region), "{address}");
            (told.source, told.scope, told.order.join(" "))
        };
        // London, a place in the United States, Japan, and nowhere.
        for (address, source, first) in [
            ("81.2.69.160", Source::GeoIp, "eu"),
            ("216.160.83.56", Source::GeoIp, "us"),
            ("2001:218::1", Source::GeoIp, "ap"),
            ("192.0.2.1", Source::OwnRegion, "us"),
            ("10.3.0.1", Source::Prefixes, "ap"),
        ] {
            let address: IpAddr = address.parse().unwrap();
            let told = decide_for(address);
            assert_eq!((told.0, &told.2[..2]), (source, first), "{address}");
            let block = IpNet::new(address, told.1).unwrap();
            for neighbour in [block.network(), block.broadcast()] {
                let next = decide_for(neighbour);
                assert_eq!((next.0, next.2), (told.0, told.2.clone()), "{address} {neighbour} /{}", told.1);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// The numbered rules are the rules.
    #[test]
    fn numbers_rule_as_names_do(mesh in any_mesh(), policy in any_policy(), octet in 0u8..8, v6 in any::<bool>(), seed in any::<u64>()) {
        let family = if v6 { Family::V6 } else { Family::V4 };
        let spec = TableSpec { regions: mesh.regions.clone(), ..table_spec() };
        prop_assume!(!equal_distances(&spec));
        let scene = scene(&spec, &mesh.state, policy.clone(), 2);
        let client: IpAddr = format!("10.{octet}.1.1").parse().unwrap();
        let told = told(&scene, family, &IpNet::from(client).to_string(), &mut SmallRng::seed_from_u64(seed));
        let ruling = rule(&spec, &mesh.state, &policy, family, client, None);
        prop_assert_eq!((told.source, told.step), (ruling.source, ruling.step));
        prop_assert_eq!(&told.order, &ruling.order);
        if policy == Policy::Weighted && told.step <= Step::NoRoom {
            let chosen = &mesh.state.regions[told.region.as_ref().unwrap()];
            prop_assert_eq!(chosen.services["web"].free > 0, told.step == Step::Healthy);
            prop_assert!(chosen.services["web"].healthy && has_address(&chosen.nodes, family));
        } else {
            prop_assert_eq!(&told.region, &ruling.region);
            prop_assert_eq!(&told.skipped, &ruling.skipped);
        }
    }

    /// I6: health never makes an answer empty, and nobody is sent to a sick region while a sound one can answer.
    #[test]
    fn health_never_empties_an_answer(mesh in any_mesh(), policy in any_policy(), octet in 0u8..8, seed in any::<u64>()) {
        let spec = TableSpec { regions: mesh.regions.clone(), ..table_spec() };
        let scene = scene(&spec, &mesh.state, policy.clone(), 2);
        let client = format!("10.{octet}.1.1/32");
        let mut rng = SmallRng::seed_from_u64(seed);
        for family in [Family::V4, Family::V6] {
            let told = told(&scene, family, &client, &mut rng);
            let known = |family| {
                mesh.state.regions.values().any(|region| {
                    has_address(&region.nodes, family) || has_address(&region.last_resort, family)
                })
            };
            prop_assert_eq!(told.region.is_some(), known(family));
            prop_assert_eq!(told.chosen.is_empty(), told.region.is_none());
            let Some(region) = &told.region else {
                let other = known(Family::V4) || known(Family::V6);
                prop_assert_eq!(told.step, if other { Step::NoFamily } else { Step::Nobody });
                continue;
            };
            let chosen = &mesh.state.regions[region];
            prop_assert!(told.chosen.len() <= 2);
            prop_assert!(told.chosen.iter().all(|(_, address)| family.holds(*address)));
            let distinct: BTreeSet<_> = told.chosen.iter().map(|(node, _)| node).collect();
            prop_assert_eq!(distinct.len(), told.chosen.len());
            let sound = |name: &String| {
                mesh.state.regions.get(name).is_some_and(|region| {
                    region.services.get("web").is_some_and(|web| web.healthy) && has_address(&region.nodes, family)
                })
            };
            let roomy = |name: &&String| sound(name) && mesh.state.regions[*name].services["web"].free > 0;
            if let Some(first) = told.order.iter().find(roomy) {
                prop_assert_eq!(told.step, Step::Healthy);
                prop_assert!(policy == Policy::Weighted || region == first);
            } else if told.order.iter().any(&sound) {
                prop_assert_eq!(told.step, Step::NoRoom);
                prop_assert!(sound(region));
            } else {
                prop_assert!(matches!(told.step, Step::FailOpen | Step::LastResort));
                prop_assert_eq!(told.step == Step::LastResort, !has_address(&chosen.nodes, family));
            }
        }
    }

    /// Every address in the scope that is told to a resolver's cache gets the same order.
    #[test]
    fn the_scope_tells_the_truth(
        prefixes in prop::collection::btree_map((any::<u8>(), any::<u8>(), 4u8..=24), 0usize..3, 0..100),
        client in any::<[u8; 4]>(), others in prop::collection::vec(any::<u32>(), 16),
    ) {
        let mut spec = table_spec();
        let mut seen = BTreeSet::new();
        for ((high, low, length), region) in prefixes {
            let net = IpNet::new([10, high, low, 0].into(), length).unwrap().trunc();
            if seen.insert(net) && !spec.regions.iter().any(|region| region.prefixes.contains(&net)) {
                spec.regions[region].prefixes.push(net);
            }
        }
        let scene = scene(&spec, &state(), Policy::Nearest, 1);
        let decide_for = |address: IpAddr| {
            told(&scene, Family::V4, &IpNet::from(address).to_string(), &mut SmallRng::seed_from_u64(3))
        };
        // Half of the clients where the prefixes are.
        let client = if client[0] % 2 == 0 { [10, client[1], client[2], client[3]] } else { client };
        let told = decide_for(client.into());
        prop_assert_eq!(&told.order, &rule(&spec, &state(), &Policy::Nearest, Family::V4, client.into(), None).order);
        prop_assert!((1..=32).contains(&told.scope));
        let bits = u32::from_be_bytes(client);
        for other in others {
            let kept = u32::MAX << (32 - u32::from(told.scope));
            let neighbour = (bits & kept | other & !kept).to_be_bytes();
            prop_assert_eq!(&decide_for(neighbour.into()).order, &told.order);
        }
    }
}
