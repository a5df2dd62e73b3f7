//! The places for connections that a listener has on this node, over all its sockets and workers: so many in all, and so
//! many for one client.
//!
//! Who finds no place in all waits in the system's queue; who has all that one client may is shown out, or it would stand in
//! the way of the others. Clients are counted in two rows of a fixed table that workers share without a lock; the smaller of
//! a client's two counts is never too small, and too great only where others meet it in both rows (a count-min sketch,
//! Cormode and Muthukrishnan, 2005). With 10,000 clients of one connection each that happens to none of them in a hundred runs.
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::forwarded;
use crate::config::model::Listener;

/// Counters in a row.
const ROW: usize = 1 << 15;

/// The places of one listener.
#[derive(Debug)]
pub(super) struct Places {
    most: usize,
    most_per_client: Option<u32>,
    all: Arc<Semaphore>,
    clients: Option<Clients>,
}

impl Places {
    /// As the listener wants them.
    pub(super) fn new(listener: &Listener) -> Self {
        let most = listener.max_connections.min(Semaphore::MAX_PERMITS);
        let most_per_client = listener.max_connections_per_client;
        let clients = most_per_client.map(|_| Clients::default());
        Self { most, most_per_client, all: Arc::new(Semaphore::new(most)), clients }
    }

    /// Whether the listener still wants the same.
    pub(super) fn are_of(&self, listener: &Listener) -> bool {
        self.most == listener.max_connections.min(Semaphore::MAX_PERMITS)
            && self.most_per_client == listener.max_connections_per_client
    }

    /// How many are taken, and how many there are.
    pub(super) fn taken(&self) -> (usize, usize) {
        (self.most.saturating_sub(self.all.available_permits()), self.most)
    }

    /// A place among all, if there is one now.
    pub(super) fn try_take(&self) -> Option<OwnedSemaphorePermit> {
        self.all.clone().try_acquire_owned().ok()
    }

    /// A place among all, when there is one.
    pub(super) async fn take(&self) -> Option<OwnedSemaphorePermit> {
        self.all.clone().acquire_owned().await.ok()
    }

    /// A place of a client's own. Balancers in front speak for many clients, so those that are trusted are not counted.
    /// `Err`: it has as many as it may.
    pub(super) fn of_client(self: &Arc<Self>, listener: &Listener, client: IpAddr) -> Result<Place, Full> {
        let (Some(clients), Some(most)) = (&self.clients, self.most_per_client) else {
            return Ok(Place(None));
        };
        let client = forwarded::plain(client);
        if forwarded::holds(&listener.trusted_proxies, client) {
            return Ok(Place(None));
        }
        let at = clients.slots(client);
        match clients.enter(at, most) {
            true => Ok(Place(Some((self.clone(), at)))),
            false => Err(Full),
        }
    }
}

/// A client has as many connections as it may.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

/// A client's place; dropping it gives it back.
#[derive(Debug)]
pub(super) struct Place(Option<(Arc<Places>, Slots)>);

impl Drop for Place {
    fn drop(&mut self) {
        if let Some((places, at)) = self.0.take()
            && let Some(clients) = &places.clients
        {
            clients.leave(at);
        }
    }
}

/// Where a client is counted, in either row.
type Slots = [usize; 2];

#[derive(Debug)]
struct Clients {
    /// Spreads clients in a way they cannot foresee.
    hasher: RandomState,
    rows: [Box<[AtomicU32]>; 2],
}

impl Default for Clients {
    fn default() -> Self {
        let row = || std::iter::repeat_with(AtomicU32::default).take(ROW).collect();
        Self { hasher: RandomState::new(), rows: [row(), row()] }
    }
}

impl Clients {
    fn slots(&self, client: IpAddr) -> Slots {
        let hash = match client {
            IpAddr::V4(client) => self.hasher.hash_one(client.to_bits()),
            // One customer has a /64 at least and picks addresses in it at will (RFC 8981).
            IpAddr::V6(client) => self.hasher.hash_one((client.to_bits() >> 64) as u64),
        };
        [hash as usize % ROW, (hash >> 32) as usize % ROW]
    }

