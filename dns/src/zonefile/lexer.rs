//! From the text of a zone file to its entries: an owner's place and the words behind it (RFC 1035 §5.1).
//!
//! An entry ends with its line, unless parentheses stand open. Comments and the kinds of blanks are gone afterwards; quotes
//! and escapes are still as they were written, since what they mean depends on the type of the record.

use std::ops::Range;

/// One word as it is written, quotes and all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Word<'t> {
    pub(super) text: &'t str,
    /// Where it begins, in bytes.
    pub(super) start: usize,
}

impl Word<'_> {
    /// Where it stands, in bytes.
    pub(super) fn span(&self) -> Range<usize> {
        self.start..self.start + self.text.len()
    }
}

/// The words of one entry.
#[derive(Debug, Default)]
pub(super) struct Entry<'t> {
    /// The line begins with a blank: the owner is the one before.
    pub(super) blank: bool,
    pub(super) words: Vec<Word<'t>>,
    /// Something in it cannot be read, which is told; what it says is of no use.
    pub(super) broken: bool,
}

/// What cannot be read, and where.
pub(super) type Complaint = (Range<usize>, &'static str);

/// Complaints of one entry that are told.
const MAX_COMPLAINTS: usize = 20;

/// Reads entries one after the other.
pub(super) struct Lexer<'t> {
    text: &'t str,
    at: usize,
    /// Where the open parenthesis stands.
    open: Option<usize>,
}

impl<'t> Lexer<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self { text, at: 0, open: None }
    }

    /// The next entry that has words or is broken; `None` at the end. Complaints are added to `complaints`.
    pub(super) fn entry(&mut self, complaints: &mut Vec<Complaint>) -> Option<Entry<'t>> {
        while self.at < self.text.len() {
            let mut entry = Entry { blank: matches!(self.peek(), Some(b' ' | b'\t')), ..Entry::default() };
            self.fill(&mut entry, complaints);
            if !entry.words.is_empty() || entry.broken {
                return Some(entry);
            }
        }
        None
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// Reads up to and over the end of the entry.
    fn fill(&mut self, entry: &mut Entry<'t>, complaints: &mut Vec<Complaint>) {
        while let Some(byte) = self.peek() {
            let here = self.at;
            let complaint = match byte {
                b'\n' => {
                    self.at += 1;
                    match self.open {
                        None => return,
                        Some(_) => continue,
                    }
                }
                b' ' | b'\t' => {
                    self.at += 1;
                    None
                }
                // The line ends of other systems.
                b'\r' if self.text[here + 1..].starts_with('\n') || here + 1 == self.text.len() => {
                    self.at += 1;
                    None
                }
                b';' => {
                    let rest = &self.text[here..];
                    self.at += rest.find('\n').unwrap_or(rest.len());
                    None
                }
                b'(' => {
                    self.at += 1;
                    let nested = self.open.is_some();
                    self.open = self.open.or(Some(here));
                    nested.then_some((here..here + 1, "opens a parenthesis inside of another; leave it out"))
                }
                b')' => {
                    self.at += 1;
                    let closes = self.open.take().is_some();
                    (!closes)
                        .then_some((here..here + 1, "closes a parenthesis that is not open; leave it out"))
                }
                _ => {
                    let complaint = self.word();
                    entry.words.push(Word { text: &self.text[here..self.at], start: here });
                    complaint
                }
            };
            entry.broken |= complaint.is_some();
            complaints.extend(complaint.filter(|_| complaints.len() < MAX_COMPLAINTS));
        }
        if let Some(open) = self.open.take() {
            entry.broken = true;
            complaints.push((
                open..open + 1,
                "opens a parenthesis that is never closed; put `)` behind the last value",
            ));
        }
    }

    /// Steps over one word.
    fn word(&mut self) -> Option<Complaint> {
        let start = self.at;
        let mut complaint = None;
        let mut quote = None;
        while let Some(byte) = self.peek() {
            match byte {
                b'\n' | b'\r' => break,
                b' ' | b'\t' | b';' | b'(' | b')' if quote.is_none() => break,
                b'"' => quote = if quote.is_some() { None } else { Some(self.at) },
                b'\\' => {
                    // What is escaped belongs to the word, whatever it is but a line's end.
                    if matches!(self.text.as_bytes().get(self.at + 1), None | Some(b'\n' | b'\r')) {
                        complaint = Some((
                            self.at..self.at + 1,
                            "escapes the end of the line; write `\\\\` for a backslash",
                        ));
                    } else {
                        self.at += 1;
                    }
                }
                0..0x20 | 0x7f if byte != b'\t' => {
                    complaint = Some((
                        self.at..self.at + 1,
                        "is a control character; write it as `\\DDD`, its decimal value",
                    ));
                }
                _ => {}
            }
            self.at += 1;
        }
        // A carriage return alone is neither a blank nor an end.
        if self.at == start {
            self.at += 1;
            return Some((start..self.at, "is a carriage return alone; end lines with a line feed"));
        }
        match quote {
            Some(quote) => Some((
                quote..quote + 1,
                "opens a quote that is not closed on its line; put `\"` behind the text",
            )),
            None => complaint,
        }
    }
}
