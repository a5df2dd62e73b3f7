//! Operators' orders about services, laid over what the file says of them. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gossip::id::{PoolName, ServiceName};
use ipnet::IpNet;

use super::Orders;
use crate::config::model::{Service, Services};
use crate::config::prefixes::PrefixSet;

/// The services as orders leave them, kept while neither changes: readers tell by the pointer whether they must look again.
#[derive(Debug, Default)]
pub(super) struct Overlay {
    made: Option<Made>,
}

#[derive(Debug)]
struct Made {
    of: Arc<Services>,
    splits: BTreeMap<ServiceName, Vec<(PoolName, u32)>>,
    denied: BTreeSet<IpNet>,
    services: Arc<Services>,
}

impl Overlay {
    /// The services with the orders over them; the file's own where there are none.
    pub(super) fn of(&mut self, services: &Arc<Services>, orders: &Orders) -> Arc<Services> {
        if orders.splits.is_empty() && orders.denied.is_empty() {
            self.made = None;
            return services.clone();
        }
        match &self.made {
            Some(made)
                if Arc::ptr_eq(&made.of, services)
                    && made.splits == orders.splits
                    && made.denied == orders.denied =>
            {
                made.services.clone()
            }
            _ => {
                let laid = Arc::new(lay(services, orders));
                self.made = Some(Made {
                    of: services.clone(),
                    splits: orders.splits.clone(),
                    denied: orders.denied.clone(),
                    services: laid.clone(),
                });
                laid
            }
        }
    }
}

fn lay(services: &Services, orders: &Orders) -> Services {
    let denied: PrefixSet = orders.denied.iter().copied().collect();
    let mut laid = services.clone();
    for service in laid.services.values_mut() {
        let split = orders.splits.get(&service.name).and_then(|ordered| split(services, service, ordered));
        if split.is_none() && denied.is_empty() {
            continue;
        }
        let mut changed = Service::clone(service);
        if let Some(split) = split {
            changed.split = split;
        }
        changed.deny = changed.deny.union(&denied);
        *service = Arc::new(changed);
    }
    laid
}

/// The ordered shares, of pools that there are. The file's pools that are not named keep the users they have and get no
/// more. `None` when nobody would get anything: the file's split is better than none.
fn split(
    services: &Services,
    service: &Service,
    ordered: &[(PoolName, u32)],
) -> Option<Vec<(PoolName, u32)>> {
    let mut split: Vec<(PoolName, u32)> =
        ordered.iter().filter(|(pool, _)| services.pools.contains_key(pool)).cloned().collect();
    for (pool, _) in &service.split {
        if !split.iter().any(|(named, _)| named == pool) {
            split.push((pool.clone(), 0));
        }
    }
    split.iter().any(|(_, share)| *share > 0).then_some(split)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::fixture;

    fn services() -> Arc<Services> {
        let address = |port: u16| std::net::SocketAddr::from(([10, 0, 0, 1], port));
        let web = fixture::service("web", &[("v1", 95), ("v2", 5)]);
        let chat = fixture::service("chat", &[("v1", 1)]);
        let pools = ["v1", "v2", "v3"].map(|name| fixture::pool(name, &[(address(1), "eu")]));
        fixture::snapshot("eu", Vec::new(), vec![web, chat], pools.into()).services
    }

    fn named(name: &str) -> ServiceName {
        ServiceName::new(name).unwrap()
    }

    fn shares(services: &Services, service: &str) -> Vec<(String, u32)> {
        services.services[service].split.iter().map(|(pool, share)| (pool.to_string(), *share)).collect()
    }

    #[test]
    fn without_orders_the_file_itself_is_served() {
        let services = services();
        assert!(Arc::ptr_eq(&Overlay::default().of(&services, &Orders::default()), &services));
    }

    #[test]
    fn a_split_is_laid_over_and_who_is_not_named_keeps_its_users() {
        let services = services();
        let pool = fixture::pool_name;
        let mut orders = Orders::default();
        orders.splits.insert(named("web"), vec![(pool("v3"), 1), (pool("gone"), 9)]);
        let mut overlay = Overlay::default();
        let laid = overlay.of(&services, &orders);
        assert_eq!(shares(&laid, "web"), [("v3".into(), 1), ("v1".into(), 0), ("v2".into(), 0)]);
        assert_eq!(shares(&laid, "chat"), [("v1".into(), 1)]);
        assert!(Arc::ptr_eq(&overlay.of(&services, &orders), &laid), "made once");
        orders.splits.insert(named("web"), vec![(pool("gone"), 9)]);
        assert_eq!(shares(&overlay.of(&services, &orders), "web"), [("v1".into(), 95), ("v2".into(), 5)]);
    }

    #[test]
    fn who_is_denied_is_denied_by_every_service() {
        let services = services();
        let orders = Orders { denied: ["192.0.2.0/24".parse().unwrap()].into(), ..Orders::default() };
        let laid = Overlay::default().of(&services, &orders);
        for service in laid.services.values() {
            assert!(
                service.deny.contains([192, 0, 2, 7].into()) && !service.deny.contains([192, 0, 3, 7].into())
            );
        }
    }
}
