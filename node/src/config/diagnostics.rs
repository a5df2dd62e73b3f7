//! Where the walk over a file leaves what it finds.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use super::report::{Report, Severity, Source};

/// A part of the text, in bytes.
pub(super) type Span = Range<usize>;

/// What a fault is about: decides what is still worth saying when the file is not even TOML.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Not TOML.
    Syntax,
    /// Not TOML because of what stands before; not worth telling.
    Echo,
    /// Something that stands there is wrong.
    Present,
    /// Something that should stand there does not. A syntax error may have swallowed it.
    Absent,
}

#[derive(Debug)]
struct Fault {
    kind: Kind,
    severity: Severity,
    span: Option<Span>,
    /// The place in another text, which the one at `span` names.
    within: Option<(Arc<Source>, Span)>,
    message: String,
    hint: Option<String>,
}

/// More errors or warnings than this are only counted.
const MAX_FAULTS: usize = 1_000;

/// Collects faults. Shared by everything that walks one file.
#[derive(Debug, Default)]
pub(super) struct Diagnostics {
    errors: RefCell<Vec<Fault>>,
    warnings: RefCell<Vec<Fault>>,
    dropped: Cell<usize>,
}

impl Diagnostics {
    /// The places where the file is no TOML, one a line. An array or inline table that is left open makes the parser
    /// complain of every line below: only the first of such a run is told.
    pub(super) fn syntax_errors(&self, text: &str, errors: &[toml::de::Error]) {
        let inside =
            |error: &toml::de::Error| ["array", "inline table"].iter().any(|w| error.message().contains(w));
        let lines = Lines::of(text);
        let mut last_line = usize::MAX;
        let mut run = false;
        // The parser tells what it cannot group before what it cannot read.
        let mut errors: Vec<_> = errors.iter().collect();
        errors.sort_by_key(|error| error.span().map_or(0, |span| span.start));
        for error in errors {
            let line = error.span().map_or(0, |span| lines.line(span.start));
            let same = line == last_line;
            let adjacent = same || line == last_line.wrapping_add(1);
            let echo = same || (run && (adjacent || inside(error))) || (adjacent && inside(error));
            run = inside(error) || (run && adjacent);
            last_line = line;
            let kind = if echo { Kind::Echo } else { Kind::Syntax };
            let message = format!("this is not TOML: {}", error.message());
            self.add(kind, Severity::Error, error.span(), message, None);
        }
    }

    /// What stands at `span` is wrong.
    pub(super) fn error(&self, span: Span, message: impl Into<String>, hint: Option<String>) {
        self.add(Kind::Present, Severity::Error, Some(span), message.into(), hint);
    }

    /// What stands at `span` is allowed and looks wrong.
    pub(super) fn warning(&self, span: Span, message: impl Into<String>, hint: Option<String>) {
        self.add(Kind::Present, Severity::Warning, Some(span), message.into(), hint);
    }

    /// Something that `span` needs stands nowhere.
    pub(super) fn absent(&self, span: Span, message: impl Into<String>, hint: Option<String>) {
        self.add(Kind::Absent, Severity::Error, Some(span), message.into(), hint);
    }

    /// What stands at `span` is wrong, or stands in no file but in a flag or in the machine.
    pub(super) fn error_at(&self, span: Option<Span>, message: impl Into<String>, hint: Option<String>) {
        self.add(Kind::Present, Severity::Error, span, message.into(), hint);
    }

    /// What stands in another text is wrong; `span` names that text.
    pub(super) fn fault_in(
        &self,
        severity: Severity,
        span: Span,
        within: (&Arc<Source>, Span),
        message: String,
    ) {
        let within = Some((Arc::clone(within.0), within.1));
        self.push(Fault { kind: Kind::Present, severity, span: Some(span), within, message, hint: None });
    }

    fn add(&self, kind: Kind, severity: Severity, span: Option<Span>, message: String, hint: Option<String>) {
        self.push(Fault { kind, severity, span, within: None, message, hint });
    }

    fn push(&self, fault: Fault) {
        let (mut errors, mut warnings) = (self.errors.borrow_mut(), self.warnings.borrow_mut());
        let faults = match fault.severity {
            Severity::Error => &mut *errors,
            Severity::Warning => &mut *warnings,
        };
        if faults.len() < MAX_FAULTS {
            faults.push(fault);
        } else {
            self.dropped.set(self.dropped.get() + 1);
        }
    }

    /// Whether anything is wrong so far.
    pub(super) fn has_errors(&self) -> bool {
        !self.errors.borrow().is_empty()
    }

    /// How many errors there are so far.
    pub(super) fn errors(&self) -> usize {
        self.errors.borrow().len() + self.dropped.get()
    }

    /// Whether the text was no TOML somewhere, so that what is absent from it may only have been misread.
    pub(super) fn has_syntax_errors(&self) -> bool {
        self.errors.borrow().iter().any(|fault| fault.kind == Kind::Syntax)
    }

    /// All faults in the file's order. Beside a syntax error nothing is said of its line and of what is absent.
    pub(super) fn into_report(self, source_name: &str, text: &str) -> Report {
        let broken = self.has_syntax_errors();
        let mut faults = self.errors.into_inner();
        faults.extend(self.warnings.into_inner());
        if broken {
            let lines = Lines::of(text);
            let line_of = |fault: &Fault| lines.line(fault.span.as_ref().map_or(0, |span| span.start));
            let syntax = faults.iter().filter(|fault| matches!(fault.kind, Kind::Syntax | Kind::Echo));
            let bad: BTreeSet<usize> = syntax.map(line_of).collect();
            faults.retain(|fault| match fault.kind {
                Kind::Syntax => true,
                Kind::Present => !bad.contains(&line_of(fault)),
                Kind::Absent | Kind::Echo => false,
            });
        }
        let worst = faults.iter().map(|fault| fault.severity).min();
        let more = faults.len().saturating_sub(Report::MAX_ENTRIES) + self.dropped.get();
        let start = |fault: &Fault| {
            let within = fault.within.as_ref().map_or(0, |(_, span)| span.start);
            (fault.span.as_ref().map_or(usize::MAX, |span| span.start), within)
        };
        // Where there is no room for all, no warning takes an error's place.
        faults.sort_by_key(|fault| (fault.severity, start(fault)));
        faults.truncate(Report::MAX_ENTRIES);
        faults.sort_by_key(start);
        let mut report = Report::empty(source_name, text);
        for Fault { severity, span, within, message, hint, .. } in faults {
            match within {
                Some((source, span)) => report.push_in(&source, severity, span, message, hint),
                None => report.push(severity, span, message, hint),
            }
        }
        if let (Some(severity), 1..) = (worst, more) {
            report.push(severity, None, format!("and {more} more"), None);
        }
        report
    }
}

/// Which line a byte is on, counted from 0.
struct Lines(Vec<usize>);

impl Lines {
    fn of(text: &str) -> Self {
        Self(text.match_indices('\n').map(|(newline, _)| newline + 1).collect())
    }

    fn line(&self, at: usize) -> usize {
        self.0.partition_point(|start| *start <= at)
    }
}
