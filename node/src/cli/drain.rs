//! `meridian drain|undrain node|backend|region|pool NAME`

use std::time::Duration;

use clap::{Args, ValueEnum};
use gossip::clock::Clock;
use http::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::client::Client;
use super::exit::{CliError, Exit};
use super::output::{hint, json, line};
use super::progress::Progress;
use super::{Format, Global};
use crate::admin::api::{IntentStatus, PoolStatus};

/// How often `--wait` looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(super) struct DrainArgs {
    /// What.
    #[arg(value_enum)]
    kind: Kind,
    /// Its name; a backend is named by its address, or POOL/ADDRESS when several pools have that address.
    name: String,
}

#[derive(Debug, Args)]
pub(super) struct DeadlineArgs {
    #[command(flatten)]
    what: DrainArgs,
    /// Move the sessions that are left after this time. Default: they stay as long as they last.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    deadline: Option<Duration>,
    /// Tell how many sessions are left, and return when none is or when the deadline has passed.
    #[arg(long)]
    wait: bool,
    /// Also when nobody else would take new users.
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Args)]
pub(super) struct MaintenanceArgs {
    #[command(flatten)]
    what: DrainArgs,
    /// Undo it.
    #[arg(long)]
    reset: bool,
    /// Also when nobody else would take new users.
    #[arg(long, conflicts_with = "reset")]
    force: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    Node,
    Backend,
    Region,
    Pool,
}

/// `meridian drain`
pub(super) async fn drain(global: &Global, args: DeadlineArgs) -> Result<(), CliError> {
    if args.wait && args.what.kind == Kind::Node {
        let error = "sessions stay on backends, not on nodes: there is nothing to wait for";
        return Err(CliError::new(Exit::Usage, error).hint("leave --wait out, or drain the backends"));
    }
    let mut path = format!("{}?force={}", args.what.path("drains"), args.force);
    if let Some(deadline) = args.deadline {
        path.push_str(&format!("&deadline_ms={}", deadline.as_millis()));
    }
    let client = global.client()?;
    let intents = args.what.order(&client, &path).await?;
    if global.output == Format::Json {
        if args.wait {
            args.until_empty(&client).await?;
        }
        return json(&intents);
    }
    let (kind, name) = (args.what.kind(), &args.what.name);
    match args.deadline {
        None => line(format_args!("{kind} {name} is draining: its sessions stay, new ones go elsewhere")),
        Some(deadline) => line(format_args!(
            "{kind} {name} is draining: new sessions go elsewhere, those left after {} are moved",
            humantime::format_duration(deadline)
        )),
    }
    if args.wait {
        let left = tokio::select! {
            left = args.until_empty(&client) => left?,
            _ = tokio::signal::ctrl_c() => {
                line("the drain goes on without this command");
                hint(format_args!("meridian drain {kind} {name} --wait  tells again what is left"));
                hint(format_args!("meridian undrain {kind} {name}  takes it back"));
                return Ok(());
            }
        };
        line(match left {
            0 => "no session is left there".to_owned(),
            left => format!("the deadline has passed: {left} sessions move with their next request"),
        });
        return Ok(());
    }
    if args.what.kind != Kind::Node {
        let left = args.what.left(&client.json::<Vec<PoolStatus>>(Method::GET, "/v1/pools").await?);
        line(format_args!("sessions left there: {left}"));
        hint("meridian pools  shows how many are left; with --wait this command does, until there are none");
    }
    hint(format_args!("meridian undrain {kind} {name}  takes it back"));
    Ok(())
}

