//! How answers look: tables for people, JSON for programs. All that commands print passes here, and what strangers may have put
//! into it leaves escaped.

use std::fmt::Display;
use std::io::{IsTerminal, Write};

use comfy_table::{ColumnConstraint, ContentArrangement, Table, Width, presets};
use serde::Serialize;

use super::escape::{Cell, Json, Lines};
use super::exit::{CliError, Exit};

/// The widest table on a terminal, in columns.
const WIDTH: u16 = 100;
/// The narrowest last column.
const LAST_AT_LEAST: u16 = 20;

/// Prints a line to standard output.
pub(super) fn line(text: impl Display) {
    verbatim(Lines(text));
}

/// Prints a line as it is: a file of the user's own, for the next program. A reader that went away (`| head`) ends the printing
/// quietly; an answer that cannot be written, to a disk that is full, say, is a failure of the whole command, which ends here.
pub(super) fn verbatim(text: impl Display) {
    if let Err(error) = writeln!(std::io::stdout(), "{text}")
        && error.kind() != std::io::ErrorKind::BrokenPipe
    {
        aside(format_args!("error: the answer cannot be written: {error}"));
        std::process::exit(Exit::Failure as i32);
    }
}

/// Prints a value as indented JSON.
pub(super) fn json<T: Serialize>(value: &T) -> Result<(), CliError> {
    let text = serde_json::to_string_pretty(value).map_err(anyhow::Error::from)?;
    verbatim(Json(text));
    Ok(())
}

/// Prints a value as one line of JSON: for streams of them.
pub(super) fn json_line<T: Serialize>(value: &T) {
    // Values here are plain data.
    verbatim(Json(serde_json::to_string(value).unwrap_or_default()));
}

/// Prints a table with a heading and no borders: at most 100 columns wide unless its names are wider, or as COLUMNS says, which
/// is 0 for one line a row, for `grep` and `awk`.
pub(super) fn table(heading: &[&str], rows: impl IntoIterator<Item = Vec<String>>) {
    line(laid(heading, rows, width()));
}

/// How wide a table may be; `None`: no limit.
fn width() -> Option<u16> {
    folds_at().unwrap_or(Some(WIDTH))
}

/// Where people see lines end: at the terminal's edge, or where COLUMNS says when the output goes elsewhere (0: nowhere). `None`:
/// nobody says.
fn folds_at() -> Option<Option<u16>> {
    if std::io::stdout().is_terminal() {
        return Some(Some(Table::new().width().unwrap_or(WIDTH).min(WIDTH)));
    }
    let columns: u16 = super::set_in_environment("COLUMNS")?.parse().ok()?;
    Some(Some(columns).filter(|columns| *columns > 0))
}

/// Names and addresses stay whole, to be read and copied; the last column alone wraps. Where it would be a trickle, it
/// stands below its row.
fn laid(heading: &[&str], rows: impl IntoIterator<Item = Vec<String>>, width: Option<u16>) -> String {
    let cells = |row: Vec<String>| row.into_iter().map(|cell| Cell(cell).to_string()).collect();
    let rows: Vec<Vec<String>> = rows.into_iter().map(cells).collect();
    let last = heading.len().saturating_sub(1);
    let whole = |columns: usize| {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(heading.iter().take(columns).map(|title| Cell(title.to_uppercase()).to_string()));
        table.add_rows(rows.iter().map(|row| row.iter().take(columns)));
        let Some(width) = width else {
            return table.set_content_arrangement(ContentArrangement::Disabled).trim_fmt();
        };
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
        for (at, column) in table.column_iter_mut().enumerate() {
            column.set_constraint(match at == last {
                true => ColumnConstraint::LowerBoundary(Width::Fixed(LAST_AT_LEAST)),
                false => ColumnConstraint::ContentWidth,
            });
        }
        table.trim_fmt()
    };
    let table = whole(heading.len());
    let Some(width) = width.map(usize::from) else { return table };
    if last == 0 || table.lines().all(|line| line.chars().count() <= width) {
        return table;
    }
    let names = whole(last);
    let mut lines: Vec<String> = Vec::new();
    for (at, row) in names.lines().enumerate() {
        lines.push(row.to_owned());
        let below = at.checked_sub(1).and_then(|at| rows.get(at)?.get(last)).filter(|text| !text.is_empty());
        lines.extend(below.into_iter().flat_map(|text| folded("    ", text, width)));
    }
    lines.join("\n")
}

