//! Why a client gets the answer it gets, for people.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Serialize;

use crate::answer::Outcome;
use crate::board::Standing;
use crate::geo::Location;
use crate::name::Name;
use crate::ranked::Ranked;
use crate::steer::{Decision, Order, Place, RegionId, Scene, Source, Step, nearest};
use crate::wire::{ask, kind_from_text, kind_to_text, read_back};

/// A question that cannot be asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` {reason}")]
pub struct ExplainError {
    /// The name or the type.
    pub text: String,
    /// What is wrong with it.
    pub reason: String,
}

/// What a client would be told, and why.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Explanation {
    /// The name asked for.
    pub name: String,
    /// The type asked for.
    pub kind: String,
    /// The zone that answers; `None`: no zone here holds the name.
    pub zone: Option<String>,
    /// The response code.
    pub rcode: String,
    /// The records answered, in order: owner, type, data.
    pub answers: Vec<String>,
    /// The shortest TTL of the answer, in seconds.
    pub ttl: Option<u32>,
    /// How the region was chosen, when the name is steered.
    pub steering: Option<Steering>,
}

/// How a region was chosen.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Steering {
    /// The client's prefix.
    pub client: IpNet,
    /// How its place was found.
    pub source: Source,
    /// Its place, as far as known.
    pub location: Option<Location>,
    /// The prefix length for which the same holds.
    pub scope: u8,
    /// The regions in the order of the policy; by free capacity, when that is drawn by.
    pub order: Vec<String>,
    /// Those passed over, and why.
    pub skipped: Vec<(String, Skip)>,
    /// How far down it had to go.
    pub step: Step,
    /// The region that answers.
    pub region: Option<String>,
    /// The TTL at rest, in seconds; that of the answer is less while a change is expected.
    pub full_ttl: u32,
    /// Nodes and their addresses; drawn anew for every query.
    pub chosen: Vec<(String, IpAddr)>,
}

/// Why a region was passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Skip {
    /// No backend of the service is healthy there.
    Unhealthy,
    /// Its backends have no free capacity.
    Full,
    /// It has no node that users may be sent to.
    NoNodes,
    /// It is filling up and passed this user on.
    Shedding,
}

impl Explanation {
    /// The question as a resolver of the client would ask it.
    pub(crate) fn query(name: &str, kind: &str, client: IpNet) -> Result<Vec<u8>, ExplainError> {
        let wrong =
            |text: &str, reason: &str| ExplainError { text: text.to_owned(), reason: reason.to_owned() };
        let parsed = Name::parse_absolute(name).map_err(|error| wrong(name, &error.to_string()))?;
        let number =
            kind_from_text(kind).ok_or_else(|| wrong(kind, "is no record type, such as A or AAAA"))?;
        ask(&parsed, number, client).ok_or_else(|| wrong(name, "cannot be asked for"))
    }

    /// Reads what was answered and what led to it.
    pub(crate) fn of(
        name: &str,
        kind: &str,
        client: IpNet,
        scene: &Scene,
        outcome: &Outcome<'_>,
        answered: &[u8],
    ) -> Self {
        let read = read_back(answered);
        let decision = outcome.decision.as_ref();
        Self {
            name: Name::parse_absolute(name).map_or_else(|_| name.to_owned(), |name| name.to_string()),
            kind: kind_from_text(kind).map_or_else(|| kind.to_owned(), kind_to_text),
            zone: outcome.zone.map(|zone| zone.origin.to_string()),
            rcode: outcome.rcode.to_string(),
            ttl: read.as_ref().and_then(|read| read.ttl),
            answers: read.map(|read| read.records).unwrap_or_default(),
            steering: decision.map(|decision| Steering::of(scene, client, decision)),
        }
    }
}

impl Steering {
    /// Puts names to the numbers of a decision, and reasons to the regions before the one chosen.
    pub(crate) fn of(scene: &Scene, client: IpNet, decision: &Decision<'_>) -> Self {
        let Decision { steer, place, choice, .. } = *decision;
        let name = |region: RegionId| scene.board.name(&scene.table, region).to_owned();
        let order = order(scene, &steer.order, steer.service, &place);
        let reason = |region: &RegionId| match scene.board.standing(steer.service, *region, decision.family) {
            Standing::Unhealthy => Some(Skip::Unhealthy),
            Standing::NoNodes => Some(Skip::NoNodes),
            Standing::Full => Some(Skip::Full),
            Standing::Ready => {
                (steer.shed.is_some() && steer.order != Order::Weighted).then_some(Skip::Shedding)
            }
        };
        let before =
            order.iter().take_while(|region| choice.step > Step::Healthy || Some(**region) != choice.region);
        let skipped = before.filter_map(|region| Some((name(*region), reason(region)?))).collect();
        let region = choice.region.map(name);
        let deck = decision.deck(scene);
        let nodes = deck.nodes(&decision.drawn).map(|node| {
            let region = region.as_deref().unwrap_or_default();
            scene.board.node_name(region, node, choice.is_last_resort()).to_owned()
        });
        Self {
            client,
            source: place.source,
            location: place.location,
            scope: place.scope,
            full_ttl: steer.ttl,
            chosen: nodes.zip(deck.addresses(&decision.drawn)).collect(),
            order: order.into_iter().map(name).collect(),
            skipped,
            step: choice.step,
            region,
        }
    }
}

/// All regions that a policy tries for a client, the first first.
fn order(scene: &Scene, order: &Order, service: u32, place: &Place) -> Vec<RegionId> {
    let known = scene.board.regions();
    match order {
        Order::Nearest if place.source != Source::GeoIp => nearest(scene, place.home).collect(),
        Order::Nearest => Ranked::by_distance(scene, place).all(|_| true).collect(),
        Order::Latency => Ranked::by_latency(scene, place).all(|_| true).collect(),
        Order::Failover(order) => order.iter().copied().filter(|region| known.contains(region)).collect(),
        Order::Weighted => {
            let mut order = known.to_vec();
            order.sort_by_key(|region| std::cmp::Reverse(scene.board.free(service, *region)));
            order
        }
    }
}
