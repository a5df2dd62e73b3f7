//! A mesh of real processes, each node on an address of its own.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::future::{join_all, try_join_all};
use rustix::process::Signal;

use crate::cli::{Cli, code, text};
use crate::net::{ADMIN, DNS, HTTP, MESH, TCP};
use crate::process::Process;
use crate::services::Services;
use crate::stage::Stage;
use crate::status::Status;
use crate::wait::{eventually, secs};

/// The environment variable by which the program under test claims to speak these versions of the mesh's protocol, the latest
/// first, with spaces between. No other program knows it.
pub const VERSIONS: &str = "MERIDIAN_UNDER_TEST_VERSIONS";
/// A node comes up within this, even on two busy cores.
const START: Duration = Duration::from_secs(20);
/// What the whole mesh must come to see, it sees within this.
const AGREE: Duration = Duration::from_secs(30);

/// One node: its place, its files, and its process while it runs.
pub struct Node {
    /// Its name, `eu-1`.
    pub name: String,
    /// Its region.
    pub region: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// Whom it meets first.
    pub seeds: Vec<SocketAddr>,
    /// Where its proxy listens: its own address unless a proof says otherwise.
    pub proxy: Ipv4Addr,
    /// Whether it writes a line for every request into its log.
    pub tells_requests: bool,
    /// The versions of the mesh's protocol that it claims to speak ([`VERSIONS`]); those that it does when there is none.
    pub versions: Option<&'static str>,
    key: Option<PathBuf>,
    folder: PathBuf,
    cli: Cli,
    process: Option<Process>,
}

impl Node {
    /// Its HTTP listener.
    pub fn http(&self) -> SocketAddr {
        (self.address, HTTP).into()
    }

    /// Its TCP listener.
    pub fn tcp(&self) -> SocketAddr {
        (self.address, TCP).into()
    }

    /// Its name server.
    pub fn dns(&self) -> SocketAddr {
        (self.address, DNS).into()
    }

    /// Its mesh endpoint.
    pub fn mesh(&self) -> SocketAddr {
        (self.address, MESH).into()
    }

    /// Its admin API.
    pub fn admin(&self) -> SocketAddr {
        (self.address, ADMIN).into()
    }

    /// The command line that asks this node.
    pub fn cli(&self) -> Cli {
        self.cli.asking(format!("http://{}", self.admin()))
    }

    /// Its data folder.
    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Its file.
    pub fn file(&self) -> PathBuf {
        self.folder.join("node.toml")
    }

    /// Its keyring's file, when it was given one.
    pub fn key_file(&self) -> Option<&Path> {
        self.key.as_deref()
    }

    fn log_file(&self) -> PathBuf {
        self.folder.with_extension("log")
    }

    fn toml(&self) -> String {
        let Self { name, region, address, proxy, .. } = self;
        let data = self.data();
        let access = if self.tells_requests { "stdout" } else { "off" };
        let seeds: Vec<String> = self.seeds.iter().map(|seed| format!("\"{seed}\"")).collect();
        let seeds = seeds.join(", ");
        let key =
            self.key.as_ref().map(|key| format!("key_file = \"{}\"\n", key.display())).unwrap_or_default();
        format!(
            "[node]\nname = \"{name}\"\nregion = \"{region}\"\ndata = \"{}\"\n\
             scale_exec = [\"/bin/sh\"]\n[mesh]\nlisten = \"{address}:{MESH}\"\nseeds = [{seeds}]\n{key}\
             [proxy]\nlisten = [\"{proxy}\"]\nworkers = 2\n\
             [dns]\nlisten = [\"{address}:{DNS}\"]\n\
             [admin]\nlisten = \"{address}:{ADMIN}\"\n\
             [log]\naccess = \"{access}\"\n",
            data.display()
        )
    }

    /// The command that starts it, its file written; flags may follow.
    pub fn command(&self) -> Result<Command> {
        std::fs::create_dir_all(&self.folder)?;
        std::fs::write(self.file(), self.toml())?;
        let mut command = self.cli.command(&["start", "-c", text(&self.file())?]);
        if let Some(versions) = self.versions {
            command.env(VERSIONS, versions);
        }
        Ok(command)
    }

    /// Starts the process without waiting for anything.
    pub fn launch(&mut self) -> Result<()> {
        let command = self.command()?;
        self.launch_as(command)
    }

    /// Starts a command of the caller's in its place.
    pub fn launch_as(&mut self, command: Command) -> Result<()> {
        ensure!(self.process.is_none(), "{} runs already", self.name);
        self.process = Some(Process::spawn(&self.name, command, &self.log_file())?);
        Ok(())
    }

    /// Waits until it answers the command line.
    pub async fn ready(&mut self) -> Result<Status> {
        let cli = self.cli();
        let process = self.process.as_mut().context("not started")?;
        eventually(&format!("{} answers", self.name), START, async || {
            process.must_run()?;
            cli.status().await
        })
        .await
    }

