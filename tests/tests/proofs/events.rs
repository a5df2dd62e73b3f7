//! What happened is told by any node, once, with who saw it; also after a death, a restart and an upgrade.

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use tests::cli::{Cli, code, text};
use tests::cluster::Cluster;
use tests::process::Process;
use tests::prove;
use tests::wait::{eventually, secs};

#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Event {
    seq: u64,
    node: String,
    seen_by: usize,
    kind: String,
    subject: String,
    text: String,
}

async fn events(cli: &Cli) -> Result<Vec<Event>> {
    let ran = cli.expect(code::OK, &["events", "--last", "2000", "-o", "json"]).await?;
    serde_json::from_str(&ran.stdout).with_context(|| format!("reading {}", ran.stdout))
}

/// Waits until a node tells of something exactly once.
async fn once(cli: &Cli, what: &str, is_it: impl Fn(&Event) -> bool) -> Result<Event> {
    eventually(what, secs(20), async || {
        let all = events(cli).await?;
        let found: Vec<&Event> = all.iter().filter(|event| is_it(event)).collect();
        ensure!(found.len() == 1, "{found:?} of {all:?}");
        Ok(found[0].clone())
    })
    .await
}

fn denied(event: &Event) -> bool {
    event.kind == "order" && event.subject == "203.0.113.0/24"
}

#[test]
fn any_node_tells_what_happened_anywhere_and_once() {
    prove!(Heavy, secs(120), async |stage| {
        let mut mesh = Cluster::of(stage, &[("eu", 2), ("us", 1)]).await?;
        let (eu, us) = (mesh.node("eu-1").cli(), mesh.node("us-1").cli());
        mesh.node("eu-2").cli().expect(code::OK, &["deny", "add", "203.0.113.0/24"]).await?;
        let told = once(&us, "us-1 tells of the order", denied).await?;
        ensure!((told.node.as_str(), told.seen_by) == ("eu-2", 1), "{told:?}");
        let ran = eu.expect(code::OK, &["key", "install", "-o", "json"]).await?;
        let key: serde_json::Value = serde_json::from_str(&ran.stdout)?;
        let key = format!("mesh key {}", key["key"].as_str().context("no key")?);
        once(&us, "us-1 tells of the key", |event| event.kind == "order" && event.subject == key).await?;
        let ran = us.expect(code::OK, &["events"]).await?;
        ensure!(ran.stdout.lines().all(|line| line.chars().count() <= 100), "wide:\n{}", ran.stdout);

        for cli in [&eu, &us] {
            once(cli, "all know of the order", denied).await?;
        }
        // Who saw it is gone; those who stay saw that too, and tell it as one.
        mesh.node_mut("eu-2").kill().await?;
        for cli in [&eu, &us] {
            let silent = once(cli, "both saw it fall silent", |event| {
                event.kind == "suspect" && event.subject == "eu-2" && event.seen_by == 2
            });
            silent.await?;
            once(cli, "the order is known still", denied).await?;
        }
        Ok(())
    });
}

#[test]
fn a_restart_and_a_damaged_file_lose_nothing_that_others_know() {
    prove!(Heavy, secs(120), async |stage| {
        let mut mesh = Cluster::of(stage, &[("eu", 2)]).await?;
        let (one, other) = (mesh.node("eu-1").cli(), mesh.node("eu-2").cli());
        one.expect(code::OK, &["deny", "add", "203.0.113.0/24"]).await?;
        once(&other, "eu-2 knows of the order", denied).await?;
        for name in ["eu-1", "eu-2"] {
            mesh.node_mut(name).stop(secs(30)).await?;
        }
        // Alone, from its own disk.
        mesh.node_mut("eu-1").start().await?;
        let kept = once(&one, "eu-1 tells it after a restart", denied).await?;
        ensure!((kept.node.as_str(), kept.seen_by) == ("eu-1", 1), "{kept:?}");
        once(&one, "it tells that it started", |event| {
            event.kind == "started" && event.subject == "eu-1" && event.seq > kept.seq
        })
        .await?;

        let file = mesh.node("eu-2").data().join("events");
        std::fs::write(&file, "no events at all")?;
        mesh.node_mut("eu-2").start().await?;
        once(&other, "eu-2 says that its file was damaged", |event| event.kind == "damaged").await?;
        once(&other, "eu-2 learned of it anew", denied).await?;
        let aside = std::fs::read_dir(mesh.node("eu-2").data())?.flatten();
        let aside = aside.filter(|entry| entry.file_name().to_string_lossy().starts_with("events.corrupt-"));
        ensure!(aside.count() == 1, "the damaged file is not there");
        Ok(())
    });
}

