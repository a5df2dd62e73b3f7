//! A node goes on as another process, ten times, under load: no request and no query is lost.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tests::backend::http_backends;
use tests::cli::{Cli, code, text};
use tests::client::Browser;
use tests::cluster::Cluster;
use tests::peer;
use tests::prove;
use tests::services::{NAME, Services};
use tests::wait::{eventually, secs};

/// A process that no harness has started; killed when dropped.
struct Stranger(u32);

impl Stranger {
    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.0)?).context("a process id")?;
        Ok(kill_process(pid, signal)?)
    }

    fn is_there(&self) -> bool {
        // A zombie, whose parent waits for nothing any more, is gone.
        std::fs::read_to_string(format!("/proc/{}/stat", self.0)).is_ok_and(|stat| !stat.contains(") Z "))
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.signal(Signal::KILL);
    }
}

async fn upgrade(cli: &Cli) -> Result<Stranger> {
    let ran = cli.expect(code::OK, &["upgrade", "-o", "json"]).await?;
    let told: serde_json::Value = serde_json::from_str(&ran.stdout)?;
    Ok(Stranger(told["pid"].as_u64().context("no pid")?.try_into()?))
}

#[test]
fn ten_upgrades_lose_nothing() {
    prove!(Heavy, secs(240), async |stage| {
        let Some([wrk, dnsperf]) = peer::all(["wrk", "dnsperf"]) else { return Ok(()) };
        let backends = http_backends(&stage.net, &[("eu", 2)]).await?;
        let mut mesh = Cluster::of(stage, &[("eu", 2)]).await?;
        mesh.apply("eu-1", &Services::shop(&stage.net, &backends)).await?;
        mesh.healthy().await?;
        let node = mesh.node("eu-1");
        let (http, dns, socket) = (node.http(), node.dns(), node.data().join("admin.sock"));
        let cli = stage.cli().asking(text(&socket)?);
        let mut user = Browser::new();
        let met = user.visit(http).await?;

        let queries = stage.write("queries", &format!("{NAME} A\n"))?;
        let load = |program: &Path, arguments: &[&str]| {
            let mut command = tokio::process::Command::new(program);
            command
                .args(arguments)
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .kill_on_drop(true);
            command.spawn()
        };
        let host = format!("Host: {}", tests::services::HOST);
        let wrk = load(
            &wrk,
            &["-t1", "-c8", "-d60s", "--timeout", "10s", "-H", &host, &format!("http://{http}/")],
        )?;
        let (ip, port) = (dns.ip().to_string(), dns.port().to_string());
        let queries = text(&queries)?;
        let dnsperf =
            load(&dnsperf, &["-s", &ip, "-p", &port, "-d", queries, "-l", "60", "-Q", "300", "-t", "5"])?;

        let first = mesh.node_mut("eu-1").process()?.id();
        let mut processes = vec![];
        for round in 1..=10 {
            let next = upgrade(&cli).await.with_context(|| format!("upgrade {round}"))?;
            ensure!(
                next.0 != first && processes.iter().all(|one: &Stranger| one.0 != next.0),
                "the same process"
            );
            let seen = user.visit(http).await?;
            ensure!(seen.backend == met.backend, "the session moved in upgrade {round}");
            processes.push(next);
        }
        let (wrk, dnsperf) = (wrk.wait_with_output().await?, dnsperf.wait_with_output().await?);
        let wrk = String::from_utf8_lossy(&wrk.stdout).into_owned();
        ensure!(wrk.contains("requests in"), "{wrk}");
        ensure!(!wrk.contains("Socket errors") && !wrk.contains("Non-2xx"), "requests were lost:\n{wrk}");
        let dnsperf = String::from_utf8_lossy(&dnsperf.stdout).into_owned();
        let lost = dnsperf
            .lines()
            .find_map(|line| line.trim().strip_prefix("Queries lost:"))
            .context(dnsperf.clone())?;
        ensure!(lost.trim().starts_with("0 "), "queries were lost:\n{dnsperf}");
        ensure!(
            dnsperf.contains("NOERROR") && !dnsperf.contains("REFUSED"),
            "queries were refused:\n{dnsperf}"
        );
        eprintln!("{wrk}\n{dnsperf}");

        // All but the last have ended, by themselves; the last is the node.
        let last = processes.pop().context("ten processes")?;
        eventually("the processes before have ended", secs(90), async || {
            ensure!(mesh.node_mut("eu-1").process()?.ended()?.is_some(), "the first is there");
            let there: Vec<u32> = processes.iter().filter(|one| one.is_there()).map(|one| one.0).collect();
            ensure!(there.is_empty(), "{there:?} are there");
            Ok(())
        })
        .await?;
        mesh.each_sees("eu-1 is alive", secs(20), |status| {
            let state = &status.member("eu-1")?.state;
            ensure!(state == "alive", "{state}");
            Ok(())
        })
        .await?;
        last.signal(Signal::TERM)?;
        eventually("it leaves as it should", secs(20), async || {
            ensure!(!last.is_there(), "it is there");
            Ok(())
        })
        .await?;
        ensure!(!socket.exists(), "its socket is left");
        Ok(())
    });
}

