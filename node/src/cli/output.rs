//! How answers look: tables for people, JSON for programs.

use std::io::Write;

use comfy_table::{ColumnConstraint, ContentArrangement, Table, Width, presets};
use serde::Serialize;

use super::exit::CliError;

/// The widest table, in columns.
const WIDTH: u16 = 100;
/// The narrowest last column.
const LAST_AT_LEAST: u16 = 20;

/// Prints one line to standard output. A reader that went away (`| head`) ends the printing quietly.
pub(super) fn line(text: impl std::fmt::Display) {
    // A closed pipe is the reader's choice, and there is nobody left to tell.
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Prints a value as indented JSON.
pub(super) fn json<T: Serialize>(value: &T) -> Result<(), CliError> {
    let text = serde_json::to_string_pretty(value).map_err(anyhow::Error::from)?;
    line(text);
    Ok(())
}

/// Prints a value as one line of JSON: for streams of them.
pub(super) fn json_line<T: Serialize>(value: &T) {
    // Values here are plain data.
    line(serde_json::to_string(value).unwrap_or_default());
}

/// Prints a table with a heading and no borders, at most 100 columns wide unless its names are wider.
pub(super) fn table(heading: &[&str], rows: impl IntoIterator<Item = Vec<String>>) {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    if table.width().is_none_or(|width| width > WIDTH) {
        table.set_width(WIDTH);
    }
    table.set_header(heading.iter().map(|title| title.to_uppercase()));
    table.add_rows(rows);
    // Names and addresses stay whole, to be read and copied; only the last column wraps, and not to a trickle.
    let last = heading.len().saturating_sub(1);
    for (at, column) in table.column_iter_mut().enumerate() {
        column.set_constraint(match at == last {
            true => ColumnConstraint::LowerBoundary(Width::Fixed(LAST_AT_LEAST)),
            false => ColumnConstraint::ContentWidth,
        });
    }
    line(table.trim_fmt());
}

/// A value or a dash.
pub(super) fn or_dash(value: Option<&str>) -> String {
    value.unwrap_or("-").to_owned()
}

/// A hint at the next step, for people only.
pub(super) fn hint(text: impl std::fmt::Display) {
    aside(format_args!("hint: {text}"));
}

/// Prints one line to standard error; nobody there to read it is no reason to fail.
pub(super) fn aside(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
