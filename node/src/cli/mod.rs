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
mod escape;
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
mod problems;
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
mod usage;
mod validate;
mod watch;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

use self::client::{Client, Whom};
use self::exit::{CliError, Exit};
use self::watch::watched;

/// A load balancer with no centre: start nodes with a seed list, point DNS delegation at them.
#[derive(Debug, Parser)]
#[command(name = "meridian", version, propagate_version = true, arg_required_else_help = true, max_term_width = 100, after_help = EXIT_CODES)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 ok, 1 failure, 2 usage, 3 invalid configuration, 4 no node answers, \
5 conflict, 6 timeout, 7 degraded, 130 broken off with Ctrl-C";

/// What every command takes, set apart from its own options.
const COMMON: &str = "Common options";

#[derive(Debug, Clone, Args)]
struct Global {
    /// How answers are printed.
    #[arg(short, long, global = true, value_enum, default_value = "table", help_heading = COMMON)]
    output: Format,
    /// The node to ask: http://HOST:PORT or the path of its admin socket. Default: what --data names, else MERIDIAN_NODE, else
    /// the socket in the data folder, then http://127.0.0.1:7900. A token is read from MERIDIAN_TOKEN.
    #[arg(long, global = true, value_name = "URL-OR-SOCKET", help_heading = COMMON)]
    node: Option<String>,
    /// Show the answer again every so often [default when given: 2s], until Ctrl-C: status, members, rtt, pools, sources,
    /// scale, sessions, top.
    #[arg(long, global = true, value_name = "TIME", value_parser = watch::every,
        num_args = 0..=1, require_equals = true, default_missing_value = "2s", help_heading = COMMON)]
    watch: Option<Duration>,
    /// The data folder. Default: MERIDIAN_DATA, else /var/lib/meridian when it can be written, else the user's data folder.
    #[arg(long, global = true, value_name = "FOLDER", help_heading = COMMON)]
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
    /// Take everything off a backend, region or pool at once, or undo that. A node drains: it has no sessions of its own.
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
    /// The data folder, if one is named.
    fn named_data(&self) -> Option<PathBuf> {
        self.data.clone().or_else(|| set_in_environment("MERIDIAN_DATA").map(PathBuf::from))
    }

    fn data(&self) -> PathBuf {
        self.named_data().unwrap_or_else(crate::config::default_data)
    }

    /// Whether it is said which node is asked.
    fn names_a_node(&self) -> bool {
        matches!(self.whom(set_in_environment("MERIDIAN_NODE")), Whom::Named(_))
    }

    /// What stands on the command line wins over what the environment says.
    fn whom(&self, environment: Option<String>) -> Whom {
        match (&self.node, &self.data, environment) {
            (Some(node), ..) => Whom::Named(node.clone()),
            (None, Some(data), _) => Whom::Of(data.clone()),
            (None, None, Some(node)) => Whom::Named(node),
            (None, None, None) => Whom::Any(self.data()),
        }
    }

    fn client(&self) -> Result<Client, CliError> {
        let client = Client::new(&self.whom(set_in_environment("MERIDIAN_NODE")))?;
        Ok(if self.watch.is_some() { client.watching() } else { client })
    }
}

/// A variable of the environment; an empty one is none.
fn set_in_environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

impl Command {
    /// Whether `--watch` means something to it.
    fn is_watched(&self) -> bool {
        use Command::{Members, Pools, Rtt, Scale, Sessions, Sources, Status, Top};
        match self {
            Status | Rtt | Members | Pools(_) | Scale(_) | Sources | Top(_) => true,
            Sessions(args) => args.is_watched(),
            _ => false,
        }
    }
}

/// Parses the command line, runs the command, gives the exit code.
pub fn main() -> ExitCode {
    crate::app::install_crypto();
    let cli = match usage::parse() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    let global = &cli.global;
    if global.watch.is_some() && !cli.command.is_watched() {
        let error = CliError::new(Exit::Usage, "this command answers once: --watch does nothing here");
        let shown = "status, members, rtt, pools, sources, scale, sessions and top are shown again and again with --watch";
        return error.hint(shown).report(global.output);
    }
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
        Command::Scale(args) => ask(watched(global, async || scale::run(global, args.clone()).await)),
        Command::Sources => ask(watched(global, async || sources::run(global).await)),
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

    fn read(line: &str) -> Cli {
        Cli::try_parse_from(line.split(' ')).unwrap()
    }

    #[test]
    fn what_is_said_wins_over_the_environment() {
        let whom = |line| read(line).global.whom(Some("http://127.0.0.9:7900".into()));
        let named = |node: &str| Whom::Named(node.into());
        assert_eq!(whom("meridian status --node n1/admin.sock"), named("n1/admin.sock"));
        assert_eq!(whom("meridian status --data n2/data"), Whom::Of("n2/data".into()));
        assert_eq!(whom("meridian status --data n2 --node http://n1"), named("http://n1"));
        assert_eq!(whom("meridian status"), named("http://127.0.0.9:7900"));
        assert!(matches!(read("meridian status").global.whom(None), Whom::Any(_)));
    }

    #[test]
    fn watching_has_a_pace_and_a_subject() {
        assert!(Cli::try_parse_from(["meridian", "status", "--watch=0s"]).is_err());
        assert!(Cli::try_parse_from(["meridian", "status", "--watch=199ms"]).is_err());
        assert_eq!(read("meridian status --watch=1s").global.watch, Some(Duration::from_secs(1)));
        for line in [
            "meridian status --watch",
            "meridian sessions --watch",
            "meridian pools web --watch",
            "meridian scale --watch",
        ] {
            assert!(read(line).command.is_watched(), "{line}");
        }
        for line in ["meridian history --watch", "meridian doctor --watch", "meridian sessions end 0 --watch"]
        {
            assert!(!read(line).command.is_watched(), "{line}");
        }
    }
}
