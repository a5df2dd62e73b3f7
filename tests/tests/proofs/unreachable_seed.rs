//! A seed that does not answer: the node says so, serves meanwhile, and joins when it comes.

use std::net::SocketAddr;

use anyhow::ensure;
use tests::backend::http_backends;
use tests::client::Browser;
use tests::cluster::Cluster;
use tests::dns::resolve;
use tests::net::MESH;
use tests::prove;
use tests::services::{NAME, Services, users_of};
use tests::wait::secs;

#[test]
fn a_node_whose_seed_is_away_serves_meanwhile_and_joins_later() {
    prove!(Light, secs(90), async |stage| {
        let backends = http_backends(&stage.net, &[("eu", 1)]).await?;
        let mut mesh = Cluster::empty(stage).await?;
        let later = SocketAddr::from((stage.net.node(1), MESH));
        let never = SocketAddr::from((stage.net.nobody(), MESH));
        let early = mesh.place("eu");
        early.seeds = vec![later, never];
        early.start().await?;
        early.says(&["seed", &never.to_string()], secs(20)).await?;
        mesh.apply("eu-1", &Services::shop(&stage.net, &backends)).await?;
        let node = mesh.node("eu-1");
        Browser::new().visit(node.http()).await?;
        resolve(node.dns(), NAME, users_of("eu")).await?.only(&[node.address])?;

        // The other knows nobody; that this one keeps trying is all that brings them together.
        let other = mesh.place("eu");
        other.seeds = Vec::new();
        ensure!(other.mesh() == later, "the second node comes up where the first one looks for it");
        other.start().await?;
        mesh.agree().await?;
        mesh.revised("eu-1").await
    });
}
