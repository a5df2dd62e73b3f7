//! The driver of scaling: one task that owns the meters, the trackers and the grants. Acts run beside it, one a pool.
//!
//! Aborting it is safe: what was being done is done by nobody else, and the next decision looks anew.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use gossip::clock::Clock;
use gossip::id::{NodeName, PoolName, RegionName, ZoneName};
use gossip::mesh::{Channel, Inbound, Mesh};
use gossip::state::{ClusterView, MemberState};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::MissedTickBehavior;

use super::act::{Decision, Target, Why, act};
use super::agree::{ASK, Grant, Grants, first, majority};
use super::place::{self, Spot};
use super::pulse::{Meter, Pulses, stays};
use super::target::{Step, Tracker, Verdict};
use super::wire::{self, MESSAGE_MAX_BYTES, Message};
use crate::backend::{BackendView, PoolView, Snapshot};
use crate::config::model::{Pool, Scale, ScaleTarget, ScaleVia};
use crate::discovery::Discovery;

/// Version 1: see [`super::wire`].
const CHANNEL: Channel = Channel { id: 49, name: "scale", max_bytes: MESSAGE_MAX_BYTES, queue: 256 };
/// How often load is told and looked at.
const BEAT: Duration = Duration::from_secs(1);
/// How often a backend that drains is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A backend that is to be stopped drains for so long at least: the whole mesh has heard by then.
const DRAIN_AT_LEAST: Duration = Duration::from_secs(2);

/// Takes words for operators: the kind, the pool, the text.
pub(crate) type Notes = Arc<dyn Fn(&'static str, String, String) + Send + Sync>;

/// What scaling works on.
pub(crate) struct ScaleConfig {
    pub(crate) me: NodeName,
    pub(crate) region: RegionName,
    pub(crate) zone: Option<ZoneName>,
    /// The programs that this node may run.
    pub(crate) programs: Vec<PathBuf>,
    pub(crate) snapshot: watch::Receiver<Arc<Snapshot>>,
    pub(crate) view: watch::Receiver<Arc<ClusterView>>,
    pub(crate) mesh: Mesh,
    pub(crate) discovery: Discovery,
    pub(crate) clock: Clock,
    pub(crate) notes: Notes,
}

impl fmt::Debug for ScaleConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScaleConfig").field("me", &self.me).finish_non_exhaustive()
    }
}

/// One pool as scaling sees it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ScaleState {
    pub(crate) pool: PoolName,
    pub(crate) config: Scale,
    /// Whose turn it is to act, as this node sees it.
    pub(crate) actor: Option<NodeName>,
    /// Backends that take requests, and all that are counted on.
    pub(crate) ready: u32,
    pub(crate) total: u32,
    /// How many the load asks for now.
    pub(crate) wanted: u32,
    /// What each ready backend has, in the target's unit.
    pub(crate) measured: f64,
    /// Why nothing is done though something should be.
    pub(crate) waits: Option<String>,
}

/// A handle: what is known of each pool that scales.
#[derive(Debug, Clone)]
pub(crate) struct Scaling(watch::Receiver<Arc<Vec<ScaleState>>>);

impl Scaling {
    /// The pools that scale, by name.
    pub(crate) fn states(&self) -> Arc<Vec<ScaleState>> {
        self.0.borrow().clone()
    }
}

/// Starts on the current tokio runtime.
pub(crate) fn start(config: ScaleConfig) -> (Scaling, JoinHandle<()>) {
    let (states, states_of) = watch::channel(Arc::default());
    let driver = Driver {
        inbound: config.mesh.listen(CHANNEL),
        grants: Grants::new(config.clock.now()),
        config,
        states,
        meter: Meter::default(),
        pulses: Pulses::default(),
        trackers: BTreeMap::new(),
        acting: BTreeSet::new(),
        waits: BTreeMap::new(),
        asking: JoinSet::new(),
        acts: JoinSet::new(),
    };
    (Scaling(states_of), tokio::spawn(driver.run()))
}

/// What came of asking for a number.
struct Asked {
    pool: PoolName,
    number: u64,
    verdict: Verdict,
    yes: usize,
    known: usize,
    greatest: u64,
}

struct Driver {
    config: ScaleConfig,
    inbound: mpsc::Receiver<Inbound>,
    states: watch::Sender<Arc<Vec<ScaleState>>>,
    meter: Meter,
    pulses: Pulses,
    trackers: BTreeMap<PoolName, Tracker>,
    grants: Grants,
    /// Pools for which this node asks or acts.
    acting: BTreeSet<PoolName>,
    /// Why nothing is done for a pool.
    waits: BTreeMap<PoolName, String>,
    asking: JoinSet<Asked>,
    acts: JoinSet<(PoolName, String)>,
}