#[test]
fn who_follows_goes_on_over_an_upgrade() {
    prove!(Heavy, secs(120), async |stage| {
        let mesh = Cluster::of(stage, &[("eu", 1)]).await?;
        let node = mesh.node("eu-1");
        let socket = node.data().join("admin.sock");
        let cli = stage.cli().asking(text(&socket)?);
        let deny = async |network: &str| cli.expect(code::OK, &["deny", "add", network]).await.map(drop);
        deny("203.0.113.0/24").await?;
        let log = stage.folder().join("follow.log");
        let mut following =
            Process::spawn("follow", cli.command(&["events", "--follow", "-o", "json"]), &log)?;
        let hears = async |following: &mut Process, subject: &str| {
            eventually(&format!("{subject} is told once"), secs(20), async || {
                following.must_run()?;
                let said = following.log();
                let count =
                    said.lines().filter(|line| line.contains(&format!("\"subject\":\"{subject}\""))).count();
                ensure!(count == 1, "{count} times in {said}");
                Ok(())
            })
            .await
        };
        hears(&mut following, "203.0.113.0/24").await?;
        let ran = cli.expect(code::OK, &["upgrade", "-o", "json"]).await?;
        let told: serde_json::Value = serde_json::from_str(&ran.stdout)?;
        let pid = i32::try_from(told["pid"].as_i64().context("no pid")?)?;
        let next = rustix::process::Pid::from_raw(pid).context("a process id")?;
        let heard = async {
            deny("198.51.100.0/24").await?;
            for subject in ["203.0.113.0/24", "198.51.100.0/24"] {
                hears(&mut following, subject).await?;
            }
            once(&cli, "the upgrade is an event", |event| event.kind == "upgraded").await?;
            once(&cli, "what was before is told still", denied).await
        };
        let heard = heard.await;
        // No harness has started it.
        rustix::process::kill_process(next, rustix::process::Signal::KILL)?;
        heard.map(drop)
    });
}

#[test]
fn an_upgrade_is_told_as_that_and_a_death_as_a_death() {
    prove!(Heavy, secs(150), async |stage| {
        let mesh = Cluster::of(stage, &[("eu", 2), ("us", 1)]).await?;
        let socket = mesh.node("eu-1").data().join("admin.sock");
        let ran = stage.cli().asking(text(&socket)?).expect(code::OK, &["upgrade", "-o", "json"]).await?;
        let told: serde_json::Value = serde_json::from_str(&ran.stdout)?;
        let pid = i32::try_from(told["pid"].as_i64().context("no pid")?)?;
        let next = rustix::process::Pid::from_raw(pid).context("a process id")?;
        let told = async {
            for node in mesh.running() {
                once(&node.cli(), "the upgrade is an event", |event| {
                    event.kind == "upgraded" && event.subject == "eu-1" && event.text.contains(" → ")
                })
                .await?;
            }
            mesh.each_sees("eu-1 is alive", secs(20), |status| {
                let state = &status.member("eu-1")?.state;
                ensure!(state == "alive", "{state}");
                Ok(())
            })
            .await?;
            for node in mesh.running() {
                let all = events(&node.cli()).await?;
                let accident = all.iter().find(|event| {
                    ["suspect", "cleared", "dead", "isolated", "rejoined"].contains(&event.kind.as_str())
                });
                ensure!(accident.is_none(), "{} tells {accident:?} of {all:?}", node.name);
            }
            anyhow::Ok(())
        };
        let told = told.await;
        // No harness has started it. It says nothing, and what is seen of it is told at once.
        rustix::process::kill_process(next, rustix::process::Signal::KILL)?;
        told?;
        let silent = |event: &Event| event.kind == "suspect" && event.subject == "eu-1";
        once(&mesh.node("us-1").cli(), "the next process fell silent", silent).await.map(drop)
    });
}
