//! `meridian validate FILE`: checks a file, asks no node and changes nothing.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use super::exit::{CliError, Exit};
use super::output::{aside, json, line};
use super::{Format, Global, apply};
use crate::config::node_file;
use crate::config::{Kind, Report, ServicesFile};

#[derive(Debug, Args)]
pub(super) struct ValidateArgs {
    /// A services.toml or node.toml; `-` reads standard input.
    file: PathBuf,
    /// Which of the two it is. Default: as its sections suggest.
    #[arg(long, value_enum)]
    kind: Option<KindArg>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum KindArg {
    Node,
    Services,
}

pub(super) fn run(global: &Global, args: &ValidateArgs) -> Result<ExitCode, CliError> {
    let text = apply::read(&args.file)?;
    let name = named(&args.file);
    let kind = match args.kind {
        Some(KindArg::Node) => Kind::Node,
        Some(KindArg::Services) => Kind::Services,
        None => Kind::of(&text),
    };
    let checked = match kind {
        Kind::Services => ServicesFile::beside(&args.file, text).validate().map(|valid| valid.warnings),
        Kind::Node => node_file::check(&args.file, &text).map(|valid| valid.warnings),
    };
    let valid = checked.is_ok();
    let report = checked.unwrap_or_else(|report| report);
    match global.output {
        Format::Json => json(&serde_json::json!({ "valid": valid, "findings": report.entries() }))?,
        Format::Table => {
            show(&report);
            if valid {
                line(format_args!("{name} is valid"));
            } else {
                aside(format_args!("error: {name} is invalid"));
            }
        }
    }
    Ok(if valid { ExitCode::SUCCESS } else { ExitCode::from(Exit::InvalidConfiguration as u8) })
}

/// Checks a services.toml before it is sent anywhere.
pub(super) fn services(services: &ServicesFile, file: &Path) -> Result<(), CliError> {
    services.validate().map(drop).map_err(|report| invalid(&named(file), report))
}

/// A configuration is wrong, and this is what.
pub(super) fn invalid(name: &str, report: Report) -> CliError {
    CliError::new(Exit::InvalidConfiguration, format!("{name} is invalid; nothing was changed"))
        .because(report)
}

/// A file as people call it.
pub(super) fn named(file: &Path) -> String {
    match file.as_os_str() == "-" {
        true => "standard input".to_owned(),
        false => file.display().to_string(),
    }
}

/// Prints a report to standard error, in colour where that is wanted.
pub(super) fn show(report: &Report) {
    // A closed standard error is the reader's choice; the exit code says the rest.
    let _ = report.print();
}
