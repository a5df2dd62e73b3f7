//! What is more than a service or its backends may bear is refused, and told when to come back.

use std::fmt::Write;

use anyhow::{Context, Result, ensure};
use futures_util::future::join_all;
use hyper::StatusCode;
use tests::backend::http_backends;
use tests::client::{Browser, Reply};
use tests::cluster::Cluster;
use tests::prove;
use tests::services::{HTTP_CHECK, Services};
use tests::wait::{eventually, secs};

fn retry_after(reply: &Reply) -> Result<u64> {
    let value = reply.headers.get("retry-after").context("no Retry-After")?;
    Ok(value.to_str()?.parse()?)
}

#[test]
fn clients_and_services_have_their_rates() {
    prove!(Light, secs(90), async |stage| {
        let backends = http_backends(&stage.net, &[("eu", 1)]).await?;
        let mesh = Cluster::of(stage, &[("eu", 1)]).await?;
        let services = Services::new()
            .http_listener()
            .service(
                "each",
                "web-v1 = 1",
                "hosts = [\"each.example.com\"]\nrate_limit = { per_client = 0.01, burst = 5 }",
            )
            .service(
                "all",
                "web-v1 = 1",
                "hosts = [\"all.example.com\"]\nrate_limit = { service = 0.01, service_burst = 20 }",
            )
            .pool("web-v1", HTTP_CHECK, &backends);
        mesh.apply("eu-1", &services).await?;
        mesh.healthy().await?;
        let node = mesh.node("eu-1");

        let mut user = Browser::new().from(stage.net.user(1)).host("each.example.com").closing();
        for _ in 0..5 {
            user.visit(node.http()).await?;
        }
        let refused = user.get(node.http(), "/").await?;
        ensure!(refused.status == StatusCode::TOO_MANY_REQUESTS, "{}", refused.everything());
        ensure!((1..=100).contains(&retry_after(&refused)?), "{}", refused.everything());
        let other = Browser::new().from(stage.net.user(2)).host("each.example.com").visit(node.http()).await;
        other.context("another client has its own limit")?;

        let all = (0..40).map(|at| {
            let mut user = Browser::new().from(stage.net.user(10 + at)).host("all.example.com");
            async move { user.get(node.http(), "/").await }
        });
        let replies = join_all(all).await.into_iter().collect::<Result<Vec<_>, _>>()?;
        let of = |status| replies.iter().filter(|reply| reply.status == status).count();
        let (served, refused) = (of(StatusCode::OK), of(StatusCode::TOO_MANY_REQUESTS));
        ensure!((served, refused) == (20, 20), "{served} served, {refused} refused");
        ensure!(node.cli().status().await?.counters.ended("rate_limited") == 21, "counted otherwise");
        Ok(())
    });
}

#[test]
fn a_full_backend_lets_wait_and_then_says_when_to_come_back() {
    prove!(Light, secs(90), async |stage| {
        let backends = http_backends(&stage.net, &[("eu", 1)]).await?;
        let mesh = Cluster::of(stage, &[("eu", 1)]).await?;
        let more = format!("max_connections = 1\n{HTTP_CHECK}");
        let services =
            Services::new().http_listener().service("web", "web-v1 = 1", "").pool("web-v1", &more, &backends);
        mesh.apply("eu-1", &services).await?;
        mesh.healthy().await?;
        let node = mesh.node("eu-1").http();

        backends[0].set_delay(secs(6));
        let long = tokio::spawn(async move { Browser::new().visit(node).await });
        eventually("the one place is taken", secs(10), async || {
            ensure!(backends[0].requests() == 1, "not yet");
            Ok(())
        })
        .await?;
        let refused = Browser::new().get(node, "/").await?;
        ensure!(refused.status == StatusCode::SERVICE_UNAVAILABLE, "{}", refused.everything());
        ensure!(retry_after(&refused)? >= 1, "{}", refused.everything());
        long.await?.context("the one that had the place")?;

        backends[0].set_delay(secs(0));
        let users = (0..30).map(|_| async { Browser::new().visit(node).await });
        for served in join_all(users).await {
            served.context("a short wait is served")?;
        }
        let counters = mesh.node("eu-1").cli().status().await?.counters;
        ensure!(counters.ended("queue_full") == 1, "{:?}", counters.ends);
        Ok(())
    });
}

/// A hundred thousand networks that do not touch each other, and none of the loopback.
fn networks() -> String {
    let mut list = String::new();
    for at in 0..100_000u32 {
        let [_, a, b, c] = at.to_be_bytes();
        let _ = write!(list, "\"{}.{b}.{c}.0/25\",", 20 + a);
    }
    list
}

#[test]
fn lists_of_a_hundred_thousand_networks_are_kept_to() {
    prove!(Light, secs(180), async |stage| {
        let backends = http_backends(&stage.net, &[("eu", 1)]).await?;
        let mesh = Cluster::of(stage, &[("eu", 2)]).await?;
        let (listed, other) = (stage.net.user(7), stage.net.user(8));
        let networks = networks();
        for (list, of_listed, of_other) in [
            ("deny", StatusCode::FORBIDDEN, StatusCode::OK),
            ("allow", StatusCode::OK, StatusCode::FORBIDDEN),
        ] {
            let more = format!("{list} = [{networks}\"{listed}/32\"]");
            let services = Services::new()
                .http_listener()
                .service("web", "web-v1 = 1", &more)
                .pool("web-v1", HTTP_CHECK, &backends);
            mesh.apply("eu-1", &services).await?;
            mesh.healthy().await?;
            // The second node has the list from the mesh.
            for node in ["eu-1", "eu-2"].map(|name| mesh.node(name).http()) {
                for (user, expected) in [(listed, of_listed), (other, of_other)] {
                    eventually(&format!("{list}: {user} gets {expected}"), secs(20), async || {
                        let reply = Browser::new().from(user).get(node, "/").await?;
                        ensure!(reply.status == expected, "{}", reply.everything());
                        Ok(())
                    })
                    .await?;
                }
            }
        }
        Ok(())
    });
}

#[test]
fn a_client_with_too_many_connections_stands_in_nobodys_way() {
    prove!(Light, secs(90), async |stage| {
        let backends = http_backends(&stage.net, &[("eu", 1)]).await?;
        let mesh = Cluster::of(stage, &[("eu", 1)]).await?;
        let services = Services::new()
            .and(
                "[listener.http]\nport = 8080\nprotocol = \"http\"\n\
                 max_connections = 100\nmax_connections_per_client = 20",
            )
            .service("web", "web-v1 = 1", "")
            .pool("web-v1", HTTP_CHECK, &backends);
        mesh.apply("eu-1", &services).await?;
        mesh.healthy().await?;
        let node = mesh.node("eu-1");
        let mut held = Vec::new();
        for _ in 0..150 {
            held.push(tests::client::connect(Some(stage.net.user(1)), node.http()).await?);
        }
        eventually("all but twenty are shown out", secs(20), async || {
            let connections = node.cli().status().await?.counters.connections;
            ensure!(connections.get("refused") == Some(&130), "{connections:?}");
            Ok(())
        })
        .await?;
        for at in 2..12 {
            Browser::new().from(stage.net.user(at)).visit(node.http()).await.context("another client")?;
        }
        drop(held);
        eventually("it is served again", secs(20), async || {
            Browser::new().from(stage.net.user(1)).visit(node.http()).await.map(drop)
        })
        .await
    });
}
