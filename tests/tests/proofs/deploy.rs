//! What lies in `deploy/` works: alerts are rules that Prometheus takes and that fire, alerts and dashboards name metrics that
//! exist, the unit is as tight as it says.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use tests::backend::http_backends;
use tests::client::Browser;
use tests::cluster::Cluster;
use tests::peer;
use tests::prove;
use tests::services::Services;
use tests::stage::skip;
use tests::wait::secs;

fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(name)
}

/// Every word of a text that is a metric's name.
fn metrics(text: &str) -> BTreeSet<&str> {
    let part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.split(|c| !part(c)).filter(|word| word.starts_with("meridian_")).collect()
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
