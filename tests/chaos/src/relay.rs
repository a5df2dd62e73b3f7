//! The wires: one thread that takes packets from all devices, keeps them as long as the weather says, and hands them on.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use gossip::clock::Clock;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::tun::Tun;
use crate::weather::{Weather, addresses};

/// Packets under way; beyond it they are lost, as in any full queue.
const UNDER_WAY: usize = 50_000;
/// Packets taken from one device before the next has its turn.
const IN_A_ROW: usize = 64;

/// The running wires. Dropping it ends them, and the devices with them.
#[derive(Debug)]
pub struct Relay {
    weather: Arc<Mutex<Weather>>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Relay {
    /// Connects devices; packets for an address that none of them is for go to `others`.
    pub fn start(hosts: Vec<(Ipv4Addr, Tun)>, others: Tun) -> std::io::Result<Self> {
        let (weather, stop) = (Arc::new(Mutex::new(Weather::default())), Arc::new(AtomicBool::new(false)));
        let (rules, ended) = (weather.clone(), stop.clone());
        let thread = std::thread::Builder::new()
            .name("relay".into())
            .spawn(move || carry(&hosts, &others, &rules, &ended))?;
        Ok(Self { weather, stop, thread: Some(thread) })
    }

    /// Changes the weather, for packets that are sent from now on.
    pub fn set(&self, weather: Weather) {
        *self.weather.lock().unwrap_or_else(PoisonError::into_inner) = weather;
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn carry(hosts: &[(Ipv4Addr, Tun)], others: &Tun, weather: &Mutex<Weather>, stop: &AtomicBool) {
    let clock = Clock::system();
    let mut rng = SmallRng::from_rng(&mut rand::rng());
    let tuns: Vec<&Tun> = hosts.iter().map(|(_, tun)| tun).chain([others]).collect();
    let at: HashMap<Ipv4Addr, usize> =
        hosts.iter().enumerate().map(|(index, (address, _))| (*address, index)).collect();
    let mut under_way: BinaryHeap<Reverse<(Instant, u64, usize, Vec<u8>)>> = BinaryHeap::new();
    let mut buffer = vec![0; 65_536];
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        let now = clock.now();
        while under_way.peek().is_some_and(|Reverse((due, ..))| *due <= now) {
            if let Some(Reverse((_, _, to, packet))) = under_way.pop() {
                tuns[to].send(&packet);
            }
        }
        let next = under_way.peek().map(|Reverse((due, ..))| due.saturating_duration_since(now));
        let wait = next.unwrap_or(Duration::from_millis(50)).min(Duration::from_millis(50));
        let wait = Timespec { tv_sec: 0, tv_nsec: wait.as_nanos() as i64 };
        let mut ready: Vec<PollFd<'_>> = tuns.iter().map(|tun| PollFd::new(*tun, PollFlags::IN)).collect();
        if poll(&mut ready, Some(&wait)).is_err() {
            continue;
        }
        let rules = weather.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let now = clock.now();
        for (tun, ready) in tuns.iter().zip(&ready) {
            if !ready.revents().contains(PollFlags::IN) {
                continue;
            }
            for _ in 0..IN_A_ROW {
                let Some(length) = tun.receive(&mut buffer) else { break };
                let packet = &buffer[..length];
                let Some((from, to)) = addresses(packet) else { continue };
                if let Some(way) = rules.fate(from, to, &mut rng).filter(|_| under_way.len() < UNDER_WAY) {
                    let to = at.get(&to).copied().unwrap_or(tuns.len() - 1);
                    count += 1;
                    under_way.push(Reverse((now + way, count, to, packet.to_vec())));
                }
            }
        }
    }
}
