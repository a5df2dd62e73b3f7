//! `meridian drain|undrain node|backend|region|pool NAME`

use std::time::Duration;

use clap::{Args, ValueEnum};
use http::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::client::Client;
use super::exit::{CliError, Exit};
use super::orders::{everywhere, forcible};
use super::output::{hint, json, line};
use super::progress::Progress;
use super::{Format, Global};
use crate::admin::api::{IntentStatus, PoolStatus, Status};

/// How often `--wait` looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(super) struct DrainArgs {
    /// What.
    #[arg(value_enum)]
    kind: Kind,
    /// Its name; a backend is named by its address, which means it in every pool that has it, or by POOL/ADDRESS.
    name: String,
}

#[derive(Debug, Args)]
pub(super) struct DeadlineArgs {
    #[command(flatten)]
    what: DrainArgs,
    /// Move the sessions that are left after this time. Default: the deadline that the drain has already; without one they stay
    /// as long as they last.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    deadline: Option<Duration>,
    /// Take the deadline off that the drain has.
    #[arg(long, conflicts_with = "deadline")]
    no_deadline: bool,
    /// Tell how many sessions are left and how much is in flight (of a node: connections), and return when nothing is. With a deadline: when that has
    /// passed, exit 6 if something is still in flight. Ctrl-C ends the waiting (exit 130) and not the drain.
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
    let deadline = args.deadline.map(|deadline| format!("deadline_ms={}&", deadline.as_millis()));
    let no_deadline = if args.no_deadline { "no_deadline=true&" } else { "" };
    let path = format!("{}?{}{no_deadline}", args.what.path("drains"), deadline.unwrap_or_default());
    let client = global.client()?;
    if args.wait && args.what.kind == Kind::Node {
        let asked = client.json::<Status>(Method::GET, "/v1/status").await?.node;
        if asked != args.what.name {
            let error =
                format!("{} alone knows who is connected to it, and {asked} was asked", args.what.name);
            return Err(CliError::new(Exit::Usage, error)
                .hint("give the order on that node, or name it with --node; or leave --wait out"));
        }
    }
    let Given { intents, alone } = args.what.order(&client, &path, args.force).await?;
    let (kind, name) = (args.what.kind(), &args.what.name);
    if global.output == Format::Table {
        let (stay, kept) = args.stay(&intents);
        let elsewhere = alone.unwrap_or_else(|| "new ones go elsewhere".to_owned());
        line(format_args!("{kind} {name} is draining: {stay}; {elsewhere}"));
        everywhere(name, &intents, "drain").iter().for_each(line);
        if kept {
            hint(format_args!("meridian drain {kind} {name} --no-deadline  takes the deadline off"));
        }
    }
    if args.wait {
        let told = tokio::select! {
            end = args.what.until_empty(&client) => end?.told(args.what.kind)?,
            _ = tokio::signal::ctrl_c() => {
                let error = "the waiting was broken off; the drain goes on without this command";
                return Err(CliError::new(Exit::Interrupted, error).hint(format!(
                    "meridian drain {kind} {name} --wait  tells again what is left; meridian undrain {kind} {name}  takes it back"
                )));
            }
        };
        if global.output == Format::Json {
            return json(&client.json::<Vec<IntentStatus>>(Method::GET, "/v1/intents").await?);
        }
        line(told);
        return Ok(());
    }
    if global.output == Format::Json {
        return json(&intents);
    }
    if args.what.kind != Kind::Node {
        let left = args.what.left(&client.json::<Vec<PoolStatus>>(Method::GET, "/v1/pools").await?);
        line(format_args!("sessions left there: {}, in flight: {}", left.sessions, left.in_flight));
        hint("meridian pools  shows how many are left; with --wait this command does, until there are none");
    }
    hint(format_args!("meridian undrain {kind} {name}  takes it back"));
    Ok(())
}

/// What has not gone yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Left {
    sessions: u64,
    /// Requests and TCP connections, over the mesh.
    in_flight: u64,
}

/// How waiting ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Nothing is left.
    Empty,
    /// The deadline has passed, and so much was left.
    Deadline(Left),
}

impl End {
    /// In words; an error while somebody would be cut off by whoever stops the backend now.
    fn told(self, kind: Kind) -> Result<String, CliError> {
        match self {
            Self::Empty if kind == Kind::Node => Ok("nobody is connected to it".to_owned()),
            Self::Empty => Ok("no session is left there, and nothing is in flight".to_owned()),
            Self::Deadline(Left { sessions, in_flight: 0 }) => {
                Ok(format!("the deadline has passed: {sessions} sessions move with their next request"))
            }
            Self::Deadline(Left { sessions, in_flight }) => {
                let error = format!(
                    "the deadline has passed: {sessions} sessions move with their next request, and {in_flight} requests or \
                     connections are still in flight there"
                );
                Err(CliError::new(Exit::Timeout, error)
                    .hint("who stops the backend now cuts them; meridian pools  shows when they have ended"))
            }
        }
    }
}

