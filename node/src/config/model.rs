//! The validated configuration: immutable, all names checked, all references resolved, all defaults filled in.
//!
//! Strings end here. How files become it is in [`super::services`] and [`super::node_file`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use gossip::id::{BackendId, ListenerName, NodeName, PoolName, RackName, RegionName, ServiceName, ZoneName};
use http::{HeaderName, HeaderValue, StatusCode};
use ipnet::IpNet;

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
    /// A MaxMind database.
    pub geoip: Option<PathBuf>,
    /// The admin API.
    pub admin: AdminConfig,
    /// Logs.
    pub log: LogConfig,
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
    /// A file with the bearer token; required when `listen` is not loopback.
    pub token_file: Option<PathBuf>,
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
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
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

/// `services.toml`: what the whole mesh serves.
#[derive(Debug, Clone, Default)]
pub struct Services {
    /// `[region.*]`, in the file's order (the order of fail-open answers).
    pub regions: Vec<Region>,
    /// `[dns.zone.*]`.
    pub zones: Vec<DnsZone>,
    /// `[listener.*]`.
    pub listeners: BTreeMap<ListenerName, Arc<Listener>>,
    /// `[service.*]`.
    pub services: BTreeMap<ServiceName, Arc<Service>>,
    /// `[pool.*]`.
    pub pools: BTreeMap<PoolName, Arc<Pool>>,
}

impl Services {
    /// The services behind `tcp` listeners. HTTP listeners route to all others, by host and path.
    pub fn behind_tcp(&self) -> BTreeSet<&ServiceName> {
        let tcp = |listener: &&Arc<Listener>| listener.protocol == ListenerProtocol::Tcp;
        self.listeners.values().filter(tcp).filter_map(|listener| listener.service.as_ref()).collect()
    }

    /// The services that `tls` listeners name; HTTP listeners do not route to them.
    pub fn behind_tls(&self) -> BTreeSet<&ServiceName> {
        let tls = |listener: &&Arc<Listener>| listener.protocol == ListenerProtocol::Tls;
        let listeners = self.listeners.values().filter(tls);
        listeners.flat_map(|listener| listener.services.iter().chain(&listener.service)).collect()
    }

    /// The services that a `tls` listener serves: those that it names, or, when it lists none, all that no other
    /// listener names.
    pub fn served_by_tls<'a>(&'a self, listener: &'a Listener) -> impl Iterator<Item = &'a Arc<Service>> {
        let (by_port, named) = (self.behind_tcp(), self.behind_tls());
        let own =
            |name: &ServiceName| listener.services.contains(name) || listener.service.as_ref() == Some(name);
        let rest = move |name: &ServiceName| {
            listener.services.is_empty() && !by_port.contains(name) && !named.contains(name)
        };
        self.services.values().filter(move |service| own(&service.name) || rest(&service.name))
    }
}

/// `[region.NAME]`.
#[derive(Debug, Clone)]
pub struct Region {
    /// Its name.
    pub name: RegionName,
    /// Degrees north, −90 to 90, and east, −180 to 180; both or none.
    pub location: Option<(f64, f64)>,
    /// Users that belong here whatever a GeoIP file says.
    pub prefixes: Vec<IpNet>,
}

/// `[dns.zone."NAME"]`.
#[derive(Debug, Clone)]
pub struct DnsZone {
    /// Absolute, lower case, without the final dot: `lb.example.com`.
    pub name: String,
    /// Name server labels (relative to the zone) and their glue; never steered.
    pub nameservers: BTreeMap<String, Vec<IpAddr>>,
    /// The mailbox of SOA RNAME, as an address with `@`.
    pub contact: String,
    /// The TTL of steered answers and the default of records.
    pub ttl: Duration,
    /// Steered names, by label: `@`, `*`, or a relative name.
    pub steer: BTreeMap<String, Steer>,
    /// Static records.
    pub records: Vec<DnsRecord>,
}

