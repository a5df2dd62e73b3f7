//! `meridian apply FILE`

use std::path::PathBuf;

use bytes::Bytes;
use clap::Args;
use gossip::id::RevisionId;
use http::Method;

use super::exit::{CliError, Exit};
use super::output::{aside, hint, json, line};
use super::{Format, Global, validate};
use crate::admin::api::{Applied, Finding};
use crate::config::{ServicesFile, read_file};

#[derive(Debug, Args)]
pub(super) struct ApplyArgs {
    /// A services.toml; `-` reads standard input. Zone files that it names are read relative to its folder and go with it.
    file: PathBuf,
    /// Only if the mesh still runs this revision, EPOCH:HASH as `status -o json` shows it; else exit 5.
    #[arg(long, value_name = "EPOCH:HASH", value_parser = revision)]
    if_match: Option<String>,
}

pub(super) async fn run(global: &Global, args: ApplyArgs) -> Result<(), CliError> {
    let text = services(&args.file)?;
    let mut headers = Vec::new();
    if let Some(revision) = &args.if_match {
        headers.push(("if-match", format!("\"{revision}\"")));
    }
    let body = Some(("application/toml", Bytes::from(text)));
    let answer = global.client()?.send(Method::POST, "/v1/revisions", body, &headers).await?;
    report(global, &answer.success()?.parse()?)
}

/// Says what became of a revision.
pub(super) fn report(global: &Global, applied: &Applied) -> Result<(), CliError> {
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
    if !applied.unchanged {
        hint("meridian status  shows how many nodes run it");
    }
    Ok(())
}

/// Where a warning belongs, when it belongs to a line.
fn place(warning: &Finding) -> String {
    let file = warning.file.as_ref().map(|file| format!("{file} ")).unwrap_or_default();
    if warning.line == 0 { file } else { format!("{file}line {}: ", warning.line) }
}

/// What `--if-match` takes; the node is told the same words.
pub(super) fn revision(text: &str) -> Result<String, String> {
    let text = text.trim_matches('"');
    match text {
        "*" | "none" => {}
        _ => drop(text.parse::<RevisionId>().map_err(|error| error.to_string())?),
    }
    Ok(text.to_owned())
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