#[test]
fn a_program_that_does_not_start_changes_nothing() {
    prove!(Heavy, secs(120), async |stage| {
        let backends = http_backends(&stage.net, &[("eu", 1)]).await?;
        let mesh = Cluster::of(stage, &[("eu", 1)]).await?;
        mesh.apply("eu-1", &Services::shop(&stage.net, &backends)).await?;
        mesh.healthy().await?;
        let node = mesh.node("eu-1");
        let socket = node.data().join("admin.sock");
        let cli = stage.cli().asking(text(&socket)?);
        cli.expect(code::CONFLICT, &["upgrade", "--program", "/bin/false"])
            .await?
            .must_say("nothing was changed")?;
        cli.expect(code::CONFLICT, &["upgrade", "--program", "/no/such/program"])
            .await?
            .must_say("/no/such/program")?;
        // By the port it is refused, whoever asks.
        node.cli().expect(code::FAILURE, &["upgrade"]).await?.must_say("admin.sock")?;
        // A file that became wrong is seen before anything is let go.
        let file = node.file();
        let good = std::fs::read_to_string(&file)?;
        std::fs::write(&file, format!("{good}\n[nonsense]\n"))?;
        cli.expect(code::CONFLICT, &["upgrade"]).await?.must_say("nothing was changed")?;
        std::fs::write(&file, good)?;
        Browser::new().visit(node.http()).await?;
        mesh.healthy().await
    });
}

#[test]
fn a_hang_up_reads_the_file_again() {
    prove!(Light, secs(60), async |stage| {
        let mut mesh = Cluster::of(stage, &[("eu", 1)]).await?;
        let file = mesh.node("eu-1").file();
        let text = std::fs::read_to_string(&file)?;
        let hang_up = async |mesh: &mut Cluster<'_>, text: &str| -> Result<()> {
            std::fs::write(&file, text)?;
            mesh.node_mut("eu-1").process()?.signal(Signal::HUP)
        };
        hang_up(&mut mesh, &text.replace("workers = 2", "workers = 3")).await?;
        mesh.node("eu-1").says(&["[proxy] workers", "upgrade"], secs(10)).await?;
        mesh.node("eu-1").says(&["was read again"], secs(10)).await?;
        // From now on it tells of errors alone, and the next word is one.
        hang_up(&mut mesh, &text.replace("[log]\n", "[log]\nlevel = \"error\"\n")).await?;
        // Two signals at once may be one: an order that is not told of any more shows that the first was seen.
        eventually("it tells of errors alone", secs(20), async || {
            let told = |mesh: &Cluster<'_>| mesh.node("eu-1").log().matches("an operator").count();
            let before = told(&mesh);
            mesh.node("eu-1").cli().expect(code::OK, &["drain", "node", "eu-1", "--force"]).await?;
            mesh.node("eu-1").cli().expect(code::OK, &["undrain", "node", "eu-1"]).await?;
            ensure!(told(&mesh) == before, "it tells of orders");
            Ok(())
        })
        .await?;
        hang_up(&mut mesh, "[nonsense]\n").await?;
        mesh.node("eu-1").says(&["nothing was changed"], secs(10)).await?;
        ensure!(mesh.node("eu-1").log().matches("was read again").count() == 1, "the level was not taken");
        mesh.node("eu-1").cli().status().await?;
        Ok(())
    });
}
