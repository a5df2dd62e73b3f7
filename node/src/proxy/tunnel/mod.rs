//! A request's one crossing to another region (I14).
//!
//! ```text
//! user ── near node ══ preface, acknowledgement, then HTTP or the user's bytes ══ far node ── backend
//! ```
//! One request or one TCP connection a stream. A request crosses as HTTP/2, whatever the user and the backend speak: that
//! alone carries trailers nobody announced, both directions at once, and a reset of one request. One that wants to switch to
//! another protocol crosses as HTTP/1.1, where it can. The near end owns the session; the far end says which backend it used.
pub(super) mod far;
pub(super) mod near;
pub(super) mod preface;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::BoxFuture;
use gossip::id::NodeName;
use gossip::mesh::tunnel::{TunnelAccept, Tunnels};
use tokio::io::{AsyncRead, AsyncWrite};

/// Bytes both ways; shutting the write half down is a half-close.
pub trait TunnelIo: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> TunnelIo for T {}

/// How streams to other nodes are opened.
pub trait TunnelDial: Send + Sync {
    /// Opens a stream to `to` at `addr`.
    fn open<'a>(&'a self, to: &'a NodeName, addr: SocketAddr)
    -> BoxFuture<'a, io::Result<Box<dyn TunnelIo>>>;
    /// The smoothed round trip to a connected peer.
    fn rtt(&self, to: &NodeName) -> Option<Duration>;
}

impl TunnelDial for Tunnels {
    fn open<'a>(
        &'a self,
        to: &'a NodeName,
        addr: SocketAddr,
    ) -> BoxFuture<'a, io::Result<Box<dyn TunnelIo>>> {
        Box::pin(async move {
            let stream = Tunnels::open(self, to, addr).await?;
            Ok(Box::new(stream) as Box<dyn TunnelIo>)
        })
    }
    fn rtt(&self, to: &NodeName) -> Option<Duration> {
        Tunnels::rtt(self, to)
    }
}

/// A stream that another node opened to this one.
pub struct InboundTunnel {
    /// Which node.
    pub from: NodeName,
    /// Its bytes.
    pub io: Box<dyn TunnelIo>,
}

impl From<TunnelAccept> for InboundTunnel {
    fn from(accept: TunnelAccept) -> Self {
        Self { from: accept.from.name, io: Box::new(accept.stream) }
    }
}
