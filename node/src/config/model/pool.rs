//! Who serves it: pools and their backends.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use gossip::id::{BackendId, PoolName, RackName, RegionName, ZoneName};
use http::{HeaderName, StatusCode};

use super::{LeaseRule, Scale, SourceKinds, SourceSpec};

/// `[pool.NAME]`.
#[derive(Debug, Clone)]
pub struct Pool {
    /// Its name.
    pub name: PoolName,
    /// How a backend is chosen.
    pub balance: BalancePolicy,
    /// What its backends speak with HTTP services.
    pub protocol: PoolProtocol,
    /// With `protocol = "https"` or `tls = true`: how TLS is spoken with its backends; `None`: in the clear.
    pub tls: Option<BackendTls>,
    /// The health check; `None`: backends count as up until requests say otherwise.
    pub health: Option<HealthCheck>,
    /// How long a backend that comes (back) takes to grow to its whole weight; `None`: it has it at once.
    pub slow_start: Option<Duration>,
    /// Requests (or connections) in flight on one backend from one node; more wait. `None`: no limit.
    pub max_connections: Option<u32>,
    /// When a node leaves a backend out because of what its own requests met.
    pub ejection: EjectionRule,
    /// The PROXY header sent to backends, TCP only.
    pub send_proxy: Option<SendProxy>,
    /// Where backends come from beside the file itself.
    pub sources: Vec<SourceSpec>,
    /// Whether backends may register themselves, and for how long at a time.
    pub lease: Option<LeaseRule>,
    /// Whether it grows and shrinks with its load.
    pub scale: Option<Scale>,
    /// How long a backend that no source names any more keeps its sessions before it is taken out.
    pub drain: Duration,
    /// The backends: those of the file, and in the data plane those that sources found too.
    pub backends: Vec<Arc<Backend>>,
}

impl Pool {
    /// [`Pool::drain`] where the file says nothing.
    pub const DRAIN: Duration = Duration::from_secs(30);
}

/// What a pool's backends speak with HTTP services, over TLS or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PoolProtocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2: by prior knowledge in the clear, agreed on by ALPN over TLS.
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

/// `pool.*.ejection`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EjectionRule {
    /// Failed requests in a row that eject a backend.
    pub consecutive: u32,
    /// How long the first ejection lasts where probes cannot tell; it doubles with each repeat, up to twelve times as long.
    pub base: Duration,
    /// The part of the pool, 0 to 1, that failing requests may eject where no other region can take over; one backend
    /// always. Refused connections are not limited.
    pub max_share: f64,
    /// When a backend's share of failures, though not in a row, ejects it.
    pub rate: FailureRate,
}

impl Default for EjectionRule {
    fn default() -> Self {
        Self { consecutive: 5, base: Duration::from_secs(5), max_share: 0.5, rate: FailureRate::default() }
    }
}

/// The part of `pool.*.ejection` that looks at all requests of an interval. Failures are those that count in a row, and
/// answers of any status from 500.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FailureRate {
    /// How long requests are counted before they are judged.
    pub interval: Duration,
    /// A backend with fewer requests in an interval is not judged: so few say nothing.
    pub min_requests: u32,
    /// A backend that fails this share of its requests or more, 0.01 to 1, is ejected; `None`: no share does.
    pub failures: Option<f64>,
    /// A backend is ejected whose share of successes lies this many standard deviations below the mean of the pool, 0.5 to
    /// 10; `None`: backends are not compared.
    pub deviations: Option<f64>,
}

impl FailureRate {
    /// Whether anything is judged at all.
    pub fn is_judged(&self) -> bool {
        self.failures.is_some() || self.deviations.is_some()
    }
}

impl Default for FailureRate {
    fn default() -> Self {
        Self { interval: Duration::from_secs(10), min_requests: 100, failures: None, deviations: None }
    }
}

/// How a backend is chosen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum BalancePolicy {
    /// The smallest (in flight over the mesh + 1) / weight.
    #[default]
    LeastBusy,
    /// In turn, by weight, smoothly.
    WeightedRoundRobin,
    /// The smallest (in flight from this node + 1) / weight.
    WeightedLeastConnections,
    /// The smaller latency × in flight of two drawn at random by weight.
    PeakEwma,
    /// At random by weight.
    Random,
    /// By a hash of something of the request, within a bound on the load.
    Hash(HashOn),
}

impl BalancePolicy {
    /// As the configuration spells it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::LeastBusy => "least-busy",
            Self::WeightedRoundRobin => "weighted-round-robin",
            Self::WeightedLeastConnections => "weighted-least-connections",
            Self::PeakEwma => "peak-ewma",
            Self::Random => "random",
            Self::Hash(_) => "hash",
        }
    }
}

/// What of a request `balance = "hash"` looks at. Requests without it go to the least busy backend.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum HashOn {
    /// The client's address, as trust yields it.
    #[default]
    SourceIp,
    /// The first value of a header.
    Header(HeaderName),
    /// The first cookie of a name.
    Cookie(String),
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

/// One entry of `pool.*.backend`, or what a source found.
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
    /// Who names it.
    pub sources: SourceKinds,
    /// Its source takes it away: it keeps its sessions and gets no new ones.
    pub leaving: bool,
    /// It takes new sessions only while none of a smaller number does (RFC 2782); 0 but where SRV records say otherwise.
    pub priority: u16,
}
