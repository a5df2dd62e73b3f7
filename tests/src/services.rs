//! `services.toml`, piece by piece.

use std::fmt::{Display, Write};
use std::net::SocketAddr;

use crate::backend::{HttpBackend, TcpBackend};
use crate::net::{HTTP, Net, TCP};

/// The host that users ask for.
pub const HOST: &str = "www.example.com";
/// The delegated zone.
pub const ZONE: &str = "lb.example.com";
/// The steered name in it.
pub const NAME: &str = "www.lb.example.com.";
/// The session cookie.
pub const COOKIE: &str = "meridian";

/// Regions of the proofs: name, latitude, longitude, the users' prefix. From eu the next is us, from the other two eu.
pub const REGIONS: [(&str, f64, f64, &str); 3] = [
    ("eu", 50.11, 8.68, "10.1.0.0/16"),
    ("us", 39.04, -77.49, "10.2.0.0/16"),
    ("ap", 1.35, 103.82, "10.3.0.0/16"),
];

/// The users' prefix of a region.
pub fn users_of(region: &str) -> &'static str {
    REGIONS.iter().find(|each| each.0 == region).map_or("192.0.2.0/24", |each| each.3)
}

/// One entry of a pool.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Where.
    pub address: SocketAddr,
    /// In which region.
    pub region: String,
    /// Its share.
    pub weight: u32,
}

impl From<&HttpBackend> for Entry {
    fn from(backend: &HttpBackend) -> Self {
        Self { address: backend.address(), region: backend.region().to_owned(), weight: 100 }
    }
}

impl From<&TcpBackend> for Entry {
    fn from(backend: &TcpBackend) -> Self {
        Self { address: backend.address(), region: backend.region().to_owned(), weight: 100 }
    }
}

/// A file in the making.
#[derive(Debug, Clone)]
pub struct Services(String);

impl Default for Services {
    fn default() -> Self {
        Self::new()
    }
}

impl Services {
    /// With the three regions.
    pub fn new() -> Self {
        let mut text = String::new();
        for (name, latitude, longitude, prefix) in REGIONS {
            let place = format!("latitude = {latitude}\nlongitude = {longitude}\nprefixes = [\"{prefix}\"]");
            let _ = writeln!(text, "[region.{name}]\n{place}\n");
        }
        Self(text)
    }

    /// More, as it stands in the file.
    #[must_use]
    pub fn and(mut self, text: impl Display) -> Self {
        let _ = writeln!(self.0, "{text}\n");
        self
    }

    /// The zone, whose steered name follows the health of `service`.
    #[must_use]
    pub fn zone(self, net: &Net, service: &str) -> Self {
        let (ns1, ns2) = (net.node(0), net.node(1));
        self.and(format!(
            "[dns.zone.\"{ZONE}\"]\nnameserver = {{ ns1 = [\"{ns1}\"], ns2 = [\"{ns2}\"] }}\n\
             contact = \"hostmaster@example.com\"\nttl = \"5s\"\n\
             [dns.zone.\"{ZONE}\".steer.www]\nservice = \"{service}\"\npolicy = \"nearest\"\nanswers = 2"
        ))
    }

    /// An HTTP listener on the usual port.
    #[must_use]
    pub fn http_listener(self) -> Self {
        self.and(format!("[listener.http]\nport = {HTTP}\nprotocol = \"http\""))
    }

    /// A TCP listener on the usual port.
    #[must_use]
    pub fn tcp_listener(self, service: &str) -> Self {
        self.and(format!("[listener.tcp]\nport = {TCP}\nprotocol = \"tcp\"\nservice = \"{service}\""))
    }

    /// A service with a split, `"web-v1 = 90, web-v2 = 10"`, and more keys of it.
    #[must_use]
    pub fn service(self, name: &str, split: &str, more: &str) -> Self {
        self.and(format!("[service.{name}]\nsplit = {{ {split} }}\n{more}"))
    }

    /// A pool with more keys of it.
    #[must_use]
    pub fn pool<E: Into<Entry>>(self, name: &str, more: &str, backends: impl IntoIterator<Item = E>) -> Self {
        let mut text = format!("[pool.{name}]\n{more}\nbackend = [\n");
        for entry in backends {
            let Entry { address, region, weight } = entry.into();
            let _ =
                writeln!(text, "  {{ address = \"{address}\", region = \"{region}\", weight = {weight} }},");
        }
        text.push(']');
        self.and(text)
    }

    /// The usual shop: zone, HTTP listener, service `web` with a session cookie over one pool of checked backends.
    pub fn shop(net: &Net, backends: &[HttpBackend]) -> Self {
        Self::new()
            .zone(net, "web")
            .http_listener()
            .service("web", "web-v1 = 1", STICKY_COOKIE)
            .pool("web-v1", HTTP_CHECK, backends)
    }

    /// The same with the zone signed.
    #[must_use]
    pub fn signed(self) -> Self {
        Self(self.0.replace("contact = \"hostmaster", "dnssec = true\ncontact = \"hostmaster"))
    }

    /// A static record of the zone, for an hour.
    #[must_use]
    pub fn record(self, name: &str, kind: &str, value: &str) -> Self {
        self.and(format!(
            "[[dns.zone.\"{ZONE}\".record]]\nname = \"{name}\"\ntype = \"{kind}\"\nvalue = \"{value}\"\nttl = \"1h\""
        ))
    }

    /// The file.
    pub fn text(&self) -> &str {
        &self.0
    }
}

/// Users keep their backend by cookie.
pub const STICKY_COOKIE: &str =
    "sticky.cookie = { name = \"meridian\", ttl = \"8h\", max_age = \"24h\", on_down = \"repin\" }";
/// Users keep their backend by address.
pub const STICKY_SOURCE: &str = "sticky.source_ip = { ttl = \"30m\" }";
/// A check that is quick enough for tests and patient enough for two busy cores.
pub const HTTP_CHECK: &str =
    "health.http = { path = \"/healthz\", interval = \"500ms\", timeout = \"500ms\", rise = 2, fall = 3 }";
/// The same by connection.
pub const TCP_CHECK: &str = "health.tcp = { interval = \"500ms\", timeout = \"500ms\", rise = 2, fall = 3 }";
