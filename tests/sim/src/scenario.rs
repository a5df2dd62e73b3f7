//! What happens in a run: who there is, what users do, what breaks and when. Made from the seed alone.

use std::time::Duration;

use gossip::id::SessionId;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::beliefs::{region_of, zone_of};
use crate::network::Mood;

/// The meshes that are played; the region is the name up to the dash, and letters behind it name the zone.
const MESHES: [&[&str]; 9] = [
    &["eu-1", "eu-2", "eu-3"],
    &["eu-1", "eu-2", "eu-3", "eu-4"],
    &["eu-1", "eu-2", "eu-3", "eu-4", "eu-5"],
    &["eu-1", "eu-2", "us-1"],
    &["eu-1", "eu-2", "eu-3", "us-1", "us-2"],
    &["ap-1", "eu-1", "us-1"],
    &["eu-a1", "eu-a2", "eu-b1", "eu-b2"],
    &["eu-a1", "eu-a2", "eu-a3", "eu-b1", "eu-c1"],
    &["eu-a1", "eu-b1", "us-a1", "us-a2"],
];

/// Faults and users begin then.
const BEGIN: Duration = Duration::from_secs(2);
/// From then on everything works again.
pub const HEAL: Duration = Duration::from_secs(42);
/// How long the mesh may take after that to agree.
pub const AGREE: Duration = Duration::from_secs(30);

/// One thing that happens.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "sessions and nodes are named by their numbers, and the fields say so")]
pub enum Step {
    /// A user comes for the first time: `node` commits the session.
    New { session: usize, node: usize, backend: u64 },
    /// A user's backend is gone, or had a break, for all `node` knows. `old` tells how many cookies ago the one is
    /// that the user shows: another tab has the newer ones.
    Move { session: usize, node: usize, backend: u64, old: usize },
    /// A user is seen again.
    Refresh { session: usize, node: usize },
    /// An operator ends the session.
    End { session: usize, node: usize },
    /// A node asks for a session.
    Find { session: usize, node: usize },
    /// The node dies with its RAM, and with what its disk has not flushed.
    Crash { node: usize },
    /// It starts again from its disk.
    Start { node: usize },
    /// The same after its disk was deleted.
    StartEmpty { node: usize },
    /// All nodes of a zone, or else of a region, die at once.
    CrashTogether(Vec<usize>),
    /// It stands still.
    Pause { node: usize, time: Duration },
    /// These ways, from and to, are cut, beside those that are.
    Cut(Vec<(usize, usize)>),
    /// All ways are open.
    Mend,
}

/// A user's session.
#[derive(Debug, Clone)]
pub struct User {
    /// Its id.
    pub id: SessionId,
    /// How long it lives when it is not used.
    pub life: Duration,
}

/// A whole run before it is run.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// What it was made from; also decides the fate of messages.
    pub seed: u64,
    /// The nodes.
    pub nodes: &'static [&'static str],
    /// How far each node's wall clock is off, in milliseconds.
    pub skew: Vec<i64>,
    /// The network.
    pub mood: Mood,
    /// Whether a node takes for alive whom it hears of through others, or only whom it reaches itself.
    pub hearsay: bool,
    /// The sessions.
    pub users: Vec<User>,
    /// What happens, in order of time.
    pub steps: Vec<(Duration, Step)>,
}

