//! Several replicas on a virtual clock, with loss, delay, partitions and deaths.
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashSet};

use gossip::clock::Clock;
use gossip::id::{BackendId, RegionName};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::pin::Assignment;
use crate::placement::{BUCKETS, Holder};

const START: Wall = Wall(1_790_000_000_000);

enum Event {
    Request { from: usize, to: usize, ask: Option<AskId>, bytes: bytes::Bytes },
    Answer { to: usize, life: u32, ask: AskId, bytes: Option<bytes::Bytes> },
}

/// A mesh in a box. Time moves from event to event.
struct World {
    clock: Clock,
    names: Vec<NodeName>,
    regions: Vec<&'static str>,
    nodes: Vec<Option<Replica>>,
    lives: Vec<u32>,
    /// Which nodes do not hear each other.
    cut: HashSet<(usize, usize)>,
    loss: f64,
    rng: StdRng,
    queue: BinaryHeap<Reverse<(Instant, u64)>>,
    events: BTreeMap<u64, Event>,
    asked: BTreeMap<(usize, u64), u32>,
    next: u64,
    replies: BTreeMap<ReplyId, (usize, u32, AskId)>,
    done: BTreeMap<u64, Outcome>,
}

impl World {
    fn new(seed: u64, nodes: &[&'static str]) -> Self {
        let clock = Clock::simulated(START);
        let names: Vec<_> = nodes.iter().map(|name| NodeName::new(name).unwrap()).collect();
        let mut world = Self {
            clock,
            regions: nodes.iter().map(|name| name.split('-').next().unwrap()).collect(),
            nodes: names.iter().map(|_| None).collect(),
            lives: vec![0; names.len()],
            names,
            cut: HashSet::new(),
            loss: 0.0,
            rng: StdRng::seed_from_u64(seed),
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            asked: BTreeMap::new(),
            next: 0,
            replies: BTreeMap::new(),
            done: BTreeMap::new(),
        };
        (0..nodes.len()).for_each(|node| world.start(node));
        world.agree();
        world
    }

    fn now(&self) -> Now {
        Now { instant: self.clock.now(), wall: self.clock.mesh_wall(), hlc: self.clock.hlc() }
    }

    /// Starts a node with nothing in store.
    fn start(&mut self, node: usize) {
        let now = self.now();
        let replica = Replica::new(self.names[node].clone(), Arc::default(), Arc::default(), now);
        self.nodes[node] = Some(replica);
        self.lives[node] += 1;
    }

    fn kill(&mut self, node: usize) {
        self.nodes[node] = None;
        self.lives[node] += 1;
    }

    /// All living nodes learn who lives.
    fn agree(&mut self) {
        let all: Vec<_> = (0..self.names.len()).collect();
        self.believe(&all, |world, node| world.nodes[node].is_some());
    }

    /// These nodes learn that those for whom `counts` holds are there.
    fn believe(&mut self, who: &[usize], counts: impl Fn(&Self, usize) -> bool) {
        let mut regions: BTreeMap<RegionName, Vec<Holder>> = BTreeMap::new();
        let mut peers = BTreeMap::new();
        for node in (0..self.names.len()).filter(|node| counts(self, *node)) {
            let name = self.names[node].clone();
            let region = RegionName::new(self.regions[node]).unwrap();
            regions.entry(region).or_default().push(Holder { name: name.clone(), zone: None });
            let life = self.lives[node].into();
            peers.insert(name, PeerState { alive: true, rtt: Some(Duration::from_millis(2)), life });
        }
        let placement = Arc::new(Placement::new(&regions, &Placement::default()));
        let now = self.now();
        for node in who {
            let me = self.names[*node].clone();
            let mut peers = peers.clone();
            peers.remove(&me);
            if let Some(replica) = &mut self.nodes[*node] {
                replica.meet(Arc::new(Mates { me, placement: placement.clone(), peers }), now);
            }
        }
    }

    fn table(&self, node: usize) -> &Table {
        &self.nodes[node].as_ref().unwrap().table
    }

    fn command(&mut self, node: usize, command: Command) -> u64 {
        self.next += 1;
        let op = self.next;
        let now = self.now();
        self.nodes[node].as_mut().unwrap().command(OpId(op), command, now);
        self.effects(node);
        op
    }

    fn run_until_done(&mut self, op: u64) -> Outcome {
        for _ in 0..100_000 {
            if let Some(outcome) = self.done.get(&op) {
                return *outcome;
            }
            self.step();
        }
        panic!("the command never ends");
    }

    fn run(&mut self, time: Duration) {
        let end = self.clock.now() + time;
        while self.clock.now() < end {
            self.step();
        }
    }

    /// The next event: something arrives, or a deadline passes.
    fn step(&mut self) {
        let next_event = self.queue.peek().map(|Reverse((at, _))| *at);
        let next_tick = self.nodes.iter().flatten().map(Replica::next_deadline).min().unwrap();
        let at = next_event.map_or(next_tick, |event| event.min(next_tick));
        // A simulated clock's wall counts whole milliseconds; moving by whole ones keeps them in step.
        self.clock.advance(at.saturating_duration_since(self.clock.now()));
        let now = self.now();
        for node in 0..self.nodes.len() {
            if let Some(replica) = &mut self.nodes[node]
                && replica.next_deadline() <= now.instant
            {
                replica.tick(now);
                self.effects(node);
            }
        }
        while let Some(Reverse((at, id))) = self.queue.peek().copied() {
            if at > now.instant {
                break;
            }
            self.queue.pop();
            let event = self.events.remove(&id).unwrap();
            self.arrive(event);
        }
    }

    fn arrive(&mut self, event: Event) {
        let now = self.now();
        match event {
            Event::Request { from, to, ask, bytes } => {
                let request = Request::decode(&bytes).unwrap();
                let Some(replica) = &mut self.nodes[to] else { return };
                self.next += 1;
                let id = ReplyId(self.next);
                let reply = replica.request(&self.names[from], request, id, now);
                if let Some(ask) = ask {
                    self.replies.insert(id, (from, self.lives[from], ask));
                }
                match reply {
                    Reply::Now(response) => self.reply(to, id, &response),
                    Reply::Later => {}
                    // The asker is told that there will be no answer.
                    Reply::Never => {
                        if let Some((asker, life, ask)) = self.replies.remove(&id) {
                            self.send(to, asker, Event::Answer { to: asker, life, ask, bytes: None });
                        }
                    }
                }
                self.effects(to);
            }
            Event::Answer { to, life, ask, bytes } => {
                if self.lives[to] != life || self.asked.remove(&(to, ask.0)) != Some(life) {
                    return;
                }
                let response = bytes.map(|bytes| Response::decode(&bytes).unwrap());
                if let Some(replica) = &mut self.nodes[to] {
                    replica.answer(ask, response, now);
                    self.effects(to);
                }
            }
        }
    }

    fn reply(&mut self, from: usize, id: ReplyId, response: &Response) {
        if let Some((to, life, ask)) = self.replies.remove(&id) {
            self.send(from, to, Event::Answer { to, life, ask, bytes: Some(response.encode()) });
        }
    }

    fn send(&mut self, from: usize, to: usize, event: Event) {
        let lost = self.rng.random_bool(self.loss);
        let cut = self.cut.contains(&(from, to)) || self.cut.contains(&(to, from));
        if !lost && !cut {
            let delay = Duration::from_millis(self.rng.random_range(1..=3));
            self.at(delay, event);
        }
    }

    fn at(&mut self, delay: Duration, event: Event) {
        self.next += 1;
        self.queue.push(Reverse((self.clock.now() + delay, self.next)));
        self.events.insert(self.next, event);
    }

    fn effects(&mut self, node: usize) {
        let effects = self.nodes[node].as_mut().map(Replica::effects).unwrap_or_default();
        let index = |names: &[NodeName], to: &NodeName| names.iter().position(|name| name == to).unwrap();
        for effect in effects {
            match effect {
                Effect::Ask { ask, to, request, timeout } => {
                    let to = index(&self.names, &to);
                    let life = self.lives[node];
                    self.asked.insert((node, ask.0), life);
                    self.at(timeout, Event::Answer { to: node, life, ask, bytes: None });
                    self.send(
                        node,
                        to,
                        Event::Request { from: node, to, ask: Some(ask), bytes: request.encode() },
                    );
                }
                Effect::Tell { to, request } => {
                    let to = index(&self.names, &to);
                    self.send(
                        node,
                        to,
                        Event::Request { from: node, to, ask: None, bytes: request.encode() },
                    );
                }
                Effect::Reply(id, response) => self.reply(node, id, &response),
                Effect::Done(op, outcome) => {
                    assert!(self.done.insert(op.0, outcome).is_none(), "a command ends once");
                }
                Effect::Save(..) => {}
            }
        }
    }

    fn record(&self, id: u16, backend: u64, node: usize) -> Record {
        let mut sid = [0xaa; 16];
        sid[..2].copy_from_slice(&id.to_be_bytes());
        let assignment = Assignment {
            hlc: self.clock.hlc(),
            node: Tag::of(self.names[node].as_str()),
            pool: Tag(1),
            backend: Some(BackendId(backend)),
            weak: false,
            forwarded: false,
        };
        let expires = (self.clock.mesh_wall().seconds() + 3600) as u32;
        Record { home: Tag::of(self.regions[node]), pin: Pin { id: SessionId(sid), assignment, expires } }
    }

    fn find(&mut self, node: usize, record: &Record) -> Option<Pin> {
        let op = self.command(node, Command::Find(record.home, record.pin.id));
        match self.run_until_done(op) {
            Outcome::Found(pin) => pin,
            other => panic!("{other:?}"),
        }
    }

    fn repin(&mut self, node: usize, record: Record, replaces: Hlc) -> u64 {
        self.command(node, Command::Repin { record, replaces })
    }

    /// Replicas of every bucket hold the same.
    fn replicas_agree(&self) -> bool {
        let living: Vec<_> = (0..self.nodes.len()).filter(|node| self.nodes[*node].is_some()).collect();
        let mates = self.nodes[living[0]].as_ref().unwrap().mates.clone();
        mates.placement.homes().all(|(home, table)| {
            (0..BUCKETS).all(|bucket| {
                let held = table.replicas(bucket).map(|name| {
                    let node = self.names.iter().position(|other| other == name).unwrap();
                    self.table(node).fingerprint(home, bucket)
                });
                held.collect::<HashSet<_>>().len() <= 1
            })
        })
    }
}

impl std::hash::Hash for crate::digest::Fingerprint {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

const EU4: [&str; 4] = ["eu-1", "eu-2", "eu-3", "eu-4"];

#[test]
fn a_commit_is_acknowledged_and_found_everywhere_after_its_maker_died() {
    let mut world = World::new(1, &["eu-1", "eu-2", "eu-3", "eu-4", "us-1", "us-2"]);
    let records: Vec<_> = (0..200).map(|n| world.record(n * 300, u64::from(n), 0)).collect();
    for record in &records {
        let op = world.command(0, Command::Commit(*record));
        assert_eq!(world.run_until_done(op), Outcome::Committed(Committed::Acknowledged));
    }
    world.run(Duration::from_millis(10));
    world.kill(0);
    for record in &records {
        for node in 1..6 {
            assert_eq!(world.find(node, record), Some(record.pin));
        }
    }
}

#[test]
fn a_commit_of_a_node_that_is_no_replica_survives_the_one_that_acknowledged() {
    let mut world = World::new(12, &["eu-1", "eu-2", "eu-3", "eu-4", "eu-5"]);
    let maker = 0;
    let is_draft = |world: &World, record: &Record| {
        let mates = &world.nodes[maker].as_ref().unwrap().mates;
        !mates.is_mine(record.home, bucket_of(&record.pin.id))
    };
    let records = (0..50).map(|n| world.record(n * 700, 1, maker)).collect::<Vec<_>>();
    let record = *records.iter().find(|record| is_draft(&world, record)).unwrap();
    let replicas: Vec<_> = (1..5)
        .filter(|node| {
            let mates = &world.nodes[*node].as_ref().unwrap().mates;
            mates.is_mine(record.home, bucket_of(&record.pin.id))
        })
        .collect();
    // Two of its replicas cannot be reached; the third has it alone and dies.
    for cut in &replicas[1..] {
        world.cut.insert((maker, *cut));
        world.cut.insert((replicas[0], *cut));
    }
    let op = world.command(maker, Command::Commit(record));
    assert_eq!(world.run_until_done(op), Outcome::Committed(Committed::Degraded), "one replica is not two");
    assert!(
        world.table(maker).find(record.home, &record.pin.id, Wall(0)).is_some(),
        "kept until all have it"
    );
    world.kill(replicas[0]);
    world.cut.clear();
    world.agree();
    world.run(Duration::from_secs(15));
    assert!(world.replicas_agree());
    assert_eq!(world.find(replicas[1], &record), Some(record.pin));
}

#[test]
fn what_was_not_acknowledged_is_delivered_when_its_replica_speaks_again() {
    let mut world = World::new(13, &["eu-1", "eu-2", "eu-3"]);
    // Nobody compares anything until the next round of repair.
    world.run(Duration::from_secs(11));
    world.cut.insert((0, 2));
    let records: Vec<_> = (0..40).map(|n| world.record(n * 900, 1, 0)).collect();
    for record in &records {
        world.command(0, Command::Commit(*record));
    }
    world.run(Duration::from_millis(1100));
    assert_eq!(world.table(2).held(), 0);
    world.cut.clear();
    world.run(Duration::from_millis(1500));
    assert_eq!(world.table(2).held(), 40, "hints do not wait for the next round");
}

#[test]
fn who_comes_back_without_its_hints_makes_the_others_compare() {
    let mut world = World::new(15, &["eu-1", "eu-2", "eu-3"]);
    // Nobody compares anything for some seconds: rounds are 9.5 to 10 s apart, and two are over.
    world.run(Duration::from_secs(13));
    world.cut.extend([(0, 1), (1, 2)]);
    let record = world.record(1, 1, 0);
    let op = world.command(0, Command::Commit(record));
    assert_eq!(world.run_until_done(op), Outcome::Committed(Committed::Acknowledged));
    // Its maker, which alone knows that eu-2 lacks it, dies with all it had and is back at once.
    world.kill(0);
    world.start(0);
    world.cut.clear();
    world.agree();
    world.run(Duration::from_secs(3));
    let held = [0, 1, 2].map(|node| world.table(node).held());
    assert_eq!(held, [1, 1, 1]);
}

#[test]
fn what_is_put_to_one_that_sees_more_of_the_mesh_goes_on_to_those_who_keep_it() {
    let mut world = World::new(16, &["us-1", "ap-1", "eu-1"]);
    world.run(Duration::from_secs(13));
    // us-1 is back and has not met ap-1, from which it borrows: it takes eu-1 for its replica.
    world.kill(0);
    world.start(0);
    world.cut.insert((0, 1));
    world.believe(&[0], |_, node| node != 1);
    let record = world.record(1, 1, 0);
    let op = world.command(0, Command::Commit(record));
    assert_eq!(world.run_until_done(op), Outcome::Committed(Committed::Acknowledged));
    world.kill(0);
    world.run(Duration::from_secs(3));
    assert_eq!(world.table(1).held(), 1, "ap-1 keeps it");
}

#[test]
fn a_replica_that_lost_its_memory_denies_nothing() {
    let mut world = World::new(14, &["eu-1", "eu-2", "eu-3"]);
    world.run(Duration::from_secs(11));
    let unknown = world.command(0, Command::Find(Tag::of("eu"), SessionId([7; 16])));
    let begun = world.clock.now();
    assert_eq!(world.run_until_done(unknown), Outcome::Found(None));
    assert!(world.clock.now() - begun < Duration::from_millis(50), "all who live have spoken");

    let record = world.record(1, 1, 0);
    world.cut.extend([(0, 2), (1, 2)]);
    let op = world.command(0, Command::Commit(record));
    assert_eq!(world.run_until_done(op), Outcome::Committed(Committed::Acknowledged));
    // The one that acknowledged is back without it and cannot be told, and who asks cannot reach the one that has it.
    world.kill(1);
    world.start(1);
    world.cut = [(0, 1), (0, 2)].into();
    world.agree();
    let op = world.command(2, Command::Find(record.home, record.pin.id));
    world.run(Duration::from_millis(700));
    assert_eq!(world.done.get(&op), None, "one replica that lacks it is too few");
    world.cut.clear();
    assert_eq!(world.run_until_done(op), Outcome::Found(Some(record.pin)));
}

#[test]
fn a_look_up_that_nobody_answers_ends() {
    let mut world = World::new(15, &["eu-1", "eu-2", "eu-3"]);
    world.run(Duration::from_secs(11));
    world.cut = [(0, 1), (0, 2), (1, 2)].into();
    let begun = world.clock.now();
    let op = world.command(0, Command::Find(Tag::of("eu"), SessionId([7; 16])));
    assert_eq!(world.run_until_done(op), Outcome::Found(None));
    let took = world.clock.now() - begun;
    assert!((FIND_MAX..FIND_MAX + Duration::from_millis(50)).contains(&took), "{took:?}");
}

#[test]
fn hints_are_forgotten_after_ten_minutes() {
    let mut world = World::new(14, &["eu-1", "eu-2"]);
    world.cut.insert((0, 1));
    world.command(0, Command::Commit(world.record(1, 1, 0)));
    let hinted = |world: &World| world.nodes[0].as_ref().unwrap().hints.len();
    world.run(Duration::from_secs(5));
    assert_eq!(hinted(&world), 1);
    world.believe(&[0], |_, node| node == 0);
    world.run(Duration::from_secs(601));
    assert_eq!(hinted(&world), 0);
}

#[test]
fn a_proposal_from_outside_of_the_home_is_held_by_a_replica_of_it() {
    let mut world = World::new(15, &["eu-1", "eu-2", "eu-3", "us-1", "us-2"]);
    let first = world.record(7, 1, 0);
    let op = world.command(0, Command::Commit(first));
    world.run_until_done(op);
    let moved = Record { home: first.home, ..world.record(7, 2, 3) };
    let op = world.repin(3, moved, first.pin.assignment.hlc);
    let Outcome::Repinned(Repinned::Committed(pin)) = world.run_until_done(op) else { panic!() };
    assert!(pin.is_at(&moved.pin));
    // The one that was asked first is gone, and nobody has noticed: the next one is asked.
    let holder = world.nodes[3].as_ref().unwrap().others(first.home, bucket_of(&first.pin.id))[0].clone();
    world.kill(world.names.iter().position(|name| *name == holder).unwrap());
    let moved = Record { home: first.home, ..world.record(7, 3, 3) };
    let op = world.repin(3, moved, pin.assignment.hlc);
    let outcome = world.run_until_done(op);
    assert!(
        matches!(outcome, Outcome::Repinned(Repinned::Committed(pin)) if pin.is_at(&moved.pin)),
        "{outcome:?}"
    );
}

#[test]
fn proposals_of_one_node_for_one_reason_share_an_election() {
    let mut world = World::new(16, &EU4);
    let first = world.record(7, 1, 0);
    let op = world.command(0, Command::Commit(first));
    world.run_until_done(op);
    let ops: Vec<_> = (0..6u64)
        .map(|n| {
            let proposal = world.record(7, 2 + n % 2, 1);
            world.repin(1, proposal, first.pin.assignment.hlc)
        })
        .collect();
    assert_eq!(world.nodes[1].as_ref().unwrap().elections.len(), 1);
    let mut chosen = HashSet::new();
    for op in ops {
        match world.run_until_done(op) {
            Outcome::Repinned(Repinned::Committed(pin) | Repinned::Superseded(pin)) => {
                chosen.insert(pin.encode())
            }
            other => panic!("{other:?}"),
        };
    }
    assert_eq!(chosen.len(), 1);
}

/// Two proposals, each with one vote, and a third replica that nobody hears: neither may be committed unless both
/// proposers come to say the same.
#[test]
fn a_vote_that_nobody_hears_divides_nothing() {
    for seed in 0..50 {
        let mut world = World::new(seed, &["eu-1", "eu-2", "eu-3"]);
        let first = world.record(7, 1, 0);
        let op = world.command(0, Command::Commit(first));
        world.run_until_done(op);
        world.run(Duration::from_millis(20));
        world.cut.insert((1, 2));
        let ops = [0usize, 1].map(|node| {
            let proposal = world.record(7, 10 + node as u64, node);
            world.repin(node, proposal, first.pin.assignment.hlc)
        });
        let mut committed = HashSet::new();
        for op in ops {
            if let Outcome::Repinned(Repinned::Committed(pin)) = world.run_until_done(op) {
                committed.insert(pin.assignment.backend);
            }
        }
        assert!(committed.len() <= 1, "seed {seed}: {committed:?}");
    }
}

#[test]
fn death_re_replicates_and_join_moves_and_hands_over() {
    let mut world = World::new(2, &EU4);
    let records: Vec<_> = (0..300).map(|n| world.record(n * 200, 1, 0)).collect();
    for record in &records {
        world.command(0, Command::Commit(*record));
    }
    world.run(Duration::from_secs(1));
    world.kill(3);
    world.agree();
    world.run(Duration::from_secs(3));
    assert!(world.replicas_agree());
    assert!((0..3).all(|node| world.table(node).held() == 300));
    world.start(3);
    world.agree();
    world.run(Duration::from_secs(15));
    assert!(world.replicas_agree());
    let held: u64 = (0..4).map(|node| world.table(node).held()).sum();
    assert_eq!(held, 900, "every record lies on exactly its three replicas");
}

#[test]
fn a_death_is_repaired_at_a_pace_and_users_do_not_wait_for_it() {
    const RECORDS: u32 = 120_000;
    let mut world = World::new(18, &EU4);
    world.run(Duration::from_secs(11));
    let now = world.now();
    for n in 0..RECORDS {
        // As agreed on long ago: in the tables of the replicas alone.
        let mut record = world.record(0, 1, 0);
        record.pin.id.0[..4].copy_from_slice(&n.wrapping_mul(0x9e37_79b9).to_be_bytes());
        record.pin.id.0[4..8].copy_from_slice(&n.to_be_bytes());
        let mates = world.nodes[0].as_ref().unwrap().mates.clone();
        for name in mates.placement.replicas(record.home, bucket_of(&record.pin.id)) {
            let node = world.names.iter().position(|other| other == name).unwrap();
            world.table(node).merge(record, now.wall);
        }
    }
    let stranger = |world: &World, n: u16| {
        let record = world.record(n, 1, 0);
        (record.home, record.pin.id)
    };
    world.run(Duration::from_secs(11));
    let kept: u64 = (0..3).map(|node| world.table(node).held()).sum();
    world.kill(3);
    world.agree();
    let moved = |world: &World| (0..3).map(|node| world.table(node).held()).sum::<u64>() - kept;
    let to_move = 3 * u64::from(RECORDS) - kept;
    let begun = world.clock.now();
    while world.clock.now() < begun + Duration::from_millis(1300) {
        world.step();
    }
    assert!(moved(&world) > 0 && moved(&world) < to_move, "{} of {to_move}", moved(&world));
    // Those who were replicas of a bucket before speak for it while the third one learns.
    for n in 0..200 {
        let (home, id) = stranger(&world, n * 327);
        let asker = usize::from(n) % 3;
        let asked = world.clock.now();
        let op = world.command(asker, Command::Find(home, id));
        assert_eq!(world.run_until_done(op), Outcome::Found(None));
        let took = world.clock.now() - asked;
        assert!(took <= Duration::from_millis(70), "{took:?} at {asker}");
    }
    let each = |world: &World| (0..3).map(|node| world.table(node).held()).min();
    while each(&world) < Some(u64::from(RECORDS)) {
        let before = (world.clock.now(), moved(&world));
        world.run(Duration::from_secs(1));
        let rate = (moved(&world) - before.1) as f64 / (world.clock.now() - before.0).as_secs_f64();
        // Three nodes at their pace, the rest of the burst, and what was under way.
        assert!(rate < 3.0 * 15_000.0 * 2.0 + 6.0 * 1000.0, "{rate} records a second");
        assert!(world.clock.now() < begun + Duration::from_secs(20), "{:?}", each(&world));
    }
    assert!(world.replicas_agree());
}

#[test]
fn all_stores_but_one_can_be_lost() {
    let mut world = World::new(3, &["eu-1", "eu-2", "eu-3"]);
    let records: Vec<_> = (0..50).map(|n| world.record(n * 1000, 1, 0)).collect();
    for record in &records {
        world.command(0, Command::Commit(*record));
    }
    world.run(Duration::from_secs(1));
    world.start(0);
    world.start(1);
    world.agree();
    world.run(Duration::from_secs(3));
    assert!((0..3).all(|node| world.table(node).held() == 50));
}

#[test]
fn a_mesh_of_one_and_of_two() {
    let mut world = World::new(4, &["eu-1", "eu-2"]);
    let record = world.record(1, 1, 0);
    let op = world.command(0, Command::Commit(record));
    assert_eq!(world.run_until_done(op), Outcome::Committed(Committed::Acknowledged));
    world.kill(1);
    let began = world.clock.now();
    let op = world.command(0, Command::Commit(world.record(2, 1, 0)));
    assert_eq!(world.run_until_done(op), Outcome::Committed(Committed::Degraded));
    assert_eq!(world.clock.now() - began, Duration::from_millis(20));
    let later = world.record(1, 2, 0);
    let op = world.repin(0, later, record.pin.assignment.hlc);
    assert!(
        matches!(world.run_until_done(op), Outcome::Repinned(Repinned::Weak(pin)) if pin.assignment.weak)
    );
    world.agree();
    let op = world.command(0, Command::Commit(world.record(3, 1, 0)));
    assert_eq!(world.run_until_done(op), Outcome::Committed(Committed::Alone));
    let op = world.repin(0, world.record(3, 2, 0), world.clock.hlc());
    assert!(matches!(world.run_until_done(op), Outcome::Repinned(Repinned::Committed(_))));
}

#[test]
fn a_home_without_nodes_makes_weak_pins_that_reach_it_later() {
    let mut world = World::new(5, &["eu-1", "eu-2", "us-1", "us-2"]);
    let record = world.record(7, 1, 0);
    world.kill(0);
    world.kill(1);
    world.agree();
    let op = world.repin(2, record, Hlc::ZERO);
    let Outcome::Repinned(Repinned::Weak(weak)) = world.run_until_done(op) else { panic!() };
    world.start(0);
    world.start(1);
    world.agree();
    world.run(Duration::from_secs(3));
    assert_eq!(world.find(0, &record), Some(weak));
    assert_eq!(world.table(2).held(), 0);
}

#[test]
fn a_home_that_comes_back_learns_where_its_sessions_went() {
    let mut world = World::new(17, &["eu-1", "eu-2", "us-1", "us-2"]);
    let first = world.record(7, 1, 0);
    let op = world.command(0, Command::Commit(first));
    world.run_until_done(op);
    let disk: Vec<_> = [0, 1].map(|node| world.table(node).find(first.home, &first.pin.id, Wall(0))).into();
    world.kill(0);
    world.kill(1);
    world.agree();
    let moved = world.record(7, 2, 2);
    let op = world.repin(2, moved, first.pin.assignment.hlc);
    let Outcome::Repinned(Repinned::Committed(pin)) = world.run_until_done(op) else { panic!() };
    let forward = Record { home: first.home, pin: pin.forwarded_to(moved.home) };
    world.command(2, Command::Keep(forward));
    // The old home comes back with what its disks had.
    for (node, pin) in disk.into_iter().enumerate() {
        world.start(node);
        world.table(node).merge(Record { home: first.home, pin: pin.unwrap() }, START);
    }
    world.agree();
    world.run(Duration::from_secs(12));
    for node in [0, 1] {
        let told = world.find(node, &first).unwrap().assignment;
        assert_eq!((told.forwarded, told.pool, told.backend), (true, moved.home, None));
    }
    assert_eq!(world.table(2).find(first.home, &first.pin.id, Wall(0)), None, "delivered, so no longer kept");
    // Who still believes in the old assignment is told as well.
    let stale = world.record(7, 1, 0);
    let op = world.repin(0, stale, first.pin.assignment.hlc);
    let outcome = world.run_until_done(op);
    assert!(
        matches!(outcome, Outcome::Repinned(Repinned::Superseded(pin)) if pin.assignment.forwarded),
        "{outcome:?}"
    );
}

#[test]
fn a_refresh_and_an_end_reach_the_replicas() {
    let mut world = World::new(6, &EU4);
    let record = world.record(7, 1, 0);
    world.command(0, Command::Commit(record));
    world.run(Duration::from_millis(50));
    let expires = record.pin.expires + 100;
    world.command(1, Command::Refresh(record.home, record.pin.id, expires));
    world.run(Duration::from_millis(50));
    for node in 0..4 {
        assert_eq!(world.find(node, &record).unwrap().expires, expires);
    }
    let ended = Assignment { hlc: world.clock.hlc(), backend: None, ..record.pin.assignment };
    world.command(2, Command::Commit(Record { pin: Pin { assignment: ended, ..record.pin }, ..record }));
    world.run(Duration::from_millis(50));
    assert_eq!(world.find(3, &record).unwrap().assignment, ended);
    world.run(Duration::from_secs(3600 + 100 + 62));
    assert_eq!(world.find(3, &record), None);
    assert!((0..4).all(|node| world.table(node).held() == 0));
}

#[test]
fn counts_add_up_over_the_mesh() {
    let mut world = World::new(7, &["eu-1", "eu-2", "eu-3", "eu-4", "us-1"]);
    for n in 0..100 {
        world.command(0, Command::Commit(world.record(n * 500, 1, 0)));
        world.command(4, Command::Commit(world.record(n * 500 + 1, 1, 4)));
    }
    world.run(Duration::from_secs(1));
    let answers_for = |replica: &Replica| {
        let filled = replica.table.buckets().into_iter();
        let mine = filled.filter(|(home, bucket)| replica.mates.is_first(*home, *bucket));
        mine.map(|(home, bucket)| replica.table.bucket_len(home, bucket)).sum::<usize>()
    };
    assert_eq!(world.nodes.iter().flatten().map(answers_for).sum::<usize>(), 200);
}

#[test]
fn a_partition_heals_to_equal_fingerprints_within_30_seconds() {
    let mut world = World::new(8, &EU4);
    for (a, b) in [(0, 2), (0, 3), (1, 2), (1, 3)] {
        world.cut.insert((a, b));
    }
    world.believe(&[0, 1], |_, node| node < 2);
    world.believe(&[2, 3], |_, node| node >= 2);
    let mut ops = Vec::new();
    for n in 0..200 {
        let (left, right) =
            (world.record(n * 150, 1, 0), world.record(n * 150 + u16::from(n % 2 == 0), 2, 2));
        ops.push(world.command(0, Command::Commit(left)));
        ops.push(world.command(2, Command::Commit(right)));
    }
    for op in ops {
        assert_eq!(world.run_until_done(op), Outcome::Committed(Committed::Acknowledged));
    }
    world.cut.clear();
    world.agree();
    world.run(Duration::from_secs(30));
    assert!(world.replicas_agree());
    let held: u64 = (0..4).map(|node| world.table(node).held()).sum();
    assert_eq!(held, 3 * 300);
}

#[test]
fn a_proposal_that_comes_late_is_told_what_holds() {
    let mut world = World::new(9, &EU4);
    let first = world.record(7, 1, 0);
    let op = world.command(0, Command::Commit(first));
    world.run_until_done(op);
    world.run(Duration::from_millis(50));
    let (moved, late) = (world.record(7, 2, 1), world.record(7, 3, 2));
    let op = world.repin(1, moved, first.pin.assignment.hlc);
    assert_eq!(world.run_until_done(op), Outcome::Repinned(Repinned::Committed(moved.pin)));
    let op = world.repin(2, late, first.pin.assignment.hlc);
    let outcome = world.run_until_done(op);
    assert!(
        matches!(outcome, Outcome::Repinned(Repinned::Superseded(pin)) if pin.assignment.backend == moved.pin.assignment.backend),
        "{outcome:?}"
    );
    world.run(Duration::from_secs(25));
    assert_eq!(world.find(3, &first).unwrap().assignment.backend, Some(BackendId(2)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Two or three nodes that meet one session at once choose one backend, and the store comes to say the same.
    #[test]
    fn a_race_has_one_winner(
        seed: u64, racers in proptest::sample::subsequence(vec![0usize, 1, 2, 3], 2..=3), dead in proptest::option::of(0usize..4),
        gaps in proptest::collection::vec(0u64..5, 3),
    ) {
        let mut world = World::new(seed, &EU4);
        let first = world.record(seed as u16, 1, 0);
        let op = world.command(0, Command::Commit(first));
        world.run_until_done(op);
        world.run(Duration::from_millis(50));
        let racers: Vec<_> = racers.into_iter().filter(|node| Some(*node) != dead).collect();
        if let Some(dead) = dead {
            world.kill(dead);
        }
        let mut ops = Vec::new();
        for (racer, gap) in racers.iter().zip(gaps) {
            let proposal = world.record(seed as u16, 10 + *racer as u64, *racer);
            ops.push(world.repin(*racer, proposal, first.pin.assignment.hlc));
            world.run(Duration::from_millis(gap));
        }
        let mut chosen = HashSet::new();
        for op in ops {
            match world.run_until_done(op) {
                Outcome::Repinned(Repinned::Committed(pin) | Repinned::Superseded(pin) | Repinned::Weak(pin)) => {
                    chosen.insert(pin.assignment.backend);
                }
                other => panic!("{other:?}"),
            }
        }
        prop_assert_eq!(chosen.len(), 1, "{:?}", chosen);
        world.agree();
        world.run(Duration::from_secs(30));
        prop_assert!(world.replicas_agree());
        let asked = racers.first().copied().unwrap_or(0);
        if Some(asked) != dead {
            let found = world.find(asked, &first).unwrap();
            prop_assert!(chosen.contains(&found.assignment.backend), "{:?} {:?}", found, chosen);
        }
    }

    /// Whatever is lost on the way, commands end in time and repair makes the replicas equal.
    #[test]
    fn loss_delays_but_never_divides(seed: u64, loss in 0.0f64..0.5) {
        let mut world = World::new(seed, &["eu-1", "eu-2", "eu-3", "eu-4", "us-1", "us-2"]);
        world.loss = loss;
        for n in 0..60u16 {
            let maker = usize::from(n) % 6;
            let record = world.record(n * 1000, 1, maker);
            let began = world.clock.now();
            let op = world.command(maker, Command::Commit(record));
            world.run_until_done(op);
            prop_assert!(world.clock.now() - began <= Duration::from_millis(20));
            if n % 3 == 0 {
                let moved = world.record(n * 1000, 2, maker);
                let op = world.repin(maker, moved, record.pin.assignment.hlc);
                let began = world.clock.now();
                world.run_until_done(op);
                prop_assert!(world.clock.now() - began <= WAIT_MAX);
            }
        }
        world.loss = 0.0;
        world.run(Duration::from_secs(30));
        prop_assert!(world.replicas_agree());
    }
}
