//! Why a node does not start, and what to do about it.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::PathBuf;

use gossip::keyring::KeyringError;

use super::machine::DataError;
use crate::admin::AdminError;
use crate::proxy;

/// Why a node does not start. Nothing stays bound or running after it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error(transparent)]
    Data(#[from] DataError),
    #[error(transparent)]
    Key(#[from] KeyringError),
    #[error("there is no mesh key at {}, and a node with seeds joins a mesh that has one: copy it from another node", .0.display())]
    NoKey(PathBuf),
    #[error("{error}; the mesh key that this start made stays at {}: remove it if this node is to join another mesh", path.display())]
    KeyStays { path: PathBuf, error: Box<Self> },
    #[error(transparent)]
    Gossip(#[from] gossip::StartError),
    #[error(transparent)]
    Storage(#[from] storage::StartError),
    #[error(transparent)]
    Proxy(#[from] proxy::StartError),
    #[error(transparent)]
    Dns(#[from] dns::BindError),
    #[error(transparent)]
    Admin(#[from] AdminError),
    #[error("cannot read the admin token {}: {source}", path.display())]
    Token { path: PathBuf, source: std::io::Error },
    #[error(
        "peers cannot be told where this node is: {0} is a wildcard and there is no default route; set [mesh] advertise (--advertise)"
    )]
    Advertise(SocketAddr),
    #[error("cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
}

impl StartError {
    /// What to do about it, where the error itself does not say.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Gossip(gossip::StartError::Listen { addr, source }) => {
                bind_hint(source.kind(), *addr, "[mesh] listen (--mesh-listen)")
            }
            Self::Admin(AdminError::Tcp { addr, source }) => {
                bind_hint(source.kind(), *addr, "[admin] listen (--admin-listen)")
            }
            Self::Dns(dns::BindError::InUse { address, .. }) => {
                bind_hint(ErrorKind::AddrInUse, *address, DNS_SETTING)
            }
            Self::Dns(dns::BindError::Refused { address, error, .. }) => {
                bind_hint(error.kind(), *address, DNS_SETTING)
            }
            Self::Proxy(proxy::StartError::Bind(error)) => error
                .problems
                .iter()
                .find_map(|problem| bind_hint(problem.kind, problem.addr, "[proxy] listen (--proxy-listen)")),
            Self::KeyStays { error, .. } => error.hint(),
            Self::NoKey(_) => Some("mode 0600; --key-file names another place".into()),
            _ => None,
        }
    }
}

/// Where DNS's sockets are chosen.
const DNS_SETTING: &str = "[dns] listen (--dns-listen), or tls in [dns],";

fn bind_hint(kind: ErrorKind, addr: SocketAddr, setting: &str) -> Option<String> {
    let (port, ip) = (addr.port(), addr.ip());
    match kind {
        ErrorKind::AddrInUse => {
            Some(format!("`ss -lntup 'sport = :{port}'` shows who has it; {setting} chooses another address"))
        }
        ErrorKind::AddrNotAvailable => Some(format!(
            "{ip} is no address of this machine (`ip address` lists them); {setting} chooses another"
        )),
        ErrorKind::PermissionDenied if port < 1024 => Some(format!(
            "ports below 1024 need root or CAP_NET_BIND_SERVICE (systemd: AmbientCapabilities=); {setting} chooses another address"
        )),
        _ => None,
    }
}
