//! Sessions, revisions, intents and the keys of zones: what the mesh must not forget.
//!
//! ```text
//!   proxy            admin, app                       pure: cookie  pin  placement  wire  digest
//!     │ Sessions, Ends │ Revisions, Intents, ZoneKeys         replica/  revision  intent  zone_key
//!     ▼                ▼
//!   task ── replica ── table (RAM, the authority) ──▶ disk (sled, a warm copy; one writer thread)
//!     │                                      ▲
//!     └── transport ── gossip::mesh ── the other nodes
//! ```
//!
//! This crate knows no HTTP and no DNS. It keeps no clock of its own and judges no node: who lives is what
//! `gossip`'s view says.
pub mod cookie;
pub mod digest;
mod disk;
pub mod ends;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod intent;
pub mod intents;
pub mod pin;
pub mod placement;
mod places;
pub mod plant;
pub mod replica;
pub mod revision;
pub mod revisions;
pub mod sessions;
mod slots;
mod start;
pub mod survey;
pub mod table;
mod task;
mod transport;
pub mod wire;
mod writer;
pub mod zone_key;
pub mod zone_keys;

pub use start::{StartError, Storage, StorageConfig, Validate};