/// Prints one of several things, with a sign before it; folded on a terminal, one line for programs.
pub(super) fn item(sign: &str, text: &str) {
    let text = Cell(text).to_string();
    let Some(width) = folds_at().flatten() else { return line(format_args!("  {sign} {text}")) };
    for (at, part) in folded("    ", &text, usize::from(width)).iter().enumerate() {
        match at {
            0 => line(format_args!("  {sign} {}", part.trim_start())),
            _ => line(part),
        }
    }
}

/// A text in lines of at most so many columns where its words allow that, each with an indent.
fn folded(indent: &str, text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(last) if last.chars().count() + 1 + word.chars().count() <= width => {
                last.push(' ');
                last.push_str(word);
            }
            _ => lines.push(format!("{indent}{word}")),
        }
    }
    lines
}

/// A span of time in its two largest units.
pub(super) fn span(seconds: u64) -> String {
    match seconds {
        0 => "less than 1s".to_owned(),
        1..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h {}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// A value or a dash.
pub(super) fn or_dash(value: Option<&str>) -> String {
    value.unwrap_or("-").to_owned()
}

/// A hint at the next step, for people only.
pub(super) fn hint(text: impl Display) {
    aside(format_args!("hint: {text}"));
}

/// Prints one line to standard error; nobody there to read it is no reason to fail.
pub(super) fn aside(text: impl Display) {
    let _ = writeln!(std::io::stderr(), "{}", Lines(text));
}

/// Prints one line of JSON to standard error.
pub(super) fn json_aside(value: &serde_json::Value) {
    let _ = writeln!(std::io::stderr(), "{}", Json(value));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cli::escape::is_unseen;

    fn cells(row: &[&str]) -> Vec<String> {
        row.iter().map(|cell| (*cell).to_owned()).collect()
    }

    #[test]
    fn what_finds_no_room_beside_its_row_stands_below_it() {
        let heading = ["pool", "backend", "reason"];
        let rows = || {
            vec![
                cells(&["web", "10.0.0.1:8080", "eu-1 and eu-2: HTTP 503 since a long time now"]),
                cells(&["web", "10.0.0.2:8080", ""]),
            ]
        };
        let beside = laid(&heading, rows(), Some(60));
        assert!(beside.lines().next().is_some_and(|line| line.contains("REASON")), "{beside}");
        assert!(beside.lines().all(|line| line.chars().count() <= 60), "{beside}");
        let below = laid(&heading, rows(), Some(30));
        assert!(below.lines().all(|line| line.chars().count() <= 30), "{below}");
        let lines: Vec<&str> = below.lines().map(str::trim_end).collect();
        assert_eq!(lines.len(), 5, "{below}");
        assert!(lines[1].ends_with("10.0.0.1:8080") && lines[4].ends_with("10.0.0.2:8080"), "{below}");
        assert_eq!(lines[2], "    eu-1 and eu-2: HTTP 503");
        let piped = laid(&heading, rows(), None);
        let lines: Vec<&str> = piped.lines().collect();
        assert!(lines.len() == 3 && lines[1].ends_with("since a long time now"), "{piped}");
    }

    proptest! {
        #[test]
        fn a_table_is_as_many_rows_as_it_was_given(
            cells in proptest::collection::vec(proptest::collection::vec("\\PC*|[\\x00-\\x7f]*|[\u{80}-\u{9f}\u{202e}\u{2066}]*", 3), 0..5),
            width in proptest::option::of(20..200u16),
        ) {
            let heading = ["pool", "backend", "rea\u{1b}son"];
            let rows = cells.len();
            let filled = cells.into_iter().map(|row| row.into_iter().map(|cell| format!("x{cell}")).collect());
            let table = laid(&heading, filled, width);
            prop_assert!(!table.contains(|c: char| is_unseen(c) && c != '\n'), "{table:?}");
            prop_assert!(width.is_some() || table.lines().count() == rows + 1, "{table:?}");
        }
    }

    #[test]
    fn a_span_is_told_in_two_units() {
        let told = [0, 7, 60, 3_725, 93_600].map(span);
        assert_eq!(told, ["less than 1s", "7s", "1m 0s", "1h 2m", "1d 2h"]);
    }

    #[test]
    fn a_text_is_folded_between_words() {
        assert_eq!(folded("  ", "one two three", 9), ["  one two", "  three"]);
        assert_eq!(folded("", "unbreakable", 4), ["unbreakable"]);
        assert!(folded("  ", "", 9).is_empty());
    }
}
