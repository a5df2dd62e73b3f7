//! The driver of scaling: one task that owns the core. Questions and acts run beside it, no more than one a pool.
//!
//! Aborting it is safe: what was being done is done by nobody else, and the next decision looks anew.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gossip::clock::{Clock, ticks};
use gossip::id::{NodeName, PoolName, RegionName, ZoneName};
use gossip::mesh::{Channel, Inbound, Mesh};
use gossip::state::{ClusterView, MemberState};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinError, JoinHandle};

use super::act::{Decision, Failure, lacks};
use super::agree::ASK;
use super::core::{Answers, Core, Effect, End, Look, Nodes, Question, ScaleState, reasons};
use super::doing::{Doing, retire};
use super::jobs::Jobs;
use super::place::Spot;
use super::store::{self, Kept};
use super::wire::{self, MESSAGE_MAX_BYTES, Message, Plan};
use crate::backend::Snapshot;
use crate::config::model::ScaleVia;
use crate::discovery::{Discovery, Here};

/// Version 3: see [`super::wire`].
const CHANNEL: Channel = Channel { id: 49, name: "scale", max_bytes: MESSAGE_MAX_BYTES, queue: 256 };
/// How often load is told and looked at.
const BEAT: Duration = Duration::from_secs(1);

/// Takes words for operators: the kind, the pool, the text.
pub(crate) type Notes = Arc<dyn Fn(&'static str, String, String) + Send + Sync>;

/// What scaling works on.
pub(crate) struct ScaleConfig {
    pub(crate) me: NodeName,
    pub(crate) region: RegionName,
    pub(crate) zone: Option<ZoneName>,
    /// Where it is remembered what was started.
    pub(crate) data: PathBuf,
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

/// A handle: what is known of each pool that scales.
#[derive(Debug, Clone)]
pub(crate) struct Scaling(watch::Receiver<Arc<Vec<ScaleState>>>);

impl Scaling {
    /// What this node tried in vain, and what keeps every node from acting, in words.
    pub(crate) fn problems(&self) -> Vec<String> {
        let states = self.states();
        let problem = |state: &ScaleState| {
            let ScaleState { pool, actor, unable, failed, late, .. } = state;
            match (failed, actor) {
                (None, Some(_)) => late.as_ref().map(|late| format!("pool {pool}: {late}")),
                (Some(failed), None) => Some(format!("pool {pool} does not scale: {failed}")),
                (Some(failed), Some(actor)) => {
                    Some(format!("pool {pool}: {failed}; until this node tries again, {actor} acts"))
                }
                (None, None) => {
                    Some(format!("pool {pool} cannot scale: no node can act: {}", reasons(unable)))
                }
            }
        };
        states.iter().filter_map(problem).collect()
    }

    /// The pools that scale, by name.
    pub(crate) fn states(&self) -> Arc<Vec<ScaleState>> {
        self.0.borrow().clone()
    }
}

/// Starts on the current tokio runtime.
pub(crate) fn start(config: ScaleConfig) -> (Scaling, JoinHandle<()>) {
    let (states, states_of) = watch::channel(Arc::default());
    let home = Spot { region: config.region.clone(), zone: config.zone.clone(), rack: None };
    let mut core = Core::new(config.me.clone(), home, config.clock.now());
    let written = store::load(&config.data).unwrap_or_else(|why| {
        tracing::warn!(why, "what scaling had started before is not known");
        Vec::new()
    });
    core.remembers(written.clone(), config.clock.wall(), config.clock.now());
    let driver = Driver {
        inbound: config.mesh.listen(CHANNEL),
        core,
        written,
        writing: Jobs::new(),
        config,
        states,
        asking: Jobs::new(),
        acts: Jobs::new(),
        recalls: BTreeMap::new(),
    };
    (Scaling(states_of), tokio::spawn(driver.run()))
}

struct Driver {
    config: ScaleConfig,
    core: Core,
    inbound: mpsc::Receiver<Inbound>,
    states: watch::Sender<Arc<Vec<ScaleState>>>,
    asking: Jobs<Question, Answers>,
    acts: Jobs<Arc<Decision>, End>,
    /// What the file of [`store`] holds, once it is written; and its writer, one at a time.
    written: Vec<Kept>,
    writing: Jobs<(), Result<(), String>>,
    /// How acts are told that what they drain is needed again. No more than one a pool.
    recalls: BTreeMap<PoolName, oneshot::Sender<()>>,
}

impl Driver {
    async fn run(mut self) {
        let mut beats = ticks(BEAT);
        loop {
            tokio::select! {
                _ = beats.tick() => self.beat(),
                Some(inbound) = self.inbound.recv() => self.receive(inbound),
                Some((question, answers)) = self.asking.next() => self.asked(question, answers),
                Some((decision, end)) = self.acts.next() => self.ended(&decision, end).await,
                Some(((), written)) = self.writing.next() => self.wrote(written),
            }
            for effect in self.core.take_effects() {
                self.follow(effect);
            }
            self.keep();
        }
    }

    /// Writes down what was started and has not appeared, when that has changed.
    fn keep(&mut self) {
        if !self.writing.is_empty() {
            return;
        }
        let kept = self.core.kept(self.config.clock.wall(), self.config.clock.now());
        if kept.len() == self.written.len() && kept.iter().zip(&self.written).all(|(a, b)| a.is_like(b)) {
            return;
        }
        self.written.clone_from(&kept);
        let data = self.config.data.clone();
        self.writing.spawn((), async move {
            let written = tokio::task::spawn_blocking(move || store::write(&data, &kept)).await;
            written.unwrap_or_else(|error| Err(error.to_string()))
        });
    }

    fn wrote(&self, written: Result<Result<(), String>, JoinError>) {
        // The next change tries again.
        if let Err(why) = written.unwrap_or_else(|error| Err(error.to_string())) {
            tracing::warn!(why, "what scaling starts is not remembered over a restart");
        }
    }

    fn asked(&mut self, question: Question, answers: Result<Answers, JoinError>) {
        match answers {
            Ok(answers) => {
                let look = self.look(&question.pool);
                self.core.granted(question, answers, look, self.config.clock.now());
            }
            Err(error) => {
                tracing::error!(%error, pool = %question.pool, "asking for a decision of scaling ended badly");
                self.core.unasked(&question);
            }
        }
    }

    async fn ended(&mut self, decision: &Decision, end: Result<End, JoinError>) {
        let Decision { pool, number, .. } = decision;
        self.recalls.remove(pool);
        let end = match end {
            Ok(end) => end,
            Err(error) => {
                tracing::error!(%error, %pool, "an act of scaling ended badly");
                retire(&self.config.discovery, decision, false).await;
                let why = "it ended badly, which is a fault of this program: see the log of the node".into();
                End::Failed(Failure { why, unbegun: false })
            }
        };
        self.core.ended(pool, *number, &end, self.config.clock.now());
    }

    /// Tells the load of this node, and looks at each pool that scales.
    fn beat(&mut self) {
        let snapshot = self.config.snapshot.borrow().clone();
        let looks: Vec<Look> = snapshot.pools.keys().filter_map(|pool| self.look(pool)).collect();
        let view = self.config.view.borrow().clone();
        let names = |fits: fn(MemberState) -> bool| {
            let members = view.members.values().filter(|member| fits(member.state));
            members.map(|member| member.record.name.clone()).collect()
        };
        let nodes = Nodes {
            alive: names(|state| state == MemberState::Alive),
            known: names(|state| state != MemberState::Left),
        };
        let states = self.core.beat(&looks, &nodes, self.config.clock.now());
        self.states.send_if_modified(|before| {
            let is_news = !(before.is_empty() && states.is_empty());
            *before = Arc::new(states);
            is_news
        });
    }

    /// A pool as it is now, if it scales.
    fn look(&self, pool: &PoolName) -> Option<Look> {
        let pool = self.config.snapshot.borrow().pools.get(pool)?.clone();
        let scale = pool.config.scale.clone()?;
        let me = &self.config.me;
        let mut unable = lacks(&scale.via, &self.config.programs).err();
        let mut holdings = None;
        if let ScaleVia::Docker(_) = scale.via {
            let engines = self.config.discovery.engines(&pool.config.name);
            if !engines.contains_key(me) {
                unable = Some("no Docker Engine answers".to_owned());
            }
            holdings = Some(engines);
        }
        Some(Look { pool, scale, unable, holdings })
    }

    fn follow(&mut self, effect: Effect) {
        match effect {
            Effect::Tell(message) => self.tell_all(&message),
            Effect::Note(pool, text) => (self.config.notes)("scale", pool.to_string(), text),
            Effect::Ask(question, peers) => self.ask(question, peers),
            Effect::Recall(pool) => {
                // Once: the act knows then, or is past draining.
                if let Some(recall) = self.recalls.remove(&pool) {
                    let _ = recall.send(());
                }
            }
            Effect::Act(view, scale, decision) => {
                let own = self.config.view.borrow().own().map(|own| own.record.mesh.ip());
                let here = Here {
                    region: self.config.region.clone(),
                    zone: self.config.zone.clone(),
                    address: own.unwrap_or(Ipv4Addr::LOCALHOST.into()),
                    engine: crate::docker::socket(),
                    clock: self.config.clock.clone(),
                };
                let (sender, recall) = oneshot::channel();
                self.recalls.insert(view.config.name.clone(), sender);
                let decision = Arc::new(*decision);
                let doing = Doing {
                    pool: view.config.clone(),
                    scale,
                    decision: decision.clone(),
                    programs: self.config.programs.clone(),
                    discovery: self.config.discovery.clone(),
                    snapshot: self.config.snapshot.clone(),
                    here,
                    recall,
                };
                self.acts.spawn(decision, doing.run());
            }
        }
    }

    /// Asks these nodes for a number that this one has granted.
    fn ask(&mut self, question: Question, peers: Vec<NodeName>) {
        let Question { pool, number, verdict, .. } = &question;
        let plan = Plan { counted: verdict.counted, wanted: verdict.wanted };
        let Some(bytes) = wire::encode(&Message::Ask(pool.clone(), *number, plan)) else { return };
        let mesh = self.config.mesh.clone();
        self.asking.spawn(question, async move {
            let asked = peers.iter().map(|peer| mesh.exchange(peer, CHANNEL, bytes.clone(), ASK));
            let answers: Vec<Option<Bytes>> =
                futures_util::future::join_all(asked).await.into_iter().map(Result::ok).collect();
            let mut all = Answers { yes: 1, known: peers.len() + 1, greatest: 0, coming: None };
            for answer in answers.iter().flatten().filter_map(|bytes| wire::decode(bytes)) {
                match answer {
                    Message::Granted => all.yes += 1,
                    Message::Refused(number, coming) => {
                        (all.greatest, all.coming) = (all.greatest.max(number), all.coming.max(coming));
                    }
                    _ => {}
                }
            }
            all
        });
    }

    fn receive(&mut self, inbound: Inbound) {
        let now = self.config.clock.now();
        let (from, bytes, reply) = match inbound {
            Inbound::Datagram { from, bytes } | Inbound::Message { from, bytes } => (from, bytes, None),
            Inbound::Exchange { from, bytes, reply } => (from, bytes, Some(reply)),
        };
        match (wire::decode(&bytes), reply) {
            (Some(Message::Ask(pool, number, plan)), Some(reply)) => {
                if let Some(bytes) = wire::encode(&self.core.asked(&from.name, &pool, number, plan, now)) {
                    reply.send(bytes);
                }
            }
            (Some(message), None) => self.core.told(&from.name, message, now),
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
