//! From names to numbers, packed.
//!
//! ```text
//!   table   (start, length, number)            bytes   www·shop·api·…
//!               └──────┴──────────────────────────────▶ └─┘
//! ```
//!
//! A name that is there costs one look into the table and one at the bytes. Thousands of names take far less than a map of boxed
//! keys does, and so stay where the processor finds them while the kernel works in between.

use std::hash::Hasher;

use hashbrown::HashTable;
use rustc_hash::FxHasher;

/// Distinct names, numbered in their order. What is a name is up to who asks: folded, and without what all have in common.
#[derive(Debug, Default)]
pub(crate) struct NameIndex {
    table: HashTable<Entry>,
    bytes: Box<[u8]>,
    /// The bytes of the longest name.
    longest: usize,
}

#[derive(Debug)]
struct Entry {
    start: u32,
    length: u8,
    number: u32,
}

impl NameIndex {
    /// Takes distinct names of at most 255 bytes.
    pub(crate) fn new<'n>(names: impl Iterator<Item = &'n [u8]> + Clone) -> Self {
        let bytes: Vec<u8> = names.clone().flatten().copied().collect();
        let mut index = Self { bytes: bytes.into(), ..Self::default() };
        index.table.reserve(names.clone().count(), |_| 0);
        let mut start = 0;
        for (number, name) in (0..).zip(names) {
            let entry = Entry { start, length: name.len() as u8, number };
            start += name.len() as u32;
            index.longest = index.longest.max(name.len());
            index.table.insert_unique(hash(name), entry, |entry| hash(entry.name(&index.bytes)));
        }
        index
    }

    /// The number of a name.
    #[inline]
    pub(crate) fn find(&self, name: &[u8]) -> Option<u32> {
        // A longer one need not be looked for.
        if name.len() > self.longest {
            return None;
        }
        let is_it =
            |entry: &Entry| usize::from(entry.length) == name.len() && same(entry.name(&self.bytes), name);
        self.table.find(hash(name), is_it).map(|entry| entry.number)
    }
}

impl Entry {
    fn name<'b>(&self, bytes: &'b [u8]) -> &'b [u8] {
        let start = self.start as usize;
        bytes.get(start..start + usize::from(self.length)).unwrap_or_default()
    }
}

/// The names are the operator's own, so nobody can make them collide; who asks chooses where to look and no more.
fn hash(name: &[u8]) -> u64 {
    let mut hasher = FxHasher::default();
    hasher.write(name);
    hasher.finish()
}

/// Compares two names of one length by words, the last of which may overlap the one before: names are too short for what the
/// standard library calls for this.
fn same(left: &[u8], right: &[u8]) -> bool {
    match (left.last_chunk::<8>(), right.last_chunk::<8>()) {
        (Some(left_end), Some(right_end)) => {
            let mut words = left.as_chunks::<8>().0.iter().zip(right.as_chunks::<8>().0);
            left_end == right_end && words.all(|(left, right)| left == right)
        }
        _ => {
            let ends = |name: &'_ [u8]| Some((*name.first_chunk::<4>()?, *name.last_chunk::<4>()?));
            match (ends(left), ends(right)) {
                (Some(left), Some(right)) => left == right,
                _ => left.iter().eq(right),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_empty_index_has_nothing() {
        assert_eq!(NameIndex::default().find(b""), None);
        assert_eq!(NameIndex::new([b"".as_slice()].into_iter()).find(b""), Some(0));
    }

    proptest! {
        /// Names of all the lengths that are compared differently, many of them alike but for a byte.
        #[test]
        fn names_have_their_numbers_and_others_have_none(
            names in prop::collection::btree_set(prop::collection::vec(b'a'..=b'c', 0..20), 0..60),
            others in prop::collection::vec(prop::collection::vec(b'a'..=b'd', 0..22), 0..60),
        ) {
            let names: Vec<Vec<u8>> = names.into_iter().collect();
            let index = NameIndex::new(names.iter().map(Vec::as_slice));
            for (number, name) in (0..).zip(&names) {
                prop_assert_eq!(index.find(name), Some(number));
            }
            for other in &others {
                let number = names.iter().position(|name| name == other).map(|number| number as u32);
                prop_assert_eq!(index.find(other), number);
            }
        }

        #[test]
        fn equal_is_what_has_equal_bytes(left in prop::collection::vec(0..2u8, 0..40), flip in any::<prop::sample::Index>()) {
            prop_assert!(same(&left, &left.clone()));
            if !left.is_empty() {
                let mut right = left.clone();
                right[flip.index(left.len())] ^= 1;
                prop_assert!(!same(&left, &right));
            }
        }
    }
}