    /// Starts and waits until it answers.
    pub async fn start(&mut self) -> Result<()> {
        self.launch()?;
        self.ready().await.map(drop)
    }

    /// Its process.
    pub fn process(&mut self) -> Result<&mut Process> {
        self.process.as_mut().with_context(|| format!("{} does not run", self.name))
    }

    /// Whether it was started and neither killed nor stopped.
    pub fn runs(&self) -> bool {
        self.process.is_some()
    }

    /// SIGKILL.
    pub async fn kill(&mut self) -> Result<()> {
        self.process()?.kill().await?;
        self.process = None;
        Ok(())
    }

    /// SIGTERM, and a clean end within the bound.
    pub async fn stop(&mut self, within: Duration) -> Result<()> {
        self.terminate()?;
        self.gone(within).await
    }

    /// SIGTERM.
    pub fn terminate(&mut self) -> Result<()> {
        self.process()?.signal(Signal::TERM)
    }

    /// Waits for its clean end after SIGTERM.
    pub async fn gone(&mut self, within: Duration) -> Result<()> {
        let status = self.process()?.exit(within).await?;
        self.process = None;
        ensure!(status.success(), "{} ends with {status} after SIGTERM", self.name);
        Ok(())
    }

    /// Deletes its store: every folder in its data folder. Its key and the plain file of the revision stay.
    pub fn wipe_store(&self) -> Result<()> {
        ensure!(!self.runs(), "{} still runs", self.name);
        let mut wiped = 0;
        for entry in std::fs::read_dir(self.data())? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                std::fs::remove_dir_all(entry.path())?;
                wiped += 1;
            }
        }
        ensure!(wiped > 0, "{} had no store", self.name);
        Ok(())
    }

    /// All it has said, in all its lives.
    pub fn log(&self) -> String {
        let bytes = std::fs::read(self.log_file()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until its log says all of `words` in one line, in any case; returns that line.
    pub async fn says(&self, words: &[&str], within: Duration) -> Result<String> {
        let wanted: Vec<String> = words.iter().map(|word| word.to_lowercase()).collect();
        let what = format!("{} says {words:?} in one line", self.name);
        eventually(&what, within, async || {
            let log = self.log();
            let said = log.lines().find(|line| {
                let line = line.to_lowercase();
                wanted.iter().all(|word| line.contains(word.as_str()))
            });
            said.map(str::to_owned).with_context(|| {
                format!("its log ends with: {}", log.lines().last().unwrap_or("nothing at all"))
            })
        })
        .await
    }
}

/// Some nodes that share a key.
pub struct Cluster<'a> {
    stage: &'a Stage,
    key: PathBuf,
    /// All of them, in the order they were made, running or not.
    pub nodes: Vec<Node>,
}

impl<'a> Cluster<'a> {
    /// No node yet, but a key.
    pub async fn empty(stage: &'a Stage) -> Result<Self> {
        let key = stage.folder().join("mesh.key");
        stage.cli().key_new(&key).await?;
        Ok(Self { stage, key, nodes: Vec::new() })
    }

    /// So many nodes in each region, started and agreed on each other.
    pub async fn of(stage: &'a Stage, regions: &[(&str, usize)]) -> Result<Self> {
        let mut cluster = Self::empty(stage).await?;
        for (region, count) in regions {
            for _ in 0..*count {
                cluster.place(region);
            }
        }
        for node in &mut cluster.nodes {
            node.launch()?;
        }
        for node in &mut cluster.nodes {
            node.ready().await?;
        }
        cluster.agree().await?;
        Ok(cluster)
    }

    /// Makes a place for one more node that knows the one before as its seed; does not start it.
    pub fn place(&mut self, region: &str) -> &mut Node {
        let number = self.nodes.iter().filter(|node| node.region == region).count() + 1;
        let seeds = self.nodes.last().map(Node::mesh).into_iter().collect();
        let index = self.nodes.len();
        let name = format!("{region}-{number}");
        let node = node_at(self.stage, index, &name, region, seeds, Some(self.key.clone()));
        self.nodes.push(node);
        &mut self.nodes[index]
    }

    /// One more node, started.
    pub async fn add(&mut self, region: &str) -> Result<&mut Node> {
        let node = self.place(region);
        node.start().await?;
        Ok(node)
    }

    /// Gives every node a copy of the key of its own, as on machines of their own. Before they start.
    pub fn keys_apart(&mut self) -> Result<()> {
        for node in &mut self.nodes {
            std::fs::create_dir_all(&node.folder)?;
            let own = node.folder.join("mesh.key");
            // The copy keeps its mode.
            std::fs::copy(&self.key, &own)?;
            node.key = Some(own);
        }
        Ok(())
    }

    /// The mesh key's file.
    pub fn key(&self) -> &Path {
        &self.key
    }

