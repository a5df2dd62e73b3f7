//! `discover.kubernetes`: the EndpointSlices of a service, by the API of the cluster that the node runs in.
//!
//! ```text
//!   list ──▶ say all ──▶ watch from its version ── each change ──▶ say all
//!     ▲                     │ 410 Gone, or closed
//!     └─────────────────────┘
//! ```
//!
//! An endpoint that is ready takes new sessions; one that terminates and still serves keeps those it has; any other is no
//! backend. Its zone is the one that the hints give it traffic from, where there is exactly one, else where it stands. The
//! node's service account has to be allowed to `list` and `watch` `endpointslices`.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::Deserialize;

use super::{Following, Reporter, Source};
use crate::config::model::KubernetesSpec;
use crate::discovery::found::{FOUND_MAX, Found, Standing, is_reachable};
use crate::kubernetes::{Cluster, Lines};

/// How soon the API is asked again after a failure; it doubles up to [`LATEST`].
const AGAIN: Duration = Duration::from_secs(1);
const LATEST: Duration = Duration::from_secs(30);

/// Endpoints of a service.
pub(super) struct Kubernetes {
    spec: KubernetesSpec,
}

impl Kubernetes {
    pub(super) fn new(spec: KubernetesSpec) -> Self {
        Self { spec }
    }
}

impl Source for Kubernetes {
    fn follow(self, reporter: Reporter) -> Following {
        Box::pin(async move {
            let mut wait = AGAIN;
            loop {
                let mut listed = false;
                let error = match Cluster::from_environment() {
                    Ok(cluster) => with(&cluster, &self.spec, &reporter, &mut listed).await.err(),
                    Err(error) => Some(error),
                };
                if let Some(error) = error {
                    reporter.say(Err(error)).await;
                }
                wait = if listed { AGAIN } else { (wait * 2).min(LATEST) };
                tokio::time::sleep(wait).await;
            }
        })
    }
}

/// Lists and watches until the API fails. Whether a list was had.
async fn with(
    cluster: &Cluster,
    spec: &KubernetesSpec,
    reporter: &Reporter,
    listed: &mut bool,
) -> Result<(), String> {
    let path = format!("/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices", spec.namespace);
    let selector = format!("labelSelector=kubernetes.io%2Fservice-name%3D{}", spec.service);
    loop {
        let list: List = cluster.get(&format!("{path}?{selector}")).await?;
        let mut slices: BTreeMap<String, Slice> =
            list.items.into_iter().map(|slice| (slice.metadata.name.clone(), slice)).collect();
        *listed = true;
        reporter.say(found(spec, &slices)).await;
        let from = list.metadata.resource_version;
        let watch = format!("{path}?{selector}&watch=true&allowWatchBookmarks=true&resourceVersion={from}");
        let mut changes: Lines = cluster.follow(&watch).await?;
        while let Some(line) = changes.next().await? {
            let change: Change =
                serde_json::from_slice(&line).map_err(|error| format!("a change cannot be read: {error}"))?;
            match change.kind.as_str() {
                "ADDED" | "MODIFIED" | "DELETED" => {
                    let slice: Slice = serde_json::from_value(change.object)
                        .map_err(|error| format!("a slice cannot be read: {error}"))?;
                    let name = slice.metadata.name.clone();
                    match change.kind.as_str() {
                        "DELETED" => drop(slices.remove(&name)),
                        _ => drop(slices.insert(name, slice)),
                    }
                    reporter.say(found(spec, &slices)).await;
                }
                "BOOKMARK" => {}
                // The version is too old: a new list. Anything else will be told by that.
                _ => break,
            }
        }
    }
}

#[derive(Debug, Deserialize)]
struct List {
    metadata: ListMetadata,
    items: Vec<Slice>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListMetadata {
    resource_version: String,
}

#[derive(Debug, Deserialize)]
struct Change {
    #[serde(rename = "type")]
    kind: String,
    object: serde_json::Value,
}

/// `discovery.k8s.io/v1` EndpointSlice, as far as it matters here.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Slice {
    metadata: Metadata,
    #[serde(default)]
    address_type: String,
    #[serde(default, deserialize_with = "null_is_none")]
    endpoints: Vec<Endpoint>,
    #[serde(default, deserialize_with = "null_is_none")]
    ports: Vec<Port>,
}

