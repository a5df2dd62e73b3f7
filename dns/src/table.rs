//! The table: every zone and region, checked, resolved and numbered.

use std::collections::HashSet;
use std::fmt;

use ipnet::IpNet;
use rustc_hash::FxHashMap;

use crate::build;
use crate::geo::{Location, Point};
use crate::index::NameIndex;
use crate::name::suffixes;
use crate::prefixes::PrefixMap;
use crate::spec::{Place, RegionSpec, SpecError, TableSpec};
use crate::steer::{RegionId, ServiceId};
use crate::zone::{Kind, Zone};

/// The most regions a table can have.
const MAX_REGIONS: usize = 4096;

/// What the configuration makes of the server: immutable, built whole, swapped whole.
pub struct Table {
    /// In the configured order; a region's number is its place.
    pub(crate) regions: Vec<Region>,
    /// By region: the declared regions from there, the nearest first.
    pub(crate) nearest: Vec<Box<[RegionId]>>,
    pub(crate) prefixes: PrefixMap,
    numbers: Numbers,
    zones: Vec<Zone>,
    /// Their places by folded apex.
    apexes: NameIndex,
}

/// A declared region.
#[derive(Debug, Clone)]
pub(crate) struct Region {
    pub(crate) location: Option<Location>,
    point: Option<Point>,
}

/// Numbers in place of names.
#[derive(Debug, Default)]
pub(crate) struct Numbers {
    services: FxHashMap<String, ServiceId>,
    regions: FxHashMap<String, RegionId>,
    /// The declared regions, then those that only steers name.
    region_names: Vec<String>,
}

impl Numbers {
    /// A service's number, given if it has none.
    pub(crate) fn service(&mut self, name: &str) -> ServiceId {
        let next = self.services.len() as ServiceId;
        *self.services.entry(name.to_owned()).or_insert(next)
    }

    /// A region's number, given if it has none. `None`: they have run out.
    pub(crate) fn region(&mut self, name: &str) -> Option<RegionId> {
        if let Some(known) = self.regions.get(name) {
            return Some(*known);
        }
        let next = RegionId::try_from(self.region_names.len()).ok()?;
        self.region_names.push(name.to_owned());
        self.regions.insert(name.to_owned(), next);
        Some(next)
    }
}

impl Table {
    /// A table without zones: everything is refused.
    pub fn empty() -> Self {
        Self {
            regions: Vec::new(),
            nearest: Vec::new(),
            prefixes: PrefixMap::new(&[]),
            numbers: Numbers::default(),
            zones: Vec::new(),
            apexes: NameIndex::default(),
        }
    }

