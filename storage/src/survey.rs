//! What an operator asks of the whole mesh's sessions: how many, which, where the copies of one lie, and whether all
//! replicas agree. Any node asks all others; none of this is on a request's way.
//!
//! ```text
//!   Survey::counts …  ──▶ this node's own answer, and over the mesh that of every living one ──▶ the sum
//!
//!   on the wire   version 1 │ bincode of the types below, fixed-width, little endian
//! ```
//!
//! A node that does not answer in [`TIMEOUT`] is named: a sum without it is not the whole.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bincode::Options;
use bytes::Bytes;
use gossip::clock::Wall;
use gossip::id::{BackendId, NodeName, SessionId, Tag};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::pin::{PIN_BYTES, Pin};
use crate::placement::{BUCKETS, bucket_of};
use crate::sessions::Shared;
use crate::table::Record;
use crate::transport::{Incoming, Network, SURVEY};

/// How long a node may take to answer.
pub const TIMEOUT: Duration = Duration::from_secs(2);

/// How long a node may take to answer where many ask often.
pub const TIMEOUT_SHORT: Duration = Duration::from_millis(500);

/// The most sessions one node lists.
pub const LIST_MAX: usize = 10_000;

/// What was counted is told again until so many times the time has passed that counting took: at a million sessions about a
/// second, and never more than a twentieth of a core, however many ask.
const TALLY_REST: u32 = 20;

const VERSION: u8 = 1;
const MESSAGE_MAX_BYTES: u64 = SURVEY.max_bytes as u64;

/// Asks the mesh about its sessions. Cheap to clone.
#[derive(Clone)]
pub struct Survey {
    shared: Arc<Shared>,
    network: Network,
    tally: Arc<Mutex<Option<Tally>>>,
}

/// What this node counted last.
#[derive(Debug)]
struct Tally {
    ended: Instant,
    took: Duration,
    counts: Vec<(u64, u64)>,
}

/// An answer of the mesh.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Surveyed<T> {
    /// What those said who answered.
    pub found: T,
    /// Who did not.
    pub silent: Vec<NodeName>,
}

/// One copy of a session's record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// Where it lies.
    pub node: NodeName,
    /// Whether that node should hold it, as the asking node has it.
    pub is_replica: bool,
    /// The record.
    pub record: Record,
}

/// A bucket whose replicas do not hold the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disagreement {
    /// The home region.
    pub home: Tag,
    /// The bucket.
    pub bucket: u16,
    /// Its replicas and how many records each holds.
    pub held: Vec<(NodeName, u32)>,
    /// Since when two of them are known to differ; `None` when they were not compared yet.
    pub since: Option<Wall>,
}

/// Whether the replicas agree.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Consistency {
    /// Buckets whose replicas were compared: those that any of them holds records in.
    pub compared: u64,
    /// Records, each counted once a replica.
    pub records: u64,
    /// The buckets that differ.
    pub differ: Vec<Disagreement>,
}

/// Which of the other nodes are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whom {
    All,
    /// All but suspects.
    Living,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
enum Question {
    Counts,
    Find([u8; 16]),
    List { backend: Option<u64>, limit: u32 },
    Fingerprints,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Answer {
    counts: Vec<(u64, u64)>,
    /// Home and encoded pin.
    records: Vec<(u32, Vec<u8>)>,
    /// Home, bucket, fingerprint, records.
    fingerprints: Vec<(u32, u16, u64, u32)>,
    /// Home, the other node, since when it holds something else.
    differ: Vec<(u32, NodeName, u64)>,
}

impl Survey {
    /// Answers other nodes until `stop` changes.
    pub(crate) async fn answer_others(self, mut stop: watch::Receiver<bool>) {
        let mut inbox = self.network.listen(SURVEY);
        loop {
            tokio::select! {
                _ = stop.changed() => return,
                incoming = inbox.recv() => match incoming {
                    Some(incoming) => self.answer_one(incoming),
                    None => return,
                },
            }
        }
    }

    pub(crate) fn new(shared: Arc<Shared>, network: Network) -> Self {
        Self { shared, network, tally: Arc::default() }
    }

    /// The sessions of the mesh by backend; those that were ended are not counted.
    pub async fn counts(&self) -> Surveyed<BTreeMap<BackendId, u64>> {
        self.counts_within(TIMEOUT, Whom::All).await
    }

