//! The sealed cookie: a session that needs no look-up and survives the loss of every store (DESIGN §6).
//!
//! ```text
//!   0        1           5      7          19                                      67          83
//!   │version │ key id    │ day  │ nonce    │ sealed: sid 16 · pool 4 · backend 8 · │ tag       │   base64url,
//!   │ 1      │ 4 LE      │ 2 LE │ 12       │ assigned 8 · home 4 · first 4 · last 4│ 16        │   no padding
//! ```
//!
//! AES-256-GCM-SIV (RFC 8452) with the service's name as associated data: nonces are random and may repeat without
//! giving the key away, which plain GCM could not promise at this rate. One key a day is derived from each key of
//! the mesh's ring; key id and day travel in the clear, so that any node finds the right one.
//!
//! What it refuses to do: judge a session's `ttl` and `max_age`. They belong to the service, not to the seal.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, Nonce, UnboundKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gossip::clock::{Hlc, Wall};
use gossip::id::{BackendId, ServiceName, SessionId, Tag};
use gossip::keyring::{DerivedKey, Keyring};
use rand::RngExt;

/// Days after which a seal no longer opens; no `max_age` may be longer.
pub const SEAL_MAX_DAYS: u16 = 400;

const VERSION: u8 = 1;
const NONCE_AT: usize = 7;
const PLAIN_AT: usize = NONCE_AT + 12;
const PLAIN_BYTES: usize = 48;
const COOKIE_BYTES: usize = PLAIN_AT + PLAIN_BYTES + 16;
const TEXT_BYTES: usize = (COOKIE_BYTES * 4).div_ceil(3);

/// What a session cookie says. Sealed: no user reads or makes one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionCookie {
    /// The session.
    pub id: SessionId,
    /// The pool's name as a tag: the version the user met.
    pub pool: Tag,
    /// The backend.
    pub backend: BackendId,
    /// When the session was assigned to it.
    pub assigned: Hlc,
    /// The region whose nodes keep the pin, as a tag.
    pub home: Tag,
    /// Seconds since 1970: when the session began; `max_age` counts from here.
    pub first_seen: u32,
    /// Seconds since 1970: when the cookie was last sealed; `ttl` counts from here.
    pub last_seen: u32,
}

/// Why a cookie does not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CookieError {
    /// Not made by this mesh for this service, or cut, or forged.
    #[error("not a cookie of this mesh")]
    Invalid,
    /// Sealed too long ago.
    #[error("expired")]
    Expired,
}

/// Seals and opens cookies; holds the day keys. Clones share them.
#[derive(Clone)]
pub struct Cookies(Arc<ArcSwap<Keys>>);

impl Cookies {
    /// From the mesh's keyring.
    pub fn new(ring: &Keyring) -> Self {
        Self::from_keys(derive(ring))
    }

