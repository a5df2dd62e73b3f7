//! Backends that come and go by themselves: who is in a pool beside those that its file lists.
//!
//! ```text
//!   sources (file, dns, docker, kubernetes) ──▶ ┌──────┐ ──▶ Current with all backends ──▶ registry, health
//!   API (leases, added backends) ─────────────▶ │ core │
//!   peers' claims ◀───────── mesh ────────────▶ │ pure │ ──▶ events, problems
//!   DATA/backends.claims ◀────────────────────▶ └──────┘
//! ```
//!
//! Each source is asked by the nodes of its region, and what it says is told to the whole mesh: a node that cannot reach
//! another region's DNS or engine still knows that region's backends. It decides nothing about health. A source that fails,
//! or a node that dies, takes no backend away: the last answer stays until somebody gives a better one.

mod claims;
mod core;
mod found;
mod handle;
mod leases;
mod roster;
mod sources;
mod store;
mod task;
pub(crate) mod wire;

pub(crate) use self::core::{OrderError, SourceState, TTL};
pub(crate) use self::found::{Found, Standing, is_reachable};
pub(crate) use self::handle::{Discovery, Holdings};
pub(crate) use self::roster::POOL_MAX;
#[cfg(any(test, fuzzing))]
pub(crate) use self::sources::fuzzing;
pub(crate) use self::sources::{Here, docker_address};
pub(crate) use self::task::{DiscoveryConfig, start};
