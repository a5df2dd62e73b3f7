//! Operators' orders, from the words they were given in to the ids that the registry works with. Pure.

use gossip::clock::Wall;
use gossip::id::BackendId;
use storage::intents::{IntentMap, Order, Target};

use crate::registry::Orders;

/// The orders in force at `now` (of the mesh's clock), and when a deadline next changes them. Orders about services
/// belong to the splits of a later room and are left out, and the ends of sessions are known to the store itself.
pub(super) fn orders(map: &IntentMap, now: Wall) -> (Orders, Option<Wall>) {
    let mut orders = Orders::default();
    let mut next: Option<Wall> = None;
    for ((target, _), intent) in map {
        let drained = match &intent.order {
            Order::Drain { deadline: Some(deadline) } if *deadline > now => {
                next = Some(next.map_or(*deadline, |next| next.min(*deadline)));
                true
            }
            Order::Drain { deadline } => deadline.is_none(),
            Order::Maintenance => false,
            Order::Weight(weight) => {
                if let Target::Backend(pool, address) = target {
                    orders.weights.insert(BackendId::of(pool, *address), *weight);
                }
                continue;
            }
            Order::Split(_) | Order::End { .. } => continue,
            // The keyring's keeper follows them.
            Order::InstallKey | Order::RemoveKey | Order::UseKey(_) => continue,
        };
        lay(&mut orders, target, drained);
    }
    (orders, next)
}

/// Drains a target, or, when its deadline has passed or maintenance is ordered, empties it. A node that is emptied
/// differs in nothing from one that drains: it has no sessions of its own.
fn lay(orders: &mut Orders, target: &Target, drained: bool) {
    match (target, drained) {
        (Target::Node(name), _) => drop(orders.drained_nodes.insert(name.clone())),
        (Target::Region(name), true) => drop(orders.drained_regions.insert(name.clone())),
        (Target::Region(name), false) => drop(orders.emptied_regions.insert(name.clone())),
        (Target::Pool(name), true) => drop(orders.drained_pools.insert(name.clone())),
        (Target::Pool(name), false) => drop(orders.emptied_pools.insert(name.clone())),
        (Target::Backend(pool, address), true) => {
            orders.drained_backends.insert(BackendId::of(pool, *address));
        }
        (Target::Backend(pool, address), false) => {
            orders.maintenance_backends.insert(BackendId::of(pool, *address));
        }
        (Target::Service(_) | Target::Session(_) | Target::Key(_) | Target::Mesh, _) => {}
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
        assert!(orders.drained_backends.is_empty());
    }

    #[test]
    fn a_drain_empties_when_its_deadline_passes() {
        let by = NodeName::new("eu-1").unwrap();
        let region = gossip::id::RegionName::new("eu").unwrap();
        let order = Order::Drain { deadline: Some(Wall(2000)) };
        let key = (Target::Region(region.clone()), order.aspect());
        let map: IntentMap = [(key, Intent { order, at: Hlc::ZERO, by })].into();

        let (before, next) = orders(&map, Wall(1999));
        assert!(before.drained_regions.contains(&region) && before.emptied_regions.is_empty());
        assert_eq!(next, Some(Wall(2000)));
        let (after, next) = orders(&map, Wall(2000));
        assert!(after.emptied_regions.contains(&region) && after.drained_regions.is_empty());
        assert_eq!(next, None);
    }
}
