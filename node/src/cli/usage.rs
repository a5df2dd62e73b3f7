//! A command line that is wrong, told to programs as all other errors are.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::exit::{CliError, Exit};
use super::{Cli, Format, output};

/// Reads the command line. `Err`: it was help that was asked for, or something is wrong, and has been told.
pub(super) fn parse() -> Result<Cli, ExitCode> {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    Cli::try_parse_from(&arguments).map_err(|error| {
        let asked = matches!(
            error.kind(),
            ErrorKind::DisplayHelp
                | ErrorKind::DisplayVersion
                | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
        );
        if asked || !wants_json(&arguments) {
            // Nobody is left to tell when that fails.
            let _ = error.print();
            if let Some(meant) = watch_meant(&arguments).filter(|_| !asked) {
                output::hint(format_args!("{meant}: the time stands behind an equals sign"));
            }
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(Exit::Usage as u8));
        }
        in_our_words(&error).report(Format::Json)
    })
}

/// What clap says without its layout: what is wrong, and what may have been meant.
fn in_our_words(error: &clap::Error) -> CliError {
    let text = error.render().to_string();
    let wrong = text.split("\n\n").next().unwrap_or_default();
    let wrong: Vec<&str> = wrong.split_whitespace().collect();
    let wrong = wrong.join(" ");
    let meant = error.context().find_map(|(kind, value)| match (kind, value) {
        (
            ContextKind::SuggestedArg | ContextKind::SuggestedSubcommand | ContextKind::SuggestedValue,
            value,
        ) => Some(match value {
            // The likeliest is the last.
            ContextValue::Strings(words) => {
                words.iter().rev().map(String::as_str).collect::<Vec<_>>().join(" or ")
            }
            other => other.to_string(),
        }),
        _ => None,
    });
    let hint = meant.map_or_else(|| "meridian --help".to_owned(), |meant| format!("did you mean {meant}?"));
    CliError::new(Exit::Usage, wrong.strip_prefix("error: ").unwrap_or(&wrong)).hint(hint)
}

/// `--watch TIME` as it has to be written: it takes no value of its own without a sign.
fn watch_meant(arguments: &[OsString]) -> Option<String> {
    let words: Vec<&str> = arguments.iter().filter_map(|word| word.to_str()).collect();
    let pair = words.windows(2).find(|pair| pair[0] == "--watch")?;
    humantime::parse_duration(pair[1]).ok().map(|_| format!("--watch={}", pair[1]))
}

/// Whether `-o json` stands on a command line that cannot be read otherwise; what follows `--` is somebody else's.
fn wants_json(arguments: &[OsString]) -> bool {
    let words: Vec<&str> = arguments.iter().skip(1).filter_map(|word| word.to_str()).collect();
    let ours = words.split(|word| *word == "--").next().unwrap_or_default();
    ours.iter().any(|word| ["-ojson", "-o=json", "--output=json"].contains(word))
        || ours.windows(2).any(|pair| ["-o", "--output"].contains(&pair[0]) && pair[1] == "json")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wants(line: &str) -> bool {
        wants_json(&line.split(' ').map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn programs_are_recognized_though_the_rest_is_wrong() {
        for line in [
            "meridian statsu -o json",
            "meridian -ojson x",
            "meridian --output=json",
            "meridian a --output json",
        ] {
            assert!(wants(line), "{line}");
        }
        for line in ["meridian statsu", "meridian -o table json", "meridian run -- curl -o json"] {
            assert!(!wants(line), "{line}");
        }
    }

    #[test]
    fn a_time_to_watch_is_written_with_a_sign() {
        let meant = |line: &str| watch_meant(&line.split(' ').map(OsString::from).collect::<Vec<_>>());
        assert_eq!(meant("meridian status --watch 1s").as_deref(), Some("--watch=1s"));
        assert_eq!(meant("meridian pools --watch web"), None);
    }

    #[test]
    fn what_is_wrong_is_said_in_one_line_with_what_may_be_meant() {
        let error = Cli::try_parse_from(["meridian", "statsu"]).unwrap_err();
        let told = in_our_words(&error);
        assert_eq!(told.to_string(), "unrecognized subcommand 'statsu'");
        assert!(format!("{told:?}").contains("did you mean status"), "{told:?}");
        let error = Cli::try_parse_from(["meridian", "weight", "10.0.0.1:80", "much"]).unwrap_err();
        assert!(in_our_words(&error).to_string().contains("'much'"));
    }
}
