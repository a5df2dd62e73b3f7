//! `meridian sessions [ID]` and `meridian consistency`

use clap::Args;
use http::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::exit::{CliError, Exit};
use super::output::{aside, hint, json, line, or_dash, table};
use super::{Format, Global};
use crate::admin::api::{ConsistencyStatus, SessionCopies, SessionEntry, SessionList};

#[derive(Debug, Args)]
pub(super) struct SessionsArgs {
    /// Only this session: where its copies lie, and whether they agree.
    id: Option<String>,
    /// Only sessions on this backend: ADDRESS or POOL/ADDRESS.
    #[arg(long, value_name = "BACKEND", conflicts_with = "id")]
    backend: Option<String>,
    /// List so many sessions at most.
    #[arg(long, default_value = "20", conflicts_with = "id")]
    limit: usize,
}

/// `meridian sessions`
pub(super) async fn run(global: &Global, args: SessionsArgs) -> Result<(), CliError> {
    match &args.id {
        Some(id) => one(global, id).await,
        None => list(global, &args).await,
    }
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
    rows(std::slice::from_ref(&found.session));
    line("");
    let lacking =
        found.lacking.iter().map(|node| vec![node.clone(), "yes".into(), "has none".into(), "-".into()]);
    let copies = found.copies.iter().map(|copy| {
        let replica = if copy.replica { "yes" } else { "no, hands it over" };
        let state = if copy.newest { "as above" } else { "differs" };
        vec![copy.node.clone(), replica.into(), state.into(), copy.session.backend.clone()]
    });
    table(&["node", "replica", "copy", "backend"], copies.chain(lacking));
    line(if found.agree { "all replicas agree" } else { "not all replicas agree: repair takes up to 30 s" });
    missed(&found.silent);
    Ok(())
}

fn rows(sessions: &[SessionEntry]) {
    table(
        &["session", "home", "backend", "assigned", "ends in"],
        sessions.iter().map(|session| {
            let left =
                humantime::format_duration(std::time::Duration::from_secs(session.seconds_left)).to_string();
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
