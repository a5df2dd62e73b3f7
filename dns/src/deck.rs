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
    count: u8,
    picks: [Pick; MAX_ANSWERS],
}

#[derive(Debug, Clone, Copy, Default)]
struct Pick {
    card: u32,
    address: u32,
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
    /// zero come when no other is left. Costs one look at each node a draw.
    pub(crate) fn draw(&self, count: usize, rng: &mut impl Rng) -> Drawn {
        match self.cards.as_slice() {
            // Who is alone is drawn.
            [Card { first, count: 1, .. }] if count > 0 => {
                let mut drawn = Drawn { count: 1, ..Drawn::default() };
                drawn.picks[0] = Pick { card: 0, address: *first };
                drawn
            }
            _ => self.draw_some(count, rng),
        }
    }

    #[inline(never)]
    fn draw_some(&self, count: usize, rng: &mut impl Rng) -> Drawn {
        let mut drawn = Drawn::default();
        let mut left = self.weight;
        for _ in 0..count.min(MAX_ANSWERS).min(self.cards.len()) {
            let Some(card) = self.next(&drawn, left, rng) else { break };
            let Card { weight, first, count, .. } = self.cards[card];
            left -= u64::from(weight);
            let address = if count > 1 { first + rng.random_range(0..count) } else { first };
            drawn.picks[usize::from(drawn.count)] = Pick { card: card as u32, address };
            drawn.count += 1;
        }
        drawn
    }

    /// The next card; `left` is the weight of those that `drawn` does not hold.
    fn next(&self, drawn: &Drawn, left: u64, rng: &mut impl Rng) -> Option<usize> {
        let held = &drawn.picks[..usize::from(drawn.count)];
        let mut rest = (0..self.cards.len()).filter(|card| held.iter().all(|pick| pick.card != *card as u32));
        let remaining = self.cards.len() - held.len();
        if left == 0 {
            let skip = if remaining > 1 { rng.random_range(0..remaining) } else { 0 };
            return rest.nth(skip);
        }
        let mut at = if remaining > 1 { rng.random_range(0..left) } else { 0 };
        rest.find(|card| {
            let weight = u64::from(self.cards[*card].weight);
            let here = at < weight;
            at = at.saturating_sub(weight);
            here
        })
    }

    /// The addresses drawn.
    pub(crate) fn addresses(&self, drawn: &Drawn) -> impl ExactSizeIterator<Item = IpAddr> + Clone {
        drawn.picks[..usize::from(drawn.count)].iter().map(|pick| self.addresses[pick.address as usize])
    }

    /// The nodes drawn, by their places among the region's.
    pub(crate) fn nodes(&self, drawn: &Drawn) -> impl Iterator<Item = usize> {
        drawn.picks[..usize::from(drawn.count)]
            .iter()
            .map(|pick| self.cards[pick.card as usize].node as usize)
    }
}
