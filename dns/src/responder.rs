//! One message in, one message out: the seam between sockets and everything else.
//!
//! ```text
//!   Responder, shared    set_table set_state set_geo … ──► Scene, immutable, swapped whole
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
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::answer::{Asker, Outcome, answer, wants_signatures};
use crate::board::Board;
use crate::cookie::{CLIENT_BYTES, Cookie};
use crate::counters::{Counters, Tally};
use crate::explain::{ExplainError, Explanation};
use crate::geo::GeoIp;
use crate::limit::{Limiter, ResponseRate};
use crate::moment::Moment;
use crate::sign::{Desk, Signer};
use crate::state::State;
use crate::steer::Scene;
use crate::table::Table;
use crate::terms::Terms;
use crate::transfer::{self, Transfer};
use crate::wire::{Extras, Rcode, Reply, Request, UDP_PAYLOAD_BYTES, decode};

/// Signatures that one network may have made in a second, and at once: an IPv4 /24 or an IPv6 /56. A resolver that serves
/// millions needs fewer, as most of what it asks for is signed already.
const SIGNATURES_A_NETWORK: ResponseRate = ResponseRate { per_second: 2_000, slip: 0 };

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
    terms: Arc<Terms>,
    limiter: Option<Arc<Limiter>>,
    signatures: Option<Arc<Limiter>>,
    /// The scene before the present one: whoever still answers by it need not be the one to take it apart.
    _former: Option<Arc<Scene>>,
}

impl Responder {
    /// A responder over a table, without any state: steered names are SERVFAIL until one is set. `seed` makes the
    /// random choices; equal seeds and equal messages in equal order give equal answers.
    pub fn new(table: Table, seed: u64) -> Self {
        let mut parts = Parts {
            table: Arc::default(),
            state: Arc::default(),
            geo: None,
            terms: Arc::default(),
            limiter: None,
            signatures: None,
            _former: None,
        };
        parts.set_table(Arc::new(table));
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
        self.change(|parts| parts.set_table(table));
    }

    /// Swaps the state.
    pub fn set_state(&self, state: Arc<State>) {
        self.change(|parts| parts.state = state);
    }

    /// Swaps the GeoIP database.
    pub fn set_geo(&self, geo: Option<Arc<GeoIp>>) {
        self.change(|parts| parts.geo = geo);
    }

    /// Swaps the terms on which strangers are served, such as the secrets of cookies when the mesh's keys rotate. Who was
    /// limited begins anew only where the limit is another one.
    pub fn set_terms(&self, terms: Terms) {
        self.change(|parts| {
            if terms.response_rate != parts.terms.response_rate {
                parts.limiter = terms.response_rate.map(|rate| Arc::new(Limiter::new(rate)));
            }
            parts.terms = Arc::new(terms);
        });
    }

    /// How many networks the limit on answers counts now, each kind of answer apart, and how many it can; `None` while there is
    /// no limit. Walks the whole table: for operators.
    pub fn limited_networks(&self, now: Instant) -> Option<(usize, usize)> {
        self.scene.load().limiter.as_ref().map(|limiter| limiter.used(now))
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
        self.clerk_at(self.counters.tally(), Hand::Own(Box::default()))
    }

    /// One of those who answer on one thread, and count and sign together.
    pub(crate) fn clerk_with(&self, tally: Arc<Tally>, desk: &SharedDesk) -> Clerk {
        self.clerk_at(tally, Hand::Shared(Arc::clone(desk)))
    }

    fn clerk_at(&self, tally: Arc<Tally>, hand: Hand) -> Clerk {
        let number = self.clerks.fetch_add(1, Ordering::Relaxed);
        let seed = self.seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let rng = SmallRng::seed_from_u64(seed);
        Clerk { scene: Cache::new(Arc::clone(&self.scene)), rng, tally, hand }
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
        let mut rng = self.clerk_at(Arc::default(), Hand::Own(Box::default())).rng;
        let (scene, mut out) = (self.scene.load(), Vec::new());
        let now = Moment { monotonic: now, unix: 0 };
        let mut outcome = Outcome::default();
        if let Some(request) = decode(&query) {
            let from = client.addr().to_canonical();
            let visit = Visit { scene: &scene, request: &request, from: &from, now: &now, cookie: None };
            visit.answer(u16::MAX, Transport::Tcp, None, &mut rng, &mut out, &mut outcome);
        }
        Ok(Explanation::of(name, kind, client, &scene, &outcome, &out))
    }
}

