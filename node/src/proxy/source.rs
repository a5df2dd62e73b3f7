//! Who is known by address alone: the secrets that make ids of addresses, so that no user can name the session of another.
//!
//! They are derived from the mesh's keys. When another key is taken into use, sessions get other ids: one that is not found
//! under the key in use is looked for under the others of the ring, and then kept under the new id as well.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use gossip::id::{ServiceName, SessionId};
use gossip::keyring::Keyring;

/// One secret a key of the ring, that of the key in use first. Clones share them.
#[derive(Clone)]
pub struct SourceKeys(Arc<ArcSwap<Vec<[u8; 32]>>>);

impl SourceKeys {
    /// From the mesh's keyring.
    pub fn new(ring: &Keyring) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(derive(ring))))
    }

    /// Takes another keyring into use.
    pub fn rekey(&self, ring: &Keyring) {
        self.0.store(Arc::new(derive(ring)));
    }

    /// The secret of the key in use.
    pub(super) fn in_use(&self) -> [u8; 32] {
        self.0.load().first().copied().unwrap_or_default()
    }

    /// The ids that a client's session with a service may have: the present one, then those under other keys.
    pub(crate) fn sessions(&self, service: &ServiceName, client: IpAddr) -> (SessionId, Vec<SessionId>) {
        let keys = self.0.load();
        let mut ids = keys.iter().map(|key| session(key, service, client));
        let present = ids.next().unwrap_or_else(|| session(&[0; 32], service, client));
        (present, ids.collect())
    }
}

impl fmt::Debug for SourceKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SourceKeys").finish_non_exhaustive()
    }
}

fn derive(ring: &Keyring) -> Vec<[u8; 32]> {
    ring.derive("meridian source address v1").into_iter().map(|key| key.secret).collect()
}

fn session(key: &[u8; 32], service: &ServiceName, client: IpAddr) -> SessionId {
    let mut hash = blake3::Hasher::new_keyed(key);
    hash.update(service.as_str().as_bytes());
    hash.update(&[0]);
    match client {
        IpAddr::V4(client) => hash.update(&client.octets()),
        IpAddr::V6(client) => hash.update(&client.octets()),
    };
    let mut id = [0; 16];
    id.copy_from_slice(&hash.finalize().as_bytes()[..16]);
    SessionId(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_outlives_the_change_of_the_key_until_the_old_one_is_removed() {
        let mut ring = Keyring::generate();
        let (keys, service, client) =
            (SourceKeys::new(&ring), ServiceName::new("pg").unwrap(), IpAddr::from([192, 0, 2, 1]));
        let (before, others) = keys.sessions(&service, client);
        assert!(others.is_empty());
        assert_ne!(before, keys.sessions(&service, IpAddr::from([192, 0, 2, 2])).0);
        let (old, new) = (ring.in_use(), ring.install_new().unwrap());
        ring.use_key(new).unwrap();
        keys.rekey(&ring);
        let (after, others) = keys.sessions(&service, client);
        assert_ne!(before, after);
        assert_eq!(others, [before]);
        ring.remove(old).unwrap();
        keys.rekey(&ring);
        assert_eq!(keys.sessions(&service, client), (after, Vec::new()));
    }
}
