//! This crate's decoders of what others wrote, by name, with golden bytes: for the fuzz targets (`cfg(fuzzing)`) and for
//! the test below. In no other build.
//!
//! A decoder is called as the code that receives calls it; what it must not do is panic, or hold much more memory than
//! the bytes it was given.

use bytes::Bytes;

use crate::agent::control::{Control, decode_number, decode_owner, encode_number, encode_owner};
use crate::clock::{Clock, Hlc, Wall};
use crate::fastlane::{LaneReceiver, LaneSender};
use crate::id::{BackendId, NodeName, PoolName, RevisionId, Tag};
use crate::keyring;
use crate::membership;
use crate::mesh::wire::{framed, unframed};
use crate::peers::Peers;
use crate::state::key::{decode, left_entry, record_entries, summary_entry, suspects_entry, verdicts_entry};
use crate::state::{BackendState, NodeRecord, PoolSummary, Verdict};

/// A decoder's name, the decoder, and its golden bytes.
pub type Decoder = (&'static str, fn(&[u8]), fn() -> Vec<Vec<u8>>);

/// All of them.
pub const DECODERS: [Decoder; 7] = [
    ("datagram", datagram, || vec![framed(7, b"abc").to_vec()]),
    ("control", control, control_golden),
    ("fast-lane", fast_lane, fast_lane_golden),
    ("state", state, state_golden),
    ("membership", membership, membership_golden),
    ("keyring", keyring, keyring_golden),
    ("peers", peers, peers_golden),
];

/// The frame of a datagram of the mesh.
pub fn datagram(bytes: &[u8]) {
    if let Some((channel, payload)) = unframed(Bytes::copy_from_slice(bytes)) {
        assert_eq!(framed(channel, &payload), bytes);
    }
}

/// What agents ask each other, and the answers.
pub fn control(bytes: &[u8]) {
    if let Some(control) = Control::decode(bytes) {
        assert_eq!(Control::decode(&control.encode()), Some(control));
    }
    if let Some(owner) = decode_owner(bytes) {
        assert_eq!(decode_owner(&encode_owner(owner)), Some(owner));
    }
    if let Some(number) = decode_number(bytes) {
        assert_eq!(encode_number(number), bytes);
    }
}

/// Datagrams of one sender, cut out of the bytes: length 2, datagram, and so on; the clock goes on between them.
pub fn fast_lane(bytes: &[u8]) {
    let (clock, mut receiver) = (Clock::simulated(Wall(0)), LaneReceiver::default());
    let mut rest = bytes;
    while let Some((length, behind)) = rest.split_first_chunk::<2>() {
        let (datagram, behind) = behind.split_at(usize::from(u16::from_le_bytes(*length)).min(behind.len()));
        rest = behind;
        drop(receiver.datagram(&name(), datagram, clock.now()));
        clock.advance(std::time::Duration::from_millis(700));
        drop(receiver.expire(clock.now()));
    }
}

/// What a node gossips: lines of `key=value`.
pub fn state(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let entries = text.lines().filter_map(|line| line.split_once('='));
    if let Some(state) = decode(&name(), entries) {
        let again = record_entries(&state.record);
        let again = decode(&name(), again.iter().map(|(key, value)| (key.as_str(), value.as_str())));
        assert_eq!(again.map(|state| state.record), Some(state.record));
    }
}

/// A message of the membership protocol.
pub fn membership(bytes: &[u8]) {
    drop(membership::unframe(bytes));
}

/// The file with the mesh's keys.
pub fn keyring(bytes: &[u8]) {
    if let Ok(ring) = keyring::parse(&String::from_utf8_lossy(bytes)) {
        assert!(keyring::parse(&ring.text()) == Ok(ring));
    }
}

/// The file with the peers met.
pub fn peers(bytes: &[u8]) {
    let peers = Peers::parse(&String::from_utf8_lossy(bytes));
    assert_eq!(Peers::parse(&peers.text()).text(), peers.text());
}

fn name() -> NodeName {
    "eu-1".parse().expect("a valid name")
}

fn control_golden() -> Vec<Vec<u8>> {
    let addr = "10.0.0.1:7946".parse().expect("an address");
    let asked = [
        Control::MayI { generation: 5, addr },
        Control::WallTime,
        Control::WhichLife,
        Control::Goodbye { generation: 258 },
    ];
    let answers = [encode_owner(Some(addr)), encode_owner(None), encode_number(77)];
    asked.iter().map(Control::encode).chain(answers).map(|bytes| bytes.to_vec()).collect()
}

fn fast_lane_golden() -> Vec<Vec<u8>> {
    let long: Vec<_> = (1..=90).map(|number| (BackendId(number), number as u32)).collect();
    let in_a_row = |loads: &[(BackendId, u32)]| -> Vec<u8> {
        let beats = LaneSender::new(9).beat(loads, &[Tag(9)].into(), 1);
        beats.iter().flat_map(|beat| [&(beat.len() as u16).to_le_bytes()[..], beat].concat()).collect()
    };
    vec![in_a_row(&[]), in_a_row(&[(BackendId(5), 6), (BackendId(7), 1)]), in_a_row(&long)]
}

fn state_golden() -> Vec<Vec<u8>> {
    let record = NodeRecord {
        name: name(),
        region: "eu".parse().expect("a valid name"),
        zone: "eu-a".parse().ok(),
        mesh: "10.0.0.1:7946".parse().expect("an address"),
        public: vec!["198.51.100.10".parse().expect("an address")],
        version: "0.1.0".into(),
        started: Wall(1_700_000_000_123),
        draining: true,
        revision: Some(RevisionId { epoch: 3, hash: [0xab; 32] }),
        keys: vec![0x5f0a_91c2, 0x01d3_b7aa],
        key_since: Wall(1_700_000_000_456),
    };
    let pool: PoolName = "web".parse().expect("a valid name");
    let verdict = Verdict { backend: BackendId(7), state: BackendState::Down, since: Hlc(99) };
    let mut entries = record_entries(&record);
    entries.extend(verdicts_entry(&pool, &[verdict, verdict]));
    entries.push(summary_entry(&pool, &PoolSummary { healthy: 1, total: 2, capacity: 300, in_flight: 4 }));
    entries.push(suspects_entry(&[(name(), Wall(5))]));
    let spell = |entries: &[(String, String)]| {
        entries.iter().map(|(key, value)| format!("{key}={value}\n")).collect::<String>().into_bytes()
    };
    let whole = spell(&entries);
    entries.push(left_entry());
    vec![whole, spell(&entries)]
}

/// Written out: the library that reads them makes them nowhere but in its own exchange.
pub(crate) fn membership_golden() -> Vec<Vec<u8>> {
    let string = |text: &str| [&(text.len() as u16).to_le_bytes()[..], text.as_bytes()].concat();
    let number = |number: u64| number.to_le_bytes().to_vec();
    let id = [string("eu-1"), number(7), vec![4, 10, 0, 0, 1, 0x0a, 0x1f]].concat();
    let digest = [vec![1, 0], id.clone(), number(3), number(0), number(9)].concat();
    let ops = [
        [vec![0], id, number(0), number(0)].concat(),
        [vec![1], string("region"), string("eu"), number(1), vec![0]].concat(),
        [vec![2], number(9)].concat(),
    ]
    .concat();
    let block = |kind: u8, bytes: &[u8]| [&[kind], &(bytes.len() as u16).to_le_bytes()[..], bytes].concat();
    // A frame of Zstandard (RFC 8878 §3.1.1) with one raw block.
    let size = (ops.len() as u32) << 3 | 1;
    let packed =
        [&[0x28, 0xb5, 0x2f, 0xfd, 0x20, ops.len() as u8][..], &size.to_le_bytes()[..3], &ops].concat();
    let plain = [block(2, &ops), vec![0]].concat();
    let packed = [block(1, &packed), vec![0]].concat();
    let message = |kind: u8, parts: &[&[u8]]| {
        [&[1, 4, 10, 0, 0, 1, 0x1f, 0x0a, 0x53, 0xb0, 0, kind][..], &parts.concat()].concat()
    };
    vec![
        message(0, &[&digest, &string("meridian")]),
        message(1, &[&digest, &plain]),
        message(1, &[&digest, &packed]),
        message(2, &[&plain]),
        message(2, &[&packed, &[]]),
        message(3, &[]),
    ]
}

fn keyring_golden() -> Vec<Vec<u8>> {
    let text = "meridian-keyring 1\n# Whoever reads this file can join the mesh. id, role, secret:\n";
    vec![text.into(), keyring::Keyring::generate().text().into_bytes()]
}

fn peers_golden() -> Vec<Vec<u8>> {
    vec![b"meridian-peers 1\ngeneration 7\nb 10.0.0.2:7946 1700000000\n".to_vec()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_messages_are_read() {
        for bytes in membership_golden() {
            assert!(membership::unframe(&bytes).is_some(), "{bytes:02x?}");
        }
        for bytes in state_golden() {
            assert!(bytes.starts_with(b"region=eu\n"), "{bytes:02x?}");
        }
    }

    #[test]
    fn changed_golden_bytes_are_survived() {
        mutate::survive(&DECODERS, |name| match name {
            // A block is unpacked into a buffer of 64 KiB, and an entry of 9 bytes takes a hundred.
            "membership" => mutate::Room { bytes: 2 << 20, times: 64 },
            _ => mutate::Room { bytes: 64 << 10, times: 64 },
        });
    }
}
