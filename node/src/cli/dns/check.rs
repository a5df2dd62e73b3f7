//! `meridian dns check ZONE [--parent ADDRESS]`: asks every name server what a registrar would ask.
//!
//! The zone's name servers are those of the configuration in force, which any node tells; all else is asked from here, since
//! what counts is what the outside sees.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use clap::Args;
use dns::check::{Finding, Gravity, NameServer, NoParent, Observed, Probed, Seen, judge, told_by_parent};
use dns::name::Name;
use dns::zone::Kind;
use dns::{Inquiry, Rcode, Transport, ask_server};
use futures_util::future::join_all;
use http::Method;
use serde::Serialize;
use storage::zone_keys::Known;

use crate::cli::exit::{CliError, Exit};
use crate::cli::output::{aside, json, line, table};
use crate::cli::{Format, Global};
use crate::config::model::DnsZone;
use crate::config::services;
use crate::signing::RetiredKeys;
use crate::steering;

/// How long one answer may take, and how often one is asked for over UDP.
const PATIENCE: Duration = Duration::from_secs(2);
const TRIES: usize = 2;

#[derive(Debug, Args)]
pub(in crate::cli) struct CheckArgs {
    /// A zone of the configuration in force.
    zone: String,
    /// A name server of the parent zone, IP or IP:PORT: what it says is compared with the zone.
    #[arg(long, value_name = "ADDRESS", value_parser = server_address)]
    parent: Option<SocketAddr>,
    /// The port that the zone's name servers are asked at.
    #[arg(long, default_value_t = 53)]
    port: u16,
}

/// An address, with port 53 when none is given.
pub(super) fn server_address(text: &str) -> Result<SocketAddr, String> {
    let bare = text.parse::<IpAddr>().map(|address| SocketAddr::new(address, 53));
    bare.or_else(|_| text.parse())
        .map_err(|_| "this is no address, such as 198.51.100.1 or [2001:db8::1]:53".into())
}

/// What is printed as JSON.
#[derive(Serialize)]
struct Checked<'a> {
    zone: String,
    sound: bool,
    servers: Vec<Row>,
    findings: &'a [Finding],
}

#[derive(Serialize)]
struct Row {
    name: String,
    address: Option<IpAddr>,
    udp: String,
    tcp: String,
    serial: Option<u32>,
}

pub(super) async fn run(global: &Global, args: CheckArgs) -> Result<(), CliError> {
    let zone = configured(global, &args.zone).await?;
    let usage = |error: String| CliError::new(Exit::Usage, error);
    let origin = Name::parse_absolute(&zone.name).map_err(|error| usage(format!("{} {error}", zone.name)))?;
    let mut servers = steering::zone_spec(&zone, &Known::default(), &RetiredKeys::new()).name_servers();
    for server in servers.iter_mut().filter(|server| !server.name.is_within(&origin)) {
        server.addresses = resolved(&server.name).await;
    }
    let parent = async {
        let parent = args.parent?;
        let (servers, ds) = tokio::join!(
            ask(parent, Transport::Udp, inquiry(&origin, Kind::NS)),
            ask(parent, Transport::Udp, inquiry(&origin, Kind::DS)),
        );
        let told =
            servers.map_err(NoParent::Silent).and_then(|ns| told_by_parent(&origin, &ns, ds.as_ref().ok()));
        let ds = ds.ok().filter(|seen| seen.authoritative && seen.rcode == Rcode::NOERROR && told.is_ok());
        Some((told, ds.map(|seen| seen.data_of(&origin, Kind::DS))))
    };
    let pairs =
        servers.iter().flat_map(|server| server.addresses.iter().map(move |address| (server, *address)));
    let probes = join_all(pairs.map(|(server, address)| probe(&origin, server, address, args.port)));
    let (parent, probes) = tokio::join!(parent, probes);
    let asked_parent = parent.is_some();
    let (parent, parent_ds) = parent.map_or((None, None), |(servers, ds)| (Some(servers), ds));
    let observed = Observed { zone: origin, servers, parent, parent_ds, signed: zone.dnssec, probes };
    let findings = judge(&observed);
    let sound = findings.iter().all(|finding| finding.gravity != Gravity::Error);
    report(global, &observed, &findings, sound)?;
    if global.output == Format::Table && !asked_parent {
        aside("hint: --parent ADDRESS compares with what a name server of the parent zone says");
    }
    match sound {
        true => Ok(()),
        false => Err(CliError::new(Exit::Failure, format!("{} is not well delegated", observed.zone))),
    }
}

/// The zone as the mesh serves it.
async fn configured(global: &Global, name: &str) -> Result<DnsZone, CliError> {
    let answer = global.client()?.send(Method::GET, "/v1/revisions/current", None, &[]).await?.success()?;
    let text = String::from_utf8_lossy(&answer.body);
    let services = services::parse("services.toml", &text).map_err(|_| {
        CliError::new(Exit::Failure, "this program does not understand the configuration of that node")
            .hint("is the node's version the same as this program's? (meridian --version)")
    })?;
    let wanted = name.trim_end_matches('.').to_ascii_lowercase();
    let mut zones = services.services.zones;
    let known: Vec<String> = zones.iter().map(|zone| zone.name.clone()).collect();
    zones.retain(|zone| zone.name == wanted);
    zones.pop().ok_or_else(|| {
        let there =
            if known.is_empty() { "there is none".into() } else { format!("there is {}", known.join(", ")) };
        CliError::new(Exit::Failure, format!("no zone {wanted} is configured; {there}"))
    })
}

