//! `node.toml` and the flags over it: what one node is.
//!
//! ```text
//! node.toml ─▶ Settings ─┐
//! flags, environment ────┼─▶ NodeConfig     a flag wins over the file, the file over the machine
//! Machine ───────────────┘
//! ```

mod machine;
mod overrides;
mod settings;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use gossip::id::{NodeName, RegionName};

use super::diagnostics::{Diagnostics, Span};
use super::model::{
    AccessFormat, AccessLog, AdminConfig, DnsTls, LogConfig, LogFormat, MeshConfig, NodeConfig, others_reach,
};
use super::report::Report;
use super::walk::{self, At};
pub use machine::Machine;
pub use overrides::NodeOverrides;
use settings::Settings;
pub(crate) use settings::parse_access;

const DEFAULT_MESH: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 7946);
const DEFAULT_ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7900);
const DEFAULT_PROXY: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
const DEFAULT_DRAIN: Duration = Duration::from_secs(60);
const MAX_DRAIN: Duration = Duration::from_secs(86_400);
const MAX_WORKERS: usize = 1_024;

/// A node's configuration without errors.
#[derive(Debug, Clone)]
pub struct Validated {
    /// What it says.
    pub node: NodeConfig,
    /// What somebody should look at; often empty.
    pub warnings: Report,
}

/// Reads and validates a whole `node.toml` and lays the flags over it; an empty text is a node of defaults. Pure.
///
/// # Errors
/// Every error and warning of the file and of the flags.
pub fn parse(
    source_name: &str,
    text: &str,
    overrides: &NodeOverrides,
    machine: &Machine,
) -> Result<Validated, Report> {
    parse_in(None, None, source_name, text, overrides, machine)
}

/// A shorter admin token is refused.
pub(crate) const TOKEN_MIN_BYTES: usize = 16;

/// Whether a file can be read, and if not, why.
type Look<'l> = &'l dyn Fn(&Path) -> std::io::Result<()>;

