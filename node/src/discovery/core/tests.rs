use std::collections::VecDeque;

use gossip::clock::Clock;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::config::model::{FileSpec, LeaseRule};
use crate::discovery::claims::REGISTERED_MAX;
use crate::registry::fixture::{node, pool, region, services};

const TTL: Duration = Duration::from_secs(15);
const STEP: Duration = Duration::from_millis(500);

fn configured() -> Arc<Services> {
    let mut pool = pool("web", &[]);
    pool.lease = Some(LeaseRule { ttl: TTL });
    pool.sources = vec![file()];
    pool.drain = Duration::from_secs(5);
    Arc::new(services(&["eu"], vec![pool]))
}

fn file() -> SourceSpec {
    SourceSpec::File(FileSpec { path: "f".into(), region: None })
}

fn web() -> PoolName {
    PoolName::new("web").unwrap()
}

fn found(n: u8) -> Found {
    Found::at(SocketAddr::from(([10, 0, 0, n], 80)), region("eu"))
}

/// Some nodes on one clock, with a network that loses, delays and cuts.
struct World {
    clock: Clock,
    rng: StdRng,
    nodes: Vec<(NodeName, Option<Core>)>,
    /// Which side of the cut each stands on.
    side: Vec<u8>,
    mail: VecDeque<(usize, Message)>,
    loss: f64,
}

impl World {
    fn new(seed: u64, nodes: usize) -> Self {
        let mut world = Self {
            clock: Clock::simulated(Wall(1_000_000)),
            rng: StdRng::seed_from_u64(seed),
            nodes: (1..=nodes).map(|n| (node(&format!("n-{n}")), None)).collect(),
            side: vec![0; nodes],
            mail: VecDeque::new(),
            loss: 0.0,
        };
        (0..nodes).for_each(|at| world.start(at));
        world
    }

    fn at(&self) -> Moment {
        Moment { now: self.clock.now(), hlc: self.clock.hlc(), wall: self.clock.wall() }
    }

    fn start(&mut self, at: usize) {
        let mut core = Core::new(self.nodes[at].0.clone(), "127.0.0.1:7900".parse().unwrap());
        core.configure(configured(), self.at());
        self.nodes[at].1 = Some(core);
    }

    fn reaches(&self, from: usize, to: usize) -> bool {
        from != to && self.side[from] == self.side[to] && self.nodes[to].1.is_some()
    }

    fn core(&mut self, at: usize) -> &mut Core {
        self.nodes[at].1.as_mut().expect("a node that runs")
    }

    /// Half a second: everybody sees who is there, hears its mail, ticks, tells, and compares with somebody.
    fn step(&mut self) {
        self.clock.advance(STEP);
        for (to, message) in std::mem::take(&mut self.mail) {
            let at = self.at();
            if let Some(core) = &mut self.nodes[to].1 {
                core.heard(message, at);
            }
        }
        for at in 0..self.nodes.len() {
            if self.nodes[at].1.is_none() {
                continue;
            }
            let seen = (0..self.nodes.len()).filter(|to| self.reaches(at, *to));
            let living = seen.clone().map(|to| self.nodes[to].0.clone()).collect();
            let seen: Vec<usize> = seen.collect();
            let now = self.at();
            let core = self.core(at);
            core.observe(living);
            core.tick(now);
            core.settle(now);
            let told: Vec<_> = core.take_effects().tell.into_iter().collect();
            for &to in seen.iter().filter(|_| !told.is_empty()) {
                if self.rng.random::<f64>() >= self.loss {
                    self.mail.push_back((to, Message::Tell(told.clone())));
                }
            }
            if seen.is_empty() || self.rng.random::<f64>() < 0.5 {
                continue;
            }
            let to = seen[self.rng.random_range(0..seen.len())];
            let question = self.core(at).question();
            let now = self.at();
            if let Some(answer) = self.core(to).heard(question, now)
                && let Some(back) = self.core(at).heard(answer, now)
            {
                self.mail.push_back((to, back));
            }
        }
    }

    fn steps(&mut self, seconds: u64) {
        (0..seconds * 2).for_each(|_| self.step());
    }

    /// What each running node has in the pool: the last part of each address.
    fn seen(&self) -> Vec<Vec<u8>> {
        let cores = self.nodes.iter().filter_map(|(_, core)| core.as_ref());
        cores
            .map(|core| {
                let pools = core.pools();
                let backends = pools.get("web").into_iter().flat_map(|pool| &pool.backends);
                backends
                    .map(|backend| match backend.address.ip() {
                        std::net::IpAddr::V4(ip) => ip.octets()[3],
                        std::net::IpAddr::V6(_) => 0,
                    })
                    .collect()
            })
            .collect()
    }

    fn put(&mut self, at: usize, n: u8) {
        let now = self.at();
        self.core(at).put(&web(), found(n), Some(TTL), now).unwrap();
    }
}

