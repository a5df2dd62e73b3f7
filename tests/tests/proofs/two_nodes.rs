//! In a mesh of two, either half is enough.

use anyhow::{Context, ensure};
use tests::backend::http_backends;
use tests::client::Browser;
use tests::cluster::Cluster;
use tests::dns::resolve;
use tests::load::all_visit;
use tests::prove;
use tests::services::{COOKIE, NAME, Services, users_of};
use tests::wait::{eventually, secs};

#[test]
fn when_one_of_two_is_killed_its_address_leaves_and_sessions_go_on() {
    prove!(Light, secs(90), async |stage| {
        let backends = http_backends(&stage.net, &[("eu", 2)]).await?;
        let mut mesh = Cluster::of(stage, &[("eu", 2)]).await?;
        mesh.apply("eu-1", &Services::shop(&stage.net, &backends)).await?;
        mesh.healthy().await?;
        let (a, b) = (mesh.node("eu-1").address, mesh.node("eu-2").address);
        let (http, dns) = (mesh.node("eu-2").http(), mesh.node("eu-2").dns());
        resolve(dns, NAME, users_of("eu")).await?.only(&[a, b])?;
        let mut users: Vec<Browser> = (0..100).map(|_| Browser::new().closing()).collect();
        let first = all_visit(&mut users, mesh.node("eu-1").http(), 8).await?;

        mesh.node_mut("eu-1").kill().await?;
        // Three seconds are promised; the rest is for two busy cores.
        eventually("the dead node's address leaves the answers", secs(6), async || {
            let answer = resolve(dns, NAME, users_of("eu")).await?;
            answer.only(&[b])
        })
        .await?;
        let again = all_visit(&mut users, http, 8).await?;
        let moved = first.iter().zip(&again).filter(|(was, is)| was.backend != is.backend).count();
        ensure!(moved == 0, "{moved} of {} sessions moved", first.len());

        let mut new = Browser::new();
        let reply = new.get(http, "/").await?;
        reply.set_cookie(COOKIE).context("a new session")?;
        let (was, is) = (reply.seen()?.backend, new.visit(http).await?.backend);
        ensure!(was == is, "the new session moved from {was} to {is}");

        // It comes back under its own name, and is told of again.
        mesh.node_mut("eu-1").start().await?;
        mesh.agree().await?;
        eventually("the address is back in the answers", secs(10), async || {
            let answer = resolve(dns, NAME, users_of("eu")).await?;
            ensure!(answer.names(a), "{:?}", answer.addresses);
            Ok(())
        })
        .await?;
        let back = all_visit(&mut users, mesh.node("eu-1").http(), 8).await?;
        let moved = first.iter().zip(&back).filter(|(was, is)| was.backend != is.backend).count();
        ensure!(moved == 0, "{moved} of {} sessions moved on return", first.len());
        Ok(())
    });
}
