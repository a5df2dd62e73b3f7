//! `meridian apply FILE`

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use gossip::id::RevisionId;
use http::{Method, StatusCode};

use super::client::{Answer, Client};
use super::exit::{CliError, Exit};
use super::output::{aside, hint, json, line};
use super::{Format, Global, problems, validate};
use crate::admin::api::{Applied, Finding, MemberStatus, Status};
use crate::config::{ServicesFile, read_file};

/// How often `--wait` looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The shortest part of a hash that is taken for a whole one.
const SHORTEST: usize = 8;

/// Headers of a request.
type Headers = Vec<(&'static str, String)>;

#[derive(Debug, Args)]
pub(super) struct ApplyArgs {
    /// A services.toml; `-` reads standard input. Zone files that it names are read relative to its folder and go with it.
    file: PathBuf,
    /// Only if the mesh still runs this revision, EPOCH:HASH as `status` and `history` show it; else exit 5.
    #[arg(long, value_name = "EPOCH:HASH", value_parser = revision)]
    if_match: Option<String>,
    /// Return when all living nodes serve it [default when given: 30s]: exit 6 when they do not in time, 7 when something is
    /// wrong then that was not before, a port that a node cannot bind, say.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration,
        num_args = 0..=1, require_equals = true, default_missing_value = "30s")]
    wait: Option<Duration>,
    /// Also when it takes all listeners or services away.
    #[arg(long)]
    force: bool,
}

pub(super) async fn run(global: &Global, args: ApplyArgs) -> Result<(), CliError> {
    let text = services(&args.file)?;
    let body = Some(("application/toml", Bytes::from(text)));
    let client = global.client()?;
    let headers = if_match(&client, args.if_match.as_deref()).await?;
    let before: Option<Status> = match args.wait {
        Some(_) => Some(client.json(Method::GET, "/v1/status").await?),
        None => None,
    };
    let path = format!("/v1/revisions?force={}", args.force);
    let applied: Applied = taken(client.send(Method::POST, &path, body, &headers).await?)?.parse()?;
    report(global, &applied, args.wait.is_some())?;
    let Some(within) = args.wait else { return Ok(()) };
    let served = tokio::time::timeout(within, served(&client, &applied)).await;
    let waited = humantime::format_duration(within);
    let status = match served {
        Ok(status) => status?,
        Err(_) => {
            let members: Vec<MemberStatus> = client.json(Method::GET, "/v1/members").await?;
            let behind = behind(&members, &applied).join(", ");
            let error = format!("after {waited} it is not yet in force on {behind}");
            return Err(CliError::new(Exit::Timeout, error).hint("meridian status  shows what is in the way"));
        }
    };
    let before = before.map(|before| before.problems).unwrap_or_default();
    let (worse, known) = problems::since(&before, &status.problems);
    if global.output == Format::Table {
        for problem in problems::grouped(&known, &status.members) {
            aside(format_args!("note: wrong before it too: {problem}"));
        }
    }
    if !worse.is_empty() {
        let problems = problems::grouped(&worse, &status.members).join("; ");
        let error = format!("every node runs it, and something is wrong since: {problems}");
        let hint = "meridian status  shows the whole; meridian rollback N  goes back to revision N";
        return Err(CliError::new(Exit::Degraded, error).hint(hint));
    }
    if global.output == Format::Table {
        line(format_args!("all {} nodes serve it", status.revision.map_or(0, |revision| revision.nodes)));
    }
    Ok(())
}

