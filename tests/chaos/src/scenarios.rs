//! What breaks, in which order, and what users may feel of it.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::services::REGIONS;
use tests::status::Status;
use tokio::time::sleep;

use crate::distances;
use crate::field::{Field, address_of, number_of};
use crate::watch::View;
use crate::weather::{Side, Weather};

/// A scenario and its limits: times in seconds, counts of users' requests.
pub(crate) struct Scenario {
    pub name: &'static str,
    pub about: &'static str,
    /// The nodes whose addresses all know.
    pub seeds: &'static [&'static str],
    pub limits: Limits,
}

/// What may not be exceeded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub failed: u64,
    pub moved: u64,
    pub detected: f64,
    pub dns: f64,
    pub healed: f64,
}

/// When what was seen, by all nodes that could.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Found {
    /// Until every other node took the fault for one.
    pub detected: Option<Duration>,
    /// Until no name server sent users there any more.
    pub dns: Option<Duration>,
    /// After its end: until all was well everywhere.
    pub healed: Option<Duration>,
}

const ALL: &[&str] = &["eu-1", "us-1", "ap-1"];
/// No user may feel anything.
const UNFELT: Limits = Limits { failed: 0, moved: 0, detected: 5.0, dns: 5.0, healed: 30.0 };
/// Users of one region, each of whom may move once and come back.
const ONE_REGION: u64 = 40;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "kill-node",
        about: "SIGKILL of eu-1, which returns after 15 s; its probes are handed on without a flap",
        seeds: ALL,
        limits: UNFELT,
    },
    Scenario {
        name: "kill-region",
        about: "SIGKILL of both nodes of eu, its backends live on; they return after 15 s",
        seeds: ALL,
        limits: Limits { moved: ONE_REGION, ..UNFELT },
    },
    Scenario {
        name: "cut-region",
        about: "eu cut off for 20 s, with its own users inside",
        seeds: ALL,
        limits: Limits { detected: 10.0, dns: 10.0, ..UNFELT },
    },
    Scenario {
        name: "halves",
        about: "the first node of each region cut off from the second ones for 20 s, and each half given another revision",
        seeds: ALL,
        limits: Limits { detected: 10.0, ..UNFELT },
    },
    Scenario {
        name: "one-way",
        about: "for 20 s nothing that eu-1 sends reaches the nodes of us",
        seeds: ALL,
        limits: UNFELT,
    },
    Scenario {
        name: "loss-5",
        about: "5 % of all packets between nodes lost for 20 s",
        seeds: ALL,
        limits: UNFELT,
    },
    Scenario { name: "loss-30", about: "30 % lost for 20 s", seeds: ALL, limits: UNFELT },
    Scenario {
        name: "jitter",
        about: "packets between nodes late by up to 500 ms for 20 s",
        seeds: ALL,
        limits: UNFELT,
    },
    Scenario { name: "freeze-3", about: "eu-1 stopped for 3 s (SIGSTOP)", seeds: ALL, limits: UNFELT },
    Scenario { name: "freeze-30", about: "eu-1 stopped for 30 s", seeds: ALL, limits: UNFELT },
    Scenario {
        name: "clock",
        about: "the clock of us-1 a minute ahead",
        seeds: ALL,
        limits: Limits { detected: 20.0, ..UNFELT },
    },
    Scenario {
        name: "disk-full",
        about: "ap-1 on a disk that is full",
        seeds: ALL,
        limits: Limits { detected: 30.0, ..UNFELT },
    },
    Scenario {
        name: "flapping",
        about: "a backend of eu that goes and comes ten times in 20 s",
        seeds: ALL,
        limits: Limits { moved: 10 * ONE_REGION, ..UNFELT },
    },
    Scenario {
        name: "distances",
        about: "regions unevenly far apart: the backends of us fail, then those of eu, then the distances change",
        seeds: ALL,
        limits: Limits { moved: 2 * ONE_REGION, detected: 10.0, ..UNFELT },
    },
    Scenario {
        name: "restarts",
        about: "eu-2 killed and started again every 3 s, six times",
        seeds: ALL,
        limits: UNFELT,
    },
    Scenario {
        name: "seeds-gone",
        about: "both seeds killed, then ap-2 too, which returns and finds the others; then the seeds",
        seeds: &["eu-1", "us-1"],
        limits: UNFELT,
    },
];

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn is_gone(status: &Status, node: &str) -> bool {
    status.member(node).is_ok_and(|member| member.state != "alive")
}

fn tells_of(view: &View, nodes: &[&str]) -> bool {
    let addresses: BTreeSet<Ipv4Addr> = nodes.iter().map(|node| address_of(node)).collect();
    view.answers.values().flatten().any(|told| addresses.contains(told))
}

