//! The run of one scenario: events in order of time, until everything is healed and agreed or a promise is broken.

mod users;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::Duration;

use bytes::Bytes;
use gossip::clock::Hlc;
use gossip::id::{SessionId, Tag};
use storage::plant::Plants;
use storage::replica::{AskId, Effect, Reply, ReplyId};
use storage::table::Record;
use storage::wire::{Request, Response};

use crate::beliefs::{Belief, LOOK};
use crate::ledger::{Ledger, Violation};
use crate::network::Network;
use crate::node::Node;
use crate::scenario::{AGREE, HEAL, Scenario, Step};

/// How often a disk is flushed.
const FLUSH: Duration = Duration::from_millis(50);

/// What a run was like.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// Events that were handled.
    pub events: u64,
    /// Commands that ended as they should.
    pub acknowledged: u64,
    /// Moves that were committed.
    pub committed: u64,
    /// Commands that ended without others.
    pub degraded: u64,
    /// Proposals that met a newer assignment.
    pub superseded: u64,
    /// Sessions that got a new home while nobody of their own could be reached.
    pub forwarded: u64,
    /// Users whom the old home sent on to the new one.
    pub followed: u64,
}

enum Event {
    Request { from: usize, life: u32, to: usize, ask: Option<AskId>, bytes: Bytes },
    Answer { to: usize, life: u32, ask: AskId, bytes: Option<Bytes> },
    Tick { node: usize, life: u32 },
    Flush,
    Look,
    Step(usize),
    Heal,
    Settled,
}

/// A command under way.
#[derive(Debug, Clone)]
struct Op {
    node: usize,
    life: u32,
    session: usize,
    record: Record,
    replaces: Hlc,
    begun: Duration,
    /// The home that the session has left with this, since nobody of it can be reached.
    former: Option<Tag>,
    /// What is asked for was promised and lies somewhere.
    owed: bool,
}

#[derive(Debug, Clone)]
struct Session {
    id: SessionId,
    life: Duration,
    cookies: Vec<Cookie>,
}

/// What a user was told of a session.
#[derive(Debug, Clone, Copy)]
struct Cookie {
    home: Tag,
    assigned: Hlc,
}

struct World<'a> {
    scenario: &'a Scenario,
    plant: &'a dyn Fn(&Plants),
    at: Duration,
    nodes: Vec<Node>,
    network: Network,
    ledger: Ledger,
    sessions: Vec<Session>,
    ops: BTreeMap<u64, Op>,
    asked: BTreeSet<(usize, u32, AskId)>,
    replies: BTreeMap<ReplyId, (usize, u32, AskId)>,
    queue: BinaryHeap<Reverse<(Duration, u64)>>,
    events: BTreeMap<u64, Event>,
    next: u64,
    tally: Tally,
    healed: bool,
    /// Something was broken then, for the last time so far.
    uneasy: Duration,
    /// The same, but that messages may be lost or late.
    unsteady: Duration,
}

/// Runs a scenario; `plant` may plant a bug.
///
/// # Errors
/// The first promise that was broken.
pub fn run(scenario: &Scenario, plant: &dyn Fn(&Plants)) -> Result<Tally, Violation> {
    World::new(scenario, plant).run()
}

impl<'a> World<'a> {
    fn new(scenario: &'a Scenario, plant: &'a dyn Fn(&Plants)) -> Self {
        let all = scenario.nodes.len();
        let nodes = scenario.nodes.iter().zip(&scenario.skew).map(|(name, skew)| Node::new(name, all, *skew));
        let regions = scenario.nodes.iter().map(|name| crate::beliefs::region_of(name).to_string()).collect();
        let session =
            |user: &crate::scenario::User| Session { id: user.id, life: user.life, cookies: Vec::new() };
        Self {
            scenario,
            plant,
            at: Duration::ZERO,
            nodes: nodes.collect(),
            network: Network::new(scenario.mood, regions, scenario.seed),
            ledger: Ledger::default(),
            sessions: scenario.users.iter().map(session).collect(),
            ops: BTreeMap::new(),
            asked: BTreeSet::new(),
            replies: BTreeMap::new(),
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            next: 0,
            tally: Tally::default(),
            healed: false,
            uneasy: Duration::ZERO,
            unsteady: Duration::ZERO,
        }
    }

    fn run(mut self) -> Result<Tally, Violation> {
        for node in 0..self.nodes.len() {
            self.start(node);
        }
        for (index, (at, _)) in self.scenario.steps.iter().enumerate() {
            self.push(*at, Event::Step(index));
        }
        self.push(FLUSH, Event::Flush);
        self.push(Duration::ZERO, Event::Look);
        self.push(HEAL, Event::Heal);
        while let Some(Reverse((at, key))) = self.queue.pop() {
            self.at = at;
            let Some(event) = self.events.remove(&key) else { continue };
            self.tally.events += 1;
            if matches!(event, Event::Settled) {
                if self.ledger.settled(at, &mut self.nodes)? {
                    return self.end();
                }
                if at >= HEAL + AGREE {
                    let what = format!("{} s after everything works the replicas differ", AGREE.as_secs());
                    return Err(Violation { rule: "equal", what, at });
                }
                self.push(at + Duration::from_secs(1), Event::Settled);
            } else {
                self.handle(event)?;
            }
        }
        unreachable!("a run ends when it is settled or not")
    }

