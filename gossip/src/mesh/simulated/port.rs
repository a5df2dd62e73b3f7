//! One node's mesh over the simulated network: the same methods as over QUIC.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::link::{Link, State};
use super::network::{Network, Parcel};
use crate::id::NodeName;
use crate::mesh::{Channel, ExchangeError, Inbound, LinkInfo, MemberAddr, Peer, Reply, SendError};

/// One node's end of the network.
#[derive(Debug)]
pub(crate) struct Port {
    me: NodeName,
    addr: SocketAddr,
    network: Network,
    listeners: Mutex<HashMap<u8, (Channel, mpsc::Sender<Inbound>)>>,
    links: Mutex<Links>,
    stopped: AtomicBool,
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct Links {
    by_addr: BTreeMap<SocketAddr, Link>,
    by_name: HashMap<NodeName, SocketAddr>,
}

impl Port {
    /// Begins to listen at `addr`, as a new process.
    pub(crate) fn open(me: NodeName, addr: SocketAddr, network: &Network) -> Arc<Self> {
        let port = Arc::new(Self {
            me: me.clone(),
            addr,
            network: network.clone(),
            listeners: Mutex::default(),
            links: Mutex::default(),
            stopped: AtomicBool::new(false),
            dropped: AtomicU64::new(0),
        });
        network.attach(addr, me, port.clone());
        port
    }

    /// Stops as a killed process does.
    pub(crate) fn vanish(&self) {
        self.stop();
    }

    /// The process stands still for so long.
    pub(crate) fn sleep(&self, time: Duration) {
        self.network.put_to_sleep(self.addr, self.now() + time);
    }

    /// Until when the process stands still.
    pub(crate) fn asleep_until(&self) -> Option<Instant> {
        self.network.asleep_until(self.addr)
    }

    pub(in crate::mesh) async fn awake(&self) {
        while let Some(until) = self.asleep_until() {
            tokio::time::sleep_until(until.into()).await;
        }
    }

