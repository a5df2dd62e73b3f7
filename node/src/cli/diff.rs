//! `meridian diff`: what a file would change, or what a revision changed. The only file that names the library `similar`.

use std::path::PathBuf;

use clap::Args;
use http::{Method, StatusCode};
use serde::Serialize;
use similar::TextDiff;

use super::apply::services;
use super::exit::CliError;
use super::output::{hint, json, line};
use super::{Format, Global, validate};
use crate::admin::revisions::{RevisionEntry, RevisionList};

/// Lines shown around a change.
const AROUND: usize = 3;

#[derive(Debug, Args)]
pub(super) struct DiffArgs {
    /// A services.toml that might be applied; `-` reads standard input. Without it: what --revision changed.
    #[arg(required_unless_present = "revision")]
    file: Option<PathBuf>,
    /// The revision to compare with (default: the current one), or whose own change is shown.
    #[arg(long, value_name = "N")]
    revision: Option<String>,
}

/// What `-o json` prints.
#[derive(Debug, Serialize)]
struct Difference {
    from: String,
    to: String,
    changed: bool,
    /// In the unified format.
    diff: String,
}

pub(super) async fn run(global: &Global, args: DiffArgs) -> Result<(), CliError> {
    let (from, old, to, new) = match &args.file {
        Some(file) => {
            let new = services(file)?;
            let to = validate::named(file);
            match &args.revision {
                Some(id) => (format!("revision {id}"), body(global, id).await?, to, new),
                None => match current(global).await? {
                    Some(old) => ("revision current".to_owned(), old, to, new),
                    None => ("nothing".to_owned(), String::new(), to, new),
                },
            }
        }
        None => {
            let id = args.revision.clone().unwrap_or_default();
            let new = body(global, &id).await?;
            match parent(global, &id).await? {
                Some(parent) => {
                    let old = body(global, &parent).await?;
                    (format!("revision {parent}"), old, format!("revision {id}"), new)
                }
                None => ("nothing".to_owned(), String::new(), format!("revision {id}"), new),
            }
        }
    };
    let diff = TextDiff::from_lines(&old, &new);
    let diff = diff.unified_diff().context_radius(AROUND).header(&from, &to).to_string();
    let changed = old != new;
    if global.output == Format::Json {
        return json(&Difference { from, to, changed, diff });
    }
    match changed {
        true => line(diff.trim_end()),
        false => line(format_args!("{to} is the same as {from}")),
    }
    if changed && let Some(file) = &args.file {
        hint(format_args!("meridian apply {}  puts it in force", file.display()));
    }
    Ok(())
}

/// What is in force; `None` before the first apply.
async fn current(global: &Global) -> Result<Option<String>, CliError> {
    let answer = global.client()?.send(Method::GET, "/v1/revisions/current", None, &[]).await?;
    if answer.status == StatusCode::NOT_FOUND {
        return Ok(None);
    }
    Ok(Some(String::from_utf8_lossy(&answer.success()?.body).into_owned()))
}

async fn body(global: &Global, id: &str) -> Result<String, CliError> {
    let answer = global.client()?.send(Method::GET, &format!("/v1/revisions/{id}"), None, &[]).await?;
    Ok(String::from_utf8_lossy(&answer.success()?.body).into_owned())
}

/// What a revision replaced, as NUMBER:HASH; `None` when that is not in the history.
async fn parent(global: &Global, id: &str) -> Result<Option<String>, CliError> {
    let listed: RevisionList = global.client()?.json(Method::GET, "/v1/revisions").await?;
    let (epoch, hash) = id.split_once(':').unwrap_or((id, ""));
    let is_it = |entry: &&RevisionEntry| match id {
        "current" => entry.state == "current",
        _ => entry.epoch.to_string() == epoch && entry.hash.starts_with(hash),
    };
    let entry = listed.revisions.iter().filter(is_it).min_by_key(|entry| entry.state == "lost");
    let parent = entry.and_then(|entry| entry.parent.as_ref());
    let parent = listed.revisions.iter().find(|entry| Some(&entry.hash) == parent);
    Ok(parent.map(|parent| format!("{}:{}", parent.epoch, parent.hash)))
}
