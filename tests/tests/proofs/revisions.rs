//! The history of the configuration: what changed, the way back, and two that were applied at once.

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use tests::backend::http_backends;
use tests::cli::{Cli, code, text};
use tests::cluster::Cluster;
use tests::prove;
use tests::services::Services;
use tests::status::Status;
use tests::wait::{eventually, secs};

#[derive(Debug, Deserialize)]
struct History {
    revisions: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
struct Entry {
    epoch: u64,
    hash: String,
    state: String,
    author: String,
}

async fn history(cli: &Cli) -> Result<Vec<Entry>> {
    let ran = cli.expect(code::OK, &["history", "-o", "json"]).await?;
    let history: History = serde_json::from_str(&ran.stdout).with_context(|| ran.stdout.clone())?;
    Ok(history.revisions)
}

#[test]
fn what_a_revision_changes_is_shown_and_undone() {
    prove!(Light, secs(90), async |stage| {
        let backends = http_backends(&stage.net, &[("eu", 2)]).await?;
        let mesh = Cluster::of(stage, &[("eu", 2)]).await?;
        let (cli, other) = (mesh.node("eu-1").cli(), mesh.node("eu-2").cli());
        let (both, one) = (Services::shop(&stage.net, &backends), Services::shop(&stage.net, &backends[..1]));
        mesh.apply("eu-1", &both).await?;

        let gone = backends[1].address().to_string();
        let next = stage.write("next.toml", one.text())?;
        let ran = other.expect(code::OK, &["diff", text(&next)?]).await?;
        ensure!(
            ran.stdout.lines().any(|line| line.starts_with('-') && line.contains(&gone)),
            "{}",
            ran.stdout
        );
        let first = history(&cli).await?.remove(0);
        mesh.apply("eu-2", &one).await?;
        ensure!(cli.status().await?.pools[0].backends.len() == 1, "the second revision is served");

        let stale = format!("{}:{}", first.epoch, first.hash);
        other.expect(code::CONFLICT, &["rollback", "1", "--if-match", &stale]).await?;
        other.expect(code::OK, &["rollback", "1"]).await?;
        let third = history(&other).await?;
        let told: Vec<_> = third.iter().map(|entry| (entry.epoch, entry.state.as_str())).collect();
        ensure!(told == [(3, "current"), (2, "past"), (1, "past")], "{told:?}");
        ensure!(third[0].author.contains("rollback to 1"), "{third:?}");
        let ran = other.expect(code::OK, &["diff", "--revision", "3"]).await?;
        ensure!(
            ran.stdout.lines().any(|line| line.starts_with('+') && line.contains(&gone)),
            "{}",
            ran.stdout
        );
        mesh.each_sees("the first pool is back", secs(20), |status| {
            ensure!(status.pools[0].backends.len() == 2, "{:?}", status.pools);
            Ok(())
        })
        .await?;
        other.expect(code::FAILURE, &["rollback", "77"]).await?.must_say("not in the history")?;
        Ok(())
    });
}

#[test]
fn of_two_that_were_applied_on_two_sides_one_holds_everywhere_and_the_other_is_told() {
    prove!(Light, secs(120), async |stage| {
        let backends = http_backends(&stage.net, &[("eu", 3)]).await?;
        let mut mesh = Cluster::of(stage, &[("eu", 1), ("us", 1)]).await?;
        mesh.apply("eu-1", &Services::shop(&stage.net, &backends)).await?;
        // Each side is given another one while the other cannot hear it.
        for (side, other, count) in [("eu-1", "us-1", 1), ("us-1", "eu-1", 2)] {
            // In good order: a death this soon would be held against the revision.
            mesh.node_mut(other).stop(secs(20)).await?;
            if !mesh.node(side).runs() {
                mesh.node_mut(side).start().await?;
            }
            let file = stage
                .write(&format!("{side}.toml"), Services::shop(&stage.net, &backends[..count]).text())?;
            mesh.node(side).cli().expect(code::OK, &["apply", text(&file)?]).await?;
        }
        mesh.node_mut("eu-1").start().await?;
        mesh.agree().await?;
        for name in ["eu-1", "us-1"] {
            let node = mesh.node(name);
            let (current, lost) = eventually(&format!("{name} has both"), secs(30), async || {
                let all = history(&node.cli()).await?;
                let named = |state: &str| {
                    let entry = all.iter().find(|entry| entry.state == state);
                    entry
                        .map(|entry| (entry.epoch, entry.hash.clone()))
                        .with_context(|| format!("{state}: {all:?}"))
                };
                Ok((named("current")?, named("lost")?))
            })
            .await?;
            ensure!(current.0 == 2 && lost.0 == 2 && current.1 > lost.1, "{current:?} and {lost:?}");
            let told = node.cli().status().await?.problems;
            let lost = format!("2:{}", &lost.1[..12]);
            ensure!(
                told.iter().any(|problem| problem.contains(&lost) && problem.contains("rollback")),
                "{told:?}"
            );
        }
        // What lost can be put in force after all, by its name.
        let lost = history(&mesh.node("us-1").cli()).await?;
        let lost = lost.iter().find(|entry| entry.state == "lost").context("the loser")?;
        let name = format!("{}:{}", lost.epoch, &lost.hash[..12]);
        mesh.node("us-1").cli().expect(code::OK, &["rollback", &name]).await?;
        mesh.each_sees("the third is everywhere", secs(20), |status| {
            let revision = status.revision.as_ref().context("a revision")?;
            ensure!((revision.epoch, revision.nodes_on) == (3, 2), "{revision:?}");
            Ok(())
        })
        .await
    });
}

#[test]
fn a_revision_that_a_node_dies_of_is_left_out_and_the_operator_is_told() {
    prove!(Light, secs(120), async |stage| {
        let backends = http_backends(&stage.net, &[("eu", 2)]).await?;
        let mut mesh = Cluster::of(stage, &[("eu", 2)]).await?;
        mesh.apply("eu-1", &Services::shop(&stage.net, &backends)).await?;
        mesh.apply("eu-1", &Services::shop(&stage.net, &backends[..1])).await?;
        let epoch = |status: &Status| status.revision.as_ref().map(|revision| revision.epoch);

        // It dies again and again while the revision is new; at the latest the third death is held against it.
        for death in 1..=3 {
            mesh.node_mut("eu-1").kill().await?;
            mesh.node_mut("eu-1").launch()?;
            let status = mesh.node_mut("eu-1").ready().await?;
            ensure!(
                epoch(&status) == Some(2) || death > 1,
                "one death proves nothing: {:?}",
                status.revision
            );
            if epoch(&status) == Some(1) {
                break;
            }
        }
        let node = mesh.node("eu-1");
        eventually("it runs the one before, and says so", secs(20), async || {
            let status = node.cli().status().await?;
            ensure!(epoch(&status) == Some(1), "it runs {:?}", status.revision);
            let told =
                |problem: &String| problem.contains("put revision 2") && problem.contains("the one before");
            ensure!(status.problems.iter().any(told), "{:?}", status.problems);
            Ok(())
        })
        .await?;
        // Balancers in front send users to the other, which runs what was ordered.
        mesh.agree().await?;
        eventually("it is not ready while another runs it", secs(20), async || {
            node.cli().expect(code::DEGRADED, &["healthcheck"]).await?.must_say("revision")
        })
        .await?;
        ensure!(epoch(&mesh.node("eu-2").cli().status().await?) == Some(2), "the other one runs it");

        // Another one is another matter.
        mesh.apply("eu-2", &Services::shop(&stage.net, &backends[1..])).await?;
        node.cli().expect(code::OK, &["healthcheck"]).await.map(drop)
    });
}
