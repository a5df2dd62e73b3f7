//! The mesh key: whoever holds it is the mesh.
//!
//! ```text
//! meridian-keyring 1
//! # id     role    secret
//! 5f0a91c2 use     q83vEjRW...     seals and signs: exactly one
//! 01d3b7aa verify  7u0BI0Vn...     opens and verifies
//! ```
//!
//! Keys rotate without a restart: *install* the new key everywhere, then *use* it everywhere, then *remove* the old
//! one. A key's id follows from its secret, so it is the same on every node. This file owns the format and the
//! derivation; it never shows a secret but by [`Keyring::export`] (I13).

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::hkdf;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

const HEADER: &str = "meridian-keyring 1";
const EXPORT_PREFIX: &str = "mk1-";
/// More keys than any rotation needs; bounds the work of every handshake.
pub const MAX_KEYS: usize = 8;
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// One or more 32-byte secrets; the one in use seals and signs, all open and verify.
#[derive(Clone, PartialEq, Eq)]
pub struct Keyring {
    /// The key in use first. Never empty.
    keys: Vec<Key>,
}

#[derive(Clone, PartialEq, Eq)]
struct Key {
    id: u32,
    secret: [u8; 32],
}

/// A key derived for one purpose.
#[derive(Clone, PartialEq, Eq)]
pub struct DerivedKey {
    /// Which key of the ring it comes from; safe to show and to send.
    pub key_id: u32,
    /// The secret.
    pub secret: [u8; 32],
}

/// Why a keyring cannot be read, changed or written. Never holds a secret. The ring and the file are as before.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// The file cannot be read or written.
    #[error("cannot {verb} the keyring {path}: {source}")]
    File {
        /// "read" or "write".
        verb: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// There is no file, and none may be made.
    #[error(
        "there is no keyring at {0}; copy it from another node of the mesh, or make one with `meridian key new`"
    )]
    Missing(PathBuf),
    /// Others than the owner can read the file.
    #[error("the keyring {path} is open to others (mode {mode:04o}); run: chmod 600 {path}")]
    Open {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The file holds something else than a keyring.
    #[error("the keyring {path} is damaged, line {line}: {problem}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The text is no exported key.
    #[error(
        "this is no mesh key: give one line of a keyring file, or an exported key, which starts with {EXPORT_PREFIX:?}"
    )]
    NotAKey,
    /// The ring has this key already.
    #[error("the ring has key {0:08x} already")]
    Known(u32),
    /// The ring has no such key.
    #[error("the ring has no key {0:08x}")]
    Unknown(u32),
    /// The key in use cannot be removed.
    #[error("key {0:08x} is in use; use another one first")]
    InUse(u32),
    /// The ring is full.
    #[error("a ring holds at most {MAX_KEYS} keys; remove one first")]
    Full,
}

impl Keyring {
    /// A ring of one fresh random key.
    pub fn generate() -> Self {
        Self { keys: vec![Key::generate()] }
    }

