//! A compact map from ids to the rows of records: plain bytes, no allocation an entry. Pure.
//!
//! ```text
//!   hash(id) ─▶ home slot ─▶ │ id 16 ‖ row 17 │ id 16 ‖ row 17 │ empty │ …     33 bytes a slot, 31 slots a block of 1,023
//! ```
//!
//! Open addressing with linear probing where the slots stay in the order of their hashes (Amble and Knuth, "Ordered hash
//! tables", 1974; Robin Hood hashing is the same order): a look-up that finds a greater hash ends there. An insertion moves
//! what follows it up to the next empty slot; what runs over the end lengthens the array, so nothing wraps around.
//!
//! The array is made of blocks of one size, and grows by a sixteenth when seven eighths are filled: thousands of such maps that
//! grow together leave no holes of former sizes in the allocator, as arrays that are moved to larger ones do.

use gossip::id::SessionId;

use crate::places::{ROW_BYTES, Row};

const SLOT_BYTES: usize = 16 + ROW_BYTES;
/// The last byte of a row.
const FLAGS: usize = SLOT_BYTES - 1;
/// No record has these flags.
const EMPTY: u8 = 0xff;
/// So that a block takes just less than a size that allocators have, and the list of them little of a cache.
const BLOCK: usize = 31;

type Slot = [u8; SLOT_BYTES];

/// Records by id.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    #[expect(clippy::vec_box, reason = "blocks that never move are what keeps the allocator without holes")]
    blocks: Vec<Box<[Slot; BLOCK]>>,
    /// Slots that hashes point to; behind them is what ran over the end.
    homes: usize,
    len: usize,
}

impl Slots {
    /// How many records are held.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The record of that id.
    pub(crate) fn find(&self, id: &SessionId) -> Option<&Row> {
        let at = self.seek(id).ok()?;
        self.slot(at).and_then(rest)
    }

    /// Takes a record in, in place of an older one of that id.
    pub(crate) fn put(&mut self, id: &SessionId, row: &Row) {
        let mut slot = [0; SLOT_BYTES];
        slot[..16].copy_from_slice(&id.0);
        slot[16..].copy_from_slice(row);
        debug_assert_ne!(slot[FLAGS], EMPTY, "no record has these flags");
        if let Ok(at) = self.seek(id) {
            *self.slot_mut(at) = slot;
            return;
        }
        if (self.len + 1) * 8 > self.homes * 7 {
            self.rebuild(self.homes + self.homes / 16 + 1);
        }
        self.insert(slot);
    }

    /// Keeps the records for which `keep` holds.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(SessionId, &Row) -> bool) {
        let before = self.len;
        for slot in self.blocks.iter_mut().flat_map(|block| block.iter_mut()) {
            if let Some(rest) = rest(slot)
                && !keep(id(slot), rest)
            {
                slot[FLAGS] = EMPTY;
                self.len -= 1;
            }
        }
        if self.len < before {
            // The holes would end look-ups early.
            let roomy = self.len * 2 < self.homes;
            self.rebuild(if roomy { self.len + self.len / 4 } else { self.homes });
        }
    }

    /// All records, in no order that means anything.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (SessionId, &Row)> {
        self.blocks.iter().flat_map(|block| block.iter()).filter_map(|slot| Some((id(slot), rest(slot)?)))
    }

    /// Where the id lies, else where it belongs.
    fn seek(&self, id: &SessionId) -> Result<usize, usize> {
        let hash = hash(id);
        let mut at = self.home(hash);
        while let Some(slot) = self.slot(at)
            && slot[FLAGS] != EMPTY
        {
            if slot[..16] == id.0 {
                return Ok(at);
            }
            if hash < self::hash(&self::id(slot)) {
                break;
            }
            at += 1;
        }
        Err(at)
    }

    fn insert(&mut self, mut slot: Slot) {
        let (Ok(mut at) | Err(mut at)) = self.seek(&id(&slot));
        self.len += 1;
        while slot[FLAGS] != EMPTY {
            if at == self.blocks.len() * BLOCK {
                self.blocks.push(empty());
            }
            std::mem::swap(self.slot_mut(at), &mut slot);
            at += 1;
        }
    }

    /// With so many homes, and all that it holds.
    fn rebuild(&mut self, homes: usize) {
        let held = self.blocks.iter().flat_map(|block| block.iter()).filter(|slot| slot[FLAGS] != EMPTY);
        let held: Vec<Slot> = held.copied().collect();
        let blocks = homes.div_ceil(BLOCK);
        self.blocks.truncate(blocks);
        self.blocks.iter_mut().for_each(|block| **block = [[EMPTY; SLOT_BYTES]; BLOCK]);
        self.blocks.reserve_exact(blocks - self.blocks.len());
        self.blocks.resize_with(blocks, empty);
        // A last block is there as a whole: all of it is used.
        (self.homes, self.len) = (blocks * BLOCK, 0);
        held.into_iter().for_each(|slot| self.insert(slot));
        self.blocks.shrink_to(blocks + 1);
    }

    fn home(&self, hash: u64) -> usize {
        ((u128::from(hash) * self.homes as u128) >> 64) as usize
    }

    fn slot(&self, at: usize) -> Option<&Slot> {
        self.blocks.get(at / BLOCK).map(|block| &block[at % BLOCK])
    }

    fn slot_mut(&mut self, at: usize) -> &mut Slot {
        &mut self.blocks[at / BLOCK][at % BLOCK]
    }
}

