//! Several nodes on a virtual clock, each with its own core: messages are lost, nodes die, restart, lack the program or fail.
//! Whatever happens, no backend is started twice, and one node that can act is enough.

use gossip::clock::{Clock, Wall};
use gossip::id::BackendId;
use gossip::state::BackendState;
use proptest::prelude::*;
use std::time::Duration;

use super::*;
use crate::backend::{BackendShared, BackendView};
use crate::balance::rack;
use crate::config::model::{Backend, Pool, ScaleTarget, ScaleVia, SourceKind, SourceKinds};
use crate::registry::fixture::{node, pool, region};
use crate::scale::agree::HOLD;

const SECOND: Duration = Duration::from_secs(1);
/// How many backends the pool is to have at least, and has not.
const LEAST: u32 = 6;

/// What becomes of a node's acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hand {
    Able,
    /// It knows that it cannot.
    Lacks,
    /// It finds out when it acts, before anything is begun.
    Fails,
    /// It begins nothing, and says that it may have.
    Doubts,
    /// It dies right after it has done it.
    Dies,
    /// It says that it has done it, and nothing ever appears.
    Vain,
}

fn hand() -> impl Strategy<Value = Hand> {
    prop_oneof![Just(Hand::Able), Just(Hand::Lacks), Just(Hand::Fails), Just(Hand::Doubts), Just(Hand::Dies)]
}

/// A node of the simulation.
struct Life {
    name: NodeName,
    hand: Hand,
    core: Core,
    alive: bool,
}

struct World {
    clock: Clock,
    pool: Arc<Pool>,
    scale: Scale,
    lives: Vec<Life>,
    /// Each backend, and the second from which it is seen.
    started: Vec<(BackendView, u32)>,
    second: u32,
    /// How long a new one needs until it is seen.
    boot: u32,
    /// One message in so many is lost; 0: none.
    loses: u64,
    dice: u64,
    acts: Vec<Instant>,
    notes: Vec<String>,
}

impl World {
    fn new(hands: &[Hand], boot: u32, loses: u64, seed: u64) -> Self {
        let clock = Clock::simulated(Wall(0));
        let life = |(at, hand): (usize, &Hand)| {
            let name = node(&format!("n-{at}"));
            let home = Spot { region: region("eu"), zone: None, rack: None };
            let core = Core::new(name.clone(), home, clock.now());
            Life { name, hand: *hand, core, alive: true }
        };
        let lives = hands.iter().enumerate().map(life).collect();
        let scale = Scale {
            min: LEAST,
            max: LEAST,
            target: ScaleTarget::InFlight(20.0),
            cooldown: Duration::from_secs(20),
            via: ScaleVia::Exec(vec!["/scale".into()]),
            dry_run: false,
        };
        let pool = Arc::new(Pool { scale: Some(scale.clone()), ..pool("web", &[]) });
        let (started, acts, notes) = Default::default();
        Self { clock, pool, scale, lives, started, second: 0, boot, loses, dice: seed | 1, acts, notes }
    }

    /// xorshift; whether this message is lost.
    fn is_lost(&mut self) -> bool {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        self.loses > 0 && self.dice.is_multiple_of(self.loses)
    }

    fn look(&self, unable: bool) -> Look {
        let seen = self.started.iter().filter(|(_, from)| *from <= self.second);
        let view = PoolView {
            config: self.pool.clone(),
            backends: seen.map(|(backend, _)| backend.clone()).collect(),
            queue: Arc::default(),
        };
        let unable = unable.then(|| "not allowed".to_owned());
        Look { pool: Arc::new(view), scale: self.scale.clone(), unable, holdings: None }
    }

    fn start(&mut self, spot: &Spot) {
        let address = std::net::SocketAddr::from(([10, 0, 0, self.started.len() as u8], 80));
        let config = Backend {
            id: BackendId::of(&self.pool.name, address),
            address,
            region: spot.region.clone(),
            zone: None,
            rack: None,
            weight: 100,
            sources: SourceKinds::of(SourceKind::Lease),
            leaving: false,
            priority: 0,
        };
        let view = BackendView {
            rack: rack::number(std::iter::once((&config.region, &config.zone, &config.rack))).remove(0),
            config: Arc::new(config),
            shared: Arc::new(BackendShared::default()),
            state: BackendState::Up,
            up_since: gossip::clock::Hlc::ZERO,
            joined: gossip::clock::Hlc::ZERO,
            weight: 100,
            reason: String::new(),
        };
        self.started.push((view, self.second + self.boot));
    }