/// Until those who can see it take these nodes for gone, and until no name server of theirs tells users of them.
async fn gone(field: &Field<'_>, nodes: &[&str], by: impl Fn(&str) -> bool + Copy) -> Result<Found> {
    let seen =
        field.until_among("it is seen", 60, by, |_, status| nodes.iter().all(|node| is_gone(status, node)));
    let untold = field
        .until_among("DNS has moved", 60, by, |view, _| !view.answers.is_empty() && !tells_of(view, nodes));
    let (detected, dns) = tokio::try_join!(seen, untold)?;
    Ok(Found { detected: Some(detected), dns: Some(dns), healed: None })
}

/// Looks on for a while, in which nobody may take a node for dead.
async fn nobody_dies(field: &Field<'_>, time: Duration) -> Result<()> {
    let end = field.clock.now() + time;
    while field.clock.now() < end {
        for (name, view) in field.views() {
            let dead =
                view.status.iter().flat_map(|status| status.members_that_are("dead")).collect::<Vec<_>>();
            ensure!(dead.is_empty(), "{name} takes {dead:?} for dead");
        }
        sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

/// Looks on for a while, in which nobody may take a backend from users. One check that comes late (`going-down`) takes none.
async fn nobody_flaps(field: &Field<'_>, time: Duration) -> Result<()> {
    let end = field.clock.now() + time;
    while field.clock.now() < end {
        for view in field.views().values() {
            let takes_users = |status: &Status| status.all_backends_are_of(&["up", "going-down"]);
            view.status.as_ref().map_or(Ok(()), takes_users)?;
        }
        sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// After two halves were given a revision each: all run the same of the two, and every node tells of the other one.
async fn one_revision(field: &Field<'_>) -> Result<()> {
    let tells =
        |status: &Status| status.problems.iter().any(|problem| problem.contains("meridian rollback 2:"));
    let whole = field.until("all run one revision and tell of the other", 60, |_, status| {
        let on = status.revision.as_ref().map(|revision| (revision.epoch, revision.nodes_on));
        on == Some((2, 6)) && tells(status)
    });
    whole.await?;
    let views = field.views();
    let of = |view: &View| Some(view.status.as_ref()?.revision.as_ref()?.hash.clone());
    let hashes: BTreeSet<String> = views.values().filter_map(of).collect();
    ensure!(hashes.len() == 1, "there are {hashes:?}");
    Ok(())
}

/// Lets `weather` rule for a while; then until all is well. Where the mesh `bears` it, nobody may be taken for dead.
async fn storm(field: &Field<'_>, weather: Weather, time: Duration, bears: bool) -> Result<Found> {
    field.weather(weather);
    if bears {
        nobody_dies(field, time).await?;
    } else {
        sleep(time).await;
    }
    field.weather(Weather::default());
    healed(field, Found::default()).await
}

async fn healed(field: &Field<'_>, found: Found) -> Result<Found> {
    Ok(Found { healed: Some(field.until_sound(120).await?), ..found })
}

pub(crate) async fn play(name: &str, field: &mut Field<'_>) -> Result<Found> {
    match name {
        "kill-node" => {
            field.kill("eu-1").await?;
            let (found, ()) =
                tokio::try_join!(gone(field, &["eu-1"], |_| true), nobody_flaps(field, secs(17)))?;
            field.start("eu-1", |command| command)?;
            healed(field, found).await
        }
        "kill-region" => {
            field.kill("eu-1").await?;
            field.kill("eu-2").await?;
            let found = gone(field, &["eu-1", "eu-2"], |_| true).await?;
            sleep(secs(15)).await;
            field.start("eu-1", |command| command)?;
            field.start("eu-2", |command| command)?;
            healed(field, found).await
        }
        "cut-region" => {
            field.weather(Weather { apart: Some(number_of("eu")), ..Weather::default() });
            let found = gone(field, &["eu-1", "eu-2"], |node| !node.starts_with("eu")).await?;
            sleep(secs(20)).await;
            field.weather(Weather::default());
            healed(field, found).await
        }
        "halves" => {
            let half = |number: u8| REGIONS.map(|(region, ..)| address_of(&format!("{region}-{number}")));
            field.weather(Weather::halves(&half(1), &half(2)));
            let others = |number: u8| REGIONS.map(|(region, ..)| format!("{region}-{number}"));
            let of = |number: char| move |node: &str| node.ends_with(number);
            let (ones, twos) = (others(1), others(2));
            let first = field.until_among("the first half sees it", 60, of('1'), |_, status| {
                twos.iter().all(|node| is_gone(status, node))
            });
            let second = field.until_among("the second half sees it", 60, of('2'), |_, status| {
                ones.iter().all(|node| is_gone(status, node))
            });
            let (first, second) = tokio::try_join!(first, second)?;
            field.apply("eu-1", "# by the first half").await?;
            field.apply("us-2", "# by the second half").await?;
            sleep(secs(20)).await;
            field.weather(Weather::default());
            one_revision(field).await?;
            healed(field, Found { detected: Some(first.max(second)), ..Found::default() }).await
        }
        "one-way" => {
            let cuts =
                ["us-1", "us-2"].map(|node| (Side::Host(address_of("eu-1")), Side::Host(address_of(node))));
            storm(field, Weather { cuts: cuts.to_vec(), ..Weather::default() }, secs(20), false).await
        }
        "loss-5" => storm(field, Weather { loss: 0.05, ..Weather::default() }, secs(20), true).await,
        "loss-30" => storm(field, Weather { loss: 0.3, ..Weather::default() }, secs(20), false).await,
        "jitter" => {
            let jitter = Duration::from_millis(500);
            storm(field, Weather { jitter, ..Weather::default() }, secs(20), true).await
        }
        "freeze-3" => {
            field.freeze("eu-1", true)?;
            nobody_dies(field, secs(3)).await?;
            field.freeze("eu-1", false)?;
            nobody_dies(field, secs(5)).await?;
            healed(field, Found::default()).await
        }
        "freeze-30" => {
            field.freeze("eu-1", true)?;
            let found = gone(field, &["eu-1"], |_| true).await?;
            sleep(secs(30).saturating_sub(found.dns.unwrap_or_default())).await;
            field.freeze("eu-1", false)?;
            healed(field, found).await
        }
        "clock" => {
            field.kill("us-1").await?;
            let ahead = tests::peer::faketime().context("apt-get install faketime")?;
            field.start("us-1", |mut command| {
                command
                    .env("LD_PRELOAD", ahead)
                    .env("FAKETIME", "+60s")
                    .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
                command
            })?;
            let told = field.until_among(
                "it is told",
                60,
                |node| node == "us-1" || node == "us-2",
                |_, status| status.problems.iter().any(|problem| problem.contains("clock")),
            );
            let detected = Some(told.await?);
            sleep(secs(10)).await;
            field.kill("us-1").await?;
            field.start("us-1", |command| command)?;
            healed(field, Found { detected, ..Found::default() }).await
        }
        "disk-full" => {
            field.kill("ap-1").await?;
            let data = field.data("ap-1");
            field.start("ap-1", |command| {
                let script = "mount -t tmpfs -o size=24m none \"$0\" && { dd if=/dev/zero of=\"$0/filler\" bs=4k 2>/dev/null || true; } && exec \"$@\"";
                let mut full = Command::new("unshare");
                full.args(["--mount", "sh", "-c", script]).arg(&data).arg(command.get_program()).args(command.get_args());
                full
            })?;
            let told = field.until_among(
                "it is told",
                60,
                |node| node == "ap-1",
                |_, status| status.problems.iter().any(|problem| problem.contains("disk")),
            );
            let detected = Some(told.await?);
            sleep(secs(10)).await;
            field.kill("ap-1").await?;
            field.start("ap-1", |command| command)?;
            healed(field, Found { detected, ..Found::default() }).await
        }
        "flapping" => {
            for _ in 0..10 {
                field.backend("eu", 0, false).await?;
                sleep(secs(1)).await;
                field.backend("eu", 0, true).await?;
                sleep(secs(1)).await;
            }
            healed(field, Found::default()).await
        }
        "distances" => {
            let detected = Some(distances::play(field).await?);
            healed(field, Found { detected, ..Found::default() }).await
        }
        "restarts" => {
            for _ in 0..6 {
                field.kill("eu-2").await?;
                field.start("eu-2", |command| command)?;
                sleep(secs(3)).await;
            }
            healed(field, Found::default()).await
        }
        "seeds-gone" => {
            field.kill("eu-1").await?;
            field.kill("us-1").await?;
            let found = gone(field, &["eu-1", "us-1"], |_| true).await?;
            field.kill("ap-2").await?;
            sleep(secs(5)).await;
            field.start("ap-2", |command| command)?;
            field
                .until("those left find each other", 60, |_, status| {
                    ["eu-2", "us-2", "ap-1", "ap-2"]
                        .iter()
                        .all(|node| !is_gone(status, node) && status.member(node).is_ok())
                })
                .await?;
            field.start("eu-1", |command| command)?;
            field.start("us-1", |command| command)?;
            healed(field, found).await
        }
        other => anyhow::bail!("no scenario {other}"),
    }
}
