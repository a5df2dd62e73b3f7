//! One revision of the mesh-wide configuration, its id, and which of several holds. Pure.
//!
//! ```text
//!   version 1 │ epoch 8 │ parent? 1 + 32 │ time 8 │ author 2 + n │ node 1 + n │ body 4 + n       little endian
//!   id = (epoch, BLAKE3 of these bytes)            the greater id wins, everywhere, whatever came first
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{Buf, BufMut};
use gossip::clock::Wall;
use gossip::id::{NodeName, RevisionId};

/// The largest body.
pub const BODY_MAX_BYTES: usize = 4 * 1024 * 1024;

/// The longest author; the rest is cut off.
pub const AUTHOR_MAX_BYTES: usize = 128;

/// Revisions kept, losing siblings too.
pub const HISTORY_MAX: usize = 100;

/// The bodies kept together; the current revision is kept whatever its size.
pub const HISTORY_MAX_BYTES: usize = 32 * 1024 * 1024;

const VERSION: u8 = 1;

/// One immutable version of `services.toml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revision {
    /// Its epoch and hash.
    pub id: RevisionId,
    /// The hash of the revision it replaced; `None` for the first.
    pub parent: Option<[u8; 32]>,
    /// Who applied it, for people: `alice@eu-1`. At most [`AUTHOR_MAX_BYTES`], no control characters.
    pub author: String,
    /// The node that accepted it.
    pub node: NodeName,
    /// When.
    pub time: Wall,
    /// The text of `services.toml`, at most [`BODY_MAX_BYTES`].
    pub body: String,
}

/// Bytes that are no revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a revision")]
pub struct NotARevision;

impl Revision {
    /// The one that replaces `parent`.
    pub fn after(parent: Option<RevisionId>, body: String, author: &str, node: NodeName, time: Wall) -> Self {
        let epoch = parent.map_or(0, |parent| parent.epoch).saturating_add(1);
        let mut author = author.replace(|c: char| c.is_control(), " ");
        while author.len() > AUTHOR_MAX_BYTES {
            author.pop();
        }
        let id = RevisionId { epoch, hash: [0; 32] };
        let mut revision = Self { id, parent: parent.map(|parent| parent.hash), author, node, time, body };
        revision.id.hash = blake3::hash(&revision.encode()).into();
        revision
    }

    /// As the module's picture shows.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.body.len() + 256);
        out.put_u8(VERSION);
        out.put_u64_le(self.id.epoch);
        out.put_u8(self.parent.is_some().into());
        out.put_slice(&self.parent.unwrap_or_default());
        out.put_u64_le(self.time.0);
        out.put_u16_le(self.author.len() as u16);
        out.put_slice(self.author.as_bytes());
        out.put_u8(self.node.as_str().len() as u8);
        out.put_slice(self.node.as_str().as_bytes());
        out.put_u32_le(self.body.len() as u32);
        out.put_slice(self.body.as_bytes());
        out
    }

    /// Reads what [`Revision::encode`] wrote; the id is that of the bytes.
    ///
    /// # Errors
    /// On anything else, and on parts beyond their limits.
    pub fn decode(bytes: &[u8]) -> Result<Self, NotARevision> {
        Self::read(bytes).ok_or(NotARevision)
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let mut input = bytes;
        if input.try_get_u8().ok()? != VERSION {
            return None;
        }
        let epoch = input.try_get_u64_le().ok()?;
        let has_parent = input.try_get_u8().ok()?;
        let (parent, rest) = input.split_first_chunk::<32>()?;
        input = rest;
        let parent = match has_parent {
            0 if *parent == [0; 32] => None,
            1 => Some(*parent),
            _ => return None,
        };
        let time = Wall(input.try_get_u64_le().ok()?);
        let length = usize::from(input.try_get_u16_le().ok()?);
        let author = text(&mut input, length, AUTHOR_MAX_BYTES)?;
        let length = usize::from(input.try_get_u8().ok()?);
        let node = NodeName::new(&text(&mut input, length, usize::from(u8::MAX))?).ok()?;
        let length = input.try_get_u32_le().ok()? as usize;
        let body = text(&mut input, length, BODY_MAX_BYTES)?;
        let honest = epoch > 0 && input.is_empty() && !author.contains(|c: char| c.is_control());
        let id = RevisionId { epoch, hash: blake3::hash(bytes).into() };
        honest.then_some(Self { id, parent, author, node, time, body })
    }
}

fn text(input: &mut &[u8], length: usize, max: usize) -> Option<String> {
    if length > max {
        return None;
    }
    let (text, rest) = input.split_at_checked(length)?;
    *input = rest;
    Some(std::str::from_utf8(text).ok()?.to_owned())
}

/// The key of a revision on its shelf.
pub fn shelf_key(id: &RevisionId) -> Vec<u8> {
    [&id.epoch.to_be_bytes()[..], &id.hash].concat()
}

/// The revisions a node keeps; the greatest is the current one.
#[derive(Debug, Clone, Default)]
pub struct History(BTreeMap<RevisionId, Arc<Revision>>);

impl History {
    /// The current revision.
    pub fn current(&self) -> Option<&Arc<Revision>> {
        self.0.last_key_value().map(|(_, revision)| revision)
    }