/// `[dns.zone.*.steer.LABEL]`.
#[derive(Debug, Clone)]
pub struct Steer {
    /// Whose health decides.
    pub service: ServiceName,
    /// In which order regions are tried.
    pub policy: SteerPolicy,
    /// Addresses in an answer, 1 to 8.
    pub answers: usize,
}

/// In which order regions are tried for a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SteerPolicy {
    /// By distance from the user.
    Nearest,
    /// By round-trip time between regions, from the user's nearest region.
    Latency,
    /// At random by capacity.
    Weighted,
    /// In this order.
    Failover(Vec<RegionName>),
}

/// `[[dns.zone.*.record]]`, its value already checked by the dns crate.
#[derive(Debug, Clone)]
pub struct DnsRecord {
    /// `@` or a relative name.
    pub name: String,
    /// `MX`, `TXT` …, upper case.
    pub kind: String,
    /// In presentation format.
    pub value: String,
    /// Default: the zone's.
    pub ttl: Option<Duration>,
}

/// `[listener.NAME]`.
#[derive(Debug, Clone)]
pub struct Listener {
    /// Its name.
    pub name: ListenerName,
    /// The port, on every address of `[proxy] listen`.
    pub port: u16,
    /// What it speaks.
    pub protocol: ListenerProtocol,
    /// For `tcp`: the service behind it. For `tls`: the service of connections that ask for no name that is served.
    pub service: Option<ServiceName>,
    /// For `tls`: the services that are asked for by their hosts; empty: all that no other listener names.
    pub services: Vec<ServiceName>,
    /// Whose X-Forwarded-For is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Sources that must begin with a PROXY header; from all others it is refused.
    pub accept_proxy: Vec<IpNet>,
    /// Connections at once on this node.
    pub max_connections: usize,
    /// For `https`: what it shows, the default first. The files are each node's own.
    pub certificates: Vec<CertificateFiles>,
    /// For `https`: clients must show a certificate that one of this file's authorities signed.
    pub client_ca: Option<PathBuf>,
    /// For `https`: the value of Strict-Transport-Security.
    pub hsts: Option<HeaderValue>,
    /// For `http`: the port of the https listener that clients are sent to.
    pub redirect_https: Option<u16>,
}

/// One of `listener.*.certificate`: PEM files on each node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CertificateFiles {
    /// The chain, the server's own certificate first.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// What a listener speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenerProtocol {
    /// HTTP/1.1 and HTTP/2 in the clear.
    Http,
    /// HTTP over TLS.
    Https,
    /// Bytes.
    Tcp,
    /// TLS that the backends end; the name that is asked for says which.
    Tls,
}

/// `[service.NAME]`.
#[derive(Debug, Clone)]
pub struct Service {
    /// Its name.
    pub name: ServiceName,
    /// Host names, lower case, `*.example.com` for one wildcard label; empty: any.
    pub hosts: Vec<String>,
    /// Path prefixes that begin with `/`; matched at segment borders; the longest wins.
    pub paths: Vec<String>,
    /// The pools and their shares; at least one share is positive. A share of 0 keeps the users it has.
    pub split: Vec<(PoolName, u32)>,
    /// Rules that choose the pool whatever the split says; the first that fits wins.
    pub force: Vec<ForceRule>,
    /// Cookie persistence.
    pub sticky_cookie: Option<StickyCookie>,
    /// Source-address persistence: its idle time.
    pub sticky_source_ip: Option<Duration>,
    /// When not empty, only these clients are served.
    pub allow: Vec<IpNet>,
    /// These clients are refused.
    pub deny: Vec<IpNet>,
    /// Time limits.
    pub timeout: Timeouts,
    /// Further tries.
    pub retry: Retry,
}

/// One of `service.*.force`.
#[derive(Debug, Clone)]
pub struct ForceRule {
    /// The header that must be there ...
    pub header: HeaderName,
    /// ... with exactly this value.
    pub value: HeaderValue,
    /// The pool that then serves.
    pub pool: PoolName,
}

