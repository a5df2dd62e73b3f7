//! Sockets that listen: one for each worker on the same address, by SO_REUSEPORT.
//!
//! SO_REUSEPORT alone would let a second node of the same user share the port unseen. So the address is bound once without
//! it first, which fails when anybody else is there.
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};

use gossip::id::ListenerName;
use socket2::{Domain, Protocol, Socket, Type};

use crate::config::model::Services;

/// Connections that wait in the system to be accepted, for each socket.
const BACKLOG: i32 = 4096;

/// One address that cannot be listened on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindProblem {
    /// Whose.
    pub listener: ListenerName,
    /// Which.
    pub addr: SocketAddr,
    /// Why.
    pub kind: io::ErrorKind,
}

impl fmt::Display for BindProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { listener, addr, kind } = self;
        match kind {
            io::ErrorKind::AddrInUse => {
                write!(f, "listener {listener}: {addr} is in use by another program")
            }
            io::ErrorKind::PermissionDenied => {
                write!(f, "listener {listener}: no permission to listen on {addr}")
            }
            io::ErrorKind::AddrNotAvailable => {
                write!(f, "listener {listener}: {addr} is no address of this machine")
            }
            other => write!(f, "listener {listener}: cannot listen on {addr}: {other}"),
        }
    }
}

/// Some listeners could not be bound; none is left bound.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct BindError {
    /// All that is wrong, one entry an address.
    pub problems: Vec<BindProblem>,
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, problem) in self.problems.iter().enumerate() {
            if at > 0 {
                f.write_str("; ")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

/// Binds `addr` for so many workers. Port 0 becomes a free one, the same for all.
///
/// # Errors
/// When the address cannot be bound; nothing is left bound then.
pub(super) fn bind(
    listener: &ListenerName,
    addr: SocketAddr,
    workers: usize,
) -> Result<(SocketAddr, Vec<TcpListener>), BindProblem> {
    let bound = exclusive(addr).and_then(|()| shared(addr, workers));
    bound.map_err(|error| BindProblem { listener: listener.clone(), addr, kind: error.kind() })
}

/// Whether the listeners of a configuration could all be bound at this moment. Nothing is left bound.
///
/// # Errors
/// Every address that could not.
pub fn check(listen: &[IpAddr], services: &Services) -> Result<(), BindError> {
    let wanted = services.listeners.values().flat_map(|listener| {
        let ips = listen.iter().filter(|ip| is_possible(**ip));
        ips.map(move |ip| (&listener.name, SocketAddr::new(*ip, listener.port)))
    });
    let problems: Vec<_> = wanted.filter_map(|(listener, addr)| bind(listener, addr, 1).err()).collect();
    if problems.is_empty() { Ok(()) } else { Err(BindError { problems }) }
}

/// Whether this machine can have the address at all: one without IPv6 cannot listen on `::`, and need not.
pub(super) fn is_possible(ip: IpAddr) -> bool {
    let loopback: IpAddr = match ip {
        IpAddr::V4(_) => return true,
        IpAddr::V6(ip) if ip.is_unspecified() => std::net::Ipv6Addr::LOCALHOST.into(),
        IpAddr::V6(_) => return true,
    };
    socket(SocketAddr::new(loopback, 0), false).is_ok()
}

/// Makes sockets of the process before fit so many workers: missing ones are bound beside them, and those that are too many
/// are closed, with what waits in them.
///
/// # Errors
/// When one cannot be bound.
pub(super) fn share(
    addr: SocketAddr,
    mut inherited: Vec<TcpListener>,
    workers: usize,
) -> io::Result<(SocketAddr, Vec<TcpListener>)> {
    let bound = inherited.first().map_or(Ok(addr), TcpListener::local_addr)?;
    if inherited.len() > workers {
        tracing::warn!(%bound, "fewer workers than before: connections that wait in the sockets of the others are lost");
        inherited.truncate(workers.max(1));
    }
    let missing = workers.saturating_sub(inherited.len());
    if missing > 0 {
        inherited.extend(shared(bound, missing)?.1);
    }
    inherited.iter().try_for_each(|socket| socket.set_nonblocking(true))?;
    Ok((bound, inherited))
}

fn exclusive(addr: SocketAddr) -> io::Result<()> {
    socket(addr, false).map(drop)
}

fn shared(addr: SocketAddr, workers: usize) -> io::Result<(SocketAddr, Vec<TcpListener>)> {
    let mut addr = addr;
    let mut sockets = Vec::with_capacity(workers);
    for _ in 0..workers.max(1) {
        let socket = socket(addr, true)?;
        socket.listen(BACKLOG)?;
        let socket = TcpListener::from(socket);
        addr = socket.local_addr()?;
        sockets.push(socket);
    }
    Ok((addr, sockets))
}

fn socket(addr: SocketAddr, reuse_port: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Connections of a former life in TIME_WAIT must not keep the port.
    socket.set_reuse_address(true)?;
    if reuse_port {
        socket.set_reuse_port(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> ListenerName {
        ListenerName::new("http").unwrap()
    }

    #[test]
    fn workers_share_an_address_and_nobody_else_does() {
        let (addr, sockets) = bind(&name(), "127.0.0.1:0".parse().unwrap(), 3).unwrap();
        assert_eq!(sockets.len(), 3);
        assert_ne!(addr.port(), 0);
        let problem = bind(&name(), addr, 3).unwrap_err();
        assert_eq!(problem.to_string(), format!("listener http: {addr} is in use by another program"));
        drop(sockets);
        assert!(bind(&name(), addr, 3).is_ok());
    }

    #[test]
    fn what_is_inherited_is_neither_bound_anew_nor_lost() {
        let (addr, sockets) = bind(&name(), "127.0.0.1:0".parse().unwrap(), 2).unwrap();
        let copies =
            |most: usize| sockets.iter().take(most).map(|socket| socket.try_clone().unwrap()).collect();
        let waiting = std::net::TcpStream::connect(addr).unwrap();
        let (same, more) = share(addr, copies(2), 3).unwrap();
        assert_eq!((same, more.len()), (addr, 3));
        let fewer = share(addr, copies(2), 1).unwrap().1;
        assert_eq!(fewer.len(), 1);
        drop((sockets, fewer));
        // Who was waiting before is accepted by one of those that came after.
        let accepted = || more.iter().find_map(|socket| socket.accept().ok());
        let local = waiting.local_addr().unwrap();
        assert!(accepted().is_some_and(|(_, peer)| peer == local));
    }

    #[test]
    fn an_address_of_another_machine() {
        let problem = bind(&name(), "192.0.2.1:0".parse().unwrap(), 1).unwrap_err();
        assert_eq!(problem.kind, io::ErrorKind::AddrNotAvailable);
    }

    #[test]
    fn both_families_have_the_same_port() {
        let (addr, _v4) = bind(&name(), "0.0.0.0:0".parse().unwrap(), 1).unwrap();
        if is_possible("::".parse().unwrap()) {
            let v6 = SocketAddr::new("::".parse().unwrap(), addr.port());
            assert!(bind(&name(), v6, 1).is_ok());
        }
    }
}