/// Resolves when every living node runs the revision, or a greater one, a look after that: what it could not do is told by
/// then.
async fn served(client: &Client, applied: &Applied) -> Result<Status, CliError> {
    let mut all = false;
    loop {
        let status: Status = client.json(Method::GET, "/v1/status").await?;
        if std::mem::replace(&mut all, behind(&status.members, applied).is_empty()) && all {
            return Ok(status);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Living nodes that run an older revision.
fn behind(members: &[MemberStatus], applied: &Applied) -> Vec<String> {
    let lives = |member: &&MemberStatus| !matches!(member.state.as_str(), "dead" | "left");
    let runs = |member: &MemberStatus| {
        let id = member.revision.as_ref().and_then(|revision| revision.parse::<RevisionId>().ok());
        let (Some(id), Ok(hash)) = (id, format!("{}:{}", applied.epoch, applied.hash).parse()) else {
            return false;
        };
        id >= hash
    };
    members.iter().filter(lives).filter(|member| !runs(member)).map(|member| member.name.clone()).collect()
}

/// The answer, if it was taken; else what to do about it.
pub(super) fn taken(answer: Answer) -> Result<Answer, CliError> {
    let refused = answer.status == StatusCode::CONFLICT;
    answer.success().map_err(|error| if refused { error.hint("--force does it all the same") } else { error })
}

/// Says what became of a revision.
/// `followed`: whether more is said of how far it got.
pub(super) fn report(global: &Global, applied: &Applied, followed: bool) -> Result<(), CliError> {
    if global.output == Format::Json {
        return json(applied);
    }
    for warning in &applied.warnings {
        aside(format_args!("warning: {}{}", place(warning), warning.message));
        // What belongs to no line was found out by the mesh, not by `validate`, which says the rest.
        if let (0, Some(advice)) = (warning.line, &warning.hint) {
            aside(format_args!("  {advice}"));
        }
    }
    let what = if applied.unchanged { "already in force" } else { "applied" };
    line(format_args!("revision {} ({}) {what}", applied.epoch, &applied.hash.get(..12).unwrap_or_default()));
    if !applied.unchanged && !followed {
        hint("meridian status  shows how many nodes run it");
    }
    Ok(())
}

/// Where a warning belongs, when it belongs to a line.
fn place(warning: &Finding) -> String {
    let file = warning.file.as_ref().map(|file| format!("{file} ")).unwrap_or_default();
    if warning.line == 0 { file } else { format!("{file}line {}: ", warning.line) }
}

/// What `--if-match` takes: `EPOCH:HASH`, the hash whole or as short as `status` shows it.
pub(super) fn revision(text: &str) -> Result<String, String> {
    let text = text.trim_matches('"');
    let is_short = text.split_once(':').is_some_and(|(epoch, hash)| {
        let digits = hash.chars().all(|digit| digit.is_ascii_digit() || ('a'..='f').contains(&digit));
        epoch.parse::<u64>().is_ok() && (SHORTEST..64).contains(&hash.len()) && digits
    });
    match text {
        "*" | "none" => {}
        _ if is_short => {}
        _ => drop(text.parse::<RevisionId>().map_err(|error| error.to_string())?),
    }
    Ok(text.to_owned())
}

/// The header that says so, with the whole hash of the revision in force where a short one means it.
pub(super) async fn if_match(client: &Client, wanted: Option<&str>) -> Result<Headers, CliError> {
    let Some(wanted) = wanted else { return Ok(Headers::new()) };
    let Some((epoch, hash)) = wanted.split_once(':').filter(|(_, hash)| hash.len() < 64) else {
        return Ok(vec![("if-match", format!("\"{wanted}\""))]);
    };
    let status: Status = client.json(Method::GET, "/v1/status").await?;
    match status.revision {
        Some(present) if present.epoch.to_string() == epoch && present.hash.starts_with(hash) => {
            Ok(vec![("if-match", format!("\"{epoch}:{}\"", present.hash))])
        }
        present => {
            let present = present.map(|id| format!("{}:{}", id.epoch, id.hash.get(..12).unwrap_or_default()));
            let present = present.unwrap_or_else(|| "none".to_owned());
            let error = format!("revision {present} is in force, not {wanted}; nothing was changed");
            Err(CliError::new(Exit::Conflict, error)
                .hint("meridian diff FILE  shows what yours would change"))
        }
    }
}

/// A services.toml, valid, with the zone files it names put into it.
pub(super) fn services(file: &std::path::Path) -> Result<String, CliError> {
    let services = ServicesFile::beside(file, read(file)?);
    validate::services(&services, file)?;
    Ok(services.revision())
}

/// A file's text, or standard input's for `-`.
pub(super) fn read(file: &std::path::Path) -> Result<String, CliError> {
    let failed = |error| CliError::new(Exit::Failure, format!("cannot read {}: {error}", file.display()));
    read_file(file).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_is_named_as_it_is_shown() {
        for good in
            ["4:deadbeef", "4:0123456789ab", &format!("4:{}", "a".repeat(64)), "none", "*", "\"none\""]
        {
            assert!(revision(good).is_ok(), "{good}");
        }
        for wrong in ["4", "4:dead", "x:deadbeef", "4:DEADBEEF", "4:deadbeeg"] {
            assert!(revision(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn who_lives_and_runs_an_older_revision_is_behind() {
        let hash = |digit: &str| digit.repeat(64);
        let member = |name: &str, state: &str, revision: Option<String>| MemberStatus {
            name: name.into(),
            region: "eu".into(),
            zone: None,
            state: state.into(),
            version: String::new(),
            state_seconds: 0,
            stale_seconds: None,
            rtt_ms: None,
            address: String::new(),
            public: Vec::new(),
            revision,
        };
        let applied = Applied { epoch: 4, hash: hash("b"), unchanged: false, warnings: Vec::new() };
        let on = |epoch: u64, digit| Some(format!("{epoch}:{}", hash(digit)));
        let members = [
            member("same", "alive", on(4, "b")),
            member("newer", "alive", on(5, "a")),
            member("older", "alive", on(3, "c")),
            member("sibling", "draining", on(4, "a")),
            member("empty", "suspect", None),
            member("gone", "dead", on(3, "c")),
        ];
        assert_eq!(behind(&members, &applied), ["older", "sibling", "empty"]);
    }
}
