//! Which records answer a question (RFC 1034 §4.3.2): the walk through the zone, and what stands beside an answer. In a
//! signed zone every set is signed as soon as it is written, for who wants signatures.
//!
//! What few answers need is never inlined: it would stand between what all of them run through, on lines of a cache that the kernel
//! has emptied since the last query.

use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use rand::Rng;

use crate::build::MAX_CHAIN;
use crate::counters::Tally;
use crate::deck::Drawn;
use crate::fragment::Fragment;
use crate::hinted::Hinted;
use crate::moment::Moment;
use crate::name::{Folded, Name};
use crate::sign::{CanonicalSet, Deny, Pen, Signer, Stopped, few};
use crate::steer::{Decision, Family, Scene, Steer, Step, decide};
use crate::wire::{Owner, Question, Rcode, Reply, Request, Section, Written};
use crate::zone::{Found, Kind, Node, Set, Zone};

/// What answers ANY (RFC 8482 §4.2), for so long.
const ANY_TTL: u32 = 3600;
static ANY_HINFO: LazyLock<(Fragment, CanonicalSet)> = LazyLock::new(|| {
    let data = [Arc::from(b"\x07RFC8482\x00".as_slice())];
    let fragment = Fragment::new(Kind::HINFO, ANY_TTL, &data, &Name::root());
    (fragment, CanonicalSet::new(Kind::HINFO, ANY_TTL, &data))
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
    /// Whether it cannot go out, since it would need more signatures than may be made.
    pub(crate) put_off: bool,
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
        let opens = |step| matches!(step, Step::FailOpen | Step::LastResort | Step::Nobody);
        if self.decision.as_ref().is_some_and(|decision| opens(decision.choice.step)) {
            tally.fail_open();
        }
    }
}

/// Who asks, and how. Looked up where it is needed, for most answers need little of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asker<'q, 'm> {
    pub(crate) request: &'q Request<'m>,
    /// Whose message it was; an IPv4 address comes as one, not mapped into IPv6.
    pub(crate) from: &'q IpAddr,
    pub(crate) now: &'q Moment,
}

impl Asker<'_, '_> {
    /// Where the user is taken to be: the subnet the resolver tells, else the resolver itself.
    fn client(&self) -> IpAddr {
        match self.request.edns.as_ref().and_then(|edns| edns.subnet.as_ref()) {
            Some(subnet) if subnet.source > 0 => subnet.address.to_canonical(),
            _ => *self.from,
        }
    }

    /// Wants signatures (RFC 3225).
    fn dnssec_ok(&self) -> bool {
        self.request.edns.as_ref().is_some_and(|edns| edns.dnssec_ok)
    }

    /// Wants NXDOMAIN beside a signed denial (RFC 9824 §5.1).
    fn compact_ok(&self) -> bool {
        self.request.edns.as_ref().is_some_and(|edns| edns.compact_ok)
    }
}

/// True when an answer of a signed zone says something of its signatures.
pub(crate) fn wants_signatures(dnssec_ok: bool, kind: Kind) -> bool {
    dnssec_ok || matches!(kind, Kind::RRSIG | Kind::NSEC | Kind::DNSKEY | Kind::CDS | Kind::CDNSKEY)
}

