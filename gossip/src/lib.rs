//! What nodes of a mesh know of each other, and how they tell it.
//!
//! ```text
//!   Gossip (agent/)                 one node's part in the mesh: starts, drives and stops all below
//!        │
//!   id   clock   keyring            names, time, the mesh key
//!        │
//!   mesh/ ── QUIC, mutual TLS ── datagram │ message │ exchange, on named channels
//!        │
//!   membership (chitchat)    fastlane (datagrams in the region)    liveness (who is alive; pure)
//!        │                       │                                     │
//!        └──────────── state/ ───┴── typed state, ClusterView ─────────┘
//! ```
//!
//! This crate knows no session and no DNS zone: it carries opaque bytes on named channels and a typed, bounded
//! state. It owns the mesh's sockets and the only clock.

mod agent;
pub mod clock;
pub mod fastlane;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod id;
pub mod keyring;
mod liveness;
mod membership;
pub mod mesh;
mod offset;
mod peers;
#[cfg(feature = "simulated")]
pub mod simulated;
pub mod state;
mod thread;

pub use agent::{Gauges, Gossip, GossipConfig, StartError};
#[cfg(feature = "other-versions")]
pub use mesh::version::claim as claim_versions;
