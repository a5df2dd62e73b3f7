//! The keys of zones on several nodes.

use super::*;
use crate::zone_keys::file;

fn zones(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(ToString::to_string).collect()
}

/// The keys of a zone as a node has them.
fn keys(nodes: &Nodes, node: usize, zone: &str) -> Vec<Vec<u8>> {
    nodes.at(node).zone_keys().known().of(zone).map(|key| key.secret.clone()).collect()
}

async fn all_have(nodes: &Nodes, all: &[usize], zone: &str, count: usize) -> Vec<Vec<u8>> {
    wait_for("the same keys everywhere", || async {
        let first = keys(nodes, all[0], zone);
        first.len() == count && all.iter().all(|node| keys(nodes, *node, zone) == first)
    })
    .await;
    keys(nodes, all[0], zone)
}

#[tokio::test]
async fn one_key_is_made_and_outlives_every_life() {
    let mut nodes = Nodes::start(&["eu-1", "eu-2", "us-1"]).await;
    for node in [2, 1, 0] {
        nodes.at(node).zone_keys().want(zones(&["a.example"]));
    }
    let made = all_have(&nodes, &[0, 1, 2], "a.example", 1).await;
    // What others have heard of is on the maker's disk, sealed and for its owner alone.
    let path = nodes.data(0).join(file::NAME);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(!text.contains("a.example"), "{text}");
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&path.metadata().unwrap().permissions()) & 0o777,
        0o600
    );
    wait_for("everybody's disk", || async { (0..3).all(|node| nodes.data(node).join(file::NAME).exists()) })
        .await;
    for node in 0..3 {
        nodes.kill(node);
    }
    for node in 0..3 {
        nodes.restart(node).await;
        assert_eq!(keys(&nodes, node, "a.example"), made, "without asking anybody");
        nodes.at(node).zone_keys().want(zones(&["a.example"]));
    }
    // A node whose disk is gone gets it from the others and makes none.
    nodes.kill(0);
    std::fs::remove_file(nodes.data(0).join(file::NAME)).unwrap();
    nodes.restart(0).await;
    nodes.at(0).zone_keys().want(zones(&["a.example"]));
    assert_eq!(all_have(&nodes, &[0, 1, 2], "a.example", 1).await, made);
    // A zone that is not signed any more keeps its key.
    nodes.at(0).zone_keys().want(zones(&[]));
    assert_eq!(keys(&nodes, 0, "a.example"), made);
}

#[tokio::test]
async fn two_halves_end_with_both_keys_in_one_order() {
    let mut nodes = Nodes::start(&["eu-1", "us-1"]).await;
    nodes.wires.cut(&nodes.nodes[0].name);
    for (node, view) in nodes.views.iter().enumerate() {
        view.send_replace(Arc::new(nodes.view(&nodes.nodes[node].name, &[node])));
        nodes.at(node).zone_keys().want(zones(&["a.example"]));
    }
    wait_for("a key on either side", || async {
        (0..2).all(|node| keys(&nodes, node, "a.example").len() == 1)
    })
    .await;
    let apart = [0, 1].map(|node| keys(&nodes, node, "a.example"));
    assert_ne!(apart[0], apart[1]);
    nodes.wires.mend(&nodes.nodes[0].name);
    nodes.agree();
    let both = all_have(&nodes, &[0, 1], "a.example", 2).await;
    assert!(apart.iter().all(|apart| both.contains(&apart[0])));
    for node in 0..2 {
        assert!(nodes.at(node).zone_keys().known().is_settling("a.example"));
    }
    // One that starts again may do so right behind the other key's coming.
    wait_for("the disk", || async { file::read(nodes.data(0)).unwrap().len() == 2 }).await;
    nodes.kill(0);
    nodes.restart(0).await;
    let known = nodes.at(0).zone_keys().known();
    assert!(known.of("a.example").count() == 2 && known.is_settling("a.example"));
}

