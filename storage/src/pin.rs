//! The pin: the replicated record of a session's stay. Pure.
//!
//! Two registers that merge each by itself, so that a refresh never undoes a move: the assignment, where the greater
//! `(hlc, node)` wins, and the expiry, where the greater wins. Merging is commutative, associative and idempotent (I4);
//! there are no tombstones, an ended session is an assignment to nothing until it expires.
//!
//! ```text
//!   sid 16 · hlc 8 · node 4 · pool 4 · backend 8 · expires 4 · flags 1      = 45 bytes, little endian
//! ```

use gossip::clock::{HLC_MAX_AHEAD, Hlc, Wall};
use gossip::id::{BackendId, SessionId, Tag};

/// The length of an encoded pin.
pub const PIN_BYTES: usize = 45;

/// The length of a pin whose id is known: what [`Pin::pack`] gives.
pub const PACKED_BYTES: usize = PIN_BYTES - 16;

/// The farthest expiry that is accepted, from now: that of the cookie's seal.
pub const LIFE_MAX_SECONDS: u32 = 400 * 86_400;

const WEAK: u8 = 1;
const ENDED: u8 = 2;
const FORWARDED: u8 = 4;

/// The replicated record of one session. Two registers: the assignment, where the greater `(hlc, node)` wins, and
/// the expiry, where the greater wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pin {
    /// Whose.
    pub id: SessionId,
    /// Where it stays.
    pub assignment: Assignment,
    /// Seconds since 1970 after which the record is gone.
    pub expires: u32,
}

/// The first register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Assignment {
    /// When it was made.
    pub hlc: Hlc,
    /// The node that made it, as a tag: breaks ties.
    pub node: Tag,
    /// The pool, as a tag.
    pub pool: Tag,
    /// The backend; `None` for a session that was ended.
    pub backend: Option<BackendId>,
    /// Made without the replicas' consent: any committed assignment that replaces the same one is preferred by its hlc.
    pub weak: bool,
    /// The session has another home since this one could not be reached; the tag of it stands in `pool`, and there is no
    /// backend.
    pub forwarded: bool,
}

/// Bytes that are no pin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a pin")]
pub struct NotAPin;

impl Pin {
    /// The union of what two copies of one session's record know.
    #[must_use]
    pub fn merge(self, other: Self) -> Self {
        debug_assert_eq!(self.id, other.id, "records of two sessions do not merge");
        Self {
            id: self.id,
            assignment: self.assignment.max(other.assignment),
            expires: self.expires.max(other.expires),
        }
    }

    /// The record that its former home keeps of a session that has moved to `home` with this one.
    #[must_use]
    pub fn forwarded_to(self, home: Tag) -> Self {
        let assignment =
            Assignment { pool: home, backend: None, weak: false, forwarded: true, ..self.assignment };
        Self { assignment, ..self }
    }

    /// Whether both stay at the same place.
    pub fn is_at(&self, other: &Self) -> bool {
        let place = |pin: &Self| (pin.assignment.pool, pin.assignment.backend);
        place(self) == place(other)
    }

    /// Whether the record is gone at `now`.
    pub fn is_expired(&self, now: Wall) -> bool {
        u64::from(self.expires) < now.seconds()
    }

    /// Whether a copy that arrives at `now` may be taken: not expired (I4), and neither its time nor its expiry so far
    /// ahead that it could not be honest.
    pub fn is_acceptable(&self, now: Wall) -> bool {
        !self.is_expired(now)
            && u64::from(self.expires) <= now.seconds() + u64::from(LIFE_MAX_SECONDS)
            && self.assignment.hlc.wall().since(now) <= HLC_MAX_AHEAD
    }

    /// The record's share in its bucket's fingerprint: the first 8 bytes of BLAKE3 over its encoding.
    pub fn fingerprint(&self) -> u64 {
        let mut first = [0; 8];
        first.copy_from_slice(&blake3::hash(&self.encode()).as_bytes()[..8]);
        u64::from_le_bytes(first)
    }

    /// As the module's picture shows.
    pub fn encode(&self) -> [u8; PIN_BYTES] {
        let Assignment { hlc, node, pool, backend, weak, forwarded } = self.assignment;
        let flags = if weak { WEAK } else { 0 }
            | if backend.is_none() { ENDED } else { 0 }
            | if forwarded { FORWARDED } else { 0 };
        let mut bytes = [0; PIN_BYTES];
        bytes[..16].copy_from_slice(&self.id.0);
        bytes[16..24].copy_from_slice(&hlc.0.to_le_bytes());
        bytes[24..28].copy_from_slice(&node.0.to_le_bytes());
        bytes[28..32].copy_from_slice(&pool.0.to_le_bytes());
        bytes[32..40].copy_from_slice(&backend.map_or(0, |id| id.0).to_le_bytes());
        bytes[40..44].copy_from_slice(&self.expires.to_le_bytes());
        bytes[44] = flags;
        bytes
    }

    /// The encoding without the id, for a map that has the id as its key.
    pub fn pack(&self) -> [u8; PACKED_BYTES] {
        let mut packed = [0; PACKED_BYTES];
        packed.copy_from_slice(&self.encode()[16..]);
        packed
    }

    /// The pin of that id, from what [`Pin::pack`] gave.
    pub fn unpack(id: SessionId, packed: &[u8; PACKED_BYTES]) -> Self {
        let mut bytes = [0; PIN_BYTES];
        bytes[..16].copy_from_slice(&id.0);
        bytes[16..].copy_from_slice(packed);
        Self::read(&bytes)
    }