    fn second(&mut self) {
        self.clock.advance(SECOND);
        self.second += 1;
        let names = |alive: bool, lives: &[Life]| {
            lives.iter().filter(|life| life.alive || !alive).map(|life| life.name.clone()).collect()
        };
        let nodes = Nodes { alive: names(true, &self.lives), known: names(false, &self.lives) };
        for at in 0..self.lives.len() {
            if self.lives[at].alive {
                let look = self.look(self.lives[at].hand == Hand::Lacks);
                self.lives[at].core.beat(&[look], &nodes, self.clock.now());
                self.follow(at);
            }
        }
    }

    /// Does what a core wants until it wants nothing more.
    fn follow(&mut self, at: usize) {
        let now = self.clock.now();
        loop {
            let effects = self.lives[at].core.take_effects();
            if effects.is_empty() {
                return;
            }
            for effect in effects {
                match effect {
                    Effect::Tell(message) => {
                        for to in (0..self.lives.len()).filter(|to| *to != at) {
                            if self.lives[to].alive && !self.is_lost() {
                                let from = self.lives[at].name.clone();
                                self.lives[to].core.told(&from, message.clone(), now);
                                self.lives[to].core.take_effects();
                            }
                        }
                    }
                    Effect::Ask(question, peers) => {
                        let mut answers =
                            Answers { yes: 1, known: peers.len() + 1, greatest: 0, coming: None };
                        let Question { pool, number, verdict, .. } = question.clone();
                        let plan = Plan { counted: verdict.counted, wanted: verdict.wanted };
                        for to in (0..self.lives.len()).filter(|to| *to != at) {
                            // The question may be lost, or the answer.
                            if !self.lives[to].alive || self.is_lost() {
                                continue;
                            }
                            let from = self.lives[at].name.clone();
                            match self.lives[to].core.asked(&from, &pool, number, plan, now) {
                                _ if self.is_lost() => {}
                                Message::Granted => answers.yes += 1,
                                Message::Refused(known, coming) => {
                                    answers.greatest = answers.greatest.max(known);
                                    answers.coming = answers.coming.max(coming);
                                }
                                other => panic!("{other:?} is no answer"),
                            }
                        }
                        let look = Some(self.look(false));
                        self.lives[at].core.granted(question, answers, look, now);
                    }
                    Effect::Act(_, _, decision) => self.act(at, &decision),
                    Effect::Note(_, text) => self.notes.push(text),
                    Effect::Recall(_) => panic!("nothing is removed"),
                }
            }
        }
    }

    fn act(&mut self, at: usize, decision: &Decision) {
        let now = self.clock.now();
        self.acts.push(now);
        let failed = |unbegun| End::Failed(Failure { why: "no".into(), unbegun });
        let end = match self.lives[at].hand {
            Hand::Able | Hand::Vain => End::Done,
            Hand::Fails => failed(true),
            Hand::Doubts => failed(false),
            Hand::Dies => {
                self.lives[at].alive = false;
                End::Done
            }
            Hand::Lacks => panic!("{} acts though it says that it cannot", self.lives[at].name),
        };
        if end == End::Done && self.lives[at].hand != Hand::Vain {
            decision.place.iter().for_each(|spot| self.start(spot));
        }
        if self.lives[at].alive {
            self.lives[at].core.ended(&decision.pool, decision.number, &end, now);
        }
    }

    /// It forgets all it knew, but for what its file keeps.
    fn restart(&mut self, at: usize) {
        let (life, wall, now) = (&mut self.lives[at], self.clock.wall(), self.clock.now());
        let home = Spot { region: region("eu"), zone: None, rack: None };
        let kept = life.core.kept(wall, now);
        life.core = Core::new(life.name.clone(), home, now);
        life.core.remembers(kept, wall, now);
    }

