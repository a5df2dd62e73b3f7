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

/// The ring of this node; a node without seeds makes one where there is none.
pub(super) fn load(config: &NodeConfig) -> Result<Keyring, StartError> {
    match &config.mesh.key_file {
        Some(path) => Ok(Keyring::load(path)?),
        None => {
            let path = path(config);
            let may_create = config.mesh.seeds.is_empty();
            if !path.exists() && !may_create {
                return Err(StartError::NoKey(path));
            }
            let new = !path.exists();
            let ring = Keyring::load_or_create(&path, may_create)?;
            if new {
                let path = path.display();
                tracing::info!(%path, "no seeds and no key: a new mesh; copy its key to the nodes that join");
            }
            Ok(ring)
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
