//! `meridian upgrade`

use std::path::PathBuf;

use bytes::Bytes;
use clap::Args;
use http::{Method, StatusCode};

use super::exit::CliError;
use super::output::{hint, json, line};
use super::{Format, Global};
use crate::admin::api::{Status, UpgradeRequest, Upgraded};

#[derive(Debug, Args)]
pub(super) struct UpgradeArgs {
    /// The program to go on with; without it the file that the node was started from, as it is now.
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
}

pub(super) async fn run(global: &Global, args: UpgradeArgs) -> Result<(), CliError> {
    let client = global.client()?;
    let before: Status = client.json(Method::GET, "/v1/status").await?;
    let program = args.program.map(std::path::absolute).transpose()?;
    let program = program.map(|program| program.to_string_lossy().into_owned());
    let body = serde_json::to_vec(&UpgradeRequest { program }).map_err(anyhow::Error::from)?;
    let body = Some(("application/json", Bytes::from(body)));
    let answer = client.send(Method::POST, "/v1/upgrade", body, &[]).await?;
    let remote = answer.status == StatusCode::FORBIDDEN;
    let upgraded: Upgraded = match answer.success() {
        Ok(answer) => answer.parse()?,
        Err(error) if remote => return Err(error.hint("--node PATH-OF-admin.sock, or --data FOLDER")),
        Err(error) => return Err(error),
    };
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
