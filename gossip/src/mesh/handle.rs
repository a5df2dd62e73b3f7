//! The handle that all others hold, and what it shares with the links and the acceptor.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use quinn::{Endpoint, SendDatagramError, VarInt};
use tokio::sync::mpsc;

use super::endpoint::{Purpose, leave_port};
use super::inbound::{self, Dropped};
use super::link::{Connected, Link};
use super::tls::Identity;
use super::wire::{GOODBYE, framed};
use super::{Channel, ExchangeError, Inbound, Peer, SendError};
use crate::clock::Clock;
use crate::id::NodeName;

/// A link to an address that is no member's, unused for so long, is closed.
const LINK_IDLE: Duration = Duration::from_secs(30);
/// More links to addresses that are no member's than any honest set of seeds needs.
const MAX_STRAY_LINKS: usize = 256;

/// A handle to the mesh. Cheap to clone; all clones are one mesh.
#[derive(Debug, Clone)]
pub struct Mesh(pub(super) Arc<Shared>);

#[derive(Debug)]
pub(crate) struct Shared {
    me: NodeName,
    pub(crate) endpoint: Endpoint,
    pub(crate) identity: Arc<Identity>,
    pub(crate) clock: Clock,
    pub(crate) runtime: tokio::runtime::Handle,
    pub(crate) dropped: Dropped,
    listeners: RwLock<HashMap<u8, (Channel, mpsc::Sender<Inbound>)>>,
    links: RwLock<Links>,
    stopped: AtomicBool,
}

#[derive(Debug, Default)]
struct Links {
    by_addr: HashMap<SocketAddr, Arc<Link>>,
    by_name: HashMap<NodeName, (u64, Arc<Link>)>,
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
}

impl Shared {
    pub(crate) fn listener(&self, id: u8) -> Option<(Channel, mpsc::Sender<Inbound>)> {
        self.listeners.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    /// A peer has connected from its address: a connection to whoever was there before is dead.
    pub(crate) fn met(&self, peer: &Peer) {
        let links = self.links.read().unwrap_or_else(PoisonError::into_inner);
        let link = links.by_addr.get(&peer.addr);
        if let Some(link) = link
            && link.connected().is_some_and(|connected| connected.name != peer.name)
        {
            link.redial();
        }
    }

    fn link(&self, to: &NodeName) -> Option<Arc<Link>> {
        let links = self.links.read().unwrap_or_else(PoisonError::into_inner);
        links.by_name.get(to).map(|(_, link)| link.clone())
    }

    fn connected(&self, to: &NodeName) -> Option<Connected> {
        self.link(to)?.connected().filter(|connected| connected.name == *to)
    }

    fn ready(&self, channel: Channel, bytes: &[u8]) -> Result<(), SendError> {
        if self.stopped.load(Ordering::Acquire) {
            return Err(SendError::Stopped);
        }
        if bytes.len() > channel.max_bytes {
            return Err(SendError::TooLarge {
                channel: channel.name,
                bytes: bytes.len(),
                max: channel.max_bytes,
            });
        }
        Ok(())
    }
}

impl Mesh {
    /// Starts the endpoint on a bound socket and the current tokio runtime.
    pub(crate) fn start(
        me: NodeName,
        identity: Arc<Identity>,
        clock: Clock,
        socket: std::net::UdpSocket,
    ) -> std::io::Result<Self> {
        let endpoint = Purpose::Mesh.endpoint(&identity, socket)?;
        let shared = Arc::new(Shared {
            me,
            endpoint,
            identity,
            clock,
            runtime: tokio::runtime::Handle::current(),
            dropped: Dropped::default(),
            listeners: RwLock::default(),
            links: RwLock::default(),
            stopped: AtomicBool::new(false),
        });
        tokio::spawn(inbound::accept(shared.clone()));
        Ok(Self(shared))
    }

    /// Starts to receive on `channel`. One reader a channel: a second call takes the channel over.
    pub fn listen(&self, channel: Channel) -> mpsc::Receiver<Inbound> {
        let (reader, inbound) = mpsc::channel(channel.queue.max(1));
        let mut listeners = self.0.listeners.write().unwrap_or_else(PoisonError::into_inner);
        listeners.insert(channel.id, (channel, reader));
        inbound
    }

