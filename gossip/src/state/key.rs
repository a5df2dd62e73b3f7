//! How the state is spelled as strings: the only file that knows.
//!
//! ```text
//! region zone mesh public version started draining rev      what a node says of itself, plain text
//! v:POOL   1 ‖ (backend 8 ‖ state 1 ‖ since 8)*               verdicts on one pool, base64
//! s:POOL   1 ‖ healthy 4 ‖ total 4 ‖ capacity 4 ‖ in flight 4    a pool's summary, base64
//! w:POOL   1 ‖ (backend 8 ‖ millis 8 ‖ length 1 ‖ text)*     why probes fail, base64
//! rtt      1 ‖ (node's tag 4 ‖ microseconds 4)*               round trips from this node, base64
//! suspects NAME@GENERATION,...                                  nodes of this one's region that it holds for silent
//! left     1                                                    goodbye
//! keys     ID@MILLIS,ID,...    ids of mesh keys in hexadecimal, the one in use first, with the time since when
//! format   1                                                    written last: before it the node is not known whole
//! ```
//!
//! Numbers are little-endian. A reader ignores keys, versions and entries that are newer than it, and everything that
//! breaks a limit; so nodes of neighbouring versions live in one mesh.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use super::node::{BackendState, FAILURE_MAX_BYTES, Failure, NodeRecord, PoolSummary, Verdict};
use crate::clock::{Hlc, Wall};
use crate::id::{BackendId, NodeName, PoolName, Tag};

/// The largest value that is written or read.
pub const VALUE_MAX_BYTES: usize = 60 * 1024;
/// More addresses than a node tells DNS.
const MAX_PUBLIC: usize = 64;
const MAX_POOLS: usize = 1024;
const MAX_VERSION_BYTES: usize = 64;
const VERDICT_BYTES: usize = 17;

const REGION: &str = "region";
const ZONE: &str = "zone";
const MESH: &str = "mesh";
const PUBLIC: &str = "public";
const VERSION: &str = "version";
const STARTED: &str = "started";
const DRAINING: &str = "draining";
const REVISION: &str = "rev";
const SUSPECTS: &str = "suspects";
const LEFT: &str = "left";
const FORMAT: &str = "format";
const KEYS: &str = "keys";
const RTT: &str = "rtt";
/// More nodes than round trips are told to.
const MAX_RTTS: usize = 1024;
/// More than a ring holds.
const MAX_KEYS: usize = 16;

/// Why something cannot be published.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// The packed value is larger than gossip carries.
    #[error("the verdicts of pool {pool} take {bytes} bytes, gossip carries {max}; split the pool")]
    TooLarge {
        /// Whose verdicts.
        pool: PoolName,
        /// How many bytes they take.
        bytes: usize,
        /// How many they may.
        max: usize,
    },
}

/// Everything one node gossips, decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NodeState {
    pub(crate) record: NodeRecord,
    pub(crate) verdicts: BTreeMap<PoolName, Vec<Verdict>>,
    pub(crate) summaries: BTreeMap<PoolName, PoolSummary>,
    pub(crate) failures: BTreeMap<PoolName, Vec<Failure>>,
    /// Round trips from it, by the tags of the nodes' names.
    pub(crate) rtts: BTreeMap<Tag, Duration>,
    /// Nodes of its region that it holds for silent, with the start of the life meant.
    pub(crate) suspects: Vec<(NodeName, Wall)>,
    pub(crate) left: bool,
}

