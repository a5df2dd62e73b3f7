//! `meridian healthcheck`: for supervisors and containers. Exit 0: the node is ready for users; 7: it runs and is not; 4: nobody
//! answers; 6: not in time.

use std::process::ExitCode;
use std::time::Duration;

use http::{Method, StatusCode};

use super::exit::{CliError, Exit};
use super::output::{json, line, table};
use super::{Format, Global};
use crate::admin::api::Readiness;

/// How long the node may take: whoever probes it has a patience of its own, and learns nothing from a probe that it had to kill.
const PATIENCE: Duration = Duration::from_secs(3);

pub(super) async fn run(global: &Global) -> Result<ExitCode, CliError> {
    let client = global.client()?;
    let asked = client.send(Method::GET, "/readyz?verbose=1", None, &[]);
    let answer = tokio::time::timeout(PATIENCE, asked).await.map_err(|_| {
        let error = format!(
            "the node does not say within {} whether it is ready",
            humantime::format_duration(PATIENCE)
        );
        CliError::new(Exit::Timeout, error).hint("it hangs or has no time: its log may say why")
    })??;
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
                // Programs know it as "stays".
                let name = if check.name == "stays" { "users" } else { &check.name };
                vec![name.to_owned(), if check.ok { "ok" } else { "no" }.into(), check.detail.clone()]
            });
            table(&["check", "", "what"], rows);
        }
    }
    Ok(if readiness.ready { ExitCode::SUCCESS } else { ExitCode::from(Exit::Degraded as u8) })
}
