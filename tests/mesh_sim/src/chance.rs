//! Chance, from the seed alone. Chitchat, tokio and the standard library's hash maps draw from the system, each in its own
//! way and none of which can be given a seed; all of them end at the C library's `getrandom`, which is this one here.
//!
//! A program of one thread that does so is the same in every run. It is good for nothing but that: no secret made here is one.

#![allow(unsafe_code, reason = "the C library's function is replaced by name")]

use std::sync::atomic::{AtomicU64, Ordering};

static NEXT: AtomicU64 = AtomicU64::new(0);

/// Everything drawn from now on follows from `seed`.
pub(crate) fn seed(seed: u64) {
    NEXT.store(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15), Ordering::Relaxed);
}

/// In place of getrandom(2)'s wrapper. The standard library asks for it by a weak symbol, the `getrandom` crate by `dlsym`.
#[unsafe(no_mangle)]
extern "C" fn getrandom(buffer: *mut u8, length: usize, _flags: u32) -> isize {
    for at in 0..length {
        // SAFETY: who calls getrandom gives `length` bytes at `buffer` that may be written.
        unsafe { buffer.add(at).write(byte()) };
    }
    length as isize
}

/// SplitMix64 (Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014), its upper byte.
fn byte() -> u8 {
    let mut mixed = NEXT.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((mixed ^ (mixed >> 31)) >> 56) as u8
}

#[cfg(test)]
mod tests {
    use std::hash::{BuildHasher, RandomState};

    use rand::RngExt;

    /// On threads of their own, since both draw once a thread.
    fn drawn(seed: u64) -> (u64, u64) {
        super::seed(seed);
        let draw = || (RandomState::new().hash_one(7), rand::rng().random());
        std::thread::spawn(draw).join().unwrap()
    }

    #[test]
    fn what_the_libraries_draw_follows_from_the_seed() {
        let (one, again, other) = (drawn(1), drawn(1), drawn(2));
        assert_eq!(one, again);
        assert!(one.0 != other.0 && one.1 != other.1);
    }
}
