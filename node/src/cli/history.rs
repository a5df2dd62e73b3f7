//! `meridian history` and `meridian rollback`.

use clap::Args;
use http::Method;

use super::apply::{if_match, report, revision, taken};
use super::exit::CliError;
use super::output::{hint, json, table};
use super::{Format, Global};
use crate::admin::revisions::{RevisionEntry, RevisionList};

/// How much of a hash tells revisions apart.
const SHORT: usize = 12;

/// `meridian history`
pub(super) async fn run(global: &Global) -> Result<(), CliError> {
    let listed: RevisionList = global.client()?.json(Method::GET, "/v1/revisions").await?;
    if global.output == Format::Json {
        return json(&listed);
    }
    let row = |entry: &RevisionEntry| {
        vec![
            entry.epoch.to_string(),
            entry.hash.get(..SHORT).unwrap_or(&entry.hash).to_owned(),
            entry.state.clone(),
            entry.nodes_on.len().to_string(),
            entry.time.clone(),
            entry.node.clone(),
            entry.author.clone(),
        ]
    };
    let heading = ["revision", "hash", "state", "nodes on", "applied", "on", "by"];
    table(&heading, listed.revisions.iter().map(row));
    match listed.revisions.iter().find(|entry| entry.state == "lost") {
        Some(lost) => {
            let name = format!("{}:{}", lost.epoch, lost.hash.get(..SHORT).unwrap_or(&lost.hash));
            hint(format_args!(
                "{name} was applied while the mesh was cut, or at the same time as another, and lost: meridian diff \
                 --revision {name} shows it, meridian rollback {name} puts it in force"
            ));
        }
        None => hint(
            "meridian diff --revision N  shows what a revision changed; meridian rollback N  goes back to it",
        ),
    }
    Ok(())
}

#[derive(Debug, Args)]
pub(super) struct RollbackArgs {
    /// Its number in `meridian history`, or NUMBER:HASH where two have the same.
    revision: String,
    /// Only if the mesh still runs this revision, EPOCH:HASH as `status` and `history` show it; else exit 5.
    #[arg(long, value_name = "EPOCH:HASH", value_parser = revision)]
    if_match: Option<String>,
    /// Also when it takes all listeners or services away.
    #[arg(long)]
    force: bool,
}

/// `meridian rollback`: an old text becomes the newest revision.
pub(super) async fn rollback(global: &Global, args: RollbackArgs) -> Result<(), CliError> {
    let client = global.client()?;
    let headers = if_match(&client, args.if_match.as_deref()).await?;
    let path = format!("/v1/revisions/{}/rollback?force={}", args.revision, args.force);
    let answer = client.send(Method::POST, &path, None, &headers).await?;
    report(global, &taken(answer)?.parse()?, false)
}
