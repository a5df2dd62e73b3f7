//! How this node joins the mesh: what peers and users are told of it.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use gossip::clock::Clock;
use gossip::id::NodeName;
use gossip::keyring::Keyring;
use gossip::{Gossip, GossipConfig};

use super::{StartError, machine};
use crate::config::model::NodeConfig;

/// How long an upgraded node waits to see those that it saw before; it goes on without who is slower.
const MEET_WITHIN: Duration = Duration::from_secs(2);
/// How long the ports of a process that hands over may take to be free.
const PORTS_FREE_WITHIN: Duration = Duration::from_secs(5);

/// Joins the mesh. In an upgrade the process before has just given up the ports, and the kernel may need a moment.
pub(super) async fn join(
    config: &NodeConfig,
    keyring: &Keyring,
    clock: &Clock,
    takes_over: bool,
) -> Result<Gossip, StartError> {
    let latest = clock.now() + PORTS_FREE_WITHIN;
    loop {
        match Gossip::start(gossip_config(config, keyring.clone(), clock.clone())?).await {
            Err(gossip::StartError::Listen { source, .. })
                if takes_over && source.kind() == ErrorKind::AddrInUse && clock.now() < latest =>
            {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            started => return Ok(started?),
        }
    }
}

/// Waits until the mesh looks as it did to the process before this one, so that users of other regions are not told of this node
/// alone. Who has gone meanwhile is not waited for much longer than that takes.
pub(super) async fn meet(gossip: &Gossip, members: &[NodeName]) {
    let mut view = gossip.view();
    let all_there = view.wait_for(|view| members.iter().all(|name| view.members.contains_key(name)));
    if tokio::time::timeout(MEET_WITHIN, all_there).await.is_err() {
        tracing::info!("upgrade: not all nodes that were there have been met again yet");
    }
}

fn gossip_config(config: &NodeConfig, keyring: Keyring, clock: Clock) -> Result<GossipConfig, StartError> {
    let listen = config.mesh.listen;
    let advertise = match config.mesh.advertise {
        Some(advertise) => advertise,
        None if !listen.ip().is_unspecified() => listen,
        None => {
            let ip = advertised_ip(config).ok_or(StartError::Advertise(listen))?;
            tracing::info!(%ip, "peers are told this address; [mesh] advertise sets another");
            SocketAddr::new(ip, listen.port())
        }
    };
    let mut public = config.public.clone();
    if public.is_empty() {
        public = machine::public_addresses(&config.proxy_listen);
        match public.is_empty() {
            false => tracing::info!(?public, "users are told these addresses; [node] public sets others"),
            true => tracing::warn!(
                "there is no default route: DNS tells users of this node only with [node] public"
            ),
        }
    }
    Ok(GossipConfig {
        name: config.name.clone(),
        region: config.region.clone(),
        zone: config.zone.clone(),
        listen,
        advertise: Some(advertise),
        seeds: config.mesh.seeds.clone(),
        public,
        version: env!("CARGO_PKG_VERSION").into(),
        data: config.data.clone(),
        keyring,
        clock,
    })
}

/// The default route's address. A machine without one can still run a node that nobody has to find.
fn advertised_ip(config: &NodeConfig) -> Option<IpAddr> {
    let v6 = config.mesh.listen.is_ipv6();
    let alone = || {
        let loopback = if v6 { IpAddr::V6(Ipv6Addr::LOCALHOST) } else { IpAddr::V4(Ipv4Addr::LOCALHOST) };
        config.mesh.seeds.is_empty().then_some(loopback)
    };
    machine::default_route_address(v6).or_else(alone)
}
