//! What is under way between the nodes, and when it arrives.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::{Notify, oneshot};

use super::Port;
use crate::clock::Clock;
use crate::id::NodeName;
use crate::mesh::Channel;

/// What of a payload fits a packet.
const PACKET_PAYLOAD: usize = 1_150;
/// What a packet adds: IP and UDP (28), QUIC's header with a connection id of 8 and its tag (27), a frame's head (5).
const PACKET_ADDS: u64 = 60;
/// An acknowledgement by itself; each packet has its own, as nodes acknowledge at once.
const ACK_BYTES: u64 = 65;
/// A message that was not delivered in so long is given up: its connection is.
const GIVEN_UP: Duration = Duration::from_secs(10);
/// What a sender allows its peer before it acknowledges.
const ACK_DELAY: Duration = Duration::from_millis(25);

/// How payloads fare from one node to another, at this moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Way {
    /// Whether anything arrives.
    pub open: bool,
    /// How long it takes.
    pub delay: Duration,
    /// Up to so much longer.
    pub jitter: Duration,
    /// How likely a packet is lost, from 0 to 1.
    pub loss: f64,
}

/// What went through a node's port in one direction.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Packets, without acknowledgements.
    pub packets: u64,
    /// What the rooms sent or received, with the channel in front.
    pub payload_bytes: u64,
    /// The same with what packets add and with acknowledgements, as estimated.
    pub wire_bytes: u64,
    /// The payload by the channel's number.
    pub by_channel: BTreeMap<u8, u64>,
}

/// How payloads fare from the first to the second.
type Weather = Box<dyn Fn(SocketAddr, SocketAddr) -> Way + Send>;

/// The network. Clones are one network; the runtime that it was made in delivers.
#[derive(Debug, Clone)]
pub struct Network(Arc<Inner>);

struct Inner {
    clock: Clock,
    state: Mutex<State>,
    /// Something is due earlier than what was waited for.
    earlier: Notify,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Network").finish_non_exhaustive()
    }
}

struct State {
    weather: Weather,
    rng: StdRng,
    hosts: BTreeMap<SocketAddr, Host>,
    events: BinaryHeap<Reverse<Event>>,
    next_seq: u64,
}

struct Host {
    port: Arc<Port>,
    name: NodeName,
    /// Tells two processes at one address apart.
    life: u64,
    running: bool,
    asleep_until: Option<Instant>,
    sent: Traffic,
    received: Traffic,
}

/// A payload on its way.
#[derive(Debug)]
pub(crate) enum Parcel {
    Datagram(Bytes),
    Message(Bytes),
    Question(Bytes, oneshot::Sender<Bytes>),
    Answer(Bytes, oneshot::Sender<Bytes>),
}

impl Parcel {
    fn bytes(&self) -> &Bytes {
        match self {
            Self::Datagram(bytes) | Self::Message(bytes) => bytes,
            Self::Question(bytes, _) | Self::Answer(bytes, _) => bytes,
        }
    }
}

struct Event {
    at: Instant,
    seq: u64,
    from: SocketAddr,
    to: SocketAddr,
    channel: Channel,
    parcel: Parcel,
    step: Step,
}

enum Step {
    /// So many packets leave; it is the nth time for a message, whose sending began then.
    Leave {
        packets: usize,
        attempt: u32,
        began: Instant,
    },
    Arrive,
}

impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        self.seq == other.seq
    }
}

impl Eq for Event {}

impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Event {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.seq).cmp(&(other.at, other.seq))
    }
}

/// What a peer answers when it is there.
pub(super) struct Answers {
    pub(super) name: NodeName,
    pub(super) life: u64,
    pub(super) rtt: Duration,
}

impl Network {
    /// A network without nodes, in the current runtime. `seed` decides what is lost and how late the rest is.
    pub fn start(
        clock: Clock,
        seed: u64,
        weather: impl Fn(SocketAddr, SocketAddr) -> Way + Send + 'static,
    ) -> Self {
        let state = State {
            weather: Box::new(weather),
            rng: StdRng::seed_from_u64(seed),
            hosts: BTreeMap::new(),
            events: BinaryHeap::new(),
            next_seq: 0,
        };
        let inner = Arc::new(Inner { clock, state: Mutex::new(state), earlier: Notify::new() });
        tokio::spawn(run(inner.clone()));
        Self(inner)
    }

    /// Changes how payloads fare from now on.
    pub fn set_weather(&self, weather: impl Fn(SocketAddr, SocketAddr) -> Way + Send + 'static) {
        self.lock().weather = Box::new(weather);
    }

    /// What the node at `addr` has sent and received so far.
    pub fn traffic(&self, addr: SocketAddr) -> (Traffic, Traffic) {
        let state = self.lock();
        state.hosts.get(&addr).map(|host| (host.sent.clone(), host.received.clone())).unwrap_or_default()
    }

    pub(super) fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// A process begins to listen at `addr`.
    pub(super) fn attach(&self, addr: SocketAddr, name: NodeName, port: Arc<Port>) {
        let mut state = self.lock();
        let life = state.hosts.get(&addr).map_or(1, |host| host.life + 1);
        let (sent, received) = Default::default();
        let host = Host { port, name, life, running: true, asleep_until: None, sent, received };
        state.hosts.insert(addr, host);
    }

    /// The process at `addr` is gone.
    pub(super) fn detach(&self, addr: SocketAddr) {
        if let Some(host) = self.lock().hosts.get_mut(&addr) {
            host.running = false;
        }
    }

