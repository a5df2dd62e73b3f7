//! Zone files (RFC 1035 §5, RFC 2308 §4, RFC 3597 §5): text in, records and everything that is wrong with it out.
//!
//! ```text
//! text ─▶ lexer.rs: entries of words ─▶ here: $ORIGIN, $TTL, owner, TTL, class ─▶ wire/: type and value ─▶ ZoneFile
//! ```
//!
//! Pure, and bounded by the text. One pass finds every fault; each has its line and column. It reads no other file
//! (`$INCLUDE`) and makes no records by itself (`$GENERATE`). Whether the records may stand together is not asked here but
//! where the zone is built, together with those of the configuration.

mod lexer;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fmt::Display;
use std::ops::Range;
use std::time::Duration;

use self::lexer::{Complaint, Entry, Lexer, Word};
use crate::build::MAX_TTL;
use crate::name::Name;
use crate::spec::{RecordTypeError, parse_owner};
use crate::wire::{kind_to_text, parse_value};
use crate::zone::{Kind, Record};

/// The longest text that is read.
pub const MAX_FILE_BYTES: usize = 4 << 20;
/// The most records of one file.
pub const MAX_FILE_RECORDS: usize = 100_000;
/// For how long resolvers keep a record at most, in seconds: a week.
const LONGEST_KEPT: u32 = 604_800;
/// Faults that are told; a file with more is no zone file.
const MAX_FAULTS: usize = 1_000;

/// What a zone file says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ZoneFile {
    /// Its SOA, if it has one.
    pub soa: Option<FileSoa>,
    /// All other records, in the file's order; each once.
    pub records: Vec<FileRecord>,
}

/// One record and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileRecord {
    /// Whose it is; in the zone.
    pub owner: Name,
    /// In seconds, at most 2^31 − 1 (RFC 2181 §8).
    pub ttl: u32,
    /// Its type and data.
    pub record: Record,
    /// Where its entry stands in the text, in bytes.
    pub span: Range<usize>,
}

/// The fields of an SOA that are used. Its serial is not: that of a served zone is the revision's epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSoa {
    /// MNAME: the primary name server.
    pub primary: Name,
    /// RNAME: the mailbox.
    pub contact: Name,
    /// REFRESH, RETRY and EXPIRE, for secondaries, in seconds.
    pub timers: [u32; 3],
    /// MINIMUM: how long resolvers may remember that something is not there (RFC 2308 §4), in seconds.
    pub minimum: u32,
    /// In seconds.
    pub ttl: u32,
    /// Where its entry stands in the text, in bytes.
    pub span: Range<usize>,
}

/// Something in a zone file that is wrong, or odd.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{line}:{column}: {message}")]
pub struct ZoneFileFault {
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// The place in bytes.
    pub span: Range<usize>,
    /// What is wrong, and what would be right.
    pub message: String,
}

/// A zone file that was read, as far as it can be.
#[derive(Debug, Clone, Default)]
pub struct ParsedZoneFile {
    /// What could be read.
    pub file: ZoneFile,
    /// Why it cannot be served; in the file's order.
    pub errors: Vec<ZoneFileFault>,
    /// What may not be meant.
    pub warnings: Vec<ZoneFileFault>,
}

impl ZoneFile {
    /// Reads the file of the zone `origin` (absolute, with or without the final dot). `ttl` is that of records which come
    /// before any TTL of the file.
    pub fn parse(origin: &str, text: &str, ttl: Duration) -> ParsedZoneFile {
        let mut reader = Reader::new(text);
        match crate::spec::parse_zone_name(origin) {
            Err(error) => reader.wrong(0..0, format!("the zone's name `{origin}` {error}")),
            Ok(_) if text.len() > MAX_FILE_BYTES => {
                reader.wrong(
                    0..0,
                    format!("the file has {} bytes, and at most {MAX_FILE_BYTES} are read", text.len()),
                );
            }
            Ok(zone) => reader.run(&zone, ttl.as_secs().min(MAX_TTL) as u32),
        }
        reader.parsed
    }

    /// True when the zone's own name servers stand in the file.
    pub fn has_nameservers(&self, origin: &Name) -> bool {
        self.records.iter().any(|record| record.record.kind == Kind::NS && record.owner == *origin)
    }
}

/// What holds from one entry to the next.
struct Context {
    zone: Name,
    /// What relative names end in.
    origin: Name,
    /// The owner of entries that name none.
    owner: Owner,
    /// From `$TTL`.
    default_ttl: Option<u32>,
    /// The one that was written last (RFC 1035 §5.1), at first the zone's.
    last_ttl: u32,
}

