//! Loopback addresses of a test's own.
//!
//! Linux answers on all of 127.0.0.0/8, so every proof takes a /16 for itself and can then use the same port
//! numbers as the documentation does:
//!
//! ```text
//!   127.N.0.10 …      nodes: proxy 8080 and 9000, DNS 5353, mesh 7946 (tunnels 7947), admin 7900
//!   127.N.0.250       nobody, ever
//!   127.N.1.1 …       backends
//!   127.N.2.1 …       users
//! ```
//! N is claimed by a lock on a file in the temporary folder, so that test processes side by side never meet; the
//! lock goes when the process does. Binding verifies that nothing outside the tests is there.

use std::fs::{File, OpenOptions};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

/// The port of HTTP listeners.
pub const HTTP: u16 = 8080;
/// The port of TCP listeners.
pub const TCP: u16 = 9000;
/// The port of DNS, UDP and TCP.
pub const DNS: u16 = 5353;
/// The UDP port of the mesh; tunnels use the next one.
pub const MESH: u16 = 7946;
/// The port of the admin API.
pub const ADMIN: u16 = 7900;

/// Ours; what lies below is for people, and for the demo.
const FIRST: u8 = 100;
const LAST: u8 = 250;

/// A /16 of loopback addresses, held until dropped.
#[derive(Debug)]
pub struct Net {
    second: u8,
    _claim: File,
}

impl Net {
    /// Claims a free network.
    pub fn claim() -> Result<Self> {
        let folder = shared_folder()?;
        let count = u32::from(LAST - FIRST) + 1;
        let start = std::process::id() % count;
        for step in 0..count {
            let second = FIRST + ((start + step) % count) as u8;
            let file = lock_file(&folder.join(format!("net-{second}.lock")))?;
            if file.try_lock().is_err() {
                continue;
            }
            let net = Self { second, _claim: file };
            if net.is_free() {
                return Ok(net);
            }
        }
        bail!("no free network among 127.{FIRST}.0.0 to 127.{LAST}.0.0")
    }

    fn is_free(&self) -> bool {
        let address = self.node(0);
        [HTTP, TCP, DNS, ADMIN].iter().all(|port| TcpListener::bind((address, *port)).is_ok())
            && [DNS, MESH, MESH + 1].iter().all(|port| UdpSocket::bind((address, *port)).is_ok())
    }

    fn address(&self, third: u8, fourth: u8) -> Ipv4Addr {
        Ipv4Addr::new(127, self.second, third, fourth)
    }

    /// The address of the `index`-th node, up to 200.
    pub fn node(&self, index: usize) -> Ipv4Addr {
        self.address(0, 10 + (index % 200) as u8)
    }

    /// The address of the `index`-th backend, up to 250.
    pub fn backend(&self, index: usize) -> Ipv4Addr {
        self.address(1, 1 + (index % 250) as u8)
    }

    /// The address of the `index`-th user, up to 60,000.
    pub fn user(&self, index: usize) -> Ipv4Addr {
        self.address(2 + (index / 250 % 240) as u8, 1 + (index % 250) as u8)
    }

    /// An address where nobody ever listens.
    pub fn nobody(&self) -> Ipv4Addr {
        self.address(0, 250)
    }

    /// What all addresses of this network begin with: `127.N.`.
    pub fn prefix(&self) -> String {
        format!("127.{}.", self.second)
    }
}

/// The folder of the locks that test processes of one user share.
pub(crate) fn shared_folder() -> Result<PathBuf> {
    let user = rustix::process::getuid().as_raw();
    let folder = std::env::temp_dir().join(format!("meridian-tests-{user}"));
    std::fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    Ok(folder)
}

/// Opens a file to lock, never truncating what another process holds.
pub(crate) fn lock_file(path: &std::path::Path) -> Result<File> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .with_context(|| format!("opening {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_claims_never_share_a_network() {
        let nets: Vec<Net> = (0..4).map(|_| Net::claim().unwrap()).collect();
        let mut seconds: Vec<u8> = nets.iter().map(|net| net.second).collect();
        seconds.sort_unstable();
        seconds.dedup();
        assert_eq!(seconds.len(), nets.len());
    }

    #[test]
    fn five_hundred_users_have_five_hundred_addresses() {
        let net = Net::claim().unwrap();
        let users: std::collections::BTreeSet<_> = (0..500).map(|index| net.user(index)).collect();
        assert_eq!(users.len(), 500);
        assert!(!users.contains(&net.node(0)) && !users.contains(&net.backend(0)));
    }
}