    /// Sends a datagram to a connected peer; never blocks, may be lost.
    ///
    /// # Errors
    /// When there is no connection, or the payload does not fit the channel or the path's datagrams (at least 1,100
    /// bytes fit).
    pub fn datagram(&self, to: &NodeName, channel: Channel, bytes: Bytes) -> Result<(), SendError> {
        self.0.ready(channel, &bytes)?;
        let not_connected = || SendError::NotConnected(to.to_string());
        let Connected { connection, .. } = self.0.connected(to).ok_or_else(not_connected)?;
        let length = bytes.len();
        connection.send_datagram(framed(channel.id, &bytes)).map_err(|error| match error {
            SendDatagramError::TooLarge => SendError::TooLarge {
                channel: channel.name,
                bytes: length,
                max: connection.max_datagram_size().unwrap_or(0).saturating_sub(1),
            },
            _ => not_connected(),
        })
    }

    /// Queues a message to a peer; never blocks. While the peer is being dialled it waits, at most as long as the dial.
    ///
    /// # Errors
    /// When the peer is unknown or cannot be reached now, the payload is too large or the queue to the peer is full.
    pub fn message(&self, to: &NodeName, channel: Channel, bytes: Bytes) -> Result<(), SendError> {
        self.0.ready(channel, &bytes)?;
        let link = self.0.link(to).filter(|link| !link.is_down());
        let link = link.ok_or_else(|| SendError::NotConnected(to.to_string()))?;
        if link.connected().is_some_and(|connected| connected.name != *to) {
            return Err(SendError::NotConnected(to.to_string()));
        }
        link.push(Some(to), framed(channel.id, &bytes)).map_err(|_| SendError::QueueFull(to.to_string()))
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
        self.0.ready(channel, &bytes)?;
        let not_connected = || SendError::NotConnected(to.to_string());
        let link = self.0.link(to).ok_or_else(not_connected)?;
        let answer = async {
            let connected = match link.connected() {
                Some(connected) => connected,
                None => link.wait().await.ok_or_else(not_connected)?,
            };
            if connected.name != *to {
                return Err(not_connected().into());
            }
            ask(&connected, channel, &bytes).await.ok_or_else(|| ExchangeError::Refused(to.clone()))
        };
        tokio::time::timeout(timeout, answer)
            .await
            .unwrap_or_else(|_| Err(ExchangeError::TimedOut(to.clone())))
    }

    /// The smoothed round-trip time to a connected peer; `None` without a connection.
    pub fn rtt(&self, peer: &NodeName) -> Option<Duration> {
        Some(self.0.connected(peer)?.connection.rtt())
    }

    /// All links as they stand, in no order.
    pub fn links(&self) -> Vec<LinkInfo> {
        let links = self.0.links.read().unwrap_or_else(PoisonError::into_inner);
        let info = |link: &Arc<Link>| {
            let connected = link.connected();
            LinkInfo {
                addr: link.addr,
                rtt: connected.as_ref().map(|connected| connected.connection.rtt()),
                peer: connected.map(|connected| connected.name),
            }
        };
        links.by_addr.values().map(info).collect()
    }

    /// Inbound payloads that were dropped since the start because a queue was full, nobody listened or they broke a limit.
    pub fn dropped(&self) -> u64 {
        self.0.dropped.count()
    }

    /// Queues a message to whoever is at `addr`; never blocks.
    pub(crate) fn message_to_addr(
        &self,
        addr: SocketAddr,
        channel: Channel,
        bytes: &[u8],
    ) -> Result<(), SendError> {
        self.0.ready(channel, bytes)?;
        let link = self.link_to(addr).ok_or_else(|| SendError::QueueFull(addr.to_string()))?;
        if link.is_down() {
            return Err(SendError::NotConnected(addr.to_string()));
        }
        link.push(None, framed(channel.id, bytes)).map_err(|_| SendError::QueueFull(addr.to_string()))
    }

    /// Asks whoever is at `addr`. Who answered, and what; `None` when nobody did in time.
    pub(crate) async fn exchange_with_addr(
        &self,
        addr: SocketAddr,
        channel: Channel,
        bytes: &[u8],
        timeout: Duration,
    ) -> Option<(NodeName, Bytes)> {
        let link = self.link_to(addr)?;
        let answer = async {
            let connected = match link.connected() {
                Some(connected) => connected,
                None => link.wait().await?,
            };
            let bytes = ask(&connected, channel, bytes).await?;
            Some((connected.name, bytes))
        };
        tokio::time::timeout(timeout, answer).await.ok()?
    }

