//! The handle that all others hold.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::quic::Shared;
#[cfg(feature = "simulated")]
use super::simulated::Port;
use super::tls::Identity;
use super::{Channel, ExchangeError, Inbound, SendError};
use crate::clock::Clock;
use crate::id::NodeName;

/// A handle to the mesh. Cheap to clone; all clones are one mesh.
#[derive(Debug, Clone)]
pub struct Mesh(Carrier);

/// What carries the payloads.
#[derive(Debug, Clone)]
enum Carrier {
    Quic(Arc<Shared>),
    #[cfg(feature = "simulated")]
    Simulated(Arc<Port>),
}

/// Has the carrier of a mesh do something; all carriers have the same methods.
macro_rules! carrier {
    ($mesh:expr, $it:ident => $does:expr) => {
        match &$mesh.0 {
            Carrier::Quic($it) => $does,
            #[cfg(feature = "simulated")]
            Carrier::Simulated($it) => $does,
        }
    };
}

/// Where a member is, for the links.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MemberAddr {
    pub(crate) name: NodeName,
    pub(crate) addr: SocketAddr,
    /// Tells two lives of one name apart.
    pub(crate) generation: u64,
}

/// One link, for `status` and tests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkInfo {
    /// Where it leads.
    pub addr: SocketAddr,
    /// Who is there, once connected.
    pub peer: Option<NodeName>,
    /// The smoothed round trip; `None` while not connected.
    pub rtt: Option<Duration>,
    /// Messages that wait for it.
    pub queued: usize,
    /// What those weigh.
    pub queued_bytes: usize,
}

impl Mesh {
    /// Starts the endpoint on a bound socket and the current tokio runtime.
    pub(crate) fn start(
        me: NodeName,
        identity: Arc<Identity>,
        clock: Clock,
        socket: std::net::UdpSocket,
    ) -> std::io::Result<Self> {
        Ok(Self(Carrier::Quic(Shared::start(me, identity, clock, socket)?)))
    }

    /// A mesh of a simulated network.
    #[cfg(feature = "simulated")]
    pub(crate) fn simulated(port: Arc<Port>) -> Self {
        Self(Carrier::Simulated(port))
    }

    /// Starts to receive on `channel`. One reader a channel: a second call takes the channel over.
    pub fn listen(&self, channel: Channel) -> mpsc::Receiver<Inbound> {
        carrier!(self, it => it.listen(channel))
    }

    /// Sends a datagram to a connected peer; never blocks, may be lost.
    ///
    /// # Errors
    /// When there is no connection, or the payload does not fit the channel or the path's datagrams (at least 1,100
    /// bytes fit).
    pub fn datagram(&self, to: &NodeName, channel: Channel, bytes: Bytes) -> Result<(), SendError> {
        carrier!(self, it => it.datagram(to, channel, bytes))
    }

    /// Queues a message to a peer; never blocks. While the peer is being dialled it waits, at most as long as the dial.
    ///
    /// # Errors
    /// When the peer is unknown or cannot be reached now, the payload is too large or the queue to the peer is full.
    pub fn message(&self, to: &NodeName, channel: Channel, bytes: Bytes) -> Result<(), SendError> {
        carrier!(self, it => it.message(to, channel, bytes))
    }

    /// Asks a peer and waits for its answer, at most `timeout`. May be called from any tokio runtime.
    ///
    /// # Errors
    /// When the peer is unknown, cannot be reached, refuses, is lost or does not answer in time.
    pub async fn exchange(
        &self,
        to: &NodeName,
        channel: Channel,
        bytes: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, ExchangeError> {
        carrier!(self, it => it.exchange(to, channel, bytes, timeout).await)
    }

    /// The smoothed round-trip time to a connected peer; `None` without a connection.
    pub fn rtt(&self, peer: &NodeName) -> Option<Duration> {
        carrier!(self, it => it.rtt(peer))
    }

    /// All links as they stand, in no order.
    pub fn links(&self) -> Vec<LinkInfo> {
        carrier!(self, it => it.links())
    }

    /// Addresses with which no connection came about in the last minute because the mesh keys or the versions of
    /// the protocol differ, in words.
    pub fn strangers(&self) -> Vec<String> {
        carrier!(self, it => it.strangers())
    }

    /// Connections that are open, to and from peers, those too whose handshake is not finished.
    pub fn connections(&self) -> usize {
        carrier!(self, it => it.open_connections())
    }

    /// Handshakes of strangers that are not finished.
    pub fn handshakes(&self) -> usize {
        carrier!(self, it => it.unfinished())
    }

    /// Inbound payloads that were dropped since the start because a queue was full, nobody listened or they broke a limit.
    pub fn dropped(&self) -> u64 {
        carrier!(self, it => it.dropped())
    }

    /// Queues a message to whoever is at `addr`; never blocks.
    pub(crate) fn message_to_addr(
        &self,
        addr: SocketAddr,
        channel: Channel,
        bytes: &[u8],
    ) -> Result<(), SendError> {
        carrier!(self, it => it.message_to_addr(addr, channel, bytes))
    }

    /// Asks whoever is at `addr`. Who answered, and what; `None` when nobody did in time.
    pub(crate) async fn exchange_with_addr(
        &self,
        addr: SocketAddr,
        channel: Channel,
        bytes: &[u8],
        timeout: Duration,
    ) -> Option<(NodeName, Bytes)> {
        carrier!(self, it => it.exchange_with_addr(addr, channel, bytes, timeout).await)
    }

    /// Says who the members are and where: links are made, redirected and closed accordingly.
    pub(crate) fn set_members(&self, members: &[MemberAddr]) {
        carrier!(self, it => it.set_members(members));
    }

    /// Ends the back-off of the link to a member that was just heard.
    pub(crate) fn hurry(&self, peer: &NodeName) {
        carrier!(self, it => it.hurry(peer));
    }

    /// Waits until the queues are empty, at most `patience`.
    pub(crate) async fn flush(&self, patience: Duration) {
        carrier!(self, it => it.flush(patience).await);
    }

    /// Closes all connections and ends all tasks. Peers learn it at once when `goodbye` packets arrive.
    pub(crate) fn stop(&self) {
        carrier!(self, it => it.stop());
    }

    /// After [`Mesh::stop`]: waits until the goodbyes were sent, at most `patience`.
    pub(crate) async fn stopped(&self, patience: Duration) {
        carrier!(self, it => it.stopped(patience).await);
    }

    /// After [`Mesh::stop`]: gives the UDP port free, though handles to this mesh live on.
    pub(crate) fn release(&self) -> std::io::Result<()> {
        carrier!(self, it => it.release())
    }

    /// Stops as a killed process does: nothing more is sent, peers hear nothing. For tests of silence.
    #[cfg(test)]
    pub(crate) fn vanish(&self) {
        carrier!(self, it => it.vanish());
    }

    /// Waits while the process stands still, which only a simulated one can be told to do.
    #[cfg(feature = "simulated")]
    pub(crate) async fn awake(&self) {
        if let Carrier::Simulated(port) = &self.0 {
            port.awake().await;
        }
    }
}
