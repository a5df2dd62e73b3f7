//! The last facts of the mesh, each told once however many nodes saw it. Pure.

use std::collections::BTreeMap;

use gossip::clock::Wall;
use gossip::id::NodeName;
use serde::{Deserialize, Serialize};

use super::shelf::{Filed, Shelf};

/// Events of the whole mesh that are kept; of the kinds with most of them older ones are forgotten.
pub(super) const KEPT: usize = 2000;
/// Facts that this node saw itself, kept for the others.
pub(super) const OWN_KEPT: usize = 500;
/// Nodes of which it is remembered how far they are known, though they may be gone.
const CURSORS_MAX: usize = 1000;
/// Equal facts that different nodes saw within this time are one event: beliefs spread in three seconds, clocks differ by half a
/// second.
const SAME_WITHIN_MS: u64 = 10_000;
/// What a node that ended without a word may have told after it last wrote its file.
const UNWRITTEN: u64 = 10_000;
const KIND_MAX_CHARS: usize = 32;
const SUBJECT_MAX_CHARS: usize = 200;
const TEXT_MAX_CHARS: usize = 300;

/// One thing that happened in the mesh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub(crate) struct Event {
    /// Grows with each event that the answering node learns of.
    pub(crate) seq: u64,
    /// Milliseconds since 1970, by the mesh's clock.
    pub(crate) at_ms: u64,
    /// The node that saw it first.
    #[serde(default)]
    pub(crate) node: String,
    /// How many nodes saw it.
    #[serde(default)]
    pub(crate) seen_by: usize,
    /// `joined left suspect cleared dead verdict revision isolated rejoined name-taken started upgraded order damaged backends source-failing
    /// source-well lease scale ...`.
    pub(crate) kind: String,
    /// Whom it is about: a node, a backend as `POOL/ADDRESS`, or what an order names.
    pub(crate) subject: String,
    /// In words.
    pub(crate) text: String,
}

/// What a node saw, and when.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Fact {
    pub(super) at: Wall,
    pub(super) kind: String,
    pub(super) subject: String,
    pub(super) text: String,
}

impl Fact {
    /// Of words that may come from a peer: as long as such words are, and fit for a terminal.
    pub(super) fn new(at: Wall, kind: &str, subject: &str, text: &str) -> Self {
        let readable = |text: &str, most| text.chars().filter(|char| !char.is_control()).take(most).collect();
        Self {
            at,
            kind: readable(kind, KIND_MAX_CHARS),
            subject: readable(subject, SUBJECT_MAX_CHARS),
            text: readable(text, TEXT_MAX_CHARS),
        }
    }

    fn is_like(&self, other: &Self) -> bool {
        self.at.0.abs_diff(other.at.0) <= SAME_WITHIN_MS
            && (&self.kind, &self.subject, &self.text) == (&other.kind, &other.subject, &other.text)
    }
}

/// One event of the ring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) seq: u64,
    /// As who saw it first tells it.
    pub(super) fact: Fact,
    /// Who saw it, the first one first.
    pub(super) seen_by: Vec<NodeName>,
}

impl Entry {
    fn event(&self) -> Event {
        let Fact { at, kind, subject, text } = self.fact.clone();
        let node = self.seen_by.first().map(ToString::to_string).unwrap_or_default();
        Event { seq: self.seq, at_ms: at.0, node, seen_by: self.seen_by.len(), kind, subject, text }
    }
}

impl Filed for Entry {
    fn fact(&self) -> &Fact {
        &self.fact
    }

    /// When it happened: what is told late is the older for it.
    fn age(&self) -> u64 {
        self.fact.at.0
    }
}

/// What this node saw itself, with its number.
impl Filed for (u64, Fact) {
    fn fact(&self) -> &Fact {
        &self.1
    }

    fn age(&self) -> u64 {
        self.0
    }
}

/// How far a node's own facts are known: its life, and the number of the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Cursor {
    /// Tells one log of a node from another. It outlives processes as long as the file does.
    pub(super) life: u64,
    /// The last one known; 0 for none.
    pub(super) number: u64,
}

/// The events of the mesh as this node knows them, and those that it saw itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ring {
    pub(super) me: NodeName,
    /// This log, and the number of the last own fact.
    pub(super) own: Cursor,
    /// The number of the last event.
    pub(super) newest: u64,
    /// In the order in which this node learned of them.
    pub(super) entries: Shelf<Entry>,
    /// With their numbers, which grow.
    pub(super) own_facts: Shelf<(u64, Fact)>,
    /// How far the others' facts are known.
    pub(super) heard: BTreeMap<NodeName, Cursor>,
}

impl Ring {
    pub(super) fn new(me: NodeName, life: u64) -> Self {
        Self {
            me,
            own: Cursor { life, number: 0 },
            newest: 0,
            entries: Shelf::new(KEPT),
            own_facts: Shelf::new(OWN_KEPT),
            heard: BTreeMap::new(),
        }
    }

