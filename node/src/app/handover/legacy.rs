//! What the next process is given: the data folder's lock and every socket that users, resolvers and operators know.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::time::Duration;

use gossip::id::NodeName;
use rustix::fs::{MemfdFlags, memfd_create};

use super::wire::{DESCRIPTORS_MAX, Line};
use crate::health::{HealthTable, memory};
use crate::proxy;

/// Members that are told of: more than a mesh has.
const MEMBERS_MAX: usize = 2000;
/// Messages that one process sends another at most: a node with more sockets is not handed over.
const MESSAGES_MAX: usize = 10_000;
const PATIENCE: Duration = Duration::from_secs(20);

/// Everything.
#[derive(Debug)]
pub(crate) struct Legacy {
    /// Of the data folder: who has it owns the folder.
    pub(crate) lock: File,
    /// The admin API's port.
    pub(crate) admin_tcp: TcpListener,
    /// Its Unix socket.
    pub(crate) admin_unix: UnixListener,
    /// The proxy's listeners.
    pub(crate) proxy: proxy::Inherited,
    /// The name server's sockets.
    pub(crate) dns: Vec<dns::Inherited>,
    /// The nodes that the old process believes to live.
    pub(crate) members: Vec<NodeName>,
    /// What it knows of the backends.
    pub(crate) health: HealthTable,
    /// Its program's; empty where it does not say.
    pub(crate) version: String,
}

impl Legacy {
    /// Sends it, one thing a message.
    pub(super) fn send(&self, line: &Line) -> io::Result<()> {
        line.say("lock", &[self.lock.as_fd()])?;
        line.say("admin tcp", &[self.admin_tcp.as_fd()])?;
        line.say("admin unix", &[self.admin_unix.as_fd()])?;
        for (addr, sockets) in &self.proxy {
            for some in sockets.chunks(DESCRIPTORS_MAX) {
                let descriptors: Vec<BorrowedFd<'_>> = some.iter().map(AsFd::as_fd).collect();
                line.say(&format!("proxy {addr}"), &descriptors)?;
            }
        }
        for dns::Inherited { listen, udp, tcp } in &self.dns {
            line.say(&format!("dns {listen}"), &[tcp.as_fd()])?;
            for some in udp.chunks(DESCRIPTORS_MAX) {
                let descriptors: Vec<BorrowedFd<'_>> = some.iter().map(AsFd::as_fd).collect();
                line.say("dns udp", &descriptors)?;
            }
        }
        for member in self.members.iter().take(MEMBERS_MAX) {
            line.say(&format!("member {member}"), &[])?;
        }
        line.say(&format!("version {}", self.version), &[])?;
        let health = as_file(&memory::encode(&self.health))?;
        line.say("health", &[health.as_fd()])?;
        line.say("all", &[])
    }

    /// Receives it.
    ///
    /// # Errors
    /// When the other process ends, falls silent, or says less than this one needs. What it says beyond that, as a newer or older
    /// program may, is passed over.
    pub(crate) fn receive(line: &Line) -> io::Result<Self> {
        let (mut lock, mut admin_tcp, mut admin_unix) = (None, None, None);
        let mut proxy: BTreeMap<SocketAddr, Vec<TcpListener>> = BTreeMap::new();
        let mut dns: Vec<dns::Inherited> = Vec::new();
        let (mut members, mut health, mut version) = (Vec::new(), HealthTable::new(), String::new());
        for _ in 0..MESSAGES_MAX {
            let (word, mut descriptors) = line.hear(PATIENCE).map_err(io::Error::other)?;
            let strange = || io::Error::other(format!("{word:?} is not understood"));
            let mut one = || descriptors.pop().ok_or_else(strange);
            match word.split_once(' ') {
                None if word == "all" => {
                    let missing = || io::Error::other("not everything was given");
                    return Ok(Self {
                        lock: lock.ok_or_else(missing)?,
                        admin_tcp: admin_tcp.ok_or_else(missing)?,
                        admin_unix: admin_unix.ok_or_else(missing)?,
                        proxy,
                        dns,
                        members,
                        health,
                        version,
                    });
                }
                None if word == "lock" => lock = Some(File::from(one()?)),
                None if word == "health" => health = memory::decode(&contents(File::from(one()?))?),
                Some(("member", name)) => members.extend(NodeName::new(name)),
                Some(("version", of)) => of.clone_into(&mut version),
                Some(("admin", "tcp")) => admin_tcp = Some(TcpListener::from(one()?)),
                Some(("admin", "unix")) => admin_unix = Some(UnixListener::from(one()?)),
                Some(("dns", "udp")) => {
                    let of = dns.last_mut().ok_or_else(strange)?;
                    of.udp.extend(descriptors.into_iter().map(UdpSocket::from));
                }
                Some(("dns", listen)) => {
                    let listen = listen.parse().map_err(|_| strange())?;
                    let tcp = TcpListener::from(one()?);
                    dns.push(dns::Inherited { listen, udp: Vec::new(), tcp });
                }
                Some(("proxy", addr)) => {
                    let sockets = proxy.entry(addr.parse().map_err(|_| strange())?).or_default();
                    sockets.extend(descriptors.into_iter().map(|fd: OwnedFd| TcpListener::from(fd)));
                }
                _ => tracing::debug!(word, "the process before this one says something unknown"),
            }
        }
        Err(io::Error::other("it never ends"))
    }
}

