//! `meridian start`

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tokio::io::AsyncReadExt;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::exit::{CliError, Exit};
use super::{Global, apply, supervisor, validate};
use crate::app::handover::{self, Legacy, Line};
use crate::app::{App, Leaving, Upgrade, logging};
use crate::config::model::NodeConfig;
use crate::config::node_file::{self, LoadError, NodeOverrides, Validated};

/// A signal within this time of the first is the same order.
const ECHO: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub(super) struct StartArgs {
    /// The node's configuration; without it, defaults and flags are all.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A services.toml to apply when the mesh runs nothing yet, or when the file has changed since this node applied it so.
    #[arg(long, value_name = "FILE")]
    apply: Option<PathBuf>,
    /// Leave when standard input ends: for a parent process whose death should end this one too.
    #[arg(long, hide = true)]
    until_stdin_ends: bool,
    /// Standard input is the process that is to be followed: `meridian upgrade` says so.
    #[arg(long, hide = true, conflicts_with = "until_stdin_ends")]
    take_over: bool,
    #[command(flatten)]
    overrides: NodeOverrides,
}

pub(super) fn run(global: &Global, mut args: StartArgs) -> Result<ExitCode, CliError> {
    args.overrides.data = global.named_data();
    let before = args.take_over.then(Line::of_stdin).transpose()?;
    let started = prepare(args, before.as_ref());
    if let (Some(before), Err(error)) = (&before, &started) {
        // Who is told is about to give up on this process anyway.
        let _ = before.say(&error.to_string(), &[]);
    }
    let (config, source, services, leash) = started?;
    run_node(config, source, services, leash, before)
}

/// What can be done before anything is bound.
fn prepare(
    args: StartArgs,
    before: Option<&Line>,
) -> Result<(NodeConfig, Source, Option<String>, Leash), CliError> {
    let source = Source { file: args.config, overrides: args.overrides };
    let config = load(&source)?;
    logging::start(&config.log)
        .map_err(|error| CliError::new(Exit::InvalidConfiguration, error.to_string()))?;
    // What the mesh runs is newer than what the first process was started with.
    let services = args.apply.filter(|_| before.is_none());
    let services = services.as_deref().map(apply::services).transpose()?;
    let leash = if args.until_stdin_ends { Leash::StandardInput } else { Leash::Upgrades };
    Ok((config, source, services, leash))
}

/// Runs a node in this process until a signal ends it.
pub(super) fn serve_until_told(
    config: NodeConfig,
    overrides: NodeOverrides,
    services: Option<String>,
) -> Result<ExitCode, CliError> {
    run_node(config, Source { file: None, overrides }, services, Leash::None, None)
}

fn run_node(
    config: NodeConfig,
    source: Source,
    services: Option<String>,
    leash: Leash,
    before: Option<Line>,
) -> Result<ExitCode, CliError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("control")
        .enable_all()
        .build()?;
    let ended = runtime.block_on(serve(config, source, services, leash, before));
    // Tasks that still wait for peers are of no use any more.
    runtime.shutdown_timeout(Duration::from_millis(500));
    ended
}

fn load(source: &Source) -> Result<NodeConfig, CliError> {
    match source.load() {
        Ok(valid) => {
            validate::show(&valid.warnings);
            Ok(valid.node)
        }
        Err(LoadError::Invalid(report)) => {
            let name = source
                .file
                .as_ref()
                .map_or_else(|| "the command line".into(), |file| file.display().to_string());
            Err(validate::invalid(&name, report))
        }
        Err(error) => Err(CliError::new(Exit::Failure, error.to_string())),
    }
}

