//! `file` of a zone: a path beside the configuration, or in a revision the text that stood there.

use std::sync::Arc;
use std::time::Duration;

use dns::{ZoneFile, ZoneFileFault};

use crate::config::diagnostics::{Diagnostics, Span};
use crate::config::read;
use crate::config::report::{Severity, Source};
use crate::config::services_file::ZoneFiles;
use crate::config::walk::Value;

/// A zone file that was read.
pub(super) struct ZoneText {
    /// What it says.
    pub(super) content: Arc<ZoneFile>,
    /// Whether the zone's own name servers stand in it.
    pub(super) has_nameservers: bool,
    source: Arc<Source>,
    /// Where the configuration names it.
    key: Span,
}

impl ZoneText {
    /// Something at `span` of the file is wrong.
    pub(super) fn error(&self, span: Span, message: String, sink: &Diagnostics) {
        sink.fault_in(Severity::Error, self.key.clone(), (&self.source, span), message);
    }
}

/// Reads `file` of the zone `zone`. `ttl` is for records that come before any TTL of the file.
pub(super) fn read(zone: &str, ttl: Duration, value: &Value<'_>, files: &ZoneFiles) -> Option<ZoneText> {
    let (name, text) = if value.is_table() { inlined(value)? } else { beside(value, files)? };
    let parsed = ZoneFile::parse(zone, &text, ttl);
    let source = Arc::new(Source::new(&name, &text));
    let tell = |severity, faults: Vec<ZoneFileFault>| {
        for fault in faults {
            value.sink.fault_in(severity, value.span.clone(), (&source, fault.span), fault.message);
        }
    };
    let apex = dns::name::Name::parse_absolute(zone).ok()?;
    let has_nameservers = parsed.file.has_nameservers(&apex);
    tell(Severity::Error, parsed.errors);
    tell(Severity::Warning, parsed.warnings);
    Some(ZoneText { content: Arc::new(parsed.file), has_nameservers, source, key: value.span.clone() })
}

/// As `apply` writes it into the revision.
fn inlined(value: &Value<'_>) -> Option<(String, String)> {
    let mut table = value.table()?;
    let name = table.required("name", read::text);
    let text = table.required("text", |value| value.text().map(str::to_owned));
    table.finish();
    Some((name?, text?))
}

/// As an operator writes it.
fn beside(value: &Value<'_>, files: &ZoneFiles) -> Option<(String, String)> {
    let path = read::text(value)?;
    match files.get(&path) {
        Some(Ok(text)) => Some((path, text.clone())),
        Some(Err(reason)) => {
            let hint = "its path is relative to the folder of the file that names it";
            value.wrong_but(format!("the zone file `{path}` cannot be read: {reason}"), hint);
            None
        }
        None => {
            let hint =
                "`meridian apply` reads the file and puts its text into the revision: file = { name, text }";
            value.wrong_but(
                format!("the text of the zone file `{path}` is missing, and no node has that file"),
                hint,
            );
            None
        }
    }
}