/// The entries that spell a record, in the order in which they must be written.
pub(crate) fn record_entries(record: &NodeRecord) -> Vec<(String, String)> {
    let public = record.public.iter().take(MAX_PUBLIC).map(IpAddr::to_string).collect::<Vec<_>>().join(",");
    let mut version = record.version.clone();
    version.retain(|c| c.is_ascii_graphic());
    version.truncate(MAX_VERSION_BYTES);
    [
        (REGION, record.region.to_string()),
        (ZONE, record.zone.as_ref().map(ToString::to_string).unwrap_or_default()),
        (MESH, record.mesh.to_string()),
        (PUBLIC, public),
        (VERSION, version),
        (STARTED, record.started.0.to_string()),
        (DRAINING, u8::from(record.draining).to_string()),
        (REVISION, record.revision.map(|id| id.to_string()).unwrap_or_default()),
        (KEYS, spell_keys(&record.keys, record.key_since)),
        (FORMAT, "1".into()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}

/// Whether the entry completes a record: it must be the last of it that is written.
pub(crate) fn completes(key: &str) -> bool {
    key == FORMAT
}

/// The entry of one pool's verdicts.
pub(crate) fn verdicts_entry(pool: &PoolName, verdicts: &[Verdict]) -> Result<(String, String), StateError> {
    let mut bytes = Vec::with_capacity(1 + verdicts.len() * VERDICT_BYTES);
    bytes.push(1);
    for verdict in verdicts {
        bytes.extend(verdict.backend.0.to_le_bytes());
        bytes.push(state_code(verdict.state));
        bytes.extend(verdict.since.0.to_le_bytes());
    }
    let value = STANDARD_NO_PAD.encode(bytes);
    if value.len() > VALUE_MAX_BYTES {
        let (pool, bytes) = (pool.clone(), value.len());
        return Err(StateError::TooLarge { pool, bytes, max: VALUE_MAX_BYTES });
    }
    Ok((format!("v:{pool}"), value))
}

/// The entry of one pool's summary.
pub(crate) fn summary_entry(pool: &PoolName, summary: &PoolSummary) -> (String, String) {
    let mut bytes = vec![1];
    for number in [summary.healthy, summary.total, summary.capacity, summary.in_flight] {
        bytes.extend(number.to_le_bytes());
    }
    (format!("s:{pool}"), STANDARD_NO_PAD.encode(bytes))
}

/// The entry of why probes of one pool's backends fail. What does not fit is left out: it is told in words, the verdicts
/// say what counts.
pub(crate) fn failures_entry(pool: &PoolName, failures: &[Failure]) -> (String, String) {
    let mut bytes = vec![1];
    for failure in failures {
        let text = readable(&failure.text);
        let length = 17 + text.len();
        // Four characters carry three bytes.
        if (bytes.len() + length) * 4 / 3 + 4 > VALUE_MAX_BYTES {
            break;
        }
        bytes.extend(failure.backend.0.to_le_bytes());
        bytes.extend(failure.at.0.to_le_bytes());
        bytes.push(text.len() as u8);
        bytes.extend(text.as_bytes());
    }
    (format!("w:{pool}"), STANDARD_NO_PAD.encode(bytes))
}

/// The entry of the round trips from this node.
pub(crate) fn rtts_entry(rtts: &BTreeMap<Tag, Duration>) -> (String, String) {
    let mut bytes = vec![1];
    for (tag, rtt) in rtts.iter().take(MAX_RTTS) {
        bytes.extend(tag.0.to_le_bytes());
        bytes.extend(u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX).to_le_bytes());
    }
    (RTT.into(), STANDARD_NO_PAD.encode(bytes))
}

/// Whether the entry moved as it does all the time, which is no news: load and round trips.
pub(crate) fn is_gradual(key: &str, told: &str, now: &str) -> bool {
    let ability = |value| decode_summary(value).map(|s| PoolSummary { in_flight: 0, ..s });
    match key.split_once(':') {
        Some(("s", _)) => ability(told).is_some() && ability(told) == ability(now),
        _ => key == RTT,
    }
}

/// What may be shown of a peer's words on somebody's terminal.
fn readable(text: &str) -> String {
    let mut text: String = text.chars().filter(|char| !char.is_control()).collect();
    while text.len() > FAILURE_MAX_BYTES {
        text.pop();
    }
    text
}

/// The entry that names the silent nodes of the region.
pub(crate) fn suspects_entry(suspects: &[(NodeName, Wall)]) -> (String, String) {
    let names = suspects.iter().take(512).map(|(name, started)| format!("{name}@{}", started.0));
    (SUSPECTS.into(), names.collect::<Vec<_>>().join(","))
}

/// The entry that says goodbye.
pub(crate) fn left_entry() -> (String, String) {
    (LEFT.into(), "1".into())
}

/// Decodes the entries of the node `name`. `None` while they are not complete or say what no node can mean.
pub(crate) fn decode<'a>(
    name: &NodeName,
    entries: impl Iterator<Item = (&'a str, &'a str)>,
) -> Option<NodeState> {
    let mut plain = BTreeMap::new();
    let mut verdicts = BTreeMap::new();
    let mut summaries = BTreeMap::new();
    let mut failures = BTreeMap::new();
    for (key, value) in entries.filter(|(_, value)| value.len() <= VALUE_MAX_BYTES) {
        match key.split_once(':') {
            Some(("v", pool)) if verdicts.len() < MAX_POOLS => {
                if let (Ok(pool), Some(vector)) = (PoolName::new(pool), decode_verdicts(value)) {
                    verdicts.insert(pool, vector);
                }
            }
            Some(("w", pool)) if failures.len() < MAX_POOLS => {
                if let (Ok(pool), Some(told)) = (PoolName::new(pool), decode_failures(value)) {
                    failures.insert(pool, told);
                }
            }
            Some(("s", pool)) if summaries.len() < MAX_POOLS => {
                if let (Ok(pool), Some(summary)) = (PoolName::new(pool), decode_summary(value)) {
                    summaries.insert(pool, summary);
                }
            }
            _ => {
                plain.insert(key, value);
            }
        }
    }
    plain.get(FORMAT)?;
    let text = |key| plain.get(key).copied().unwrap_or_default();
    let (keys, key_since) = read_keys(text(KEYS));
    let zone = text(ZONE);
    let record = NodeRecord {
        name: name.clone(),
        region: text(REGION).parse().ok()?,
        zone: if zone.is_empty() { None } else { Some(zone.parse().ok()?) },
        mesh: text(MESH).parse::<SocketAddr>().ok()?,
        public: text(PUBLIC).split(',').filter_map(|ip| ip.parse().ok()).take(MAX_PUBLIC).collect(),
        version: text(VERSION).chars().filter(char::is_ascii_graphic).take(MAX_VERSION_BYTES).collect(),
        started: Wall(text(STARTED).parse().ok()?),
        draining: text(DRAINING) == "1",
        revision: text(REVISION).parse().ok(),
        keys,
        key_since,
    };
    let suspect = |entry: &str| {
        let (name, started) = entry.split_once('@')?;
        Some((NodeName::new(name).ok()?, Wall(started.parse().ok()?)))
    };
    let suspects = text(SUSPECTS).split(',').filter_map(suspect).take(512).collect();
    let rtts = decode_rtts(text(RTT)).unwrap_or_default();
    let left = text(LEFT) == "1";
    Some(NodeState { record, verdicts, summaries, failures, rtts, suspects, left })
}

