//! Whether a zone is well delegated: what its name servers and its parent answered, judged as a registrar would. Pure.
//!
//! ```text
//!   ask (wire/client.rs) ─▶ Observed: the zone's own word, the parent's, every server's ─▶ judge() ─▶ findings with what to do
//! ```

mod judge;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

use serde::Serialize;

pub use self::judge::judge;
use crate::name::Name;
use crate::spec::{ZoneSpec, parse_label, parse_zone_name};
use crate::wire::Rcode;
use crate::zone::Kind;

/// A name server and its addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameServer {
    /// Its name.
    pub name: Name,
    /// Its addresses; empty: not known.
    pub addresses: Vec<IpAddr>,
}

/// All that is to be judged.
#[derive(Debug, Clone)]
pub struct Observed {
    /// The zone.
    pub zone: Name,
    /// Its name servers as it is configured.
    pub servers: Vec<NameServer>,
    /// Those that the parent names, with its glue; `None`: nobody asked it.
    pub parent: Option<Result<Vec<NameServer>, NoParent>>,
    /// The zone's DS records at the parent, their data; `None`: nobody asked, or it does not say.
    pub parent_ds: Option<Vec<Vec<u8>>>,
    /// Signed, as it is configured.
    pub signed: bool,
    /// One for each address of each server.
    pub probes: Vec<Probed>,
}

/// Why a server that was asked as the parent's does not say whom the parent names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoParent {
    /// It does not answer, in the system's words.
    Silent(String),
    /// It serves the zone itself and none above: what it says is the zone's own word.
    OwnServer,
}

/// What one address of a name server answered. An error is what the system said.
#[derive(Debug, Clone)]
pub struct Probed {
    /// Whose address it is.
    pub server: Name,
    /// The address.
    pub address: IpAddr,
    /// The SOA over UDP, with EDNS.
    pub udp: Result<Seen, String>,
    /// The SOA over TCP.
    pub tcp: Result<Seen, String>,
    /// The zone's NS.
    pub servers: Result<Seen, String>,
    /// The zone's DNSKEY.
    pub keys: Result<Seen, String>,
    /// The server's own address, where its name lies in the zone.
    pub own: Option<Result<Seen, String>>,
    /// A query of EDNS version 1, which nobody speaks.
    pub version: Result<Seen, String>,
    /// The root's NS, with the wish for recursion.
    pub recursion: Result<Seen, String>,
}

/// An answer, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Seen {
    /// The response code.
    pub rcode: Rcode,
    /// AA.
    pub authoritative: bool,
    /// RA.
    pub recursion_available: bool,
    /// The payload of its OPT record, when it has one.
    pub edns_payload: Option<u16>,
    /// The answer section.
    pub answers: Vec<SeenRecord>,
    /// The authority section.
    pub authorities: Vec<SeenRecord>,
    /// The additional section.
    pub additionals: Vec<SeenRecord>,
}

/// A record of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenRecord {
    /// Whose it is.
    pub owner: Name,
    /// Its type.
    pub kind: Kind,
    /// In seconds.
    pub ttl: u32,
    /// What it says.
    pub data: SeenData,
}

/// Data of a record, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SeenData {
    /// Of A and AAAA.
    Address(IpAddr),
    /// Of NS and CNAME.
    Name(Name),
    /// Of SOA.
    Soa(SeenSoa),
    /// Of other types: its bytes.
    Other(Vec<u8>),
}

/// An SOA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenSoa {
    /// MNAME.
    pub primary: Name,
    /// RNAME.
    pub contact: Name,
    /// SERIAL.
    pub serial: u32,
    /// REFRESH, RETRY and EXPIRE, in seconds.
    pub timers: [u32; 3],
    /// MINIMUM, in seconds.
    pub minimum: u32,
}

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Gravity {
    /// Users or registrars will meet it.
    Error,
    /// Some registrars will complain.
    Warning,
}

/// Something that a registrar will complain about, or users will suffer from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How much it matters.
    pub gravity: Gravity,
    /// What it is about: the zone, a server, a server's address, the parent.
    pub subject: String,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub hint: String,
}