    fn end(self) -> Result<Tally, Violation> {
        let forgotten = self.ops.values().find(|op| {
            let node = &self.nodes[op.node];
            node.life == op.life && op.begun + Duration::from_secs(1) < self.at
        });
        match forgotten {
            Some(op) => {
                let what = format!("a command about session {} at {:?} never ended", op.session, op.begun);
                Err(Violation { rule: "in time", what, at: self.at })
            }
            None => Ok(self.tally),
        }
    }

    fn push(&mut self, at: Duration, event: Event) {
        self.next += 1;
        self.queue.push(Reverse((at, self.next)));
        self.events.insert(self.next, event);
    }

    fn handle(&mut self, event: Event) -> Result<(), Violation> {
        match event {
            Event::Request { from, life, to, ask, bytes } => {
                if self.is_paused(to) {
                    let event = Event::Request { from, life, to, ask, bytes };
                    self.push(self.nodes[to].paused_until, event);
                    return Ok(());
                }
                self.request(from, life, to, ask, &bytes)?;
            }
            Event::Answer { to, life, ask, bytes } => {
                if self.is_paused(to) {
                    self.push(self.nodes[to].paused_until, Event::Answer { to, life, ask, bytes });
                    return Ok(());
                }
                if self.nodes[to].life != life || !self.asked.remove(&(to, life, ask)) {
                    return Ok(());
                }
                let response =
                    bytes.map(|bytes| Response::decode(&bytes).expect("replicas write what they read"));
                let now = self.nodes[to].now(self.at);
                if let Some(replica) = &mut self.nodes[to].replica {
                    replica.answer(ask, response, now);
                }
                self.effects(to)?;
            }
            Event::Tick { node, life } => {
                let state = &mut self.nodes[node];
                if state.life != life || state.tick_at != self.at {
                    return Ok(());
                }
                if self.is_paused(node) {
                    self.nodes[node].tick_at = self.nodes[node].paused_until;
                    self.push(self.nodes[node].paused_until, Event::Tick { node, life });
                    return Ok(());
                }
                self.nodes[node].tick_at = Duration::MAX;
                let now = self.nodes[node].now(self.at);
                if let Some(replica) = &mut self.nodes[node].replica {
                    replica.tick(now);
                }
                self.effects(node)?;
            }
            Event::Flush => {
                let at = self.at;
                self.nodes.iter_mut().filter(|node| node.paused_until <= at).for_each(|node| node.flush(at));
                self.push(at + FLUSH, Event::Flush);
            }
            Event::Look => {
                self.look()?;
                self.feel();
                if self.uneasy < self.at {
                    self.ledger.repaired(self.uneasy, self.at, &self.nodes)?;
                }
                self.push(self.at + LOOK, Event::Look);
            }
            Event::Step(index) if !self.healed => {
                self.step(&self.scenario.steps[index].1)?;
                self.feel();
            }
            Event::Step(_) | Event::Settled => {}
            Event::Heal => {
                self.healed = true;
                self.network.mend();
                self.network.mood = self.network.mood.healed();
                for node in 0..self.nodes.len() {
                    self.nodes[node].paused_until = self.at;
                    self.start(node);
                }
                self.push(self.at + Duration::from_secs(3), Event::Settled);
            }
        }
        Ok(())
    }

    fn is_paused(&self, node: usize) -> bool {
        self.nodes[node].paused_until > self.at
    }

    fn request(
        &mut self,
        from: usize,
        life: u32,
        to: usize,
        ask: Option<AskId>,
        bytes: &[u8],
    ) -> Result<(), Violation> {
        let request = Request::decode(bytes).expect("replicas write what they read");
        let (name, now) = (self.nodes[from].name.clone(), self.nodes[to].now(self.at));
        let Some(replica) = &mut self.nodes[to].replica else { return Ok(()) };
        self.next += 1;
        let id = ReplyId(self.next);
        let reply = replica.request(&name, request, id, now);
        if let Some(ask) = ask {
            self.replies.insert(id, (from, life, ask));
        }
        if let Reply::Now(response) = reply {
            self.reply(to, id, &response);
        }
        self.effects(to)
    }

    fn reply(&mut self, from: usize, id: ReplyId, response: &Response) {
        let Some((to, life, ask)) = self.replies.remove(&id) else { return };
        let bytes = response.encode();
        for delay in self.network.fates(self.at, from, to, &bytes) {
            self.push(self.at + delay, Event::Answer { to, life, ask, bytes: Some(bytes.clone()) });
        }
    }

