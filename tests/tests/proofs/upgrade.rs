//! A node goes on as another process, ten times, under load: no request and no query is lost.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tests::backend::http_backends;
use tests::cli::{Cli, code, text};
use tests::client::Browser;
use tests::cluster::Cluster;
use tests::dns::Question;
use tests::load::{Load, Regular, User};
use tests::peer;
use tests::prove;
use tests::services::{Entry, HTTP_CHECK, NAME, STICKY_COOKIE, Services};
use tests::wait::{eventually, millis, secs};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

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

/// A resolver that asks over TCP, one connection a question or all questions over one.
struct Resolver {
    server: SocketAddr,
    keeps: bool,
    kept: Option<TcpStream>,
}

impl Resolver {
    async fn exchange(stream: &mut TcpStream, question: &[u8]) -> Result<()> {
        stream.write_u16(question.len() as u16).await?;
        stream.write_all(question).await?;
        let length = stream.read_u16().await?;
        let mut answer = vec![0; usize::from(length)];
        stream.read_exact(&mut answer).await?;
        // The id, and NOERROR with at least one answer.
        let good = answer.len() > 12 && answer[..2] == question[..2] && answer[3] & 15 == 0 && answer[7] > 0;
        ensure!(good, "{answer:02x?}");
        Ok(())
    }
}

impl User for Resolver {
    async fn act(&mut self) -> Result<()> {
        // Some fifty questions a second are enough.
        tokio::time::sleep(millis(20)).await;
        let question = Question::addresses(NAME)?.bytes()?;
        if let Some(mut stream) = self.kept.take()
            && Self::exchange(&mut stream, &question).await.is_ok()
        {
            self.kept = Some(stream);
            return Ok(());
        }
        // A server may close a connection that has asked nothing of late, and is asked again then (RFC 7766 §6.2.4): once.
        let mut stream = TcpStream::connect(self.server).await?;
        Self::exchange(&mut stream, &question).await.context("over a new connection")?;
        self.kept = self.keeps.then_some(stream);
        Ok(())
    }
}

#[test]
fn ten_upgrades_lose_nothing() {
    prove!(Heavy, secs(240), async |stage| {
        let Some([wrk, dnsperf]) = peer::all(["wrk", "dnsperf"]) else { return Ok(()) };
        let backends = http_backends(&stage.net, &[("eu", 2)]).await?;
        let mut mesh = Cluster::of(stage, &[("eu", 2), ("us", 1)]).await?;
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

        // Users of a region without backends, whose requests cross to the node that is upgraded; and resolvers over TCP.
        let abroad = mesh.node("us-1").http();
        let abroad = Load::start((0..4).map(|_| Regular::new(Browser::new(), abroad)));
        let resolvers = [true, false].map(|keeps| Resolver { server: dns, keeps, kept: None });
        let resolvers = Load::start(resolvers);

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
        let (_, crossed) = abroad.stop().await?;
        crossed.must_be_clean().context("requests that crossed")?;
        let (_, asked) = resolvers.stop().await?;
        asked.must_be_clean().context("questions over TCP")?;
        ensure!(crossed.done > 100 && asked.done > 100, "{crossed:?} {asked:?}");
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
fn the_only_node_of_a_region_keeps_requests_from_elsewhere_waiting_and_knows_who_is_down() {
    prove!(Heavy, secs(180), async |stage| {
        let backends = http_backends(&stage.net, &[("eu", 2)]).await?;
        let mesh = Cluster::of(stage, &[("eu", 1), ("us", 1)]).await?;
        let dead =
            Entry { address: (stage.net.backend(100), 9).into(), region: "eu".to_owned(), weight: 100 };
        let services = Services::new().http_listener().service("web", "web-v1 = 1", STICKY_COOKIE).pool(
            "web-v1",
            HTTP_CHECK,
            backends.iter().map(Entry::from).chain([dead.clone()]),
        );
        mesh.apply("eu-1", &services).await?;
        mesh.each_sees("one is down", secs(30), |status| {
            let state = &status.backend(dead.address)?.state;
            ensure!(state == "down", "{state}");
            Ok(())
        })
        .await?;
        let cli = stage.cli().asking(text(&mesh.node("eu-1").data().join("admin.sock"))?);
        let abroad = mesh.node("us-1").http();
        let load = Load::start((0..4).map(|_| Regular::new(Browser::new(), abroad)));
        load.progress(50).await?;
        let mut processes = Vec::new();
        for round in 1..=3 {
            processes.push(upgrade(&cli).await.with_context(|| format!("upgrade {round}"))?);
            // What the process before knew is known from the first moment.
            let status = cli.status().await?;
            let state = &status.backend(dead.address)?.state;
            ensure!(state == "down", "{} is {state} after upgrade {round}", dead.address);
            for backend in &backends {
                let state = &status.backend(backend.address())?.state;
                ensure!(state == "up", "{} is {state} after upgrade {round}", backend.address());
            }
            load.progress(50).await?;
        }
        load.stop().await?.1.must_be_clean()
    });
}

/// What a browser may not send a second time; its answer may take long.
async fn pay(node: SocketAddr) -> Result<String> {
    let mut stream = TcpStream::connect(node).await?;
    let host = tests::services::HOST;
    let head =
        format!("POST /pay HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ncontent-length: 1\r\n\r\n1");
    stream.write_all(head.as_bytes()).await?;
    let mut answer = String::new();
    tokio::time::timeout(secs(40), stream.read_to_string(&mut answer)).await??;
    Ok(answer)
}

#[test]
fn a_long_request_from_another_region_is_waited_for() {
    prove!(Heavy, secs(120), async |stage| {
        let backends = http_backends(&stage.net, &[("eu", 2)]).await?;
        let mesh = Cluster::of(stage, &[("eu", 2), ("us", 1)]).await?;
        mesh.apply("eu-1", &Services::shop(&stage.net, &backends)).await?;
        mesh.healthy().await?;
        // Longer than a process that is started may be left without a word, half of it.
        backends.iter().for_each(|backend| backend.set_delay(secs(12)));
        let abroad = mesh.node("us-1").http();
        let under_way: Vec<_> = (0..8).map(|_| tokio::spawn(pay(abroad))).collect();
        eventually("all are at the backends", secs(10), async || {
            let there: u64 = backends.iter().map(|backend| backend.requests()).sum();
            ensure!(there == 8, "{there}");
            Ok(())
        })
        .await?;
        let _next = upgrade(&stage.cli().asking(text(&mesh.node("eu-1").data().join("admin.sock"))?)).await?;
        for request in under_way {
            let answer = request.await??;
            ensure!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        }
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