/// `service.*.sticky.cookie`.
#[derive(Debug, Clone)]
pub struct StickyCookie {
    /// The cookie's name, a token.
    pub name: String,
    /// Ends after this time without a request.
    pub ttl: Duration,
    /// Ends after this time in any case.
    pub max_age: Duration,
    /// What happens when the session's backend is gone.
    pub on_down: OnDown,
}

/// What happens to a session whose backend is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnDown {
    /// It moves to another backend and stays there.
    #[default]
    Repin,
    /// It is served elsewhere until its backend returns.
    Temporary,
    /// It is refused with 503.
    Refuse,
}

/// `service.*.timeout`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// To connect to a backend.
    pub connect: Duration,
    /// From the request to the head of the response.
    pub response: Duration,
    /// Silence of an established TCP relay or an upgraded connection.
    pub idle: Duration,
}

/// `service.*.retry`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Retry {
    /// Extra tries after the first.
    pub attempts: u32,
    /// The share of requests that may be retried, 0 to 1, for other than connect failures.
    pub budget: f64,
}

/// `[pool.NAME]`.
#[derive(Debug, Clone)]
pub struct Pool {
    /// Its name.
    pub name: PoolName,
    /// How a backend is chosen.
    pub balance: BalancePolicy,
    /// What its backends speak with HTTP services.
    pub protocol: PoolProtocol,
    /// With `protocol = "https"`: how its backends are spoken to; `None`: in the clear.
    pub tls: Option<BackendTls>,
    /// The health check; `None`: backends count as up until requests say otherwise.
    pub health: Option<HealthCheck>,
    /// The PROXY header sent to backends, TCP only.
    pub send_proxy: Option<SendProxy>,
    /// The backends, by id.
    pub backends: Vec<Arc<Backend>>,
}

/// What a pool's backends speak with HTTP services, over TLS or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PoolProtocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2 in the clear, by prior knowledge.
    Http2,
}

/// TLS towards the backends of a pool.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BackendTls {
    /// A PEM file, on each node, of the authorities that sign backends' certificates; `None`: not verified.
    pub ca: Option<PathBuf>,
    /// The name that is asked for (SNI) and must be certified; `None`: the backend's address.
    pub server_name: Option<String>,
}

/// How a backend is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BalancePolicy {
    /// The smallest (in flight over the mesh + 1) / weight.
    #[default]
    LeastBusy,
    /// In turn, by weight, smoothly.
    WeightedRoundRobin,
    /// The smallest (in flight from this node + 1) / weight.
    WeightedLeastConnections,
}

/// `pool.*.health.*`.
#[derive(Debug, Clone)]
pub struct HealthCheck {
    /// What is asked.
    pub probe: Probe,
    /// From the start of one probe to the start of the next.
    pub interval: Duration,
    /// A probe without an answer by then has failed.
    pub timeout: Duration,
    /// Successes in a row that bring a backend back.
    pub rise: u32,
    /// Failures in a row that take it out.
    pub fall: u32,
}

/// What a health check asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// GET `path` and expect a status in one of the ranges.
    Http {
        /// Begins with `/`.
        path: String,
        /// The Host header; `None`: the backend's address.
        host: Option<String>,
        /// Inclusive ranges.
        status: Vec<(StatusCode, StatusCode)>,
    },
    /// A connection is enough.
    Tcp,
    /// `grpc.health.v1.Health/Check` answers SERVING.
    Grpc {
        /// The service asked about; empty: the whole server.
        service: String,
    },
}

/// The version of the PROXY protocol sent to a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendProxy {
    /// The text line.
    V1,
    /// The binary header.
    V2,
}

/// One entry of `pool.*.backend`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    /// Hash of pool and address.
    pub id: BackendId,
    /// Where it listens.
    pub address: SocketAddr,
    /// The region it stands in; one of `[region.*]`, or the only region there is.
    pub region: RegionName,
    /// The zone in it.
    pub zone: Option<ZoneName>,
    /// The rack in that.
    pub rack: Option<RackName>,
    /// Its share, 1 to 65,535; 100 when the file says nothing. 0 takes no new sessions.
    pub weight: u16,
}