    /// Does what the replica of `node` wants done, and notes when it wants to be called.
    fn effects(&mut self, node: usize) -> Result<(), Violation> {
        let effects = self.nodes[node].replica.as_mut().map(|replica| replica.effects()).unwrap_or_default();
        let life = self.nodes[node].life;
        for effect in effects {
            match effect {
                Effect::Ask { ask, to, request, timeout } => {
                    self.asked.insert((node, life, ask));
                    self.push(self.at + timeout, Event::Answer { to: node, life, ask, bytes: None });
                    self.send(node, self.index(&to), Some(ask), &request);
                }
                Effect::Tell { to, request } => self.send(node, self.index(&to), None, &request),
                Effect::Reply(id, response) => self.reply(node, id, &response),
                Effect::Done(op, outcome) => self.done(op, outcome)?,
                Effect::Save(home, id) => self.nodes[node].save(home, id),
            }
        }
        if let Some(deadline) = self.nodes[node].deadline(self.at)
            && deadline < self.nodes[node].tick_at
        {
            self.nodes[node].tick_at = deadline;
            self.push(deadline, Event::Tick { node, life });
        }
        Ok(())
    }

    fn send(&mut self, from: usize, to: usize, ask: Option<AskId>, request: &Request) {
        let (life, bytes) = (self.nodes[from].life, request.encode());
        for delay in self.network.fates(self.at, from, to, &bytes) {
            let bytes = bytes.clone();
            self.push(self.at + delay, Event::Request { from, life, to, ask, bytes });
        }
    }

    fn index(&self, name: &gossip::id::NodeName) -> usize {
        self.nodes.iter().position(|node| node.name == *name).expect("replicas speak to members alone")
    }

    /// Who hears whom, and what that makes them believe.
    fn look(&mut self) -> Result<(), Violation> {
        let all = self.nodes.len();
        let awake = |node: &Node| node.is_up() && node.paused_until <= self.at;
        let linked = |a: usize, b: usize| {
            awake(&self.nodes[a]) && awake(&self.nodes[b]) && self.network.is_linked(a, b)
        };
        let mut hears: Vec<Vec<bool>> =
            (0..all).map(|a| (0..all).map(|b| a != b && linked(a, b)).collect()).collect();
        if self.scenario.hearsay {
            for via in 0..all {
                for a in 0..all {
                    for b in 0..all {
                        hears[a][b] |= a != b && hears[a][via] && hears[via][b];
                    }
                }
            }
        }
        let lives: Vec<u32> = self.nodes.iter().map(|node| node.life).collect();
        for (node, hears) in hears.iter().enumerate() {
            let state = &mut self.nodes[node];
            if state.is_up() && state.paused_until <= self.at && state.beliefs.look(self.at, hears, &lives) {
                state.meet(self.at, self.scenario.nodes, |other| self.network.rtt(node, other));
                self.effects(node)?;
            }
        }
        Ok(())
    }

    fn start(&mut self, node: usize) {
        if !self.nodes[node].is_up() {
            self.nodes[node].start(self.at, self.scenario.nodes.len(), self.plant);
            let deadline = self.nodes[node].deadline(self.at).unwrap_or(self.at);
            self.nodes[node].tick_at = deadline;
            self.push(deadline, Event::Tick { node, life: self.nodes[node].life });
        }
    }

    fn step(&mut self, step: &Step) -> Result<(), Violation> {
        match *step {
            Step::Crash { node } => self.crash(node)?,
            Step::CrashTogether(ref fallen) => {
                let owed = self.ledger.before_fall(fallen, &self.nodes);
                fallen.iter().try_for_each(|node| self.crash(*node))?;
                self.ledger.fallen(&owed, self.at, &self.nodes)?;
            }
            Step::Start { node } => self.start(node),
            Step::StartEmpty { node } => {
                if !self.nodes[node].is_up() {
                    self.nodes[node].wipe();
                    self.ledger.wiped(&self.nodes);
                    self.start(node);
                }
            }
            Step::Pause { node, time } => self.nodes[node].paused_until = self.at + time,
            Step::Cut(ref ways) => self.network.cut(ways),
            Step::Mend => self.network.mend(),
            Step::New { session, node, .. }
            | Step::Move { session, node, .. }
            | Step::Refresh { session, node }
            | Step::End { session, node }
            | Step::Find { session, node } => {
                // Users of a node that does not answer go elsewhere or wait.
                if self.nodes[node].is_up() && !self.is_paused(node) {
                    self.use_session(step, session, node)?;
                }
            }
        }
        Ok(())
    }

    fn crash(&mut self, node: usize) -> Result<(), Violation> {
        if !self.nodes[node].is_up() {
            return Ok(());
        }
        let held = self.ledger.before_crash(node, &self.nodes);
        self.nodes[node].crash();
        self.ledger.crashed(node, &held, self.at, &self.nodes)
    }

    /// Whether all is well: everybody runs, hears and believes in everybody, and no message is lost or late.
    fn feel(&mut self) {
        let well = |node: &Node| {
            let believes = |(other, belief): (usize, &Belief)| {
                self.nodes[other].text == node.text || *belief == Belief::Alive
            };
            node.is_up()
                && node.paused_until <= self.at
                && node.beliefs.now().iter().enumerate().all(believes)
        };
        let well = self.nodes.iter().all(well);
        if !self.network.is_whole() || !well {
            self.unsteady = self.at;
        }
        if !self.network.is_sound() || !well {
            self.uneasy = self.at;
        }
    }
}
