//! Several nodes' checkers on one simulated clock, with a mesh between them that delays and a world that breaks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use gossip::clock::{Clock, Hlc, Wall};
use gossip::id::{BackendId, NodeName, PoolName};
use gossip::state::{BackendState, ClusterView, Member, MemberState, Verdict};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::checker::{Checker, Moment, ProbeOrder};
use crate::config::model::Services;
use crate::registry::fixture::{member, node, pool, region, services};

const STEP: Duration = Duration::from_millis(10);
/// From death to suspicion, and from death to death agreed (DESIGN §5).
const SUSPECT_AFTER: u64 = 1_000;
const DEAD_AFTER: u64 = 11_000;

struct SimNode {
    name: NodeName,
    checker: Checker,
    alive: bool,
    /// Cannot reach any backend, though it is there.
    blind: bool,
    /// When which probe ends.
    probing: Vec<(u64, ProbeOrder)>,
    /// What it heard: verdicts and states, by node.
    heard: BTreeMap<NodeName, (MemberState, Arc<BTreeMap<PoolName, Vec<Verdict>>>)>,
}

enum News {
    Verdicts(Arc<BTreeMap<PoolName, Vec<Verdict>>>),
    State(MemberState),
}

struct World {
    seed: u64,
    rng: StdRng,
    clock: Clock,
    millis: u64,
    services: Services,
    nodes: Vec<SimNode>,
    /// When, to whom, about whom, what. The later word about a node is never overtaken by an earlier one.
    mail: Vec<(u64, usize, NodeName, News)>,
    arrives: BTreeMap<(usize, NodeName), u64>,
    down: BTreeSet<BackendId>,
    /// Probes run since last cleared.
    probes: BTreeMap<BackendId, BTreeMap<NodeName, usize>>,
    /// Changes of a backend's state in a living node's table since last cleared.
    changes: Vec<(u64, NodeName, BackendId, BackendState)>,
    known: BTreeMap<(NodeName, BackendId), BackendState>,
}

impl World {
    /// Nodes eu-1, eu-2 ... and as many backends in eu.
    fn new(seed: u64, nodes: usize, backends: usize) -> Self {
        let addresses: Vec<String> = (1..=backends).map(|n| format!("10.0.0.{n}:80")).collect();
        let addresses: Vec<(&str, &str)> = addresses.iter().map(|address| (address.as_str(), "eu")).collect();
        let mut world = Self {
            seed,
            rng: StdRng::seed_from_u64(seed),
            clock: Clock::simulated(Wall(1_000_000)),
            millis: 0,
            services: services(&["eu"], vec![pool("web", &addresses)]),
            nodes: Vec::new(),
            mail: Vec::new(),
            arrives: BTreeMap::new(),
            down: BTreeSet::new(),
            probes: BTreeMap::new(),
            changes: Vec::new(),
            known: BTreeMap::new(),
        };
        for number in 1..=nodes {
            let name = node(&format!("eu-{number}"));
            let mut checker = Checker::new(name.clone(), region("eu"), seed ^ number as u64);
            let services = &world.services;
            checker.configure(&services.regions, services.pools.iter(), world.moment());
            let heard = (1..=nodes).map(|n| (node(&format!("eu-{n}")), (MemberState::Alive, Arc::default())));
            let heard = heard.collect();
            world.nodes.push(SimNode {
                name,
                checker,
                alive: true,
                blind: false,
                probing: Vec::new(),
                heard,
            });
        }
        for to in 0..nodes {
            world.look(to);
        }
        world
    }

    fn moment(&self) -> Moment {
        Moment { now: self.clock.now(), hlc: self.clock.hlc() }
    }

    fn backends(&self) -> Vec<BackendId> {
        self.services.pools["web"].backends.iter().map(|backend| backend.id).collect()
    }

    /// Gives a node the view that follows from what it heard.
    fn look(&mut self, to: usize) {
        let at = self.moment();
        let it = &mut self.nodes[to];
        let members = it.heard.iter().map(|(name, (state, verdicts))| {
            let known = Member { state: *state, verdicts: verdicts.clone(), ..member(name.as_str(), "eu") };
            (name.clone(), Arc::new(known))
        });
        let view = ClusterView { me: it.name.clone(), members: members.collect(), isolated_since: None };
        it.checker.observe(Arc::new(view), at);
    }

