//! Which sockets there are: what a revision wants against what is bound. Connections of listeners that stay are not
//! touched.
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;

use gossip::id::ListenerName;

use super::bind::{BindProblem, bind, is_possible, share};
use super::places::Places;
use super::thread::{Opened, Order};
use crate::config::model::{Listener, Services};

/// What is listened on, and what is not though it should be.
#[derive(Debug, Clone, Default)]
pub(super) struct Listening {
    pub(super) sockets: Vec<(ListenerName, SocketAddr)>,
    pub(super) problems: Vec<BindProblem>,
    pub(super) places: BTreeMap<ListenerName, Arc<Places>>,
    /// The sockets themselves, one a worker, by the address that the configuration asks for: for the next process.
    pub(super) kept: Vec<(SocketAddr, Arc<Vec<TcpListener>>)>,
}

struct Socket {
    listener: Arc<Listener>,
    bound: SocketAddr,
    kept: Arc<Vec<TcpListener>>,
}

/// Sockets of the process before, by the address that the configuration asks for.
pub type Inherited = BTreeMap<SocketAddr, Vec<TcpListener>>;

/// The sockets of all workers, by the address that the configuration asks for.
pub(super) struct Listeners {
    addresses: Vec<IpAddr>,
    workers: usize,
    sockets: BTreeMap<SocketAddr, Socket>,
    /// The places for connections, counted over all addresses and workers of a listener.
    places: BTreeMap<ListenerName, Arc<Places>>,
    problems: Vec<BindProblem>,
    inherited: Inherited,
}

impl Listeners {
    pub(super) fn new(addresses: Vec<IpAddr>, workers: usize, inherited: Inherited) -> Self {
        let (possible, not) = addresses.into_iter().partition(|ip| is_possible(*ip));
        let not: Vec<IpAddr> = not;
        if !not.is_empty() {
            tracing::warn!(addresses = ?not, "this machine has no IPv6; the proxy does without");
        }
        Self {
            addresses: possible,
            workers,
            sockets: BTreeMap::new(),
            places: BTreeMap::new(),
            problems: Vec::new(),
            inherited,
        }
    }

    /// Closes, keeps and opens sockets as the services want it. Returns each worker's orders, and what could not be bound.
    pub(super) fn follow(&mut self, services: &Services) -> (Vec<Vec<Order>>, Vec<BindProblem>) {
        let mut orders: Vec<Vec<Order>> = (0..self.workers).map(|_| Vec::new()).collect();
        let wanted = self.wanted(services);
        self.places.retain(|name, _| services.listeners.contains_key(name));
        self.sockets.retain(|addr, _| {
            let stays = wanted.contains_key(addr);
            if !stays {
                orders.iter_mut().for_each(|orders| orders.push(Order::Close(*addr)));
            }
            stays
        });
        self.problems.clear();
        for (addr, listener) in wanted {
            let places = self.places_of(&listener);
            if let Some(socket) = self.sockets.get_mut(&addr) {
                socket.listener = listener.clone();
                for orders in &mut orders {
                    orders.push(Order::Update(addr, listener.clone(), places.clone()));
                }
                continue;
            }
            match self.open(&listener.name, addr) {
                Ok((bound, sockets, kept)) => {
                    for (orders, socket) in orders.iter_mut().zip(sockets) {
                        let (listener, places) = (listener.clone(), places.clone());
                        orders.push(Order::Listen(Opened { addr, listener, places, socket }));
                    }
                    self.sockets.insert(addr, Socket { listener, bound, kept: Arc::new(kept) });
                }
                Err(problem) => self.problems.push(problem),
            }
        }
        // What nobody wants any more is closed.
        self.inherited.clear();
        (orders, self.problems.clone())
    }

    /// The sockets of all workers at an address, and copies of them: those of the process before, or new ones.
    fn open(
        &mut self,
        listener: &ListenerName,
        addr: SocketAddr,
    ) -> Result<(SocketAddr, Vec<TcpListener>, Vec<TcpListener>), BindProblem> {
        let problem =
            |error: std::io::Error| BindProblem { listener: listener.clone(), addr, kind: error.kind() };
        let (bound, sockets) = match self.inherited.remove(&addr) {
            Some(inherited) => share(addr, inherited, self.workers).map_err(problem)?,
            None => bind(listener, addr, self.workers)?,
        };
        let kept = sockets.iter().map(TcpListener::try_clone).collect::<Result<Vec<_>, _>>();
        Ok((bound, sockets, kept.map_err(problem)?))
    }

    pub(super) fn present(&self) -> Listening {
        let sockets = self.sockets.values().map(|socket| (socket.listener.name.clone(), socket.bound));
        let kept = self.sockets.iter().map(|(addr, socket)| (*addr, socket.kept.clone()));
        Listening {
            sockets: sockets.collect(),
            problems: self.problems.clone(),
            places: self.places.clone(),
            kept: kept.collect(),
        }
    }

    fn wanted(&self, services: &Services) -> BTreeMap<SocketAddr, Arc<Listener>> {
        let addresses = |port| self.addresses.iter().map(move |ip| SocketAddr::new(*ip, port));
        services
            .listeners
            .values()
            .flat_map(|listener| addresses(listener.port).map(|addr| (addr, listener.clone())))
            .collect()
    }

    fn places_of(&mut self, listener: &Listener) -> Arc<Places> {
        let fresh = || Arc::new(Places::new(listener));
        let places = self.places.entry(listener.name.clone()).or_insert_with(fresh);
        if !places.are_of(listener) {
            *places = fresh();
        }
        places.clone()
    }
}
