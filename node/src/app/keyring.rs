//! The mesh's keyring: read at the start, and handed to everybody who derives something from it whenever it changes.

use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use gossip::keyring::Keyring;
use storage::Storage;

use super::StartError;
use super::name_server::dns_terms;
use crate::config::model::NodeConfig;
use crate::keys::Apply;
use crate::proxy::SourceKeys;
use crate::tls::TicketKeys;

/// Where the ring lies.
pub(super) fn path(config: &NodeConfig) -> PathBuf {
    config.mesh.key_file.clone().unwrap_or_else(|| config.data.join("mesh.key"))
}

/// A key that this start made. When the start fails, nobody else has it, and it must not be taken for a mesh's later on.
#[derive(Debug, Default)]
pub(super) struct Made(Option<PathBuf>);

impl Made {
    /// Something may be sealed with it by now: it stays, whatever becomes of the start. Where it lies.
    pub(super) fn keep(mut self) -> Option<PathBuf> {
        self.0.take()
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        let Some(path) = self.0.take() else { return };
        match std::fs::remove_file(&path) {
            Ok(()) => {
                tracing::info!(path = %path.display(), "the mesh key made by this start is removed again");
            }
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "the mesh key made by this start stays: remove it before joining another mesh");
            }
        }
    }
}

/// The ring of this node; a node without seeds makes one where there is none.
pub(super) fn load(config: &NodeConfig) -> Result<(Keyring, Made), StartError> {
    match &config.mesh.key_file {
        Some(path) => Ok((Keyring::load(path)?, Made::default())),
        None => {
            let path = path(config);
            let may_create = config.mesh.seeds.is_empty();
            if !path.exists() && !may_create {
                return Err(StartError::NoKey(path));
            }
            let new = !path.exists();
            let ring = Keyring::load_or_create(&path, may_create)?;
            if new {
                tracing::info!(path = %path.display(), "no seeds and no key: a new mesh; copy its key to the nodes that join");
            }
            Ok((ring, Made(new.then_some(path))))
        }
    }
}

/// Whoever else derives something from the ring: cookies, the ids of source addresses, TLS tickets, the keys of zones, the
/// cookies of DNS.
pub(super) fn apply_to(
    storage: &Storage,
    tickets: TicketKeys,
    source_keys: SourceKeys,
    dns: Option<Arc<dns::Responder>>,
    config: Arc<ArcSwap<NodeConfig>>,
) -> Apply {
    let (cookies, zone_keys) = (storage.cookies(), storage.zone_keys());
    Box::new(move |ring| {
        cookies.rekey(ring);
        source_keys.rekey(ring);
        tickets.rekey(ring);
        zone_keys.rekey(ring);
        if let Some(dns) = &dns {
            dns.set_terms(dns_terms(&config.load(), ring));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_made_by_a_start_that_fails_is_not_left_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mesh.key");
        let make = || {
            Keyring::load_or_create(&path, true).unwrap();
            Made(Some(path.clone()))
        };
        drop(make());
        assert!(!path.exists());
        assert_eq!(make().keep(), Some(path.clone()));
        assert!(path.exists());
        drop(Made::default());
        assert!(path.exists(), "a key that was there before stays");
    }
}