    fn majority_lives(&self) -> bool {
        self.lives.iter().filter(|life| life.alive).count() >= majority(self.lives.len())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Five nodes with any mixture of abilities: as long as a majority lives and one of the living can act, the pool is
    /// filled, however many fail before; and never is more started than was wanted.
    #[test]
    fn one_that_can_act_is_enough_and_nothing_is_done_twice(
        hands in prop::collection::vec(hand(), 5),
        boot in 0..6_u32,
        loses in prop_oneof![Just(0_u64), 4..20_u64],
        seed in any::<u64>(),
        restarts in prop::collection::vec((0..120_u32, 0..5_usize), 0..4),
    ) {
        let mut world = World::new(&hands, boot, loses, seed);
        for second in 0..400 {
            restarts.iter().filter(|(at, _)| *at == second).for_each(|(_, node)| world.restart(*node));
            world.second();
            prop_assert!(world.started.len() <= LEAST as usize, "{:?}", world.notes);
        }
        let rests = world.acts.windows(2).all(|two| two[1].saturating_duration_since(two[0]) >= HOLD);
        prop_assert!(rests, "{:?}", world.notes);
        let can = |life: &Life| life.alive && life.hand == Hand::Able;
        if world.majority_lives() && world.lives.iter().any(can) {
            prop_assert_eq!(world.started.len(), LEAST as usize, "{:?}", world.notes);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Backends that need up to a minute to appear, nodes that die in the act, restart or start what never appears: those that
    /// are there and those that may still come are never more than the pool's most, and one node that can act is enough.
    #[test]
    fn slow_backends_are_waited_for(
        hands in prop::collection::vec(prop_oneof![3 => hand(), 1 => Just(Hand::Vain)], 5),
        boot in 0..55_u32,
        loses in prop_oneof![Just(0_u64), 4..20_u64],
        seed in any::<u64>(),
        restarts in prop::collection::vec((0..120_u32, prop::option::of(0..5_usize)), 0..4),
    ) {
        let mut world = World::new(&hands, boot, loses, seed);
        for second in 0..1_200 {
            // One of them, or all at once.
            for (_, who) in restarts.iter().filter(|(at, _)| *at == second) {
                who.map_or(0..5, |who| who..who + 1).for_each(|node| world.restart(node));
            }
            world.second();
            prop_assert!(world.started.len() <= LEAST as usize, "{:?}", world.notes);
        }
        let can = |life: &Life| life.alive && life.hand == Hand::Able;
        if world.majority_lives() && world.lives.iter().any(can) {
            prop_assert_eq!(world.started.len(), LEAST as usize, "{:?}", world.notes);
        }
    }
}

/// A decision is done when its backends have appeared, and not when the program has ended.
#[test]
fn what_was_started_and_does_not_appear_is_told() {
    let mut world = World::new(&[Hand::Able], 40, 0, 1);
    let names: BTreeSet<NodeName> = [node("n-0")].into();
    let nodes = Nodes { alive: names.clone(), known: names };
    while world.started.is_empty() {
        world.second();
    }
    (0..31).for_each(|_| world.second());
    let look = world.look(false);
    let state = world.lives[0].core.beat(&[look], &nodes, world.clock.now()).remove(0);
    assert_eq!((state.total, state.coming, state.wanted), (0, LEAST, LEAST));
    let late = "6 started, none appeared after 31 s: see what /scale logs";
    assert_eq!((state.waits.as_deref(), state.late.as_deref()), (Some(late), Some(late)));
    (0..9).for_each(|_| world.second());
    let told: Vec<&str> = world.notes.iter().skip(1).map(String::as_str).collect();
    assert_eq!(
        told,
        [
            "pool web: decision 1: 6 started, none appeared after 30 s: see what /scale logs",
            "pool web: decision 1 is done: 6 started, all appeared after 40 s",
        ]
    );
    let mut world = World::new(&[Hand::Vain], 0, 0, 1);
    (0..75).for_each(|_| world.second());
    let failed = "decision 1 failed at n-0, which rests for 15 s: 6 started, none appeared after 60 s: see what /scale logs";
    assert!(world.notes.iter().any(|note| note.ends_with(failed)), "{:?}", world.notes);
    assert_eq!(world.acts.len(), 1);
}

/// Asking that ended badly is begun anew, with another number.
#[test]
fn what_could_not_be_asked_is_asked_again() {
    let mut world = World::new(&[Hand::Able, Hand::Able], 0, 0, 1);
    let names: BTreeSet<NodeName> = [node("n-0"), node("n-1")].into();
    let nodes = Nodes { alive: names.clone(), known: names };
    let mut asked = Vec::new();
    for _ in 0..40 {
        world.clock.advance(SECOND);
        let look = world.look(false);
        let core = &mut world.lives[0].core;
        core.told(&node("n-1"), Message::Pulses(Vec::new()), world.clock.now());
        core.beat(std::slice::from_ref(&look), &nodes, world.clock.now());
        for effect in core.take_effects() {
            if let Effect::Ask(question, _) = effect {
                core.unasked(&question);
                asked.push(question.number);
            }
        }
    }
    assert!(asked.len() > 2 && asked.is_sorted_by(|a, b| a < b), "{asked:?}");
}

/// The time that is lost to nodes that cannot act.
#[test]
fn the_turn_passes_within_seconds() {
    for able in 0..5 {
        for other in [Hand::Lacks, Hand::Fails] {
            let mut hands = [other; 5];
            hands[able] = Hand::Able;
            let mut world = World::new(&hands, 2, 0, 1);
            while world.started.is_empty() {
                world.second();
                assert!(world.second < 60, "{:?}", world.notes);
            }
            let soon = match other {
                // The rest after the start of the node, and no more.
                Hand::Lacks => 12,
                // Four may try before.
                _ => 12 + 4 * 5,
            };
            assert!(world.second <= soon, "{other:?}: after {} s: {:?}", world.second, world.notes);
            if other == Hand::Fails && world.acts.len() > 1 {
                let said = world.notes.join("\n");
                assert!(said.contains("the turn goes from") && said.contains("rests for 15 s"), "{said}");
            }
        }
    }
}

/// Where nobody can, nobody is asked for grants, and everybody says why.
#[test]
fn where_nobody_can_act_that_is_said() {
    let mut world = World::new(&[Hand::Lacks; 3], 0, 0, 1);
    (0..20).for_each(|_| world.second());
    assert!(world.acts.is_empty());
    let names: BTreeSet<NodeName> = world.lives.iter().map(|life| life.name.clone()).collect();
    let nodes = Nodes { alive: names.clone(), known: names };
    let look = world.look(true);
    let states = world.lives[0].core.beat(&[look], &nodes, world.clock.now());
    assert_eq!((states[0].actor.as_ref(), states[0].unable.len()), (None, 3));
    assert!(states[0].waits.as_ref().unwrap().starts_with("no node can act: n-0, n-1, n-2: not allowed"));
}

/// Load that comes back while backends drain gets them back at once.
#[test]
fn what_drains_is_recalled_when_it_is_needed() {
    let mut world = World::new(&[Hand::Able], 0, 0, 1);
    let spot = Spot { region: region("eu"), zone: None, rack: None };
    (0..LEAST).for_each(|_| world.start(&spot));
    world.scale = Scale { min: 2, cooldown: SECOND, ..world.scale };
    let nodes = Nodes { alive: [node("n-0")].into(), known: [node("n-0")].into() };
    let removes = |world: &mut World, look: Look| {
        world.clock.advance(SECOND);
        let now = world.clock.now();
        let core = &mut world.lives[0].core;
        core.beat(std::slice::from_ref(&look), &nodes, now);
        let mut effects = core.take_effects();
        if let Some(Effect::Ask(question, _)) =
            effects.iter().find(|effect| matches!(effect, Effect::Ask(..)))
        {
            core.granted(
                question.clone(),
                Answers { yes: 1, known: 1, greatest: 0, coming: None },
                Some(look),
                now,
            );
            effects.extend(core.take_effects());
        }
        effects
    };
    let shrinks = (0..30).find_map(|_| {
        let look = world.look(false);
        removes(&mut world, look).into_iter().find_map(|effect| match effect {
            Effect::Act(_, _, decision) => Some(decision),
            _ => None,
        })
    });
    let decision = shrinks.expect("nobody uses it");
    assert_eq!((decision.action, decision.count), ("remove", 3));
    // They drain; meanwhile users come.
    let look = world.look(false);
    let pool = (*look.pool).clone();
    let going: Vec<String> = decision.backends.iter().map(|target| target.address.clone()).collect();
    let backends = pool.backends.into_iter().map(|mut backend| {
        if going.contains(&backend.config.address.to_string()) {
            backend.state = BackendState::Draining;
        }
        backend
    });
    let draining = Look { pool: Arc::new(PoolView { backends: backends.collect(), ..pool }), ..look };
    let shared = draining.pool.backends[0].shared.clone();
    let users: Vec<_> = (0..400).map(|_| shared.enter()).collect();
    let recalled = (0..5).any(|_| {
        let effects = removes(&mut world, draining.clone());
        effects.iter().any(|effect| matches!(effect, Effect::Recall(_)))
    });
    assert!(recalled);
    let now = world.clock.now();
    world.lives[0].core.ended(&decision.pool, decision.number, &End::Recalled, now);
    let told = world.lives[0].core.take_effects();
    assert!(told.iter().any(|effect| matches!(effect, Effect::Tell(Message::Failed(_, _, _, true)))));
    drop(users);
}
