//! Operators' orders at run time (intents): drains, maintenance, weights, splits, denials. They outlive revisions, and the
//! whole mesh obeys them. What would leave users without anybody is refused unless `force` is said.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use gossip::clock::Wall;
use gossip::id::{PoolName, ServiceName};
use http::header::{ETAG, IF_MATCH};
use http::{HeaderMap, HeaderValue, StatusCode};
use ipnet::IpNet;
use serde::Deserialize;
use storage::intents::{Aspect, Intent, Order, Target};

use super::api::{IntentStatus, Problem, SplitOrder, WeightOrder};
use super::problem::{Refusal, problem};
use super::targets::{last_of, ordered, targets, there_are};
use super::{Context, sessions};

type Shared = State<Arc<Context>>;

/// The longest time that an order may be given for: beyond it nobody remembers why.
const LONGEST: Duration = Duration::from_secs(366 * 86_400);
/// The largest weight, as in the file.
const WEIGHT_MAX: u32 = 65_535;
/// The greatest share, as in the file.
const SHARE_MAX: u32 = 1_000_000;
/// A denial of more users than a network of these bits has is taken for a slip of the finger.
const WIDEST: (u8, u8) = (8, 16);

/// All orders in force. Their ETag is for If-Match with a further order.
#[utoipa::path(get, path = "/v1/intents", tag = "orders", responses((status = 200, body = Vec<IntentStatus>)))]
pub(super) async fn intents(State(context): Shared) -> Response {
    answer(&context)
}

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct HowToDrain {
    /// From now, in milliseconds: sessions that are left then are moved. Without it they stay.
    #[param(maximum = 31_622_400_000u64)]
    deadline_ms: Option<u64>,
    /// Takes the deadline of a drain that stands off. Without it, and without another deadline, that one stays.
    #[serde(default)]
    #[param(required = false)]
    no_deadline: bool,
    /// Also when nobody else would take new users.
    #[serde(default)]
    #[param(required = false)]
    force: bool,
}

