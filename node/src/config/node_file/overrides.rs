//! What flags and the environment say over `node.toml`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use gossip::id::{NodeName, RegionName, ZoneName};

use super::settings;
use crate::config::model::{AccessFormat, AccessLog, LogFormat};

/// What flags and the environment say; each overrides the file. Flatten it into a command with clap.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct NodeOverrides {
    /// The node's name, unique in the mesh [default: the host name]
    #[arg(long)]
    pub name: Option<NodeName>,
    /// The region the node stands in [default: local]
    #[arg(long)]
    pub region: Option<RegionName>,
    /// The zone in the region
    #[arg(long)]
    pub zone: Option<ZoneName>,
    /// The data folder. Every command knows it, so the flag is not one of these: whoever flattens this fills it in
    #[arg(skip)]
    pub data: Option<PathBuf>,
    /// An address that DNS tells users; may be given several times
    #[arg(long, value_name = "IP")]
    pub public: Vec<IpAddr>,
    /// The longest time from SIGTERM to exit [default: 60s]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub drain: Option<Duration>,
    /// The mesh's UDP socket; tunnels use the port above [default: 0.0.0.0:7946]
    #[arg(long, value_name = "IP:PORT")]
    pub mesh_listen: Option<SocketAddr>,
    /// What peers are told to dial
    #[arg(long, value_name = "IP:PORT")]
    pub advertise: Option<SocketAddr>,
    /// A node to meet first; may be given several times
    #[arg(long = "seed", value_name = "HOST:PORT", value_parser = settings::parse_seed)]
    pub seeds: Vec<String>,
    /// The mesh key [default: DATA/mesh.key]
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// An address the proxy listens on; may be given several times [default: 0.0.0.0 and ::]
    #[arg(long, value_name = "IP")]
    pub proxy_listen: Vec<IpAddr>,
    /// Worker threads [default: one per core]
    #[arg(long)]
    pub workers: Option<usize>,
    /// A DNS socket; may be given several times [default: DNS is off]
    #[arg(long, value_name = "IP:PORT")]
    pub dns_listen: Vec<SocketAddr>,
    /// A MaxMind database
    #[arg(long, value_name = "FILE")]
    pub geoip: Option<PathBuf>,
    /// The admin API's TCP socket [default: 127.0.0.1:7900]
    #[arg(long, value_name = "IP:PORT")]
    pub admin_listen: Option<SocketAddr>,
    /// A file with the admin API's bearer token
    #[arg(long, value_name = "FILE")]
    pub admin_token_file: Option<PathBuf>,
    /// What is logged, for example `debug` or `gossip=debug,info` [default: info]
    #[arg(long, value_name = "LEVEL", value_parser = settings::parse_level)]
    pub log_level: Option<String>,
    /// How log lines look: `text` or `json` [default: text]
    #[arg(long, value_enum, value_name = "FORMAT", hide_possible_values = true)]
    pub log_format: Option<LogFormat>,
    /// Where the access log goes: `stdout`, `off` or a path [default: stdout]
    #[arg(long, value_name = "WHERE", value_parser = settings::parse_access)]
    pub access_log: Option<AccessLog>,
    /// How its lines look: `text`, `json` or `combined` [default: as the log's]
    #[arg(long, value_enum, value_name = "FORMAT", hide_possible_values = true)]
    pub access_format: Option<AccessFormat>,
}
