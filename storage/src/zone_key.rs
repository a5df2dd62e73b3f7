//! The secrets that zones are signed with, as a set that only grows. Pure.
//!
//! They have nothing to do with the mesh's own keys, which rotate: a zone's key is named by the parent zone, and must be the
//! same for years. The mesh's keys only seal them on their way and on disk:
//!
//! ```text
//!   version 1 │ mesh key id 4 │ nonce 12 │ sealed { made 8 │ length 1 │ zone │ secret } │ tag 16
//! ```
//!
//! All little endian; AES-256-GCM-SIV (RFC 8452) with what stands before the nonce as associated data. Merging is the union
//! (I4). Two halves of a mesh that each made a key for the same zone end with both: the older one, by when it was made and
//! then by its id, is the active one everywhere, and none is ever dropped but the youngest of more than
//! [`KEYS_PER_ZONE`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, Nonce, UnboundKey};
use bytes::Buf;
use gossip::clock::Wall;
use gossip::id::NodeName;
use gossip::keyring::{DerivedKey, Keyring};
use rand::RngExt;

/// More than any number of halves that a mesh is likely to be cut into while a zone is signed for the first time.
pub const KEYS_PER_ZONE: usize = 8;
/// All of them together: what fits into one message.
pub const KEYS_MAX: usize = 2_000;
/// The longest name of a zone, and the longest secret, in bytes.
const ZONE_MAX_BYTES: usize = 255;
const SECRET_MAX_BYTES: usize = 256;

const VERSION: u8 = 1;
const NONCE_AT: usize = 5;
const SEALED_AT: usize = NONCE_AT + 12;
const TAG_BYTES: usize = 16;
/// The longest sealed key.
pub(crate) const SEALED_MAX_BYTES: usize = SEALED_AT + 8 + 1 + ZONE_MAX_BYTES + SECRET_MAX_BYTES + TAG_BYTES;

/// Until a node makes a key although not all others have said that they have none, and then each next one in the order of
/// names.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// One zone's secret.
#[derive(Clone, PartialEq, Eq)]
pub struct ZoneKey {
    /// The zone, in lower case, without the final dot.
    pub zone: String,
    /// When it was made.
    pub made: Wall,
    /// The secret, as its maker wrote it.
    pub secret: Vec<u8>,
}

impl ZoneKey {
    /// What names it without giving it away.
    pub fn id(&self) -> [u8; 16] {
        let mut id = [0; 16];
        id.copy_from_slice(&blake3::derive_key("meridian 2026 zone key id v1", &self.secret)[..16]);
        id
    }
}

impl fmt::Debug for ZoneKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ZoneKey").field("zone", &self.zone).field("made", &self.made).finish_non_exhaustive()
    }
}

/// What became of a key that arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Merged {
    /// It is held now.
    News,
    /// It was held before, or the zone has as many older ones as it may have.
    Known,
    /// There is no room.
    Full,
}

/// All keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ZoneKeySet {
    /// By zone, by when they were made and their id: the first is the active one.
    zones: BTreeMap<String, BTreeMap<(Wall, [u8; 16]), Arc<ZoneKey>>>,
    count: usize,
}

impl ZoneKeySet {
    /// How many keys there are of all zones; at most [`KEYS_MAX`].
    pub fn count(&self) -> usize {
        self.count
    }

    /// Takes a key in.
    pub fn merge(&mut self, key: ZoneKey) -> Merged {
        let place = (key.made, key.id());
        let held = self.zones.get(&key.zone);
        if held.is_some_and(|held| {
            held.contains_key(&place)
                || held.len() >= KEYS_PER_ZONE && held.last_key_value().is_some_and(|(last, _)| *last < place)
        }) {
            return Merged::Known;
        }
        let crowded = held.is_some_and(|held| held.len() >= KEYS_PER_ZONE);
        if self.count >= KEYS_MAX && !crowded {
            return Merged::Full;
        }
        let held = self.zones.entry(key.zone.clone()).or_default();
        held.insert(place, Arc::new(key));
        match crowded {
            true => drop(held.pop_last()),
            false => self.count += 1,
        }
        Merged::News
    }

