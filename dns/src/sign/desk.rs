//! What a thread needs to sign: the signatures it has made, and a bound on how many more it makes.
//!
//! Signatures lie in a table of fixed size, found by a keyed hash of what they sign; two that share all 64 bits of it would be
//! mistaken for each other, once in some 10¹⁸ look-ups. One that was never asked for again gives way first, so that a flood
//! of random names, each of which needs a signature of its own, takes nothing from the names that users ask for.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use super::canonical::SignedData;
use super::key::{SIGNATURE_BYTES, SigningKey};

const BUCKETS: usize = 2048;
const WAYS: usize = 4;
/// Signatures one thread makes in a second, and at once, at most. At some 16 µs each (`cargo bench -p dns`) that is a third
/// of its time, and the rest is left for the names that are signed already.
const PER_SECOND: u32 = 20_000;

/// The place where one thread signs. About 0.7 MiB once something was signed.
#[derive(Default)]
pub(crate) struct Desk {
    /// What is to be signed.
    pub(crate) data: SignedData,
    /// Where the data of records begins and ends in a message, to be sorted.
    pub(crate) places: Vec<(usize, usize)>,
    /// The types at a name, as NSEC writes them.
    pub(crate) bitmap: Vec<u8>,
    hasher: RandomState,
    buckets: Vec<[Slot; WAYS]>,
    /// The moment at which all signatures made so far would be paid for at the even rate.
    paid: Option<Instant>,
}

#[derive(Clone, Copy)]
struct Slot {
    hash: u64,
    /// In seconds since 1970; zero: the slot is free.
    until: u64,
    /// Whether it was asked for again.
    used: bool,
    signature: [u8; SIGNATURE_BYTES],
}

const FREE: Slot = Slot { hash: 0, until: 0, used: false, signature: [0; SIGNATURE_BYTES] };

impl Desk {
    /// The hash of what is to be signed and by whom, by which its signature is kept. The key's tag is part of what is signed, but
    /// two keys may share one.
    pub(crate) fn hash(&self, key: &SigningKey) -> u64 {
        self.hasher.hash_one((self.data.bytes(), key.dnskey()))
    }

    /// A signature that was made before.
    pub(crate) fn find(&mut self, hash: u64, unix: u64) -> Option<[u8; SIGNATURE_BYTES]> {
        let bucket = self.buckets.get_mut(hash as usize % BUCKETS)?;
        let slot = bucket.iter_mut().find(|slot| slot.hash == hash && slot.until > unix)?;
        slot.used = true;
        Some(slot.signature)
    }

    /// True when one more may be made now; counts it.
    pub(crate) fn admits(&mut self, now: Instant) -> bool {
        let next = self.paid.map_or(now, |paid| paid.max(now)) + Duration::from_secs(1) / PER_SECOND;
        let admitted = next <= now + Duration::from_secs(1);
        if admitted {
            self.paid = Some(next);
        }
        admitted
    }

    /// Makes a signature and keeps it.
    pub(crate) fn sign(&mut self, key: &SigningKey, hash: u64, unix: u64) -> Option<[u8; SIGNATURE_BYTES]> {
        let signature = key.sign(self.data.bytes())?;
        if self.buckets.is_empty() {
            self.buckets = vec![[FREE; WAYS]; BUCKETS];
        }
        let bucket = &mut self.buckets[hash as usize % BUCKETS];
        let unused = bucket.iter().position(|slot| slot.until <= unix);
        let at = unused.or_else(|| bucket.iter().position(|slot| !slot.used)).unwrap_or_else(|| {
            bucket.iter_mut().for_each(|slot| slot.used = false);
            hash as usize / BUCKETS % WAYS
        });
        bucket[at] = Slot { hash, until: self.data.until(), used: false, signature };
        Some(signature)
    }
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Desk").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::start;
    use crate::zone::Kind;

    const NOW: u64 = 1_800_000_000;

    fn key() -> SigningKey {
        SigningKey::from_pkcs8(&SigningKey::generate().unwrap()).unwrap()
    }

    fn prepare(desk: &mut Desk, key: &SigningKey, number: u32) -> u64 {
        let owner = [b"\x04".as_slice(), &number.to_be_bytes(), b"\x00"].concat();
        desk.data.begin(&owner, Kind::A, 30, b"\x00", NOW);
        desk.data.push(&owner, [&[192, 0, 2, 1]]);
        desk.hash(key)
    }

    #[test]
    fn two_keys_with_one_tag_sign_each_for_itself() {
        let (mut desk, one, other) = (Desk::default(), key(), key());
        let hash = prepare(&mut desk, &one, 1);
        let made = desk.sign(&one, hash, NOW).unwrap();
        assert_eq!(desk.find(hash, NOW), Some(made));
        // All that is signed is the same, the tag included.
        let theirs = prepare(&mut desk, &other, 1);
        assert!(theirs != hash && desk.find(theirs, NOW).is_none());
    }

    #[test]
    fn what_is_asked_for_again_outlives_a_flood() {
        let (mut desk, key) = (Desk::default(), key());
        let mut popular = Vec::new();
        for number in 0..200 {
            let hash = prepare(&mut desk, &key, number);
            assert!(desk.find(hash, NOW).is_none());
            let made = desk.sign(&key, hash, NOW).unwrap();
            assert_eq!(desk.find(hash, NOW), Some(made));
            popular.push((number, made));
        }
        for number in 1000..1000 + 20 * (BUCKETS * WAYS) as u32 {
            let hash = prepare(&mut desk, &key, number);
            // A flood's signatures matter to nobody: one key's stands for all.
            let bucket = &mut desk.buckets[hash as usize % BUCKETS];
            let at = bucket.iter().position(|slot| !slot.used).expect("not all are popular");
            bucket[at] = Slot { hash, until: NOW + 9999, used: false, signature: [1; SIGNATURE_BYTES] };
        }
        for (number, made) in popular {
            let hash = prepare(&mut desk, &key, number);
            assert_eq!(desk.find(hash, NOW), Some(made));
            assert_eq!(desk.find(hash, NOW + 2 * super::super::canonical::PERIOD), None, "not for ever");
        }
    }

    #[test]
    fn as_many_are_made_as_the_rate_allows() {
        let (mut desk, now) = (Desk::default(), start().monotonic);
        let admitted = |desk: &mut Desk, at: Duration| {
            (0..2 * PER_SECOND).filter(|_| desk.admits(now + at)).count() as u32
        };
        assert_eq!(admitted(&mut desk, Duration::ZERO), PER_SECOND);
        assert_eq!(admitted(&mut desk, Duration::from_millis(500)), PER_SECOND / 2);
        assert_eq!(admitted(&mut desk, Duration::from_secs(3600)), PER_SECOND, "and no more saved up");
    }
}
