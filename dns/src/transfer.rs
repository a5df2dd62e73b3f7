//! A whole zone to one who may have it (RFC 5936): messages over TCP, the SOA first and last.
//!
//! A transfer holds the scene it began with, so that the zone is one zone however long it takes. Steered names come with
//! the addresses that the receiver itself would be told at that moment: a secondary cannot steer.

use std::net::IpAddr;
use std::sync::Arc;

use rand::rngs::SmallRng;

use crate::moment::Moment;
use crate::name::Folded;
use crate::responder::Transport;
use crate::steer::{Family, Scene, decide};
use crate::wire::{
    ExtendedError, Extras, HEADER_BYTES, Owner, Question, Rcode, Reply, Request, Section, decode,
};
use crate::zone::{Kind, Node, Zone};

/// A message is sent when it has reached so many bytes (RFC 5936 §2.2: compression reaches no farther).
const MESSAGE_BYTES: usize = 16 * 1024;

/// Extended errors of RFC 8914 §4.
const PROHIBITED: u16 = 18;
const NOT_AUTHORITATIVE: u16 = 20;
const NOT_SUPPORTED: u16 = 21;
/// In which order the addresses of a steered name come.
const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// A transfer under way.
pub(crate) struct Transfer {
    scene: Arc<Scene>,
    query: Vec<u8>,
    client: IpAddr,
    now: Moment,
    rng: SmallRng,
    /// The next name, and what of it is next: its sets, then its steered addresses by family.
    node: usize,
    part: usize,
    begun: bool,
    done: bool,
}

/// What became of a transfer's next message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// It is there, and another one may follow.
    Message,
    /// It says that the rest cannot be given; the connection ends behind it (RFC 5936 §2.2).
    Failure,
    /// There was none left.
    End,
}

impl Transfer {
    /// Begins one when a query asks for a zone that is served here and its sender may have it.
    pub(crate) fn begin(
        scene: &Arc<Scene>,
        query: &[u8],
        client: IpAddr,
        now: Moment,
        rng: SmallRng,
    ) -> Option<Self> {
        let request = decode(query)?;
        let zone = wanted(scene, &request).filter(|_| scene.terms.may_transfer(client))?;
        let mut query = query.to_vec();
        // All names end in a pointer to the question's, so the question gets the zone's own upper and lower case.
        query
            .get_mut(HEADER_BYTES..HEADER_BYTES + zone.origin.wire().len())?
            .copy_from_slice(zone.origin.wire());
        Some(Self {
            scene: Arc::clone(scene),
            query,
            client: client.to_canonical(),
            now,
            rng,
            node: 0,
            part: 0,
            begun: false,
            done: false,
        })
    }

    /// Writes the next message.
    pub(crate) fn next(&mut self, out: &mut Vec<u8>) -> Next {
        let scene = Arc::clone(&self.scene);
        let query = std::mem::take(&mut self.query);
        let written = match decode(&query).as_ref().map(|request| (request, wanted(&scene, request))) {
            Some((request, Some(zone))) if !self.done => {
                let mut reply = Reply::begin(request, Extras::default(), u16::MAX, out);
                reply.answer_from(zone.origin.wire().len());
                self.fill(&scene, zone, &mut reply);
                // What a message of its own does not hold no later one will.
                let stuck = reply.is_empty();
                self.done |= stuck;
                reply.finish(if stuck { Rcode::SERVFAIL } else { Rcode::NOERROR }, 0);
                if stuck { Next::Failure } else { Next::Message }
            }
            _ => Next::End,
        };
        self.query = query;
        written
    }

    fn fill(&mut self, scene: &Scene, zone: &Zone, reply: &mut Reply<'_, '_>) {
        let apex = zone.nodes().first().and_then(|apex| apex.set(Kind::SOA));
        let soa = |reply: &mut Reply<'_, '_>| {
            apex.is_some_and(|soa| reply.set(Section::Answer, Owner::Below(&[]), &soa.fragment).is_some())
        };
        if !self.begun {
            self.begun = soa(reply);
            if !self.begun {
                return;
            }
        }
        while let Some(node) = zone.nodes().get(self.node) {
            while self.part < node.sets.len() + FAMILIES.len() {
                if reply.length() >= MESSAGE_BYTES || !self.write(scene, node, reply) {
                    return;
                }
                self.part += 1;
            }
            (self.node, self.part) = (self.node + 1, 0);
        }
        self.done = soa(reply);
    }

    /// Writes the next part of a name; false when it does not fit.
    fn write(&mut self, scene: &Scene, node: &Node, reply: &mut Reply<'_, '_>) -> bool {
        let owner = Owner::Below(&node.labels);
        if let Some(set) = node.sets.get(self.part) {
            // The SOA stands first and last.
            return set.fragment.kind() == Kind::SOA
                || reply.set(Section::Answer, owner, &set.fragment).is_some();
        }
        let family = FAMILIES.get(self.part - node.sets.len());
        let Some((steer, family)) = node.steer.as_deref().zip(family) else { return true };
        let (mut decided, now) = (None, self.now.monotonic);
        let decision = decide(&mut decided, scene, steer, *family, self.client, now, &mut self.rng);
        let addresses = decision.deck(scene).addresses(&decision.drawn);
        reply.addresses(owner, *family, decision.ttl, addresses)
    }
}

/// Why a request for a whole zone is refused (RFC 8914); `None`: it asks for none. Who may not have zones is not told which
/// ones there are.
pub(crate) fn refusal(
    scene: &Scene,
    question: &Question<'_>,
    client: IpAddr,
    transport: Transport,
) -> Option<ExtendedError> {
    if matches!(question.kind, Kind::AXFR | Kind::IXFR) {
        why_refused(scene, question, client, transport)
    } else {
        None
    }
}

#[inline(never)]
fn why_refused(
    scene: &Scene,
    question: &Question<'_>,
    client: IpAddr,
    transport: Transport,
) -> Option<ExtendedError> {
    let name = Folded::new(question.name);
    let zone = scene.table.zone_of(name.as_slice(), question.kind);
    let zone = zone.filter(|zone| zone.origin.wire().len() == question.name.len());
    Some(match zone {
        _ if !scene.terms.may_transfer(client) => ExtendedError { code: PROHIBITED, text: "" },
        None => ExtendedError { code: NOT_AUTHORITATIVE, text: "" },
        Some(zone) if zone.keys.is_some() => ExtendedError {
            code: NOT_SUPPORTED,
            text: "the zone is signed while it is asked (dnssec = true), so it cannot be given away whole",
        },
        Some(_) if transport == Transport::Udp => {
            ExtendedError { code: NOT_SUPPORTED, text: "zones are given over TCP" }
        }
        Some(_) => return None,
    })
}

/// The zone that a request asks for as a whole. One that asks for the changes gets all of it (RFC 1995 §4).
fn wanted<'s>(scene: &'s Scene, request: &Request<'_>) -> Option<&'s Zone> {
    let question = request.question.filter(|_| request.fault.is_none())?;
    let asks = matches!(question.kind, Kind::AXFR | Kind::IXFR) && question.is_internet();
    let name = Folded::new(question.name);
    // What is signed while it is asked cannot be given away whole.
    let zone =
        scene.table.zone_of(name.as_slice(), question.kind).filter(|zone| asks && zone.keys.is_none())?;
    (zone.origin.wire().len() == question.name.len()).then_some(zone)
}