/// Watches what is left of a drain, one look at a time. Pure.
#[derive(Debug, Default)]
struct Watch {
    quiet: u32,
}

impl Watch {
    /// Takes a look in; `passed` says that the deadline is over. A lone look that finds nothing is not believed: a node that
    /// heard of the drain a moment later may just have sent somebody there.
    fn look(&mut self, left: Left, passed: bool) -> Option<End> {
        self.quiet = if left == Left::default() { self.quiet + 1 } else { 0 };
        match (self.quiet, passed) {
            (2.., _) => Some(End::Empty),
            (_, true) if left != Left::default() => Some(End::Deadline(left)),
            _ => None,
        }
    }
}

/// An order that was given.
struct Given {
    /// All orders in force now.
    intents: Vec<IntentStatus>,
    /// Why users have nowhere else to go, when that is so and it was forced.
    alone: Option<String>,
}

impl DeadlineArgs {
    /// What becomes of the sessions, and whether a deadline of before decides it.
    fn stay(&self, intents: &[IntentStatus]) -> (String, bool) {
        let mine = intents.iter().filter(|intent| self.what.is_drained_by(intent));
        let left = mine.filter_map(|intent| intent.seconds_left).min();
        let span = |seconds| humantime::format_duration(Duration::from_secs(seconds));
        match (self.what.kind, self.deadline, left) {
            (Kind::Node, ..) => ("DNS names it no more, and who is connected is served".to_owned(), false),
            (_, Some(deadline), _) => {
                let after = humantime::format_duration(deadline);
                (format!("its sessions stay for {after}, and are moved then"), false)
            }
            (_, None, None) => ("its sessions stay".to_owned(), false),
            (_, None, Some(0)) => {
                ("its deadline has passed, and its sessions move with their next request".to_owned(), true)
            }
            (_, None, Some(left)) => (
                format!("its sessions stay for {} more, as ordered before, and are moved then", span(left)),
                true,
            ),
        }
    }
}

