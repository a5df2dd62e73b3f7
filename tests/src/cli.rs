//! One call of the command line, and the only place that spells its arguments for the harness.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::status::Status;

/// No call of the command line may take longer.
const BOUND: Duration = Duration::from_secs(30);

/// Exit codes, as the documentation promises them.
pub mod code {
    /// All went well.
    pub const OK: i32 = 0;
    /// It failed.
    pub const FAILURE: i32 = 1;
    /// The arguments are wrong.
    pub const USAGE: i32 = 2;
    /// The configuration is invalid.
    pub const INVALID: i32 = 3;
    /// The node cannot be reached.
    pub const UNREACHABLE: i32 = 4;
    /// Somebody else was first.
    pub const CONFLICT: i32 = 5;
    /// It took too long.
    pub const TIMEOUT: i32 = 6;
    /// It answers, and is not as it should be.
    pub const DEGRADED: i32 = 7;
    /// Ctrl-C broke a wait off.
    pub const INTERRUPTED: i32 = 130;
}

/// How a call ended.
#[derive(Debug, Clone)]
pub struct Ran {
    /// The exit code; -1 when a signal ended it.
    pub code: i32,
    /// What it wrote for the next program.
    pub stdout: String,
    /// What it wrote for the reader.
    pub stderr: String,
}

impl Ran {
    /// Both outputs.
    pub fn said(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }

    /// An error that shows what was said unless `text` is part of it, in any case.
    pub fn must_say(&self, text: &str) -> Result<()> {
        let said = self.said();
        ensure!(said.to_lowercase().contains(&text.to_lowercase()), "{text:?} is not said in:\n{said}");
        Ok(())
    }
}

/// The command line, with or without a node to ask.
#[derive(Debug, Clone)]
pub struct Cli {
    program: PathBuf,
    node: Option<String>,
}

impl Cli {
    /// Asks no node in particular.
    pub fn new(program: &Path) -> Self {
        Self { program: program.to_owned(), node: None }
    }

    /// Asks this node: a URL or the path of a socket.
    #[must_use]
    pub fn asking(&self, node: impl Into<String>) -> Self {
        Self { node: Some(node.into()), ..self.clone() }
    }

    /// The program with `args`, in an environment that says nothing about Meridian or the terminal.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("MERIDIAN_")) {
            command.env_remove(name);
        }
        command.env_remove("COLUMNS").env("NO_COLOR", "1").env("RUST_BACKTRACE", "0").args(args);
        if let Some(node) = &self.node {
            command.args(["--node", node]);
        }
        command
    }

    /// Runs it to its end.
    pub async fn run(&self, args: &[&str]) -> Result<Ran> {
        self.finish(self.command(args)).await.with_context(|| format!("meridian {}", args.join(" ")))
    }

    /// Runs a prepared command to its end.
    pub async fn finish(&self, command: Command) -> Result<Ran> {
        let mut command = tokio::process::Command::from(command);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let output = tokio::time::timeout(BOUND, command.output()).await.context("it does not end")??;
        Ok(Ran {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Runs it to its end, which must be this exit code.
    pub async fn expect(&self, code: i32, args: &[&str]) -> Result<Ran> {
        let ran = self.run(args).await?;
        if ran.code != code {
            let call = args.join(" ");
            bail!("`meridian {call}` exits with {}, not {code}, and says:\n{}", ran.code, ran.said());
        }
        Ok(ran)
    }

    /// `status -o json`, read as the contract says.
    pub async fn status(&self) -> Result<Status> {
        let ran = self.expect(code::OK, &["status", "-o", "json"]).await?;
        serde_json::from_str(&ran.stdout).with_context(|| format!("reading the status:\n{}", ran.stdout))
    }

    /// Writes a new mesh key into a file.
    pub async fn key_new(&self, path: &Path) -> Result<()> {
        self.expect(code::OK, &["key", "new", text(path)?]).await.map(drop)
    }
}

/// A path as an argument.
pub fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path in UTF-8")
}