impl Driver {
    async fn run(mut self) {
        let mut beats = tokio::time::interval(BEAT);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = beats.tick() => self.beat(),
                Some(inbound) = self.inbound.recv() => self.receive(inbound),
                Some(Ok(asked)) = self.asking.join_next() => self.granted(asked),
                Some(done) = self.acts.join_next() => match done {
                    Ok((pool, text)) => {
                        self.acting.remove(&pool);
                        (self.config.notes)("scale", pool.to_string(), text);
                    }
                    Err(error) => {
                        // The pool whose act it was is not known any more: all may be acted on again.
                        tracing::error!(%error, "an act of scaling ended badly");
                        self.acting.clear();
                    }
                },
            }
        }
    }

    /// Tells the load of this node, and looks at each pool whose turn it is here.
    fn beat(&mut self) {
        let now = self.config.clock.now();
        let snapshot = self.config.snapshot.borrow().clone();
        let scaled: Vec<(&Arc<PoolView>, &Scale)> =
            snapshot.pools.values().filter_map(|pool| Some((pool, pool.config.scale.as_ref()?))).collect();
        let is_scaled =
            |name: &PoolName| snapshot.pools.get(name).is_some_and(|pool| pool.config.scale.is_some());
        self.meter.keep(is_scaled);
        self.trackers.retain(|name, _| is_scaled(name));
        self.waits.retain(|name, _| is_scaled(name));
        if scaled.is_empty() {
            self.states.send_if_modified(|states| !std::mem::take(states).is_empty());
            return;
        }
        let pulses: Vec<_> = scaled.iter().map(|(pool, _)| self.meter.beat(pool, now)).collect();
        self.tell_all(&Message::Pulses(pulses.clone()));
        for pulse in pulses {
            self.pulses.take(self.config.me.clone(), pulse, now);
        }
        let mut states = Vec::new();
        for (pool, scale) in scaled {
            let name = &pool.config.name;
            let sample = self.pulses.sample(pool, now);
            let verdict = self.trackers.entry(name.clone()).or_default().look(scale, sample, now);
            let actor = self.actor(pool, scale);
            if actor.as_ref() == Some(&self.config.me) && verdict.step != Step::Stay {
                self.ask(name, verdict, now);
            }
            states.push(ScaleState {
                pool: name.clone(),
                config: scale.clone(),
                actor,
                ready: sample.ready,
                total: sample.total,
                wanted: verdict.wanted,
                measured: verdict.measured,
                waits: self.waits.get(name).cloned(),
            });
        }
        self.states.send_replace(Arc::new(states));
    }

    /// Whose turn it is: of those that live, and with Docker of those whose engine this pool has heard of.
    fn actor(&self, pool: &PoolView, scale: &Scale) -> Option<NodeName> {
        let view = self.config.view.borrow().clone();
        let living = view.members.values().filter(|member| member.state == MemberState::Alive);
        let mut living: Vec<&NodeName> = living.map(|member| &member.record.name).collect();
        if let ScaleVia::Docker(_) = scale.via {
            let engines = self.config.discovery.engines(&pool.config.name);
            living.retain(|node| engines.contains(*node));
        }
        first(&pool.config.name, living.into_iter()).cloned()
    }

    /// Asks all known nodes, this one first, for the pool's next number.
    fn ask(&mut self, pool: &PoolName, verdict: Verdict, now: Instant) {
        if self.acting.contains(pool) || !self.grants.is_free(pool, now) {
            return;
        }
        let number = self.grants.next(pool);
        if self.grants.ask(pool, number, now) != Grant::Yes {
            return;
        }
        self.acting.insert(pool.clone());
        let view = self.config.view.borrow().clone();
        // Who has left will not come back and grant something else; who is dead may.
        let known = view.members.values().filter(|member| member.state != MemberState::Left);
        let known: Vec<NodeName> = known.map(|member| member.record.name.clone()).collect();
        let peers: Vec<NodeName> = known.iter().filter(|node| **node != self.config.me).cloned().collect();
        let Some(question) = wire::encode(&Message::Ask(pool.clone(), number)) else { return };
        let (mesh, pool, known) = (self.config.mesh.clone(), pool.clone(), peers.len() + 1);
        self.asking.spawn(async move {
            let asked = peers.iter().map(|peer| mesh.exchange(peer, CHANNEL, question.clone(), ASK));
            let answers: Vec<Option<Bytes>> =
                futures_util::future::join_all(asked).await.into_iter().map(Result::ok).collect();
            let (mut yes, mut greatest) = (1, 0);
            for answer in answers.iter().flatten().filter_map(|bytes| wire::decode(bytes)) {
                match answer {
                    Message::Granted => yes += 1,
                    Message::Refused(number) => greatest = greatest.max(number),
                    _ => {}
                }
            }
            Asked { pool, number, verdict, yes, known, greatest }
        });
    }

    /// Acts, if a majority has granted the number.
    fn granted(&mut self, asked: Asked) {
        let Asked { pool, number, verdict, yes, known, greatest } = asked;
        self.grants.catch_up(&pool, greatest);
        let needed = majority(known);
        if yes < needed {
            self.acting.remove(&pool);
            let waits = format!("{yes} of {known} nodes agree, and {needed} have to");
            if self.waits.insert(pool.clone(), waits.clone()).is_none() {
                (self.config.notes)("scale", pool.to_string(), format!("pool {pool}: waits: {waits}"));
            }
            return;
        }
        self.waits.remove(&pool);
        let snapshot = self.config.snapshot.borrow().clone();
        let Some(view) = snapshot.pools.get(&pool) else {
            self.acting.remove(&pool);
            return;
        };
        let Some(scale) = view.config.scale.clone() else {
            self.acting.remove(&pool);
            return;
        };
        let decision = self.decision(view, &scale, number, verdict);
        let text = describe(&decision, scale.dry_run);
        self.tell_all(&Message::Decided(pool.clone(), number, text.clone()));
        (self.config.notes)("scale", pool.to_string(), text);
        let now = self.config.clock.now();
        if let Some(tracker) = self.trackers.get_mut(&pool) {
            tracker.acted(verdict, now);
        }
        if scale.dry_run || decision.count == 0 {
            self.acting.remove(&pool);
            return;
        }
        let doing = Doing {
            pool: view.config.clone(),
            scale,
            decision,
            programs: self.config.programs.clone(),
            discovery: self.config.discovery.clone(),
            snapshot: self.config.snapshot.clone(),
            region: self.config.region.clone(),
            clock: self.config.clock.clone(),
        };
        self.acts.spawn(doing.run());
    }

    fn decision(&self, view: &PoolView, scale: &Scale, number: u64, verdict: Verdict) -> Decision {
        let staying: Vec<&BackendView> = view.backends.iter().filter(|backend| stays(backend)).collect();
        let home = Spot { region: self.config.region.clone(), zone: self.config.zone.clone(), rack: None };
        let total = staying.len() as u32;
        let (action, place, leaving) = match verdict.step {
            Step::Remove(count) => ("remove", Vec::new(), place::remove(&staying, count)),
            Step::Add(count) => ("add", place::add(&staying, home, count), Vec::new()),
            Step::Stay => ("add", Vec::new(), Vec::new()),
        };
        let count = (place.len() + leaving.len()) as u32;
        let backends = leaving
            .iter()
            .map(|backend| Target { address: backend.config.address.to_string(), spot: Spot::of(backend) });
        let each = match scale.target {
            ScaleTarget::InFlight(each) | ScaleTarget::Requests(each) => each,
            ScaleTarget::P99(each) => each.as_secs_f64(),
        };
        let ready = view.backends.iter().filter(|backend| backend.takes_new()).count() as u32;
        Decision {
            pool: view.config.name.clone(),
            number,
            action,
            count,
            from: total,
            to: if action == "add" { total + count } else { total - count },
            place,
            backends: backends.collect(),
            why: Why { target: scale.target.as_str(), each, measured: verdict.measured, ready },
            by: self.config.me.clone(),
        }
    }

    fn receive(&mut self, inbound: Inbound) {
        let now = self.config.clock.now();
        let (from, bytes, reply) = match inbound {
            Inbound::Datagram { from, bytes } | Inbound::Message { from, bytes } => (from, bytes, None),
            Inbound::Exchange { from, bytes, reply } => (from, bytes, Some(reply)),
        };
        match (wire::decode(&bytes), reply) {
            (Some(Message::Pulses(pulses)), None) => {
                for pulse in pulses {
                    if self.trackers.contains_key(&pulse.pool) {
                        self.pulses.take(from.name.clone(), pulse, now);
                    }
                }
            }
            (Some(Message::Ask(pool, number)), Some(reply)) => {
                let is_scaled = self.trackers.contains_key(&pool);
                let grant = if is_scaled { self.grants.ask(&pool, number, now) } else { Grant::No(0) };
                let answer = match grant {
                    Grant::Yes => Message::Granted,
                    Grant::No(known) => Message::Refused(known),
                };
                if let Some(bytes) = wire::encode(&answer) {
                    reply.send(bytes);
                }
            }
            (Some(Message::Decided(pool, number, text)), None) => {
                if let Some(tracker) = self.trackers.get_mut(&pool) {
                    tracker.seen(now);
                    self.grants.learn(&pool, number, now);
                    (self.config.notes)("scale", pool.to_string(), text);
                }
            }
            _ => tracing::warn!(peer = %from.name, "a message about scaling cannot be read"),
        }
    }

    fn tell_all(&self, message: &Message) {
        let Some(bytes) = wire::encode(message) else { return };
        let view = self.config.view.borrow().clone();
        for member in view.members.values().filter(|member| member.counts()) {
            let peer = &member.record.name;
            if *peer != self.config.me
                && let Err(error) = self.config.mesh.message(peer, CHANNEL, bytes.clone())
            {
                tracing::debug!(%peer, %error, "not told about scaling");
            }
        }
    }
}

