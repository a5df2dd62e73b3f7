//! One message in, one message out: the seam between sockets and everything else.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use arc_swap::{ArcSwap, ArcSwapOption};
use ipnet::IpNet;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use crate::answer::answer;
use crate::counters::Counters;
use crate::explain::{ExplainError, Explanation};
use crate::geo::GeoIp;
use crate::state::State;
use crate::steer::{Step, Surroundings};
use crate::table::Table;
use crate::wire::{Rcode, Reply, Request, UDP_PAYLOAD_BYTES, decode, encode};

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

/// Bytes in, bytes out. Shared by all sockets; its three snapshots are swapped apart, and each message sees one of
/// each.
pub struct Responder {
    table: ArcSwap<Table>,
    state: ArcSwap<State>,
    geo: ArcSwapOption<GeoIp>,
    counters: Counters,
    seed: u64,
    /// How many generators were seeded so far.
    draws: AtomicU64,
}

impl Responder {
    /// A responder over a table, without any state: steered names are SERVFAIL until one is set. `seed` makes the
    /// random choices; equal seeds and equal messages in equal order give equal answers.
    pub fn new(table: Table, seed: u64) -> Self {
        Self {
            table: ArcSwap::from_pointee(table),
            state: ArcSwap::from_pointee(State::default()),
            geo: ArcSwapOption::empty(),
            counters: Counters::default(),
            seed,
            draws: AtomicU64::new(0),
        }
    }

    /// Swaps the table.
    pub fn set_table(&self, table: Arc<Table>) {
        self.table.store(table);
    }

    /// Swaps the state.
    pub fn set_state(&self, state: Arc<State>) {
        self.state.store(state);
    }

    /// Swaps the GeoIP database.
    pub fn set_geo(&self, geo: Option<Arc<GeoIp>>) {
        self.geo.store(geo);
    }

    /// What was counted so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Answers one message. `out` is cleared first and holds the answer afterwards.
    pub fn respond(
        &self,
        query: &[u8],
        from: SocketAddr,
        transport: Transport,
        now: Instant,
        out: &mut Vec<u8>,
    ) -> Verdict {
        out.clear();
        self.counters.query(transport);
        let Some(request) = decode(query) else {
            self.counters.drop();
            return Verdict::Drop;
        };
        let limit = match (transport, &request.edns) {
            (Transport::Tcp, _) => u16::MAX,
            (Transport::Udp, None) => 512,
            (Transport::Udp, Some(edns)) => edns.payload.min(UDP_PAYLOAD_BYTES),
        };
        let rcode = self.answer_into(&request, from, now, limit, out);
        self.counters.rcode(rcode);
        Verdict::Reply(rcode)
    }

    fn answer_into(
        &self,
        request: &Request,
        from: SocketAddr,
        now: Instant,
        limit: u16,
        out: &mut Vec<u8>,
    ) -> Rcode {
        let (table, state, geo) = (self.table.load(), self.state.load(), self.geo.load());
        let question = match (&request.question, request.fault) {
            (Some(question), None) => question,
            (_, fault) => {
                let rcode = fault.unwrap_or(Rcode::FORMERR);
                encode(request, &Reply { rcode, ..Reply::default() }, limit, out);
                return rcode;
            }
        };
        let surroundings = Surroundings { table: &table, state: &state, geo: geo.as_deref() };
        let outcome = answer(surroundings, question, client_of(request, from.ip()), now, &mut self.rng());
        if outcome.decision.as_ref().is_some_and(|decision| decision.step >= Step::FailOpen) {
            self.counters.fail_open();
        }
        if encode(request, &outcome.reply, limit, out) {
            self.counters.truncate();
        }
        outcome.reply.rcode
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
        let (table, state, geo) = (self.table.load(), self.state.load(), self.geo.load());
        let surroundings = Surroundings { table: &table, state: &state, geo: geo.as_deref() };
        let question = Explanation::question(name, kind)?;
        let outcome = answer(surroundings, &question, client, now, &mut self.rng());
        Ok(Explanation::of(&question, &outcome))
    }

    /// A generator of its own for each message, so that threads share nothing but a counter.
    fn rng(&self) -> SmallRng {
        let draw = self.draws.fetch_add(1, Ordering::Relaxed);
        SmallRng::seed_from_u64(self.seed ^ draw.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }
}

/// Where the user is taken to be: the subnet the resolver tells, else the resolver itself.
fn client_of(request: &Request, from: IpAddr) -> IpNet {
    let told = request.edns.as_ref().and_then(|edns| edns.subnet).filter(|subnet| subnet.source > 0);
    told.and_then(|subnet| IpNet::new(subnet.address, subnet.source).ok())
        .unwrap_or_else(|| IpNet::from(from.to_canonical()))
}

#[cfg(test)]
mod tests;
