//! Which records answer a question (RFC 1034 §4.3.2): the walk through the zone, and what stands beside an answer.

use std::net::IpAddr;
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use rand::Rng;

use crate::build::MAX_CHAIN;
use crate::counters::Tally;
use crate::fragment::Fragment;
use crate::hinted::Hinted;
use crate::name::{Folded, Name};
use crate::steer::{Decision, Family, Scene, Steer, Step, decide};
use crate::wire::{Owner, Question, Rcode, Reply, Section};
use crate::zone::{Found, Kind, Node, Set, Zone};

/// What answers ANY (RFC 8482 §4.2), for so long.
const ANY_TTL: u32 = 3600;
static ANY_HINFO: LazyLock<Fragment> = LazyLock::new(|| {
    let data = Arc::from(b"\x07RFC8482\x00".as_slice());
    Fragment::new(Kind::HINFO, ANY_TTL, &[data], &Name::root())
});

/// What led to an answer.
#[derive(Debug, Default)]
pub(crate) struct Outcome<'a> {
    pub(crate) rcode: Rcode,
    /// How many bits of the client's address the answer depends on.
    pub(crate) scope: u8,
    /// Whether something needed did not fit.
    pub(crate) truncated: bool,
    /// Whether nothing stands in the answer section.
    pub(crate) empty: bool,
    /// The zone that answers.
    pub(crate) zone: Option<&'a Zone>,
    /// How a steered name in it was decided.
    pub(crate) decision: Option<Decision<'a>>,
}

impl Outcome<'_> {
    /// Counts it.
    pub(crate) fn count(&self, tally: &Tally) {
        tally.rcode(self.rcode);
        if self.truncated {
            tally.truncate();
        }
        if self.decision.as_ref().is_some_and(|decision| decision.choice.step >= Step::FailOpen) {
            tally.fail_open();
        }
    }
}

/// Answers a question for a client.
pub(crate) fn answer<'a>(
    scene: &'a Scene,
    question: &Question<'_>,
    client: IpAddr,
    now: Instant,
    rng: &mut impl Rng,
    reply: &mut Reply<'_, '_>,
) -> Outcome<'a> {
    let refused = |rcode| Outcome { rcode, ..Outcome::default() };
    match question.kind {
        Kind::OPT => return refused(Rcode::FORMERR),
        Kind::TKEY | Kind::TSIG => return refused(Rcode::NOTIMP),
        // Who may transfer does so over TCP, and does not come here.
        Kind::AXFR | Kind::IXFR => return refused(Rcode::REFUSED),
        _ => {}
    }
    let name = Folded::new(question.name);
    let zone = scene.table.zone_of(name.as_slice(), question.kind).filter(|_| question.is_internet());
    let Some(zone) = zone else { return refused(Rcode::REFUSED) };
    reply.answer_from(zone.origin.wire().len());
    let outcome = Outcome { zone: Some(zone), ..Outcome::default() };
    let mut walk = Walk { scene, zone, client, now, reply, outcome };
    walk.run(name.as_slice(), question.kind, rng);
    walk.outcome
}

struct Walk<'a, 'r, 'o, 'm> {
    scene: &'a Scene,
    zone: &'a Zone,
    client: IpAddr,
    now: Instant,
    reply: &'r mut Reply<'o, 'm>,
    outcome: Outcome<'a>,
}

