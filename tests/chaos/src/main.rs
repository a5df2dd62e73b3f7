//! Chaos: six nodes in three regions, each on a host of its own (a network namespace), 80 ms apart between regions and 1 ms
//! within, with users who shop and ask DNS while things break.
//!
//! ```text
//!   host (namespace) ── TUN ──▶ switch: every packet, lost or late as the weather says ──▶ TUN ── host
//!   users: browsers behind a resolver      watch: what each node says of itself and others      scenarios: what breaks
//! ```
//!
//! `cargo run -p chaos` prints a table, and fails when a limit is exceeded. Needs root, iproute2, faketime.

#![allow(missing_docs, unreachable_pub, reason = "a program")]

mod distances;
mod field;
mod host;
mod scenarios;
mod switch;
mod tun;
mod users;
mod watch;
mod weather;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use comfy_table::{ContentArrangement, Table, presets};
use tests::peer;
use tests::stage::skip;

use self::field::{Field, Ground};
use self::scenarios::{Found, SCENARIOS, Scenario, play};
use self::users::Figures;

/// Breaks a mesh of six hosts in every way that is known to happen, and tells what users feel.
#[derive(Debug, Parser)]
struct Arguments {
    /// Only this scenario; may be given several times.
    #[arg(long = "scenario", value_name = "NAME")]
    scenarios: Vec<String>,
    /// List the scenarios with their limits and end.
    #[arg(long)]
    list: bool,
    /// The binary that is put to the test.
    #[arg(long, env = "MERIDIAN", default_value = "target/debug/meridian")]
    meridian: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.list {
        for Scenario { name, about, limits, .. } in SCENARIOS {
            println!(
                "{name:12} {about}: at most {} failed, {} moved, {} s until seen, {} s until DNS has moved, {} s to heal",
                limits.failed, limits.moved, limits.detected, limits.dns, limits.healed
            );
        }
        return ExitCode::SUCCESS;
    }
    if let Some(unknown) =
        arguments.scenarios.iter().find(|name| SCENARIOS.iter().all(|each| each.name != **name))
    {
        eprintln!("no scenario {unknown}; see --list");
        return ExitCode::from(2);
    }
    if !rustix::process::getuid().is_root() {
        skip("network namespaces and TUN devices need root");
        return ExitCode::SUCCESS;
    }
    if peer::all(["ip", "faketime", "unshare"]).is_none() {
        return ExitCode::SUCCESS;
    }
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error:?}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<bool> {
    let program = arguments.meridian.canonicalize().with_context(|| {
        format!("{}: no such program; cargo build makes one", arguments.meridian.display())
    })?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let ground = Ground::lay(&program)?;
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header([
        "scenario",
        "requests",
        "failed",
        "slow",
        "moved",
        "unresolved",
        "seen s",
        "DNS s",
        "healed s",
        "",
    ]);
    let mut sound = true;
    let wanted = |scenario: &&Scenario| {
        arguments.scenarios.is_empty() || arguments.scenarios.iter().any(|name| name == scenario.name)
    };
    for scenario in SCENARIOS.iter().filter(wanted) {
        let (figures, found, wrong) = runtime.block_on(one(&ground, scenario))?;
        let time = |time: Option<Duration>| {
            time.map_or_else(|| "-".into(), |time| format!("{:.1}", time.as_secs_f64()))
        };
        let Figures { requests, failed, slow, moved, unresolved, .. } = figures;
        let verdict = if wrong.is_empty() { "kept".to_owned() } else { "EXCEEDED".to_owned() };
        eprintln!(
            "{}: {verdict} ({requests} requests, {failed} failed, {moved} moved){}",
            scenario.name,
            wrong.iter().map(|wrong| format!("\n  {wrong}")).collect::<String>()
        );
        sound &= wrong.is_empty();
        table.add_row([
            scenario.name.to_owned(),
            requests.to_string(),
            failed.to_string(),
            slow.to_string(),
            moved.to_string(),
            unresolved.to_string(),
            time(found.detected),
            time(found.dns),
            time(found.healed),
            verdict,
        ]);
    }
    println!("{table}");
    Ok(sound)
}

/// Plays a scenario on a mesh of its own; returns what was measured, and which limits it exceeded.
async fn one(ground: &Ground, scenario: &Scenario) -> Result<(Figures, Found, Vec<String>)> {
    let folder = tempfile::Builder::new().prefix("meridian-chaos-").tempdir()?;
    let mut field = Field::set(ground, folder.path(), scenario.seeds).await.with_context(|| scenario.name)?;
    // All users have a session.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let before = field.figures();
    let played = play(scenario.name, &mut field).await;
    // What was under way ends.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let figures = field.figures() - before;
    let mut wrong = Vec::new();
    let found = played.unwrap_or_else(|error| {
        wrong.push(format!("{error:#}"));
        Found::default()
    });
    let limits = scenario.limits;
    if figures.failed > limits.failed {
        wrong.push(format!(
            "{} requests failed, at most {} may; the last: {}",
            figures.failed,
            limits.failed,
            field.last_failure()
        ));
    }
    if figures.moved > limits.moved {
        wrong.push(format!("{} sessions moved, at most {} may", figures.moved, limits.moved));
    }
    let times = [
        ("seen", found.detected, limits.detected),
        ("DNS moved", found.dns, limits.dns),
        ("healed", found.healed, limits.healed),
    ];
    for (what, time, limit) in times {
        if let Some(time) = time.filter(|time| time.as_secs_f64() > limit) {
            wrong.push(format!("{what} after {:.1} s, {limit} s at most", time.as_secs_f64()));
        }
    }
    if !wrong.is_empty()
        && let Some(kept) = std::env::var_os("CHAOS_KEEP")
    {
        let kept = PathBuf::from(kept).join(scenario.name);
        std::fs::create_dir_all(&kept)?;
        for node in ground.names() {
            std::fs::write(kept.join(format!("{node}.log")), field.log(node))?;
        }
    }
    field.clear().await?;
    Ok((figures, found, wrong))
}
