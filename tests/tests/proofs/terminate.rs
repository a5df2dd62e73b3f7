//! SIGTERM: leave the answers, finish what is in flight, go.

use anyhow::{Context, ensure};
use gossip::clock::Clock;
use tests::backend::http_backends;
use tests::client::Browser;
use tests::cluster::Cluster;
use tests::dns::resolve;
use tests::prove;
use tests::services::{NAME, Services, users_of};
use tests::wait::{eventually, millis, secs};

#[test]
fn a_node_told_to_go_leaves_the_answers_and_finishes_its_requests() {
    prove!(Light, secs(90), async |stage| {
        let backends = http_backends(&stage.net, &[("eu", 2)]).await?;
        let mut mesh = Cluster::of(stage, &[("eu", 2)]).await?;
        mesh.apply("eu-1", &Services::shop(&stage.net, &backends)).await?;
        mesh.healthy().await?;
        let (going, staying) = (mesh.node("eu-1").http(), mesh.node("eu-2").address);
        let dns = mesh.node("eu-2").dns();
        let mut user = Browser::new();
        let first = user.visit(going).await?.backend;

        for backend in &backends {
            backend.set_delay(secs(5));
        }
        let mut patient = user.twin();
        let waiting = tokio::spawn(async move { patient.visit(going).await });
        eventually("the slow request is in flight", secs(5), async || {
            let begun: u64 = backends.iter().map(|backend| backend.requests()).sum();
            ensure!(begun >= 2, "{begun} begun");
            Ok(())
        })
        .await?;
        let clock = Clock::system();
        let began = clock.now();
        mesh.node_mut("eu-1").terminate()?;
        for backend in &backends {
            backend.set_delay(millis(0));
        }
        let again = user.visit(going).await.context("a request after SIGTERM")?;
        ensure!(again.backend == first, "the session moved");
        eventually("the node's address leaves the answers", secs(4), async || {
            resolve(dns, NAME, users_of("eu")).await?.only(&[staying])
        })
        .await?;

        let seen = waiting.await?.context("the request that was in flight")?;
        ensure!(seen.backend == first, "the session moved");
        mesh.node_mut("eu-1").gone(secs(10)).await?;
        let took = clock.now().saturating_duration_since(began);
        ensure!(took >= secs(4), "it went after {took:?}, with a request in flight");
        mesh.each_sees("eu-1 has left", secs(5), |status| {
            let left = status.member("eu-1").map_or("left", |member| member.state.as_str());
            ensure!(left == "left", "eu-1 is {left}");
            Ok(())
        })
        .await?;
        ensure!(user.visit(mesh.node("eu-2").http()).await?.backend == first, "the session moved");
        Ok(())
    });
}

#[test]
fn an_idle_node_goes_after_two_seconds_and_a_busy_one_at_its_deadline() {
    prove!(Light, secs(90), async |stage| {
        let backends = http_backends(&stage.net, &[("eu", 1)]).await?;
        let mut mesh = Cluster::of(stage, &[("eu", 1)]).await?;
        mesh.apply("eu-1", &Services::shop(&stage.net, &backends)).await?;
        let clock = Clock::system();
        let began = clock.now();
        mesh.node_mut("eu-1").stop(secs(15)).await?;
        let took = clock.now().saturating_duration_since(began);
        ensure!(took >= millis(1900), "it went after {took:?}");

        let node = mesh.node_mut("eu-1");
        let command = node.command()?;
        let file = std::fs::read_to_string(node.file())?;
        std::fs::write(node.file(), file.replace("[node]\n", "[node]\ndrain = \"3s\"\n"))?;
        node.launch_as(command)?;
        node.ready().await?;
        mesh.accept(tests::net::HTTP).await?;
        backends[0].set_delay(secs(30));
        let target = mesh.node("eu-1").http();
        let before = backends[0].requests();
        let endless = tokio::spawn(async move { Browser::new().visit(target).await });
        eventually("the endless request is in flight", secs(5), async || {
            ensure!(backends[0].requests() > before, "not yet");
            Ok(())
        })
        .await?;
        mesh.node_mut("eu-1").stop(secs(10)).await?;
        endless.abort();
        Ok(())
    });
}
