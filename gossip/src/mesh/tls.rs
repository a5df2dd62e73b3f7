//! Who a node is: its certificate, and how peers check it.
//!
//! Every key of the ring derives an Ed25519 certificate authority. A node issues itself a short-lived certificate
//! under the authority of the key in use and accepts whoever shows one under any authority of its ring; both sides
//! show and check, in TLS 1.3 only. The certificate names the node in a URI, `meridian:node:NAME`; who dials a name
//! gets that name or no connection. Nothing is resumed, so a removed key opens no new connection.
//!
//! ```text
//!   node ◀── authority of the key in use ◀── the same, signed by the authority of each other key of the ring
//! ```
//!
//! The second certificate goes along while a ring has several keys: a node that was away when a new key was installed
//! knows the old one alone, and can come back and be given the new one as long as the others hold both.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use quinn::Connection;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use tokio::sync::watch;

use crate::clock::{Clock, Wall};
use crate::id::NodeName;
use crate::keyring::Keyring;

const URI_PREFIX: &str = "meridian:node:";
const BACKDATED: Duration = Duration::from_secs(24 * 3600);
const LIFETIME: Duration = Duration::from_secs(3 * 24 * 3600);
/// A certificate is replaced when less than this is left of it.
const RENEW_BEFORE: Duration = Duration::from_secs(2 * 24 * 3600);

/// Why a node cannot identify itself.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct IdentityError(String);

impl IdentityError {
    fn of(error: impl fmt::Display) -> Self {
        Self(error.to_string())
    }
}

/// This node's certificate and the authorities it trusts. Both can be replaced while connections are made.
pub(crate) struct Identity {
    name: NodeName,
    clock: Clock,
    current: ArcSwap<Current>,
    /// Counts the rings: what was connected under an earlier one is looked at again.
    rings: watch::Sender<u64>,
}

struct Current {
    ring: Keyring,
    roots: RootCertStore,
    certified: Arc<CertifiedKey>,
    valid_until: Wall,
}

impl Identity {
    pub(crate) fn new(name: NodeName, ring: Keyring, clock: Clock) -> Result<Arc<Self>, IdentityError> {
        let current = Current::issue(&name, ring, clock.mesh_wall())?;
        Ok(Arc::new(Self {
            name,
            clock,
            current: ArcSwap::from_pointee(current),
            rings: watch::Sender::new(0),
        }))
    }

    /// Puts a changed ring in force for handshakes from now on, and lets connections that stand be looked at again.
    /// The same ring again changes nothing.
    pub(crate) fn set_keyring(&self, ring: Keyring) -> Result<(), IdentityError> {
        if self.current.load().ring == ring {
            return Ok(());
        }
        self.current.store(Arc::new(Current::issue(&self.name, ring, self.clock.mesh_wall())?));
        self.rings.send_modify(|rings| *rings += 1);
        Ok(())
    }

    /// Counts the rings that were put in force, and tells when another one is.
    pub(crate) fn rings(&self) -> watch::Receiver<u64> {
        self.rings.subscribe()
    }