/// Answers a question, and says in `outcome` what led to it. `signer` is there when signatures are wanted.
pub(crate) fn answer<'a, 'm>(
    scene: &'a Scene,
    question: &Question<'_>,
    asker: Asker<'_, 'm>,
    signer: Option<Signer<'_>>,
    rng: &mut impl Rng,
    reply: &mut Reply<'_, 'm>,
    outcome: &mut Outcome<'a>,
) {
    let mut refuse = |rcode| outcome.rcode = rcode;
    match question.kind {
        // RFC 9824 §3.5 for the second.
        Kind::OPT | Kind::NXNAME => return refuse(Rcode::FORMERR),
        Kind::TKEY | Kind::TSIG => return refuse(Rcode::NOTIMP),
        // Who may transfer does so over TCP, and does not come here.
        Kind::AXFR | Kind::IXFR => return refuse(Rcode::REFUSED),
        _ => {}
    }
    let mut name = Folded::empty();
    name.take(question.name);
    let zone = scene.table.zone_of(name.as_slice(), question.kind).filter(|_| question.is_internet());
    let Some(zone) = zone else { return refuse(Rcode::REFUSED) };
    // Without the zone's keys an answer would be taken for forged; another server may have them.
    let keys = zone.keys.as_ref().filter(|_| signer.is_some());
    if keys.is_some_and(|keys| !keys.can_sign()) {
        return refuse(Rcode::SERVFAIL);
    }
    reply.answer_from(zone.origin.wire().len());
    outcome.zone = Some(zone);
    let (name, kind) = (name.as_slice(), question.kind);
    match signer.zip(keys) {
        None => Walk { scene, zone, asker, pen: None, reply, outcome }.run(name, kind, rng),
        Some((signer, keys)) => {
            let pen = Some(&mut Pen::new(signer, keys));
            let rng = &mut few(rng, asker.now.unix, name);
            Walk { scene, zone, asker, pen, reply, outcome }.run(name, kind, rng);
        }
    }
}

struct Walk<'a, 'q, 'r, 'o, 'm, 'p> {
    scene: &'a Scene,
    zone: &'a Zone,
    asker: Asker<'q, 'm>,
    /// In a signed zone, for who wants signatures.
    pen: Option<&'r mut Pen<'p>>,
    reply: &'r mut Reply<'o, 'm>,
    outcome: &'r mut Outcome<'a>,
}

/// A name as it is written and as it is looked up and signed: folded.
#[derive(Debug, Clone, Copy)]
struct Spot<'n> {
    owner: Owner<'n>,
    name: &'n [u8],
}

