//! Which connections are held, and which one gives way when there is no room (RFC 7766 §6.1 and §6.2).
//!
//! ```text
//!   arrive ─▶ client full? network full? all full? ─▶ the one of them that has been idle longest gives way
//!                                                     nobody idles: one that has been at one message for a second
//!                                                     nobody either: refused
//! ```
//!
//! So whoever holds connections without asking keeps out nobody, not even from as many addresses as there are places: who
//! comes takes the place of who does nothing. Pure: it knows numbers, addresses and moments, and closes nothing itself.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use crate::server::TcpLimits;

/// One that has been at the same message for so long may be closed when there is no room, as an idle one may.
const STALLED: Duration = Duration::from_secs(1);

/// The connections of one listener.
#[derive(Debug)]
pub(crate) struct Connections {
    limits: TcpLimits,
    held: HashMap<u64, Held>,
    /// How many each client and each network holds; no longer than there are connections.
    clients: HashMap<IpAddr, usize>,
    networks: HashMap<IpAddr, usize>,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    client: IpAddr,
    network: IpAddr,
    /// Since when it does what it does.
    since: Instant,
    /// Whether a message is on its way.
    works: bool,
}

/// What becomes of one who comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    /// There is room.
    Admitted,
    /// There is room now that this one has gone, which is to be closed.
    InPlaceOf(u64),
    /// There is none.
    Refused,
}

impl Connections {
    pub(crate) fn new(limits: TcpLimits) -> Self {
        Self { limits, held: HashMap::new(), clients: HashMap::new(), networks: HashMap::new() }
    }

    /// Somebody comes. `id` was never used before.
    pub(crate) fn arrive(&mut self, id: u64, from: IpAddr, now: Instant) -> Admission {
        let (client, network) = (client_of(from), network_of(from));
        let count = |of: &HashMap<IpAddr, usize>, who: &IpAddr| of.get(who).copied().unwrap_or(0);
        let victim = if count(&self.clients, &client) >= self.limits.per_client {
            self.victim(now, |held| held.client == client)
        } else if count(&self.networks, &network) >= self.limits.per_network {
            self.victim(now, |held| held.network == network)
        } else if self.held.len() >= self.limits.connections {
            self.victim(now, |_| true)
        } else {
            self.hold(id, Held { client, network, since: now, works: false });
            return Admission::Admitted;
        };
        let Some(victim) = victim else { return Admission::Refused };
        self.leave(victim);
        self.hold(id, Held { client, network, since: now, works: false });
        Admission::InPlaceOf(victim)
    }

    /// A message is on its way, or a further one of the same answer is.
    pub(crate) fn work(&mut self, id: u64, now: Instant) {
        self.turn(id, true, now);
    }

    /// The answer is sent.
    pub(crate) fn rest(&mut self, id: u64, now: Instant) {
        self.turn(id, false, now);
    }

    /// It is gone. Nothing to do when it had to give way before.
    pub(crate) fn leave(&mut self, id: u64) {
        let Some(held) = self.held.remove(&id) else { return };
        for (counts, who) in [(&mut self.clients, held.client), (&mut self.networks, held.network)] {
            if let Some(count) = counts.get_mut(&who) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(&who);
                }
            }
        }
    }

    /// How long one may ask nothing, now: less and less once more than half of the places are taken, down to a tenth
    /// (RFC 7766 §6.2.3).
    pub(crate) fn idle(&self) -> Duration {
        let (all, idle) = (self.limits.connections, self.limits.idle);
        let (free, half) = (all.saturating_sub(self.held.len()), all.div_ceil(2));
        if free >= half { idle } else { (idle * free as u32 / half as u32).max(idle / 10) }
    }

    fn turn(&mut self, id: u64, works: bool, now: Instant) {
        if let Some(held) = self.held.get_mut(&id) {
            (held.works, held.since) = (works, now);
        }
    }

    fn hold(&mut self, id: u64, held: Held) {
        *self.clients.entry(held.client).or_default() += 1;
        *self.networks.entry(held.network).or_default() += 1;
        self.held.insert(id, held);
    }

    /// Of some, the one that has been idle longest; else the one that has stalled longest.
    fn victim(&self, now: Instant, of: impl Fn(&Held) -> bool) -> Option<u64> {
        let may_go = |held: &Held| !held.works || now.saturating_duration_since(held.since) >= STALLED;
        let candidates = self.held.iter().filter(|(_, held)| of(held) && may_go(held));
        candidates.min_by_key(|(id, held)| (held.works, held.since, **id)).map(|(id, _)| *id)
    }
}

