//! The driver of discovery: one task that owns the core, the sources' tasks and what waits to be told.
//!
//! It stops when the configuration's sender is gone. Aborting it is safe: the data plane keeps the last pools, peers keep
//! what they were told, and the file keeps the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use gossip::clock::{Clock, ticks};
use gossip::id::{NodeName, PoolName, RegionName, ZoneName};
use gossip::mesh::{Channel, Inbound, Mesh};
use gossip::state::ClusterView;
use rand::seq::IteratorRandom;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinHandle, JoinSet};

use super::claims::{Claim, ClaimKey, Room};
use super::core::{Core, Moment, Note, OrderError, SourceState};
use super::handle::{Discovery, Engines, Order};
use super::sources::{self, Here, Report, Reporter};
use super::wire::{self, MESSAGE_MAX_BYTES, Message};
use super::{store, wire::pieces};
use crate::config::model::{Services, SourceSpec};
use crate::registry::Current;

/// Version 1: see [`super::wire`].
const CHANNEL: Channel = Channel { id: 48, name: "backends", max_bytes: MESSAGE_MAX_BYTES, queue: 32 };
/// Changes that come within this time make one list of pools.
const COLLECT: Duration = Duration::from_millis(50);
/// Claims that are written within this time go in one message.
const TELL_EVERY: Duration = Duration::from_millis(100);
/// How often one peer is compared with.
const COMPARE_EVERY: Duration = Duration::from_secs(3);
/// How long a peer may take to answer that.
const COMPARE_TIMEOUT: Duration = Duration::from_secs(3);
/// What is known is written to disk once in so long, at most.
const WRITE_EVERY: Duration = Duration::from_secs(2);
/// Reports of sources, and orders, that wait for the task; more make the sender wait.
const QUEUE: usize = 64;

/// A node that is in no view yet.
const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Takes what operators should see.
pub(crate) type Notes = Box<dyn Fn(Note) + Send + Sync>;

/// What discovery works on.
pub(crate) struct DiscoveryConfig {
    /// This node.
    pub(crate) me: NodeName,
    /// Where it stands.
    pub(crate) region: RegionName,
    /// The zone there.
    pub(crate) zone: Option<ZoneName>,
    /// Where its admin API listens.
    pub(crate) admin: SocketAddr,
    /// The data folder.
    pub(crate) data: PathBuf,
    /// The configuration in force.
    pub(crate) current: watch::Receiver<Current>,
    /// The mesh.
    pub(crate) view: watch::Receiver<Arc<ClusterView>>,
    /// Its channels.
    pub(crate) mesh: Mesh,
    /// The clock.
    pub(crate) clock: Clock,
    /// Where words for operators go.
    pub(crate) notes: Notes,
}

impl fmt::Debug for DiscoveryConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiscoveryConfig")
            .field("me", &self.me)
            .field("region", &self.region)
            .finish_non_exhaustive()
    }
}

/// Starts on the current tokio runtime. The configuration that is returned has all backends; it has those of the file and
/// of the last run at once.
pub(crate) fn start(config: DiscoveryConfig) -> (Discovery, watch::Receiver<Current>, JoinHandle<()>) {
    let mut core = Core::new(config.me.clone(), config.admin);
    let at = moment(&config.clock);
    match store::load(&config.data) {
        Ok(claims) => drop(core.heard(Message::Tell(claims), at)),
        Err(error) => tracing::warn!(error, "what sources said before the restart cannot be read"),
    }
    let (current, effective) = watch::channel(Current::default());
    let (orders, orders_of) = mpsc::channel(QUEUE);
    let (problems, problems_of) = watch::channel(Arc::default());
    let (engines, engines_of) = watch::channel(Arc::default());
    let (room, room_of) = watch::channel(Room::default());
    let (reports, reports_of) = mpsc::channel(QUEUE);
    let mut driver = Driver {
        inbound: config.mesh.listen(CHANNEL),
        config,
        core,
        current,
        problems,
        engines,
        room,
        orders: orders_of,
        reports,
        reports_of,
        sources: BTreeMap::new(),
        outbox: BTreeMap::new(),
        told: None,
        collected: None,
        asked: JoinSet::new(),
        met: BTreeSet::new(),
        unwritten: false,
        writing: None,
    };
    driver.configure();
    driver.observe();
    driver.settle();
    (
        Discovery { orders, problems: problems_of, engines: engines_of, room: room_of },
        effective,
        tokio::spawn(driver.run()),
    )
}

