//! Small configurations and snapshots for tests.
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use gossip::clock::Hlc;
use gossip::id::{BackendId, ListenerName, PoolName, RegionName, ServiceName};
use gossip::state::BackendState;

use crate::backend::{BackendShared, BackendView, PoolView, RegionView, Snapshot};
use crate::balance::rack;
use crate::config::model::{
    Backend, BalancePolicy, Listener, ListenerProtocol, OnDown, Pool, Retry, Service, Services, SourceKind,
    SourceKinds, StickyCookie, Timeouts,
};

pub(crate) fn region(name: &str) -> RegionName {
    RegionName::new(name).unwrap()
}

pub(crate) fn pool_name(name: &str) -> PoolName {
    PoolName::new(name).unwrap()
}

pub(crate) fn service(name: &str, split: &[(&str, u32)]) -> Service {
    Service {
        name: ServiceName::new(name).unwrap(),
        hosts: Vec::new(),
        paths: vec!["/".into()],
        split: split.iter().map(|(pool, share)| (pool_name(pool), *share)).collect(),
        force: Vec::new(),
        sticky_cookie: None,
        sticky_source_ip: None,
        allow: Default::default(),
        deny: Default::default(),
        rate_limit: None,
        disclosure: Default::default(),
        min_body_rate: 500,
        timeout: Timeouts {
            connect: Duration::from_secs(1),
            response: Duration::from_secs(30),
            idle: Duration::from_secs(5),
        },
        retry: Retry { attempts: 2, budget: 0.2 },
    }
}

pub(crate) fn sticky() -> StickyCookie {
    StickyCookie {
        name: "meridian".into(),
        ttl: Duration::from_secs(8 * 3600),
        max_age: Duration::from_secs(24 * 3600),
        on_down: OnDown::Repin,
    }
}

pub(crate) fn http_listener(name: &str, port: u16) -> Listener {
    Listener {
        name: ListenerName::new(name).unwrap(),
        port,
        protocol: ListenerProtocol::Http,
        service: None,
        services: Vec::new(),
        trusted_proxies: Vec::new(),
        accept_proxy: Vec::new(),
        max_connections: 1000,
        max_connections_per_client: None,
        certificates: Vec::new(),
        client_ca: None,
        hsts: None,
        redirect_https: None,
    }
}

pub(crate) fn tcp_listener(name: &str, port: u16, service: &str) -> Listener {
    Listener {
        protocol: ListenerProtocol::Tcp,
        service: Some(ServiceName::new(service).unwrap()),
        ..http_listener(name, port)
    }
}

pub(crate) fn tls_listener(name: &str, port: u16, service: Option<&str>, services: &[&str]) -> Listener {
    Listener {
        protocol: ListenerProtocol::Tls,
        service: service.map(|name| ServiceName::new(name).unwrap()),
        services: services.iter().map(|name| ServiceName::new(name).unwrap()).collect(),
        ..http_listener(name, port)
    }
}

/// A pool of backends given as (address, region), all of weight 100.
pub(crate) fn pool(name: &str, backends: &[(SocketAddr, &str)]) -> Pool {
    let name = pool_name(name);
    let backends = backends
        .iter()
        .map(|(address, place)| {
            Arc::new(Backend {
                id: BackendId::of(&name, *address),
                address: *address,
                region: region(place),
                zone: None,
                rack: None,
                weight: 100,
                sources: SourceKinds::of(SourceKind::Static),
                leaving: false,
                priority: 0,
            })
        })
        .collect();
    Pool {
        name,
        balance: BalancePolicy::LeastBusy,
        protocol: Default::default(),
        tls: None,
        health: None,
        send_proxy: None,
        slow_start: None,
        max_connections: None,
        ejection: Default::default(),
        sources: Vec::new(),
        lease: None,
        scale: None,
        drain: Pool::DRAIN,
        backends,
    }
}

/// The view of a pool with every backend up and no break known.
pub(crate) fn pool_view(pool: &Arc<Pool>) -> PoolView {
    let racks = rack::number(pool.backends.iter().map(|backend| (&backend.zone, &backend.rack)));
    let backends = pool
        .backends
        .iter()
        .zip(racks)
        .map(|(backend, rack)| BackendView {
            rack,
            config: backend.clone(),
            shared: Arc::new(BackendShared::default()),
            state: BackendState::Up,
            up_since: Hlc::ZERO,
            joined: Hlc::ZERO,
            weight: u32::from(backend.weight),
            reason: String::new(),
        })
        .collect();
    PoolView { config: pool.clone(), backends, queue: Arc::default() }
}

/// A mesh of one node in region `place`.
pub(crate) fn snapshot(
    place: &str,
    listeners: Vec<Listener>,
    services: Vec<Service>,
    pools: Vec<Pool>,
) -> Snapshot {
    let pools: Vec<Arc<Pool>> = pools.into_iter().map(Arc::new).collect();
    let services = Services {
        regions: Vec::new(),
        zones: Vec::new(),
        listeners: listeners.into_iter().map(|l| (l.name.clone(), Arc::new(l))).collect(),
        services: services.into_iter().map(|s| (s.name.clone(), Arc::new(s))).collect(),
        pools: pools.iter().map(|p| (p.name.clone(), p.clone())).collect(),
    };
    Snapshot {
        revision: None,
        services: Arc::new(services),
        pools: pools.iter().map(|p| (p.name.clone(), Arc::new(pool_view(p)))).collect(),
        region: region(place),
        zone: None,
        regions: BTreeMap::from([(region(place), RegionView::default())]),
        rescue_order: Vec::new(),
    }
}