    fn from_keys(ring: Vec<DerivedKey>) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(Keys { ring, days: HashMap::new(), generation: 0 })))
    }

    /// Takes another ring into use, here and in all clones: after keys were installed, used or removed.
    pub fn rekey(&self, ring: &Keyring) {
        let ring = derive(ring);
        self.0.rcu(|keys| Keys { ring: ring.clone(), days: HashMap::new(), generation: keys.generation + 1 });
    }

    /// A number that is another one after every change of the keys: what opened under one generation is to be opened anew
    /// under the next.
    pub fn generation(&self) -> u64 {
        self.0.load().generation
    }

    /// The cookie's value: base64url, no padding. Empty when the ring is empty, which no ring read from a file is.
    pub fn seal(&self, service: &ServiceName, cookie: &SessionCookie, now: Wall) -> String {
        let day = day_of(now);
        let keys = self.0.load();
        let Some(first) = keys.ring.first() else {
            return String::new();
        };
        let key = match keys.days.get(&(first.key_id, day)) {
            Some(key) => key.clone(),
            None => self.remember(first.key_id, day, Arc::new(day_key(first, day)), day),
        };
        seal_with(&key, first.key_id, day, rand::rng().random(), service, cookie)
    }

    /// Opens a value that [`Cookies::seal`] made on any node of the mesh for the same service. Checks no expiry
    /// but that of the day keys: `ttl` and `max_age` are the caller's.
    ///
    /// # Errors
    /// See [`CookieError`]. Takes the same time for every forgery of the right length.
    pub fn open(&self, service: &ServiceName, value: &str, now: Wall) -> Result<SessionCookie, CookieError> {
        let mut bytes = [0; COOKIE_BYTES];
        decode(value, &mut bytes)?;
        let key_id = u32::from_le_bytes(take(&bytes, 1));
        let day = u16::from_le_bytes(take(&bytes, 5));
        let today = day_of(now);
        if bytes[0] != VERSION || day > today.saturating_add(1) {
            return Err(CookieError::Invalid);
        }
        let keys = self.0.load();
        if let Some(key) = keys.days.get(&(key_id, day)) {
            let cookie = open_with(key, service, &mut bytes)?;
            // The key may have been remembered when the day was still within bounds.
            return if within(day, today) { Ok(cookie) } else { Err(CookieError::Expired) };
        }
        // Keys are remembered only once a cookie has opened with them, so that strangers cannot fill the memory.
        let secret = keys.ring.iter().find(|key| key.key_id == key_id).ok_or(CookieError::Invalid)?;
        let key = day_key(secret, day);
        let cookie = open_with(&key, service, &mut bytes)?;
        if !within(day, today) {
            return Err(CookieError::Expired);
        }
        self.remember(key_id, day, Arc::new(key), today);
        Ok(cookie)
    }

    /// Adds a day's key to the snapshot and drops those that are out of bounds by now.
    fn remember(&self, key_id: u32, day: u16, key: Arc<LessSafeKey>, today: u16) -> Arc<LessSafeKey> {
        self.0.rcu(|keys| {
            let mut next = Keys::clone(keys);
            next.days.retain(|(_, day), _| within(*day, today));
            // A ring that was swapped meanwhile does not get the old ring's keys back.
            if next.ring.iter().any(|ring| ring.key_id == key_id) {
                next.days.insert((key_id, day), key.clone());
            }
            next
        });
        key
    }
}

impl fmt::Debug for Cookies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = self.0.load();
        let ids: Vec<_> = keys.ring.iter().map(|key| key.key_id).collect();
        f.debug_struct("Cookies").field("key_ids", &ids).finish_non_exhaustive()
    }
}

/// An immutable snapshot: the ring, and the day keys in use so far.
#[derive(Clone)]
struct Keys {
    ring: Vec<DerivedKey>,
    days: HashMap<(u32, u16), Arc<LessSafeKey>>,
    /// Counts the rings.
    generation: u64,
}

fn derive(ring: &Keyring) -> Vec<DerivedKey> {
    ring.derive("meridian cookie v1")
}

fn day_key(ring: &DerivedKey, day: u16) -> LessSafeKey {
    let mut material = [0; 34];
    material[..32].copy_from_slice(&ring.secret);
    material[32..].copy_from_slice(&day.to_le_bytes());
    let secret = blake3::derive_key("meridian 2026 cookie day key v1", &material);
    let key = UnboundKey::new(&AES_256_GCM_SIV, &secret).expect("32 bytes are a key of AES-256");
    LessSafeKey::new(key)
}

fn seal_with(
    key: &LessSafeKey,
    key_id: u32,
    day: u16,
    nonce: [u8; 12],
    service: &ServiceName,
    cookie: &SessionCookie,
) -> String {
    let mut bytes = [0; COOKIE_BYTES];
    bytes[0] = VERSION;
    bytes[1..5].copy_from_slice(&key_id.to_le_bytes());
    bytes[5..7].copy_from_slice(&day.to_le_bytes());
    bytes[NONCE_AT..PLAIN_AT].copy_from_slice(&nonce);
    let (head, tag_bytes) = bytes.split_at_mut(PLAIN_AT + PLAIN_BYTES);
    let plain = &mut head[PLAIN_AT..];
    write_plain(cookie, plain);
    let tag = key
        .seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(service.as_str().as_bytes()),
            plain,
        )
        .expect("48 bytes are within what AES-GCM-SIV seals");
    tag_bytes.copy_from_slice(tag.as_ref());
    URL_SAFE_NO_PAD.encode(bytes)
}

