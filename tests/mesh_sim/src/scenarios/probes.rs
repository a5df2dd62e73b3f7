//! A backend is probed by three nodes, however large the mesh is (I7): by the real assignment from the nodes' own views.

use std::collections::BTreeMap;

use gossip::clock::Clock;
use gossip::id::{BackendId, NodeName};

use super::{Size, two_seeds};
use crate::duties::probers;
use crate::report::Report;
use crate::world::World;

/// Regions, and nodes in each.
const MESHES: [(usize, usize); 5] = [(1, 3), (2, 3), (3, 4), (5, 6), (10, 10)];
const PROBERS: f64 = 3.0;

pub(crate) async fn play(seed: u64, size: Size, clock: Clock) -> Result<Report, String> {
    let mut report = Report::default();
    let fits = |(regions, each): &&(usize, usize)| *regions <= size.regions && *each <= size.nodes_each;
    for (regions, each) in MESHES.iter().filter(fits) {
        let mut world = World::new(seed, *regions, *each, clock.clone(), two_seeds(regions.min(&2) - 1));
        world.gather().await?;
        let mut by: BTreeMap<BackendId, Vec<NodeName>> = BTreeMap::new();
        for at in world.running() {
            let (view, place) = (world.view(at), &world.places[at]);
            for backend in &world.backends {
                if probers(&view, &place.region, backend).contains(&place.name) {
                    by.entry(backend.id).or_default().push(place.name.clone());
                }
            }
        }
        let nodes = regions * each;
        let all = world.backends.len();
        let (least, most) = (by.values().map(Vec::len).min(), by.values().map(Vec::len).max());
        let found = |probers: Option<usize>| probers.unwrap_or_default() as f64;
        report.must(by.len() == all && found(least) == PROBERS, || {
            format!("with {nodes} nodes a backend has {least:?} probers, {} of {all} have any", by.len())
        });
        report.promise(format!("probers of a backend, {nodes} nodes"), found(most), "", PROBERS);
        for at in world.running().collect::<Vec<_>>() {
            world.kill(at);
        }
    }
    Ok(report)
}
