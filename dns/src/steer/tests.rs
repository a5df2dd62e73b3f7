//! Which region, which nodes, how long: policies case by case, and the promises that hold for any mesh.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::*;
use crate::fixtures::{node, start, state, table, table_spec};
use crate::spec::RegionSpec;
use crate::state::ServiceState;

const EU: &str = "10.1.2.3/32";
const US: &str = "10.2.2.3/32";
const AP: &str = "10.3.2.3/32";

fn steer(policy: Policy, answers: usize) -> Steer {
    Steer { service: "web".into(), policy, answers, ttl: 30 }
}

/// Region, step, order and nodes for a client.
fn decided(state: &State, policy: Policy, client: &str) -> (Option<String>, Step, Vec<String>, Vec<String>) {
    let table = table();
    let surroundings = Surroundings { table: &table, state, geo: None };
    let mut rng = SmallRng::seed_from_u64(1);
    let client = client.parse().unwrap();
    let decision = decide(surroundings, &steer(policy, 8), Family::V4, client, start(), &mut rng);
    let mut nodes: Vec<String> = decision.chosen.iter().map(|(node, _)| node.to_string()).collect();
    nodes.sort();
    let order = decision.order.iter().map(ToString::to_string).collect();
    (decision.region.map(str::to_owned), decision.step, order, nodes)
}

