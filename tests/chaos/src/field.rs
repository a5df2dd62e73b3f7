//! Six nodes in three regions with their backends, users and observers, and the hands that break them.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use gossip::clock::Clock;
use rustix::process::Signal;
use tests::backend::HttpBackend;
use tests::client::Browser;
use tests::net::{ADMIN, DNS, HTTP, MESH};
use tests::process::Process;
use tests::services::{Entry, HOST, HTTP_CHECK, REGIONS, STICKY_COOKIE, Services, ZONE};

use crate::host::Host;
use crate::switch::Switch;
use crate::users::{Figures, Resolver, Tally, shop};
use crate::watch::{View, Views, watch};
use crate::weather::Weather;

/// Users of each region.
const USERS: u64 = 20;
const BACKEND_PORT: u16 = 8000;
const LOOK: Duration = Duration::from_millis(50);

/// The hosts and the network between them, for all scenarios.
#[derive(Debug)]
pub(crate) struct Ground {
    nodes: BTreeMap<String, Host>,
    backends: BTreeMap<&'static str, Host>,
    users: BTreeMap<&'static str, Host>,
    pub switch: Switch,
    program: PathBuf,
}

/// The number of a region in addresses.
pub(crate) fn number_of(region: &str) -> u8 {
    REGIONS.iter().position(|each| each.0 == region).map_or(0, |at| at as u8 + 1)
}

/// The address of a node called `REGION-NUMBER`.
pub(crate) fn address_of(node: &str) -> Ipv4Addr {
    let (region, number) = node.rsplit_once('-').unwrap_or((node, "0"));
    Ipv4Addr::new(10, number_of(region), 0, number.parse().unwrap_or(0))
}

impl Ground {
    /// Makes the hosts and starts the network.
    pub(crate) fn lay(program: &Path) -> Result<Self> {
        let mut ports = Vec::new();
        let mut host = |name: &str, addresses: Vec<Ipv4Addr>| {
            let (host, device) = Host::make(name, addresses)?;
            ports.push((host.addresses.clone(), device));
            anyhow::Ok(host)
        };
        let (mut nodes, mut backends, mut users) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        for (region, ..) in REGIONS {
            for number in 1..=2 {
                let name = format!("{region}-{number}");
                nodes.insert(name.clone(), host(&name, vec![address_of(&name)])?);
            }
            let of = |kind, last| Ipv4Addr::new(10, number_of(region), kind, last);
            backends.insert(region, host(&format!("{region}-b"), vec![of(2, 1), of(2, 2)])?);
            users.insert(region, host(&format!("{region}-u"), vec![of(1, 1)])?);
        }
        Ok(Self { nodes, backends, users, switch: Switch::start(ports)?, program: program.to_owned() })
    }
}

/// A mesh on the ground.
pub(crate) struct Field<'g> {
    ground: &'g Ground,
    folder: PathBuf,
    pub clock: Clock,
    processes: BTreeMap<String, Process>,
    backends: BTreeMap<&'static str, Vec<Arc<tokio::sync::Mutex<HttpBackend>>>>,
    views: Views,
    tally: Arc<Tally>,
    /// Ends what was begun on the hosts' threads.
    going: tokio::sync::watch::Sender<bool>,
    /// Nodes that are told to say nothing now.
    silent: Mutex<Vec<String>>,
}

impl<'g> Field<'g> {
    /// Starts everything and waits until every node sees all members and backends.
    pub(crate) async fn set(ground: &'g Ground, folder: &Path, seeds: &[&str]) -> Result<Self> {
        ground.switch.set(Weather::default());
        let key = Command::new(&ground.program).args(["key", "new"]).arg(folder.join("mesh.key")).output()?;
        ensure!(key.status.success(), "no key: {}", String::from_utf8_lossy(&key.stderr));
        let mut field = Self {
            ground,
            folder: folder.to_owned(),
            clock: Clock::system(),
            processes: BTreeMap::new(),
            backends: BTreeMap::new(),
            views: Views::default(),
            tally: Arc::default(),
            going: tokio::sync::watch::Sender::new(true),
            silent: Mutex::default(),
        };
        for (&region, host) in &ground.backends {
            for (number, address) in (1..).zip(host.addresses.clone()) {
                let at = SocketAddr::from((address, BACKEND_PORT));
                let started = host.run(move || async move {
                    HttpBackend::start(&format!("{region}/{number}"), region, at).await
                });
                let backend = Arc::new(tokio::sync::Mutex::new(started.await??));
                field.backends.entry(region).or_default().push(backend);
            }
        }
        for name in ground.nodes.keys() {
            std::fs::create_dir_all(field.home(name).join("data"))?;
            std::fs::write(field.home(name).join("node.toml"), field.toml(name, seeds))?;
            field.start(name, |command| command)?;
            field.observe(name)?;
        }
        field.until("all nodes answer", 60, |_, status| status.members.len() == 6).await?;
        field.apply("eu-1", "").await?;
        field.until_sound(60).await?;
        field.invite()?;
        Ok(field)
    }

