//! Small configurations and views for the tests of health and the registry.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use gossip::clock::{Clock, Wall};
use gossip::id::{BackendId, NodeName, PoolName, RegionName};
use gossip::state::{ClusterView, Member, MemberState, NodeRecord};

use crate::config::model::{
    Backend, BalancePolicy, HealthCheck, Pool, Probe, Region, Services, SourceKind, SourceKinds,
};

pub(crate) fn region(name: &str) -> RegionName {
    RegionName::new(name).unwrap()
}

pub(crate) fn node(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

/// A pool with a TCP check every second, rise 2, fall 3.
pub(crate) fn pool(name: &str, backends: &[(&str, &str)]) -> Pool {
    let name = PoolName::new(name).unwrap();
    let backend = |(address, at): &(&str, &str)| {
        let address = address.parse().unwrap();
        Arc::new(Backend {
            id: BackendId::of(&name, address),
            address,
            region: region(at),
            zone: None,
            rack: None,
            weight: 100,
            sources: SourceKinds::of(SourceKind::Static),
            leaving: false,
            priority: 0,
        })
    };
    Pool {
        backends: backends.iter().map(backend).collect(),
        balance: BalancePolicy::default(),
        tls: None,
        health: Some(HealthCheck {
            probe: Probe::Tcp,
            interval: Duration::from_secs(1),
            timeout: Duration::from_millis(500),
            rise: 2,
            fall: 3,
        }),
        send_proxy: None,
        protocol: Default::default(),
        slow_start: None,
        max_connections: None,
        ejection: Default::default(),
        sources: Vec::new(),
        lease: None,
        scale: None,
        drain: Pool::DRAIN,
        name,
    }
}

/// Regions without coordinates, and pools.
pub(crate) fn services(regions: &[&str], pools: Vec<Pool>) -> Services {
    Services {
        regions: regions
            .iter()
            .map(|name| Region { name: region(name), location: None, prefixes: Vec::new() })
            .collect(),
        pools: pools.into_iter().map(|pool| (pool.name.clone(), Arc::new(pool))).collect(),
        ..Services::default()
    }
}

/// A living node.
pub(crate) fn member(name: &str, at: &str) -> Member {
    Member {
        record: NodeRecord {
            name: node(name),
            region: region(at),
            zone: None,
            mesh: "127.0.0.1:7946".parse().unwrap(),
            public: Vec::new(),
            version: "0.1.0".to_owned(),
            started: Wall(1),
            draining: false,
            revision: None,
            keys: Vec::new(),
            key_since: Wall(0),
        },
        state: MemberState::Alive,
        since: Clock::simulated(Wall(0)).now(),
        rtt: None,
        verdicts: Arc::default(),
        summaries: Arc::default(),
        failures: Arc::default(),
        rtts: Arc::default(),
    }
}

pub(crate) fn view(me: &str, members: Vec<Member>) -> ClusterView {
    let members: BTreeMap<_, _> =
        members.into_iter().map(|member| (member.record.name.clone(), Arc::new(member))).collect();
    ClusterView { me: node(me), members, isolated_since: None }
}
