//! The sections of `node.toml`: every key optional, each value with its place.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use gossip::id::{NodeName, RegionName, ZoneName};
use ipnet::IpNet;
use toml::de::DeTable;

use crate::config::diagnostics::{Diagnostics, Span};
use crate::config::model::{AccessFormat, AccessLog, CertificateFiles, LogFormat};
use crate::config::read::{self, secs};
use crate::config::suggest;
use crate::config::walk::{At, Table, Value};

/// What a `node.toml` says.
#[derive(Default)]
pub(super) struct Settings {
    pub(super) name: Option<NodeName>,
    pub(super) region: Option<RegionName>,
    pub(super) zone: Option<ZoneName>,
    pub(super) scale_exec: Vec<PathBuf>,
    pub(super) data: Option<PathBuf>,
    pub(super) public: Vec<At<IpAddr>>,
    pub(super) drain: Option<Duration>,
    pub(super) mesh_listen: Option<At<SocketAddr>>,
    pub(super) advertise: Option<At<SocketAddr>>,
    pub(super) seeds: Vec<String>,
    pub(super) key_file: Option<At<PathBuf>>,
    pub(super) proxy_listen: Option<Vec<At<IpAddr>>>,
    pub(super) workers: Option<usize>,
    pub(super) dns_listen: Vec<At<SocketAddr>>,
    pub(super) geoip: Option<At<PathBuf>>,
    pub(super) dns_tls: Option<At<TlsSettings>>,
    pub(super) dns_transfer: Vec<IpNet>,
    pub(super) dns_rate: Option<dns::ResponseRate>,
    pub(super) admin_listen: Option<At<SocketAddr>>,
    pub(super) token_file: Option<At<PathBuf>>,
    pub(super) log_level: Option<String>,
    pub(super) log_format: Option<LogFormat>,
    pub(super) access: Option<AccessLog>,
    pub(super) access_format: Option<AccessFormat>,
}

/// `[dns] tls`.
pub(super) struct TlsSettings {
    /// `None`: the hosts of `listen`.
    pub(super) listen: Option<Vec<SocketAddr>>,
    pub(super) certificates: Vec<CertificateFiles>,
}

/// A file that the node reads at start, and what it is without.
pub(super) struct NamedFile<'s> {
    pub(super) span: &'s Span,
    pub(super) path: &'s Path,
    pub(super) without: &'static str,
}

impl Settings {
    /// Paths that are not absolute count from `folder`, the file's own.
    pub(super) fn stand_in(&mut self, folder: &Path) {
        let here = |path: &mut PathBuf| *path = folder.join(&*path);
        self.data.iter_mut().for_each(here);
        let located = [&mut self.geoip, &mut self.key_file, &mut self.token_file];
        located.into_iter().flatten().for_each(|at| here(&mut at.value));
        if let Some(AccessLog::File(path)) = &mut self.access {
            here(path);
        }
        for files in self.dns_tls.iter_mut().flat_map(|tls| &mut tls.value.certificates) {
            here(&mut files.cert);
            here(&mut files.key);
        }
    }

    /// The files that must be there.
    pub(super) fn files(&self) -> impl Iterator<Item = NamedFile<'_>> {
        fn located<'s>(at: &'s Option<At<PathBuf>>, without: &'static str) -> Option<NamedFile<'s>> {
            at.as_ref().map(|at| NamedFile { span: &at.span, path: &at.value, without })
        }
        let key = located(&self.key_file, "it does not start without it (`meridian key new` makes one)");
        let certificates = self.dns_tls.iter().flat_map(|tls| {
            let paths = tls.value.certificates.iter().flat_map(|files| [&files.cert, &files.key]);
            paths.map(|path| NamedFile {
                span: &tls.span,
                path,
                without: "until it can be read the clients of DNS over TLS that it is for are turned away",
            })
        });
        let geoip = located(&self.geoip, "until it can be read users are placed by `prefixes` alone");
        let token = located(&self.token_file, "it does not start without it");
        [key, geoip, token].into_iter().flatten().chain(certificates)
    }
}