fn set_service(state: &mut State, region: &str, healthy: bool, free: u32) {
    let region = state.regions.get_mut(region).unwrap();
    region.services.insert("web".into(), ServiceState { healthy, free });
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
fn shares(state: &State, steer: &Steer, key: impl Fn(&Decision<'_>) -> String) -> BTreeMap<String, f64> {
    const DRAWS: u32 = 4000;
    let table = table();
    let surroundings = Surroundings { table: &table, state, geo: None };
    let mut rng = SmallRng::seed_from_u64(2);
    let mut counts = BTreeMap::new();
    for _ in 0..DRAWS {
        let decision = decide(surroundings, steer, Family::V4, EU.parse().unwrap(), start(), &mut rng);
        *counts.entry(key(&decision)).or_insert(0.0) += 1.0 / f64::from(DRAWS);
    }
    counts
}

#[test]
fn weighted_regions_and_nodes_get_their_shares() {
    let mut state = state();
    set_service(&mut state, "eu", true, 300);
    set_service(&mut state, "us", true, 100);
    set_service(&mut state, "ap", true, 0);
    let regions = shares(&state, &steer(Policy::Weighted, 1), |decision| decision.region.unwrap().to_owned());
    assert!((regions["eu"] - 0.75).abs() < 0.03 && !regions.contains_key("ap"), "{regions:?}");

    let eu = state.regions.get_mut("eu").unwrap();
    eu.nodes = vec![node("a", &["127.0.0.1"]), node("b", &["127.0.0.2"]), node("c", &["127.0.0.3"])];
    eu.nodes[0].weight = 300;
    eu.nodes[2].weight = 0;
    let nodes = shares(&state, &steer(Policy::Nearest, 1), |decision| decision.chosen[0].0.to_owned());
    assert!((nodes["a"] - 0.75).abs() < 0.03 && !nodes.contains_key("c"), "{nodes:?}");
    // One of weight zero fills an answer that the others cannot.
    let all = shares(&state, &steer(Policy::Nearest, 3), |decision| decision.chosen.len().to_string());
    assert_eq!(all.keys().collect::<Vec<_>>(), ["3"]);
}

#[test]
fn the_ttl_shrinks_towards_a_change_but_not_to_nothing() {
    let now = start();
    let mut state = state();
    let steer = steer(Policy::Nearest, 1);
    assert_eq!(ttl(&state, &steer, now), 30);
    for (seconds, expected) in [(60, 30), (20, 20), (7, 7), (2, 5), (0, 5)] {
        state.change_expected.insert("web".into(), now + Duration::from_secs(seconds));
        assert_eq!(ttl(&state, &steer, now), expected);
    }
    state.change_expected.clear();
    state.ttl_ceiling = Some(Duration::ZERO);
    assert_eq!(ttl(&state, &steer, now), 5);
    assert_eq!(ttl(&state, &Steer { ttl: 1, ..steer }, now), 1, "a TTL that was small already is kept");
}

#[derive(Debug, Clone)]
struct Mesh {
    state: State,
    regions: Vec<RegionSpec>,
}

fn any_mesh() -> impl Strategy<Value = Mesh> {
    let region =
        (any::<bool>(), 0u32..3, 0usize..3, 0usize..2, any::<bool>(), -80.0f64..80.0, -170.0f64..170.0);
    prop::collection::vec(region, 1..6).prop_map(|regions| {
        let mut mesh =
            Mesh { state: State { own_region: "r0".into(), ..State::default() }, regions: Vec::new() };
        for (index, (healthy, free, nodes, idle, v6, latitude, longitude)) in regions.into_iter().enumerate()
        {
            let name = format!("r{index}");
            let make = |kind: u8, count: usize| -> Vec<NodeState> {
                (0..count)
                    .map(|number| {
                        let v4 = format!("127.{index}.{kind}.{number}");
                        let address = if v6 { format!("2001:db8:{index}:{kind}::{number}") } else { v4 };
                        node(&format!("{name}-{kind}-{number}"), &[&address])
                    })
                    .collect()
            };
            let state = RegionState {
                services: [("web".to_owned(), ServiceState { healthy, free })].into(),
                nodes: make(0, nodes),
                last_resort: make(1, idle),
            };
            mesh.state.regions.insert(name.clone(), state);
            let prefixes = vec![format!("10.{index}.0.0/16").parse().unwrap()];
            mesh.regions.push(RegionSpec { name, location: Some((latitude, longitude)), prefixes });
        }
        mesh
    })
}

fn any_policy() -> impl Strategy<Value = Policy> {
    prop_oneof![
        Just(Policy::Nearest),
        Just(Policy::Latency),
        Just(Policy::Weighted),
        Just(Policy::Failover(vec!["r1".into(), "r0".into()])),
    ]
}

#[test]
fn the_scope_tells_the_truth_about_a_geoip_file_too() {
    let Some(folder) = crate::fixtures::geoip_databases() else { return };
    let geo = GeoIp::load(&folder.join("GeoLite2-City-Test.mmdb")).unwrap();
    let (table, state) = (table(), state());
    let surroundings = Surroundings { table: &table, state: &state, geo: Some(&geo) };
    let mut rng = SmallRng::seed_from_u64(4);
    let mut decide_for = |address: IpAddr| {
        let told =
            decide(surroundings, &steer(Policy::Nearest, 1), Family::V4, address.into(), start(), &mut rng);
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

proptest! {
    /// I6: health never makes an answer empty, and nobody is sent to a sick region while a sound one can answer.
    #[test]
    fn health_never_empties_an_answer(mesh in any_mesh(), policy in any_policy(), octet in 0u8..8, seed in any::<u64>()) {
        let table = Table::build(&crate::spec::TableSpec { regions: mesh.regions.clone(), ..table_spec() });
        let table = table.unwrap();
        let surroundings = Surroundings { table: &table, state: &mesh.state, geo: None };
        let client: IpNet = format!("10.{octet}.1.1/32").parse().unwrap();
        let steer = steer(policy.clone(), 2);
        let mut rng = SmallRng::seed_from_u64(seed);
        let v4 = decide(surroundings, &steer, Family::V4, client, start(), &mut rng);
        let v6 = decide(surroundings, &steer, Family::V6, client, start(), &mut rng);
        let anyone = mesh.state.regions.values().any(|region| has_address(&region.nodes) || has_address(&region.last_resort));
        prop_assert_eq!(v4.region.is_some(), anyone);
        if let Some(region) = v4.region {
            let chosen = &mesh.state.regions[region];
            prop_assert!(v4.chosen.len() <= 2);
            // The random policy may draw another region for the other family.
            if policy != Policy::Weighted {
                prop_assert!(!v4.chosen.is_empty() || !v6.chosen.is_empty());
                prop_assert_eq!(v4.region, v6.region);
            }
            let distinct: BTreeSet<_> = v4.chosen.iter().map(|(node, _)| node).collect();
            prop_assert_eq!(distinct.len(), v4.chosen.len());
            let sound = |name: &&str| {
                let region = &mesh.state.regions[*name];
                region.services["web"].healthy && has_address(&region.nodes)
            };
            if let Some(first) = v4.order.iter().find(|name| sound(name) && mesh.state.regions[**name].services["web"].free > 0) {
                prop_assert_eq!((region, v4.step), (*first, Step::Healthy));
            } else if v4.order.iter().any(&sound) {
                prop_assert_eq!(v4.step, Step::NoRoom);
                prop_assert!(sound(&region));
            } else {
                prop_assert!(v4.step >= Step::FailOpen);
                prop_assert_eq!(v4.step == Step::LastResort, !has_address(&chosen.nodes));
            }
        }
    }

    /// Every address in the scope that is told to a resolver's cache gets the same order.
    #[test]
    fn the_scope_tells_the_truth(
        prefixes in prop::collection::btree_map((any::<u8>(), any::<u8>(), 4u8..=24), 0usize..3, 0..10),
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
        let table = Table::build(&spec).unwrap();
        let state = state();
        let surroundings = Surroundings { table: &table, state: &state, geo: None };
        let decide_for = |address: IpAddr| {
            let mut rng = SmallRng::seed_from_u64(3);
            decide(surroundings, &steer(Policy::Nearest, 1), Family::V4, address.into(), start(), &mut rng)
        };
        // Half of the clients where the prefixes are.
        let client = if client[0] % 2 == 0 { [10, client[1], client[2], client[3]] } else { client };
        let told = decide_for(client.into());
        prop_assert!((1..=32).contains(&told.scope));
        let bits = u32::from_be_bytes(client);
        for other in others {
            let kept = u32::MAX << (32 - u32::from(told.scope));
            let neighbour = (bits & kept | other & !kept).to_be_bytes();
            prop_assert_eq!(&decide_for(neighbour.into()).order, &told.order);
        }
    }
}