fn spell_keys(keys: &[u32], since: Wall) -> String {
    let mut spelled = String::new();
    for (at, id) in keys.iter().take(MAX_KEYS).enumerate() {
        let (comma, since) = if at == 0 { ("", format!("@{}", since.0)) } else { (",", String::new()) };
        spelled.push_str(&format!("{comma}{id:08x}{since}"));
    }
    spelled
}

/// What makes no sense is left out: who knows no keys of a node waits for it to say them.
fn read_keys(text: &str) -> (Vec<u32>, Wall) {
    let (first, rest) = text.split_once(',').unwrap_or((text, ""));
    let (first, since) = first.split_once('@').unwrap_or((first, ""));
    let id = |text: &str| u32::from_str_radix(text, 16).ok();
    let Some(in_use) = id(first) else { return (Vec::new(), Wall(0)) };
    let others = rest.split(',').filter_map(id).take(MAX_KEYS - 1);
    (std::iter::once(in_use).chain(others).collect(), Wall(since.parse().unwrap_or(u64::MAX)))
}

fn decode_verdicts(value: &str) -> Option<Vec<Verdict>> {
    let bytes = STANDARD_NO_PAD.decode(value).ok()?;
    let (1, packed) = (*bytes.first()?, &bytes[1..]) else { return None };
    let verdict = |entry: &[u8]| {
        Some(Verdict {
            backend: BackendId(u64::from_le_bytes(entry[..8].try_into().ok()?)),
            state: state_of(entry[8])?,
            since: Hlc(u64::from_le_bytes(entry[9..].try_into().ok()?)),
        })
    };
    Some(packed.chunks_exact(VERDICT_BYTES).filter_map(verdict).collect())
}

