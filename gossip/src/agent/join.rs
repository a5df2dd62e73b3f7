//! Finding the mesh: seeds, peers of earlier days, and the question whether this node's name is free.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use rand::seq::IteratorRandom;

use super::control::{self, Control};
use crate::id::NodeName;
use crate::membership::Life;
use crate::mesh::Mesh;
use crate::peers::Peers;

/// How long a start waits for the first answer.
const FIRST_ANSWER: Duration = Duration::from_millis(1200);
/// How long it then waits for others.
const OTHER_ANSWERS: Duration = Duration::from_millis(200);
/// More seeds than this are not called in one round.
const MAX_CALLS: usize = 64;
/// So many lost peers are called in one round, others in the next.
const MAX_LOST: usize = 16;
/// More addresses than this are not remembered to have answered.
const MAX_ASKED: usize = 4096;
/// How often seeds and lost peers are called.
const CALL_EVERY: Duration = Duration::from_secs(5);
/// How often before the first of them is found: after once, twice, ... so long.
const CALL_EVERY_ALONE: Duration = Duration::from_millis(200);
const RESOLVE_AGAIN: Duration = Duration::from_secs(30);

/// The seeds as given: `HOST:PORT`.
#[derive(Debug, Clone)]
pub(super) struct Seeds {
    names: Vec<String>,
}

/// Why a name is not free: the name and where its owner is.
type Taken = (NodeName, SocketAddr);

impl Seeds {
    pub(super) fn new(names: Vec<String>) -> Self {
        Self { names }
    }

    async fn resolve(&self) -> BTreeSet<SocketAddr> {
        let mut addrs = BTreeSet::new();
        for name in &self.names {
            if let Ok(addr) = name.parse() {
                addrs.insert(addr);
                continue;
            }
            match tokio::time::timeout(Duration::from_secs(3), tokio::net::lookup_host(name)).await {
                Ok(Ok(found)) => addrs.extend(found.take(16)),
                Ok(Err(error)) => tracing::warn!(seed = name, %error, "cannot resolve a seed, trying on"),
                Err(_) => tracing::warn!(seed = name, "resolving a seed takes too long, trying on"),
            }
        }
        addrs
    }

    /// Asks seeds and known peers whether the name is free. Nobody answering means yes, for now.
    pub(super) async fn ask_for_name(&self, mesh: &Mesh, life: &Life, peers: &Peers) -> Result<(), Taken> {
        let asking = async {
            let mut addrs = self.resolve().await;
            addrs.extend(peers.iter().filter(|(name, _)| **name != life.name).map(|(_, addr)| addr));
            addrs.remove(&life.advertise);
            let addrs = addrs.into_iter().take(MAX_CALLS);
            let mut answers = addrs.map(|addr| ask(mesh, life, addr)).collect::<FuturesUnordered<_>>();
            let mut answered = false;
            loop {
                let patience = if answered { OTHER_ANSWERS } else { FIRST_ANSWER };
                match tokio::time::timeout(patience, answers.next()).await {
                    Ok(Some(Some(Some(by)))) => return Err((life.name.clone(), by)),
                    Ok(Some(Some(None))) => answered = true,
                    Ok(Some(None)) => {}
                    Ok(None) | Err(_) => return Ok(()),
                }
            }
        };
        tokio::time::timeout(FIRST_ANSWER, asking).await.unwrap_or(Ok(()))
    }
}

/// Who has the name, according to whoever is at `addr`; `None` without an answer.
async fn ask(mesh: &Mesh, life: &Life, addr: SocketAddr) -> Option<Option<SocketAddr>> {
    let question = Control::MayI { generation: life.generation, addr: life.advertise }.encode();
    let (_, answer) = mesh.exchange_with_addr(addr, control::CHANNEL, &question, FIRST_ANSWER).await?;
    control::decode_owner(&answer)
}

