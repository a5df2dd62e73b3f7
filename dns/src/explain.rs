//! Why a client gets the answer it gets, for people.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use serde::Serialize;

use crate::answer::Outcome;
use crate::board::{Standing, UNMEASURED};
use crate::geo::Location;
use crate::name::Name;
use crate::ranked::Ranked;
use crate::steer::{Decision, Family, Order, Place, RegionId, Scene, Source, Steer, Step, nearest};
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
    /// Where the name lies in a zone of others: the name servers that it is delegated to, as records.
    pub referral: Vec<String>,
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
    /// In which order regions are tried.
    pub policy: PolicyKind,
    /// Whose health decides.
    pub service: String,
    /// The address whose place was looked up: the prefix's first.
    pub looked_up: IpAddr,
    /// How its place was found.
    pub source: Source,
    /// Its place, as far as known.
    pub location: Option<Location>,
    /// The prefix length for which the same holds.
    pub scope: u8,
    /// The prefix for whose addresses the same holds.
    pub scope_prefix: IpNet,
    /// The regions in the order of the policy; by free capacity, when that is drawn by.
    pub order: Vec<String>,
    /// With `weighted`: what is drawn from, with the free capacity of each. Empty otherwise, and when none can take users.
    pub shares: Vec<(String, u32)>,
    /// With `latency`, when any were measured: the round-trip times that order.
    pub measured: Option<Measured>,
    /// With `failover`: regions that are named, and nobody has heard of.
    pub unknown: Vec<String>,
    /// With `failover`: regions that could take users, and are not named.
    pub unnamed: Vec<String>,
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

/// A [`Policy`](crate::Policy) without its terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "the names of the policies")]
pub enum PolicyKind {
    Nearest,
    Latency,
    Weighted,
    Failover,
}

impl PolicyKind {
    /// As the configuration spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nearest => "nearest",
            Self::Latency => "latency",
            Self::Weighted => "weighted",
            Self::Failover => "failover",
        }
    }
}

/// Round-trip times between regions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Measured {
    /// The region nearest to the client.
    pub from: String,
    /// To each region in order; `None`: not measured.
    pub to: Vec<(String, Option<Duration>)>,
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
            referral: read.as_ref().map(|read| read.referral.clone()).unwrap_or_default(),
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
        // What is drawn at random has no place in the order.
        let all = choice.step > Step::Healthy || steer.order == Order::Weighted;
        let before = order.iter().take_while(|region| all || Some(**region) != choice.region);
        let skipped = before.filter_map(|region| Some((name(*region), reason(region)?))).collect();
        let region = choice.region.map(name);
        let deck = decision.deck(scene);
        let nodes = deck.nodes(&decision.drawn).map(|node| {
            let region = region.as_deref().unwrap_or_default();
            scene.board.node_name(region, node, choice.is_last_resort()).to_owned()
        });
        Self {
            client,
            policy: match steer.order {
                Order::Nearest => PolicyKind::Nearest,
                Order::Latency => PolicyKind::Latency,
                Order::Weighted => PolicyKind::Weighted,
                Order::Failover(_) => PolicyKind::Failover,
            },
            service: scene.table.service_name(steer.service).to_owned(),
            looked_up: client.network(),
            source: place.source,
            location: place.location(scene),
            scope: place.scope,
            scope_prefix: IpNet::new(client.network(), place.scope).map_or(client, |prefix| prefix.trunc()),
            shares: shares(scene, steer, choice.step, decision.family),
            measured: measured(scene, &steer.order, &place, &order),
            unknown: named(&steer.order).filter(|region| !is_known(scene, *region)).map(name).collect(),
            unnamed: unnamed(scene, steer, decision.family).map(name).collect(),
            full_ttl: steer.ttl,
            chosen: nodes.zip(deck.addresses(&decision.drawn)).collect(),
            order: order.into_iter().map(name).collect(),
            skipped,
            step: choice.step,
            region,
        }
    }
}

fn is_known(scene: &Scene, region: RegionId) -> bool {
    scene.board.regions().contains(&region)
}

/// The regions that a fail-over order names.
fn named(order: &Order) -> impl Iterator<Item = RegionId> {
    let named = if let Order::Failover(order) = order { order.as_ref() } else { &[] };
    named.iter().copied()
}

/// Those that could take users and that a fail-over order does not name.
fn unnamed(scene: &Scene, steer: &Steer, family: Family) -> impl Iterator<Item = RegionId> {
    let is_order = matches!(steer.order, Order::Failover(_));
    let others = scene.board.regions().iter().copied().filter(move |_| is_order);
    others.filter(move |region| {
        scene.board.standing(steer.service, *region, family) >= Standing::Full
            && !named(&steer.order).any(|named| named == *region)
    })
}

/// What is drawn from, when that is so; full regions have even shares.
fn shares(scene: &Scene, steer: &Steer, step: Step, family: Family) -> Vec<(String, u32)> {
    let wanted = match (&steer.order, step) {
        (Order::Weighted, Step::Healthy) => Standing::Ready,
        (Order::Weighted, Step::NoRoom) => Standing::Full,
        _ => return Vec::new(),
    };
    let able = scene.board.regions().iter().copied();
    let able = able.filter(|region| scene.board.standing(steer.service, *region, family) == wanted);
    able.map(|region| {
        let name = scene.board.name(&scene.table, region).to_owned();
        (name, if wanted == Standing::Ready { scene.board.free(steer.service, region) } else { 1 })
    })
    .collect()
}

fn measured(scene: &Scene, policy: &Order, place: &Place, order: &[RegionId]) -> Option<Measured> {
    let (from, times) = Ranked::by_latency(scene, place).measured().filter(|_| *policy == Order::Latency)?;
    let name = |region| scene.board.name(&scene.table, region).to_owned();
    let time =
        |region: RegionId| times.get(usize::from(region)).copied().filter(|micros| *micros != UNMEASURED);
    let to = order
        .iter()
        .map(|region| (name(*region), time(*region).map(|micros| Duration::from_micros(micros.into()))));
    Some(Measured { from: name(from), to: to.collect() })
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
