//! `meridian proxy --from :8080 --to 10.0.0.5:8080 --to 10.0.0.6:8080`: a balancer with no files at all.
//!
//! A whole node, alone in its mesh, with a data folder that goes with it: what it learns of health and sessions ends with it.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::exit::{CliError, Exit};
use super::output::hint;
use super::{Global, start};
use crate::app::logging;
use crate::config::model::{AccessFormat, AccessLog};
use crate::config::node_file::{self, LoadError, NodeOverrides};
use crate::config::services;

#[derive(Debug, Args)]
pub(super) struct ProxyArgs {
    /// Where users come: :PORT on every address, or IP:PORT.
    #[arg(long, value_name = "[IP]:PORT", value_parser = from)]
    from: From,
    /// A backend; may be given several times.
    #[arg(long, required = true, value_name = "IP:PORT", value_parser = to)]
    to: Vec<SocketAddr>,
    /// What is carried.
    #[arg(long, value_enum, default_value = "http")]
    protocol: Protocol,
    /// How a backend is chosen, as `balance` in services.toml.
    #[arg(long, default_value = "least-busy")]
    balance: String,
    /// Users stay on their backend: by a cookie, over TCP by their address.
    #[arg(long)]
    sticky: bool,
    /// Ask backends for this path; a 2xx or 3xx is well. Without it a connection is enough.
    #[arg(long, value_name = "PATH")]
    check: Option<String>,
    /// The longest time from SIGTERM to the end.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "60s")]
    drain: Duration,
    /// Where the access log goes: `stdout`, `off` or a path.
    #[arg(long, value_name = "WHERE", default_value = "stdout", value_parser = node_file::parse_access)]
    access_log: AccessLog,
    /// How its lines look.
    #[arg(long, value_enum, default_value = "text")]
    access_format: AccessFormat,
    /// The admin API's socket; without it, it is reached by the path that is told at the start alone.
    #[arg(long, value_name = "IP:PORT")]
    admin_listen: Option<SocketAddr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Protocol {
    Http,
    Tcp,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct From {
    listen: Vec<IpAddr>,
    port: u16,
}

fn from(text: &str) -> Result<From, String> {
    let any = || vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
    let bare = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
    if let Some(port) = bare(text.strip_prefix(':').unwrap_or(text)) {
        return Ok(From { listen: any(), port });
    }
    match text.parse::<SocketAddr>() {
        Ok(addr) if addr.port() > 0 => Ok(From { listen: vec![addr.ip()], port: addr.port() }),
        _ => Err(format!("{text:?} is neither :PORT nor IP:PORT, such as :8080 or 192.0.2.1:80")),
    }
}

fn to(text: &str) -> Result<SocketAddr, String> {
    let addr = text.parse::<SocketAddr>().ok().filter(|addr| addr.port() > 0);
    addr.ok_or_else(|| format!("{text:?} is no IP:PORT, such as 10.0.0.5:8080 or [2001:db8::5]:8080"))
}

pub(super) fn run(global: &Global, args: ProxyArgs) -> Result<ExitCode, CliError> {
    let body = services_toml(&args);
    if let Err(report) = services::parse("the command line", &body) {
        return Err(CliError::new(Exit::Usage, report.to_string().trim_end().to_owned()));
    }
    let folder = tempfile::Builder::new().prefix("meridian-proxy-").tempdir()?;
    let data = global.named_data().unwrap_or_else(|| folder.path().to_owned());
    let loopback = |port| Some(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port));
    let overrides = NodeOverrides {
        name: gossip::id::NodeName::new("proxy").ok(),
        data: Some(data.clone()),
        mesh_listen: loopback(0),
        proxy_listen: args.from.listen.clone(),
        admin_listen: args.admin_listen.or(loopback(0)),
        drain: Some(args.drain),
        access_log: Some(args.access_log.clone()),
        access_format: Some(args.access_format),
        ..NodeOverrides::default()
    };
    let config = node_file::load(None, &overrides).map_err(|error| match error {
        LoadError::Invalid(report) => CliError::new(Exit::Usage, report.to_string().trim_end().to_owned()),
        error => CliError::new(Exit::Failure, error.to_string()),
    })?;
    logging::start(&config.node.log).map_err(|error| CliError::new(Exit::Usage, error.to_string()))?;
    let socket = data.join("admin.sock");
    hint(format_args!("meridian status --node {}  shows how the backends are", socket.display()));
    let port = args.from.port;
    start::serve_until_told(config.node, overrides, Some(body)).map_err(|error| {
        match error.is_about_ports() {
            true => error
                .hint(format!("`ss -lntp 'sport = :{port}'` shows who has it; --from chooses another port")),
            false => error,
        }
    })
}

fn services_toml(args: &ProxyArgs) -> String {
    let mut text = String::new();
    let http = args.protocol == Protocol::Http;
    let (protocol, of) = if http { ("http", "") } else { ("tcp", "service = \"proxy\"\n") };
    let _ = write!(text, "[listener.proxy]\nport = {}\nprotocol = \"{protocol}\"\n{of}\n", args.from.port);
    text.push_str("[service.proxy]\nsplit = { proxy = 1 }\n");
    text.push_str(match (args.sticky, http) {
        (true, true) => "sticky.cookie = { name = \"meridian\", ttl = \"8h\" }\n",
        (true, false) => "sticky.source_ip = { ttl = \"30m\" }\n",
        (false, _) => "",
    });
    let _ = write!(text, "\n[pool.proxy]\nbalance = {}\n", quoted(&args.balance));
    match &args.check {
        Some(path) => {
            let _ = writeln!(text, "health.http = {{ path = {} }}", quoted(path));
        }
        None => text.push_str("health.tcp = { interval = \"2s\" }\n"),
    }
    text.push_str("backend = [\n");
    for to in &args.to {
        let _ = writeln!(text, "  {{ address = \"{to}\", region = \"local\" }},");
    }
    text.push_str("]\n");
    text
}

/// A TOML string of what somebody typed: what JSON escapes, TOML reads.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Words {
        #[command(flatten)]
        args: ProxyArgs,
    }

    fn read(words: &[&str]) -> ProxyArgs {
        let words = [&["proxy", "--from", ":8080", "--to", "10.0.0.5:80"], words].concat();
        Words::try_parse_from(words).map(|words| words.args).unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn every_combination_is_a_valid_configuration() {
        for words in [
            &[][..],
            &["--protocol", "tcp"],
            &["--sticky", "--to", "[2001:db8::1]:80"],
            &["--sticky", "--protocol", "tcp", "--balance", "weighted-round-robin"],
            &["--check", "/a\"b"],
        ] {
            let text = services_toml(&read(words));
            let parsed = services::parse("x", &text);
            assert!(parsed.is_ok(), "{words:?}\n{text}\n{}", parsed.unwrap_err());
        }
        assert!(services::parse("x", &services_toml(&read(&["--balance", "luck"]))).is_err());
    }

    #[test]
    fn a_port_is_enough() {
        assert_eq!(from(":80").map(|from| from.listen.len()), Ok(2));
        assert_eq!(from("192.0.2.1:80"), Ok(From { listen: vec![[192, 0, 2, 1].into()], port: 80 }));
        assert!(from(":0").is_err() && from("web").is_err() && from("192.0.2.1").is_err());
    }
}