/// Whose the records are.
enum Owner {
    /// Nobody was named yet.
    Missing,
    /// Somebody was, and could not be read: one fault is enough for all the records below.
    Wrong,
    Known(Name),
}

struct Reader<'t> {
    text: &'t str,
    parsed: ParsedZoneFile,
    seen: HashSet<(Box<[u8]>, Record)>,
    /// A place and its line, from which the next one's is counted.
    counted: (usize, usize),
    long_ttl_told: bool,
}

/// What an entry is wrong with; a fault beyond reading it.
type Fault = (Range<usize>, String);

impl<'t> Reader<'t> {
    fn new(text: &'t str) -> Self {
        Self {
            text,
            parsed: ParsedZoneFile::default(),
            seen: HashSet::new(),
            counted: (0, 1),
            long_ttl_told: false,
        }
    }

    fn run(&mut self, zone: &Name, ttl: u32) {
        let mut lexer = Lexer::new(self.text);
        let mut context = Context {
            zone: zone.clone(),
            origin: zone.clone(),
            owner: Owner::Missing,
            default_ttl: None,
            last_ttl: ttl,
        };
        let mut complaints: Vec<Complaint> = Vec::new();
        while let Some(entry) = lexer.entry(&mut complaints) {
            for (span, message) in complaints.drain(..) {
                self.wrong(span.clone(), format!("`{}` {message}", self.shown(span)));
            }
            if let Err((span, message)) = self.entry(&entry, &mut context) {
                self.wrong(span, message);
            }
            if self.parsed.errors.len() >= MAX_FAULTS {
                return;
            }
            if self.parsed.file.records.len() > MAX_FILE_RECORDS {
                let span = entry.words.first().map_or(0..0, Word::span);
                return self
                    .wrong(span, format!("is one record too many; a file may have {MAX_FILE_RECORDS}"));
            }
        }
    }

    /// A piece of the text for a message: a control character by its number.
    fn shown(&self, span: Range<usize>) -> String {
        let text = self.text.get(span).unwrap_or_default();
        if text.contains(char::is_control) { text.escape_debug().to_string() } else { text.to_owned() }
    }

    fn wrong(&mut self, span: Range<usize>, message: String) {
        let fault = self.fault(span, message);
        self.parsed.errors.push(fault);
    }

