//! Several machines on one simulated clock, with loss, stalls, deaths and partitions. The seed is in every message.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::clock::Clock;

struct Machine {
    name: NodeName,
    region: RegionName,
    liveness: Liveness,
    heartbeat: u64,
    heartbeats: BTreeMap<usize, u64>,
    accusations: BTreeMap<usize, Vec<(NodeName, Wall)>>,
    running: bool,
    stalled_until: u64,
    inbox: VecDeque<(u64, usize, Packet)>,
    /// When it first came to believe something of another, in milliseconds.
    changes: Vec<(u64, usize, MemberState)>,
}

#[derive(Clone)]
enum Packet {
    Lane(BTreeSet<Tag>),
    Gossip(BTreeMap<usize, u64>, BTreeMap<usize, Vec<(NodeName, Wall)>>),
}

struct Sim {
    clock: Clock,
    millis: u64,
    rng: StdRng,
    machines: Vec<Machine>,
    loss: f64,
    cut: BTreeSet<(usize, usize)>,
}

impl Sim {
    /// `regions` regions of `each` machines that all know and have heard each other.
    fn new(seed: u64, regions: usize, each: usize, loss: f64) -> Self {
        let region = |n: usize| -> RegionName { format!("r{n}").parse().unwrap() };
        let machine = |at: usize| {
            let name: NodeName = format!("n{at}").parse().unwrap();
            Machine {
                liveness: Liveness::new(name.clone(), region(at / each), Duration::ZERO),
                region: region(at / each),
                name,
                heartbeat: 1,
                heartbeats: BTreeMap::new(),
                accusations: BTreeMap::new(),
                running: true,
                stalled_until: 0,
                inbox: VecDeque::new(),
                changes: Vec::new(),
            }
        };
        let clock = Clock::simulated(Wall(0));
        let mut machines = (0..regions * each).map(machine).collect::<Vec<_>>();
        let all = machines.iter().map(|m| (m.name.clone(), m.region.clone())).collect::<Vec<_>>();
        for machine in &mut machines {
            for (name, region) in &all {
                let known = Event::Known { name, region, started: Wall(1), draining: false };
                machine.liveness.handle(known, clock.now());
                machine.liveness.handle(Event::Word(name), clock.now());
            }
        }
        Self { clock, millis: 0, rng: StdRng::seed_from_u64(seed), machines, loss, cut: BTreeSet::new() }
    }

    fn run(&mut self, millis: u64) {
        let end = self.millis + millis;
        while self.millis < end {
            self.millis += 10;
            self.clock.advance(Duration::from_millis(10));
            for at in 0..self.machines.len() {
                if self.machines[at].running && self.machines[at].stalled_until <= self.millis {
                    self.step(at);
                }
            }
        }
    }

    fn step(&mut self, at: usize) {
        let now = self.clock.now();
        let mut effects = Vec::new();
        while let Some((_, from, packet)) =
            self.machines[at].inbox.pop_front_if(|(due, ..)| *due <= self.millis)
        {
            let sender = self.machines[from].name.clone();
            let names = self.machines.iter().map(|m| m.name.clone()).collect::<Vec<_>>();
            let machine = &mut self.machines[at];
            effects.extend(machine.liveness.handle(Event::Word(&sender), now));
            match packet {
                Packet::Lane(silent) => {
                    let event = Event::Silent { by: &sender, about: &silent };
                    effects.extend(machine.liveness.handle(event, now));
                }
                Packet::Gossip(heartbeats, accusations) => {
                    for (node, beat) in heartbeats {
                        let newer = machine.heartbeats.get(&node).is_none_or(|known| *known < beat);
                        if node == at || !newer {
                            continue;
                        }
                        let first = machine.heartbeats.insert(node, beat).is_none();
                        if let Some(accusation) = accusations.get(&node) {
                            machine.accusations.insert(node, accusation.clone());
                            let event = Event::Accused { by: &names[node], who: accusation };
                            effects.extend(machine.liveness.handle(event, now));
                        }
                        if !first {
                            effects.extend(machine.liveness.handle(Event::Pulse(&names[node]), now));
                        }
                    }
                }
            }
        }
        let phase = at as u64 * 10;
        if (self.millis + phase).is_multiple_of(100) {
            effects.extend(self.machines[at].liveness.handle(Event::Tick, now));
            let silent = self.machines[at].liveness.silent(now);
            for to in 0..self.machines.len() {
                if to != at && self.machines[to].region == self.machines[at].region {
                    self.send(at, to, Packet::Lane(silent.clone()));
                }
            }
        }
        if (self.millis + phase * 3).is_multiple_of(300) || effects.contains(&Effect::SuspectsChanged) {
            let machine = &mut self.machines[at];
            machine.heartbeat += 1;
            let mut heartbeats = machine.heartbeats.clone();
            heartbeats.insert(at, machine.heartbeat);
            let mut accusations = machine.accusations.clone();
            accusations.insert(at, machine.liveness.suspects());
            let others = (0..self.machines.len()).filter(|to| *to != at).collect::<Vec<_>>();
            for to in others.sample(&mut self.rng, 3).copied().collect::<Vec<_>>() {
                self.send(at, to, Packet::Gossip(heartbeats.clone(), accusations.clone()));
            }
        }
        for effect in effects {
            if let Effect::Became(name, state) = effect {
                let who = self.machines.iter().position(|m| m.name == name).unwrap();
                self.machines[at].changes.push((self.millis, who, state));
            }
        }
    }

