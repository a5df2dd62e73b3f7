use proptest::prelude::*;

use super::*;
use crate::clock::Clock;

struct World {
    clock: Clock,
    liveness: Liveness,
}

fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

impl World {
    /// Node `a` of region `eu` with the given peers, all heard.
    fn new(peers: &[(&str, &str)]) -> Self {
        let clock = Clock::simulated(Wall(0));
        let liveness = Liveness::new(name("a"), "eu".parse().unwrap(), Duration::ZERO);
        let mut world = Self { clock, liveness };
        for (peer, region) in peers {
            world.know(peer, region, 1, false);
            world.on(Event::Word(&name(peer)));
        }
        world.on(Event::Tick);
        world
    }

    fn on(&mut self, event: Event<'_>) -> Vec<Effect> {
        self.liveness.handle(event, self.clock.now())
    }

    fn know(&mut self, peer: &str, region: &str, started: u64, draining: bool) -> Vec<Effect> {
        let (name, region) = (name(peer), region.parse().unwrap());
        self.on(Event::Known { name: &name, region: &region, started: Wall(started), draining })
    }

    /// Lets time pass; the named ones go on speaking.
    fn pass(&mut self, millis: u64, speaking: &[&str]) -> Vec<Effect> {
        let mut effects = Vec::new();
        for _ in 0..millis / 100 {
            self.clock.advance(TICK);
            for peer in speaking {
                effects.extend(self.on(Event::Word(&name(peer))));
            }
            effects.extend(self.on(Event::Tick));
        }
        effects
    }

    fn says_silent(&mut self, by: &str, about: &[&str]) {
        let about = about.iter().map(|name| Tag::of(name)).collect();
        self.on(Event::Silent { by: &name(by), about: &about });
    }

    fn state(&self, peer: &str) -> Option<MemberState> {
        self.liveness.state(&name(peer)).map(|(state, _)| state)
    }
}

use MemberState::{Alive, Dead, Draining, Left, Suspect};

#[test]
fn every_phase_meets_every_event() {
    // Rows: how `b` came to its phase. Columns: what word, pulse, accusation, goodbye and a new life make of it.
    let reach: [(&str, fn(&mut World)); 5] = [
        ("unheard", |world| drop(world.know("b", "us", 1, false))),
        ("alive", |world| {
            world.know("b", "us", 1, false);
            world.on(Event::Word(&name("b")));
        }),
        ("suspect", |world| {
            world.know("b", "us", 1, false);
            world.on(Event::Word(&name("b")));
            world.pass(3000, &["c", "d"]);
        }),
        ("dead", |world| {
            world.know("b", "us", 1, false);
            world.pass(10_100, &["c", "d"]);
        }),
        ("left", |world| {
            world.know("b", "us", 1, false);
            world.on(Event::Left { name: &name("b"), started: Wall(1) });
        }),
    ];
    let expected = [
        ("unheard", None, [Some(Alive), Some(Alive), None, Some(Left), Some(Alive)]),
        ("alive", Some(Alive), [Some(Alive), Some(Alive), Some(Suspect), Some(Left), Some(Alive)]),
        ("suspect", Some(Suspect), [Some(Alive), Some(Alive), Some(Suspect), Some(Left), Some(Alive)]),
        ("dead", Some(Dead), [Some(Alive), Some(Alive), Some(Dead), Some(Left), Some(Alive)]),
        ("left", Some(Left), [Some(Left), Some(Left), Some(Left), Some(Left), Some(Alive)]),
    ];
    for ((label, reach), (_, start, row)) in reach.into_iter().zip(expected) {
        for (column, expected) in row.into_iter().enumerate() {
            let mut world = World::new(&[("c", "us"), ("d", "eu")]);
            reach(&mut world);
            assert_eq!(world.state("b"), start, "{label}");
            let b = name("b");
            match column {
                0 => drop(world.on(Event::Word(&b))),
                1 => drop(world.on(Event::Pulse(&b))),
                2 => drop(world.on(Event::Accused { by: &name("c"), who: &[(b.clone(), Wall(1))] })),
                3 => drop(world.on(Event::Left { name: &b, started: Wall(1) })),
                _ => drop(world.know("b", "us", 2, false)),
            }
            assert_eq!(world.state("b"), expected, "{label}, event {column}");
        }
    }
}

