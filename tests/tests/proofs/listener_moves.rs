//! A listener moves to another port under users who are still connected: nobody meets an error.

use anyhow::{Context, Result, ensure};
use std::net::SocketAddr;
use tests::backend::http_backends;
use tests::client::Browser;
use tests::cluster::Cluster;
use tests::prove;
use tests::services::{HTTP_CHECK, STICKY_COOKIE, Services};
use tests::wait::{eventually, secs};
use tokio::net::TcpStream;

const OLD: u16 = 8080;
const NEW: u16 = 8088;

#[test]
fn kept_connections_get_one_more_answer_and_are_told_to_go() {
    prove!(Light, secs(90), async |stage| {
        let backends = http_backends(&stage.net, &[("eu", 2)]).await?;
        let mesh = Cluster::of(stage, &[("eu", 1)]).await?;
        let on = |port: u16| {
            Services::new()
                .and(format!("[listener.front]\nport = {port}\nprotocol = \"http\""))
                .service("web", "web-v1 = 1", STICKY_COOKIE)
                .pool("web-v1", HTTP_CHECK, &backends)
        };
        mesh.apply("eu-1", &on(OLD)).await?;
        mesh.accept(OLD).await?;
        mesh.healthy().await?;
        let [old, new] = [OLD, NEW].map(|port| SocketAddr::from((mesh.node("eu-1").address, port)));
        let mut users: Vec<Browser> = (0..20).map(|_| Browser::new()).collect();
        let mut met = Vec::new();
        for user in &mut users {
            met.push(user.visit(old).await?.backend);
        }

        mesh.apply("eu-1", &on(NEW)).await?;
        mesh.accept(NEW).await?;
        eventually("the old port is closed", secs(20), async || {
            ensure!(TcpStream::connect(old).await.is_err(), "it still accepts");
            Ok(())
        })
        .await?;
        for (user, met) in users.iter_mut().zip(met) {
            let reply = user.get(old, "/").await.context("over the connection from before")?;
            ensure!(user.reconnects == 0, "it was cut");
            let said = reply.headers.get("connection").and_then(|value| value.to_str().ok());
            ensure!(said == Some("close"), "told {said:?}");
            let there: Result<_> = user.visit(new).await;
            ensure!(reply.seen()?.backend == met && there?.backend == met, "the session moved");
        }
        Ok(())
    });
}