    /// Goes on after a start: what was told and not written any more must not have its numbers again.
    pub(super) fn resume(&mut self) {
        self.own.number += UNWRITTEN;
        self.newest += UNWRITTEN;
    }

    /// Takes note of what this node saw.
    pub(super) fn see(&mut self, fact: Fact) {
        self.own.number += 1;
        self.own_facts.put((self.own.number, fact.clone()));
        self.add(fact, self.me.clone());
    }

    /// The facts that this node saw itself after a cursor of somebody who knows them so far.
    pub(super) fn own_after(&self, known: Cursor) -> impl Iterator<Item = &Fact> {
        let after = if known.life == self.own.life { known.number } else { 0 };
        self.own_facts.iter().filter(move |(number, _)| *number > after).map(|(_, fact)| fact)
    }

    /// How far a peer's facts are known.
    pub(super) fn known_of(&self, peer: &NodeName) -> Cursor {
        self.heard.get(peer).copied().unwrap_or_default()
    }

    /// Takes over what a peer saw, up to `until`. What was asked for before a later answer came changes nothing.
    pub(super) fn hear(
        &mut self,
        peer: &NodeName,
        asked: Cursor,
        until: Cursor,
        facts: Vec<Fact>,
        now: Wall,
    ) {
        if self.known_of(peer) != asked || *peer == self.me {
            return;
        }
        self.heard.insert(peer.clone(), until);
        for mut fact in facts {
            fact.at = fact.at.min(now);
            self.add(fact, peer.clone());
        }
    }

    /// Forgets how far nodes are known that are no members any more, when there are many: one that has just started, or was cut off,
    /// sees no members but itself and meets the others again, who must not tell it everything once more.
    pub(super) fn forget_cursors(&mut self, is_member: impl Fn(&NodeName) -> bool) {
        if self.heard.len() > CURSORS_MAX {
            self.heard.retain(|peer, _| is_member(peer));
        }
    }

    fn add(&mut self, fact: Fact, by: NodeName) {
        // A node that sees the same again saw another event. The nearest by time of those that it did not see yet.
        let like =
            self.entries.iter_mut().filter(|entry| entry.fact.is_like(&fact) && !entry.seen_by.contains(&by));
        if let Some(entry) = like.min_by_key(|entry| entry.fact.at.0.abs_diff(fact.at.0)) {
            if (fact.at, &by) < (entry.fact.at, &entry.seen_by[0]) {
                entry.fact.at = fact.at;
                entry.seen_by.insert(0, by);
            } else {
                entry.seen_by.push(by);
            }
            return;
        }
        // What is older than all of its like that are kept was known once, or is of no interest any more.
        if self.entries.put(Entry { seq: self.newest + 1, fact, seen_by: vec![by] }) {
            self.newest += 1;
        }
    }

