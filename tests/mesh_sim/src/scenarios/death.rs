//! Nodes are killed: their region suspects them within a second, the mesh within three.

use std::time::Duration;

use gossip::clock::Clock;
use gossip::state::{MemberState, MeshEvent};
use rand::RngExt;

use super::{Size, two_seeds};
use crate::report::{Report, percentile};
use crate::world::World;

/// A death is final after so long at the latest: 10 s of suspicion and what it took to suspect.
const DEAD: Duration = Duration::from_secs(16);

pub(crate) async fn play(seed: u64, size: Size, clock: Clock) -> Result<Report, String> {
    let mut world = World::new(seed, size.regions, size.nodes_each, clock, two_seeds(size.nodes_each));
    let mut report = Report::default();
    report.tell("simulated nodes form a mesh", world.gather().await?.as_secs_f64(), "s");
    world.pass(Duration::from_secs(10)).await;
    let (mut near, mut far) = (Vec::new(), Vec::new());
    for _ in 0..size.rounds {
        let victim = world.rng.random_range(0..world.places.len());
        let (name, region) = (world.places[victim].name.clone(), world.places[victim].region.clone());
        // At any moment of the nodes' rounds.
        let moment = world.rng.random_range(0..1000);
        world.pass(Duration::from_millis(moment)).await;
        let killed = world.now();
        world.kill(victim);
        world
            .until("all take a killed node for dead", DEAD, |world| {
                let dead =
                    |at| world.view(at).members.get(&name).is_some_and(|m| m.state == MemberState::Dead);
                world.running().all(dead)
            })
            .await?;
        for at in world.running() {
            let place = &world.places[at];
            let suspected = world
                .log
                .since(killed)
                .into_iter()
                .find(|entry| entry.by == place.name && entry.event == MeshEvent::Suspect(name.clone()));
            let after = suspected.map(|entry| entry.at - killed);
            let after = after.ok_or_else(|| format!("{} never suspected {name}", place.name))?;
            if place.region == region { near.push(after) } else { far.push(after) }
        }
        for at in world.running() {
            let others =
                world.log.since(killed).into_iter().filter(|entry| entry.by == world.places[at].name);
            let wrong = others.filter(|entry| matches!(&entry.event, MeshEvent::Dead(who) if *who != name));
            report.must(wrong.count() == 0, || format!("somebody else than {name} was taken for dead"));
        }
        world.start(victim).await?;
        world.until("a node that is back is seen by all", Duration::from_secs(30), World::is_whole).await?;
        world.pass(Duration::from_secs(2)).await;
    }
    let all = [near.clone(), far].concat();
    report.tell("nodes killed in the simulation", size.rounds as f64, "");
    report.tell("suspected in its region, median", percentile(&mut near, 50).as_secs_f64(), "s");
    report.promise("suspected in its region, p99", percentile(&mut near, 99).as_secs_f64(), "s", 1.0);
    report.tell("suspected mesh-wide, median", percentile(&mut all.clone(), 50).as_secs_f64(), "s");
    report.promise("suspected mesh-wide, p99", percentile(&mut all.clone(), 99).as_secs_f64(), "s", 3.0);
    report.tell("suspected mesh-wide, at the latest", percentile(&mut all.clone(), 100).as_secs_f64(), "s");
    report.log = world.log.text();
    Ok(report)
}
