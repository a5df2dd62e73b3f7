//! Where backends come from beside the file itself.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use gossip::id::RegionName;

/// What kind of source names a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SourceKind {
    /// `pool.*.backend`.
    Static,
    /// Added by an operator, until it is removed.
    Added,
    /// A lease that is renewed.
    Lease,
    /// A list in a file.
    File,
    /// A name in the DNS.
    Dns,
    /// Containers of a Docker Engine.
    Docker,
    /// EndpointSlices of a Kubernetes service.
    Kubernetes,
    /// Names no backend: scaling is about to stop one, whoever names it.
    Retired,
}

impl SourceKind {
    /// All that name backends, in the order in which they decide on a backend that several name.
    pub const ALL: [Self; 7] =
        [Self::Static, Self::Added, Self::Lease, Self::File, Self::Dns, Self::Docker, Self::Kubernetes];

    /// As status and the API spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Static => "static",
            Self::Added => "added",
            Self::Lease => "lease",
            Self::File => "file",
            Self::Dns => "dns",
            Self::Docker => "docker",
            Self::Kubernetes => "kubernetes",
            Self::Retired => "retired",
        }
    }
}

/// The kinds of sources that name one backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SourceKinds(u8);

impl SourceKinds {
    /// One kind.
    pub const fn of(kind: SourceKind) -> Self {
        Self(1 << kind as u8)
    }

    /// These and those.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether `kind` is one of them.
    pub const fn has(self, kind: SourceKind) -> bool {
        self.0 & 1 << kind as u8 != 0
    }
}

impl fmt::Display for SourceKinds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = SourceKind::ALL.into_iter().filter(|kind| self.has(*kind)).map(SourceKind::as_str);
        f.write_str(&kinds.collect::<Vec<_>>().join(","))
    }
}

/// One entry of `pool.*.discover`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceSpec {
    /// `discover.file`.
    File(FileSpec),
    /// `discover.dns`.
    Dns(DnsSpec),
    /// `discover.docker`.
    Docker(DockerSpec),
    /// `discover.kubernetes`.
    Kubernetes(KubernetesSpec),
}

impl SourceSpec {
    /// Its kind.
    pub fn kind(&self) -> SourceKind {
        match self {
            Self::File(_) => SourceKind::File,
            Self::Dns(_) => SourceKind::Dns,
            Self::Docker(_) => SourceKind::Docker,
            Self::Kubernetes(_) => SourceKind::Kubernetes,
        }
    }

    /// What it looks at, in words that tell two sources of one pool and kind apart.
    pub fn scope(&self) -> String {
        match self {
            Self::File(spec) => spec.path.display().to_string(),
            Self::Dns(spec) => match spec.port {
                Some(port) => {
                    format!("{} {} port {port} in {}", spec.name, spec.record.as_str(), spec.region)
                }
                None => format!("{} {} in {}", spec.name, spec.record.as_str(), spec.region),
            },
            Self::Docker(spec) => spec.label.clone(),
            Self::Kubernetes(spec) => format!("{}/{} in {}", spec.namespace, spec.service, spec.region),
        }
    }

    /// The region whose nodes ask it; `None`: every node asks its own.
    pub fn region(&self) -> Option<&RegionName> {
        match self {
            Self::File(_) | Self::Docker(_) => None,
            Self::Dns(spec) => Some(&spec.region),
            Self::Kubernetes(spec) => Some(&spec.region),
        }
    }

    /// Whether each node's answer is about things of its own, so that one node's answer replaces no other's.
    pub fn is_local(&self) -> bool {
        matches!(self, Self::Docker(_))
    }
}

/// `discover.file`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSpec {
    /// On every node that has it. JSON when it ends in `.json`, else TOML.
    pub path: PathBuf,
    /// Where entries stand that name no region; `None`: each has to.
    pub region: Option<RegionName>,
}

/// `discover.dns`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsSpec {
    /// What is asked for.
    pub name: String,
    /// Which records.
    pub record: RecordKind,
    /// The port of A and AAAA records; overrides nothing of SRV records, which have their own.
    pub port: Option<u16>,
    /// Whom to ask, in this order; empty: the resolvers of the node's system.
    pub resolvers: Vec<SocketAddr>,
    /// Where the backends stand, and whose nodes ask.
    pub region: RegionName,
    /// The most time between two questions, however long the TTL.
    pub refresh: Duration,
}

/// Which records name backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordKind {
    /// SRV (RFC 2782).
    Srv,
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
}

impl RecordKind {
    /// As DNS spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Srv => "SRV",
            Self::A => "A",
            Self::Aaaa => "AAAA",
        }
    }
}

/// `discover.docker`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DockerSpec {
    /// `KEY=VALUE` that containers have to carry.
    pub label: String,
    /// The network whose addresses are taken; `None`: the only one, or the first by name.
    pub network: Option<String>,
    /// Whether ports are reached at this node's published ones and not at the container's own address.
    pub published: bool,
}

/// `discover.kubernetes`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KubernetesSpec {
    /// The service whose EndpointSlices are followed.
    pub service: String,
    /// Its namespace.
    pub namespace: String,
    /// The name of the port; `None`: the only one.
    pub port: Option<String>,
    /// Where the backends stand, and whose nodes ask.
    pub region: RegionName,
}

/// `pool.*.lease`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseRule {
    /// How long a lease lasts that asks for no time of its own.
    pub ttl: Duration,
}

/// `pool.*.scale`.
#[derive(Debug, Clone, PartialEq)]
pub struct Scale {
    /// Never fewer backends than this.
    pub min: u32,
    /// Never more.
    pub max: u32,
    /// What each backend is to have.
    pub target: ScaleTarget,
    /// For so long the load must have been low, and nothing must have been changed, before backends are removed.
    pub cooldown: Duration,
    /// Who starts and stops backends.
    pub via: ScaleVia,
    /// Decide and say so, but do nothing.
    pub dry_run: bool,
}

/// What each backend of a pool is to have, counted over the whole mesh.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ScaleTarget {
    /// Requests in flight.
    InFlight(f64),
    /// Requests a second.
    Requests(f64),
    /// The time within which 99 of 100 requests are answered.
    P99(Duration),
}

impl ScaleTarget {
    /// As the configuration spells it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::InFlight(_) => "in_flight",
            Self::Requests(_) => "requests",
            Self::P99(_) => "p99",
        }
    }
}

/// Who starts and stops backends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScaleVia {
    /// A program, its path and its arguments: gets the decision as JSON on its standard input.
    Exec(Vec<String>),
    /// An `http://` URL: gets the decision as JSON by POST.
    Webhook(String),
    /// The Docker Engine of the node that acts.
    Docker(DockerTemplate),
}

/// What containers are started from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DockerTemplate {
    /// An image that the engine has.
    pub image: String,
    /// The port on which they listen.
    pub port: u16,
    /// The network they join; `None`: the engine's default.
    pub network: Option<String>,
    /// `KEY=VALUE`.
    pub env: Vec<String>,
}
