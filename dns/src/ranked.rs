//! Regions in the order of a measure, without sorting: each next one is the least that is greater than the last.
//!
//! Nearly every query needs the first only. Distances are compared as squares of chords, which order as the great
//! circles do and need no trigonometry but the client's own.

use crate::board::UNMEASURED;
use crate::geo::Point;
use crate::steer::{Place, RegionId, Scene, nearest};

/// See the module.
pub(crate) struct Ranked<'a> {
    scene: &'a Scene,
    home: Option<RegionId>,
    point: Option<Point>,
    /// The client's nearest region, and round-trip times from there by region, in microseconds.
    closest: Option<RegionId>,
    rtt: Option<&'a [u32]>,
}

/// Less is better: round trip, the client's own region, distance (the bits of a float that is not negative order as it
/// does), place in the configured order.
type Rank = (u32, bool, u64, usize);

impl<'a> Ranked<'a> {
    /// The client's own region, then by distance, then those without a location in the configured order.
    pub(crate) fn by_distance(scene: &'a Scene, place: &Place) -> Self {
        let point = place.location(scene).map(|location| location.point());
        Self { scene, home: place.home, point, closest: None, rtt: None }
    }

    /// By round-trip time from the client's nearest region; by distance where none is known.
    pub(crate) fn by_latency(scene: &'a Scene, place: &Place) -> Self {
        let mut ranked = Self::by_distance(scene, place);
        ranked.closest = match place.home {
            Some(home) => nearest(scene, Some(home)).next(),
            None => ranked.least(|_| true, None).map(|(_, region)| region),
        };
        ranked.rtt = ranked.closest.and_then(|closest| scene.board.rtt(closest));
        ranked
    }

    /// The round-trip times that order, and from where they were measured.
    pub(crate) fn measured(&self) -> Option<(RegionId, &'a [u32])> {
        self.closest.zip(self.rtt)
    }

    /// The regions that are wanted, the best first; each costs one look at all.
    pub(crate) fn all(self, wanted: impl Fn(&RegionId) -> bool) -> impl Iterator<Item = RegionId> {
        let mut last = None;
        std::iter::from_fn(move || {
            let (rank, region) = self.least(&wanted, last)?;
            last = Some(rank);
            Some(region)
        })
    }

    fn least(&self, wanted: impl Fn(&RegionId) -> bool, after: Option<Rank>) -> Option<(Rank, RegionId)> {
        let regions = self.scene.board.regions().iter().copied().enumerate();
        regions
            .filter(|(_, region)| wanted(region))
            .map(|(position, region)| (self.rank(position, region), region))
            .filter(|(rank, _)| after.is_none_or(|after| *rank > after))
            .min_by_key(|(rank, _)| *rank)
    }

    fn rank(&self, position: usize, region: RegionId) -> Rank {
        let rtt = self.rtt.map_or(0, |rtt| rtt.get(usize::from(region)).copied().unwrap_or(UNMEASURED));
        let distance =
            self.point.zip(self.scene.table.point(region)).map(|(from, to)| from.chord_squared(&to));
        (rtt, Some(region) != self.home, distance.unwrap_or(f64::INFINITY).to_bits(), position)
    }
}
