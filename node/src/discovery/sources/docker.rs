//! `discover.docker`: the containers of this node's own Docker Engine that carry a label.
//!
//! ```text
//!   events since T ──▶ something about such a container ──▶ list anew ──▶ say all
//!                       kill by a signal that stops          ──▶ it is leaving: no new sessions
//!                       die                                  ──▶ it is gone: nothing to drain
//! ```
//!
//! Events say when to look; what is said is always a whole list, less those that died, which an engine lists for a moment
//! more. The events begin before the first list, so nothing falls between the two. A node without an engine says nothing at all: that is not a failure. Labels of a container:
//! `meridian.port`, `.weight`, `.region`, `.zone`, `.rack`, and `.drain` for how long it keeps its sessions.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use tokio::time::timeout;

use super::{Following, Here, Reporter, Source};
use crate::config::model::DockerSpec;
use crate::discovery::found::{DRAIN_MAX, FOUND_MAX, Found, Standing, is_reachable, readable};
use crate::docker::{Container, Engine, Happened};

/// How often an engine that is not there, or has gone, is tried again.
const AGAIN: Duration = Duration::from_secs(2);
/// Events that come within this time make one list.
const COLLECT: Duration = Duration::from_millis(50);
/// After a list nothing is asked for so many times as long as it took: a large engine is not kept busy with lists alone.
const REST: u32 = 4;
/// And at most so long.
const REST_MAX: Duration = Duration::from_secs(5);
/// The list is made anew at least so often, whatever the events say.
const AT_LEAST: Duration = Duration::from_secs(30);
/// For how long others are told of a container that it is gone, or that it is leaving though it goes on.
const TELL_FOR: Duration = Duration::from_secs(60);

/// Containers of an engine.
pub(super) struct Docker {
    here: Here,
    spec: DockerSpec,
    known: Known,
}

/// What is known of containers beside the present list.
#[derive(Debug, Default)]
struct Known {
    /// As last said, by container.
    last: BTreeMap<String, Found>,
    /// Told to stop, and when.
    leaving: BTreeMap<String, Instant>,
    /// Has died and not started since, and when: whatever a list says that was made just after.
    died: BTreeMap<String, Instant>,
    /// Gone, and when.
    gone: BTreeMap<SocketAddr, (Found, Instant)>,
    /// Containers with the label that cannot be used, and why: each is told once.
    unusable: BTreeSet<String>,
}

impl Docker {
    pub(super) fn new(here: Here, spec: DockerSpec) -> Self {
        Self { here, spec, known: Known::default() }
    }

    /// Lists and says, again and again, until the engine fails.
    async fn with(&mut self, path: &Path, reporter: &Reporter) -> Result<(), String> {
        let engine = Engine::at(path).await?;
        let mut events = engine.events(&self.spec.label, self.here.clock.wall());
        // Whatever started while nobody listened.
        self.known.died.clear();
        loop {
            let began = self.here.clock.now();
            let containers = engine.list(&self.spec.label).await?;
            let now = self.here.clock.now();
            let took = now.saturating_duration_since(began);
            reporter.say(Ok(self.known.all(&self.here, &self.spec, containers, now))).await;
            let first = match timeout(AT_LEAST, events.next()).await {
                Err(_) => continue,
                Ok(first) => first.ok_or("the engine has closed the connection")??,
            };
            self.known.happened(first, self.here.clock.now());
            // However many more there are, the next list is not put off any further.
            let collected = tokio::time::sleep((took * REST).clamp(COLLECT, REST_MAX));
            tokio::pin!(collected);
            loop {
                let next = tokio::select! {
                    biased;
                    () = &mut collected => break,
                    next = events.next() => next.ok_or("the engine has closed the connection")??,
                };
                self.known.happened(next, self.here.clock.now());
            }
        }
    }
}

impl Source for Docker {
    fn follow(mut self, reporter: Reporter) -> Following {
        Box::pin(async move {
            let path: PathBuf = self.here.engine.clone();
            let mut met = false;
            loop {
                if path.exists() || met {
                    met = true;
                    if let Err(error) = self.with(&path, &reporter).await {
                        reporter.say(Err(error)).await;
                    }
                }
                tokio::time::sleep(AGAIN).await;
            }
        })
    }
}