#[test]
fn silence_in_the_region_needs_a_second_observer_where_there_is_one() {
    let mut world = World::new(&[("b", "eu"), ("c", "eu")]);
    for _ in 0..10 {
        world.says_silent("c", &[]);
        world.pass(100, &["c"]);
    }
    assert_eq!(world.state("b"), Some(Alive), "c hears b");
    world.says_silent("c", &["b"]);
    let effects = world.pass(100, &["c"]);
    assert_eq!(effects, [Effect::Became(name("b"), Suspect), Effect::SuspectsChanged]);
    assert_eq!(world.liveness.suspects(), [(name("b"), Wall(1))]);
    assert_eq!(world.pass(9_900, &["c"]), []);
    assert_eq!(world.pass(200, &["c"]), [Effect::Became(name("b"), Dead)]);
    assert_eq!(
        world.on(Event::Word(&name("b"))),
        [Effect::Became(name("b"), Alive), Effect::SuspectsChanged]
    );
}

#[test]
fn a_lost_connection_shortens_the_silence() {
    let mut world = World::new(&[("b", "eu"), ("z", "us")]);
    world.on(Event::Link { name: &name("b"), up: true });
    world.on(Event::Link { name: &name("b"), up: false });
    world.pass(400, &["z"]);
    assert_eq!(world.state("b"), Some(Suspect));
}

#[test]
fn in_a_mesh_of_two_the_peer_is_suspect_within_three_seconds() {
    for region in ["eu", "us"] {
        let mut world = World::new(&[("b", region)]);
        world.on(Event::Pulse(&name("b")));
        world.pass(2500, &[]);
        assert_eq!(world.state("b"), Some(Suspect), "{region}");
        assert!(world.liveness.isolated_since().is_some());
        let effects = world.on(Event::Word(&name("b")));
        assert!(effects.contains(&Effect::Rejoined));
        assert_eq!(world.state("b"), Some(Alive));
    }
}

#[test]
fn who_loses_all_peers_at_once_keeps_its_beliefs_for_ten_seconds() {
    let mut world = World::new(&[("b", "eu"), ("c", "eu"), ("d", "us")]);
    let effects = world.pass(9_900, &[]);
    assert_eq!(effects, [Effect::Isolated]);
    world.pass(500, &[]);
    assert_eq!(world.state("b"), Some(Suspect));
    assert_eq!(world.state("d"), Some(Suspect));
    let effects = world.pass(100, &["d"]);
    assert_eq!(effects[..], [Effect::Became(name("d"), Alive), Effect::Rejoined]);
}

#[test]
fn who_stood_still_judges_nobody() {
    let mut world = World::new(&[("b", "eu"), ("c", "eu")]);
    world.pass(500, &["b", "c"]);
    world.clock.advance(Duration::from_secs(60));
    assert_eq!(world.on(Event::Tick), [Effect::Lagged(Duration::from_secs(60))]);
    assert!(world.liveness.silent(world.clock.now()).is_empty());
    assert_eq!(world.pass(2000, &["b", "c"]), []);
    // A suspect's ten seconds stand still as well.
    world.pass(2000, &["c"]);
    assert_eq!(world.state("b"), Some(Suspect));
    world.clock.advance(Duration::from_secs(60));
    world.on(Event::Tick);
    world.pass(1500, &["c"]);
    assert_eq!(world.state("b"), Some(Suspect));
}

#[test]
fn the_region_judges_its_own_and_others_adopt_it() {
    let mut world = World::new(&[("b", "us"), ("c", "us")]);
    let (b, c) = (name("b"), name("c"));
    world.on(Event::Accused { by: &c, who: &[(b.clone(), Wall(1))] });
    assert_eq!(world.state("b"), Some(Suspect));
    // A relayed pulse does not clear it, its own word does, and so does its region.
    world.on(Event::Pulse(&b));
    assert_eq!(world.state("b"), Some(Suspect));
    world.on(Event::Word(&b));
    assert_eq!(world.state("b"), Some(Alive));
    world.on(Event::Accused { by: &c, who: &[(b.clone(), Wall(1))] });
    world.on(Event::Pulse(&b));
    world.on(Event::Accused { by: &c, who: &[] });
    assert_eq!(world.state("b"), Some(Alive));
    // An accusation of an earlier life is none.
    world.know("b", "us", 5, false);
    world.on(Event::Accused { by: &c, who: &[(b, Wall(1))] });
    assert_eq!(world.state("b"), Some(Alive));
}

#[test]
fn an_accuser_that_is_gone_accuses_no_more() {
    let mut world = World::new(&[("b", "us"), ("c", "us"), ("d", "ap")]);
    let (b, c) = (name("b"), name("c"));
    world.on(Event::Accused { by: &c, who: &[(b.clone(), Wall(1))] });
    world.on(Event::Pulse(&b));
    assert_eq!(world.state("b"), Some(Suspect));
    world.on(Event::Forgotten(&c));
    world.pass(100, &["d"]);
    world.on(Event::Pulse(&b));
    assert_eq!(world.state("b"), Some(Alive));
}