    fn enter(&self, at: Slots, most: u32) -> bool {
        let counted = [0, 1].map(|row| self.rows[row][at[row]].fetch_add(1, Ordering::Relaxed));
        let fits = counted.into_iter().min().is_some_and(|least| least < most);
        if !fits {
            self.leave(at);
        }
        fits
    }

    fn leave(&self, at: Slots) {
        for row in [0, 1] {
            self.rows[row][at[row]].fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::proxy::fixture;

    fn places(most: u32) -> (Arc<Places>, Listener) {
        let mut listener = fixture::http_listener("web", 80);
        listener.max_connections_per_client = Some(most);
        listener.trusted_proxies = vec!["192.0.2.0/24".parse().unwrap()];
        (Arc::new(Places::new(&listener)), listener)
    }

    fn client(n: u32) -> IpAddr {
        std::net::Ipv4Addr::from(0x0a00_0000 + n).into()
    }

    #[test]
    fn each_client_has_so_many_and_gets_back_what_it_gives_up() {
        let (places, listener) = places(3);
        let mut held: Vec<_> = (0..3).map(|_| places.of_client(&listener, client(1)).unwrap()).collect();
        assert_eq!(places.of_client(&listener, client(1)).unwrap_err(), Full);
        assert!(places.of_client(&listener, client(2)).is_ok());
        held.pop();
        let again = places.of_client(&listener, client(1));
        assert!(again.is_ok() && places.of_client(&listener, client(1)).is_err());
        let mapped = "::ffff:10.0.0.1".parse().unwrap();
        assert!(places.of_client(&listener, mapped).is_err(), "the same client");
    }

    #[test]
    fn a_network_of_ipv6_is_one_client_and_a_trusted_proxy_none() {
        let (places, listener) = places(2);
        let who = |last: u16| IpAddr::from([0x2001, 0xdb8, 0, 7, 0, 0, 0, last]);
        let held: Vec<_> = (0..2).map(|last| places.of_client(&listener, who(last))).collect();
        assert!(held.iter().all(Result::is_ok) && places.of_client(&listener, who(9)).is_err());
        let proxy = "192.0.2.7".parse().unwrap();
        let held: Vec<_> = (0..100).map(|_| places.of_client(&listener, proxy)).collect();
        assert!(held.iter().all(Result::is_ok));
    }

    #[test]
    fn many_clients_do_not_meet() {
        let (places, listener) = places(4);
        let held: Vec<_> = (0..10_000).map(|n| places.of_client(&listener, client(n))).collect();
        assert!(held.iter().all(Result::is_ok));
    }

    #[test]
    fn workers_together_let_no_more_in() {
        let (places, listener) = places(100);
        let held: usize = std::thread::scope(|scope| {
            let take = || {
                let held: Vec<_> =
                    (0..100).filter_map(|_| places.of_client(&listener, client(1)).ok()).collect();
                let count = held.len();
                std::mem::forget(held);
                count
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        // Two that try for the last place at once may both find it taken.
        assert!((97..=100).contains(&held), "{held}");
    }

    proptest! {
        #[test]
        fn nothing_is_lost_however_they_come_and_go(steps in prop::collection::vec((0u32..4, any::<bool>()), 0..200)) {
            let (places, listener) = places(5);
            let mut held: Vec<(u32, Place)> = Vec::new();
            for (who, comes) in steps {
                let has = held.iter().filter(|(own, _)| *own == who).count();
                if comes {
                    let place = places.of_client(&listener, client(who));
                    prop_assert_eq!(place.is_ok(), has < 5);
                    held.extend(place.ok().map(|place| (who, place)));
                } else if let Some(at) = held.iter().position(|(own, _)| *own == who) {
                    held.swap_remove(at);
                }
            }
            drop(held);
            let clients = places.clients.as_ref().unwrap();
            let left = clients.rows.iter().flatten().map(|count| count.load(Ordering::Relaxed)).sum::<u32>();
            prop_assert_eq!(left, 0);
        }
    }
}
