//! What operators mean by a kind and a name, checked against what exists; and whether an order about it would leave
//! users without anybody. Pure but for the two snapshots that are read.

use std::collections::BTreeSet;

use gossip::id::{BackendId, PoolName};
use gossip::state::ClusterView;
use http::StatusCode;
use storage::intents::{Aspect, IntentMap, Target};

use super::orders;
use super::problem::{Refusal, problem};
use crate::backend::Snapshot;
use crate::config::nearest;

/// What an operator means by a kind and a name.
///
/// # Errors
/// 404 with what there is instead.
pub(super) fn targets(
    snapshot: &Snapshot,
    view: &ClusterView,
    kind: &str,
    name: &str,
) -> Result<Vec<Target>, Refusal> {
    let found: Vec<Target> = match kind {
        "node" => {
            view.members.get_key_value(name).map(|(name, _)| Target::Node(name.clone())).into_iter().collect()
        }
        "pool" => {
            let pool = snapshot.pools.get_key_value(name);
            pool.map(|(name, _)| Target::Pool(name.clone())).into_iter().collect()
        }
        "region" => {
            let of_backends =
                snapshot.pools.values().flat_map(|pool| &pool.backends).map(|b| &b.config.region);
            let of_nodes = view.members.values().map(|member| &member.record.region);
            let region = of_backends.chain(of_nodes).find(|region| region.as_str() == name);
            region.cloned().map(Target::Region).into_iter().collect()
        }
        "backend" => backends(snapshot, name),
        _ => {
            let detail = "what can be drained is a node, backend, region or pool";
            return Err(problem(StatusCode::NOT_FOUND, detail));
        }
    };
    if found.is_empty() {
        let known: Vec<&str> = match kind {
            "node" => view.members.keys().map(|name| name.as_str()).collect(),
            "pool" => snapshot.pools.keys().map(|name| name.as_str()).collect(),
            "region" => view.members.values().map(|member| member.record.region.as_str()).collect(),
            _ => Vec::new(),
        };
        let there_are =
            if kind == "backend" { backends_like(snapshot, name) } else { there_are(name, known) };
        return Err(problem(StatusCode::NOT_FOUND, format!("there is no {kind} {name:?}{there_are}")));
    }
    Ok(found)
}

/// What orders of that aspect stand about, by the names that people see them under: what they are about need not exist any more.
pub(super) fn ordered(orders: &IntentMap, aspect: Aspect, kind: &str, name: &str) -> Vec<Target> {
    let named = |target: &Target| {
        let (of_kind, of_name) = orders::spell_target(target);
        let alone = of_name.rsplit('/').next().filter(|_| kind == "backend");
        of_kind == kind && (of_name == name || alone == Some(name))
    };
    let standing = orders.keys().filter(|(_, of)| *of == aspect).map(|(target, _)| target);
    standing.filter(|target| named(target)).cloned().collect()
}

/// What may have been meant, else what there is, as far as it can be read at a glance.
pub(super) fn there_are(wanted: &str, known: Vec<&str>) -> String {
    let known = BTreeSet::from_iter(known);
    let meant = nearest(wanted, known.iter().copied()).map(|meant| format!("; did you mean {meant}?"));
    let all = match (known.len(), &meant) {
        (1..=12, None) => format!("; there is {}", Vec::from_iter(known).join(", ")),
        (1..=12, Some(_)) => format!(" There is {}", Vec::from_iter(known).join(", ")),
        _ => String::new(),
    };
    meant.unwrap_or_default() + &all
}

/// What may have been meant by the name of a backend, in the words that it was written with.
pub(super) fn backends_like(snapshot: &Snapshot, wanted: &str) -> String {
    let all = snapshot.pools.iter().flat_map(|(name, pool)| {
        pool.backends.iter().map(move |backend| match wanted.contains('/') {
            true => format!("{name}/{}", backend.config.address),
            false => backend.config.address.to_string(),
        })
    });
    let all: Vec<String> = all.collect();
    let told = there_are(wanted, all.iter().map(String::as_str).collect());
    if told.is_empty() { "; 'meridian pools' lists them".to_owned() } else { told }
}

