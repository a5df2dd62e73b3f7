//! Orders at run time besides drains: `meridian weight`, `split` and `deny`. Each is undone, and the file's word holds again.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use clap::{Args, Subcommand};
use http::Method;
use ipnet::IpNet;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;

use super::client::Answer;
use super::exit::{CliError, Exit};
use super::output::{hint, json, line, table};
use super::{Format, Global};
use crate::admin::api::{IntentStatus, SplitOrder, WeightOrder};

#[derive(Debug, Args)]
pub(super) struct WeightArgs {
    /// ADDRESS, which means it in every pool that has it, or POOL/ADDRESS.
    backend: String,
    /// From 0, which takes no new sessions, to 65535.
    #[arg(required_unless_present = "reset", conflicts_with = "reset")]
    weight: Option<u16>,
    /// The file's weight again.
    #[arg(long)]
    reset: bool,
    /// Also when nobody else would take new users.
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Args)]
pub(super) struct SplitArgs {
    /// The service.
    service: String,
    /// POOL=SHARE of its new users; pools that are not named keep the users they have.
    #[arg(required_unless_present = "reset", conflicts_with = "reset", value_parser = share)]
    shares: Vec<(String, u32)>,
    /// The file's split again.
    #[arg(long)]
    reset: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum DenyCommand {
    /// Refuse the users of a network, in every service of the mesh.
    Add(DenyArgs),
    /// Serve them again.
    Remove {
        /// ADDRESS or ADDRESS/BITS, as `deny list` shows it.
        #[arg(value_parser = network)]
        network: IpNet,
    },
    /// List the networks that orders refuse. Lists in services.toml are not among them.
    List,
}

#[derive(Debug, Args)]
pub(super) struct DenyArgs {
    /// ADDRESS or ADDRESS/BITS.
    #[arg(value_parser = network)]
    network: IpNet,
    /// For so long; without it until it is removed.
    #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration)]
    span: Option<Duration>,
    /// Also a network of very many users.
    #[arg(long)]
    force: bool,
}

fn share(text: &str) -> Result<(String, u32), String> {
    let fault = || format!("{text:?} is no POOL=SHARE, such as web-v2=5");
    let (pool, share) = text.split_once('=').ok_or_else(fault)?;
    Ok((pool.to_owned(), share.parse().map_err(|_| fault())?))
}

fn network(text: &str) -> Result<IpNet, String> {
    let host = || text.parse::<std::net::IpAddr>().map(|address| IpNet::from(address.to_canonical()));
    let network = text.parse::<IpNet>().or_else(|_| host());
    network
        .map(|network| network.trunc())
        .map_err(|_| format!("{text:?} is no network, such as 203.0.113.0/24 or 2001:db8::/48"))
}

/// `meridian weight`
pub(super) async fn weight(global: &Global, args: WeightArgs) -> Result<(), CliError> {
    let path = format!("/v1/weights/{}", encoded(&args.backend));
    let name = &args.backend;
    let intents = match args.weight {
        None => global.client()?.json(Method::DELETE, &path).await?,
        Some(weight) => {
            let path = if args.force { format!("{path}?force=true") } else { path };
            put(global, &path, &WeightOrder { weight: weight.into() }).await?
        }
    };
    done(global, &intents, || {
        match args.weight {
            None => line(format_args!("backend {name} has the weight of the file again")),
            Some(weight) => {
                line(format_args!("backend {name} has weight {weight}"));
                everywhere(name, &intents, "weight").iter().for_each(line);
            }
        }
        if args.weight.is_some() {
            hint(format_args!("meridian weight {name} --reset  gives it the file's weight again"));
        }
    })
}

/// `meridian split`
pub(super) async fn split(global: &Global, args: SplitArgs) -> Result<(), CliError> {
    let path = format!("/v1/splits/{}", encoded(&args.service));
    let name = &args.service;
    let intents = match args.reset {
        true => global.client()?.json(Method::DELETE, &path).await?,
        false => {
            let split: BTreeMap<String, u32> = args.shares.iter().cloned().collect();
            if split.len() < args.shares.len() {
                return Err(CliError::new(Exit::Usage, "a pool is named twice"));
            }
            put(global, &path, &SplitOrder { split }).await?
        }
    };
    done(global, &intents, || {
        if args.reset {
            return line(format_args!("service {name} has the split of the file again"));
        }
        let all: u64 = args.shares.iter().map(|(_, share)| u64::from(*share)).sum();
        let percent = |share: u32| 100.0 * f64::from(share) / all.max(1) as f64;
        let words = args.shares.iter().map(|(pool, share)| format!("{pool} {:.1} %", percent(*share)));
        line(format_args!("new users of service {name}: {}", words.collect::<Vec<_>>().join(", ")));
        line("users stay on the version they met");
        hint(format_args!("meridian split {name} --reset  gives it the file's split again"));
    })
}

/// `meridian deny`
pub(super) async fn deny(global: &Global, command: DenyCommand) -> Result<(), CliError> {
    match command {
        DenyCommand::Add(DenyArgs { network, span, force }) => {
            let mut path = format!("/v1/denies/{}?force={force}", encoded(&network.to_string()));
            if let Some(span) = span {
                path.push_str(&format!("&seconds={}", span.as_secs().max(1)));
            }
            let answer = global.client()?.send(Method::PUT, &path, None, &[]).await?;
            let intents: Vec<IntentStatus> = forcible(answer)?.parse()?;
            done(global, &intents, || {
                let until = span.map(|span| format!(" for {}", humantime::format_duration(span)));
                line(format_args!("users of {network} are refused{}", until.unwrap_or_default()));
                hint(format_args!("meridian deny remove {network}  serves them again"));
            })
        }
        DenyCommand::Remove { network } => {
            let path = format!("/v1/denies/{}", encoded(&network.to_string()));
            let intents: Vec<IntentStatus> = global.client()?.json(Method::DELETE, &path).await?;
            done(global, &intents, || line(format_args!("users of {network} are served again")))
        }
        DenyCommand::List => {
            let mut intents: Vec<IntentStatus> = global.client()?.json(Method::GET, "/v1/intents").await?;
            intents.retain(|intent| intent.kind == "network");
            done(global, &intents, || {
                if intents.is_empty() {
                    return line("no order refuses anybody");
                }
                table(
                    &["network", "until", "ordered on", "at"],
                    intents.iter().map(|intent| {
                        let until = intent.until.clone().unwrap_or_else(|| "removed".into());
                        vec![intent.name.clone(), until, intent.by.clone(), intent.at.clone()]
                    }),
                );
            })
        }
    }
}

/// Where an order about a backend's bare address holds, when that is in several pools. `intents`: those in force, `order`: how
/// it begins.
pub(super) fn everywhere(name: &str, intents: &[IntentStatus], order: &str) -> Option<String> {
    let holds = |intent: &&IntentStatus| intent.kind == "backend" && intent.order.starts_with(order);
    let places = intents.iter().filter(holds).map(|intent| intent.name.as_str());
    let places: Vec<&str> =
        places.filter(|place| place.split_once('/').is_some_and(|(_, address)| address == name)).collect();
    (places.len() > 1)
        .then(|| format!("that address is in several pools, and this holds in each: {}", places.join(", ")))
}

/// All orders as JSON, or the words of the one.
fn done(global: &Global, intents: &[IntentStatus], say: impl FnOnce()) -> Result<(), CliError> {
    match global.output {
        Format::Json => json(&intents),
        Format::Table => {
            say();
            Ok(())
        }
    }
}

async fn put<T: Serialize>(global: &Global, path: &str, order: &T) -> Result<Vec<IntentStatus>, CliError> {
    let body = serde_json::to_vec(order).map_err(anyhow::Error::from)?;
    let body = Some(("application/json", Bytes::from(body)));
    forcible(global.client()?.send(Method::PUT, path, body, &[]).await?)?.parse()
}

/// The answer; where it refuses what may be forced, with the way to do that.
pub(super) fn forcible(answer: Answer) -> Result<Answer, CliError> {
    let refused = answer.status == http::StatusCode::CONFLICT;
    answer.success().map_err(|error| match refused {
        true => error.hint("--force does it all the same"),
        false => error,
    })
}

fn encoded(name: &str) -> impl std::fmt::Display {
    utf8_percent_encode(name, NON_ALPHANUMERIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_in_several_pools_is_told_with_each() {
        let intent = |name: &str, order: &str| IntentStatus {
            kind: "backend".into(),
            name: name.into(),
            order: order.into(),
            until: None,
            seconds_left: None,
            by: "eu-1".into(),
            at: String::new(),
        };
        let both = [intent("v1/10.0.0.1:80", "drain"), intent("v2/10.0.0.1:80", "drain until then")];
        let told = everywhere("10.0.0.1:80", &both, "drain").unwrap();
        assert!(told.ends_with("in each: v1/10.0.0.1:80, v2/10.0.0.1:80"), "{told}");
        assert_eq!(everywhere("v1/10.0.0.1:80", &both, "drain"), None);
        assert_eq!(everywhere("10.0.0.1:80", &both, "weight"), None);
        assert_eq!(everywhere("10.0.0.1:80", &both[1..], "drain"), None);
    }

    #[test]
    fn shares_and_networks_are_read_as_people_write_them() {
        assert_eq!(share("web-v2=5"), Ok(("web-v2".into(), 5)));
        assert!(share("web-v2").is_err() && share("web-v2=-1").is_err() && share("web=v=2").is_err());
        assert_eq!(network("203.0.113.7/24").map(|network| network.to_string()), Ok("203.0.113.0/24".into()));
        assert_eq!(network("2001:db8::1").map(|network| network.to_string()), Ok("2001:db8::1/128".into()));
        assert!(network("everybody").is_err());
    }
}