/// Calls everybody who ought to be in the mesh and is not, round after round, beside the driver.
#[derive(Debug)]
pub(super) struct Caller {
    seeds: Seeds,
    resolved: Option<(Instant, BTreeSet<SocketAddr>)>,
    /// Addresses that have answered the question for the name.
    asked: BTreeSet<SocketAddr>,
    calling: bool,
    next: Instant,
    rounds_alone: u32,
}

/// What a round found.
#[derive(Debug)]
pub(super) struct Called {
    resolved: Option<(Instant, BTreeSet<SocketAddr>)>,
    answered: BTreeSet<SocketAddr>,
    /// Whom to gossip with now.
    pub(super) call: BTreeSet<SocketAddr>,
    /// The name turned out to be another's.
    pub(super) taken_by: Option<SocketAddr>,
}

impl Caller {
    pub(super) fn new(seeds: Seeds, now: Instant) -> Self {
        Self { seeds, resolved: None, asked: BTreeSet::new(), calling: false, next: now, rounds_alone: 0 }
    }

    /// Starts a round when one is due: whom it shall call are the seeds and the `lost` peers, but for those `present`.
    pub(super) fn round(
        &mut self,
        mesh: &Mesh,
        life: &Life,
        lost: BTreeSet<SocketAddr>,
        present: BTreeSet<SocketAddr>,
        now: Instant,
    ) -> Option<impl Future<Output = Called> + Send + use<>> {
        if self.calling || now < self.next {
            return None;
        }
        self.calling = true;
        let stale = |(at, _): &(Instant, _)| now.saturating_duration_since(*at) > RESOLVE_AGAIN;
        let resolved = self.resolved.take().filter(|resolved| !stale(resolved));
        let (mesh, life, seeds, asked) = (mesh.clone(), life.clone(), self.seeds.clone(), self.asked.clone());
        let lost = lost.into_iter().sample(&mut rand::rng(), MAX_LOST);
        Some(async move {
            let (at, seeds) = match resolved {
                Some(resolved) => resolved,
                None => (now, seeds.resolve().await),
            };
            let wanted = seeds.iter().copied().take(MAX_CALLS).chain(lost);
            let call = wanted.filter(|addr| *addr != life.advertise && !present.contains(addr));
            let call = call.collect::<BTreeSet<_>>();
            let unasked = call.difference(&asked).copied();
            let asking = unasked.map(|addr| {
                let (mesh, life) = (&mesh, &life);
                async move { (addr, ask(mesh, life, addr).await) }
            });
            let answers = asking.collect::<FuturesUnordered<_>>().collect::<Vec<_>>().await;
            let answered =
                answers.iter().filter(|(_, answer)| answer.is_some()).map(|(addr, _)| *addr).collect();
            let taken_by = answers.into_iter().find_map(|(_, answer)| answer.flatten());
            Called { resolved: Some((at, seeds)), answered, call, taken_by }
        })
    }

    /// Takes note of what a round found. While nobody is found the next comes soon, and now and then that is said.
    pub(super) fn finished(&mut self, called: &mut Called, alone: bool, now: Instant) {
        self.calling = false;
        self.resolved = called.resolved.take();
        if self.asked.len() > MAX_ASKED {
            self.asked.clear();
        }
        self.asked.append(&mut called.answered);
        if !alone || self.seeds.names.is_empty() {
            self.rounds_alone = 0;
            self.next = now + CALL_EVERY;
            return;
        }
        self.rounds_alone = self.rounds_alone.saturating_add(1);
        if self.rounds_alone > 2 && self.rounds_alone.is_power_of_two() {
            let seeds = self.seeds.names.join(", ");
            tracing::warn!(seeds, "no seed answers yet; trying on, serving meanwhile");
        }
        self.next = now + CALL_EVERY.min(CALL_EVERY_ALONE * self.rounds_alone.min(25));
    }

    /// Makes the next round come at once.
    pub(super) fn hurry(&mut self, now: Instant) {
        self.next = now;
    }
}
