//! From a zone's specification to the zone: everything checked, every error kept.

mod checks;

use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::name::Name;
use crate::sign::ZoneKeys;
use crate::spec::{
    Place, Policy, SpecError, SteerSpec, ZoneSpec, parse_contact, parse_label, parse_record_in,
    parse_zone_name,
};
use crate::steer::{Order, Steer};
use crate::table::Numbers;
use crate::zone::{Draft, DraftSet, Kind, Zone};
use crate::zonefile::FileRecord;

/// The longest TTL (RFC 2181 §8).
pub(crate) const MAX_TTL: u64 = (1 << 31) - 1;
/// Nodes in one answer.
pub(crate) const MAX_ANSWERS: usize = 8;
/// Aliases followed in one answer, and so the longest chain that can be configured.
pub(crate) const MAX_CHAIN: usize = 8;
/// The bytes of one set that fit a message of 64 KiB with room for everything else, such as the aliases that lead to it.
const MAX_SET_BYTES: usize = 60_000;
/// The same where up to eight keys sign the set and each of the aliases, with 350 bytes a signature at most.
const MAX_SIGNED_SET_BYTES: usize = 36_000;
/// What eight addresses of each family add to a record as hints.
const MAX_HINT_BYTES: usize = 8 + MAX_ANSWERS * (4 + 16);

/// SOA timers for secondaries outside of the mesh, which nobody tells of a revision (RFC 1996): they look once an hour. As often as
/// registries like it at most. The last as RIPE-203 advises.
const SOA_REFRESH: u32 = 3_600;
const SOA_RETRY: u32 = 900;
const SOA_EXPIRE: u32 = 3_600_000;

/// Builds one zone. `None` when its name is none; `errors` holds what is wrong with it otherwise.
pub(crate) fn zone(
    spec: &ZoneSpec,
    serial: u32,
    numbers: &mut Numbers,
    errors: &mut Vec<SpecError>,
) -> Option<Zone> {
    let origin = match parse_zone_name(&spec.name) {
        Ok(origin) => origin,
        Err(message) => {
            errors.push(SpecError { place: Place::Zone { zone: spec.name.clone(), key: "" }, message });
            return None;
        }
    };
    let mut builder = Builder {
        spec,
        numbers,
        errors,
        ttl: 0,
        nodes: FxHashMap::default(),
        placed: Vec::new(),
        overflowing: FxHashSet::default(),
        origin,
    };
    builder.ttl = builder.seconds(spec.ttl, Place::Zone { zone: spec.name.clone(), key: "ttl" });
    builder.ensure(&builder.origin.clone());
    let primary = builder.nameservers();
    let (soa, negative_ttl) = builder.soa(primary, serial);
    builder.records();
    builder.file_records();
    builder.steers();
    builder.check_servers();
    builder.check_aliases();
    builder.check_hints();
    builder.check_cuts();
    let keys = spec.signed.as_ref().map(|keys| ZoneKeys::new(&builder.origin, keys));
    if let Some(keys) = &keys {
        let origin = builder.origin.clone();
        let sets = keys.apex(&origin);
        builder.ensure(&origin).sets.extend(sets);
    }
    Some(Zone::new(builder.origin, builder.nodes, soa, negative_ttl, keys))
}

struct Builder<'a> {
    spec: &'a ZoneSpec,
    numbers: &'a mut Numbers,
    errors: &'a mut Vec<SpecError>,
    origin: Name,
    ttl: u32,
    nodes: FxHashMap<Box<[u8]>, Draft>,
    /// Every record with the place it came from, for the checks of the whole.
    placed: Vec<(Place, Name, Kind)>,
    /// Sets that are too long already, which is told once; what more there is of them is not looked at.
    overflowing: FxHashSet<(Name, Kind)>,
}

