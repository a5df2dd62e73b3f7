//! Two halves that share no seed are cut, for long enough that gossip forgets the other one, and find each other again.

use std::time::Duration;

use gossip::clock::Clock;
use gossip::simulated::Node;
use gossip::state::MemberState;

use super::Size;
use crate::report::Report;
use crate::weather::region_of;
use crate::world::World;

/// After so long all of the other half are dead.
const DEAD: Duration = Duration::from_secs(60);
/// As the chaos limits have it.
const HEALED: Duration = Duration::from_secs(30);

pub(crate) async fn play(seed: u64, size: Size, clock: Clock) -> Result<Report, String> {
    let Size { regions, nodes_each, minutes, .. } = size;
    let cut = regions / 2;
    // Each half joins through its first node; the last of all knows both, and leaves before the cut ends.
    let bridge = regions * nodes_each - 1;
    let seeds = move |at: usize| match at {
        at if at == bridge => vec![0, cut * nodes_each],
        at if at < cut * nodes_each => vec![0],
        _ => vec![cut * nodes_each],
    };
    let mut world = World::new(seed, regions, nodes_each, clock, seeds);
    let mut report = Report::default();
    world.gather().await?;
    world.pass(Duration::from_secs(30)).await;

    world.change_weather(|weather| weather.cut = Some(cut as u8));
    let began = world.now();
    let half = |at: usize, world: &World| usize::from(region_of(world.places[at].addr)) < cut;
    let others_are = |world: &World, is: &dyn Fn(MemberState) -> bool| {
        world.running().all(|at| {
            let view = world.view(at);
            let others = world.running().filter(|other| half(*other, world) != half(at, world));
            let believed = others.map(|other| view.members.get(&world.places[other].name).map(|m| m.state));
            believed.flatten().all(is)
        })
    };
    let dead = world.until("each half takes the other for dead", DEAD, |world| {
        others_are(world, &|state| state == MemberState::Dead)
    });
    report.tell("a half takes the other for dead", dead.await?.as_secs_f64(), "s");
    world.with(bridge, Node::kill);
    world.kill(bridge);
    world.pass(Duration::from_secs(60 * minutes).saturating_sub(world.now() - began)).await;
    let stale = |world: &World| {
        world.running().all(|at| {
            let now = world.now();
            let view = world.view(at);
            let others = world.running().filter(|other| half(*other, world) != half(at, world));
            // Whoever is still shown is shown as dead, since when nobody told of it.
            others
                .filter_map(|other| view.members.get(&world.places[other].name).cloned())
                .all(|member| member.state == MemberState::Dead && now - member.since + DEAD > now - began)
        })
    };
    report.must(stale(&world), || "a half shows members of the other as if it had heard of them".into());
    let own = |world: &World| {
        world.running().all(|at| {
            let view = world.view(at);
            let mates = world.running().filter(|mate| half(*mate, world) == half(at, world));
            mates
                .map(|mate| view.members.get(&world.places[mate].name).map(|m| m.state))
                .all(|state| state == Some(MemberState::Alive))
        })
    };
    report.must(own(&world), || "a half does not see all of itself".into());

    world.change_weather(|weather| weather.cut = None);
    let healed = world.until("the halves see each other again", HEALED * 4, World::is_whole).await?;
    report.tell("cut", minutes as f64, "min");
    report.promise(
        "halves without a seed in common see each other again after",
        healed.as_secs_f64(),
        "s",
        HEALED.as_secs_f64(),
    );
    report.log = world.log.text();
    Ok(report)
}