    /// A node by name.
    ///
    /// # Panics
    /// When there is none: a mistake in the proof.
    pub fn node(&self, name: &str) -> &Node {
        self.nodes.iter().find(|node| node.name == name).expect("a node of this name")
    }

    /// A node by name.
    ///
    /// # Panics
    /// When there is none: a mistake in the proof.
    pub fn node_mut(&mut self, name: &str) -> &mut Node {
        self.nodes.iter_mut().find(|node| node.name == name).expect("a node of this name")
    }

    /// The nodes that run.
    pub fn running(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.runs())
    }

    /// The addresses of the running nodes of a region.
    pub fn addresses(&self, region: &str) -> Vec<Ipv4Addr> {
        self.running().filter(|node| node.region == region).map(|node| node.address).collect()
    }

    /// Waits until what `check` wants holds for the status that every running node shows.
    pub async fn each_sees(
        &self,
        what: &str,
        within: Duration,
        check: impl Fn(&Status) -> Result<()>,
    ) -> Result<()> {
        let each = self.running().map(|node| {
            let (cli, check) = (node.cli(), &check);
            async move {
                let name = &node.name;
                let what = format!("{name} sees that {what}");
                eventually(&what, within, async || check(&cli.status().await?)).await
            }
        });
        try_join_all(each).await.map(drop)
    }

    /// Waits until all running nodes see exactly each other alive.
    pub async fn agree(&self) -> Result<()> {
        let names: std::collections::BTreeSet<&str> = self.running().map(|node| node.name.as_str()).collect();
        self.each_sees("all are alive", AGREE, |status| {
            let alive = status.members_that_are("alive");
            ensure!(alive == names, "alive are {alive:?}, not {names:?}");
            Ok(())
        })
        .await
    }

    /// Applies services through a node and waits until all running nodes have the revision and serve it.
    pub async fn apply(&self, node: &str, services: &Services) -> Result<()> {
        let cli = self.node(node).cli();
        let epoch = async || anyhow::Ok(cli.status().await?.revision.map_or(0, |revision| revision.epoch));
        let before = epoch().await?;
        let file = self.stage.write("services.toml", services.text())?;
        cli.expect(code::OK, &["apply", text(&file)?]).await?;
        eventually(&format!("{node} is on a new revision"), secs(10), async || {
            let epoch = epoch().await?;
            ensure!(epoch > before, "still {epoch}");
            Ok(())
        })
        .await?;
        self.revised(node).await?;
        if services.text().contains("[listener.http]") {
            self.accept(HTTP).await?;
        }
        if services.text().contains("[listener.tcp]") {
            self.accept(TCP).await?;
        }
        Ok(())
    }

    /// Waits until all running nodes have the revision that `node` has now.
    pub async fn revised(&self, node: &str) -> Result<()> {
        let status = self.node(node).cli().status().await?;
        let wanted = status.revision.context("no revision after apply")?;
        let running = self.running().count();
        self.each_sees("the revision is everywhere", AGREE, |status| {
            let revision = status.revision.as_ref().context("no revision")?;
            let same = revision.epoch == wanted.epoch && revision.hash == wanted.hash;
            ensure!(same, "{revision:?} instead of {wanted:?}");
            ensure!(revision.nodes_on == running, "{} of {running} nodes are on it", revision.nodes_on);
            Ok(())
        })
        .await
    }

    /// Waits until all running nodes accept connections on a port.
    pub async fn accept(&self, port: u16) -> Result<()> {
        let each = self.running().map(|node| async move {
            let target = SocketAddr::from((node.address, port));
            eventually(&format!("{target} accepts"), secs(10), async || {
                Ok(tokio::net::TcpStream::connect(target).await.map(drop)?)
            })
            .await
        });
        try_join_all(each).await.map(drop)
    }

    /// Waits until all running nodes see all backends up.
    pub async fn healthy(&self) -> Result<()> {
        self.each_sees("all backends are up", AGREE, |status| status.all_backends_are("up")).await
    }

    /// What every running node shows now; nodes that cannot be asked are left out.
    pub async fn statuses(&self) -> Vec<Status> {
        let all = join_all(self.running().map(|node| async move { node.cli().status().await })).await;
        all.into_iter().flatten().collect()
    }
}

/// A node outside any cluster: at the `index`-th address, with seeds and a key of the caller's choice.
pub fn node_at(
    stage: &Stage,
    index: usize,
    name: &str,
    region: &str,
    seeds: Vec<SocketAddr>,
    key: Option<PathBuf>,
) -> Node {
    Node {
        name: name.to_owned(),
        region: region.to_owned(),
        address: stage.net.node(index),
        seeds,
        proxy: stage.net.node(index),
        tells_requests: false,
        versions: None,
        key,
        folder: stage.folder().join(format!("{name}@{index}")),
        cli: stage.cli(),
        process: None,
    }
}