impl Scenario {
    /// The scenario of a seed.
    pub fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let nodes = MESHES[rng.random_range(0..MESHES.len())];
        let users = (0..rng.random_range(4..20)).map(|_| User::new(&mut rng)).collect();
        let mut scenario = Self {
            seed,
            nodes,
            skew: nodes.iter().map(|_| rng.random_range(-1000..=1000)).collect(),
            mood: Mood::new(&mut rng),
            hearsay: rng.random_bool(0.5),
            users,
            steps: Vec::new(),
        };
        scenario.add_users(&mut rng);
        scenario.add_faults(&mut rng);
        scenario.steps.sort_by_key(|(at, _)| *at);
        scenario
    }

    fn add_users(&mut self, rng: &mut StdRng) {
        for session in 0..self.users.len() {
            let born = moment(rng, BEGIN, HEAL / 2);
            let node = rng.random_range(0..self.nodes.len());
            self.steps.push((born, Step::New { session, node, backend: rng.random_range(0..4) }));
            let mut at = born;
            for _ in 0..rng.random_range(0..8) {
                // Often at once, as the tabs of one browser do, else some time later.
                at += match rng.random_bool(0.4) {
                    true => Duration::from_micros(rng.random_range(0..5000)),
                    false => Duration::from_millis(rng.random_range(10..8000)),
                };
                let node = rng.random_range(0..self.nodes.len());
                let step = match rng.random_range(0..20) {
                    0..12 => {
                        let old = if rng.random_bool(0.3) { rng.random_range(1..4) } else { 0 };
                        Step::Move { session, node, backend: rng.random_range(0..4), old }
                    }
                    12..16 => Step::Refresh { session, node },
                    16 => Step::End { session, node },
                    _ => Step::Find { session, node },
                };
                if at < HEAL {
                    self.steps.push((at, step));
                }
            }
        }
    }

    fn add_faults(&mut self, rng: &mut StdRng) {
        let all = self.nodes.len();
        for _ in 0..rng.random_range(0..7) {
            let (at, node) = (moment(rng, BEGIN, HEAL), rng.random_range(0..all));
            let later = at + Duration::from_millis(rng.random_range(20..20_000));
            match rng.random_range(0..9) {
                8 => self.add_stumble(rng, at, node),
                7 => self.add_fall(rng, at, node),
                0 | 1 => {
                    let start =
                        if rng.random_bool(0.2) { Step::StartEmpty { node } } else { Step::Start { node } };
                    self.steps.extend([(at, Step::Crash { node }), (later, start)]);
                }
                2 => self.steps.push((
                    at,
                    Step::Pause { node, time: Duration::from_millis(rng.random_range(1000..10_000)) },
                )),
                3 => {
                    // One way only.
                    let other = (node + rng.random_range(1..all)) % all;
                    self.steps.extend([(at, Step::Cut(vec![(node, other)])), (later, Step::Mend)]);
                }
                4 => {
                    let alone = (0..all).filter(|other| *other != node);
                    let ways = alone.flat_map(|other| [(node, other), (other, node)]).collect();
                    self.steps.extend([(at, Step::Cut(ways)), (later, Step::Mend)]);
                }
                _ => {
                    // Two halves; with a bridge one node belongs to both.
                    let side: Vec<bool> = (0..all).map(|_| rng.random_bool(0.5)).collect();
                    let bridge = rng.random_bool(0.5).then_some(node);
                    let apart =
                        |a: usize, b: usize| side[a] != side[b] && Some(a) != bridge && Some(b) != bridge;
                    let pairs = (0..all).flat_map(|a| (0..all).map(move |b| (a, b)));
                    let ways = pairs.filter(|(a, b)| apart(*a, *b)).collect();
                    self.steps.extend([(at, Step::Cut(ways)), (later, Step::Mend)]);
                }
            }
        }
    }
}

impl Scenario {
    /// A node dies just after it took a user in, is back at once, and the user is met again by others.
    fn add_stumble(&mut self, rng: &mut StdRng, at: Duration, node: usize) {
        let (at, all) = (at.max(BEGIN), self.nodes.len());
        let session = self.users.len();
        self.users.push(User::new(rng));
        let born = at - Duration::from_micros(rng.random_range(5_000..50_000));
        let back = at + Duration::from_millis(rng.random_range(10..500));
        self.steps.push((born, Step::New { session, node, backend: rng.random_range(0..4) }));
        self.steps.extend([(at, Step::Crash { node }), (back, Step::Start { node })]);
        for _ in 0..5 {
            let met = back + Duration::from_millis(rng.random_range(0..1500));
            self.steps.push((met, Step::Find { session, node: rng.random_range(0..all) }));
        }
    }

    /// A zone, or a whole region for so long that it counts as dead, falls and comes back node by node.
    fn add_fall(&mut self, rng: &mut StdRng, at: Duration, node: usize) {
        let all = self.nodes.len();
        let nodes = self.nodes;
        let place = |node: usize| (region_of(nodes[node]), zone_of(nodes[node]));
        let (region, zone) = place(node);
        let whole = zone.is_none() || rng.random_bool(0.4);
        let falls = |other: &usize| place(*other).0 == region && (whole || place(*other).1 == zone);
        let (fallen, standing): (Vec<usize>, Vec<usize>) = (0..all).partition(falls);
        let at = if whole { at.min(HEAL / 2) } else { at };
        let back =
            at + Duration::from_millis(rng.random_range(if whole { 13_000..19_000 } else { 20..19_000 }));
        let users = self.users.len();
        if whole && !standing.is_empty() {
            // Users come to other regions meanwhile, and back with an old cookie.
            for _ in 0..3 {
                let (session, away) =
                    (rng.random_range(0..users), standing[rng.random_range(0..standing.len())]);
                let home = fallen[rng.random_range(0..fallen.len())];
                let mut step = |at, node, old| {
                    let backend = rng.random_range(0..4);
                    self.steps.push((at, Step::Move { session, node, backend, old }));
                };
                step(back - Duration::from_millis(900), away, 0);
                step(back + Duration::from_millis(4500), home, 1);
                step(back + Duration::from_millis(9000), home, 2);
            }
        }
        for node in &fallen {
            let late = Duration::from_millis(rng.random_range(0..3000));
            self.steps.push((back + late, Step::Start { node: *node }));
        }
        self.steps.push((at, Step::CrashTogether(fallen)));
    }
}

impl User {
    fn new(rng: &mut StdRng) -> Self {
        let life = match rng.random_range(0..3) {
            0 => Duration::from_secs(rng.random_range(10..60)),
            1 => Duration::from_secs(rng.random_range(60..600)),
            _ => Duration::from_secs(8 * 3600),
        };
        Self { id: SessionId(rng.random()), life }
    }
}

fn moment(rng: &mut StdRng, from: Duration, to: Duration) -> Duration {
    Duration::from_micros(rng.random_range(from.as_micros() as u64..to.as_micros() as u64))
}
