//! A region that lost its backends still answers: its nodes carry the requests to another region, once.

use std::time::Duration;

use anyhow::{Result, ensure};
use hyper::StatusCode;
use tests::backend::{HttpBackend, http_backends};
use tests::client::Browser;
use tests::cluster::Cluster;
use tests::prove;
use tests::services::Services;
use tests::wait::{eventually, secs};

fn served(backends: &[HttpBackend]) -> u64 {
    backends.iter().map(HttpBackend::requests).sum()
}

async fn fail(backends: &mut [HttpBackend], region: &str) {
    for backend in backends.iter_mut().filter(|backend| backend.region() == region) {
        backend.refuse().await;
    }
}

#[test]
fn requests_to_a_region_without_backends_succeed_through_another() {
    prove!(Heavy, secs(150), async |stage| {
        let mut backends = http_backends(&stage.net, &[("eu", 2), ("us", 2), ("ap", 2)]).await?;
        let mesh = Cluster::of(stage, &[("eu", 2), ("us", 2), ("ap", 2)]).await?;
        mesh.apply("eu-1", &Services::shop(&stage.net, &backends)).await?;
        mesh.healthy().await?;
        let eu = [mesh.node("eu-1").http(), mesh.node("eu-2").http()];

        // From the first moment on, while the mesh still believes that all are well.
        fail(&mut backends, "eu").await;
        let before = served(&backends);
        for index in 0..60 {
            let address = stage.net.user(index);
            let mut user = Browser::new().from(address);
            let seen = user.visit(eu[index % 2]).await?;
            ensure!(!seen.backend.starts_with("eu/"), "{} is dead", seen.backend);
            let clients = seen.header("x-forwarded-for");
            ensure!(clients == [address.to_string()], "X-Forwarded-For is {clients:?}, the user {address}");
            // The session made through the tunnel stays where it is, seen from every region.
            for node in mesh.running().step_by(2) {
                let again = user.visit(node.http()).await?.backend;
                ensure!(
                    again == seen.backend,
                    "moved from {} to {again} through {}",
                    seen.backend,
                    node.name
                );
            }
        }
        let requests = 60 * 4;
        ensure!(served(&backends) - before == requests, "each request reached one backend, once");

        // What must not be sent twice is not, and its body arrives whole.
        let before = served(&backends);
        let body = "one pair of shoes ".repeat(2000);
        for target in eu {
            let seen = Browser::new().post(target, "/pay?twice=never", &body).await?.seen()?;
            ensure!(
                seen.method == "POST" && seen.body == body && seen.target == "/pay?twice=never",
                "{seen:?}"
            );
        }
        ensure!(served(&backends) - before == 2, "each payment reached one backend, once");
        Ok(())
    });
}

#[test]
fn a_request_never_crosses_twice_and_nothing_loops() {
    prove!(Heavy, secs(150), async |stage| {
        let mut backends = http_backends(&stage.net, &[("eu", 1), ("us", 1), ("ap", 1)]).await?;
        let mesh = Cluster::of(stage, &[("eu", 2), ("us", 1), ("ap", 1)]).await?;
        mesh.apply("eu-1", &Services::shop(&stage.net, &backends)).await?;
        mesh.healthy().await?;
        let eu = mesh.node("eu-1").http();

        // Two regions die: eu goes to ap itself; us, asked in error, must not pass it on.
        fail(&mut backends, "eu").await;
        fail(&mut backends, "us").await;
        eventually("eu is served by ap", secs(20), async || {
            let seen = Browser::new().visit(eu).await?;
            ensure!(seen.backend == "ap/1", "{}", seen.backend);
            Ok(())
        })
        .await?;
        let address = stage.net.user(7);
        let seen = Browser::new().from(address).visit(eu).await?;
        let clients = seen.header("x-forwarded-for");
        ensure!(clients == [address.to_string()], "crossed more than once? {clients:?}");

        // All die: an honest error, soon, that tells nothing of the inside (I15).
        fail(&mut backends, "ap").await;
        for node in mesh.running() {
            refused(stage.net.prefix(), node.http()).await?;
        }

        // And one that returns anywhere serves everybody again.
        backends[1].reopen().await?;
        for node in mesh.running() {
            eventually(&format!("{} is served by us", node.name), secs(20), async || {
                Browser::new().visit(node.http()).await.map(drop)
            })
            .await?;
        }
        Ok(())
    });
}

async fn refused(inside: String, target: std::net::SocketAddr) -> Result<()> {
    let mut user = Browser::new();
    let reply = tokio::time::timeout(Duration::from_secs(8), user.get(target, "/")).await??;
    let honest = [StatusCode::SERVICE_UNAVAILABLE, StatusCode::BAD_GATEWAY, StatusCode::GATEWAY_TIMEOUT];
    ensure!(honest.contains(&reply.status), "{}", reply.everything());
    let told = reply.everything();
    for secret in [inside.as_str(), "web-v1", "eu-1", "eu-2", "us-1", "ap-1"] {
        ensure!(!told.contains(secret), "{secret:?} is told to a user:\n{told}");
    }
    Ok(())
}
