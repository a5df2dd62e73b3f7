//! Golden bytes, changed: what every decoder must survive (I9).
//!
//! ```text
//!   golden bytes ──▶ every cut, every flipped bit, every length made extreme, every two spliced, some of it at random
//!                          │
//!                          ▼
//!   decode: no panic, and no more memory at once than its room allows
//! ```
//!
//! The same decoders and golden bytes feed the fuzz targets in `tests/fuzz`: with `MERIDIAN_FUZZ_SEEDS=FOLDER` the golden
//! bytes are also written there, as `FOLDER/DECODER/NUMBER`.

use std::path::Path;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

/// A decoder's name, the decoder, and its golden bytes.
pub type Decoder = (&'static str, fn(&[u8]), fn() -> Vec<Vec<u8>>);

/// How much memory a decoder may hold at once.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// Whatever it is given.
    pub bytes: u64,
    /// And so much for each byte given.
    pub times: u64,
}

/// Random changes of each decoder's golden bytes.
const RANDOM_CASES: u32 = 512;
/// Every byte of a message of at most so many is changed.
const WHOLE_BYTES: usize = 1024;
/// Of a longer one that many, at even distances.
const PLACES: usize = 64;
/// What lengths and counts are made.
const EXTREMES: [&[u8]; 6] =
    [&[0xff], &[0xff; 2], &[0xff; 4], &[0xff; 8], &[0xff, 0xff, 0xff, 0x7f], &[0, 0, 0, 0]];

/// One change of a message.
#[derive(Debug, Clone)]
enum Change {
    Cut(prop::sample::Index),
    Set(prop::sample::Index, u8),
    Insert(prop::sample::Index, Vec<u8>),
    Remove(prop::sample::Index, usize),
    Splice(prop::sample::Index, prop::sample::Index, prop::sample::Index),
}

/// Gives each decoder all its golden bytes, changed in all these ways.
///
/// # Panics
/// When one panics or takes more than its room; the message names the decoder and the bytes.
pub fn survive(decoders: &[Decoder], room: impl Fn(&str) -> Room) {
    let seeds = std::env::var_os("MERIDIAN_FUZZ_SEEDS");
    for (name, decode, golden) in decoders {
        let golden = golden();
        assert!(!golden.is_empty(), "{name} has no golden bytes");
        if let Some(folder) = &seeds {
            write(&Path::new(folder).join(name), &golden);
        }
        let room = room(name);
        let try_one = |bytes: &[u8]| check(name, *decode, room, bytes);
        try_one(&[]);
        for message in &golden {
            in_every_place(message, &try_one);
            for other in &golden {
                splices(message, other, &try_one);
            }
        }
        at_random(&golden, &try_one);
    }
}

/// The most memory that a call holds at once, beyond what was held before.
pub fn most_bytes(call: impl FnOnce()) -> u64 {
    allocation_counter::measure(call).bytes_max
}

fn check(name: &str, decode: fn(&[u8]), room: Room, bytes: &[u8]) {
    let outcome = std::panic::catch_unwind(|| most_bytes(|| decode(bytes)));
    let Ok(used) = outcome else { panic!("{name} panics on {bytes:02x?}") };
    let most = room.bytes + room.times * bytes.len() as u64;
    assert!(used <= most, "{name} holds {used} bytes at once, more than {most}, for {bytes:02x?}");
}

fn in_every_place(message: &[u8], try_one: &impl Fn(&[u8])) {
    try_one(message);
    try_one(&[message, message].concat());
    let step = if message.len() <= WHOLE_BYTES { 1 } else { message.len().div_ceil(PLACES) };
    for at in (0..message.len()).step_by(step) {
        try_one(&message[..at]);
        try_one(&message[at..]);
        let mut changed = message.to_vec();
        for bit in 0..8 {
            changed[at] = message[at] ^ 1 << bit;
            try_one(&changed);
        }
        for extreme in EXTREMES {
            let mut changed = message.to_vec();
            for (byte, value) in changed[at..].iter_mut().zip(extreme) {
                *byte = *value;
            }
            try_one(&changed);
        }
    }
}