/// A decision with its numbers, in words.
fn describe(decision: &Decision, dry_run: bool) -> String {
    let Decision { pool, number, action, count, from, to, why, by, .. } = decision;
    let Why { target, each, measured, ready } = why;
    let what = match (dry_run, *action) {
        (true, action) => format!("would {action}"),
        (false, "add") => "adds".to_owned(),
        (false, _) => "removes".to_owned(),
    };
    format!(
        "pool {pool}: {by} {what} {count}, {from} to {to}: {target} is {measured:.2} each over {ready} ready, \
         {each} is wanted; decision {number}"
    )
}

/// One act.
struct Doing {
    pool: Arc<Pool>,
    scale: Scale,
    decision: Decision,
    programs: Vec<PathBuf>,
    discovery: Discovery,
    snapshot: watch::Receiver<Arc<Snapshot>>,
    region: RegionName,
    clock: Clock,
}

impl Doing {
    /// Drains what is to be stopped, does it, and says what came of it.
    async fn run(self) -> (PoolName, String) {
        let Decision { pool, number, action, .. } = &self.decision;
        let is_removal = *action == "remove";
        if is_removal {
            self.retire(true).await;
            self.drain().await;
        }
        let done = act(&self.pool, &self.scale.via, &self.programs, &self.decision).await;
        if is_removal {
            if done.is_ok() {
                self.gone().await;
            }
            self.retire(false).await;
        }
        let text = match done {
            Ok(()) => format!("pool {pool}: decision {number} is done"),
            Err(error) => format!("pool {pool}: decision {number} failed: {error}"),
        };
        (pool.clone(), text)
    }