fn open_with(
    key: &LessSafeKey,
    service: &ServiceName,
    bytes: &mut [u8; COOKIE_BYTES],
) -> Result<SessionCookie, CookieError> {
    let nonce = Nonce::assume_unique_for_key(take(bytes, NONCE_AT));
    let plain = key
        .open_in_place(nonce, Aad::from(service.as_str().as_bytes()), &mut bytes[PLAIN_AT..])
        .map_err(|_| CookieError::Invalid)?;
    Ok(read_plain(plain))
}

fn decode(value: &str, bytes: &mut [u8; COOKIE_BYTES]) -> Result<(), CookieError> {
    if value.len() != TEXT_BYTES {
        return Err(CookieError::Invalid);
    }
    match URL_SAFE_NO_PAD.decode_slice(value, bytes) {
        Ok(COOKIE_BYTES) => Ok(()),
        _ => Err(CookieError::Invalid),
    }
}

fn write_plain(cookie: &SessionCookie, plain: &mut [u8]) {
    plain[..16].copy_from_slice(&cookie.id.0);
    plain[16..20].copy_from_slice(&cookie.pool.0.to_le_bytes());
    plain[20..28].copy_from_slice(&cookie.backend.0.to_le_bytes());
    plain[28..36].copy_from_slice(&cookie.assigned.0.to_le_bytes());
    plain[36..40].copy_from_slice(&cookie.home.0.to_le_bytes());
    plain[40..44].copy_from_slice(&cookie.first_seen.to_le_bytes());
    plain[44..48].copy_from_slice(&cookie.last_seen.to_le_bytes());
}

/// `plain` has passed authentication: it is [`PLAIN_BYTES`] long.
fn read_plain(plain: &[u8]) -> SessionCookie {
    SessionCookie {
        id: SessionId(take(plain, 0)),
        pool: Tag(u32::from_le_bytes(take(plain, 16))),
        backend: BackendId(u64::from_le_bytes(take(plain, 20))),
        assigned: Hlc(u64::from_le_bytes(take(plain, 28))),
        home: Tag(u32::from_le_bytes(take(plain, 36))),
        first_seen: u32::from_le_bytes(take(plain, 40)),
        last_seen: u32::from_le_bytes(take(plain, 44)),
    }
}

fn take<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut taken = [0; N];
    taken.copy_from_slice(&bytes[at..at + N]);
    taken
}

fn day_of(now: Wall) -> u16 {
    (now.seconds() / 86_400).try_into().unwrap_or(u16::MAX)
}

fn within(day: u16, today: u16) -> bool {
    day <= today.saturating_add(1) && today.saturating_sub(day) <= SEAL_MAX_DAYS
}

/// With one key that everybody knows, for [`crate::fuzzing`].
#[cfg(any(test, fuzzing))]
impl Cookies {
    pub(crate) fn fixed() -> Self {
        Self::from_keys(vec![DerivedKey { key_id: 1, secret: [1; 32] }])
    }
}

/// What [`golden`] sealed with that key, in 2026.
#[cfg(any(test, fuzzing))]
pub(crate) const GOLDEN: &str = "AQEAAADtUAkJCQkJCQkJCQkJCco7Apr8ElX2E3i-D55JgBESta_R-9BJJ7F-c8akcLwXetryTuoTNeyjrfXE6U7k7XWzLVauJLWS7UhCtOOeCWQ";

