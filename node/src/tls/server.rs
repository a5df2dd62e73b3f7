//! What an https listener, or DNS over TLS, shows and asks.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};

use super::files::{Identity, Roots};
use super::names::Names;
use super::tickets::TicketKeys;

/// What a listener's configuration is made of; the same parts make the same configuration.
#[derive(Debug, Clone)]
pub(super) struct Parts {
    /// In the file's order; `None`: not to be had.
    pub(super) identities: Vec<Option<Arc<Identity>>>,
    /// The authorities of clients, where they are asked for a certificate.
    pub(super) clients: Option<Arc<Roots>>,
}

impl Parts {
    pub(super) fn are(&self, other: &Self) -> bool {
        let same = |a: &Option<Arc<Identity>>, b: &Option<Arc<Identity>>| match (a, b) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        };
        let clients = match (&self.clients, &other.clients) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        };
        clients
            && self.identities.len() == other.identities.len()
            && self.identities.iter().zip(&other.identities).all(|(a, b)| same(a, b))
    }
}

/// The configuration of `listener`, which speaks the protocols `alpn`, the preferred first.
///
/// # Errors
/// When the authorities of clients cannot be used.
pub(super) fn config(
    listener: &str,
    parts: &Parts,
    alpn: &[&[u8]],
    tickets: &TicketKeys,
    provider: &Arc<CryptoProvider>,
) -> Result<ServerConfig, String> {
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(|error| error.to_string())?;
    let builder = match &parts.clients {
        None => builder.with_no_client_auth(),
        Some(roots) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.store.clone(), provider.clone());
            builder.with_client_cert_verifier(verifier.build().map_err(|error| error.to_string())?)
        }
    };
    let mut config = builder.with_cert_resolver(Arc::new(Chooser::new(&parts.identities)));
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config.ticketer = Arc::new(tickets.tickets(context(listener, parts.clients.as_deref())));
    // Tickets are all: what one node remembers helps no other, and costs memory.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}

/// What binds tickets to the listener and to whom it lets in.
fn context(listener: &str, clients: Option<&Roots>) -> [u8; 32] {
    let mut hash = blake3::Hasher::new();
    hash.update(&(listener.len() as u64).to_be_bytes());
    hash.update(listener.as_bytes());
    if let Some(roots) = clients {
        hash.update(&roots.digest);
    }
    *hash.finalize().as_bytes()
}

/// Chooses a certificate by the name that the client asks for and the signatures that it knows.
#[derive(Debug)]
struct Chooser {
    keys: Vec<Option<Arc<CertifiedKey>>>,
    names: Names,
    /// Those for clients that name nothing known: the first, and others good for one of its names.
    default: Vec<usize>,
}

impl Chooser {
    fn new(identities: &[Option<Arc<Identity>>]) -> Self {
        let mut names = Names::default();
        for (place, identity) in identities.iter().enumerate() {
            for name in identity.iter().flat_map(|identity| &identity.names) {
                names.add(name, place);
            }
        }
        let mut default = vec![0];
        let first = identities.first().and_then(Option::as_ref);
        for name in first.iter().flat_map(|first| &first.names) {
            // Of another kind of key, perhaps: an ECDSA certificate first, an RSA one for old clients.
            for place in names.find(name).into_iter().flatten() {
                if !default.contains(place) {
                    default.push(*place);
                }
            }
        }
        let keys = identities.iter().map(|identity| Some(identity.as_ref()?.key.clone())).collect();
        Self { keys, names, default }
    }
}

impl ResolvesServerCert for Chooser {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let named = hello.server_name().and_then(|name| self.names.find(name));
        let places = named.unwrap_or(&self.default);
        let known = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(hello.signature_schemes()).is_some();
        places.iter().filter_map(|place| self.keys.get(*place)?.as_ref()).find(known).cloned()
    }
}
