//! `meridian run --pool POOL --port N -- COMMAND`: a process as a backend.
//!
//! ```text
//!   start ─▶ its port answers ─▶ lease, renewed ─▶ SIGTERM, SIGINT ─▶ leaving: no new sessions ─▶ nothing in flight,
//!                │                    │                                                       or --drain is over
//!                └── it ends ─────────┴── it ends: out of the pool at once                          │
//!                                                          SIGTERM to it, --grace, SIGKILL ◀────────┘
//! ```
//!
//! The child has a process group of its own, so that Ctrl-C reaches this command alone, and drains before the child hears
//! of it. Between the two stands a moment of this program itself, which asks the kernel to end the child when its keeper
//! dies, and then becomes it.

use std::net::IpAddr;
use std::process::{ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use clap::Args;
use rustix::process::{Pid, Signal, getppid, kill_process, set_parent_process_death_signal};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use super::Global;
use super::exit::{CliError, Exit};
use super::lease::{Lease, Place, asked_to_end, own_address, usage};
use super::output::{aside, hint};
use crate::admin::api::backends::Registration;

/// How often the child's port is tried, and how often what is in flight is asked for.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Nodes hear within this that the backend is leaving; what they sent before is in flight by then.
const HEARD: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// The pool that the process is to serve.
    #[arg(long)]
    pool: String,
    /// The port on which it listens. It finds it in the environment too: PORT.
    #[arg(long)]
    port: u16,
    /// The address under which nodes reach it. Default: that of the default route.
    #[arg(long, value_name = "IP")]
    address: Option<IpAddr>,
    #[command(flatten)]
    place: Place,
    /// How long the process may take until its port answers.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = humantime::parse_duration)]
    start: Duration,
    /// How long requests in flight are waited for when this command is asked to end.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
    drain: Duration,
    /// How long the process may take to end after SIGTERM; then it is killed.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = humantime::parse_duration)]
    grace: Duration,
    /// What to run, with its arguments.
    #[arg(required = true, last = true)]
    command: Vec<String>,
}

/// Runs it; the exit code is the process's own, and 1 when that is 0 and it never served.
pub(super) async fn run(global: &Global, args: RunArgs) -> Result<ExitCode, CliError> {
    let client = global.client()?;
    let address = own_address(args.address, args.port);
    let asked = args.place.registration();
    let mut lease = Lease { client: &client, pool: args.pool.clone(), address, asked };
    lease.known_pool().await?;
    let program = std::env::current_exe()?;
    let mut child = Command::new(&program)
        .args(["run-child", "--parent", &std::process::id().to_string(), "--"])
        .args(&args.command)
        .env("PORT", args.port.to_string())
        .stdin(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| {
            CliError::new(Exit::Failure, format!("{} cannot be run: {error}", program.display()))
        })?;

    let asked_to_end = asked_to_end();
    tokio::pin!(asked_to_end);
    let registered = tokio::select! {
        status = child.wait() => {
            let status = status?;
            aside(format_args!("error: the process has ended ({status}) before {address} answered: it was never in pool {}", args.pool));
            hint("--port is where the process listens: it has to stay in the foreground, and finds the number in PORT");
            return Ok(if status.success() { ExitCode::from(Exit::Failure as u8) } else { ended(status) });
        }
        ended_early = &mut asked_to_end => {
            ended_early?;
            return stop(&mut child, args.grace).await;
        }
        registered = register(&lease, args.start) => match registered {
            Ok(registered) => registered,
            Err(error) => {
                stop(&mut child, args.grace).await?;
                return Err(error);
            }
        },
    };
    aside(format_args!("{address} is in pool {}", args.pool));
    let status = tokio::select! {
        status = child.wait() => Some(status?),
        asked = &mut asked_to_end => asked.map(|()| None)?,
        _ = lease.keep(registered) => None,
    };
    if let Some(status) = status {
        aside(format_args!("the process has ended ({status})"));
        lease.remove(true).await?;
        return Ok(ended(status));
    }
    aside(format_args!("{address} leaves pool {}: what is in flight is waited for", args.pool));
    lease.asked = Registration { leaving: true, ..lease.asked };
    tokio::select! {
        drained = drain(&lease, args.drain) => drained,
        status = child.wait() => {
            lease.remove(true).await?;
            return Ok(ended(status?));
        }
    }
    let code = stop(&mut child, args.grace).await;
    lease.remove(true).await?;
    code
}

#[derive(Debug, Args)]
pub(super) struct ChildArgs {
    /// Who keeps it.
    #[arg(long)]
    parent: i32,
    /// What to become.
    #[arg(required = true, last = true)]
    command: Vec<String>,
}

/// Becomes the command, which gets SIGTERM when its keeper dies. Returns only when that fails.
pub(super) fn child(args: ChildArgs) -> Result<ExitCode, CliError> {
    use std::os::unix::process::CommandExt;
    let Some((program, arguments)) = args.command.split_first() else { return Err(usage("run what?")) };
    set_parent_process_death_signal(Some(Signal::TERM)).map_err(std::io::Error::from)?;
    if getppid().is_none_or(|parent| parent.as_raw_nonzero().get() != args.parent) {
        return Err(CliError::new(Exit::Failure, "who was to keep it has died already"));
    }
    let error = std::process::Command::new(program).args(arguments).exec();
    Err(CliError::new(Exit::Failure, format!("{program} cannot be run: {error}")))
}

/// Waits for the port, then takes the lease.
async fn register(
    lease: &Lease<'_>,
    within: Duration,
) -> Result<crate::admin::api::backends::Registered, CliError> {
    let answers = async {
        while TcpStream::connect(lease.address).await.is_err() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    if tokio::time::timeout(within, answers).await.is_err() {
        let error = format!("{} does not answer after {}", lease.address, humantime::format_duration(within));
        let error = CliError::new(Exit::Timeout, error);
        return Err(error.hint("--port is where the process listens, --start how long it may take"));
    }
    lease.put().await
}

/// Tells the mesh that the backend is leaving, and waits until nothing is in flight there.
async fn drain(lease: &Lease<'_>, within: Duration) {
    let draining = async {
        let first = match lease.put().await {
            Ok(registered) => registered,
            Err(error) => {
                aside(format_args!("the mesh does not hear that the backend leaves: {error}"));
                return;
            }
        };
        let quiet = async {
            tokio::time::sleep(HEARD).await;
            // A node that cannot be asked is no reason to wait for ever: `within` bounds it.
            while !matches!(lease.in_flight().await, Ok(None | Some(0))) {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        tokio::select! {
            () = quiet => {}
            _ = lease.keep(first) => {}
        }
    };
    if tokio::time::timeout(within, draining).await.is_err() {
        aside("requests are still in flight; they are not waited for any longer");
    }
}

/// SIGTERM, and SIGKILL when that does not help.
async fn stop(child: &mut Child, grace: Duration) -> Result<ExitCode, CliError> {
    if let Some(pid) = child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
        // It may have ended by itself meanwhile.
        let _ = kill_process(pid, Signal::TERM);
    }
    match tokio::time::timeout(grace, child.wait()).await {
        Ok(status) => Ok(ended(status?)),
        Err(_) => {
            aside("the process does not end: it is killed");
            child.kill().await?;
            Ok(ended(child.wait().await?))
        }
    }
}

/// The process's exit code; of one that a signal ended, 128 and the signal, as shells say it.
fn ended(status: ExitStatus) -> ExitCode {
    use std::os::unix::process::ExitStatusExt;
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}
