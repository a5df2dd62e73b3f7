//! The peers this node has met, kept on disk so that halves of a mesh without common seeds find each other again.
//!
//! ```text
//! meridian-peers 1
//! generation 1700000000000            this node's last life; the next begins later, whatever the clock says
//! eu-2 10.0.0.2:7946 1700000000       name, mesh address, last seen (seconds since 1970)
//! ```
//!
//! The file is a hint: a damaged one is ignored line by line, and is written anew.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::clock::Wall;
use crate::id::NodeName;

const HEADER: &str = "meridian-peers 1";
const MAX_PEERS: usize = 1000;
const MAX_FILE_BYTES: u64 = 1 << 20;
const KEPT: Duration = Duration::from_secs(30 * 24 * 3600);

/// The file, as it is written while the node runs: on a thread where waiting harms nobody. A disk that is full is
/// tried again each time, and told of once.
#[derive(Debug)]
pub(crate) struct PeersFile {
    /// `None`: nowhere.
    path: Option<PathBuf>,
    fails: Arc<AtomicBool>,
}

impl PeersFile {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path: Some(path), fails: Arc::default() }
    }

    /// One that is never written, of a node without a disk.
    #[cfg(feature = "simulated")]
    pub(crate) fn nowhere() -> Self {
        Self { path: None, fails: Arc::default() }
    }

    /// Writes it soon.
    pub(crate) fn write(&self, peers: &Peers) {
        let Some(path) = self.path.clone() else { return };
        let (peers, fails) = (peers.clone(), self.fails.clone());
        drop(tokio::task::spawn_blocking(move || note(&path, &fails, peers.save(&path))));
    }
}

/// Says that the file cannot be written, or that it can be again; nothing else is news. Whether it was.
fn note(path: &Path, fails: &AtomicBool, saved: io::Result<()>) -> bool {
    let news = fails.swap(saved.is_err(), Ordering::Relaxed) != saved.is_err();
    match saved {
        Err(error) if news => {
            tracing::warn!(path = %path.display(), %error, "the known peers cannot be written, trying on");
        }
        Ok(()) if news => tracing::info!(path = %path.display(), "the known peers are written again"),
        _ => {}
    }
    news
}

/// Whom this node has met, and where and when.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Peers {
    pub(crate) generation: u64,
    met: BTreeMap<NodeName, (SocketAddr, Wall)>,
}

impl Peers {
    /// Reads the file; what cannot be read is left out.
    pub(crate) fn load(path: &Path, now: Wall) -> Self {
        let text = std::fs::metadata(path).and_then(|meta| {
            if meta.len() <= MAX_FILE_BYTES { std::fs::read_to_string(path) } else { Ok(String::new()) }
        });
        let mut peers = text.map(|text| Self::parse(&text)).unwrap_or_default();
        peers.forget_old(now);
        peers
    }

    /// Writes the file, atomically.
    pub(crate) fn save(&self, path: &Path) -> io::Result<()> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let next = path.with_extension("new");
        let mut file = std::fs::File::create(&next)?;
        file.write_all(self.text().as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&next, path)
    }

    /// Takes note that a peer is there. Whether that is news worth writing.
    pub(crate) fn seen(&mut self, name: &NodeName, addr: SocketAddr, now: Wall) -> bool {
        let before = self.met.insert(name.clone(), (addr, now));
        if self.met.len() > MAX_PEERS {
            let oldest = self.met.iter().min_by_key(|(_, (_, seen))| *seen).map(|(name, _)| name.clone());
            oldest.and_then(|name| self.met.remove(&name));
        }
        before.is_none_or(|(before, _)| before != addr)
    }

    /// Forgets whom nobody has seen for 30 days.
    pub(crate) fn forget_old(&mut self, now: Wall) {
        self.met.retain(|_, (_, seen)| now.since(*seen) < KEPT);
    }

    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&NodeName, SocketAddr)> {
        self.met.iter().map(|(name, (addr, _))| (name, *addr))
    }

    pub(crate) fn text(&self) -> String {
        let mut text = format!("{HEADER}\ngeneration {}\n", self.generation);
        for (name, (addr, seen)) in &self.met {
            text.push_str(&format!("{name} {addr} {}\n", seen.seconds()));
        }
        text
    }

    pub(crate) fn parse(text: &str) -> Self {
        let mut peers = Self::default();
        let mut lines = text.lines();
        if lines.next() != Some(HEADER) {
            return peers;
        }
        for line in lines.take(MAX_PEERS + 1) {
            let mut words = line.split_whitespace();
            match (words.next(), words.next(), words.next()) {
                (Some("generation"), Some(generation), None) => {
                    peers.generation = generation.parse().unwrap_or(0);
                }
                (Some(name), Some(addr), Some(seen)) => {
                    if let (Ok(name), Ok(addr), Ok(seen)) = (name.parse(), addr.parse(), seen.parse::<u64>())
                    {
                        peers.met.insert(name, (addr, Wall(seen.saturating_mul(1000))));
                    }
                }
                _ => {}
            }
        }
        peers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_of_once() {
        let (path, fails) = (Path::new("peers"), AtomicBool::default());
        let full = || Err(io::Error::from(io::ErrorKind::StorageFull));
        let told = [Ok(()), full(), full(), Ok(()), Ok(()), full()].map(|saved| note(path, &fails, saved));
        assert_eq!(told, [false, true, false, true, false, true]);
    }

    #[test]
    fn peers_are_kept_for_thirty_days_and_damage_is_skipped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data/peers");
        let now = Wall(1_700_000_000_000);
        assert_eq!(Peers::load(&path, now), Peers::default());
        let mut peers = Peers { generation: 7, ..Peers::default() };
        let addr = "10.0.0.2:7946".parse().unwrap();
        assert!(peers.seen(&"b".parse().unwrap(), addr, now));
        assert!(!peers.seen(&"b".parse().unwrap(), addr, now));
        peers.save(&path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "meridian-peers 1\ngeneration 7\nb 10.0.0.2:7946 1700000000\n");
        assert_eq!(Peers::load(&path, now), peers);
        std::fs::write(&path, format!("{text}\u{0}garbage x y z\nc nowhere 1\n")).unwrap();
        assert_eq!(Peers::load(&path, now), peers);
        let later = now.plus(KEPT);
        assert_eq!(Peers::load(&path, later), Peers { generation: 7, ..Peers::default() });
    }

    proptest::proptest! {
        #[test]
        fn random_text_never_panics(text in ".{0,200}") {
            Peers::parse(&format!("{HEADER}\n{text}"));
        }
    }
}
