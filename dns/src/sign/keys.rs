//! The keys of one zone, and what the zone says of them.

use std::sync::Arc;

use super::key::SigningKey;
use crate::name::Name;
use crate::spec::Signing;
use crate::zone::{DraftSet, Kind};

/// How long resolvers remember the keys, in seconds. Short: where two halves of a mesh each made a key, this is how long a
/// resolver may take what the other half signs for forged.
const KEYS_TTL: u32 = 300;

/// The sets that every key signs, so that the parent's DS may name any of them.
const SIGNED_BY_ALL: [Kind; 3] = [Kind::DNSKEY, Kind::CDS, Kind::CDNSKEY];

/// What signs a zone.
#[derive(Debug)]
pub(crate) struct ZoneKeys {
    /// The oldest first: it signs. Behind those that may sign stand those that are on their way out. Empty: this node does
    /// not have them yet.
    keys: Box<[SigningKey]>,
    /// How many may sign.
    staying: usize,
    all_sign: bool,
    /// The zone's name, folded.
    signer: Box<[u8]>,
}

impl ZoneKeys {
    pub(crate) fn new(zone: &Name, signing: &Signing) -> Self {
        let Signing { keys, all_sign, retiring } = signing;
        let staying = keys.len();
        // Without one that stays nobody signs: what is on its way out does not come back by that.
        let retiring = if staying == 0 { &[] } else { retiring.as_slice() };
        let keys = keys.iter().chain(retiring).cloned().collect();
        Self { keys, staying, all_sign: *all_sign, signer: zone.folded().into() }
    }

    /// True when there is a key to sign with.
    pub(crate) fn can_sign(&self) -> bool {
        !self.keys.is_empty()
    }

    /// The zone's name, folded.
    pub(crate) fn signer(&self) -> &[u8] {
        &self.signer
    }

    /// The keys that sign sets of a type.
    pub(crate) fn for_sets(&self, kind: Kind) -> &[SigningKey] {
        &self.keys[..match () {
            () if SIGNED_BY_ALL.contains(&kind) => self.keys.len(),
            () if self.all_sign => self.staying,
            () => self.staying.min(1),
        }]
    }

    /// What stands at the apex: all keys, and which one the parent shall name (RFC 7344).
    pub(crate) fn apex(&self, zone: &Name) -> Vec<DraftSet> {
        let Some(active) = self.keys.first() else { return Vec::new() };
        let set = |kind, data: Vec<Arc<[u8]>>| DraftSet { kind, ttl: KEYS_TTL, data };
        vec![
            set(Kind::DNSKEY, self.keys.iter().map(|key| Arc::from(key.dnskey())).collect()),
            set(Kind::CDS, vec![active.ds(zone).into()]),
            set(Kind::CDNSKEY, vec![active.dnskey().into()]),
        ]
    }
}