/// The addresses of a name server in somebody else's zone, as this machine resolves it.
async fn resolved(server: &Name) -> Vec<IpAddr> {
    let found = tokio::net::lookup_host((server.to_string(), 53)).await;
    let mut addresses: Vec<IpAddr> = found.into_iter().flatten().map(|address| address.ip()).collect();
    addresses.sort();
    addresses.dedup();
    addresses
}

pub(super) fn inquiry(name: &Name, kind: Kind) -> Inquiry<'_> {
    Inquiry { name, kind, recursion: false, edns: Some(0) }
}

pub(super) async fn ask(
    server: SocketAddr,
    transport: Transport,
    inquiry: Inquiry<'_>,
) -> Result<Seen, String> {
    let mut told = Err(String::new());
    for _ in 0..TRIES {
        told = ask_server(server, transport, inquiry, PATIENCE).await.map_err(|error| error.to_string());
        if told.is_ok() || transport == Transport::Tcp {
            break;
        }
    }
    told
}

async fn probe(zone: &Name, server: &NameServer, address: IpAddr, port: u16) -> Probed {
    let at = SocketAddr::new(address, port);
    let root = Name::root();
    let own = async {
        let within = server.name.is_within(zone);
        let kind = if address.is_ipv4() { Kind::A } else { Kind::AAAA };
        if within { Some(ask(at, Transport::Udp, inquiry(&server.name, kind)).await) } else { None }
    };
    let next = Inquiry { edns: Some(1), ..inquiry(zone, Kind::SOA) };
    let recursion = Inquiry { recursion: true, ..inquiry(&root, Kind::NS) };
    let (udp, tcp, servers, keys, own, version, recursion) = tokio::join!(
        ask(at, Transport::Udp, inquiry(zone, Kind::SOA)),
        ask(at, Transport::Tcp, inquiry(zone, Kind::SOA)),
        ask(at, Transport::Udp, inquiry(zone, Kind::NS)),
        ask(at, Transport::Udp, inquiry(zone, Kind::DNSKEY)),
        own,
        ask(at, Transport::Udp, next),
        ask(at, Transport::Udp, recursion),
    );
    Probed { server: server.name.clone(), address, udp, tcp, servers, keys, own, version, recursion }
}

fn report(global: &Global, observed: &Observed, findings: &[Finding], sound: bool) -> Result<(), CliError> {
    let rows = rows(observed);
    if global.output == Format::Json {
        return json(&Checked { zone: observed.zone.to_string(), sound, servers: rows, findings });
    }
    table(
        &["name server", "address", "udp", "tcp", "serial"],
        rows.into_iter().map(|row| {
            let dash = || "-".to_owned();
            let address = row.address.map_or_else(dash, |address| address.to_string());
            vec![
                row.name,
                address,
                row.udp,
                row.tcp,
                row.serial.map_or_else(dash, |serial| serial.to_string()),
            ]
        }),
    );
    for Finding { gravity, subject, what, hint } in findings {
        let gravity = match gravity {
            Gravity::Error => "error",
            Gravity::Warning => "warning",
        };
        line(format_args!("\n{gravity}: {subject}: {what}\n  {hint}"));
    }
    if sound {
        line(format_args!("\n{} is well delegated as far as can be seen from here", observed.zone));
    }
    Ok(())
}

fn rows(observed: &Observed) -> Vec<Row> {
    let short = |answer: &Result<Seen, String>| match answer {
        Ok(seen) => seen.rcode.to_string(),
        Err(_) => "no answer".to_owned(),
    };
    let lost = observed.servers.iter().filter(|server| server.addresses.is_empty()).map(|server| Row {
        name: server.name.to_string(),
        address: None,
        udp: "-".into(),
        tcp: "-".into(),
        serial: None,
    });
    let asked = observed.probes.iter().map(|probed| Row {
        name: probed.server.to_string(),
        address: Some(probed.address),
        udp: short(&probed.udp),
        tcp: short(&probed.tcp),
        serial: probed.udp.as_ref().or(probed.tcp.as_ref()).ok().and_then(|seen| Some(seen.soa()?.serial)),
    });
    asked.chain(lost).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_is_an_address_with_or_without_a_port() {
        let parsed = |text: &str| server_address(text).map(|address| address.to_string());
        assert_eq!(parsed("192.0.2.1").as_deref(), Ok("192.0.2.1:53"));
        assert_eq!(parsed("2001:db8::1").as_deref(), Ok("[2001:db8::1]:53"));
        assert_eq!(parsed("192.0.2.1:5300").as_deref(), Ok("192.0.2.1:5300"));
        assert!(parsed("ns.example").is_err());
    }
}
