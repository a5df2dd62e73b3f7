//! `meridian doctor`: looks for what is wrong on this machine and in the mesh, and says what to do.
//!
//! ```text
//!   node.toml ──▶ machine: folder, key, limits, ports, name server     this machine, with or without a node on it
//!   system ─────▶ clock: whether a time server sets it
//!   admin API ──▶ mesh: readiness, peers, clock, problems               what the node says, if one runs
//! ```
//! Exit 0: nothing that must be mended; 7: something must.

mod clock;
mod machine;
mod mesh;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::exit::{CliError, Exit};
use super::output::{aside, json, line, table};
use super::{Format, Global, validate};
use crate::config::node_file::{self, LoadError, NodeOverrides};

#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// The node's configuration; without it, the defaults.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// How a thing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    /// As it should be.
    Ok,
    /// It works, and may not as well as it could.
    Warn,
    /// It must be mended.
    Fail,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Finding {
    check: &'static str,
    verdict: Verdict,
    detail: String,
    /// What to do; null when there is nothing to do.
    hint: Option<String>,
}

fn ok(check: &'static str, detail: impl Into<String>) -> Finding {
    Finding { check, verdict: Verdict::Ok, detail: detail.into(), hint: None }
}

fn warn(check: &'static str, detail: impl Into<String>, hint: impl Into<String>) -> Finding {
    Finding { check, verdict: Verdict::Warn, detail: detail.into(), hint: Some(hint.into()) }
}

fn fail(check: &'static str, detail: impl Into<String>, hint: impl Into<String>) -> Finding {
    Finding { check, verdict: Verdict::Fail, detail: detail.into(), hint: Some(hint.into()) }
}

pub(super) async fn run(global: &Global, args: DoctorArgs) -> Result<ExitCode, CliError> {
    let overrides = NodeOverrides { data: global.named_data(), ..NodeOverrides::default() };
    let config = match node_file::load(args.config.as_deref(), &overrides) {
        Ok(valid) => valid.node,
        Err(LoadError::Invalid(report)) => {
            let name = args.config.map_or_else(|| "the defaults".into(), |path| path.display().to_string());
            return Err(validate::invalid(&name, report));
        }
        Err(error) => return Err(CliError::new(Exit::Failure, error.to_string())),
    };
    let client = global.client()?;
    let told = mesh::ask(&client).await;
    let mut findings = machine::look(&config, told.is_some());
    findings.extend(clock::look().await);
    findings.extend(mesh::look(told.as_ref()));
    let worst = findings.iter().map(|finding| finding.verdict).max().unwrap_or(Verdict::Ok);
    match global.output {
        Format::Json => json(&serde_json::json!({ "verdict": worst, "findings": findings }))?,
        Format::Table => print(&findings, worst),
    }
    Ok(if worst == Verdict::Fail { ExitCode::from(Exit::Degraded as u8) } else { ExitCode::SUCCESS })
}

fn print(findings: &[Finding], worst: Verdict) {
    let rows = findings.iter().map(|finding| {
        let sign = match finding.verdict {
            Verdict::Ok => "ok",
            Verdict::Warn => "WARN",
            Verdict::Fail => "FAIL",
        };
        vec![sign.to_owned(), finding.check.to_owned(), finding.detail.clone()]
    });
    table(&["", "check", "what"], rows);
    let mut told = BTreeSet::new();
    for finding in findings.iter().filter(|finding| finding.verdict != Verdict::Ok) {
        if let Some(hint) = &finding.hint
            && told.insert((finding.check, hint))
        {
            aside(format_args!("hint ({}): {hint}", finding.check));
        }
    }
    line(match worst {
        Verdict::Ok => "all is well",
        Verdict::Warn => "it works; see the warnings",
        Verdict::Fail => "something must be mended",
    });
}
