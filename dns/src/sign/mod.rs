//! DNSSEC, signed while it is asked (RFC 4033 to 4035, RFC 6605, RFC 9824).
//!
//! ```text
//!   keys.rs    what signs a zone, the oldest key first; key.rs is the only file that names the library
//!      │
//!    pen.rs    puts the signature behind a set that was just written ──► desk.rs   made before? may one more be made?
//!      │                                                                             one a thread; bounded
//!   canonical.rs  the bytes that are signed          nsec.rs  what is not there          hands.rs  how many draws there are
//! ```
//!
//! A signature covers a set as it goes out: the addresses that were drawn, under the name that was asked for. Nothing is
//! signed ahead, and a signature made once is used again for an hour. So a wildcard's records are signed as those of the
//! name that was asked for, and what is not there is denied at that name alone: nobody can list a zone.

mod canonical;
mod desk;
mod hands;
mod key;
mod keys;
mod nsec;
mod pen;

pub(crate) use canonical::{CanonicalSet, MAX_SIGNED_TTL};
pub(crate) use desk::Desk;
pub(crate) use hands::few;
pub use key::{KeyError, SigningKey, names_key};
pub(crate) use keys::ZoneKeys;
pub(crate) use nsec::{Deny, types_at};
pub(crate) use pen::{Pen, Signer, Stopped};

#[cfg(test)]
mod tests;