    /// The process at `addr` stands still until then.
    pub(super) fn put_to_sleep(&self, addr: SocketAddr, until: Instant) {
        if let Some(host) = self.lock().hosts.get_mut(&addr) {
            host.asleep_until = Some(until);
        }
    }

    /// Until when the process at `addr` stands still; `None` when it does not.
    pub(super) fn asleep_until(&self, addr: SocketAddr) -> Option<Instant> {
        let now = self.0.clock.now();
        self.lock().hosts.get(&addr)?.asleep_until.filter(|until| *until > now)
    }

    /// Whether somebody at `to` answers `from` now.
    pub(super) fn answers(&self, from: SocketAddr, to: SocketAddr) -> Option<Answers> {
        let now = self.0.clock.now();
        let state = self.lock();
        let host = state.hosts.get(&to)?;
        let awake = host.asleep_until.is_none_or(|until| until <= now);
        let (there, back) = ((state.weather)(from, to), (state.weather)(to, from));
        let found = host.running && awake && there.open && back.open;
        found.then(|| Answers { name: host.name.clone(), life: host.life, rtt: there.delay + back.delay })
    }

    /// Sends a payload, at once or when the link stands.
    pub(super) fn send(
        &self,
        from: SocketAddr,
        to: SocketAddr,
        at: Instant,
        channel: Channel,
        parcel: Parcel,
    ) {
        let packets = (1 + parcel.bytes().len()).div_ceil(PACKET_PAYLOAD);
        let step = Step::Leave { packets, attempt: 0, began: at };
        let mut state = self.lock();
        let first = state.push(at, from, to, channel, parcel, step);
        drop(state);
        if first {
            self.0.earlier.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn run(inner: Arc<Inner>) {
    loop {
        let next = {
            let mut state = inner.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.due(inner.clock.now())
        };
        let wait = async {
            match next {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = inner.earlier.notified() => {}
            () = wait => {}
        }
    }
}

impl State {
    /// Adds an event. Whether it is the first that is due.
    fn push(
        &mut self,
        at: Instant,
        from: SocketAddr,
        to: SocketAddr,
        channel: Channel,
        parcel: Parcel,
        step: Step,
    ) -> bool {
        let first = self.events.peek().is_none_or(|Reverse(event)| at < event.at);
        let seq = self.next_seq;
        self.next_seq += 1;
        self.events.push(Reverse(Event { at, seq, from, to, channel, parcel, step }));
        first
    }

    /// Carries out what is due. When the next is.
    fn due(&mut self, now: Instant) -> Option<Instant> {
        loop {
            let at = self.events.peek()?.0.at;
            if at > now {
                return Some(at);
            }
            let Reverse(event) = self.events.pop()?;
            match event.step {
                Step::Leave { packets, attempt, began } => self.leave(event, packets, attempt, began),
                Step::Arrive => self.arrive(event),
            }
        }
    }

    fn leave(&mut self, event: Event, packets: usize, attempt: u32, began: Instant) {
        let Event { at, from, to, channel, parcel, .. } = event;
        let Some(sender) = self.hosts.get_mut(&from).filter(|sender| sender.running) else { return };
        let bytes = 1 + parcel.bytes().len() as u64;
        if attempt == 0 {
            sender.sent.payload_bytes += bytes;
            *sender.sent.by_channel.entry(channel.id).or_default() += bytes;
        }
        sender.sent.packets += packets as u64;
        let resent = packets as u64 * PACKET_PAYLOAD as u64;
        sender.sent.wire_bytes += packets as u64 * PACKET_ADDS + bytes.min(resent);
        sender.received.wire_bytes += packets as u64 * ACK_BYTES;

        let way = (self.weather)(from, to);
        let is_lost = |rng: &mut StdRng| !way.open || (way.loss > 0.0 && rng.random_bool(way.loss));
        let lost = (0..packets).filter(|_| is_lost(&mut self.rng)).count();
        if lost == 0 {
            let late = way.jitter.mul_f64(self.rng.random_range(0.0..=1.0));
            self.push(at + way.delay + late, from, to, channel, parcel, Step::Arrive);
        } else if !matches!(parcel, Parcel::Datagram(_)) {
            // RFC 9002: probe time-outs double.
            let again = at + ((way.delay * 3) + ACK_DELAY) * (1 << attempt.min(8));
            if again < began + GIVEN_UP {
                let step = Step::Leave { packets: lost, attempt: attempt + 1, began };
                self.push(again, from, to, channel, parcel, step);
            }
        }
    }

    fn arrive(&mut self, event: Event) {
        let Event { from, to, channel, parcel, .. } = event;
        let Some(name) = self.hosts.get(&from).map(|sender| sender.name.clone()) else { return };
        let Some(receiver) = self.hosts.get_mut(&to).filter(|receiver| receiver.running) else { return };
        let bytes = 1 + parcel.bytes().len() as u64;
        let packets = bytes.div_ceil(PACKET_PAYLOAD as u64);
        receiver.received.packets += packets;
        receiver.received.payload_bytes += bytes;
        receiver.received.wire_bytes += bytes + packets * PACKET_ADDS;
        receiver.sent.wire_bytes += packets * ACK_BYTES;
        *receiver.received.by_channel.entry(channel.id).or_default() += bytes;
        receiver.port.clone().take(name, from, channel, parcel);
    }
}
