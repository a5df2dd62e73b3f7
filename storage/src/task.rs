//! The driver of the replica: one task that owns it and does what its effects say.
//!
//! It lives on the control runtime, is started and stopped by [`crate::Storage`], and may be stopped at any point: what
//! it has not written the writer's thread writes, what it has not sent repair sends. Commands beyond the queue's bound
//! are refused by the face; questions beyond the channel's queue are refused by the mesh.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use gossip::clock::Clock;
use gossip::id::{NodeName, RegionName};
use gossip::state::{ClusterView, MemberState};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use crate::pin::Pin;
use crate::placement::{Holder, Placement};
use crate::replica::{AskId, Command, Effect, Mates, Now, OpId, Outcome, PeerState, Replica, Reply, ReplyId};
use crate::sessions::{Committed, Repinned, Shared};
use crate::transport::{self, Inbox, Incoming, Network, SESSIONS};
use crate::wire::{Request, Response};

/// Commands that may wait for the driver.
pub(crate) const COMMANDS_MAX: usize = 16_384;

const COMMANDS_A_TURN: usize = 1000;

/// Who waits for the end of a command.
#[derive(Debug)]
pub(crate) enum Waiter {
    /// For a commit.
    Commit(oneshot::Sender<Committed>),
    /// For a find.
    Find(oneshot::Sender<Option<Pin>>),
    /// For a re-pin.
    Repin(oneshot::Sender<Repinned>),
    /// Nobody.
    Nobody,
}

/// A command on its way to the driver.
pub(crate) type Order = (Command, Waiter);

pub(crate) struct Driver {
    pub(crate) region: RegionName,
    pub(crate) shared: Arc<Shared>,
    pub(crate) network: Network,
    pub(crate) view: watch::Receiver<Arc<ClusterView>>,
    pub(crate) orders: mpsc::Receiver<Order>,
}

impl Driver {
    /// Until `stop` changes or its sender is gone.
    pub(crate) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut inbox = self.network.listen(SESSIONS);
        let mut work = Work::new(&self);
        let mut orders = Vec::with_capacity(COMMANDS_A_TURN);
        self.look(&mut work);
        loop {
            work.do_effects();
            let clock = &self.shared.clock;
            let rest = work.replica.next_deadline().saturating_duration_since(clock.now());
            tokio::select! {
                _ = stop.changed() => return,
                count = self.orders.recv_many(&mut orders, COMMANDS_A_TURN) => {
                    if count == 0 {
                        return;
                    }
                    // What was published before an order was given holds for it.
                    if self.view.has_changed().unwrap_or(false) {
                        self.look(&mut work);
                    }
                    orders.drain(..).for_each(|order| work.order(order));
                }
                incoming = receive(&mut inbox) => work.incoming(incoming),
                Some(answered) = work.asks.join_next() => work.answered(answered),
                Ok(()) = self.view.changed() => self.look(&mut work),
                () = tokio::time::sleep(rest) => {
                    let now = work.now();
                    work.replica.tick(now);
                }
            }
        }
    }

    fn look(&mut self, work: &mut Work) {
        let view = self.view.borrow_and_update().clone();
        let before = self.shared.mates.load_full();
        let mates = Arc::new(mates(&view, &before.me, &self.region, &before.placement));
        self.shared.mates.store(mates.clone());
        let now = work.now();
        work.replica.meet(mates, now);
    }
}

/// A network that has stopped gives nothing more; the driver then ends by its stop.
async fn receive(inbox: &mut Inbox) -> Incoming {
    match inbox.recv().await {
        Some(incoming) => incoming,
        None => std::future::pending().await,
    }
}

/// What the view says of who holds what. This node always counts, in the region it was given.
pub(crate) fn mates(view: &ClusterView, me: &NodeName, region: &RegionName, before: &Placement) -> Mates {
    let mut regions: BTreeMap<RegionName, Vec<Holder>> = BTreeMap::new();
    let mut peers = BTreeMap::new();
    let zone = view.own().and_then(|own| own.record.zone.clone());
    regions.entry(region.clone()).or_default().push(Holder { name: me.clone(), zone });
    for member in view.members.values().filter(|member| member.counts() && member.record.name != *me) {
        let record = &member.record;
        let holder = Holder { name: record.name.clone(), zone: record.zone.clone() };
        regions.entry(record.region.clone()).or_default().push(holder);
        let alive = member.state != MemberState::Suspect;
        peers.insert(record.name.clone(), PeerState { alive, rtt: member.rtt, life: record.started.0 });
    }
    Mates { me: me.clone(), placement: Arc::new(Placement::new(&regions, before)), peers }
}

