//! `meridian sessions [ID]`, `meridian sessions end` and `meridian consistency`

use std::net::IpAddr;
use std::time::Duration;

use clap::{ArgGroup, Args, Subcommand};
use http::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::exit::{CliError, Exit};
use super::output::{aside, hint, json, line, or_dash, table};
use super::watch::watched;
use super::{Format, Global};
use crate::admin::api::{
    ClientSession, ClientSessions, ConsistencyStatus, SessionCopies, SessionEntry, SessionList, SessionsEnded,
};

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct SessionsArgs {
    #[command(subcommand)]
    command: Option<SessionsCommand>,
    /// Only this session: where its copies lie, and whether they agree.
    id: Option<String>,
    /// Only sessions on this backend: ADDRESS or POOL/ADDRESS.
    #[arg(long, value_name = "BACKEND", conflicts_with = "id")]
    backend: Option<String>,
    /// Only sessions of this client with services that know it by its address (`sticky.source_ip`).
    #[arg(long, value_name = "ADDRESS", conflicts_with_all = ["id", "backend"])]
    client: Option<IpAddr>,
    /// List so many sessions at most.
    #[arg(long, default_value = "20", conflicts_with_all = ["id", "client"])]
    limit: usize,
}

#[derive(Debug, Subcommand)]
enum SessionsCommand {
    /// End sessions: their users begin anew with their next request. What is in flight is not cut.
    End(EndArgs),
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("whose").required(true).multiple(true))]
struct EndArgs {
    /// This session.
    #[arg(group = "whose", conflicts_with_all = ["backend", "pool", "service"])]
    id: Option<String>,
    /// All sessions on this backend: ADDRESS or POOL/ADDRESS.
    #[arg(long, group = "whose", value_name = "BACKEND", conflicts_with = "service")]
    backend: Option<String>,
    /// All sessions on this pool or, with --backend, on that backend of it alone.
    #[arg(long, group = "whose", conflicts_with = "service")]
    pool: Option<String>,
    /// All sessions of this service.
    #[arg(long, group = "whose")]
    service: Option<String>,
}

impl SessionsArgs {
    /// Whether it lists something: an end is told once.
    pub(super) fn is_watched(&self) -> bool {
        self.command.is_none()
    }
}

/// `meridian sessions`
pub(super) async fn run(global: &Global, args: SessionsArgs) -> Result<(), CliError> {
    match (&args.command, &args.id) {
        (Some(SessionsCommand::End(whose)), _) => end(global, whose).await,
        (None, Some(id)) => watched(global, async || one(global, id).await).await,
        (None, None) => match args.client {
            Some(client) => watched(global, async || of_client(global, client).await).await,
            None => watched(global, async || list(global, &args).await).await,
        },
    }
}

async fn end(global: &Global, args: &EndArgs) -> Result<(), CliError> {
    let EndArgs { id, backend, pool, service } = args;
    let whose = [("session", id), ("backend", backend), ("pool", pool), ("service", service)];
    let query: Vec<String> = whose
        .iter()
        .filter_map(|(key, value)| {
            Some(format!("{key}={}", utf8_percent_encode(value.as_deref()?, NON_ALPHANUMERIC)))
        })
        .collect();
    let path = format!("/v1/sessions/ends?{}", query.join("&"));
    let ended: SessionsEnded = global.client()?.json(Method::POST, &path).await?;
    if global.output == Format::Json {
        return json(&ended);
    }
    let SessionsEnded { kind, name, sessions, .. } = &ended;
    match (kind.as_str(), sessions) {
        ("session", 0) => line("the session had ended already"),
        ("session", _) => line("ended the session: its user begins anew with the next request"),
        ("service", 0) if !ended.shared.is_empty() => {
            line(format_args!("ended the sessions of service {name}: their users begin anew"));
        }
        (_, 1) => line(format_args!("ended 1 session of {kind} {name}: its user begins anew")),
        _ => line(format_args!("ended {sessions} sessions of {kind} {name}: their users begin anew")),
    }
    for pool in &ended.shared {
        aside(format_args!(
            "pool {pool} serves other services too, and records name the pool alone: what ended there cannot be counted, \
             and stays listed until it expires"
        ));
    }
    if !ended.silent.is_empty() {
        aside(format_args!("not yet known to {}: they did not answer", ended.silent.join(", ")));
    }
    match kind.as_str() {
        "backend" => hint(format_args!(
            "new sessions may go there again; meridian drain backend {name}  keeps them off"
        )),
        _ => hint("what is in flight goes on; meridian sessions  shows the sessions that stand"),
    }
    Ok(())
}

async fn of_client(global: &Global, client: IpAddr) -> Result<(), CliError> {
    let path = format!("/v1/clients/{}/sessions", utf8_percent_encode(&client.to_string(), NON_ALPHANUMERIC));
    let found: ClientSessions = global.client()?.json(Method::GET, &path).await?;
    if global.output == Format::Json {
        return json(&found);
    }
    if found.sessions.is_empty() {
        line(format_args!("no session of {client} with a service that knows it by its address"));
    } else {
        let rows = found.sessions.iter().map(|ClientSession { service, session }| {
            let left = humantime::format_duration(Duration::from_secs(session.seconds_left)).to_string();
            vec![service.clone(), session.id.clone(), session.home.clone(), session.backend.clone(), left]
        });
        table(&["service", "session", "home", "backend", "ends in"], rows);
        hint("meridian sessions ID  shows where the copies of one lie");
    }
    missed(&found.silent);
    Ok(())
}

