//! A zone: its names, what stands at each, and how a name is found (RFC 1034 §4.3.2, RFC 4592).
//!
//! A zone is built once and only read. What a look-up would have to find out on its way (which delegation a name lies
//! under, whether a wildcard stands below it) is written at the names, so that a name that is there costs one look
//! into an index, and one that is not costs one for each of its ancestors.

use std::num::NonZeroU32;
use std::sync::Arc;

use rustc_hash::FxHashSet;

use crate::fragment::{Fragment, within};
use crate::hinted::Hinted;
use crate::index::NameIndex;
use crate::name::{Folded, MAX_NAME_BYTES, Name, suffixes};
use crate::sign::{CanonicalSet, MAX_SIGNED_TTL, ZoneKeys, types_at};
use crate::steer::Steer;

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
    pub const LOC: Self = Self(29);
    pub const SRV: Self = Self(33);
    pub const NAPTR: Self = Self(35);
    pub const CERT: Self = Self(37);
    pub const DNAME: Self = Self(39);
    pub const OPT: Self = Self(41);
    pub const DS: Self = Self(43);
    pub const SSHFP: Self = Self(44);
    pub const RRSIG: Self = Self(46);
    pub const NSEC: Self = Self(47);
    pub const DNSKEY: Self = Self(48);
    pub const TLSA: Self = Self(52);
    pub const SMIMEA: Self = Self(53);
    pub const CDS: Self = Self(59);
    pub const CDNSKEY: Self = Self(60);
    pub const OPENPGPKEY: Self = Self(61);
    pub const SVCB: Self = Self(64);
    pub const HTTPS: Self = Self(65);
    pub const NXNAME: Self = Self(128);
    pub const TKEY: Self = Self(249);
    pub const TSIG: Self = Self(250);
    pub const IXFR: Self = Self(251);
    pub const AXFR: Self = Self(252);
    pub const ANY: Self = Self(255);
    pub const URI: Self = Self(256);
    pub const CAA: Self = Self(257);
}

impl Kind {
    /// Where names stand in data of this type: behind how many bytes, and how many of them one after the other. Of all types
    /// whose names the standards let anybody compress or fold (RFC 1035 §3.3, RFC 4034 §6.2, RFC 6840 §5.1), and of SVCB
    /// and HTTPS, whose they do not.
    pub(crate) fn names_in(self, data: &[u8]) -> (usize, usize) {
        match self.0 {
            // NS, MD, MF, CNAME, MB, MG, MR, PTR, DNAME.
            2..=5 | 7..=9 | 12 | 39 => (0, 1),
            // SOA, MINFO, RP.
            6 | 14 | 17 => (0, 2),
            // MX, AFSDB, RT, KX, SVCB, HTTPS.
            15 | 18 | 21 | 36 | 64 | 65 => (2, 1),
            // PX.
            26 => (2, 2),
            // SRV.
            33 => (6, 1),
            // NAPTR: two numbers and three strings before the name.
            35 => {
                let after = |at: usize| at + 1 + usize::from(data.get(at).copied().unwrap_or(0));
                (after(after(after(4))), 1)
            }
            _ => (0, 0),
        }
    }
}

/// A record without its owner and TTL.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Record {
    /// Its type.
    pub kind: Kind,
    /// Its data in wire form, names uncompressed.
    pub data: Arc<[u8]>,
}

/// One zone, checked.
#[derive(Debug)]
pub(crate) struct Zone {
    /// The apex.
    pub(crate) origin: Name,
    /// The SOA as it stands beside "no such name" and "no such data" (RFC 2308 §3).
    pub(crate) denial: Fragment,
    /// In seconds: how long that may be remembered.
    pub(crate) denial_ttl: u32,
    /// What signs it; `None`: it is not signed.
    pub(crate) keys: Option<ZoneKeys>,
    nodes: Vec<Node>,
    /// By the folded labels before the apex, with every empty non-terminal.
    index: NameIndex,
}

/// What stands at one name. A name that only has names below it (an empty non-terminal) has nothing.
///
/// Of thousands of names each is asked seldom, so what a steered answer looks at takes one line of the processor's cache.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct Node {
    /// How its addresses are steered; names that are steered alike share it.
    pub(crate) steer: Option<Arc<Steer>>,
    /// When it is an alias: the name it stands for, folded.
    pub(crate) alias: Option<Box<Name>>,
    /// The highest delegation at or above it, which is never the apex.
    cut: Option<NonZeroU32>,
    /// The wildcard right below it.
    wildcard: Option<NonZeroU32>,
    /// Static records, one set a type.
    pub(crate) sets: Box<[Set]>,
    /// The labels before the origin.
    pub(crate) labels: Box<[u8]>,
    types: Option<Box<Types>>,
}