#[derive(Debug, Deserialize)]
struct Metadata {
    name: String,
}

#[derive(Debug, Deserialize)]
struct Port {
    name: Option<String>,
    port: Option<u16>,
    protocol: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Endpoint {
    #[serde(default, deserialize_with = "null_is_none")]
    addresses: Vec<String>,
    conditions: Option<Conditions>,
    zone: Option<String>,
    hints: Option<Hints>,
}

#[derive(Debug, Default, Deserialize)]
struct Conditions {
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Hints {
    #[serde(default, deserialize_with = "null_is_none")]
    for_zones: Vec<ForZone>,
}

#[derive(Debug, Deserialize)]
struct ForZone {
    name: String,
}

/// The API writes an empty list as null.
fn null_is_none<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    Option::<Vec<T>>::deserialize(from).map(Option::unwrap_or_default)
}

/// All backends of these slices. A service without any is an honest answer: its pods are scaled to none.
fn found(spec: &KubernetesSpec, slices: &BTreeMap<String, Slice>) -> Result<Vec<Found>, String> {
    let mut found: BTreeMap<SocketAddr, Found> = BTreeMap::new();
    for slice in slices.values().filter(|slice| matches!(slice.address_type.as_str(), "IPv4" | "IPv6")) {
        let Some(port) = port(spec, slice)? else { continue };
        for endpoint in &slice.endpoints {
            let Some(standing) = standing(endpoint.conditions.as_ref()) else { continue };
            for ip in endpoint.addresses.iter().filter_map(|ip| ip.parse::<IpAddr>().ok()) {
                let address = SocketAddr::new(ip, port);
                if is_reachable(address) && found.len() < FOUND_MAX {
                    let zone = zone(endpoint).and_then(|zone| zone.parse().ok());
                    let new = Found { zone, standing, ..Found::at(address, spec.region.clone()) };
                    // An endpoint may stand in two slices while one is rewritten.
                    let known = found.entry(address).or_insert_with(|| new.clone());
                    known.standing = known.standing.min(new.standing);
                }
            }
        }
    }
    Ok(found.into_values().collect())
}

/// The port that the configuration names, else the only one for TCP.
fn port(spec: &KubernetesSpec, slice: &Slice) -> Result<Option<u16>, String> {
    let tcp = slice.ports.iter().filter(|port| port.protocol.as_deref().unwrap_or("TCP") == "TCP");
    let named = tcp.filter(|port| spec.port.is_none() || port.name == spec.port);
    let ports: Vec<u16> = named.filter_map(|port| port.port).collect();
    match ports[..] {
        // Slices of no endpoints have no ports.
        [] if slice.endpoints.is_empty() || spec.port.is_some() => Ok(None),
        [] => Err(format!("service {} has no port", spec.service)),
        [port] => Ok(Some(port)),
        _ => Err(format!("service {} has several ports: name one, port = \"http\"", spec.service)),
    }
}

fn standing(conditions: Option<&Conditions>) -> Option<Standing> {
    let unknown = Conditions::default();
    let conditions = conditions.unwrap_or(&unknown);
    // What is not said counts as said well.
    let ready = conditions.ready.unwrap_or(true);
    match (ready, conditions.serving.unwrap_or(ready), conditions.terminating.unwrap_or(false)) {
        (true, _, false) => Some(Standing::Serving),
        (_, true, true) => Some(Standing::Leaving),
        _ => None,
    }
}

fn zone(endpoint: &Endpoint) -> Option<&str> {
    let hinted = endpoint.hints.as_ref().map(|hints| &hints.for_zones[..]);
    match hinted {
        Some([only]) => Some(&only.name),
        _ => endpoint.zone.as_deref(),
    }
}

#[cfg(test)]
mod tests;