    fn send(&mut self, about: &NodeName, not_before: u64, news: impl Fn() -> News) {
        for to in 0..self.nodes.len() {
            // One in twenty is lost and comes with the next round of gossip.
            let delay = if self.rng.random_bool(0.05) { 500 } else { self.rng.random_range(10..100) };
            let earliest = self.arrives.get(&(to, about.clone())).copied().unwrap_or(0);
            let when = (not_before + delay).max(earliest);
            self.arrives.insert((to, about.clone()), when);
            if self.nodes[to].name != *about {
                self.mail.push((when, to, about.clone(), news()));
            }
        }
    }

    fn kill(&mut self, name: &str) {
        let name = node(name);
        let dead = self.nodes.iter_mut().find(|it| it.name == name).unwrap();
        dead.alive = false;
        dead.probing.clear();
        let now = self.millis;
        self.send(&name, now + SUSPECT_AFTER, || News::State(MemberState::Suspect));
        self.send(&name, now + DEAD_AFTER, || News::State(MemberState::Dead));
    }

    fn step(&mut self) {
        self.clock.advance(STEP);
        self.millis += STEP.as_millis() as u64;
        let (due, later) = std::mem::take(&mut self.mail).into_iter().partition(|mail| mail.0 <= self.millis);
        self.mail = later;
        let due: Vec<(u64, usize, NodeName, News)> = due;
        let mut moved = BTreeSet::new();
        for (_, to, about, news) in due {
            let entry = self.nodes[to].heard.get_mut(&about).unwrap();
            match news {
                News::Verdicts(verdicts) => entry.1 = verdicts,
                News::State(state) => entry.0 = state,
            }
            moved.insert(to);
        }
        for to in moved {
            self.look(to);
        }
        for at in 0..self.nodes.len() {
            if self.nodes[at].alive {
                self.run(at);
            }
        }
    }

    fn run(&mut self, at: usize) {
        let (now, moment) = (self.millis, self.moment());
        let it = &mut self.nodes[at];
        let (ended, running) = std::mem::take(&mut it.probing).into_iter().partition(|probe| probe.0 <= now);
        it.probing = running;
        let ended: Vec<(u64, ProbeOrder)> = ended;
        for (_, order) in ended {
            let fails = it.blind || self.down.contains(&order.backend);
            let result = if fails { Err("HTTP 503".to_owned()) } else { Ok(()) };
            it.checker.probed(order.backend, order.ticket, result, moment);
        }
        for order in it.checker.due(64, moment) {
            *self.probes.entry(order.backend).or_default().entry(it.name.clone()).or_default() += 1;
            it.probing.push((now + self.rng.random_range(1..30), order));
        }
        let changes = it.checker.take_changes();
        let name = it.name.clone();
        for (id, health) in changes.table.into_iter().flatten() {
            if self.known.insert((name.clone(), id), health.state) != Some(health.state) {
                self.changes.push((now, name.clone(), id, health.state));
            }
        }
        if let Some(verdicts) = changes.verdicts {
            let verdicts = Arc::new(verdicts);
            self.send(&name, now, || News::Verdicts(verdicts.clone()));
        }
    }

    fn run_for(&mut self, seconds: u64) {
        let end = self.millis + 1000 * seconds;
        while self.millis < end {
            self.step();
        }
    }

    fn forget(&mut self) {
        self.probes.clear();
        self.changes.clear();
    }

    /// What the living nodes make of a backend: its state and the end of its last break.
    fn conclusions(&self, id: BackendId) -> BTreeSet<(BackendState, Hlc)> {
        let tables = self.nodes.iter().filter(|it| it.alive).map(|it| it.checker.table());
        tables.map(|table| (table[&id].state, table[&id].up_since)).collect()
    }

    /// Every backend is probed by this many living nodes, and by none more often than its interval asks.
    fn assert_probes(&self, probers: usize, seconds: u64) {
        for id in self.backends() {
            let by = &self.probes[&id];
            assert_eq!(by.len(), probers, "seed {}: {by:?}", self.seed);
            let most = (seconds as f64 / 0.9).ceil() as usize + 1;
            assert!(by.values().all(|probes| *probes <= most), "seed {}: {by:?}", self.seed);
        }
    }
}

const UP: (BackendState, Hlc) = (BackendState::Up, Hlc::ZERO);

#[test]
fn each_backend_is_probed_by_three_and_all_agree() {
    for nodes in [1, 2, 3, 5, 8] {
        let mut world = World::new(nodes as u64, nodes, 6);
        world.run_for(3);
        world.forget();
        world.run_for(20);
        world.assert_probes(nodes.min(3), 20);
        assert!(world.changes.is_empty(), "{:?}", world.changes);
        for id in world.backends() {
            assert_eq!(world.conclusions(id), BTreeSet::from([UP]));
        }
    }
}