    /// Reads the file at `path`.
    ///
    /// # Errors
    /// When it is missing, open to others than its owner, or damaged.
    pub fn load(path: &Path) -> Result<Self, KeyringError> {
        let file = |source| KeyringError::File { verb: "read", path: path.to_owned(), source };
        let meta = match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(KeyringError::Missing(path.to_owned()));
            }
            other => other.map_err(file)?,
        };
        let mode = meta.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(KeyringError::Open { path: path.to_owned(), mode });
        }
        if meta.len() > MAX_FILE_BYTES {
            return Err(KeyringError::Damaged { path: path.to_owned(), line: 1, problem: "it is too large" });
        }
        let text = fs::read_to_string(path).map_err(file)?;
        parse(&text).map_err(|(line, problem)| KeyringError::Damaged { path: path.to_owned(), line, problem })
    }

    /// Reads the file at `path`; when there is none and `may_create`, makes one with a fresh key.
    ///
    /// # Errors
    /// Those of [`Keyring::load`] and [`Keyring::save`].
    pub fn load_or_create(path: &Path, may_create: bool) -> Result<Self, KeyringError> {
        match Self::load(path) {
            Err(KeyringError::Missing(_)) if may_create => {
                let ring = Self::generate();
                ring.save(path)?;
                Ok(ring)
            }
            other => other,
        }
    }

    /// Writes the ring to `path`: atomically, synced, readable by its owner only.
    ///
    /// # Errors
    /// When the file cannot be written; the one that stood there stands still.
    pub fn save(&self, path: &Path) -> Result<(), KeyringError> {
        let write = || -> io::Result<()> {
            let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            let folder = folder.unwrap_or(Path::new("."));
            fs::create_dir_all(folder)?;
            let mut name = path.file_name().unwrap_or_default().to_owned();
            name.push(format!(".{}.new", std::process::id()));
            let next = folder.join(name);
            let mut options = OpenOptions::new();
            let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&next)?;
            file.set_permissions(fs::Permissions::from_mode(0o600))?;
            file.write_all(self.text().as_bytes())?;
            file.sync_all()?;
            fs::rename(&next, path)?;
            fs::File::open(folder)?.sync_all()
        };
        write().map_err(|source| KeyringError::File { verb: "write", path: path.to_owned(), source })
    }

    /// 32 bytes for one purpose from every key of the ring, the key in use first (HKDF-SHA256, RFC 5869).
    pub fn derive(&self, purpose: &str) -> Vec<DerivedKey> {
        let derived = |key: &Key| DerivedKey { key_id: key.id, secret: expand(&key.secret, purpose) };
        self.keys.iter().map(derived).collect()
    }

    /// The ids of all keys, the one in use first. Shown as eight hexadecimal digits.
    pub fn key_ids(&self) -> Vec<u32> {
        self.keys.iter().map(|key| key.id).collect()
    }

    /// The id of the key in use.
    pub fn in_use(&self) -> u32 {
        self.keys[0].id
    }

    /// Adds a fresh random key, to be used after [`Keyring::use_key`]. Its id.
    ///
    /// # Errors
    /// When the ring is full.
    pub fn install_new(&mut self) -> Result<u32, KeyringError> {
        self.add(Key::generate())
    }

    /// Adds a key in the form that [`Keyring::export`] gives, or as its line in a keyring file; it verifies at once and
    /// is used only after [`Keyring::use_key`]. Its id.
    ///
    /// # Errors
    /// When the text is no key, or the ring has it or is full.
    pub fn install(&mut self, exported: &str) -> Result<u32, KeyringError> {
        let text = exported.trim();
        let key = match text.strip_prefix(EXPORT_PREFIX) {
            Some(text) => {
                let bytes = URL_SAFE_NO_PAD.decode(text).ok();
                bytes.and_then(|bytes| bytes.try_into().ok()).map(Key::of)
            }
            None => read_key(text).map(|(key, _)| key).ok(),
        };
        self.add(key.ok_or(KeyringError::NotAKey)?)
    }

    /// Makes a key of the ring the one that seals and signs.
    ///
    /// # Errors
    /// When the ring has no such key.
    pub fn use_key(&mut self, id: u32) -> Result<(), KeyringError> {
        let at = self.position(id)?;
        let key = self.keys.remove(at);
        self.keys.insert(0, key);
        Ok(())
    }

    /// Takes a key out of the ring.
    ///
    /// # Errors
    /// When the ring has no such key, or it is the one in use.
    pub fn remove(&mut self, id: u32) -> Result<(), KeyringError> {
        match self.position(id)? {
            0 => Err(KeyringError::InUse(id)),
            at => {
                self.keys.remove(at);
                Ok(())
            }
        }
    }

    /// One key as text, to be installed elsewhere. It is the secret itself.
    pub fn export(&self, id: u32) -> Option<String> {
        let at = self.position(id).ok()?;
        Some(format!("{EXPORT_PREFIX}{}", URL_SAFE_NO_PAD.encode(self.keys[at].secret)))
    }

    fn add(&mut self, key: Key) -> Result<u32, KeyringError> {
        if self.keys.len() >= MAX_KEYS {
            return Err(KeyringError::Full);
        }
        if self.position(key.id).is_ok() {
            return Err(KeyringError::Known(key.id));
        }
        let id = key.id;
        self.keys.push(key);
        Ok(id)
    }

    fn position(&self, id: u32) -> Result<usize, KeyringError> {
        self.keys.iter().position(|key| key.id == id).ok_or(KeyringError::Unknown(id))
    }

    pub(crate) fn text(&self) -> String {
        let mut text = format!("{HEADER}\n# Whoever reads this file can join the mesh. id, role, secret:\n");
        for (at, key) in self.keys.iter().enumerate() {
            let role = if at == 0 { "use" } else { "verify" };
            text.push_str(&format!("{:08x} {role} {}\n", key.id, STANDARD.encode(key.secret)));
        }
        text
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids = self.keys.iter().map(|key| format!("{:08x}", key.id)).collect::<Vec<_>>();
        f.debug_struct("Keyring").field("key_ids", &ids).finish_non_exhaustive()
    }
}