fn parse_in(
    folder: Option<&Path>,
    look: Option<Look<'_>>,
    source_name: &str,
    text: &str,
    overrides: &NodeOverrides,
    machine: &Machine,
) -> Result<Validated, Report> {
    let sink = Diagnostics::default();
    let tree = walk::parse(text, &sink);
    let mut file = settings::read(&tree, &sink);
    if let Some(folder) = folder {
        file.stand_in(folder);
    }
    for (named, look) in file.files().filter_map(|named| Some((named, look?))) {
        if let Err(error) = look(named.path) {
            let message = format!("{} cannot be read on this machine: {error}", named.path.display());
            sink.warning(named.span.clone(), message, Some(format!("on the node: {}", named.without)));
        }
    }
    if look.is_some()
        && let Some(token) = &file.token_file
        && std::fs::read_to_string(&token.value).is_ok_and(|text| text.trim().len() < TOKEN_MIN_BYTES)
    {
        let message = format!("the token in {} is too short", token.value.display());
        let hint = format!("the node does not start with fewer than {TOKEN_MIN_BYTES} characters");
        sink.warning(token.span.clone(), message, Some(hint));
    }
    let node = merge(file, overrides, machine, &sink);
    let warnings = sink.into_report(source_name, text);
    match node {
        Some(node) if !warnings.has_errors() => Ok(Validated { node, warnings }),
        _ => Err(warnings),
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file or the flags are wrong.
    #[error("{0}")]
    Invalid(Report),
}

/// Checks a `node.toml` for [`load`] on this machine, and that the files which it names can be read here; one that cannot is
/// a warning, since the node may be another machine. `path` is where the text stands, `-` for nowhere.
///
/// # Errors
/// Every error and warning of the file.
pub fn check(path: &Path, text: &str) -> Result<Validated, Report> {
    let look = |path: &Path| std::fs::File::open(path).map(drop);
    let folder = path.parent().filter(|_| path != Path::new("-"));
    let name = path.display().to_string();
    parse_in(folder, Some(&look), &name, text, &NodeOverrides::default(), &Machine::probe())
}

/// [`parse`] of the file at `path` (none: defaults and flags alone) on this machine. Relative paths in it count from its folder.
///
/// # Errors
/// The file cannot be read, or is wrong.
pub fn load(path: Option<&Path>, overrides: &NodeOverrides) -> Result<Validated, LoadError> {
    let (name, text) = match path {
        Some(path) => {
            let text =
                super::read_file(path).map_err(|source| LoadError::Read { path: path.into(), source })?;
            (path.display().to_string(), text)
        }
        None => ("flags".into(), String::new()),
    };
    let folder = path.and_then(Path::parent);
    parse_in(folder, None, &name, &text, overrides, &Machine::probe()).map_err(LoadError::Invalid)
}

/// A value and its place; a flag has none in the file.
struct Setting<T> {
    value: T,
    span: Option<Span>,
}

impl<T> From<At<T>> for Setting<T> {
    fn from(At { span, value }: At<T>) -> Self {
        Self { value, span: Some(span) }
    }
}

impl<T> Setting<T> {
    /// Not from the file.
    fn bare(value: T) -> Self {
        Self { value, span: None }
    }
}

fn one<T: Clone>(flag: &Option<T>, file: Option<At<T>>) -> Option<Setting<T>> {
    flag.clone().map(Setting::bare).or(file.map(Setting::from))
}

fn several<T: Clone>(flags: &[T], file: Vec<At<T>>) -> Vec<Setting<T>> {
    match flags {
        [] => file.into_iter().map(Setting::from).collect(),
        flags => flags.iter().cloned().map(Setting::bare).collect(),
    }
}

fn merge(file: Settings, flags: &NodeOverrides, machine: &Machine, sink: &Diagnostics) -> Option<NodeConfig> {
    let mesh_listen = one(&flags.mesh_listen, file.mesh_listen).unwrap_or(Setting::bare(DEFAULT_MESH));
    let advertise = one(&flags.advertise, file.advertise);
    let admin_listen = one(&flags.admin_listen, file.admin_listen).unwrap_or(Setting::bare(DEFAULT_ADMIN));
    let bare_path = |at: Option<At<PathBuf>>| at.map(|at| at.value);
    let token_file = flags.admin_token_file.clone().or(bare_path(file.token_file));
    let public = several(&flags.public, file.public);
    let proxy_listen = several(&flags.proxy_listen, file.proxy_listen.unwrap_or_default());
    let dns_listen = several(&flags.dns_listen, file.dns_listen);
    let workers = flags.workers.or(file.workers);
    let drain = flags.drain.or(file.drain).unwrap_or(DEFAULT_DRAIN);

    check_mesh(&mesh_listen, advertise.as_ref(), sink);
    check_admin(&admin_listen, token_file.is_some(), sink);
    check_public(&public, sink);
    check_distinct("proxy.listen", &proxy_listen, sink);
    check_distinct("dns.listen", &dns_listen, sink);
    if let Some(tls) = file.dns_tls.as_ref().filter(|_| dns_listen.is_empty()) {
        let hint = "listen = [\"0.0.0.0:53\"] in [dns], or --dns-listen";
        sink.error(
            tls.span.clone(),
            "`tls` needs DNS itself, which is off without `listen`",
            Some(hint.into()),
        );
    }
    if !workers.is_none_or(|workers| (1..=MAX_WORKERS).contains(&workers)) {
        sink.error_at(None, format!("--workers must be between 1 and {MAX_WORKERS}"), None);
    }
    if drain > MAX_DRAIN {
        sink.error_at(None, "--drain must be at most 1day", None);
    }
    let name = flags.name.clone().or(file.name).or_else(|| host_name(&machine.host_name, sink))?;
    let log_format = flags.log_format.or(file.log_format).unwrap_or(LogFormat::Text);
    let bare = |settings: Vec<Setting<IpAddr>>| {
        settings.into_iter().map(|setting| setting.value).collect::<Vec<_>>()
    };
    let proxy_listen = bare(proxy_listen);
    let seeds = if flags.seeds.is_empty() { file.seeds } else { flags.seeds.clone() };
    Some(NodeConfig {
        name,
        region: flags.region.clone().or(file.region).or_else(|| RegionName::new("local").ok())?,
        zone: flags.zone.clone().or(file.zone),
        data: flags.data.clone().or(file.data).unwrap_or_else(|| machine.data.clone()),
        public: bare(public),
        scale_exec: file.scale_exec,
        drain,
        mesh: MeshConfig {
            listen: mesh_listen.value,
            advertise: advertise.map(|advertise| advertise.value),
            seeds,
            key_file: flags.key_file.clone().or(bare_path(file.key_file)),
        },
        proxy_listen: if proxy_listen.is_empty() { DEFAULT_PROXY.into() } else { proxy_listen },
        workers,
        dns_tls: file.dns_tls.map(|tls| DnsTls {
            listen: tls.value.listen.unwrap_or_else(|| beside_dns(&dns_listen)),
            certificates: tls.value.certificates,
        }),
        dns_listen: dns_listen.into_iter().map(|setting| setting.value).collect(),
        geoip: flags.geoip.clone().or(bare_path(file.geoip)),
        dns_transfer: file.dns_transfer,
        dns_rate: file.dns_rate,
        admin: AdminConfig { listen: admin_listen.value, token_file },
        log: LogConfig {
            access_format: flags.access_format.or(file.access_format).unwrap_or(match log_format {
                LogFormat::Text => AccessFormat::Text,
                LogFormat::Json => AccessFormat::Json,
            }),
            level: flags.log_level.clone().or(file.log_level).unwrap_or_else(|| "info".into()),
            format: log_format,
            access: flags.access_log.clone().or(file.access).unwrap_or(AccessLog::Stdout),
        },
    })
}

/// The hosts of the DNS sockets, each once, at the port of DNS over TLS (RFC 7858 §3.1).
fn beside_dns(listen: &[Setting<SocketAddr>]) -> Vec<SocketAddr> {
    let mut hosts: Vec<SocketAddr> = Vec::new();
    for mut address in listen.iter().map(|setting| setting.value) {
        address.set_port(853);
        if !hosts.contains(&address) {
            hosts.push(address);
        }
    }
    hosts
}

fn host_name(host_name: &str, sink: &Diagnostics) -> Option<NodeName> {
    NodeName::new(host_name)
        .inspect_err(|error| {
            let message = format!("the host name `{host_name}` cannot be the node's name: {error}");
            sink.error_at(None, message, Some("set `name` in [node], or --name".into()));
        })
        .ok()
}

fn check_mesh(listen: &Setting<SocketAddr>, advertise: Option<&Setting<SocketAddr>>, sink: &Diagnostics) {
    for setting in std::iter::once(listen).chain(advertise) {
        if setting.value.port() == u16::MAX {
            let message = "the mesh cannot use port 65535: tunnels need the port above";
            sink.error_at(setting.span.clone(), message, None);
        }
    }
    let Some(advertise) = advertise else { return };
    if advertise.value.ip().is_unspecified() || advertise.value.port() == 0 {
        let message = format!("peers cannot dial `{}`", advertise.value);
        let hint = "`advertise` is the address and port under which other nodes reach this one";
        sink.error_at(advertise.span.clone(), message, Some(hint.into()));
    }
}

/// DESIGN §7: a token is required wherever others can reach the port.
fn check_admin(listen: &Setting<SocketAddr>, token: bool, sink: &Diagnostics) {
    if others_reach(listen.value) && !token {
        let message = format!("the admin API on `{}` needs `token_file`: others can reach it", listen.value);
        let hint = "set `token_file` in [admin] (or --admin-token-file), or listen on 127.0.0.1:7900";
        sink.error_at(listen.span.clone(), message, Some(hint.into()));
    }
}

fn check_public(public: &[Setting<IpAddr>], sink: &Diagnostics) {
    for address in
        public.iter().filter(|address| address.value.is_unspecified() || address.value.is_multicast())
    {
        sink.error_at(address.span.clone(), format!("users cannot reach `{}`", address.value), None);
    }
    check_distinct("public", public, sink);
}

fn check_distinct<T: Ord + std::fmt::Display>(what: &str, settings: &[Setting<T>], sink: &Diagnostics) {
    let mut seen = BTreeSet::new();
    for setting in settings {
        if !seen.insert(&setting.value) {
            sink.error_at(setting.span.clone(), format!("`{}` is in `{what}` twice", setting.value), None);
        }
    }
}
