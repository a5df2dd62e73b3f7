//! The Docker Engine of this machine, over its Unix socket: the only file that names bollard. It lists and follows
//! containers, and starts and stops those that scaling asks for.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use bollard::models::{ContainerCreateBody, ContainerSummary, EventMessage, HostConfig};
use bollard::query_parameters::{
    CreateContainerOptions, EventsOptions, ListContainersOptions, RemoveContainerOptions,
    StartContainerOptions, StopContainerOptions,
};
use bollard::{API_DEFAULT_VERSION, Docker};
use futures_util::stream::{BoxStream, StreamExt};
use gossip::clock::Wall;

/// What changes which containers run, or tells that one is about to stop. Others (health checks, commands run inside) come
/// many times a second on a busy engine, and change nothing here.
const EVENTS: [&str; 3] = ["start", "kill", "die"];
/// How long the engine may take for one answer, in seconds. Events may be silent for ever.
const TIMEOUT_SECONDS: u64 = 30;

/// Where the engine listens: `DOCKER_HOST` when it names a socket, else the usual place.
pub(crate) fn socket() -> PathBuf {
    let host = std::env::var("DOCKER_HOST").ok();
    let named = host.as_deref().and_then(|host| host.strip_prefix("unix://"));
    named.unwrap_or("/var/run/docker.sock").into()
}

/// One engine.
pub(crate) struct Engine(Docker);

/// A container that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    /// Its address by network; none in the host's own.
    pub(crate) networks: BTreeMap<String, Option<IpAddr>>,
    pub(crate) ports: Vec<Port>,
}

/// A TCP port of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Port {
    /// The node's address it is published at.
    pub(crate) ip: Option<IpAddr>,
    /// Its own.
    pub(crate) private: u16,
    /// The node's.
    pub(crate) public: Option<u16>,
}

/// Something happened to a container, by its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Happened {
    /// It runs.
    Started(String),
    /// It was told to stop.
    Stopping(String),
    /// It runs no more. The engine says so before it has released the container's network, and lists it as running until then.
    Died(String),
    /// Whatever: the list may be another one.
    Other,
}

impl Engine {
    /// Connects, and agrees on a version of the API.
    pub(crate) async fn at(path: &Path) -> Result<Self, String> {
        let path = path.to_str().ok_or("the socket's path is not UTF-8")?;
        let docker = Docker::connect_with_unix(path, TIMEOUT_SECONDS, API_DEFAULT_VERSION).map_err(told)?;
        docker.negotiate_version().await.map(Self).map_err(told)
    }

    /// The containers that run and carry a label.
    pub(crate) async fn list(&self, label: &str) -> Result<Vec<Container>, String> {
        let filters = HashMap::from([("label".to_owned(), vec![label.to_owned()])]);
        let options = ListContainersOptions { filters: Some(filters), ..ListContainersOptions::default() };
        let list = self.0.list_containers(Some(options)).await.map_err(told)?;
        Ok(list.into_iter().filter_map(container).collect())
    }

    /// What happens to containers with a label, from `since` on.
    pub(crate) fn events(&self, label: &str, since: Wall) -> BoxStream<'static, Result<Happened, String>> {
        let filters = HashMap::from([
            ("type".to_owned(), vec!["container".to_owned()]),
            ("event".to_owned(), EVENTS.map(str::to_owned).into()),
            ("label".to_owned(), vec![label.to_owned()]),
        ]);
        let since = Some(since.seconds().to_string());
        let docker = self.0.clone();
        let events = docker.events(Some(EventsOptions { since, until: None, filters: Some(filters) }));
        events.map(|event| event.map(happened).map_err(told)).boxed()
    }

    /// Starts one container of an image that the engine has. One that does not start is not left behind.
    pub(crate) async fn start(&self, order: &Start) -> Result<(), String> {
        let body = ContainerCreateBody {
            image: Some(order.image.clone()),
            labels: Some(order.labels.clone().into_iter().collect()),
            env: Some(order.env.clone()),
            host_config: Some(HostConfig { network_mode: order.network.clone(), ..HostConfig::default() }),
            ..ContainerCreateBody::default()
        };
        let options =
            CreateContainerOptions { name: Some(order.name.clone()), ..CreateContainerOptions::default() };
        let created = self.0.create_container(Some(options), body).await.map_err(told)?;
        let started = self.0.start_container(&created.id, None::<StartContainerOptions>).await;
        if started.is_err() {
            let force = RemoveContainerOptions { force: true, ..RemoveContainerOptions::default() };
            // What counts is why it did not start.
            let _ = self.0.remove_container(&created.id, Some(force)).await;
        }
        started.map_err(told)
    }

    /// The containers that ended and carry a label: each with the label's value and when it was made, in Unix seconds.
    pub(crate) async fn ended(&self, label: &str) -> Result<Vec<Ended>, String> {
        let filters = HashMap::from([
            ("label".to_owned(), vec![label.to_owned()]),
            ("status".to_owned(), vec!["exited".to_owned(), "dead".to_owned()]),
        ]);
        let options =
            ListContainersOptions { all: true, filters: Some(filters), ..ListContainersOptions::default() };
        let list = self.0.list_containers(Some(options)).await.map_err(told)?;
        let ended = |summary: ContainerSummary| {
            let value = summary.labels.unwrap_or_default().remove(label)?;
            Some(Ended { id: summary.id?, value, made: summary.created.unwrap_or_default() })
        };
        Ok(list.into_iter().filter_map(ended).collect())
    }

    /// Removes a container that ended, with its log.
    pub(crate) async fn remove(&self, id: &str) -> Result<(), String> {
        self.0.remove_container(id, None::<RemoveContainerOptions>).await.map_err(told)
    }

    /// Stops a container, kills it after `grace_seconds`, and removes it.
    pub(crate) async fn stop(&self, id: &str, grace_seconds: i32) -> Result<(), String> {
        let options = StopContainerOptions { t: Some(grace_seconds), ..StopContainerOptions::default() };
        self.0.stop_container(id, Some(options)).await.map_err(told)?;
        self.remove(id).await
    }
}