    /// Checks a specification and builds the table.
    ///
    /// # Errors
    /// Everything that is wrong with it, regions first, then each zone in turn.
    pub fn build(spec: &TableSpec) -> Result<Self, Vec<SpecError>> {
        let mut errors = Vec::new();
        let mut numbers = Numbers::default();
        let (regions, prefixes) = build_regions(&spec.regions, &mut numbers, &mut errors);
        let (mut zones, mut apexes) = (Vec::new(), HashSet::new());
        for zone_spec in &spec.zones {
            let Some(zone) = build::zone(zone_spec, spec.serial, &mut numbers, &mut errors) else { continue };
            if !apexes.insert(zone.origin.folded()) {
                let place = Place::Zone { zone: zone_spec.name.clone(), key: "" };
                errors.push(SpecError { place, message: "is declared twice".to_owned() });
            }
            zones.push(zone);
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        Ok(Self {
            nearest: neighbours(&regions),
            prefixes: PrefixMap::new(&prefixes),
            regions,
            numbers,
            apexes: apexes_of(&zones),
            zones,
        })
    }

    /// The zone that answers for a folded name: the longest that holds it; for DS of an apex, the parent's (RFC 4035
    /// §3.1.4.1), if it is served here.
    pub(crate) fn zone_of(&self, folded: &[u8], kind: Kind) -> Option<&Zone> {
        let mut holders = suffixes(folded).filter_map(|suffix| self.zone_at(suffix));
        let nearest = holders.next()?;
        if kind == Kind::DS && nearest.origin.wire().len() == folded.len() {
            holders.next().or(Some(nearest))
        } else {
            Some(nearest)
        }
    }

    fn zone_at(&self, apex: &[u8]) -> Option<&Zone> {
        self.zones.get(self.apexes.find(apex)? as usize)
    }

    /// With a zone that nobody has checked.
    #[cfg(test)]
    pub(crate) fn with_unchecked(mut self, zone: Zone) -> Self {
        self.zones.push(zone);
        self.apexes = apexes_of(&self.zones);
        self
    }

    /// True when any zone is signed.
    pub(crate) fn signs(&self) -> bool {
        self.zones.iter().any(|zone| zone.keys.is_some())
    }

    /// The number of a service that is steered to.
    pub(crate) fn service(&self, name: &str) -> Option<ServiceId> {
        self.numbers.services.get(name).copied()
    }

    /// Its name.
    pub(crate) fn service_name(&self, service: ServiceId) -> &str {
        let named = self.numbers.services.iter().find(|(_, number)| **number == service);
        named.map_or("", |(name, _)| name)
    }

    /// How many services are steered to.
    pub(crate) fn services(&self) -> usize {
        self.numbers.services.len()
    }

    /// The number of a region that is declared or named by a steer.
    pub(crate) fn region(&self, name: &str) -> Option<RegionId> {
        self.numbers.regions.get(name).copied()
    }

    /// The regions with a number, in its order: the declared ones, then those that only steers name.
    pub(crate) fn region_names(&self) -> &[String] {
        &self.numbers.region_names
    }

    /// Where a region is.
    pub(crate) fn location(&self, region: RegionId) -> Option<Location> {
        self.regions.get(usize::from(region)).and_then(|region| region.location)
    }

    /// Where a region is, in space.
    pub(crate) fn point(&self, region: RegionId) -> Option<Point> {
        self.regions.get(usize::from(region)).and_then(|region| region.point)
    }
}

impl Default for Table {
    fn default() -> Self {
        Self::empty()
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let zones: Vec<String> = self.zones.iter().map(|zone| zone.origin.to_string()).collect();
        f.debug_struct("Table").field("zones", &zones).field("regions", &self.numbers.region_names).finish()
    }
}

fn apexes_of(zones: &[Zone]) -> NameIndex {
    let apexes: Vec<Vec<u8>> = zones.iter().map(|zone| zone.origin.folded()).collect();
    NameIndex::new(apexes.iter().map(Vec::as_slice))
}

/// The prefixes of the regions, each once.
type Prefixes = Vec<(IpNet, RegionId)>;

fn build_regions(
    specs: &[RegionSpec],
    numbers: &mut Numbers,
    errors: &mut Vec<SpecError>,
) -> (Vec<Region>, Prefixes) {
    let mut regions = Vec::with_capacity(specs.len());
    let mut prefixes = Prefixes::new();
    let mut names = HashSet::new();
    let mut seen: FxHashMap<IpNet, &str> = FxHashMap::default();
    let expected = specs.iter().map(|spec| spec.prefixes.len()).sum();
    seen.reserve(expected);
    prefixes.reserve_exact(expected);
    for (index, spec) in specs.iter().enumerate() {
        let mut wrong = |key: &'static str, message: String| {
            errors.push(SpecError { place: Place::Region { region: spec.name.clone(), key }, message });
        };
        let Some(id) = numbers.region(&spec.name).filter(|_| index < MAX_REGIONS) else {
            wrong("", format!("is one too many; there can be {MAX_REGIONS}"));
            break;
        };
        if !names.insert(&spec.name) {
            wrong("", "is declared twice".to_owned());
        }
        let location = spec.location.and_then(|(latitude, longitude)| Location::new(latitude, longitude));
        if spec.location.is_some() && location.is_none() {
            wrong("latitude", "must be from -90 to 90, longitude from -180 to 180".to_owned());
        }
        for prefix in spec.prefixes.iter().map(IpNet::trunc) {
            match seen.insert(prefix, &spec.name) {
                None => prefixes.push((prefix, id)),
                Some(other) if other == spec.name => {}
                Some(other) => wrong("prefixes", format!("{prefix} belongs to region {other} already")),
            }
        }
        regions.push(Region { location, point: location.map(|location| location.point()) });
    }
    (regions, prefixes)
}

/// From each region: itself, then the others by distance, then those without a location as configured.
fn neighbours(regions: &[Region]) -> Vec<Box<[RegionId]>> {
    let all = || 0..regions.len() as RegionId;
    let from = |home: RegionId| {
        let point = |region: RegionId| regions.get(usize::from(region)).and_then(|region| region.point);
        let mut order: Vec<RegionId> = all().collect();
        order.sort_by_cached_key(|region| {
            let distance = point(home).zip(point(*region)).map(|(from, to)| from.chord_squared(&to));
            (*region != home, distance.unwrap_or(f64::INFINITY).to_bits(), *region)
        });
        order.into_boxed_slice()
    };
    all().map(from).collect()
}
