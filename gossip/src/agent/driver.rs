//! The one task that owns what this node knows of the mesh.
//!
//! It ends when the last [`super::Gossip`] is dropped or the node left; stopping it at any point loses nothing that peers
//! could not tell again. Everything it waits for is cancel-safe; its handlers do not wait but for chitchat's lock.

mod lane;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{broadcast, mpsc, oneshot, watch};

use super::LAST_WORDS;
use super::clocks::Clocks;
use super::control::{self, Control};
use super::distances;
use super::join::{Called, Caller, Seeds};
use super::names::{self, Newcomer};
use super::roster::Roster;
use super::sight;
use super::wishes::Wishes;
use crate::clock::{Clock, Wall};
use crate::fastlane::{self, LaneReceiver, LaneSender, LoadReport};
use crate::id::{NodeName, Tag};
use crate::liveness::{Effect, Event, Liveness};
use crate::membership::{Known, Life, Membership};
use crate::mesh::tls::Identity;
use crate::mesh::tunnel::Tunnels;
use crate::mesh::{Inbound, MemberAddr, Mesh};
use crate::peers::{Peers, PeersFile};
use crate::state::key;
use crate::state::{ClusterView, MemberState, MeshEvent, diff};

/// After a message arrived chitchat is asked what it learnt, this much later.
const SETTLE: Duration = Duration::from_millis(10);
/// Wishes that follow each other faster than this are told together.
const TELL_EVERY: Duration = Duration::from_millis(50);
const CLOCKS_EVERY: Duration = Duration::from_secs(5);
const HOUSEKEEPING_EVERY: Duration = Duration::from_secs(1);
const PEERS_EVERY: Duration = Duration::from_secs(600);
/// With more peers than this a change is told to the own region and so many others at once; gossip does the rest.
const TELL_AT_ONCE: usize = 16;

/// What the driver is made of.
pub(super) struct Parts {
    pub(super) life: Life,
    pub(super) mesh: Mesh,
    /// `None`: this node has none, as in a simulation.
    pub(super) tunnels: Option<Tunnels>,
    pub(super) identity: Arc<Identity>,
    pub(super) clock: Clock,
    pub(super) wishes: Arc<Wishes>,
    pub(super) events: broadcast::Sender<MeshEvent>,
    pub(super) reports: mpsc::Sender<LoadReport>,
    pub(super) leaving: mpsc::Receiver<oneshot::Sender<()>>,
    pub(super) peers: Peers,
    pub(super) peers_file: PeersFile,
    pub(super) seeds: Seeds,
}

/// What came of work done beside the driver.
enum Done {
    Called(Box<Called>),
    Clock(NodeName, i64),
}

pub(super) struct Driver {
    parts: Parts,
    membership: Membership,
    liveness: Liveness,
    lane: LaneSender,
    lanes: LaneReceiver,
    clocks: Clocks,
    roster: Roster,
    caller: Caller,
    clocks_at: Instant,
    housekeeping_at: Instant,
    peers_at: Instant,
    peers_dirty: bool,
    began: Instant,
    told_at: Instant,
    /// The round trips that were last told, and when.
    rtts: Arc<BTreeMap<Tag, Duration>>,
    rtts_at: Instant,
    left: bool,
    view: watch::Sender<Arc<ClusterView>>,
    words: mpsc::Receiver<NodeName>,
    lane_inbound: mpsc::Receiver<Inbound>,
    control_inbound: mpsc::Receiver<Inbound>,
    done: (mpsc::Sender<Done>, mpsc::Receiver<Done>),
}

impl Driver {
    /// Starts chitchat and makes the first view, which holds this node alone.
    pub(super) async fn start(parts: Parts) -> Result<(Self, watch::Receiver<Arc<ClusterView>>), String> {
        let (word, words) = mpsc::channel(1024);
        let own = parts.wishes.own();
        let nodes_expected = parts.peers.iter().count() + 1;
        let membership = Membership::start(
            parts.life.clone(),
            nodes_expected,
            &parts.mesh,
            &parts.clock,
            word,
            own.entries(),
        )
        .await?;
        let now = parts.clock.now();
        let me = parts.life.name.clone();
        let empty = ClusterView { me: me.clone(), members: BTreeMap::new(), isolated_since: None };
        let view = watch::Sender::new(Arc::new(empty));
        let seen = view.subscribe();
        let driver = Self {
            liveness: Liveness::new(me, own.record.region.clone(), membership.interval()),
            membership,
            lane: LaneSender::new(parts.life.generation),
            lanes: LaneReceiver::default(),
            clocks: Clocks::new(parts.mesh.clone(), parts.clock.clone(), parts.events.clone()),
            roster: Roster::default(),
            caller: Caller::new(parts.seeds.clone(), now),
            clocks_at: now + Duration::from_secs(1),
            housekeeping_at: now,
            peers_at: now,
            peers_dirty: true,
            began: now,
            told_at: now,
            rtts: Arc::default(),
            rtts_at: now,
            left: false,
            view,
            words,
            lane_inbound: parts.mesh.listen(fastlane::CHANNEL),
            control_inbound: parts.mesh.listen(control::CHANNEL),
            done: mpsc::channel(256),
            parts,
        };
        driver.publish();
        Ok((driver, seen))
    }