fn moment(clock: &Clock) -> Moment {
    Moment { now: clock.now(), hlc: clock.hlc(), wall: clock.mesh_wall() }
}

/// A source that is followed: which one, and its task.
struct Followed {
    spec: SourceSpec,
    task: AbortHandle,
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Driver {
    config: DiscoveryConfig,
    core: Core,
    current: watch::Sender<Current>,
    problems: watch::Sender<Arc<Vec<String>>>,
    engines: watch::Sender<Arc<Engines>>,
    room: watch::Sender<Room>,
    orders: mpsc::Receiver<Order>,
    reports: mpsc::Sender<Report>,
    reports_of: mpsc::Receiver<Report>,
    inbound: mpsc::Receiver<Inbound>,
    /// By pool and by place in its list.
    sources: BTreeMap<(PoolName, usize), Followed>,
    /// What peers are still to be told.
    outbox: BTreeMap<ClaimKey, Claim>,
    /// When they were last told something.
    told: Option<Instant>,
    /// Since when the pools are behind.
    collected: Option<Instant>,
    asked: JoinSet<(NodeName, Option<Bytes>)>,
    /// The living that were compared with since they came.
    met: BTreeSet<NodeName>,
    unwritten: bool,
    writing: Option<JoinHandle<Result<(), String>>>,
}

impl Driver {
    async fn run(mut self) {
        let mut compare = ticks(COMPARE_EVERY);
        let mut write = ticks(WRITE_EVERY);
        loop {
            let due = self.due();
            let wake = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                alive = self.config.current.changed() => match alive {
                    Ok(()) => self.configure(),
                    Err(_) => return,
                },
                alive = self.config.view.changed() => match alive {
                    Ok(()) => self.observe(),
                    Err(_) => return,
                },
                Some(Report { pool, spec, said }) = self.reports_of.recv() => {
                    // A report may outlive its source.
                    if self.sources.iter().any(|((of, _), followed)| *of == pool && followed.spec == spec) {
                        self.core.answered(&pool, &spec, said, moment(&self.config.clock));
                    }
                }
                Some(order) = self.orders.recv() => self.order(order),
                Some(inbound) = self.inbound.recv() => self.receive(inbound),
                Some(Ok((peer, answer))) = self.asked.join_next() => self.answered(&peer, answer),
                _ = compare.tick() => self.compare_with_one(),
                _ = write.tick() => self.write(),
                () = wake => {}
            }
            self.catch_up();
        }
    }

    /// When there is something to do without anything new.
    fn due(&self) -> Option<Instant> {
        if let Some(since) = self.collected {
            // What else is due is looked at then.
            return Some(since + COLLECT);
        }
        let tell = (!self.outbox.is_empty()).then(|| self.told.map(|told| told + TELL_EVERY)).flatten();
        [tell, self.core.next_deadline()].into_iter().flatten().min()
    }

    /// Does what is due.
    fn catch_up(&mut self) {
        let now = self.config.clock.now();
        self.core.tick(moment(&self.config.clock));
        match self.collected {
            Some(since) if since + COLLECT <= now => self.settle(),
            None if self.core.is_stale() => self.collected = Some(now),
            _ => {}
        }
        self.gather();
        if !self.outbox.is_empty() && self.told.is_none_or(|told| told + TELL_EVERY <= now) {
            self.told = Some(now);
            let claims = std::mem::take(&mut self.outbox).into_iter().collect();
            self.tell(claims);
        }
    }

    fn settle(&mut self) {
        self.collected = None;
        self.core.settle(moment(&self.config.clock));
        self.gather();
        self.publish();
    }

    /// Takes what the core has to say.
    fn gather(&mut self) {
        let effects = self.core.take_effects();
        self.outbox.extend(effects.tell);
        self.unwritten |= effects.news;
        for note in effects.notes {
            (self.config.notes)(note);
        }
    }

    fn configure(&mut self) {
        let services = self.config.current.borrow_and_update().services.clone();
        self.core.configure(services, moment(&self.config.clock));
        self.follow_sources();
        self.gather();
        self.publish();
    }

