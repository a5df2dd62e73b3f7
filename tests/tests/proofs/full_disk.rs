//! A disk that is full takes nothing from users, and tells the operator. A node starts on one, too.

use std::fs::File;
use std::io::Write;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tests::backend::http_backends;
use tests::cli::{code, text};
use tests::client::Browser;
use tests::cluster::Cluster;
use tests::prove;
use tests::services::Services;
use tests::stage::{Stage, skip};
use tests::wait::{eventually, secs};

/// Runs `start` in a mount namespace of its own in which `data` is a small disk. Works for root and, where the
/// kernel allows user namespaces, for everybody.
fn on_a_small_disk(start: &Command, data: &str, megabytes: u32) -> Command {
    on_a_disk(start, data, &format!("mount -t tmpfs -o size={megabytes}m none \"$0\""))
}

/// The same with a disk on which nothing can be written any more.
fn on_a_full_disk(start: &Command, data: &str) -> Command {
    let fill = "{ dd if=/dev/zero of=\"$0/filler\" bs=4k 2>/dev/null || true; }";
    on_a_disk(start, data, &format!("mount -t tmpfs -o size=24m none \"$0\" && {fill}"))
}

fn on_a_disk(start: &Command, data: &str, mount: &str) -> Command {
    let script = format!("{mount} && exec \"$@\"");
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--mount", "sh", "-c", &script, data]);
    command.arg(start.get_program()).args(start.get_args());
    for (name, value) in start.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}

async fn can_mount(stage: &Stage) -> Result<bool> {
    let folder = stage.folder().join("probe");
    std::fs::create_dir_all(&folder)?;
    let probe = on_a_small_disk(&Command::new("true"), text(&folder)?, 1);
    Ok(stage.cli().finish(probe).await.is_ok_and(|ran| ran.code == 0))
}

/// Writes until there is no more room.
fn fill(mut file: File) -> Result<()> {
    let mut block = vec![0_u8; 1 << 16];
    while !block.is_empty() {
        if file.write_all(&block).is_err() {
            block.truncate(block.len() / 2);
        }
    }
    Ok(())
}

#[test]
fn with_a_full_disk_users_are_served_and_the_operator_is_told() {
    prove!(Light, secs(120), async |stage| {
        if !can_mount(stage).await? {
            skip("no small disk can be mounted here: neither root nor user namespaces");
            return Ok(());
        }
        let backends = http_backends(&stage.net, &[("eu", 2)]).await?;
        let mut mesh = Cluster::empty(stage).await?;
        let node = mesh.place("eu");
        let (data, start) = (node.data(), node.command()?);
        std::fs::create_dir_all(&data)?;
        node.launch_as(on_a_small_disk(&start, text(&data)?, 24))?;
        node.ready().await?;
        let inside = format!("/proc/{}/root{}", node.process()?.id(), text(&data)?);
        let services = Services::shop(&stage.net, &backends);
        mesh.apply("eu-1", &services).await?;
        mesh.healthy().await?;
        let target = mesh.node("eu-1").http();
        let mut user = Browser::new();
        let first = user.visit(target).await?.backend;

        let filler = format!("{inside}/filler");
        fill(File::create(&filler).context("the node's disk is seen from here")?)?;
        let mut new: Vec<Browser> = (0..500).map(|_| Browser::new().closing()).collect();
        let met = tests::load::all_visit(&mut new, target, 16).await?;
        let again = tests::load::all_visit(&mut new, target, 16).await?;
        let moved = met.iter().zip(&again).filter(|(was, is)| was.backend != is.backend).count();
        ensure!(moved == 0, "{moved} sessions made on a full disk moved");
        ensure!(user.visit(target).await?.backend == first, "an old session moved");

        // What cannot be kept is not accepted (I12).
        let cli = mesh.node("eu-1").cli();
        let mut long = services.clone();
        for _ in 0..2000 {
            long = long
                .and("# a revision that does not fit on this disk any more, whatever is left in its blocks");
        }
        let second = stage.write("second.toml", long.text())?;
        let ran = cli.expect(code::FAILURE, &["apply", text(&second)?]).await?;
        ran.must_say("space")?;
        ensure!(
            cli.status().await?.revision.is_some_and(|revision| revision.epoch == 1),
            "the revision changed"
        );

        std::fs::remove_file(&filler)?;
        mesh.apply("eu-1", &long).await?;
        ensure!(user.visit(target).await?.backend == first, "the session moved after the disk was freed");
        mesh.node_mut("eu-1").process()?.must_run()
    });
}

#[test]
fn a_node_starts_on_a_full_disk_with_what_its_peers_know() {
    prove!(Light, secs(120), async |stage| {
        if !can_mount(stage).await? {
            skip("no small disk can be mounted here: neither root nor user namespaces");
            return Ok(());
        }
        let backends = http_backends(&stage.net, &[("eu", 2)]).await?;
        let mut mesh = Cluster::of(stage, &[("eu", 1)]).await?;
        mesh.apply("eu-1", &Services::shop(&stage.net, &backends)).await?;
        mesh.healthy().await?;
        let mut users: Vec<Browser> = (0..40).map(|_| Browser::new().closing()).collect();
        let first = tests::load::all_visit(&mut users, mesh.node("eu-1").http(), 8).await?;

        let node = mesh.place("eu");
        let (data, start) = (node.data(), node.command()?);
        std::fs::create_dir_all(&data)?;
        node.launch_as(on_a_full_disk(&start, text(&data)?))?;
        node.ready().await?;
        let inside = format!("/proc/{}/root{}", node.process()?.id(), text(&data)?);
        mesh.agree().await?;
        let late = mesh.node("eu-2");
        eventually("the node without a disk serves", secs(20), async || {
            Ok(tokio::net::TcpStream::connect(late.http()).await.map(drop)?)
        })
        .await?;
        mesh.healthy().await?;
        let again = tests::load::all_visit(&mut users, late.http(), 8).await?;
        let moved = first.iter().zip(&again).filter(|(was, is)| was.backend != is.backend).count();
        ensure!(moved == 0, "{moved} sessions moved");
        let lags = |problems: &[String]| problems.iter().any(|problem| problem.contains("lags behind"));
        let problems = mesh.node("eu-1").cli().status().await?.problems;
        ensure!(lags(&problems), "nobody is told: {problems:?}");

        std::fs::remove_file(format!("{inside}/filler"))?;
        eventually("the disk is in use", secs(60), async || {
            let problems = late.cli().status().await?.problems;
            ensure!(!lags(&problems), "{problems:?}");
            Ok(())
        })
        .await?;
        mesh.node_mut("eu-2").process()?.must_run()
    });
}
