//! What lies in `deploy/` works: alerts are rules that Prometheus takes and that fire, alerts and dashboards name metrics that
//! exist, the unit is as tight as it says.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use tests::backend::http_backends;
use tests::client::Browser;
use tests::cluster::Cluster;
use tests::peer;
use tests::prove;
use tests::services::Services;
use tests::stage::skip;
use tests::wait::{eventually, secs};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(name)
}

/// Every word of a text that is a metric's name.
fn metrics(text: &str) -> BTreeSet<&str> {
    let part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let names = text.split(|c| !part(c)).filter(|word| word.starts_with("meridian_"));
    // The prefix alone stands in patterns.
    names.filter(|word| *word != "meridian_").collect()
}

#[test]
fn alerts_are_rules_that_fire() {
    prove!(Light, secs(60), async |_stage| {
        let Some([promtool]) = peer::all(["promtool"]) else { return Ok(()) };
        let promtool = promtool.to_string_lossy();
        let path = |name: &str| deploy(name).to_string_lossy().into_owned();
        peer::said(&promtool, &["check", "rules", &path("prometheus/alerts.yml")]).await?;
        peer::said(&promtool, &["test", "rules", &path("prometheus/alerts_test.yml")]).await.map(drop)
    });
}

#[test]
fn alerts_and_dashboards_name_metrics_that_exist() {
    prove!(Light, secs(60), async |stage| {
        let backends = http_backends(&stage.net, &[("eu", 1)]).await?;
        let mesh = Cluster::of(stage, &[("eu", 2)]).await?;
        mesh.apply("eu-1", &Services::shop(&stage.net, &backends)).await?;
        mesh.healthy().await?;
        Browser::new().visit(mesh.node("eu-1").http()).await?;
        let admin = mesh.node("eu-1").admin();
        let page = Browser::new().host(&admin.to_string()).get(admin, "/metrics").await?.text();
        // A family without samples stands there with its type; samples end in _total, _bucket ...
        let there: BTreeSet<&str> = metrics(&page);
        for file in ["prometheus/alerts.yml", "grafana/meridian.json"] {
            let text = std::fs::read_to_string(deploy(file)).context(file)?;
            let named = metrics(&text);
            ensure!(named.len() > 10, "{file} names {named:?}");
            let is_there = |name: &&&str| {
                there.contains(**name) || name.strip_suffix("_total").is_some_and(|name| there.contains(name))
            };
            let missing: Vec<_> = named.iter().filter(|name| !is_there(name)).collect();
            ensure!(missing.is_empty(), "{file} names {missing:?}, which are not on\n{page}");
        }
        Ok(())
    });
}

/// A sample of a page: of this metric, with all these labels.
fn sample(page: &str, name: &str, labels: &[&str]) -> Option<f64> {
    let of = page.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('{'));
    let mut of = of.filter(|rest| labels.iter().all(|label| rest.contains(label)));
    of.next()?.rsplit(' ').next()?.parse().ok()
}

#[test]
fn what_is_bounded_shows_its_use_and_its_limit() {
    prove!(Light, secs(90), async |stage| {
        let backends = http_backends(&stage.net, &[("us", 1)]).await?;
        let mesh = Cluster::of(stage, &[("eu", 1), ("us", 1)]).await?;
        mesh.apply("eu-1", &Services::shop(&stage.net, &backends)).await?;
        mesh.healthy().await?;
        let (eu, us) = (mesh.node("eu-1"), mesh.node("us-1"));
        let page = async |admin: SocketAddr| -> Result<String> {
            Ok(Browser::new().host(&admin.to_string()).get(admin, "/metrics").await?.text())
        };

        // A request in another region, a resolver that stays, and somebody who follows the events.
        backends[0].set_delay(secs(8));
        let http = eu.http();
        let request = tokio::spawn(async move { Browser::new().get(http, "/").await.map(drop) });
        let _resolver = TcpStream::connect(eu.dns()).await?;
        let mut follower = TcpStream::connect(eu.admin()).await?;
        let head =
            format!("GET /v1/events HTTP/1.1\r\nhost: {}\r\naccept: text/event-stream\r\n\r\n", eu.admin());
        follower.write_all(head.as_bytes()).await?;
        eventually("what is in use is told", secs(8), async || {
            let (near, far) = (page(eu.admin()).await?, page(us.admin()).await?);
            for (page, name, labels, least) in [
                (&far, "meridian_tunnel_streams", &["peer=\"eu-1\""][..], 1.0),
                (&near, "meridian_dns_connections", &["transport=\"tcp\""], 1.0),
                (&near, "meridian_event_streams", &[], 1.0),
                (&near, "meridian_admin_connections", &["socket=\"tcp\""], 2.0),
                (&near, "meridian_gossip_state_bytes", &[], 100.0),
                (&near, "meridian_service_retry_budget", &["service=\"web\""], 1.0),
                (&near, "meridian_store_disk_bytes", &[], 1.0),
            ] {
                let used = sample(page, name, labels).with_context(|| format!("{name} is not on\n{page}"))?;
                let limit = sample(page, &format!("{name}_limit"), labels)
                    .with_context(|| format!("{name}_limit"))?;
                ensure!(used >= least && used <= limit, "{name}{labels:?} is {used} of {limit}");
            }
            // And what has a limit has a use, whatever it is called.
            let names: BTreeSet<&str> =
                near.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
            let alone = names
                .iter()
                .filter_map(|name| name.strip_suffix("_limit"))
                .filter(|name| !names.contains(name));
            // Both queues of a pool have one limit.
            let alone: Vec<_> = alone.filter(|name| *name != "meridian_queued_requests").collect();
            ensure!(alone.is_empty(), "a limit without a use: {alone:?}");
            Ok(())
        })
        .await?;
        request.await??;
        Ok(())
    });
}

#[test]
fn the_unit_is_tight() {
    prove!(Light, secs(60), async |_stage| {
        let Some(program) = peer::find("systemd-analyze") else {
            skip("systemd-analyze is not installed");
            return Ok(());
        };
        let unit = deploy("meridian.service");
        let arguments = ["security", "--offline=true", "--no-pager", &unit.to_string_lossy()];
        let said = peer::said(&program.to_string_lossy(), &arguments).await?;
        exposure(&said)
    });
}

fn exposure(said: &str) -> Result<()> {
    let line = said.lines().find(|line| line.contains("Overall exposure level")).context("no verdict")?;
    let level = line.split_whitespace().find_map(|word| word.parse::<f64>().ok()).context("no number")?;
    ensure!(level <= 2.0, "{line}");
    Ok(())
}
