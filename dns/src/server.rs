//! The sockets as a whole: bound together, stopped together.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::watch;

use crate::dot::TlsListen;
use crate::moment::Clock;
use crate::responder::{Responder, SharedDesk};
use crate::tcp::{Serving, Stage};
use crate::{tcp, udp};

/// How often a free port of UDP may turn out to be taken in TCP.
const PORT_TRIES: usize = 16;
/// Connections the kernel holds until they are accepted.
const TCP_BACKLOG: i32 = 1024;
/// Queries the kernel holds until they are read.
const UDP_BUFFER_BYTES: usize = 1024 * 1024;

/// What to bind and how much to bear.
pub struct ServerConfig {
    /// UDP and TCP addresses; port 0 takes one free port for both.
    pub listen: Vec<SocketAddr>,
    /// UDP threads for each address, at least 1.
    pub udp_threads: usize,
    /// Bounds of TCP, and of TLS.
    pub tcp: TcpLimits,
    /// DNS over TLS; `None`: off.
    pub tls: Option<TlsListen>,
    /// The clock.
    pub clock: Clock,
    /// Sockets of the process before this one; empty: there was none.
    pub inherited: Vec<Inherited>,
}

/// The sockets of one address, from one process to the next.
#[derive(Debug)]
pub struct Inherited {
    /// As the configuration asks for it.
    pub listen: SocketAddr,
    /// One a UDP thread; empty for DNS over TLS.
    pub udp: Vec<UdpSocket>,
    /// The listening socket.
    pub tcp: TcpListener,
}

/// Bounds of DNS over TCP (RFC 7766 §6).
#[derive(Debug, Clone, Copy)]
pub struct TcpLimits {
    /// Connections at once on one address; for a further one the one that has been idle longest is closed. Default 1,024.
    pub connections: usize,
    /// Of these, how many one client may hold: an IPv4 address or an IPv6 /64. Default 64.
    pub per_client: usize,
    /// And one network: an IPv4 /24 or an IPv6 /56. Default 256.
    pub per_network: usize,
    /// A connection that asks nothing for so long is closed; down to a tenth of it as the places fill. Default 10 s.
    pub idle: Duration,
    /// The longest time a query may take to arrive or an answer to leave. Default 5 s.
    pub transfer: Duration,
}

impl Default for TcpLimits {
    fn default() -> Self {
        Self {
            connections: 1024,
            per_client: 64,
            per_network: 256,
            idle: Duration::from_secs(10),
            transfer: Duration::from_secs(5),
        }
    }
}

/// Why the server did not start. Nothing stays bound.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Someone else listens there.
    #[error("{transport} {address} is in use by another program; stop it or choose another address for DNS")]
    InUse {
        /// `UDP` or `TCP`.
        transport: &'static str,
        /// The address asked for.
        address: SocketAddr,
    },
    /// The system refused for another reason: no such address, no permission.
    #[error("cannot listen on {transport} {address}: {error}")]
    Refused {
        /// `UDP` or `TCP`.
        transport: &'static str,
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        error: io::Error,
    },
    /// The system gave no thread or no descriptor to stop it by.
    #[error("cannot start the DNS threads: {0}")]
    Threads(io::Error),
}

/// A running server; dropping it stops it.
pub struct DnsServer {
    addresses: Vec<SocketAddr>,
    tls_addresses: Vec<SocketAddr>,
    /// Readable once the server stops; every UDP thread waits for it beside its socket.
    stop: Arc<OwnedFd>,
    threads: Vec<JoinHandle<()>>,
    /// Copies of all sockets, for the process that comes after this one.
    kept: Vec<Inherited>,
    /// The threads of connections end when this is gone.
    connections: Option<watch::Sender<Stage>>,
    responder: Arc<Responder>,
}

impl fmt::Debug for DnsServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DnsServer").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

