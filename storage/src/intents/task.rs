//! The exchange of orders between nodes.
//!
//! ```text
//!   message   version 1 │ 1 put  │ (length 4 │ entry)*
//!   exchange  the same             ─▶ nothing, as the acknowledgement
//!   exchange  version 1 │ 2 sync │ digest 8      ─▶ nothing when it is the same, else (length 4 │ entry)*: all
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use gossip::id::NodeName;
use rand::seq::IndexedRandom;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::Inner;
use crate::intent::Entry;
use crate::transport::{INTENTS, Incoming};

const VERSION: u8 = 1;
const PUT: u8 = 1;
const SYNC: u8 = 2;
const SYNC_EVERY: Duration = Duration::from_secs(5);
/// Until the first peer has answered: a node that starts should not serve long without the orders in force.
const FIRST_SYNC_EVERY: Duration = Duration::from_millis(500);
const SYNC_TIMEOUT: Duration = Duration::from_secs(3);
const ENTRIES_MAX: usize = 20_000;

pub(super) async fn run(inner: Arc<Inner>, mut stop: watch::Receiver<bool>) {
    let mut inbox = inner.network.listen(INTENTS);
    let mut syncs: JoinSet<(NodeName, Option<Bytes>)> = JoinSet::new();
    let mut writes: JoinSet<()> = JoinSet::new();
    let mut rest = FIRST_SYNC_EVERY;
    let mut due = tokio::time::interval(FIRST_SYNC_EVERY);
    let mut waited = Duration::ZERO;
    loop {
        tokio::select! {
            _ = stop.changed() => break,
            Some(incoming) = inbox.recv() => receive(&inner, incoming),
            Some(_) = writes.join_next() => {}
            Some(Ok((from, answer))) = syncs.join_next() => {
                if let Some(bytes) = answer {
                    rest = SYNC_EVERY;
                    answered(&inner, &from, &bytes);
                }
            }
            _ = due.tick() => {
                if writes.is_empty() && inner.has_unwritten() {
                    let inner = inner.clone();
                    writes.spawn_blocking(move || inner.write_file());
                }
                waited += FIRST_SYNC_EVERY;
                if waited >= rest && syncs.is_empty() {
                    waited = Duration::ZERO;
                    inner.sweep();
                    if let Some(peer) = somebody(&inner) {
                        let digest = inner.lock().digest();
                        let question = [&[VERSION, SYNC][..], &digest.to_le_bytes()].concat();
                        let answer = inner.network.ask(&peer, INTENTS, question.into(), SYNC_TIMEOUT);
                        syncs.spawn(async move { (peer, answer.await) });
                    }
                }
            }
        }
    }
    // One after the other: both would write to the same file.
    while writes.join_next().await.is_some() {}
    // It fails only when the runtime ends.
    let _ = tokio::task::spawn_blocking(move || inner.write_file()).await;
}

/// The message that carries entries.
pub(crate) fn put(entries: &[Entry]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_slice(&[VERSION, PUT]);
    write(&mut out, entries.iter());
    out.freeze()
}

/// Reads what [`put`] made.
pub(super) fn read_put(bytes: &[u8]) -> Option<Vec<Entry>> {
    bytes.strip_prefix(&[VERSION, PUT]).and_then(read)
}

fn somebody(inner: &Inner) -> Option<NodeName> {
    let view = inner.view.borrow().clone();
    let living = view.members.values().filter(|member| member.is_alive() && member.record.name != inner.me);
    let living: Vec<_> = living.map(|member| member.record.name.clone()).collect();
    living.choose(&mut rand::rng()).cloned()
}

fn receive(inner: &Inner, Incoming { from, bytes, reply }: Incoming) {
    let put = read_put(&bytes);
    let digest = bytes.strip_prefix(&[VERSION, SYNC]).and_then(|digest| digest.try_into().ok());
    match (put, digest.map(u64::from_le_bytes), reply) {
        (Some(entries), None, reply) => {
            // Dropping the other end refuses: what there was no room for is not acknowledged.
            if let (true, Some(reply)) = (inner.hear(&from, entries), reply) {
                reply(Bytes::new());
            }
        }
        (None, Some(theirs), Some(reply)) => {
            let entries = inner.lock();
            let mut out = BytesMut::new();
            if entries.digest() != theirs {
                write(&mut out, entries.all());
            }
            reply(out.freeze());
        }
        _ => tracing::warn!(peer = %from, "a message about intents cannot be read"),
    }
}

/// Takes what the peer has, and sends back what is newer here. No bytes: the same on both sides, or the peer has none;
/// then it asks in its turn.
fn answered(inner: &Inner, from: &NodeName, bytes: &[u8]) {
    let Some(theirs) = read(bytes) else {
        tracing::warn!(peer = %from, "an answer about intents cannot be read");
        return;
    };
    if theirs.is_empty() {
        return;
    }
    inner.hear(from, theirs.clone());
    let theirs: BTreeMap<_, _> = theirs.iter().map(|entry| ((&entry.target, entry.aspect), entry)).collect();
    let told = |entry: &&Entry| theirs.get(&(&entry.target, entry.aspect)) == Some(entry);
    let newer: Vec<_> = inner.lock().all().filter(|entry| !told(entry)).cloned().collect();
    if !newer.is_empty() {
        inner.network.tell(from, INTENTS, put(&newer));
    }
}

fn write<'a>(out: &mut BytesMut, entries: impl Iterator<Item = &'a Entry>) {
    for entry in entries {
        let bytes = entry.encode();
        out.put_u32_le(bytes.len() as u32);
        out.put_slice(&bytes);
    }
}

pub(crate) fn read(mut bytes: &[u8]) -> Option<Vec<Entry>> {
    let (mut entries, mut seen) = (Vec::new(), 0);
    while !bytes.is_empty() {
        let length = bytes.try_get_u32_le().ok()? as usize;
        let (entry, rest) = bytes.split_at_checked(length)?;
        bytes = rest;
        // What a newer version orders is left out: the nodes that understand it exchange it among themselves.
        entries.extend(Entry::decode(entry));
        seen += 1;
        if seen > ENTRIES_MAX {
            return None;
        }
    }
    Some(entries)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::intent::{Aspect, Target};

    #[test]
    fn the_format_is_the_same_for_ever() {
        let name = NodeName::new("n").unwrap();
        let target = Target::Node(name.clone());
        let entry = Entry { target, aspect: Aspect::State, order: None, at: gossip::clock::Hlc(5), by: name };
        let bytes = entry.encode();
        let golden = [&[1, 1][..], &(bytes.len() as u32).to_le_bytes(), &bytes].concat();
        assert_eq!(put(std::slice::from_ref(&entry))[..], golden);
        assert_eq!(read(&golden[2..]), Some(vec![entry]));
        assert_eq!(read(&golden[2..golden.len() - 1]), None);
        // An entry of a later version hides none of the others.
        let newer = [&3u32.to_le_bytes()[..], &[1, 99, 99]].concat();
        assert_eq!(read(&[&newer, &golden[2..], &newer].concat()).map(|read| read.len()), Some(1));
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes);
        }
    }
}