#[test]
fn a_lease_lasts_as_long_as_it_is_renewed_and_then_drains() {
    let mut world = World::new(1, 3);
    world.put(0, 7);
    for _ in 0..10 {
        world.steps(5);
        world.put(0, 7);
        assert_eq!(world.seen(), vec![vec![7]; 3]);
    }
    world.steps(14);
    assert_eq!(world.seen(), vec![vec![7]; 3]);
    world.steps(3);
    assert!(world.core(1).pools()["web"].backends[0].leaving, "the lease has expired: it drains");
    world.steps(6);
    assert_eq!(world.seen(), vec![Vec::<u8>::new(); 3]);
}

#[test]
fn another_node_adopts_the_leases_of_one_that_dies() {
    let mut world = World::new(2, 3);
    (1..=20).for_each(|n| world.put(0, n));
    world.steps(3);
    world.nodes[0].1 = None;
    world.steps(3);
    let holders = |world: &World| {
        let core = world.nodes[1].1.as_ref().unwrap();
        let states = core.sources();
        states.iter().map(|state| (state.node.to_string(), state.backends)).collect::<BTreeMap<_, _>>()
    };
    let of = holders(&world);
    assert_eq!(of.values().sum::<usize>(), 20);
    assert_eq!(of.keys().collect::<Vec<_>>(), ["n-2", "n-3"], "each of the living takes its share");
    for _ in 0..6 {
        (1..=10).for_each(|n| world.put(2, n));
        world.steps(5);
    }
    assert_eq!(
        world.seen(),
        vec![(1..=10).collect::<Vec<u8>>(); 2],
        "who did not find another node has expired"
    );
    world.start(0);
    world.steps(3);
    assert_eq!(world.seen().len(), 3);
    assert_eq!(world.seen()[0], (1..=10).collect::<Vec<u8>>(), "a node that starts learns of all");
}

#[test]
fn a_holder_that_restarts_holds_its_leases_again() {
    let mut world = World::new(3, 2);
    world.put(0, 7);
    world.steps(2);
    world.start(0);
    world.steps(10);
    assert_eq!(world.seen(), vec![vec![7]; 2]);
    world.put(0, 7);
    world.steps(12);
    assert_eq!(world.seen(), vec![vec![7]; 2]);
    world.steps(10);
    assert_eq!(world.seen(), vec![Vec::<u8>::new(); 2]);
}

#[test]
fn after_a_cut_the_word_of_the_holder_counts() {
    let mut world = World::new(4, 4);
    world.put(0, 7);
    world.steps(2);
    world.side = vec![0, 0, 1, 1];
    // The far side takes it for orphaned, adopts it, and lets it expire.
    for _ in 0..8 {
        world.steps(5);
        world.put(0, 7);
    }
    assert_eq!(world.seen(), vec![vec![7], vec![7], vec![], vec![]]);
    world.side = vec![0; 4];
    world.steps(4);
    world.put(0, 7);
    world.steps(4);
    assert_eq!(world.seen(), vec![vec![7]; 4]);
    assert!(!world.core(3).pools()["web"].backends[0].leaving);
}

#[test]
fn removing_is_heard_everywhere_and_gone_needs_no_drain() {
    let mut world = World::new(5, 2);
    let at = world.at();
    world.core(0).put(&web(), found(1), None, at).unwrap();
    world.put(0, 2);
    world.steps(2);
    assert_eq!(world.seen(), vec![vec![1, 2]; 2]);
    let at = world.at();
    world.core(1).remove(&web(), found(1).address, true, at).unwrap();
    world.core(1).remove(&web(), found(2).address, false, at).unwrap();
    world.steps(2);
    assert_eq!(world.seen(), vec![vec![2]; 2]);
    assert!(world.core(0).pools()["web"].backends[0].leaving);
    let at = world.at();
    let again = world.core(0).remove(&web(), found(2).address, false, at);
    assert_eq!(again, Ok(()), "it leaves already");
    world.steps(6);
    assert_eq!(world.seen(), vec![Vec::<u8>::new(); 2]);
    let at = world.at();
    let nothing = world.core(0).remove(&web(), found(2).address, false, at);
    assert_eq!(nothing, Err(OrderError::NotThere(found(2).address, web())));
    let no_pool = PoolName::new("other").unwrap();
    assert!(matches!(world.core(0).put(&no_pool, found(1), None, at), Err(OrderError::NoPool(_))));
}