    /// The keys of a zone, the active one first.
    pub fn of(&self, zone: &str) -> impl Iterator<Item = &Arc<ZoneKey>> {
        self.zones.get(zone).into_iter().flat_map(BTreeMap::values)
    }

    /// The zones that have keys.
    pub fn zones(&self) -> impl Iterator<Item = &str> {
        self.zones.keys().map(String::as_str)
    }

    /// All keys.
    pub fn all(&self) -> impl Iterator<Item = &Arc<ZoneKey>> {
        self.zones.values().flat_map(BTreeMap::values)
    }

    /// Equal sets, equal digests; says nothing of the secrets.
    pub fn digest(&self) -> u64 {
        let mut hasher = blake3::Hasher::new();
        for (zone, keys) in &self.zones {
            for (made, id) in keys.keys() {
                hasher.update(&(zone.len() as u64).to_le_bytes()).update(zone.as_bytes());
                hasher.update(&made.0.to_le_bytes()).update(id);
            }
        }
        let mut digest = [0; 8];
        digest.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        u64::from_le_bytes(digest)
    }
}

/// True when it is this node's turn to make a key for a zone that has none: it is the first of all living ones by name, and
/// all others have said that they have none; or those before it have let their time pass.
pub fn may_make(
    me: &NodeName,
    living: &BTreeSet<NodeName>,
    heard: &BTreeSet<NodeName>,
    waited: Duration,
) -> bool {
    let before = living.range(..me.clone()).count() as u32;
    let alone = living.iter().all(|name| name == me);
    let all_heard = living.iter().filter(|name| *name != me).all(|name| heard.contains(name));
    // One that sees nobody may just have started.
    before == 0 && all_heard && !alone || waited >= PATIENCE * (before + 1)
}

/// Why a sealed key does not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnsealError {
    /// It was sealed with a mesh key that this node does not have.
    #[error("it is sealed with mesh key {0:08x}, which the keyring lacks")]
    Unknown(u32),
    /// It is something else, cut, or forged.
    #[error("it is no sealed key, or a damaged one")]
    Damaged,
}

/// Seals keys with the mesh key in use, and opens them with any of the ring.
pub struct Sealer(Vec<(u32, LessSafeKey)>);

impl Sealer {
    /// From the mesh's keyring.
    pub fn new(ring: &Keyring) -> Self {
        Self::of(&ring.derive("meridian zone keys v1"))
    }

    fn of(ring: &[DerivedKey]) -> Self {
        let cipher = |key: &DerivedKey| {
            let unbound =
                UnboundKey::new(&AES_256_GCM_SIV, &key.secret).expect("32 bytes are a key of AES-256");
            (key.key_id, LessSafeKey::new(unbound))
        };
        Self(ring.iter().map(cipher).collect())
    }

