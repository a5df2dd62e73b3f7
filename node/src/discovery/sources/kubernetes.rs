//! `discover.kubernetes`: the EndpointSlices of a service, by the API of the cluster that the node runs in.
//!
//! ```text
//!   list, a hundred slices at a time ──▶ say all ──▶ watch from its version ── each change ──▶ say all
//!     ▲                                                ▲ │ closed, cut: go on from the last version
//!     └── 410 Gone, unreadable ────────────────────────┴─┘     none of it is a failure if a new list is had
//! ```
//!
//! An endpoint that is ready takes new sessions; one that terminates and still serves keeps those it has; any other is no
//! backend. Its zone is the one that the hints give it traffic from, where there is exactly one, else where it stands. Of a
//! pod that stands in slices of both families the IPv4 address counts: it is one backend. The node's service account has to
//! be allowed to `list` and `watch` `endpointslices`; where it may only list, it does so again and again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use self::api::{Change, ChangeOf, Conditions, Endpoint, List, Marked, Slice};
use super::{Following, Reporter, Said, Source};
use crate::config::model::KubernetesSpec;
use crate::discovery::found::{FOUND_MAX, Found, Standing, is_reachable, readable};
use crate::kubernetes::{Asked, Cluster, Lines, unreadable};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

mod api;

/// Between two lists at least; after failures it doubles, up to [`LATEST`].
const AGAIN: Duration = Duration::from_secs(1);
const LATEST: Duration = Duration::from_secs(30);
/// So many lists in a row whose watches told nothing are no failure: an API may have just been restarted.
const FRUITLESS: u32 = 3;
/// How long a list may take, with all its chunks.
const LIST_TIMEOUT: Duration = Duration::from_secs(120);
/// Changes that come faster than this are told together.
const SAY_EVERY: Duration = Duration::from_millis(100);
/// The API allows so many endpoints in one slice, and makes them of a hundred.
const ENDPOINTS_MAX: usize = 1_000;
/// Slices of one service that are followed.
const SLICES_MAX: usize = 256;
/// So many are asked for at once.
const CHUNK: usize = 100;
/// Chunks of one list: even one slice each would be all that are followed.
const CHUNKS_MAX: usize = SLICES_MAX;
/// Endpoints that are remembered of one service, of both families and with those that serve no more.
const PODS_MAX: usize = 4 * FOUND_MAX;
/// The longest name of an object.
const NAME_MAX_BYTES: usize = 253;
/// The longest version or mark of a list: both are opaque, and go into the next question.
const OPAQUE_MAX_BYTES: usize = 4096;

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
        Box::pin(follow(self.spec, reporter, Cluster::from_environment))
    }
}

/// Lists and watches, again and again, the cluster as it tells of itself each time: clusters change tokens.
async fn follow(spec: KubernetesSpec, reporter: Reporter, cluster: impl Fn() -> Result<Cluster, String>) {
    let (mut wait, mut fruitless) = (AGAIN, 0_u32);
    let mut known: Option<Slices> = None;
    loop {
        let last = known.take();
        let round = async {
            let cluster = cluster()?;
            let slices = match last {
                Some(slices) => slices,
                None => {
                    let listed = tokio::time::timeout(LIST_TIMEOUT, list(&cluster, &spec)).await;
                    let slices = listed.unwrap_or_else(|_| Err("the list takes too long".into()))?;
                    reporter.say(slices.found()).await;
                    slices
                }
            };
            Ok::<_, String>(watch(&cluster, &spec, &reporter, slices).await)
        };
        // However soon a round ends, the API has that time to itself.
        let (round, ()) = tokio::join!(round, tokio::time::sleep(wait));
        wait = match round {
            Ok(Watch::Ended(slices)) => {
                known = Some(slices);
                AGAIN
            }
            Ok(Watch::Outdated { told }) => {
                fruitless = if told { 0 } else { fruitless.saturating_add(1) };
                AGAIN.saturating_mul(1 << fruitless.saturating_sub(FRUITLESS).min(8)).min(LATEST)
            }
            // What the list said holds; the next one tells whether more is wrong.
            Ok(Watch::Refused) => (wait * 2).min(LATEST),
            Err(error) => {
                reporter.say(Err(error)).await;
                (wait * 2).min(LATEST)
            }
        };
    }
}

/// How a watch ended.
enum Watch {
    /// The server has closed it, as it does every few minutes, or it was cut: the next goes on where it was.
    Ended(Slices),
    /// Changes are missing: a new list is needed. Whether there were any that could be read.
    Outdated { told: bool },
    /// It never began.
    Refused,
}

