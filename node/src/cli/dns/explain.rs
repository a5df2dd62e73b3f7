//! `meridian dns explain NAME --from IP [--resolver IP]`

use std::net::IpAddr;

use clap::Args;
use http::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::admin::api::dns::{DnsExplained, DnsSteering, DnsView, GeoipStatus};
use crate::cli::exit::CliError;
use crate::cli::output::{json, line};
use crate::cli::{Format, Global};

#[derive(Debug, Args)]
pub(in crate::cli) struct ExplainArgs {
    /// The name that is asked for.
    name: String,
    /// The user's address.
    #[arg(long, value_name = "IP")]
    from: IpAddr,
    /// The address of the user's resolver: it counts where the resolver does not tell the user's network (ECS).
    #[arg(long, value_name = "IP")]
    resolver: Option<IpAddr>,
    /// The type that is asked for.
    #[arg(long = "type", value_name = "TYPE", default_value = "A")]
    kind: String,
}

pub(super) async fn run(global: &Global, args: ExplainArgs) -> Result<(), CliError> {
    let safe = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let mut path = format!(
        "/v1/dns/explain?name={}&type={}&from={}",
        safe(&args.name),
        safe(&args.kind),
        safe(&args.from.to_string())
    );
    if let Some(resolver) = args.resolver {
        path += &format!("&resolver={}", safe(&resolver.to_string()));
    }
    let explained: DnsExplained = global.client()?.json(Method::GET, &path).await?;
    if global.output == Format::Json {
        return json(&explained);
    }
    lines(&explained).iter().for_each(line);
    Ok(())
}

/// The explanation for people.
fn lines(explained: &DnsExplained) -> Vec<String> {
    let DnsExplained { node, region, name, kind, geoip, views } = explained;
    let mut lines = vec![format!("{name} {kind}, as {node} in region {region} answers")];
    for view in views {
        let asker = match view.by.as_str() {
            "ecs" => format!("a resolver that tells the user's network, {} (ECS)", view.client),
            _ => format!(
                "a resolver at {} that tells nothing of the user",
                view.client.trim_end_matches("/32").trim_end_matches("/128")
            ),
        };
        lines.extend([String::new(), format!("To {asker}:")]);
        lines.extend(
            of_view(view, geoip.as_ref(), region)
                .into_iter()
                .map(|(what, text)| format!("  {what:<8} {text}")),
        );
    }
    lines
}

fn of_view(view: &DnsView, geoip: Option<&GeoipStatus>, own: &str) -> Vec<(&'static str, String)> {
    let Some(zone) = &view.zone else {
        return vec![("answer", format!("{}: no zone here holds the name", view.rcode))];
    };
    let mut lines = vec![("zone", zone.clone())];
    match &view.steering {
        Some(steering) => lines.extend(of_steering(steering, geoip, own)),
        None => lines.push(("place", "does not matter: the name is not steered, all get the same".into())),
    }
    match view.answers.is_empty() {
        true => lines.push(("answer", format!("{}, no records", view.rcode))),
        false => lines.extend(view.answers.iter().map(|answer| ("answer", answer.clone()))),
    }
    if let Some(ttl) = view.ttl {
        let full = view.steering.as_ref().map_or(ttl, |steering| steering.full_ttl);
        let why = if ttl < full {
            format!(", not {full} s: a change of health is expected soon")
        } else {
            String::new()
        };
        lines.push(("ttl", format!("{ttl} s{why}")));
    }
    lines
}

fn of_steering(
    steering: &DnsSteering,
    geoip: Option<&GeoipStatus>,
    own: &str,
) -> Vec<(&'static str, String)> {
    let place = steering.location.map(|(north, east)| format!("{north:.2}, {east:.2} (degrees north, east)"));
    let place = place.unwrap_or_else(|| "at no known coordinates".into());
    let found = match steering.source.as_str() {
        "prefixes" => format!("{place}: a region's prefixes hold it"),
        "geo-ip" => {
            let database = geoip.and_then(|geoip| geoip.database.clone()).unwrap_or_else(|| "GeoIP".into());
            format!("{place}: the GeoIP file ({database}) knows it")
        }
        _ => {
            let file = match geoip {
                None => "there is no GeoIP file".to_owned(),
                Some(GeoipStatus { database: None, problem, .. }) => problem.clone().unwrap_or_default(),
                Some(_) => "the GeoIP file does not know it".to_owned(),
            };
            format!("taken to be in region {own}: no region's prefixes hold it, and {file}")
        }
    };
    let mut lines = vec![
        ("place", found),
        ("scope", format!("/{}: the same holds for all of this prefix around it", steering.scope)),
    ];
    lines.push(("order", steering.order.join(", ")));
    for skip in &steering.skipped {
        let why = match skip.why.as_str() {
            "unhealthy" => "has no healthy backend of the service",
            "full" => "has no free capacity",
            "no-nodes" => "has no node that users may be sent to",
            _ => "is filling up and passes this share of its users on",
        };
        lines.push(("skipped", format!("{} {why}", skip.region)));
    }
    let region = steering.region.as_deref().unwrap_or("none");
    let why = match steering.step.as_str() {
        "healthy" => "the first that is healthy and has room",
        "no-room" => "all healthy regions are full, and this is the first of them",
        "fail-open" => "no healthy region has nodes; an answer is better than none",
        "last-resort" => "no node is alive and takes users; those that might serve all the same are named",
        "no-family" => "no node of the mesh has an address of this family, so there is no such data",
        _ => "the mesh has no node with an address",
    };
    lines.push(("region", format!("{region}: {why}")));
    lines.extend(steering.nodes.iter().map(|node| ("node", format!("{} at {}", node.name, node.address))));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::api::dns::{DnsNode, DnsSkip};

    fn view(by: &str, client: &str, steering: Option<DnsSteering>) -> DnsView {
        DnsView {
            by: by.into(),
            client: client.into(),
            zone: Some("example.com.".into()),
            rcode: "NOERROR".into(),
            answers: vec!["www.example.com. A 192.0.2.1".into()],
            ttl: Some(5),
            steering,
        }
    }

    #[test]
    fn both_ways_to_ask_are_told_with_their_reasons() {
        let steering = DnsSteering {
            source: "own-region".into(),
            location: None,
            scope: 9,
            order: vec!["eu".into(), "us".into()],
            skipped: vec![DnsSkip { region: "eu".into(), why: "unhealthy".into() }],
            step: "healthy".into(),
            region: Some("us".into()),
            nodes: vec![DnsNode { name: "us-1".into(), address: "192.0.2.1".into() }],
            full_ttl: 30,
        };
        let explained = DnsExplained {
            node: "eu-1".into(),
            region: "eu".into(),
            name: "www.example.com".into(),
            kind: "A".into(),
            geoip: None,
            views: vec![
                view("ecs", "198.51.100.0/24", Some(steering)),
                view("resolver", "192.0.2.53/32", None),
            ],
        };
        let text = lines(&explained).join("\n");
        for expected in [
            "network, 198.51.100.0/24 (ECS):",
            "taken to be in region eu: no region's prefixes hold it, and there is no GeoIP file",
            "eu has no healthy backend of the service",
            "us: the first that is healthy and has room",
            "us-1 at 192.0.2.1",
            "5 s, not 30 s: a change of health is expected soon",
            "To a resolver at 192.0.2.53 that tells nothing of the user:",
            "not steered, all get the same",
        ] {
            assert!(text.contains(expected), "{expected:?} in\n{text}");
        }
    }
}