/// `meridian maintenance`
pub(super) async fn maintenance(global: &Global, args: MaintenanceArgs) -> Result<(), CliError> {
    let client = global.client()?;
    let path = args.what.path("maintenance");
    let (kind, name) = (args.what.kind(), &args.what.name);
    if args.reset {
        let intents: Vec<IntentStatus> = client.json(Method::DELETE, &path).await?;
        if global.output == Format::Json {
            return json(&intents);
        }
        line(format_args!("{kind} {name} takes users again"));
        return Ok(());
    }
    let Given { intents, alone } = args.what.order(&client, &format!("{path}?"), args.force).await?;
    if global.output == Format::Json {
        return json(&intents);
    }
    let moved = match (args.what.kind, &alone) {
        (Kind::Node, _) => "it has no sessions of its own to move; DNS names it no more".to_owned(),
        (_, None) => {
            let pools: Vec<PoolStatus> = client.json(Method::GET, "/v1/pools").await?;
            let left = args.what.left(&pools).sessions;
            format!(
                "what is in flight there ends; its sessions ({left}) move to other backends with their next request"
            )
        }
        (_, Some(why)) => format!("what is in flight there ends; its users get errors: {why}"),
    };
    let state = if args.what.kind == Kind::Node { "is draining" } else { "is in maintenance" };
    line(format_args!("{kind} {name} {state}: {moved}"));
    everywhere(name, &intents, "maintenance").iter().for_each(line);
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

    /// Tells what is left whenever that changes, until nothing is or the deadline has passed.
    async fn until_empty(&self, client: &Client) -> Result<End, CliError> {
        let (mut progress, mut watch) = (None, Watch::default());
        loop {
            let intents: Vec<IntentStatus> = client.json(Method::GET, "/v1/intents").await?;
            let mine: Vec<_> = intents.iter().filter(|intent| self.is_drained_by(intent)).collect();
            if mine.is_empty() {
                let error =
                    format!("{} {} no longer drains: somebody has taken it back", self.kind(), self.name);
                return Err(CliError::new(Exit::Conflict, error).hint("meridian pools  shows its state"));
            }
            let passed = mine.iter().all(|intent| intent.seconds_left == Some(0));
            let left = self.look(client).await?;
            let words = match self.kind {
                Kind::Node => format!("connections left: {}", left.in_flight),
                _ => format!("sessions left: {}, in flight: {}", left.sessions, left.in_flight),
            };
            let sum = left.sessions + left.in_flight;
            progress.get_or_insert_with(|| Progress::of(sum)).left(sum, words);
            if let Some(end) = watch.look(left, passed) {
                return Ok(end);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Asks what is left. Of a node that is connections, which it alone knows.
    async fn look(&self, client: &Client) -> Result<Left, CliError> {
        if self.kind == Kind::Node {
            let status: Status = client.json(Method::GET, "/v1/status").await?;
            return Ok(Left { sessions: 0, in_flight: status.counters.connections_open });
        }
        Ok(self.left(&client.json::<Vec<PoolStatus>>(Method::GET, "/v1/pools").await?))
    }

    /// What is left on what is named.
    fn left(&self, pools: &[PoolStatus]) -> Left {
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
        named.fold(Left::default(), |left, (_, backend)| Left {
            sessions: left.sessions + backend.sessions,
            in_flight: left.in_flight + u64::from(backend.in_flight),
        })
    }

    fn is_drained_by(&self, intent: &IntentStatus) -> bool {
        let named = intent.name == self.name
            || intent.name.split_once('/').is_some_and(|(_, address)| address == self.name);
        intent.kind == self.kind() && named && intent.order.starts_with("drain")
    }

    /// Gives an order; one that would leave users without anybody is refused with the way to give it all the same. `path` ends
    /// where its next parameter begins.
    async fn order(&self, client: &Client, path: &str, force: bool) -> Result<Given, CliError> {
        let send =
            async |force: bool| client.send(Method::PUT, &format!("{path}force={force}"), None, &[]).await;
        let answer = send(false).await?;
        let refused = answer.status == http::StatusCode::CONFLICT;
        match forcible(answer) {
            Ok(answer) => Ok(Given { intents: answer.parse()?, alone: None }),
            Err(why) if refused && force => {
                let why = why.to_string();
                let alone = why.split(';').next().map(str::to_owned);
                Ok(Given { intents: send(true).await?.success()?.parse()?, alone })
            }
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
            rack: None,
            state: "draining".into(),
            source: "static".into(),
            weight: 100,
            in_flight: 1,
            requests: 0,
            sessions,
            sessions_lent: 0,
            reason: String::new(),
            stale_seconds: None,
        };
        let pool =
            |name: &str, backends| PoolStatus { name: name.into(), balance: "random".into(), backends };
        let pools = [
            pool("v1", vec![backend("10.0.0.1:80", "eu", 1), backend("10.0.0.2:80", "us", 2)]),
            pool("v2", vec![backend("10.0.0.1:80", "eu", 4)]),
        ];
        let named = [
            (Kind::Node, "eu-1", 0, 0),
            (Kind::Pool, "v1", 3, 2),
            (Kind::Region, "eu", 5, 2),
            (Kind::Backend, "10.0.0.1:80", 5, 2),
            (Kind::Backend, "v2/10.0.0.1:80", 4, 1),
            (Kind::Backend, "v2/10.0.0.2:80", 0, 0),
        ];
        for (kind, name, sessions, in_flight) in named {
            let args = DrainArgs { kind, name: name.into() };
            assert_eq!(args.left(&pools), Left { sessions, in_flight }, "{name}");
        }
    }

    #[test]
    fn waiting_ends_when_nothing_is_left_or_the_deadline_has_passed() {
        let left = |sessions, in_flight| Left { sessions, in_flight };
        let mut watch = Watch::default();
        assert_eq!(watch.look(left(1, 0), false), None);
        assert_eq!(watch.look(left(0, 2), false), None, "requests run there");
        assert_eq!(watch.look(left(0, 0), false), None, "one look is not enough");
        assert_eq!(watch.look(left(0, 1), false), None);
        assert_eq!(watch.look(left(0, 0), true), None);
        assert_eq!(watch.look(left(0, 0), true), Some(End::Empty));
        assert_eq!(Watch::default().look(left(3, 1), true), Some(End::Deadline(left(3, 1))));

        assert!(End::Empty.told(Kind::Pool).is_ok());
        assert!(
            End::Deadline(left(3, 0)).told(Kind::Pool).is_ok_and(|told| told.contains("3 sessions move"))
        );
        assert!(End::Deadline(left(3, 1)).told(Kind::Pool).is_err());
    }

    #[test]
    fn a_deadline_of_before_is_told() {
        let args = |deadline| DeadlineArgs {
            what: DrainArgs { kind: Kind::Pool, name: "web".into() },
            deadline,
            no_deadline: false,
            wait: true,
            force: false,
        };
        let drain = |seconds_left| IntentStatus {
            kind: "pool".into(),
            name: "web".into(),
            order: "drain".into(),
            until: None,
            seconds_left,
            by: "eu-1".into(),
            at: String::new(),
        };
        let told = |deadline, left| args(deadline).stay(&[drain(left)]);
        assert_eq!(told(None, None), ("its sessions stay".into(), false));
        let (words, kept) = told(None, Some(25));
        assert!(kept && words.contains("25s more"), "{words}");
        let (words, kept) = told(None, Some(0));
        assert!(kept && words.contains("has passed"), "{words}");
        assert!(!told(Some(Duration::from_secs(9)), Some(9)).1);
    }

    #[test]
    fn a_drain_that_was_taken_back_is_seen() {
        let intent = |kind: &str, name: &str, order: &str| IntentStatus {
            kind: kind.into(),
            name: name.into(),
            order: order.into(),
            until: None,
            seconds_left: None,
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
