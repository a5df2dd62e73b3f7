//! A control task that ends though it should not is told; a node that would lie without it leaves and is started anew.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use tests::cli::code;
use tests::client::Browser;
use tests::cluster::{Cluster, Node};
use tests::prove;
use tests::wait::{eventually, secs};

/// Starts a node whose task of this name ends when the file is there: a switch of builds for tests.
async fn start_with(node: &mut Node, task: &str, file: &Path) -> Result<()> {
    let mut command = node.command()?;
    command.env("MERIDIAN_TEST_END_TASK", format!("{task} {}", file.display()));
    node.launch_as(command)?;
    node.ready().await.map(drop)
}

#[test]
fn a_node_without_a_vital_task_leaves_and_says_why() {
    prove!(Heavy, secs(120), async |stage| {
        let mut mesh = Cluster::empty(stage).await?;
        for region in ["eu", "eu"] {
            mesh.place(region);
        }
        let end = stage.folder().join("end");
        start_with(mesh.node_mut("eu-1"), "registry", &end).await?;
        mesh.node_mut("eu-2").start().await?;
        mesh.agree().await?;
        std::fs::write(&end, "")?;
        let status = mesh.node_mut("eu-1").process()?.exit(secs(30)).await?;
        ensure!(status.code() == Some(code::FAILURE), "it ended with {status}");
        let log = mesh.node("eu-1").log();
        ensure!(log.contains("this node cannot go on: control task registry ended"), "{log}");
        ensure!(log.contains("left"), "it did not leave in good order:\n{log}");
        mesh.node_mut("eu-1").kill().await?;

        // Its supervisor starts it anew, and any node tells what was.
        mesh.node_mut("eu-1").start().await?;
        mesh.agree().await?;
        for name in ["eu-1", "eu-2"] {
            let cli = mesh.node(name).cli();
            eventually(&format!("{name} tells of it"), secs(20), async || {
                cli.expect(code::OK, &["events"]).await?.must_say("control task registry ended")
            })
            .await?;
        }
        Ok(())
    });
}

#[test]
fn a_node_without_a_useful_task_goes_on_and_says_so() {
    prove!(Light, secs(60), async |stage| {
        let mut mesh = Cluster::empty(stage).await?;
        mesh.place("eu");
        let end = stage.folder().join("end");
        start_with(mesh.node_mut("eu-1"), "scaling", &end).await?;
        std::fs::write(&end, "")?;
        let (cli, admin) = (mesh.node("eu-1").cli(), mesh.node("eu-1").admin());
        eventually("status names it", secs(20), async || {
            let problems = cli.status().await?.problems;
            ensure!(
                problems.iter().any(|problem| problem.contains("control task scaling ended")),
                "{problems:?}"
            );
            Ok(())
        })
        .await?;
        let page = Browser::new().host(&admin.to_string()).get(admin, "/metrics").await?.text();
        let ended = page.lines().find(|line| line.starts_with("meridian_control_tasks_ended"));
        let ended = ended.with_context(|| format!("no such metric in {page}"))?;
        ensure!(ended.rsplit(' ').next().is_some_and(|value| value.parse() == Ok(1.0)), "{ended}");
        mesh.node_mut("eu-1").process()?.must_run()
    });
}
