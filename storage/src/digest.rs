//! Fingerprints: what a bucket holds, in 8 bytes. Pure.
//!
//! The fingerprint of a bucket is the wrapping sum of its records' hashes, so that it follows every change in constant
//! time and depends on no order. Two replicas whose fingerprints agree hold the same records, but for one chance in 2⁶⁴.
//! (A sum can be forged by who chooses the records; only members of the mesh do.)

use crate::pin::Pin;

/// The sum over a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Fingerprint(pub u64);

impl Fingerprint {
    /// Counts a record in.
    pub fn add(&mut self, pin: &Pin) {
        self.0 = self.0.wrapping_add(pin.fingerprint());
    }

    /// Counts a record out, exactly as it was counted in.
    pub fn remove(&mut self, pin: &Pin) {
        self.0 = self.0.wrapping_sub(pin.fingerprint());
    }
}

impl std::ops::AddAssign for Fingerprint {
    fn add_assign(&mut self, other: Self) {
        self.0 = self.0.wrapping_add(other.0);
    }
}