/// A container that ran.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) id: String,
    /// What its label says.
    pub(crate) value: String,
    /// When it was made, in Unix seconds.
    pub(crate) made: i64,
}

/// A container to be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Start {
    pub(crate) name: String,
    pub(crate) image: String,
    pub(crate) labels: BTreeMap<String, String>,
    /// `KEY=VALUE`.
    pub(crate) env: Vec<String>,
    pub(crate) network: Option<String>,
}

fn told(error: bollard::errors::Error) -> String {
    error.to_string()
}

fn container(summary: ContainerSummary) -> Option<Container> {
    let networks = summary.network_settings.and_then(|settings| settings.networks).unwrap_or_default();
    let networks = networks.into_iter().map(|(name, endpoint)| {
        let ip = [endpoint.ip_address, endpoint.global_ipv6_address].into_iter().flatten();
        (name, ip.filter_map(|ip| ip.parse().ok()).next())
    });
    let ports = summary.ports.unwrap_or_default().into_iter();
    let tcp =
        ports.filter(|port| port.typ.is_none_or(|kind| kind == bollard::models::PortSummaryTypeEnum::TCP));
    let port = |port: bollard::models::PortSummary| Port {
        ip: port.ip.and_then(|ip| ip.parse().ok()),
        private: port.private_port,
        public: port.public_port,
    };
    let names = summary.names.unwrap_or_default();
    Some(Container {
        id: summary.id?,
        name: names.first().map(|name| name.trim_start_matches('/').to_owned()).unwrap_or_default(),
        labels: summary.labels.unwrap_or_default().into_iter().collect(),
        networks: networks.collect(),
        ports: tcp.map(port).collect(),
    })
}

fn happened(event: EventMessage) -> Happened {
    let (id, attributes) =
        event.actor.map(|actor| (actor.id, actor.attributes.unwrap_or_default())).unwrap_or_default();
    let signal = attributes.get("signal").map(String::as_str);
    // The signals that images name as theirs to stop by: INT, QUIT, TERM, WINCH. HUP and others do other things.
    match (event.action.as_deref(), id) {
        (Some("kill"), Some(id)) if matches!(signal, Some("2" | "3" | "15" | "28")) => Happened::Stopping(id),
        (Some("start"), Some(id)) => Happened::Started(id),
        (Some("die"), Some(id)) => Happened::Died(id),
        _ => Happened::Other,
    }
}

/// A list of containers, and an event, as far as these bytes are either.
#[cfg(any(test, fuzzing))]
pub(crate) fn read(bytes: &[u8]) -> (Vec<Container>, Option<Happened>) {
    let list: Vec<ContainerSummary> = serde_json::from_slice(bytes).unwrap_or_default();
    let event: Option<EventMessage> = serde_json::from_slice(bytes).ok();
    (list.into_iter().filter_map(container).collect(), event.map(happened))
}

/// A list, and two events, as an engine writes them.
#[cfg(any(test, fuzzing))]
pub(crate) fn golden() -> Vec<Vec<u8>> {
    let list = r#"[{"Id":"8dfafdbc3a40","Names":["/web-1"],"Image":"shop:1","Created":1367854155,"State":"running","Status":"Up","Ports":[{"IP":"0.0.0.0","PrivatePort":8080,"PublicPort":32768,"Type":"tcp"}],"Labels":{"meridian.pool":"web","meridian.port":"8080","meridian.weight":"7","meridian.zone":"a","meridian.rack":"r","meridian.region":"eu","meridian.drain":"20s"},"HostConfig":{"NetworkMode":"bridge"},"NetworkSettings":{"Networks":{"bridge":{"IPAddress":"172.17.0.2","GlobalIPv6Address":""}}}}]"#;
    let event = r#"{"Type":"container","Action":"kill","Actor":{"ID":"8dfafdbc3a40","Attributes":{"signal":"15","image":"shop:1"}},"scope":"local","time":1461943101,"timeNano":1461943101381709551}"#;
    vec![list.into(), event.into(), event.replace("kill", "die").into()]
}
