//! `meridian fmt FILE`: one way to lay a configuration out. Comments and their places stay; nothing but white space changes, and
//! what the file says is compared before and after.

use std::path::PathBuf;

use clap::Args;

use super::apply;
use super::exit::{CliError, Exit};
use super::output::{line, verbatim};

#[derive(Debug, Args)]
pub(super) struct FmtArgs {
    /// A services.toml or node.toml; `-` reads standard input and writes standard output.
    file: PathBuf,
    /// Change nothing; fail when the file is laid out in another way.
    #[arg(long)]
    check: bool,
}

pub(super) fn run(args: &FmtArgs) -> Result<std::process::ExitCode, CliError> {
    let text = apply::read(&args.file)?;
    let name = args.file.display();
    let says = |text: &str| {
        text.parse::<toml::Table>().map_err(|error| {
            CliError::new(Exit::InvalidConfiguration, format!("{name} is no TOML: {error}"))
                .hint(format!("meridian validate {name}  says more"))
        })
    };
    let before = says(&text)?;
    let laid = lay_out(&text);
    if says(&laid)? != before {
        return Err(CliError::new(
            Exit::Failure,
            format!("{name} would say something else; it was left as it is"),
        ));
    }
    if args.file.as_os_str() == "-" {
        verbatim(laid.trim_end());
    } else if laid == text {
        line(format_args!("{name} is laid out already"));
    } else if args.check {
        let error = CliError::new(Exit::Failure, format!("{name} is laid out in another way"));
        return Err(error.hint(format!("meridian fmt {name}  changes it")));
    } else {
        std::fs::write(&args.file, &laid)?;
        line(format_args!("{name} was laid out"));
    }
    Ok(std::process::ExitCode::SUCCESS)
}

/// Where in a text a scan is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum In {
    Plain,
    /// A string with this quote; three of them when it may be long.
    Text(char, bool),
}

/// No space at the end of a line, one empty line before a table, none twice, lists and inline tables indented by two, one space
/// around the `=` of a key.
fn lay_out(text: &str) -> String {
    let mut out: Vec<String> = Vec::new();
    let (mut place, mut depth) = (In::Plain, 0usize);
    for raw in text.lines() {
        let inside = place != In::Plain;
        let before = depth;
        let equals = scan(raw, &mut place, &mut depth);
        if inside {
            out.push(raw.to_owned());
            continue;
        }
        let bare = raw.trim();
        let is_table = before == 0 && bare.starts_with('[');
        if is_table {
            depth = 0;
        }
        if bare.is_empty() {
            if out.last().is_some_and(|last| !last.is_empty()) {
                out.push(String::new());
            }
            continue;
        }
        if is_table {
            space_before(&mut out);
        }
        let closes = bare.starts_with([']', '}']) && !is_table;
        let indent = "  ".repeat(before.saturating_sub(usize::from(closes)));
        let starts = raw.len() - raw.trim_start().len();
        let body = match equals.filter(|_| before == 0 && !is_table) {
            Some(at) => {
                let (key, value) = (&raw[starts..at], &raw[at + 1..]);
                // A long string's first line may end in space that counts.
                let value = if place == In::Plain { value.trim() } else { value.trim_start() };
                format!("{} = {value}", key.trim())
            }
            None if place == In::Plain => bare.to_owned(),
            None => raw.trim_start().to_owned(),
        };
        out.push(format!("{indent}{body}"));
    }
    while out.last().is_some_and(String::is_empty) {
        out.pop();
    }
    out.join("\n") + "\n"
}

/// One empty line before a table and the comment that stands right above it.
fn space_before(out: &mut Vec<String>) {
    let comment = out.iter().rev().take_while(|line| line.starts_with('#')).count();
    let at = out.len() - comment;
    if at > 0 && !out[at - 1].is_empty() {
        out.insert(at, String::new());
    }
}

/// Reads one line: where it ends, how many brackets are open then, and where its first `=` outside of strings is.
fn scan(line: &str, place: &mut In, depth: &mut usize) -> Option<usize> {
    let mut equals = None;
    let mut chars = line.char_indices().peekable();
    while let Some((at, char)) = chars.next() {
        let three = |quote: char| line[at..].starts_with(&String::from(quote).repeat(3));
        match (*place, char) {
            (In::Plain, '#') => return equals,
            (In::Plain, '"' | '\'') => {
                let long = three(char);
                if long {
                    chars.nth(1);
                }
                *place = In::Text(char, long);
            }
            (In::Plain, '[' | '{') => *depth += 1,
            (In::Plain, ']' | '}') => *depth = depth.saturating_sub(1),
            (In::Plain, '=') => equals = equals.or(Some(at)),
            (In::Text('"', _), '\\') => drop(chars.next()),
            (In::Text(quote, false), char) if char == quote => *place = In::Plain,
            (In::Text(quote, true), char) if char == quote && three(quote) => {
                chars.nth(1);
                // Up to two quotes may stand right before the three that end it.
                while chars.peek().is_some_and(|(_, next)| *next == quote) {
                    chars.next();
                }
                *place = In::Plain;
            }
            _ => {}
        }
    }
    // A short string ends with its line; where it does not, the file is no TOML and was refused.
    if let In::Text(_, false) = *place {
        *place = In::Plain;
    }
    equals
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_space_alone_is_changed() {
        let text = "a=1   \n\n\n# of b\n[b]\nkey   =  \"x = y # z\"  # why\nlist=[\n1,\n    { c = 2 },\n]\n[[b.d]]\n\"odd = key\" = '#'\n\n";
        let laid = "a = 1\n\n# of b\n[b]\nkey = \"x = y # z\"  # why\nlist = [\n  1,\n  { c = 2 },\n]\n\n[[b.d]]\n\"odd = key\" = '#'\n";
        assert_eq!(lay_out(text), laid);
        assert_eq!(lay_out(laid), laid);
    }

    #[test]
    fn long_strings_are_left_as_they_are() {
        let text = "zone='''  \n  @  IN  A  \n\n\n [x]\n'''\nother = \"\"\"a\n  \"quoted\"  \n\"\"\"\n";
        let laid = "zone = '''  \n  @  IN  A  \n\n\n [x]\n'''\nother = \"\"\"a\n  \"quoted\"  \n\"\"\"\n";
        assert_eq!(lay_out(text), laid);
    }

    #[test]
    fn the_examples_say_the_same_afterwards() {
        for text in [
            include_str!("../../../deploy/examples/services.toml"),
            include_str!("../../../deploy/examples/node.toml"),
        ] {
            let laid = lay_out(text);
            let read = |text: &str| text.parse::<toml::Table>().unwrap();
            assert_eq!(read(&laid), read(text));
            assert_eq!(lay_out(&laid), laid);
        }
    }
}