struct Work {
    replica: Replica,
    clock: Clock,
    shared: Arc<Shared>,
    network: Network,
    asks: JoinSet<(AskId, Option<Response>)>,
    waiters: HashMap<OpId, Waiter>,
    next_op: u64,
    /// Other nodes' questions that are answered later, each within [`crate::replica::WAIT_MAX`].
    replies: HashMap<ReplyId, transport::Reply>,
    next_reply: u64,
}

impl Work {
    fn new(driver: &Driver) -> Self {
        let shared = driver.shared.clone();
        let clock = shared.clock.clone();
        let now = Now { instant: clock.now(), wall: clock.mesh_wall(), hlc: clock.hlc() };
        let me = shared.mates.load().me.clone();
        Self {
            replica: Replica::new(me, shared.table.clone(), shared.counters.clone(), now),
            clock,
            shared,
            network: driver.network.clone(),
            asks: JoinSet::new(),
            waiters: HashMap::new(),
            next_op: 0,
            replies: HashMap::new(),
            next_reply: 0,
        }
    }

    fn now(&self) -> Now {
        // Records from too far ahead are refused before they count as seen.
        let _ = self.clock.observe(self.replica.seen());
        Now { instant: self.clock.now(), wall: self.clock.mesh_wall(), hlc: self.clock.hlc() }
    }

    fn order(&mut self, (command, waiter): Order) {
        let op = OpId(self.next_op);
        self.next_op += 1;
        if !matches!(waiter, Waiter::Nobody) {
            self.waiters.insert(op, waiter);
        }
        let now = self.now();
        self.replica.command(op, command, now);
    }

    fn incoming(&mut self, incoming: Incoming) {
        let Ok(request) = Request::decode(&incoming.bytes) else {
            tracing::warn!(peer = %incoming.from, "a message about sessions cannot be read");
            return;
        };
        let now = self.now();
        let id = ReplyId(self.next_reply);
        self.next_reply += 1;
        match (self.replica.request(&incoming.from, request, id, now), incoming.reply) {
            (Reply::Now(response), Some(reply)) => reply(response.encode()),
            (Reply::Later, Some(reply)) => drop(self.replies.insert(id, reply)),
            // Dropping the other end refuses.
            _ => {}
        }
    }

    fn answered(&mut self, answered: Result<(AskId, Option<Response>), tokio::task::JoinError>) {
        // A task that asks neither panics nor is aborted while the driver runs.
        if let Ok((ask, response)) = answered {
            let now = self.now();
            self.replica.answer(ask, response, now);
        }
    }

    fn do_effects(&mut self) {
        for effect in self.replica.effects() {
            match effect {
                Effect::Ask { ask, to, request, timeout } => {
                    let answer = self.network.ask(&to, SESSIONS, request.encode(), timeout);
                    self.asks.spawn(async move {
                        let response = answer.await.and_then(|bytes| Response::decode(&bytes).ok());
                        (ask, response)
                    });
                }
                Effect::Tell { to, request } => self.network.tell(&to, SESSIONS, request.encode()),
                Effect::Reply(id, response) => {
                    if let Some(reply) = self.replies.remove(&id) {
                        reply(response.encode());
                    }
                }
                Effect::Done(op, outcome) => self.done(op, outcome),
                Effect::Save(home, id) => self.shared.writer.save(home, id),
            }
        }
    }

    /// Who no longer waits need not know: the sends may fail.
    fn done(&mut self, op: OpId, outcome: Outcome) {
        match (self.waiters.remove(&op), outcome) {
            (Some(Waiter::Commit(waiter)), Outcome::Committed(committed)) => drop(waiter.send(committed)),
            (Some(Waiter::Find(waiter)), Outcome::Found(found)) => drop(waiter.send(found)),
            (Some(Waiter::Repin(waiter)), Outcome::Repinned(repinned)) => drop(waiter.send(repinned)),
            _ => {}
        }
    }
}
