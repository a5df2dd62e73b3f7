//! A state in the numbers of a table: what a query looks at in place of names.
//!
//! A board is made anew with every change of health or membership. That costs one look into a map for every service of
//! every region, one for every measured pair of regions, and a copy of the nodes' addresses; the table stays.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::{Rng, RngExt};

use crate::deck::Deck;
use crate::state::{NodeState, RegionState, ServiceState, State};
use crate::steer::{Family, MIN_SHRUNK_TTL, RegionId, ServiceId};
use crate::table::Table;

/// Nothing was measured between two regions.
pub(crate) const UNMEASURED: u32 = u32::MAX;

/// What a region can do for a service, worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) enum Standing {
    /// No backend of the service is healthy there.
    #[default]
    Unhealthy,
    /// It has no node with an address of the family asked for that users may be sent to.
    NoNodes,
    /// Its backends have no free capacity.
    Full,
    /// It can take users.
    Ready,
}

/// A state, numbered. Regions have the table's numbers; those that the table does not know come behind.
#[derive(Debug)]
pub(crate) struct Board {
    state: Arc<State>,
    /// The regions that no table names, in order; their numbers begin where the table's end.
    unknown: Vec<String>,
    /// The declared regions, then those that only the state has, in the order of their names.
    fallback: Vec<RegionId>,
    /// How many of `fallback` are declared.
    declared: usize,
    /// See [`Board::absent`].
    absent: Option<Family>,
    /// The region of this node.
    own: Option<RegionId>,
    /// By service and region.
    offers: Vec<Offer>,
    /// By region.
    rosters: Vec<Roster>,
    /// By service: when its answers may change.
    change_expected: Vec<Option<Instant>>,
    /// From each region to each, in microseconds; empty when nothing was measured.
    rtt: Vec<u32>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Offer {
    /// By family.
    standing: [Standing; 2],
    free: u32,
    load_permille: u16,
}

/// The nodes of a region.
#[derive(Debug, Default)]
struct Roster {
    nodes: [Deck; 2],
    last_resort: [Deck; 2],
}

impl Board {
    /// Numbers a state.
    pub(crate) fn new(table: &Table, state: Arc<State>) -> Self {
        let known = table.region_names().len();
        let unknown = state.regions.keys().filter(|name| table.region(name).is_none());
        let unknown: Vec<String> = unknown.take(usize::from(RegionId::MAX) - known).cloned().collect();
        let mut board = Self {
            fallback: Vec::new(),
            declared: table.regions.len(),
            absent: None,
            own: None,
            offers: vec![Offer::default(); table.services() * (known + unknown.len())],
            rosters: std::iter::repeat_with(Roster::default).take(known + unknown.len()).collect(),
            change_expected: vec![None; table.services()],
            rtt: Vec::new(),
            unknown,
            state: Arc::clone(&state),
        };
        board.own = board.number(table, &state.own_region);
        board.fallback = (0..table.regions.len() as RegionId).collect();
        for (name, region) in &state.regions {
            let Some(id) = board.number(table, name) else { continue };
            if usize::from(id) >= table.regions.len() {
                board.fallback.push(id);
            }
            board.place(table, id, region);
        }
        let known = |family: Family| {
            let decks = |roster: &'_ Roster| {
                !roster.nodes[family as usize].is_empty() || !roster.last_resort[family as usize].is_empty()
            };
            board.rosters.iter().any(decks)
        };
        board.absent = match (known(Family::V4), known(Family::V6)) {
            (true, false) => Some(Family::V6),
            (false, true) => Some(Family::V4),
            _ => None,
        };
        for (service, at) in &state.change_expected {
            if let Some(service) = table.service(service) {
                board.change_expected[service as usize] = Some(*at);
            }
        }
        board.measure(table, &state.rtt);
        board
    }

    fn number(&self, table: &Table, name: &str) -> Option<RegionId> {
        table.region(name).or_else(|| {
            let at = self.unknown.binary_search_by(|unknown| unknown.as_str().cmp(name)).ok()?;
            Some((table.region_names().len() + at) as RegionId)
        })
    }

    fn place(&mut self, table: &Table, id: RegionId, region: &RegionState) {
        let decks = |nodes: &[NodeState]| [Deck::new(nodes, Family::V4), Deck::new(nodes, Family::V6)];
        let roster = Roster { nodes: decks(&region.nodes), last_resort: decks(&region.last_resort) };
        let regions = self.rosters.len();
        for (service, ServiceState { healthy, free, load_permille }) in &region.services {
            let Some(service) = table.service(service) else { continue };
            let standing = [Family::V4, Family::V6].map(|family| {
                match (healthy, roster.nodes[family as usize].is_empty(), free) {
                    (false, ..) => Standing::Unhealthy,
                    (_, true, _) => Standing::NoNodes,
                    (.., 0) => Standing::Full,
                    _ => Standing::Ready,
                }
            });
            self.offers[service as usize * regions + usize::from(id)] =
                Offer { standing, free: *free, load_permille: *load_permille };
        }
        self.rosters[usize::from(id)] = roster;
    }