/// All slices, and the version from which changes follow. They come in chunks, all of one version; when it is forgotten
/// before the last is had, that is a failure, and the next list begins anew.
async fn list(cluster: &Cluster, spec: &KubernetesSpec) -> Result<Slices, String> {
    let mut slices = Slices::default();
    let mut next = String::new();
    for _ in 0..CHUNKS_MAX {
        let list: List = cluster.get(&format!("{}&limit={CHUNK}{next}", path(spec))).await?;
        for slice in list.items {
            slices.put(spec, slice)?;
        }
        slices.version = opaque(list.metadata.resource_version)?;
        match opaque(list.metadata.more.unwrap_or_default())? {
            more if more.is_empty() => return Ok(slices),
            more => next = format!("&continue={more}"),
        }
    }
    Err(format!("the list of service {} does not end", spec.service))
}

/// A word of the API's that means something to it alone, as it stands in a query.
fn opaque(word: String) -> Result<String, String> {
    if word.len() > OPAQUE_MAX_BYTES {
        return Err("the API gives a version or a mark that is too long".into());
    }
    Ok(utf8_percent_encode(&word, NON_ALPHANUMERIC).to_string())
}

/// Says all anew with each change, until there are no more. None of what ends it is a failure of the source.
async fn watch(cluster: &Cluster, spec: &KubernetesSpec, reporter: &Reporter, mut slices: Slices) -> Watch {
    let version = &slices.version;
    let path = format!("{}&watch=true&allowWatchBookmarks=true&resourceVersion={version}", path(spec));
    let mut changes: Lines = match cluster.follow(&path).await {
        Ok(Asked::Answer(changes)) => changes,
        Ok(Asked::Gone) => return Watch::Outdated { told: false },
        Err(why) => {
            tracing::warn!(service = spec.service, why, "endpoints are listed again and again: no watch");
            return Watch::Refused;
        }
    };
    let (mut told, mut unsaid, mut pauses) = (false, false, false);
    let mut pause = std::pin::pin!(tokio::time::sleep(Duration::ZERO));
    let end = loop {
        let line = tokio::select! {
            biased;
            () = &mut pause, if pauses => {
                pauses = false;
                None
            }
            line = changes.next() => Some(line),
        };
        let changed = match line {
            None => Ok(false),
            Some(Ok(Some(line))) => slices.change(spec, &line).inspect(|_| told = true),
            Some(Ok(None)) => break None,
            Some(Err(why)) => {
                tracing::debug!(service = spec.service, why, "a watch of endpoints broke");
                break None;
            }
        };
        match changed {
            Ok(is_news) => unsaid |= is_news,
            Err(why) => {
                tracing::debug!(service = spec.service, why, "endpoints are listed anew");
                break Some(Watch::Outdated { told });
            }
        }
        if unsaid && !pauses {
            reporter.say(slices.found()).await;
            (unsaid, pauses) = (false, true);
            pause.set(tokio::time::sleep(SAY_EVERY));
        }
    };
    if unsaid {
        reporter.say(slices.found()).await;
    }
    end.unwrap_or(Watch::Ended(slices))
}

fn path(spec: &KubernetesSpec) -> String {
    format!(
        "/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices?labelSelector=kubernetes.io%2Fservice-name%3D{}",
        spec.namespace, spec.service
    )
}

/// The backends of each slice, or why it has none, at one version.
#[derive(Debug, Default)]
struct Slices {
    by_name: BTreeMap<String, Result<Vec<Pod>, String>>,
    version: String,
}

/// A backend, and the pod that it is one address of.
#[derive(Debug, Clone)]
struct Pod {
    found: Found,
    uid: Option<String>,
}

impl Slices {
    /// A line of a watch. Whether anything may have changed; `Err`: why a new list is needed.
    fn change(&mut self, spec: &KubernetesSpec, line: &[u8]) -> Result<bool, String> {
        let change: Change = serde_json::from_slice(line).map_err(unreadable_change)?;
        let slice =
            || serde_json::from_slice(line).map(|of: ChangeOf<Slice>| of.object).map_err(unreadable_change);
        let is_news = match change.kind.as_str() {
            "ADDED" | "MODIFIED" => self.put(spec, slice()?).map(|()| true)?,
            "DELETED" => self.by_name.remove(&slice()?.metadata.name).is_some(),
            "BOOKMARK" => false,
            // The version is too old, or the like.
            other => return Err(format!("the API says {:?}", readable(other))),
        };
        let marked: ChangeOf<Marked> = serde_json::from_slice(line).map_err(unreadable_change)?;
        if let Some(version) = marked.object.metadata.resource_version {
            self.version = opaque(version)?;
        }
        Ok(is_news)
    }

    fn put(&mut self, spec: &KubernetesSpec, slice: Slice) -> Result<(), String> {
        let name = slice.metadata.name.clone();
        if name.len() > NAME_MAX_BYTES {
            return Err("a slice has a name that none can have".into());
        }
        if self.by_name.len() == SLICES_MAX && !self.by_name.contains_key(&name) {
            return Err(format!("service {} has more than {SLICES_MAX} slices", spec.service));
        }
        self.by_name.insert(name, found(spec, &slice));
        let pods: usize = self.by_name.values().flatten().map(Vec::len).sum();
        if pods > PODS_MAX {
            return Err(format!("service {} has more than {PODS_MAX} endpoints", spec.service));
        }
        Ok(())
    }

