//! `meridian upgrade`

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http::{Method, StatusCode};

use super::exit::CliError;
use super::output::{aside, hint, json, line};
use super::{Format, Global};
use crate::admin::api::{Status, UpgradeRequest, Upgraded};

/// Requests of other regions are waited for, a minute at most, then the next process may take 20 s to be ready and 20 s to serve, and so may the old
/// program where that fails.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(160);

#[derive(Debug, Args)]
pub(super) struct UpgradeArgs {
    /// The program to go on with; without it the file that the node was started from, as it is now.
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
}

pub(super) async fn run(global: &Global, args: UpgradeArgs) -> Result<(), CliError> {
    let client = global.client()?.patient(UPGRADE_TIMEOUT);
    let before: Status = client.json(Method::GET, "/v1/status").await?;
    let program = args.program.map(std::path::absolute).transpose()?;
    let program = program.map(|program| program.to_string_lossy().into_owned());
    let body = serde_json::to_vec(&UpgradeRequest { program }).map_err(anyhow::Error::from)?;
    let body = Some(("application/json", Bytes::from(body)));
    if global.output == Format::Table && has_regions(&before) {
        aside("requests that other regions have under way here are waited for, a minute at most");
    }
    let answer = client.send(Method::POST, "/v1/upgrade", body, &[]).await?;
    let next = next(answer.status, &before);
    let upgraded: Upgraded = answer.success().map_err(|error| error.maybe_hint(next))?.parse()?;
    let after: Status = client.json(Method::GET, "/v1/status").await?;
    match global.output {
        Format::Json => json(&upgraded),
        Format::Table => {
            let (node, from, to) = (&after.node, &before.version, &after.version);
            let Upgraded { pid, took_ms } = upgraded;
            line(format_args!("{node} went on as process {pid} in {took_ms} ms, version {from} to {to}"));
            hint("the process before ends when nobody is connected to it any more");
            Ok(())
        }
    }
}

/// What to do when the node does not go on as another program.
fn next(answered: StatusCode, before: &Status) -> Option<String> {
    let Status { node, version, .. } = before;
    Some(match answered {
        StatusCode::FORBIDDEN => {
            "give the order on its machine: --node PATH-OF-admin.sock, or --data FOLDER".to_owned()
        }
        StatusCode::CONFLICT => format!(
            "{node} ran version {version} before; meridian status  shows what it runs now, its log says more; --program FILE names \
             another program to go on with"
        ),
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => {
            format!(
                "{node} runs version {version}, which cannot be followed by another process: restart it once"
            )
        }
        _ => return None,
    })
}

/// Whether somebody lives in another region than the node.
fn has_regions(status: &Status) -> bool {
    let living = || status.members.iter().filter(|member| member.state == "alive");
    let own = living().find(|member| member.name == status.node).map(|own| &own.region);
    living().any(|member| Some(&member.region) != own)
}
