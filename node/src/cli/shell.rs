//! `meridian completion SHELL` and `meridian man`: what shells and readers of manuals want, from the commands themselves.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Command};
use clap_complete::Shell;
use clap_mangen::Man;

use super::exit::CliError;
use super::output::{hint, line};

#[derive(Debug, Args)]
pub(super) struct CompletionArgs {
    /// For which shell.
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Debug, Args)]
pub(super) struct ManArgs {
    /// Write a page for every command into this folder; without it the first page goes to standard output.
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
}

/// `meridian completion`
pub(super) fn completion(args: &CompletionArgs, mut command: Command) -> ExitCode {
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, name, &mut script);
    // A closed pipe is the reader's choice.
    let _ = std::io::stdout().write_all(&script);
    ExitCode::SUCCESS
}

/// `meridian man`
pub(super) fn man(args: &ManArgs, command: Command) -> Result<ExitCode, CliError> {
    let Some(folder) = &args.dir else {
        let mut page = Vec::new();
        Man::new(command).render(&mut page)?;
        let _ = std::io::stdout().write_all(&page);
        return Ok(ExitCode::SUCCESS);
    };
    std::fs::create_dir_all(folder)?;
    clap_mangen::generate_to(command, folder)?;
    let pages = std::fs::read_dir(folder)?.count();
    line(format_args!("{pages} pages in {}", folder.display()));
    hint(format_args!("man -l {}/meridian.1  shows the first", folder.display()));
    Ok(ExitCode::SUCCESS)
}