/// Takes no new sessions on a node, backend, region or pool; present ones stay.
#[utoipa::path(put, path = "/v1/drains/{kind}/{name}", tag = "orders",
    params(("kind" = String, Path, description = "node, backend, region or pool"), ("name" = String, Path), HowToDrain),
    responses((status = 200, body = Vec<IntentStatus>), (status = 409, description = "nobody else would take new users", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn drain(
    State(context): Shared,
    Path((kind, name)): Path<(String, String)>,
    Query(HowToDrain { deadline_ms, no_deadline, force }): Query<HowToDrain>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let deadline = deadline_ms.map(|after| after_now(&context, Duration::from_millis(after))).transpose()?;
    let targets = may(&context, &headers, &kind, &name, force)?;
    let standing = context.intents.list();
    let mut changed = false;
    for target in targets {
        let present = standing.get(&(target.clone(), Aspect::State)).map(|intent| &intent.order);
        let order = drained(present, deadline, no_deadline);
        if present != Some(&order) {
            context.intents.set(target, order).await?;
            changed = true;
        }
    }
    if changed {
        told(&context, format!("{kind} {name}"), "an operator drains it");
    }
    Ok(answer(&context))
}

/// The drain that is meant: who says nothing of a deadline does not take back the one that was given.
fn drained(present: Option<&Order>, deadline: Option<Wall>, no_deadline: bool) -> Order {
    match (present, deadline) {
        (Some(order @ Order::Drain { deadline: Some(_) }), None) if !no_deadline => order.clone(),
        _ => Order::Drain { deadline },
    }
}

/// Takes a drain back.
#[utoipa::path(delete, path = "/v1/drains/{kind}/{name}", tag = "orders", params(("kind" = String, Path), ("name" = String, Path)),
    responses((status = 200, body = Vec<IntentStatus>), (status = 404, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn undrain(
    State(context): Shared,
    Path((kind, name)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    take_back_state(&context, &headers, &kind, &name, "draining").await
}

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Force {
    /// Also when nobody else would take new users.
    #[serde(default)]
    #[param(required = false)]
    force: bool,
}

/// Takes everything off a backend, pool or region at once: sessions move with their next request. A node drains.
#[utoipa::path(put, path = "/v1/maintenance/{kind}/{name}", tag = "orders",
    params(("kind" = String, Path, description = "node, backend, region or pool"), ("name" = String, Path), Force),
    responses((status = 200, body = Vec<IntentStatus>), (status = 409, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn maintain(
    State(context): Shared,
    Path((kind, name)): Path<(String, String)>,
    Query(Force { force }): Query<Force>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let targets = may(&context, &headers, &kind, &name, force)?;
    give(&context, targets, &Order::Maintenance).await?;
    told(&context, format!("{kind} {name}"), "an operator orders maintenance");
    Ok(answer(&context))
}

/// Ends maintenance.
#[utoipa::path(delete, path = "/v1/maintenance/{kind}/{name}", tag = "orders", params(("kind" = String, Path), ("name" = String, Path)),
    responses((status = 200, body = Vec<IntentStatus>), (status = 404, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn unmaintain(
    State(context): Shared,
    Path((kind, name)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    take_back_state(&context, &headers, &kind, &name, "in maintenance").await
}

/// Gives a backend another weight than the file does; 0 takes no new sessions.
#[utoipa::path(put, path = "/v1/weights/{backend}", tag = "orders", request_body = WeightOrder,
    params(("backend" = String, Path, description = "ADDRESS or POOL/ADDRESS, percent-encoded"), Force),
    responses((status = 200, body = Vec<IntentStatus>), (status = 409, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn weigh(
    State(context): Shared,
    Path(backend): Path<String>,
    Query(Force { force }): Query<Force>,
    headers: HeaderMap,
    Json(WeightOrder { weight }): Json<WeightOrder>,
) -> Result<Response, Refusal> {
    if weight > WEIGHT_MAX {
        let detail = format!("a weight is a number from 0 to {WEIGHT_MAX}");
        return Err(problem(StatusCode::UNPROCESSABLE_ENTITY, detail));
    }
    // A weight of 0 is a drain by another name.
    let targets = may(&context, &headers, "backend", &backend, force || weight > 0)?;
    give(&context, targets, &Order::Weight(weight)).await?;
    told(&context, format!("backend {backend}"), &format!("an operator gives it weight {weight}"));
    Ok(answer(&context))
}

/// Gives a backend the file's weight again.
#[utoipa::path(delete, path = "/v1/weights/{backend}", tag = "orders", params(("backend" = String, Path)),
    responses((status = 200, body = Vec<IntentStatus>), (status = 404, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn unweigh(
    State(context): Shared,
    Path(backend): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    if_match(&context, &headers)?;
    let targets = standing(&context, Aspect::Weight, "backend", &backend)?;
    if !take_back(&context, targets, Aspect::Weight).await? {
        let detail = format!("backend {backend} has the weight of the file");
        return Err(problem(StatusCode::NOT_FOUND, detail));
    }
    told(&context, format!("backend {backend}"), "an operator gives it the file's weight again");
    Ok(answer(&context))
}

/// Gives a service other shares than the file does. Pools that are not named keep the users they have.
#[utoipa::path(put, path = "/v1/splits/{service}", tag = "orders", params(("service" = String, Path)), request_body = SplitOrder,
    responses((status = 200, body = Vec<IntentStatus>), (status = 404, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn split(
    State(context): Shared,
    Path(service): Path<String>,
    headers: HeaderMap,
    Json(SplitOrder { split }): Json<SplitOrder>,
) -> Result<Response, Refusal> {
    if_match(&context, &headers)?;
    let snapshot = context.snapshot.borrow().clone();
    let service = known_service(&context, &service)?;
    let mut shares = Vec::new();
    for (pool, share) in split {
        let Some((pool, _)) = snapshot.pools.get_key_value(pool.as_str()) else {
            let known = snapshot.pools.keys().map(|name| name.as_str()).collect();
            let detail = format!("there is no pool {pool:?}{}", there_are(&pool, known));
            return Err(problem(StatusCode::UNPROCESSABLE_ENTITY, detail));
        };
        if share > SHARE_MAX {
            let detail = format!("a share is a number from 0 to {SHARE_MAX}");
            return Err(problem(StatusCode::UNPROCESSABLE_ENTITY, detail));
        }
        shares.push((pool.clone(), share));
    }
    if !shares.iter().any(|(_, share)| *share > 0) {
        let detail = "at least one share must be greater than 0, or new users have nowhere to go";
        return Err(problem(StatusCode::UNPROCESSABLE_ENTITY, detail));
    }
    let words = spell_split(&shares);
    context.intents.set(Target::Service(service.clone()), Order::Split(shares)).await?;
    told(&context, format!("service {service}"), &format!("an operator splits its new users: {words}"));
    Ok(answer(&context))
}

/// Gives a service the file's shares again.
#[utoipa::path(delete, path = "/v1/splits/{service}", tag = "orders", params(("service" = String, Path)),
    responses((status = 200, body = Vec<IntentStatus>), (status = 404, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn unsplit(
    State(context): Shared,
    Path(service): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    if_match(&context, &headers)?;
    let targets = match &ordered(&context.intents.list(), Aspect::Split, "service", &service)[..] {
        [] => vec![Target::Service(known_service(&context, &service)?)],
        ordered => ordered.to_vec(),
    };
    if !take_back(&context, targets, Aspect::Split).await? {
        let detail = format!("service {service} has the split of the file");
        return Err(problem(StatusCode::NOT_FOUND, detail));
    }
    told(&context, format!("service {service}"), "an operator gives it the file's split again");
    Ok(answer(&context))
}

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct HowLong {
    /// From now, in seconds. Without it the order stands until it is taken back.
    #[param(minimum = 1, maximum = 31_622_400)]
    seconds: Option<u64>,
    /// Also a network wider than /8 (IPv4) or /16 (IPv6), and one that this machine is in.
    #[serde(default)]
    #[param(required = false)]
    force: bool,
}

/// Refuses the users of a network, in every service of the mesh.
#[utoipa::path(put, path = "/v1/denies/{network}", tag = "orders",
    params(("network" = String, Path, description = "ADDRESS or ADDRESS/BITS, percent-encoded"), HowLong),
    responses((status = 200, body = Vec<IntentStatus>), (status = 409, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn deny(
    State(context): Shared,
    Path(network): Path<String>,
    Query(HowLong { seconds, force }): Query<HowLong>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    if_match(&context, &headers)?;
    let network = parse_network(&network)?;
    let widest = if network.addr().is_ipv4() { WIDEST.0 } else { WIDEST.1 };
    if network.prefix_len() < widest && !force {
        let detail = format!("{network} is very many users; nothing was changed");
        return Err(problem(StatusCode::CONFLICT, detail));
    }
    let until = seconds.map(|seconds| after_now(&context, Duration::from_secs(seconds))).transpose()?;
    context.intents.set(target_of(network), Order::Deny { until }).await?;
    told(&context, network.to_string(), "an operator refuses its users");
    Ok(answer(&context))
}

/// Serves the users of a network again.
#[utoipa::path(delete, path = "/v1/denies/{network}", tag = "orders", params(("network" = String, Path)),
    responses((status = 200, body = Vec<IntentStatus>), (status = 404, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn undeny(
    State(context): Shared,
    Path(network): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    if_match(&context, &headers)?;
    let network = parse_network(&network)?;
    if !context.intents.clear(target_of(network), Aspect::Deny).await? {
        let detail = format!("no order refuses {network}; lists in services.toml are changed with apply");
        return Err(problem(StatusCode::NOT_FOUND, detail));
    }
    told(&context, network.to_string(), "an operator serves its users again");
    Ok(answer(&context))
}

/// What an order is about, once it is known that it may be given.
fn may(
    context: &Context,
    headers: &HeaderMap,
    kind: &str,
    name: &str,
    force: bool,
) -> Result<Vec<Target>, Refusal> {
    if_match(context, headers)?;
    let (snapshot, view) = (context.snapshot.borrow().clone(), context.view.borrow().clone());
    let targets = targets(&snapshot, &view, kind, name)?;
    match last_of(&snapshot, &view, &targets) {
        Some(why) if !force => Err(problem(StatusCode::CONFLICT, format!("{why}; nothing was changed"))),
        _ => Ok(targets),
    }
}

async fn give(context: &Context, targets: Vec<Target>, order: &Order) -> Result<(), Refusal> {
    for target in targets {
        context.intents.set(target, order.clone()).await?;
    }
    Ok(())
}

/// What an order that is taken back is about: of what has one, else of what exists.
fn standing(context: &Context, aspect: Aspect, kind: &str, name: &str) -> Result<Vec<Target>, Refusal> {
    let ordered = ordered(&context.intents.list(), aspect, kind, name);
    if !ordered.is_empty() {
        return Ok(ordered);
    }
    targets(&context.snapshot.borrow().clone(), &context.view.borrow(), kind, name)
}

async fn take_back(context: &Context, targets: Vec<Target>, aspect: Aspect) -> Result<bool, Refusal> {
    let mut any = false;
    for target in targets {
        any |= context.intents.clear(target, aspect).await?;
    }
    Ok(any)
}

async fn take_back_state(
    context: &Context,
    headers: &HeaderMap,
    kind: &str,
    name: &str,
    state: &str,
) -> Result<Response, Refusal> {
    if_match(context, headers)?;
    let targets = standing(context, Aspect::State, kind, name)?;
    if !take_back(context, targets, Aspect::State).await? {
        return Err(problem(StatusCode::NOT_FOUND, format!("{kind} {name} is not {state}")));
    }
    told(context, format!("{kind} {name}"), "an operator gives it back to users");
    Ok(answer(context))
}

fn known_service(context: &Context, name: &str) -> Result<ServiceName, Refusal> {
    let services = context.snapshot.borrow().services.clone();
    match services.services.get_key_value(name) {
        Some((name, _)) => Ok(name.clone()),
        None => {
            let known = services.services.keys().map(|name| name.as_str()).collect();
            let detail = format!("there is no service {name:?}{}", there_are(name, known));
            Err(problem(StatusCode::NOT_FOUND, detail))
        }
    }
}

fn parse_network(text: &str) -> Result<IpNet, Refusal> {
    let host = || text.parse::<IpAddr>().map(|address| IpNet::from(address.to_canonical()));
    match text.parse::<IpNet>().or_else(|_| host()) {
        Ok(network) => Ok(network.trunc()),
        Err(_) => {
            let detail = format!("{text:?} is no network, such as 203.0.113.0/24 or 2001:db8::/48");
            Err(problem(StatusCode::UNPROCESSABLE_ENTITY, detail))
        }
    }
}

fn target_of(network: IpNet) -> Target {
    Target::Network(network.network(), network.prefix_len())
}

fn after_now(context: &Context, after: Duration) -> Result<Wall, Refusal> {
    if after > LONGEST {
        return Err(problem(StatusCode::UNPROCESSABLE_ENTITY, "an order may be given for a year at most"));
    }
    Ok(context.clock.mesh_wall().plus(after))
}

fn told(context: &Context, subject: String, text: &str) {
    context.events.tell("order", subject, text.to_owned(), &context.clock);
}

/// All orders, with the tag that If-Match compares.
fn answer(context: &Context) -> Response {
    let intents = context.intents.list();
    let now = context.clock.mesh_wall();
    let mut response = Json(spell(intents.iter(), now)).into_response();
    if let Ok(tag) = HeaderValue::from_str(&tag(context)) {
        response.headers_mut().insert(ETAG, tag);
    }
    response
}

fn tag(context: &Context) -> String {
    let intents = context.intents.list();
    let mut hasher = blake3::Hasher::new();
    for ((target, aspect), intent) in intents.iter() {
        hasher.update(format!("{target:?} {aspect:?} {intent:?}\n").as_bytes());
    }
    format!("\"{:.16}\"", hasher.finalize().to_hex())
}

/// Compare-and-set over all orders.
fn if_match(context: &Context, headers: &HeaderMap) -> Result<(), Refusal> {
    let Some(expected) = headers.get(IF_MATCH) else { return Ok(()) };
    let expected = expected.to_str().unwrap_or_default();
    let present = tag(context);
    if expected.split(',').any(|one| one.trim() == "*" || one.trim() == present) {
        return Ok(());
    }
    Err(problem(StatusCode::PRECONDITION_FAILED, "other orders are in force than was expected; look again"))
}

/// Orders in words, at `now` of the mesh's clock.
pub(super) fn spell<'a>(
    intents: impl Iterator<Item = (&'a (Target, Aspect), &'a Intent)>,
    now: Wall,
) -> Vec<IntentStatus> {
    intents
        .map(|((target, _), intent)| {
            let (kind, name) = spell_target(target);
            let (order, until) = match &intent.order {
                Order::Drain { deadline: None } => ("drain".to_owned(), None),
                Order::Drain { deadline: Some(until) } if *until <= now => {
                    (format!("drained, its deadline passed at {}", rfc3339(*until)), Some(*until))
                }
                Order::Drain { deadline: Some(until) } => {
                    (format!("drain until {}", rfc3339(*until)), Some(*until))
                }
                Order::Maintenance => ("maintenance".to_owned(), None),
                Order::InstallKey => ("install".to_owned(), None),
                Order::RemoveKey => ("remove".to_owned(), None),
                Order::UseKey(id) => (format!("use key {}", crate::keys::spell(*id)), None),
                Order::End { until } => {
                    (format!("sessions ended, kept in mind until {}", rfc3339(*until)), Some(*until))
                }
                Order::Weight(weight) => (format!("weight {weight}"), None),
                Order::Split(shares) => (format!("split {}", spell_split(shares)), None),
                Order::Deny { until: None } => ("deny".to_owned(), None),
                Order::RetireZoneKey => ("retired".to_owned(), None),
                Order::Deny { until: Some(until) } => {
                    (format!("deny until {}", rfc3339(*until)), Some(*until))
                }
            };
            let (kind, by, at) = (kind.to_owned(), intent.by.to_string(), rfc3339(intent.at.wall()));
            // Rounded up: 0 says that it has passed.
            let seconds_left = until.map(|until| until.0.saturating_sub(now.0).div_ceil(1000));
            IntentStatus { kind, name, order, until: until.map(rfc3339), seconds_left, by, at }
        })
        .collect()
}

/// A target's kind and name, as orders about it are listed and taken back.
pub(super) fn spell_target(target: &Target) -> (&'static str, String) {
    match target {
        Target::Node(name) => ("node", name.to_string()),
        Target::Region(name) => ("region", name.to_string()),
        Target::Pool(name) => ("pool", name.to_string()),
        Target::Backend(pool, address) => ("backend", format!("{pool}/{address}")),
        Target::Service(name) => ("service", name.to_string()),
        Target::Session(id) => ("session", sessions::spell_id(id)),
        Target::Key(id) => ("key", crate::keys::spell(*id)),
        Target::Mesh => ("mesh", String::new()),
        Target::Network(address, bits) => ("network", format!("{address}/{bits}")),
        Target::ZoneKey { zone, tag, .. } => ("zone key", format!("{zone} {tag}")),
    }
}

fn spell_split(shares: &[(PoolName, u32)]) -> String {
    let shares: BTreeMap<_, _> = shares.iter().map(|(pool, share)| (pool.as_str(), share)).collect();
    let words: Vec<String> = shares.iter().map(|(pool, share)| format!("{pool}={share}")).collect();
    words.join(" ")
}

pub(super) fn rfc3339(at: Wall) -> String {
    /// In milliseconds from 1970: no date is written beyond the year 9999, whatever a peer claims.
    const LAST: u64 = 253_402_300_799_000;
    humantime::format_rfc3339_seconds(Wall(at.0.min(LAST)).system_time()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_read_as_people_write_them() {
        let read = |text| parse_network(text).ok().map(|network| network.to_string());
        assert_eq!(read("203.0.113.7/24").as_deref(), Some("203.0.113.0/24"));
        assert_eq!(read("203.0.113.7").as_deref(), Some("203.0.113.7/32"));
        assert_eq!(read("::ffff:203.0.113.7").as_deref(), Some("203.0.113.7/32"));
        assert_eq!(read("2001:db8::/48").as_deref(), Some("2001:db8::/48"));
        assert_eq!((read("everybody"), read("203.0.113.0/33")), (None, None));
    }

    #[test]
    fn a_drain_that_is_ordered_again_keeps_its_deadline() {
        let by = |deadline: Option<u64>| Order::Drain { deadline: deadline.map(Wall) };
        assert_eq!(drained(None, None, false), by(None));
        assert_eq!(drained(Some(&by(Some(7))), None, false), by(Some(7)));
        assert_eq!(drained(Some(&by(Some(7))), Some(Wall(5)), false), by(Some(5)));
        assert_eq!(drained(Some(&by(Some(7))), None, true), by(None));
        assert_eq!(drained(Some(&Order::Maintenance), None, false), by(None));
    }

    #[test]
    fn a_deadline_is_told_with_what_is_left_of_it() {
        let intent = |deadline| Intent {
            order: Order::Drain { deadline: Some(Wall(deadline)) },
            at: gossip::clock::Hlc::ZERO,
            by: "eu-1".parse().unwrap(),
        };
        let told = |deadline, now| {
            let key = (Target::Pool("web".parse().unwrap()), Aspect::State);
            let told = spell([(&key, &intent(deadline))].into_iter(), Wall(now)).remove(0);
            (told.order, told.seconds_left)
        };
        assert_eq!(told(3000, 1999), ("drain until 1970-01-01T00:00:03Z".into(), Some(2)));
        assert_eq!(
            told(3000, 3000),
            ("drained, its deadline passed at 1970-01-01T00:00:03Z".into(), Some(0))
        );
    }

    #[test]
    fn no_date_is_too_far_to_be_written() {
        assert_eq!(rfc3339(Wall(u64::MAX)), "9999-12-31T23:59:59Z");
    }
}
