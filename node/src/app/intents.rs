//! Operators' orders, from the words they were given in to the ids that the registry works with. Pure.

use gossip::clock::Wall;
use gossip::id::BackendId;
use ipnet::IpNet;
use storage::intents::{IntentMap, Order, Target};

use crate::registry::Orders;
use crate::signing;

/// The orders in force at `now` (of the mesh's clock), and when a deadline next changes them. The ends of sessions are left
/// out: the store itself knows them.
pub(super) fn orders(map: &IntentMap, now: Wall) -> (Orders, Option<Wall>) {
    let (retired_keys, mut next) = signing::retired(map, now);
    let mut orders = Orders { retired_keys, ..Orders::default() };
    for ((target, _), intent) in map {
        let state = match &intent.order {
            Order::Drain { deadline: Some(deadline) } if *deadline > now => {
                next = Some(next.map_or(*deadline, |next| next.min(*deadline)));
                State::Drained
            }
            Order::Drain { deadline: None } => State::Drained,
            Order::Drain { deadline: Some(_) } => State::Emptied,
            Order::Maintenance => State::Maintenance,
            Order::Weight(weight) => {
                if let Target::Backend(pool, address) = target {
                    orders.weights.insert(BackendId::of(pool, *address), *weight);
                }
                continue;
            }
            Order::Split(shares) => {
                if let Target::Service(service) = target {
                    orders.splits.insert(service.clone(), shares.clone());
                }
                continue;
            }
            Order::Deny { until } => {
                let network = match target {
                    Target::Network(address, bits) => IpNet::new(*address, *bits).ok(),
                    _ => None,
                };
                if until.is_none_or(|until| until > now)
                    && let Some(network) = network
                {
                    next = [next, *until].into_iter().flatten().min();
                    orders.denied.insert(network);
                }
                continue;
            }
            Order::End { .. } => continue,
            // The keyring's keeper follows them.
            Order::InstallKey | Order::RemoveKey | Order::UseKey(_) => continue,
            Order::RetireZoneKey => continue,
        };
        lay(&mut orders, target, state);
    }
    (orders, next)
}

/// What is ordered of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Drained,
    /// The deadline of its drain has passed.
    Emptied,
    Maintenance,
}

/// Lays an order over a target. A node that is emptied differs in nothing from one that drains: it has no sessions of its own.
fn lay(orders: &mut Orders, target: &Target, state: State) {
    match target {
        Target::Node(name) => drop(orders.drained_nodes.insert(name.clone())),
        Target::Region(name) => {
            let regions = match state {
                State::Drained => &mut orders.drained_regions,
                State::Emptied => &mut orders.emptied_regions,
                State::Maintenance => &mut orders.maintenance_regions,
            };
            regions.insert(name.clone());
        }
        Target::Pool(name) => {
            let pools = match state {
                State::Drained => &mut orders.drained_pools,
                State::Emptied => &mut orders.emptied_pools,
                State::Maintenance => &mut orders.maintenance_pools,
            };
            pools.insert(name.clone());
        }
        Target::Backend(pool, address) => {
            let backends = match state {
                State::Drained => &mut orders.drained_backends,
                State::Emptied => &mut orders.emptied_backends,
                State::Maintenance => &mut orders.maintenance_backends,
            };
            backends.insert(BackendId::of(pool, *address));
        }
        Target::Service(_)
        | Target::Session(_)
        | Target::Network(..)
        | Target::Key(_)
        | Target::Mesh
        | Target::ZoneKey { .. } => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gossip::clock::Hlc;
    use gossip::id::{NodeName, PoolName};
    use storage::intents::Intent;

    #[test]
    fn orders_reach_whom_they_name() {
        let by = NodeName::new("eu-1").unwrap();
        let pool = PoolName::new("web").unwrap();
        let address = "10.0.0.1:80".parse().unwrap();
        let entry = |target: Target, order: Order| {
            ((target, order.aspect()), Intent { order, at: Hlc::ZERO, by: by.clone() })
        };
        let map: IntentMap = [
            entry(Target::Node(by.clone()), Order::Drain { deadline: None }),
            entry(Target::Backend(pool.clone(), address), Order::Maintenance),
            entry(Target::Backend(pool.clone(), address), Order::Weight(7)),
        ]
        .into();
        let (orders, next) = orders(&map, Wall(1000));
        assert_eq!(next, None);
        let id = BackendId::of(&pool, address);
        assert!(orders.drained_nodes.contains(&by));
        assert!(orders.maintenance_backends.contains(&id));
        assert_eq!(orders.weights.get(&id), Some(&7));
        assert!(orders.drained_backends.is_empty() && orders.emptied_backends.is_empty());
    }

    #[test]
    fn splits_and_denials_are_laid_over_services() {
        let by = NodeName::new("eu-1").unwrap();
        let pool = PoolName::new("web").unwrap();
        let service = gossip::id::ServiceName::new("shop").unwrap();
        let entry = |target: Target, order: Order| {
            ((target, order.aspect()), Intent { order, at: Hlc::ZERO, by: by.clone() })
        };
        let network = |last: u8| Target::Network([192, 0, 2, last].into(), 32);
        let map: IntentMap = [
            entry(Target::Service(service.clone()), Order::Split(vec![(pool.clone(), 3)])),
            entry(network(1), Order::Deny { until: Some(Wall(2000)) }),
            entry(network(2), Order::Deny { until: None }),
            entry(network(3), Order::Deny { until: Some(Wall(1000)) }),
        ]
        .into();
        let (orders, next) = orders(&map, Wall(1000));
        assert_eq!(orders.splits.get(&service), Some(&vec![(pool, 3)]));
        let denied: Vec<String> = orders.denied.iter().map(ToString::to_string).collect();
        assert_eq!((denied, next), (vec!["192.0.2.1/32".into(), "192.0.2.2/32".into()], Some(Wall(2000))));
    }

    #[test]
    fn a_drain_empties_when_its_deadline_passes() {
        let by = NodeName::new("eu-1").unwrap();
        let region = gossip::id::RegionName::new("eu").unwrap();
        let order = Order::Drain { deadline: Some(Wall(2000)) };
        let (pool, address) = (PoolName::new("web").unwrap(), "10.0.0.1:80".parse().unwrap());
        let targets = [Target::Region(region.clone()), Target::Backend(pool.clone(), address)];
        let intent = Intent { order: order.clone(), at: Hlc::ZERO, by };
        let map: IntentMap = targets.map(|target| ((target, order.aspect()), intent.clone())).into();

        let (before, next) = orders(&map, Wall(1999));
        assert!(before.drained_regions.contains(&region) && before.emptied_regions.is_empty());
        assert_eq!(next, Some(Wall(2000)));
        let (after, next) = orders(&map, Wall(2000));
        assert!(after.emptied_regions.contains(&region) && after.drained_regions.is_empty());
        assert!(after.emptied_backends.contains(&BackendId::of(&pool, address)));
        assert!(after.maintenance_backends.is_empty(), "nobody ordered that");
        assert_eq!(next, None);
    }
}
