//! A TCP service behind the mesh sees the user's address, and each direction ends for itself.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use tests::backend::{TcpBackend, tcp_backends};
use tests::client::TcpTalk;
use tests::cluster::Cluster;
use tests::prove;
use tests::services::{STICKY_SOURCE, Services, TCP_CHECK};
use tests::wait::{eventually, secs};

fn services(backends: &[TcpBackend]) -> Services {
    let services = Services::new().tcp_listener("chat").service("chat", "chat = 1", STICKY_SOURCE);
    services.pool("chat", &format!("send_proxy = \"v1\"\n{TCP_CHECK}"), backends)
}

/// The PROXY line that a connection must have announced itself with (the PROXY protocol, section 2.1).
fn announced(talk: &TcpTalk, target: SocketAddr) -> String {
    let client = talk.local();
    format!("PROXY TCP4 {} {} {} {}", client.ip(), target.ip(), client.port(), target.port())
}

/// All that was sent comes back, and the farewell, after this side's direction has ended.
async fn half_closes(talk: TcpTalk) -> Result<()> {
    let data = vec![b'x'; 300_000];
    let rest = talk.finish(&data).await?;
    let bye = format!("bye {}\n", data.len());
    ensure!(rest.len() == data.len() + bye.len(), "{} bytes came back of {}", rest.len(), data.len());
    ensure!(rest.ends_with(bye.as_bytes()), "no farewell after the end of the other direction");
    Ok(())
}

#[test]
fn the_backend_sees_the_users_address_and_half_close_works() {
    prove!(Light, secs(60), async |stage| {
        let backends = tcp_backends(&stage.net, 0, &[("eu", 2)], true).await?;
        let mesh = Cluster::of(stage, &[("eu", 2)]).await?;
        mesh.apply("eu-1", &services(&backends)).await?;
        mesh.healthy().await?;

        for node in mesh.running() {
            let talk = TcpTalk::open(stage.net.user(3), node.tcp()).await?;
            let wanted = announced(&talk, node.tcp());
            ensure!(talk.proxy == wanted, "the backend was told {:?}, not {wanted:?}", talk.proxy);
            half_closes(talk).await?;
        }

        // One user, one backend, whichever node; and a user who only listens is not cut off.
        let mut first = TcpTalk::open(stage.net.user(9), mesh.node("eu-1").tcp()).await?;
        let second = TcpTalk::open(stage.net.user(9), mesh.node("eu-2").tcp()).await?;
        ensure!(first.backend == second.backend, "{} and {}", first.backend, second.backend);
        second.finish(b"").await?;
        first.echo(b"still here").await
    });
}

#[test]
fn a_connection_to_a_region_without_backends_goes_through_another_with_the_users_address() {
    prove!(Heavy, secs(90), async |stage| {
        let mut backends = tcp_backends(&stage.net, 0, &[("eu", 1), ("us", 1)], true).await?;
        let mesh = Cluster::of(stage, &[("eu", 2), ("us", 2)]).await?;
        mesh.apply("us-1", &services(&backends)).await?;
        mesh.healthy().await?;
        let eu = mesh.node("eu-1").tcp();
        let here = TcpTalk::open(stage.net.user(1), eu).await?;
        ensure!(here.backend == "eu/1", "{}", here.backend);

        backends[0].refuse().await;
        let talk = TcpTalk::open(stage.net.user(2), eu).await?;
        ensure!(talk.backend == "us/1", "{}", talk.backend);
        let client = format!("PROXY TCP4 {} ", stage.net.user(2));
        let port = format!(" {} ", talk.local().port());
        ensure!(talk.proxy.starts_with(&client) && talk.proxy.contains(&port), "{:?}", talk.proxy);
        half_closes(talk).await?;

        // Those who were pinned to the dead one move too.
        let moved = eventually("the user of the dead backend is served", secs(10), async || {
            TcpTalk::open(stage.net.user(1), eu).await
        })
        .await?;
        ensure!(moved.backend == "us/1", "{}", moved.backend);
        Ok(())
    });
}