    fn measure(&mut self, table: &Table, rtt: &HashMap<(String, String), Duration>) {
        let regions = self.rosters.len();
        for ((from, to), rtt) in rtt {
            let Some((from, to)) = self.number(table, from).zip(self.number(table, to)) else { continue };
            if self.rtt.is_empty() {
                self.rtt = vec![UNMEASURED; regions * regions];
            }
            let micros = u32::try_from(rtt.as_micros()).unwrap_or(UNMEASURED);
            self.rtt[usize::from(from) * regions + usize::from(to)] = micros;
        }
        if !self.rtt.is_empty() {
            (0..regions).for_each(|region| self.rtt[region * regions + region] = 0);
        }
    }

    /// The region of this node, when it is known.
    pub(crate) fn own(&self) -> Option<RegionId> {
        self.own
    }

    /// Every region there is, in the order in which they are tried when none is healthy.
    pub(crate) fn regions(&self) -> &[RegionId] {
        &self.fallback
    }

    /// The regions that no configuration declares.
    pub(crate) fn undeclared(&self) -> &[RegionId] {
        &self.fallback[self.declared..]
    }

    /// A region's name.
    pub(crate) fn name<'a>(&'a self, table: &'a Table, region: RegionId) -> &'a str {
        let at = usize::from(region);
        let names = table.region_names();
        names.get(at).or_else(|| self.unknown.get(at - names.len())).map_or("", String::as_str)
    }

    /// What a region can do for a service, for who asks for addresses of a family.
    pub(crate) fn standing(&self, service: ServiceId, region: RegionId, family: Family) -> Standing {
        self.offer(service, region).standing[family as usize]
    }

    fn offer(&self, service: ServiceId, region: RegionId) -> Offer {
        let at = service as usize * self.rosters.len() + usize::from(region);
        self.offers.get(at).copied().unwrap_or_default()
    }

    /// A region's free capacity for a service.
    pub(crate) fn free(&self, service: ServiceId, region: RegionId) -> u32 {
        self.offer(service, region).free
    }

    /// How much of a region's capacity for a service is in use, in thousandths.
    pub(crate) fn load_permille(&self, service: ServiceId, region: RegionId) -> u16 {
        self.offer(service, region).load_permille
    }

    /// One of the regions that stand so for a service, at random by free capacity; evenly when none has any.
    pub(crate) fn weighted(
        &self,
        service: ServiceId,
        family: Family,
        wanted: Standing,
        rng: &mut impl Rng,
    ) -> Option<RegionId> {
        let stands = |region: &RegionId| self.standing(service, *region, family) == wanted;
        let able = || self.fallback.iter().copied().filter(stands);
        let share = |region| match wanted {
            Standing::Ready => u64::from(self.free(service, region)),
            _ => 1,
        };
        let total: u64 = able().map(share).sum();
        if total == 0 {
            return None;
        }
        let mut at = rng.random_range(0..total);
        able().find(|region| {
            let share = share(*region);
            let here = at < share;
            at = at.saturating_sub(share);
            here
        })
    }

    /// Round-trip times from a region by region, in microseconds, when any were measured.
    pub(crate) fn rtt(&self, from: RegionId) -> Option<&[u32]> {
        let regions = self.rosters.len();
        let start = usize::from(from) * regions;
        self.rtt.get(start..start + regions)
    }

    /// A region's nodes of a family; those that users are sent to, or the others.
    pub(crate) fn deck(&self, region: RegionId, family: Family, last_resort: bool) -> Option<&Deck> {
        let roster = self.rosters.get(usize::from(region))?;
        let decks = if last_resort { &roster.last_resort } else { &roster.nodes };
        Some(&decks[family as usize])
    }

    /// True when a region has such nodes of a family.
    pub(crate) fn has_nodes(&self, region: RegionId, family: Family, last_resort: bool) -> bool {
        self.deck(region, family, last_resort).is_some_and(|deck| !deck.is_empty())
    }

    /// The family that no known node has an address of, while there are nodes with one of the other.
    pub(crate) fn absent(&self) -> Option<Family> {
        self.absent
    }

    /// A node's name, by its place among its region's.
    pub(crate) fn node_name(&self, region: &str, node: usize, last_resort: bool) -> &str {
        let state = self.state.regions.get(region);
        let nodes = state.map(|region| if last_resort { &region.last_resort } else { &region.nodes });
        nodes.and_then(|nodes| nodes.get(node)).map_or("", |node| node.name.as_str())
    }

    /// A TTL, or less when a change may come sooner; never below [`MIN_SHRUNK_TTL`] for that reason. In seconds.
    pub(crate) fn ttl(&self, service: ServiceId, ttl: u32, now: Instant) -> u32 {
        let expected = self.change_expected.get(service as usize).copied().flatten();
        let expected = expected.map(|at| at.saturating_duration_since(now));
        let shrunk = [expected, self.state.ttl_ceiling].into_iter().flatten().min();
        shrunk.map_or(ttl, |shrunk| ttl.min(shrunk.max(MIN_SHRUNK_TTL).as_secs() as u32))
    }
}