pub(super) fn read<'t>(tree: &'t toml::Spanned<DeTable<'t>>, sink: &'t Diagnostics) -> Settings {
    let mut file = Settings::default();
    let mut root = Table::root(tree, sink);
    let mut section = |key, read: fn(&mut Settings, &mut Table<'t>)| {
        if let Some(mut table) = root.value(key).and_then(|value| value.table()) {
            read(&mut file, &mut table);
            table.finish();
        }
    };
    section("node", node);
    section("mesh", mesh);
    section("proxy", proxy);
    section("dns", dns);
    section("admin", admin);
    section("log", log);
    for key in ["region", "listener", "service", "pool"] {
        if let Some((span, _)) = root.misplaced(key) {
            let hint = format!("`[{key}.*]` belongs to services.toml, which the whole mesh shares");
            sink.error(span, format!("unknown key `{key}`"), Some(hint));
        }
    }
    root.finish();
    file
}

fn node(file: &mut Settings, table: &mut Table<'_>) {
    file.name = table.optional("name", read::name);
    file.region = table.optional("region", read::name);
    file.zone = table.optional("zone", read::name);
    file.scale_exec = table.optional("scale_exec", read::list(read::path)).unwrap_or_default();
    file.data = table.optional("data", read::path);
    file.public = table.optional("public", read::list(read::located(read::ip))).unwrap_or_default();
    file.drain = table.optional("drain", read::duration(secs(0)..=super::MAX_DRAIN));
}

fn mesh(file: &mut Settings, table: &mut Table<'_>) {
    file.mesh_listen = table.optional("listen", read::located(read::socket));
    file.advertise = table.optional("advertise", read::located(read::socket));
    file.seeds = table.optional("seeds", read::list(seed)).unwrap_or_default();
    file.key_file = table.optional("key_file", read::located(read::path));
}

fn proxy(file: &mut Settings, table: &mut Table<'_>) {
    file.proxy_listen = table.optional("listen", |value| {
        if value.list()?.next().is_none() {
            value.wrong_but("`listen` is empty", "leave it out to listen on every address");
        }
        read::list(read::located(read::ip))(value)
    });
    file.workers = table.optional("workers", read::integer(1..=super::MAX_WORKERS as i64));
}

fn dns(file: &mut Settings, table: &mut Table<'_>) {
    file.dns_listen = table.optional("listen", read::list(read::located(read::socket))).unwrap_or_default();
    file.geoip = table.optional("geoip", read::located(read::path));
    file.dns_tls = table.keyed("tls").and_then(|(span, value)| Some(At { span, value: dns_tls(&value)? }));
    file.dns_transfer = table.optional("transfer", read::list(read::network)).unwrap_or_default();
    file.dns_rate = table.optional("rate_limit", response_rate);
    if let Some((span, _)) = table.misplaced("zone") {
        let hint = "`[dns.zone.*]` belongs to services.toml, which the whole mesh shares";
        table.sink().error(span, "unknown key `zone`", Some(hint.into()));
    }
}