    /// The same for what many look at often: suspects are not asked, and [`TIMEOUT_SHORT`] is the bound.
    pub async fn glance(&self) -> Surveyed<BTreeMap<BackendId, u64>> {
        self.counts_within(TIMEOUT_SHORT, Whom::Living).await
    }

    async fn counts_within(&self, timeout: Duration, whom: Whom) -> Surveyed<BTreeMap<BackendId, u64>> {
        let Surveyed { found, silent } = self.ask_within(&Question::Counts, timeout, whom).await;
        let mut sum = BTreeMap::new();
        for (backend, count) in found.into_iter().flat_map(|(_, answer)| answer.counts) {
            *sum.entry(BackendId(backend)).or_default() += count;
        }
        Surveyed { found: sum, silent }
    }

    /// Up to `limit` sessions, of one backend or of all.
    pub async fn list(&self, backend: Option<BackendId>, limit: usize) -> Surveyed<Vec<Record>> {
        let limit = limit.min(LIST_MAX);
        let question = Question::List { backend: backend.map(|backend| backend.0), limit: limit as u32 };
        let Surveyed { found, silent } = self.ask(&question).await;
        let mut records: Vec<_> = found.iter().flat_map(|(_, answer)| answer.records()).collect();
        records.sort_by_key(|record| (record.pin.id, record.home));
        // While nodes disagree on who is there two of them may answer for one session.
        records.dedup_by_key(|record| (record.pin.id, record.home));
        records.truncate(limit);
        Surveyed { found: records, silent }
    }

    /// All copies of a session's record, and the replicas that have none.
    pub async fn find(&self, id: SessionId) -> Surveyed<(Vec<Copy>, Vec<NodeName>)> {
        let Surveyed { found, silent } = self.ask(&Question::Find(id.0)).await;
        let mates = self.shared.mates.load_full();
        let bucket = bucket_of(&id);
        let mut copies = Vec::new();
        for (node, answer) in &found {
            for record in answer.records().into_iter().filter(|record| record.pin.id == id) {
                let is_replica = mates.placement.holds(node, record.home, bucket);
                copies.push(Copy { node: node.clone(), is_replica, record });
            }
        }
        let mut lacking = Vec::new();
        let mut homes: Vec<_> = copies.iter().map(|copy| copy.record.home).collect();
        homes.dedup();
        for home in homes {
            for replica in mates.placement.replicas(home, bucket) {
                let has = |copy: &Copy| copy.node == *replica && copy.record.home == home;
                if !copies.iter().any(has) && !silent.contains(replica) && !lacking.contains(replica) {
                    lacking.push(replica.clone());
                }
            }
        }
        Surveyed { found: (copies, lacking), silent }
    }

    /// Compares the fingerprints of every bucket over its replicas.
    pub async fn consistency(&self) -> Surveyed<Consistency> {
        let Surveyed { found, silent } = self.ask(&Question::Fingerprints).await;
        let mates = self.shared.mates.load_full();
        let mut held: BTreeMap<(Tag, u16), BTreeMap<NodeName, (u64, u32)>> = BTreeMap::new();
        let mut since: BTreeMap<(Tag, NodeName, NodeName), Wall> = BTreeMap::new();
        for (node, answer) in found {
            for (home, bucket, fingerprint, records) in answer.fingerprints {
                held.entry((Tag(home), bucket)).or_default().insert(node.clone(), (fingerprint, records));
            }
            for (home, other, at) in answer.differ {
                since.insert((Tag(home), node.clone(), other), Wall(at));
            }
        }
        let mut consistency = Consistency::default();
        for ((home, bucket), copies) in held.into_iter().filter(|((_, bucket), _)| *bucket < BUCKETS) {
            let replicas = mates.placement.replicas(home, bucket).filter(|node| !silent.contains(node));
            let replicas: Vec<_> =
                replicas.map(|node| (node.clone(), copies.get(node).copied().unwrap_or_default())).collect();
            consistency.compared += 1;
            consistency.records += replicas.iter().map(|(_, (_, records))| u64::from(*records)).sum::<u64>();
            if replicas.windows(2).any(|pair| pair[0].1.0 != pair[1].1.0) {
                let among = |node: &NodeName| replicas.iter().any(|(replica, _)| replica == node);
                let pairs = since.iter().filter(|((of, a, b), _)| *of == home && among(a) && among(b));
                let since = pairs.map(|(_, at)| *at).min();
                let held = replicas.into_iter().map(|(node, (_, records))| (node, records)).collect();
                consistency.differ.push(Disagreement { home, bucket, held, since });
            }
        }
        Surveyed { found: consistency, silent }
    }