impl fmt::Debug for DerivedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DerivedKey({:08x}, ..)", self.key_id)
    }
}

impl Key {
    fn generate() -> Self {
        Self::of(rand::random())
    }

    fn of(secret: [u8; 32]) -> Self {
        let mut id = [0; 4];
        id.copy_from_slice(&expand(&secret, "meridian key id 1")[..4]);
        Self { id: u32::from_be_bytes(id), secret }
    }
}

fn expand(secret: &[u8; 32], purpose: &str) -> [u8; 32] {
    let mut out = [0; 32];
    let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, b"meridian").extract(secret);
    prk.expand(&[purpose.as_bytes()], hkdf::HKDF_SHA256)
        .and_then(|okm| okm.fill(&mut out))
        .expect("32 bytes are within what HKDF-SHA256 can give");
    out
}

/// One line of the file: the key and its role.
fn read_key(line: &str) -> Result<(Key, &str), &'static str> {
    let mut words = line.split_whitespace();
    let (Some(id), Some(role), Some(secret), None) = (words.next(), words.next(), words.next(), words.next())
    else {
        return Err("a key is written: id, role, secret");
    };
    let secret = STANDARD.decode(secret).ok().and_then(|bytes| bytes.try_into().ok());
    let key = Key::of(secret.ok_or("the secret is not 32 bytes in base64")?);
    if u32::from_str_radix(id, 16) != Ok(key.id) {
        return Err("the id does not belong to the secret");
    }
    Ok((key, role))
}

