//! A mesh is upgraded node by node: those that speak version N of its protocol and the one before live with those that speak the
//! one before alone; two versions apart, nodes refuse each other, and both say why.

use anyhow::ensure;
use tests::backend::http_backends;
use tests::client::Browser;
use tests::cluster::Cluster;
use tests::prove;
use tests::services::Services;
use tests::wait::{eventually, secs};

/// What is built today speaks one version. So nodes claim others here, and speak as they all do once they agree on one.
const NEXT: Option<&str> = Some("2 1");
const PRESENT: Option<&str> = Some("1");
const BEFORE: Option<&str> = Some("0");

#[test]
fn nodes_of_two_neighbouring_versions_form_a_mesh_and_those_two_apart_say_that_they_cannot() {
    prove!(Heavy, secs(150), async |stage| {
        let mut backends = http_backends(&stage.net, &[("eu", 1), ("us", 1)]).await?;
        let mut mesh = Cluster::empty(stage).await?;
        for (region, versions) in [("eu", NEXT), ("eu", PRESENT), ("us", PRESENT)] {
            mesh.place(region).versions = versions;
        }
        for node in &mut mesh.nodes {
            node.start().await?;
        }
        mesh.agree().await?;

        // What one applies the others run, whichever of them is the older: revisions, verdicts and sessions cross.
        mesh.apply("eu-1", &Services::shop(&stage.net, &backends)).await?;
        mesh.healthy().await?;
        mesh.apply(
            "us-1",
            &Services::shop(&stage.net, &backends).and("[region.sa]\nlatitude = -23.5\nlongitude = -46.6"),
        )
        .await?;
        mesh.healthy().await?;
        let mut users: Vec<Browser> = (0..12).map(|_| Browser::new()).collect();
        for user in &mut users {
            let met = user.visit(mesh.node("eu-1").http()).await?.backend;
            for node in mesh.running() {
                let again = user.visit(node.http()).await?.backend;
                ensure!(met == again, "moved from {met} to {again} through {}", node.name);
            }
        }

        // Users' requests cross as well: from the newer to the older, and back.
        for (fails, (near, serves)) in [(0, ("eu-1", "us/1")), (1, ("us-1", "eu/1"))] {
            backends[fails].refuse().await;
            let near = mesh.node(near).http();
            eventually("the other region serves", secs(20), async || {
                let seen = Browser::new().visit(near).await?;
                ensure!(seen.backend == serves, "{} serves", seen.backend);
                Ok(())
            })
            .await?;
            backends[fails].reopen().await?;
            mesh.healthy().await?;
        }

        // The upgrade goes on, node by node; nobody is taken for dead.
        for name in ["eu-2", "us-1"] {
            mesh.node_mut(name).stop(secs(30)).await?;
            mesh.node_mut(name).versions = NEXT;
            mesh.node_mut(name).start().await?;
            mesh.agree().await?;
        }
        mesh.node_mut("eu-1").stop(secs(30)).await?;
        mesh.node_mut("eu-1").versions = Some("2");
        mesh.node_mut("eu-1").start().await?;
        mesh.agree().await?;
        for user in &mut users {
            let met = user.visit(mesh.node("eu-1").http()).await?.backend;
            let again = user.visit(mesh.node("us-1").http()).await?.backend;
            ensure!(met == again, "moved from {met} to {again}");
        }

        // One that missed two upgrades: it runs, alone, and both ends tell their operators what to do.
        let late = mesh.place("ap");
        late.versions = BEFORE;
        late.start().await?;
        let seed = late.seeds[0];
        for (name, words) in [("ap-1", ["no connection", &seed.to_string()]), ("us-1", ["no connection", ""])]
        {
            let cli = mesh.node(name).cli();
            eventually(&format!("{name} tells of the other version"), secs(20), async || {
                let problems = cli.status().await?.problems;
                let told = problems.iter().any(|problem| {
                    words.iter().all(|word| problem.contains(word))
                        && problem.contains("another version of the mesh protocol")
                        && problem.contains("upgrade the older")
                });
                ensure!(told, "{problems:?}");
                Ok(())
            })
            .await?;
        }
        mesh.node("ap-1").says(&["no connection with a node", "another version"], secs(5)).await?;
        mesh.node("us-1").says(&["no connection with a node", "another version"], secs(5)).await?;
        for (name, wanted) in [("eu-1", 3), ("us-1", 3), ("ap-1", 1)] {
            let members = mesh.node(name).cli().status().await?.members;
            ensure!(members.len() == wanted, "{name} knows {members:?}");
        }
        Ok(())
    });
}
