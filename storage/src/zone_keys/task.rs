//! The exchange of keys between nodes, and who makes one.
//!
//! ```text
//!   message   version 1 │ 1 put  │ (length 2 │ sealed key)*
//!   exchange  version 1 │ 2 sync │ digest 8      ─▶ version 1 │ 1 put │ nothing when it is the same, else all
//! ```
//!
//! One task owns what is not yet written and whom it has asked. It stops with the node; what it has not written, others
//! have. While a zone lacks a key all living nodes are asked; else one of them now and then.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use gossip::id::NodeName;
use rand::seq::IteratorRandom;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{Inner, ZoneKey, file};
use crate::transport::{Incoming, ZONE_KEYS};
use crate::zone_key::{KEYS_MAX, SEALED_MAX_BYTES, Sealer, may_make};

const VERSION: u8 = 1;
const PUT: u8 = 1;
const SYNC: u8 = 2;
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Looks between two exchanges with somebody while nothing is missing.
const LOOKS_A_SYNC: u32 = 10;
const SYNC_TIMEOUT: Duration = Duration::from_secs(3);

/// What one life of the task has found out.
#[derive(Default)]
struct Search {
    /// Since when each wanted zone lacks a key.
    lacking: BTreeMap<String, Instant>,
    /// Who has answered since the last zone was found lacking.
    heard: BTreeSet<NodeName>,
    /// Who is being asked.
    asked: BTreeSet<NodeName>,
    looks: u32,
}

pub(super) async fn run(inner: Arc<Inner>, mut stop: watch::Receiver<bool>) {
    let mut inbox = inner.config.network.listen(ZONE_KEYS);
    let mut answers: JoinSet<(NodeName, Option<Bytes>)> = JoinSet::new();
    let mut look = tokio::time::interval(LOOK_EVERY);
    let mut search = Search::default();
    loop {
        // Nobody is asked again just because an answer failed to come: that may happen at once.
        let may_ask = tokio::select! {
            _ = stop.changed() => return,
            Some(incoming) = inbox.recv() => {
                receive(&inner, incoming);
                false
            }
            Some(Ok((from, answer))) = answers.join_next() => {
                search.asked.remove(&from);
                if answer.is_some_and(|bytes| answered(&inner, &from, &bytes)) {
                    search.heard.insert(from);
                }
                false
            }
            () = inner.stir.notified() => true,
            _ = look.tick() => {
                search.looks += 1;
                true
            }
        };
        search.note(&inner);
        let peers = if may_ask { search.whom_to_ask(&inner) } else { Vec::new() };
        for peer in peers {
            let question = [&[VERSION, SYNC][..], &inner.lock().keys.digest().to_le_bytes()].concat();
            let answer = inner.config.network.ask(&peer, ZONE_KEYS, question.into(), SYNC_TIMEOUT);
            answers.spawn(async move { (peer, answer.await) });
        }
        let made = search.make(&inner);
        write(&inner).await;
        if !made.is_empty() {
            // Only now: what others hear of is on disk, unless that is full.
            tell(&inner, &made);
        }
        let mut state = inner.lock();
        inner.publish(&mut state);
    }
}

impl Search {
    /// Notes which zones lack a key.
    fn note(&mut self, inner: &Inner) {
        let now = inner.config.clock.now();
        let state = inner.lock();
        let lacking = state.wanted.iter().filter(|zone| state.keys.of(zone).next().is_none());
        let lacking: BTreeSet<String> = lacking.cloned().collect();
        drop(state);
        self.lacking.retain(|zone, _| lacking.contains(zone));
        for zone in lacking {
            if let Entry::Vacant(entry) = self.lacking.entry(zone) {
                entry.insert(now);
                self.heard.clear();
            }
        }
    }

    /// Who is to be asked now: all that have not answered while something is lacking, else one of them from time to time.
    fn whom_to_ask(&mut self, inner: &Inner) -> Vec<NodeName> {
        let mut peers = living(inner);
        peers.remove(&inner.config.me);
        peers.retain(|peer| !self.asked.contains(peer));
        if !self.lacking.is_empty() {
            peers.retain(|peer| !self.heard.contains(peer));
        } else if self.looks >= LOOKS_A_SYNC {
            peers = peers.into_iter().choose(&mut rand::rng()).into_iter().collect();
        } else {
            return Vec::new();
        }
        self.looks = 0;
        self.asked.extend(peers.iter().cloned());
        peers.into_iter().collect()
    }

    /// Makes what nobody has, when it is this node's turn.
    fn make(&self, inner: &Inner) -> Vec<ZoneKey> {
        // What cannot be read here may be the very key.
        let unread = |state: &super::State| state.unusable.is_some() || !state.unreadable.is_empty();
        if self.lacking.is_empty() || unread(&inner.lock()) {
            return Vec::new();
        }
        let (now, living) = (inner.config.clock.now(), living(inner));
        let mut made = Vec::new();
        for (zone, since) in &self.lacking {
            let waited = now.saturating_duration_since(*since);
            if !may_make(&inner.config.me, &living, &self.heard, waited) {
                continue;
            }
            match (inner.config.make)() {
                Some(secret) => {
                    tracing::info!(
                        zone,
                        "made a key to sign the zone with; `meridian dns ds {zone}` says what its parent needs"
                    );
                    made.push(ZoneKey { zone: zone.clone(), made: inner.config.clock.mesh_wall(), secret });
                }
                None => tracing::error!(zone, "the system gives no randomness for a key"),
            }
        }
        let mut state = inner.lock();
        for key in &made {
            state.keys.merge(key.clone());
            state.unwritten = true;
        }
        made
    }
}

