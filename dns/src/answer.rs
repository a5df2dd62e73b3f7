//! Which records answer a question (RFC 1034 §4.3.2): the walk through the zone, and what stands beside an answer.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use ipnet::IpNet;
use rand::Rng;

use crate::build::MAX_CHAIN;
use crate::name::Name;
use crate::steer::{Decision, Family, Surroundings, decide};
use crate::wire::{Question, Rcode, Reply, RrSet};
use crate::zone::{Found, Kind, Node, Set, Steer, Zone};

/// What answers ANY (RFC 8482 §4.2), for so long.
const ANY_TTL: u32 = 3600;
static ANY_HINFO: LazyLock<Arc<[u8]>> = LazyLock::new(|| Arc::from(b"\x07RFC8482\x00".as_slice()));

/// An answer and what led to it.
#[derive(Debug, Default)]
pub(crate) struct Outcome<'a> {
    pub(crate) reply: Reply<'a>,
    /// The zone that answers.
    pub(crate) zone: Option<&'a Zone>,
    /// How a steered name in it was decided.
    pub(crate) decision: Option<Decision<'a>>,
}

/// Answers a question for a client.
pub(crate) fn answer<'a>(
    surroundings: Surroundings<'a>,
    question: &Question,
    client: IpNet,
    now: Instant,
    rng: &mut impl Rng,
) -> Outcome<'a> {
    let refused = |rcode| Outcome { reply: Reply { rcode, ..Reply::default() }, ..Outcome::default() };
    match question.kind {
        Kind::OPT => return refused(Rcode::FORMERR),
        Kind::TKEY | Kind::TSIG => return refused(Rcode::NOTIMP),
        // There are no secondaries; the mesh carries the configuration itself.
        Kind::AXFR | Kind::IXFR => return refused(Rcode::REFUSED),
        _ => {}
    }
    let zone = surroundings.table.zone_of(&question.name, question.kind);
    let Some(zone) = zone.filter(|_| question.is_internet()) else { return refused(Rcode::REFUSED) };
    let reply = Reply { authoritative: true, ..Reply::default() };
    let mut walk = Walk {
        surroundings,
        zone,
        client,
        now,
        outcome: Outcome { reply, zone: Some(zone), decision: None },
    };
    walk.run(question, rng);
    walk.outcome
}

struct Walk<'a> {
    surroundings: Surroundings<'a>,
    zone: &'a Zone,
    client: IpNet,
    now: Instant,
    outcome: Outcome<'a>,
}

impl<'a> Walk<'a> {
    fn run(&mut self, question: &Question, rng: &mut impl Rng) {
        let kind = question.kind;
        let mut name = question.name.clone();
        for step in 0..=MAX_CHAIN {
            let node = match self.zone.find(&name, kind) {
                Found::Exact(node) | Found::Wildcard(node) => node,
                Found::Delegated(cut) => return self.refer(cut, step == 0),
                Found::Missing => {
                    self.outcome.reply.rcode = Rcode::NXDOMAIN;
                    return self.deny();
                }
            };
            let alias = node.set(Kind::CNAME).filter(|_| kind != Kind::CNAME);
            let Some(alias) = alias else { return self.at(node, name, kind, rng) };
            let target = alias.data.first().and_then(|data| Name::from_wire(data));
            self.push(name, alias);
            // The alias alone answers ANY; a target elsewhere is for the resolver to ask.
            let Some(target) = target.filter(|_| kind != Kind::ANY) else { return };
            let here = self.surroundings.table.zone_of(&target, kind);
            if here.is_none_or(|zone| zone.origin != self.zone.origin) {
                return;
            }
            name = target;
        }
    }

    /// The name is there and no alias.
    fn at(&mut self, node: &'a Node, name: Name, kind: Kind, rng: &mut impl Rng) {
        let family = match kind {
            Kind::A => Some(Family::V4),
            Kind::AAAA => Some(Family::V6),
            _ => None,
        };
        if let Some((steer, family)) = node.steer.as_ref().zip(family) {
            return self.steer(steer, name, family, rng);
        }
        if let Some(set) = node.set(kind) {
            self.push(name, set);
            if kind == Kind::NS {
                self.add_addresses(set, self.zone);
            }
        } else if kind == Kind::ANY && (!node.sets.is_empty() || node.steer.is_some()) {
            let data = Cow::Owned(vec![Arc::clone(&ANY_HINFO)]);
            let hinfo = RrSet { owner: Cow::Owned(name), kind: Kind::HINFO, ttl: ANY_TTL, data };
            self.outcome.reply.answers.push(hinfo);
        } else {
            self.deny();
        }
    }

    fn steer(&mut self, steer: &Steer, name: Name, family: Family, rng: &mut impl Rng) {
        let decision = decide(self.surroundings, steer, family, self.client, self.now, rng);
        if decision.region.is_none() {
            // No node is known, not even an unhealthy one: another server may know more, so this is not "no data".
            self.outcome.reply.rcode = Rcode::SERVFAIL;
        } else if decision.chosen.is_empty() {
            self.deny();
        } else {
            let data = decision.chosen.iter().map(|(_, address)| match address {
                IpAddr::V4(address) => Arc::from(address.octets().as_slice()),
                IpAddr::V6(address) => Arc::from(address.octets().as_slice()),
            });
            let kind = if family == Family::V4 { Kind::A } else { Kind::AAAA };
            let data = Cow::Owned(data.collect());
            self.outcome.reply.scope = decision.scope;
            self.outcome.reply.answers.push(RrSet { owner: Cow::Owned(name), kind, ttl: decision.ttl, data });
        }
        self.outcome.decision = Some(decision);
    }

    fn push(&mut self, owner: Name, set: &'a Set) {
        self.outcome.reply.answers.push(owned_by(Cow::Owned(owner), set));
    }

    /// No such name or no such data: the SOA says for how long (RFC 2308 §3).
    fn deny(&mut self) {
        let mut soa = owned_by(Cow::Borrowed(&self.zone.origin), &self.zone.soa);
        soa.ttl = soa.ttl.min(self.zone.negative_ttl);
        self.outcome.reply.authority.push(soa);
    }

    /// The name lies in a zone of others.
    fn refer(&mut self, cut: &'a Node, at_once: bool) {
        let Some(set) = cut.set(Kind::NS) else { return };
        self.outcome.reply.authoritative = !at_once;
        self.outcome.reply.authority.push(owned_by(Cow::Borrowed(&cut.name), set));
        self.outcome.reply.additional_needed = true;
        self.add_addresses(set, self.zone);
    }

    /// The static addresses of name servers, as far as this zone has them.
    fn add_addresses(&mut self, servers: &Set, zone: &'a Zone) {
        for server in servers.data.iter().filter_map(|data| Name::from_wire(data)) {
            let Some(node) = zone.node(&server) else { continue };
            let sets = [Kind::A, Kind::AAAA].into_iter().filter_map(|kind| node.set(kind));
            self.outcome.reply.additional.extend(sets.map(|set| owned_by(Cow::Borrowed(&node.name), set)));
        }
    }
}

fn owned_by<'a>(owner: Cow<'a, Name>, set: &'a Set) -> RrSet<'a> {
    RrSet { owner, kind: set.kind, ttl: set.ttl, data: Cow::Borrowed(&set.data) }
}
