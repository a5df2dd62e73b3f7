//! The name server: its sockets, the terms it serves strangers on, and the files it looks after.

use std::sync::Arc;

use dns::{BindError, CookieSecret, DnsServer, Responder, ServerConfig, Table, TcpLimits, Terms, TlsListen};
use gossip::clock::Clock;
use gossip::keyring::Keyring;

use super::control_tasks::{ControlTasks, Need};
use crate::config::model::NodeConfig;
use crate::geoip::{self, Geo};
use crate::tls::TlsConfig;
use crate::tls::dot::{self, Dot};

/// The name server, where there is one, and what troubles it.
#[derive(Default)]
pub(super) struct NameServer {
    pub(super) server: Option<DnsServer>,
    pub(super) responder: Option<Arc<Responder>>,
    pub(super) geo: Geo,
    pub(super) dot: Dot,
}

/// Binds its sockets and begins to answer, with what `prime` tells the responder before.
pub(super) fn start(
    config: &NodeConfig,
    keyring: &Keyring,
    tls: &TlsConfig,
    clock: &Clock,
    tasks: &mut ControlTasks,
    inherited: Vec<dns::Inherited>,
    prime: impl FnOnce(&Responder),
) -> Result<NameServer, BindError> {
    if config.dns_listen.is_empty() {
        return Ok(NameServer::default());
    }
    let responder = Arc::new(Responder::new(Table::empty(), rand::random()));
    responder.set_terms(dns_terms(config, keyring));
    let mut geo = Geo::default();
    if let Some(path) = &config.geoip {
        let (opened, follower) = geoip::start(path, &config.data, responder.clone());
        tasks.spawn("GeoIP file", Need::Useful, follower);
        geo = opened;
    }
    let mut dot = Dot::default();
    let tls = config.dns_tls.as_ref().map(|certificates| {
        let (shown, follower) = dot::start(certificates.certificates.clone(), tls);
        tasks.spawn("certificates of DNS", Need::Useful, follower);
        dot = shown.clone();
        TlsListen { listen: certificates.listen.clone(), config: Arc::new(move || shown.config()) }
    });
    prime(&responder);
    let (time, wall) = (clock.clone(), clock.clone());
    let server = DnsServer::bind(
        ServerConfig {
            listen: config.dns_listen.clone(),
            udp_threads: config.workers.unwrap_or(1).max(1),
            tcp: TcpLimits::default(),
            tls,
            inherited,
            clock: dns::Clock::new(move || time.now(), move || wall.mesh_wall().seconds()),
        },
        responder.clone(),
    )?;
    Ok(NameServer { server: Some(server), responder: Some(responder), geo, dot })
}

/// On which terms strangers are served. Cookies are made with a secret that all nodes derive from the mesh's keys, so
/// that any of them knows those of the others.
pub(super) fn dns_terms(config: &NodeConfig, keyring: &Keyring) -> Terms {
    let secrets = keyring.derive("meridian dns cookie v1").into_iter().filter_map(|key| {
        let secret = key.secret.first_chunk::<16>()?;
        Some(CookieSecret(*secret))
    });
    Terms {
        nsid: config.name.to_string().into_bytes(),
        cookie_secrets: secrets.collect(),
        transfer: config.dns_transfer.clone(),
        response_rate: config.dns_rate,
    }
}