async fn serve(
    config: NodeConfig,
    source: Source,
    services: Option<String>,
    leash: Leash,
    before: Option<Line>,
) -> Result<ExitCode, CliError> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let name = config.name.clone();
    let legacy = before.as_ref().map(take_over).transpose()?;
    let started = App::start(config, services, legacy).await;
    if let Some(before) = &before {
        let word = started.as_ref().map_or_else(ToString::to_string, |_| "serving".into());
        // If it is gone, this process is the node all the same.
        let _ = before.say(&word, &[]);
    }
    let mut app =
        started.map_err(|error| CliError::new(Exit::Failure, error.to_string()).maybe_hint(error.hint()))?;
    let mut refused = None;
    supervisor::ready();
    let name_lost = app.name_lost();
    tokio::pin!(name_lost);
    let failed = app.failed();
    tokio::pin!(failed);
    let mut leaving = Leaving::Ordered;
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            () = stdin_ended(), if leash == Leash::StandardInput => break,
            Some(()) = hangup.recv() => reload(&mut app, &source),
            order = app.upgrade_ordered() => {
                if leash != Leash::Upgrades {
                    let why = "this process was started by one that could not follow it: start the node with 'meridian start'";
                    // Whoever asked may have gone.
                    let _ = order.reply.send(Err(why.into()));
                    continue;
                }
                let mut leaves = false;
                let outcome = {
                    let upgrade = app.upgrade(order.program);
                    tokio::pin!(upgrade);
                    loop {
                        // Who is half-way through cannot leave: the signal is for the process that serves in the end.
                        tokio::select! {
                            outcome = &mut upgrade => break outcome,
                            _ = terminate.recv() => leaves = true,
                            _ = interrupt.recv() => leaves = true,
                        }
                    }
                };
                match outcome {
                    Upgrade::Stays(why) => {
                        tracing::error!("{why}");
                        let _ = order.reply.send(Err(why));
                        if leaves {
                            break;
                        }
                    }
                    Upgrade::Replaced { pid, failure } => {
                        supervisor::succeeded_by(pid);
                        if leaves {
                            handover::ask_to_leave(pid);
                        }
                        let _ = order.reply.send(failure.map_or(Ok(pid), Err));
                        app.retire().await;
                        return Ok(ExitCode::SUCCESS);
                    }
                }
            }
            ended = &mut failed => {
                leaving = Leaving::Failed;
                let text = format!("this node cannot go on: {}", ended.text());
                refused = Some(CliError::new(Exit::Failure, text).hint("the log says what happened before; please report it"));
                break;
            }
            owner = &mut name_lost => {
                let text = format!("the name {name} is taken by the living node at {owner}");
                refused = Some(CliError::new(Exit::Failure, text).hint("give this node another name: --name"));
                break;
            }
        }
    }
    supervisor::stopping();
    tokio::select! {
        () = app.leave(leaving) => match refused {
            Some(error) => Err(error),
            None => Ok(ExitCode::SUCCESS),
        },
        () = again(&mut terminate, &mut interrupt) => {
            let text = "a second signal: stopped without waiting for requests in flight";
            Err(CliError::new(Exit::Failure, text))
        }
    }
}

/// Says that this process is ready, and takes what the one before gives.
fn take_over(before: &Line) -> Result<Legacy, CliError> {
    before.say("ready", &[])?;
    Ok(Legacy::receive(before)?)
}

/// SIGHUP: reads `node.toml` again. One that is wrong changes nothing.
fn reload(app: &mut App, source: &Source) {
    supervisor::reloading();
    match source.load() {
        Ok(valid) => {
            for refused in app.reload(valid.node) {
                tracing::warn!("{refused}");
            }
            tracing::info!(
                "SIGHUP: node.toml was read again and the access log opened anew; services come with 'meridian apply'"
            );
        }
        Err(error) => tracing::error!(%error, "SIGHUP: node.toml is wrong; nothing was changed"),
    }
    supervisor::ready();
}

/// What besides signals decides how long a process lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leash {
    /// It may be followed by another process of the same node.
    Upgrades,
    /// It ends with its standard input: its parent could not follow it to another process.
    StandardInput,
    /// Nothing: its data folder ends with it.
    None,
}

/// Where the configuration comes from.
struct Source {
    file: Option<PathBuf>,
    overrides: NodeOverrides,
}

impl Source {
    fn load(&self) -> Result<Validated, LoadError> {
        node_file::load(self.file.as_deref(), &self.overrides)
    }
}

/// A second signal from somebody who is in a hurry. Supervisors signal a process and then its group: what follows the
/// first signal at once is the same order again.
async fn again(terminate: &mut Signal, interrupt: &mut Signal) {
    let echo = tokio::time::sleep(ECHO);
    tokio::pin!(echo);
    let mut settled = false;
    loop {
        tokio::select! {
            () = &mut echo, if !settled => settled = true,
            _ = terminate.recv() => if settled { return },
            _ = interrupt.recv() => if settled { return },
        }
    }
}

async fn stdin_ended() {
    let mut byte = [0; 64];
    // Whatever arrives is ignored; an error is an end too.
    while matches!(tokio::io::stdin().read(&mut byte).await, Ok(count) if count > 0) {}
}