#[test]
fn a_source_that_fails_says_since_when_and_keeps_its_word() {
    let mut world = World::new(6, 1);
    let at = world.at();
    world.core(0).answered(&web(), &file(), Ok(vec![found(1)]), at);
    world.step();
    let since = world.at().wall;
    for _ in 0..3 {
        let at = world.at();
        world.core(0).answered(&web(), &file(), Err("gone\n".into()), at);
        world.step();
    }
    assert_eq!(world.seen(), [[1]]);
    let state = world.core(0).sources().swap_remove(0);
    assert_eq!(state.failing, Some(Failing { since, error: "gone ".into() }));
    let at = world.at();
    world.core(0).answered(&web(), &file(), Ok(vec![found(1)]), at);
    let kinds: Vec<_> = world.core(0).take_effects().notes.iter().map(|note| note.kind).collect();
    assert_eq!(kinds, ["source-well"]);
    assert_eq!(world.core(0).sources()[0].failing, None);
}

/// A thousand at a time, for an hour: what is over gives way, and who holds a lease keeps it.
#[test]
fn backends_that_come_and_go_by_the_thousand_find_room() {
    let mut world = World::new(7, 1);
    let address = |n: u32| SocketAddr::from(([10, 1, (n >> 8) as u8, n as u8], 80 + (n >> 16) as u16));
    let leased = |n: u32| Found::at(address(n), region("eu"));
    for n in 0..100_000 {
        let at = world.at();
        let put = world.core(0).put(&web(), leased(n), Some(TTL), at);
        assert_eq!(put, Ok(()), "the {n}th");
        if n >= 1_000 {
            world.core(0).remove(&web(), address(n - 1_000), true, at).unwrap();
        }
        if n % 500 == 499 {
            world.clock.advance(TTL / 3);
            let at = world.at();
            (n.saturating_sub(999)..=n)
                .for_each(|n| world.core(0).put(&web(), leased(n), Some(TTL), at).unwrap());
            world.core(0).tick(at);
        }
    }
    let at = world.at();
    world.core(0).settle(at);
    assert_eq!(world.core(0).pools()["web"].backends.len(), 1_000);
    assert!(world.core(0).all().len() <= REGISTERED_MAX);
}

/// One client takes as many leases as it can: it is refused in the end, sources are heard all the same, and all of it passes.
#[test]
fn a_flood_of_leases_is_refused_and_passes() {
    let mut world = World::new(8, 2);
    let leased = |n: u32| Found::at(SocketAddr::from(([10, 1, (n >> 8) as u8, n as u8], 80)), region("eu"));
    let at = world.at();
    let taken = (0..50_000).filter(|n| world.core(0).put(&web(), leased(*n), Some(TTL), at).is_ok()).count();
    assert_eq!(taken, REGISTERED_MAX);
    world.core(1).answered(&web(), &file(), Ok(vec![found(1)]), at);
    world.steps(5);
    for core in [0, 1] {
        let named = world.core(core).pools()["web"].clone();
        assert_eq!(named.backends.len(), REGISTERED_MAX + 1, "node {core}");
    }
    world.clock.advance(TTL);
    let at = world.at();
    world.core(0).tick(at);
    let told = world.core(0).take_effects().notes;
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].text.contains(&format!("{REGISTERED_MAX} leases")), "{told:?}");
    world.steps(30);
    assert_eq!(world.seen(), vec![vec![1]; 2]);
    world.put(0, 9);
}

#[test]
fn a_lease_on_the_nodes_own_admin_port_is_refused() {
    let mut world = World::new(9, 1);
    let at = world.at();
    let own = Found::at("[::ffff:127.0.0.1]:7900".parse().unwrap(), region("eu"));
    assert_eq!(world.core(0).put(&web(), own.clone(), None, at), Err(OrderError::Admin(own.address)));
}

/// Nodes die, restart, are cut off, and lose mail; backends renew with whom they find. In the end those that still renew
/// are in the pool of every node and nobody else is, whatever came before.
#[test]
fn whatever_happens_the_pool_follows_those_that_renew() {
    for seed in 0..30 {
        let mut world = World::new(seed, 5);
        world.loss = 0.2;
        for _ in 0..40 {
            match world.rng.random_range(0..6) {
                0 => {
                    let at = world.rng.random_range(1..5);
                    world.nodes[at].1 = None;
                }
                1 => {
                    let at = world.rng.random_range(1..5);
                    if world.nodes[at].1.is_none() {
                        world.start(at);
                    }
                }
                2 => world.side = (0..5).map(|_| world.rng.random_range(0..2)).collect(),
                3 => world.side = vec![0; 5],
                _ => {
                    let n = world.rng.random_range(1..9);
                    let running: Vec<usize> = (0..5).filter(|at| world.nodes[*at].1.is_some()).collect();
                    let at = running[world.rng.random_range(0..running.len())];
                    world.put(at, n);
                }
            }
            world.steps(2);
        }
        world.side = vec![0; 5];
        (1..5).for_each(|at| {
            if world.nodes[at].1.is_none() {
                world.start(at);
            }
        });
        for _ in 0..12 {
            (1..=3).for_each(|n| world.put(0, n));
            world.steps(5);
        }
        assert_eq!(world.seen(), vec![vec![1, 2, 3]; 5], "seed {seed}");
    }
}
