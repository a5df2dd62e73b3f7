//! What is wrong with a file: every fault at its place, for people and for machines.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::ops::Range;
use std::sync::Arc;

use miette::{GraphicalReportHandler, GraphicalTheme, LabeledSpan, SourceCode};
use serde::{Deserialize, Serialize};

/// How bad a fault is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The file is refused.
    Error,
    /// The file is accepted; somebody should look.
    Warning,
}

/// One fault, for machines: the admin API shows it as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// How bad it is.
    pub severity: Severity,
    /// The line, from 1; 0 when the fault has no place in the file (a flag, say).
    pub line: usize,
    /// The column in characters, from 1; 0 when the fault has no place in the file.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What may help.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The file whose line it is, when it is not the one that was asked about but one that it names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
}

/// All faults of one file with the text they are in. Never more than [`Report::MAX_ENTRIES`].
///
/// As text (`Display`): plain ASCII art without colours, each fault with its source line and a caret.
#[derive(Clone, PartialEq, Eq)]
pub struct Report {
    source: Arc<Source>,
    entries: Vec<Entry>,
    /// Where each entry's caret goes: the text, and a part of it that never goes past the end of its line.
    carets: Vec<Option<(Arc<Source>, Range<usize>)>>,
}

impl Report {
    /// The rest of a longer list is only counted.
    pub const MAX_ENTRIES: usize = 100;

    /// A report without a fault.
    pub fn empty(source_name: &str, text: &str) -> Self {
        Self { source: Arc::new(Source::new(source_name, text)), entries: Vec::new(), carets: Vec::new() }
    }

    /// Adds a fault at the bytes `span` of the text, or nowhere in it.
    pub(super) fn push(
        &mut self,
        severity: Severity,
        span: Option<Range<usize>>,
        message: String,
        hint: Option<String>,
    ) {
        let source = Arc::clone(&self.source);
        self.add(severity, span.map(|span| (source, span)), message, hint, None);
    }

    /// Adds a fault at the bytes `span` of another text, which the file names.
    pub(super) fn push_in(
        &mut self,
        source: &Arc<Source>,
        severity: Severity,
        span: Range<usize>,
        message: String,
        hint: Option<String>,
    ) {
        self.add(severity, Some((Arc::clone(source), span)), message, hint, Some(source.name.clone()));
    }

    fn add(
        &mut self,
        severity: Severity,
        place: Option<(Arc<Source>, Range<usize>)>,
        message: String,
        hint: Option<String>,
        file: Option<String>,
    ) {
        let caret = place.map(|(source, span)| {
            let caret = source.caret(span);
            (source, caret)
        });
        let (line, column) = caret.as_ref().map_or((0, 0), |(source, caret)| source.position(caret.start));
        let (message, hint) = (harmless(&message), hint.as_deref().map(harmless));
        self.entries.push(Entry { severity, line, column, message, hint, file });
        self.carets.push(caret);
    }

    /// The faults in the file's order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Whether there is nothing to report.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether the file is refused.
    pub fn has_errors(&self) -> bool {
        self.entries.iter().any(|entry| entry.severity == Severity::Error)
    }

    /// For people: every fault with file, line, column, the source line and a caret. Colours and line-drawing
    /// characters only when asked for: ask for them on a terminal when `NO_COLOR` is not set.
    pub fn render(&self, color: bool) -> String {
        let theme = if color { GraphicalTheme::unicode() } else { GraphicalTheme::none() };
        let handler = GraphicalReportHandler::new_themed(theme).with_context_lines(0).with_links(false);
        let mut out = String::new();
        for (entry, caret) in self.entries.iter().zip(&self.carets) {
            let fault = Fault::new(entry, caret.as_ref());
            // A String takes everything, and the carets lie within the text.
            let mut text = String::new();
            handler.render_report(&mut text, &fault).expect("a caret within the text");
            text.lines().for_each(|line| out.extend([line.trim_end(), "\n"]));
        }
        out
    }

