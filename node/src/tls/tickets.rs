//! Session tickets that every node of the mesh opens: a client that met one node resumes on any other.
//!
//! ```text
//! version 1 · mesh key 4 · window 4 · nonce 12 · AES-256-GCM-SIV(session) · tag 16        the first 9 are the AAD
//! key = BLAKE3-keyed(HKDF(mesh key, "meridian tls tickets v1"), window ‖ context)
//! ```
//!
//! A window is eight hours of wall time. Tickets are made in the present one and opened in it and its neighbours, so
//! one lives for at least one window and at most two, and a node whose clock is ahead is understood. The *context* binds a
//! ticket to the listener and the authorities of its clients: without it a ticket of a listener that asks for no client
//! certificate would open the door of one that does, for a resumed session is not verified again.
//!
//! Early data is never accepted: what one node saw, another could not tell to be a replay.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, Nonce, UnboundKey};
use gossip::clock::Clock;
use gossip::keyring::{DerivedKey, Keyring};
use rustls::server::ProducesTickets;

const PURPOSE: &str = "meridian tls tickets v1";
const VERSION: u8 = 1;
const HEADER: usize = 9;
const NONCE: usize = 12;
/// How long one key seals.
const WINDOW: Duration = Duration::from_secs(8 * 3600);
/// A session with a chain of client certificates fits; more is not sealed, and not opened.
const MAX_BYTES: usize = 16 * 1024;

/// What tickets are sealed with, the same on every node. Clones share it.
#[derive(Clone)]
pub struct TicketKeys {
    /// The key in use first.
    keys: Arc<ArcSwap<Vec<DerivedKey>>>,
    clock: Clock,
}

impl TicketKeys {
    /// From the mesh's keyring.
    pub fn new(keyring: &Keyring, clock: Clock) -> Self {
        Self { keys: Arc::new(ArcSwap::from_pointee(keyring.derive(PURPOSE))), clock }
    }

    /// Takes another keyring into use, for all tickets from now on.
    pub fn rekey(&self, keyring: &Keyring) {
        self.keys.store(Arc::new(keyring.derive(PURPOSE)));
    }

    /// The tickets of one context.
    pub(super) fn tickets(&self, context: [u8; 32]) -> Tickets {
        Tickets { keys: self.clone(), context }
    }
}

/// The tickets of one listener.
pub(super) struct Tickets {
    keys: TicketKeys,
    context: [u8; 32],
}

impl fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TicketKeys").finish_non_exhaustive()
    }
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tickets").finish_non_exhaustive()
    }
}

impl Tickets {
    fn window(&self) -> u32 {
        u32::try_from(self.keys.clock.mesh_wall().seconds() / WINDOW.as_secs()).unwrap_or(u32::MAX)
    }

    fn key(&self, derived: &DerivedKey, window: u32) -> LessSafeKey {
        let mut hash = blake3::Hasher::new_keyed(&derived.secret);
        hash.update(&window.to_be_bytes());
        hash.update(&self.context);
        let key = UnboundKey::new(&AES_256_GCM_SIV, hash.finalize().as_bytes());
        LessSafeKey::new(key.expect("32 bytes are a key of AES-256"))
    }

    fn seal(&self, plain: &[u8], window: u32, nonce: [u8; NONCE]) -> Option<Vec<u8>> {
        if plain.len() > MAX_BYTES {
            return None;
        }
        let keys = self.keys.keys.load();
        let derived = keys.first()?;
        let mut ticket = Vec::with_capacity(HEADER + NONCE + plain.len() + AES_256_GCM_SIV.tag_len());
        ticket.push(VERSION);
        ticket.extend_from_slice(&derived.key_id.to_be_bytes());
        ticket.extend_from_slice(&window.to_be_bytes());
        let aad = Aad::from(<[u8; HEADER]>::try_from(&ticket[..]).ok()?);
        ticket.extend_from_slice(&nonce);
        ticket.extend_from_slice(plain);
        let (_, sealed) = ticket.split_at_mut(HEADER + NONCE);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = self.key(derived, window).seal_in_place_separate_tag(nonce, aad, sealed).ok()?;
        ticket.extend_from_slice(tag.as_ref());
        Some(ticket)
    }