impl Known {
    fn happened(&mut self, what: Happened, now: Instant) {
        match what {
            Happened::Started(id) => {
                self.leaving.remove(&id);
                self.died.remove(&id);
            }
            Happened::Stopping(id) => drop(self.leaving.insert(id, now)),
            Happened::Died(id) => drop(self.died.insert(id, now)),
            Happened::Other => {}
        }
    }

    /// All that is to be said of these containers, which run.
    fn all(
        &mut self,
        here: &Here,
        spec: &DockerSpec,
        containers: Vec<Container>,
        now: Instant,
    ) -> Vec<Found> {
        let recent = |since: &Instant| now.saturating_duration_since(*since) < TELL_FOR;
        self.died.retain(|_, since| recent(since));
        let mut present = BTreeMap::new();
        let run = containers.into_iter().filter(|container| !self.died.contains_key(&container.id));
        for container in run.take(FOUND_MAX) {
            match backend(here, spec, &container) {
                Ok(mut found) => {
                    if self.leaving.get(&container.id).is_some_and(recent) {
                        found.standing = Standing::Leaving;
                    }
                    present.insert(container.id, found);
                }
                Err(why) => {
                    if self.unusable.len() < FOUND_MAX && self.unusable.insert(container.id) {
                        let why = readable(&why);
                        tracing::warn!(container = container.name, why, "a container is no backend");
                    }
                }
            }
        }
        let before = std::mem::replace(&mut self.last, present.clone());
        for (id, found) in before {
            if !present.contains_key(&id) {
                self.leaving.remove(&id);
                self.gone.insert(found.address, (Found { standing: Standing::Gone, ..found }, now));
            }
        }
        self.leaving.retain(|_, since| recent(since));
        // An engine gives addresses out again.
        let taken: BTreeSet<SocketAddr> = present.values().map(|found| found.address).collect();
        self.gone.retain(|address, (_, since)| recent(since) && !taken.contains(address));
        present.into_values().chain(self.gone.values().map(|(found, _)| found.clone())).collect()
    }
}

/// Where a container serves, if it is a backend.
pub(crate) fn address(here: &Here, spec: &DockerSpec, container: &Container) -> Option<SocketAddr> {
    backend(here, spec, container).ok().map(|found| found.address)
}

/// A container as a backend, or why it is none.
fn backend(here: &Here, spec: &DockerSpec, container: &Container) -> Result<Found, String> {
    let label = |key: &str| container.labels.get(&format!("meridian.{key}")).map(String::as_str);
    let port = match label("port") {
        Some(port) => port.parse::<u16>().map_err(|_| format!("meridian.port {port:?} is no port"))?,
        None => match container.ports.iter().map(|port| port.private).collect::<BTreeSet<_>>() {
            ports if ports.len() == 1 => ports.into_iter().next().unwrap_or_default(),
            _ => return Err("it does not expose exactly one port: label it meridian.port".into()),
        },
    };
    let address = match spec.published {
        true => published(here, container, port)?,
        false => SocketAddr::new(own_ip(here, spec, container)?, port),
    };
    if !is_reachable(address) {
        return Err(format!("nothing can be reached at {address}"));
    }
    let name = |error: gossip::id::NameError| error.to_string();
    let region = label("region").map(str::parse).transpose().map_err(name)?;
    let zone = label("zone").map(str::parse).transpose().map_err(name)?;
    // The node's own zone is where its engine is.
    let zone = if region.as_ref().is_none_or(|region| *region == here.region) {
        zone.or_else(|| here.zone.clone())
    } else {
        zone
    };
    let weight =
        label("weight").map(|weight| weight.parse().map_err(|_| format!("meridian.weight {weight:?}")));
    let drain = label("drain").map(|drain| {
        let drain = humantime::parse_duration(drain).map_err(|_| format!("meridian.drain {drain:?}"));
        drain.map(|drain| drain.min(DRAIN_MAX))
    });
    Ok(Found {
        zone,
        rack: label("rack").map(str::parse).transpose().map_err(name)?,
        weight: weight.transpose()?.unwrap_or(100),
        drain: drain.transpose()?,
        ..Found::at(address, region.unwrap_or_else(|| here.region.clone()))
    })
}

/// Its address in the network that the configuration names, else in the first by name; a container in the host's own
/// network has the node's.
fn own_ip(here: &Here, spec: &DockerSpec, container: &Container) -> Result<IpAddr, String> {
    match &spec.network {
        Some(network) => {
            let ip = container.networks.get(network).copied().flatten();
            ip.ok_or_else(|| format!("it has no address in the network {network:?}"))
        }
        None if container.networks.keys().eq(["host"]) => Ok(here.address),
        None => {
            let mut all = container.networks.values().copied().flatten();
            all.next().ok_or_else(|| "it has no address in any network".into())
        }
    }
}

