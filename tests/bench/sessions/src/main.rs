//! The measurements behind `tests/bench/sessions.sh`, one command each. Every line printed is `NAME<tab>FIGURE<tab>UNIT`.

mod death;
mod micro;
mod node;
mod origin;
mod region;
mod system;
mod users;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Parser;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Debug, Parser)]
enum Command {
    /// Cookies, look-ups and memory, with no network.
    Micro {
        /// Pins in the table.
        #[arg(long, default_value_t = 1_000_000)]
        pins: usize,
    },
    /// A region of three nodes in one process: new pins a second, disk, traffic at rest.
    Region {
        /// New pins.
        #[arg(long, default_value_t = 1_000_000)]
        pins: usize,
        /// Commits under way at once.
        #[arg(long, default_value_t = 2000)]
        in_flight: usize,
        /// Seconds of rest in which traffic is counted; 0: not at all. Only in a network of its own does that mean anything.
        #[arg(long, default_value_t = 0)]
        rest: u64,
        /// The nodes' data folders are made in this one and left there.
        #[arg(long)]
        data: PathBuf,
    },
    /// Starts the first node of a region again that `region` has left behind.
    Restart {
        /// The same folder.
        #[arg(long)]
        data: PathBuf,
    },
    /// A region of four: one dies, and comes back later.
    Death {
        /// Pins before the death.
        #[arg(long, default_value_t = 1_000_000)]
        pins: usize,
        /// New pins while it is away.
        #[arg(long, default_value_t = 20_000)]
        meanwhile: usize,
        /// As for `region`.
        #[arg(long)]
        data: PathBuf,
    },
    /// An HTTP server that thinks.
    Origin {
        /// Where it listens.
        listen: SocketAddr,
        /// How long it thinks before each answer.
        #[arg(long, default_value_t = 2000)]
        think_micros: u64,
    },
    /// Asks two hosts in turn on one connection; how much longer the first one takes at the median.
    Compare {
        /// Whom to ask.
        to: SocketAddr,
        /// The two.
        hosts: Vec<String>,
        /// Requests to each.
        #[arg(long, default_value_t = 2000)]
        requests: usize,
    },
    /// Begins sessions as fast as answers come until the server is gone or so many have begun; writes the ids that were
    /// answered to a file.
    Flood {
        /// Whom to ask.
        to: SocketAddr,
        /// For which host.
        host: String,
        /// Connections.
        #[arg(long, default_value_t = 16)]
        connections: usize,
        /// Sessions at most.
        #[arg(long, default_value_t = 1_000_000)]
        sessions: usize,
        /// Kills this process with SIGKILL right after so many answers.
        #[arg(long, num_args = 2, value_names = ["PID", "ANSWERS"])]
        kill: Vec<usize>,
        /// Where the ids go, a line each.
        #[arg(long)]
        answered: PathBuf,
    },
}

fn main() -> anyhow::Result<()> {
    match Command::parse() {
        Command::Micro { pins } => micro::run(pins),
        Command::Region { pins, in_flight, rest, data } => region::run(pins, in_flight, rest, &data),
        Command::Restart { data } => region::restart(&data),
        Command::Death { pins, meanwhile, data } => death::run(pins, meanwhile, &data),
        Command::Origin { listen, think_micros } => origin::run(listen, think_micros),
        Command::Compare { to, hosts, requests } => users::compare(to, &hosts, requests),
        Command::Flood { to, host, connections, sessions, kill, answered } => {
            let kill = if let [pid, after] = kill[..] { Some((pid, after)) } else { None };
            users::flood(to, &host, connections, sessions, kill, &answered)
        }
    }
}

/// One figure.
fn say(name: &str, figure: impl std::fmt::Display, unit: &str) {
    println!("{name}\t{figure}\t{unit}");
}
