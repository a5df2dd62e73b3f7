//! Where sessions stay, each place once: thousands of records share a backend, and name it by a number. Pure but for its lock.
//!
//! ```text
//!   packed pin 29   hlc 8 · node 4 · pool 4 · backend 8 · expires 4 · flags 1
//!                           └────── a place 16 ──────┘
//!   row 17          hlc 8 · number 4 · expires 4 · flags 1
//!                           └▶ places: 1,024 a chunk, chunks never move, so that a look-up takes no lock
//! ```
//!
//! A place is kept as long as a row names it, and its number is given to another one afterwards. Whoever reads a row's place
//! must hold off those who could give the row back: in the table that is the lock of its bucket.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use gossip::id::SessionId;

use crate::pin::{PACKED_BYTES, Pin};

/// The length of a row.
pub(crate) const ROW_BYTES: usize = PACKED_BYTES - PLACE_BYTES + NUMBER_BYTES;

/// A record without its id, and with the number of its place.
pub(crate) type Row = [u8; ROW_BYTES];

const PLACE_BYTES: usize = 16;
const NUMBER_BYTES: usize = 4;
/// What stands before the place.
const HLC_BYTES: usize = 8;
const CHUNK: usize = 1024;

/// Node and pool, and the backend, as a packed pin has them.
type Place = [u64; 2];

/// The places that rows name.
#[derive(Debug)]
pub(crate) struct Places {
    chunks: Box<[OnceLock<Chunk>]>,
    known: Mutex<Known>,
}

type Chunk = Box<[[AtomicU64; 2]]>;

#[derive(Debug, Default)]
struct Known {
    numbers: HashMap<Place, u32>,
    /// How many rows name each number.
    uses: Vec<u32>,
    free: Vec<u32>,
}

impl Places {
    /// For so many rows, each of which may have a place of its own.
    pub(crate) fn with_room(rows: u64) -> Self {
        // A row that takes another's place has one for a moment while that other still has its own.
        let chunks = rows as usize / CHUNK + 2;
        Self { chunks: (0..chunks).map(|_| OnceLock::new()).collect(), known: Mutex::default() }
    }

    /// A row for a pin; it is to be [given back](Self::give_back). `None` when there is no room.
    pub(crate) fn row(&self, pin: &Pin) -> Option<Row> {
        let packed = pin.pack();
        let number = self.take(place_of(&packed))?;
        Some(row_of(&packed, number))
    }

    /// A row in place of another one, which is given back.
    pub(crate) fn replace(&self, former: &Row, pin: &Pin) -> Option<Row> {
        let packed = pin.pack();
        let place = place_of(&packed);
        let number = number_of(former);
        if self.at(number) == place {
            return Some(row_of(&packed, number));
        }
        let number = self.take(place)?;
        self.give_back(former);
        Some(row_of(&packed, number))
    }

    /// Nobody has this row any more.
    pub(crate) fn give_back(&self, row: &Row) {
        let number = number_of(row);
        let mut known = self.known();
        let Some(uses) = known.uses.get_mut(number as usize) else { return };
        *uses = uses.saturating_sub(1);
        if *uses == 0 {
            known.numbers.remove(&self.at(number));
            known.free.push(number);
        }
    }

    /// The pin of a row that nobody gives back meanwhile.
    pub(crate) fn pin(&self, id: SessionId, row: &Row) -> Pin {
        let place = self.at(number_of(row));
        let mut packed = [0; PACKED_BYTES];
        packed[..HLC_BYTES].copy_from_slice(&row[..HLC_BYTES]);
        packed[HLC_BYTES..HLC_BYTES + 8].copy_from_slice(&place[0].to_le_bytes());
        packed[HLC_BYTES + 8..HLC_BYTES + PLACE_BYTES].copy_from_slice(&place[1].to_le_bytes());
        packed[HLC_BYTES + PLACE_BYTES..].copy_from_slice(&row[HLC_BYTES + NUMBER_BYTES..]);
        Pin::unpack(id, &packed)
    }

