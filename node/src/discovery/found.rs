//! What a source says: one backend, and where it stands.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use gossip::id::{RackName, RegionName, ZoneName};

/// The most backends that one source may name for one pool.
pub(crate) const FOUND_MAX: usize = 10_000;
/// The longest error of a source that is told, in characters.
pub(crate) const ERROR_MAX_CHARS: usize = 300;

/// The longest drain that a source may ask for, a day, as in the configuration; a longer one is cut to it.
pub(crate) const DRAIN_MAX: Duration = Duration::from_secs(86_400);
/// Where clouds tell their machines secrets, beside the link-local addresses.
const METADATA: [IpAddr; 4] = [
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
];

/// One backend as a source names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Found {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// Where it stands.
    pub(crate) region: RegionName,
    /// The zone there.
    pub(crate) zone: Option<ZoneName>,
    /// The rack in that.
    pub(crate) rack: Option<RackName>,
    /// Its share.
    pub(crate) weight: u16,
    /// See [`crate::config::model::Backend::priority`].
    pub(crate) priority: u16,
    /// Whether it is to be used.
    pub(crate) standing: Standing,
    /// How long it may drain once nobody names it; `None`: as long as the pool says.
    pub(crate) drain: Option<Duration>,
}

/// Whether a backend is to be used. When several sources name one backend, the smallest counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Standing {
    /// It takes new sessions.
    Serving,
    /// It is about to go: it keeps the sessions it has.
    Leaving,
    /// It is gone for certain: nothing is to be sent there, and there is nothing to drain.
    Gone,
}

impl Found {
    /// A backend with nothing special about it.
    pub(crate) fn at(address: SocketAddr, region: RegionName) -> Self {
        Self {
            address,
            region,
            zone: None,
            rack: None,
            weight: 100,
            priority: 0,
            standing: Standing::Serving,
            drain: None,
        }
    }
}

/// Whether a source may name an address: neither a wildcard, nor a group, nor port 0, nor a link-local address, nor one at
/// which a cloud tells its machines secrets, however it is written. Whoever speaks for a source (a name server, a process
/// with a lease) could else have users talk to those in the node's name. Loopback is a place like any other: backends stand
/// beside their node, or behind a proxy there.
pub(crate) fn is_reachable(address: SocketAddr) -> bool {
    let ip = address.ip().to_canonical();
    let is_near = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !ip.is_unspecified() && !ip.is_multicast() && !is_near && !METADATA.contains(&ip) && address.port() != 0
}

/// An error as it may be told: one line, bounded, without control characters.
pub(crate) fn readable(error: &str) -> String {
    let one_line = error.chars().map(|char| if char.is_control() { ' ' } else { char });
    one_line.take(ERROR_MAX_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_may_not_name_what_is_nobodys_or_tells_secrets() {
        for address in [
            "0.0.0.0:80",
            "[::]:80",
            "10.0.0.1:0",
            "224.0.0.1:80",
            "255.255.255.255:80",
            "169.254.169.254:80",
            "[::ffff:169.254.169.254]:80",
            "[::ffff:0.0.0.0]:80",
            "[fe80::1]:80",
            "[ff02::1]:80",
            "[fd00:ec2::254]:80",
            "100.100.100.200:80",
        ] {
            assert!(!is_reachable(address.parse().unwrap()), "{address}");
        }
        for address in ["10.0.0.1:80", "127.0.0.1:80", "[::1]:80", "[fd00:ec2::1]:80", "100.100.100.201:80"] {
            assert!(is_reachable(address.parse().unwrap()), "{address}");
        }
    }
}
