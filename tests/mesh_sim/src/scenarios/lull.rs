//! Long times in which nobody dies: nobody may be taken for dead.

use std::time::Duration;

use gossip::clock::Clock;
use gossip::simulated::Node;
use gossip::state::MeshEvent;
use rand::RngExt;

use super::{Size, two_seeds};
use crate::report::Report;
use crate::world::World;

const STALL: Duration = Duration::from_secs(3);

/// What troubles the mesh.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Trouble {
    /// One packet of twenty is lost.
    Loss,
    /// Every few seconds a node stands still for three.
    Stalls,
}

pub(crate) async fn play(seed: u64, size: Size, clock: Clock, trouble: Trouble) -> Result<Report, String> {
    let mut world = World::new(seed, size.regions, size.nodes_each, clock, two_seeds(size.nodes_each));
    world.gather().await?;
    let began = world.now();
    let end = began + Duration::from_secs(60 * size.minutes);
    if trouble == Trouble::Loss {
        world.change_weather(|weather| weather.loss = 0.05);
    }
    let mut stalls = 0;
    while world.now() < end {
        let pause = world.rng.random_range(5_000..15_000);
        world.pass(Duration::from_millis(pause)).await;
        if trouble == Trouble::Stalls {
            let who = world.rng.random_range(0..world.places.len());
            world.with(who, |node: &Node| node.stand_still(STALL));
            stalls += 1;
        }
    }
    world.change_weather(|weather| weather.loss = 0.0);
    let mut report = Report::default();
    let (what, of) = match trouble {
        Trouble::Loss => ("at 5 % loss", String::new()),
        Trouble::Stalls => ("with stalls of 3 s", format!(" ({stalls} of them)")),
    };
    let dead = world.log.count(|event| matches!(event, MeshEvent::Dead(_)));
    let suspect = world.log.count(|event| matches!(event, MeshEvent::Suspect(_)));
    report.tell(format!("simulated {what}{of}"), size.minutes as f64 / 60.0, "h");
    report.promise(format!("false deaths {what}"), dead as f64, "", 0.0);
    report.tell(format!("suspicions {what}, over all observers"), suspect as f64, "");
    let healed = world.until("all see all alive after it", Duration::from_secs(30), World::is_whole).await;
    report.must(healed.is_ok(), || healed.expect_err("it was not"));
    report.log = world.log.text();
    Ok(report)
}
