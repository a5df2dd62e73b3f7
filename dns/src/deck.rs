//! Nodes drawn at random by weight, none twice.

use std::net::IpAddr;

use rand::{Rng, RngExt};

use crate::build::MAX_ANSWERS;
use crate::state::NodeState;
use crate::steer::Family;

/// The nodes of a region that have an address of one family.
#[derive(Debug, Default)]
pub(crate) struct Deck {
    cards: Vec<Card>,
    addresses: Vec<IpAddr>,
    /// The sum of all weights.
    weight: u64,
}

#[derive(Debug)]
struct Card {
    weight: u32,
    /// Its place among the region's nodes.
    node: u32,
    /// Its addresses in the deck's.
    first: u32,
    count: u32,
}

/// Up to [`MAX_ANSWERS`] nodes in the order in which they were drawn.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Drawn {
    count: u32,
    /// One of each node's, by its place in the deck's: which belongs to one card alone.
    addresses: [u32; MAX_ANSWERS],
}

/// No nodes at all.
pub(crate) static EMPTY: Deck = Deck { cards: Vec::new(), addresses: Vec::new(), weight: 0 };

impl Deck {
    /// The nodes that have an address of the family.
    pub(crate) fn new(nodes: &[NodeState], family: Family) -> Self {
        let mut deck = Self::default();
        for (index, node) in (0..).zip(nodes) {
            let first = deck.addresses.len() as u32;
            deck.addresses.extend(node.addresses.iter().filter(|address| family.holds(**address)));
            let count = deck.addresses.len() as u32 - first;
            if count > 0 {
                deck.weight += u64::from(node.weight);
                deck.cards.push(Card { weight: node.weight, node: index, first, count });
            }
        }
        deck
    }

    /// True when no node has an address of the family.
    pub(crate) fn is_empty(&self) -> bool {
        self.cards.is_empty()
    }

    /// Draws up to `count` nodes, each by its share of the weight that is left, and one address of each. Those of weight
    /// zero come when no other is left. Costs one look at each node a draw. `drawn` holds nothing yet.
    pub(crate) fn draw(&self, drawn: &mut Drawn, count: usize, rng: &mut impl Rng) {
        match self.cards.as_slice() {
            // Who is alone is drawn.
            [Card { first, count: 1, .. }] if count > 0 => (drawn.count, drawn.addresses[0]) = (1, *first),
            _ => self.draw_some(drawn, count, rng),
        }
    }

    #[inline(never)]
    fn draw_some(&self, drawn: &mut Drawn, count: usize, rng: &mut impl Rng) {
        let mut left = self.weight;
        for number in 0..count.min(MAX_ANSWERS).min(self.cards.len()) {
            let Some(Card { weight, first, count, .. }) = self.next(drawn, left, rng) else { break };
            left -= u64::from(*weight);
            drawn.addresses[number] = if *count > 1 { first + rng.random_range(0..*count) } else { *first };
            drawn.count += 1;
        }
    }

    /// The next card; `left` is the weight of those that `drawn` does not hold.
    fn next(&self, drawn: &Drawn, left: u64, rng: &mut impl Rng) -> Option<&Card> {
        let mut rest = self.cards.iter().filter(|card| !drawn.addresses().iter().any(|at| card.holds(*at)));
        let remaining = self.cards.len() - drawn.addresses().len();
        if left == 0 {
            let skip = if remaining > 1 { rng.random_range(0..remaining) } else { 0 };
            return rest.nth(skip);
        }
        let mut at = if remaining > 1 { rng.random_range(0..left) } else { 0 };
        rest.find(|card| {
            let weight = u64::from(card.weight);
            let here = at < weight;
            at = at.saturating_sub(weight);
            here
        })
    }

    /// The addresses drawn.
    pub(crate) fn addresses(&self, drawn: &Drawn) -> impl ExactSizeIterator<Item = IpAddr> + Clone {
        drawn.addresses().iter().map(|at| self.addresses[*at as usize])
    }

    /// The nodes drawn, by their places among the region's.
    pub(crate) fn nodes(&self, drawn: &Drawn) -> impl Iterator<Item = usize> {
        let card = |at: &u32| self.cards.iter().find(|card| card.holds(*at));
        drawn.addresses().iter().filter_map(card).map(|card| card.node as usize)
    }
}

impl Card {
    fn holds(&self, address: u32) -> bool {
        (self.first..self.first + self.count).contains(&address)
    }
}

impl Drawn {
    fn addresses(&self) -> &[u32] {
        self.addresses.get(..self.count as usize).unwrap_or_default()
    }
}