fn dns_tls(value: &Value<'_>) -> Option<TlsSettings> {
    /// A list that is not empty.
    fn some<T>(read: impl Fn(&Value<'_>) -> Option<T>) -> impl Fn(&Value<'_>) -> Option<Vec<T>> {
        let list = read::list(read);
        move |value| {
            if value.list()?.next().is_none() {
                value.wrong(format!("`{}` names none", value.name));
            }
            list(value)
        }
    }
    let mut table = value.table()?;
    let listen = table.optional("listen", some(read::socket));
    let certificates = table.required("certificate", some(read::certificate));
    table.finish();
    Some(TlsSettings { listen, certificates: certificates? })
}

/// How many answers over the limit one is sent cut, when nothing is said: every second, as name servers commonly do.
const DEFAULT_SLIP: u32 = 2;

fn response_rate(value: &Value<'_>) -> Option<dns::ResponseRate> {
    let mut table = value.table()?;
    if table.place("per_network").is_none() {
        let hint = "per_network = 20 for 20 answers a second to one /24 or /56";
        table.sink().absent(table.span(), "`per_network` is missing here", Some(hint.into()));
    }
    let per_second = table.optional("per_network", read::integer(1..=1_000_000));
    let slip = table.optional("slip", read::integer(0..=100)).unwrap_or(DEFAULT_SLIP);
    table.finish();
    Some(dns::ResponseRate { per_second: per_second?, slip })
}

fn admin(file: &mut Settings, table: &mut Table<'_>) {
    file.admin_listen = table.optional("listen", read::located(read::socket));
    file.token_file = table.optional("token_file", read::located(read::path));
}

fn log(file: &mut Settings, table: &mut Table<'_>) {
    const FORMATS: &[(&str, LogFormat)] = &[("text", LogFormat::Text), ("json", LogFormat::Json)];
    file.log_level = table.optional("level", level);
    file.log_format = table.optional("format", read::choice(FORMATS, &[]));
    const ACCESS_FORMATS: &[(&str, AccessFormat)] =
        &[("text", AccessFormat::Text), ("json", AccessFormat::Json), ("combined", AccessFormat::Combined)];
    file.access = table.optional("access", |value| read::parsed(value, parse_access));
    file.access_format = table.optional("access_format", read::choice(ACCESS_FORMATS, &[]));
}

fn seed(value: &Value<'_>) -> Option<String> {
    read::parsed(value, parse_seed)
}

/// `HOST:PORT`, where the host is a name, an IPv4 address or an IPv6 address in brackets.
pub(super) fn parse_seed(text: &str) -> Result<String, String> {
    let fault = || format!("`{text}` is no HOST:PORT, such as us-1.example.net:7946 or [2001:db8::1]:7946");
    let (host, port) = text.rsplit_once(':').ok_or_else(fault)?;
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    let bracketed = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let host_fits = match bracketed {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => (1..=253).contains(&host.len()) && host.bytes().all(letter),
    };
    let port_fits = port.parse::<u16>().is_ok_and(|port| port != 0);
    if host_fits && port_fits { Ok(text.to_owned()) } else { Err(fault()) }
}

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

fn level(value: &Value<'_>) -> Option<String> {
    let text = value.text()?;
    if let Err(error) = parse_level(text) {
        let hint = suggest::hint(text, "one of", LEVELS, []);
        value.sink.error(value.span.clone(), error, hint);
        return None;
    }
    Some(text.to_owned())
}

/// `LEVEL` or `TARGET=LEVEL`, several with commas between them.
pub(super) fn parse_level(text: &str) -> Result<String, String> {
    let target = |target: &str| {
        !target.is_empty()
            && target.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b':'))
    };
    for directive in text.split(',') {
        let (scope, level) =
            directive.split_once('=').map_or((None, directive), |(scope, level)| (Some(scope), level));
        if !LEVELS.contains(&level) || !scope.is_none_or(target) {
            return Err(format!(
                "`{directive}` is no log level, nor one for a part of the program: gossip=debug"
            ));
        }
    }
    Ok(text.to_owned())
}

/// `stdout`, `off` or a path, which has a slash in it.
pub(crate) fn parse_access(text: &str) -> Result<AccessLog, String> {
    match text {
        "stdout" => Ok(AccessLog::Stdout),
        "off" => Ok(AccessLog::Off),
        path if path.contains('/') => Ok(AccessLog::File(path.into())),
        _ => Err(format!(
            "`{text}` is neither `stdout` nor `off` nor a path such as /var/log/meridian/access.log"
        )),
    }
}
