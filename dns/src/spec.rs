//! What the configuration says, before it is checked: the input of [`Table::build`](crate::Table::build) and the
//! checks a validator makes on its own, value by value, to point at the right line.

use std::fmt;
use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::name::Name;
use crate::sign::SigningKey;
use crate::wire::{kind_from_text, parse_value};
use crate::zone::{Kind, Record};
use crate::zonefile::ZoneFile;

/// Everything the table is built from.
#[derive(Debug, Clone, Default)]
pub struct TableSpec {
    /// The serial of every SOA: the epoch of the configuration's revision.
    pub serial: u32,
    /// The zones served.
    pub zones: Vec<ZoneSpec>,
    /// The regions, in the order in which they are tried when none is healthy.
    pub regions: Vec<RegionSpec>,
}

/// One zone.
#[derive(Debug, Clone, Default)]
pub struct ZoneSpec {
    /// Absolute, with or without the final dot: `lb.example.com`.
    pub name: String,
    /// Labels relative to the zone and the addresses behind each; the first is the SOA's primary.
    pub nameservers: Vec<(String, Vec<IpAddr>)>,
    /// A mailbox: `hostmaster@example.com`.
    pub contact: String,
    /// The TTL of steered answers, of name servers and of records without one of their own.
    pub ttl: Duration,
    /// Names whose addresses are those of the mesh's nodes.
    pub steers: Vec<SteerSpec>,
    /// Static records.
    pub records: Vec<RecordSpec>,
    /// Records of a zone file, beside the others.
    pub file: Option<Arc<ZoneFile>>,
    /// What the zone is signed with; `None`: it is not signed.
    pub signed: Option<Signing>,
}

/// What a zone is signed with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Signing {
    /// The oldest first: it signs, and all are published. None: the zone is signed, but this node does not have its keys
    /// yet; who wants signatures gets SERVFAIL.
    pub keys: Vec<SigningKey>,
    /// All of them sign everything, since resolvers may know some of them alone.
    pub all_sign: bool,
    /// Published and signing the keys themselves, no more: on their way out, for those who remember what they signed and
    /// which of them the parent named.
    pub retiring: Vec<SigningKey>,
}

/// One steered name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SteerSpec {
    /// `@`, `*`, or a name relative to the zone.
    pub label: String,
    /// The key into [`RegionState::services`](crate::RegionState::services).
    pub service: String,
    /// In which order regions are tried.
    pub policy: Policy,
    /// Nodes in one answer, 1 to 8.
    pub answers: usize,
    /// When a region passes users on before it is full; `None`: never.
    pub shed: Option<Shed>,
}

/// From which load on a region passes a growing share of its users on to the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shed {
    /// Up to this load none are passed on, in thousandths of the capacity.
    pub low_permille: u16,
    /// From this load on all are; above the low one.
    pub high_permille: u16,
}

/// In which order regions are tried for a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Policy {
    /// By distance from the client.
    Nearest,
    /// By round-trip time from the client's nearest region; by distance where none is known.
    Latency,
    /// At random, by free capacity.
    Weighted,
    /// In this order, and no others while one of these has nodes.
    Failover(Vec<String>),
}

/// One static record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordSpec {
    /// `@`, or a name relative to the zone.
    pub name: String,
    /// `MX`, `TXT` … or `TYPE65280`, in any case.
    pub kind: String,
    /// In presentation format.
    pub value: String,
    /// `None`: the zone's.
    pub ttl: Option<Duration>,
}

/// One region.
#[derive(Debug, Clone, PartialEq)]
pub struct RegionSpec {
    /// The key into [`State::regions`](crate::State::regions).
    pub name: String,
    /// Degrees north and east.
    pub location: Option<(f64, f64)>,
    /// Clients that belong here whatever the GeoIP file says.
    pub prefixes: Vec<IpNet>,
}

/// Something in a [`TableSpec`] that cannot be served, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {message}")]
pub struct SpecError {
    /// Where.
    pub place: Place,
    /// What is wrong, and what would be right.
    pub message: String,
}