impl Builder<'_> {
    fn wrong(&mut self, place: Place, message: impl Into<String>) {
        self.errors.push(SpecError { place, message: message.into() });
    }

    fn zone_place(&self, key: &'static str) -> Place {
        Place::Zone { zone: self.spec.name.clone(), key }
    }

    fn seconds(&mut self, ttl: Duration, place: Place) -> u32 {
        if ttl.as_secs() > MAX_TTL || (ttl.subsec_nanos() != 0) {
            self.wrong(place, format!("must be whole seconds, at most {MAX_TTL}"));
        }
        ttl.as_secs().min(MAX_TTL) as u32
    }

    /// The node of a name, made if need be, with all names between it and the apex.
    fn ensure(&mut self, name: &Name) -> &mut Draft {
        let apex_bytes = self.origin.wire().len();
        let mut ancestor = name.parent();
        while let Some(between) = ancestor.filter(|between| between.wire().len() >= apex_bytes) {
            ancestor = between.parent();
            match self.nodes.entry(between.folded().into()) {
                Entry::Occupied(_) => break,
                Entry::Vacant(entry) => {
                    entry.insert(Draft { name: between, sets: Vec::new(), steer: None });
                }
            }
        }
        self.nodes.entry(name.folded().into()).or_insert_with(|| Draft {
            name: name.clone(),
            sets: Vec::new(),
            steer: None,
        })
    }

    fn max_set_bytes(&self) -> usize {
        if self.spec.signed.is_some() { MAX_SIGNED_SET_BYTES } else { MAX_SET_BYTES }
    }

    fn file_place(&self, span: &Range<usize>) -> Place {
        Place::File { zone: self.spec.name.clone(), span: span.clone() }
    }

    fn insert(&mut self, place: Place, name: &Name, kind: Kind, ttl: u32, data: Arc<[u8]>) {
        if !self.overflowing.is_empty() && self.overflowing.contains(&(name.clone(), kind)) {
            return;
        }
        let mut overflows = false;
        let limit = self.max_set_bytes();
        let sets = &mut self.ensure(name).sets;
        let problem = match sets.iter_mut().find(|set| set.kind == kind) {
            None if data.len() + 12 > limit => {
                overflows = true;
                Some(format!("is {} bytes long; at most {} fit in a signed answer", data.len(), limit - 12))
            }
            None => {
                sets.push(DraftSet { kind, ttl, data: vec![data] });
                None
            }
            Some(set) if set.data.contains(&data) => Some("stands here twice".to_owned()),
            // RFC 2181 §5.2.
            Some(set) if set.ttl != ttl => Some(format!(
                "has a TTL of {ttl} s, another record of this name and type one of {} s; they must be equal",
                set.ttl
            )),
            Some(set) => {
                let bytes: usize = set.data.iter().chain([&data]).map(|data| data.len() + 12).sum();
                if bytes <= limit {
                    set.data.push(data);
                    None
                } else {
                    overflows = true;
                    Some("makes the records of this name and type too many for one answer".to_owned())
                }
            }
        };
        if let Some(problem) = problem {
            self.wrong(place.clone(), problem);
        }
        if overflows {
            self.overflowing.insert((name.clone(), kind));
        }
        self.placed.push((place, name.clone(), kind));
    }

    /// NS and glue. Returns the first name server. They stand in the configuration or in the zone file, not in both.
    fn nameservers(&mut self) -> Option<Name> {
        let mut primary = None;
        let in_file = self.spec.file.as_deref().and_then(|file| {
            file.records.iter().find(|record| record.record.kind == Kind::NS && record.owner == self.origin)
        });
        match in_file {
            Some(_) if !self.spec.nameservers.is_empty() => {
                let place = self.zone_place("nameserver");
                self.wrong(
                    place,
                    "stands beside the name servers (NS) of the zone file; keep one of the two",
                );
            }
            Some(first) => return Name::from_wire(&first.record.data),
            None if self.spec.nameservers.is_empty() => {
                let file = if self.spec.file.is_some() {
                    ", or NS records of the zone itself in its file"
                } else {
                    ""
                };
                let message = format!("needs at least one: ns1 = [\"198.51.100.10\"]{file}");
                self.wrong(self.zone_place("nameserver"), message);
            }
            None => {}
        }
        for (label, addresses) in &self.spec.nameservers {
            let place = Place::Nameserver { zone: self.spec.name.clone(), label: label.clone() };
            let name = match parse_label(&self.origin, label) {
                Ok(name) if name.labels().next() == Some(b"*") => {
                    self.wrong(place, "is a wildcard, which cannot be a name server");
                    continue;
                }
                Ok(name) => name,
                Err(message) => {
                    self.wrong(place, message);
                    continue;
                }
            };
            if addresses.is_empty() {
                self.wrong(place.clone(), "needs at least one address");
            }
            let (origin, ttl) = (self.origin.clone(), self.ttl);
            self.insert(place.clone(), &origin, Kind::NS, ttl, name.wire().into());
            for address in addresses {
                let (kind, data): (Kind, Arc<[u8]>) = match address {
                    IpAddr::V4(address) => (Kind::A, Arc::new(address.octets())),
                    IpAddr::V6(address) => (Kind::AAAA, Arc::new(address.octets())),
                };
                self.insert(place.clone(), &name, kind, ttl, data);
            }
            primary = primary.or(Some(name));
        }
        primary
    }

    /// The SOA's data, and how long a resolver may remember that something is not there, in seconds. Of an SOA in the
    /// file all is kept but the serial, which is the revision's.
    fn soa(&mut self, primary: Option<Name>, serial: u32) -> (Arc<[u8]>, u32) {
        if let Some(soa) = self.spec.file.as_deref().and_then(|file| file.soa.as_ref()) {
            let [refresh, retry, expire] = soa.timers;
            let numbers = [serial, refresh, retry, expire, soa.minimum];
            let data = self.put_soa(&soa.primary, &soa.contact, numbers, soa.ttl);
            // RFC 2308 §5.
            return (data, soa.minimum.min(soa.ttl));
        }
        let contact = parse_contact(&self.spec.contact).unwrap_or_else(|message| {
            self.wrong(self.zone_place("contact"), message);
            Name::root()
        });
        let numbers = [serial, SOA_REFRESH, SOA_RETRY, SOA_EXPIRE, self.ttl];
        (self.put_soa(&primary.unwrap_or_else(Name::root), &contact, numbers, self.ttl), self.ttl)
    }

    fn put_soa(&mut self, primary: &Name, contact: &Name, numbers: [u32; 5], ttl: u32) -> Arc<[u8]> {
        let mut data = [primary.wire(), contact.wire()].concat();
        for number in numbers {
            data.extend_from_slice(&number.to_be_bytes());
        }
        let (origin, data) = (self.origin.clone(), Arc::from(data));
        self.ensure(&origin).sets.push(DraftSet { kind: Kind::SOA, ttl, data: vec![Arc::clone(&data)] });
        data
    }

    fn records(&mut self) {
        for (index, record) in self.spec.records.iter().enumerate() {
            let place = |key| Place::Record { zone: self.spec.name.clone(), index, key };
            let (name, parsed) =
                match parse_record_in(&self.origin, &record.name, &record.kind, &record.value) {
                    Ok(parsed) => parsed,
                    Err(error) => {
                        self.wrong(place(error.key), error.message);
                        continue;
                    }
                };
            let (value_place, ttl_place) = (place("value"), place("ttl"));
            if parsed.kind == Kind::NS && name.labels().next() == Some(b"*") {
                self.wrong(place("name"), "is a wildcard, which cannot be delegated (RFC 4592 §4.2)");
                continue;
            }
            let ttl = record.ttl.map_or(self.ttl, |ttl| self.seconds(ttl, ttl_place));
            self.insert(value_place, &name, parsed.kind, ttl, parsed.data);
        }
    }

    fn file_records(&mut self) {
        let file = self.spec.file.clone();
        for FileRecord { owner, ttl, record, span } in file.iter().flat_map(|file| &file.records) {
            let place = self.file_place(span);
            if !owner.is_within(&self.origin) {
                self.wrong(place, format!("belongs to {owner}, which lies outside the zone"));
                continue;
            }
            if record.kind == Kind::NS && owner.labels().next() == Some(b"*") {
                self.wrong(place, "is a wildcard, which cannot be delegated (RFC 4592 §4.2)");
                continue;
            }
            self.insert(place, owner, record.kind, *ttl, Arc::clone(&record.data));
        }
    }

    /// The zone's own name servers of a zone file: those inside of the zone need addresses that are not steered, and are no
    /// aliases (RFC 2181 §10.3).
    fn check_servers(&mut self) {
        let file = self.spec.file.clone();
        for FileRecord { owner, record, span, .. } in file.iter().flat_map(|file| &file.records) {
            let server =
                Name::from_wire(&record.data).filter(|_| record.kind == Kind::NS && *owner == self.origin);
            let Some(server) = server.filter(|server| server.is_within(&self.origin)) else { continue };
            let node = self.nodes.get(server.folded().as_slice());
            let has = |kind| node.is_some_and(|node| node.set(kind).is_some());
            let problem = if has(Kind::CNAME) {
                "which is an alias (CNAME); a name server needs addresses of its own"
            } else if node.is_some_and(|node| node.steer.is_some()) {
                "which is steered; a name server needs a name of its own, with addresses that stay"
            } else if !has(Kind::A) && !has(Kind::AAAA) {
                "which has no address in this zone; add an A or AAAA record of it"
            } else {
                continue;
            };
            self.wrong(self.file_place(span), format!("names the name server {server}, {problem}"));
        }
    }

    fn steers(&mut self) {
        for steer in &self.spec.steers {
            let place = |key| Place::Steer { zone: self.spec.name.clone(), label: steer.label.clone(), key };
            let (label_place, answers_place) = (place(""), place("answers"));
            let (order_place, shed_place) = (place("order"), place("shed"));
            let name = match parse_label(&self.origin, &steer.label) {
                Ok(name) => name,
                Err(message) => {
                    self.wrong(label_place, message);
                    continue;
                }
            };
            if !(1..=MAX_ANSWERS).contains(&steer.answers) {
                self.wrong(answers_place, format!("must be from 1 to {MAX_ANSWERS}"));
            }
            let order = self.order(steer, order_place);
            let service = self.numbers.service(&steer.service);
            let wrong = match steer.shed {
                Some(_) if order == Order::Weighted => {
                    Some("has no meaning with the policy weighted, which follows the free capacity anyway")
                }
                Some(shed) if shed.low_permille >= shed.high_permille => {
                    Some("needs a low watermark below the high one")
                }
                _ => None,
            };
            if let Some(message) = wrong {
                self.wrong(shed_place, message);
            }
            let made = Steer { service, order, answers: steer.answers, shed: steer.shed, ttl: self.ttl };
            let node = self.ensure(&name);
            let problem = if node.steer.is_some() {
                Some("is steered twice")
            } else if node.set(Kind::CNAME).is_some() {
                Some("is an alias (CNAME) too; an alias can have no other data")
            } else if node.set(Kind::A).or(node.set(Kind::AAAA)).is_some() {
                Some("has static addresses too (a record or a name server); steered names have none")
            } else {
                None
            };
            node.steer = Some(made);
            let Some(problem) = problem else { continue };
            let clashes = self.in_file_beside(&name);
            if clashes.is_empty() {
                self.wrong(label_place, problem);
            }
            for place in clashes {
                let message = format!(
                    "stands beside steer.\"{}\": a steered name has no A, AAAA or CNAME of its own; take one of the two out",
                    steer.label
                );
                self.wrong(place, message);
            }
        }
    }

    /// Where the zone file has what a steered name cannot have.
    fn in_file_beside(&self, steered: &Name) -> Vec<Place> {
        let exclusive = |kind| matches!(kind, Kind::A | Kind::AAAA | Kind::CNAME);
        let here = self.placed.iter().filter(|(place, owner, kind)| {
            matches!(place, Place::File { .. }) && owner == steered && exclusive(*kind)
        });
        here.map(|(place, ..)| place.clone()).collect()
    }

    fn order(&mut self, steer: &SteerSpec, place: Place) -> Order {
        let named = match &steer.policy {
            Policy::Nearest => return Order::Nearest,
            Policy::Latency => return Order::Latency,
            Policy::Weighted => return Order::Weighted,
            Policy::Failover(named) => named,
        };
        if named.is_empty() {
            self.wrong(place.clone(), "needs at least one region");
        } else if let Some(twice) =
            named.iter().enumerate().find(|(index, region)| named[..*index].contains(region))
        {
            self.wrong(place.clone(), format!("names {} twice", twice.1));
        }
        let numbers: Option<Box<[_]>> = named.iter().map(|region| self.numbers.region(region)).collect();
        if numbers.is_none() {
            self.wrong(place, "names more regions than there can be");
        }
        Order::Failover(numbers.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests;
