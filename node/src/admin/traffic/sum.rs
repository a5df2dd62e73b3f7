//! What all nodes tell together. Pure.

use std::collections::BTreeMap;

use super::account::Account;
use super::pulse::Second;
use crate::admin::api::{NetworkUsers, RegionUsers, SecondStatus, ServiceUsers};
use crate::proxy::{Asked, BOUNDS_MICROS, BUCKETS, Network};

/// Networks in the answer.
const TOP: usize = 50;

/// The seconds, the newest first. Nodes tick apart, so a second of one is up to a second off another's.
pub(super) fn seconds(accounts: &[Account]) -> Vec<SecondStatus> {
    let longest = accounts.iter().map(|account| account.seconds.len()).max().unwrap_or(0);
    (0..longest).map(|at| second(accounts.iter().filter_map(|account| account.seconds.get(at)))).collect()
}

fn second<'a>(parts: impl Iterator<Item = &'a Second>) -> SecondStatus {
    let (mut requests, mut failed, mut queries, mut took) = (0u64, 0u64, 0u64, [0u64; BUCKETS]);
    for part in parts {
        requests += u64::from(part.requests);
        failed += u64::from(part.failed);
        queries += u64::from(part.queries);
        took.iter_mut().zip(&part.took).for_each(|(sum, part)| *sum += u64::from(*part));
    }
    SecondStatus {
        requests,
        failed,
        dns_queries: queries,
        p50_ms: quantile(&took, 0.5),
        p99_ms: quantile(&took, 0.99),
    }
}

/// The upper bound of the bucket in which the quantile lies, in milliseconds; `None` when nothing was counted. What took
/// longer than the last bound is told as that bound.
fn quantile(took: &[u64; BUCKETS], share: f64) -> Option<f64> {
    let all: u64 = took.iter().sum();
    let wanted = ((all as f64 * share).ceil() as u64).max(1);
    let mut seen = 0;
    let at = took.iter().position(|count| {
        seen += count;
        seen >= wanted
    })?;
    let bound = BOUNDS_MICROS.get(at).or(BOUNDS_MICROS.last())?;
    Some(*bound as f64 / 1e3)
}

/// By the region that served, since its nodes started.
pub(super) fn regions(accounts: &[Account]) -> Vec<RegionUsers> {
    let mut regions: BTreeMap<&str, RegionUsers> = BTreeMap::new();
    for account in accounts {
        let region = regions.entry(&account.region).or_default();
        region.name = account.region.clone();
        region.tunnels_out += account.tunnels_out;
        region.tunnels_in += account.tunnels_in;
        for service in &account.services {
            region.requests += service.requests;
            region.failed += service.failed;
            region.refused += service.refused;
            region.sent_bytes += service.sent_bytes;
        }
        let newest = account.seconds.iter().take(10);
        let (count, requests) = newest.fold((0, 0), |sum, of| (sum.0 + 1, sum.1 + u64::from(of.requests)));
        region.requests_per_second += requests as f64 / f64::from(count.max(1));
    }
    regions.into_values().collect()
}

/// By service, since the nodes started.
pub(super) fn services(accounts: &[Account]) -> Vec<ServiceUsers> {
    let mut services: BTreeMap<&str, ServiceUsers> = BTreeMap::new();
    for of in accounts.iter().flat_map(|account| &account.services) {
        let service = services.entry(&of.name).or_default();
        service.name = of.name.clone();
        service.requests += of.requests;
        service.failed += of.failed;
        service.refused += of.refused;
        service.sent_bytes += of.sent_bytes;
    }
    services.into_values().collect()
}

/// The networks that asked most of late.
pub(super) fn networks(accounts: &[Account]) -> Vec<NetworkUsers> {
    let mut networks: BTreeMap<Network, Asked> = BTreeMap::new();
    for (network, asked) in accounts.iter().flat_map(|account| &account.networks) {
        let sum = networks.entry(*network).or_default();
        sum.requests += asked.requests;
        sum.errors += asked.errors;
        sum.bytes = sum.bytes.saturating_add(asked.bytes);
        sum.doubt += asked.doubt;
    }
    let mut networks: Vec<_> = networks.into_iter().collect();
    networks.sort_by_key(|(network, asked)| (std::cmp::Reverse(asked.requests), *network));
    networks.truncate(TOP);
    let told = networks.into_iter().map(|(network, asked)| NetworkUsers {
        network: network.net().to_string(),
        requests: asked.requests,
        errors: asked.errors,
        sent_bytes: asked.bytes,
        doubt: asked.doubt,
    });
    told.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_the_bound_of_its_bucket() {
        let mut took = [0; BUCKETS];
        assert_eq!(quantile(&took, 0.5), None);
        took[3] = 98;
        took[6] = 2;
        assert_eq!(
            (quantile(&took, 0.5), quantile(&took, 0.98), quantile(&took, 0.99)),
            (Some(1.0), Some(1.0), Some(10.0))
        );
        took[BUCKETS - 1] = 1000;
        assert_eq!(quantile(&took, 0.99), Some(60_000.0));
    }

    #[test]
    fn nodes_are_summed_second_by_second_and_network_by_network() {
        let network = |last: u8| Network::of([192, 0, last, 1].into());
        let asked = |requests| Asked { requests, ..Asked::default() };
        let account = |region: &str, requests, networks: &[(u8, u64)]| Account {
            region: region.into(),
            seconds: vec![Second { requests, ..Second::default() }],
            networks: networks.iter().map(|(last, requests)| (network(*last), asked(*requests))).collect(),
            ..Account::default()
        };
        let accounts =
            [account("eu", 3, &[(1, 5), (2, 6)]), account("us", 4, &[(1, 5)]), account("eu", 1, &[])];
        assert_eq!(seconds(&accounts)[0].requests, 8);
        let by_region: Vec<_> =
            regions(&accounts).iter().map(|of| (of.name.clone(), of.requests_per_second)).collect();
        assert_eq!(by_region, [("eu".into(), 4.0), ("us".into(), 4.0)]);
        let told: Vec<_> = networks(&accounts).into_iter().map(|of| (of.network, of.requests)).collect();
        assert_eq!(told, [("192.0.1.0/24".into(), 10), ("192.0.2.0/24".into(), 6)]);
    }
}
