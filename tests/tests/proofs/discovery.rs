//! Backends come and go by themselves: by a file, by DNS, by leases, as processes; and no request fails because of it.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use tests::backend::{HttpBackend, http_backends};
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

const SPREADS: Duration = Duration::from_secs(15);

fn shop(pool: &str) -> Services {
    let pool = format!("[pool.web-v1]\n{HTTP_CHECK}\ndrain = \"2s\"\n{pool}");
    Services::new().http_listener().service("web", "web-v1 = 1", "").and(pool)
}

/// Writes a list and puts it in the place of the old one at once.
fn put_list(stage: &Stage, addresses: &[SocketAddr]) -> Result<()> {
    let entries = addresses.iter().map(|address| {
        format!("{{ \"address\": \"{address}\", \"region\": \"eu\", \"zone\": \"eu-a\", \"rack\": \"r1\" }}")
    });
    let list = entries.collect::<Vec<_>>().join(", ");
    let new = stage.write("new.json", &format!("[{list}]"))?;
    Ok(std::fs::rename(new, stage.folder().join("list.json"))?)
}

/// All nodes see exactly these backends up, each named by this source.
async fn each_has(mesh: &Cluster<'_>, source: &str, addresses: &[SocketAddr]) -> Result<()> {
    each_has_within(mesh, source, addresses, SPREADS).await
}

async fn each_has_within(
    mesh: &Cluster<'_>,
    source: &str,
    addresses: &[SocketAddr],
    within: Duration,
) -> Result<()> {
    let mut wanted: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    wanted.sort();
    mesh.each_sees(&format!("the pool has {wanted:?} by {source}"), within, |status| {
        let backends = status.pools.first().context("no pool")?.backends.iter();
        let mut up: Vec<String> = backends.clone().map(|backend| backend.address.clone()).collect();
        up.sort();
        ensure!(up == wanted, "it has {up:?}");
        for backend in backends {
            ensure!(backend.source == source, "{} comes from {}", backend.address, backend.source);
            ensure!(backend.state == "up", "{} is {}", backend.address, backend.state);
        }
        Ok(())
    })
    .await
}

/// Users of every node, each with a new session every time.
fn passers_by(mesh: &Cluster<'_>) -> Load<Regular> {
    let users = mesh.running().flat_map(|node| (0..2).map(|_| Regular::new(Browser::new(), node.http())));
    Load::start(users.collect::<Vec<_>>())
}

#[test]
fn a_pool_follows_a_file_and_keeps_its_last_word() {
    prove!(Heavy, secs(120), async |stage| {
        let backends = http_backends(&stage.net, &[("eu", 3)]).await?;
        let addresses: Vec<SocketAddr> = backends.iter().map(|backend| backend.address()).collect();
        put_list(stage, &addresses[..2])?;
        let mesh = Cluster::of(stage, &[("eu", 2), ("us", 1)]).await?;
        let path = stage.folder().join("list.json");
        let discover = format!("discover.file = {{ path = \"{}\" }}", path.display());
        mesh.apply("eu-1", &shop(&discover)).await?;
        each_has(&mesh, "file", &addresses[..2]).await?;
        let warned = mesh.node("us-1").cli().expect(code::OK, &["status", "-o", "json"]).await?;
        warned.must_say("stand in rack r1")?;

        let load = passers_by(&mesh);
        load.progress(50).await?;
        put_list(stage, &addresses)?;
        each_has(&mesh, "file", &addresses).await?;
        put_list(stage, &addresses[1..])?;
        each_has(&mesh, "file", &addresses[1..]).await?;

        // A file that is broken or gone takes nobody away, and every node says what is wrong.
        std::fs::write(&path, "[{")?;
        mesh.each_sees("the source fails", SPREADS, |status| {
            let told = status.problems.iter().filter(|problem| problem.contains("fails since")).count();
            ensure!(told == 3, "{:?}", status.problems);
            ensure!(status.pools[0].backends.len() == 2, "{:?}", status.pools[0].backends);
            Ok(())
        })
        .await?;
        let sources = mesh.node("us-1").cli().expect(code::OK, &["sources"]).await?;
        sources.must_say("failing")?;
        std::fs::remove_file(&path)?;
        load.progress(50).await?;
        put_list(stage, &addresses)?;
        each_has(&mesh, "file", &addresses).await?;
        load.stop().await?.1.must_be_clean()
    });
}

