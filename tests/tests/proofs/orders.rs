//! Orders at run time: maintenance, weights, splits, denials; none leaves users without anybody unasked, and a new revision
//! undoes none.

use anyhow::ensure;
use tests::backend::http_backends;
use tests::cli::code;
use tests::client::Browser;
use tests::cluster::Cluster;
use tests::load::all_visit;
use tests::prove;
use tests::services::{HTTP_CHECK, STICKY_COOKIE, Services};
use tests::wait::{eventually, secs};

#[test]
fn orders_hold_everywhere_until_they_are_taken_back() {
    prove!(Heavy, secs(150), async |stage| {
        let backends = http_backends(&stage.net, &[("eu", 2), ("us", 1)]).await?;
        let mesh = Cluster::of(stage, &[("eu", 2)]).await?;
        let services = Services::new()
            .http_listener()
            .service("web", "web-v1 = 1", STICKY_COOKIE)
            .pool("web-v1", HTTP_CHECK, &backends[..2])
            .pool("web-v2", HTTP_CHECK, &backends[2..]);
        mesh.apply("eu-1", &services).await?;
        mesh.healthy().await?;
        let (http, cli) = (mesh.node("eu-1").http(), mesh.node("eu-2").cli());
        let mut users: Vec<Browser> = (0..20).map(|_| Browser::new().closing()).collect();
        let first = all_visit(&mut users, http, 8).await?;
        let (one, other) = (backends[0].address().to_string(), backends[1].address().to_string());

        // The new version gets all new users, present ones stay, and a revision changes nothing in that.
        cli.expect(code::OK, &["split", "web", "web-v2=1"]).await?.must_say("100.0 %")?;
        mesh.apply("eu-1", &services.clone().and("# something else")).await?;
        eventually("new users go to v2", secs(10), async || {
            let mut new: Vec<Browser> = (0..8).map(|_| Browser::new()).collect();
            let seen = all_visit(&mut new, http, 8).await?;
            ensure!(seen.iter().all(|seen| seen.backend == backends[2].id()), "{seen:?}");
            Ok(())
        })
        .await?;
        let again = all_visit(&mut users, http, 8).await?;
        let moved = first.iter().zip(&again).filter(|(was, is)| was.backend != is.backend).count();
        ensure!(moved == 0, "{moved} users left the version they met");
        cli.expect(code::OK, &["split", "web", "--reset"]).await?;
        cli.expect(code::FAILURE, &["split", "web", "--reset"]).await?.must_say("split of the file")?;
        cli.expect(code::INVALID, &["split", "web", "web-v9=1"]).await?.must_say("web-v2")?;

        // A weight, seen from the other node.
        cli.expect(code::OK, &["weight", &one, "7"]).await?;
        mesh.each_sees("the weight is 7", secs(10), |status| {
            let is = status.backend(&one)?.weight;
            ensure!(is == 7, "it is {is}");
            Ok(())
        })
        .await?;
        cli.expect(code::OK, &["weight", &one, "--reset"]).await?;

        // Maintenance moves those who are there; of the last one it is refused.
        let told = cli.expect(code::OK, &["maintenance", "backend", &one]).await?;
        told.must_say("move to other backends with their next request")?;
        mesh.each_sees("it is in maintenance", secs(10), |status| {
            let is = &status.backend(&one)?.state;
            ensure!(is == "maintenance", "it is {is}");
            Ok(())
        })
        .await?;
        let now = all_visit(&mut users, http, 8).await?;
        ensure!(now.iter().all(|seen| seen.backend == backends[1].id()), "{now:?}");
        for order in
            [&["drain", "backend", &other][..], &["maintenance", "backend", &other], &["weight", &other, "0"]]
        {
            let refused = cli.expect(code::CONFLICT, order).await?;
            refused.must_say("force")?;
        }
        let json = cli.run(&["drain", "backend", &other, "-o", "json"]).await?;
        let error: serde_json::Value = serde_json::from_str(json.stderr.trim())?;
        ensure!(error["error"]["code"] == 5 && error["error"]["kind"] == "conflict", "{error}");
        let told = cli.expect(code::OK, &["drain", "backend", &other, "--force"]).await?;
        told.must_say("its sessions stay; no other backend would take new users")?;
        cli.expect(code::OK, &["undrain", "backend", &other]).await?;
        cli.expect(code::OK, &["maintenance", "backend", &one, "--reset"]).await?;
        mesh.healthy().await
    });
}

#[test]
fn a_network_is_refused_and_served_again() {
    prove!(Light, secs(90), async |stage| {
        let backends = http_backends(&stage.net, &[("eu", 1)]).await?;
        let mesh = Cluster::of(stage, &[("eu", 2)]).await?;
        mesh.apply("eu-1", &Services::shop(&stage.net, &backends)).await?;
        mesh.healthy().await?;
        let (http, cli) = (mesh.node("eu-1").http(), mesh.node("eu-2").cli());
        let (bad, good) = (stage.net.user(0), stage.net.user(300));
        let visit = async |from| Browser::new().from(from).get(http, "/").await;
        ensure!(visit(bad).await?.status.is_success(), "before");
        let network = format!("{bad}/32");
        cli.expect(code::OK, &["deny", "add", &bad.to_string(), "--for", "1h"]).await?.must_say(&network)?;
        eventually("they are refused", secs(10), async || {
            let status = visit(bad).await?.status.as_u16();
            ensure!(status == 403, "{status}");
            Ok(())
        })
        .await?;
        ensure!(visit(good).await?.status.is_success(), "others are refused too");
        cli.expect(code::OK, &["deny", "list"]).await?.must_say(&network)?;
        cli.expect(code::CONFLICT, &["deny", "add", "0.0.0.0/0"]).await?;
        cli.expect(code::OK, &["deny", "remove", &bad.to_string()]).await?;
        eventually("they are served again", secs(10), async || {
            let status = visit(bad).await?.status;
            ensure!(status.is_success(), "{status}");
            Ok(())
        })
        .await?;
        // One that ends by itself.
        cli.expect(code::OK, &["deny", "add", &bad.to_string(), "--for", "2s"]).await?;
        eventually("it has ended", secs(15), async || {
            ensure!(visit(bad).await?.status.is_success(), "still refused");
            Ok(())
        })
        .await?;
        Ok(())
    });
}