fn decode_failures(value: &str) -> Option<Vec<Failure>> {
    let bytes = STANDARD_NO_PAD.decode(value).ok()?;
    let mut rest = bytes.strip_prefix(&[1])?;
    let mut failures = Vec::new();
    while let Some((backend, after)) = rest.split_first_chunk::<8>() {
        let (at, after) = after.split_first_chunk::<8>()?;
        let (length, after) = after.split_first()?;
        let (text, after) = after.split_at_checked(usize::from(*length))?;
        rest = after;
        let text = readable(std::str::from_utf8(text).ok()?);
        let (backend, at) = (BackendId(u64::from_le_bytes(*backend)), Wall(u64::from_le_bytes(*at)));
        failures.push(Failure { backend, at, text });
    }
    Some(failures)
}

fn decode_rtts(value: &str) -> Option<BTreeMap<Tag, Duration>> {
    let bytes = STANDARD_NO_PAD.decode(value).ok()?;
    let packed = bytes.strip_prefix(&[1])?;
    let rtt = |entry: &[u8]| {
        let (tag, micros) = entry.split_first_chunk::<4>()?;
        let micros = u32::from_le_bytes(micros.try_into().ok()?);
        Some((Tag(u32::from_le_bytes(*tag)), Duration::from_micros(micros.into())))
    };
    Some(packed.chunks_exact(8).take(MAX_RTTS).filter_map(rtt).collect())
}

fn decode_summary(value: &str) -> Option<PoolSummary> {
    let bytes = STANDARD_NO_PAD.decode(value).ok()?;
    let (1, packed) = (*bytes.first()?, &bytes[1..]) else { return None };
    let number = |at: usize| Some(u32::from_le_bytes(packed.get(at..at + 4)?.try_into().ok()?));
    Some(PoolSummary { healthy: number(0)?, total: number(4)?, capacity: number(8)?, in_flight: number(12)? })
}

fn state_code(state: BackendState) -> u8 {
    match state {
        BackendState::Unknown => 0,
        BackendState::Up => 1,
        BackendState::GoingDown => 2,
        BackendState::Down => 3,
        BackendState::GoingUp => 4,
        BackendState::Draining => 5,
        BackendState::Maintenance => 6,
        BackendState::Ejected => 7,
    }
}