impl<'a> Walk<'a, '_, '_, '_, '_, '_> {
    fn run<'n>(&mut self, name: &'n [u8], kind: Kind, rng: &mut impl Rng)
    where
        'a: 'n,
    {
        let spot = Spot { owner: Owner::Question, name };
        let Some(node) = self.find(spot, kind, true) else { return };
        match &node.alias {
            None => self.at(node, spot, kind, rng),
            Some(target) => self.follow((node, target.wire()), spot, kind, rng),
        }
    }

    /// The name, when it is there; else that is said. `at_once`: it is the one that was asked for.
    fn find(&mut self, spot: Spot<'_>, kind: Kind, at_once: bool) -> Option<&'a Node> {
        match self.zone.find(spot.name, kind) {
            Found::Here(node) => return Some(node),
            Found::Delegated(cut) => self.refer(cut, spot.name, at_once),
            Found::Missing => {
                let compact = self.pen.is_some() && self.asker.dnssec_ok() && !self.asker.compact_ok();
                self.outcome.rcode = if compact { Rcode::NOERROR } else { Rcode::NXDOMAIN };
                self.deny(spot, Deny::Name, self.zone.denial_ttl);
            }
        }
        None
    }

    /// The name is an alias, of one that may be an alias too.
    #[inline(never)]
    fn follow<'n>(
        &mut self,
        (mut node, mut target): (&'a Node, &'a [u8]),
        mut spot: Spot<'n>,
        kind: Kind,
        rng: &mut impl Rng,
    ) where
        'a: 'n,
    {
        // What proves an alias stands beside it, and is asked for at it (RFC 4035 §2.5).
        let beside = matches!(kind, Kind::CNAME | Kind::RRSIG | Kind::NSEC);
        let mut passed: [&[u8]; MAX_CHAIN + 1] = [&[]; MAX_CHAIN + 1];
        for step in 0..=MAX_CHAIN {
            let Some(set) = node.set(Kind::CNAME).filter(|_| !beside) else {
                return self.at(node, spot, kind, rng);
            };
            // The alias alone answers ANY; a target elsewhere is for the resolver to ask.
            let Some(written) = self.put(Section::Answer, spot, set) else { return };
            let here = self.scene.table.zone_of(target, kind);
            let elsewhere = here.is_none_or(|zone| !std::ptr::eq(zone, self.zone));
            if kind == Kind::ANY || elsewhere || step == MAX_CHAIN {
                return;
            }
            // A circle is refused where the zone is built; whatever it is made of, none is walked twice.
            passed[step] = spot.name;
            if passed[..=step].contains(&target) {
                return;
            }
            // The alias's data is the name that the next records belong to; behind 16 KiB it is written once more.
            let labels = &target[..target.len() - self.zone.origin.wire().len()];
            spot = Spot { owner: written.target().unwrap_or(Owner::Below(labels)), name: target };
            let Some(next) = self.find(spot, kind, false) else { return };
            let Some(further) = &next.alias else { return self.at(next, spot, kind, rng) };
            (node, target) = (next, further.wire());
        }
    }

    /// The name is there and no alias.
    fn at(&mut self, node: &'a Node, spot: Spot<'_>, kind: Kind, rng: &mut impl Rng) {
        let family = match kind {
            Kind::A => Some(Family::V4),
            Kind::AAAA => Some(Family::V6),
            _ => None,
        };
        if let Some((steer, family)) = node.steer.as_deref().zip(family) {
            return self.steer(node, steer, spot, family, rng);
        }
        let set = node.set(kind);
        if let Some((steer, hinted)) = node.steer.as_deref().zip(set.and_then(|set| set.hinted.as_ref())) {
            return self.hint(steer, hinted, spot, rng);
        }
        if let Some(set) = set {
            let whole = self.put(Section::Answer, spot, set).is_some();
            if whole && kind == Kind::NS {
                self.add_addresses(set, false);
            }
        } else if matches!(kind, Kind::NSEC | Kind::RRSIG) && self.pen.is_some() {
            self.prove(node, spot, kind);
        } else if kind == Kind::ANY && (!node.sets.is_empty() || node.steer.is_some()) {
            let (fragment, canonical) = &*ANY_HINFO;
            self.write(Section::Answer, spot, fragment, ANY_TTL, Some(canonical));
        } else {
            self.deny_data(node, spot, kind);
        }
    }

    /// The name is there without such data.
    #[inline(never)]
    fn deny_data(&mut self, node: &Node, spot: Spot<'_>, kind: Kind) {
        let ttl = self.denial_ttl(node);
        if !node.is_authoritative() {
            // At a delegation, what lies below it is not denied.
            return self.deny(spot, Deny::Delegation(node.types()), ttl);
        }
        self.deny(spot, Deny::Data { asked: kind, absent: self.absent(node), there: node.types() }, ttl);
    }

    /// What a steered name does not have for the moment: the addresses of a family that no node of the mesh has.
    fn absent(&self, node: &Node) -> Option<Kind> {
        node.steer.as_ref().and(self.scene.board.absent()).map(Family::kind)
    }

    /// How long a resolver may remember what a name does not have, in seconds: at a steered one no longer than addresses.
    fn denial_ttl(&self, node: &Node) -> u32 {
        let board = &self.scene.board;
        let steered =
            node.steer.as_ref().map(|steer| board.ttl(steer.service, steer.ttl, self.asker.now.monotonic));
        steered.map_or(self.zone.denial_ttl, |ttl| ttl.min(self.zone.denial_ttl))
    }

    fn steer(
        &mut self,
        node: &'a Node,
        steer: &'a Steer,
        spot: Spot<'_>,
        family: Family,
        rng: &mut impl Rng,
    ) {
        let (client, now) = (self.asker.client(), self.asker.now.monotonic);
        let decided = &mut self.outcome.decision;
        let decision = decide(decided, self.scene, steer, family, client, now, rng);
        if decision.choice.step == Step::NoFamily {
            // Wherever the client is, so the scope stays 0.
            self.deny_data(node, spot, family.kind());
        } else if decision.choice.region.is_none() {
            // No node is known, not even an unhealthy one: another server may know more, so this is not "no data".
            self.outcome.rcode = Rcode::SERVFAIL;
        } else {
            self.outcome.scope = decision.place.scope;
            let addresses = decision.deck(self.scene).addresses(&decision.drawn);
            let (start, ttl) = (self.reply.length(), decision.ttl);
            if self.reply.addresses(spot.owner, family, ttl, addresses) {
                self.sign_written(spot, start, family.kind(), (ttl, steer.ttl));
            } else {
                self.reply.truncate();
            }
        }
    }

    /// The records of the name, with its steered addresses as hints.
    #[inline(never)]
    fn hint(&mut self, steer: &'a Steer, set: &Hinted, spot: Spot<'_>, rng: &mut impl Rng) {
        let (client, now) = (self.asker.client(), self.asker.now.monotonic);
        let absent = self.scene.board.absent();
        let family = if absent == Some(Family::V4) { Family::V6 } else { Family::V4 };
        let decision = *decide(&mut self.outcome.decision, self.scene, steer, family, client, now, rng);
        self.outcome.scope = decision.place.scope;
        // Of the same region, so that one record does not name two.
        let [v4, v6] =
            [Family::V4, Family::V6].map(|family| Decision { family, ..decision }.deck(self.scene));
        let mut drawn = [decision.drawn; 2];
        let (other, deck) = match decision.family {
            Family::V4 => (&mut drawn[1], v6),
            Family::V6 => (&mut drawn[0], v4),
        };
        *other = Drawn::default();
        deck.draw(other, steer.answers, rng);
        let hints = [v4.addresses(&drawn[0]), v6.addresses(&drawn[1])];
        let (start, ttl) = (self.reply.length(), set.ttl.min(decision.ttl));
        if self.reply.hinted(spot.owner, set, ttl, hints) {
            self.sign_written(spot, start, set.kind, (ttl, set.ttl));
        } else {
            self.reply.truncate();
        }
    }

    /// What is said of a name in a signed zone, when just that is asked for. Of the signatures one is enough (RFC 8482 §4.1).
    #[inline(never)]
    fn prove(&mut self, node: &Node, spot: Spot<'_>, kind: Kind) {
        let ttls = (self.denial_ttl(node), self.zone.denial_ttl);
        // All types, for none is denied.
        let there = Deny::Data { asked: Kind::ANY, absent: self.absent(node), there: node.types() };
        let Some(pen) = &mut self.pen else { return };
        let place = (Section::Answer, spot.owner, spot.name);
        let written = match kind {
            Kind::RRSIG => Ok(()),
            _ => pen.write_denial(self.reply, place, ttls.0, there),
        };
        let signed = match kind {
            Kind::NSEC if !self.asker.dnssec_ok() => written,
            _ => written.and_then(|()| pen.sign_denial(self.reply, place, ttls, there)),
        };
        self.settle(signed);
    }

    /// No such name or no such data: the SOA says for how long (RFC 2308 §3), at most the zone's negative TTL, and in a signed
    /// zone NSEC proves it.
    fn deny(&mut self, spot: Spot<'_>, deny: Deny<'_>, ttl: u32) {
        let zone = self.zone;
        let name = zone.keys.as_ref().map_or([].as_slice(), |keys| keys.signer());
        let apex = Spot { owner: Owner::Below(&[]), name };
        let soa = zone.nodes().first().and_then(|apex| apex.set(Kind::SOA));
        let canonical = soa.and_then(|set| set.canonical.as_ref());
        if let Some(soa) = self.write(Section::Authority, apex, &zone.denial, ttl, canonical) {
            self.reply.lower_ttl(soa, ttl);
            self.put_denial(spot, deny, ttl);
        }
    }

    fn put_denial(&mut self, spot: Spot<'_>, deny: Deny<'_>, ttl: u32) {
        if let Some(pen) = self.pen.as_mut().filter(|_| self.asker.dnssec_ok()) {
            let place = (Section::Authority, spot.owner, spot.name);
            let signed = pen.deny(self.reply, place, (ttl, self.zone.denial_ttl), deny);
            self.settle(signed);
        }
    }

    /// The name lies in a zone of others. `name` is one at or below it.
    #[inline(never)]
    fn refer(&mut self, cut: &'a Node, name: &[u8], at_once: bool) {
        let Some(set) = cut.set(Kind::NS) else { return };
        if at_once {
            self.reply.disclaim();
        }
        let bytes = cut.labels.len() + self.zone.origin.wire().len();
        let spot = Spot { owner: Owner::Below(&cut.labels), name: &name[name.len() - bytes..] };
        // Its name servers are the child's to sign (RFC 4035 §2.2).
        if self.write(Section::Authority, spot, &set.fragment, 0, None).is_none() {
            return;
        }
        if self.pen.is_some() && self.asker.dnssec_ok() {
            match cut.set(Kind::DS) {
                Some(signers) => drop(self.put(Section::Authority, spot, signers)),
                None => self.put_denial(spot, Deny::Delegation(cut.types()), self.zone.denial_ttl),
            }
        }
        // A referral is useless without its glue (RFC 9471).
        self.add_addresses(set, true);
    }

    /// The static addresses of name servers, as far as this zone has them.
    fn add_addresses(&mut self, servers: &Set, needed: bool) {
        for node in self.zone.servers(servers) {
            for set in [Kind::A, Kind::AAAA].into_iter().filter_map(|kind| node.set(kind)) {
                let owner = Owner::Below(&node.labels);
                if self.reply.set(Section::Additional, owner, &set.fragment).is_none() {
                    if needed {
                        self.reply.truncate();
                        return;
                    }
                    continue;
                }
                if let (Some(pen), Some(canonical)) = (&mut self.pen, &set.canonical)
                    && node.is_authoritative()
                {
                    let name = self.zone.folded(node);
                    let place = (Section::Additional, owner, name.as_slice());
                    // Here a signature that cannot be had is left out (RFC 4035 §3.1.1).
                    let _ = pen.sign_set(self.reply, place, canonical.ttl, canonical);
                }
            }
        }
    }

    /// Writes and signs a set of the zone that is needed. `None`: something of it is missing.
    fn put(&mut self, section: Section, spot: Spot<'_>, set: &Set) -> Option<Written> {
        let ttl = set.canonical.as_ref().map_or(0, |canonical| canonical.ttl);
        self.write(section, spot, &set.fragment, ttl, set.canonical.as_ref())
    }

    /// Writes a set that is needed, and signs it where there is a canonical form of it; behind one that did not fit comes
    /// nothing more. `None`: something of it is missing.
    fn write(
        &mut self,
        section: Section,
        spot: Spot<'_>,
        set: &Fragment,
        ttl: u32,
        canonical: Option<&CanonicalSet>,
    ) -> Option<Written> {
        if self.reply.is_truncated() || self.outcome.put_off {
            return None;
        }
        let Some(written) = self.reply.set(section, spot.owner, set) else {
            self.reply.truncate();
            return None;
        };
        if let Some((pen, canonical)) = self.pen.as_mut().zip(canonical)
            && self.asker.dnssec_ok()
        {
            let signed = pen.sign_set(self.reply, (section, spot.owner, spot.name), ttl, canonical);
            if !self.settle(signed) {
                return None;
            }
        }
        Some(written)
    }

    /// Signs what was written behind `start`. `ttls` are the one it was sent with and the one it has at rest.
    fn sign_written(&mut self, spot: Spot<'_>, start: usize, kind: Kind, ttls: (u32, u32)) {
        if let Some(pen) = &mut self.pen {
            let place = (Section::Answer, spot.owner, spot.name);
            let signed = pen.sign_written(self.reply, place, start, kind, ttls);
            self.settle(signed);
        }
    }

    /// Takes note of why a signature is missing; true when it is there.
    fn settle(&mut self, signed: Result<(), Stopped>) -> bool {
        match signed {
            Ok(()) => {}
            Err(Stopped::NoRoom) => self.reply.truncate(),
            Err(Stopped::TooMany) => self.outcome.put_off = true,
        }
        signed.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{QueryBytes, Read, ask};
    use crate::responder::Responder;
    use crate::table::Table;
    use crate::zone::{Draft, DraftSet};

    /// What a zone of these aliases, which would be refused where zones are built, answers.
    fn asked(aliases: &[(&str, &str)], label: &str) -> Read {
        let origin = Name::parse_absolute("loop.example.").unwrap();
        let name = |label: &str| Name::parse(label, &origin).unwrap();
        let empty = |name: Name| (name.folded().into(), Draft { name, sets: Vec::new(), steer: None });
        let mut drafts: Vec<(Box<[u8]>, Draft)> = vec![empty(origin.clone()), empty(name("w"))];
        for (owner, target) in aliases {
            let (key, mut draft) = empty(name(owner));
            let data = vec![Arc::from(name(target).wire())];
            draft.sets.push(DraftSet { kind: Kind::CNAME, ttl: 30, data });
            drafts.push((key, draft));
        }
        let zone = Zone::new(origin, drafts, Arc::from([0; 22]), 30, None);
        let responder = Responder::new(Table::empty().with_unchecked(zone), 1);
        ask(&responder, &QueryBytes::new(&format!("{label}.loop.example"), "A").edns())
    }

    #[test]
    fn aliases_in_a_circle_are_each_told_once() {
        for (aliases, label, expected) in [
            (vec![("self", "self")], "self", vec!["self CNAME self"]),
            (vec![("a", "b"), ("b", "a")], "a", vec!["a CNAME b", "b CNAME a"]),
            // The circle need not hold the name that was asked for, nor be made of names that are written anywhere.
            (vec![("in", "a"), ("a", "b"), ("b", "a")], "in", vec!["in CNAME a", "a CNAME b", "b CNAME a"]),
            (vec![("*.w", "x.w")], "y.w", vec!["y.w CNAME x.w", "x.w CNAME x.w"]),
            (vec![("a", "B"), ("b", "A")], "a", vec!["a CNAME B", "B CNAME A"]),
        ] {
            let read = asked(&aliases, label);
            let full = |text: &str| {
                let (owner, target) = text.split_once(" CNAME ").unwrap();
                format!("{owner}.loop.example. CNAME 30 {target}.loop.example.")
            };
            let mut expected: Vec<_> = expected.iter().map(|text| full(text)).collect();
            expected.sort();
            assert_eq!(read.answers(), expected, "{label} in {aliases:?}");
            assert_eq!(read.rcode(), Rcode::NOERROR);
        }
        // However long it is, an answer walks no more than the longest chain that a zone may have.
        let names: Vec<String> = (0..12).map(|link| format!("c{link}")).collect();
        let ring: Vec<_> =
            (0..12).map(|link| (names[link].as_str(), names[(link + 1) % 12].as_str())).collect();
        assert_eq!(asked(&ring, "c0").answers().len(), MAX_CHAIN + 1);
    }

    #[test]
    fn behind_the_longest_chain_nothing_is_looked_up() {
        let names: Vec<String> = (0..MAX_CHAIN + 2).map(|link| format!("c{link}")).collect();
        let chain = |links: usize| {
            let aliases: Vec<_> =
                (0..links).map(|link| (names[link].as_str(), names[link + 1].as_str())).collect();
            let read = asked(&aliases, "c0");
            (read.answers().len(), read.rcode())
        };
        assert_eq!(chain(MAX_CHAIN), (MAX_CHAIN, Rcode::NXDOMAIN));
        assert_eq!(chain(MAX_CHAIN + 1), (MAX_CHAIN + 1, Rcode::NOERROR));
    }
}
