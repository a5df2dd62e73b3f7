//! The QUIC endpoints: sockets, transport parameters, and the limits that strangers meet.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{
    AckFrequencyConfig, ClientConfig, Connection, ConnectionError, ConnectionId, ConnectionIdGenerator,
    Endpoint, EndpointConfig, IdleTimeout, Runtime, ServerConfig, TransportConfig, VarInt,
};

use super::runtime::Quiet;
use super::tls::{Identity, IdentityError, certified_name};
use super::version;
use crate::id::NodeName;

/// Streams that a peer may have open at once ...
pub(crate) const TUNNELS_MAX: u32 = 1024;
/// ... and what one of them may hold here unread.
pub(super) const TUNNEL_WINDOW_BYTES: u32 = 1 << 20;

/// What an endpoint is for: decides its protocol name and its windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Many small payloads, few in flight.
    Mesh,
    /// Users' bytes over up to 100 ms of round trip.
    Tunnel,
}

impl Purpose {
    fn transport(self) -> Arc<TransportConfig> {
        let mut transport = TransportConfig::default();
        // Acknowledged while both are awake: a node that waits 25 ms with it wakes once more to send it, and its peer to hear it.
        let mut at_once = AckFrequencyConfig::default();
        at_once.ack_eliciting_threshold(VarInt::from_u32(0));
        let idle = |seconds| IdleTimeout::try_from(Duration::from_secs(seconds)).ok();
        match self {
            Self::Mesh => transport
                .ack_frequency_config(Some(at_once))
                .keep_alive_interval(Some(Duration::from_secs(3)))
                .max_idle_timeout(idle(10))
                .max_concurrent_uni_streams(VarInt::from_u32(128))
                .max_concurrent_bidi_streams(VarInt::from_u32(256))
                .stream_receive_window(VarInt::from_u32(1 << 20))
                .receive_window(VarInt::from_u32(8 << 20))
                .send_window(8 << 20)
                .datagram_receive_buffer_size(Some(256 << 10))
                .datagram_send_buffer_size(256 << 10),
            // A stream of 1 MiB in flight fills 80 Mbit/s over 100 ms. The connection has room for what all its streams
            // may hold: else a few users that do not read what they asked for would hold up all others.
            Self::Tunnel => transport
                .keep_alive_interval(Some(Duration::from_secs(2)))
                .max_idle_timeout(idle(8))
                .max_concurrent_uni_streams(VarInt::from_u32(0))
                .max_concurrent_bidi_streams(VarInt::from_u32(TUNNELS_MAX))
                .stream_receive_window(VarInt::from_u32(TUNNEL_WINDOW_BYTES))
                .receive_window(VarInt::from_u32(TUNNELS_MAX * TUNNEL_WINDOW_BYTES))
                .send_window(32 << 20)
                .datagram_receive_buffer_size(None),
        };
        Arc::new(transport)
    }

    /// How a peer is dialled: `expected`, or whoever of the mesh answers.
    pub(crate) fn client(
        self,
        identity: &Arc<Identity>,
        expected: Option<NodeName>,
    ) -> Result<ClientConfig, IdentityError> {
        let tls = identity.client(version::protocols(self), expected)?;
        let quic = QuicClientConfig::try_from(tls).expect("TLS 1.3 with AES-128-GCM is in the provider");
        let mut config = ClientConfig::new(Arc::new(quic));
        config.transport_config(self.transport());
        Ok(config)
    }

    /// Makes the endpoint on a bound socket. Must be called inside the runtime that shall run it.
    pub(crate) fn endpoint(
        self,
        identity: &Arc<Identity>,
        socket: std::net::UdpSocket,
    ) -> io::Result<Endpoint> {
        let tls = identity.server(version::protocols(self)).map_err(io::Error::other)?;
        let quic = QuicServerConfig::try_from(tls).map_err(io::Error::other)?;
        let mut config = ServerConfig::with_crypto(Arc::new(quic));
        config.transport_config(self.transport());
        config.max_incoming(1024).incoming_buffer_size(16 << 10).incoming_buffer_size_total(4 << 20);
        let runtime: Arc<dyn Runtime> = match self {
            Self::Mesh => Arc::new(Quiet),
            Self::Tunnel => Arc::new(quinn::TokioRuntime),
        };
        Endpoint::new(self.resettable(identity), Some(config), socket, runtime)
    }