/// Where the node's own ports lead to it.
fn published(here: &Here, container: &Container, port: u16) -> Result<SocketAddr, String> {
    let of = container.ports.iter().find(|of| of.private == port && of.public.is_some());
    let (ip, public) = of
        .and_then(|of| Some((of.ip, of.public?)))
        .ok_or_else(|| format!("its port {port} is not published"))?;
    let ip = ip.filter(|ip| !ip.is_unspecified()).unwrap_or(here.address);
    Ok(SocketAddr::new(ip, public))
}

/// A list of containers or an event of an engine, whatever it is: what comes of it can be reached.
#[cfg(any(test, fuzzing))]
pub(crate) fn survives(bytes: &[u8]) {
    let clock = gossip::clock::Clock::simulated(gossip::clock::Wall(1));
    let region = gossip::id::RegionName::new("eu").expect("a name");
    let here = Here { region, zone: None, address: [192, 0, 2, 1].into(), engine: PathBuf::new(), clock };
    let (containers, event) = crate::docker::read(bytes);
    for published in [false, true] {
        let spec = DockerSpec { label: "meridian.pool=web".into(), network: None, published };
        let mut known = Known::default();
        event.iter().for_each(|event| known.happened(event.clone(), here.clock.now()));
        let found = known.all(&here, &spec, containers.clone(), here.clock.now());
        assert!(found.len() <= FOUND_MAX && found.iter().all(|found| is_reachable(found.address)));
    }
}

#[cfg(test)]
mod tests {
    use gossip::clock::{Clock, Wall};

    use super::*;
    use crate::docker::Port;
    use crate::registry::fixture::region;

    fn here() -> Here {
        Here {
            region: region("eu"),
            zone: Some("eu-a".parse().unwrap()),
            address: "192.0.2.1".parse().unwrap(),
            engine: "nowhere".into(),
            clock: Clock::simulated(Wall(1)),
        }
    }

    fn spec() -> DockerSpec {
        DockerSpec { label: "meridian.pool=web".into(), network: None, published: false }
    }

    fn container(id: &str, ip: &str) -> Container {
        Container {
            id: id.into(),
            name: id.into(),
            labels: BTreeMap::new(),
            networks: [("bridge".to_owned(), Some(ip.parse().unwrap()))].into(),
            ports: vec![Port { ip: None, private: 8080, public: None }],
        }
    }

    #[test]
    fn labels_say_what_the_engine_cannot() {
        let mut it = container("a", "172.17.0.2");
        let bare = backend(&here(), &spec(), &it).unwrap();
        assert_eq!(bare.address, "172.17.0.2:8080".parse().unwrap());
        assert_eq!((bare.zone.as_ref().unwrap().as_str(), bare.weight, bare.drain), ("eu-a", 100, None));
        for (key, value) in [("port", "81"), ("weight", "7"), ("zone", "z"), ("rack", "r1"), ("drain", "20s")]
        {
            it.labels.insert(format!("meridian.{key}"), value.into());
        }
        let found = backend(&here(), &spec(), &it).unwrap();
        assert_eq!(found.address, "172.17.0.2:81".parse().unwrap());
        assert_eq!((found.zone.unwrap().as_str(), found.rack.unwrap().as_str()), ("z", "r1"));
        assert_eq!((found.weight, found.drain), (7, Some(Duration::from_secs(20))));
        it.labels.insert("meridian.weight".into(), "-1".into());
        assert!(backend(&here(), &spec(), &it).is_err());
    }

