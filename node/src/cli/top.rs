//! `meridian top`: who the users are and how they are served, at a glance.

use std::io::IsTerminal;
use std::time::Duration;

use clap::{Args, ValueEnum};
use http::Method;

use super::exit::CliError;
use super::output::{item, json, line, table};
use super::watch::watched;
use super::{Format, Global, problems};
use crate::admin::api::{SecondStatus, Status, TrafficStatus, UsersStatus};

/// How often it looks, on a terminal.
const EVERY: Duration = Duration::from_secs(2);
/// Seconds in a sparkline.
const SPARK: usize = 60;
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

#[derive(Debug, Args)]
pub(super) struct TopArgs {
    /// What to rank.
    #[arg(value_enum, default_value = "all")]
    what: What,
    /// Rows of networks.
    #[arg(long, default_value_t = 15, value_name = "COUNT")]
    rows: usize,
    /// Look once, also on a terminal.
    #[arg(long)]
    once: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    All,
    Services,
    Regions,
    Networks,
}

/// What is printed as JSON.
#[derive(serde::Serialize)]
struct Top {
    traffic: TrafficStatus,
    users: UsersStatus,
}

pub(super) async fn run(global: &Global, args: TopArgs) -> Result<(), CliError> {
    let live = std::io::stdout().is_terminal() && global.output == Format::Table && !args.once;
    let watch = global.watch.or(live.then_some(EVERY));
    let global = Global { watch, ..global.clone() };
    watched(&global, async || show(&global, &args).await).await
}

async fn show(global: &Global, args: &TopArgs) -> Result<(), CliError> {
    let client = global.client()?;
    let traffic: TrafficStatus = client.json(Method::GET, "/v1/traffic").await?;
    let users: UsersStatus = client.json(Method::GET, "/v1/users").await?;
    if global.output == Format::Json {
        return json(&Top { traffic, users });
    }
    let status: Status = client.json(Method::GET, "/v1/status").await?;
    let verdict = if status.degraded { "degraded" } else { "healthy" };
    let (nodes, sessions) = (status.members.len(), status.sessions.count);
    line(format_args!("mesh {verdict} · {nodes} nodes · {sessions} sessions · asked {}", status.node));
    let problems = problems::grouped(&status.problems, &status.members);
    problems.iter().take(3).for_each(|problem| item("!", problem));
    gauges(&traffic.seconds).into_iter().for_each(line);
    if !traffic.silent.is_empty() {
        line(format_args!("no answer from {}", traffic.silent.join(", ")));
    }
    let wants = |what| args.what == What::All || args.what == what;
    if wants(What::Services) {
        line("");
        services(&users);
    }
    if wants(What::Regions) {
        line("");
        regions(&users);
    }
    if wants(What::Networks) {
        line("");
        networks(&users, args.rows);
    }
    Ok(())
}

/// Four lines: requests, success, latency, DNS, each over the last minute.
fn gauges(seconds: &[SecondStatus]) -> Vec<String> {
    let shown = &seconds[..seconds.len().min(SPARK)];
    // The newest second may not be whole yet on every node: the mean of the last five.
    let last = &shown[..shown.len().min(5)];
    let mean =
        |of: &dyn Fn(&SecondStatus) -> f64| last.iter().map(of).sum::<f64>() / last.len().max(1) as f64;
    let newest = |of: &dyn Fn(&SecondStatus) -> Option<f64>| {
        last.iter()
            .filter_map(of)
            .fold(None, |most: Option<f64>, is| Some(most.map_or(is, |most| most.max(is))))
    };
    let requests = mean(&|second| second.requests as f64);
    let failed = mean(&|second| second.failed as f64);
    let success =
        if requests > 0.0 { format!("{:.2} %", 100.0 * (1.0 - failed / requests)) } else { "-".into() };
    let millis = |is: Option<f64>| is.map_or_else(|| "-".into(), |is| format!("{is} ms"));
    let spark = |of: &dyn Fn(&SecondStatus) -> f64| sparkline(shown.iter().rev().map(of));
    vec![
        format!("requests/s {:>12.1}  {}", requests, spark(&|second| second.requests as f64)),
        format!("success    {success:>12}  {}", spark(&|second| second.failed as f64)),
        format!(
            "p50 / p99  {:>12}  {}",
            format!("{} / {}", millis(newest(&|of| of.p50_ms)), millis(newest(&|of| of.p99_ms))),
            spark(&|second| second.p99_ms.unwrap_or(0.0))
        ),
        format!(
            "DNS/s      {:>12.1}  {}",
            mean(&|second| second.dns_queries as f64),
            spark(&|second| second.dns_queries as f64)
        ),
    ]
}

/// One character a value, the greatest the tallest; nothing is a space.
fn sparkline(values: impl Iterator<Item = f64>) -> String {
    let values: Vec<f64> = values.collect();
    let most = values.iter().copied().fold(0.0, f64::max);
    let bar = |value: f64| match value > 0.0 && most > 0.0 {
        false => ' ',
        true => BARS[((value / most * 8.0).ceil() as usize).clamp(1, 8) - 1],
    };
    values.into_iter().map(bar).collect()
}

fn services(users: &UsersStatus) {
    let mut all: Vec<_> = users.services.iter().collect();
    all.sort_by_key(|of| std::cmp::Reverse(of.requests));
    table(
        &["service", "requests", "failed", "refused", "sent"],
        all.iter().map(|of| {
            let counts = [of.requests, of.failed, of.refused].map(|count| count.to_string());
            [vec![of.name.clone()], counts.into(), vec![bytes(of.sent_bytes)]].concat()
        }),
    );
}

fn regions(users: &UsersStatus) {
    table(
        &["region", "requests/s", "requests", "failed", "refused", "sent", "tunnels out/in"],
        users.regions.iter().map(|of| {
            vec![
                of.name.clone(),
                format!("{:.1}", of.requests_per_second),
                of.requests.to_string(),
                of.failed.to_string(),
                of.refused.to_string(),
                bytes(of.sent_bytes),
                format!("{} / {}", of.tunnels_out, of.tunnels_in),
            ]
        }),
    );
}

fn networks(users: &UsersStatus, rows: usize) {
    let (least, most) = users.networks_seconds;
    line(format_args!("networks that asked most in the last {least} to {most} s"));
    table(
        &["network", "requests", "errors", "sent", "deny with"],
        users.networks.iter().take(rows).map(|of| {
            let about = if of.doubt > 0 { "≤ " } else { "" };
            vec![
                of.network.clone(),
                format!("{about}{}", of.requests),
                of.errors.to_string(),
                bytes(of.sent_bytes),
                format!("meridian deny add {} --for 1h", of.network),
            ]
        }),
    );
}

/// In the largest unit that leaves a number of at least one.
fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (count as f64, 0);
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sparkline_rises_with_its_values() {
        assert_eq!(sparkline([0.0, 1.0, 4.0, 8.0].into_iter()), " ▁▄█");
        assert_eq!(sparkline([0.0, 0.0].into_iter()), "  ");
        assert_eq!(sparkline(std::iter::empty()), "");
    }

    #[test]
    fn bytes_are_written_for_people() {
        assert_eq!(
            [bytes(0), bytes(1023), bytes(1536), bytes(5 << 30)],
            ["0 B", "1023 B", "1.5 KiB", "5.0 GiB"]
        );
    }

    #[test]
    fn no_second_yet_is_no_panic() {
        assert_eq!(gauges(&[]).len(), 4);
    }
}