#[test]
fn draining_is_a_way_of_being_alive() {
    let mut world = World::new(&[("b", "eu"), ("c", "us")]);
    world.know("b", "eu", 1, true);
    assert_eq!(world.state("b"), Some(Draining));
    world.pass(1500, &["c"]);
    assert_eq!(world.state("b"), Some(Suspect));
    world.on(Event::Word(&name("b")));
    assert_eq!(world.state("b"), Some(Draining));
}

#[derive(Debug, Clone)]
enum Step {
    Known(u8, u8, u64, bool),
    Forgotten(u8),
    Word(u8),
    Pulse(u8),
    Link(u8, bool),
    Silent(u8, Vec<u8>),
    Accused(u8, Vec<u8>),
    Left(u8, u64),
    Ticks(u8),
    Sleep(u16),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let node = 0..5u8;
    let step = prop_oneof![
        (node.clone(), 0..2u8, 1..4u64, any::<bool>()).prop_map(|(n, r, s, d)| Step::Known(n, r, s, d)),
        node.clone().prop_map(Step::Forgotten),
        node.clone().prop_map(Step::Word),
        node.clone().prop_map(Step::Pulse),
        (node.clone(), any::<bool>()).prop_map(|(n, up)| Step::Link(n, up)),
        (node.clone(), prop::collection::vec(0..5u8, 0..4)).prop_map(|(n, s)| Step::Silent(n, s)),
        (node.clone(), prop::collection::vec(0..5u8, 0..4)).prop_map(|(n, s)| Step::Accused(n, s)),
        (node, 1..4u64).prop_map(|(n, s)| Step::Left(n, s)),
        (1..60u8).prop_map(Step::Ticks),
        (0..20_000u16).prop_map(Step::Sleep),
    ];
    prop::collection::vec(step, 0..80)
}

proptest! {
    /// A node dies only after ten seconds of suspicion or of never being heard, all of them awake; a word always
    /// brings back whoever has not left; who slept judges nobody at once.
    #[test]
    fn no_death_without_ten_seconds_of_silence(steps in steps()) {
        let names = ["b", "c", "d", "e", "f"].map(name);
        let regions: [RegionName; 2] = ["eu", "us"].map(|region| region.parse().unwrap());
        let mut world = World::new(&[]);
        for step in steps {
            let event = |world: &mut World, event: Event<'_>| -> Result<(), TestCaseError> {
                let before = names.iter().map(|name| world.liveness.state(name)).collect::<Vec<_>>();
                let now = world.clock.now();
                for effect in world.on(event) {
                    if let Effect::Became(name, Dead) = &effect {
                        let at = names.iter().position(|other| other == name).unwrap();
                        if let Some((state, since)) = before[at] {
                            prop_assert_eq!(state, Suspect);
                            prop_assert!(now - since >= DEATH);
                        }
                    }
                }
                Ok(())
            };
            match step {
                Step::Known(n, r, started, draining) => {
                    let (name, region) = (&names[n as usize], &regions[r as usize]);
                    event(&mut world, Event::Known { name, region, started: Wall(started), draining })?;
                }
                Step::Forgotten(n) => event(&mut world, Event::Forgotten(&names[n as usize]))?,
                Step::Word(n) => {
                    let peer = &names[n as usize];
                    event(&mut world, Event::Word(peer))?;
                    let state = world.liveness.state(peer).map(|(state, _)| state);
                    prop_assert!(matches!(state, None | Some(Alive | Draining | Left)), "{:?}", state);
                    prop_assert_eq!(world.liveness.isolated_since().filter(|_| state.is_some()), None);
                }
                Step::Pulse(n) => event(&mut world, Event::Pulse(&names[n as usize]))?,
                Step::Link(n, up) => event(&mut world, Event::Link { name: &names[n as usize], up })?,
                Step::Silent(n, about) => {
                    let about = about.iter().map(|n| Tag::of(names[*n as usize].as_str())).collect();
                    event(&mut world, Event::Silent { by: &names[n as usize], about: &about })?;
                }
                Step::Accused(n, who) => {
                    let who = who.iter().map(|n| (names[*n as usize].clone(), Wall(2))).collect::<Vec<_>>();
                    event(&mut world, Event::Accused { by: &names[n as usize], who: &who })?;
                }
                Step::Left(n, started) => {
                    event(&mut world, Event::Left { name: &names[n as usize], started: Wall(started) })?;
                }
                Step::Ticks(count) => {
                    for _ in 0..count {
                        world.clock.advance(TICK);
                        event(&mut world, Event::Tick)?;
                    }
                }
                Step::Sleep(millis) => {
                    world.clock.advance(Duration::from_millis(millis.into()));
                    let before = world.liveness.suspects();
                    event(&mut world, Event::Tick)?;
                    if millis > 300 && world.liveness.last_tick.is_some() {
                        prop_assert_eq!(before, world.liveness.suspects());
                    }
                }
            }
        }
    }
}