    /// The events that this node learned of after number `seq`, in that order.
    pub(super) fn after(&self, seq: u64) -> Vec<Event> {
        self.entries.iter().filter(|entry| entry.seq > seq).map(Entry::event).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(name: &str) -> NodeName {
        name.parse().unwrap()
    }

    fn fact(at: u64, text: &str) -> Fact {
        Fact::new(Wall(at), "suspect", "eu-2", text)
    }

    fn ask(ring: &mut Ring, peer: &Ring) {
        let asked = ring.known_of(&peer.me);
        let facts = peer.own_after(asked).cloned().collect();
        ring.hear(&peer.me, asked, peer.own, facts, Wall(u64::MAX));
    }

    fn told(ring: &Ring) -> Vec<(u64, String, usize, String)> {
        let of = |event: Event| (event.at_ms, event.node, event.seen_by, event.text);
        let mut told: Vec<_> = ring.after(0).into_iter().map(of).collect();
        told.sort();
        told
    }

    #[test]
    fn equal_facts_are_one_event_with_who_saw_it_first() {
        let (mut one, mut other) = (Ring::new(name("eu-1"), 1), Ring::new(name("us-1"), 1));
        one.see(fact(5000, "silent"));
        other.see(fact(4000, "silent"));
        other.see(fact(4001, "an order"));
        ask(&mut one, &other);
        ask(&mut other, &one);
        let expected =
            [(4000, "us-1".into(), 2, "silent".into()), (4001, "us-1".into(), 1, "an order".into())];
        assert_eq!((told(&one), told(&other)), (expected.to_vec(), expected.to_vec()));
        ask(&mut one, &other);
        assert_eq!(told(&one), expected, "what was heard is not asked for again");
    }

    #[test]
    fn what_a_node_sees_twice_happened_twice() {
        let (mut one, mut other) = (Ring::new(name("eu-1"), 1), Ring::new(name("us-1"), 1));
        for at in [1000, 4000] {
            one.see(fact(at, "down"));
            other.see(fact(at + 200, "down"));
        }
        ask(&mut one, &other);
        let expected = [(1000, "eu-1".into(), 2, "down".into()), (4000, "eu-1".into(), 2, "down".into())];
        assert_eq!(told(&one), expected);
        one.see(fact(20_000, "down"));
        other.see(fact(31_000, "down"));
        ask(&mut one, &other);
        assert_eq!(one.after(0).len(), 4, "eleven seconds apart");
    }

    #[test]
    fn the_oldest_give_way_and_do_not_come_again() {
        let (mut one, mut other) = (Ring::new(name("eu-1"), 1), Ring::new(name("us-1"), 1));
        for at in 0..KEPT as u64 + 10 {
            one.see(fact(1000 + at, &format!("fact {at}")));
        }
        other.see(fact(1, "long ago"));
        ask(&mut one, &other);
        assert_eq!(one.entries.len(), KEPT);
        assert_eq!(one.own_facts.len(), OWN_KEPT);
        assert_eq!(one.after(0)[0].text, "fact 10");
        ask(&mut other, &one);
        assert_eq!(other.entries.len(), 1 + OWN_KEPT, "a node tells what it saw of late");
    }

    #[test]
    fn another_life_of_a_peer_is_asked_for_all_it_has() {
        let (mut one, mut other) = (Ring::new(name("eu-1"), 1), Ring::new(name("us-1"), 1));
        (0..9).for_each(|at| other.see(fact(at, &format!("fact {at}"))));
        ask(&mut one, &other);
        let mut again = Ring::new(name("us-1"), 2);
        again.see(fact(100_000, "anew"));
        ask(&mut one, &again);
        assert_eq!((one.entries.len(), one.known_of(&again.me)), (10, again.own));
    }

    #[test]
    fn numbers_are_not_given_twice_after_a_start() {
        let mut ring = Ring::new(name("eu-1"), 1);
        ring.see(fact(1, "first"));
        let (number, newest) = (ring.own.number, ring.newest);
        ring.resume();
        ring.see(fact(2, "second"));
        assert!(ring.own.number > number + 1 && ring.newest > newest + 1);
        assert_eq!(ring.after(newest).len(), 1);
    }

    #[test]
    fn an_answer_that_was_overtaken_and_a_clock_that_runs_ahead_change_nothing() {
        let (mut one, mut other) = (Ring::new(name("eu-1"), 1), Ring::new(name("us-1"), 1));
        other.see(fact(1, "first"));
        let asked = one.known_of(&other.me);
        for _ in 0..2 {
            let facts = other.own_after(asked).cloned().collect();
            one.hear(&other.me, asked, other.own, facts, Wall(50));
        }
        assert_eq!(one.after(0).len(), 1);
        other.see(fact(1_000_000, "from the future"));
        let asked = one.known_of(&other.me);
        let facts = other.own_after(asked).cloned().collect();
        one.hear(&other.me, asked, other.own, facts, Wall(50));
        assert_eq!(one.after(1)[0].at_ms, 50);
    }

    #[test]
    fn a_peer_cannot_play_with_a_terminal() {
        let fact = Fact::new(Wall(1), "k\x1b[2J", &"s".repeat(1000), &"\u{7}t".repeat(1000));
        assert_eq!(
            (fact.kind.as_str(), fact.subject.len(), fact.text.len()),
            ("k[2J", SUBJECT_MAX_CHARS, TEXT_MAX_CHARS)
        );
    }

    proptest! {
        /// Whoever asks whom in which order: nodes that have heard all of each other tell the same.
        #[test]
        fn all_nodes_tell_the_same_in_the_end(
            seen in proptest::collection::vec((0usize..3, 0u64..40, 0u8..2), 0..20),
            asks in proptest::collection::vec((0usize..3, 0usize..3), 0..12),
        ) {
            let mut rings: Vec<Ring> = ["a", "b", "c"].iter().map(|at| Ring::new(name(at), 1)).collect();
            let mut asks = asks.into_iter();
            // Far enough apart that whether two are one event does not hang on a third.
            let mut last = [0; 3];
            for (ring, at, text) in seen {
                let at = (at * 40_000 + 400 * ring as u64).max(last[ring] + 40_000);
                last[ring] = at;
                rings[ring].see(fact(at, &text.to_string()));
                if let Some((who, whom)) = asks.next() && who != whom {
                    let peer = rings[whom].clone();
                    ask(&mut rings[who], &peer);
                }
            }
            for _ in 0..2 {
                for (who, whom) in [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)] {
                    let peer = rings[whom].clone();
                    ask(&mut rings[who], &peer);
                }
            }
            prop_assert_eq!(told(&rings[0]), told(&rings[1]));
            prop_assert_eq!(told(&rings[1]), told(&rings[2]));
            let numbers: Vec<u64> = rings[0].after(0).iter().map(|event| event.seq).collect();
            prop_assert!(numbers.is_sorted());
        }
    }
}