    /// A node that was killed and started again can tell its peers that their old connections are gone: it makes the
    /// same stateless reset tokens in all its lives (RFC 9000, 10.3). Without them peers would speak to the dead
    /// connection until it idles out.
    fn resettable(self, identity: &Identity) -> EndpointConfig {
        let secret = identity.own_secret(&format!("meridian stateless reset 1 {self:?}"));
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &secret);
        let mut config = EndpointConfig::new(Arc::new(key));
        config.cid_generator(|| Box::new(AnyLife)).min_reset_interval(Duration::from_millis(1));
        config
    }
}

/// Random connection ids, none of which a later life takes for foreign: it must answer those of an earlier one.
struct AnyLife;

impl ConnectionIdGenerator for AnyLife {
    fn generate_cid(&mut self) -> ConnectionId {
        ConnectionId::new(&rand::random::<[u8; 8]>())
    }

    fn cid_len(&self) -> usize {
        8
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// Binds the mesh's UDP port and the tunnels' one above it. Port 0: some free pair.
pub(crate) fn bind_pair(listen: SocketAddr) -> Result<[std::net::UdpSocket; 2], (SocketAddr, io::Error)> {
    let mut tries = if listen.port() == 0 { 64 } else { 1 };
    loop {
        tries -= 1;
        let mesh = bind(listen).map_err(|error| (listen, error))?;
        let mut above = mesh.local_addr().map_err(|error| (listen, error))?;
        let Some(port) = above.port().checked_add(1) else {
            if tries > 0 {
                continue;
            }
            return Err((above, io::Error::other("the tunnel port, one above, does not exist")));
        };
        above.set_port(port);
        match bind(above) {
            Ok(tunnel) => return Ok([mesh, tunnel]),
            Err(_) if tries > 0 => {}
            Err(error) => return Err((above, error)),
        }
    }
}

fn bind(addr: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(addr), socket2::Type::DGRAM, None)?;
    if addr.is_ipv6() {
        socket.set_only_v6(!addr.ip().is_unspecified())?;
    }
    // A burst must wait in the kernel while this process waits for a core. The kernel caps what it does not allow.
    let _ = socket.set_recv_buffer_size(4 << 20);
    let _ = socket.set_send_buffer_size(2 << 20);
    socket.bind(&addr.into())?;
    Ok(socket.into())
}

/// Moves an endpoint to any free port, so that another process can have its own. Twice: quinn reads from the socket before the
/// last as well, until something comes to the new one.
pub(crate) fn leave_port(endpoint: &Endpoint) -> io::Result<()> {
    let anywhere = SocketAddr::new(endpoint.local_addr()?.ip(), 0);
    endpoint.rebind(bind(anywhere)?)?;
    endpoint.rebind(bind(anywhere)?)
}

/// Who is at the other end: the name in the certificate that the handshake checked.
pub(crate) fn peer_name(connection: &Connection) -> Option<NodeName> {
    let identity = connection.peer_identity()?;
    let chain = identity.downcast::<Vec<rustls_pki_types::CertificateDer<'static>>>().ok()?;
    certified_name(chain.first()?)
}

/// TLS's alert for peers that speak no protocol in common (RFC 7301 §3.2).
const NO_APPLICATION_PROTOCOL: u8 = 120;

/// What to tell an operator about a dial that failed.
pub(crate) fn explain(error: &ConnectionError) -> String {
    use ConnectionError::{ConnectionClosed, TimedOut, TransportError, VersionMismatch};
    let no_protocol = quinn::TransportErrorCode::crypto(NO_APPLICATION_PROTOCOL);
    match error {
        TransportError(inner) if inner.code == no_protocol => version::explain_none(),
        ConnectionClosed(close) if close.error_code == no_protocol => version::explain_none(),
        TimedOut => "no answer".into(),
        VersionMismatch => "it speaks no QUIC version of ours".into(),
        TransportError(inner) if inner.to_string().contains("UnknownIssuer") => {
            "it holds another mesh key".into()
        }
        TransportError(inner) if inner.to_string().contains("NotValidForName") => "it is another node".into(),
        ConnectionClosed(close) if close.to_string().contains("cryptographic handshake") => {
            "it refused us; do both hold the same mesh key, and are the clocks right?".into()
        }
        other => other.to_string(),
    }
}