#[test]
fn a_backend_that_dies_and_returns_is_seen_by_all_and_no_other_is() {
    for seed in 0..10 {
        let mut world = World::new(seed, 5, 4);
        world.run_for(3);
        world.forget();
        let victim = world.backends()[0];
        let died = world.clock.hlc();
        world.down.insert(victim);
        world.run_for(5); // 3 failures in 2 to 3.3 s, and the mesh.
        let down = world.conclusions(victim);
        assert!(down.iter().all(|(state, _)| *state == BackendState::Down), "seed {seed}: {down:?}");

        world.down.remove(&victim);
        let returned = world.clock.hlc();
        world.run_for(5);
        let up = world.conclusions(victim);
        let (state, since) = up.first().copied().unwrap();
        assert_eq!(
            (up.len(), state),
            (1, BackendState::Up),
            "seed {seed}: all agree, also on the break: {up:?}"
        );
        assert!(since > returned && returned > died, "seed {seed}");
        assert!(world.changes.iter().all(|change| change.2 == victim), "seed {seed}: {:?}", world.changes);
        // Up, going down, down, going up, up: nobody changed its mind on the way.
        for name in (1..=5).map(|n| node(&format!("eu-{n}"))) {
            let sides: Vec<bool> = world
                .changes
                .iter()
                .filter(|change| change.1 == name)
                .map(|change| matches!(change.3, BackendState::Up | BackendState::GoingDown))
                .collect();
            assert!(turns(&sides) <= 2, "seed {seed} {name}: {sides:?}");
        }
    }
}

fn turns(sides: &[bool]) -> usize {
    sides.windows(2).filter(|pair| pair[0] != pair[1]).count()
}

#[test]
fn the_death_of_a_prober_changes_nobodys_mind() {
    for seed in 0..10 {
        for nodes in 2..=5 {
            let mut world = World::new(seed, nodes, 6);
            let broken = world.backends()[1];
            world.down.insert(broken);
            world.run_for(6);
            world.forget();
            world.kill("eu-2");
            world.run_for(20);
            assert!(world.changes.is_empty(), "seed {seed}, {nodes} nodes: {:?}", world.changes);
            world.forget();
            world.run_for(10);
            world.assert_probes((nodes - 1).min(3), 10);
            for id in world.backends() {
                let wanted = if id == broken { BackendState::Down } else { BackendState::Up };
                let got = world.conclusions(id);
                assert!(got.iter().all(|(state, _)| *state == wanted), "seed {seed}, {nodes} nodes: {got:?}");
            }
        }
    }
}

#[test]
fn one_blind_prober_of_three_convinces_nobody() {
    for seed in 0..10 {
        let mut world = World::new(seed, 3, 4);
        world.run_for(3);
        world.nodes[0].blind = true;
        world.forget();
        world.run_for(20);
        assert!(world.changes.is_empty(), "seed {seed}: {:?}", world.changes);
    }
}

/// Whatever happened before: once the world has been quiet for 15 s, all living nodes agree with it.
#[test]
fn after_any_trouble_the_mesh_comes_to_the_truth() {
    for seed in 0..25 {
        let mut world = World::new(seed, 5, 5);
        let backends = world.backends();
        for _ in 0..6 {
            match world.rng.random_range(0..4) {
                0 => drop(world.down.insert(backends[world.rng.random_range(0..5)])),
                1 => drop(world.down.remove(&backends[world.rng.random_range(0..5)])),
                2 => {
                    let at = world.rng.random_range(0..5);
                    world.nodes[at].blind ^= true;
                }
                _ if world.nodes.iter().filter(|it| it.alive).count() > 2 => {
                    let at = world.rng.random_range(0..5);
                    if world.nodes[at].alive {
                        let name = world.nodes[at].name.to_string();
                        world.kill(&name);
                    }
                }
                _ => {}
            }
            let pause = world.rng.random_range(0..6);
            world.run_for(pause);
        }
        for it in &mut world.nodes {
            it.blind = false;
        }
        world.run_for(15);
        for id in backends {
            let wanted = if world.down.contains(&id) { BackendState::Down } else { BackendState::Up };
            let got = world.conclusions(id);
            assert_eq!(got.len(), 1, "seed {seed}: {got:?}");
            assert!(got.iter().all(|(state, _)| *state == wanted), "seed {seed}: {got:?}, not {wanted:?}");
        }
    }
}