fn living(inner: &Inner) -> BTreeSet<NodeName> {
    let view = inner.config.view.borrow();
    let living = view.members.values().filter(|member| member.counts());
    living.map(|member| member.record.name.clone()).chain([inner.config.me.clone()]).collect()
}

/// Writes what is held, if the file differs; what cannot be written is tried again at the next look.
async fn write(inner: &Arc<Inner>) {
    let (sealed, unreadable) = {
        let mut state = inner.lock();
        if state.unusable.is_some() || !std::mem::take(&mut state.unwritten) {
            return;
        }
        let sealed: Vec<Vec<u8>> = state.keys.all().filter_map(|key| state.sealer.seal(key)).collect();
        (sealed, state.unreadable.clone())
    };
    let data = inner.config.data.clone();
    let written = tokio::task::spawn_blocking(move || file::write(&data, &sealed, &unreadable)).await;
    let failure = match written {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(error) => Some(error.to_string()),
    };
    let mut state = inner.lock();
    if let Some(error) = failure.as_ref().filter(|error| state.failure.as_ref() != Some(*error)) {
        tracing::error!(file = file::NAME, error, "the keys of zones cannot be written; trying again");
    }
    state.unwritten |= failure.is_some();
    state.failure = failure;
}

fn tell(inner: &Inner, keys: &[ZoneKey]) {
    let message = put(&inner.lock().sealer.clone(), keys.iter());
    for peer in living(inner).into_iter().filter(|peer| *peer != inner.config.me) {
        inner.config.network.tell(&peer, ZONE_KEYS, message.clone());
    }
}

fn receive(inner: &Inner, Incoming { from, bytes, reply }: Incoming) {
    let theirs = bytes.strip_prefix(&[VERSION, SYNC]).and_then(|digest| digest.try_into().ok());
    match (theirs.map(u64::from_le_bytes), reply) {
        (Some(theirs), Some(reply)) => {
            let state = inner.lock();
            let same = state.keys.digest() == theirs;
            let keys = state.keys.all().filter(|_| !same).map(AsRef::as_ref);
            reply(put(&state.sealer, keys));
        }
        (None, None) => drop(take(inner, &from, &bytes)),
        _ => tracing::warn!(peer = %from, "a message about the keys of zones cannot be read"),
    }
}

/// Takes what the peer has, and sends what it lacks. True when it has answered.
fn answered(inner: &Inner, from: &NodeName, bytes: &[u8]) -> bool {
    let Some(theirs) = take(inner, from, bytes) else { return false };
    let state = inner.lock();
    let lacks = |key: &&Arc<ZoneKey>| !theirs.iter().any(|other| other == key.as_ref());
    // Nothing means that it has the same, or none; then it asks in its turn.
    let lacking: Vec<&ZoneKey> =
        state.keys.all().filter(|_| !theirs.is_empty()).filter(lacks).map(AsRef::as_ref).collect();
    if !lacking.is_empty() {
        inner.config.network.tell(from, ZONE_KEYS, put(&state.sealer, lacking.into_iter()));
    }
    true
}

/// Merges the keys of a message. `None`: it is none.
fn take(inner: &Inner, from: &NodeName, bytes: &[u8]) -> Option<Vec<ZoneKey>> {
    let Some(sealed) = bytes.strip_prefix(&[VERSION, PUT]).and_then(read) else {
        tracing::warn!(peer = %from, "a message about the keys of zones cannot be read");
        return None;
    };
    let sealer = inner.lock().sealer.clone();
    let mut keys = Vec::new();
    for sealed in sealed {
        match sealer.open(sealed) {
            Ok(key) => keys.push(key),
            Err(error) => tracing::warn!(peer = %from, %error, "a zone's key from a peer cannot be opened"),
        }
    }
    if !inner.merge(keys.clone()) {
        tracing::error!("there are too many keys of zones; a mesh holds {KEYS_MAX}");
    }
    Some(keys)
}

/// The message that carries keys.
pub(crate) fn put<'a>(sealer: &Sealer, keys: impl Iterator<Item = &'a ZoneKey>) -> Bytes {
    let mut out = BytesMut::new();
    out.put_slice(&[VERSION, PUT]);
    for sealed in keys.filter_map(|key| sealer.seal(key)) {
        out.put_u16_le(sealed.len() as u16);
        out.put_slice(&sealed);
    }
    out.freeze()
}

/// The sealed keys of a message, behind its head.
pub(crate) fn read(mut bytes: &[u8]) -> Option<Vec<&[u8]>> {
    let mut keys = Vec::new();
    while !bytes.is_empty() {
        let length = usize::from(bytes.try_get_u16_le().ok()?);
        let (sealed, rest) = bytes.split_at_checked(length)?;
        bytes = rest;
        keys.push(sealed);
        if keys.len() > KEYS_MAX || length > SEALED_MAX_BYTES {
            return None;
        }
    }
    Some(keys)
}

#[cfg(test)]
mod tests {
    use gossip::clock::Wall;
    use proptest::prelude::*;

    use super::*;
    use crate::transport::ZONE_KEYS;

    #[test]
    fn all_keys_fit_into_one_message() {
        const { assert!(2 + KEYS_MAX * (2 + SEALED_MAX_BYTES) <= ZONE_KEYS.max_bytes) };
        let key = ZoneKey { zone: "z".repeat(255), made: Wall(1), secret: vec![1; 256] };
        let message = put(&Sealer::fixed(), [&key, &key].into_iter());
        assert_eq!(message.len(), 2 + 2 * (2 + SEALED_MAX_BYTES));
        let read = read(&message[2..]).unwrap();
        assert!(read.into_iter().all(|sealed| Sealer::fixed().open(sealed) == Ok(key.clone())));
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes);
        }
    }
}
