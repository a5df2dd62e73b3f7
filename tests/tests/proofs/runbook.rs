//! The newcomer's path with the README alone, and the runbook's commands: what the documents tell people to type works.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use tests::backend::http_backends;
use tests::cli::{Cli, code};
use tests::client::Browser;
use tests::cluster::Cluster;
use tests::prove;
use tests::services::Services;
use tests::wait::{eventually, secs};

fn document(name: &str) -> Result<String> {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name))
        .with_context(|| name.to_owned())
}

/// The commands of a document: lines of its indented or fenced blocks that begin with the program's name, without comments.
fn commands(text: &str) -> Vec<Vec<String>> {
    let lines =
        text.lines().filter(|line| line.starts_with("    meridian ") || line.starts_with("meridian "));
    let bare = lines.map(|line| line.split(" #").next().unwrap_or_default());
    bare.map(|line| line.split_whitespace().skip(1).map(str::to_owned).collect()).collect()
}

/// Every command that a document names is one that the program knows, with these options.
async fn known(cli: &Cli, text: &str) -> Result<usize> {
    let commands = commands(text);
    for command in &commands {
        // `--help` after everything else: clap has then read the rest, and says what it does not know.
        let words: Vec<&str> = command.iter().map(String::as_str).chain(["--help"]).collect();
        let ran = cli.run(&words).await?;
        ensure!(ran.code == code::OK, "meridian {}: {}", command.join(" "), ran.said());
    }
    Ok(commands.len())
}

#[test]
fn every_command_in_the_documents_is_known() {
    prove!(Light, secs(60), async |stage| {
        let cli = stage.cli();
        let readme = known(&cli, &document("README.md")?).await?;
        let runbook = known(&cli, &document("deploy/README.md")?).await?;
        ensure!(readme > 20 && runbook > 5, "{readme} and {runbook} commands are found");
        Ok(())
    });
}

#[test]
fn the_newcomers_path() {
    prove!(Heavy, secs(180), async |stage| {
        // A mesh of three of one's own: the first makes the key, the others get it.
        let backends = http_backends(&stage.net, &[("eu", 2), ("us", 1)]).await?;
        let mesh = Cluster::of(stage, &[("eu", 2), ("us", 1)]).await?;
        // The README's services, on this test's backends.
        mesh.apply("eu-1", &Services::shop(&stage.net, &backends)).await?;
        mesh.healthy().await?;
        let cli = mesh.node("us-1").cli();
        cli.expect(code::OK, &["status"]).await?.must_say("healthy")?;
        let mut user = Browser::new();
        let met = user.visit(mesh.node("eu-1").http()).await?;
        ensure!(user.visit(mesh.node("us-1").http()).await?.backend == met.backend, "the user does not stay");

        // The runbook's commands of every day, as they stand there.
        let runbook = document("deploy/README.md")?;
        let block =
            runbook.split("```sh\n").nth(1).and_then(|rest| rest.split("```").next()).context("a block")?;
        for command in commands(block) {
            let words: Vec<&str> = command.iter().map(String::as_str).collect();
            cli.expect(code::OK, &words).await?;
        }

        // A drained backend, and back.
        let address = backends[0].address().to_string();
        cli.expect(code::OK, &["drain", "backend", &address]).await?;
        mesh.each_sees("it drains", secs(15), |status| {
            let state = &status.backend(&address)?.state;
            ensure!(state == "draining", "{state}");
            Ok(())
        })
        .await?;
        cli.expect(code::OK, &["undrain", "backend", &address]).await?;

        // A look at the dashboard: the page, and what it asks for.
        let admin = mesh.node("eu-1").admin();
        let page = Browser::new().host(&admin.to_string()).get(admin, "/").await?;
        ensure!(page.status.is_success() && page.text().contains("Meridian"), "{}", page.everything());
        for path in ["/dashboard/app.js", "/v1/status", "/v1/regions", "/v1/traffic", "/v1/users"] {
            let reply = Browser::new().host(&admin.to_string()).get(admin, path).await?;
            ensure!(reply.status.is_success(), "{path}: {}", reply.status);
        }
        eventually("all is well again", secs(20), async || {
            cli.expect(code::OK, &["status"]).await?.must_say("healthy")
        })
        .await
    });
}