const _: () = assert!(size_of::<Node>() == 64, "a name has outgrown its line");

/// In a signed zone: the types that are at a name, in order.
#[derive(Debug)]
struct Types(Box<[Kind]>);

/// Static records of one type.
#[derive(Debug)]
pub(crate) struct Set {
    pub(crate) fragment: Fragment,
    /// In a signed zone: the same records as they are signed.
    pub(crate) canonical: Option<CanonicalSet>,
    /// At a steered name: the same records as they are sent with hints.
    pub(crate) hinted: Option<Hinted>,
    /// For name servers: the nodes of this zone that hold their addresses.
    servers: Box<[u32]>,
}

/// A name and what stands at it, before the zone is one.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(crate) name: Name,
    pub(crate) sets: Vec<DraftSet>,
    pub(crate) steer: Option<Steer>,
}

/// The records of one type, not yet prepared.
#[derive(Debug)]
pub(crate) struct DraftSet {
    pub(crate) kind: Kind,
    /// In seconds.
    pub(crate) ttl: u32,
    /// In wire form, names uncompressed; not empty.
    pub(crate) data: Vec<Arc<[u8]>>,
}

impl Draft {
    /// The records of a type.
    pub(crate) fn set(&self, kind: Kind) -> Option<&DraftSet> {
        self.sets.iter().find(|set| set.kind == kind)
    }
}