impl<'a> Walk<'a, '_, '_, '_> {
    fn run<'n>(&mut self, mut name: &'n [u8], kind: Kind, rng: &mut impl Rng)
    where
        'a: 'n,
    {
        let mut owner = Owner::Question;
        for step in 0..=MAX_CHAIN {
            let node = match self.zone.find(name, kind) {
                Found::Here(node) => node,
                Found::Delegated(cut) => return self.refer(cut, step == 0),
                Found::Missing => {
                    self.outcome.rcode = Rcode::NXDOMAIN;
                    return self.deny();
                }
            };
            // What proves an alias stands beside it, and is asked for at it (RFC 4035 §2.5).
            let beside = matches!(kind, Kind::CNAME | Kind::RRSIG | Kind::NSEC);
            let alias = node.alias.as_deref().filter(|_| !beside);
            let Some((target, set)) = alias.zip(node.set(Kind::CNAME)) else {
                return self.at(node, owner, kind, rng);
            };
            // The alias alone answers ANY; a target elsewhere is for the resolver to ask.
            let Some(place) = self.put(Section::Answer, owner, &set.fragment) else { return };
            let here = self.scene.table.zone_of(target, kind);
            if kind == Kind::ANY || here.is_none_or(|zone| !std::ptr::eq(zone, self.zone)) {
                return;
            }
            // The alias's data is the name that the next records belong to.
            (name, owner) = (target, Owner::At(place));
        }
    }

    /// The name is there and no alias.
    fn at(&mut self, node: &'a Node, owner: Owner<'_>, kind: Kind, rng: &mut impl Rng) {
        let family = match kind {
            Kind::A => Some(Family::V4),
            Kind::AAAA => Some(Family::V6),
            _ => None,
        };
        if let Some((steer, family)) = node.steer.as_ref().zip(family) {
            return self.steer(steer, owner, family, rng);
        }
        let set = node.set(kind);
        if let Some((steer, hinted)) = node.steer.as_ref().zip(set.and_then(|set| set.hinted.as_ref())) {
            return self.hint(steer, hinted, owner, rng);
        }
        if let Some(set) = set {
            let whole = self.put(Section::Answer, owner, &set.fragment).is_some();
            if whole && kind == Kind::NS {
                self.add_addresses(set, false);
            }
        } else if kind == Kind::ANY && (!node.sets.is_empty() || node.steer.is_some()) {
            self.put(Section::Answer, owner, &ANY_HINFO);
        } else {
            self.deny();
        }
    }

    fn steer(&mut self, steer: &'a Steer, owner: Owner<'_>, family: Family, rng: &mut impl Rng) {
        let decision = decide(self.scene, steer, family, self.client, self.now, rng);
        let addresses = decision.deck(self.scene).addresses(&decision.drawn);
        if decision.choice.region.is_none() {
            // No node is known, not even an unhealthy one: another server may know more, so this is not "no data".
            self.outcome.rcode = Rcode::SERVFAIL;
        } else if addresses.len() == 0 {
            self.deny();
        } else {
            self.outcome.scope = decision.place.scope;
            if !self.reply.addresses(owner, family, decision.ttl, addresses) {
                self.reply.truncate();
            }
        }
        self.outcome.decision = Some(decision);
    }

    /// The records of the name, with its steered addresses as hints.
    fn hint(&mut self, steer: &'a Steer, set: &Hinted, owner: Owner<'_>, rng: &mut impl Rng) {
        let decision = decide(self.scene, steer, Family::V4, self.client, self.now, rng);
        let v4 = decision.deck(self.scene);
        // The same region, so that the families agree.
        let v6 = Decision { family: Family::V6, ..decision }.deck(self.scene);
        let drawn = v6.draw(steer.answers, rng);
        self.outcome.scope = decision.place.scope;
        let hints = [v4.addresses(&decision.drawn), v6.addresses(&drawn)];
        if !self.reply.hinted(owner, set, set.ttl.min(decision.ttl), hints) {
            self.reply.truncate();
        }
        self.outcome.decision = Some(decision);
    }

    /// No such name or no such data: the SOA says for how long (RFC 2308 §3).
    fn deny(&mut self) {
        let zone = self.zone;
        self.put(Section::Authority, Owner::Below(&[]), &zone.denial);
    }

    /// The name lies in a zone of others.
    fn refer(&mut self, cut: &'a Node, at_once: bool) {
        let Some(set) = cut.set(Kind::NS) else { return };
        if at_once {
            self.reply.disclaim();
        }
        if self.put(Section::Authority, Owner::Below(&cut.labels), &set.fragment).is_some() {
            // A referral is useless without its glue (RFC 9471).
            self.add_addresses(set, true);
        }
    }

    /// The static addresses of name servers, as far as this zone has them.
    fn add_addresses(&mut self, servers: &Set, needed: bool) {
        for node in self.zone.servers(servers) {
            for set in [Kind::A, Kind::AAAA].into_iter().filter_map(|kind| node.set(kind)) {
                let owner = Owner::Below(&node.labels);
                if self.reply.set(Section::Additional, owner, &set.fragment).is_none() && needed {
                    return self.reply.truncate();
                }
            }
        }
    }

    /// Writes a set that is needed; behind one that did not fit comes nothing more. Says where its last data begins.
    fn put(&mut self, section: Section, owner: Owner<'_>, set: &Fragment) -> Option<u16> {
        if self.reply.is_truncated() {
            return None;
        }
        let place = self.reply.set(section, owner, set);
        if place.is_none() {
            self.reply.truncate();
        }
        place
    }
}
