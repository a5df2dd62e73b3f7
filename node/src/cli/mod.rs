//! The command line: one command a file.
//!
//! Every command but `start`, `proxy`, `demo`, `key`, `validate` and those for shells asks a running node over its admin API; any node answers
//! for the whole mesh. Standard output carries the answer, standard error everything else.

mod apply;
mod backend;
mod client;
pub(crate) mod demo;
mod diff;
mod dns;
mod doctor;
mod drain;
mod events;
mod exit;
mod fmt;
mod healthcheck;
mod history;
mod key;
mod lease;
mod members;
mod orders;
mod output;
mod pools;
mod progress;
mod proxy;
mod rtt;
mod run;
mod scale;
mod sessions;
mod shell;
mod sources;
mod start;
mod status;
mod supervisor;
mod top;
mod upgrade;
mod validate;
mod watch;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

use self::client::Client;
use self::exit::CliError;
use self::watch::watched;

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
5 conflict, 6 timeout, 7 degraded";

/// What every command takes, set apart from its own options.
const COMMON: &str = "Common options";

#[derive(Debug, Clone, Args)]
struct Global {
    /// How answers are printed.
    #[arg(short, long, global = true, value_enum, default_value = "table", help_heading = COMMON)]
    output: Format,
    /// The node to ask: http://HOST:PORT or the path of its admin socket. Default: the socket in the data folder,
    /// then http://127.0.0.1:7900. A token is read from MERIDIAN_TOKEN.
    #[arg(long, global = true, env = "MERIDIAN_NODE", value_name = "URL-OR-SOCKET", help_heading = COMMON)]
    node: Option<String>,
    /// Show the answer again every so often [default when given: 2s], until Ctrl-C: status, members, pools, sessions.
    #[arg(long, global = true, value_name = "TIME", value_parser = humantime::parse_duration,
        num_args = 0..=1, require_equals = true, default_missing_value = "2s", help_heading = COMMON)]
    watch: Option<Duration>,
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
    /// Balance one port over some backends, with no files at all.
    Proxy(proxy::ProxyArgs),
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
    /// Lay a configuration file out: white space alone changes.
    Fmt(fmt::FmtArgs),
    /// Show the state of the whole mesh.
    Status,
    /// List the nodes.
    #[command(visible_alias = "nodes")]
    Members,
    /// Show the round trips between all nodes.
    Rtt,
    /// List the pools and their backends.
    Pools(pools::PoolsArgs),
    /// Count the sessions by backend and list some, or show where the copies of one lie.
    Sessions(sessions::SessionsArgs),
    /// Show who the users are and how they are served: services, regions, networks.
    Top(top::TopArgs),
    /// List what happened of late, or follow it.
    Events(events::EventsArgs),
    /// Say whether all replicas of all sessions hold the same.
    Consistency,
    /// Look at what DNS tells users, and what the parents of zones need to know.
    #[command(subcommand)]
    Dns(dns::DnsCommand),
    /// Take no new sessions on a node, backend, region or pool; present sessions stay.
    Drain(drain::DeadlineArgs),
    /// Undo a drain or maintenance.
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
    /// Take everything off a backend, region or pool at once, or undo that.
    Maintenance(drain::MaintenanceArgs),
    /// Give a backend another weight than the file does.
    Weight(orders::WeightArgs),
    /// Give a service's new users to its pools by other shares than the file does.
    Split(orders::SplitArgs),
    /// Refuse the users of a network in every service.
    #[command(subcommand)]
    Deny(orders::DenyCommand),
    /// Go on with another version of the program, without losing a request.
    Upgrade(upgrade::UpgradeArgs),
    /// Look for what is wrong on this machine and in the mesh, and say what to do.
    Doctor(doctor::DoctorArgs),
    /// Say whether the node should get users: for supervisors and containers.
    Healthcheck,
    /// Print a completion script for a shell.
    Completion(shell::CompletionArgs),
    /// Print the manual page, or write one for every command.
    Man(shell::ManArgs),
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
    let global = &cli.global;
    let ended = match cli.command {
        Command::Start(args) => start::run(global, *args),
        Command::Proxy(args) => proxy::run(global, args),
        Command::Demo(args) => demo::run(args),
        Command::Key(command) => key::run(global, command),
        Command::Validate(args) => validate::run(global, &args),
        Command::Fmt(args) => fmt::run(&args),
        Command::Apply(args) => ask(apply::run(global, args)),
        Command::Diff(args) => ask(diff::run(global, args)),
        Command::History => ask(history::run(global)),
        Command::Rollback(args) => ask(history::rollback(global, args)),
        Command::Status => ask(watched(global, async || status::run(global).await)),
        Command::Rtt => ask(watched(global, async || rtt::run(global).await)),
        Command::Members => ask(watched(global, async || members::run(global).await)),
        Command::Pools(args) => ask(watched(global, async || pools::run(global, &args).await)),
        Command::Sessions(args) => ask(sessions::run(global, args)),
        Command::Top(args) => ask(top::run(global, args)),
        Command::Events(args) => ask(events::run(global, args)),
        Command::Consistency => ask(sessions::consistency(global)),
        Command::Dns(command) => ask(dns::run(global, command)),
        Command::Drain(args) => ask(drain::drain(global, args)),
        Command::Undrain(args) => ask(drain::undrain(global, args)),
        Command::Maintenance(args) => ask(drain::maintenance(global, args)),
        Command::Weight(args) => ask(orders::weight(global, args)),
        Command::Split(args) => ask(orders::split(global, args)),
        Command::Deny(command) => ask(orders::deny(global, command)),
        Command::Upgrade(args) => ask(upgrade::run(global, args)),
        Command::Doctor(args) => answer(doctor::run(global, args)),
        Command::Healthcheck => answer(healthcheck::run(global)),
        Command::Completion(args) => Ok(shell::completion(&args, Cli::command())),
        Command::Man(args) => shell::man(&args, Cli::command()),
        Command::Backend(command) => ask(backend::run(global, command)),
        Command::RunChild(args) => run::child(args),
        Command::Run(args) => answer(run::run(global, args)),
        Command::Scale(args) => ask(scale::run(global, args)),
        Command::Sources => ask(sources::run(global)),
    };
    match ended {
        Ok(code) => code,
        Err(error) => error.report(global.output),
    }
}

fn ask(command: impl Future<Output = Result<(), CliError>>) -> Result<ExitCode, CliError> {
    answer(async { command.await.map(|()| ExitCode::SUCCESS) })
}

fn answer(command: impl Future<Output = Result<ExitCode, CliError>>) -> Result<ExitCode, CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
