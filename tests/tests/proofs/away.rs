//! A node that was away for a day comes back to all that the others have done meanwhile, and users find their backend behind it.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::backend::http_backends;
use tests::cli::{Cli, code};
use tests::client::Browser;
use tests::cluster::Cluster;
use tests::load::all_visit;
use tests::peer;
use tests::prove;
use tests::services::{HTTP_CHECK, Services};
use tests::wait::{eventually, secs};

/// Sessions that outlast the day.
const COOKIE: &str =
    "sticky.cookie = { name = \"meridian\", ttl = \"72h\", max_age = \"96h\", on_down = \"repin\" }";

/// The same a day ago.
fn yesterday(mut command: Command, library: &Path) -> Command {
    command.env("LD_PRELOAD", library).env("FAKETIME", "-24h").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    command
}

async fn told(cli: &Cli, words: &[&str]) -> Result<Value> {
    let ran = cli.expect(code::OK, &[words, &["-o", "json"]].concat()).await?;
    serde_json::from_str(&ran.stdout).with_context(|| ran.stdout.clone())
}

/// The revisions of the history: epoch and hash.
async fn history(cli: &Cli) -> Result<Vec<(u64, String)>> {
    let history = told(cli, &["history"]).await?;
    let all = history["revisions"].as_array().context("a list")?;
    let entry = |entry: &Value| Some((entry["epoch"].as_u64()?, entry["hash"].as_str()?.to_owned()));
    all.iter().map(|each| entry(each).with_context(|| each.to_string())).collect()
}

#[test]
fn a_node_that_was_away_for_a_day_has_all_that_was_ordered_meanwhile_and_keeps_its_users() {
    prove!(Heavy, secs(240), async |stage| {
        let Some(library) = peer::faketime() else { return Ok(()) };
        let backends = http_backends(&stage.net, &[("eu", 3)]).await?;
        let services = Services::new().http_listener().service("web", "web-v1 = 1", COOKIE);
        let services = |more: &str| services.clone().pool("web-v1", HTTP_CHECK, &backends).and(more);
        let mut mesh = Cluster::empty(stage).await?;
        for region in ["eu", "eu", "us"] {
            mesh.place(region);
        }
        mesh.keys_apart()?;
        for node in &mut mesh.nodes {
            let command = yesterday(node.command()?, &library);
            node.launch_as(command)?;
            node.ready().await?;
        }
        mesh.agree().await?;
        mesh.apply("us-1", &services("")).await?;
        mesh.healthy().await?;
        let mut users: Vec<Browser> = (0..30).map(|_| Browser::new().closing()).collect();
        let first = all_visit(&mut users, mesh.node("us-1").http(), 8).await?;

        // It goes. The others go on, and a day later they have been given much that it does not know.
        mesh.node_mut("us-1").kill().await?;
        for name in ["eu-1", "eu-2"] {
            mesh.node_mut(name).kill().await?;
        }
        for name in ["eu-1", "eu-2"] {
            mesh.node_mut(name).start().await?;
        }
        mesh.agree().await?;
        let cli = mesh.node("eu-1").cli();
        for number in 1..=3 {
            mesh.apply("eu-1", &services(&format!("# {number}"))).await?;
        }
        let (drained, bad) = (backends[0].address().to_string(), stage.net.user(300));
        cli.expect(code::OK, &["drain", "backend", &drained]).await?;
        cli.expect(code::OK, &["deny", "add", &bad.to_string(), "--for", "1h"]).await?;
        let ring = told(&cli, &["key", "install"]).await?;
        let new = ring["keys"].as_array().into_iter().flatten().find(|key| key["in_use"] == false);
        let new = new.and_then(|key| key["id"].as_str()).context("the new key")?.to_owned();
        eventually("both have the new key", secs(20), async || {
            cli.expect(code::OK, &["key", "use", &new]).await.map(drop)
        })
        .await?;

        // It comes back with the disk of yesterday, the old key alone, and certificates of its own making.
        mesh.node_mut("us-1").start().await?;
        mesh.agree().await?;
        mesh.revised("eu-1").await?;
        let (us, http) = (mesh.node("us-1").cli(), mesh.node("us-1").http());
        let wanted = history(&cli).await?;
        ensure!(wanted.len() == 4, "{wanted:?}");
        eventually("it has the history, the orders and the key", secs(40), async || {
            let has = history(&us).await?;
            ensure!(has == wanted, "{has:?} instead of {wanted:?}");
            let status = us.status().await?;
            ensure!(status.backend(&drained)?.state == "draining", "{:?}", status.pools);
            let refused = Browser::new().from(bad).get(http, "/").await?.status.as_u16();
            ensure!(refused == 403, "{refused}");
            let keys = told(&us, &["key", "list"]).await?;
            let using = keys["keys"].as_array().into_iter().flatten().find(|key| key["id"] == *new);
            ensure!(using.is_some_and(|key| key["nodes_using"] == 3), "{keys}");
            Ok(())
        })
        .await?;
        let file = std::fs::read_to_string(mesh.node("us-1").key_file().context("a file")?)?;
        ensure!(file.contains(&new), "the new key is not in its file");

        // Cookies of yesterday, made by it, still lead where they led, through every node; who is new comes to the others.
        for name in ["us-1", "eu-1", "eu-2"] {
            let again = all_visit(&mut users, mesh.node(name).http(), 8).await?;
            let moved = first.iter().zip(&again).filter(|(was, is)| was.backend != is.backend).count();
            ensure!(moved == 0, "{moved} of {} sessions moved through {name}", first.len());
        }
        let mut new: Vec<Browser> = (0..9).map(|_| Browser::new()).collect();
        let seen = all_visit(&mut new, http, 8).await?;
        ensure!(seen.iter().all(|seen| seen.backend != backends[0].id()), "{seen:?}");
        // What it never had in force can be put in force on it.
        us.expect(code::OK, &["rollback", "2"]).await?;
        mesh.revised("us-1").await?;

        // Orders outlive revisions and the end of every process.
        for node in &mut mesh.nodes {
            node.kill().await?;
        }
        for node in &mut mesh.nodes {
            node.start().await?;
        }
        mesh.agree().await?;
        mesh.each_sees("the order still stands", secs(20), |status| {
            let state = &status.backend(&drained)?.state;
            ensure!(state == "draining", "it is {state}");
            Ok(())
        })
        .await
    });
}
