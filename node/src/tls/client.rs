//! TLS towards backends.
//!
//! With `ca` a backend's certificate must be signed by one of that file's authorities and be good for `server_name`,
//! or else for the backend's address. Without it the connection is encrypted and the certificate not verified, as nginx
//! does by default: backends' certificates are mostly made by hand, for names that no public authority knows, and a
//! node has no other list of authorities. Validation warns of it.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{AlertDescription, ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::files::Roots;
use crate::config::model::{BackendTls, PoolProtocol};

/// How the backends of one pool are spoken to.
#[derive(Debug)]
pub struct Upstream {
    config: Arc<ClientConfig>,
    name: Option<ServerName<'static>>,
}

impl Upstream {
    /// Speaks TLS over a connection to the backend at `address`, and in it `protocol`.
    ///
    /// # Errors
    /// When the handshake fails, the certificate is not what the pool wants, or the backend does not agree on HTTP/2
    /// where that is wanted: there is no other way into it over TLS (RFC 9113 §3.2).
    pub(crate) async fn handshake<S>(
        &self,
        stream: S,
        address: IpAddr,
        protocol: PoolProtocol,
    ) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let name = self.name.clone().unwrap_or_else(|| ServerName::IpAddress(address.into()));
        let wanted = alpn(protocol);
        let connector = TlsConnector::from(self.config.clone());
        let stream = connector.with_alpn(vec![wanted.to_vec()]).connect(name, stream).await.map_err(told)?;
        // A backend that knows no ALPN speaks HTTP/1.1.
        let agreed = stream.get_ref().1.alpn_protocol();
        let fits = agreed == Some(wanted) || agreed.is_none() && protocol == PoolProtocol::Http1;
        if fits { Ok(stream) } else { Err(disagreed()) }
    }
}

fn alpn(protocol: PoolProtocol) -> &'static [u8] {
    match protocol {
        PoolProtocol::Http1 => b"http/1.1",
        PoolProtocol::Http2 => b"h2",
    }
}

/// The alert of a backend without the wanted protocol, in an operator's words.
fn told(error: io::Error) -> io::Error {
    let refused = rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol);
    let source = error.get_ref().and_then(|source| source.downcast_ref::<rustls::Error>());
    if source == Some(&refused) { disagreed() } else { error }
}

fn disagreed() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "the backend does not speak the pool's protocol over TLS (ALPN)",
    )
}

/// The configuration of a pool.
///
/// # Errors
/// When rustls refuses it.
pub(super) fn upstream(
    tls: &BackendTls,
    roots: Option<&Roots>,
    provider: &Arc<CryptoProvider>,
) -> Result<Upstream, String> {
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = match roots {
        Some(roots) => builder.with_root_certificates(roots.store.clone()),
        None => {
            let unverified = Arc::new(Unverified(provider.clone()));
            builder.dangerous().with_custom_certificate_verifier(unverified)
        }
    };
    let config = builder.with_no_client_auth();
    let name = tls.server_name.clone().map(ServerName::try_from).transpose();
    let name = name.map_err(|error| error.to_string())?;
    Ok(Upstream { config: Arc::new(config), name })
}

/// Takes every certificate whose owner can prove to have its key.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