pub(crate) fn parse(text: &str) -> Result<Keyring, (usize, &'static str)> {
    let mut lines = text.lines().map(str::trim).enumerate();
    if lines.next().is_none_or(|(_, line)| line != HEADER) {
        return Err((1, "it does not start with `meridian-keyring 1`"));
    }
    let mut keys: Vec<Key> = Vec::new();
    let mut used = None;
    for (at, line) in lines {
        let line_number = at + 1;
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (key, role) = read_key(line).map_err(|problem| (line_number, problem))?;
        if keys.iter().any(|other| other.id == key.id) {
            return Err((line_number, "the key stands here twice"));
        }
        match role {
            "use" if used.is_some() => return Err((line_number, "a second key is marked `use`")),
            "use" => used = Some(keys.len()),
            "verify" => {}
            _ => return Err((line_number, "the role is neither `use` nor `verify`")),
        }
        keys.push(key);
        if keys.len() > MAX_KEYS {
            return Err((line_number, "there are too many keys"));
        }
    }
    let used = used.ok_or((text.lines().count().max(1), "no key is marked `use`"))?;
    let first = keys.remove(used);
    keys.insert(0, first);
    Ok(Keyring { keys })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_loaded_and_only_the_owner_can_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sub/mesh.key");
        let ring = Keyring::load_or_create(&path, true).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Keyring::load_or_create(&path, false).unwrap(), ring);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = Keyring::load(&path).unwrap_err().to_string();
        assert!(error.contains("chmod 600"), "{error}");
        assert!(matches!(
            Keyring::load_or_create(&folder.path().join("none"), false),
            Err(KeyringError::Missing(_))
        ));
    }

    #[test]
    fn keys_rotate_by_install_use_remove() {
        let mut a = Keyring::generate();
        let mut b = a.clone();
        let old = a.in_use();
        let new = a.install_new().unwrap();
        assert_eq!(b.install(&a.export(new).unwrap()).unwrap(), new);
        assert!(matches!(b.install(&a.export(new).unwrap()), Err(KeyringError::Known(_))));
        let text = a.text();
        let line = text.lines().find(|line| line.starts_with(&format!("{new:08x}"))).unwrap();
        assert!(matches!(b.install(line), Err(KeyringError::Known(id)) if id == new), "a line does as well");
        assert!(matches!(b.install("mk1-short"), Err(KeyringError::NotAKey)));
        assert!(matches!(b.install("key"), Err(KeyringError::NotAKey)));
        assert_eq!(a.in_use(), old);
        a.use_key(new).unwrap();
        assert_eq!(a.key_ids(), [new, old]);
        assert!(matches!(a.remove(new), Err(KeyringError::InUse(_))));
        let folder = tempfile::tempdir().unwrap();
        a.save(&folder.path().join("k")).unwrap();
        assert_eq!(Keyring::load(&folder.path().join("k")).unwrap(), a);
        a.remove(old).unwrap();
        assert_eq!(a.key_ids(), [new]);
        assert_eq!(a.derive("x")[0], b.derive("x")[1]);
    }

    #[test]
    fn derivation_is_fixed_for_ever() {
        let ring = Keyring { keys: vec![Key::of([7; 32])] };
        assert_eq!(format!("{:08x}", ring.in_use()), "b1e678e8");
        let hex = ring.derive("golden")[0].secret.iter().map(|b| format!("{b:02x}")).collect::<String>();
        assert_eq!(hex, "c92d496e4c6e02c280ff835e18da8fce88f5269f30e54c3166dd0b67dc2ee5c5");
        assert_ne!(ring.derive("golden"), ring.derive("silver"));
    }

    #[test]
    fn no_secret_is_shown() {
        let ring = Keyring { keys: vec![Key::of([b'A'; 32])] };
        let shown = format!("{ring:?} {:?}", ring.derive("x"));
        assert!(!shown.contains("65, 65") && !shown.contains("AAAA") && !shown.contains("QUFB"), "{shown}");
    }

    #[test]
    fn damage_is_named_by_line() {
        let good = Keyring::generate().text();
        assert!(parse(&good).is_ok());
        assert_eq!(parse("").unwrap_err().0, 1);
        assert_eq!(parse("meridian-keyring 2\n").unwrap_err().0, 1);
        assert_eq!(parse(&good.replace("use", "see")).unwrap_err().0, 3);
        assert_eq!(parse(&format!("{good}nonsense\n")).unwrap_err().0, 4);
        let second = Keyring::generate().text().lines().last().unwrap().to_owned();
        assert_eq!(parse(&format!("{good}{second}\n")).unwrap_err(), (4, "a second key is marked `use`"));
    }

    proptest::proptest! {
        #[test]
        fn random_text_never_panics(text in ".{0,200}") {
            let _ = parse(&text);
            let _ = parse(&format!("{HEADER}\n{text}"));
        }
    }
}
