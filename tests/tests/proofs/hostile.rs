//! Ten thousand clients that mean harm, and some that only want to be served.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use tests::backend::http_backends;
use tests::client::Browser;
use tests::cluster::Cluster;
use tests::load::{Load, Regular};
use tests::process::Process;
use tests::prove;
use tests::services::{HOST, HTTP_CHECK, STICKY_COOKIE, Services};
use tests::siege::Siege;
use tests::tls::Authority;
use tests::wait::{eventually, secs};

const HTTPS: u16 = 8443;
const SIEGE: &str = "TESTS_SIEGE";
/// Connections that stand at once.
const AT_ONCE: usize = 10_000;
/// What each may cost the node at the most, all kinds together: far less than what any of them sends.
const BYTES_EACH: usize = 64 * 1024;

/// Only when the proof below starts this program again: besieges until it is killed.
#[test]
fn the_besiegers() {
    let Ok(siege) = std::env::var(SIEGE) else { return };
    let siege: Siege = siege.parse().expect("a siege");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(siege.lay());
}

/// Open descriptors of a process.
fn descriptors(pid: u32) -> Result<usize> {
    Ok(std::fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}

/// A process's memory, in bytes: `VmRSS` now, `VmHWM` at its highest.
fn memory(pid: u32, what: &str) -> Result<usize> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(what)).context("no such line")?;
    let kib: usize = line.trim_start_matches(':').trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib * 1024)
}

#[test]
fn ten_thousand_hostile_clients_harm_nobody_else() {
    prove!(Heavy, secs(240), async |stage| {
        let backends = http_backends(&stage.net, &[("eu", 2)]).await?;
        let mut mesh = Cluster::of(stage, &[("eu", 1)]).await?;
        let signed = Authority::new()?.sign(&[HOST])?.write(stage.folder(), "site")?;
        let services = Services::new()
            .and(format!(
                "[listener.http]\nport = 8080\nprotocol = \"http\"\n\
                 [listener.https]\nport = {HTTPS}\nprotocol = \"https\"\ncertificate = [{signed}]"
            ))
            .service("web", "web-v1 = 1", STICKY_COOKIE)
            .pool("web-v1", HTTP_CHECK, &backends);
        mesh.apply("eu-1", &services).await?;
        mesh.healthy().await?;
        mesh.accept(HTTPS).await?;
        let (http, cli, address) =
            (mesh.node("eu-1").http(), mesh.node("eu-1").cli(), mesh.node("eu-1").address);
        let pid = mesh.node_mut("eu-1").process()?.id();

        let kept = (0..8).map(|_| Regular::new(Browser::new(), http));
        let new = (0..4).map(|_| Regular::new(Browser::new().closing(), http));
        let load = Load::start(kept.chain(new));
        load.progress(100).await?;
        let before = memory(pid, "VmRSS")?;

        let siege = Siege {
            http,
            https: (address, HTTPS).into(),
            // Some are always between two connections.
            count: AT_ONCE + AT_ONCE / 8,
            from: stage.net.user(0),
        };
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["hostile::the_besiegers", "--exact", "--nocapture"]).env(SIEGE, siege.to_string());
        let mut besiegers = Process::spawn("besiegers", command, &stage.folder().join("besiegers.log"))?;

        eventually("ten thousand stand at once", secs(60), async || {
            besiegers.must_run()?;
            let open = descriptors(pid)?;
            ensure!(open >= AT_ONCE, "only {open}");
            Ok(())
        })
        .await?;
        eventually("every kind has been shown out, and counted", secs(90), async || {
            besiegers.must_run()?;
            let counters = cli.status().await?.counters;
            let failed = counters.connections.get("tls_failed").copied().unwrap_or_default();
            for (kind, count, least) in [
                ("silent", counters.cut("silent"), 500),
                ("slow heads", counters.cut("slow_head"), 2000),
                ("slow bodies", counters.ended("slow_client"), 300),
                ("half-open TLS", failed, 1000),
                ("malformed", counters.cut("malformed"), 200),
                ("floods", counters.cut("flood"), 100),
                ("ambiguous", counters.ended("bad_request"), 300),
            ] {
                ensure!(count >= least, "{kind}: {count}; {counters:?}");
            }
            Ok(())
        })
        .await?;
        load.progress(100).await?;
        let grown = memory(pid, "VmHWM")?.saturating_sub(before);
        besiegers.kill().await?;
        let (regulars, tally) = load.stop().await?;
        eprintln!("{} served, {} MiB more at the highest", tally.done, grown >> 20);
        tally.must_be_clean()?;
        let reconnects: u64 = regulars.iter().map(|regular| regular.browser.reconnects).sum();
        ensure!(reconnects == 0, "{reconnects} kept connections of well-behaved clients were cut");
        let moved = regulars.iter().filter(|regular| regular.met.len() != 1).count();
        ensure!(moved == 0, "{moved} sessions moved");
        ensure!(grown <= siege.count * BYTES_EACH, "{} MiB more", grown >> 20);

        eventually("nothing of them is left", secs(60), async || {
            let open = descriptors(pid)?;
            ensure!(open < 500, "{open} descriptors");
            Ok(())
        })
        .await?;
        Browser::new().visit(http).await?;
        let log = mesh.node("eu-1").log();
        ensure!(!log.contains("panicked"), "something panicked:\n{log}");
        Ok(())
    });
}