    /// All backends. A service without any is an honest answer: its pods are scaled to none.
    fn found(&self) -> Said {
        let mut pods: Vec<&Pod> = Vec::new();
        for slice in self.by_name.values() {
            pods.extend(slice.as_ref().map_err(String::clone)?);
        }
        let fourth: BTreeSet<&str> = pods
            .iter()
            .filter(|pod| pod.found.address.is_ipv4())
            .filter_map(|pod| pod.uid.as_deref())
            .collect();
        let mut all: BTreeMap<SocketAddr, Found> = BTreeMap::new();
        for Pod { found: new, uid } in pods {
            let is_double = new.address.is_ipv6() && uid.as_deref().is_some_and(|uid| fourth.contains(uid));
            if !is_double && (all.len() < FOUND_MAX || all.contains_key(&new.address)) {
                // An endpoint may stand in two slices while one is rewritten.
                let known = all.entry(new.address).or_insert_with(|| new.clone());
                known.standing = known.standing.min(new.standing);
            }
        }
        Ok(all.into_values().collect())
    }
}

fn unreadable_change(error: serde_json::Error) -> String {
    unreadable("a change", &error)
}

/// The backends of one slice.
fn found(spec: &KubernetesSpec, slice: &Slice) -> Result<Vec<Pod>, String> {
    if slice.endpoints.len() > ENDPOINTS_MAX {
        return Err(format!("a slice has more endpoints than the {ENDPOINTS_MAX} that are allowed"));
    }
    if !matches!(slice.address_type.as_str(), "IPv4" | "IPv6") {
        return Ok(Vec::new());
    }
    let Some(port) = port(spec, slice)? else { return Ok(Vec::new()) };
    let found = slice.endpoints.iter().filter_map(|endpoint| {
        let standing = standing(endpoint.conditions.as_ref())?;
        // All addresses of one endpoint are one and the same pod.
        let ip: IpAddr = endpoint.addresses.iter().find_map(|ip| ip.parse().ok())?;
        let address = Some(SocketAddr::new(ip, port)).filter(|address| is_reachable(*address))?;
        let zone = zone(endpoint).and_then(|zone| zone.parse().ok());
        let found = Found { zone, standing, ..Found::at(address, spec.region.clone()) };
        let uid = endpoint.target_ref.as_ref().and_then(|target| target.uid.clone());
        Some(Pod { found, uid: uid.filter(|uid| uid.len() <= NAME_MAX_BYTES) })
    });
    Ok(found.collect())
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

/// A list or a line of a watch, whatever it is: what comes of it is within bounds and can be reached.
#[cfg(any(test, fuzzing))]
pub(crate) fn survives(bytes: &[u8]) {
    let region = gossip::id::RegionName::new("eu").expect("a name");
    let spec = KubernetesSpec { service: "web".into(), namespace: "shop".into(), port: None, region };
    let mut slices = Slices::default();
    if let Ok(list) = serde_json::from_slice::<List>(bytes) {
        let _ = list.items.into_iter().try_for_each(|slice| slices.put(&spec, slice));
    }
    for line in bytes.split(|byte| *byte == b'\n') {
        let _ = slices.change(&spec, line);
    }
    let found = slices.found().unwrap_or_default();
    assert!(slices.by_name.len() <= SLICES_MAX && found.len() <= FOUND_MAX);
    assert!(found.iter().all(|found| is_reachable(found.address)));
    assert!(slices.version.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'%'));
}

/// A list, and a watch with a change of each kind.
#[cfg(any(test, fuzzing))]
pub(crate) fn golden() -> Vec<Vec<u8>> {
    let slice = r#"{"metadata":{"name":"web-1","resourceVersion":"7"},"addressType":"IPv4","endpoints":[{"addresses":["10.0.0.1"],"conditions":{"ready":true,"serving":true,"terminating":false},"zone":"eu-a","hints":{"forZones":[{"name":"eu-b"}]},"targetRef":{"kind":"Pod","uid":"u"}}],"ports":[{"name":"http","port":8080,"protocol":"TCP"}]}"#;
    let list = format!(r#"{{"metadata":{{"resourceVersion":"6","continue":"abc=="}},"items":[{slice}]}}"#);
    let kinds = ["ADDED", "MODIFIED", "DELETED"];
    let lines = kinds.map(|kind| format!("{{\"type\":\"{kind}\",\"object\":{slice}}}\n"));
    let bookmark = "{\"type\":\"BOOKMARK\",\"object\":{\"metadata\":{\"resourceVersion\":\"9\"}}}\n";
    vec![list.into(), [lines.concat(), bookmark.into()].concat().into()]
}

#[cfg(test)]
mod tests;
