//! Why users are sent where they are sent, as this node would answer.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Query, State};
use dns::{Explanation, Skip, Source, Steering, Step};
use gossip::clock::Wall;
use http::StatusCode;
use ipnet::IpNet;
use serde::Deserialize;

use super::api::dns::{
    DnsExplained, DnsMeasured, DnsNode, DnsRtt, DnsShare, DnsSkip, DnsSteering, DnsView, GeoipStatus,
};
use super::orders::rfc3339;
use super::problem::{Refusal, problem};
use super::{Context, shortage};
use crate::config::model::DnsZone;
use crate::config::nearest;
use crate::geoip::GeoStatus;

/// What resolvers tell of a user's address (RFC 7871 §11.1).
const ECS_BITS_V4: u8 = 24;
const ECS_BITS_V6: u8 = 56;

/// In seconds from 1970: no date is written beyond it, whatever a file claims.
const YEAR_10000: u64 = 253_402_300_800;

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Asked {
    /// The name asked for.
    name: String,
    /// The type asked for: A unless it says otherwise.
    #[serde(rename = "type", default = "any_address")]
    #[param(required = false)]
    kind: String,
    /// The user's address.
    #[param(value_type = String)]
    from: IpAddr,
    /// The address of a resolver that tells no network.
    #[param(value_type = Option<String>)]
    resolver: Option<IpAddr>,
}

fn any_address() -> String {
    "A".into()
}

/// Where DNS sends a user, and why.
#[utoipa::path(get, path = "/v1/dns/explain", tag = "dns", params(Asked), responses((status = 200, body = DnsExplained)))]
pub(super) async fn explain(
    State(context): State<Arc<Context>>,
    Query(asked): Query<Asked>,
) -> Result<Json<DnsExplained>, Refusal> {
    let Some(responder) = &context.dns else {
        let detail = "this node answers no DNS ([dns] listen is empty): ask one that does";
        return Err(problem(StatusCode::CONFLICT, detail));
    };
    let view = |by: &str, client: IpNet| {
        responder
            .explain(&asked.name, &asked.kind, client, context.clock.now())
            .map(|explanation| view(&context, by, client, explanation))
            .map_err(|error| problem(StatusCode::BAD_REQUEST, error.to_string()))
    };
    let told = view("ecs", told_by_resolvers(asked.from))?;
    let exact = view("address", asked.from.to_canonical().into())?;
    let exact = Some(exact).filter(|exact| stands_elsewhere(exact, &told));
    let mut views = vec![told];
    if let Some(resolver) = asked.resolver {
        views.push(view("resolver", resolver.to_canonical().into())?);
    }
    let is_unknown = views.iter().all(|view| view.zone.is_none() || view.rcode == "NXDOMAIN");
    let services = context.snapshot.borrow().services.clone();
    Ok(Json(DnsExplained {
        meant: is_unknown.then(|| meant(&services.zones, &asked.name)).flatten(),
        node: context.node.to_string(),
        region: context.snapshot.borrow().region.to_string(),
        name: asked.name,
        kind: asked.kind,
        geoip: context.geo.status().map(geoip),
        views,
        exact,
    }))
}

/// The name that may have been meant: in the zone that is meant, as far as that can be told.
fn meant(zones: &[DnsZone], asked: &str) -> Option<String> {
    let asked = asked.trim_end_matches('.').to_ascii_lowercase();
    let labels: Vec<&str> = asked.split('.').collect();
    let in_zone = |zone: &DnsZone| {
        let (own, origin) = labels.split_at(labels.len().checked_sub(zone.name.split('.').count())?);
        let (own, origin) = (own.join("."), origin.join("."));
        nearest(&origin, [zone.name.as_str()])?;
        let known = own_names(zone);
        let name = match own.is_empty() || known.contains(&own) {
            true => own,
            false => nearest(&own, known.iter().map(String::as_str))?.to_owned(),
        };
        let name = if name.is_empty() { zone.name.clone() } else { format!("{name}.{}", zone.name) };
        (name != asked).then_some((origin != zone.name, name))
    };
    zones.iter().filter_map(in_zone).min_by_key(|(elsewhere, _)| *elsewhere).map(|(_, name)| name)
}

/// The names that a zone's configuration speaks of, without the zone's own.
fn own_names(zone: &DnsZone) -> BTreeSet<String> {
    let origin = format!(".{}", zone.name);
    let relative = |name: &str| {
        let name = name.to_ascii_lowercase();
        match name.strip_suffix('.') {
            Some(absolute) => absolute.strip_suffix(&origin).map(str::to_owned),
            None => Some(name),
        }
    };
    let records = zone.records.iter().map(|record| record.name.as_str());
    let configured = zone.steer.keys().chain(zone.nameservers.keys()).map(String::as_str).chain(records);
    let file = zone
        .file
        .iter()
        .flat_map(|file| &file.records)
        .filter_map(|record| relative(&record.owner.to_string()));
    configured.filter_map(relative).chain(file).filter(|name| !name.contains(['@', '*'])).collect()
}

/// Whether two views place their clients differently.
fn stands_elsewhere(one: &DnsView, other: &DnsView) -> bool {
    let place = |view: &DnsView| {
        let steering = view.steering.as_ref()?;
        Some((steering.source.clone(), steering.location, steering.order.clone()))
    };
    place(one) != place(other)
}

