//! What one process of a node tells the next of its backends, in an upgrade, so that nobody has to find out again who is down.
//!
//! ```text
//! version 1 ‖ { backend 8 ‖ state 1 ‖ up since 8 ‖ down since 8 }*      little-endian
//! ```
//! What only the first process met (ejections) stays with it: a refused connection says it again.

use gossip::clock::Hlc;
use gossip::id::BackendId;
use gossip::state::BackendState;

use super::{BackendHealth, HealthTable};

const VERSION: u8 = 1;
const RECORD_BYTES: usize = 25;
/// More backends than a node has.
pub(crate) const MEMORY_MAX_BYTES: usize = 1 + RECORD_BYTES * 1_000_000;

/// Conclusions; what is unknown is left out.
pub(crate) fn encode(table: &HealthTable) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    for (backend, health) in table {
        let state = match health.state {
            BackendState::Up => 1,
            BackendState::GoingDown => 2,
            BackendState::Down => 3,
            BackendState::GoingUp => 4,
            _ => continue,
        };
        bytes.extend_from_slice(&backend.0.to_le_bytes());
        bytes.push(state);
        bytes.extend_from_slice(&health.up_since.0.to_le_bytes());
        bytes.extend_from_slice(&health.down_since.0.to_le_bytes());
    }
    bytes
}

/// Reads them; of another version, or damaged, nothing.
pub(crate) fn decode(bytes: &[u8]) -> HealthTable {
    let Some((&VERSION, records)) = bytes.split_first() else { return HealthTable::new() };
    let (records, rest) = records.as_chunks::<RECORD_BYTES>();
    if !rest.is_empty() {
        return HealthTable::new();
    }
    let number = |record: &[u8; RECORD_BYTES], at: usize| {
        record[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
    };
    let one = |record: &[u8; RECORD_BYTES]| {
        let state = match record[8] {
            1 => BackendState::Up,
            2 => BackendState::GoingDown,
            3 => BackendState::Down,
            4 => BackendState::GoingUp,
            _ => return None,
        };
        let reason = match state {
            BackendState::Up => String::new(),
            _ => "as it was before the upgrade".to_owned(),
        };
        let (up_since, down_since) = (Hlc(number(record, 9)), Hlc(number(record, 17)));
        let health = BackendHealth { state, up_since, down_since, ejected: None, reason };
        Some((BackendId(number(record, 0)), health))
    };
    records.iter().filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn health(state: BackendState) -> BackendHealth {
        let reason = if state == BackendState::Up { "" } else { "as it was before the upgrade" };
        BackendHealth {
            state,
            up_since: Hlc(0x0102),
            down_since: Hlc(7),
            ejected: None,
            reason: reason.into(),
        }
    }

    #[test]
    fn golden_bytes() {
        let table: HealthTable =
            [(BackendId(0x0a0b), health(BackendState::Down)), (BackendId(2), health(BackendState::Unknown))]
                .into();
        let bytes = encode(&table);
        assert_eq!(bytes, [&[1, 0x0b, 0x0a, 0, 0, 0, 0, 0, 0, 3, 2, 1][..], &[0; 6], &[7], &[0; 7]].concat());
        assert_eq!(decode(&bytes), [(BackendId(0x0a0b), health(BackendState::Down))].into());
        assert!(decode(&bytes[..20]).is_empty() && decode(&[]).is_empty() && decode(&[2]).is_empty());
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived_and_what_is_told_is_heard(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes);
            let states = [BackendState::Up, BackendState::GoingDown, BackendState::Down, BackendState::GoingUp];
            let table: HealthTable =
                bytes.iter().map(|byte| (BackendId(u64::from(*byte)), health(states[usize::from(byte % 4)]))).collect();
            prop_assert_eq!(decode(&encode(&table)), table);
        }
    }
}
