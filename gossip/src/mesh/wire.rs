//! The bytes of the mesh protocol, version 1 ([`super::version`]).
//!
//! ```text
//! datagram   channel 1 ‖ payload
//! message    one unidirectional stream:  channel 1 ‖ payload, then end of stream
//! exchange   one bidirectional stream:   channel 1 ‖ payload, end  ▶
//!                                        ◀ payload, end            (a reset refuses it)
//! ```

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use quinn::{RecvStream, VarInt};

/// The peer asked for what this side cannot take: unknown channel, full queue, too large.
pub(crate) const REFUSED: VarInt = VarInt::from_u32(1);
/// The node leaves or stops.
pub(crate) const GOODBYE: VarInt = VarInt::from_u32(2);
/// The connection was replaced by another, or its peer left the mesh.
pub(crate) const REPLACED: VarInt = VarInt::from_u32(3);

/// The node goes on as another process: what was not acknowledged is to be asked again, by a new connection.
pub(crate) const MOVED: VarInt = VarInt::from_u32(4);

/// How long a stream may take to arrive whole. A peer that dribbles is cut.
pub(crate) const STREAM_PATIENCE: Duration = Duration::from_secs(10);

/// `payload` with its channel in front.
pub(crate) fn framed(channel: u8, payload: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(1 + payload.len());
    bytes.put_u8(channel);
    bytes.put_slice(payload);
    bytes.freeze()
}

/// A datagram's channel and payload.
pub(crate) fn unframed(mut datagram: Bytes) -> Option<(u8, Bytes)> {
    let channel = *datagram.first()?;
    let payload = datagram.split_off(1);
    Some((channel, payload))
}

/// The first byte of a stream.
pub(crate) async fn read_channel(stream: &mut RecvStream) -> Option<u8> {
    let mut channel = [0];
    stream.read_exact(&mut channel).await.ok()?;
    Some(channel[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_of_a_frame() {
        assert_eq!(&framed(7, b"abc")[..], b"\x07abc");
        assert_eq!(unframed(framed(7, b"abc")), Some((7, Bytes::from_static(b"abc"))));
        assert_eq!(unframed(framed(7, b"")), Some((7, Bytes::new())));
        assert_eq!(unframed(Bytes::new()), None);
    }
}
