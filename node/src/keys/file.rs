//! The keyring file: what it was when it was last read, and when it changes.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use gossip::clock::Wall;
use gossip::keyring::{Keyring, KeyringError};

/// Tells two states of a file apart: inode, length, time of change in nanoseconds.
type Stamp = (u64, u64, i128);

/// The file on which a ring lies.
#[derive(Debug)]
pub(super) struct KeyFile {
    path: PathBuf,
    seen: Option<Stamp>,
}

impl KeyFile {
    /// A file that was read already.
    pub(super) fn new(path: PathBuf) -> Self {
        let seen = stamp(&path);
        Self { path, seen }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// When it last changed: the key that is in use has been since then at the latest. `None`: there is no file.
    pub(super) fn changed_at(&self) -> Option<Wall> {
        let nanos = self.seen?.2;
        u64::try_from(nanos / 1_000_000).ok().map(Wall)
    }

    /// Reads it when it is another one than last time. One that is not there is not looked at: it may be under way.
    pub(super) fn look(&mut self) -> Option<Result<Keyring, KeyringError>> {
        let now = stamp(&self.path)?;
        if self.seen.replace(now) == Some(now) {
            return None;
        }
        Some(Keyring::load(&self.path))
    }

    /// Writes a ring, unless the file holds it already: several nodes of one machine may share a file.
    pub(super) fn save(&mut self, ring: &Keyring) -> Result<(), KeyringError> {
        if !Keyring::load(&self.path).is_ok_and(|there| there == *ring) {
            ring.save(&self.path)?;
        }
        self.seen = stamp(&self.path);
        Ok(())
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let meta = std::fs::metadata(path).ok()?;
    let changed = i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec());
    Some((meta.ino(), meta.len(), changed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_seen_once_and_the_own_one_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mesh.key");
        let mut ring = Keyring::generate();
        ring.save(&path).unwrap();
        let mut file = KeyFile::new(path.clone());
        assert!(file.changed_at().is_some());
        assert!(file.look().is_none());
        ring.install_new().unwrap();
        file.save(&ring).unwrap();
        assert!(file.look().is_none(), "this node wrote it");
        ring.install_new().unwrap();
        ring.save(&path).unwrap();
        assert_eq!(file.look().unwrap().unwrap(), ring);
        assert!(file.look().is_none());
        std::fs::write(&path, "no key").unwrap();
        assert!(file.look().unwrap().is_err());
        std::fs::remove_file(&path).unwrap();
        assert!(file.look().is_none());
    }
}
