//! Certificates of a proof's own, and users who speak TLS.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, HandshakeKind, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// No answer takes longer.
const PATIENCE: Duration = Duration::from_secs(10);
const ANSWER_MAX_BYTES: usize = 1 << 20;

/// Signs certificates.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

/// A certificate and its key.
#[derive(Debug)]
pub struct Signed {
    /// The certificate.
    pub cert: CertificateDer<'static>,
    pem: String,
    key: KeyPair,
}

impl Authority {
    /// A new one, known to nobody.
    pub fn new() -> Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Ok(Self(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?))
    }

    /// A certificate for these names, with a key of its own.
    pub fn sign(&self, names: &[&str]) -> Result<Signed> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate()?;
        let cert = CertificateParams::new(names)?.signed_by(&key, &self.0)?;
        Ok(Signed { cert: cert.der().clone(), pem: cert.pem(), key })
    }

    /// Writes its own certificate.
    pub fn write(&self, path: &Path) -> Result<()> {
        Ok(std::fs::write(path, self.0.pem())?)
    }

    /// A user who believes this authority, keeps sessions, and shows `own` where it is asked for.
    pub fn user(&self, own: Option<&Signed>) -> Result<TlsUser> {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone())?;
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let config = match own {
            None => builder.with_no_client_auth(),
            Some(own) => {
                let key = PrivateKeyDer::try_from(own.key.serialize_der()).map_err(anyhow::Error::msg)?;
                builder.with_client_auth_cert(vec![own.cert.clone()], key)?
            }
        };
        Ok(TlsUser(Arc::new(config)))
    }
}

impl Signed {
    /// Writes chain and key, each in one step as deployment tools do; returns the entry of `certificate = [...]`.
    pub fn write(&self, folder: &Path, name: &str) -> Result<String> {
        let (cert, key) = (folder.join(format!("{name}.pem")), folder.join(format!("{name}.key")));
        for (path, text) in [(&cert, self.pem.clone()), (&key, self.key.serialize_pem())] {
            let next = path.with_extension("next");
            std::fs::write(&next, text)?;
            std::fs::rename(&next, path)?;
        }
        Ok(format!("{{ cert = \"{}\", key = \"{}\" }}", cert.display(), key.display()))
    }
}

/// A user with a store of TLS sessions.
#[derive(Debug, Clone)]
pub struct TlsUser(Arc<ClientConfig>);

impl TlsUser {
    /// Connects and asks for `name`.
    pub async fn open(&self, target: SocketAddr, name: &str) -> Result<TlsTalk> {
        let server = ServerName::try_from(name.to_owned())?;
        let opening = async {
            let stream = TcpStream::connect(target).await?;
            TlsConnector::from(self.0.clone()).connect(server, stream).await
        };
        let stream = timeout(PATIENCE, opening).await.context("no handshake in time")?;
        let stream = stream.with_context(|| format!("a handshake with {target} for {name}"))?;
        Ok(TlsTalk { stream, name: name.to_owned() })
    }

    /// One request over a connection of its own: the answer's head, and how the handshake went.
    pub async fn get(&self, target: SocketAddr, name: &str, path: &str) -> Result<(String, bool)> {
        let mut talk = self.open(target, name).await?;
        let head = talk.get(path).await?;
        let resumed = talk.is_resumed();
        Ok((head, resumed))
    }
}

/// One connection over TLS.
#[derive(Debug)]
pub struct TlsTalk {
    stream: TlsStream<TcpStream>,
    name: String,
}

impl TlsTalk {
    /// One request; the connection stays. The whole answer, as text, its body of known length.
    pub async fn get(&mut self, path: &str) -> Result<String> {
        let request = format!("GET {path} HTTP/1.1\r\nhost: {}\r\n\r\n", self.name);
        let asking = async {
            self.stream.write_all(request.as_bytes()).await?;
            let mut answer = Vec::new();
            loop {
                ensure!(self.stream.read_buf(&mut answer).await? > 0, "closed in the middle of an answer");
                ensure!(answer.len() <= ANSWER_MAX_BYTES, "an endless answer");
                let text = String::from_utf8_lossy(&answer).into_owned();
                let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                let length = head.lines().find_map(|line| {
                    let (name, value) = line.split_once(':')?;
                    name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
                });
                if body.len() >= length.unwrap_or(0) {
                    return Ok(text);
                }
            }
        };
        timeout(PATIENCE, asking).await.context("no answer in time")?
    }

    /// The certificate that was shown.
    pub fn shown(&self) -> Option<&CertificateDer<'static>> {
        self.stream.get_ref().1.peer_certificates()?.first()
    }

    /// Whether a session was resumed.
    pub fn is_resumed(&self) -> bool {
        self.stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed)
    }
}