fn empty() -> Box<[Slot; BLOCK]> {
    Box::new([[EMPTY; SLOT_BYTES]; BLOCK])
}

/// The ids of sessions are random or keyed hashes, made by nodes alone: they need no hashing that keeps strangers from
/// choosing where they fall. A bucket's ids begin alike, so all of their bytes are mixed.
fn hash(id: &SessionId) -> u64 {
    let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|byte| id.0[at + byte]));
    let mixed = (word(0).rotate_left(29) ^ word(8)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ (mixed >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93)
}

fn id(slot: &Slot) -> SessionId {
    SessionId(std::array::from_fn(|byte| slot[byte]))
}

fn rest(slot: &Slot) -> Option<&Row> {
    slot.last_chunk().filter(|_| slot[FLAGS] != EMPTY)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Op {
        Put(u16, u8),
        Drop(u16),
    }

    fn any_op() -> impl Strategy<Value = Op> {
        prop_oneof![
            6 => (0u16..300, any::<u8>()).prop_map(|(id, value)| Op::Put(id, value)),
            1 => (2u16..9).prop_map(Op::Drop),
        ]
    }

    fn row(value: u8) -> Row {
        let mut row = [value; ROW_BYTES];
        row[ROW_BYTES - 1] = value & 7;
        row
    }

    /// Ids that differ in few bits, all of whose hashes may fall together.
    fn session(n: u16, alike: bool) -> SessionId {
        let mut id = [0; 16];
        id[14..].copy_from_slice(&n.to_be_bytes());
        if alike {
            // Undoes the rotation: the hash is the same for all.
            let word = u64::from_le_bytes(*id.last_chunk().unwrap_or(&[0; 8])).rotate_right(29);
            id[..8].copy_from_slice(&word.to_le_bytes());
        }
        SessionId(id)
    }

    fn in_order(slots: &Slots) {
        let hashes: Vec<u64> = slots.iter().map(|(id, _)| hash(&id)).collect();
        assert!(hashes.is_sorted(), "in the order of their hashes");
        assert_eq!(hashes.len(), slots.len());
    }

    proptest! {
        #[test]
        fn it_is_a_map(ops in proptest::collection::vec(any_op(), 0..400), alike in prop::bool::weighted(0.1)) {
            let (mut slots, mut model) = (Slots::default(), BTreeMap::new());
            for op in ops {
                match op {
                    Op::Put(n, value) => {
                        slots.put(&session(n, alike), &row(value));
                        model.insert(session(n, alike).0, row(value));
                    }
                    Op::Drop(every) => {
                        slots.retain(|id, _| !u16::from_be_bytes([id.0[14], id.0[15]]).is_multiple_of(every));
                        model.retain(|id, _| !u16::from_be_bytes([id[14], id[15]]).is_multiple_of(every));
                    }
                }
                in_order(&slots);
                prop_assert_eq!(slots.len(), model.len());
            }
            for n in 0..300 {
                let id = session(n, alike);
                prop_assert_eq!(slots.find(&id), model.get(&id.0));
            }
            let all: BTreeMap<_, _> = slots.iter().map(|(id, rest)| (id.0, *rest)).collect();
            prop_assert_eq!(all, model);
            prop_assert!(slots.homes <= 2 * slots.len() + 2 * BLOCK, "{} for {}", slots.homes, slots.len());
        }
    }

    #[test]
    fn random_ids_take_little_room_and_lie_near_their_homes() {
        let mut slots = Slots::default();
        let (mut room, mut far, mut held) = (0, 0, 0);
        for n in 0..1000_u64 {
            let mut id = [0; 16];
            id.copy_from_slice(&blake3::hash(&n.to_le_bytes()).as_bytes()[..16]);
            slots.put(&SessionId(id), &row(1));
            if n >= 100 {
                room += slots.blocks.len() * BLOCK;
                held += slots.len();
            }
        }
        for (id, _) in slots.iter() {
            far += slots.seek(&id).unwrap() - slots.home(hash(&id));
        }
        assert!(room * 100 < held * 128, "{room} slots for {held}");
        assert!(far < 6 * slots.len(), "{far} steps for {}", slots.len());
        slots.retain(|_, _| false);
        assert_eq!(slots.blocks.len(), 0);
    }
}
