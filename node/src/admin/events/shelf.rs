//! A bounded log in which whatever happens often leaves room for what happens rarely. Pure.
//!
//! When it is full the kind of facts that has the most gives one up, of the subject that has the most in it, the oldest one. So with N
//! kinds in it a kind keeps its last N-th of the log whatever the others do: one backend that flaps takes room from other verdicts on
//! backends alone, and first from its own.

use std::collections::{BTreeMap, VecDeque, vec_deque};

use super::ring::Fact;

/// What can be kept so.
pub(super) trait Filed {
    /// What it tells.
    fn fact(&self) -> &Fact;
    /// The lower, the sooner it gives way.
    fn age(&self) -> u64;
}

/// In the order in which it was put there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shelf<T> {
    most: usize,
    items: VecDeque<T>,
    shares: Shares,
}

impl<T: Filed> Shelf<T> {
    pub(super) fn new(most: usize) -> Self {
        Self { most, items: VecDeque::new(), shares: Shares::default() }
    }

    /// With what was on it before, as far as there is room.
    pub(super) fn of(most: usize, items: impl IntoIterator<Item = T>) -> Self {
        let mut shelf = Self::new(most);
        for item in items {
            shelf.put(item);
        }
        shelf
    }

    /// Puts it at the end, and takes away what gives way to it. Whether it is there: it may itself be what gives way.
    pub(super) fn put(&mut self, item: T) -> bool {
        self.shares.add(item.fact());
        self.items.push_back(item);
        if self.items.len() <= self.most {
            return true;
        }
        let Some(at) = self.first_to_go() else { return true };
        let is_new = at + 1 == self.items.len();
        if let Some(gone) = self.items.remove(at) {
            self.shares.remove(gone.fact());
        }
        !is_new
    }

    fn first_to_go(&self) -> Option<usize> {
        let (kind, subjects, most) = self.shares.largest()?;
        let items = self.items.iter().enumerate().filter(|(_, item)| item.fact().kind == *kind);
        let items = items.filter(|(_, item)| subjects.get(&item.fact().subject) == Some(&most));
        items.min_by_key(|(_, item)| item.age()).map(|(at, _)| at)
    }

    pub(super) fn iter(&self) -> vec_deque::Iter<'_, T> {
        self.items.iter()
    }

    /// What they tell must stay of the same kind and subject.
    pub(super) fn iter_mut(&mut self) -> vec_deque::IterMut<'_, T> {
        self.items.iter_mut()
    }

    pub(super) fn clear(&mut self) {
        *self = Self::new(self.most);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.items.len()
    }
}

/// How many there are of each kind, and of them of each subject.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Shares(BTreeMap<String, Share>);

#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Share {
    all: usize,
    subjects: BTreeMap<String, usize>,
}

impl Shares {
    fn add(&mut self, fact: &Fact) {
        if !self.0.contains_key(&fact.kind) {
            self.0.insert(fact.kind.clone(), Share::default());
        }
        let Some(share) = self.0.get_mut(&fact.kind) else { return };
        share.all += 1;
        match share.subjects.get_mut(&fact.subject) {
            Some(count) => *count += 1,
            None => drop(share.subjects.insert(fact.subject.clone(), 1)),
        }
    }

    fn remove(&mut self, fact: &Fact) {
        let Some(share) = self.0.get_mut(&fact.kind) else { return };
        share.all -= 1;
        if let Some(count) = share.subjects.get_mut(&fact.subject) {
            *count -= 1;
            if *count == 0 {
                share.subjects.remove(&fact.subject);
            }
        }
        if share.all == 0 {
            self.0.remove(&fact.kind);
        }
    }

    /// The kind that has the most, with its subjects, and how many the largest of these have.
    fn largest(&self) -> Option<(&String, &BTreeMap<String, usize>, usize)> {
        let (kind, share) = self.0.iter().max_by_key(|(_, share)| share.all)?;
        Some((kind, &share.subjects, share.subjects.values().copied().max()?))
    }
}

#[cfg(test)]
mod tests {
    use gossip::clock::Wall;
    use proptest::prelude::*;

    use super::*;

    const MOST: usize = 24;
    const KINDS: usize = 4;

    #[derive(Debug, Clone, PartialEq, Eq)]
    struct Item(Fact);

    impl Filed for Item {
        fn fact(&self) -> &Fact {
            &self.0
        }

        fn age(&self) -> u64 {
            self.0.at.0
        }
    }

    fn item(at: u64, kind: usize, subject: usize) -> Item {
        Item(Fact::new(Wall(at), &format!("kind {kind}"), &format!("subject {subject}"), ""))
    }

    fn of_kind(shelf: &Shelf<Item>, kind: usize) -> Vec<u64> {
        let kind = format!("kind {kind}");
        shelf.iter().filter(|item| item.0.kind == kind).map(|item| item.0.at.0).collect()
    }

    proptest! {
        /// Whatever comes in whatever order: the last of each kind that fit into its share are there, in the order in which they came;
        /// and within a kind the last of each subject that fit into its share of that.
        #[test]
        fn each_kind_keeps_its_share(facts in proptest::collection::vec((0..KINDS, 0usize..3), 0..200), flood in 0usize..100) {
            let mut shelf = Shelf::new(MOST);
            let mut seen = vec![Vec::new(); KINDS];
            let mut seen_of = vec![Vec::new(); KINDS * 3];
            let flood = std::iter::repeat_n((0, 0), flood);
            for (at, (kind, subject)) in facts.into_iter().chain(flood).enumerate() {
                prop_assert!(shelf.put(item(at as u64, kind, subject)), "the newest is there");
                seen[kind].push(at as u64);
                seen_of[kind * 3 + subject].push(at as u64);
                prop_assert!(shelf.len() <= MOST && shelf.iter().is_sorted_by_key(|item| item.0.at));
                for kind in 0..KINDS {
                    let there = of_kind(&shelf, kind);
                    // With three subjects in a kind each keeps a third of the kind's share.
                    for of in &seen_of[kind * 3..kind * 3 + 3] {
                        let last = of.iter().rev().take(MOST / KINDS / 3);
                        prop_assert!(last.clone().all(|at| there.contains(at)), "{there:?} of {of:?}");
                    }
                    prop_assert!(there.len() >= seen[kind].len().min(MOST / KINDS));
                }
            }
            prop_assert_eq!(&shelf, &Shelf::of(MOST, shelf.iter().cloned()));
        }
    }

    #[test]
    fn a_flood_takes_from_itself_and_what_was_forgotten_does_not_come_again() {
        let mut shelf = Shelf::new(MOST);
        for at in 0..MOST as u64 / 2 - 1 {
            assert!(shelf.put(item(at, 1, at as usize)));
        }
        let rare = of_kind(&shelf, 1);
        (1000..3000).for_each(|at| assert!(shelf.put(item(at, 2, 0))));
        assert_eq!(of_kind(&shelf, 1), rare);
        assert!(!shelf.put(item(1000, 2, 0)), "it was forgotten");
        assert!(shelf.put(item(3000, 2, 1)));
        (3001..4000).for_each(|at| assert!(shelf.put(item(at, 2, 0))));
        assert!(of_kind(&shelf, 2).contains(&3000), "another backend's");
    }
}