    /// To standard error: in colour on a terminal, unless `NO_COLOR` says otherwise (no-color.org).
    ///
    /// # Errors
    /// Standard error cannot be written.
    pub fn print(&self) -> io::Result<()> {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let mut err = io::stderr().lock();
        let color = !plain && err.is_terminal();
        err.write_all(self.render(color).as_bytes())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl fmt::Debug for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.entries).finish()
    }
}

impl std::error::Error for Report {}

/// At most this much of a line is shown on either side of a caret's beginning.
const LONG_LINE_BYTES: usize = 200;

/// A text that faults point into, under the name that people know it by.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Source {
    name: String,
    text: String,
}

impl Source {
    pub(super) fn new(name: &str, text: &str) -> Self {
        Self { name: harmless(name).replace(['\n', '\t'], "?"), text: text.into() }
    }

    /// The part of `span` that lies in the excerpt of its first line. Never empty: it may point past the line's end.
    fn caret(&self, span: Range<usize>) -> Range<usize> {
        let start = self.text.floor_char_boundary(span.start);
        let end = self.text.floor_char_boundary(span.end).min(self.excerpt(start).end);
        start..end.max(start + 1)
    }

    /// The line around a byte, without its end. Of a very long line the part that people would look at.
    fn excerpt(&self, at: usize) -> Range<usize> {
        let start = self.text[..at].rfind('\n').map_or(0, |newline| newline + 1);
        let end = self.text[at..].find('\n').map_or(self.text.len(), |length| at + length);
        let end = if end > at && self.text[..end].ends_with('\r') { end - 1 } else { end };
        let start = self.text.ceil_char_boundary(start.max(at.saturating_sub(LONG_LINE_BYTES)));
        start..self.text.floor_char_boundary(end.min(at + LONG_LINE_BYTES))
    }

    /// Line and column of a byte, both from 1, the column in characters.
    fn position(&self, at: usize) -> (usize, usize) {
        let before = &self.text[..at];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }
}

/// A text without what would play with somebody's terminal: a file may come from anywhere. As long as before, so that
/// carets stay where they are.
fn harmless(text: &str) -> String {
    let shown = |char: char| match char {
        '\n' | '\t' => char,
        control if control.is_ascii_control() => '?',
        control if control.is_control() => '¿',
        // They turn what stands beside them around (Unicode Standard Annex 9).
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
        other => other,
    };
    text.chars().map(shown).collect()
}

/// One fault as miette wants it.
#[derive(Debug)]
struct Fault<'a> {
    entry: &'a Entry,
    caret: Option<Range<usize>>,
    file: &'a str,
    /// The excerpt with a blank after it, so that a caret past its end has something to stand under.
    line: String,
    line_start: usize,
}

impl<'a> Fault<'a> {
    fn new(entry: &'a Entry, caret: Option<&'a (Arc<Source>, Range<usize>)>) -> Self {
        let Some((source, caret)) = caret else {
            return Self { entry, caret: None, file: "", line: String::new(), line_start: 0 };
        };
        let excerpt = source.excerpt(caret.start);
        let line = harmless(&source.text[excerpt.clone()]) + " ";
        Self { entry, caret: Some(caret.clone()), file: &source.name, line, line_start: excerpt.start }
    }
}

impl fmt::Display for Fault<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.entry.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(f, "{kind}: {}", self.entry.message)
    }
}

impl std::error::Error for Fault<'_> {}

