//! Certificates for tests: an authority and what it signs.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SignatureAlgorithm};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use crate::config::model::CertificateFiles;

/// Signs the certificates of a test.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key.
pub(crate) struct Signed {
    pub(crate) cert: CertificateDer<'static>,
    cert_pem: String,
    key: KeyPair,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn sign(&self, names: &[&str]) -> Signed {
        self.sign_with(names, &rcgen::PKCS_ECDSA_P256_SHA256)
    }

    pub(crate) fn sign_with(&self, names: &[&str], algorithm: &'static SignatureAlgorithm) -> Signed {
        self.finish(params(names), KeyPair::generate_for(algorithm).unwrap())
    }

    pub(crate) fn sign_expired(&self, names: &[&str]) -> Signed {
        let mut params = params(names);
        params.not_after = rcgen::date_time_ymd(2001, 1, 1);
        params.not_before = rcgen::date_time_ymd(2000, 1, 1);
        self.finish(params, KeyPair::generate().unwrap())
    }

    fn finish(&self, params: CertificateParams, key: KeyPair) -> Signed {
        let cert = params.signed_by(&key, &self.0).unwrap();
        Signed { cert: cert.der().clone(), cert_pem: cert.pem(), key }
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// A client that believes this authority and has a session store of its own.
    pub(crate) fn client(&self) -> ClientConfig {
        self.builder(rustls::DEFAULT_VERSIONS).with_no_client_auth()
    }

    /// The same at one version of TLS.
    pub(crate) fn client_at(&self, version: &'static rustls::SupportedProtocolVersion) -> ClientConfig {
        self.builder(&[version]).with_no_client_auth()
    }

    /// The same, showing a certificate.
    pub(crate) fn client_as(&self, own: &Signed) -> ClientConfig {
        let (chain, key) = own.chain_and_key();
        self.builder(rustls::DEFAULT_VERSIONS).with_client_auth_cert(chain, key).unwrap()
    }

    /// A client that takes only RSA signatures, from any authority: this one's own is ECDSA.
    pub(crate) fn client_without_ecdsa(&self) -> ClientConfig {
        let mut client = self.client_at(&rustls::version::TLS12);
        client.dangerous().set_certificate_verifier(Arc::new(OnlyRsa));
        client
    }

    fn builder(
        &self,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots)
    }
}

fn params(names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.use_authority_key_identifier_extension = true;
    params
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

impl Signed {
    fn chain_and_key(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        (vec![self.cert.clone()], PrivateKeyDer::try_from(self.key.serialize_der()).unwrap())
    }

    /// A server that shows it and agrees on one of these protocols; on none without any.
    pub(crate) fn server(&self, alpn: &[&[u8]]) -> ServerConfig {
        let (chain, key) = self.chain_and_key();
        let builder = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(rustls::DEFAULT_VERSIONS)
            .unwrap();
        let mut config = builder.with_no_client_auth().with_single_cert(chain, key).unwrap();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        config
    }

    /// Writes `NAME.pem` and `NAME.key`.
    pub(crate) fn write(&self, folder: &Path, name: &str) -> CertificateFiles {
        let files = CertificateFiles {
            cert: folder.join(format!("{name}.pem")),
            key: folder.join(format!("{name}.key")),
        };
        fs::write(&files.cert, &self.cert_pem).unwrap();
        fs::write(&files.key, self.key.serialize_pem()).unwrap();
        files
    }
}

/// Offers RSA signatures alone and verifies nothing.
#[derive(Debug)]
struct OnlyRsa;

impl ServerCertVerifier for OnlyRsa {
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
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::RSA_PSS_SHA256, SignatureScheme::RSA_PKCS1_SHA256]
    }
}
