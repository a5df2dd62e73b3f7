//! How much a message of the membership protocol unpacks to, before it is unpacked. Pure.
//!
//! ```text
//!   magic 2 │ version 1 │ kind 1 │ SynAck: digest │ SynAck, Ack: blocks     little endian
//!   digest  nodes 2 │ (name: length 2, bytes │ generation 8 │ 4 or 6, address, port 2 │ three numbers of 8)*
//!   block   1 packed, 2 plain │ length 2 │ bytes                            0 ends the list
//! ```
//!
//! A packed block of twenty bytes unpacks to 64 KiB, and the library takes any number of them. Whoever holds the mesh's key
//! could fill a node's memory with one message of 128 KiB.

/// The most packed blocks in a message. The library makes one of every 16 KiB at least and none of its messages longer than
/// 64 KiB: so it may pack them to a thirty-second.
const PACKED_MAX: usize = 128;

const SYN_ACK: u8 = 1;
const ACK: u8 = 2;

/// Whether the library may unpack this. What is cut or no message at all it refuses itself.
pub(super) fn fit(message: &[u8]) -> bool {
    packed(message).is_none_or(|packed| packed <= PACKED_MAX)
}

/// The packed blocks of a message as far as they go; `None` when it has none to have.
fn packed(message: &[u8]) -> Option<usize> {
    let mut rest = message.get(3..)?;
    match take::<1>(&mut rest)? {
        [SYN_ACK] => skip_digest(&mut rest)?,
        [ACK] => {}
        _ => return None,
    }
    let mut count = 0;
    while let Some([kind @ (1 | 2)]) = take::<1>(&mut rest) {
        count += usize::from(kind == 1);
        if skip_sized(&mut rest).is_none() {
            break;
        }
    }
    Some(count)
}

fn skip_digest(rest: &mut &[u8]) -> Option<()> {
    for _ in 0..u16::from_le_bytes(take(rest)?) {
        skip_sized(rest)?;
        skip(rest, 8)?;
        match take::<1>(rest)? {
            [4] => skip(rest, 4)?,
            [6] => skip(rest, 16)?,
            _ => return None,
        }
        skip(rest, 2 + 3 * 8)?;
    }
    Some(())
}

fn skip_sized(rest: &mut &[u8]) -> Option<()> {
    let length = u16::from_le_bytes(take(rest)?);
    skip(rest, usize::from(length))
}

fn skip(rest: &mut &[u8], count: usize) -> Option<()> {
    *rest = rest.get(count..)?;
    Some(())
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, behind) = rest.split_first_chunk::<N>()?;
    *rest = behind;
    Some(*taken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzzing::membership_golden;

    /// The messages without the frame that says where the sender is.
    fn golden() -> Vec<Vec<u8>> {
        membership_golden().into_iter().map(|bytes| bytes[8..].to_vec()).collect()
    }

    #[test]
    fn packed_blocks_are_counted() {
        let counted: Vec<_> = golden().iter().map(|message| packed(message)).collect();
        assert_eq!(counted, [None, Some(0), Some(1), Some(0), Some(1), None]);
        assert!(golden().iter().all(|message| fit(message)));
    }

    #[test]
    fn a_message_of_many_is_refused_and_never_unpacked() {
        // A frame of Zstandard with one block that repeats a zero 65,535 times (RFC 8878 §3.1.1.2.2).
        let size: u32 = 65_535 << 3 | 1 << 1 | 1;
        let frame =
            [&[0x28, 0xb5, 0x2f, 0xfd, 0x60, 0xff, 0xfe][..], &size.to_le_bytes()[..3], &[0]].concat();
        let block = [&[1][..], &(frame.len() as u16).to_le_bytes(), &frame].concat();
        let message = |blocks: usize| [&[0x53, 0xb0, 0, ACK][..], &block.repeat(blocks), &[0]].concat();
        assert!(fit(&message(PACKED_MAX)) && !fit(&message(PACKED_MAX + 1)));
        let framed = [&[1, 4, 127, 0, 0, 1, 0, 1][..], &message(9000)].concat();
        assert!(framed.len() < crate::membership::CHANNEL.max_bytes);
        let used = || assert!(crate::membership::unframe(&framed).is_none());
        assert!(mutate::most_bytes(used) < 1 << 20);
    }
}