/// Bytes as a file without a name: what is too long for a word.
fn as_file(bytes: &[u8]) -> io::Result<File> {
    let mut file = File::from(memfd_create("meridian-health", MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    Ok(file)
}

fn contents(mut file: File) -> io::Result<Vec<u8>> {
    file.rewind()?;
    let mut bytes = Vec::new();
    file.take(memory::MEMORY_MAX_BYTES as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use gossip::clock::Hlc;
    use gossip::id::BackendId;
    use gossip::state::BackendState;

    use super::*;
    use crate::health::BackendHealth;

    #[test]
    fn everything_arrives_where_it_belongs() {
        let tcp = || TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = || UdpSocket::bind("127.0.0.1:0").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (first, wanted) = (tcp(), "0.0.0.0:80".parse().unwrap());
        let bound = first.local_addr().unwrap();
        let many = (0..70).map(|_| first.try_clone().unwrap()).collect();
        let listen: SocketAddr = "0.0.0.0:53".parse().unwrap();
        let down = BackendHealth {
            state: BackendState::Down,
            up_since: Hlc(1),
            down_since: Hlc(2),
            ejected: None,
            reason: "as it was before the upgrade".into(),
        };
        let legacy = Legacy {
            lock: File::create(folder.path().join("lock")).unwrap(),
            admin_tcp: tcp(),
            admin_unix: UnixListener::bind(folder.path().join("admin.sock")).unwrap(),
            proxy: [(wanted, many)].into(),
            dns: vec![dns::Inherited { listen, udp: vec![udp(), udp()], tcp: tcp() }],
            members: vec![NodeName::new("eu-2").unwrap()],
            health: [(BackendId(7), down)].into(),
            version: "0.0.9".into(),
        };
        let (one, other) = Line::pair().unwrap();
        let sending = std::thread::spawn(move || legacy.send(&one).map(|()| (legacy, one)));
        let received = Legacy::receive(&other).unwrap();
        let (legacy, _one) = sending.join().unwrap().unwrap();
        assert_eq!(received.proxy[&wanted].len(), 70);
        assert!(received.proxy[&wanted].iter().all(|socket| socket.local_addr().unwrap() == bound));
        assert_eq!((received.dns[0].listen, received.dns[0].udp.len()), (listen, 2));
        let addr = |udp: &UdpSocket| udp.local_addr().unwrap();
        assert_eq!(addr(&received.dns[0].udp[1]), addr(&legacy.dns[0].udp[1]));
        assert_eq!((&received.members, &received.health), (&legacy.members, &legacy.health));
        assert_eq!(received.version, legacy.version);
        assert_eq!(received.admin_tcp.local_addr().unwrap(), legacy.admin_tcp.local_addr().unwrap());
    }

    #[test]
    fn nonsense_is_refused() {
        let (one, other) = Line::pair().unwrap();
        one.say("all", &[]).unwrap();
        assert!(Legacy::receive(&other).is_err());
        one.say("proxy nowhere", &[]).unwrap();
        assert!(Legacy::receive(&other).is_err());
        drop(one);
        assert!(Legacy::receive(&other).is_err());
    }
}