    fn home(&self, node: &str) -> PathBuf {
        self.folder.join(node)
    }

    fn toml(&self, node: &str, seeds: &[&str]) -> String {
        let (region, address) = (node.split('-').next().unwrap_or(node), address_of(node));
        let seeds: Vec<String> =
            seeds.iter().map(|seed| format!("\"{}:{MESH}\"", address_of(seed))).collect();
        format!(
            "[node]\nname = \"{node}\"\nregion = \"{region}\"\ndata = \"{}\"\npublic = [\"{address}\"]\n\
             [mesh]\nlisten = \"{address}:{MESH}\"\nseeds = [{}]\nkey_file = \"{}\"\n\
             [proxy]\nlisten = [\"{address}\"]\nworkers = 1\n[dns]\nlisten = [\"{address}:{DNS}\"]\n\
             [admin]\nlisten = \"127.0.0.1:{ADMIN}\"\n[log]\naccess = \"off\"\n",
            self.home(node).join("data").display(),
            seeds.join(", "),
            self.folder.join("mesh.key").display()
        )
    }

    /// Starts a node, in a way of the caller's.
    pub(crate) fn start(&mut self, node: &str, how: impl FnOnce(Command) -> Command) -> Result<()> {
        let host = self.ground.nodes.get(node).context("a node of the ground")?;
        let mut command = Command::new(&self.ground.program);
        command.args(["start", "-c"]).arg(self.home(node).join("node.toml"));
        let command = host.command(&how(command));
        let process = Process::spawn(node, command, &self.home(node).join("log"))?;
        self.processes.insert(node.to_owned(), process);
        Ok(())
    }

    /// Where a node keeps its data.
    pub(crate) fn data(&self, node: &str) -> PathBuf {
        self.home(node).join("data")
    }

    /// All that a node has said.
    pub(crate) fn log(&self, node: &str) -> String {
        std::fs::read_to_string(self.home(node).join("log")).unwrap_or_default()
    }

    fn observe(&self, node: &str) -> Result<()> {
        let (name, address, views) = (node.to_owned(), address_of(node), self.views.clone());
        let mut going = self.going.subscribe();
        let host = self.ground.nodes.get(node).context("a node of the ground")?;
        host.start(move || async move {
            tokio::select! {
                () = watch(name, address, views) => {}
                _ = going.wait_for(|going| !going) => {}
            }
        })
    }

    fn invite(&self) -> Result<()> {
        for (region, host) in &self.ground.users {
            let near = number_of(region);
            let mut servers: Vec<Ipv4Addr> = self.ground.nodes.keys().map(|node| address_of(node)).collect();
            servers.sort_by_key(|server| (server.octets()[1] != near, *server));
            let network = tests::services::users_of(region);
            let resolver = Arc::new(Resolver::new(servers, network, self.tally.clone()));
            for number in 0..USERS {
                let (resolver, tally, mut going) =
                    (resolver.clone(), self.tally.clone(), self.going.subscribe());
                host.start(move || async move {
                    tokio::select! {
                        () = shop(number, resolver, tally) => {}
                        _ = going.wait_for(|going| !going) => {}
                    }
                })?;
            }
        }
        Ok(())
    }

    /// Has a node put the services in force for the mesh, with something more in their file.
    pub(crate) async fn apply(&self, node: &str, more: &str) -> Result<()> {
        let mut entries = Vec::new();
        for (region, backends) in &self.backends {
            for backend in backends {
                let address = backend.lock().await.address();
                entries.push(Entry { address, region: (*region).to_owned(), weight: 100 });
            }
        }
        let (ns1, ns2) = (address_of("eu-1"), address_of("us-1"));
        let services = Services::new()
            .and(format!(
                "[dns.zone.\"{ZONE}\"]\nnameserver = {{ ns1 = [\"{ns1}\"], ns2 = [\"{ns2}\"] }}\nttl = \"5s\"\n\
                 steer.www = {{ service = \"web\", policy = \"nearest\", answers = 2 }}\n[listener.http]\nport = {HTTP}\nprotocol = \"http\""
            ))
            .service("web", "web-v1 = 1", STICKY_COOKIE)
            .pool("web-v1", HTTP_CHECK, entries)
            .and(more);
        let file = self.home(node).join("services.toml");
        std::fs::write(&file, services.text())?;
        let mut command = Command::new(&self.ground.program);
        command.args(["--node", &format!("http://127.0.0.1:{ADMIN}"), "apply"]).arg(file);
        let host = self.ground.nodes.get(node).context("a node of the ground")?;
        let mut command = host.command(&command);
        let ran = tokio::task::spawn_blocking(move || command.output()).await??;
        ensure!(ran.status.success(), "apply: {}", String::from_utf8_lossy(&ran.stderr));
        Ok(())
    }

    /// SIGKILL.
    pub(crate) async fn kill(&mut self, node: &str) -> Result<()> {
        let mut process = self.processes.remove(node).with_context(|| format!("{node} does not run"))?;
        process.kill().await
    }