    fn send(&mut self, from: usize, to: usize, packet: Packet) {
        // QUIC repeats lost gossip, which costs time; a lost datagram is lost.
        let lost = self.rng.random_bool(self.loss);
        let delay = match packet {
            Packet::Lane(_) if lost => return,
            _ if lost => 250,
            _ => self.rng.random_range(0..40),
        };
        if !self.cut.contains(&(from.min(to), from.max(to))) {
            let inbox = &mut self.machines[to].inbox;
            inbox.push_back((self.millis + delay, from, packet));
            inbox.make_contiguous().sort_by_key(|(due, ..)| *due);
        }
    }

    fn deaths(&self) -> usize {
        let dead = |m: &Machine| m.changes.iter().filter(|(_, _, state)| *state == MemberState::Dead).count();
        self.machines.iter().map(dead).sum()
    }

    /// After what time each running machine held `who` for suspect.
    fn suspected_after(&self, who: usize, since: u64) -> Vec<(usize, Option<u64>)> {
        let first = |m: &Machine| {
            let mut hits =
                m.changes.iter().filter(|c| c.0 >= since && c.1 == who && c.2 == MemberState::Suspect);
            hits.next().map(|change| change.0 - since)
        };
        let running = self.machines.iter().enumerate().filter(|(_, m)| m.running);
        running.map(|(at, m)| (at, first(m))).collect()
    }

    fn all_believe(&self, who: usize, state: MemberState) -> bool {
        let mut others = self.machines.iter().enumerate().filter(|(at, m)| *at != who && m.running);
        others.all(|(_, m)| m.liveness.state(&self.machines[who].name).map(|s| s.0) == Some(state))
    }
}

#[test]
fn a_death_is_seen_in_time_everywhere() {
    for seed in 0..40 {
        let mut sim = Sim::new(seed, 3, 2, 0.0);
        sim.run(3_000);
        let since = sim.millis;
        sim.machines[1].running = false;
        sim.run(3_000);
        for (at, after) in sim.suspected_after(1, since) {
            let limit = if at == 0 { 1_000 } else { 3_000 };
            assert!(after.is_some_and(|after| after <= limit), "seed {seed}: n{at} after {after:?}");
        }
        sim.run(12_000);
        assert!(sim.all_believe(1, MemberState::Dead), "seed {seed}");
        assert_eq!(sim.deaths(), 5, "seed {seed}");
    }
}

#[test]
fn a_region_of_one_is_judged_by_its_pulse() {
    for seed in 0..40 {
        let mut sim = Sim::new(seed, 4, 1, 0.0);
        sim.run(3_000);
        let since = sim.millis;
        sim.machines[1].running = false;
        sim.run(3_000);
        for (at, after) in sim.suspected_after(1, since) {
            assert!(after.is_some_and(|after| after <= 3_000), "seed {seed}: n{at} after {after:?}");
        }
    }
}

#[test]
fn loss_and_stalls_kill_nobody() {
    for seed in 0..40 {
        let mut sim = Sim::new(seed, 3, 3, 0.05);
        for round in 0..6 {
            let stalled = (seed as usize + round) % 9;
            sim.machines[stalled].stalled_until = sim.millis + 3_000;
            sim.run(8_000);
        }
        assert_eq!(sim.deaths(), 0, "seed {seed}");
        for who in 0..9 {
            assert!(sim.all_believe(who, MemberState::Alive), "seed {seed}: n{who}");
        }
    }
}

#[test]
fn who_is_cut_off_alone_keeps_its_view_for_ten_seconds() {
    for seed in 0..20 {
        let mut sim = Sim::new(seed, 3, 2, 0.0);
        sim.run(3_000);
        sim.cut = (1..6).map(|other| (0, other)).collect();
        sim.run(9_500);
        assert!(sim.machines[0].liveness.isolated_since().is_some(), "seed {seed}");
        let unmoved = sim.machines[0].changes.is_empty();
        assert!(unmoved, "seed {seed}: {:?}", sim.machines[0].changes);
        assert!(sim.all_believe(0, MemberState::Suspect), "seed {seed}");
        sim.cut.clear();
        sim.run(3_000);
        assert!(sim.machines[0].liveness.isolated_since().is_none(), "seed {seed}");
        for who in 0..6 {
            assert!(sim.all_believe(who, MemberState::Alive), "seed {seed}: n{who}");
        }
    }
}