    /// The revision of that id.
    pub fn find(&self, id: &RevisionId) -> Option<&Arc<Revision>> {
        self.0.get(id)
    }

    /// All, newest first.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Revision>> {
        self.0.values().rev()
    }

    /// Those that lost: applied when another one was, on the other side of a cut or just then, and not in force since.
    /// Newest first.
    pub fn lost(&self) -> Vec<Arc<Revision>> {
        let mut line = std::collections::BTreeSet::new();
        let mut oldest = None;
        let mut next = self.current().map(|current| current.id.hash);
        while let Some(hash) = next
            && let Some(revision) = self.0.values().find(|revision| revision.id.hash == hash)
        {
            line.insert(hash);
            oldest = Some(revision.id.epoch);
            next = revision.parent;
        }
        let beside = |revision: &&Arc<Revision>| {
            oldest.is_some_and(|oldest| revision.id.epoch >= oldest) && !line.contains(&revision.id.hash)
        };
        self.all().filter(beside).cloned().collect()
    }

    /// Keeps a revision; returns those for which there is no room any more: the oldest.
    pub fn keep(&mut self, revision: Arc<Revision>) -> Vec<RevisionId> {
        self.0.insert(revision.id, revision);
        let mut bytes: usize = self.0.values().map(|revision| revision.body.len()).sum();
        let mut dropped = Vec::new();
        while self.0.len() > 1 && (self.0.len() > HISTORY_MAX || bytes > HISTORY_MAX_BYTES) {
            if let Some((id, oldest)) = self.0.pop_first() {
                bytes -= oldest.body.len();
                dropped.push(id);
            }
        }
        dropped
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn node() -> NodeName {
        NodeName::new("n").unwrap()
    }

    #[test]
    fn the_format_is_the_same_for_ever() {
        let first = Revision::after(None, "b".into(), "a", node(), Wall(5));
        let golden = [
            &[1, 1, 0, 0, 0, 0, 0, 0, 0, 0][..],
            &[0; 32],
            &[5, 0, 0, 0, 0, 0, 0, 0, 1, 0, b'a', 1, b'n', 1, 0, 0, 0, b'b'],
        ]
        .concat();
        assert_eq!(first.encode(), golden);
        assert_eq!(first.id, RevisionId { epoch: 1, hash: blake3::hash(&golden).into() });
        let second = Revision::after(Some(first.id), "c".into(), "a", node(), Wall(6));
        assert_eq!((second.id.epoch, second.parent), (2, Some(first.id.hash)));
        assert_eq!(Revision::decode(&second.encode()), Ok(second));
    }

    #[test]
    fn authors_are_tamed() {
        let revision = Revision::after(None, String::new(), &"é\n".repeat(100), node(), Wall(5));
        assert!(revision.author.len() <= AUTHOR_MAX_BYTES && revision.author.starts_with("é é"));
        assert_eq!(Revision::decode(&revision.encode()), Ok(revision));
    }

    #[test]
    fn history_is_bounded_and_keeps_losing_siblings() {
        let mut history = History::default();
        let first = Arc::new(Revision::after(None, String::new(), "", node(), Wall(1)));
        history.keep(first.clone());
        let siblings: Vec<_> = (0..2)
            .map(|n| Arc::new(Revision::after(Some(first.id), n.to_string(), "", node(), Wall(2))))
            .collect();
        siblings.iter().for_each(|sibling| drop(history.keep(sibling.clone())));
        assert_eq!(history.current().unwrap().id, siblings[0].id.max(siblings[1].id));
        assert_eq!(history.all().count(), 3);
        let loser = siblings[0].id.min(siblings[1].id);
        assert_eq!(history.lost().iter().map(|lost| lost.id).collect::<Vec<_>>(), [loser]);
        let mut last = siblings[0].clone();
        for n in 0..HISTORY_MAX {
            last = Arc::new(Revision::after(Some(last.id), n.to_string(), "", node(), Wall(3)));
            history.keep(last.clone());
        }
        assert_eq!((history.all().count(), history.current().unwrap().id), (HISTORY_MAX, last.id));
        let big = "x".repeat(BODY_MAX_BYTES);
        for _ in 0..40 {
            last = Arc::new(Revision::after(Some(last.id), big.clone(), "", node(), Wall(3)));
            history.keep(last.clone());
        }
        assert_eq!(history.all().count(), HISTORY_MAX_BYTES / BODY_MAX_BYTES);
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), valid: bool) {
            if valid && !bytes.is_empty() {
                bytes[0] = VERSION;
            }
            if let Ok(revision) = Revision::decode(&bytes) {
                prop_assert_eq!(revision.encode(), bytes);
            }
        }

        #[test]
        fn a_touched_revision_has_another_id(at in 0usize..80, bit in 0u8..8) {
            let revision = Revision::after(None, "body of it".into(), "alice", node(), Wall(5));
            let mut bytes = revision.encode();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            let touched = Revision::decode(&bytes);
            prop_assert!(touched.is_err() || touched.is_ok_and(|touched| touched.id != revision.id));
        }
    }
}
