//! Which region answers a client, and with which nodes of it.
//!
//! ```text
//!   client ──► prefixes? ──► GeoIP? ──► own region          where is the user
//!                 └────────────┴───────────┴──► order        by policy
//!   order ──► healthy, with room and nodes ──► healthy ──► configured order ──► any known node
//!                                                          └─────── fail open (I6) ───────┘
//! ```
//!
//! A region that is filling up passes a growing share of its users on to the next one, where its steer says so ([`Shed`]).
//! A region is chosen for the family that is asked for: one whose only node with IPv6 is suspect or draining is no region for
//! AAAA at that moment, and is for A. So health never makes an answer empty; it is when no node of the mesh has the family.
//!
//! Everything here runs once a query, on a [`Scene`] that does not change: it allocates nothing and waits for nobody.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::{Rng, RngExt};
use serde::Serialize;

use crate::board::{Board, Standing};
use crate::deck::{self, Deck, Drawn};
use crate::geo::{GeoIp, Location};
use crate::limit::Limiter;
use crate::ranked::Ranked;
use crate::spec::Shed;
use crate::table::Table;
use crate::terms::Terms;
use crate::zone::Kind;

/// A TTL that shrinks before an expected change never falls below this.
pub const MIN_SHRUNK_TTL: Duration = Duration::from_secs(5);

/// A region's number: its place in the table, or behind it.
pub(crate) type RegionId = u16;
/// A service's number in the table.
pub(crate) type ServiceId = u32;

/// Which addresses are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// A.
    V4 = 0,
    /// AAAA.
    V6 = 1,
}

impl Family {
    /// The type of its records.
    pub(crate) fn kind(self) -> Kind {
        match self {
            Self::V4 => Kind::A,
            Self::V6 => Kind::AAAA,
        }
    }

    /// True when the address is one of this family.
    pub(crate) fn holds(self, address: IpAddr) -> bool {
        address.is_ipv4() == (self == Self::V4)
    }
}

/// What a query sees: one table, one state in its numbers, where addresses are, when there is a file, and on which terms
/// strangers are served.
pub(crate) struct Scene {
    pub(crate) table: Arc<Table>,
    pub(crate) board: Board,
    pub(crate) geo: Option<Arc<GeoIp>>,
    /// On which terms strangers are served.
    pub(crate) terms: Arc<Terms>,
    /// How much each network gets, when that is limited.
    pub(crate) limiter: Option<Arc<Limiter>>,
    /// How many signatures each network may have made, when a zone is signed.
    pub(crate) signatures: Option<Arc<Limiter>>,
}

/// A name whose addresses are those of nodes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Steer {
    /// Whose health decides.
    pub(crate) service: ServiceId,
    /// In which order regions are tried.
    pub(crate) order: Order,
    /// Nodes in an answer.
    pub(crate) answers: usize,
    /// When a region passes users on before it is full.
    pub(crate) shed: Option<Shed>,
    /// The TTL at rest, in seconds.
    pub(crate) ttl: u32,
}

/// In which order regions are tried: a [`Policy`](crate::Policy) in numbers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Order {
    Nearest,
    Latency,
    Weighted,
    Failover(Box<[RegionId]>),
}

/// How the client's place was found.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// A region's prefixes hold the address.
    Prefixes,
    /// The GeoIP file knows it.
    GeoIp,
    /// Neither; a resolver tends to ask the nearest name server, so the client is taken to be here.
    OwnRegion,
}

/// How far the choice had to go down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// The first region in order that is healthy, has room, and nodes with an address of the family asked for.
    Healthy,
    /// All healthy regions are full: the first of them.
    NoRoom,
    /// No healthy region has nodes: the first with nodes in the configured order.
    FailOpen,
    /// No region has usable nodes: the first with any known node, suspect or draining.
    LastResort,
    /// No known node has an address of the family asked for, but of the other: there is no such data.
    NoFamily,
    /// The mesh has no node with an address.
    Nobody,
}

/// Where a client is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Place {
    pub(crate) source: Source,
    /// The region it belongs to, when that is known without distances.
    pub(crate) home: Option<RegionId>,
    /// Where the GeoIP file says it is, when that decides; see [`Place::location`].
    file: Option<Location>,
    /// The shortest prefix length around the client for which the same holds; never 0.
    pub(crate) scope: u8,
}

/// The region that answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) step: Step,
    pub(crate) region: Option<RegionId>,
}

/// What was decided for one query.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Decision<'a> {
    pub(crate) steer: &'a Steer,
    pub(crate) family: Family,
    pub(crate) place: Place,
    pub(crate) choice: Choice,
    pub(crate) drawn: Drawn,
    /// In seconds.
    pub(crate) ttl: u32,
}

/// Decides for one client, where the decision stays; an IPv4 address comes as one, not mapped into IPv6.
pub(crate) fn decide<'d, 'a>(
    decided: &'d mut Option<Decision<'a>>,
    scene: &Scene,
    steer: &'a Steer,
    family: Family,
    client: IpAddr,
    now: Instant,
    rng: &mut impl Rng,
) -> &'d Decision<'a> {
    let place = locate(scene, client);
    let choice = choose(scene, steer, family, &place, rng);
    let ttl = scene.board.ttl(steer.service, steer.ttl, now);
    let decision = decided.insert(Decision { steer, family, place, choice, drawn: Drawn::default(), ttl });
    decision.deck(scene).draw(&mut decision.drawn, steer.answers, rng);
    decision
}