    /// SIGSTOP, or SIGCONT.
    pub(crate) fn freeze(&mut self, node: &str, frozen: bool) -> Result<()> {
        let mut silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        silent.retain(|each| each != node);
        if frozen {
            silent.push(node.to_owned());
        }
        let process = self.processes.get_mut(node).with_context(|| format!("{node} does not run"))?;
        process.signal(if frozen { Signal::STOP } else { Signal::CONT })
    }

    /// Connections to a backend are refused, or accepted again.
    pub(crate) async fn backend(&self, region: &'static str, number: usize, open: bool) -> Result<()> {
        let backend = self.backends.get(region).and_then(|all| all.get(number)).context("a backend")?.clone();
        let host = self.ground.backends.get(region).context("the backends' host")?;
        let done = host.run(move || async move {
            let mut backend = backend.lock().await;
            if open {
                backend.reopen().await
            } else {
                backend.refuse().await;
                Ok(())
            }
        });
        done.await?
    }

    /// The regions that serve somebody without a session who comes to each node of `region` from within it.
    pub(crate) async fn newcomers(&self, region: &'static str) -> Result<Vec<String>> {
        let host = self.ground.users.get(region).context("the users' host")?;
        let nodes = [1, 2].map(|number| SocketAddr::from((address_of(&format!("{region}-{number}")), HTTP)));
        let served = host.run(move || async move {
            let mut regions = Vec::new();
            for node in nodes {
                let seen = Browser::new().host(HOST).visit(node).await?;
                regions.push(seen.backend.split('/').next().unwrap_or_default().to_owned());
            }
            anyhow::Ok(regions)
        });
        served.await?
    }

    /// Changes the weather.
    pub(crate) fn weather(&self, weather: Weather) {
        self.ground.switch.set(weather);
    }

    /// What users have met so far.
    pub(crate) fn figures(&self) -> Figures {
        self.tally.figures()
    }

    /// The last failure that a user met.
    pub(crate) fn last_failure(&self) -> String {
        self.tally.last_failure()
    }

    /// What every node that can be asked says now.
    pub(crate) fn views(&self) -> BTreeMap<String, View> {
        let mut views = self.views.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        views.retain(|name, _| self.processes.contains_key(name) && !silent.contains(name));
        views
    }

    /// Waits until `holds` is true of what every running node says; tells how long that took.
    pub(crate) async fn until(
        &self,
        what: &str,
        seconds: u64,
        holds: impl Fn(&View, &tests::status::Status) -> bool,
    ) -> Result<Duration> {
        self.until_among(what, seconds, |_| true, holds).await
    }

    /// The same of what these nodes say.
    pub(crate) async fn until_among(
        &self,
        what: &str,
        seconds: u64,
        whose: impl Fn(&str) -> bool,
        holds: impl Fn(&View, &tests::status::Status) -> bool,
    ) -> Result<Duration> {
        let begun: Instant = self.clock.now();
        loop {
            let views = self.views();
            let asked: Vec<(&String, &View)> = views.iter().filter(|(name, _)| whose(name)).collect();
            let running = self.processes.keys().filter(|name| whose(name)).count()
                - self
                    .silent
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .iter()
                    .filter(|name| whose(name))
                    .count();
            let doubts: Vec<&str> = asked
                .iter()
                .filter(|(_, view)| !view.status.as_ref().is_some_and(|status| holds(view, status)))
                .map(|(name, _)| name.as_str())
                .collect();
            if doubts.is_empty() && asked.len() == running {
                return Ok(self.clock.now() - begun);
            }
            if self.clock.now() - begun > Duration::from_secs(seconds) {
                let said =
                    doubts.first().and_then(|name| views.get(*name)).map_or_else(String::new, View::summary);
                bail!("not within {seconds} s: {what}; not so by {doubts:?}; {said}");
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until every node sees six living members and all backends up, and DNS sends all users to their region.
    pub(crate) async fn until_sound(&self, seconds: u64) -> Result<Duration> {
        self.until("all is well", seconds, |view, status| {
            let home = |region: &str| {
                let nodes = [1, 2].map(|number| Ipv4Addr::new(10, number_of(region), 0, number));
                view.answers.get(region).is_some_and(|told| told.iter().eq(nodes.iter()))
            };
            status.members_that_are("alive").len() == 6
                && status.all_backends_are("up").is_ok()
                && REGIONS.iter().all(|(region, ..)| home(region))
        })
        .await
    }

    /// Ends what runs on the hosts; nodes are killed.
    pub(crate) async fn clear(mut self) -> Result<()> {
        let _ = self.going.send(false);
        for process in self.processes.values_mut() {
            process.signal(Signal::CONT)?;
            process.kill().await?;
        }
        for (region, backends) in &self.backends {
            for number in 0..backends.len() {
                self.backend(region, number, false).await?;
            }
        }
        Ok(())
    }
}

impl Ground {
    /// The nodes' names.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.nodes.keys().map(String::as_str)
    }
}
