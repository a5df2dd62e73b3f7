//! PEM files: read whole, within bounds, and read again when they changed.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gossip::clock::Wall;
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::config::model::CertificateFiles;
use crate::stamp::Stamp;

/// A bundle of all public authorities has about a quarter of this.
const MAX_BYTES: u64 = 1024 * 1024;

/// Why a file is of no use. Never holds what the file holds (I13).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum FileError {
    #[error("cannot read {}: {why}", path.display())]
    Unreadable { path: PathBuf, why: String },
    #[error("{} holds no certificate in PEM", .0.display())]
    NoCertificate(PathBuf),
    #[error("{} holds no private key in PEM", .0.display())]
    NoKey(PathBuf),
    #[error("{}: {why}", path.display())]
    Unusable { path: PathBuf, why: String },
    #[error("the key in {} is not that of the certificate in {}", key.display(), cert.display())]
    Mismatch { cert: PathBuf, key: PathBuf },
}

/// A certificate with its key, and what it says of itself.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) key: Arc<CertifiedKey>,
    /// The DNS names it is good for.
    pub(super) names: Vec<String>,
    /// The first second at which it is good for nothing, from 1970.
    expires: i64,
}

impl Identity {
    pub(super) fn is_expired(&self, now: Wall) -> bool {
        self.expires < i64::try_from(now.seconds()).unwrap_or(i64::MAX)
    }
}

/// Authorities that certificates are verified against.
#[derive(Debug)]
pub(super) struct Roots {
    pub(super) store: Arc<RootCertStore>,
    /// The same for the same authorities in the same order, on every node.
    pub(super) digest: [u8; 32],
}

/// Reads a chain and its key.
pub(super) fn identity(files: &CertificateFiles, provider: &CryptoProvider) -> Result<Identity, FileError> {
    let CertificateFiles { cert, key } = files;
    let chain = certificates(cert)?;
    let secret = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|_| FileError::NoKey(key.clone()))?;
    let (names, expires) = says(&chain[0]).ok_or_else(|| FileError::Unusable {
        path: cert.clone(),
        why: "its certificate is damaged".into(),
    })?;
    let key = CertifiedKey::from_der(chain, secret, provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => FileError::Mismatch { cert: cert.clone(), key: key.clone() },
        // What rustls says of a key is its kind, never its bytes.
        error => FileError::Unusable { path: key.clone(), why: error.to_string() },
    })?;
    Ok(Identity { key: Arc::new(key), names, expires })
}

/// Reads authorities.
pub(super) fn roots(path: &Path) -> Result<Roots, FileError> {
    let mut store = RootCertStore::empty();
    let mut hash = blake3::Hasher::new();
    for certificate in certificates(path)? {
        hash.update(blake3::hash(&certificate).as_bytes());
        store
            .add(certificate)
            .map_err(|error| FileError::Unusable { path: path.to_owned(), why: error.to_string() })?;
    }
    Ok(Roots { store: Arc::new(store), digest: *hash.finalize().as_bytes() })
}

/// The certificates of a file, in its order; at least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let none = || FileError::NoCertificate(path.to_owned());
    let text = read(path)?;
    let chain = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>().map_err(|_| none())?;
    if chain.is_empty() { Err(none()) } else { Ok(chain) }
}

fn says(certificate: &CertificateDer<'_>) -> Option<(Vec<String>, i64)> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let mut names = Vec::new();
    if let Ok(Some(extension)) = parsed.subject_alternative_name() {
        let dns = extension.value.general_names.iter().filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            _ => None,
        });
        names.extend(dns);
    }
    Some((names, parsed.validity().not_after.timestamp()))
}

fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    let failed = |why: String| FileError::Unreadable { path: path.to_owned(), why };
    let io = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => failed("there is no such file".into()),
        io::ErrorKind::PermissionDenied => failed("no permission".into()),
        _ => failed(error.to_string()),
    };
    // Before it is opened: opening a pipe would wait for its writer.
    if !fs::metadata(path).map_err(io)?.is_file() {
        return Err(failed("it is not a file".into()));
    }
    let mut bytes = Vec::new();
    File::open(path).map_err(io)?.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(failed(format!("it has more than {MAX_BYTES} bytes")));
    }
    Ok(bytes)
}

/// What was read from files, and what is wrong with them now.
#[derive(Debug)]
pub(super) struct Tracked<T> {
    stamps: Vec<Option<Stamp>>,
    value: Option<Arc<T>>,
    error: Option<FileError>,
}

impl<T> Default for Tracked<T> {
    fn default() -> Self {
        Self { stamps: Vec::new(), value: None, error: None }
    }
}

impl<T> Tracked<T> {
    /// Reads anew what changed, and what could not be read. True when the value is another one now.
    pub(super) fn look(&mut self, paths: &[&Path], read: impl FnOnce() -> Result<T, FileError>) -> bool {
        // Taken before reading: what is written meanwhile is seen next time.
        let stamps: Vec<_> = paths.iter().map(|path| Stamp::of(path)).collect();
        if self.error.is_none() && self.stamps == stamps {
            return false;
        }
        self.stamps = stamps;
        match read() {
            Ok(value) => {
                self.error = None;
                self.value = Some(Arc::new(value));
                true
            }
            Err(error) => {
                self.error = Some(error);
                false
            }
        }
    }

    /// What was last read well.
    pub(super) fn value(&self) -> Option<&Arc<T>> {
        self.value.as_ref()
    }

    /// Why the files are of no use now.
    pub(super) fn error(&self) -> Option<&FileError> {
        self.error.as_ref()
    }
}
