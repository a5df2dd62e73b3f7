//! A configuration is accepted by any node, reaches all of them, and changes nothing when it is wrong.

use anyhow::{Context, ensure};
use tests::backend::http_backends;
use tests::cli::{code, text};
use tests::client::Browser;
use tests::cluster::Cluster;
use tests::prove;
use tests::services::Services;
use tests::wait::secs;

/// Wrong in lines 2, 3, 5 and 6.
const WRONG: &str = r#"[listener.http]
port = 99999
protocol = "htp"
[service.web]
split = { web-v3 = 1 }
hots = ["www.example.com"]
[pool.web-v1]
backend = [{ address = "127.0.0.1:8081", region = "eu" }]
[region.eu]
"#;

#[test]
fn a_revision_applied_to_one_node_is_served_by_all_six_and_an_invalid_one_by_none() {
    prove!(Heavy, secs(120), async |stage| {
        let backends = http_backends(&stage.net, &[("eu", 1), ("us", 1), ("ap", 1)]).await?;
        let mesh = Cluster::of(stage, &[("eu", 2), ("us", 2), ("ap", 2)]).await?;
        mesh.apply("us-2", &Services::shop(&stage.net, &backends)).await?;

        let before = mesh.statuses().await;
        ensure!(before.len() == 6, "all six answer");
        for status in &before {
            let revision = status.revision.as_ref().context("a revision")?;
            ensure!(revision.epoch == 1 && revision.nodes == 6, "{}: {revision:?}", status.node);
        }
        for node in mesh.running() {
            Browser::new().visit(node.http()).await?;
        }

        let wrong = stage.write("wrong.toml", WRONG)?;
        for at in ["eu-1", "ap-2"] {
            let ran = mesh.node(at).cli().expect(code::INVALID, &["apply", text(&wrong)?]).await?;
            for (line, what) in [(2, "port"), (3, "htp"), (5, "web-v3"), (6, "hots")] {
                ran.must_say(&format!("wrong.toml:{line}:"))?;
                ran.must_say(what)?;
            }
            ran.must_say("did you mean")?;
            ran.must_say("hosts")?;
            ensure!(ran.said().contains(['^', '┬', '─']), "no caret in:\n{}", ran.said());
        }
        for (status, was) in mesh.statuses().await.iter().zip(&before) {
            ensure!(status.revision == was.revision, "{} changed to {:?}", status.node, status.revision);
        }
        for node in mesh.running() {
            Browser::new().visit(node.http()).await?;
        }

        // The next right one has the next epoch, wherever it is handed in.
        mesh.apply("ap-1", &Services::shop(&stage.net, &backends[..2])).await?;
        let status = mesh.node("eu-2").cli().status().await?;
        ensure!(status.revision.context("a revision")?.epoch == 2, "the second revision");
        ensure!(status.pools[0].backends.len() == 2, "{:?}", status.pools);
        Ok(())
    });
}
