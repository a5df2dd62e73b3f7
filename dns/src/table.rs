//! The table: every zone and region, checked and resolved.

use std::collections::{HashMap, HashSet};

use ipnet::IpNet;

use crate::build;
use crate::geo::Location;
use crate::name::{Name, suffixes};
use crate::prefixes::PrefixMap;
use crate::spec::{Place, RegionSpec, SpecError, TableSpec};
use crate::zone::{Kind, Zone};

/// What the configuration makes of the server: immutable, built whole, swapped whole.
#[derive(Debug)]
pub struct Table {
    /// In the configured order.
    pub(crate) regions: Vec<Region>,
    pub(crate) prefixes: PrefixMap,
    /// By folded apex.
    zones: HashMap<Box<[u8]>, Zone>,
}

/// A declared region.
#[derive(Debug, Clone)]
pub(crate) struct Region {
    pub(crate) name: String,
    pub(crate) location: Option<Location>,
}

impl Table {
    /// A table without zones: everything is refused.
    pub fn empty() -> Self {
        Self { regions: Vec::new(), prefixes: PrefixMap::new(&[]), zones: HashMap::new() }
    }

    /// Checks a specification and builds the table.
    ///
    /// # Errors
    /// Everything that is wrong with it, regions first, then each zone in turn.
    pub fn build(spec: &TableSpec) -> Result<Self, Vec<SpecError>> {
        let mut errors = Vec::new();
        let (regions, prefixes) = build_regions(&spec.regions, &mut errors);
        let mut zones = HashMap::new();
        for zone_spec in &spec.zones {
            let Some(zone) = build::zone(zone_spec, spec.serial, &mut errors) else { continue };
            let key = zone.origin.folded().into_boxed_slice();
            if zones.insert(key, zone).is_some() {
                let place = Place::Zone { zone: zone_spec.name.clone(), key: "" };
                errors.push(SpecError { place, message: "is declared twice".to_owned() });
            }
        }
        if errors.is_empty() { Ok(Self { regions, prefixes, zones }) } else { Err(errors) }
    }

    /// The zone that answers for a name: the longest that holds it; for DS of an apex, the parent's (RFC 4035
    /// §3.1.4.1), if it is served here.
    pub(crate) fn zone_of(&self, name: &Name, kind: Kind) -> Option<&Zone> {
        let folded = name.folded();
        let mut holders = suffixes(&folded).filter_map(|suffix| self.zones.get(suffix));
        let nearest = holders.next()?;
        if kind == Kind::DS && nearest.origin == *name {
            holders.next().or(Some(nearest))
        } else {
            Some(nearest)
        }
    }
}

fn build_regions(specs: &[RegionSpec], errors: &mut Vec<SpecError>) -> (Vec<Region>, PrefixMap) {
    let mut regions = Vec::with_capacity(specs.len());
    let mut prefixes: Vec<(IpNet, usize)> = Vec::new();
    let mut names = HashSet::new();
    let mut seen: HashMap<IpNet, &str> = HashMap::new();
    for (index, spec) in specs.iter().enumerate() {
        let mut wrong = |key: &'static str, message: String| {
            errors.push(SpecError { place: Place::Region { region: spec.name.clone(), key }, message });
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
                None => prefixes.push((prefix, index)),
                Some(other) if other == spec.name => {}
                Some(other) => wrong("prefixes", format!("{prefix} belongs to region {other} already")),
            }
        }
        regions.push(Region { name: spec.name.clone(), location });
    }
    (regions, PrefixMap::new(&prefixes))
}
