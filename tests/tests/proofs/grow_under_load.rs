//! Nodes join and leave one by one while users shop; no user notices.

use anyhow::ensure;
use tests::backend::http_backends;
use tests::client::Browser;
use tests::cluster::Cluster;
use tests::dns::resolve;
use tests::load::{Load, Visitor};
use tests::net::HTTP;
use tests::prove;
use tests::services::{NAME, Services, users_of};
use tests::wait::{eventually, secs};

#[test]
fn not_one_request_fails_while_nodes_three_to_six_join_and_leave() {
    prove!(Heavy, secs(180), async |stage| {
        let backends = http_backends(&stage.net, &[("eu", 4)]).await?;
        let mut mesh = Cluster::of(stage, &[("eu", 2)]).await?;
        mesh.apply("eu-1", &Services::shop(&stage.net, &backends)).await?;
        mesh.healthy().await?;

        let servers = vec![mesh.node("eu-1").dns(), mesh.node("eu-2").dns()];
        let visitors = (0..12).map(|index| {
            let browser = Browser::new().from(stage.net.user(index));
            Visitor::new(browser, servers.clone(), NAME, users_of("eu"), HTTP)
        });
        let load = Load::start(visitors);
        load.progress(500).await?;

        for _ in 3..=6 {
            let address = mesh.add("eu").await?.address;
            mesh.agree().await?;
            for server in &servers {
                eventually(&format!("{server} names {address}"), secs(20), async || {
                    ensure!(resolve(*server, NAME, users_of("eu")).await?.names(address), "not yet");
                    Ok(())
                })
                .await?;
            }
            load.progress(300).await?;
        }
        for number in (3..=6).rev() {
            mesh.node_mut(&format!("eu-{number}")).stop(secs(30)).await?;
            mesh.agree().await?;
            load.progress(300).await?;
        }

        let (visitors, tally) = load.stop().await?;
        let reconnects: u64 = visitors.iter().map(|visitor| visitor.browser.reconnects).sum();
        let detours: u64 = visitors.iter().map(|visitor| visitor.detours).sum();
        eprintln!(
            "{} requests, {:.0} a second, {} failed, {reconnects} closed connections found, {detours} detours",
            tally.done,
            tally.per_second(),
            tally.failed
        );
        tally.must_be_clean()
    });
}
