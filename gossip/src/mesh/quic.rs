//! The mesh over QUIC: what its handle shares with the links and the acceptor.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use quinn::{Endpoint, SendDatagramError, VarInt};
use tokio::sync::mpsc;

use super::door::Door;
use super::endpoint::{Purpose, leave_port};
use super::inbound::{self, Dropped};
use super::link::{Connected, Link};
use super::strangers::Strangers;
use super::tls::Identity;
use super::wire::{GOODBYE, framed};
use super::{Channel, ExchangeError, Inbound, LinkInfo, MemberAddr, Peer, SendError};
use crate::clock::Clock;
use crate::id::NodeName;

/// A link to an address that is no member's, unused for so long, is closed.
const LINK_IDLE: Duration = Duration::from_secs(30);
/// More links to addresses that are no member's than any honest set of seeds needs.
const MAX_STRAY_LINKS: usize = 256;

#[derive(Debug)]
pub(crate) struct Shared {
    me: NodeName,
    pub(crate) endpoint: Endpoint,
    pub(crate) identity: Arc<Identity>,
    pub(crate) clock: Clock,
    pub(crate) runtime: tokio::runtime::Handle,
    pub(crate) dropped: Dropped,
    pub(crate) strangers: Strangers,
    pub(super) door: Door,
    listeners: RwLock<HashMap<u8, (Channel, mpsc::Sender<Inbound>)>>,
    links: RwLock<Links>,
    stopped: AtomicBool,
}

#[derive(Debug, Default)]
struct Links {
    by_addr: HashMap<SocketAddr, Arc<Link>>,
    by_name: HashMap<NodeName, (u64, Arc<Link>)>,
}