    pub(super) async fn run(mut self) {
        let tick = tokio::time::sleep(Duration::ZERO);
        tokio::pin!(tick);
        let mut look_at: Option<Instant> = None;
        let mut tell_at: Option<Instant> = None;
        loop {
            let look = until(look_at);
            let tell = until(tell_at);
            tokio::select! {
                Some(done) = self.parts.leaving.recv() => {
                    self.leave().await;
                    let _ = done.send(());
                    return;
                }
                reason = self.membership.ended() => self.restart(reason).await,
                () = self.parts.wishes.changed() => {
                    let soonest = self.told_at + TELL_EVERY;
                    tell_at.get_or_insert(soonest.max(self.parts.clock.now()));
                }
                () = tell => {
                    tell_at = None;
                    self.tell().await;
                }
                () = &mut tick => {
                    tick.as_mut().reset(self.next_tick().into());
                    self.tick().await;
                }
                () = look => {
                    look_at = None;
                    self.look().await;
                }
                Some(name) = self.words.recv() => {
                    self.word(&name).await;
                    look_at.get_or_insert(self.parts.clock.now() + SETTLE);
                }
                Some(inbound) = self.lane_inbound.recv() => self.lane(inbound).await,
                Some(inbound) = self.control_inbound.recv() => self.control(inbound).await,
                Some(done) = self.done.1.recv() => self.finished(done),
            }
        }
    }

    async fn tick(&mut self) {
        let now = self.parts.clock.now();
        for name in self.roster.names().cloned().collect::<Vec<_>>() {
            let up = self.parts.mesh.rtt(&name).is_some();
            self.believe(Event::Link { name: &name, up }, now).await;
        }
        self.look().await;
        self.believe(Event::Tick, now).await;
        self.membership.call();
        self.beat(now);
        self.expire(now);
        self.call(now);
        if now >= self.clocks_at {
            self.clocks_at = now + CLOCKS_EVERY;
            self.ask_clocks();
        }
        if now >= self.housekeeping_at {
            self.housekeeping_at = now + HOUSEKEEPING_EVERY;
            self.housekeeping(now);
            if self.measure(now) || self.membership.holds_back() {
                self.tell().await;
            }
        }
    }

    /// Takes the round trips to all living nodes when they are worth telling.
    fn measure(&mut self, now: Instant) -> bool {
        let alive = self.roster.names().filter(|name| self.is_alive(name));
        let rtts =
            alive.filter_map(|name| Some((Tag::of(name.as_str()), self.parts.mesh.rtt(name)?))).collect();
        let due = distances::are_news(&self.rtts, &rtts, now.saturating_duration_since(self.rtts_at));
        if due {
            (self.rtts, self.rtts_at) = (Arc::new(rtts), now);
        }
        due
    }

    async fn word(&mut self, name: &NodeName) {
        self.parts.mesh.hurry(name);
        self.believe(Event::Word(name), self.parts.clock.now()).await;
    }

    async fn control(&mut self, inbound: Inbound) {
        match inbound {
            Inbound::Exchange { from, bytes, reply } => match Control::decode(&bytes) {
                Some(Control::WallTime) => reply.send(control::encode_number(self.parts.clock.wall().0)),
                Some(Control::WhichLife) => {
                    reply.send(control::encode_number(self.membership.life().generation))
                }
                Some(Control::MayI { generation, addr }) => {
                    let newcomer = Newcomer { peer: from, generation, addr };
                    let (me, mesh) = (self.membership.life(), &self.parts.mesh);
                    names::answer(
                        newcomer,
                        me,
                        &self.roster,
                        &self.liveness,
                        mesh,
                        &self.parts.events,
                        reply,
                    );
                }
                _ => {}
            },
            Inbound::Message { from, bytes } => match Control::decode(&bytes) {
                Some(Control::Goodbye { generation }) => {
                    let event = Event::Left { name: &from.name, started: Wall(generation) };
                    self.believe(event, self.parts.clock.now()).await;
                }
                // What is believed of it does not change: only what is said of it.
                Some(Control::HandsOver) => drop(self.parts.events.send(MeshEvent::HandsOver(from.name))),
                _ => {}
            },
            Inbound::Datagram { .. } => {}
        }
    }

