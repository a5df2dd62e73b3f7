//! What gossip costs: all channels of the mesh that `gossip` has, with what packets, acknowledgements and keep-alives add.

use std::time::Duration;

use gossip::clock::Clock;
use gossip::simulated::Traffic;

use super::{Size, two_seeds};
use crate::report::Report;
use crate::world::World;

/// After the mesh has formed and told its round trips.
const SETTLED: Duration = Duration::from_secs(40);
const MEASURED: Duration = Duration::from_secs(60);
/// KB a second for a node in each direction.
const LIMIT: f64 = 75.0;
/// Two nodes have two connections, each of which is kept alive by a small packet and its acknowledgement every three
/// seconds at most; a node sends half of these and receives the other half.
const KEEP_ALIVE_BYTES: f64 = 60.0;
const KEEP_ALIVE_EVERY: f64 = 3.0;
const CHANNELS: [(u8, &str); 3] = [(1, "gossip"), (2, "the fast lane"), (3, "control")];

pub(crate) async fn play(seed: u64, size: Size, clock: Clock) -> Result<Report, String> {
    let mut report = Report::default();
    for busy in [false, true] {
        let mut world =
            World::new(seed, size.regions, size.nodes_each, clock.clone(), two_seeds(size.nodes_each));
        if busy {
            world.make_busy();
        }
        world.gather().await?;
        world.pass(SETTLED).await;
        let before: Vec<_> = world.running().map(|at| world.traffic(at)).collect();
        world.pass(MEASURED).await;
        let spent = |pick: fn(&(Traffic, Traffic)) -> &Traffic, count: &dyn Fn(&Traffic) -> u64| {
            let spent = world.running().zip(&before).map(|(at, before)| {
                (count(pick(&world.traffic(at))) - count(pick(before))) as f64
                    / 1000.0
                    / MEASURED.as_secs_f64()
            });
            spent.collect::<Vec<_>>()
        };
        let most = |spent: Vec<f64>| spent.into_iter().fold(0.0, f64::max);
        let mean = |spent: Vec<f64>| spent.iter().sum::<f64>() / spent.len() as f64;
        let what = if busy { "under load" } else { "at rest" };
        for (way, pick) in
            [("sent", (|t| &t.0) as fn(&(Traffic, Traffic)) -> &Traffic), ("received", |t| &t.1)]
        {
            let wire = |traffic: &Traffic| traffic.wire_bytes;
            let others = (world.places.len() - 1) as f64;
            let kept = 2.0 * others * KEEP_ALIVE_BYTES / KEEP_ALIVE_EVERY / 1000.0;
            report.promise(
                format!("{way} by the busiest node {what}"),
                most(spent(pick, &wire)) + kept,
                "KB/s",
                LIMIT,
            );
            report.tell(format!("{way} by a node {what}, mean"), mean(spent(pick, &wire)) + kept, "KB/s");
            let payload = |traffic: &Traffic| traffic.payload_bytes;
            report.tell(format!("of it payload, {way} {what}"), mean(spent(pick, &payload)), "KB/s");
        }
        for (channel, name) in CHANNELS {
            let payload = |traffic: &Traffic| traffic.by_channel.get(&channel).copied().unwrap_or_default();
            report.tell(format!("of it {name}, sent {what}"), mean(spent(|t| &t.0, &payload)), "KB/s");
        }
        for at in world.running().collect::<Vec<_>>() {
            world.kill(at);
        }
    }
    Ok(report)
}
