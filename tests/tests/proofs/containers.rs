//! The files of `deploy/` with a Docker Engine: the image is built, three regions come up with containers as backends, which
//! come and go under load; and containers are started and stopped by the load itself.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use gossip::clock::Clock;
use tests::client::Browser;
use tests::load::{Load, Regular};
use tests::peer::{self, said};
use tests::prove;
use tests::stage::{Stage, skip};
use tests::status::Status;
use tests::wait::{eventually, secs};

const SPREADS: Duration = Duration::from_secs(40);
const GROWS: Duration = Duration::from_secs(60);

fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace is above this crate")
}

/// What `deploy/compose.yaml` starts, under a name of its own; all of it goes when this does.
struct Compose {
    project: String,
    image: String,
    backend: String,
    ports: [u16; 3],
    more: PathBuf,
}

impl Compose {
    /// Builds both images: `meridian`, and the same with another program to begin with. `MERIDIAN_IN_IMAGE` names the program
    /// that goes into them, as the static one that `deploy/image.sh` makes; else it is the one under test.
    async fn build(stage: &Stage) -> Result<Self> {
        let project = format!("meridian-test-{}", std::process::id());
        let image = format!("{project}:node");
        let backend = format!("{project}:backend");
        let script = top().join("deploy/image.sh");
        let mut build = tokio::process::Command::new(script);
        let program = std::env::var_os("MERIDIAN_IN_IMAGE").unwrap_or_else(|| stage.program().into());
        build.arg(&image).env("MERIDIAN_BINARY", program);
        build.env("MERIDIAN_MORE", env!("CARGO_BIN_EXE_origin")).stdin(Stdio::null()).kill_on_drop(true);
        let built = build.output().await?;
        ensure!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        let folder = stage.folder().join("backend");
        std::fs::create_dir(&folder)?;
        let dockerfile =
            format!("FROM {image}\nENV PORT=8080 DELAY_MS=50\nENTRYPOINT [\"/bin/origin\"]\nCMD []\n");
        std::fs::write(folder.join("Dockerfile"), dockerfile)?;
        let folder = folder.display().to_string();
        said("docker", &["build", "-q", "-t", &backend, &folder]).await?;
        let free = || -> Result<u16> { Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port()) };
        let ports = [free()?, free()?, free()?];
        // Its own volumes: the file that is applied later.
        let more = stage.write(
            "more.yaml",
            &format!(
                "version: \"3.7\"\nservices:\n  eu-1:\n    volumes: [\"{}:/etc/later\"]\n",
                stage.folder().display()
            ),
        )?;
        Ok(Self { project, image, backend, ports, more })
    }

    async fn run(&self, arguments: &[&str]) -> Result<String> {
        let file = top().join("deploy/compose.yaml");
        let mut command = tokio::process::Command::new("docker-compose");
        command.args(["-p", &self.project, "-f"]).arg(file).arg("-f").arg(&self.more).args(arguments);
        command.env("MERIDIAN_IMAGE", &self.image).env("BACKEND_IMAGE", &self.backend);
        command.env("BACKEND_PORT", "8080");
        for (name, port) in ["EU_PORT", "US_PORT", "AP_PORT"].into_iter().zip(self.ports) {
            command.env(name, port.to_string());
        }
        let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await?;
        let (text, errors) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "docker-compose {arguments:?}: {}\n{text}\n{errors}", output.status);
        Ok(text.into_owned())
    }

    async fn meridian(&self, node: &str, arguments: &[&str]) -> Result<String> {
        let mut all = vec!["exec", "-T", node, "/bin/meridian"];
        all.extend_from_slice(arguments);
        self.run(&all).await
    }

    async fn status(&self, node: &str) -> Result<Status> {
        Ok(serde_json::from_str(&self.meridian(node, &["status", "-o", "json"]).await?)?)
    }

    /// Every one of these nodes sees so many backends of a region, all up.
    async fn each_has(&self, nodes: &[&str], region: &str, count: usize, within: Duration) -> Result<()> {
        for node in nodes {
            eventually(&format!("{node} has {count} backends in {region}"), within, async || {
                let status = self.status(node).await?;
                let pool = status.pools.first().context("no pool")?;
                let there: Vec<_> = pool.backends.iter().filter(|b| b.region == region).collect();
                ensure!(there.len() == count, "{there:?}");
                ensure!(there.iter().all(|backend| backend.state == "up"), "{there:?}");
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    fn port(&self, at: usize) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.ports[at]).into()
    }

    async fn down(&self) -> Result<()> {
        let label = format!("label=meridian.test={}", self.project);
        let started = said("docker", &["ps", "-aq", "--filter", &label]).await?;
        let network = format!("network={}_mesh", self.project);
        let joined = said("docker", &["ps", "-aq", "--filter", &network]).await?;
        for container in started.lines().chain(joined.lines()) {
            let _ = said("docker", &["rm", "-f", "-v", container]).await;
        }
        self.run(&["down", "-v", "--remove-orphans", "-t", "1"]).await?;
        said("docker", &["rmi", "-f", &self.backend, &self.image]).await.map(drop)
    }
}

/// Users of one port.
fn users(target: SocketAddr, count: usize) -> Load<Regular> {
    Load::start((0..count).map(|_| Regular::new(Browser::new(), target)).collect::<Vec<_>>())
}

async fn engine() -> bool {
    if peer::all(["docker", "docker-compose", "ldd"]).is_none() {
        return false;
    }
    let answers = said("docker", &["version", "--format", "{{.Server.Version}}"]).await;
    if let Err(error) = &answers {
        skip(&format!("there is no Docker Engine: {error}"));
    }
    answers.is_ok()
}

async fn come_and_go(compose: &Compose) -> Result<()> {
    let all = ["eu-1", "us-1", "ap-1"];
    compose
        .run(&["up", "-d", "--scale", "backend-eu=2", "--scale", "backend-us=1", "--scale", "backend-ap=1"])
        .await?;
    for (region, count) in [("eu", 2), ("us", 1), ("ap", 1)] {
        compose.each_has(&all, region, count, secs(90)).await?;
    }
    let status = compose.status("us-1").await?;
    ensure!(status.pools[0].backends.iter().all(|backend| backend.source == "docker"), "{status:?}");

    // From 2 to 8 to 2 under load.
    let load = users(compose.port(0), 8);
    load.progress(50).await?;
    compose.run(&["up", "-d", "--no-recreate", "--scale", "backend-eu=8"]).await?;
    compose.each_has(&all, "eu", 8, SPREADS).await?;
    load.progress(200).await?;
    compose.run(&["up", "-d", "--no-recreate", "--scale", "backend-eu=2"]).await?;
    compose.each_has(&all, "eu", 2, SPREADS).await?;
    load.progress(100).await?;

    // One is killed: it is gone, and nobody has noticed.
    let containers = compose.run(&["ps", "-q", "backend-eu"]).await?;
    let victim = containers.lines().next().context("a container")?;
    said("docker", &["kill", victim]).await?;
    compose.each_has(&all, "eu", 1, SPREADS).await?;
    load.progress(100).await?;
    load.stop().await?.1.must_be_clean()?;

    // A container and a process serve side by side.
    let network = format!("{}_mesh", compose.project);
    let gateway = "{{(index .IPAM.Config 0).Gateway}}";
    let gateway = said("docker", &["network", "inspect", "-f", gateway, &network]).await?;
    let host: Ipv4Addr = gateway.trim().parse()?;
    let listener = TcpListener::bind((host, 0))?;
    let address = listener.local_addr()?;
    drop(listener);
    let process = tests::backend::HttpBackend::start("process", "eu", address).await?;
    compose.meridian("us-1", &["backend", "add", "web", &address.to_string(), "--region", "eu"]).await?;
    compose.each_has(&["eu-1"], "eu", 2, SPREADS).await?;
    // It grows into its share (slow start), so the first to come may all meet the other.
    let mut met = std::collections::BTreeSet::new();
    eventually("both serve", SPREADS, async || {
        met.insert(Browser::new().visit(compose.port(0)).await?.backend);
        ensure!(met.len() == 2 && met.contains(process.id()), "{met:?}");
        Ok(())
    })
    .await?;
    compose.meridian("eu-1", &["backend", "remove", "web", &address.to_string(), "--gone"]).await?;

    // A node's container is stopped: its users go on elsewhere, with their sessions.
    let mut user = Browser::new();
    let before = user.visit(compose.port(1)).await?.backend;
    compose.run(&["stop", "-t", "30", "us-1"]).await?;
    for _ in 0..5 {
        let now = user.visit(compose.port(0)).await?.backend;
        ensure!(now == before, "a session moved from {before} to {now}");
    }
    compose.run(&["start", "us-1"]).await.map(drop)
}

/// Ten times the load starts containers, and their end stops them.
async fn elastic(stage: &Stage, compose: &Compose) -> Result<()> {
    let services = std::fs::read_to_string(top().join("deploy/compose/services.toml"))?;
    let scale = format!(
        "[pool.web]\nscale = {{ min = 3, max = 9, target = {{ in_flight = 3 }}, cooldown = \"10s\", \
         via.docker = {{ image = \"{}\", port = 8080, network = \"{}_mesh\" }} }}",
        compose.backend, compose.project
    );
    stage.write("scale.toml", &services.replace("[pool.web]", &scale))?;
    compose.meridian("eu-1", &["apply", "/etc/later/scale.toml"]).await?;
    let few = users(compose.port(0), 3);
    few.progress(50).await?;
    let count = async || -> Result<usize> {
        let status = compose.status("eu-1").await?;
        let backends = &status.pools[0].backends;
        Ok(backends.iter().filter(|backend| backend.state == "up").count())
    };
    let before = count().await?;
    let many = users(compose.port(0), 30);
    let clock = Clock::system();
    let began = clock.now();
    // Within 15 s where nothing else runs; a machine that is busy with other proofs may take longer.
    let grown = eventually("the pool has grown", GROWS, async || {
        let now = count().await?;
        // Some of the thirty are always between an answer and their next question.
        ensure!(now >= 7, "from {before} to {now}");
        Ok(now)
    })
    .await?;
    let took = clock.now().saturating_duration_since(began);
    eprintln!("ten times the load: from {before} to {grown} containers that serve in {took:.1?}");
    many.progress(200).await?;
    many.stop().await?.1.must_be_clean()?;
    eventually("the pool has shrunk", secs(90), async || {
        let now = count().await?;
        ensure!(now <= 3, "{now} are left");
        Ok(())
    })
    .await?;
    few.stop().await?.1.must_be_clean()
}

#[test]
fn containers_come_and_go_and_nobody_notices() {
    prove!(Heavy, secs(500), async |stage| {
        if !engine().await {
            return Ok(());
        }
        let compose = Compose::build(stage).await?;
        let held = match come_and_go(&compose).await {
            Ok(()) => elastic(stage, &compose).await,
            failed => failed,
        };
        if held.is_err() {
            eprintln!("{}", compose.run(&["logs", "--no-color", "--tail", "60"]).await.unwrap_or_default());
        }
        let down = compose.down().await;
        held.and(down)
    });
}

/// The configuration in the files of `deploy/` is valid, and their flags are flags.
#[test]
fn what_deploy_says_is_valid() {
    prove!(Light, secs(60), async |stage| {
        let services = top().join("deploy/compose/services.toml").display().to_string();
        stage.cli().expect(0, &["validate", &services]).await?;
        let manifest = std::fs::read_to_string(top().join("deploy/kubernetes/meridian.yaml"))?;
        let (_, rest) = manifest.split_once("services.toml: |\n").context("the configuration")?;
        let lines = rest.lines().take_while(|line| line.is_empty() || line.starts_with("    "));
        let inner: Vec<&str> = lines.map(|line| line.strip_prefix("    ").unwrap_or(line)).collect();
        let inner = stage.write("inner.toml", &inner.join("\n"))?;
        stage.cli().expect(0, &["validate", tests::cli::text(&inner)?]).await?;
        // Every flag that a container is started with is one that `start` knows.
        let help = stage.cli().expect(0, &["start", "--help"]).await?.stdout;
        let flags = manifest.lines().filter_map(|line| line.trim().strip_prefix("- --"));
        for flag in flags.map(|flag| flag.split('=').next().unwrap_or(flag)) {
            ensure!(help.contains(&format!("--{flag} ")), "there is no --{flag}");
        }
        if peer::all(["docker-compose"]).is_some() {
            let file = top().join("deploy/compose.yaml").display().to_string();
            said("docker-compose", &["-f", &file, "config", "-q"]).await?;
        }
        Ok(())
    });
}

/// The API server of a cluster would take them, as far as its schemas say; and the parts fit together.
#[test]
fn the_manifests_are_what_kubernetes_takes() {
    prove!(Light, secs(90), async |_stage| {
        if !peer::has_python_module("kubernetes_validate", "kubernetes-validate").await {
            return Ok(());
        }
        let manifest = top().join("deploy/kubernetes/meridian.yaml").display().to_string();
        let checked = said("python3", &[&peer::script("manifests.py"), &manifest]).await?;
        ensure!(checked.matches("is valid").count() == 6, "{checked}");
        Ok(())
    });
}