impl Parts {
    fn set_table(&mut self, table: Arc<Table>) {
        let bound = || Arc::new(Limiter::new(SIGNATURES_A_NETWORK));
        self.signatures = table.signs().then(|| self.signatures.take().unwrap_or_else(bound));
        self.table = table;
    }

    fn scene(&self) -> Scene {
        Scene {
            board: Board::new(&self.table, Arc::clone(&self.state)),
            table: Arc::clone(&self.table),
            geo: self.geo.clone(),
            terms: Arc::clone(&self.terms),
            limiter: self.limiter.clone(),
            signatures: self.signatures.clone(),
        }
    }
}

/// Bytes in, bytes out, for one thread: it shares nothing that another one writes.
pub struct Clerk {
    scene: Cache<Arc<ArcSwap<Scene>>, Arc<Scene>>,
    rng: SmallRng,
    tally: Arc<Tally>,
    hand: Hand,
}

/// Where all clerks of one thread sign, so that nobody ever waits for it.
pub(crate) type SharedDesk = Arc<Mutex<Desk>>;

/// Where a clerk signs.
enum Hand {
    /// At a desk of its own, without waiting for anybody.
    Own(Box<Desk>),
    /// Where others of its thread sign too. Held for one answer.
    Shared(SharedDesk),
}

impl Clerk {
    /// Answers one message. `out` is cleared first and holds the answer afterwards; with room for 1,232 bytes it need
    /// not grow for an answer over UDP.
    pub fn respond(
        &mut self,
        query: &[u8],
        from: SocketAddr,
        transport: Transport,
        now: Moment,
        out: &mut Vec<u8>,
    ) -> Verdict {
        out.clear();
        self.tally.query(transport);
        // Large values stay where they were made: each is looked at by reference.
        let mut request = Request::default();
        if !request.read(query) {
            self.tally.ignore();
            return Verdict::Drop;
        }
        let (request, scene, from) = (&request, self.scene.load(), from.ip().to_canonical());
        let cookie = cookie_for(scene, request, from, now);
        let visit = Visit { scene, request, from: &from, now: &now, cookie: cookie.as_ref() };
        let limit = match (transport, &request.edns) {
            (Transport::Tcp, _) => u16::MAX,
            (Transport::Udp, None) => 512,
            (Transport::Udp, Some(edns)) => edns.payload.min(UDP_PAYLOAD_BYTES),
        };
        let mut shared = None;
        let desk = match &mut self.hand {
            _ if !visit.wants_signatures() => None,
            Hand::Own(desk) => Some(&mut **desk),
            Hand::Shared(desk) => {
                Some(&mut **shared.insert(desk.lock().unwrap_or_else(PoisonError::into_inner)))
            }
        };
        let signer = desk.map(|desk| Signer {
            desk,
            from,
            limiter: scene.signatures.as_deref(),
            now,
            tally: &self.tally,
        });
        let mut outcome = Outcome::default();
        visit.answer(limit, transport, signer, &mut self.rng, out, &mut outcome);
        drop(shared);
        let limiter = scene.limiter.as_deref().filter(|_| transport == Transport::Udp && !visit.is_known());
        if let Some(limiter) = limiter
            && !limiter.admits(from, outcome.rcode, outcome.empty, now.monotonic)
        {
            self.tally.limit();
            let slips = limiter.slip() > 0 && self.rng.random_range(0..limiter.slip()) == 0;
            if !slips {
                out.clear();
                self.tally.ignore();
                return Verdict::Drop;
            }
            outcome = visit.put_off(out);
        }
        outcome.count(&self.tally);
        Verdict::Reply(outcome.rcode)
    }

    /// Begins to give a whole zone, when that is asked for by one who may have it. Over TCP only.
    pub(crate) fn transfer(&mut self, query: &[u8], from: SocketAddr, now: Moment) -> Option<Transfer> {
        let rng = SmallRng::from_rng(&mut self.rng);
        let transfer = Transfer::begin(self.scene.load(), query, from.ip(), now, rng)?;
        self.tally.query(Transport::Tcp);
        self.tally.transfer();
        self.tally.rcode(Rcode::NOERROR);
        Some(transfer)
    }