#[tokio::test]
async fn a_key_that_cannot_be_read_is_neither_lost_nor_replaced() {
    let mut nodes = Nodes::start(&["eu-1"]).await;
    nodes.at(0).zone_keys().want(zones(&["a.example"]));
    let made = all_have(&nodes, &[0], "a.example", 1).await;
    wait_for("the disk", || async { nodes.data(0).join(file::NAME).exists() }).await;
    let ring = nodes.nodes[0].keyring.clone();
    nodes.kill(0);
    nodes.nodes[0].keyring = Keyring::generate();
    nodes.restart(0).await;
    nodes.at(0).zone_keys().want(zones(&["a.example", "b.example"]));
    let problems = nodes.at(0).zone_keys().problems().join("\n");
    assert!(problems.contains("line 2") && problems.contains("keyring lacks"), "{problems}");
    wait_for("the zones are missed", || async {
        nodes.at(0).zone_keys().problems().join("\n").contains("no key yet for zone a.example")
    })
    .await;
    // That none is made can only be seen once the time for it has passed.
    tokio::time::sleep(crate::zone_key::PATIENCE + Duration::from_secs(2)).await;
    assert!(keys(&nodes, 0, "b.example").is_empty() && keys(&nodes, 0, "a.example").is_empty());
    // With the old mesh key beside the new one it is there again, and sealed with the new one.
    let mut both = ring;
    let new = both.install_new().unwrap();
    both.use_key(new).unwrap();
    let before = std::fs::read(nodes.data(0).join(file::NAME)).unwrap();
    nodes.kill(0);
    nodes.nodes[0].keyring = both;
    nodes.restart(0).await;
    assert_eq!(keys(&nodes, 0, "a.example"), made);
    assert_eq!(nodes.at(0).zone_keys().problems(), Vec::<String>::new());
    wait_for("it is sealed anew", || async {
        std::fs::read(nodes.data(0).join(file::NAME)).unwrap() != before
    })
    .await;
}

#[tokio::test]
async fn a_key_that_is_lost_everywhere_is_told() {
    let mut nodes = Nodes::start(&["eu-1", "us-1"]).await;
    for node in [0, 1] {
        nodes.at(node).zone_keys().want(zones(&["a.example"]));
    }
    let made = all_have(&nodes, &[0, 1], "a.example", 1).await;
    assert_eq!(nodes.at(0).zone_keys().problems(), Vec::<String>::new());
    wait_for("everybody's disk", || async { (0..2).all(|node| nodes.data(node).join(file::NAME).exists()) })
        .await;
    let copy = std::fs::read(nodes.data(0).join(file::NAME)).unwrap();
    for node in [0, 1] {
        nodes.kill(node);
        std::fs::remove_file(nodes.data(node).join(file::NAME)).unwrap();
    }
    for node in [0, 1] {
        nodes.restart(node).await;
    }
    for node in [0, 1] {
        nodes.at(node).zone_keys().expect(zones(&["a.example"]));
        nodes.at(node).zone_keys().want(zones(&["a.example", "new.example"]));
    }
    assert_ne!(all_have(&nodes, &[0, 1], "a.example", 1).await, made);
    all_have(&nodes, &[0, 1], "new.example", 1).await;
    let lost = |nodes: &Nodes| {
        let told = [0, 1].map(|node| nodes.at(node).zone_keys().problems()).concat();
        told.into_iter().filter(|told| told.contains("was signed before")).collect::<Vec<_>>()
    };
    let told = lost(&nodes);
    assert!(told.len() == 1 && told[0].starts_with("zone a.example was signed before"), "{told:?}");
    // The old key comes back, on whichever node: it is the older one, and signs again.
    nodes.kill(1);
    std::fs::write(nodes.data(1).join(file::NAME), copy).unwrap();
    nodes.restart(1).await;
    nodes.at(1).zone_keys().want(zones(&["a.example", "new.example"]));
    assert_eq!(all_have(&nodes, &[0, 1], "a.example", 2).await[0], made[0]);
    assert_eq!(lost(&nodes), Vec::<String>::new());
}

#[tokio::test]
async fn a_file_that_is_not_whole_stops_no_node_and_no_key_is_made_in_its_place() {
    let mut nodes = Nodes::start(&["eu-1"]).await;
    nodes.at(0).zone_keys().want(zones(&["a.example"]));
    let made = all_have(&nodes, &[0], "a.example", 1).await;
    // Every life has a folder of its own.
    let path = |nodes: &Nodes| nodes.data(0).join(file::NAME);
    wait_for("the disk", || async { path(&nodes).exists() }).await;
    let whole = std::fs::read(path(&nodes)).unwrap();
    nodes.kill(0);
    std::fs::write(path(&nodes), "").unwrap();
    nodes.restart(0).await;
    nodes.at(0).zone_keys().want(zones(&["a.example"]));
    let problems = nodes.at(0).zone_keys().problems().join("\n");
    assert!(problems.contains("it is not whole"), "{problems}");
    // That none is made can only be seen once the time for it has passed.
    tokio::time::sleep(crate::zone_key::PATIENCE + Duration::from_secs(2)).await;
    assert!(keys(&nodes, 0, "a.example").is_empty());
    assert_eq!(std::fs::read(path(&nodes)).unwrap(), b"", "it stays as it is");
    nodes.kill(0);
    std::fs::remove_file(path(&nodes)).unwrap();
    std::fs::create_dir(path(&nodes)).unwrap();
    nodes.restart(0).await;
    nodes.kill(0);
    let _ = std::fs::remove_dir(path(&nodes));
    std::fs::write(path(&nodes), whole).unwrap();
    nodes.restart(0).await;
    assert_eq!(keys(&nodes, 0, "a.example"), made);
}
