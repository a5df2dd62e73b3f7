//! The QUIC mesh: mutually authenticated connections between nodes, and three ways to speak over them.
//!
//! ```text
//!  Mesh (handle) ── datagram, exchange ──▶ cached connection ──▶ peer
//!    │   └──────── message ── queue ──▶ link task ──▲               each side dials its own connection
//!    │                                   dial, back-off
//!    └── listen(channel) ◀── queue ◀── inbound ◀── endpoint ◀────── peer
//! ```
//!
//! In a simulation a network in memory carries the payloads instead of QUIC (`simulated.rs`, a feature of no program).
//!
//! A handle never blocks and never waits for a task but for the connection itself; workers may use it (I1). Nothing here
//! knows what the channels carry.

mod dial;
pub(crate) mod door;
pub(crate) mod endpoint;
mod handle;
mod inbound;
pub(crate) mod link;
mod quic;
mod runtime;
#[cfg(feature = "simulated")]
pub mod simulated;
mod strangers;
pub mod tls;
pub mod tunnel;
pub(crate) mod version;
pub(crate) mod wire;

use std::net::SocketAddr;

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::id::NodeName;
pub(crate) use handle::MemberAddr;
pub use handle::{LinkInfo, Mesh};

/// A named channel of the mesh with its limits. Both ends must know it; define it once, as a constant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Channel {
    /// What travels in front of each payload. Unique in the workspace; those below 16 belong to this crate.
    pub id: u8,
    /// For logs.
    pub name: &'static str,
    /// The greatest payload, in bytes; a larger one is refused by the sender and cuts the stream at the receiver.
    pub max_bytes: usize,
    /// How many inbound payloads may wait for the reader. Beyond it datagrams and messages are dropped and counted,
    /// exchanges are refused.
    pub queue: usize,
}

/// Who sent something: certified by the mesh key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The name in the peer's certificate.
    pub name: NodeName,
    /// Where its packets come from.
    pub addr: SocketAddr,
}

/// Something that arrived on a channel.
#[derive(Debug)]
pub enum Inbound {
    /// A datagram: may have overtaken others, others may be lost.
    Datagram {
        /// Who sent it.
        from: Peer,
        /// The payload.
        bytes: Bytes,
    },
    /// A message: whole, unordered among others.
    Message {
        /// Who sent it.
        from: Peer,
        /// The payload.
        bytes: Bytes,
    },
    /// A question that waits for its answer. Dropping `reply` refuses it.
    Exchange {
        /// Who asks.
        from: Peer,
        /// The question.
        bytes: Bytes,
        /// Where the answer goes.
        reply: Reply,
    },
}

/// Where the answer to an exchange goes.
#[derive(Debug)]
pub struct Reply {
    answer: oneshot::Sender<Bytes>,
}

impl Reply {
    /// Answers; the bytes are sent in the background. Larger than the channel's limit: refused instead.
    /// From any thread.
    pub fn send(self, bytes: Bytes) {
        // When the asker has gone there is nobody left to tell.
        let _ = self.answer.send(bytes);
    }
}

/// Why something could not be handed to the network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The payload is larger than the channel allows.
    #[error("{bytes} bytes are more than channel {channel} carries ({max})")]
    TooLarge {
        /// The channel's name.
        channel: &'static str,
        /// The payload's size.
        bytes: usize,
        /// The most that fits.
        max: usize,
    },
    /// The queue to this peer is full; a retry later may succeed.
    #[error("the queue to {0} is full")]
    QueueFull(String),
    /// There is no connection to this peer now.
    #[error("not connected to {0}")]
    NotConnected(String),
    /// The mesh is shutting down.
    #[error("the mesh has stopped")]
    Stopped,
}

/// Why an exchange has no answer. Whether the peer acted on it is unknown but for `Send`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExchangeError {
    /// It never left this node.
    #[error(transparent)]
    Send(#[from] SendError),
    /// No answer in time.
    #[error("{0} did not answer in time")]
    TimedOut(NodeName),
    /// The peer refused it, or the connection broke.
    #[error("{0} refused or was lost")]
    Refused(NodeName),
}

#[cfg(test)]
mod tests;
