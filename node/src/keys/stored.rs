//! What each node would start with: the keys in its file, and whether it can write there what it holds.
//!
//! ```text
//!   exchange  version 1 │ 2 stored     ─▶ version 1 │ writable 1 │ id 4 *
//! ```

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use gossip::Gossip;
use gossip::id::NodeName;
use gossip::keyring::Keyring;
use rustix::fs::{Access, access};

use super::task::{CHANNEL, VERSION};

const STORED: u8 = 2;
/// More keys than a ring holds.
const KEYS_MAX: usize = 16;
/// How long a node may take to answer: its disk may be slow. Of who does not nobody knows what is in its file.
const TIMEOUT: Duration = Duration::from_millis(1500);

/// What one node's key file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stored {
    /// Whose.
    pub(crate) node: NodeName,
    /// Whether the node can replace it. One that is mounted read-only is changed where it comes from.
    pub(crate) writable: bool,
    /// The ids in it. Empty: it cannot be read now.
    pub(crate) keys: Vec<u32>,
}

/// What is known of the key files of all nodes that live.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Files {
    /// Of those that answered, this node first.
    pub(crate) told: Vec<Stored>,
    /// Who did not answer in time.
    pub(crate) silent: Vec<NodeName>,
}

impl Stored {
    /// Of a file of this node.
    pub(super) fn here(node: NodeName, path: &Path) -> Self {
        Self {
            node,
            writable: is_writable(path),
            keys: Keyring::load(path).map_or(Vec::new(), |ring| ring.key_ids()),
        }
    }
}

/// Whether a file can be replaced: it is written anew beside itself, and renamed.
pub(crate) fn is_writable(path: &Path) -> bool {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    access(folder, Access::WRITE_OK | Access::EXEC_OK).is_ok()
}

/// Asks all living nodes.
pub(super) async fn gather(gossip: &Gossip, path: &Path) -> Files {
    let view = gossip.view().borrow().clone();
    let peers = view.members.values().filter(|member| member.counts() && member.record.name != view.me);
    let peers: Vec<NodeName> = peers.map(|member| member.record.name.clone()).collect();
    let mesh = gossip.mesh();
    let asked = peers
        .iter()
        .map(|peer| mesh.exchange(peer, CHANNEL, Bytes::from_static(&[VERSION, STORED]), TIMEOUT));
    let answers = join_all(asked).await;
    let mut files = Files { told: vec![Stored::here(view.me.clone(), path)], silent: Vec::new() };
    for (peer, answer) in peers.into_iter().zip(answers) {
        match answer {
            // What is no answer of this version says nothing about its file.
            Ok(bytes) => files.told.extend(read(peer, &bytes)),
            Err(_) => files.silent.push(peer),
        }
    }
    files
}

/// Whether a peer asks for it.
pub(super) fn is_asked(bytes: &[u8]) -> bool {
    bytes == [VERSION, STORED]
}

pub(super) fn spell(stored: &Stored) -> Bytes {
    let ids = stored.keys.iter().take(KEYS_MAX).flat_map(|id| id.to_le_bytes());
    [VERSION, u8::from(stored.writable)].into_iter().chain(ids).collect()
}

fn read(node: NodeName, bytes: &[u8]) -> Option<Stored> {
    let (&writable, ids) = bytes.strip_prefix(&[VERSION])?.split_first()?;
    let (ids, rest) = ids.as_chunks::<4>();
    let keys = ids.iter().take(KEYS_MAX).map(|id| u32::from_le_bytes(*id)).collect();
    (rest.is_empty() && writable <= 1).then_some(Stored { node, writable: writable == 1, keys })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn node() -> NodeName {
        "eu-1".parse().unwrap()
    }

    #[test]
    fn the_bytes_of_version_1() {
        let stored = Stored { node: node(), writable: false, keys: vec![0x0102, 3] };
        assert_eq!(&spell(&stored)[..], [1, 0, 2, 1, 0, 0, 3, 0, 0, 0]);
        assert_eq!(read(node(), &spell(&stored)), Some(stored));
        assert!(is_asked(&[1, 2]) && !is_asked(&[1, 1]) && !is_asked(&[1, 2, 0]));
        for wrong in [&[][..], &[1], &[2, 0], &[1, 7], &[1, 0, 9]] {
            assert_eq!(read(node(), wrong), None);
        }
    }

    #[test]
    fn a_file_says_its_keys_and_a_folder_that_is_not_there_cannot_be_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mesh.key");
        let ring = Keyring::generate();
        ring.save(&path).unwrap();
        assert_eq!(
            Stored::here(node(), &path),
            Stored { node: node(), writable: true, keys: ring.key_ids() }
        );
        let nowhere = folder.path().join("nowhere/mesh.key");
        assert_eq!(
            Stored::here(node(), &nowhere),
            Stored { node: node(), writable: false, keys: Vec::new() }
        );
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = read(node(), &bytes);
        }
    }
}
