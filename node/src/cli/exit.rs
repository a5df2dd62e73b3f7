//! How a command ends: the exit codes of the command line, and errors that say what to do next.

use std::fmt;
use std::process::ExitCode;

use super::{Format, output};
use crate::admin::api::Finding;
use crate::config::Report;

/// The exit codes, a contract with scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exit {
    /// 1: it did not work.
    Failure = 1,
    /// 2: the command line is wrong (clap uses it too).
    Usage = 2,
    /// 3: the configuration is invalid; nothing was changed.
    InvalidConfiguration = 3,
    /// 4: no node answers.
    Unreachable = 4,
    /// 5: somebody else changed it first.
    Conflict = 5,
    /// 6: it took too long.
    Timeout = 6,
    /// 7: it works, and something needs attention (`doctor`, `healthcheck`, `apply --wait`).
    Degraded = 7,
    /// 130: Ctrl-C broke a wait off, as shells say it.
    Interrupted = 130,
}

impl Exit {
    /// As JSON spells it.
    fn name(self) -> &'static str {
        match self {
            Self::Failure => "failure",
            Self::Usage => "usage",
            Self::InvalidConfiguration => "invalid_configuration",
            Self::Unreachable => "unreachable",
            Self::Conflict => "conflict",
            Self::Timeout => "timeout",
            Self::Degraded => "degraded",
            Self::Interrupted => "interrupted",
        }
    }
}

/// A command's failure: an exit code, what happened, and a hint at the next step.
#[derive(Debug)]
pub(super) struct CliError {
    exit: Exit,
    message: String,
    hint: Option<String>,
    /// What is wrong with a file: drawn for people, listed for programs.
    report: Option<Box<Report>>,
    /// What a node found wrong with it.
    findings: Vec<Finding>,
}

impl CliError {
    /// An error with no hint yet.
    pub(super) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), hint: None, report: None, findings: Vec::new() }
    }

    /// The same with all that is wrong with a file, which is drawn before it.
    pub(super) fn because(mut self, report: Report) -> Self {
        self.report = Some(Box::new(report));
        self
    }

    /// The same with what a node found wrong with a file.
    pub(super) fn found(mut self, findings: Vec<Finding>) -> Self {
        self.findings = findings;
        self
    }

    /// The same with a hint at the next step.
    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same with a hint, where there is one.
    pub(super) fn maybe_hint(mut self, hint: Option<String>) -> Self {
        self.hint = hint.or(self.hint);
        self
    }

    /// Whether it is that a port or an address cannot be had.
    pub(super) fn is_about_ports(&self) -> bool {
        self.hint.as_ref().is_some_and(|hint| hint.contains("--proxy-listen"))
    }

    /// One line of JSON, for programs.
    fn as_json(&self) -> serde_json::Value {
        let Self { exit, message, hint, report, findings } = self;
        let (code, kind) = (*exit as u8, exit.name());
        let mut error = serde_json::json!({ "code": code, "kind": kind, "message": message, "hint": hint });
        if let Some(report) = report {
            error["findings"] = serde_json::json!(report.entries());
        } else if !findings.is_empty() {
            error["findings"] = serde_json::json!(findings);
        }
        serde_json::json!({ "error": error })
    }

    /// Prints it to standard error, for programs as JSON, and gives the exit code.
    pub(super) fn report(&self, format: Format) -> ExitCode {
        if format == Format::Json {
            output::json_aside(&self.as_json());
            return ExitCode::from(self.exit as u8);
        }
        if let Some(report) = &self.report {
            // A closed standard error is the reader's choice; the exit code says the rest.
            let _ = report.print();
        }
        for Finding { line, column, message, .. } in &self.findings {
            output::aside(format_args!("line {line}, column {column}: {message}"));
        }
        output::aside(format_args!("error: {}", self.message));
        if let Some(hint) = &self.hint {
            output::hint(hint);
        }
        ExitCode::from(self.exit as u8)
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for CliError {}

impl From<anyhow::Error> for CliError {
    fn from(error: anyhow::Error) -> Self {
        Self::new(Exit::Failure, format!("{error:#}"))
    }
}

impl From<std::io::Error> for CliError {
    fn from(error: std::io::Error) -> Self {
        Self::new(Exit::Failure, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::services;

    #[test]
    fn programs_get_all_that_is_wrong_with_a_file_in_one_line() {
        let report = services::parse("bad.toml", "[listener.http]\nport = 0\nspeed = 9\n").unwrap_err();
        let faults = report.entries().len();
        let told = CliError::new(Exit::InvalidConfiguration, "bad.toml is invalid").because(report).as_json();
        assert_eq!(told["error"]["code"], 3);
        let findings = told["error"]["findings"].as_array().unwrap();
        assert!(findings.len() == faults && faults > 1, "{told}");
        assert!(findings.iter().all(|one| one["line"].is_u64() && one["message"].is_string()), "{told}");
        assert_eq!(told.to_string().lines().count(), 1);
        let plain = CliError::new(Exit::Failure, "no").as_json();
        assert!(plain["error"].get("findings").is_none(), "{plain}");
    }
}