#[cfg(any(test, fuzzing))]
pub(crate) fn golden() -> SessionCookie {
    SessionCookie {
        id: SessionId([7; 16]),
        pool: Tag::of("web-v1"),
        backend: BackendId(0x0123_4567_89ab_cdef),
        assigned: Hlc::from_millis(1_790_000_000_000),
        home: Tag::of("eu"),
        first_seen: 1_790_000_000,
        last_seen: 1_790_000_001,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Wall = Wall(1_790_000_000_000);

    fn service(name: &str) -> ServiceName {
        ServiceName::new(name).unwrap()
    }

    fn key(id: u32) -> DerivedKey {
        DerivedKey { key_id: id, secret: [id as u8; 32] }
    }

    fn cookie() -> SessionCookie {
        golden()
    }

    #[test]
    fn a_node_opens_what_another_sealed() {
        let (a, b) = (Cookies::from_keys(vec![key(1)]), Cookies::from_keys(vec![key(2), key(1)]));
        let value = a.seal(&service("web"), &cookie(), NOW);
        assert_eq!(value.len(), TEXT_BYTES);
        for _ in 0..2 {
            assert_eq!(b.open(&service("web"), &value, NOW), Ok(cookie()));
        }
        assert_eq!(a.open(&service("pay"), &value, NOW), Err(CookieError::Invalid));
        let value = b.seal(&service("web"), &cookie(), NOW);
        assert_eq!(a.open(&service("web"), &value, NOW), Err(CookieError::Invalid));
    }

    #[test]
    fn a_removed_key_opens_nothing() {
        let cookies = Cookies::from_keys(vec![key(1)]);
        let value = cookies.seal(&service("web"), &cookie(), NOW);
        cookies.0.store(Arc::new(Keys { ring: vec![key(2)], days: HashMap::new(), generation: 1 }));
        assert_eq!(cookies.open(&service("web"), &value, NOW), Err(CookieError::Invalid));
    }

    #[test]
    fn a_seal_expires_with_its_day_key() {
        let (a, fresh) = (Cookies::from_keys(vec![key(1)]), Cookies::from_keys(vec![key(1)]));
        let value = a.seal(&service("web"), &cookie(), NOW);
        let day = std::time::Duration::from_secs(86_400);
        for cookies in [&a, &fresh] {
            assert_eq!(cookies.open(&service("web"), &value, NOW.plus(day * 400)), Ok(cookie()));
            let late = NOW.plus(day * 401);
            assert_eq!(cookies.open(&service("web"), &value, late), Err(CookieError::Expired));
        }
        let early = Wall(NOW.0 - 2 * 86_400_000);
        assert_eq!(a.open(&service("web"), &value, early), Err(CookieError::Invalid));
    }

    #[test]
    fn the_format_is_the_same_for_ever() {
        let value = seal_with(&day_key(&key(1), 20_717), 1, 20_717, [9; 12], &service("web"), &cookie());
        assert_eq!(value, GOLDEN);
        assert_eq!(Cookies::fixed().open(&service("web"), &value, NOW), Ok(cookie()));
    }

    #[test]
    fn debug_shows_no_secret() {
        assert_eq!(format!("{:?}", Cookies::from_keys(vec![key(1)])), "Cookies { key_ids: [1], .. }");
    }

    proptest! {
        #[test]
        fn what_was_touched_does_not_open(bit in 0..COOKIE_BYTES * 8) {
            let cookies = Cookies::from_keys(vec![key(1), key(2)]);
            let value = cookies.seal(&service("web"), &cookie(), NOW);
            let mut bytes = URL_SAFE_NO_PAD.decode(&value).unwrap();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let touched = URL_SAFE_NO_PAD.encode(bytes);
            prop_assert_eq!(cookies.open(&service("web"), &touched, NOW), Err(CookieError::Invalid));
        }

        #[test]
        fn what_was_cut_or_grew_does_not_open(keep in 0..TEXT_BYTES, more in "[A-Za-z0-9_-]{1,8}") {
            let cookies = Cookies::from_keys(vec![key(1)]);
            let value = cookies.seal(&service("web"), &cookie(), NOW);
            prop_assert_eq!(cookies.open(&service("web"), &value[..keep], NOW), Err(CookieError::Invalid));
            let longer = value + &more;
            prop_assert_eq!(cookies.open(&service("web"), &longer, NOW), Err(CookieError::Invalid));
        }

        #[test]
        fn any_text_is_taken_calmly(text in ".{0,200}") {
            let opened = Cookies::from_keys(vec![key(1)]).open(&service("web"), &text, NOW);
            prop_assert_eq!(opened, Err(CookieError::Invalid));
        }
    }
}
