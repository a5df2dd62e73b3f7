//! What `services.toml` may say.

mod accepted;
mod balance;
mod refused;
mod robust;

use super::*;
use crate::config::Severity;

/// The faults as `LINE:COLUMN message (hint)`, warnings with a `?` before them.
fn faults(text: &str) -> Vec<String> {
    let report = match parse("services.toml", text) {
        Ok(valid) => valid.warnings,
        Err(report) => report,
    };
    let shown = report.entries().iter().map(|entry| {
        let mark = if entry.severity == Severity::Warning { "? " } else { "" };
        let hint = entry.hint.as_ref().map(|hint| format!(" ({hint})")).unwrap_or_default();
        format!("{mark}{}:{} {}{hint}", entry.line, entry.column, entry.message)
    });
    shown.collect()
}

#[track_caller]
fn accepted(text: &str) -> Services {
    match parse("services.toml", text) {
        Ok(valid) => valid.services,
        Err(report) => panic!("{report}"),
    }
}
