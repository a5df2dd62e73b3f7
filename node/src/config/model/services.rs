//! What the whole mesh serves: regions, zones, listeners, services.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use gossip::id::{ListenerName, PoolName, RegionName, ServiceName};
use http::{HeaderName, HeaderValue};
use ipnet::IpNet;

use super::Pool;
use crate::config::prefixes::PrefixSet;

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
    /// Records of a zone file.
    pub file: Option<Arc<dns::ZoneFile>>,
    /// Whether answers are signed.
    pub dnssec: bool,
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
    /// When a region passes users on before it is full.
    pub shed: Option<dns::Shed>,
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
    /// Of them so many for one client; `None`: as many as there are.
    pub max_connections_per_client: Option<u32>,
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
    pub allow: PrefixSet,
    /// These clients are refused.
    pub deny: PrefixSet,
    /// How often clients may ask; `None`: as often as they like.
    pub rate_limit: Option<RateLimit>,
    /// What users are told of the software behind.
    pub disclosure: Disclosure,
    /// Bytes a second: a client that sends its body more slowly is given up; 0: none is.
    pub min_body_rate: u32,
    /// Time limits.
    pub timeout: Timeouts,
    /// Further tries.
    pub retry: Retry,
}

/// `service.*.rate_limit`: requests, or connections behind a TCP listener, on each node.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RateLimit {
    /// What one client may, 0.001 to 1,000,000 a second and 1 to 100,000 at once; `None`: as much as it likes.
    pub per_client: Option<Rate>,
    /// What all clients together may, 0.001 to 10,000,000 a second and 1 to 10,000,000 at once; `None`: no limit.
    pub service: Option<Rate>,
}

/// How often something may happen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// A second, above 0.
    pub per_second: f64,
    /// At once after a pause, at least 1.
    pub burst: u32,
}

/// `service.*.pass_headers` and `service.*.server`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Disclosure {
    /// Headers that are passed though they tell of the software that backends are made of.
    pub passes: Vec<Telltale>,
    /// What Server says instead of what the backend says; `None`: nothing, unless it is passed.
    pub server: Option<HeaderValue>,
}

/// A response header that tells of the software that a backend is made of, or of machines behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Telltale {
    /// Server (RFC 9110 §10.2.4).
    Server,
    /// Via (RFC 9110 §7.6.3).
    Via,
    /// Of PHP, Express and others.
    XPoweredBy,
    /// Of ASP.NET.
    XAspnetVersion,
    /// Of ASP.NET MVC.
    XAspnetmvcVersion,
}

impl Telltale {
    /// All of them.
    pub const ALL: &'static [Self] =
        &[Self::Server, Self::Via, Self::XPoweredBy, Self::XAspnetVersion, Self::XAspnetmvcVersion];

    /// As headers and the configuration spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Via => "via",
            Self::XPoweredBy => "x-powered-by",
            Self::XAspnetVersion => "x-aspnet-version",
            Self::XAspnetmvcVersion => "x-aspnetmvc-version",
        }
    }
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
    /// Silence of an established TCP relay or an upgraded connection, or of an HTTP/1.1 backend within its answer.
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