/// A place in a [`TableSpec`], in terms that a validator can find in its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// `region.NAME.KEY`.
    Region {
        /// The region's name.
        region: String,
        /// `latitude`, `prefixes`, or empty for the region itself.
        key: &'static str,
    },
    /// `dns.zone.ZONE.KEY`.
    Zone {
        /// The zone's name as given.
        zone: String,
        /// `nameserver`, `contact`, `ttl`, or empty for the name itself.
        key: &'static str,
    },
    /// `dns.zone.ZONE.nameserver.LABEL`.
    Nameserver {
        /// The zone's name as given.
        zone: String,
        /// The label as given.
        label: String,
    },
    /// `dns.zone.ZONE.steer.LABEL.KEY`.
    Steer {
        /// The zone's name as given.
        zone: String,
        /// The label as given.
        label: String,
        /// `policy`, `answers`, `order`, `shed`, or empty for the label itself.
        key: &'static str,
    },
    /// `dns.zone.ZONE.record[INDEX].KEY`.
    Record {
        /// The zone's name as given.
        zone: String,
        /// From 0.
        index: usize,
        /// `name`, `type`, `value`, `ttl`.
        key: &'static str,
    },
    /// An entry of a zone's file.
    File {
        /// The zone's name as given.
        zone: String,
        /// Where the entry stands in the file, in bytes.
        span: Range<usize>,
    },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = match self {
            Self::Region { region, key } => {
                write!(f, "region.{region}")?;
                key
            }
            Self::Zone { zone, key } => {
                write!(f, "dns.zone.\"{zone}\"")?;
                key
            }
            Self::Nameserver { zone, label } => {
                write!(f, "dns.zone.\"{zone}\".nameserver.{label}")?;
                &""
            }
            Self::Steer { zone, label, key } => {
                write!(f, "dns.zone.\"{zone}\".steer.\"{label}\"")?;
                key
            }
            Self::Record { zone, index, key } => {
                write!(f, "dns.zone.\"{zone}\".record[{index}]")?;
                key
            }
            Self::File { zone, .. } => {
                write!(f, "dns.zone.\"{zone}\".file")?;
                &""
            }
        };
        if key.is_empty() { Ok(()) } else { write!(f, ".{key}") }
    }
}

/// Checks the name of a zone.
///
/// # Errors
/// What is wrong with it, to be read after the value.
pub fn check_zone_name(name: &str) -> Result<(), String> {
    parse_zone_name(name).map(|_| ())
}

/// Checks a label or relative name of a zone: `@`, `www`, `*`, `a.b`.
///
/// # Errors
/// What is wrong with it, to be read after the value.
pub fn check_label(zone: &str, label: &str) -> Result<(), String> {
    parse_label(&parse_zone_name(zone)?, label).map(|_| ())
}

/// Checks a contact mailbox.
///
/// # Errors
/// What is wrong with it, to be read after the value.
pub fn check_contact(contact: &str) -> Result<(), String> {
    parse_contact(contact).map(|_| ())
}

/// Parses one static record of a zone: its owner, its type and data.
///
/// # Errors
/// What is wrong with it, to be read after the value.
pub fn parse_record(zone: &str, name: &str, kind: &str, value: &str) -> Result<(Name, Record), String> {
    parse_record_in(&parse_zone_name(zone)?, name, kind, value).map_err(|error| error.message)
}

/// Checks one static record of a zone by itself.
///
/// # Errors
/// What is wrong with it, and in which of its keys. A wrong zone name is an error of `name`.
pub fn check_record(zone: &str, name: &str, kind: &str, value: &str) -> Result<(), RecordError> {
    let zone = parse_zone_name(zone).map_err(|message| RecordError { key: "name", message })?;
    parse_record_in(&zone, name, kind, value).map(|_| ())
}

