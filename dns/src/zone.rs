//! A zone: its names, what stands at each, and how a name is found (RFC 1034 §4.3.2, RFC 4592).

use std::collections::HashMap;
use std::sync::Arc;

use crate::name::{Name, suffixes};
use crate::spec::Policy;

/// A record type (RFC 6895 §3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Kind(pub u16);

#[allow(missing_docs, reason = "the mnemonics of the registry")]
impl Kind {
    pub const A: Self = Self(1);
    pub const NS: Self = Self(2);
    pub const CNAME: Self = Self(5);
    pub const SOA: Self = Self(6);
    pub const PTR: Self = Self(12);
    pub const HINFO: Self = Self(13);
    pub const MX: Self = Self(15);
    pub const TXT: Self = Self(16);
    pub const AAAA: Self = Self(28);
    pub const SRV: Self = Self(33);
    pub const NAPTR: Self = Self(35);
    pub const DNAME: Self = Self(39);
    pub const OPT: Self = Self(41);
    pub const DS: Self = Self(43);
    pub const SSHFP: Self = Self(44);
    pub const TLSA: Self = Self(52);
    pub const SMIMEA: Self = Self(53);
    pub const OPENPGPKEY: Self = Self(61);
    pub const SVCB: Self = Self(64);
    pub const HTTPS: Self = Self(65);
    pub const TKEY: Self = Self(249);
    pub const TSIG: Self = Self(250);
    pub const IXFR: Self = Self(251);
    pub const AXFR: Self = Self(252);
    pub const ANY: Self = Self(255);
    pub const CAA: Self = Self(257);
}

/// A record without its owner and TTL.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Record {
    /// Its type.
    pub kind: Kind,
    /// Its data in wire form, names uncompressed.
    pub data: Arc<[u8]>,
}

/// The records of one name and type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// Their type.
    pub kind: Kind,
    /// Their TTL, in seconds.
    pub ttl: u32,
    /// Their data; not empty.
    pub data: Vec<Arc<[u8]>>,
}

/// A name whose addresses are those of nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Steer {
    /// Whose health decides.
    pub service: String,
    /// In which order regions are tried.
    pub policy: Policy,
    /// Nodes in an answer.
    pub answers: usize,
    /// The TTL at rest, in seconds.
    pub ttl: u32,
}

/// What stands at one name. A name that only has names below it (an empty non-terminal) has nothing.
#[derive(Debug, Clone)]
pub struct Node {
    /// The name.
    pub name: Name,
    /// Static records, one set a type.
    pub sets: Vec<Set>,
    /// Whether its addresses are steered.
    pub steer: Option<Steer>,
}

impl Node {
    /// The static records of a type.
    pub fn set(&self, kind: Kind) -> Option<&Set> {
        self.sets.iter().find(|set| set.kind == kind)
    }
}

/// One zone, checked.
#[derive(Debug, Clone)]
pub struct Zone {
    /// The apex.
    pub origin: Name,
    /// The start of authority; its TTL is that of positive answers.
    pub soa: Set,
    /// How long a resolver may remember that something is not there (RFC 2308 §5), in seconds.
    pub negative_ttl: u32,
    /// By folded name, with every empty non-terminal.
    pub(crate) nodes: HashMap<Box<[u8]>, Node>,
}

/// Where a name leads.
#[derive(Debug, Clone, Copy)]
pub enum Found<'a> {
    /// It is there.
    Exact(&'a Node),
    /// It is made by this wildcard.
    Wildcard(&'a Node),
    /// It lies in a zone that this name delegates.
    Delegated(&'a Node),
    /// It is not there.
    Missing,
}

impl Zone {
    /// Looks up a name at or below the apex. `kind` matters at a delegation only, where DS belongs to the parent.
    pub fn find(&self, name: &Name, kind: Kind) -> Found<'_> {
        let folded = name.folded();
        let mut path: Vec<&[u8]> =
            suffixes(&folded).take_while(|suffix| suffix.len() >= self.origin.wire().len()).collect();
        let mut closest: Option<&[u8]> = None;
        while let Some(suffix) = path.pop() {
            let Some(node) = self.nodes.get(suffix) else {
                return closest
                    .and_then(|encloser| self.wildcard_below(encloser))
                    .map_or(Found::Missing, Found::Wildcard);
            };
            let cut = closest.is_some() && node.set(Kind::NS).is_some();
            if cut && !(path.is_empty() && kind == Kind::DS) {
                return Found::Delegated(node);
            }
            if path.is_empty() {
                return Found::Exact(node);
            }
            closest = Some(suffix);
        }
        Found::Missing
    }

    /// The node of exactly this name, if any.
    pub fn node(&self, name: &Name) -> Option<&Node> {
        self.nodes.get(name.folded().as_slice())
    }

    fn wildcard_below(&self, encloser: &[u8]) -> Option<&Node> {
        let mut wildcard = Vec::with_capacity(2 + encloser.len());
        wildcard.extend_from_slice(b"\x01*");
        wildcard.extend_from_slice(encloser);
        self.nodes.get(wildcard.as_slice())
    }
}
