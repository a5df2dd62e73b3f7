//! TLS on an accepted connection (DESIGN §9): the handshake, within its bounds, and what was agreed on.
//!
//! What a stranger can make this node hold before a handshake ends: one place of the listener's `max_connections`, for ten
//! seconds, and at most the 64 KiB of one handshake message that rustls takes.
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use gossip::id::ListenerName;
use rustls::HandshakeKind;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::worker::Worker;

/// From the connection to the end of the handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Shakes hands as `listener`. The stream is on the heap: it is large, and moved often from there on. What was agreed on (ALPN) is
/// `stream.get_ref().1.alpn_protocol()`. `None`: it failed, and was counted; the client was told by an alert where there is one.
pub(super) async fn handshake<S>(
    worker: &Worker,
    listener: &ListenerName,
    stream: S,
) -> Option<Box<TlsStream<S>>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let counters = &worker.shared.counters;
    let shaken = tokio::time::timeout(HANDSHAKE, async {
        let config = worker.shared.tls.server(listener).await?;
        Some(TlsAcceptor::from(config).accept(stream).await)
    });
    match shaken.await {
        Ok(Some(Ok(stream))) => {
            counters.tls_handshakes.fetch_add(1, Ordering::Relaxed);
            if stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed) {
                counters.tls_resumed.fetch_add(1, Ordering::Relaxed);
            }
            return Some(Box::new(stream));
        }
        Ok(Some(Err(error))) => tracing::debug!(%listener, %error, "a TLS handshake failed"),
        Ok(None) => tracing::debug!(%listener, "a TLS handshake was refused: there is no certificate for it"),
        Err(_) => tracing::debug!(%listener, "a TLS handshake took too long"),
    }
    counters.tls_failed.fetch_add(1, Ordering::Relaxed);
    None
}

/// The configuration by which a pool's backends are spoken to, where that is TLS.
pub(super) type Via = Option<Arc<crate::tls::Upstream>>;

/// Whether two connections are spoken over alike. A kept one of another configuration is not used again: it may be
/// unverified where verification is wanted now.
pub(super) fn same(a: &Via, b: &Via) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (None, None) => true,
        _ => false,
    }
}