    /// Says who the members are and where: links are made, redirected and closed accordingly.
    pub(crate) fn set_members(&self, members: &[MemberAddr]) {
        let now = self.0.clock.now();
        let mut links = self.0.links.write().unwrap_or_else(PoisonError::into_inner);
        if self.0.stopped.load(Ordering::Acquire) {
            return;
        }
        let mut by_name = HashMap::new();
        for member in members.iter().filter(|member| member.name != self.0.me) {
            let start = || Link::start(&self.0, member.addr);
            let link = links.by_addr.entry(member.addr).or_insert_with(start).clone();
            link.touch(now);
            let before = links.by_name.get(&member.name);
            if before
                .is_some_and(|(generation, old)| *generation != member.generation && Arc::ptr_eq(old, &link))
            {
                link.redial();
            }
            by_name.insert(member.name.clone(), (member.generation, link));
        }
        links.by_name = by_name;
        links.by_addr.retain(|_, link| {
            let stays = now.saturating_duration_since(link.last_used()) < LINK_IDLE;
            if !stays {
                link.close();
            }
            stays
        });
    }

    /// Ends the back-off of the link to a member that was just heard.
    pub(crate) fn hurry(&self, peer: &NodeName) {
        if let Some(link) = self.0.link(peer) {
            link.hurry();
        }
    }

    /// Waits until the queues are empty, at most `patience`.
    pub(crate) async fn flush(&self, patience: Duration) {
        let links = || {
            let links = self.0.links.read().unwrap_or_else(PoisonError::into_inner);
            links.by_addr.values().cloned().collect::<Vec<_>>()
        };
        let empty = async {
            while links().iter().any(|link| link.connected().is_some() && link.backlog() > 0) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let _ = tokio::time::timeout(patience, empty).await;
    }

    /// Closes all connections and ends all tasks. Peers learn it at once when `goodbye` packets arrive.
    pub(crate) fn stop(&self) {
        self.0.stopped.store(true, Ordering::Release);
        let mut links = self.0.links.write().unwrap_or_else(PoisonError::into_inner);
        for link in links.by_addr.drain().map(|(_, link)| link) {
            link.close();
        }
        links.by_name.clear();
        drop(links);
        self.0.listeners.write().unwrap_or_else(PoisonError::into_inner).clear();
        self.0.endpoint.close(GOODBYE, b"");
    }

    /// After [`Mesh::stop`]: waits until the goodbyes were sent, at most `patience`.
    pub(crate) async fn stopped(&self, patience: Duration) {
        let _ = tokio::time::timeout(patience, self.0.endpoint.wait_idle()).await;
    }

    /// After [`Mesh::stop`]: gives the UDP port free, though handles to this mesh live on.
    pub(crate) fn release(&self) -> std::io::Result<()> {
        leave_port(&self.0.endpoint)
    }

    /// Stops as a killed process does: nothing more is sent, peers hear nothing. For tests of silence.
    #[cfg(test)]
    pub(crate) fn vanish(&self) {
        // A socket that reaches no IPv4 address.
        let void = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::DGRAM, None).expect("a socket");
        void.set_only_v6(true).expect("it takes IPv6 alone");
        void.bind(&SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, 0)).into()).expect("a port is free");
        self.0.endpoint.rebind(void.into()).expect("the endpoint takes the socket");
        self.stop();
    }

    fn link_to(&self, addr: SocketAddr) -> Option<Arc<Link>> {
        let now = self.0.clock.now();
        let found = {
            let links = self.0.links.read().unwrap_or_else(PoisonError::into_inner);
            links.by_addr.get(&addr).cloned()
        };
        let link = match found {
            Some(link) => link,
            None => {
                let mut links = self.0.links.write().unwrap_or_else(PoisonError::into_inner);
                let stray = links.by_addr.len().saturating_sub(links.by_name.len());
                if self.0.stopped.load(Ordering::Acquire) || stray >= MAX_STRAY_LINKS {
                    return None;
                }
                links.by_addr.entry(addr).or_insert_with(|| Link::start(&self.0, addr)).clone()
            }
        };
        link.touch(now);
        Some(link)
    }
}

async fn ask(connected: &Connected, channel: Channel, bytes: &[u8]) -> Option<Bytes> {
    let (mut send, mut recv) = connected.connection.open_bi().await.ok()?;
    send.write_all(&framed(channel.id, bytes)).await.ok()?;
    send.finish().ok()?;
    match recv.read_to_end(channel.max_bytes).await {
        Ok(answer) => Some(answer.into()),
        Err(_) => {
            let _ = recv.stop(VarInt::from_u32(1));
            None
        }
    }
}
