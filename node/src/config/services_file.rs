//! A `services.toml` as an operator wrote it, with the zone files that it names.
//!
//! ```text
//! services.toml ─┬─ validate ─▶ faults under each file's own name and lines
//! zones/a.zone ──┘
//!                └─ revision ─▶ one text that stands alone: file = "zones/a.zone"
//!                                                     becomes file = { name = "zones/a.zone", text = '''…''' }
//! ```
//!
//! Nodes are given the revision and never need the files; what they give back can be applied again.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostics::Span;
use super::file::read_file;
use super::report::{Report, Severity};
use super::services::{self, Validated};
use super::walk::MAX_BYTES;

/// The most zone files that one configuration names.
const MAX_FILES: usize = 1_000;

/// The zone files beside a configuration, by their paths as it writes them.
#[derive(Debug, Clone, Default)]
pub struct ZoneFiles(BTreeMap<String, Result<String, String>>);

impl ZoneFiles {
    /// Reads the files that `text` names; relative paths begin in `folder`.
    fn read(text: &str, folder: &Path) -> Self {
        let paths = named(text).into_iter().take(MAX_FILES).map(|(_, path)| path);
        let load = |path: String| {
            let text = read_file(&folder.join(&path)).map_err(|error| error.to_string());
            (path, text)
        };
        Self(paths.map(load).collect())
    }

    /// What stands at a path, or why it cannot be read. `None`: nobody looked.
    pub(super) fn get(&self, path: &str) -> Option<&Result<String, String>> {
        self.0.get(path)
    }
}

/// A `services.toml` and what it names.
#[derive(Debug, Clone)]
pub struct ServicesFile {
    name: String,
    text: String,
    files: ZoneFiles,
}

impl ServicesFile {
    /// Reads the file at `path` (`-`: standard input) and the zone files that it names, relative to its folder.
    ///
    /// # Errors
    /// As [`read_file`] of the file itself; a zone file that cannot be read is a fault of [`ServicesFile::validate`].
    pub fn read(path: &Path) -> io::Result<Self> {
        let text = read_file(path)?;
        Ok(Self::beside(path, text))
    }

    /// A file whose text was read before.
    pub fn beside(path: &Path, text: String) -> Self {
        let folder = path.parent().map_or_else(PathBuf::new, Path::to_owned);
        let files = ZoneFiles::read(&text, &folder);
        Self { name: path.display().to_string(), text, files }
    }

    /// Validates everything.
    ///
    /// # Errors
    /// Every fault of all the files; or together they are too much for one revision.
    pub fn validate(&self) -> Result<Validated, Report> {
        let valid = services::parse_with(&self.name, &self.text, &self.files)?;
        let bytes = self.revision().len();
        if bytes > MAX_BYTES {
            let mut report = valid.warnings;
            let message =
                format!("with its zone files this has {bytes} bytes, and a revision has at most {MAX_BYTES}");
            report.push(
                Severity::Error,
                None,
                message,
                Some("serve some of the records from another mesh".into()),
            );
            return Err(report);
        }
        Ok(valid)
    }

    /// The text with those of the zone files in it, as a revision holds it.
    pub fn revision(&self) -> String {
        let mut text = self.text.clone();
        let mut places = named(&text);
        places.sort_by_key(|(span, _)| std::cmp::Reverse(span.start));
        for (span, path) in places {
            if let Some(Ok(content)) = self.files.get(&path) {
                let file = format!("{{ name = {}, text = {} }}", quoted(&path), several_lines(content));
                text.replace_range(span, &file);
            }
        }
        text
    }
}

/// The paths at `dns.zone.*.file` and where they stand.
fn named(text: &str) -> Vec<(Span, String)> {
    let (tree, _) = DeTable::parse_recoverable(text);
    let zones = tree.get_ref().get("dns").and_then(|dns| within(dns, "zone"));
    let zones =
        zones.and_then(|zones| zones.get_ref().as_table()).into_iter().flat_map(|zones| zones.values());
    let files = zones.filter_map(|zone| within(zone, "file"));
    files.filter_map(|file| Some((file.span(), file.get_ref().as_str()?.to_owned()))).collect()
}

fn within<'a, 't>(value: &'a Spanned<DeValue<'t>>, key: &str) -> Option<&'a Spanned<DeValue<'t>>> {
    value.get_ref().as_table()?.get(key)
}

/// A TOML string on one line.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for char in text.chars() {
        push_escaped(&mut out, char);
    }
    out + "\""
}

/// A TOML string that keeps its lines, as it is written where that is possible.
fn several_lines(text: &str) -> String {
    let plain = |char: char| matches!(char, '\n' | '\t') || !char.is_control();
    if text.chars().all(plain) && !text.contains("'''") && !text.ends_with('\'') {
        return format!("'''\n{text}'''");
    }
    let mut out = String::from("\"\"\"\n");
    for char in text.chars() {
        match char {
            '\n' => out.push('\n'),
            other => push_escaped(&mut out, other),
        }
    }
    out + "\"\"\""
}

fn push_escaped(out: &mut String, char: char) {
    match char {
        '"' | '\\' => out.extend(['\\', char]),
        '\t' => out.push(char),
        // Writing into a String cannot fail.
        control if control.is_control() => drop(write!(out, "\\u{:04X}", u32::from(control))),
        other => out.push(other),
    }
}

#[cfg(test)]
mod tests;