    /// Something arrived.
    pub(super) fn take(self: Arc<Self>, name: NodeName, addr: SocketAddr, channel: Channel, parcel: Parcel) {
        let from = Peer { name, addr };
        let inbound = match parcel {
            // Whoever asked may have given up.
            Parcel::Answer(bytes, asker) => return drop(asker.send(bytes)),
            Parcel::Datagram(bytes) => Inbound::Datagram { from, bytes },
            Parcel::Message(bytes) => Inbound::Message { from, bytes },
            Parcel::Question(bytes, asker) => {
                let (answer, answered) = oneshot::channel();
                let port = self.clone();
                tokio::spawn(async move {
                    if let Ok(bytes) = answered.await {
                        port.send(addr, port.now(), channel, Parcel::Answer(bytes, asker));
                    }
                });
                Inbound::Exchange { from, bytes, reply: Reply { answer } }
            }
        };
        let reader = self.listeners().get(&channel.id).map(|(_, reader)| reader.clone());
        if reader.is_none_or(|reader| reader.try_send(inbound).is_err()) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(in crate::mesh) fn listen(&self, channel: Channel) -> mpsc::Receiver<Inbound> {
        let (reader, inbound) = mpsc::channel(channel.queue.max(1));
        self.listeners().insert(channel.id, (channel, reader));
        inbound
    }

    pub(in crate::mesh) fn datagram(
        &self,
        to: &NodeName,
        channel: Channel,
        bytes: Bytes,
    ) -> Result<(), SendError> {
        self.ready(channel, &bytes)?;
        let addr = self.addr_of(to)?;
        match self.look(addr) {
            State::Up { .. } => {
                self.send(addr, self.now(), channel, Parcel::Datagram(bytes));
                Ok(())
            }
            _ => Err(SendError::NotConnected(to.to_string())),
        }
    }

    pub(in crate::mesh) fn message(
        &self,
        to: &NodeName,
        channel: Channel,
        bytes: Bytes,
    ) -> Result<(), SendError> {
        self.message_to_addr(self.addr_of(to)?, channel, &bytes)
    }

    pub(in crate::mesh) async fn exchange(
        &self,
        to: &NodeName,
        channel: Channel,
        bytes: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, ExchangeError> {
        self.ready(channel, &bytes)?;
        let addr = self.addr_of(to)?;
        if matches!(self.look(addr), State::Down { .. }) {
            return Err(SendError::NotConnected(to.to_string()).into());
        }
        let answer = self.exchange_with_addr(addr, channel, &bytes, timeout).await;
        answer.map(|(_, bytes)| bytes).ok_or_else(|| ExchangeError::TimedOut(to.clone()))
    }

    pub(in crate::mesh) fn rtt(&self, peer: &NodeName) -> Option<Duration> {
        match self.look(self.addr_of(peer).ok()?) {
            State::Up { rtt, .. } => Some(rtt),
            _ => None,
        }
    }

    pub(in crate::mesh) fn links(&self) -> Vec<LinkInfo> {
        let names = self.table().by_name.clone();
        let info = |(name, addr): (NodeName, SocketAddr)| {
            let rtt = self.rtt(&name);
            LinkInfo { addr, peer: rtt.map(|_| name), rtt, queued: 0, queued_bytes: 0 }
        };
        names.into_iter().map(info).collect()
    }

    pub(in crate::mesh) fn strangers(&self) -> Vec<String> {
        Vec::new()
    }

    /// A network in memory has neither connections nor handshakes.
    pub(in crate::mesh) fn open_connections(&self) -> usize {
        0
    }

    pub(in crate::mesh) fn unfinished(&self) -> usize {
        0
    }

    pub(in crate::mesh) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    pub(in crate::mesh) fn message_to_addr(
        &self,
        addr: SocketAddr,
        channel: Channel,
        bytes: &[u8],
    ) -> Result<(), SendError> {
        self.ready(channel, bytes)?;
        let parcel = Parcel::Message(Bytes::copy_from_slice(bytes));
        match self.look(addr) {
            State::Up { .. } => self.send(addr, self.now(), channel, parcel),
            State::Dialling { done, found: Some(_) } => self.send(addr, done, channel, parcel),
            // It waits until the dial has failed, and is dropped.
            State::Dialling { .. } => {}
            State::Down { .. } => return Err(SendError::NotConnected(addr.to_string())),
        }
        Ok(())
    }

    pub(in crate::mesh) async fn exchange_with_addr(
        &self,
        addr: SocketAddr,
        channel: Channel,
        bytes: &[u8],
        timeout: Duration,
    ) -> Option<(NodeName, Bytes)> {
        let at = match self.look(addr) {
            State::Up { .. } => self.now(),
            State::Dialling { done, found: Some(_) } => done,
            State::Dialling { found: None, .. } => {
                tokio::time::sleep(timeout).await;
                return None;
            }
            State::Down { .. } => return None,
        };
        let name = self.network.answers(self.addr, addr).map(|peer| peer.name);
        let (answer, answered) = oneshot::channel();
        self.send(addr, at, channel, Parcel::Question(Bytes::copy_from_slice(bytes), answer));
        let bytes = tokio::time::timeout(timeout, answered).await.ok()?.ok()?;
        Some((name?, bytes))
    }

    pub(in crate::mesh) fn set_members(&self, members: &[MemberAddr]) {
        let others = || members.iter().filter(|member| member.name != self.me);
        let by_name = others().map(|member| (member.name.clone(), member.addr)).collect();
        self.table().by_name = by_name;
        for member in others() {
            self.look(member.addr);
        }
    }

    pub(in crate::mesh) fn hurry(&self, peer: &NodeName) {
        let now = self.now();
        let mut links = self.table();
        if let Some(addr) = links.by_name.get(peer).copied()
            && let Some(link) = links.by_addr.get_mut(&addr)
        {
            link.hurry(now);
        }
    }

    /// Whatever was sent is on its way.
    pub(in crate::mesh) async fn flush(&self, _patience: Duration) {}

    pub(in crate::mesh) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.network.detach(self.addr);
        self.listeners().clear();
    }

    pub(in crate::mesh) async fn stopped(&self, _patience: Duration) {}

    pub(in crate::mesh) fn release(&self) -> std::io::Result<()> {
        Ok(())
    }

    fn ready(&self, channel: Channel, bytes: &[u8]) -> Result<(), SendError> {
        if self.stopped.load(Ordering::Acquire) {
            return Err(SendError::Stopped);
        }
        let (bytes, max) = (bytes.len(), channel.max_bytes);
        if bytes > max { Err(SendError::TooLarge { channel: channel.name, bytes, max }) } else { Ok(()) }
    }

    fn addr_of(&self, name: &NodeName) -> Result<SocketAddr, SendError> {
        let known = self.table().by_name.get(name).copied();
        known.ok_or_else(|| SendError::NotConnected(name.to_string()))
    }

    /// How the link to an address stands; one that is not there is dialled.
    fn look(&self, addr: SocketAddr) -> State {
        let now = self.now();
        let answers = self.network.answers(self.addr, addr);
        let mut links = self.table();
        let link = links.by_addr.entry(addr).or_insert_with(|| Link::new(now, answers.as_ref()));
        link.look(now, answers.as_ref())
    }

    fn send(&self, to: SocketAddr, at: Instant, channel: Channel, parcel: Parcel) {
        self.network.send(self.addr, to, at, channel, parcel);
    }

    fn now(&self) -> Instant {
        self.network.clock().now()
    }

    fn table(&self) -> MutexGuard<'_, Links> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listeners(&self) -> MutexGuard<'_, HashMap<u8, (Channel, mpsc::Sender<Inbound>)>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
