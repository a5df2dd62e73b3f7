//! The command line: exit codes, the shape of `status`, and both ways to reach a node.

use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result, ensure};
use tests::backend::http_backends;
use tests::cli::{code, text};
use tests::client::Browser;
use tests::cluster::Cluster;
use tests::prove;
use tests::services::Services;
use tests::wait::secs;

#[test]
fn exit_codes_tell_what_went_wrong() {
    prove!(Light, secs(60), async |stage| {
        let cli = stage.cli();
        cli.expect(code::OK, &["--version"]).await?;
        cli.expect(code::OK, &["--help"]).await?.must_say("start")?;
        cli.expect(code::USAGE, &["fly"]).await?;
        cli.expect(code::USAGE, &["start", "--no-such-flag"]).await?;
        // For programs it is an error like all others.
        let ran = cli.expect(code::USAGE, &["statsu", "-o", "json"]).await?;
        let told: serde_json::Value = serde_json::from_str(&ran.stderr)?;
        ensure!(told["error"]["code"] == 2 && told["error"]["kind"] == "usage", "{told}");
        ensure!(told["error"]["hint"].as_str().is_some_and(|hint| hint.contains("status")), "{told}");
        let bad = stage.write("bad.toml", "[listener.http\n")?;
        cli.expect(code::INVALID, &["validate", text(&bad)?]).await?;

        let nobody = format!("http://{}:{}", stage.net.nobody(), tests::net::ADMIN);
        let ran = cli.asking(&nobody).expect(code::UNREACHABLE, &["status"]).await?;
        ran.must_say(&stage.net.nobody().to_string())?;
        let socket = stage.folder().join("no.sock");
        cli.asking(text(&socket)?).expect(code::UNREACHABLE, &["members"]).await?.must_say("no.sock")?;
        let good = stage.write("good.toml", "")?;
        cli.asking(&nobody).expect(code::UNREACHABLE, &["apply", text(&good)?]).await?;
        Ok(())
    });
}

#[test]
fn apply_with_an_old_revision_in_hand_is_a_conflict() {
    prove!(Light, secs(60), async |stage| {
        let backends = http_backends(&stage.net, &[("eu", 1)]).await?;
        let mesh = Cluster::of(stage, &[("eu", 2)]).await?;
        let services = Services::shop(&stage.net, &backends);
        mesh.apply("eu-1", &services).await?;
        let cli = mesh.node("eu-1").cli();
        let first = cli.status().await?.revision.context("a revision")?;
        mesh.apply("eu-2", &services.clone().and("# a second thought")).await?;

        let mine = stage.write("mine.toml", services.and("# a third").text())?;
        let old = format!("{}:{}", first.epoch, first.hash);
        let ran = cli.expect(code::CONFLICT, &["apply", text(&mine)?, "--if-match", &old]).await?;
        ran.must_say("2:")?;
        let second = cli.status().await?.revision.context("a revision")?;
        ensure!(second.epoch == 2, "the conflicting apply went through: {second:?}");

        let new = format!("{}:{}", second.epoch, second.hash);
        cli.expect(code::OK, &["apply", text(&mine)?, "--if-match", &new]).await?;
        // What a node has accepted, it shows.
        ensure!(
            cli.status().await?.revision.is_some_and(|revision| revision.epoch == 3),
            "the third revision"
        );
        Ok(())
    });
}

#[test]
fn status_keeps_its_contract_over_the_socket_and_over_http() {
    prove!(Light, secs(60), async |stage| {
        let backends = http_backends(&stage.net, &[("eu", 2)]).await?;
        let mesh = Cluster::of(stage, &[("eu", 2)]).await?;
        let node = mesh.node("eu-1");
        let before = node.cli().expect(code::OK, &["status", "-o", "json"]).await?;
        let before: serde_json::Value = serde_json::from_str(&before.stdout)?;
        ensure!(
            before.get("revision").is_some_and(serde_json::Value::is_null),
            "null before the first: {before}"
        );
        mesh.apply("eu-1", &Services::shop(&stage.net, &backends)).await?;
        mesh.healthy().await?;
        Browser::new().visit(node.http()).await?;

        let socket = node.data().join("admin.sock");
        let open_to = std::fs::metadata(&socket)?.permissions().mode() & 0o777;
        ensure!(open_to & 0o007 == 0, "the admin socket is open to everybody: {open_to:o}");
        for cli in [node.cli(), stage.cli().asking(text(&socket)?)] {
            let status = cli.status().await?;
            ensure!(status.node == "eu-1" && status.members.len() == 2, "{status:?}");
            let peer = status.member("eu-2")?;
            ensure!(peer.state == "alive" && peer.region == "eu" && peer.rtt_ms.is_some(), "{peer:?}");
            ensure!(status.sessions.count >= 1, "{:?}", status.sessions);
            for backend in &backends {
                let shown = status.backend(backend.address())?;
                ensure!(shown.state == "up" && shown.region == "eu" && shown.weight == 100, "{shown:?}");
                ensure!(!shown.source.is_empty(), "{shown:?}");
            }
            for command in ["status", "members", "pools"] {
                let table = cli.expect(code::OK, &[command]).await?.stdout;
                let named =
                    if command == "pools" { backends[0].address().to_string() } else { "eu-2".to_owned() };
                ensure!(table.contains(&named), "`{command}` does not show {named}:\n{table}");
                ensure!(!table.contains('\u{1b}'), "colours although NO_COLOR is set:\n{table}");
                let json = cli.expect(code::OK, &[command, "-o", "json"]).await?.stdout;
                let _: serde_json::Value = serde_json::from_str(&json)?;
            }
            let one = cli.expect(code::OK, &["pools", "web-v1"]).await?;
            one.must_say(&backends[1].address().to_string())?;
            ensure!(
                cli.run(&["pools", "web-v9"]).await?.code != code::OK,
                "a pool that is not there is shown"
            );
        }

        // By environment, as scripts do.
        let mut command = stage.cli().command(&["status", "-o", "json"]);
        command.env("MERIDIAN_NODE", format!("http://{}", node.admin()));
        ensure!(stage.cli().finish(command).await?.code == code::OK, "MERIDIAN_NODE");
        let mut command = stage.cli().command(&["status", "-o", "json"]);
        command.env("MERIDIAN_DATA", node.data());
        ensure!(stage.cli().finish(command).await?.code == code::OK, "the socket in MERIDIAN_DATA");
        foreign_sites(node.admin()).await
    });
}

/// A page that a user of this machine looks at must not be able to speak with the admin API under its own name.
async fn foreign_sites(admin: std::net::SocketAddr) -> Result<()> {
    let own = Browser::new().host(&admin.to_string()).get(admin, "/v1/status").await?;
    ensure!(own.status.is_success(), "{} to its own name", own.status);
    let foreign = Browser::new().host("evil.example").get(admin, "/v1/status").await?;
    ensure!(foreign.status.is_client_error(), "{} to a foreign name: {}", foreign.status, foreign.text());
    Ok(())
}
