//! The nodes, their network and their clock.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use gossip::clock::Clock;
use gossip::id::{NodeName, RegionName};
use gossip::keyring::Keyring;
use gossip::simulated::{Network, Node, NodePlan, Traffic};
use gossip::state::{ClusterView, MemberState};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::duties::{self, Backend, Duties};
use crate::log::Log;
use crate::weather::Weather;

/// How often conditions are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How often nodes say what their backends do, as the registry does.
const DUTIES_EVERY: Duration = Duration::from_secs(1);

/// A node's place; the process in it may be gone.
pub(crate) struct Place {
    pub(crate) name: NodeName,
    pub(crate) region: RegionName,
    pub(crate) addr: SocketAddr,
    seeds: Vec<SocketAddr>,
    node: Option<Arc<Mutex<Node>>>,
}

pub(crate) struct World {
    pub(crate) rng: StdRng,
    pub(crate) places: Vec<Place>,
    pub(crate) log: Log,
    pub(crate) backends: Vec<Backend>,
    clock: Clock,
    network: Network,
    weather: Arc<Mutex<Weather>>,
    keyring: Keyring,
    busy: bool,
}

impl World {
    /// So many places in so many regions; nobody is there yet. Each knows two seeds in the mesh, as told by `seeds` for its
    /// number and the nodes of a region.
    pub(crate) fn new(
        seed: u64,
        regions: usize,
        nodes_each: usize,
        clock: Clock,
        seeds: impl Fn(usize) -> Vec<usize>,
    ) -> Self {
        let weather = Arc::new(Mutex::new(Weather::default()));
        let (began, its_clock, its_weather) = (clock.now(), clock.clone(), weather.clone());
        let network = Network::start(clock.clone(), seed, move |from, to| {
            let age = its_clock.now() - began;
            its_weather.lock().unwrap_or_else(PoisonError::into_inner).way(from, to, age)
        });
        let addr = |at: usize| {
            SocketAddr::from(([10, (at / nodes_each) as u8, 0, (at % nodes_each) as u8 + 1], 7946))
        };
        let names: Vec<RegionName> =
            (0..regions).map(|region| format!("r{region}").parse().expect("a name")).collect();
        let place = |at: usize| {
            let region = names[at / nodes_each].clone();
            let name = format!("{region}-{}", at % nodes_each + 1).parse().expect("a name");
            let seeds = seeds(at).into_iter().map(addr).collect();
            Place { name, region, addr: addr(at), seeds, node: None }
        };
        Self {
            rng: StdRng::seed_from_u64(seed),
            places: (0..regions * nodes_each).map(place).collect(),
            log: Log::new(&clock),
            backends: duties::backends(1000, &names),
            clock,
            network,
            weather,
            keyring: Keyring::generate(),
            busy: false,
        }
    }

    /// Users come to all nodes that start from now on.
    pub(crate) fn make_busy(&mut self) {
        self.busy = true;
    }

    pub(crate) fn now(&self) -> Instant {
        self.clock.now()
    }

    pub(crate) async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    /// Starts a process at a place.
    pub(crate) async fn start(&mut self, at: usize) -> Result<(), String> {
        let place = &self.places[at];
        let plan = NodePlan {
            name: place.name.clone(),
            region: place.region.clone(),
            addr: place.addr,
            seeds: place.seeds.clone(),
            keyring: self.keyring.clone(),
        };
        let node = Node::start(plan, &self.network, &self.clock).await?;
        self.log.follow(place.name.clone(), &node);
        let node = Arc::new(Mutex::new(node));
        let rng = StdRng::seed_from_u64(self.rng.random());
        let mut duties = Duties::new(place.region.clone(), &self.backends, rng);
        let (weak, busy) = (Arc::downgrade(&node), self.busy);
        self.places[at].node = Some(node);
        tokio::spawn(async move {
            let mut due = tokio::time::interval(DUTIES_EVERY);
            loop {
                due.tick().await;
                let Some(node) = weak.upgrade() else { return };
                let mut node = node.lock().unwrap_or_else(PoisonError::into_inner);
                let reports = node.load_reports();
                duties.publish(&node, reports, busy);
            }
        });
        Ok(())
    }

    /// Starts everybody within two seconds, and waits until all see all alive. How long that took.
    pub(crate) async fn gather(&mut self) -> Result<Duration, String> {
        let began = self.now();
        let pause = Duration::from_secs(2) / self.places.len() as u32;
        for at in 0..self.places.len() {
            self.start(at).await?;
            self.pass(pause).await;
        }
        self.until("all see all alive", Duration::from_secs(60), World::is_whole).await?;
        Ok(self.now() - began)
    }

    /// Waits until something is so; how long that took, or that it took longer than `most`.
    pub(crate) async fn until(
        &self,
        what: &str,
        most: Duration,
        is: impl Fn(&World) -> bool,
    ) -> Result<Duration, String> {
        let began = self.now();
        while !is(self) {
            if self.now() - began > most {
                return Err(format!("after {most:?} it is not so that {what}"));
            }
            self.pass(LOOK_EVERY).await;
        }
        Ok(self.now() - began)
    }

    /// Whether all that run see all that run, alive, and nobody else so.
    pub(crate) fn is_whole(&self) -> bool {
        let running: BTreeSet<&NodeName> = self.running().map(|at| &self.places[at].name).collect();
        self.running().all(|at| {
            let view = self.view(at);
            let alive = view.members.values().filter(|member| member.state == MemberState::Alive);
            alive.map(|member| &member.record.name).eq(running.iter().copied())
        })
    }

    /// The places where a process runs.
    pub(crate) fn running(&self) -> impl Iterator<Item = usize> + '_ {
        self.places.iter().enumerate().filter(|(_, place)| place.node.is_some()).map(|(at, _)| at)
    }

    /// What the node there believes.
    pub(crate) fn view(&self, at: usize) -> Arc<ClusterView> {
        self.with(at, Node::view)
    }

    /// Has the node there do something.
    pub(crate) fn with<T>(&self, at: usize, does: impl FnOnce(&Node) -> T) -> T {
        let node = self.places[at].node.as_ref().expect("somebody runs there");
        does(&node.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// As SIGKILL.
    pub(crate) fn kill(&mut self, at: usize) {
        self.with(at, Node::kill);
        self.places[at].node = None;
    }

    pub(crate) fn change_weather(&self, change: impl FnOnce(&mut Weather)) {
        change(&mut self.weather.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// What the node there has sent and received in all its lives.
    pub(crate) fn traffic(&self, at: usize) -> (Traffic, Traffic) {
        self.network.traffic(self.places[at].addr)
    }
}