/// What is wrong with a static record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct RecordError {
    /// `name`, `type` or `value`.
    pub key: &'static str,
    /// What is wrong, to be read after the value.
    pub message: String,
}

pub(crate) fn parse_record_in(
    zone: &Name,
    name: &str,
    kind: &str,
    value: &str,
) -> Result<(Name, Record), RecordError> {
    let at = |key: &'static str| move |message: String| RecordError { key, message };
    let owner = parse_label(zone, name).map_err(at("name"))?;
    let kind = record_type(kind).map_err(|error| at("type")(error.to_string()))?;
    let data = parse_value(kind, value, zone).map_err(at("value"))?;
    Ok((owner, Record { kind, data: data.into() }))
}

/// Why a type is none of a static record's, to be read after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordTypeError {
    /// Nobody knows it.
    #[error("is no record type; unlisted types are written TYPE65280")]
    Unknown,
    /// It is made by the zone itself, or stands in no zone.
    #[error("{0}")]
    Refused(&'static str),
}

/// Checks the type of a static record: one of [`record_types`](crate::record_types), or such as `TYPE65280`; in any case.
///
/// # Errors
/// Why it is none.
pub fn check_record_type(text: &str) -> Result<(), RecordTypeError> {
    record_type(text).map(drop)
}

pub(crate) fn record_type(text: &str) -> Result<Kind, RecordTypeError> {
    let kind = kind_from_text(text).ok_or(RecordTypeError::Unknown)?;
    refuse_kind(kind).map_or(Ok(kind), |reason| Err(RecordTypeError::Refused(reason)))
}

/// Types that cannot be written as static records.
pub(crate) fn refuse_kind(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::SOA => Some("is made from the zone's contact, ttl and revision"),
        Kind::DNAME => Some("is not supported; write a wildcard CNAME"),
        // KEY and SIG to DNSKEY and the rest of DNSSEC; RFC 6895 §3.1 for the last range.
        Kind(24 | 25 | 46..=48 | 50 | 51 | 59 | 60) => Some("belongs to DNSSEC, which signs by itself"),
        Kind(0 | 41 | 128..=255) => Some("is no type of stored records"),
        _ => None,
    }
}

pub(crate) fn parse_zone_name(name: &str) -> Result<Name, String> {
    let zone = Name::parse_absolute(name).map_err(|error| error.to_string())?;
    if zone.is_root() {
        return Err("is the root, which is served by others".to_owned());
    }
    if zone.labels().any(|label| label == b"*") {
        return Err("is a wildcard; put `*` into the zone's steer or record".to_owned());
    }
    Ok(zone)
}

pub(crate) fn parse_label(zone: &Name, label: &str) -> Result<Name, String> {
    parse_owner(label, zone, zone)
}

/// The owner of a record in `zone`, relative to `origin`.
pub(crate) fn parse_owner(text: &str, origin: &Name, zone: &Name) -> Result<Name, String> {
    let name = Name::parse(text, origin).map_err(|error| error.to_string())?;
    if !name.is_within(zone) {
        return Err(format!("lies outside the zone {zone}; names without a final dot are relative to it"));
    }
    if name.labels().skip(1).any(|label| label == b"*") {
        return Err("has a `*` that is not its first label".to_owned());
    }
    Ok(name)
}

/// The mailbox as a name: its local part is one label, dots and all (RFC 1035 §8).
pub(crate) fn parse_contact(contact: &str) -> Result<Name, String> {
    let shape = || "is no mailbox, such as hostmaster@example.com".to_owned();
    let (local, domain) = contact.rsplit_once('@').ok_or_else(shape)?;
    let printable = local.bytes().all(|byte| (0x21..=0x7e).contains(&byte) && byte != b'@');
    let domain = Name::parse_absolute(domain).map_err(|_| shape())?;
    if !printable || domain.is_root() {
        return Err(shape());
    }
    let labels = std::iter::once(local.as_bytes()).chain(domain.labels());
    Name::from_labels(labels).map_err(|error| error.to_string())
}