/// What counts as one client: an IPv4 address, or the /64 that one IPv6 host commonly has.
fn client_of(address: IpAddr) -> IpAddr {
    masked(address, 32, 64)
}

/// What counts as one network: an IPv4 /24, or the /56 that one IPv6 customer commonly has.
fn network_of(address: IpAddr) -> IpAddr {
    masked(address, 24, 56)
}

fn masked(address: IpAddr, v4: u32, v6: u32) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => Ipv4Addr::from_bits(address.to_bits() & u32::MAX << (32 - v4)).into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & u128::MAX << (128 - v6)).into(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::fixtures::start;

    fn limits(connections: usize, per_client: usize, per_network: usize) -> TcpLimits {
        TcpLimits { connections, per_client, per_network, ..TcpLimits::default() }
    }

    #[test]
    fn clients_and_networks_have_their_sizes() {
        for (address, client, network) in [
            ("192.0.2.77", "192.0.2.77", "192.0.2.0"),
            ("::ffff:192.0.2.77", "192.0.2.77", "192.0.2.0"),
            ("2001:db8:1:2345:6::7", "2001:db8:1:2345::", "2001:db8:1:2300::"),
        ] {
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(client_of(address).to_string(), client);
            assert_eq!(network_of(address).to_string(), network);
        }
    }

    #[test]
    fn who_holds_all_places_keeps_nobody_out() {
        let (mut table, now) = (Connections::new(TcpLimits::default()), start().monotonic);
        let full = TcpLimits::default().connections as u64;
        for id in 0..full {
            let from = [10, (id / 256) as u8, (id % 256) as u8, 1].into();
            assert_eq!(table.arrive(id, from, now + Duration::from_millis(id)), Admission::Admitted);
        }
        let later = now + Duration::from_secs(2);
        let arrive = |table: &mut Connections, id: u64| table.arrive(id, [192, 0, 2, id as u8].into(), later);
        assert_eq!(arrive(&mut table, full), Admission::InPlaceOf(0));
        // Who asks is the last to go.
        table.work(1, later);
        table.rest(1, later);
        assert_eq!(arrive(&mut table, full + 1), Admission::InPlaceOf(2));
        // One that is in the middle of a message gives way to none, unless it does not get on with it.
        (3..full).for_each(|id| table.work(id, later));
        assert_eq!(arrive(&mut table, full + 2), Admission::InPlaceOf(1));
        [full, full + 1, full + 2].into_iter().for_each(|id| table.work(id, later));
        assert_eq!(arrive(&mut table, full + 3), Admission::Refused);
        let stalled = later + STALLED;
        assert_eq!(table.arrive(full + 4, [192, 0, 2, 9].into(), stalled), Admission::InPlaceOf(3));
    }

    #[test]
    fn the_fuller_the_less_patient() {
        let (mut table, now) = (Connections::new(limits(100, 100, 100)), start().monotonic);
        let mut idle = vec![table.idle()];
        for id in 0..100u8 {
            table.arrive(id.into(), [10, id, 0, 1].into(), now);
            idle.push(table.idle());
        }
        assert!(idle.windows(2).all(|pair| pair[0] >= pair[1]));
        assert_eq!([idle[0], idle[50], idle[75], idle[100]].map(|idle| idle.as_secs()), [10, 10, 5, 1]);
    }

    #[derive(Debug, Clone)]
    enum Event {
        Arrive(u8, u8),
        Work(prop::sample::Index),
        Rest(prop::sample::Index),
        Leave(prop::sample::Index),
        Pass(u64),
    }

    fn any_event() -> impl Strategy<Value = Event> {
        let index = any::<prop::sample::Index>;
        prop_oneof![
            4 => (0u8..3, 0u8..4).prop_map(|(network, host)| Event::Arrive(network, host)),
            2 => index().prop_map(Event::Work),
            2 => index().prop_map(Event::Rest),
            1 => index().prop_map(Event::Leave),
            2 => (0u64..700).prop_map(Event::Pass),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        /// Against a plain list: no bound is ever exceeded, and who gives way is who it should be.
        #[test]
        fn nobody_has_more_than_allowed(
            events in prop::collection::vec(any_event(), 0..120), all in 1usize..8, client in 1usize..4, network in 1usize..6,
        ) {
            let mut table = Connections::new(limits(all, client, network));
            // By number: client, since when, at work.
            let mut model: BTreeMap<u64, ((u8, u8), Instant, bool)> = BTreeMap::new();
            let (mut now, mut next) = (start().monotonic, 0);
            for event in events {
                let pick = |index: prop::sample::Index| {
                    (!model.is_empty()).then(|| *model.keys().nth(index.index(model.len())).unwrap())
                };
                match event {
                    Event::Pass(millis) => now += Duration::from_millis(millis),
                    Event::Work(index) => if let Some(id) = pick(index) {
                        table.work(id, now);
                        let entry = model.get_mut(&id).unwrap();
                        (entry.1, entry.2) = (now, true);
                    },
                    Event::Rest(index) => if let Some(id) = pick(index) {
                        table.rest(id, now);
                        let entry = model.get_mut(&id).unwrap();
                        (entry.1, entry.2) = (now, false);
                    },
                    Event::Leave(index) => if let Some(id) = pick(index) {
                        table.leave(id);
                        table.leave(id);
                        model.remove(&id);
                    },
                    Event::Arrive(net, host) => {
                        let mine = |who: &(u8, u8)| *who == (net, host);
                        let near = |who: &(u8, u8)| who.0 == net;
                        let count = |of: &dyn Fn(&(u8, u8)) -> bool| model.values().filter(|held| of(&held.0)).count();
                        let crowd: Option<&dyn Fn(&(u8, u8)) -> bool> = if count(&mine) >= client {
                            Some(&mine)
                        } else if count(&near) >= network {
                            Some(&near)
                        } else if model.len() >= all {
                            Some(&|_| true)
                        } else {
                            None
                        };
                        let idle = |works: bool| {
                            let crowd = crowd.unwrap_or(&|_| false);
                            let of = model.iter().filter(|(_, held)| crowd(&held.0) && held.2 == works);
                            let of = of.filter(|(_, held)| !works || now - held.1 >= STALLED);
                            of.min_by_key(|(id, held)| (held.1, **id)).map(|(id, _)| *id)
                        };
                        let expected = match (crowd, idle(false).or(idle(true))) {
                            (None, _) => Admission::Admitted,
                            (_, Some(victim)) => Admission::InPlaceOf(victim),
                            _ => Admission::Refused,
                        };
                        prop_assert_eq!(table.arrive(next, [10, 0, net, host].into(), now), expected);
                        if let Admission::InPlaceOf(victim) = expected {
                            model.remove(&victim);
                        }
                        if expected != Admission::Refused {
                            model.insert(next, ((net, host), now, false));
                        }
                        next += 1;
                    }
                }
                prop_assert!(table.held.len() == model.len() && model.len() <= all);
                prop_assert!(table.clients.values().all(|count| *count <= client));
                prop_assert!(table.networks.values().all(|count| *count <= network));
                prop_assert_eq!(table.clients.values().sum::<usize>(), model.len());
                prop_assert_eq!(table.networks.values().sum::<usize>(), model.len());
            }
        }
    }
}