impl DnsServer {
    /// Binds every socket and starts to answer. Returns when all are bound.
    ///
    /// # Errors
    /// When one cannot be bound; none stays bound then.
    pub fn bind(config: ServerConfig, responder: Arc<Responder>) -> Result<Self, BindError> {
        let threads = config.udp_threads.max(1);
        let mut config = config;
        let mut inherited = std::mem::take(&mut config.inherited);
        let mut bound = Vec::new();
        for address in &config.listen {
            bound.push(match take(&mut inherited, *address, false) {
                Some(inherited) => {
                    adopt(*address, inherited).map_err(|error| failed("UDP", *address, error))?
                }
                None => bind_both(*address, threads)?,
            });
        }
        let mut tls = Vec::new();
        for address in config.tls.as_ref().map_or([].as_slice(), |tls| &tls.listen) {
            tls.push(match take(&mut inherited, *address, true) {
                Some(Inherited { tcp, .. }) => (*address, tcp),
                None => bind_tls(*address)?,
            });
        }
        drop(inherited);
        let mut kept = Vec::new();
        for (listen, bound) in config.listen.iter().zip(&bound) {
            kept.push(copy(*listen, &bound.udp, &bound.tcp).map_err(BindError::Threads)?);
        }
        for (listen, (_, tcp)) in config.tls.iter().flat_map(|tls| &tls.listen).zip(&tls) {
            kept.push(copy(*listen, &[], tcp).map_err(BindError::Threads)?);
        }
        let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|error| BindError::Threads(error.into()))?;
        let mut server = Self {
            addresses: bound.iter().map(|bound| bound.address).collect(),
            tls_addresses: tls.iter().map(|(address, _)| *address).collect(),
            stop: Arc::new(stop),
            threads: Vec::new(),
            kept,
            connections: Some(watch::Sender::new(Stage::Serving)),
            responder: Arc::clone(&responder),
        };
        let mut plain = Vec::new();
        for bound in bound {
            for socket in bound.udp {
                let (clock, stop) = (config.clock.clone(), Arc::clone(&server.stop));
                let worker =
                    udp::Worker::new(socket, responder.clerk(), clock, stop).map_err(BindError::Threads)?;
                let thread = std::thread::Builder::new()
                    .name("dns-udp".to_owned())
                    .spawn(move || worker.run())
                    .map_err(BindError::Threads)?;
                server.threads.push(thread);
            }
            plain.push(bound.tcp);
        }
        server.accept("dns-tcp", plain, &config, &responder, None)?;
        let encrypted = tls.into_iter().map(|(_, socket)| socket).collect();
        server.accept("dns-tls", encrypted, &config, &responder, config.tls.clone().map(Arc::new))?;
        Ok(server)
    }

    /// Begins to accept connections, on a thread of its own: neither handshakes nor transfers hold up anything else.
    fn accept(
        &mut self,
        thread: &str,
        sockets: Vec<TcpListener>,
        config: &ServerConfig,
        responder: &Arc<Responder>,
        tls: Option<Arc<TlsListen>>,
    ) -> Result<(), BindError> {
        if sockets.is_empty() {
            return Ok(());
        }
        let serving = Serving {
            responder: Arc::clone(responder),
            tally: responder.counters().tally(),
            desk: SharedDesk::default(),
            clock: config.clock.clone(),
            limits: config.tcp,
            tls,
        };
        let Some(stage) = self.connections.as_ref().map(watch::Sender::subscribe) else { return Ok(()) };
        let serve = tcp::prepare(sockets, serving, stage).map_err(BindError::Threads)?;
        let thread = std::thread::Builder::new().name(thread.to_owned()).spawn(serve);
        self.threads.push(thread.map_err(BindError::Threads)?);
        Ok(())
    }

    /// Copies of all sockets, for the process that comes after this one. Queries that it does not read are read here, until
    /// [`DnsServer::shutdown`].
    ///
    /// # Errors
    /// When this process has no descriptors left.
    pub fn hand_over(&self) -> io::Result<Vec<Inherited>> {
        self.kept.iter().map(|kept| copy(kept.listen, &kept.udp, &kept.tcp)).collect()
    }

    /// The addresses of DNS over TLS, in the order of the configuration, with their real ports.
    pub fn tls_addrs(&self) -> &[SocketAddr] {
        &self.tls_addresses
    }

    /// The addresses bound, in the order of the configuration, with their real ports; UDP and TCP share them.
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Reads no datagram and accepts no connection any more: the next process does. Connections that stand are answered until they
    /// have asked nothing for a moment, or for as long as one may keep another process waiting; see [`DnsServer::connections`].
    pub fn retire(&mut self) {
        self.stop_datagrams();
        if let Some(stage) = &self.connections {
            stage.send_replace(Stage::Retiring);
        }
    }

    /// How many connections are open, TLS too.
    pub fn connections(&self) -> u64 {
        let counted = self.responder.counters().snapshot();
        counted.tcp_open + counted.tls_open
    }

    /// Stops all threads and connections; returns when the threads have ended. Calling it again does nothing.
    pub fn shutdown(&mut self) {
        self.connections = None;
        if !self.stop_datagrams() {
            return;
        }
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a DNS thread panicked");
            }
        }
    }

    /// Has the UDP threads end with the batch that they have; whether they can be told.
    fn stop_datagrams(&mut self) -> bool {
        let told = rustix::io::write(&*self.stop, &1u64.to_ne_bytes()).is_ok();
        if !told {
            tracing::error!("cannot wake the DNS threads");
        }
        self.kept.clear();
        told
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        self.shutdown();
    }
}

