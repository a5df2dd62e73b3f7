//! What one node is.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use gossip::id::{NodeName, RegionName, ZoneName};
use ipnet::IpNet;

use super::CertificateFiles;

/// `node.toml` and the flags over it: what one node is. Everything but the default addresses is filled in; those
/// need the machine's interfaces and are resolved at start.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// Unique in the mesh.
    pub name: NodeName,
    /// Where the node stands.
    pub region: RegionName,
    /// The zone in the region.
    pub zone: Option<ZoneName>,
    /// The data folder.
    pub data: PathBuf,
    /// What DNS tells users; empty: the proxy's own addresses.
    pub public: Vec<IpAddr>,
    /// The programs that the mesh's configuration may have this node run, by their whole paths; others it does not run.
    pub scale_exec: Vec<PathBuf>,
    /// The longest time from SIGTERM to exit.
    pub drain: Duration,
    /// The mesh.
    pub mesh: MeshConfig,
    /// Addresses the proxy listens on.
    pub proxy_listen: Vec<IpAddr>,
    /// Worker threads; `None`: one per core.
    pub workers: Option<usize>,
    /// DNS sockets; empty: off.
    pub dns_listen: Vec<SocketAddr>,
    /// DNS over TLS; `None`: off.
    pub dns_tls: Option<DnsTls>,
    /// A MaxMind database.
    pub geoip: Option<PathBuf>,
    /// Who may transfer zones over TCP; empty: nobody.
    pub dns_transfer: Vec<IpNet>,
    /// How many answers over UDP one network gets; `None`: all it asks for.
    pub dns_rate: Option<dns::ResponseRate>,
    /// The admin API.
    pub admin: AdminConfig,
    /// Logs.
    pub log: LogConfig,
}

/// `[dns] tls`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsTls {
    /// TCP sockets; not empty.
    pub listen: Vec<SocketAddr>,
    /// Chains and keys; the client's SNI chooses, the first is for all others. Not empty.
    pub certificates: Vec<CertificateFiles>,
}

/// `[mesh]`.
#[derive(Debug, Clone)]
pub struct MeshConfig {
    /// The UDP socket; tunnels use the port above it.
    pub listen: SocketAddr,
    /// What peers are told; `None`: `listen` when it is no wildcard, else the default route's address.
    pub advertise: Option<SocketAddr>,
    /// `HOST:PORT` of nodes to meet first.
    pub seeds: Vec<String>,
    /// The keyring; `None`: `DATA/mesh.key`.
    pub key_file: Option<PathBuf>,
}

/// `[admin]`.
#[derive(Debug, Clone)]
pub struct AdminConfig {
    /// The TCP socket.
    pub listen: SocketAddr,
    /// A file with the bearer token; required where [`others_reach`] the socket.
    pub token_file: Option<PathBuf>,
}

/// Whether others than this machine's programs reach a socket.
pub fn others_reach(listen: SocketAddr) -> bool {
    !listen.ip().to_canonical().is_loopback()
}

/// `[log]`.
#[derive(Debug, Clone)]
pub struct LogConfig {
    /// A tracing filter: `info`, `debug`, `gossip=debug,info`.
    pub level: String,
    /// `text` or `json`.
    pub format: LogFormat,
    /// Where the access log goes.
    pub access: AccessLog,
    /// How its lines look.
    pub access_format: AccessFormat,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// How lines of the access log look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum AccessFormat {
    /// For people.
    Text,
    /// For machines, with OpenTelemetry's names.
    Json,
    /// As Apache's `combined`, for tools that read that.
    Combined,
}

/// Where the access log goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessLog {
    /// To standard output.
    Stdout,
    /// Nowhere.
    Off,
    /// To a file, appended.
    File(PathBuf),
}
