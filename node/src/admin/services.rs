//! Services in the API's words. Pure.

use super::api::{ServiceStatus, Share};
use crate::backend::Snapshot;
use crate::config::model::{ListenerProtocol, OnDown, Service};

/// All services, by name.
pub(super) fn all(snapshot: &Snapshot) -> Vec<ServiceStatus> {
    snapshot.services.services.values().map(|service| one(snapshot, service)).collect()
}

fn one(snapshot: &Snapshot, service: &Service) -> ServiceStatus {
    let listeners = snapshot.services.listeners.values().filter(|listener| match listener.protocol {
        ListenerProtocol::Http | ListenerProtocol::Https => !is_named(snapshot, service),
        ListenerProtocol::Tcp => listener.service.as_ref() == Some(&service.name),
        ListenerProtocol::Tls => {
            snapshot.services.served_by_tls(listener).any(|served| served.name == service.name)
        }
    });
    let split = service.split.iter().map(|(pool, share)| Share {
        pool: pool.to_string(),
        share: *share,
        takes_new: snapshot
            .pools
            .get(pool)
            .map_or(0, |pool| pool.backends.iter().filter(|backend| backend.takes_new()).count()),
    });
    let sticky = match (&service.sticky_cookie, &service.sticky_source_ip) {
        (Some(cookie), _) => Some(format!("cookie {}, {}", cookie.name, on_down(cookie.on_down))),
        (None, Some(_)) => Some("source address".into()),
        (None, None) => None,
    };
    ServiceStatus {
        name: service.name.to_string(),
        hosts: service.hosts.clone(),
        paths: service.paths.clone(),
        listeners: listeners.map(|listener| listener.name.to_string()).collect(),
        split: split.collect(),
        sticky,
        sticky_idle_seconds: service
            .sticky_cookie
            .as_ref()
            .map(|cookie| cookie.ttl)
            .or(service.sticky_source_ip)
            .map(|ttl| ttl.as_secs()),
        rate_per_client: service.rate_limit.and_then(|limit| limit.per_client).map(|rate| rate.per_second),
        rate_whole: service.rate_limit.and_then(|limit| limit.service).map(|rate| rate.per_second),
    }
}

/// Whether a listener that opens nothing names it: HTTP listeners do not route to it then.
fn is_named(snapshot: &Snapshot, service: &Service) -> bool {
    let services = &snapshot.services;
    services.behind_tcp().contains(&service.name) || services.behind_tls().contains(&service.name)
}

fn on_down(on_down: OnDown) -> &'static str {
    match on_down {
        OnDown::Repin => "repin",
        OnDown::Temporary => "temporary",
        OnDown::Refuse => "refuse",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::fixture;

    #[test]
    fn a_service_tells_who_takes_its_new_users() {
        let address = |port: u16| std::net::SocketAddr::from(([10, 0, 0, 1], port));
        let mut web = fixture::service("web", &[("v1", 3), ("v2", 1)]);
        web.sticky_cookie = Some(fixture::sticky());
        let pools = vec![fixture::pool("v1", &[(address(1), "eu"), (address(2), "us")])];
        let told = all(&fixture::snapshot("eu", Vec::new(), vec![web], pools));
        let shares: Vec<_> =
            told[0].split.iter().map(|share| (share.pool.as_str(), share.share, share.takes_new)).collect();
        assert_eq!(shares, [("v1", 3, 2), ("v2", 1, 0)]);
        assert!(told[0].sticky.as_ref().is_some_and(|sticky| sticky.starts_with("cookie ")));
    }
}