fn splices(message: &[u8], other: &[u8], try_one: &impl Fn(&[u8])) {
    let places =
        |bytes: &[u8]| -> Vec<usize> { (0..bytes.len()).step_by(bytes.len().div_ceil(12).max(1)).collect() };
    for from in places(message) {
        for to in places(other) {
            try_one(&[&message[..from], &other[to..]].concat());
        }
    }
}

fn at_random(golden: &[Vec<u8>], try_one: &impl Fn(&[u8])) {
    let index = any::<prop::sample::Index>;
    let change = prop_oneof![
        index().prop_map(Change::Cut),
        (index(), any::<u8>()).prop_map(|(at, to)| Change::Set(at, to)),
        (index(), prop::collection::vec(any::<u8>(), 1..20))
            .prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        (index(), 1_usize..20).prop_map(|(at, count)| Change::Remove(at, count)),
        (index(), index(), index()).prop_map(|(other, from, to)| Change::Splice(other, from, to)),
    ];
    let cases = (index(), prop::collection::vec(change, 1..8));
    let mut runner = TestRunner::new(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(RANDOM_CASES)
    });
    let outcome = runner.run(&cases, |(which, changes)| {
        let mut bytes = which.get(golden).clone();
        changes.iter().for_each(|change| change.make(&mut bytes, golden));
        try_one(&bytes);
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
}

impl Change {
    fn make(&self, bytes: &mut Vec<u8>, golden: &[Vec<u8>]) {
        let place = |at: &prop::sample::Index, bytes: &[u8]| at.index(bytes.len() + 1);
        match self {
            Self::Cut(at) => bytes.truncate(place(at, bytes)),
            Self::Set(at, to) => {
                let at = place(at, bytes);
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = *to;
                }
            }
            Self::Insert(at, new) => {
                let at = place(at, bytes);
                bytes.splice(at..at, new.iter().copied());
            }
            Self::Remove(at, count) => {
                let at = place(at, bytes);
                bytes.drain(at..(at + count).min(bytes.len()));
            }
            Self::Splice(other, from, to) => {
                let other = other.get(golden);
                bytes.truncate(place(from, bytes));
                bytes.extend_from_slice(&other[place(to, other)..]);
            }
        }
    }
}

fn write(folder: &Path, golden: &[Vec<u8>]) {
    std::fs::create_dir_all(folder).expect("MERIDIAN_FUZZ_SEEDS names a folder that can be made");
    for (number, bytes) in golden.iter().enumerate() {
        std::fs::write(folder.join(number.to_string()), bytes).expect("MERIDIAN_FUZZ_SEEDS can be written");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: Room = Room { bytes: 1000, times: 2 };

    fn golden() -> Vec<Vec<u8>> {
        vec![vec![1, 4, 7, 7, 7, 7]]
    }

    #[test]
    fn a_sound_decoder_survives() {
        let decode: fn(&[u8]) = |bytes| drop(bytes.to_vec());
        survive(&[("sound", decode, golden)], |_| ROOM);
    }

    #[test]
    #[should_panic(expected = "careless panics on")]
    fn an_index_beyond_the_end_is_found() {
        let decode: fn(&[u8]) = |bytes| {
            if let [1, length, rest @ ..] = bytes {
                std::hint::black_box(&rest[..usize::from(*length)]);
            }
        };
        survive(&[("careless", decode, golden)], |_| ROOM);
    }

    #[test]
    #[should_panic(expected = "greedy holds")]
    fn a_length_that_is_believed_is_found() {
        let decode: fn(&[u8]) = |bytes| {
            if let [1, length, ..] = bytes {
                drop(std::hint::black_box(Vec::<u64>::with_capacity(usize::from(*length))));
            }
        };
        survive(&[("greedy", decode, golden)], |_| ROOM);
    }
}