    /// Whether the peer of a connection that stands would be let in now: not once its key was removed.
    pub(crate) fn still_trusts(&self, connection: &Connection) -> bool {
        let chain =
            connection.peer_identity().and_then(|it| it.downcast::<Vec<CertificateDer<'static>>>().ok());
        let Some((first, more)) = chain.as_deref().and_then(|chain| chain.split_first()) else {
            return false;
        };
        match self.verify(first, more) {
            // It was let in when it was fresh; that it has run out since says nothing of the key.
            Ok(())
            | Err(rustls::Error::InvalidCertificate(
                rustls::CertificateError::Expired | rustls::CertificateError::ExpiredContext { .. },
            )) => true,
            Err(_) => false,
        }
    }

    fn verify(
        &self,
        certificate: &CertificateDer<'_>,
        more: &[CertificateDer<'_>],
    ) -> Result<(), rustls::Error> {
        let parsed = rustls::server::ParsedCertificate::try_from(certificate)?;
        let now = UnixTime::since_unix_epoch(Duration::from_millis(self.clock.mesh_wall().0));
        let current = self.current.load();
        let roots = &current.roots;
        rustls::client::verify_server_cert_signed_by_trust_anchor(&parsed, roots, more, now, algorithms().all)
    }

    /// Issues a new certificate when the present one is near its end.
    pub(crate) fn renew(&self) -> Result<(), IdentityError> {
        let current = self.current.load_full();
        let now = self.clock.mesh_wall();
        if current.valid_until.since(now) < RENEW_BEFORE {
            self.current.store(Arc::new(Current::issue(&self.name, current.ring.clone(), now)?));
        }
        Ok(())
    }

    /// A secret of this node alone, the same in all its lives under one key in use.
    pub(crate) fn own_secret(&self, purpose: &str) -> [u8; 32] {
        let derived = self.current.load().ring.derive(&format!("{purpose} {}", self.name));
        derived[0].secret
    }

    /// How connections are accepted, in one of these protocols.
    pub(crate) fn server(
        self: &Arc<Self>,
        protocols: Vec<Vec<u8>>,
    ) -> Result<rustls::ServerConfig, IdentityError> {
        let shown = Arc::new(Shown(self.clone()));
        let mut config = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(IdentityError::of)?
            .with_client_cert_verifier(Arc::new(Checked { identity: self.clone(), expected: None }))
            .with_cert_resolver(shown);
        config.alpn_protocols = protocols;
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        Ok(config)
    }

    /// How a connection is dialled in one of these protocols, the best first: to the node `expected`, or to whoever of the mesh is
    /// there.
    pub(crate) fn client(
        self: &Arc<Self>,
        protocols: Vec<Vec<u8>>,
        expected: Option<NodeName>,
    ) -> Result<rustls::ClientConfig, IdentityError> {
        let mut config = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(IdentityError::of)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Checked { identity: self.clone(), expected }))
            .with_client_cert_resolver(Arc::new(Shown(self.clone())));
        config.alpn_protocols = protocols;
        config.resumption = rustls::client::Resumption::disabled();
        config.enable_sni = false;
        Ok(config)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Current {
    fn issue(name: &NodeName, ring: Keyring, now: Wall) -> Result<Self, IdentityError> {
        let mut roots = RootCertStore::empty();
        let mut authorities = Vec::new();
        for derived in ring.derive("meridian mesh authority 1") {
            let (params, key) = authority(derived.key_id, &derived.secret)?;
            let root = params.self_signed(&key).map_err(IdentityError::of)?;
            roots.add(root.der().clone()).map_err(IdentityError::of)?;
            authorities.push((params, key));
        }
        let mut authorities = authorities.into_iter();
        let (params, key) = authorities.next().expect("a ring is never empty");
        let mut vouched = Vec::new();
        for (other, its_key) in authorities {
            let by_other = params.signed_by(&key, &rcgen::Issuer::new(other, its_key));
            vouched.push(by_other.map_err(IdentityError::of)?.der().clone());
        }
        let issuer = rcgen::Issuer::new(params, key);

        let own = KeyPair::generate_for(&rcgen::PKCS_ED25519).map_err(IdentityError::of)?;
        let mut params = CertificateParams::default();
        let uri = format!("{URI_PREFIX}{name}").try_into().map_err(IdentityError::of)?;
        params.subject_alt_names = vec![rcgen::SanType::URI(uri)];
        params.distinguished_name.push(DnType::CommonName, name.as_str());
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let valid_until = now.plus(LIFETIME);
        params.not_before = Wall(now.0.saturating_sub(BACKDATED.as_millis() as u64)).system_time().into();
        params.not_after = valid_until.system_time().into();
        let certificate = params.signed_by(&own, &issuer).map_err(IdentityError::of)?;

        let secret = PrivatePkcs8KeyDer::from(own.serialize_der()).into();
        let signing = provider().key_provider.load_private_key(secret).map_err(IdentityError::of)?;
        let chain = std::iter::once(certificate.der().clone()).chain(vouched).collect();
        let certified = Arc::new(CertifiedKey::new(chain, signing));
        Ok(Self { ring, roots, certified, valid_until })
    }
}

/// The certificate authority of one mesh key: the same on every node that holds the key.
fn authority(key_id: u32, secret: &[u8; 32]) -> Result<(CertificateParams, KeyPair), IdentityError> {
    let pair =
        ::aws_lc_rs::signature::Ed25519KeyPair::from_seed_unchecked(secret).map_err(IdentityError::of)?;
    let pkcs8 = pair.to_pkcs8v1().map_err(IdentityError::of)?;
    let key = KeyPair::try_from(pkcs8.as_ref()).map_err(IdentityError::of)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("meridian mesh {key_id:08x}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    Ok((params, key))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn algorithms() -> WebPkiSupportedAlgorithms {
    aws_lc_rs::default_provider().signature_verification_algorithms
}

/// The node that a certificate names. Only meaningful once the chain was checked.
pub(crate) fn certified_name(certificate: &CertificateDer<'_>) -> Option<NodeName> {
    use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let names = parsed.subject_alternative_name().ok()??;
    names.value.general_names.iter().find_map(|name| match name {
        GeneralName::URI(uri) => NodeName::new(uri.strip_prefix(URI_PREFIX)?).ok(),
        _ => None,
    })
}

/// Shows this node's certificate, as server and as client.
#[derive(Debug)]
struct Shown(Arc<Identity>);

impl rustls::server::ResolvesServerCert for Shown {
    fn resolve(&self, _hello: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.current.load().certified.clone())
    }
}

impl rustls::client::ResolvesClientCert for Shown {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.current.load().certified.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Checks a peer's certificate, as server and as client.
#[derive(Debug)]
struct Checked {
    identity: Arc<Identity>,
    expected: Option<NodeName>,
}

impl Checked {
    fn check(
        &self,
        certificate: &CertificateDer<'_>,
        more: &[CertificateDer<'_>],
    ) -> Result<(), rustls::Error> {
        self.identity.verify(certificate, more)?;
        let name = certified_name(certificate)
            .ok_or(rustls::Error::InvalidCertificate(rustls::CertificateError::BadEncoding))?;
        if self.expected.as_ref().is_some_and(|expected| *expected != name) {
            return Err(rustls::CertificateError::NotValidForName.into());
        }
        Ok(())
    }

    fn signature(
        message: &[u8],
        certificate: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, dss, &algorithms())
    }
}

fn no_tls12() -> rustls::Error {
    rustls::Error::General("the mesh speaks TLS 1.3 only".into())
}

impl ServerCertVerifier for Checked {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check(end_entity, intermediates).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Self::signature(message, certificate, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}

impl ClientCertVerifier for Checked {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.check(end_entity, intermediates).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Self::signature(message, certificate, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}
