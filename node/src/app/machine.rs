//! What a node takes from the machine it runs on: its address, its limits, its data folder.

use std::fs::{File, OpenOptions};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The data folder, locked for this process as long as this value lives.
#[derive(Debug)]
pub(crate) struct DataFolder {
    lock: File,
}

/// Why the data folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DataError {
    /// Another node runs on it.
    #[error("another node is running on the data folder {}; give this one its own with --data", .0.display())]
    InUse(PathBuf),
    /// The system refuses.
    #[error("cannot use the data folder {}: {source}; choose another with --data", path.display())]
    Io { path: PathBuf, source: io::Error },
}

impl DataFolder {
    /// The folder of the process before this one, whose lock it is.
    pub(crate) fn adopt(lock: File) -> Self {
        Self { lock }
    }

    /// The lock, for the process that comes next.
    pub(crate) fn hand_over(&self) -> io::Result<File> {
        self.lock.try_clone()
    }

    /// Makes the folder when it is missing, readable by its owner only, and locks it.
    pub(crate) fn lock(path: &Path) -> Result<Self, DataError> {
        let failed = |source: io::Error| DataError::Io { path: path.to_owned(), source };
        if !path.is_dir() {
            std::fs::create_dir_all(path).map_err(failed)?;
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)).map_err(failed)?;
        }
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.join("lock"))
            .map_err(failed)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { lock: file }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(DataError::InUse(path.to_owned())),
            Err(error) => Err(failed(error.into())),
        }
    }
}

/// Raises the limit of open files to the most the system allows; gives the limit in force.
pub(crate) fn raise_file_limit() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        // Refusal leaves the old limit, which is then what is reported.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    }
    getrlimit(Resource::Nofile).current
}

/// The address of the interface that leads to the default route, if there is one. Nothing is sent: connecting a UDP
/// socket only asks the kernel for a route. The targets are documentation addresses (RFC 5737, RFC 3849).
pub(crate) fn default_route_address(v6: bool) -> Option<IpAddr> {
    let (from, to) = match v6 {
        false => (
            SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0),
            SocketAddr::new(Ipv4Addr::new(192, 0, 2, 1).into(), 9),
        ),
        true => (
            SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0),
            SocketAddr::new(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(), 9),
        ),
    };
    let socket = UdpSocket::bind(from).ok()?;
    socket.connect(to).ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_unspecified() && !ip.is_loopback()).then_some(ip)
}

/// What DNS tells users when the file does not say: the proxy's own addresses, with the default route's in the place
/// of wildcards. Empty when there is none.
pub(crate) fn public_addresses(listen: &[IpAddr]) -> Vec<IpAddr> {
    let mut public: Vec<IpAddr> = Vec::new();
    for ip in listen {
        let ip = if ip.is_unspecified() { default_route_address(ip.is_ipv6()) } else { Some(*ip) };
        if let Some(ip) = ip.filter(|ip| !public.contains(ip)) {
            public.push(ip);
        }
    }
    public
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_folder_has_one_owner() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data");
        let first = DataFolder::lock(&path).unwrap();
        assert!(matches!(DataFolder::lock(&path), Err(DataError::InUse(_))));
        drop(first);
        DataFolder::lock(&path).unwrap();
    }

    #[test]
    fn own_addresses_are_told_as_they_are() {
        let listen = ["127.0.0.3".parse().unwrap(), "127.0.0.3".parse().unwrap()];
        assert_eq!(public_addresses(&listen), ["127.0.0.3".parse::<IpAddr>().unwrap()]);
    }
}