#[test]
fn a_balancer_with_no_files_at_all() {
    prove!(Light, secs(60), async |stage| {
        let backends = http_backends(&stage.net, &[("local", 2)]).await?;
        let from = format!("{}:8080", stage.net.node(0));
        let data = stage.folder().join("no-files");
        let to: Vec<String> = backends.iter().map(|backend| backend.address().to_string()).collect();
        let (data_arg, log) = (tests::cli::text(&data)?.to_owned(), stage.folder().join("proxy.log"));
        let args = [
            "proxy", "--from", &from, "--to", &to[0], "--to", &to[1], "--check", "/healthz", "--data",
            &data_arg,
        ];
        let mut process = tests::process::Process::spawn("proxy", stage.cli().command(&args), &log)?;
        let target = from.parse()?;
        let mut met = std::collections::BTreeSet::new();
        eventually("both backends serve", secs(20), async || {
            process.must_run()?;
            met.insert(Browser::new().visit(target).await?.backend);
            ensure!(met.len() == 2, "{met:?}");
            Ok(())
        })
        .await?;
        let socket = data.join("admin.sock");
        let cli = stage.cli().asking(tests::cli::text(&socket)?);
        cli.expect(code::OK, &["pools"]).await?.must_say(&to[1])?;
        cli.expect(code::OK, &["healthcheck"]).await?.must_say("ready")?;
        ensure!(process.stop(secs(10)).await?.success(), "it does not end well");
        cli.expect(code::UNREACHABLE, &["healthcheck"]).await.map(drop)
    });
}

#[test]
fn shells_manuals_and_doctors() {
    prove!(Light, secs(60), async |stage| {
        let cli = stage.cli();
        for shell in ["bash", "zsh", "fish"] {
            cli.expect(code::OK, &["completion", shell]).await?.must_say("undrain")?;
        }
        let pages = stage.folder().join("man");
        cli.expect(code::OK, &["man", "--dir", tests::cli::text(&pages)?]).await?;
        for page in ["meridian.1", "meridian-drain.1", "meridian-deny-add.1"] {
            ensure!(pages.join(page).is_file(), "no {page}");
        }
        cli.expect(code::USAGE, &["drian", "node", "x"]).await?.must_say("drain")?;

        let mesh = Cluster::of(stage, &[("eu", 2)]).await?;
        let node = mesh.node("eu-1");
        let file = node.file();
        let ran = node.cli().run(&["doctor", "-c", tests::cli::text(&file)?, "-o", "json"]).await?;
        let told: serde_json::Value = serde_json::from_str(&ran.stdout)?;
        let find = |check: &str| {
            told["findings"].as_array().into_iter().flatten().find(|of| of["check"] == check).cloned()
        };
        let peers = find("peers").map(|of| of["verdict"].clone());
        ensure!(peers == Some("ok".into()), "{told}");
        // Nothing was applied yet: the node is not ready for users.
        ensure!(
            ran.code == 7 && find("ready").is_some_and(|of| of["verdict"] == "fail"),
            "{}: {told}",
            ran.code
        );
        let top = node.cli().expect(code::OK, &["top", "--once"]).await?;
        top.must_say("requests/s")?;
        let events = node.cli().expect(code::OK, &["events"]).await?;
        events.must_say("eu-2")
    });
}

/// Every table fits a hundred columns, and is one line a row for whoever says COLUMNS=0.
#[test]
fn tables_fit() {
    prove!(Light, secs(60), async |stage| {
        let backends = http_backends(&stage.net, &[("eu", 2)]).await?;
        let mesh = Cluster::of(stage, &[("eu", 2)]).await?;
        mesh.apply("eu-1", &Services::shop(&stage.net, &backends)).await?;
        mesh.healthy().await?;
        let cli = mesh.node("eu-1").cli();
        Browser::new().visit(mesh.node("eu-1").http()).await?;
        for command in [
            &["status"][..],
            &["members"],
            &["pools"],
            &["sessions"],
            &["top", "--once"],
            &["events"],
            &["healthcheck"],
        ] {
            let shown = cli.expect(code::OK, command).await?.stdout;
            let widest = shown.lines().map(|line| line.chars().count()).max().unwrap_or(0);
            ensure!(widest <= 100, "{command:?} is {widest} columns wide:\n{shown}");
        }
        let at_most = async |columns: &str| {
            let mut command = cli.command(&["healthcheck"]);
            command.env("COLUMNS", columns);
            anyhow::Ok(cli.finish(command).await?.stdout)
        };
        let (folded, whole) = (at_most("30").await?, at_most("0").await?);
        let json = cli.expect(code::OK, &["healthcheck", "-o", "json"]).await?.stdout;
        let readiness: serde_json::Value = serde_json::from_str(&json)?;
        let checks = readiness["checks"].as_array().map_or(0, Vec::len);
        ensure!(checks > 2 && whole.lines().count() == checks + 2, "{checks} checks:\n{whole}");
        ensure!(folded.lines().count() > whole.lines().count(), "{folded}");
        Ok(())
    });
}