    /// Reads what [`Pin::encode`] wrote.
    ///
    /// # Errors
    /// On any other length, on unknown flags, and on an ended session that names a backend: each record has one encoding,
    /// and what has moved to another home has no backend here.
    pub fn decode(bytes: &[u8]) -> Result<Self, NotAPin> {
        let bytes: &[u8; PIN_BYTES] = bytes.try_into().map_err(|_| NotAPin)?;
        let pin = Self::read(bytes);
        let astray = pin.assignment.forwarded && pin.assignment.backend.is_some();
        if pin.encode() == *bytes && !astray { Ok(pin) } else { Err(NotAPin) }
    }

    fn read(bytes: &[u8; PIN_BYTES]) -> Self {
        let flags = bytes[44];
        let backend = (flags & ENDED == 0).then(|| BackendId(u64::from_le_bytes(take(bytes, 32))));
        Self {
            id: SessionId(take(bytes, 0)),
            assignment: Assignment {
                hlc: Hlc(u64::from_le_bytes(take(bytes, 16))),
                node: Tag(u32::from_le_bytes(take(bytes, 24))),
                pool: Tag(u32::from_le_bytes(take(bytes, 28))),
                backend,
                weak: flags & WEAK != 0,
                forwarded: flags & FORWARDED != 0,
            },
            expires: u32::from_le_bytes(take(bytes, 40)),
        }
    }
}

fn take<const N: usize>(bytes: &[u8; PIN_BYTES], at: usize) -> [u8; N] {
    let mut taken = [0; N];
    taken.copy_from_slice(&bytes[at..at + N]);
    taken
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    prop_compose! {
        /// Copies of one session's record that often tie.
        pub(crate) fn any_pin()(
            hlc in 0u64..4, node in 0u32..3, pool in 0u32..2, backend in proptest::option::of(0u64..3),
            weak: bool, forwarded: bool, expires in 0u32..5,
        ) -> Pin {
            Pin {
                id: SessionId([5; 16]),
                assignment: Assignment {
                    hlc: Hlc(hlc), node: Tag(node), pool: Tag(pool), backend: backend.map(BackendId), weak,
                    forwarded: forwarded && backend.is_none(),
                },
                expires,
            }
        }
    }

    proptest! {
        #[test]
        fn merging_is_commutative_associative_idempotent(a in any_pin(), b in any_pin(), c in any_pin()) {
            prop_assert_eq!(a.merge(b), b.merge(a));
            prop_assert_eq!(a.merge(b).merge(c), a.merge(b.merge(c)));
            prop_assert_eq!(a.merge(a), a);
            prop_assert_eq!(a.merge(b).merge(b), a.merge(b));
        }

        #[test]
        fn a_pin_reads_what_it_writes(a in any_pin()) {
            prop_assert_eq!(Pin::decode(&a.encode()), Ok(a));
            prop_assert_eq!(Pin::unpack(a.id, &a.pack()), a);
        }

        #[test]
        fn bytes_that_read_are_the_only_encoding(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            if let Ok(pin) = Pin::decode(&bytes) {
                prop_assert_eq!(&pin.encode()[..], &bytes[..]);
            }
        }
    }

    fn pin() -> Pin {
        Pin {
            id: SessionId([1; 16]),
            assignment: Assignment {
                hlc: Hlc(2),
                node: Tag(3),
                pool: Tag(4),
                backend: Some(BackendId(5)),
                weak: true,
                forwarded: false,
            },
            expires: 6,
        }
    }

    #[test]
    fn the_format_is_the_same_for_ever() {
        let golden = [
            &[1u8; 16][..],
            &[2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 1],
        ]
        .concat();
        assert_eq!(pin().encode()[..], golden);
        assert_eq!(Pin::decode(&golden), Ok(pin()));
        let mut moved_home = pin();
        moved_home.assignment =
            Assignment { backend: None, forwarded: true, weak: false, ..pin().assignment };
        let golden = [&golden[..32], &[0; 8], &golden[40..44], &[6]].concat();
        assert_eq!(moved_home.encode()[..], golden);
        assert_eq!(Pin::decode(&golden), Ok(moved_home));
        assert_eq!(Pin::decode(&[&golden[..44], &[4]].concat()), Err(NotAPin));
    }

    #[test]
    fn a_refresh_does_not_undo_a_move() {
        let old = pin();
        let mut moved = pin();
        moved.assignment.hlc = Hlc(9);
        moved.assignment.backend = Some(BackendId(8));
        let refreshed = Pin { expires: 100, ..old };
        let merged = refreshed.merge(moved);
        assert_eq!((merged.assignment, merged.expires), (moved.assignment, 100));
    }

    #[test]
    fn nothing_is_taken_after_its_expiry_or_from_the_far_future() {
        let now = Wall(1_790_000_000_000);
        let good = Pin {
            assignment: Assignment { hlc: Hlc::from_millis(now.0), ..pin().assignment },
            expires: 1_790_000_000,
            ..pin()
        };
        assert!(good.is_acceptable(now));
        assert!(!Pin { expires: 1_789_999_999, ..good }.is_acceptable(now));
        assert!(!Pin { expires: u32::MAX, ..good }.is_acceptable(now));
        let ahead = Assignment { hlc: Hlc::from_millis(now.0 + 601_000), ..good.assignment };
        assert!(!Pin { assignment: ahead, ..good }.is_acceptable(now));
    }
}
