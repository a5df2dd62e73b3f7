//! Padding of answers (RFC 7830): encrypted messages of equal length tell an eavesdropper nothing by it.

use super::query::HEADER_BYTES;
use crate::zone::Kind;

const OPTION_PADDING: u16 = 12;
/// Answers become a multiple of this long (RFC 8467 §4.1).
const BLOCK_BYTES: usize = 468;
const OPTION_HEAD_BYTES: usize = 4;
const MAX_MESSAGE_BYTES: usize = 65_535;

/// Pads an answer whose question was padded, when its OPT record ends it; else leaves it as it is.
pub(crate) fn pad(query: &[u8], answer: &mut Vec<u8>) {
    let asked = opt_data(query).is_some_and(|(start, end)| has_option(&query[start..end], OPTION_PADDING));
    let Some((start, end)) = opt_data(answer).filter(|(_, end)| asked && *end == answer.len()) else {
        return;
    };
    let least = answer.len() + OPTION_HEAD_BYTES;
    let padded = least.next_multiple_of(BLOCK_BYTES).min(MAX_MESSAGE_BYTES);
    let Some(padding) = padded.checked_sub(least) else { return };
    let Ok(data) = u16::try_from(end - start + OPTION_HEAD_BYTES + padding) else { return };
    answer[start - 2..start].copy_from_slice(&data.to_be_bytes());
    answer.extend_from_slice(&OPTION_PADDING.to_be_bytes());
    answer.extend_from_slice(&(padding as u16).to_be_bytes());
    answer.resize(padded, 0);
}

/// Where the data of a message's OPT record begins and ends. `None`: it has none, or cannot be read.
fn opt_data(message: &[u8]) -> Option<(usize, usize)> {
    let number = |at: usize| Some(u16::from_be_bytes([*message.get(at)?, *message.get(at + 1)?]));
    let mut at = HEADER_BYTES;
    for _ in 0..number(4)? {
        at = after_name(message, at)? + 4;
    }
    let records = usize::from(number(6)?) + usize::from(number(8)?) + usize::from(number(10)?);
    for _ in 0..records {
        at = after_name(message, at)?;
        let (kind, start) = (number(at)?, at + 10);
        let end = start + usize::from(number(at + 8)?);
        if end > message.len() {
            return None;
        }
        if kind == Kind::OPT.0 {
            return Some((start, end));
        }
        at = end;
    }
    None
}

fn after_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            0xc0.. => return Some(at + 2),
            length => at += 1 + usize::from(length),
        }
    }
}

fn has_option(mut data: &[u8], wanted: u16) -> bool {
    while let Some((head, rest)) = data.split_first_chunk::<4>() {
        if u16::from_be_bytes([head[0], head[1]]) == wanted {
            return true;
        }
        let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
        data = rest.get(length..).unwrap_or_default();
    }
    false
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PADDED: &[u8] = b"\0\x0c\0\x03\0\0\0";

    /// A message with a question, `records` of 20 bytes of data, and an OPT record with `options`.
    fn message(records: u16, options: Option<&[u8]>) -> Vec<u8> {
        let mut bytes = vec![0, 7, 0, 0, 0, 1];
        bytes.extend_from_slice(&records.to_be_bytes());
        bytes.extend_from_slice(&[0, 0, 0, u8::from(options.is_some())]);
        bytes.extend_from_slice(b"\x03www\x07example\0\0\x01\0\x01");
        for _ in 0..records {
            bytes.extend_from_slice(
                b"\xc0\x0c\0\x10\0\x01\0\0\0\x1e\0\x14\x1301234567890123456789"[..].get(..32).unwrap(),
            );
        }
        if let Some(options) = options {
            bytes.extend_from_slice(b"\0\0\x29\x04\xd0\0\0\0\0\0");
            bytes.push(options.len() as u8);
            bytes.extend_from_slice(options);
        }
        bytes
    }

    #[test]
    fn answers_to_padded_questions_have_a_block_length() {
        let query = message(0, Some(PADDED));
        for records in [0, 5, 13, 14, 100] {
            for options in [b"".as_slice(), b"\0\x0a\0\x02ab"] {
                let mut answer = message(records, Some(options));
                let before = answer.clone();
                pad(&query, &mut answer);
                assert_eq!(answer.len() % BLOCK_BYTES, 0);
                assert!(answer.len() - before.len() < BLOCK_BYTES + OPTION_HEAD_BYTES);
                let (start, end) = opt_data(&answer).unwrap();
                assert_eq!(end, answer.len());
                assert!(has_option(&answer[start..end], OPTION_PADDING));
                assert_eq!(answer[..start - 2], before[..start - 2]);
            }
        }
    }

    #[test]
    fn others_stay_as_they_are() {
        for (query, answer) in [
            (message(0, Some(b"")), message(1, Some(b""))),
            (message(0, None), message(1, None)),
            (message(0, Some(PADDED)), message(1, None)),
        ] {
            let mut padded = answer.clone();
            pad(&query, &mut padded);
            assert_eq!(padded, answer);
        }
        let mut longest = message(0, Some(PADDED));
        longest.extend_from_slice(&[0; 10]);
        let before = longest.clone();
        pad(&message(0, Some(PADDED)), &mut longest);
        assert_eq!(longest, before, "what ends with something else than OPT");
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(query in proptest::collection::vec(any::<u8>(), 0..80), at in 0usize..80, byte: u8) {
            let mut answer = query.clone();
            pad(&message(0, Some(PADDED)), &mut answer);
            pad(&query, &mut answer);
            let mut damaged = message(2, Some(PADDED));
            let at = at.min(damaged.len() - 1);
            damaged[at] = byte;
            pad(&message(0, Some(PADDED)), &mut damaged);
            prop_assert!(damaged.len() <= MAX_MESSAGE_BYTES);
        }
    }
}
