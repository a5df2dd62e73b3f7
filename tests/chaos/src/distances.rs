//! Regions that are unevenly far apart. One that has lost its backends is served by the region that is nearest to it by the
//! round trips that its nodes measure, whatever the map says; and by another one when the ways change.

use std::time::Duration;

use anyhow::{Result, ensure};
use tests::status::Status;
use tokio::time::sleep;

use crate::field::{Field, number_of};
use crate::weather::Weather;

/// Round trips between regions, in milliseconds. By the map the region next to us is eu, and the one next to eu is us.
type Distances = [(&'static str, &'static str, u64); 3];
const AT_FIRST: Distances = [("us", "ap", 20), ("eu", "us", 80), ("eu", "ap", 140)];
const LATER: Distances = [("us", "ap", 20), ("eu", "us", 140), ("eu", "ap", 80)];
/// Until all nodes show the round trips of all. They tell them twice a minute.
const SHOWN_SECONDS: u64 = 90;
/// A round trip is shown as longer than it is by so much, on a busy machine.
const LATE_MS: f64 = 25.0;
const PATIENCE: Duration = Duration::from_secs(60);

/// The longest that users were carried to another region than the nearest.
pub(crate) async fn play(field: &Field<'_>) -> Result<Duration> {
    field.weather(weather(&AT_FIRST));
    field
        .until("status shows how far the regions are", SHOWN_SECONDS, |_, status| shows(status, &AT_FIRST))
        .await?;

    backends(field, "us", false).await?;
    let first = served_by(field, "us", "ap").await?;
    backends(field, "us", true).await?;
    served_by(field, "us", "us").await?;

    backends(field, "eu", false).await?;
    let second = served_by(field, "eu", "us").await?;
    field.weather(weather(&LATER));
    let third = served_by(field, "eu", "ap").await?;
    field
        .until("status shows how far they are now", SHOWN_SECONDS, |_, status| shows(status, &LATER))
        .await?;
    let still = field.newcomers("eu").await?;
    ensure!(still.iter().all(|region| region == "ap"), "users of eu are served by {still:?} again");

    backends(field, "eu", true).await?;
    field.weather(Weather::default());
    Ok(first.max(second).max(third))
}

fn weather(distances: &Distances) -> Weather {
    let one_way = |millis: u64| Duration::from_millis(millis) / 2;
    let distances = distances.map(|(one, other, millis)| (number_of(one), number_of(other), one_way(millis)));
    Weather { distances: distances.to_vec(), ..Weather::default() }
}

async fn backends(field: &Field<'_>, region: &'static str, open: bool) -> Result<()> {
    for number in 0..2 {
        field.backend(region, number, open).await?;
    }
    Ok(())
}

/// How long it takes until newcomers at all nodes of a region are served by another one; no request may fail meanwhile.
async fn served_by(field: &Field<'_>, region: &'static str, by: &str) -> Result<Duration> {
    let begun = field.clock.now();
    loop {
        let served = field.newcomers(region).await?;
        let passed = field.clock.now() - begun;
        if served.iter().all(|each| each == by) {
            return Ok(passed);
        }
        ensure!(
            passed < PATIENCE,
            "after {PATIENCE:?} newcomers of {region} are served by {served:?}, not by {by}"
        );
        sleep(Duration::from_millis(100)).await;
    }
}

/// Whether a node shows these round trips between all nodes of these regions.
fn shows(status: &Status, distances: &Distances) -> bool {
    distances.iter().all(|(one, other, millis)| {
        let between = |from: &str, to: &str| {
            let rtt = status.rtt_ms.get(from).and_then(|row| *row.get(to)?);
            rtt.is_some_and(|rtt| (0.9 * *millis as f64..*millis as f64 * 1.15 + LATE_MS).contains(&rtt))
        };
        let names = |region: &str| [1, 2].map(|number| format!("{region}-{number}"));
        names(one)
            .iter()
            .all(|one| names(other).iter().all(|other| between(one, other) && between(other, one)))
    })
}
