//! Why a region has nothing to offer for a service: no backend, none that is up, or an operator's order. Pure.

use gossip::state::BackendState;
use storage::intents::{Aspect, Intent, IntentMap, Order, Target};

use super::orders::rfc3339;
use crate::backend::{BackendView, Snapshot};

/// Why, in words that follow the region's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shortage {
    /// Orders alone are the reason.
    pub(super) ordered: bool,
    pub(super) words: String,
}

/// Why no backend of `service` in `region` takes new users.
pub(super) fn of(snapshot: &Snapshot, orders: &IntentMap, service: &str, region: &str) -> Shortage {
    let split = snapshot.services.services.get(service).map(|service| service.split.as_slice());
    let pools = split.unwrap_or_default().iter().filter_map(|(pool, _)| snapshot.pools.get(pool));
    let backends: Vec<(&BackendView, &crate::backend::PoolView)> = pools
        .flat_map(|pool| pool.backends.iter().map(move |backend| (backend, pool.as_ref())))
        .filter(|(backend, _)| backend.config.region.as_str() == region)
        .collect();
    let state = |target: Target| orders.get(&(target, Aspect::State));
    if let Some((backend, _)) = backends.first()
        && let Some(order) = state(Target::Region(backend.config.region.clone()))
    {
        return Shortage { ordered: true, words: format!("is {}", told(order)) };
    }
    let is_ordered = |backend: &BackendView| {
        backend.weight == 0 || matches!(backend.state, BackendState::Draining | BackendState::Maintenance)
    };
    let out = backends.iter().filter(|(backend, _)| !is_ordered(backend)).count();
    let words = match (backends.first(), out) {
        (None, _) => format!("has no backend of the service {service}"),
        (Some((backend, pool)), 0) => {
            let target = Target::Backend(pool.config.name.clone(), backend.config.address);
            let order = state(Target::Pool(pool.config.name.clone())).or_else(|| state(target));
            let order = order.map_or_else(|| "by an operator's order".into(), told);
            let all = if backends.len() == 1 { "one backend" } else { "backends" };
            format!("has only {all} of the service {service} that may take no new users: {order}")
        }
        (Some(_), out) => {
            let first = backends.iter().find(|(backend, _)| !is_ordered(backend));
            let first = first.map(|(backend, _)| {
                let reason = if backend.reason.is_empty() { "not up" } else { &backend.reason };
                format!("{}: {reason}", backend.config.address)
            });
            format!(
                "has no healthy backend of the service {service} ({out} of {} fail; {})",
                backends.len(),
                first.unwrap_or_default()
            )
        }
    };
    Shortage { ordered: !backends.is_empty() && out == 0, words }
}

fn told(intent: &Intent) -> String {
    let what = if intent.order == Order::Maintenance { "in maintenance" } else { "drained" };
    format!("{what} by order of {}, given on {}", rfc3339(intent.at.wall()), intent.by)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use gossip::clock::Hlc;

    use super::*;
    use crate::backend::PoolView;
    use crate::config::services;
    use crate::registry::fixture;

    /// Two backends of web in eu, in these states.
    fn snapshot(states: [BackendState; 2]) -> Snapshot {
        let text = "[listener.http]\nport = 80\nprotocol = \"http\"\n[service.web]\nsplit.p = 1\n[pool.p]\n\
            backend = [{ address = \"10.0.0.1:80\", region = \"eu\" }, { address = \"10.0.0.2:80\", region = \"eu\" }]\n";
        let services = services::parse("services.toml", text).unwrap().services;
        let config = services.pools["p"].clone();
        let backends = config.backends.iter().zip(states).map(|(config, state)| BackendView {
            config: config.clone(),
            shared: Arc::default(),
            state,
            up_since: Hlc::ZERO,
            joined: Hlc::ZERO,
            rack: Default::default(),
            weight: 100,
            reason: String::new(),
        });
        let pool = PoolView { backends: backends.collect(), queue: Arc::default(), config };
        let mut snapshot = Snapshot::empty(fixture::region("eu"));
        snapshot.pools.insert("p".parse().unwrap(), Arc::new(pool));
        snapshot.services = Arc::new(services);
        snapshot
    }

    fn ordered(target: Target, order: Order) -> IntentMap {
        let intent = Intent { order, at: Hlc::ZERO, by: "eu-1".parse().unwrap() };
        IntentMap::from([((target, Aspect::State), intent)])
    }

    #[test]
    fn an_order_is_told_from_a_failure() {
        use BackendState::{Down, Draining, Maintenance};
        let none = IntentMap::new();
        let failed = of(&snapshot([Down, Draining]), &none, "web", "eu");
        let expected = "has no healthy backend of the service web (1 of 2 fail; 10.0.0.1:80: not up)";
        assert_eq!(failed, Shortage { ordered: false, words: expected.into() });
        let missing = of(&snapshot([Down; 2]), &none, "web", "us");
        assert_eq!(missing, Shortage { ordered: false, words: "has no backend of the service web".into() });

        let drain = Order::Drain { deadline: None };
        let region = ordered(Target::Region(fixture::region("eu")), drain.clone());
        let drained = of(&snapshot([Draining; 2]), &region, "web", "eu");
        let expected = "is drained by order of 1970-01-01T00:00:00Z, given on eu-1";
        assert_eq!(drained, Shortage { ordered: true, words: expected.into() });
        let pool = ordered(Target::Pool("p".parse().unwrap()), drain);
        let drained = of(&snapshot([Draining; 2]), &pool, "web", "eu");
        assert!(drained.ordered && drained.words.ends_with("given on eu-1"), "{drained:?}");
        assert!(of(&snapshot([Maintenance, Draining]), &none, "web", "eu").ordered);
    }
}