    fn fault(&mut self, span: Range<usize>, message: String) -> ZoneFileFault {
        let start = self.text.floor_char_boundary(span.start);
        let (from, lines) = self.counted;
        let between = self.text[from.min(start)..from.max(start)].matches('\n').count();
        let line = if from <= start { lines + between } else { lines - between };
        self.counted = (start, line);
        let line_start = self.text[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let column = self.text[line_start..start].chars().count() + 1;
        ZoneFileFault { line, column, span, message }
    }

    fn entry(&mut self, entry: &Entry<'t>, context: &mut Context) -> Result<(), Fault> {
        let mut words = entry.words.as_slice();
        if let (false, Some((first, rest))) = (entry.blank, words.split_first()) {
            if first.text.starts_with('$') {
                if entry.broken {
                    return Ok(());
                }
                directive(*first, rest, context)?;
                if let (Some(ttl), Some(word)) = (context.default_ttl, rest.first()) {
                    self.weigh_ttl(ttl, *word);
                }
                return Ok(());
            }
            words = rest;
            // Known even where the rest is not, since it may be the owner of the entries below.
            context.owner = Owner::Wrong;
            let name = parse_owner(first.text, &context.origin, &context.zone);
            context.owner = Owner::Known(name.map_err(|error| of_name(*first, error))?);
            if rest.is_empty() && !entry.broken {
                return Err((
                    first.span(),
                    format!("`{}` stands alone; a type and a value must follow", first.text),
                ));
            }
        }
        if entry.broken {
            return Ok(());
        }
        self.record(words, context)
    }

    fn record(&mut self, words: &[Word<'t>], context: &mut Context) -> Result<(), Fault> {
        let Some(first) = words.first() else { return Ok(()) };
        let written = words.iter().find(|word| word.text.starts_with(|first: char| first.is_ascii_digit()));
        let (ttl, words) = ttl_and_class(words)?;
        let Some((kind_word, value)) = words.split_first() else {
            return Err((first.span(), "the type is missing, such as A or MX".to_owned()));
        };
        let kind = record_type(*kind_word)?;
        let value_start = value.first().map_or(kind_word.span().end, |word| word.start);
        let end = words.last().map_or(value_start, |word| word.span().end);
        let (value_span, span) = (value_start..end, first.start..end);
        if let (Some(ttl), Some(word)) = (ttl, written) {
            context.last_ttl = ttl;
            self.weigh_ttl(ttl, *word);
        }
        let ttl = ttl.or(context.default_ttl).unwrap_or(context.last_ttl);
        if let (Kind::SOA, Owner::Known(owner)) = (kind, &context.owner) {
            return self.soa(value, owner, ttl, context, span);
        }
        let data = parse_value(kind, &joined(kind, value), &context.origin)
            .map_err(|error| (value_span, format!("the {} value {error}", kind_to_text(kind))))?;
        let owner = match &context.owner {
            Owner::Known(owner) => owner.clone(),
            Owner::Wrong => return Ok(()),
            Owner::Missing => {
                return Err((
                    span,
                    "no name stands before this record; begin the line with one, `@` for the zone".to_owned(),
                ));
            }
        };
        let record = Record { kind, data: data.into() };
        // RFC 2181 §5: a set has each record once. Other servers take a second one for the first.
        if !self.seen.insert((owner.folded().into(), record.clone())) {
            if self.parsed.warnings.len() < MAX_FAULTS {
                let fault = self.fault(span, "this record is there twice; one counts".to_owned());
                self.parsed.warnings.push(fault);
            }
            return Ok(());
        }
        self.parsed.file.records.push(FileRecord { owner, ttl, record, span });
        Ok(())
    }

    /// Tells once of a time that no resolver keeps to. The file may come from a server that took it, so it is served as
    /// it stands.
    fn weigh_ttl(&mut self, ttl: u32, word: Word<'_>) {
        if ttl > LONGEST_KEPT && !std::mem::replace(&mut self.long_ttl_told, true) {
            let what = format!(
                "a TTL of {ttl} s is served as it stands, but resolvers keep nothing for longer than {LONGEST_KEPT} s (RFC 8767 \
                 §4); this is said once"
            );
            let fault = self.fault(word.span(), what);
            self.parsed.warnings.push(fault);
        }
    }

    fn soa(
        &mut self,
        words: &[Word<'t>],
        owner: &Name,
        ttl: u32,
        context: &Context,
        span: Range<usize>,
    ) -> Result<(), Fault> {
        if *owner != context.zone {
            return Err((span, format!("the SOA must be that of {}, the zone", context.zone)));
        }
        if self.parsed.file.soa.is_some() {
            return Err((span, "this is a second SOA; a zone has one".to_owned()));
        }
        let [primary, contact, numbers @ ..] = words else { return Err((span, SOA_SHAPE.to_owned())) };
        let &[serial, refresh, retry, expire, minimum] = numbers else {
            return Err((span, SOA_SHAPE.to_owned()));
        };
        let name =
            |word: &Word<'_>| Name::parse(word.text, &context.origin).map_err(|error| of_name(*word, error));
        let time = |word: Word<'_>| parse_ttl(word.text).map_err(|error| of_value(word, error));
        if serial.text.parse::<u32>().is_err() {
            return Err((serial.span(), format!("`{}` is no serial from 0 to {}", serial.text, u32::MAX)));
        }
        self.parsed.file.soa = Some(FileSoa {
            primary: name(primary)?,
            contact: name(contact)?,
            timers: [time(refresh)?, time(retry)?, time(expire)?],
            minimum: time(minimum)?,
            ttl,
            span,
        });
        Ok(())
    }
}

fn of_name(word: Word<'_>, error: impl Display) -> Fault {
    (word.span(), format!("the name `{}` {error}", word.text))
}

fn of_value(word: Word<'_>, error: impl Display) -> Fault {
    (word.span(), format!("`{}` {error}", word.text))
}

const SOA_SHAPE: &str = "the SOA value needs the primary name server, the mailbox, serial, refresh, retry, expire and minimum: \
     `ns1 hostmaster 1 1d 2h 1000h 5m`";

/// Before the type, in any order: a TTL and a class, of which there is one.
fn ttl_and_class<'w, 't>(words: &'w [Word<'t>]) -> Result<(Option<u32>, &'w [Word<'t>]), Fault> {
    let (mut ttl, mut class, mut rest) = (None, false, words);
    while let Some((word, behind)) = rest.split_first() {
        if word.text.starts_with(|first: char| first.is_ascii_digit()) {
            if ttl.is_some() {
                return Err((word.span(), format!("`{}` is a second TTL; a record has one", word.text)));
            }
            ttl = Some(parse_ttl(word.text).map_err(|error| of_value(*word, error))?);
        } else if ["IN", "CLASS1"].iter().any(|class| word.text.eq_ignore_ascii_case(class)) && !class {
            class = true;
        } else if is_class(word.text) {
            return Err((
                word.span(),
                format!("`{}` is no class of this zone; leave it out, or write IN", word.text),
            ));
        } else {
            break;
        }
        rest = behind;
    }
    Ok((ttl, rest))
}

fn is_class(text: &str) -> bool {
    let numbered = text.get(..5).is_some_and(|prefix| prefix.eq_ignore_ascii_case("CLASS"));
    numbered || ["IN", "CH", "HS", "CS"].iter().any(|class| text.eq_ignore_ascii_case(class))
}

fn record_type(word: Word<'_>) -> Result<Kind, Fault> {
    match crate::spec::record_type(word.text) {
        // A file has one, unlike the records beside it.
        Err(RecordTypeError::Refused(_)) if word.text.eq_ignore_ascii_case("SOA") => Ok(Kind::SOA),
        kind => kind.map_err(|error| (word.span(), format!("`{}` {error}", word.text))),
    }
}

/// The value on one line. Words of a text are strings of their own each (RFC 1035 §3.3.14), with quotes or without.
fn joined(kind: Kind, words: &[Word<'_>]) -> String {
    let generic = words.first().is_some_and(|word| word.text == r"\#");
    let strings = matches!(kind, Kind::TXT | Kind::HINFO | Kind(99)) && !generic;
    let mut value = String::new();
    for word in words {
        if !value.is_empty() {
            value.push(' ');
        }
        if strings && !word.text.contains('"') {
            value.extend(["\"", word.text, "\""]);
        } else {
            value.push_str(word.text);
        }
    }
    value
}

fn directive(word: Word<'_>, rest: &[Word<'_>], context: &mut Context) -> Result<(), Fault> {
    let wrong = |message: &str| Err((word.span(), format!("`{}` {message}", word.text)));
    match (word.text.to_ascii_uppercase().as_str(), rest) {
        ("$ORIGIN", [name]) => {
            context.origin =
                Name::parse(name.text, &context.origin).map_err(|error| of_name(*name, error))?;
            Ok(())
        }
        ("$TTL", [ttl]) => {
            context.default_ttl = Some(parse_ttl(ttl.text).map_err(|error| of_value(*ttl, error))?);
            Ok(())
        }
        ("$ORIGIN", _) => wrong("needs one name behind it"),
        ("$TTL", _) => wrong("needs one time behind it, in seconds or such as 1h30m"),
        ("$INCLUDE", _) => wrong("is not followed: a zone stands in one file; put the records here"),
        ("$GENERATE", _) => wrong("is not supported; write the records out, or a wildcard"),
        _ => wrong("is no directive ($ORIGIN and $TTL are); write a name that begins with a dollar as `\\$`"),
    }
}

/// Seconds, or numbers with the units w, d, h, m and s: `1h30m`.
fn parse_ttl(text: &str) -> Result<u32, String> {
    let shape = || format!("is no time in seconds, nor such as 1h30m; at most {MAX_TTL} s");
    let mut total: u64 = 0;
    let mut number: Option<u64> = None;
    for byte in text.bytes() {
        if byte.is_ascii_digit() {
            let next = number.unwrap_or(0) * 10 + u64::from(byte - b'0');
            number = Some(next).filter(|number| *number <= MAX_TTL);
            number.ok_or_else(shape)?;
            continue;
        }
        let unit = match byte.to_ascii_lowercase() {
            b's' => 1,
            b'm' => 60,
            b'h' => 3_600,
            b'd' => 86_400,
            b'w' => 604_800,
            _ => return Err(shape()),
        };
        total += number.take().ok_or_else(shape)? * unit;
        if total > MAX_TTL {
            return Err(shape());
        }
    }
    // A number without a unit stands alone: what 1h30 means is anybody's guess.
    match number {
        None if !text.is_empty() => Ok(total as u32),
        Some(seconds) if text.bytes().all(|byte| byte.is_ascii_digit()) => Ok(seconds as u32),
        _ => Err(shape()),
    }
}
