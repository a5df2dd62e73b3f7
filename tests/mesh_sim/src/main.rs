//! A mesh of a hundred nodes in ten regions in one process, on a virtual clock: one seed is one run.
//!
//! ```text
//!   seed ─▶ chance     what chitchat, tokio and the nodes draw
//!     │
//!   World   nodes (the real driver, chitchat, beliefs and encodings of `gossip`; the real assignment of `node`)
//!     ├── Weather   delay, loss and cuts between the nodes, over the network in memory of `gossip`
//!     ├── Log       what each node came to believe, and when
//!     └── Duties    what 1,000 backends make the nodes say
//!           │
//!        scenarios ─▶ Report: figures with their limits; what broke one
//! ```
//!
//! Not here: QUIC and TLS, whose packets would take a hundred times as long; their loss, repetition and time-outs are modelled.
//! What they do is proven with real processes (`tests`, `tests/chaos`).

#![allow(missing_docs, unreachable_pub, reason = "a program")]

mod chance;
mod duties;
mod log;
mod report;
mod scenarios;
mod weather;
mod world;

use std::process::ExitCode;

use clap::Parser;
use gossip::clock::{Clock, Wall};

use self::scenarios::{SCENARIOS, Size};

/// Plays one scenario with one seed, and prints its figures: name, figure, unit, limit, separated by tabs.
#[derive(Debug, Parser)]
struct Arguments {
    /// What is played; `--list` names all.
    #[arg(required_unless_present = "list")]
    scenario: Option<String>,
    /// Decides everything that chance does.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Regions of the mesh.
    #[arg(long, default_value_t = 10)]
    regions: usize,
    /// Nodes in each of them.
    #[arg(long, default_value_t = 10)]
    nodes: usize,
    /// How often what the scenario is about happens.
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// How long the long ones last, in virtual minutes.
    #[arg(long, default_value_t = 60)]
    minutes: u64,
    /// List the scenarios and end.
    #[arg(long)]
    list: bool,
    /// Print what each node came to believe, and when.
    #[arg(long)]
    log: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let wanted = arguments.scenario.as_deref().unwrap_or_default();
    if arguments.list {
        for scenario in SCENARIOS {
            println!("{:12} {}", scenario.name, scenario.about);
        }
        return ExitCode::SUCCESS;
    }
    let Some(scenario) = SCENARIOS.iter().find(|scenario| scenario.name == wanted) else {
        eprintln!("no scenario {wanted}; see --list");
        return ExitCode::from(2);
    };
    let Arguments { seed, regions, nodes, rounds, minutes, .. } = arguments;
    let size = Size { regions, nodes_each: nodes, rounds, minutes };
    chance::seed(seed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime without input and output needs nothing");
    let report = runtime.block_on(async {
        let clock = Clock::of_runtime(Wall(1_700_000_000_000));
        (scenario.play)(seed, size, clock).await
    });
    match report {
        Ok(report) => {
            if arguments.log {
                eprint!("{}", report.log);
            }
            print!("{report}");
            for broken in &report.broken {
                eprintln!("seed {seed}: {broken}");
            }
            if report.broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("seed {seed}: {error}");
            ExitCode::FAILURE
        }
    }
}
