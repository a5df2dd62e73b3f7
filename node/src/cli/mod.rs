//! The command line: one command a file.
//!
//! Every command but `start`, `demo`, `key` and `validate` asks a running node over its admin API; any node answers
//! for the whole mesh. Standard output carries the answer, standard error everything else.

mod apply;
mod backend;
mod client;
pub(crate) mod demo;
mod diff;
mod dns;
mod drain;
mod exit;
mod history;
mod key;
mod lease;
mod members;
mod output;
mod pools;
mod run;
mod scale;
mod sessions;
mod sources;
mod start;
mod status;
mod validate;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

use self::client::Client;
use self::exit::CliError;

/// A load balancer with no centre: start nodes with a seed list, point DNS delegation at them.
#[derive(Debug, Parser)]
#[command(name = "meridian", version, propagate_version = true, max_term_width = 100, after_help = EXIT_CODES)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 ok, 1 failure, 2 usage, 3 invalid configuration, 4 no node answers, \
5 conflict, 6 timeout";

/// What every command takes, set apart from its own options.
const COMMON: &str = "Common options";

#[derive(Debug, Args)]
struct Global {
    /// How answers are printed.
    #[arg(short, long, global = true, value_enum, default_value = "table", help_heading = COMMON)]
    output: Format,
    /// The node to ask: http://HOST:PORT or the path of its admin socket. Default: the socket in the data folder,
    /// then http://127.0.0.1:7900. A token is read from MERIDIAN_TOKEN.
    #[arg(long, global = true, env = "MERIDIAN_NODE", value_name = "URL-OR-SOCKET", help_heading = COMMON)]
    node: Option<String>,
    /// The data folder. Default: /var/lib/meridian when it can be written, else the user's data folder.
    #[arg(long, global = true, env = "MERIDIAN_DATA", value_name = "FOLDER", help_heading = COMMON)]
    data: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a mesh with backends on this machine's loopback: the whole story with one command.
    Demo(demo::DemoArgs),
    /// Start a node.
    Start(Box<start::StartArgs>),
    /// Make mesh keys, and change those of a running mesh.
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// Give the mesh a new services.toml; any node takes it for all.
    Apply(apply::ApplyArgs),
    /// Show what a services.toml would change, or what a revision changed.
    Diff(diff::DiffArgs),
    /// List the revisions of the configuration, those too that lost against another.
    History,
    /// Make an old revision's configuration the newest one.
    Rollback(history::RollbackArgs),
    /// Check a configuration file without a node.
    Validate(validate::ValidateArgs),
    /// Show the state of the whole mesh.
    Status,
    /// List the nodes.
    Members,
    /// List the pools and their backends.
    Pools(pools::PoolsArgs),
    /// Count the sessions by backend and list some, or show where the copies of one lie.
    Sessions(sessions::SessionsArgs),
    /// Say whether all replicas of all sessions hold the same.
    Consistency,
    /// Look at what DNS tells users, and what the parents of zones need to know.
    #[command(subcommand)]
    Dns(dns::DnsCommand),
    /// Take no new sessions on a node, backend, region or pool; present sessions stay.
    Drain(drain::DeadlineArgs),
    /// Undo a drain.
    Undrain(drain::DrainArgs),
    /// Add a backend to a pool, or take it out.
    #[command(subcommand)]
    Backend(backend::BackendCommand),
    /// Run a process as a backend: in its pool when its port answers, drained before it ends.
    Run(run::RunArgs),
    /// What `run` becomes.
    #[command(hide = true)]
    RunChild(run::ChildArgs),
    /// Show the pools that grow and shrink with their load, and what the load asks for now.
    Scale(scale::ScaleArgs),
    /// List where the backends of pools come from, and whether that can be asked.
    Sources,
}

impl Global {
    fn data(&self) -> PathBuf {
        self.data.clone().unwrap_or_else(crate::config::default_data)
    }

    fn client(&self) -> Result<Client, CliError> {
        Client::new(self.node.as_deref(), &self.data())
    }
}

/// Parses the command line, runs the command, gives the exit code.
pub fn main() -> ExitCode {
    crate::app::install_crypto();
    let cli = Cli::parse();
    let ended = match cli.command {
        Command::Start(args) => start::run(&cli.global, *args),
        Command::Demo(args) => demo::run(args),
        Command::Key(command) => key::run(&cli.global, command),
        Command::Validate(args) => validate::run(&cli.global, &args),
        Command::Apply(args) => ask(apply::run(&cli.global, args)),
        Command::Diff(args) => ask(diff::run(&cli.global, args)),
        Command::History => ask(history::run(&cli.global)),
        Command::Rollback(args) => ask(history::rollback(&cli.global, args)),
        Command::Status => ask(status::run(&cli.global)),
        Command::Members => ask(members::run(&cli.global)),
        Command::Pools(args) => ask(pools::run(&cli.global, args)),
        Command::Sessions(args) => ask(sessions::run(&cli.global, args)),
        Command::Consistency => ask(sessions::consistency(&cli.global)),
        Command::Dns(command) => ask(dns::run(&cli.global, command)),
        Command::Drain(args) => ask(drain::drain(&cli.global, args)),
        Command::Undrain(args) => ask(drain::undrain(&cli.global, args)),
        Command::Backend(command) => ask(backend::run(&cli.global, command)),
        Command::RunChild(args) => run::child(args),
        Command::Run(args) => run_to_end(run::run(&cli.global, args)),
        Command::Scale(args) => ask(scale::run(&cli.global, args)),
        Command::Sources => ask(sources::run(&cli.global)),
    };
    match ended {
        Ok(code) => code,
        Err(error) => error.report(),
    }
}

fn ask(command: impl Future<Output = Result<(), CliError>>) -> Result<ExitCode, CliError> {
    run_to_end(async { command.await.map(|()| ExitCode::SUCCESS) })
}

fn run_to_end(command: impl Future<Output = Result<ExitCode, CliError>>) -> Result<ExitCode, CliError> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
