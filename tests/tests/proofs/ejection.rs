//! A backend whose checks succeed while its requests fail: it is left out, unless that would leave too few.

use anyhow::{Context, Result, ensure};
use hyper::StatusCode;
use tests::backend::{HttpBackend, http_backends};
use tests::client::Browser;
use tests::cluster::Cluster;
use tests::prove;
use tests::services::{HTTP_CHECK, Services};
use tests::status::Backend;
use tests::wait::{eventually, secs};

fn services(backends: &[HttpBackend], ejection: &str) -> Services {
    let more = format!("balance = \"random\"\nejection = {{ {ejection} }}\n{HTTP_CHECK}");
    Services::new().http_listener().service("web", "web-v1 = 1", "").pool("web-v1", &more, backends)
}

/// Asks until the node's word on one backend is as wanted; how many requests a round asks is up to the caller.
async fn until(
    mesh: &Cluster<'_>,
    what: &str,
    backend: &HttpBackend,
    requests: usize,
    wanted: impl Fn(&Backend) -> bool,
) -> Result<()> {
    let node = mesh.node("eu-1");
    let mut user = Browser::new();
    eventually(what, secs(60), async || {
        for _ in 0..requests {
            user.get(node.http(), "/").await?;
        }
        let status = node.cli().status().await?;
        let seen = status.backend(backend.address())?;
        ensure!(wanted(seen), "it is {}: {:?}", seen.state, seen.reason);
        Ok(())
    })
    .await
}

#[test]
fn one_that_fails_too_great_a_share_is_left_out_until_it_is_well() {
    prove!(Light, secs(150), async |stage| {
        let backends = http_backends(&stage.net, &[("eu", 3)]).await?;
        let mesh = Cluster::of(stage, &[("eu", 1)]).await?;
        // 500 is an answer: in a row it ejects nobody, however often.
        let rule = "interval = \"1s\", min_requests = 10, failures = 0.5, base = \"3s\"";
        mesh.apply("eu-1", &services(&backends, rule)).await?;
        mesh.healthy().await?;
        backends[1].set_status(StatusCode::INTERNAL_SERVER_ERROR);
        until(&mesh, "the failing one is ejected", &backends[1], 90, |seen| seen.state == "ejected").await?;
        let status = mesh.node("eu-1").cli().status().await?;
        let reason = status.backend(backends[1].address())?.reason.clone().context("a reason")?;
        // Another ejection may have ended meanwhile, but then the state says so too.
        let told = reason.contains("too many requests of this node failed");
        ensure!(told || status.backend(backends[1].address())?.state != "ejected", "{reason:?}");

        backends[1].set_status(StatusCode::OK);
        until(&mesh, "it is used again", &backends[1], 0, |seen| seen.state == "up").await?;
        let before = backends[1].requests();
        until(&mesh, "it has requests", &backends[1], 30, |_| backends[1].requests() > before).await
    });
}

#[test]
fn where_all_fail_alike_nobody_is_left_out_for_good() {
    prove!(Light, secs(150), async |stage| {
        let backends = http_backends(&stage.net, &[("eu", 4)]).await?;
        let mesh = Cluster::of(stage, &[("eu", 1)]).await?;
        // An ejection outlasts the proof, so what is used is used in spite of it.
        let rule = "consecutive = 3, base = \"1h\", max_share = 1.0";
        mesh.apply("eu-1", &services(&backends, rule)).await?;
        mesh.healthy().await?;
        for backend in &backends {
            backend.set_status(StatusCode::BAD_GATEWAY);
        }
        let spared =
            |seen: &Backend| seen.reason.as_deref().is_some_and(|why| why.contains("used all the same"));
        for backend in &backends {
            until(&mesh, "it is ejected, and used all the same", backend, 40, |seen| {
                spared(seen) && seen.state == "up"
            })
            .await?;
        }
        // The application recovers: users meet it on every backend at once.
        for backend in &backends {
            backend.set_status(StatusCode::OK);
        }
        let before: Vec<u64> = backends.iter().map(HttpBackend::requests).collect();
        let mut user = Browser::new();
        for _ in 0..200 {
            user.visit(mesh.node("eu-1").http()).await?;
        }
        for (backend, before) in backends.iter().zip(before) {
            ensure!(backend.requests() > before, "{} is left out", backend.id());
        }
        Ok(())
    });
}

#[test]
fn one_that_stands_out_among_its_peers_is_left_out() {
    prove!(Light, secs(150), async |stage| {
        let backends = http_backends(&stage.net, &[("eu", 6)]).await?;
        let mesh = Cluster::of(stage, &[("eu", 1)]).await?;
        let rule = "interval = \"1s\", min_requests = 5, deviations = 1.9, base = \"1h\"";
        mesh.apply("eu-1", &services(&backends, rule)).await?;
        mesh.healthy().await?;
        backends[4].set_status(StatusCode::INTERNAL_SERVER_ERROR);
        until(&mesh, "the odd one is ejected", &backends[4], 180, |seen| seen.state == "ejected").await?;
        // Now all that are left fail alike: nobody stands out, so nobody else is left out.
        for backend in &backends {
            backend.set_status(StatusCode::INTERNAL_SERVER_ERROR);
        }
        let mut user = Browser::new();
        let before = backends[0].requests();
        while backends[0].requests() < before + 300 {
            user.get(mesh.node("eu-1").http(), "/").await?;
        }
        let status = mesh.node("eu-1").cli().status().await?;
        let ejected: Vec<_> =
            status.pools[0].backends.iter().filter(|seen| seen.state == "ejected").collect();
        ensure!(ejected.len() == 1, "{ejected:?}");
        Ok(())
    });
}
