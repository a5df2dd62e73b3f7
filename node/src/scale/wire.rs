//! What nodes say to each other about scaling. Version 1: a version byte, then bincode of [`WireMessage`].

use bincode::Options;
use bytes::Bytes;
use gossip::id::PoolName;
use serde::{Deserialize, Serialize};

use super::pulse::Pulse;
use crate::timings::STEPS;

/// The longest message.
pub(super) const MESSAGE_MAX_BYTES: usize = 256 * 1024;
const VERSION: u8 = 1;

/// What nodes say.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Message {
    /// What a node counts of its own requests.
    Pulses(Vec<Pulse>),
    /// May I have this number? Answered.
    Ask(PoolName, u64),
    /// Yes.
    Granted,
    /// No; this is the greatest one that I know of.
    Refused(u64),
    /// A decision was made: its number, and its words.
    Decided(PoolName, u64, String),
}

#[derive(Serialize, Deserialize)]
enum WireMessage {
    Pulses(Vec<WirePulse>),
    Ask(PoolName, u64),
    Granted,
    Refused(u64),
    Decided(PoolName, u64, String),
}

#[derive(Serialize, Deserialize)]
struct WirePulse {
    pool: PoolName,
    in_flight: u32,
    requests: f32,
    /// Steps that are not 0.
    took: Vec<(u8, u32)>,
}

fn options() -> impl Options {
    bincode::DefaultOptions::new().with_limit(MESSAGE_MAX_BYTES as u64 - 1)
}

/// A message's bytes; `None` when it is larger than any may be.
pub(super) fn encode(message: &Message) -> Option<Bytes> {
    let wire = match message.clone() {
        Message::Pulses(pulses) => WireMessage::Pulses(pulses.into_iter().map(pulse_to_wire).collect()),
        Message::Ask(pool, number) => WireMessage::Ask(pool, number),
        Message::Granted => WireMessage::Granted,
        Message::Refused(number) => WireMessage::Refused(number),
        Message::Decided(pool, number, text) => WireMessage::Decided(pool, number, text),
    };
    let mut bytes = vec![VERSION];
    options().serialize_into(&mut bytes, &wire).ok()?;
    Some(bytes.into())
}

/// A message from bytes; `None` when they are none of this version.
pub(super) fn decode(bytes: &[u8]) -> Option<Message> {
    let (&version, body) = bytes.split_first()?;
    if version != VERSION {
        return None;
    }
    Some(match options().deserialize(body).ok()? {
        WireMessage::Pulses(pulses) => {
            Message::Pulses(pulses.into_iter().map(pulse_from_wire).collect::<Option<_>>()?)
        }
        WireMessage::Ask(pool, number) => Message::Ask(pool, number),
        WireMessage::Granted => Message::Granted,
        WireMessage::Refused(number) => Message::Refused(number),
        WireMessage::Decided(pool, number, text) => {
            let text = text.chars().filter(|char| !char.is_control()).take(500).collect();
            Message::Decided(pool, number, text)
        }
    })
}

fn pulse_to_wire(pulse: Pulse) -> WirePulse {
    let took = pulse.took.iter().enumerate().filter(|(_, count)| **count > 0);
    WirePulse {
        took: took.map(|(at, count)| (at as u8, *count)).collect(),
        pool: pulse.pool,
        in_flight: pulse.in_flight,
        requests: pulse.requests,
    }
}

fn pulse_from_wire(wire: WirePulse) -> Option<Pulse> {
    let mut took = [0; STEPS];
    for (at, count) in wire.took {
        *took.get_mut(usize::from(at))? = count;
    }
    let requests = Some(wire.requests).filter(|requests| requests.is_finite() && *requests >= 0.0)?;
    Some(Pulse { pool: wire.pool, in_flight: wire.in_flight, requests, took })
}

/// Whether bytes that are read as a message are written and read as the same.
#[cfg(any(test, fuzzing))]
pub(crate) fn is_stable(bytes: &[u8]) -> bool {
    decode(bytes).is_none_or(|message| encode(&message).and_then(|bytes| decode(&bytes)) == Some(message))
}

/// One message of each kind.
#[cfg(any(test, fuzzing))]
pub(crate) fn golden() -> Vec<Vec<u8>> {
    let pool = PoolName::new("web").expect("a name");
    let mut took = [0; STEPS];
    took[3] = 7;
    let pulse = Pulse { pool: pool.clone(), in_flight: 5, requests: 1.0, took };
    let messages = [
        Message::Pulses(vec![pulse]),
        Message::Ask(pool.clone(), 4),
        Message::Granted,
        Message::Refused(3),
        Message::Decided(pool, 4, "why".into()),
    ];
    messages.iter().filter_map(encode).map(|bytes| bytes.to_vec()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn golden_bytes() {
        let golden = golden();
        assert_eq!(golden[0], b"\x01\x00\x01\x03web\x05\x00\x00\x80\x3f\x01\x03\x07");
        assert_eq!(golden[1], b"\x01\x01\x03web\x04");
        assert_eq!(golden[2], b"\x01\x02");
        assert_eq!(golden[3], b"\x01\x03\x03");
        assert_eq!(golden[4], b"\x01\x04\x03web\x04\x03why");
        for bytes in golden {
            assert_eq!(encode(&decode(&bytes).unwrap()).unwrap(), bytes);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = decode(&bytes);
        }
    }
}