async fn list(global: &Global, args: &SessionsArgs) -> Result<(), CliError> {
    let mut path = format!("/v1/sessions?limit={}", args.limit);
    if let Some(backend) = &args.backend {
        path.push_str(&format!("&backend={}", utf8_percent_encode(backend, NON_ALPHANUMERIC)));
    }
    let sessions: SessionList = global.client()?.json(Method::GET, &path).await?;
    if global.output == Format::Json {
        return json(&sessions);
    }
    if sessions.backends.is_empty() {
        line("no sessions");
    } else {
        let counts = sessions.backends.iter().map(|one| vec![one.backend.clone(), one.sessions.to_string()]);
        table(&["backend", "sessions"], counts);
    }
    if !sessions.sessions.is_empty() {
        line("");
        rows(&sessions.sessions);
        let there: u64 = sessions.backends.iter().map(|one| one.sessions).sum();
        let shown = sessions.sessions.len();
        if shown == args.limit && args.backend.is_none() && there > shown as u64 {
            aside(format_args!("{} more are not listed; --limit N lists more", there - shown as u64));
        } else if shown == args.limit {
            aside("there may be more; --limit N lists more");
        }
        hint("meridian sessions ID  shows where the copies of one lie");
    }
    missed(&sessions.silent);
    Ok(())
}

async fn one(global: &Global, id: &str) -> Result<(), CliError> {
    let path = format!("/v1/sessions/{}", utf8_percent_encode(id, NON_ALPHANUMERIC));
    let found: SessionCopies = global.client()?.json(Method::GET, &path).await?;
    if global.output == Format::Json {
        return json(&found);
    }
    let mut homes = vec![found.session.clone()];
    for copy in found.copies.iter().filter(|copy| copy.newest) {
        if homes.iter().all(|one| one.home != copy.session.home) {
            homes.push(copy.session.clone());
        }
    }
    rows(&homes);
    line("");
    let none = || "-".to_owned();
    let lacking =
        found.lacking.iter().map(|node| vec![node.clone(), none(), "yes".into(), "has none".into(), none()]);
    let copies = found.copies.iter().map(|copy| {
        let replica = if copy.replica { "yes" } else { "no, hands it over" };
        let state = if copy.newest { "as above" } else { "differs" };
        let session = &copy.session;
        vec![copy.node.clone(), session.home.clone(), replica.into(), state.into(), session.backend.clone()]
    });
    table(&["node", "home", "replica", "copy", "backend"], copies.chain(lacking));
    if homes.len() > 1 {
        aside(
            "a client that is known by its address has a session of its own in every region that it came by",
        );
    }
    line(if found.agree { "all replicas agree" } else { "not all replicas agree: repair takes up to 30 s" });
    missed(&found.silent);
    Ok(())
}

fn rows(sessions: &[SessionEntry]) {
    table(
        &["session", "home", "backend", "assigned", "ends in"],
        sessions.iter().map(|session| {
            let left = humantime::format_duration(Duration::from_secs(session.seconds_left)).to_string();
            let weak = if session.weak { " (weak)" } else { "" };
            vec![
                session.id.clone(),
                session.home.clone(),
                session.backend.clone(),
                format!("{}{weak}", session.assigned),
                left,
            ]
        }),
    );
}

/// `meridian consistency`: fails as degraded when replicas differ.
pub(super) async fn consistency(global: &Global) -> Result<(), CliError> {
    let found: ConsistencyStatus = global.client()?.json(Method::GET, "/v1/consistency").await?;
    if global.output == Format::Json {
        json(&found)?;
    } else {
        line(format_args!(
            "{} buckets with sessions, {} records in all replicas together, {} buckets differ",
            found.buckets,
            found.records,
            found.differ.len()
        ));
        if !found.differ.is_empty() {
            let rows = found.differ.iter().map(|one| {
                let held = one.held.iter().map(|(node, records)| format!("{node}: {records}"));
                let held = held.collect::<Vec<_>>().join(", ");
                vec![one.home.clone(), one.bucket.to_string(), or_dash(one.since.as_deref()), held]
            });
            table(&["home", "bucket", "since", "records held"], rows);
        }
    }
    match (found.agree, found.silent.is_empty()) {
        (true, _) => Ok(()),
        (false, true) => Err(CliError::new(Exit::Failure, "replicas differ").hint(
            "under load a few always do; what stays for more than 30 s is worth a look at 'meridian status'",
        )),
        (false, false) => {
            Err(CliError::new(Exit::Failure, format!("{} did not answer", found.silent.join(", ")))
                .hint("'meridian members' shows whether they are alive"))
        }
    }
}

fn missed(silent: &[String]) {
    if !silent.is_empty() {
        aside(format_args!("not counted, since they did not answer in 2 s: {}", silent.join(", ")));
    }
}