    fn open(&self, ticket: &[u8], now: u32) -> Option<Vec<u8>> {
        if ticket.len() > HEADER + NONCE + MAX_BYTES + AES_256_GCM_SIV.tag_len() {
            return None;
        }
        let (header, rest) = ticket.split_first_chunk::<HEADER>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE>()?;
        let [VERSION, k0, k1, k2, k3, w0, w1, w2, w3] = *header else { return None };
        let window = u32::from_be_bytes([w0, w1, w2, w3]);
        if window.abs_diff(now) > 1 {
            return None;
        }
        let key_id = u32::from_be_bytes([k0, k1, k2, k3]);
        let keys = self.keys.keys.load();
        let derived = keys.iter().find(|key| key.key_id == key_id)?;
        let mut plain = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let length =
            self.key(derived, window).open_in_place(nonce, Aad::from(*header), &mut plain).ok()?.len();
        plain.truncate(length);
        Some(plain)
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        WINDOW.as_secs() as u32
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let mut nonce = [0; NONCE];
        aws_lc_rs::rand::fill(&mut nonce).ok()?;
        self.seal(plain, self.window(), nonce)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.open(ticket, self.window())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tickets(secret: u8, context: u8) -> Tickets {
        let keys = vec![DerivedKey { key_id: 0x0102_0304, secret: [secret; 32] }];
        TicketKeys { keys: Arc::new(ArcSwap::from_pointee(keys)), clock: Clock::system() }
            .tickets([context; 32])
    }

    #[test]
    fn every_node_of_the_mesh_opens_them() {
        let keyring = Keyring::generate();
        let node = || TicketKeys::new(&keyring, Clock::system()).tickets([1; 32]);
        let ticket = node().encrypt(b"a session").unwrap();
        assert_eq!(node().decrypt(&ticket).unwrap(), b"a session");
        let stranger = TicketKeys::new(&Keyring::generate(), Clock::system()).tickets([1; 32]);
        assert_eq!(stranger.decrypt(&ticket), None);
    }

    #[test]
    fn a_ring_that_changes_its_key_opens_what_the_old_one_sealed() {
        let mut keyring = Keyring::generate();
        let clock = Clock::system();
        let ticket = TicketKeys::new(&keyring, clock.clone()).tickets([1; 32]).encrypt(b"before").unwrap();
        let (old, new) = (keyring.in_use(), keyring.install_new().unwrap());
        keyring.use_key(new).unwrap();
        let rotated = TicketKeys::new(&keyring, clock.clone()).tickets([1; 32]);
        assert_eq!(rotated.decrypt(&ticket).unwrap(), b"before");
        // The same while it runs: what was made before the change follows it.
        let running = TicketKeys::new(&Keyring::generate(), clock);
        let made = running.tickets([1; 32]);
        running.rekey(&keyring);
        assert_eq!(made.decrypt(&ticket).unwrap(), b"before");
        keyring.remove(old).unwrap();
        running.rekey(&keyring);
        assert_eq!(made.decrypt(&ticket), None);
    }

    #[test]
    fn windows_are_opened_by_their_neighbours_alone() {
        let tickets = tickets(7, 1);
        let ticket = tickets.seal(b"a session", 100, [3; NONCE]).unwrap();
        for (now, opens) in [(98, false), (99, true), (100, true), (101, true), (102, false)] {
            assert_eq!(tickets.open(&ticket, now).is_some(), opens, "in window {now}");
        }
    }

    #[test]
    fn a_ticket_of_another_context_is_nobodys() {
        let ticket = tickets(7, 1).seal(b"a session", 100, [3; NONCE]).unwrap();
        assert_eq!(tickets(7, 2).open(&ticket, 100), None);
    }

    #[test]
    fn golden_bytes() {
        let ticket = tickets(7, 1).seal(b"meridian", 0x0a0b, [9; NONCE]).unwrap();
        let hex: String = ticket.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            "010102030400000a0b090909090909090909090909b714bb1cd06f55754a5b631783ea6ae34a54fc059cfe976c"
        );
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out(plain in prop::collection::vec(any::<u8>(), 0..2000), window in 1u32..1_000_000) {
            let tickets = tickets(7, 1);
            let ticket = tickets.seal(&plain, window, [1; NONCE]).unwrap();
            prop_assert_eq!(tickets.open(&ticket, window), Some(plain));
        }

        #[test]
        fn a_changed_byte_is_noticed(at in 0usize..64, flip in 1u8..=255) {
            let tickets = tickets(7, 1);
            let mut ticket = tickets.seal(&[5; 40], 10, [1; NONCE]).unwrap();
            let at = at % ticket.len();
            ticket[at] ^= flip;
            prop_assert_eq!(tickets.open(&ticket, 10), None);
        }

        #[test]
        fn noise_opens_nothing(noise in prop::collection::vec(any::<u8>(), 0..400)) {
            prop_assert_eq!(tickets(7, 1).open(&noise, 10), None);
        }
    }
}