    async fn ask(&self, question: &Question) -> Surveyed<Vec<(NodeName, Answer)>> {
        self.ask_within(question, TIMEOUT, Whom::All).await
    }

    async fn ask_within(
        &self,
        question: &Question,
        timeout: Duration,
        whom: Whom,
    ) -> Surveyed<Vec<(NodeName, Answer)>> {
        let mates = self.shared.mates.load_full();
        let bytes = encode(question);
        let mut asked = JoinSet::new();
        let peers = mates.peers.iter().filter(|(_, peer)| peer.alive || whom == Whom::All);
        for node in peers.map(|(node, _)| node.clone()) {
            let answer = self.network.ask(&node, SURVEY, bytes.clone(), timeout);
            asked.spawn(async move { (node, answer.await.and_then(|bytes| decode::<Answer>(&bytes))) });
        }
        let (survey, own) = (self.clone(), *question);
        let own = tokio::task::spawn_blocking(move || survey.own(&own)).await.unwrap_or_default();
        let mut surveyed = Surveyed { found: vec![(mates.me.clone(), own)], silent: Vec::new() };
        // A task that asks neither panics nor is aborted.
        while let Some(Ok((node, answer))) = asked.join_next().await {
            match answer {
                Some(answer) => surveyed.found.push((node, answer)),
                None => surveyed.silent.push(node),
            }
        }
        surveyed.silent.sort();
        surveyed
    }

    fn answer_one(&self, incoming: Incoming) {
        match (decode::<Question>(&incoming.bytes), incoming.reply) {
            (Some(question), Some(reply)) => {
                // Walks all that is held: not on the thread that serves the other nodes.
                let survey = self.clone();
                tokio::task::spawn_blocking(move || reply(encode(&survey.own(&question))));
            }
            _ => tracing::warn!(peer = %incoming.from, "a question about sessions cannot be read"),
        }
    }

    /// What this node itself says.
    fn own(&self, question: &Question) -> Answer {
        let Shared { table, clock, mates, counters, .. } = &*self.shared;
        let (mates, now) = (mates.load_full(), clock.mesh_wall());
        let first = || table.buckets().into_iter().filter(|(home, bucket)| mates.is_first(*home, *bucket));
        let mut answer = Answer::default();
        match question {
            Question::Counts => answer.counts = self.tally(),
            Question::Find(id) => {
                let records = table.find_all(&SessionId(*id), now);
                answer.records = records.iter().map(spell).collect();
            }
            Question::List { backend, limit } => {
                let of = |pin: &Pin| match backend {
                    Some(backend) => pin.assignment.backend == Some(BackendId(*backend)),
                    None => pin.assignment.backend.is_some(),
                };
                let pins = first().flat_map(|(home, bucket)| {
                    table.pins(home, bucket, now).into_iter().map(move |pin| Record { home, pin })
                });
                let listed = pins.filter(|record| of(&record.pin)).take((*limit as usize).min(LIST_MAX));
                answer.records = listed.map(|record| spell(&record)).collect();
            }
            Question::Fingerprints => {
                let of = |(home, bucket): (Tag, u16)| {
                    let records = table.bucket_len(home, bucket) as u32;
                    (home.0, bucket, table.fingerprint(home, bucket).0, records)
                };
                let mine = table.buckets().into_iter().filter(|(home, bucket)| mates.is_mine(*home, *bucket));
                answer.fingerprints = mine.map(of).collect();
                let differ = counters.differ.lock().unwrap_or_else(PoisonError::into_inner);
                answer.differ =
                    differ.iter().map(|((node, home), at)| (home.0, node.clone(), at.0)).collect();
            }
        }
        answer
    }

