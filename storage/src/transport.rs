//! How the store reaches other nodes: a narrow seam, with the mesh behind it, or in tests a network in memory.
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use gossip::id::NodeName;
use gossip::mesh::{Channel, Inbound, Mesh};
use tokio::sync::mpsc;

use crate::revision::BODY_MAX_BYTES;
use crate::wire::MESSAGE_MAX_BYTES;

/// Sessions: requests and responses of [`crate::wire`].
pub(crate) const SESSIONS: Channel =
    Channel { id: 16, name: "sessions", max_bytes: MESSAGE_MAX_BYTES, queue: 1024 };

/// Revisions: see [`crate::revisions`]. A body of 4 MiB and what goes with it.
pub(crate) const REVISIONS: Channel =
    Channel { id: 17, name: "revisions", max_bytes: BODY_MAX_BYTES + 16 * 1024, queue: 64 };

/// Intents: see [`crate::intents`].
pub(crate) const INTENTS: Channel = Channel { id: 18, name: "intents", max_bytes: 1024 * 1024, queue: 256 };

/// What operators ask about sessions: see [`crate::survey`].
pub(crate) const SURVEY: Channel = Channel { id: 19, name: "survey", max_bytes: 1024 * 1024, queue: 16 };

/// The keys of zones: see [`crate::zone_keys`].
pub(crate) const ZONE_KEYS: Channel =
    Channel { id: 20, name: "zone keys", max_bytes: 2 * 1024 * 1024, queue: 64 };

/// What arrived from a node whose name is certified.
pub(crate) struct Incoming {
    /// Who sent it.
    pub(crate) from: NodeName,
    /// What.
    pub(crate) bytes: Bytes,
    /// Where the answer goes, if one is waited for. Dropping it refuses.
    pub(crate) reply: Option<Reply>,
}

/// Takes the answer to a question.
pub(crate) type Reply = Box<dyn FnOnce(Bytes) + Send>;

/// An answer, or none.
pub(crate) type Answer = Pin<Box<dyn Future<Output = Option<Bytes>> + Send>>;

/// What is asked of a network.
pub(crate) trait Transport: Send + Sync + 'static {
    /// Asks a node; `None` when no answer comes in time.
    fn ask(&self, to: &NodeName, channel: Channel, bytes: Bytes, timeout: Duration) -> Answer;
    /// Tells a node; may be lost.
    fn tell(&self, to: &NodeName, channel: Channel, bytes: Bytes);
    /// Starts to receive on a channel. One reader a channel.
    fn listen(&self, channel: Channel) -> Inbox;
}

/// What arrives on a channel.
pub(crate) struct Inbox(Source);

enum Source {
    Mesh(mpsc::Receiver<Inbound>),
    #[cfg(test)]
    Memory(mpsc::Receiver<Incoming>),
}

impl Inbox {
    /// The next; `None` when the network has stopped. Cancel-safe.
    pub(crate) async fn recv(&mut self) -> Option<Incoming> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Incoming>> {
        match &mut self.0 {
            Source::Mesh(inbound) => inbound.poll_recv(cx).map(|inbound| inbound.map(Incoming::from)),
            #[cfg(test)]
            Source::Memory(incoming) => incoming.poll_recv(cx),
        }
    }
}

impl From<Inbound> for Incoming {
    fn from(inbound: Inbound) -> Self {
        match inbound {
            Inbound::Datagram { from, bytes } | Inbound::Message { from, bytes } => {
                Self { from: from.name, bytes, reply: None }
            }
            Inbound::Exchange { from, bytes, reply } => {
                Self { from: from.name, bytes, reply: Some(Box::new(|bytes| reply.send(bytes))) }
            }
        }
    }
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming").field("from", &self.from).field("bytes", &self.bytes.len()).finish()
    }
}

impl Transport for Mesh {
    fn ask(&self, to: &NodeName, channel: Channel, bytes: Bytes, timeout: Duration) -> Answer {
        let (mesh, to) = (self.clone(), to.clone());
        Box::pin(async move {
            let answer = mesh.exchange(&to, channel, bytes, timeout).await;
            answer
                .map_err(|error| tracing::debug!(peer = %to, channel = channel.name, %error, "no answer"))
                .ok()
        })
    }

    fn tell(&self, to: &NodeName, channel: Channel, bytes: Bytes) {
        if let Err(error) = self.message(to, channel, bytes) {
            tracing::debug!(peer = %to, channel = channel.name, %error, "not sent");
        }
    }

    fn listen(&self, channel: Channel) -> Inbox {
        Inbox(Source::Mesh(Mesh::listen(self, channel)))
    }
}

/// A network that is shared between tasks.
pub(crate) type Network = Arc<dyn Transport>;

#[cfg(test)]
pub(crate) mod memory;