/// The network that a resolver tells of a user.
fn told_by_resolvers(user: IpAddr) -> IpNet {
    let user = user.to_canonical();
    let bits = if user.is_ipv4() { ECS_BITS_V4 } else { ECS_BITS_V6 };
    IpNet::new(user, bits).map_or(user.into(), |net| net.trunc())
}

fn geoip(status: GeoStatus) -> GeoipStatus {
    let GeoStatus { path, database, problem } = status;
    let built = database.as_ref().filter(|(_, built)| *built < YEAR_10000);
    let built = built.map(|(_, built)| rfc3339(Wall(built * 1000)));
    GeoipStatus { path: path.display().to_string(), database: database.map(|(kind, _)| kind), built, problem }
}

fn view(context: &Context, by: &str, client: IpNet, explanation: Explanation) -> DnsView {
    let Explanation { zone, rcode, answers, referral, ttl, steering, .. } = explanation;
    DnsView {
        by: by.into(),
        client: client.to_string(),
        zone,
        rcode,
        answers,
        referral,
        ttl,
        steering: steering.map(|steering| steered(context, steering)),
    }
}

fn steered(context: &Context, steering: Steering) -> DnsSteering {
    let (snapshot, orders) = (context.snapshot.borrow().clone(), context.intents.list());
    let skipped = steering.skipped.into_iter().map(|(region, why)| {
        let shortage =
            (why == Skip::Unhealthy).then(|| shortage::of(&snapshot, &orders, &steering.service, &region));
        let ordered = shortage.as_ref().is_some_and(|shortage| shortage.ordered);
        let why = if ordered { "drained" } else { spell_skip(why) };
        DnsSkip { region, why: why.into(), detail: shortage.map(|shortage| shortage.words) }
    });
    let nodes = steering.chosen.into_iter();
    DnsSteering {
        policy: steering.policy.as_str().into(),
        looked_up: steering.looked_up.to_string(),
        scope_prefix: steering.scope_prefix.to_string(),
        shares: steering.shares.into_iter().map(|(region, free)| DnsShare { region, free }).collect(),
        measured: steering.measured.map(|measured| DnsMeasured {
            from: measured.from,
            to: measured
                .to
                .into_iter()
                .map(|(region, rtt)| DnsRtt { region, rtt_ms: rtt.map(millis) })
                .collect(),
        }),
        unknown: steering.unknown,
        unnamed: steering.unnamed,
        source: match steering.source {
            Source::Prefixes => "prefixes",
            Source::GeoIp => "geo-ip",
            Source::OwnRegion => "own-region",
        }
        .into(),
        location: steering.location.map(|location| (location.latitude, location.longitude)),
        scope: steering.scope,
        order: steering.order,
        skipped: skipped.collect(),
        service: steering.service.clone(),
        step: match steering.step {
            Step::Healthy => "healthy",
            Step::NoRoom => "no-room",
            Step::FailOpen => "fail-open",
            Step::LastResort => "last-resort",
            Step::NoFamily => "no-family",
            Step::Nobody => "nobody",
        }
        .into(),
        region: steering.region,
        nodes: nodes.map(|(name, address)| DnsNode { name, address: address.to_string() }).collect(),
        full_ttl: steering.full_ttl,
    }
}

/// To the microsecond.
fn millis(time: Duration) -> f64 {
    time.as_micros() as f64 / 1000.0
}

fn spell_skip(why: Skip) -> &'static str {
    match why {
        Skip::Unhealthy => "unhealthy",
        Skip::Full => "full",
        Skip::NoNodes => "no-nodes",
        Skip::Shedding => "shedding",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_nobody_has_is_answered_with_what_may_be_meant() {
        let text = r#"
            [listener.http]
            port = 80
            protocol = "http"
            [service.web]
            split = { v1 = 1 }
            [pool.v1]
            health.http = { path = "/" }
            backend = [{ address = "10.0.0.1:80", region = "eu" }]
            [dns.zone."lb.example.com"]
            nameserver = { ns1 = ["192.0.2.1"] }
            contact = "hostmaster@example.com"
            ttl = "10s"
            [dns.zone."lb.example.com".steer.www]
            service = "web"
            [[dns.zone."lb.example.com".record]]
            name = "mail"
            type = "TXT"
            value = "hello"
        "#;
        let zones = crate::config::services::parse("services.toml", text).unwrap().services.zones;
        let of = |asked| meant(&zones, asked);
        assert_eq!(of("wwww.lb.example.com.").as_deref(), Some("www.lb.example.com"));
        assert_eq!(of("NS2.lb.example.com").as_deref(), Some("ns1.lb.example.com"));
        assert_eq!(of("mail.lb.exmple.com").as_deref(), Some("mail.lb.example.com"));
        assert_eq!(of("lb.exampel.com").as_deref(), Some("lb.example.com"));
        for far in ["elsewhere.lb.example.com", "lb.example.com", "www.example.org", "com", ""] {
            assert_eq!(of(far), None, "{far}");
        }
    }

    #[test]
    fn resolvers_tell_a_network_and_not_an_address() {
        let told = |address: &str| told_by_resolvers(address.parse().unwrap()).to_string();
        assert_eq!(told("198.51.100.7"), "198.51.100.0/24");
        assert_eq!(told("::ffff:198.51.100.7"), "198.51.100.0/24");
        assert_eq!(told("2001:db8:1:2ff::1"), "2001:db8:1:200::/56");
    }
}