#[test]
fn a_pool_follows_dns() {
    prove!(Heavy, secs(120), async |stage| {
        let backends = http_backends(&stage.net, &[("us", 2)]).await?;
        let (a, b) = (backends[0].address(), backends[1].address());
        let mesh = Cluster::of(stage, &[("eu", 1), ("us", 1)]).await?;
        // The mesh's own name servers are as good as any: the first resolver is nobody.
        let resolvers = format!("[\"{}:53\", \"{}\"]", stage.net.nobody(), mesh.node("eu-1").dns());
        let services = |records: &[SocketAddr]| {
            let pool = format!(
                "discover.dns = {{ name = \"_http._tcp.shop.lb.example.com\", region = \"us\", refresh = \"1s\", resolvers = {resolvers} }}"
            );
            let mut services = shop(&pool).zone(&stage.net, "web");
            for (at, address) in records.iter().enumerate() {
                let target = format!("b{at}.lb.example.com.");
                services = services
                    .record(
                        "_http._tcp.shop",
                        "SRV",
                        &format!("0 {} {} {target}", 10 * (at + 1), address.port()),
                    )
                    .record(&format!("b{at}"), "A", &address.ip().to_string());
            }
            services
        };
        mesh.apply("eu-1", &services(&[a])).await?;
        each_has(&mesh, "dns", &[a]).await?;
        mesh.apply("eu-1", &services(&[a, b])).await?;
        each_has(&mesh, "dns", &[a, b]).await?;
        let weights = mesh.node("eu-1").cli().status().await?;
        ensure!(weights.backend(a)?.weight == 10 && weights.backend(b)?.weight == 20, "{weights:?}");
        ensure!(weights.backend(a)?.region == "us", "a node of eu knows what those of us were told");
        // No records are no answer.
        mesh.apply("eu-1", &services(&[])).await?;
        mesh.each_sees("the source fails", SPREADS, |status| {
            ensure!(
                status.problems.iter().any(|problem| problem.contains("fails since")),
                "{:?}",
                status.problems
            );
            ensure!(status.pools[0].backends.len() == 2, "{:?}", status.pools[0].backends);
            Ok(())
        })
        .await
    });
}

/// `meridian run` with a process behind it.
fn run(stage: &Stage, mesh: &Cluster<'_>, node: &str, address: SocketAddr, more: &[&str]) -> Result<Process> {
    let origin = env!("CARGO_BIN_EXE_origin");
    let (ip, port) = (address.ip().to_string(), address.port().to_string());
    let mut args = vec!["run", "--pool", "web-v1", "--address", &ip, "--port", &port];
    args.extend_from_slice(more);
    args.extend_from_slice(&["--", origin]);
    let mut command: Command = stage.cli().command(&args);
    command
        .env("MERIDIAN_NODE", format!("http://{}", mesh.node(node).admin()))
        .env("ADDRESS", address.to_string())
        .env("NAME", address.to_string())
        .env("DELAY_MS", "20");
    Process::spawn(&format!("run {address}"), command, &stage.folder().join(format!("run-{address}.log")))
}