struct Bound {
    address: SocketAddr,
    udp: Vec<UdpSocket>,
    tcp: TcpListener,
}

/// What is inherited for an address: over UDP and TCP, or for TLS.
fn take(inherited: &mut Vec<Inherited>, listen: SocketAddr, tls: bool) -> Option<Inherited> {
    let at = inherited.iter().position(|one| one.listen == listen && one.udp.is_empty() == tls)?;
    Some(inherited.swap_remove(at))
}

fn adopt(listen: SocketAddr, inherited: Inherited) -> io::Result<Bound> {
    let address = inherited.udp.first().map_or(Ok(listen), UdpSocket::local_addr)?;
    Ok(Bound { address, udp: inherited.udp, tcp: inherited.tcp })
}

fn copy(listen: SocketAddr, udp: &[UdpSocket], tcp: &TcpListener) -> io::Result<Inherited> {
    let udp = udp.iter().map(UdpSocket::try_clone).collect::<io::Result<Vec<_>>>()?;
    Ok(Inherited { listen, udp, tcp: tcp.try_clone()? })
}

/// Binds one address in both transports. With port 0 the port is UDP's choice, drawn again when TCP's is taken.
fn bind_both(address: SocketAddr, threads: usize) -> Result<Bound, BindError> {
    let tries = if address.port() == 0 { PORT_TRIES } else { 1 };
    let mut last = BindError::InUse { transport: "UDP", address };
    for _ in 0..tries {
        let udp = bind_udp(address, threads).map_err(|error| failed("UDP", address, error))?;
        let Some(real) = udp.first().and_then(|socket| socket.local_addr().ok()) else { continue };
        match bind_tcp(real) {
            Ok(tcp) => return Ok(Bound { address: real, udp, tcp }),
            Err(error) => last = failed("TCP", real, error),
        }
    }
    Err(last)
}

fn bind_tls(address: SocketAddr) -> Result<(SocketAddr, TcpListener), BindError> {
    let bound = bind_tcp(address).and_then(|socket| Ok((socket.local_addr()?, socket)));
    bound.map_err(|error| failed("TCP", address, error))
}

fn failed(transport: &'static str, address: SocketAddr, error: io::Error) -> BindError {
    if error.kind() == io::ErrorKind::AddrInUse {
        BindError::InUse { transport, address }
    } else {
        BindError::Refused { transport, address, error }
    }
}

/// One socket a thread, sharing the port. Since SO_REUSEPORT would share it with another process of the same user
/// too, and each would get half the queries, it is first bound without.
fn bind_udp(address: SocketAddr, threads: usize) -> io::Result<Vec<UdpSocket>> {
    drop(udp_socket(address, false)?);
    let mut sockets: Vec<UdpSocket> = Vec::with_capacity(threads);
    let mut address = address;
    for _ in 0..threads {
        let socket = udp_socket(address, true)?;
        address = socket.local_addr()?;
        sockets.push(socket);
    }
    Ok(sockets)
}

fn udp_socket(address: SocketAddr, shared: bool) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if shared {
        socket.set_reuse_port(true)?;
        // For bursts; the kernel gives as much of it as its limits allow.
        socket.set_recv_buffer_size(UDP_BUFFER_BYTES)?;
    }
    socket.bind(&address.into())?;
    Ok(socket.into())
}

fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Only for connections of a former life that are still closing; another listener is refused all the same.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(TCP_BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tls_tests;
