//! DNS over TLS (RFC 7858): the handshake before DNS over TCP. The only file that names rustls.
//!
//! What is shown to clients is the caller's: it is asked anew for every connection, so that new certificates need no restart.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::server::TlsStream;

/// The protocol's name in handshakes (RFC 7858 has none; IANA gives this one to it).
pub const DOT_ALPN: &[u8] = b"dot";

/// Where DNS over TLS listens and what it shows.
#[derive(Clone)]
pub struct TlsListen {
    /// TCP addresses; port 0 takes a free one.
    pub listen: Vec<SocketAddr>,
    /// The configuration for the next connection, with [`DOT_ALPN`]; `None`: there is no certificate, and it is closed.
    pub config: Arc<dyn Fn() -> Option<Arc<ServerConfig>> + Send + Sync>,
}

impl fmt::Debug for TlsListen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsListen").field("listen", &self.listen).finish_non_exhaustive()
    }
}

/// Shakes hands; the caller bounds how long that may take.
pub(crate) async fn accept(stream: TcpStream, tls: &TlsListen) -> io::Result<TlsStream<TcpStream>> {
    let config = (tls.config)().ok_or_else(|| io::Error::other("there is no certificate"))?;
    stream.set_nodelay(true)?;
    TlsAcceptor::from(config).accept(stream).await
}
