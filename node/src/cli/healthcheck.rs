//! `meridian healthcheck`: for supervisors and containers. Exit 0: the node is ready for users; 7: it runs and is not; 4: nobody
//! answers.

use std::process::ExitCode;

use http::{Method, StatusCode};

use super::exit::{CliError, Exit};
use super::output::{json, line, table};
use super::{Format, Global};
use crate::admin::api::Readiness;

pub(super) async fn run(global: &Global) -> Result<ExitCode, CliError> {
    let answer = global.client()?.send(Method::GET, "/readyz?verbose=1", None, &[]).await?;
    // Not to be ready is an answer too.
    let readiness: Readiness = match answer.status {
        StatusCode::SERVICE_UNAVAILABLE => answer.parse()?,
        _ => answer.success()?.parse()?,
    };
    match global.output {
        Format::Json => json(&readiness)?,
        Format::Table => {
            line(if readiness.ready { "ready" } else { "not ready" });
            let rows = readiness.checks.iter().map(|check| {
                vec![check.name.clone(), if check.ok { "ok" } else { "no" }.into(), check.detail.clone()]
            });
            table(&["check", "", "what"], rows);
        }
    }
    Ok(if readiness.ready { ExitCode::SUCCESS } else { ExitCode::from(Exit::Degraded as u8) })
}