impl miette::Diagnostic for Fault<'_> {
    fn severity(&self) -> Option<miette::Severity> {
        Some(match self.entry.severity {
            Severity::Error => miette::Severity::Error,
            Severity::Warning => miette::Severity::Warning,
        })
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.entry.hint.as_ref().map(|hint| Box::new(hint) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.caret.as_ref().map(|_| self as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let caret = self.caret.clone()?;
        Some(Box::new(std::iter::once(LabeledSpan::new_with_span(None, caret))))
    }
}

/// The line with the caret, under the file's name. miette's own reader would show the marked bytes alone, or
/// neighbouring lines too, and counts columns in bytes.
impl SourceCode for Fault<'_> {
    fn read_span<'a>(
        &'a self,
        _span: &miette::SourceSpan,
        _lines_before: usize,
        _lines_after: usize,
    ) -> Result<Box<dyn miette::SpanContents<'a> + 'a>, miette::MietteError> {
        Ok(Box::new(miette::MietteSpanContents::new_named(
            self.file.to_owned(),
            self.line.as_bytes(),
            (self.line_start, self.line.len()).into(),
            self.entry.line - 1,
            self.entry.column - 1,
            1,
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(text: &str, span: Range<usize>, hint: Option<&str>) -> Report {
        let mut report = Report::empty("x.toml", text);
        report.push(Severity::Error, Some(span), "wrong".into(), hint.map(Into::into));
        report
    }

    fn place(report: &Report) -> (usize, usize) {
        (report.entries()[0].line, report.entries()[0].column)
    }

    #[test]
    fn a_fault_is_shown_with_its_line_and_a_caret() {
        let report = report("a = 1\n  bé = 22 # c\nd = 3\n", 14..16, Some("say 21"));
        assert_eq!(place(&report), (2, 8));
        let expected = r"  x error: wrong
   ,-[x.toml:2:8]
 2 |   bé = 22 # c
   :        ^^
   `----
  help: say 21
";
        assert_eq!(report.to_string(), expected);
        assert!(report.render(true).contains("\u{1b}["));
    }

    #[test]
    fn a_fault_over_lines_is_marked_in_its_first() {
        let report = report("x = [\r\n1\r\n]", 4..10, None);
        assert!(report.to_string().contains(" 1 | x = [\n   :     ^\n"), "{report}");
    }

    #[test]
    fn a_fault_past_the_end_still_has_a_caret() {
        assert!(report("x = ", 4..4, None).to_string().contains(" 1 | x =\n   :     ^\n"));
        assert!(report("", 0..0, None).to_string().contains("x.toml:1:1"));
        assert_eq!(place(&report("a\n", 2..2, None)), (2, 1));
        assert_eq!(place(&report("a", 7..9, None)), (1, 2));
    }

    #[test]
    fn a_long_line_is_cut_around_its_caret() {
        let text = format!("{}é = 1{}", "a".repeat(5_000), "b".repeat(5_000));
        let shown = report(&text, 5_000..9_000, None).to_string();
        assert!(shown.contains("é = 1") && shown.len() < 2_000, "{shown}");
    }

    #[test]
    fn a_fault_without_a_place_has_no_excerpt() {
        let mut report = Report::empty("x.toml", "a = 1");
        report.push(Severity::Warning, None, "odd".into(), None);
        assert_eq!(report.to_string(), "  ! warning: odd\n");
        assert_eq!((place(&report), report.has_errors()), ((0, 0), false));
    }

    #[test]
    fn a_fault_of_another_file_is_shown_with_its_name_and_line() {
        let mut report = report("file = \"b.zone\"", 0..4, None);
        let other = Arc::new(Source::new("b.zone", "@ NS ns\n@ MX x\n"));
        report.push_in(&other, Severity::Warning, 13..14, "odd".into(), None);
        let shown = report.to_string();
        assert!(shown.contains("[x.toml:1:1]") && shown.contains("[b.zone:2:6]\n 2 | @ MX x\n"), "{shown}");
        assert_eq!(report.entries()[1].file.as_deref(), Some("b.zone"));
    }

    #[test]
    fn a_file_cannot_play_with_a_terminal() {
        let text = "a = \"\u{1b}[2J\u{9b}x\u{202e}\" # b";
        let mut report = report(text, 4..16, Some("not \u{1b}c"));
        report.push(Severity::Error, None, "\u{7f}\u{85}wrong\nhere".into(), None);
        let shown = report.to_string();
        assert!(!shown.contains(|c: char| c.is_control() && c != '\n'), "{shown:?}");
        assert!(shown.contains("a = \"?[2J¿x\u{fffd}\" # b") && shown.contains("help: not ?c"), "{shown}");
        assert_eq!(report.entries()[1].message, "?¿wrong\nhere");
    }

    #[test]
    fn machines_read_line_column_message_and_hint() {
        let json = serde_json::to_string(report("a", 0..1, Some("b")).entries()).unwrap();
        assert_eq!(json, r#"[{"severity":"error","line":1,"column":1,"message":"wrong","hint":"b"}]"#);
    }
}
