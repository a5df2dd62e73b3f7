//! A region that fills up passes users on before it is full: none up to the low watermark, a growing share above it, all from
//! the high one on; and it has them back when its load goes.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use tests::backend::http_backends;
use tests::cluster::Cluster;
use tests::dns::resolve;
use tests::prove;
use tests::services::{Entry, HOST, HTTP_CHECK, NAME, Services, ZONE, users_of};
use tests::wait::{eventually, secs};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// What one backend can have in flight: its weight. Shares of it are the watermarks.
const CAPACITY: u32 = 20;
/// Answers that a share is taken from.
const ANSWERS: u32 = 300;

/// Requests that are not answered for as long as they are held.
async fn hold(target: SocketAddr, count: usize) -> Result<Vec<TcpStream>> {
    let mut held = Vec::new();
    for _ in 0..count {
        let mut stream = TcpStream::connect(target).await?;
        stream.write_all(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).await?;
        held.push(stream);
    }
    Ok(held)
}

/// How many of a hundred answers to users of eu, at any node, name nodes of us.
async fn passed_on(mesh: &Cluster<'_>, server: SocketAddr) -> Result<u32> {
    let (eu, us) = (mesh.addresses("eu"), mesh.addresses("us"));
    let mut passed = 0;
    for _ in 0..ANSWERS {
        let answer = resolve(server, NAME, users_of("eu")).await?;
        match answer.only(&us) {
            Ok(()) => passed += 1,
            Err(_) => answer.only(&eu)?,
        }
    }
    Ok(passed * 100 / ANSWERS)
}

/// Waits until every name server passes on so many of a hundred.
async fn passes(mesh: &Cluster<'_>, least: u32, most: u32) -> Result<()> {
    for server in mesh.running() {
        let what = format!("{} passes on from {least} to {most} of a hundred", server.name);
        eventually(&what, secs(20), async || {
            let passed = passed_on(mesh, server.dns()).await?;
            ensure!((least..=most).contains(&passed), "{passed}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

#[test]
fn a_region_passes_users_on_before_it_is_full() {
    prove!(Heavy, secs(150), async |stage| {
        let backends = http_backends(&stage.net, &[("eu", 1), ("us", 1)]).await?;
        backends[0].set_delay(secs(300));
        let mesh = Cluster::of(stage, &[("eu", 1), ("us", 1)]).await?;
        let entries = backends.iter().map(|backend| Entry { weight: CAPACITY, ..backend.into() });
        let services = Services::new()
            .zone(&stage.net, "web")
            .and(format!("[dns.zone.\"{ZONE}\".steer.www.shed]\nlow = 0.2\nhigh = 0.8"))
            .http_listener()
            .service("web", "web-v1 = 1", "timeout = { response = \"300s\" }")
            .pool("web-v1", HTTP_CHECK, entries);
        mesh.apply("eu-1", &services).await?;
        mesh.healthy().await?;
        let eu = mesh.node("eu-1").http();

        passes(&mesh, 0, 0).await?;
        // A fifth of the capacity, the low watermark: nobody yet.
        let mut held = hold(eu, 4).await?;
        passes(&mesh, 0, 0).await?;
        // 0.35: a quarter of the way from one watermark to the other. Five standard deviations on either side.
        held.extend(hold(eu, 3).await?);
        passes(&mesh, 12, 38).await?;
        // 0.65: three quarters.
        held.extend(hold(eu, 6).await?);
        passes(&mesh, 62, 88).await?;
        // 0.8: everybody.
        held.extend(hold(eu, 3).await?);
        passes(&mesh, 100, 100).await?;
        // Users of the other region stay there, and those of this one come back.
        resolve(mesh.node("eu-1").dns(), NAME, users_of("us")).await?.only(&mesh.addresses("us"))?;
        drop(held);
        passes(&mesh, 0, 0).await
    });
}
