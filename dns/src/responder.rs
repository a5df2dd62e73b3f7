//! One message in, one message out: the seam between sockets and everything else.
//!
//! ```text
//!   Responder, shared        set_table set_state set_geo ──► Scene, immutable, swapped whole
//!      │ clerk()                                               ▲
//!      ▼                                                       │ looks, once a query
//!   Clerk, one a thread      respond(bytes) ───────────────────┘   own randomness, own counters
//! ```

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use arc_swap::{ArcSwap, Cache};
use ipnet::IpNet;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use crate::answer::{Outcome, answer};
use crate::board::Board;
use crate::counters::{Counters, Tally};
use crate::explain::{ExplainError, Explanation};
use crate::geo::GeoIp;
use crate::state::State;
use crate::steer::Scene;
use crate::table::Table;
use crate::wire::{Rcode, Reply, Request, UDP_PAYLOAD_BYTES, decode};

/// How a message came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Answers have a limit and may be cut.
    Udp,
    /// Answers may be as long as a message can be.
    Tcp,
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The answer stands in the buffer.
    Reply(Rcode),
    /// It cannot be answered: shorter than a header, or an answer itself.
    Drop,
}

/// Shared by all sockets: the scene that queries see, and what was counted.
pub struct Responder {
    scene: Arc<ArcSwap<Scene>>,
    /// What the next scene is made of. Only those who change it wait here, never a query.
    parts: Mutex<Parts>,
    counters: Counters,
    seed: u64,
    /// How many clerks there were so far.
    clerks: AtomicU64,
}

struct Parts {
    table: Arc<Table>,
    state: Arc<State>,
    geo: Option<Arc<GeoIp>>,
    /// The scene before the present one: whoever still answers by it need not be the one to take it apart.
    _former: Option<Arc<Scene>>,
}

impl Responder {
    /// A responder over a table, without any state: steered names are SERVFAIL until one is set. `seed` makes the
    /// random choices; equal seeds and equal messages in equal order give equal answers.
    pub fn new(table: Table, seed: u64) -> Self {
        let parts =
            Parts { table: Arc::new(table), state: Arc::new(State::default()), geo: None, _former: None };
        Self {
            scene: Arc::new(ArcSwap::from_pointee(parts.scene())),
            parts: Mutex::new(parts),
            counters: Counters::default(),
            seed,
            clerks: AtomicU64::new(0),
        }
    }

    /// Swaps the table.
    pub fn set_table(&self, table: Arc<Table>) {
        self.change(|parts| parts.table = table);
    }

    /// Swaps the state.
    pub fn set_state(&self, state: Arc<State>) {
        self.change(|parts| parts.state = state);
    }

    /// Swaps the GeoIP database.
    pub fn set_geo(&self, geo: Option<Arc<GeoIp>>) {
        self.change(|parts| parts.geo = geo);
    }

    fn change(&self, change: impl FnOnce(&mut Parts)) {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut parts);
        parts._former = Some(self.scene.swap(Arc::new(parts.scene())));
    }

    /// What was counted so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// One who answers, for one thread.
    pub fn clerk(&self) -> Clerk {
        self.clerk_with(self.counters.tally())
    }

    /// One who answers and counts together with others.
    pub(crate) fn clerk_with(&self, tally: Arc<Tally>) -> Clerk {
        let number = self.clerks.fetch_add(1, Ordering::Relaxed);
        let seed = self.seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Clerk { scene: Cache::new(Arc::clone(&self.scene)), rng: SmallRng::seed_from_u64(seed), tally }
    }

    /// Says what a client would be told, and why; by the same code that answers. `client` is a user's address or
    /// prefix.
    ///
    /// # Errors
    /// When the question is none.
    pub fn explain(
        &self,
        name: &str,
        kind: &str,
        client: IpNet,
        now: Instant,
    ) -> Result<Explanation, ExplainError> {
        let query = Explanation::query(name, kind, client)?;
        let mut rng = self.clerk_with(Arc::default()).rng;
        let (scene, mut out) = (self.scene.load(), Vec::new());
        let outcome = decode(&query)
            .map(|request| answer_to(&scene, &request, client.addr(), now, u16::MAX, &mut rng, &mut out));
        Ok(Explanation::of(name, kind, client, &scene, &outcome.unwrap_or_default(), &out))
    }
}

impl Parts {
    fn scene(&self) -> Scene {
        Scene {
            board: Board::new(&self.table, Arc::clone(&self.state)),
            table: Arc::clone(&self.table),
            geo: self.geo.clone(),
        }
    }
}

/// Bytes in, bytes out, for one thread: it shares nothing that another one writes.
pub struct Clerk {
    scene: Cache<Arc<ArcSwap<Scene>>, Arc<Scene>>,
    rng: SmallRng,
    tally: Arc<Tally>,
}

impl Clerk {
    /// Answers one message. `out` is cleared first and holds the answer afterwards; with room for 1,232 bytes it need
    /// not grow for an answer over UDP.
    pub fn respond(
        &mut self,
        query: &[u8],
        from: SocketAddr,
        transport: Transport,
        now: Instant,
        out: &mut Vec<u8>,
    ) -> Verdict {
        out.clear();
        self.tally.query(transport);
        let Some(request) = decode(query) else {
            self.tally.ignore();
            return Verdict::Drop;
        };
        let limit = match (transport, &request.edns) {
            (Transport::Tcp, _) => u16::MAX,
            (Transport::Udp, None) => 512,
            (Transport::Udp, Some(edns)) => edns.payload.min(UDP_PAYLOAD_BYTES),
        };
        let Self { scene, rng, tally } = self;
        let outcome = answer_to(scene.load(), &request, from.ip(), now, limit, rng, out);
        outcome.count(tally);
        Verdict::Reply(outcome.rcode)
    }

    /// What this clerk counts.
    pub(crate) fn tally(&self) -> &Tally {
        &self.tally
    }
}

/// Answers what can be read of a message.
fn answer_to<'a>(
    scene: &'a Scene,
    request: &Request<'_>,
    from: IpAddr,
    now: Instant,
    limit: u16,
    rng: &mut SmallRng,
    out: &mut Vec<u8>,
) -> Outcome<'a> {
    let mut reply = Reply::begin(request, limit, out);
    let mut outcome = match (&request.question, request.fault) {
        (Some(question), None) => answer(scene, question, client_of(request, from), now, rng, &mut reply),
        (_, fault) => Outcome { rcode: fault.unwrap_or(Rcode::FORMERR), ..Outcome::default() },
    };
    outcome.truncated = reply.is_truncated();
    reply.finish(outcome.rcode, outcome.scope);
    outcome
}

/// Where the user is taken to be: the subnet the resolver tells, else the resolver itself.
fn client_of(request: &Request<'_>, from: IpAddr) -> IpAddr {
    let told = request.edns.as_ref().and_then(|edns| edns.subnet).filter(|subnet| subnet.source > 0);
    told.map_or(from, |subnet| subnet.address).to_canonical()
}

#[cfg(test)]
mod tests;