impl DeadlineArgs {
    /// Tells how many sessions are left whenever that changes. How many there were at the end: none, unless the deadline
    /// came first.
    async fn until_empty(&self, client: &Client) -> Result<u64, CliError> {
        let clock = Clock::system();
        let deadline = self.deadline.map(|deadline| clock.now() + deadline);
        let mut progress: Option<Progress> = None;
        loop {
            let intents: Vec<IntentStatus> = client.json(Method::GET, "/v1/intents").await?;
            if !intents.iter().any(|intent| self.what.is_drained_by(intent)) {
                let (kind, name) = (self.what.kind(), &self.what.name);
                let error = format!("{kind} {name} no longer drains: somebody has taken it back");
                return Err(CliError::new(Exit::Conflict, error).hint("meridian pools  shows its state"));
            }
            let left = self.what.left(&client.json::<Vec<PoolStatus>>(Method::GET, "/v1/pools").await?);
            progress.get_or_insert_with(|| Progress::of(left)).left(left);
            if left == 0 || deadline.is_some_and(|deadline| clock.now() >= deadline) {
                return Ok(left);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// `meridian maintenance`
pub(super) async fn maintenance(global: &Global, args: MaintenanceArgs) -> Result<(), CliError> {
    let client = global.client()?;
    let path = args.what.path("maintenance");
    let intents: Vec<IntentStatus> = match args.reset {
        true => client.json(Method::DELETE, &path).await?,
        false => args.what.order(&client, &format!("{path}?force={}", args.force)).await?,
    };
    if global.output == Format::Json {
        return json(&intents);
    }
    let (kind, name) = (args.what.kind(), &args.what.name);
    if args.reset {
        line(format_args!("{kind} {name} takes users again"));
        return Ok(());
    }
    match args.what.kind {
        Kind::Node => line(format_args!("node {name} is draining: it has no sessions of its own to move")),
        _ => line(format_args!(
            "{kind} {name} is in maintenance: its users go elsewhere with their next request"
        )),
    }
    hint(format_args!("meridian maintenance {kind} {name} --reset  ends it"));
    Ok(())
}

/// `meridian undrain`
pub(super) async fn undrain(global: &Global, args: DrainArgs) -> Result<(), CliError> {
    let intents: Vec<IntentStatus> = global.client()?.json(Method::DELETE, &args.path("drains")).await?;
    if global.output == Format::Json {
        return json(&intents);
    }
    line(format_args!("{} {} takes new sessions again", args.kind(), args.name));
    Ok(())
}

impl DrainArgs {
    fn kind(&self) -> String {
        self.kind.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// The sessions that stay on what is named.
    fn left(&self, pools: &[PoolStatus]) -> u64 {
        let backends = pools.iter().flat_map(|pool| pool.backends.iter().map(move |backend| (pool, backend)));
        let named = backends.filter(|(pool, backend)| match self.kind {
            Kind::Node => false,
            Kind::Pool => pool.name == self.name,
            Kind::Region => backend.region == self.name,
            Kind::Backend => match self.name.split_once('/') {
                Some((of, address)) => pool.name == of && backend.address == address,
                None => backend.address == self.name,
            },
        });
        named.map(|(_, backend)| backend.sessions).sum()
    }

    fn is_drained_by(&self, intent: &IntentStatus) -> bool {
        let named = intent.name == self.name
            || intent.name.split_once('/').is_some_and(|(_, address)| address == self.name);
        intent.kind == self.kind() && named && intent.order.starts_with("drain")
    }

    /// Gives an order; one that would leave users without anybody is refused with the way to give it all the same.
    async fn order(&self, client: &Client, path: &str) -> Result<Vec<IntentStatus>, CliError> {
        let answer = client.send(Method::PUT, path, None, &[]).await?;
        let refused = answer.status == http::StatusCode::CONFLICT;
        match answer.success() {
            Ok(answer) => answer.parse(),
            Err(error) if refused => Err(error.hint("--force does it all the same")),
            Err(error) => Err(error),
        }
    }

    fn path(&self, what: &str) -> String {
        format!("/v1/{what}/{}/{}", self.kind(), utf8_percent_encode(&self.name, NON_ALPHANUMERIC))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::api::BackendStatus;

    #[test]
    fn what_is_left_is_what_stays_on_what_is_named() {
        let backend = |address: &str, region: &str, sessions| BackendStatus {
            address: address.into(),
            region: region.into(),
            zone: None,
            state: "draining".into(),
            source: "static".into(),
            weight: 100,
            in_flight: 0,
            requests: 0,
            sessions,
            reason: String::new(),
        };
        let pool =
            |name: &str, backends| PoolStatus { name: name.into(), balance: "random".into(), backends };
        let pools = [
            pool("v1", vec![backend("10.0.0.1:80", "eu", 1), backend("10.0.0.2:80", "us", 2)]),
            pool("v2", vec![backend("10.0.0.1:80", "eu", 4)]),
        ];
        let named = [
            (Kind::Node, "eu-1", 0),
            (Kind::Pool, "v1", 3),
            (Kind::Region, "eu", 5),
            (Kind::Backend, "10.0.0.1:80", 5),
            (Kind::Backend, "v2/10.0.0.1:80", 4),
            (Kind::Backend, "v2/10.0.0.2:80", 0),
        ];
        for (kind, name, left) in named {
            let args = DrainArgs { kind, name: name.into() };
            assert_eq!(args.left(&pools), left, "{name}");
        }
    }

    #[test]
    fn a_drain_that_was_taken_back_is_seen() {
        let intent = |kind: &str, name: &str, order: &str| IntentStatus {
            kind: kind.into(),
            name: name.into(),
            order: order.into(),
            until: None,
            by: "eu-1".into(),
            at: String::new(),
        };
        let args = DrainArgs { kind: Kind::Backend, name: "10.0.0.1:80".into() };
        assert!(args.is_drained_by(&intent("backend", "v1/10.0.0.1:80", "drain until then")));
        assert!(!args.is_drained_by(&intent("backend", "v1/10.0.0.1:80", "maintenance")));
        assert!(!args.is_drained_by(&intent("backend", "v1/10.0.0.1:8", "drain")));
        assert!(!args.is_drained_by(&intent("pool", "10.0.0.1:80", "drain")));
    }
}