/// Whom the parent names, in the answers of a server that was asked as the parent's for the zone's NS and DS. One that serves the
/// parent answers DS from there, and else as the zone itself (RFC 4035 §3.1.4.1).
///
/// # Errors
/// The server is not the parent's.
pub fn told_by_parent(zone: &Name, ns: &Seen, ds: Option<&Seen>) -> Result<Vec<NameServer>, NoParent> {
    let is_own =
        ns.authoritative && ns.answers.iter().any(|record| record.kind == Kind::NS && record.owner == *zone);
    let is_above = |record: &SeenRecord| match record.kind {
        Kind::DS => record.owner == *zone,
        Kind::SOA => record.owner != *zone && zone.is_within(&record.owner),
        _ => false,
    };
    let knows_parent = ds.is_some_and(|ds| ds.answers.iter().chain(&ds.authorities).any(is_above));
    if is_own && !knows_parent { Err(NoParent::OwnServer) } else { Ok(ns.name_servers(zone)) }
}

impl Seen {
    /// The SOA in its answer.
    pub fn soa(&self) -> Option<&SeenSoa> {
        self.answers.iter().find_map(|record| match &record.data {
            SeenData::Soa(soa) => Some(soa),
            _ => None,
        })
    }

    /// The data of the zone's records of a type that is not read further, such as DS and DNSKEY, in the answer.
    pub fn data_of(&self, zone: &Name, kind: Kind) -> Vec<Vec<u8>> {
        let records = self.answers.iter().filter(|record| record.kind == kind && record.owner == *zone);
        let data = records.filter_map(|record| match &record.data {
            SeenData::Other(bytes) => Some(bytes.clone()),
            _ => None,
        });
        data.collect()
    }

    /// The name servers of `zone` that it names, in the answer or in a referral, with their addresses as it has them.
    pub fn name_servers(&self, zone: &Name) -> Vec<NameServer> {
        let ns = self
            .answers
            .iter()
            .chain(&self.authorities)
            .filter(|record| record.kind == Kind::NS && record.owner == *zone);
        let names = ns.filter_map(|record| match &record.data {
            SeenData::Name(name) => Some(name),
            _ => None,
        });
        let mut servers: Vec<NameServer> = Vec::new();
        for name in names {
            let glue = self.additionals.iter().filter(|record| record.owner == *name);
            let addresses = glue.filter_map(|record| match record.data {
                SeenData::Address(address) => Some(address),
                _ => None,
            });
            servers.push(NameServer { name: name.clone(), addresses: addresses.collect() });
        }
        servers
    }
}

impl ZoneSpec {
    /// The zone's name servers as it is configured, with the addresses that stand in it. Names that are none are left out.
    pub fn name_servers(&self) -> Vec<NameServer> {
        let Ok(zone) = parse_zone_name(&self.name) else { return Vec::new() };
        let listed = self.nameservers.iter().filter_map(|(label, addresses)| {
            Some(NameServer { name: parse_label(&zone, label).ok()?, addresses: addresses.clone() })
        });
        let records = || self.file.iter().flat_map(|file| &file.records);
        let addresses_of = |name: &Name| {
            let own = records().filter(|record| record.owner == *name);
            own.filter_map(|record| address(record.record.kind, &record.record.data)).collect()
        };
        let in_file = records().filter(|record| record.record.kind == Kind::NS && record.owner == zone);
        let in_file = in_file.filter_map(|record| {
            let name = Name::from_wire(&record.record.data)?;
            Some(NameServer { addresses: addresses_of(&name), name })
        });
        listed.chain(in_file).collect()
    }
}

fn address(kind: Kind, data: &[u8]) -> Option<IpAddr> {
    match kind {
        Kind::A => Some(IpAddr::from(<[u8; 4]>::try_from(data).ok()?)),
        Kind::AAAA => Some(IpAddr::from(<[u8; 16]>::try_from(data).ok()?)),
        _ => None,
    }
}
