//! How a command ends: the exit codes of the command line, and errors that say what to do next.

use std::fmt;
use std::process::ExitCode;

use super::{Format, output};

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
    /// 7: it works, and something needs attention (`doctor`, `healthcheck`).
    Degraded = 7,
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
        }
    }
}

/// A command's failure: an exit code, what happened, and a hint at the next step.
#[derive(Debug)]
pub(super) struct CliError {
    exit: Exit,
    message: String,
    hint: Option<String>,
}

impl CliError {
    /// An error with no hint yet.
    pub(super) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), hint: None }
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

    /// Prints it to standard error, for programs as JSON, and gives the exit code.
    pub(super) fn report(&self, format: Format) -> ExitCode {
        if format == Format::Json {
            let Self { exit, message, hint } = self;
            let (code, kind) = (*exit as u8, exit.name());
            let error = serde_json::json!({ "code": code, "kind": kind, "message": message, "hint": hint });
            output::aside(serde_json::json!({ "error": error }));
            return ExitCode::from(code);
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
