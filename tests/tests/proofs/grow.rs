//! A node that is told one seed and nothing else becomes part of everything.

use anyhow::ensure;
use tests::backend::http_backends;
use tests::client::Browser;
use tests::cluster::Cluster;
use tests::dns::resolve;
use tests::prove;
use tests::services::{NAME, Services, users_of};
use tests::wait::{eventually, secs};

#[test]
fn a_seventh_node_with_only_a_seed_serves_http_and_dns_and_appears_in_answers() {
    prove!(Heavy, secs(120), async |stage| {
        let backends = http_backends(&stage.net, &[("eu", 2), ("us", 1), ("ap", 1)]).await?;
        let mut mesh = Cluster::of(stage, &[("eu", 2), ("us", 2), ("ap", 2)]).await?;
        mesh.apply("eu-1", &Services::shop(&stage.net, &backends)).await?;
        mesh.healthy().await?;
        let mut user = Browser::new();
        let first = user.visit(mesh.node("eu-1").http()).await?.backend;

        let seed = mesh.node("ap-2").mesh();
        let seventh = mesh.place("eu");
        seventh.seeds = vec![seed];
        seventh.start().await?;
        let (http, dns, address) = (seventh.http(), seventh.dns(), seventh.address);
        mesh.agree().await?;
        mesh.revised("eu-1").await?;

        eventually("the seventh node serves the session of another", secs(20), async || {
            let seen = user.visit(http).await?.backend;
            ensure!(seen == first, "moved from {first} to {seen}");
            Ok(())
        })
        .await?;
        let all = [mesh.addresses("eu"), mesh.addresses("us")].concat();
        eventually("the seventh node answers DNS", secs(20), async || {
            resolve(dns, NAME, users_of("eu")).await?.only(&mesh.addresses("eu"))?;
            resolve(dns, NAME, users_of("us")).await?.only(&all)
        })
        .await?;
        for node in mesh.running() {
            eventually(&format!("{} names the seventh node", node.name), secs(20), async || {
                let answer = resolve(node.dns(), NAME, users_of("eu")).await?;
                ensure!(answer.names(address), "{:?}", answer.addresses);
                Ok(())
            })
            .await?;
        }
        Ok(())
    });
}