fn state_of(code: u8) -> Option<BackendState> {
    Some(match code {
        0 => BackendState::Unknown,
        1 => BackendState::Up,
        2 => BackendState::GoingDown,
        3 => BackendState::Down,
        4 => BackendState::GoingUp,
        5 => BackendState::Draining,
        6 => BackendState::Maintenance,
        7 => BackendState::Ejected,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::RevisionId;
    use proptest::prelude::*;

    fn record() -> NodeRecord {
        NodeRecord {
            name: "eu-1".parse().unwrap(),
            region: "eu".parse().unwrap(),
            zone: Some("eu-a".parse().unwrap()),
            mesh: "10.0.0.1:7946".parse().unwrap(),
            public: vec!["198.51.100.10".parse().unwrap(), "2001:db8::10".parse().unwrap()],
            version: "0.1.0".into(),
            started: Wall(1_700_000_000_123),
            draining: true,
            revision: Some(RevisionId { epoch: 3, hash: [0xab; 32] }),
            keys: vec![0x5f0a_91c2, 0x01d3_b7aa],
            key_since: Wall(1_700_000_000_456),
        }
    }

    fn borrowed(entries: &[(String, String)]) -> impl Iterator<Item = (&str, &str)> {
        entries.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    #[test]
    fn what_is_written_is_read() {
        let record = record();
        let pool: PoolName = "web".parse().unwrap();
        let verdict = Verdict { backend: BackendId(7), state: BackendState::Down, since: Hlc(99) };
        let summary = PoolSummary { healthy: 1, total: 2, capacity: 300, in_flight: 4 };
        let suspects = vec![("eu-2".parse().unwrap(), Wall(5))];
        let mut entries = record_entries(&record);
        entries.push(verdicts_entry(&pool, &[verdict]).unwrap());
        entries.push(summary_entry(&pool, &summary));
        let failure = Failure { backend: BackendId(7), at: Wall(9), text: "HTTP 503".into() };
        entries.push(failures_entry(&pool, std::slice::from_ref(&failure)));
        let rtts = BTreeMap::from([(Tag::of("eu-2"), Duration::from_micros(80_123))]);
        entries.push(rtts_entry(&rtts));
        entries.push(suspects_entry(&suspects));
        entries.push(("newer".into(), "whatever".into()));
        let state = decode(&record.name, borrowed(&entries)).unwrap();
        assert_eq!(state.record, record);
        assert_eq!(state.verdicts, BTreeMap::from([(pool.clone(), vec![verdict])]));
        assert_eq!(state.summaries, BTreeMap::from([(pool.clone(), summary)]));
        assert_eq!((state.failures, state.rtts), (BTreeMap::from([(pool, vec![failure])]), rtts));
        assert_eq!(state.suspects, suspects);
        assert!(!state.left);
        entries.push(left_entry());
        assert!(decode(&record.name, borrowed(&entries)).unwrap().left);
        entries.retain(|(key, _)| key != "format");
        assert_eq!(decode(&record.name, borrowed(&entries)), None);
    }

    #[test]
    fn the_bytes_of_format_1() {
        let pool: PoolName = "web".parse().unwrap();
        let verdict =
            Verdict { backend: BackendId(0x0807060504030201), state: BackendState::Up, since: Hlc(9) };
        let (key, value) = verdicts_entry(&pool, &[verdict]).unwrap();
        assert_eq!((key.as_str(), value.as_str()), ("v:web", "AQECAwQFBgcIAQkAAAAAAAAA"));
        let (_, value) =
            summary_entry(&pool, &PoolSummary { healthy: 1, total: 2, capacity: 3, in_flight: 4 });
        assert_eq!(value, "AQEAAAACAAAAAwAAAAQAAAA");
        let failure = Failure { backend: BackendId(1), at: Wall(2), text: "no\u{1b}".repeat(9) };
        let (key, value) = failures_entry(&pool, &[failure]);
        assert_eq!(
            (key.as_str(), value.as_str()),
            ("w:web", "AQEAAAAAAAAAAgAAAAAAAAASbm9ub25vbm9ub25vbm9ub25v")
        );
        let (key, value) = rtts_entry(&BTreeMap::from([(Tag(1), Duration::from_micros(2))]));
        assert_eq!((key.as_str(), value.as_str()), ("rtt", "AQEAAAACAAAA"));
        let spelled =
            record_entries(&record()).into_iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>();
        let revision = format!("rev=3:{}", "ab".repeat(32));
        let expected = [
            "region=eu",
            "zone=eu-a",
            "mesh=10.0.0.1:7946",
            "public=198.51.100.10,2001:db8::10",
            "version=0.1.0",
            "started=1700000000123",
            "draining=1",
            &revision,
            "keys=5f0a91c2@1700000000456,01d3b7aa",
            "format=1",
        ];
        assert_eq!(spelled, expected);
    }

    #[test]
    fn load_is_no_news_and_ability_is() {
        let pool: PoolName = "web".parse().unwrap();
        let spell = |healthy, in_flight| {
            summary_entry(&pool, &PoolSummary { healthy, total: 2, capacity: 200, in_flight }).1
        };
        assert!(is_gradual("s:web", &spell(2, 3), &spell(2, 90)));
        assert!(!is_gradual("s:web", &spell(2, 3), &spell(1, 3)));
        assert!(
            !is_gradual("s:web", "?", "?") && !is_gradual("v:web", "a", "b") && !is_gradual(LEFT, "0", "1")
        );
        assert!(is_gradual(RTT, "a", "b"));
    }

    #[test]
    fn a_node_of_the_version_before_is_understood() {
        let mut entries = record_entries(&record());
        entries.retain(|(key, _)| key != KEYS);
        let state = decode(&record().name, borrowed(&entries)).unwrap();
        assert_eq!(state.record, NodeRecord { keys: Vec::new(), key_since: Wall(0), ..record() });
        assert_eq!(read_keys("x@1,2"), (Vec::new(), Wall(0)));
        assert_eq!(read_keys("1,zz,2"), (vec![1, 2], Wall(u64::MAX)), "without a time nothing is safe");
    }

    #[test]
    fn what_the_version_after_says_more_is_skipped_alone() {
        let coded = |bytes: &[&[u8]]| STANDARD_NO_PAD.encode(bytes.concat());
        let verdict = |backend: u64, state: u8| [&backend.to_le_bytes()[..], &[state], &[0; 8]].concat();
        // A state that is not known yet between two that are; and words behind the last one.
        let verdicts = coded(&[&[1], &verdict(1, 1), &verdict(2, 8), &verdict(3, 3), b"more"]);
        let read = decode_verdicts(&verdicts).unwrap();
        let read: Vec<_> = read.iter().map(|verdict| (verdict.backend.0, verdict.state)).collect();
        assert_eq!(read, [(1, BackendState::Up), (3, BackendState::Down)]);
        // Summaries and round trips that became longer.
        let numbers: Vec<u8> = (1_u32..=5).flat_map(u32::to_le_bytes).collect();
        let summary = PoolSummary { healthy: 1, total: 2, capacity: 3, in_flight: 4 };
        assert_eq!(decode_summary(&coded(&[&[1], &numbers])), Some(summary));
        let rtts = BTreeMap::from([(Tag(1), Duration::from_micros(2)), (Tag(3), Duration::from_micros(4))]);
        assert_eq!(decode_rtts(&coded(&[&[1], &numbers])), Some(rtts));
        // An entry of another format is as if it were not there, and the node is a member all the same.
        let mut entries = record_entries(&record());
        let say = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        entries.extend(["v:web", "s:web", "w:web", RTT].map(|key| say(key, &coded(&[&[2], &numbers]))));
        entries.extend([say("z:web", "x"), say("climate", "mild"), say(SUSPECTS, "eu-2@5@6,eu-3@7,?")]);
        entries.iter_mut().filter(|(key, _)| key == FORMAT).for_each(|(_, format)| *format = "2".into());
        let state = decode(&record().name, borrowed(&entries)).unwrap();
        assert_eq!(state.record, record());
        assert!(state.verdicts.is_empty() && state.summaries.is_empty());
        assert!(state.failures.is_empty() && state.rtts.is_empty());
        assert_eq!(state.suspects, [("eu-3".parse().unwrap(), Wall(7))]);
    }

    #[test]
    fn a_vector_too_large_for_gossip_is_refused_when_written() {
        let verdict = Verdict { backend: BackendId(7), state: BackendState::Up, since: Hlc(99) };
        let error = verdicts_entry(&"web".parse().unwrap(), &vec![verdict; 4000]).unwrap_err();
        assert!(matches!(error, StateError::TooLarge { .. }));
        assert!(verdicts_entry(&"web".parse().unwrap(), &vec![verdict; 2600]).is_ok());
    }

    proptest! {
        #[test]
        fn random_entries_never_panic(
            entries in prop::collection::vec(("(region|mesh|started|format|suspects|keys|rtt|w:a|v:a|s:b|[a-z:]{0,5})", ".{0,60}"), 0..20)
        ) {
            let _ = decode(&"n".parse().unwrap(), borrowed(&entries));
        }

        #[test]
        fn random_vectors_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let value = STANDARD_NO_PAD.encode(bytes);
            let _ = decode_verdicts(&value);
            let _ = decode_failures(&value);
            let _ = decode_rtts(&value);
            let _ = decode_summary(&value);
        }
    }
}
