//! The mesh's key is rotated under load: no request fails, no session moves, nobody restarts.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use tests::backend::{HttpBackend, TcpBackend, http_backends, tcp_backends};
use tests::cli::{Cli, code, text};
use tests::client::{Browser, TcpTalk};
use tests::cluster::Cluster;
use tests::load::{Load, User};
use tests::prove;
use tests::services::{HTTP_CHECK, Services, TCP_CHECK};
use tests::stage::skip;
use tests::wait::{eventually, secs};

/// Sessions that end soon enough for a key to be removed while the proof watches.
const COOKIE: &str = "sticky.cookie = { name = \"meridian\", ttl = \"6s\", max_age = \"24h\" }";
const SOURCE: &str = "sticky.source_ip = { ttl = \"6s\" }";

fn services(http: &[HttpBackend], tcp: &[TcpBackend]) -> Services {
    Services::new()
        .http_listener()
        .tcp_listener("chat")
        .service("web", "web-v1 = 1", COOKIE)
        .service("chat", "chat = 1", SOURCE)
        .pool("web-v1", HTTP_CHECK, http)
        .pool("chat", &format!("send_proxy = \"v1\"\n{TCP_CHECK}"), tcp)
}

/// Somebody who asks another node each time and must find the same backend behind all of them.
struct Wanderer {
    browser: Browser,
    from: Ipv4Addr,
    http: Vec<SocketAddr>,
    tcp: Vec<SocketAddr>,
    asked: usize,
    met: Option<(String, String)>,
}

impl User for Wanderer {
    async fn act(&mut self) -> Result<()> {
        let at = self.asked % self.http.len();
        self.asked += 1;
        let seen = self.browser.visit(self.http[at]).await?;
        let mut talk = TcpTalk::open(self.from, self.tcp[at]).await?;
        talk.echo(b"hello").await?;
        let met = (seen.backend, talk.backend.clone());
        talk.finish(b"").await?;
        let first = self.met.get_or_insert_with(|| met.clone());
        ensure!(*first == met, "moved from {first:?} to {met:?}");
        Ok(())
    }
}

