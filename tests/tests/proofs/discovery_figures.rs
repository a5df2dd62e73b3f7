//! What following a pool costs, measured by hand: `cargo test -p tests --test proofs discovery_figures -- --ignored
//! --nocapture`.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use gossip::clock::Clock;
use tests::backend::HttpBackend;
use tests::client::Browser;
use tests::cluster::Cluster;
use tests::net::HTTP;
use tests::prove;
use tests::services::{HTTP_CHECK, Services};
use tests::stage::Stage;
use tests::wait::{eventually, secs};

fn put_list(stage: &Stage, addresses: impl Iterator<Item = SocketAddr>) -> Result<()> {
    let entries = addresses.map(|address| format!("{{\"address\":\"{address}\",\"region\":\"eu\"}}"));
    let new = stage.write("new.json", &format!("[{}]", entries.collect::<Vec<_>>().join(",")))?;
    Ok(std::fs::rename(new, stage.folder().join("list.json"))?)
}

/// Seconds of one core that a process has used so far.
fn used(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(") ").context("no process")?;
    let ticks = fields.split(' ').skip(11).take(2).map(str::parse::<f64>).sum::<Result<f64, _>>()?;
    Ok(ticks / 100.0)
}

/// 1,000 backends of which 50 a second change, in a mesh of two.
#[test]
#[ignore = "a measurement, run by hand"]
fn a_thousand_backends_that_change() {
    prove!(Heavy, secs(120), async |stage| {
        let at = |n: usize| SocketAddr::from((stage.net.user(n), 80));
        put_list(stage, (0..1_000).map(at))?;
        let mut mesh = Cluster::of(stage, &[("eu", 1), ("us", 1)]).await?;
        let path = stage.folder().join("list.json");
        let pool = format!("[pool.web]\ndrain = \"0s\"\ndiscover.file = {{ path = \"{}\" }}", path.display());
        let services = Services::new().http_listener().service("web", "web = 1", "").and(pool);
        mesh.apply("eu-1", &services).await?;
        mesh.each_sees("all are there", secs(30), |status| {
            ensure!(status.pools[0].backends.len() == 1_000, "{}", status.pools[0].backends.len());
            Ok(())
        })
        .await?;
        let mut pids = Vec::new();
        for node in &mut mesh.nodes {
            pids.push(node.process()?.id());
        }
        let clock = Clock::system();
        for changes in [0, 50] {
            let before: Vec<f64> = pids.iter().map(|pid| used(*pid)).collect::<Result<_>>()?;
            let began = clock.now();
            // Half a second's changes at a time, as a source would say them that is asked twice a second.
            for half in 0..20 {
                let moved = (half + 1) * changes / 2;
                put_list(stage, (moved..moved + 1_000).map(at))?;
                tokio::time::sleep_until((began + Duration::from_millis(500) * (half as u32 + 1)).into())
                    .await;
            }
            let lasted = clock.now().saturating_duration_since(began).as_secs_f64();
            for (pid, before) in pids.iter().zip(&before) {
                let share = (used(*pid)? - before) / lasted * 100.0;
                println!("{changes} changes a second of 1,000 backends: {share:.1} % of a core");
            }
        }
        Ok(())
    });
}

/// From a backend's first success of a check to its first request, through each node of its region.
#[test]
#[ignore = "a measurement, run by hand"]
fn the_first_request_after_the_first_health() {
    prove!(Heavy, secs(120), async |stage| {
        let at = |n: usize| SocketAddr::from((stage.net.backend(n), HTTP + 1));
        let first = HttpBackend::start("first", "eu", at(0)).await?;
        put_list(stage, [first.address()].into_iter())?;
        let mesh = Cluster::of(stage, &[("eu", 3)]).await?;
        let path = stage.folder().join("list.json");
        let pool = format!("[pool.web]\n{HTTP_CHECK}\ndiscover.file = {{ path = \"{}\" }}", path.display());
        let services = Services::new().http_listener().service("web", "web = 1", "").and(pool);
        mesh.apply("eu-1", &services).await?;
        mesh.healthy().await?;
        let clock = Clock::system();
        for round in 1..=5 {
            let new = HttpBackend::start(&format!("new-{round}"), "eu", at(round)).await?;
            let listed = clock.now();
            put_list(stage, [first.address(), new.address()].into_iter())?;
            eventually("it is probed", secs(10), async || {
                ensure!(new.probes() > 0, "not yet");
                Ok(())
            })
            .await?;
            let probed = clock.now();
            let mut waits = Vec::new();
            for node in mesh.running() {
                loop {
                    if Browser::new().visit(node.http()).await?.backend == new.id() {
                        break;
                    }
                }
                waits.push(clock.now().saturating_duration_since(probed).as_millis());
            }
            let found = probed.saturating_duration_since(listed).as_millis();
            println!(
                "first probe {found} ms after the list, first requests through each node {waits:?} ms after that"
            );
            put_list(stage, [first.address()].into_iter())?;
        }
        Ok(())
    });
}
