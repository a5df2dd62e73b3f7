//! What a session does while its backend is gone is the service's choice: it waits elsewhere and returns, or it is refused.

use anyhow::{Context, Result, ensure};
use tests::backend::{HttpBackend, http_backends};
use tests::cli::code;
use tests::client::Browser;
use tests::cluster::Cluster;
use tests::load::all_visit;
use tests::prove;
use tests::services::{COOKIE, HTTP_CHECK, Services};
use tests::stage::Stage;
use tests::wait::{eventually, secs};

fn services(stage: &Stage, backends: &[HttpBackend], on_down: &str) -> Services {
    let sticky = format!(
        "sticky.cookie = {{ name = \"{COOKIE}\", ttl = \"8h\", max_age = \"24h\", on_down = \"{on_down}\" }}"
    );
    Services::new()
        .zone(&stage.net, "web")
        .http_listener()
        .service("web", "web-v1 = 1", &sticky)
        .pool("web-v1", HTTP_CHECK, backends)
}

/// A mesh, its backends, and a user whose backend is the first.
async fn begin<'a>(stage: &'a Stage, on_down: &str) -> Result<(Cluster<'a>, Vec<HttpBackend>, Vec<Browser>)> {
    let backends = http_backends(&stage.net, &[("eu", 3), ("us", 1)]).await?;
    let mesh = Cluster::of(stage, &[("eu", 2), ("us", 1)]).await?;
    mesh.apply("eu-1", &services(stage, &backends, on_down)).await?;
    mesh.healthy().await?;
    let mut users: Vec<Browser> = (0..60).map(|_| Browser::new().closing()).collect();
    let first = all_visit(&mut users, mesh.node("eu-1").http(), 8).await?;
    let there = users.into_iter().zip(first).filter(|(_, seen)| seen.backend == backends[0].id());
    let users: Vec<Browser> = there.map(|(user, _)| user).collect();
    ensure!(users.len() > 5, "only {} users are on {}", users.len(), backends[0].id());
    Ok((mesh, backends, users))
}

#[test]
fn a_session_lent_to_another_backend_returns_to_its_own() {
    prove!(Heavy, secs(150), async |stage| {
        let (mut mesh, mut backends, mut users) = begin(stage, "temporary").await?;
        let own = backends[0].id().to_owned();
        let targets = ["eu-1", "eu-2", "us-1"].map(|name| mesh.node(name).http());
        backends[0].refuse().await;
        for user in &mut users {
            let mut met = Vec::new();
            for target in targets {
                let reply = user.get(target, "/").await?;
                ensure!(reply.set_cookie(COOKIE).is_none(), "the session was moved");
                met.push(reply.seen()?.backend);
            }
            ensure!(met.iter().all(|backend| *backend != own), "served by a backend that is gone");
            // Two nodes lend it to the same one, without asking each other.
            ensure!(met.iter().all(|backend| *backend == met[0]), "lent to several: {met:?}");
        }
        // What is lent is told as that.
        let (target, count) = (backends[0].address().to_string(), users.len() as u64);
        eventually("the pools tell of the loan", secs(20), async || {
            let told = mesh.node("us-1").cli().expect(code::OK, &["pools", "-o", "json"]).await?;
            let told: serde_json::Value = serde_json::from_str(&told.stdout)?;
            for backend in told[0]["backends"].as_array().context("backends")? {
                let of = |key: &str| backend[key].as_u64().unwrap_or_default();
                let all_lent = of("sessions") >= count && of("sessions_lent") == of("sessions");
                let is_told = if backend["address"] == *target { all_lent } else { of("sessions_lent") == 0 };
                ensure!(is_told, "{told:#}");
            }
            Ok(())
        })
        .await?;
        // Not even the end of the node that it began on makes the loan a move.
        mesh.node_mut("eu-1").kill().await?;
        backends[0].reopen().await?;
        mesh.each_sees("the backend is back", secs(30), |status| status.all_backends_are("up")).await?;
        for user in &mut users {
            for target in &targets[1..] {
                let backend = user.visit(*target).await?.backend;
                ensure!(backend == own, "the session stays on {backend}");
            }
        }
        Ok(())
    });
}

#[test]
fn a_session_that_may_not_move_is_refused_until_its_backend_is_back() {
    prove!(Heavy, secs(150), async |stage| {
        let (mesh, mut backends, mut users) = begin(stage, "refuse").await?;
        let own = backends[0].id().to_owned();
        let targets = ["eu-1", "eu-2", "us-1"].map(|name| mesh.node(name).http());
        backends[0].refuse().await;
        let user = &mut users[0];
        for target in targets {
            let reply = user.get(target, "/").await?;
            ensure!(reply.status == 503, "{} from {target}", reply.status);
            ensure!(reply.set_cookie(COOKIE).is_none(), "a refusal sets a cookie");
            let body = String::from_utf8_lossy(&reply.body).into_owned();
            let kind = reply.headers.get("content-type").context("a type")?.to_str()?;
            ensure!(kind == "application/problem+json", "{kind}: {body}");
            ensure!(!body.contains(&backends[0].address().ip().to_string()), "the inside is shown: {body}");
        }
        // Who has no session yet is served as ever.
        let fresh = Browser::new().visit(targets[0]).await?.backend;
        ensure!(fresh != own, "a new session on a backend that is gone");
        let refused = mesh.node("eu-1").cli().status().await?.counters.ended("session_refused");
        ensure!(refused == 1, "{refused} refusals are counted");

        backends[0].reopen().await?;
        mesh.each_sees("the backend is back", secs(30), |status| status.all_backends_are("up")).await?;
        for user in &mut users {
            for target in targets {
                let backend = user.visit(target).await?.backend;
                ensure!(backend == own, "the session came back to {backend}");
            }
        }
        Ok(())
    });
}
