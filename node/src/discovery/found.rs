//! What a source says: one backend, and where it stands.

use std::net::SocketAddr;
use std::time::Duration;

use gossip::id::{RackName, RegionName, ZoneName};

/// The most backends that one source may name for one pool.
pub(crate) const FOUND_MAX: usize = 10_000;
/// The longest error of a source that is told, in characters.
pub(crate) const ERROR_MAX_CHARS: usize = 300;

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

/// Whether anything can be reached at an address: neither a wildcard, nor a group, nor port 0.
pub(crate) fn is_reachable(address: SocketAddr) -> bool {
    !address.ip().is_unspecified() && !address.ip().is_multicast() && address.port() != 0
}

/// An error as it may be told: one line, bounded, without control characters.
pub(crate) fn readable(error: &str) -> String {
    let one_line = error.chars().map(|char| if char.is_control() { ' ' } else { char });
    one_line.take(ERROR_MAX_CHARS).collect()
}