    /// Learns what chitchat learnt.
    async fn look(&mut self) {
        let now = self.parts.clock.now();
        let known = self.membership.known().await;
        self.liveness.expect_pulses_every(self.membership.interval());
        let update = self.roster.update(self.membership.life(), known, now);
        for twin in &update.twins {
            names::twin(self.membership.life(), twin, &self.parts.events);
        }
        for name in &update.reborn {
            self.forget_tunnels(name);
        }
        for name in &update.forgotten {
            self.believe(Event::Forgotten(name), now).await;
        }
        for life in &update.changed {
            let Some(state) = &life.state else { continue };
            let (name, started, draining) = (&life.name, Wall(life.generation), state.record.draining);
            self.believe(Event::Known { name, region: &state.record.region, started, draining }, now).await;
            self.believe(Event::Accused { by: name, who: &state.suspects }, now).await;
            if state.left {
                self.believe(Event::Left { name, started }, now).await;
            }
        }
        for name in &update.pulses {
            self.believe(Event::Pulse(name), now).await;
        }
        if !update.changed.is_empty() || !update.forgotten.is_empty() {
            self.connect();
            self.publish();
        }
    }

    /// Hands an event to liveness and carries out what follows.
    async fn believe(&mut self, event: Event<'_>, now: Instant) {
        let effects = self.liveness.handle(event, now);
        if effects.is_empty() {
            return;
        }
        for effect in &effects {
            match effect {
                Effect::Became(name, state) => {
                    // Operators read the event that follows from it.
                    tracing::debug!(peer = %name, ?state, "a member changed");
                    if matches!(state, MemberState::Dead | MemberState::Left) {
                        self.forget_tunnels(name);
                    }
                }
                Effect::Lagged(late) => {
                    let millis = late.as_millis() as u64;
                    if millis >= 1000 {
                        tracing::warn!(millis, "this node stood still and judges nobody for a moment");
                    } else {
                        tracing::debug!(millis, "this node was late and judges nobody for a moment");
                    }
                }
                Effect::Isolated | Effect::Rejoined | Effect::SuspectsChanged => {}
            }
        }
        if effects.contains(&Effect::SuspectsChanged) {
            Box::pin(self.tell()).await;
        }
        self.connect();
        self.publish();
    }

    /// Says who the members are to the mesh's links.
    fn connect(&self) {
        let gone = |name: &NodeName| {
            let state = self.liveness.state(name).map(|(state, _)| state);
            matches!(state, Some(MemberState::Dead | MemberState::Left))
        };
        let members = self.roster.iter().filter(|node| node.state.is_some() && !gone(&node.name));
        let addr = |node: &Known| MemberAddr {
            name: node.name.clone(),
            addr: node.addr,
            generation: node.generation,
        };
        self.parts.mesh.set_members(&members.map(addr).collect::<Vec<_>>());
    }

    /// Publishes this node's entries, and gossips at once when they changed.
    async fn tell(&mut self) {
        self.told_at = self.parts.clock.now();
        let own = self.parts.wishes.own();
        let mut entries = own.entries();
        entries.extend([key::suspects_entry(&self.liveness.suspects()), key::rtts_entry(&self.rtts)]);
        if self.left {
            entries.extend([key::left_entry()]);
        }
        self.parts.wishes.told(&entries);
        if self.membership.set(entries).await {
            let region =
                |node: &&Known| node.state.as_ref().is_some_and(|s| s.record.region == own.record.region);
            let alive = self.roster.iter().filter(|node| self.is_alive(&node.name));
            let (near, far): (Vec<_>, Vec<_>) = alive.partition(region);
            let room = TELL_AT_ONCE.saturating_sub(near.len()).max(4);
            let far = rand::seq::IteratorRandom::sample(far.into_iter(), &mut rand::rng(), room);
            self.membership.gossip_with(near.into_iter().chain(far).map(|node| node.addr));
        }
        self.publish();
    }

    fn is_alive(&self, name: &NodeName) -> bool {
        let state = self.liveness.state(name).map(|(state, _)| state);
        matches!(state, Some(MemberState::Alive | MemberState::Draining))
    }

