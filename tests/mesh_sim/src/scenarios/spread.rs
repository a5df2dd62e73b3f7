//! One node says something new; all know it after a few rounds.

use std::time::Duration;

use gossip::clock::Clock;
use gossip::id::RevisionId;
use gossip::state::MeshEvent;
use rand::RngExt;

use super::{Size, two_seeds};
use crate::report::{Report, percentile};
use crate::world::World;

/// A key that has not come so long after is lost.
const LOST: Duration = Duration::from_secs(20);

pub(crate) async fn play(seed: u64, size: Size, clock: Clock) -> Result<Report, String> {
    let mut world = World::new(seed, size.regions, size.nodes_each, clock, two_seeds(size.nodes_each));
    world.gather().await?;
    world.pass(Duration::from_secs(40)).await;
    let mut times = Vec::new();
    for round in 0..size.rounds {
        let moment = world.rng.random_range(500..1500);
        world.pass(Duration::from_millis(moment)).await;
        let who = world.rng.random_range(0..world.places.len());
        let revision = Some(RevisionId { epoch: round as u64 + 1, hash: [round as u8; 32] });
        let event = MeshEvent::RevisionChanged { node: world.places[who].name.clone(), revision };
        let said = world.now();
        world.with(who, |node| node.set_revision(revision));
        let others = world.places.len() - 1;
        let known = |world: &World| {
            let heard = world.log.since(said).into_iter().filter(|entry| entry.event == event);
            // The node itself tells of it too.
            heard.filter(|entry| entry.by != world.places[who].name).count() == others
        };
        world.until("all know a new key", LOST, known).await?;
        let heard = world.log.since(said).into_iter().filter(|entry| entry.event == event);
        times.push(heard.map(|entry| entry.at - said).max().unwrap_or_default());
    }
    let interval = world.with(0, |node| node.gossip_interval());
    let rounds = |time: Duration| (time.as_secs_f64() / interval.as_secs_f64()).ceil();
    let mut report = Report::default();
    report.tell("keys told to all simulated nodes", size.rounds as f64, "");
    report.tell("a round of gossip", interval.as_secs_f64(), "s");
    report.tell("a key is known to all, median", percentile(&mut times, 50).as_secs_f64(), "s");
    report.tell("a key is known to all, p99", percentile(&mut times, 99).as_secs_f64(), "s");
    report.promise("a key is known to all, p99", rounds(percentile(&mut times, 99)), "rounds", 5.0);
    report.log = world.log.text();
    Ok(report)
}
