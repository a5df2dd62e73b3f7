//! A pool grows by itself when ten times as many users come, and shrinks when they have gone; one node decides, another
//! goes on when it dies, and no request fails. Plain processes, started and stopped by what `exec` says.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde::Deserialize;
use tests::cli::code;
use tests::client::Browser;
use tests::cluster::Cluster;
use tests::load::{Load, Regular};
use tests::net::HTTP;
use tests::process::Process;
use tests::prove;
use tests::services::{HTTP_CHECK, Services};
use tests::stage::Stage;
use tests::wait::{eventually, secs};

const GROWS: Duration = Duration::from_secs(15);

/// A decision, as the program gets it.
#[derive(Debug, Deserialize)]
struct Decision {
    number: u64,
    action: String,
    count: usize,
    backends: Vec<Target>,
    why: serde_json::Value,
}

#[derive(Debug, Deserialize)]
struct Target {
    address: String,
}

/// Starts and stops what decisions ask for.
struct Machines<'a> {
    stage: &'a Stage,
    /// The node that processes register with.
    node: SocketAddr,
    inbox: PathBuf,
    running: BTreeMap<SocketAddr, Process>,
    stopping: Vec<Process>,
    numbers: BTreeSet<u64>,
    started: usize,
}

impl Machines<'_> {
    fn start_one(&mut self) -> Result<()> {
        let address = SocketAddr::from((self.stage.net.backend(self.started), HTTP + 1));
        self.started += 1;
        let (ip, port) = (address.ip().to_string(), address.port().to_string());
        let origin = env!("CARGO_BIN_EXE_origin");
        let rack = format!("r{}", self.started % 2);
        let args = ["run", "--pool", "web", "--address", &ip, "--port", &port, "--rack", &rack, "--", origin];
        let mut command = self.stage.cli().command(&args);
        command.env("MERIDIAN_NODE", format!("http://{}", self.node));
        command.env("ADDRESS", address.to_string()).env("NAME", &ip).env("DELAY_MS", "100");
        let log = self.stage.folder().join(format!("run-{ip}.log"));
        self.running.insert(address, Process::spawn(&format!("run {ip}"), command, &log)?);
        Ok(())
    }

    /// Does what has been decided since the last time.
    fn obey(&mut self) -> Result<()> {
        for entry in std::fs::read_dir(&self.inbox)? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let decision: Decision = serde_json::from_slice(&std::fs::read(&path)?)?;
            std::fs::remove_file(&path)?;
            eprintln!(
                "decision {}: {} {}, {}",
                decision.number, decision.action, decision.count, decision.why
            );
            ensure!(self.numbers.insert(decision.number), "{decision:?} came twice");
            if decision.action == "add" {
                (0..decision.count).try_for_each(|_| self.start_one())?;
            }
            for target in decision.backends {
                let address = target.address.parse()?;
                let mut process = self.running.remove(&address).context("an unknown backend is stopped")?;
                process.signal(Signal::TERM)?;
                self.stopping.push(process);
            }
        }
        Ok(())
    }
}

fn program(folder: &Path) -> Result<String> {
    let script = "#!/bin/sh\ncat > \"$1/$$.new\" && mv \"$1/$$.new\" \"$1/$$.json\"\n";
    let path = folder.join("decided.sh");
    std::fs::write(&path, script)?;
    Ok(path.display().to_string())
}

/// So many backends take requests, as a node sees it; meanwhile decisions are obeyed.
async fn has(
    mesh: &Cluster<'_>,
    node: &str,
    machines: &mut Machines<'_>,
    count: usize,
    within: Duration,
) -> Result<()> {
    let cli = mesh.node(node).cli();
    eventually(&format!("the pool has {count} backends"), within, async || {
        machines.obey()?;
        let status = cli.status().await?;
        let backends = &status.pools.first().context("no pool")?.backends;
        let up = backends.iter().filter(|backend| backend.state == "up").count();
        ensure!(up == count && backends.len() == count, "{up} of {} are up", backends.len());
        Ok(())
    })
    .await
}

#[derive(Debug, Deserialize)]
struct Scale {
    actor: Option<String>,
}

#[test]
fn a_pool_follows_ten_times_the_load_and_back() {
    prove!(Heavy, secs(240), async |stage| {
        let inbox = stage.folder().join("inbox");
        std::fs::create_dir(&inbox)?;
        let mut mesh = Cluster::of(stage, &[("eu", 3)]).await?;
        let pool = format!(
            "[pool.web]\n{HTTP_CHECK}\nlease = {{ ttl = \"5s\" }}\ndrain = \"10s\"\n\
             scale = {{ min = 2, max = 8, target = {{ in_flight = 5 }}, cooldown = \"10s\", \
             via = {{ exec = [\"/bin/sh\", \"{}\", \"{}\"] }} }}",
            program(stage.folder())?,
            inbox.display()
        );
        let services = Services::new().http_listener().service("web", "web = 1", "").and(pool);
        mesh.apply("eu-1", &services).await?;
        let actor = eventually("it is somebody's turn", secs(10), async || {
            let said = mesh.node("eu-2").cli().expect(code::OK, &["scale", "-o", "json"]).await?;
            let scales: Vec<Scale> = serde_json::from_str(&said.stdout)?;
            scales.first().and_then(|scale| scale.actor.clone()).context("nobody's turn")
        })
        .await?;
        let others: Vec<String> =
            mesh.nodes.iter().map(|node| node.name.clone()).filter(|name| *name != actor).collect();
        let node = mesh.node(&others[0]).admin();
        let (running, stopping, numbers) = Default::default();
        let mut machines = Machines { stage, node, inbox, running, stopping, numbers, started: 0 };

        // An empty pool is filled to its least.
        has(&mesh, &others[0], &mut machines, 2, secs(40)).await?;
        let users = |count: usize| {
            let targets: Vec<SocketAddr> = others.iter().map(|name| mesh.node(name).http()).collect();
            let users = (0..count).map(|n| Regular::new(Browser::new(), targets[n % 2]));
            Load::start(users.collect::<Vec<_>>())
        };
        let few = users(4);
        few.progress(100).await?;
        ensure!(machines.started == 2, "a load that two carry needs no third");

        let many = users(36);
        has(&mesh, &others[0], &mut machines, 8, GROWS).await?;
        many.progress(400).await?;

        // Who decided dies; another goes on.
        many.stop().await?.1.must_be_clean()?;
        mesh.node_mut(&actor).kill().await?;
        has(&mesh, &others[1], &mut machines, 2, secs(90)).await?;
        few.progress(100).await?;
        few.stop().await?.1.must_be_clean()?;
        for process in &mut machines.stopping {
            let ended = process.exit(secs(30)).await?;
            ensure!(ended.success(), "a process ends with {ended}");
        }
        ensure!(machines.started == 8, "{} were started", machines.started);
        let events = mesh.node(&others[1]).log();
        ensure!(events.contains("in_flight is"), "the numbers are told");
        Ok(())
    });
}