impl Shared {
    pub(crate) fn listener(&self, id: u8) -> Option<(Channel, mpsc::Sender<Inbound>)> {
        self.listeners.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    /// A peer has connected from its address: a connection to whoever was there before is dead.
    pub(crate) fn met(&self, peer: &Peer) {
        self.strangers.met(peer.addr);
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

    /// Starts the endpoint on a bound socket and the current tokio runtime.
    pub(super) fn start(
        me: NodeName,
        identity: Arc<Identity>,
        clock: Clock,
        socket: std::net::UdpSocket,
    ) -> std::io::Result<Arc<Self>> {
        let endpoint = Purpose::Mesh.endpoint(&identity, socket)?;
        let shared = Arc::new(Self {
            me,
            endpoint,
            identity,
            clock,
            runtime: tokio::runtime::Handle::current(),
            dropped: Dropped::default(),
            strangers: Strangers::default(),
            door: Door::default(),
            listeners: RwLock::default(),
            links: RwLock::default(),
            stopped: AtomicBool::new(false),
        });
        tokio::spawn(inbound::accept(shared.clone()));
        Ok(shared)
    }

    pub(super) fn listen(&self, channel: Channel) -> mpsc::Receiver<Inbound> {
        let (reader, inbound) = mpsc::channel(channel.queue.max(1));
        let mut listeners = self.listeners.write().unwrap_or_else(PoisonError::into_inner);
        listeners.insert(channel.id, (channel, reader));
        inbound
    }

    pub(super) fn datagram(&self, to: &NodeName, channel: Channel, bytes: Bytes) -> Result<(), SendError> {
        self.ready(channel, &bytes)?;
        let not_connected = || SendError::NotConnected(to.to_string());
        let Connected { connection, .. } = self.connected(to).ok_or_else(not_connected)?;
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

    pub(super) fn message(&self, to: &NodeName, channel: Channel, bytes: Bytes) -> Result<(), SendError> {
        self.ready(channel, &bytes)?;
        let link = self.link(to).filter(|link| !link.is_down());
        let link = link.ok_or_else(|| SendError::NotConnected(to.to_string()))?;
        if link.connected().is_some_and(|connected| connected.name != *to) {
            return Err(SendError::NotConnected(to.to_string()));
        }
        link.push(Some(to), framed(channel.id, &bytes)).map_err(|_| SendError::QueueFull(to.to_string()))
    }

    pub(super) async fn exchange(
        &self,
        to: &NodeName,
        channel: Channel,
        bytes: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, ExchangeError> {
        self.ready(channel, &bytes)?;
        let not_connected = || SendError::NotConnected(to.to_string());
        let link = self.link(to).ok_or_else(not_connected)?;
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

    pub(super) fn rtt(&self, peer: &NodeName) -> Option<Duration> {
        Some(self.connected(peer)?.connection.rtt())
    }

    pub(super) fn links(&self) -> Vec<LinkInfo> {
        let links = self.links.read().unwrap_or_else(PoisonError::into_inner);
        let info = |link: &Arc<Link>| {
            let connected = link.connected();
            LinkInfo {
                addr: link.addr,
                queued: link.queued(),
                queued_bytes: link.backlog(),
                rtt: connected.as_ref().map(|connected| connected.connection.rtt()),
                peer: connected.map(|connected| connected.name),
            }
        };
        links.by_addr.values().map(info).collect()
    }

    pub(super) fn open_connections(&self) -> usize {
        self.endpoint.open_connections()
    }

    pub(super) fn unfinished(&self) -> usize {
        self.door.unfinished()
    }

    pub(super) fn strangers(&self) -> Vec<String> {
        self.strangers.tell(self.clock.now())
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped.count()
    }

    pub(super) fn message_to_addr(
        self: &Arc<Self>,
        addr: SocketAddr,
        channel: Channel,
        bytes: &[u8],
    ) -> Result<(), SendError> {
        self.ready(channel, bytes)?;
        let link = self.link_to(addr).ok_or_else(|| SendError::QueueFull(addr.to_string()))?;
        if link.is_down() {
            return Err(SendError::NotConnected(addr.to_string()));
        }
        link.push(None, framed(channel.id, bytes)).map_err(|_| SendError::QueueFull(addr.to_string()))
    }

    pub(super) async fn exchange_with_addr(
        self: &Arc<Self>,
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

    pub(super) fn set_members(self: &Arc<Self>, members: &[MemberAddr]) {
        let now = self.clock.now();
        let mut links = self.links.write().unwrap_or_else(PoisonError::into_inner);
        if self.stopped.load(Ordering::Acquire) {
            return;
        }
        let mut by_name = HashMap::new();
        for member in members.iter().filter(|member| member.name != self.me) {
            let start = || Link::start(self, member.addr);
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

    pub(super) fn hurry(&self, peer: &NodeName) {
        if let Some(link) = self.link(peer) {
            link.hurry();
        }
    }

    pub(super) async fn flush(&self, patience: Duration) {
        let links = || {
            let links = self.links.read().unwrap_or_else(PoisonError::into_inner);
            links.by_addr.values().cloned().collect::<Vec<_>>()
        };
        let empty = async {
            while links().iter().any(|link| link.connected().is_some() && link.backlog() > 0) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let _ = tokio::time::timeout(patience, empty).await;
    }

    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        let mut links = self.links.write().unwrap_or_else(PoisonError::into_inner);
        for link in links.by_addr.drain().map(|(_, link)| link) {
            link.close();
        }
        links.by_name.clear();
        drop(links);
        self.listeners.write().unwrap_or_else(PoisonError::into_inner).clear();
        self.endpoint.close(GOODBYE, b"");
    }

    pub(super) async fn stopped(&self, patience: Duration) {
        let _ = tokio::time::timeout(patience, self.endpoint.wait_idle()).await;
    }

    pub(super) fn release(&self) -> std::io::Result<()> {
        let _entered = self.runtime.enter();
        leave_port(&self.endpoint)
    }

    #[cfg(test)]
    pub(super) fn vanish(&self) {
        // A socket that reaches no IPv4 address.
        let void = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::DGRAM, None).expect("a socket");
        void.set_only_v6(true).expect("it takes IPv6 alone");
        void.bind(&SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, 0)).into()).expect("a port is free");
        let _entered = self.runtime.enter();
        self.endpoint.rebind(void.into()).expect("the endpoint takes the socket");
        self.stop();
    }

    fn link_to(self: &Arc<Self>, addr: SocketAddr) -> Option<Arc<Link>> {
        let now = self.clock.now();
        let found = {
            let links = self.links.read().unwrap_or_else(PoisonError::into_inner);
            links.by_addr.get(&addr).cloned()
        };
        let link = match found {
            Some(link) => link,
            None => {
                let mut links = self.links.write().unwrap_or_else(PoisonError::into_inner);
                let stray = links.by_addr.len().saturating_sub(links.by_name.len());
                if self.stopped.load(Ordering::Acquire) || stray >= MAX_STRAY_LINKS {
                    return None;
                }
                links.by_addr.entry(addr).or_insert_with(|| Link::start(self, addr)).clone()
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
