//! What nodes say to each other about scaling. Version 3: a version byte, then bincode of [`WireMessage`].

use bincode::Options;
use bytes::Bytes;
use gossip::id::PoolName;
use serde::{Deserialize, Serialize};

use super::pulse::Pulse;
use super::turn::Ability;
use crate::timings::STEPS;

/// The longest message.
pub(super) const MESSAGE_MAX_BYTES: usize = 256 * 1024;
const VERSION: u8 = 3;
/// The longest word that is kept.
const WORD_MAX_CHARS: usize = 500;
/// The longest reason that goes with every pulse.
const REASON_MAX_CHARS: usize = 200;

/// What a decision is to bring a pool to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Plan {
    /// From so many, with those that are counted on though they are yet to come.
    pub(super) counted: u32,
    /// To so many.
    pub(super) wanted: u32,
}

/// What nodes say.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Message {
    /// What a node counts of its own requests, and whether it can act.
    Pulses(Vec<Pulse>),
    /// May I have this number? Answered.
    Ask(PoolName, u64, Plan),
    /// Yes.
    Granted,
    /// No; this is the greatest one that I know of, and so many backends I count on, if I count on any that are yet to come.
    Refused(u64, Option<u32>),
    /// A decision was made: its number, and its words.
    Decided(PoolName, u64, String),
    /// Nothing came of it: its number, its words, and whether nothing was even begun.
    Failed(PoolName, u64, String, bool),
}

#[derive(Serialize, Deserialize)]
enum WireMessage {
    Pulses(Vec<WirePulse>),
    Ask(PoolName, u64, u32, u32),
    Granted,
    Refused(u64, Option<u32>),
    Decided(PoolName, u64, String),
    Failed(PoolName, u64, String, bool),
}

#[derive(Serialize, Deserialize)]
struct WirePulse {
    pool: PoolName,
    in_flight: u32,
    requests: f32,
    /// Steps that are not 0.
    took: Vec<(u8, u32)>,
    unable: Option<String>,
    failures: u8,
}

fn options() -> impl Options {
    bincode::DefaultOptions::new().with_limit(MESSAGE_MAX_BYTES as u64 - 1)
}

/// A message's bytes; `None` when it is larger than any may be.
pub(super) fn encode(message: &Message) -> Option<Bytes> {
    let wire = match message.clone() {
        Message::Pulses(pulses) => WireMessage::Pulses(pulses.into_iter().map(pulse_to_wire).collect()),
        Message::Ask(pool, number, Plan { counted, wanted }) => {
            WireMessage::Ask(pool, number, counted, wanted)
        }
        Message::Granted => WireMessage::Granted,
        Message::Refused(number, coming) => WireMessage::Refused(number, coming),
        Message::Decided(pool, number, text) => WireMessage::Decided(pool, number, text),
        Message::Failed(pool, number, text, unbegun) => WireMessage::Failed(pool, number, text, unbegun),
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
        WireMessage::Ask(pool, number, counted, wanted) => {
            Message::Ask(pool, number, Plan { counted, wanted })
        }
        WireMessage::Granted => Message::Granted,
        WireMessage::Refused(number, coming) => Message::Refused(number, coming),
        WireMessage::Decided(pool, number, text) => {
            Message::Decided(pool, number, readable(&text, WORD_MAX_CHARS))
        }
        WireMessage::Failed(pool, number, text, unbegun) => {
            Message::Failed(pool, number, readable(&text, WORD_MAX_CHARS), unbegun)
        }
    })
}

/// Words as they are shown to people.
fn readable(text: &str, most: usize) -> String {
    text.chars().filter(|char| !char.is_control()).take(most).collect()
}

fn pulse_to_wire(pulse: Pulse) -> WirePulse {
    let took = pulse.took.iter().enumerate().filter(|(_, count)| **count > 0);
    WirePulse {
        took: took.map(|(at, count)| (at as u8, *count)).collect(),
        pool: pulse.pool,
        in_flight: pulse.in_flight,
        requests: pulse.requests,
        unable: pulse.ability.unable.map(|why| readable(&why, REASON_MAX_CHARS)),
        failures: pulse.ability.failures,
    }
}

fn pulse_from_wire(wire: WirePulse) -> Option<Pulse> {
    let mut took = [0; STEPS];
    for (at, count) in wire.took {
        *took.get_mut(usize::from(at))? = count;
    }
    let requests = Some(wire.requests).filter(|requests| requests.is_finite() && *requests >= 0.0)?;
    let unable = wire.unable.map(|why| readable(&why, REASON_MAX_CHARS));
    let ability = Ability { unable, failures: wire.failures };
    Some(Pulse { pool: wire.pool, in_flight: wire.in_flight, requests, took, ability })
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
    let pulse = Pulse { pool: pool.clone(), in_flight: 5, requests: 1.0, took, ability: Ability::default() };
    let ability = Ability { unable: Some("no".into()), failures: 2 };
    let unable = Pulse { ability, took: [0; STEPS], ..pulse.clone() };
    let messages = [
        Message::Pulses(vec![pulse, unable]),
        Message::Ask(pool.clone(), 4, Plan { counted: 2, wanted: 6 }),
        Message::Granted,
        Message::Refused(3, Some(5)),
        Message::Decided(pool.clone(), 4, "why".into()),
        Message::Failed(pool, 4, "why".into(), true),
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
        assert_eq!(golden[0], b"\x03\x00\x02\x03web\x05\x00\x00\x80\x3f\x01\x03\x07\x00\x00\x03web\x05\x00\x00\x80\x3f\x00\x01\x02no\x02");
        assert_eq!(golden[1], b"\x03\x01\x03web\x04\x02\x06");
        assert_eq!(golden[2], b"\x03\x02");
        assert_eq!(golden[3], b"\x03\x03\x03\x01\x05");
        assert_eq!(golden[4], b"\x03\x04\x03web\x04\x03why");
        assert_eq!(golden[5], b"\x03\x05\x03web\x04\x03why\x01");
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