    /// The sessions this node answers for, by backend. Who asks while somebody counts waits for that.
    fn tally(&self) -> Vec<(u64, u64)> {
        let Shared { table, clock, mates, .. } = &*self.shared;
        let mut last = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        let began = clock.now();
        if let Some(tally) = &*last
            && began.saturating_duration_since(tally.ended) < tally.took * TALLY_REST
        {
            return tally.counts.clone();
        }
        let (mates, now) = (mates.load_full(), clock.mesh_wall());
        let mut counts: BTreeMap<u64, u64> = BTreeMap::new();
        let buckets = table.buckets().into_iter();
        for (home, bucket) in buckets.filter(|(home, bucket)| mates.is_first(*home, *bucket)) {
            let pins = table.pins(home, bucket, now);
            let backends = pins.iter().filter_map(|pin| pin.assignment.backend);
            backends.for_each(|backend| *counts.entry(backend.0).or_default() += 1);
        }
        let counts: Vec<_> = counts.into_iter().collect();
        let ended = clock.now();
        let took = ended.saturating_duration_since(began);
        *last = Some(Tally { ended, took, counts: counts.clone() });
        counts
    }
}

impl std::fmt::Debug for Survey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Survey").finish_non_exhaustive()
    }
}

impl Answer {
    fn records(&self) -> Vec<Record> {
        let read =
            |(home, pin): &(u32, Vec<u8>)| Some(Record { home: Tag(*home), pin: Pin::decode(pin).ok()? });
        self.records.iter().filter_map(read).collect()
    }
}

fn spell(record: &Record) -> (u32, Vec<u8>) {
    let pin: [u8; PIN_BYTES] = record.pin.encode();
    (record.home.0, pin.to_vec())
}

fn codec() -> impl Options {
    bincode::DefaultOptions::new().with_fixint_encoding().with_limit(MESSAGE_MAX_BYTES)
}

fn encode<T: Serialize>(message: &T) -> Bytes {
    let mut bytes = vec![VERSION];
    // What does not fit the channel is cut by the limits of its parts; else an empty answer, which nobody can read.
    bytes.extend(codec().serialize(message).unwrap_or_default());
    bytes.into()
}

fn decode<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> Option<T> {
    codec().deserialize(bytes.strip_prefix(&[VERSION])?).ok()
}

/// Both sides of the protocol, for [`crate::fuzzing`]: what is read is written, and read again.
#[cfg(any(test, fuzzing))]
pub(crate) fn try_decode(bytes: &[u8]) {
    if let Some(question) = decode::<Question>(bytes) {
        assert_eq!(encode(&question), bytes);
    }
    if let Some(answer) = decode::<Answer>(bytes) {
        assert!(answer.records().len() <= answer.records.len());
        assert_eq!(encode(&answer), bytes);
    }
}

#[cfg(any(test, fuzzing))]
pub(crate) fn golden() -> Vec<Vec<u8>> {
    let questions = [
        Question::Counts,
        Question::Find([7; 16]),
        Question::List { backend: Some(5), limit: 9 },
        Question::List { backend: None, limit: 9 },
        Question::Fingerprints,
    ];
    let node = NodeName::new("eu-1").expect("a valid name");
    let answer = Answer {
        counts: vec![(3, 4)],
        records: vec![(1, vec![0; PIN_BYTES])],
        fingerprints: vec![(1, 2, 3, 4)],
        differ: vec![(5, node, 6)],
    };
    questions.iter().map(encode).chain([encode(&answer)]).map(|bytes| bytes.to_vec()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_the_same_for_ever() {
        assert_eq!(encode(&Question::Counts)[..], [1, 0, 0, 0, 0]);
        assert_eq!(encode(&Question::Find([7; 16]))[..], [&[1, 1, 0, 0, 0][..], &[7; 16]].concat());
        let list = Question::List { backend: Some(5), limit: 9 };
        assert_eq!(encode(&list)[..], [1, 2, 0, 0, 0, 1, 5, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0]);
        let answer = Answer { counts: vec![(3, 4)], ..Answer::default() };
        let golden = [&[1, 1][..], &[0; 7], &[3], &[0; 7], &[4], &[0; 7], &[0; 24]].concat();
        assert_eq!(encode(&answer)[..], golden);
        assert!(decode::<Answer>(&golden).is_some() && decode::<Answer>(&golden[..40]).is_none());
    }

    #[test]
    fn a_full_answer_fits_the_channel() {
        let answer = Answer { records: vec![(1, vec![0; PIN_BYTES]); LIST_MAX], ..Answer::default() };
        assert!(encode(&answer).len() <= SURVEY.max_bytes && encode(&answer).len() > LIST_MAX);
        let fingerprints = vec![(1, 1, 1, 1); 8 * usize::from(BUCKETS)];
        let answer = Answer { fingerprints, ..Answer::default() };
        assert!(encode(&answer).len() > 8 * usize::from(BUCKETS));
    }
}
