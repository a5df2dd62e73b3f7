//! What agents ask each other.
//!
//! ```text
//! version 1 ‖ 1 ‖ generation 8 ‖ address     exchange: may I have the name in my certificate?
//!     answer  version 1 ‖ 0                      nobody else has it, as far as I know
//!             version 1 ‖ 1 ‖ address            the living node there has it
//! version 1 ‖ 2                              exchange: what is your wall time?
//!     answer  version 1 ‖ milliseconds 8
//! version 1 ‖ 3                              exchange: which life of yours is this?
//!     answer  version 1 ‖ generation 8
//! version 1 ‖ 4 ‖ generation 8               message: goodbye
//! version 1 ‖ 5                              message: my next life, in another process, takes over
//! ```
//!
//! Numbers are little-endian; an address is text.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

use crate::clock::{Clock, Wall};
use crate::id::NodeName;
use crate::mesh::{Channel, Mesh};
use crate::offset;

pub(super) const CHANNEL: Channel = Channel { id: 3, name: "control", max_bytes: 256, queue: 256 };

const VERSION: u8 = 1;

/// What one agent says to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Control {
    MayI { generation: u64, addr: SocketAddr },
    WallTime,
    WhichLife,
    Goodbye { generation: u64 },
    HandsOver,
}

impl Control {
    pub(crate) fn encode(&self) -> Bytes {
        let mut bytes = vec![VERSION];
        match self {
            Self::MayI { generation, addr } => {
                bytes.push(1);
                bytes.extend(generation.to_le_bytes());
                bytes.extend(addr.to_string().as_bytes());
            }
            Self::WallTime => bytes.push(2),
            Self::WhichLife => bytes.push(3),
            Self::Goodbye { generation } => {
                bytes.push(4);
                bytes.extend(generation.to_le_bytes());
            }
            Self::HandsOver => bytes.push(5),
        }
        bytes.into()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let [VERSION, kind, rest @ ..] = bytes else { return None };
        Some(match kind {
            1 => {
                let (generation, addr) = rest.split_first_chunk::<8>()?;
                let addr = std::str::from_utf8(addr).ok()?.parse().ok()?;
                Self::MayI { generation: u64::from_le_bytes(*generation), addr }
            }
            2 => Self::WallTime,
            3 => Self::WhichLife,
            4 => Self::Goodbye { generation: u64::from_le_bytes(rest.try_into().ok()?) },
            5 => Self::HandsOver,
            _ => return None,
        })
    }
}

/// The answer to [`Control::MayI`]: who has the name already.
pub(crate) fn encode_owner(owner: Option<SocketAddr>) -> Bytes {
    match owner {
        None => vec![VERSION, 0].into(),
        Some(addr) => [&[VERSION, 1], addr.to_string().as_bytes()].concat().into(),
    }
}

/// Reads the answer to [`Control::MayI`]; `None` when it makes no sense.
pub(crate) fn decode_owner(bytes: &[u8]) -> Option<Option<SocketAddr>> {
    match bytes {
        [VERSION, 0] => Some(None),
        [VERSION, 1, addr @ ..] => Some(Some(std::str::from_utf8(addr).ok()?.parse().ok()?)),
        _ => None,
    }
}

/// The answer to [`Control::WallTime`] and [`Control::WhichLife`].
pub(crate) fn encode_number(number: u64) -> Bytes {
    [&[VERSION][..], &number.to_le_bytes()].concat().into()
}

/// Reads a number that answers.
pub(crate) fn decode_number(bytes: &[u8]) -> Option<u64> {
    let [VERSION, number @ ..] = bytes else { return None };
    Some(u64::from_le_bytes(number.try_into().ok()?))
}

/// Reads the answer to [`Control::WallTime`].
fn decode_wall(bytes: &[u8]) -> Option<Wall> {
    decode_number(bytes).map(Wall)
}

/// Asks a peer for its wall time: how far it is ahead, in milliseconds. `None` without an answer.
pub(super) async fn ask_clock(mesh: Mesh, clock: Clock, peer: NodeName) -> Option<i64> {
    let asked = clock.wall();
    let answer =
        mesh.exchange(&peer, CHANNEL, Control::WallTime.encode(), Duration::from_secs(1)).await.ok()?;
    let answered = clock.wall();
    // After a long way there is no telling how much of it was the way there.
    let short = answered.since(asked) <= Duration::from_millis(500);
    Some(offset::measure(asked, decode_wall(&answer)?, answered)).filter(|_| short)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_bytes_of_version_1() {
        let addr: SocketAddr = "10.0.0.1:7".parse().unwrap();
        let all = [
            (Control::MayI { generation: 5, addr }, &b"\x01\x01\x05\0\0\0\0\0\0\x0010.0.0.1:7"[..]),
            (Control::WallTime, b"\x01\x02"),
            (Control::WhichLife, b"\x01\x03"),
            (Control::Goodbye { generation: 258 }, b"\x01\x04\x02\x01\0\0\0\0\0\0"),
            (Control::HandsOver, b"\x01\x05"),
        ];
        for (control, bytes) in all {
            assert_eq!(&control.encode()[..], bytes);
            assert_eq!(Control::decode(bytes), Some(control));
        }
        assert_eq!(&encode_owner(Some(addr))[..], b"\x01\x0110.0.0.1:7");
        assert_eq!(decode_owner(&encode_owner(Some(addr))), Some(Some(addr)));
        assert_eq!(decode_owner(&encode_owner(None)), Some(None));
        assert_eq!(decode_number(&encode_number(77)), Some(77));
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..40), kind in 0u8..6) {
            Control::decode(&bytes);
            Control::decode(&[&[1, kind][..], &bytes].concat());
            decode_owner(&bytes);
            decode_owner(&[&[1, 1][..], &bytes].concat());
            decode_number(&bytes);
        }
    }
}