/// Where a name leads.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Found<'a> {
    /// It is there, or made by a wildcard.
    Here(&'a Node),
    /// It lies in a zone that this name delegates.
    Delegated(&'a Node),
    /// It is not there.
    Missing,
}

impl Zone {
    /// Takes names by their folded form, the apex and every empty non-terminal among them. `soa` is the data of the
    /// SOA, `negative_ttl` how long a resolver may remember that something is not there (RFC 2308 §5), in seconds; `keys`
    /// what the zone is signed with, if it is.
    pub(crate) fn new(
        origin: Name,
        drafts: impl IntoIterator<Item = (Box<[u8]>, Draft)>,
        soa: Arc<[u8]>,
        negative_ttl: u32,
        keys: Option<ZoneKeys>,
    ) -> Self {
        let signed = keys.is_some();
        // What is remembered of a signed zone is never older than its signatures (RFC 4035 §5.3.3).
        let at_most = if signed { MAX_SIGNED_TTL } else { u32::MAX };
        let negative_ttl = negative_ttl.min(at_most);
        let mut drafts: Vec<(Box<[u8]>, Draft)> = drafts.into_iter().collect();
        // Ancestors first, and equal specifications make equal zones.
        drafts.sort_unstable_by(|(left, _), (right, _)| (left.len(), left).cmp(&(right.len(), right)));
        let apex_bytes = origin.wire().len();
        let index = NameIndex::new(drafts.iter().map(|(key, _)| &key[..key.len() - apex_bytes]));
        let mut nodes: Vec<Node> = Vec::with_capacity(drafts.len());
        let mut steers = FxHashSet::default();
        for (at, (key, draft)) in (0..).zip(&drafts) {
            let parent = suffixes(&key[..key.len() - apex_bytes]).nth(1).unwrap_or_default();
            let parent = if key.len() > apex_bytes { index.find(parent) } else { None };
            let cut = match parent.and_then(|parent| nodes.get_mut(parent as usize)) {
                None => None,
                Some(parent) => {
                    if key.starts_with(b"\x01*") {
                        parent.wildcard = NonZeroU32::new(at);
                    }
                    parent.cut.or_else(|| draft.set(Kind::NS).and_then(|_| NonZeroU32::new(at)))
                }
            };
            let sets: Box<[Set]> = draft
                .sets
                .iter()
                .map(|set| {
                    let set = &DraftSet { ttl: set.ttl.min(at_most), data: set.data.clone(), ..*set };
                    let canonical = signed.then(|| CanonicalSet::new(set.kind, set.ttl, &set.data));
                    Set { canonical, ..prepare(set, draft.steer.is_some(), &origin, &index) }
                })
                .collect();
            let kinds = sets.iter().map(|set| set.fragment.kind());
            let is_cut = cut.is_some_and(|cut| cut.get() == at);
            let types = signed.then(|| Box::new(Types(types_at(kinds, draft.steer.is_some(), is_cut))));
            let target = draft.set(Kind::CNAME).and_then(|set| set.data.first());
            let alias = target.and_then(|target| Name::from_wire(&target.to_ascii_lowercase()));
            let steer = draft.steer.clone().map(|steer| Steer { ttl: steer.ttl.min(at_most), ..steer });
            nodes.push(Node {
                steer: steer.map(|steer| shared(&mut steers, steer)),
                alias: alias.map(Box::new),
                cut,
                wildcard: None,
                sets,
                labels: within(draft.name.wire(), &origin).unwrap_or_default().into(),
                types,
            });
        }
        let denial = Fragment::new(Kind::SOA, negative_ttl, &[soa], &origin);
        Self { origin, denial, denial_ttl: negative_ttl, keys, nodes, index }
    }

    /// Looks up a folded name at or below the apex. `kind` matters at a delegation only, where DS belongs to the parent.
    pub(crate) fn find(&self, folded: &[u8], kind: Kind) -> Found<'_> {
        let labels = &folded[..folded.len().saturating_sub(self.origin.wire().len())];
        let exact = self.index.find(labels);
        let Some(at) = exact.or_else(|| self.encloser(labels)) else { return Found::Missing };
        let Some(node) = self.node(at) else { return Found::Missing };
        let at_cut = node.cut.is_some_and(|cut| exact == Some(cut.get()));
        let by_number = |number: NonZeroU32| self.node(number.get());
        match (node.cut, exact) {
            (Some(cut), _) if !(at_cut && kind == Kind::DS) => {
                by_number(cut).map_or(Found::Missing, Found::Delegated)
            }
            (_, Some(_)) => Found::Here(node),
            _ => node.wildcard.and_then(by_number).map_or(Found::Missing, Found::Here),
        }
    }

    /// The closest name above one that is not there, by the labels before the apex (RFC 4592 §3.3.1).
    fn encloser(&self, labels: &[u8]) -> Option<u32> {
        let above = suffixes(labels).skip(1).find_map(|labels| self.index.find(labels));
        above.or_else(|| self.index.find(&[]))
    }

    /// The names that hold the addresses of name servers, as far as this zone has them.
    pub(crate) fn servers(&self, set: &Set) -> impl Iterator<Item = &Node> {
        set.servers.iter().filter_map(|at| self.node(*at))
    }

    /// The whole name of a node, folded.
    pub(crate) fn folded(&self, node: &Node) -> Folded {
        let mut name = [0; MAX_NAME_BYTES];
        let (labels, origin) = (node.labels.len(), self.origin.wire());
        name[..labels].copy_from_slice(&node.labels);
        name[labels..labels + origin.len()].copy_from_slice(origin);
        Folded::new(&name[..labels + origin.len()])
    }

    /// All names, the apex first.
    pub(crate) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    fn node(&self, at: u32) -> Option<&Node> {
        self.nodes.get(at as usize)
    }
}

impl Node {
    /// The static records of a type.
    pub(crate) fn set(&self, kind: Kind) -> Option<&Set> {
        self.sets.iter().find(|set| set.fragment.kind() == kind)
    }

    /// In a signed zone: the types that are there, in order.
    pub(crate) fn types(&self) -> &[Kind] {
        self.types.as_ref().map_or(&[], |types| &types.0)
    }

    /// True when it lies in this zone, not in one that is delegated.
    pub(crate) fn is_authoritative(&self) -> bool {
        self.cut.is_none()
    }
}

fn shared(steers: &mut FxHashSet<Arc<Steer>>, steer: Steer) -> Arc<Steer> {
    if let Some(alike) = steers.get(&steer) {
        return Arc::clone(alike);
    }
    let steer = Arc::new(steer);
    steers.insert(Arc::clone(&steer));
    steer
}

fn prepare(set: &DraftSet, steered: bool, origin: &Name, index: &NameIndex) -> Set {
    let servers: Vec<u32> = match set.kind {
        Kind::NS => {
            let servers = set.data.iter().map(|name| name.to_ascii_lowercase());
            servers.filter_map(|name| index.find(within(&name, origin)?)).collect()
        }
        _ => Vec::new(),
    };
    let hinted = if steered { Hinted::new(set.kind, set.ttl, &set.data) } else { None };
    let fragment = Fragment::new(set.kind, set.ttl, &set.data, origin);
    Set { fragment, canonical: None, hinted, servers: servers.into() }
}
