//! A network in memory that carries a mesh's payloads instead of QUIC, for simulations on tokio's paused clock.
//!
//! ```text
//!   Port (one node's mesh) ── link up? ──▶ Network: events in order of time ──▶ Port of the peer ──▶ channel's reader
//!                                            │ Way: open, delay, loss
//!                                            └ Traffic: what was sent and received, by node
//! ```
//!
//! It keeps to what QUIC does: a lost datagram is lost, a lost message is sent again after a probe time-out; a link that hears
//! nothing for ten seconds is gone, and is dialled again with the back-off of the real one ([`super::dial`]). The bytes
//! are those that the real mesh carries; what packets and acknowledgements add is estimated, on the high side.

mod link;
mod network;
mod port;

pub use network::{Network, Traffic, Way};
pub(crate) use port::Port;