    /// Makes a view and shows it when it differs.
    fn publish(&self) {
        let old = self.view.borrow().clone();
        let mut own = self.parts.wishes.own();
        own.record.started = Wall(self.membership.life().generation);
        let own = sight::own(own, self.rtts.clone(), self.left, self.began);
        let new = sight::view(&old, own, &self.roster, &self.liveness, |name| self.parts.mesh.rtt(name));
        if *old != new {
            let events = diff(&old, &new);
            self.view.send_replace(Arc::new(new));
            for event in events {
                // Fails only while nobody listens.
                let _ = self.parts.events.send(event);
            }
        }
    }

    /// Calls seeds, and peers of which chitchat knows nothing any more.
    fn call(&mut self, now: Instant) {
        let present = self.roster.iter().filter(|node| self.is_alive(&node.name)).map(|node| node.addr);
        let me = self.membership.life();
        let unknown = |name: &NodeName| *name != me.name && self.roster.get(name).is_none();
        let lost = self.parts.peers.iter().filter(|(name, _)| unknown(name)).map(|(_, addr)| addr);
        let (lost, present) = (lost.collect(), present.collect());
        if let Some(round) = self.caller.round(&self.parts.mesh, me, lost, present, now) {
            let done = self.done.0.clone();
            tokio::spawn(async move {
                let called = round.await;
                let _ = done.send(Done::Called(Box::new(called))).await;
            });
        }
    }

    fn finished(&mut self, done: Done) {
        match done {
            Done::Called(mut called) => {
                let alone = !self.roster.names().any(|name| self.is_alive(name));
                self.caller.finished(&mut called, alone, self.parts.clock.now());
                self.membership.gossip_with(called.call);
                if let Some(owner) = called.taken_by {
                    names::lost(owner, &self.parts.events);
                }
            }
            Done::Clock(name, offset) => self.clocks.measured(name, offset),
        }
    }

    fn ask_clocks(&mut self) {
        let alive = self.roster.names().filter(|name| self.is_alive(name)).cloned().collect();
        let done = self.done.0.clone();
        self.clocks.ask(alive, move |name, offset| drop(done.try_send(Done::Clock(name, offset))));
    }

    fn housekeeping(&mut self, now: Instant) {
        if let Err(error) = self.parts.identity.renew() {
            tracing::error!(%error, "the node's certificate cannot be renewed");
        }
        let roster = &self.roster;
        self.lanes.retain(|name| roster.get(name).is_some());
        let wall = self.parts.clock.wall();
        let alive = self.roster.iter().filter(|node| self.is_alive(&node.name));
        for node in alive.map(|node| (node.name.clone(), node.addr)).collect::<Vec<_>>() {
            self.peers_dirty |= self.parts.peers.seen(&node.0, node.1, wall);
        }
        if self.peers_dirty || now >= self.peers_at + PEERS_EVERY {
            self.peers_dirty = false;
            self.peers_at = now;
            self.parts.peers.forget_old(wall);
            self.parts.peers_file.write(&self.parts.peers);
        }
        self.connect();
        self.publish();
    }

    async fn restart(&mut self, reason: String) {
        tracing::error!(reason, "membership ended unexpectedly and is started again");
        let own = self.parts.wishes.own().entries();
        if let Err(error) = self.membership.restart(self.parts.clock.wall().0, own).await {
            tracing::error!(error, "membership cannot be started again, trying on");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        self.caller.hurry(self.parts.clock.now());
        self.tell().await;
    }

    /// Says goodbye, waits a moment for it to be sent, and stops everything.
    async fn leave(&mut self) {
        self.left = true;
        self.tell().await;
        let goodbye = Control::Goodbye { generation: self.membership.life().generation }.encode();
        for name in self.roster.names() {
            // A peer that cannot be told learns it from the others.
            let _ = self.parts.mesh.message(name, control::CHANNEL, goodbye.clone());
        }
        self.parts.mesh.flush(LAST_WORDS).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        self.membership.stop();
        self.parts.mesh.stop();
        if let Some(tunnels) = &self.parts.tunnels {
            tunnels.stop();
            self.parts.mesh.stopped(LAST_WORDS).await;
            tunnels.stopped(LAST_WORDS).await;
        } else {
            self.parts.mesh.stopped(LAST_WORDS).await;
        }
    }

    /// Whoever had the name is gone, and with them the connection for tunnels.
    fn forget_tunnels(&self, name: &NodeName) {
        if let Some(tunnels) = &self.parts.tunnels {
            tunnels.forget(name);
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.membership.stop();
    }
}

/// Waits until then, or for ever.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