    /// Whoever may start a container writes its labels.
    #[test]
    fn hostile_labels_make_no_backend_and_stop_nobody() {
        let with = |key: &str, value: &str| {
            let mut it = container("a", "172.17.0.2");
            it.labels.insert(format!("meridian.{key}"), value.to_owned());
            backend(&here(), &spec(), &it)
        };
        for years in ["500000000000years", "18446744073709551615s"] {
            if let Ok(found) = with("drain", years) {
                assert_eq!(found.drain, Some(DRAIN_MAX), "{years}");
            }
        }
        let long = "x".repeat(1 << 20);
        for (key, value) in [
            ("port", "0"),
            ("port", "65536"),
            ("port", "80\n81"),
            ("weight", "65536"),
            ("weight", "NaN"),
            ("drain", "-5s"),
            ("drain", &long),
            ("region", "../../etc"),
            ("region", ""),
            ("zone", "a\u{1b}[2J"),
            ("rack", &long),
        ] {
            let why = with(key, value).unwrap_err();
            assert!(readable(&why).len() <= 4 * crate::discovery::found::ERROR_MAX_CHARS, "{key}");
        }
        let mut metadata = container("a", "169.254.169.254");
        metadata.labels.insert("meridian.port".into(), "80".into());
        assert!(backend(&here(), &spec(), &metadata).is_err());
    }

    #[test]
    fn a_container_without_one_port_has_to_name_it() {
        let mut it = container("a", "172.17.0.2");
        it.ports.push(Port { ip: None, private: 8080, public: Some(1) });
        assert!(backend(&here(), &spec(), &it).is_ok(), "the same port twice is one port");
        it.ports.push(Port { ip: None, private: 81, public: None });
        assert!(backend(&here(), &spec(), &it).is_err());
        it.ports.clear();
        assert!(backend(&here(), &spec(), &it).is_err());
    }

    #[test]
    fn published_ports_are_the_nodes_own() {
        let spec = DockerSpec { published: true, ..spec() };
        let mut it = container("a", "172.17.0.2");
        assert!(backend(&here(), &spec, &it).is_err());
        it.ports = vec![Port { ip: Some("0.0.0.0".parse().unwrap()), private: 8080, public: Some(32768) }];
        assert_eq!(backend(&here(), &spec, &it).unwrap().address, "192.0.2.1:32768".parse().unwrap());
        it.networks = [("host".to_owned(), None)].into();
        let own = DockerSpec { published: false, ..spec };
        assert_eq!(backend(&here(), &own, &it).unwrap().address, "192.0.2.1:8080".parse().unwrap());
    }

    #[test]
    fn what_stops_leaves_and_what_has_stopped_is_gone() {
        let (here, spec) = (here(), spec());
        let mut known = Known::default();
        let both = || vec![container("a", "172.17.0.2"), container("b", "172.17.0.3")];
        let standings = |known: &mut Known, containers| {
            let all = known.all(&here, &spec, containers, here.clock.now());
            all.into_iter().map(|found| found.standing).collect::<Vec<_>>()
        };
        use Standing::{Gone, Leaving, Serving};
        assert_eq!(standings(&mut known, both()), [Serving, Serving]);
        known.happened(Happened::Stopping("a".into()), here.clock.now());
        assert_eq!(standings(&mut known, both()), [Leaving, Serving]);
        let b = || vec![container("b", "172.17.0.3")];
        assert_eq!(standings(&mut known, b()), [Serving, Gone]);
        let again = vec![container("b", "172.17.0.3"), container("c", "172.17.0.2")];
        assert_eq!(standings(&mut known, again), [Serving, Serving], "its address is another's now");
        assert_eq!(standings(&mut known, b()), [Serving, Gone]);
        here.clock.advance(TELL_FOR);
        assert_eq!(standings(&mut known, b()), [Serving]);
    }

    /// An engine tells of a death before its list shows it, and nothing comes after.
    #[test]
    fn what_has_died_is_gone_though_it_is_listed_a_moment_more() {
        let (here, spec) = (here(), spec());
        let mut known = Known::default();
        let standing = |known: &mut Known| {
            let all = known.all(&here, &spec, vec![container("a", "172.17.0.2")], here.clock.now());
            all.into_iter().map(|found| found.standing).collect::<Vec<_>>()
        };
        let happened = |known: &mut Known, what| known.happened(what, here.clock.now());
        assert_eq!(standing(&mut known), [Standing::Serving]);
        happened(&mut known, Happened::Stopping("a".into()));
        happened(&mut known, Happened::Died("a".into()));
        assert_eq!(standing(&mut known), [Standing::Gone]);
        // One whose engine restarts it serves as before.
        happened(&mut known, Happened::Started("a".into()));
        assert_eq!(standing(&mut known), [Standing::Serving]);
        happened(&mut known, Happened::Died("a".into()));
        here.clock.advance(TELL_FOR);
        assert_eq!(standing(&mut known), [Standing::Serving], "the list is believed in the end");
    }
}
