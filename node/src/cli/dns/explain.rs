//! `meridian dns explain NAME --from IP [--resolver IP]`

use std::net::IpAddr;

use clap::Args;
use http::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::admin::api::dns::{DnsExplained, DnsSteering, DnsView, GeoipStatus};
use crate::cli::escape::Cell;
use crate::cli::exit::CliError;
use crate::cli::output::{hint, json, line};
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
    lines(&explained).iter().for_each(|text| line(Cell(text)));
    if let Some(meant) = &explained.meant {
        hint(format_args!("did you mean {meant}?  meridian dns explain {meant} --from {}", args.from));
    }
    Ok(())
}

/// The explanation for people.
fn lines(explained: &DnsExplained) -> Vec<String> {
    let DnsExplained { node, region, name, kind, geoip, views, exact, .. } = explained;
    let mut lines = vec![format!("{name} {kind}, as {node} in region {region} answers")];
    for view in views.iter().chain(exact) {
        let address = view.client.trim_end_matches("/32").trim_end_matches("/128");
        let asker = match view.by.as_str() {
            "ecs" => format!("a resolver that tells the user's network, {} (ECS)", view.client),
            "address" => format!(
                "{address} itself, which is placed otherwise than its network, when it asks without a resolver (or by one that \
                 tells the whole address)"
            ),
            _ => format!("a resolver at {address} that tells nothing of the user"),
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
        Some(steering) => lines.extend(of_steering(steering, &view.client, geoip, own)),
        None if !view.referral.is_empty() => {}
        None => lines.push(("place", "does not matter: the name is not steered, all get the same".into())),
    }
    if let Some(first) = view.referral.first() {
        let cut = first.split(' ').next().unwrap_or_default();
        lines.push((
            "answer",
            format!("{}, a referral: {cut} is a zone of others, who answer for this name", view.rcode),
        ));
        lines.extend(view.referral.iter().map(|server| ("referral", server.clone())));
        return lines;
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
    client: &str,
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
    let looked_up = &steering.looked_up;
    let told = client.rsplit_once('/').and_then(|(_, bits)| bits.parse::<u8>().ok());
    let kept = told.filter(|told| *told < steering.scope).map_or_else(String::new, |_| {
        format!("; a resolver that tells {client} keeps the answer for all of that (RFC 7871 §7.3.1)")
    });
    let mut lines = vec![
        ("place", format!("{looked_up}, looked up: {found}")),
        ("scope", format!("{}: the same holds for all of it{kept}", steering.scope_prefix)),
        ("policy", policy(steering)),
    ];
    if steering.policy != "weighted" {
        lines.push(("order", steering.order.join(", ")));
    }
    let unknown =
        |region: &String| ("skipped", format!("{region} is not declared, and nothing stands there"));
    lines.extend(steering.unknown.iter().map(unknown));
    for skip in &steering.skipped {
        let why = match skip.why.as_str() {
            "unhealthy" | "drained" => "has no healthy backend of the service",
            "full" => "has no free capacity",
            "no-nodes" => "has no node that users may be sent to",
            _ => "is filling up and passes this share of its users on",
        };
        lines.push(("skipped", format!("{} {}", skip.region, skip.detail.as_deref().unwrap_or(why))));
    }
    let region = steering.region.as_deref().unwrap_or("none");
    lines.push(("region", format!("{region}: {}", reason(steering))));
    lines.extend(steering.nodes.iter().map(|node| ("node", format!("{} at {}", node.name, node.address))));
    lines
}

/// The policy, and what it goes by.
fn policy(steering: &DnsSteering) -> String {
    match (steering.policy.as_str(), &steering.measured) {
        ("nearest", _) => "nearest: by distance from the user".into(),
        ("weighted", _) => {
            format!("weighted: drawn at random for each answer, by free capacity{}", shares(steering))
        }
        ("latency", Some(measured)) => {
            let times = measured.to.iter().map(|to| match to.rtt_ms {
                Some(millis) => format!("{} {millis:.1} ms", to.region),
                None => format!("{} not measured", to.region),
            });
            let times = times.collect::<Vec<_>>().join(", ");
            format!(
                "latency: by the round trips from {}, the region nearest to the user: {times}",
                measured.from
            )
        }
        ("latency", None) => {
            "latency: no round trips are measured from the user's nearest region, so by distance".into()
        }
        ("failover", _) => "failover: the order as configured, and no region beside it".into(),
        (other, _) => other.to_owned(),
    }
}

fn shares(steering: &DnsSteering) -> String {
    let total: u64 = steering.shares.iter().map(|share| u64::from(share.free)).sum();
    let parts = steering.shares.iter().map(|share| {
        let percent = f64::from(share.free) * 100.0 / total.max(1) as f64;
        format!("{} {percent:.0} % ({})", share.region, share.free)
    });
    let parts = parts.collect::<Vec<_>>().join(", ");
    if parts.is_empty() { String::new() } else { format!(": {parts}") }
}

/// Why it is this region.
fn reason(steering: &DnsSteering) -> String {
    let weighted = steering.policy == "weighted";
    match steering.step.as_str() {
        "healthy" if weighted => "drawn this time; another answer may name another region".into(),
        "healthy" => "the first that is healthy and has room".into(),
        "no-room" if weighted => "all healthy regions are full, and this one was drawn of them".into(),
        "no-room" => "all healthy regions are full, and this is the first of them".into(),
        "fail-open" if !steering.unnamed.is_empty() => format!(
            "no region of the order can take users, and an answer is better than none; {} could, but the order does not name it",
            steering.unnamed.join(", ")
        ),
        "fail-open" => "no healthy region has nodes; an answer is better than none".into(),
        "last-resort" => {
            "no node is alive and takes users; those that might serve all the same are named".into()
        }
        "no-family" => "no node of the mesh has an address of this family, so there is no such data".into(),
        _ => "the mesh has no node with an address".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::api::dns::{DnsMeasured, DnsNode, DnsRtt, DnsShare, DnsSkip};

    fn view(by: &str, client: &str, steering: Option<DnsSteering>) -> DnsView {
        DnsView {
            by: by.into(),
            client: client.into(),
            zone: Some("example.com.".into()),
            rcode: "NOERROR".into(),
            answers: vec!["www.example.com. A 192.0.2.1".into()],
            referral: Vec::new(),
            ttl: Some(5),
            steering,
        }
    }

    fn steering() -> DnsSteering {
        DnsSteering {
            policy: "nearest".into(),
            service: "web".into(),
            looked_up: "198.51.100.0".into(),
            source: "own-region".into(),
            location: None,
            scope: 25,
            scope_prefix: "198.51.100.0/25".into(),
            order: vec!["eu".into(), "us".into()],
            shares: Vec::new(),
            measured: None,
            unknown: Vec::new(),
            unnamed: Vec::new(),
            skipped: vec![DnsSkip { region: "eu".into(), why: "unhealthy".into(), detail: None }],
            step: "healthy".into(),
            region: Some("us".into()),
            nodes: vec![DnsNode { name: "us-1".into(), address: "192.0.2.1".into() }],
            full_ttl: 30,
        }
    }

    #[test]
    fn a_policy_tells_what_it_went_by() {
        let of = |change: fn(&mut DnsSteering)| {
            let mut told = steering();
            change(&mut told);
            let lines = of_steering(&told, "198.51.100.0/24", None, "eu");
            lines.into_iter().map(|(what, text)| format!("{what} {text}")).collect::<Vec<_>>().join("\n")
        };
        for (change, expected) in [
            (
                (|told| {
                    told.policy = "weighted".into();
                    told.shares = [("us", 300), ("ap", 100)]
                        .map(|(region, free)| DnsShare { region: region.into(), free })
                        .into();
                }) as fn(&mut DnsSteering),
                "policy weighted: drawn at random for each answer, by free capacity: us 75 % (300), ap 25 % (100)",
            ),
            (|told| told.policy = "weighted".into(), "region us: drawn this time"),
            (
                |told| {
                    told.policy = "latency".into();
                    let to = [("us", Some(80.25)), ("ap", None)]
                        .map(|(region, rtt_ms)| DnsRtt { region: region.into(), rtt_ms });
                    told.measured = Some(DnsMeasured { from: "eu".into(), to: to.into() });
                },
                "from eu, the region nearest to the user: us 80.2 ms, ap not measured",
            ),
            (|told| told.policy = "latency".into(), "latency: no round trips are measured"),
            (
                |told| {
                    told.step = "fail-open".into();
                    told.unnamed = vec!["eu".into()];
                },
                "region us: no region of the order can take users, and an answer is better than none; eu could, but the order",
            ),
            (|told| told.unknown = vec!["ue".into()], "skipped ue is not declared, and nothing stands there"),
            (
                |told| told.skipped[0].detail = Some("is drained by order of then, given on eu-1".into()),
                "skipped eu is drained by order of then, given on eu-1",
            ),
            (
                |_| {},
                "scope 198.51.100.0/25: the same holds for all of it; a resolver that tells 198.51.100.0/24 keeps",
            ),
            (
                |told| told.looked_up = "203.0.113.0".into(),
                "place 203.0.113.0, looked up: taken to be in region eu",
            ),
        ] {
            let text = of(change);
            assert!(text.contains(expected), "{expected:?} in\n{text}");
        }
    }

    #[test]
    fn a_referral_is_told_as_one() {
        let mut told = view("ecs", "198.51.100.0/24", None);
        (told.answers, told.ttl) = (Vec::new(), None);
        told.referral = vec!["sub.example.com. NS ns.example.net.".into()];
        let text =
            of_view(&told, None, "eu").into_iter().map(|(_, text)| text).collect::<Vec<_>>().join("\n");
        assert!(text.contains("a referral: sub.example.com. is a zone of others"), "{text}");
        assert!(
            text.ends_with("sub.example.com. NS ns.example.net.") && !text.contains("no records"),
            "{text}"
        );
    }

    #[test]
    fn both_ways_to_ask_are_told_with_their_reasons() {
        let explained = DnsExplained {
            node: "eu-1".into(),
            region: "eu".into(),
            name: "www.example.com".into(),
            kind: "A".into(),
            meant: None,
            geoip: None,
            views: vec![
                view("ecs", "198.51.100.0/24", Some(steering())),
                view("resolver", "192.0.2.53/32", None),
            ],
            exact: Some(view("address", "198.51.100.7/32", None)),
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
            "To 198.51.100.7 itself, which is placed otherwise than its network",
        ] {
            assert!(text.contains(expected), "{expected:?} in\n{text}");
        }
    }
}
