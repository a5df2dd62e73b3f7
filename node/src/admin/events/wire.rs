//! What nodes tell each other of what they saw.
//!
//! ```text
//!   exchange   version 1 │ bincode of the cursor     ─▶   version 1 │ bincode of the cursor and facts
//! ```

use bincode::Options;
use bytes::Bytes;
use gossip::clock::Wall;
use gossip::mesh::Channel;
use serde::{Deserialize, Serialize};

use super::ring::{Cursor, Fact, OWN_KEPT};

/// As many facts as are kept, each as long as it may be, fit.
pub(super) const CHANNEL: Channel = Channel { id: 41, name: "events", max_bytes: 2 << 20, queue: 64 };
const VERSION: u8 = 1;

/// When in milliseconds, kind, subject, text.
pub(super) type WireFact = (u64, String, String, String);

/// What is said of one's own facts: how far they go, and those that the asker lacks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Told {
    pub(super) until: Cursor,
    pub(super) facts: Vec<Fact>,
}

#[derive(Serialize, Deserialize)]
struct Wire {
    until: Cursor,
    facts: Vec<WireFact>,
}

fn options() -> impl Options {
    bincode::DefaultOptions::new().with_limit(CHANNEL.max_bytes as u64 - 1)
}

pub(super) fn question(known: Cursor) -> Bytes {
    let mut bytes = vec![VERSION];
    // Two numbers always fit.
    bytes.extend(options().serialize(&known).unwrap_or_default());
    bytes.into()
}

/// What is asked; `None`: a question of another version.
pub(super) fn asked(bytes: &[u8]) -> Option<Cursor> {
    options().deserialize(bytes.strip_prefix(&[VERSION])?).ok()
}

pub(crate) fn encode(told: &Told) -> Bytes {
    let wire = Wire { until: told.until, facts: told.facts.iter().map(spell).collect() };
    let mut bytes = vec![VERSION];
    // What does not fit is no answer: the asker names this node among the silent.
    bytes.extend(options().serialize(&wire).unwrap_or_default());
    bytes.into()
}

/// Reads what a peer tells, cut to what an honest one says.
pub(crate) fn decode(bytes: &[u8]) -> Option<Told> {
    let Wire { until, facts } = options().deserialize(bytes.strip_prefix(&[VERSION])?).ok()?;
    Some(Told { until, facts: facts.iter().take(OWN_KEPT).map(read).collect() })
}

pub(super) fn spell(fact: &Fact) -> WireFact {
    (fact.at.0, fact.kind.clone(), fact.subject.clone(), fact.text.clone())
}

pub(super) fn read((at, kind, subject, text): &WireFact) -> Fact {
    Fact::new(Wall(*at), kind, subject, text)
}

/// Answers of version 1: one with a fact, one without.
#[cfg(any(test, fuzzing))]
pub(crate) fn golden() -> Vec<Vec<u8>> {
    vec![vec![1, 7, 251, 44, 1, 1, 9, 1, b'k', 1, b's', 2, b't', b'x'], vec![1, 7, 0, 0]]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes() {
        let until = Cursor { life: 7, number: 300 };
        let told = Told { until, facts: vec![Fact::new(Wall(9), "k", "s", "tx")] };
        assert_eq!(encode(&told), golden()[0]);
        assert_eq!(decode(&golden()[0]), Some(told));
        assert_eq!(&question(until)[..], [1, 7, 251, 44, 1]);
        assert_eq!(asked(&[1, 7, 251, 44, 1]), Some(until));
        assert_eq!((asked(&[2, 7, 1]), asked(&[1, 7])), (None, None));
    }

    #[test]
    fn the_longest_answer_fits() {
        let words = "\u{10ffff}".repeat(300);
        let fact = Fact::new(Wall(u64::MAX), &words, &words, &words);
        let told = Told { until: Cursor { life: u64::MAX, number: u64::MAX }, facts: vec![fact; OWN_KEPT] };
        assert!(encode(&told).len() > 1 << 19);
        assert_eq!(decode(&encode(&told)), Some(told));
    }
}