    /// Always the same, for tests.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn fixed() -> Self {
        Self::of(&[DerivedKey { key_id: 7, secret: [7; 32] }])
    }

    /// Whether a sealed key was sealed with the mesh key in use.
    pub fn is_current(&self, sealed: &[u8]) -> bool {
        self.0.first().is_some_and(|(id, _)| sealed.get(1..NONCE_AT) == Some(&id.to_le_bytes()))
    }

    /// Seals a key. `None` when the ring is empty, which no ring read from a file is, or the key is longer than one can be.
    pub fn seal(&self, key: &ZoneKey) -> Option<Vec<u8>> {
        self.seal_with(key, rand::rng().random())
    }

    pub(crate) fn seal_with(&self, key: &ZoneKey, nonce: [u8; 12]) -> Option<Vec<u8>> {
        let (id, cipher) = self.0.first()?;
        if key.zone.len() > ZONE_MAX_BYTES || key.secret.len() > SECRET_MAX_BYTES {
            return None;
        }
        let mut head = vec![VERSION];
        head.extend_from_slice(&id.to_le_bytes());
        let mut plain = key.made.0.to_le_bytes().to_vec();
        plain.push(key.zone.len() as u8);
        plain.extend_from_slice(key.zone.as_bytes());
        plain.extend_from_slice(&key.secret);
        let sealed = Nonce::assume_unique_for_key(nonce);
        cipher.seal_in_place_append_tag(sealed, Aad::from(&head), &mut plain).ok()?;
        Some([head.as_slice(), &nonce, &plain].concat())
    }

    /// Opens a sealed key.
    ///
    /// # Errors
    /// See [`UnsealError`].
    pub fn open(&self, sealed: &[u8]) -> Result<ZoneKey, UnsealError> {
        let damaged = UnsealError::Damaged;
        if sealed.len() > SEALED_MAX_BYTES || sealed.first() != Some(&VERSION) {
            return Err(damaged);
        }
        let (head, rest) = sealed.split_at_checked(NONCE_AT).ok_or(damaged)?;
        let (nonce, rest) = rest.split_first_chunk::<12>().ok_or(damaged)?;
        let id = (&head[1..]).try_get_u32_le().map_err(|_| damaged)?;
        let (_, cipher) = self.0.iter().find(|(known, _)| *known == id).ok_or(UnsealError::Unknown(id))?;
        let mut plain = rest.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let mut plain = &*cipher.open_in_place(nonce, Aad::from(head), &mut plain).map_err(|_| damaged)?;
        let made = Wall(plain.try_get_u64_le().map_err(|_| damaged)?);
        let length = usize::from(plain.try_get_u8().map_err(|_| damaged)?);
        let (zone, secret) = plain.split_at_checked(length).ok_or(damaged)?;
        let zone = String::from_utf8(zone.to_vec()).map_err(|_| damaged)?;
        if secret.len() > SECRET_MAX_BYTES {
            return Err(damaged);
        }
        Ok(ZoneKey { zone, made, secret: secret.to_vec() })
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids: Vec<String> = self.0.iter().map(|(id, _)| format!("{id:08x}")).collect();
        f.debug_struct("Sealer").field("key_ids", &ids).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(zone: u8, made: u64, secret: u8) -> ZoneKey {
        ZoneKey { zone: format!("z{zone}.example"), made: Wall(made), secret: vec![secret; 40] }
    }

    fn names(names: &[&str]) -> BTreeSet<NodeName> {
        names.iter().map(|name| NodeName::new(name).unwrap()).collect()
    }

    #[test]
    fn the_format_is_the_same_for_ever() {
        let key = ZoneKey { zone: "a.example".into(), made: Wall(5), secret: vec![1, 2, 3] };
        let sealed = Sealer::fixed().seal_with(&key, [9; 12]).unwrap();
        let hex: String = sealed.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, GOLDEN);
        assert_eq!(Sealer::fixed().open(&sealed), Ok(key));
    }

    const GOLDEN: &str = "010700000009090909090909090909090982113429482531814ba010b9cdf6d3bcc77cfd2adc2b090900dd0763e3b5519692f6a6de1b";

    #[test]
    fn only_the_mesh_opens_what_it_sealed_and_rotation_goes_on() {
        let mut ring = Keyring::generate();
        let old = Sealer::new(&ring);
        let sealed = old.seal(&key(1, 2, 3)).unwrap();
        assert!(!sealed.windows(8).any(|bytes| bytes == [3; 8] || bytes == b"z1.examp"));
        assert!(matches!(Sealer::new(&Keyring::generate()).open(&sealed), Err(UnsealError::Unknown(_))));
        let (before, new) = (ring.in_use(), ring.install_new().unwrap());
        ring.use_key(new).unwrap();
        let both = Sealer::new(&ring);
        assert!(old.is_current(&sealed) && !both.is_current(&sealed));
        assert_eq!(both.open(&sealed), Ok(key(1, 2, 3)));
        let again = both.seal(&key(1, 2, 3)).unwrap();
        ring.remove(before).unwrap();
        assert_eq!(Sealer::new(&ring).open(&again), Ok(key(1, 2, 3)));
        for at in 0..again.len() {
            let mut bad = again.clone();
            bad[at] ^= 1;
            assert!(both.open(&bad).is_err(), "byte {at}");
        }
        assert!(!format!("{both:?} {:?}", key(1, 2, 3)).contains("3, 3"));
    }

    #[test]
    fn the_first_by_name_makes_a_key_when_all_have_said_that_they_have_none() {
        let turn = |me: &str, living: &[&str], heard: &[&str], seconds| {
            let me = NodeName::new(me).unwrap();
            may_make(&me, &names(living), &names(heard), Duration::from_secs(seconds))
        };
        let all = ["a", "b", "c"];
        assert!(turn("a", &all, &["b", "c"], 0));
        assert!(!turn("a", &all, &["b"], 4), "c may have one");
        assert!(turn("a", &all, &["b"], 5), "c does not answer");
        assert!(!turn("b", &all, &["a", "c"], 9), "a is asked to");
        assert!(turn("b", &all, &["a", "c"], 10), "a does not");
        assert!(!turn("c", &all, &["a", "b"], 14));
        assert!(!turn("a", &["a"], &[], 4), "it may not have met the others yet");
        assert!(turn("a", &["a"], &[], 5));
    }

    #[test]
    fn the_oldest_is_the_active_one() {
        let mut set = ZoneKeySet::default();
        for made in [7, 3, 9] {
            assert_eq!(set.merge(key(1, made, made as u8)), Merged::News);
            assert_eq!(set.merge(key(1, made, made as u8)), Merged::Known);
        }
        assert_eq!(set.of("z1.example").map(|key| key.made.0).collect::<Vec<_>>(), [3, 7, 9]);
        assert_eq!(set.of("z2.example").count(), 0);
    }

    #[test]
    fn there_is_a_bound() {
        let mut set = ZoneKeySet::default();
        for number in 0..KEYS_MAX as u32 {
            let zone = format!("z{number}.example");
            let key = ZoneKey { zone, made: Wall(1), secret: number.to_le_bytes().to_vec() };
            assert_eq!(set.merge(key), Merged::News);
        }
        assert_eq!(set.merge(key(1, 1, 1)), Merged::Full);
        assert_eq!(set.all().count(), KEYS_MAX);
    }

    proptest! {
        #[test]
        fn whatever_the_order_the_end_is_the_same(
            keys in prop::collection::vec((0u8..3, 0u64..6, any::<u8>()), 0..60),
            swaps in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..40),
        ) {
            let keys: Vec<ZoneKey> = keys.into_iter().map(|(zone, made, secret)| key(zone, made, secret)).collect();
            let mut others = keys.clone();
            for (left, right) in swaps {
                if !others.is_empty() {
                    let (left, right) = (left.index(others.len()), right.index(others.len()));
                    others.swap(left, right);
                }
            }
            let all = |keys: &[ZoneKey]| {
                let mut set = ZoneKeySet::default();
                for key in keys.iter().chain(keys) {
                    prop_assert!(set.merge(key.clone()) != Merged::Full);
                }
                prop_assert!(set.zones.values().all(|keys| keys.len() <= KEYS_PER_ZONE));
                Ok(set)
            };
            let (left, right) = (all(&keys)?, all(&others)?);
            prop_assert_eq!(left.digest(), right.digest());
            prop_assert_eq!(left, right);
        }

        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..700)) {
            let _ = Sealer::fixed().open(&bytes);
        }
    }
}