/// The backends that an `ADDRESS` or `POOL/ADDRESS` names.
pub(super) fn backends(snapshot: &Snapshot, name: &str) -> Vec<Target> {
    let (pool, address) = match name.split_once('/') {
        Some((pool, address)) => (Some(pool), address),
        None => (None, name),
    };
    let pools = snapshot.pools.iter().filter(|(name, _)| pool.is_none_or(|pool| name.as_str() == pool));
    pools
        .flat_map(|(name, pool)| pool.backends.iter().map(move |backend| (name, backend.config.address)))
        .filter(|(_, of)| of.to_string() == address)
        .map(|(name, of)| Target::Backend(name.clone(), of))
        .collect()
}

/// Who would be left without anybody if these took nothing new: what an operator must say `force` for. What takes
/// nothing new already changes nothing.
pub(super) fn last_of(snapshot: &Snapshot, view: &ClusterView, targets: &[Target]) -> Option<String> {
    let mut out: BTreeSet<BackendId> = BTreeSet::new();
    for target in targets {
        match target {
            Target::Node(name) => {
                let takes = |name| view.members.get(name).is_some_and(|member| member.is_alive());
                let others = view.members.keys().any(|other| other != name && takes(other));
                if takes(name) && !others {
                    return Some(format!("node {name} is the last one that takes new users"));
                }
            }
            Target::Backend(pool, address) => {
                out.insert(BackendId::of(pool, *address));
            }
            Target::Pool(name) => {
                out.extend(
                    snapshot.pools.get(name).into_iter().flat_map(|pool| &pool.backends).map(|b| b.config.id),
                );
            }
            Target::Region(name) => {
                let all = snapshot.pools.values().flat_map(|pool| &pool.backends);
                out.extend(all.filter(|b| b.config.region == *name).map(|b| b.config.id));
            }
            _ => {}
        }
    }
    let left = |pool: &PoolName| {
        let backends = snapshot.pools.get(pool).into_iter().flat_map(|pool| &pool.backends);
        let taking: Vec<_> = backends.filter(|backend| backend.takes_new()).collect();
        let remaining = taking.iter().filter(|backend| !out.contains(&backend.config.id)).count();
        (taking.len(), remaining)
    };
    // A pool may go when another one of the same service takes its users; a service without any may not.
    for service in snapshot.services.services.values() {
        let shares = service.split.iter().filter(|(_, share)| *share > 0).map(|(pool, _)| left(pool));
        let (before, after) = shares.fold((0, 0), |sum, of| (sum.0 + of.0, sum.1 + of.1));
        if before > 0 && after == 0 {
            let names: Vec<&str> = service.split.iter().map(|(pool, _)| pool.as_str()).collect();
            return Some(format!(
                "no other backend would take new users of service {} (pool {})",
                service.name,
                names.join(", ")
            ));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::fixture;
    use crate::registry::fixture::{member, view as registry_view};

    fn mesh() -> ClusterView {
        registry_view("eu-1", vec![member("eu-1", "eu"), member("us-1", "us")])
    }

    fn address(port: u16) -> std::net::SocketAddr {
        ([10, 0, 0, 1], port).into()
    }

    fn snapshot() -> Snapshot {
        let web = fixture::service("web", &[("v1", 3), ("v2", 1)]);
        let chat = fixture::service("chat", &[("v3", 1)]);
        let pools = vec![
            fixture::pool("v1", &[(address(1), "eu"), (address(2), "us")]),
            fixture::pool("v2", &[(address(3), "eu")]),
            fixture::pool("v3", &[(address(4), "eu")]),
        ];
        fixture::snapshot("eu", Vec::new(), vec![web, chat], pools)
    }

    #[test]
    fn the_last_that_takes_users_is_seen() {
        let (snapshot, view) = (snapshot(), mesh());
        let last = |kind, name| {
            let targets = targets(&snapshot, &view, kind, name).unwrap();
            last_of(&snapshot, &view, &targets)
        };
        assert_eq!(last("backend", "v1/10.0.0.1:1"), None);
        assert_eq!(last("pool", "v1"), None, "v2 takes them");
        assert!(last("backend", "10.0.0.1:4").is_some_and(|why| why.contains("chat")));
        assert!(last("pool", "v3").is_some());
        assert!(last("region", "eu").is_some_and(|why| why.contains("chat")));
        assert_eq!(last("region", "us"), None);
        assert_eq!(last("node", "us-1"), None);
        let alone = targets(&snapshot, &view, "node", "eu-1").unwrap();
        let view = registry_view("eu-1", vec![member("eu-1", "eu")]);
        assert!(last_of(&snapshot, &view, &alone).is_some_and(|why| why.contains("last")));
    }

    #[test]
    fn a_bare_address_means_it_in_every_pool() {
        let pools = ["v1", "v2"].map(|name| fixture::pool(name, &[(address(1), "eu")]));
        let web = fixture::service("web", &[("v1", 1), ("v2", 1)]);
        let (snapshot, view) = (fixture::snapshot("eu", Vec::new(), vec![web], pools.into()), mesh());
        let backend = |pool: &str| Target::Backend(PoolName::new(pool).unwrap(), address(1));
        let of = |name| targets(&snapshot, &view, "backend", name).unwrap();
        assert_eq!(of("10.0.0.1:1"), [backend("v1"), backend("v2")]);
        assert_eq!(of("v2/10.0.0.1:1"), [backend("v2")]);
        assert!(last_of(&snapshot, &view, &of("10.0.0.1:1")).is_some(), "each is the other's only one");
        assert_eq!(last_of(&snapshot, &view, &of("v2/10.0.0.1:1")), None);
    }

    #[test]
    fn an_order_is_found_though_what_it_is_about_is_gone() {
        use storage::intents::{Intent, Order};
        let order = |target: Target, order: Order| {
            let (at, by) = (gossip::clock::Hlc::ZERO, gossip::id::NodeName::new("eu-1").unwrap());
            ((target, order.aspect()), Intent { order, at, by })
        };
        let pool = Target::Pool(PoolName::new("gone").unwrap());
        let backend = |port| Target::Backend(PoolName::new("v9").unwrap(), address(port));
        let orders: IntentMap = [
            order(pool.clone(), Order::Maintenance),
            order(backend(1), Order::Drain { deadline: None }),
            order(backend(1), Order::Weight(7)),
            order(backend(2), Order::Weight(7)),
        ]
        .into();
        assert!(targets(&snapshot(), &mesh(), "pool", "gone").is_err());
        assert_eq!(ordered(&orders, Aspect::State, "pool", "gone"), [pool]);
        for name in ["v9/10.0.0.1:1", "10.0.0.1:1"] {
            assert_eq!(ordered(&orders, Aspect::State, "backend", name), [backend(1)]);
        }
        assert_eq!(ordered(&orders, Aspect::Weight, "backend", "v9/10.0.0.1:2"), [backend(2)]);
        for (kind, name) in
            [("region", "gone"), ("pool", "v9"), ("backend", "v8/10.0.0.1:1"), ("backend", "")]
        {
            assert_eq!(ordered(&orders, Aspect::State, kind, name), []);
        }
    }

    #[test]
    fn what_does_not_exist_is_named_with_what_does() {
        let refused = |name| format!("{:?}", targets(&snapshot(), &mesh(), "pool", name).unwrap_err());
        assert!(refused("elsewhere").contains("there is v1, v2, v3"));
        assert!(refused("V2").contains("did you mean v2?"));
        let refused = |name| format!("{:?}", targets(&snapshot(), &mesh(), "backend", name).unwrap_err());
        assert!(refused("10.0.0.9:1").contains("10.0.0.1:4"), "{}", refused("10.0.0.9:1"));
        assert!(refused("v3/10.0.0.1:5").contains("did you mean v3/10.0.0.1:4?"));
        assert!(targets(&snapshot(), &mesh(), "sofa", "x").is_err());
    }
}