#[test]
fn processes_hold_leases_that_outlive_a_node() {
    prove!(Heavy, secs(180), async |stage| {
        let at = |index| SocketAddr::from((stage.net.backend(index), HTTP + 1));
        let (a, b, c) = (at(0), at(1), at(2));
        let mut mesh = Cluster::of(stage, &[("eu", 3)]).await?;
        mesh.apply("eu-1", &shop("lease = { ttl = \"3s\" }")).await?;
        let mut first = run(stage, &mesh, "eu-1", a, &[])?;
        let mut second = run(stage, &mesh, "eu-2", b, &["--zone", "eu-b"])?;
        each_has(&mesh, "lease", &[a, b]).await?;
        let users = (0..4).map(|n| Regular::new(Browser::new(), mesh.nodes[n % 2].http()));
        let load = Load::start(users.collect::<Vec<_>>());
        load.progress(50).await?;

        // One joins under load, one is asked to end: it drains first.
        let mut third = run(stage, &mesh, "eu-2", c, &[])?;
        each_has(&mesh, "lease", &[a, b, c]).await?;
        load.progress(50).await?;
        second.signal(Signal::TERM)?;
        let ended = second.exit(secs(30)).await?;
        ensure!(ended.success(), "it ends with {ended}");
        each_has(&mesh, "lease", &[a, c]).await?;
        load.progress(50).await?;
        let (_, tally) = load.stop().await?;
        tally.must_be_clean()?;

        // An added backend is there until it is removed.
        let added = HttpBackend::start("added", "eu", at(9)).await?;
        let address = added.address().to_string();
        let cli = mesh.node("eu-3").cli();
        cli.expect(code::OK, &["backend", "add", "web-v1", &address, "--weight", "7"]).await?;
        mesh.each_sees("it is added", SPREADS, |status| {
            let backend = status.backend(added.address())?;
            ensure!((backend.source.as_str(), backend.weight) == ("added", 7), "{backend:?}");
            Ok(())
        })
        .await?;
        cli.expect(code::OK, &["backend", "remove", "web-v1", &address]).await?;
        each_has(&mesh, "lease", &[a, c]).await?;
        let unknown = cli.expect(code::FAILURE, &["backend", "remove", "web-v1", &address]).await?;
        unknown.must_say("neither added")?;

        // The node that holds a lease dies; others adopt it, and the process goes on. Who is not renewed expires.
        mesh.node_mut("eu-1").kill().await?;
        each_has_within(&mesh, "lease", &[c], secs(40)).await?;
        first.must_run()?;
        mesh.node_mut("eu-1").start().await?;
        each_has(&mesh, "lease", &[a, c]).await?;

        // A process that is killed is out as soon as its keeper sees it; one whose keeper is killed too, when its lease ends.
        third.kill().await?;
        each_has(&mesh, "lease", &[a]).await?;
        first.signal(Signal::TERM)?;
        first.exit(secs(30)).await.map(drop)
    });
}

/// Registers as a client does that has this token, or none.
async fn put(admin: SocketAddr, backend: &str, token: Option<&str>) -> Result<u16> {
    let mut client = Browser::new().host(&admin.to_string());
    if let Some(token) = token {
        client = client.header("authorization", &format!("Bearer {token}"));
    }
    let path = format!("/v1/pools/web-v1/backends/{backend}");
    let reply = client.request("PUT".parse()?, admin, &path, Default::default()).await?;
    Ok(reply.status.as_u16())
}

#[test]
fn a_lease_needs_the_token_and_leads_to_no_secrets() {
    prove!(Light, secs(90), async |stage| {
        const TOKEN: &str = "a token of the proof's own";
        let backend = HttpBackend::start("leased", "eu", (stage.net.backend(0), HTTP + 1).into()).await?;
        let mut mesh = Cluster::of(stage, &[("eu", 1)]).await?;
        mesh.apply("eu-1", &shop("lease = { ttl = \"60s\" }")).await?;
        // A file can name the admin port, and only a file: without the token it would be open to all users.
        let admin = mesh.node("eu-1").admin();
        let open = [("169.254.169.254:80", 400), ("[fd00:ec2::254]:80", 400), ("0.0.0.0:80", 400)];
        for (address, wanted) in open.into_iter().chain([(admin.to_string().as_str(), 409)]) {
            let status = put(admin, address, None).await?;
            ensure!(status == wanted, "{address}: {status}");
        }

        let node = mesh.node_mut("eu-1");
        node.stop(secs(30)).await?;
        let file = stage.write("token", TOKEN)?;
        let mut command = node.command()?;
        command.arg("--admin-token-file").arg(file);
        node.launch_as(command)?;
        let address = backend.address().to_string();
        eventually("the node knows its pool again", secs(20), async || {
            let status = put(admin, &address, Some(TOKEN)).await?;
            ensure!(status == 200, "{status}");
            Ok(())
        })
        .await?;
        for wrong in [None, Some("another token of that length")] {
            let status = put(admin, "127.0.0.1:4000", wrong).await?;
            ensure!(status == 401, "{status}");
        }
        let http = mesh.node("eu-1").http();
        eventually("the leased backend serves", secs(20), async || {
            let seen = Browser::new().visit(http).await?;
            ensure!(seen.backend == backend.id(), "{seen:?}");
            Ok(())
        })
        .await
    });
}