    async fn retire(&self, on: bool) {
        for target in &self.decision.backends {
            let Ok(address) = target.address.parse() else { continue };
            if let Err(error) = self.discovery.retire(self.pool.name.clone(), address, on).await {
                tracing::warn!(%error, backend = target.address, "a backend that scaling stops is not drained");
            }
        }
    }

    /// Waits until nothing is in flight on any of them, as long as the pool drains. What nodes of other regions have in
    /// flight there is not known here, so for backends of other regions that is the whole time.
    async fn drain(&self) {
        let began = self.clock.now();
        let elsewhere = self.decision.backends.iter().any(|target| target.spot.region != self.region);
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let waited = self.clock.now().saturating_duration_since(began);
            let idle = !elsewhere
                && self.backends().iter().all(|b| b.shared.in_flight() + b.shared.elsewhere() == 0);
            if waited >= self.pool.drain.max(DRAIN_AT_LEAST) || (waited >= DRAIN_AT_LEAST && idle) {
                return;
            }
        }
    }

    /// Waits until the pool no longer has them, at most a while: then a new one at the same address is a new one.
    async fn gone(&self) {
        let began = self.clock.now();
        while !self.backends().is_empty()
            && self.clock.now().saturating_duration_since(began) < self.pool.drain + Duration::from_secs(30)
        {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Those of the decision that the pool still has.
    fn backends(&self) -> Vec<BackendView> {
        let snapshot = self.snapshot.borrow();
        let all = snapshot.pools.get(&self.pool.name).into_iter().flat_map(|pool| &pool.backends);
        let named = |backend: &&BackendView| {
            let address = backend.config.address.to_string();
            self.decision.backends.iter().any(|target| target.address == address)
        };
        all.filter(named).cloned().collect()
    }
}