    /// What this clerk counts.
    pub(crate) fn tally(&self) -> &Tally {
        &self.tally
    }
}

/// One request, who sent it, and what its sender is told beside the answer.
struct Visit<'s, 'v, 'm> {
    scene: &'s Scene,
    request: &'v Request<'m>,
    /// An IPv4 address comes as one, not mapped into IPv6.
    from: &'v IpAddr,
    now: &'v Moment,
    cookie: Option<&'v Cookie>,
}

/// The cookie for who asks, when it knows cookies and there is a secret to make them with.
fn cookie_for(scene: &Scene, request: &Request<'_>, from: IpAddr, now: Moment) -> Option<Cookie> {
    let option = request.edns.as_ref()?.cookie?;
    Cookie::answer(&scene.terms.cookie_secrets, option, from, now.unix)
}

impl<'s, 'v, 'm> Visit<'s, 'v, 'm> {
    /// True when the sender is certainly where it says it is.
    fn is_known(&self) -> bool {
        self.cookie.is_some_and(|cookie| cookie.valid)
    }

    /// True when the sender has a server's cookie that was not made here, or too long ago.
    fn shows_a_wrong_cookie(&self) -> bool {
        let option = self.request.edns.as_ref().and_then(|edns| edns.cookie);
        option.is_some_and(|option| option.len() > CLIENT_BYTES)
            && self.cookie.is_some_and(|cookie| !cookie.valid)
    }

    fn begin<'o>(&'o self, limit: u16, out: &'o mut Vec<u8>) -> Reply<'o, 'm> {
        let cookie = self.cookie.map(|cookie| &cookie.told);
        Reply::begin(self.request, Extras { cookie, nsid: self.scene.terms.nsid() }, limit, out)
    }

    /// True when the scene has a signed zone, and its signatures are asked for.
    fn wants_signatures(&self) -> bool {
        let dnssec_ok = self.request.edns.as_ref().is_some_and(|edns| edns.dnssec_ok);
        let question = self.request.question.as_ref();
        self.scene.signatures.is_some()
            && question.is_some_and(|question| wants_signatures(dnssec_ok, question.kind))
    }

    /// Answers what can be read of the message, and says in `outcome` what led to it.
    fn answer(
        &self,
        limit: u16,
        transport: Transport,
        signer: Option<Signer<'_>>,
        rng: &mut SmallRng,
        out: &mut Vec<u8>,
        outcome: &mut Outcome<'s>,
    ) {
        let mut reply = self.begin(limit, out);
        match (&self.request.question, self.request.fault) {
            (Some(question), None) => {
                let asker = Asker { request: self.request, from: self.from, now: self.now };
                answer(self.scene, question, asker, signer, rng, &mut reply, outcome);
                if let Some(why) = transfer::refusal(self.scene, question, *self.from, transport) {
                    reply.say_why(why);
                }
            }
            // A query for a cookie alone, or about one (RFC 7873 §5.4).
            (None, None) if self.shows_a_wrong_cookie() => outcome.rcode = Rcode::BADCOOKIE,
            (None, None) => {}
            (_, Some(rcode)) => outcome.rcode = rcode,
        }
        if outcome.put_off {
            reply = self.begin(limit, out);
            (outcome.rcode, outcome.scope) = match transport {
                // Who is really there comes back over TCP; who forges its address does not.
                Transport::Udp => (Rcode::NOERROR, 0),
                Transport::Tcp => (Rcode::SERVFAIL, 0),
            };
            if transport == Transport::Udp {
                reply.truncate();
            }
        }
        outcome.truncated = reply.is_truncated();
        outcome.empty = reply.is_empty();
        reply.finish(outcome.rcode, outcome.scope);
    }

    /// Says nothing but how to come back: with the cookie, if it knows cookies, else over TCP.
    fn put_off(&self, out: &mut Vec<u8>) -> Outcome<'s> {
        let mut reply = self.begin(512, out);
        let rcode = if self.cookie.is_some() { Rcode::BADCOOKIE } else { Rcode::NOERROR };
        if self.cookie.is_none() {
            reply.truncate();
        }
        reply.finish(rcode, 0);
        Outcome { rcode, truncated: self.cookie.is_none(), empty: true, ..Outcome::default() }
    }
}

#[cfg(test)]
mod terms_tests;
#[cfg(test)]
mod tests;
