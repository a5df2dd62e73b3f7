//! Nodes without a data plane: the mesh and the store of real ones, each on a runtime of its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use gossip::clock::Clock;
use gossip::id::{NodeName, RegionName};
use gossip::keyring::Keyring;
use gossip::{Gossip, GossipConfig};
use storage::{Storage, StorageConfig};
use tokio::runtime::Runtime;

/// As many threads as a node's control runtime has.
const THREADS: usize = 2;
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) struct Node {
    pub(crate) runtime: Runtime,
    pub(crate) gossip: Gossip,
    pub(crate) storage: Storage,
    pub(crate) data: PathBuf,
    pub(crate) clock: Clock,
    /// How long its store took to open.
    pub(crate) opened: Duration,
}

pub(crate) fn region() -> anyhow::Result<RegionName> {
    Ok(RegionName::new("eu")?)
}

impl Node {
    /// Starts node `number` in its folder.
    pub(crate) fn start(
        number: usize,
        folder: &Path,
        ring: &Keyring,
        seeds: &[String],
    ) -> anyhow::Result<Self> {
        let clock = Clock::system();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build()?;
        let data = folder.join(format!("eu-{number}"));
        std::fs::create_dir_all(&data)?;
        let (name, region) = (NodeName::new(&format!("eu-{number}"))?, region()?);
        let config = GossipConfig {
            name: name.clone(),
            region: region.clone(),
            zone: None,
            listen: "127.0.0.1:0".parse()?,
            advertise: None,
            seeds: seeds.to_vec(),
            public: Vec::new(),
            version: "bench".into(),
            data: data.clone(),
            keyring: ring.clone(),
            clock: clock.clone(),
        };
        let gossip = runtime.block_on(Gossip::start(config))?;
        let config = StorageConfig {
            data: data.clone(),
            me: name,
            region,
            mesh: gossip.mesh(),
            view: gossip.view(),
            keyring: ring.clone(),
            clock: clock.clone(),
            validate: Arc::new(|_| Ok(())),
            make_zone_key: Arc::new(|| None),
        };
        let begun = clock.now();
        let storage = runtime.block_on(Storage::start(config))?;
        let opened = clock.now() - begun;
        Ok(Self { runtime, gossip, storage, data, clock, opened })
    }

    /// So many nodes of one region that know each other.
    pub(crate) fn start_region(count: usize, folder: &Path, ring: &Keyring) -> anyhow::Result<Vec<Self>> {
        let mut nodes: Vec<Self> = Vec::new();
        for number in 1..=count {
            let seeds: Vec<String> =
                nodes.iter().take(1).map(|node| node.gossip.listen_addr().to_string()).collect();
            nodes.push(Self::start(number, folder, ring, &seeds)?);
        }
        nodes.iter().try_for_each(|node| node.meet(count))?;
        Ok(nodes)
    }

    /// Waits until so many nodes are alive, this one among them.
    pub(crate) fn meet(&self, count: usize) -> anyhow::Result<()> {
        let mut view = self.gossip.view();
        let met =
            view.wait_for(|view| view.members.values().filter(|member| member.is_alive()).count() == count);
        self.runtime
            .block_on(async { tokio::time::timeout(PATIENCE, met).await.map(|view| view.map(drop)) })
            .context("the nodes do not find each other")??;
        Ok(())
    }

    /// Waits for something about this node's store.
    pub(crate) fn wait_for(
        &self,
        what: &str,
        patience: Duration,
        mut is: impl FnMut(&Self) -> bool,
    ) -> anyhow::Result<()> {
        let begun = self.clock.now();
        while !is(self) {
            anyhow::ensure!(self.clock.now() - begun < patience, "{what}: not within {patience:?}");
            self.rest(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Lets time pass.
    pub(crate) fn rest(&self, time: Duration) {
        self.runtime.block_on(async { tokio::time::sleep(time).await });
    }

    /// Whether all replicas hold the same, as this node sees it.
    pub(crate) fn agree(&self) -> bool {
        let survey = self.storage.survey();
        let surveyed = self.runtime.block_on(async { survey.consistency().await });
        surveyed.silent.is_empty() && surveyed.found.differ.is_empty()
    }

    /// Ends without a word to anybody, as with SIGKILL.
    pub(crate) fn kill(self) -> PathBuf {
        let Self { runtime, data, .. } = self;
        runtime.shutdown_background();
        data
    }
}
