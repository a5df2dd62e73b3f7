//! The network between the hosts: every packet of every host's TUN device comes here, and leaves when the weather lets it.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::fs::File;
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use gossip::clock::Clock;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use crate::weather::Weather;

/// Packets between a host and the switch; more are lost, as on a real link.
const QUEUE_MAX: usize = 16_384;
/// Packets under way.
const FLYING_MAX: usize = 262_144;
const PACKET_MAX_BYTES: usize = 65_536;
/// Where an IPv4 header has its addresses.
const FROM_AT: usize = 12;
const TO_AT: usize = 16;

/// The switch, and the weather over it.
#[derive(Debug, Clone)]
pub(crate) struct Switch {
    weather: Arc<RwLock<Weather>>,
    packets: SyncSender<Vec<u8>>,
}

impl Switch {
    /// Starts it with the ports of all hosts: each port serves one address or more. Its threads end with the process.
    pub(crate) fn start(ports: Vec<(Vec<Ipv4Addr>, File)>) -> Result<Self> {
        let (packets, received) = sync_channel(QUEUE_MAX);
        let switch = Self { weather: Arc::default(), packets };
        let mut ways = HashMap::new();
        for (addresses, device) in ports {
            let device = Arc::new(device);
            ways.extend(addresses.into_iter().map(|address| (address, device.clone())));
            let packets = switch.packets.clone();
            spawn("port", move || listen(&device, &packets))?;
        }
        let weather = switch.weather.clone();
        spawn("switch", move || carry(&received, &ways, &weather))?;
        Ok(switch)
    }

    /// Changes the weather for packets that are sent from now on.
    pub(crate) fn set(&self, weather: Weather) {
        *self.weather.write().unwrap_or_else(PoisonError::into_inner) = weather;
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
    thread::Builder::new().name(name.into()).spawn(work).map(drop).context("starting a thread")
}

fn listen(device: &File, packets: &SyncSender<Vec<u8>>) {
    let mut buffer = vec![0; PACKET_MAX_BYTES];
    let mut device = device;
    while let Ok(length) = device.read(&mut buffer) {
        if let Err(TrySendError::Disconnected(_)) = packets.try_send(buffer[..length].to_vec()) {
            return;
        }
    }
}

fn carry(packets: &Receiver<Vec<u8>>, ways: &HashMap<Ipv4Addr, Arc<File>>, weather: &RwLock<Weather>) {
    let clock = Clock::system();
    let mut rng = SmallRng::seed_from_u64(1);
    let mut flying: BinaryHeap<Reverse<(Instant, u64, Vec<u8>)>> = BinaryHeap::new();
    let mut number = 0;
    loop {
        let now = clock.now();
        while flying.peek().is_some_and(|Reverse((due, ..))| *due <= now) {
            if let Some(Reverse((_, _, packet))) = flying.pop()
                && let Some(mut device) =
                    address(&packet, TO_AT).and_then(|to| ways.get(&to)).map(AsRef::as_ref)
            {
                // A host that is down loses what is sent to it.
                let _ = device.write(&packet);
            }
        }
        let wait = flying
            .peek()
            .map_or(Duration::from_secs(1), |Reverse((due, ..))| due.saturating_duration_since(now));
        let packet = match packets.recv_timeout(wait) {
            Ok(packet) => packet,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let (Some(from), Some(to)) = (address(&packet, FROM_AT), address(&packet, TO_AT)) else { continue };
        let carried = weather.read().unwrap_or_else(PoisonError::into_inner).carries(from, to, &mut rng);
        if let (Some(time), true) = (carried, flying.len() < FLYING_MAX) {
            number += 1;
            flying.push(Reverse((clock.now() + time, number, packet)));
        }
    }
}

/// An address of an IPv4 packet.
fn address(packet: &[u8], at: usize) -> Option<Ipv4Addr> {
    let bytes: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
    (packet.first()? >> 4 == 4).then(|| bytes.into())
}