    fn take(&self, place: Place) -> Option<u32> {
        let mut known = self.known();
        if let Some(&number) = known.numbers.get(&place) {
            known.uses[number as usize] += 1;
            return Some(number);
        }
        let number = match known.free.pop() {
            Some(number) => number,
            None => known.uses.len() as u32,
        };
        let chunk = self.chunks.get(number as usize / CHUNK)?;
        let chunk = chunk.get_or_init(|| (0..CHUNK).map(|_| Default::default()).collect());
        let cell = &chunk[number as usize % CHUNK];
        // Whoever finds the number in a row has met a lock since.
        cell[0].store(place[0], Ordering::Relaxed);
        cell[1].store(place[1], Ordering::Relaxed);
        if number as usize == known.uses.len() {
            known.uses.push(0);
        }
        known.uses[number as usize] = 1;
        known.numbers.insert(place, number);
        Some(number)
    }

    fn at(&self, number: u32) -> Place {
        let chunk = self.chunks.get(number as usize / CHUNK).and_then(OnceLock::get);
        let cell = chunk.map(|chunk| &chunk[number as usize % CHUNK]);
        cell.map_or([0; 2], |cell| [cell[0].load(Ordering::Relaxed), cell[1].load(Ordering::Relaxed)])
    }

    // A panic under this lock is impossible short of a failed allocation; what it guards stays usable.
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn place_of(packed: &[u8; PACKED_BYTES]) -> Place {
    let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|byte| packed[at + byte]));
    [word(HLC_BYTES), word(HLC_BYTES + 8)]
}

fn row_of(packed: &[u8; PACKED_BYTES], number: u32) -> Row {
    let mut row = [0; ROW_BYTES];
    row[..HLC_BYTES].copy_from_slice(&packed[..HLC_BYTES]);
    row[HLC_BYTES..HLC_BYTES + NUMBER_BYTES].copy_from_slice(&number.to_le_bytes());
    row[HLC_BYTES + NUMBER_BYTES..].copy_from_slice(&packed[HLC_BYTES + PLACE_BYTES..]);
    row
}

fn number_of(row: &Row) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|byte| row[HLC_BYTES + byte]))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use gossip::id::{BackendId, Tag};
    use proptest::prelude::*;

    use super::*;
    use crate::pin::tests::any_pin;

    proptest! {
        #[test]
        fn a_row_says_what_its_pin_said_as_long_as_it_is_kept(
            steps in prop::collection::vec((0usize..8, prop::option::of(any_pin())), 1..60),
        ) {
            let places = Places::with_room(8);
            let mut kept: Vec<Option<(Pin, Row)>> = vec![None; 8];
            for (at, pin) in steps {
                kept[at] = match (kept[at], pin) {
                    (None, Some(pin)) => Some((pin, places.row(&pin).unwrap())),
                    (Some((_, row)), Some(pin)) => Some((pin, places.replace(&row, &pin).unwrap())),
                    (Some((_, row)), None) => {
                        places.give_back(&row);
                        None
                    }
                    (None, None) => None,
                };
                for (pin, row) in kept.iter().flatten() {
                    prop_assert_eq!(places.pin(pin.id, row), *pin);
                }
                let named: BTreeSet<Place> = kept.iter().flatten().map(|(pin, _)| place_of(&pin.pack())).collect();
                let known = places.known();
                prop_assert_eq!(known.numbers.len(), named.len(), "kept as long as a row names it");
                prop_assert!(known.uses.len() <= 9, "numbers are used again");
            }
        }
    }

    #[test]
    fn there_is_room_for_as_many_places_as_rows_and_no_more() {
        let places = Places::with_room(1);
        let pin = |backend: u64| {
            let assignment = crate::pin::Assignment {
                hlc: gossip::clock::Hlc(1),
                node: Tag(1),
                pool: Tag(2),
                backend: Some(BackendId(backend)),
                weak: false,
                forwarded: false,
            };
            Pin { id: SessionId([1; 16]), assignment, expires: 9 }
        };
        let rows: Vec<Row> = (0..2 * CHUNK as u64).map(|n| places.row(&pin(n)).unwrap()).collect();
        assert_eq!(places.row(&pin(u64::MAX)), None);
        assert!(places.row(&pin(7)).is_some(), "a known place needs no room");
        places.give_back(&rows[0]);
        let other = places.row(&pin(u64::MAX)).unwrap();
        assert_eq!(places.pin(SessionId([1; 16]), &other), pin(u64::MAX));
    }
}