impl Place {
    /// Where it is, as far as known; a region's client is where the region is.
    pub(crate) fn location(&self, scene: &Scene) -> Option<Location> {
        self.home.map_or(self.file, |home| scene.table.location(home))
    }
}

impl Choice {
    /// True when the region answers with nodes that users would not be sent to otherwise.
    pub(crate) fn is_last_resort(&self) -> bool {
        self.step == Step::LastResort
    }
}

impl Decision<'_> {
    /// The nodes that were drawn from.
    pub(crate) fn deck<'s>(&self, scene: &'s Scene) -> &'s Deck {
        let last_resort = self.choice.is_last_resort();
        let region = self.choice.region;
        region.and_then(|region| scene.board.deck(region, self.family, last_resort)).unwrap_or(&deck::EMPTY)
    }
}

/// Where a client is, by the address itself.
pub(crate) fn locate(scene: &Scene, client: IpAddr) -> Place {
    let by_prefix = scene.table.prefixes.find(client);
    if let Some(home) = by_prefix.region {
        return Place {
            source: Source::Prefixes,
            home: Some(home),
            file: None,
            scope: by_prefix.scope.max(1),
        };
    }
    let by_file = scene.geo.as_deref().map(|geo| geo.locate(client));
    let scope = by_prefix.scope.max(by_file.map_or(0, |found| found.prefix_len)).max(1);
    if let Some(location) = by_file.and_then(|found| found.location) {
        return Place { source: Source::GeoIp, home: None, file: Some(location), scope };
    }
    Place { source: Source::OwnRegion, home: scene.board.own(), file: None, scope }
}

fn choose(scene: &Scene, steer: &Steer, family: Family, place: &Place, rng: &mut impl Rng) -> Choice {
    // Most users' own region can take them; all the rest is for the others.
    let stays = steer.order == Order::Nearest && place.source != Source::GeoIp && steer.shed.is_none();
    match place.home {
        Some(home) if stays && scene.board.standing(steer.service, home, family) == Standing::Ready => {
            Choice { step: Step::Healthy, region: Some(home) }
        }
        _ => choose_among_all(scene, steer, family, place, rng),
    }
}

#[inline(never)]
fn choose_among_all(
    scene: &Scene,
    steer: &Steer,
    family: Family,
    place: &Place,
    rng: &mut impl Rng,
) -> Choice {
    if scene.board.absent() == Some(family) {
        return Choice { step: Step::NoFamily, region: None };
    }
    for (wanted, step) in [(Standing::Ready, Step::Healthy), (Standing::Full, Step::NoRoom)] {
        let stands = |region: &RegionId| scene.board.standing(steer.service, *region, family) == wanted;
        let shed = steer.shed.filter(|_| wanted == Standing::Ready);
        let region = match &steer.order {
            Order::Weighted => scene.board.weighted(steer.service, family, wanted, rng),
            Order::Failover(order) => settle(scene, steer, shed, order.iter().copied().filter(stands), rng),
            Order::Nearest if place.source != Source::GeoIp => {
                settle(scene, steer, shed, nearest(scene, place.home).filter(stands), rng)
            }
            Order::Nearest => settle(scene, steer, shed, Ranked::by_distance(scene, place).all(stands), rng),
            Order::Latency => settle(scene, steer, shed, Ranked::by_latency(scene, place).all(stands), rng),
        };
        if region.is_some() {
            return Choice { step, region };
        }
    }
    fail_open(&scene.board, &steer.order, family)
}

/// The first of the regions that does not pass the user on; when all do, the first.
fn settle(
    scene: &Scene,
    steer: &Steer,
    shed: Option<Shed>,
    mut regions: impl Iterator<Item = RegionId>,
    rng: &mut impl Rng,
) -> Option<RegionId> {
    let first = regions.next()?;
    let Some(Shed { low_permille, high_permille }) = shed else { return Some(first) };
    let mut stays = |region: &RegionId| {
        let load = scene.board.load_permille(steer.service, *region);
        load <= low_permille || load < high_permille && rng.random_range(low_permille..high_permille) >= load
    };
    if stays(&first) { Some(first) } else { regions.find(stays).or(Some(first)) }
}

/// The regions around a client's own, the nearest first. Without one, all of them as configured.
pub(crate) fn nearest(scene: &Scene, home: Option<RegionId>) -> impl Iterator<Item = RegionId> {
    let around = home.and_then(|home| scene.table.nearest.get(usize::from(home)));
    let (first, declared, others) = match around {
        Some(around) => (None, around.as_ref(), scene.board.undeclared()),
        // A region that is not declared has no distances; the others come as configured.
        None => (home, scene.board.regions(), [].as_slice()),
    };
    let rest = declared.iter().chain(others).copied().filter(move |region| Some(*region) != first);
    first.into_iter().chain(rest)
}

/// In the configured order, which for failover is the policy's, and then everyone else.
fn fail_open(board: &Board, order: &Order, family: Family) -> Choice {
    let named = match order {
        Order::Failover(order) => order.as_ref(),
        _ => [].as_slice(),
    };
    let find = |last_resort| {
        let mut configured = named.iter().chain(board.regions()).copied();
        configured.find(|region| board.has_nodes(*region, family, last_resort))
    };
    if let Some(region) = find(false) {
        return Choice { step: Step::FailOpen, region: Some(region) };
    }
    let region = find(true);
    Choice { step: if region.is_some() { Step::LastResort } else { Step::Nobody }, region }
}

#[cfg(test)]
mod oracle;
#[cfg(test)]
mod tests;