    fn observe(&mut self) {
        let view = self.config.view.borrow_and_update().clone();
        let living: BTreeSet<NodeName> = living(&view).collect();
        self.met.retain(|node| living.contains(node));
        self.core.observe(living.clone());
        self.follow_sources();
        for peer in living {
            if peer != self.config.me && self.met.insert(peer.clone()) {
                self.compare_with(peer);
            }
        }
    }

    /// What the others are given: the configuration with all backends.
    fn publish(&self) {
        let mut next = self.config.current.borrow().clone();
        next.discovered = self.core.pools();
        self.current.send_if_modified(|present| {
            let same = present.revision == next.revision
                && Arc::ptr_eq(&present.services, &next.services)
                && Arc::ptr_eq(&present.discovered, &next.discovered);
            *present = next;
            !same
        });
        self.engines.send_replace(Arc::new(self.core.engines()));
        self.room.send_replace(self.core.room());
        let problems = self.core.sources().into_iter().filter(|state| state.node == self.config.me);
        let problems: Vec<String> = problems.filter_map(|state| problem(&state)).collect();
        self.problems.send_if_modified(|present| {
            let changed = **present != problems;
            if changed {
                *present = Arc::new(problems);
            }
            changed
        });
    }

    /// Starts the sources that are new here and stops those that are not asked here any more.
    fn follow_sources(&mut self) {
        let services: Arc<Services> = self.config.current.borrow().services.clone();
        let view = self.config.view.borrow().clone();
        let regions: BTreeSet<&RegionName> = view
            .members
            .values()
            .filter(|member| member.counts())
            .map(|member| &member.record.region)
            .chain([&self.config.region])
            .collect();
        // Where a region has no nodes, all others ask for it.
        let asked_here = |spec: &SourceSpec| {
            spec.region().is_none_or(|region| *region == self.config.region || !regions.contains(region))
        };
        let mut before = std::mem::take(&mut self.sources);
        for (pool, config) in &services.pools {
            for (at, spec) in config.sources.iter().enumerate() {
                if !asked_here(spec) {
                    self.core.stopped(pool, spec, moment(&self.config.clock));
                    continue;
                }
                let key = (pool.clone(), at);
                if let Some(same) = before.remove(&key).filter(|followed| followed.spec == *spec) {
                    self.sources.insert(key, same);
                    continue;
                }
                let reporter = Reporter { pool: pool.clone(), spec: spec.clone(), to: self.reports.clone() };
                let here = Here {
                    region: self.config.region.clone(),
                    zone: self.config.zone.clone(),
                    address: view.own().map_or(LOCALHOST, |own| own.record.mesh.ip()),
                    engine: crate::docker::socket(),
                    clock: self.config.clock.clone(),
                };
                let task = tokio::spawn(sources::follow(&here, reporter)).abort_handle();
                self.sources.insert(key, Followed { spec: spec.clone(), task });
            }
        }
    }

    fn order(&mut self, order: Order) {
        let at = moment(&self.config.clock);
        // Who has gone does not wait for the answer.
        match order {
            Order::Put(pool, found, ttl, answer) => {
                drop(answer.send(self.core.put(&pool, found, ttl, at)));
            }
            Order::Remove(pool, address, gone, answer) => {
                drop(answer.send(self.surely(|core| core.remove(&pool, address, gone, at))));
            }
            Order::Retire(pool, address, on, answer) => {
                drop(answer.send(self.surely(|core| core.retire(&pool, address, on, at))));
            }
            Order::Sources(answer) => drop(answer.send(self.core.sources())),
        }
    }

    /// An order that is refused by what the pools were a moment ago is tried again with what they are.
    fn surely(&mut self, order: impl Fn(&mut Core) -> Result<(), OrderError>) -> Result<(), OrderError> {
        let done = order(&mut self.core);
        if done.is_ok() || !self.core.is_stale() {
            return done;
        }
        self.settle();
        order(&mut self.core)
    }

    fn receive(&mut self, inbound: Inbound) {
        let (from, bytes, reply) = match inbound {
            Inbound::Datagram { from, bytes } | Inbound::Message { from, bytes } => (from, bytes, None),
            Inbound::Exchange { from, bytes, reply } => (from, bytes, Some(reply)),
        };
        let Some(message) = wire::decode(&bytes) else {
            tracing::warn!(peer = %from.name, "a message about backends cannot be read");
            return;
        };
        self.note_versions(&message);
        let answer = self.core.heard(message, moment(&self.config.clock));
        if let (Some(answer), Some(reply)) = (answer, reply)
            && let Some(bytes) = wire::encode(&fitting(answer))
        {
            reply.send(bytes);
        }
    }