#[derive(Debug, Deserialize)]
struct Keys {
    keys: Vec<Key>,
    key: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Key {
    id: String,
    in_use: bool,
    nodes_with: usize,
    nodes_using: usize,
    nodes: usize,
}

async fn keys(cli: &Cli, args: &[&str]) -> Result<Keys> {
    let ran = cli.expect(code::OK, &[&["key"], args, &["-o", "json"]].concat()).await?;
    serde_json::from_str(&ran.stdout).with_context(|| format!("reading {}", ran.stdout))
}

#[test]
fn a_key_is_installed_used_and_removed_under_load_also_for_a_node_that_was_away() {
    prove!(Heavy, secs(240), async |stage| {
        let http = http_backends(&stage.net, &[("eu", 2), ("us", 1)]).await?;
        let tcp = tcp_backends(&stage.net, http.len(), &[("eu", 2), ("us", 1)], true).await?;
        let mut mesh = Cluster::empty(stage).await?;
        for region in ["eu", "eu", "eu", "us"] {
            mesh.place(region);
        }
        mesh.keys_apart()?;
        for node in &mut mesh.nodes {
            node.start().await?;
        }
        mesh.agree().await?;
        mesh.apply("eu-1", &services(&http, &tcp)).await?;
        mesh.healthy().await?;

        // One node is away while the key is installed and taken into use, until the others hold it for dead.
        mesh.node_mut("us-1").kill().await?;
        mesh.each_sees("us-1 is dead", secs(40), |status| {
            ensure!(status.member("us-1")?.state == "dead", "not yet");
            Ok(())
        })
        .await?;
        let eu = || mesh.running().filter(|node| node.region == "eu");
        let users = (0..6).map(|number| Wanderer {
            browser: Browser::new(),
            from: stage.net.user(20 + number),
            http: eu().map(|node| node.http()).collect(),
            tcp: eu().map(|node| node.tcp()).collect(),
            asked: number,
            met: None,
        });
        let load = Load::start(users.collect::<Vec<_>>());
        load.progress(60).await?;

        let (first, second) = (mesh.node("eu-1").cli(), mesh.node("eu-2").cli());
        let old = keys(&first, &["list"]).await?.keys.remove(0).id;
        let installed = keys(&first, &["install"]).await?;
        let new =
            installed.key.or_else(|| installed.keys.iter().find(|key| !key.in_use).map(|key| key.id.clone()));
        let new = new.context("the new key")?;
        first.expect(code::CONFLICT, &["key", "remove", &old]).await?.must_say("in use")?;
        load.progress(60).await?;
        keys(&second, &["use", &new]).await?;
        // What was sealed before is still good, so the old key has to stay.
        second.expect(code::CONFLICT, &["key", "remove", &old]).await?.must_say("us-1")?;
        load.progress(60).await?;

        // It comes back with the old key alone, and is given the new one.
        mesh.node_mut("us-1").start().await?;
        let us = mesh.node("us-1").cli();
        eventually("us-1 uses the new key", secs(30), async || {
            let listed = keys(&us, &["list"]).await?;
            let key = listed.keys.iter().find(|key| key.id == new).context("not listed")?;
            ensure!((key.nodes_using, key.nodes_with, key.nodes) == (4, 4, 4), "{key:?}");
            Ok(())
        })
        .await?;
        us.expect(code::CONFLICT, &["key", "remove", &old]).await?.must_say("cookies sealed under key")?;
        eventually("the old key can go", secs(40), async || keys(&us, &["remove", &old]).await.map(drop))
            .await?;
        load.progress(120).await?;
        for node in mesh.running() {
            let listed = keys(&node.cli(), &["list"]).await?;
            let ids: Vec<&str> = listed.keys.iter().map(|key| key.id.as_str()).collect();
            ensure!(ids == [&new], "{} lists {ids:?}", node.name);
            let file = std::fs::read_to_string(node.key_file().context("a file")?)?;
            ensure!(file.contains(&new) && !file.contains(&old), "{} keeps another ring", node.name);
            let secret =
                file.lines().find(|line| line.starts_with(&new)).and_then(|line| line.split(' ').nth(2));
            ensure!(
                !node.log().contains(secret.context("a secret")?),
                "the secret is in {}'s log",
                node.name
            );
        }
        let (_, tally) = load.stop().await?;
        tally.must_be_clean()?;
        mesh.agree().await
    });
}

#[test]
fn a_keyring_file_that_changes_is_taken_into_use_while_the_node_runs() {
    prove!(Light, secs(60), async |stage| {
        let mut mesh = Cluster::empty(stage).await?;
        for region in ["eu", "eu"] {
            mesh.place(region);
        }
        mesh.keys_apart()?;
        for node in &mut mesh.nodes {
            node.start().await?;
        }
        mesh.agree().await?;
        let file = mesh.node("eu-1").key_file().context("a file")?.to_owned();
        stage.cli().expect(code::OK, &["key", "install", text(&file)?]).await?;
        let (cli, other) = (mesh.node("eu-1").cli(), mesh.node("eu-2").cli());
        let new = eventually("the key is in force on one of two nodes", secs(20), async || {
            let listed = keys(&other, &["list"]).await?;
            let new = listed.keys.iter().find(|key| !key.in_use).context("not yet")?;
            ensure!((new.nodes_with, new.nodes) == (1, 2), "{new:?}");
            Ok(new.id.clone())
        })
        .await?;
        cli.expect(code::CONFLICT, &["key", "use", &new]).await?.must_say("1 of 2 nodes")?;
        // A file that is none changes nothing, and says so.
        let good = std::fs::read(&file)?;
        std::fs::write(&file, "no key at all\n")?;
        eventually("the damage is told", secs(20), async || {
            let status = other.status().await?;
            let told = status
                .problems
                .iter()
                .any(|problem| problem.contains("eu-1") && problem.contains("mesh.key"));
            ensure!(told, "{:?}", status.problems);
            Ok(())
        })
        .await?;
        std::fs::write(&file, good)?;
        mesh.agree().await
    });
}

#[test]
fn a_key_stays_while_a_node_that_cannot_write_its_file_would_start_with_it_alone() {
    prove!(Light, secs(90), async |stage| {
        if !rustix::process::getuid().is_root() {
            skip("a read-only mount needs root");
            return Ok(());
        }
        let mut mesh = Cluster::empty(stage).await?;
        for region in ["eu", "eu"] {
            mesh.place(region);
        }
        mesh.keys_apart()?;
        mesh.node_mut("eu-1").start().await?;
        // As a secret is mounted into a container: the folder of the key can be read and not written, the data folder can.
        let node = mesh.node_mut("eu-2");
        let (file, data) = (node.key_file().context("a file")?.to_owned(), node.data());
        std::fs::create_dir_all(&data)?;
        let inner = node.command()?;
        let mut command = std::process::Command::new("unshare");
        let folder = file.parent().context("a folder")?;
        let script =
            "mount --bind $0 $0 && mount --bind $1 $1 && mount -o remount,ro,bind $0 && shift && exec \"$@\"";
        command.args(["--mount", "sh", "-c", script, text(folder)?, text(&data)?]);
        command.arg(inner.get_program()).args(inner.get_args());
        node.launch_as(command)?;
        node.ready().await?;
        mesh.agree().await?;

        let (cli, other) = (mesh.node("eu-1").cli(), mesh.node("eu-2").cli());
        let old = keys(&cli, &["list"]).await?.keys.remove(0).id;
        let ran = cli.expect(code::OK, &["key", "install", "-o", "json"]).await?;
        ran.must_say("caution: eu-2 cannot write its key file")?;
        let new = serde_json::from_str::<Keys>(&ran.stdout)?.key.context("a key")?;
        other.expect(code::FAILURE, &["key", "install"]).await?.must_say("mesh.key")?;
        keys(&cli, &["use", &new]).await?;
        cli.expect(code::CONFLICT, &["key", "remove", &old])
            .await?
            .must_say("eu-2 cannot write its key file")?;
        let status = cli.status().await?;
        let told =
            status.problems.iter().any(|problem| problem.contains("eu-2") && problem.contains("restart"));
        ensure!(told, "{:?}", status.problems);

        // Whoever mounts the file changes it, and the node sees that.
        std::fs::copy(mesh.node("eu-1").key_file().context("a file")?, &file)?;
        keys(&cli, &["remove", &old]).await?;
        std::fs::copy(mesh.node("eu-1").key_file().context("a file")?, &file)?;
        eventually("nothing is wrong any more", secs(20), async || {
            let status = cli.status().await?;
            let told = status.problems.iter().find(|problem| problem.contains("mesh.key"));
            ensure!(told.is_none(), "{told:?}");
            Ok(())
        })
        .await
    });
}