    /// This node's next claim is later than all it has heard of.
    fn note_versions(&self, message: &Message) {
        if let Message::Tell(claims) | Message::Differ(claims, _) = message
            && let Some(latest) = claims.iter().map(|(_, claim)| claim.version).max()
        {
            // One too far ahead is refused by the core too.
            let _ = self.config.clock.observe(latest);
        }
    }

    fn answered(&mut self, peer: &NodeName, answer: Option<Bytes>) {
        let Some(message) = answer.as_deref().and_then(wire::decode) else {
            self.met.remove(peer);
            return;
        };
        self.note_versions(&message);
        if let Some(Message::Tell(claims)) = self.core.heard(message, moment(&self.config.clock)) {
            for piece in pieces(claims) {
                self.send(peer, piece);
            }
        }
    }

    fn compare_with_one(&mut self) {
        let view = self.config.view.borrow().clone();
        let peers = living(&view).filter(|peer| *peer != self.config.me);
        // Who has not answered yet comes first.
        let (new, known): (Vec<_>, Vec<_>) = peers.partition(|peer| !self.met.contains(peer));
        let chosen =
            if new.is_empty() { known.into_iter().choose(&mut rand::rng()) } else { new.into_iter().next() };
        if let Some(peer) = chosen {
            self.met.insert(peer.clone());
            self.compare_with(peer);
        }
    }

    fn compare_with(&mut self, peer: NodeName) {
        let Some(question) = wire::encode(&self.core.question()) else { return };
        let mesh = self.config.mesh.clone();
        self.asked.spawn(async move {
            let answer = mesh.exchange(&peer, CHANNEL, question, COMPARE_TIMEOUT).await;
            (peer, answer.ok())
        });
    }

    fn tell(&self, claims: Vec<(ClaimKey, Claim)>) {
        let view = self.config.view.borrow().clone();
        let peers: Vec<NodeName> = living(&view).filter(|peer| *peer != self.config.me).collect();
        for piece in pieces(claims) {
            for peer in &peers {
                self.send(peer, piece.clone());
            }
        }
    }

    fn send(&self, peer: &NodeName, claims: Vec<(ClaimKey, Claim)>) {
        let Some(bytes) = wire::encode(&Message::Tell(claims)) else { return };
        if let Err(error) = self.config.mesh.message(peer, CHANNEL, bytes) {
            // It is told when the two compare.
            tracing::debug!(%peer, %error, "not told about backends");
        }
    }

    /// Writes what is known, unless the last write still runs.
    fn write(&mut self) {
        if self.writing.as_ref().is_some_and(|writing| !writing.is_finished()) || !self.unwritten {
            return;
        }
        self.unwritten = false;
        let (data, claims) = (self.config.data.clone(), self.core.all());
        self.writing = Some(tokio::task::spawn_blocking(move || {
            let written = store::write(&data, claims);
            if let Err(error) = &written {
                tracing::warn!(error, "what sources said is not written; a restart would not know it");
            }
            written
        }));
    }
}

/// As much of an answer as fits into a message; the rest is found out next time.
fn fitting(answer: Message) -> Message {
    match answer {
        Message::Differ(newer, lacking) => {
            Message::Differ(pieces(newer).into_iter().next().unwrap_or_default(), lacking)
        }
        other => other,
    }
}

fn living(view: &ClusterView) -> impl Iterator<Item = NodeName> {
    view.members.values().filter(|member| member.counts()).map(|member| member.record.name.clone())
}

/// A failing source in words.
fn problem(state: &SourceState) -> Option<String> {
    let failing = state.failing.as_ref()?;
    let since = humantime::format_rfc3339_seconds(failing.since.system_time());
    let SourceState { pool, scope, backends, .. } = state;
    let kind = state.kind.as_str();
    Some(format!(
        "pool {pool}: {kind} {scope} fails since {since} ({}); its last answer stays, {backends} backends",
        failing.error
    ))
}
