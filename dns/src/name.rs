//! Domain names: wire form inside, compared without regard to ASCII case, case kept (RFC 1035 §3.1, RFC 4343).

use std::fmt;
use std::hash::{Hash, Hasher};

/// The longest name on the wire, in bytes, with the root's zero (RFC 1035 §2.3.4).
pub const MAX_NAME_BYTES: usize = 255;
/// The longest label.
pub const MAX_LABEL_BYTES: usize = 63;

/// An absolute domain name.
///
/// Length bytes are at most 63 and so never letters; therefore folding the case of the whole wire form folds that of
/// the labels only, and a suffix of the wire form that begins at a label is a name itself.
#[derive(Clone)]
pub struct Name(Box<[u8]>);

/// Why a name cannot be one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Two dots in a row, or one at the beginning.
    #[error("has an empty label")]
    EmptyLabel,
    /// A label of more than 63 bytes.
    #[error("has a label of more than 63 bytes")]
    LabelTooLong,
    /// More than 255 bytes on the wire.
    #[error("is longer than 255 bytes")]
    TooLong,
    /// A backslash that is followed by neither a character nor three digits up to 255.
    #[error("has a wrong escape; `\\.` is a dot in a label, `\\065` a byte by its decimal value")]
    BadEscape,
    /// A quote that is not escaped.
    #[error("has a quote; names are written without, and `\\\"` is a quote in a label")]
    Quote,
    /// Blanks, control characters, or letters beyond ASCII.
    #[error(
        "has a character that is not printable ASCII; internationalised names are written in their xn-- form"
    )]
    BadCharacter,
}

impl Name {
    /// The root.
    pub fn root() -> Self {
        Self(Box::new([0]))
    }

    /// Takes labels from the leftmost to the last before the root.
    ///
    /// # Errors
    /// When a label is empty or too long, or the whole is.
    pub fn from_labels<'a>(labels: impl IntoIterator<Item = &'a [u8]>) -> Result<Self, NameError> {
        let mut wire = Vec::with_capacity(32);
        for label in labels {
            push_label(&mut wire, label)?;
        }
        Self::finish(wire)
    }

    /// Parses presentation format. A name without a final dot is relative to `origin`; `@` is the origin itself.
    ///
    /// # Errors
    /// When it is no name.
    pub fn parse(text: &str, origin: &Name) -> Result<Self, NameError> {
        match text {
            "@" => return Ok(origin.clone()),
            "." => return Ok(Self::root()),
            "" => return Err(NameError::EmptyLabel),
            _ => {}
        }
        let mut wire = Vec::with_capacity(text.len() + 2);
        let mut label = Vec::with_capacity(MAX_LABEL_BYTES);
        let mut bytes = text.bytes();
        let mut absolute = false;
        while let Some(byte) = bytes.next() {
            absolute = byte == b'.';
            match byte {
                b'.' => {
                    push_label(&mut wire, &label)?;
                    label.clear();
                }
                b'\\' => label.push(unescape(&mut bytes)?),
                b'"' => return Err(NameError::Quote),
                0x21..=0x7e => label.push(byte),
                _ => return Err(NameError::BadCharacter),
            }
        }
        if !absolute {
            push_label(&mut wire, &label)?;
            wire.extend_from_slice(&origin.0[..origin.0.len() - 1]);
        }
        Self::finish(wire)
    }

    /// Parses an absolute name, with or without the final dot.
    ///
    /// # Errors
    /// When it is no name.
    pub fn parse_absolute(text: &str) -> Result<Self, NameError> {
        Self::parse(text, &Self::root())
    }

    /// Takes the beginning of `wire`, uncompressed. `None` when it is no whole name.
    pub fn from_wire(wire: &[u8]) -> Option<Self> {
        let end = suffixes(wire).find(|suffix| suffix.first() == Some(&0))?;
        let length = wire.len() - end.len() + 1;
        Self::from_labels(Labels(wire.get(..length)?)).ok()
    }

    fn finish(mut wire: Vec<u8>) -> Result<Self, NameError> {
        wire.push(0);
        if wire.len() > MAX_NAME_BYTES { Err(NameError::TooLong) } else { Ok(Self(wire.into())) }
    }

    /// The wire form, uncompressed, with the final zero.
    pub fn wire(&self) -> &[u8] {
        &self.0
    }

    /// The wire form in lower case: the key of the name in a map.
    pub fn folded(&self) -> Vec<u8> {
        self.0.to_ascii_lowercase()
    }

    /// The labels, leftmost first, without the root's.
    pub fn labels(&self) -> Labels<'_> {
        Labels(&self.0)
    }

    /// True for the root.
    pub fn is_root(&self) -> bool {
        self.0.len() == 1
    }

    /// True when this name is `ancestor` or lies below it.
    pub fn is_within(&self, ancestor: &Name) -> bool {
        suffixes(&self.0).any(|suffix| suffix.eq_ignore_ascii_case(&ancestor.0))
    }

    /// The name without its leftmost label; `None` for the root.
    pub fn parent(&self) -> Option<Self> {
        suffixes(&self.0).nth(1).map(|suffix| Self(suffix.into()))
    }
}

/// The wire forms of a name and of all its ancestors, longest first, down to the root.
pub(crate) fn suffixes(wire: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(wire);
    std::iter::from_fn(move || {
        let here = rest?;
        let length = usize::from(*here.first()?);
        rest = if length == 0 { None } else { here.get(1 + length..) };
        Some(here)
    })
}

/// The wire form of a name in lower case, on the stack: what questions are looked up by.
#[derive(Clone)]
pub(crate) struct Folded {
    bytes: [u8; FOLDED_BYTES],
    length: u8,
}

/// The longest name, in whole blocks of those that are folded at a time.
const FOLDED_BYTES: usize = MAX_NAME_BYTES.next_multiple_of(FOLDED_AT_ONCE);
const FOLDED_AT_ONCE: usize = 16;

impl Folded {
    /// Takes a whole name in wire form, uncompressed; what is longer than a name can be is cut.
    pub(crate) fn new(wire: &[u8]) -> Self {
        let mut folded = Self::empty();
        folded.take(wire);
        folded
    }

    /// No name, to be taken where it is.
    pub(crate) fn empty() -> Self {
        Self { bytes: [0; FOLDED_BYTES], length: 0 }
    }

    /// See [`Folded::new`].
    pub(crate) fn take(&mut self, wire: &[u8]) {
        let wire = &wire[..wire.len().min(MAX_NAME_BYTES)];
        self.length = wire.len() as u8;
        // Whole blocks, each folded at once and written once: what is written in pieces and read as a whole is waited for.
        let (whole, rest) = wire.as_chunks::<FOLDED_AT_ONCE>();
        let (blocks, _) = self.bytes.as_chunks_mut::<FOLDED_AT_ONCE>();
        for (into, block) in blocks.iter_mut().zip(whole) {
            *into = fold(u128::from_le_bytes(*block)).to_le_bytes();
        }
        if let Some(into) = blocks.get_mut(whole.len()).filter(|_| !rest.is_empty()) {
            *into = fold(last_block(wire, rest)).to_le_bytes();
        }
    }

    /// The bytes, with the final zero.
    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

/// Sixteen bytes in lower case.
fn fold(block: u128) -> u128 {
    const EACH: u128 = u128::MAX / 0xff;
    // The upper bit of each byte tells, and no sum reaches the next byte.
    let low = block & (EACH * 0x7f);
    let (from_a, beyond_z) = (low + EACH * (0x80 - b'A' as u128), low + EACH * (0x7f - b'Z' as u128));
    let upper = (from_a ^ beyond_z) & !block & (EACH * 0x80);
    block | upper >> 2
}

/// The bytes behind a name's whole blocks, and zeroes.
fn last_block(name: &[u8], rest: &[u8]) -> u128 {
    let beyond = 8 * (FOLDED_AT_ONCE - rest.len()) as u32;
    match (name.last_chunk(), rest.first_chunk(), rest.last_chunk()) {
        (Some(end), _, _) => u128::from_le_bytes(*end) >> beyond,
        (None, Some(begin), Some(end)) => {
            let (begin, end) = (u64::from_le_bytes(*begin), u64::from_le_bytes(*end));
            u128::from(begin) | u128::from(end.checked_shr(beyond).unwrap_or(0)) << 64
        }
        _ => rest.iter().rev().fold(0, |padded, byte| padded << 8 | u128::from(*byte)),
    }
}

fn push_label(wire: &mut Vec<u8>, label: &[u8]) -> Result<(), NameError> {
    match label.len() {
        0 => Err(NameError::EmptyLabel),
        length if length > MAX_LABEL_BYTES => Err(NameError::LabelTooLong),
        length => {
            wire.push(length as u8);
            wire.extend_from_slice(label);
            if wire.len() >= MAX_NAME_BYTES { Err(NameError::TooLong) } else { Ok(()) }
        }
    }
}

/// What follows a backslash (RFC 1035 §5.1): three digits, decimal, or any other character for itself.
pub(crate) fn unescape(bytes: &mut impl Iterator<Item = u8>) -> Result<u8, NameError> {
    let first = bytes.next().ok_or(NameError::BadEscape)?;
    if !first.is_ascii_digit() {
        return if (0x20..=0x7e).contains(&first) { Ok(first) } else { Err(NameError::BadEscape) };
    }
    let mut value = u16::from(first - b'0');
    for _ in 0..2 {
        let digit = bytes.next().filter(u8::is_ascii_digit).ok_or(NameError::BadEscape)?;
        value = value * 10 + u16::from(digit - b'0');
    }
    u8::try_from(value).map_err(|_| NameError::BadEscape)
}

/// See [`Name::labels`].
#[derive(Debug, Clone)]
pub struct Labels<'a>(&'a [u8]);

impl<'a> Iterator for Labels<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (&length, rest) = self.0.split_first()?;
        if length == 0 {
            return None;
        }
        let (label, rest) = rest.split_at_checked(usize::from(length))?;
        self.0 = rest;
        Some(label)
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.0.eq_ignore_ascii_case(&other.0)
    }
}

impl Eq for Name {}

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for byte in &self.0 {
            state.write_u8(byte.to_ascii_lowercase());
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_root() {
            return f.write_str(".");
        }
        for label in self.labels() {
            for &byte in label {
                match byte {
                    b'.' | b'\\' | b'"' | b';' | b'@' | b'(' | b')' | b'$' => {
                        write!(f, "\\{}", char::from(byte))?
                    }
                    0x21..=0x7e => write!(f, "{}", char::from(byte))?,
                    _ => write!(f, "\\{byte:03}")?,
                }
            }
            f.write_str(".")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> Name {
        Name::parse_absolute(text).unwrap()
    }

    #[test]
    fn case_is_kept_and_ignored() {
        assert_eq!(name("WwW.Example.COM"), name("www.example.com."));
        assert_eq!(name("WwW.Example.COM").to_string(), "WwW.Example.COM.");
        // Only ASCII letters fold (RFC 4343 §3.1): 0x5B and 0x7B differ by the same bit as `A` and `a`.
        assert_ne!(name("a[b"), name("a{b"));
    }

    #[test]
    fn relative_names_end_in_the_origin() {
        let origin = name("example.com");
        assert_eq!(Name::parse("www", &origin).unwrap(), name("www.example.com"));
        assert_eq!(Name::parse("www.", &origin).unwrap(), name("www."));
        assert_eq!(Name::parse("@", &origin).unwrap(), origin);
        assert_eq!(Name::parse(r"a\.b.\065", &origin).unwrap().to_string(), r"a\.b.A.example.com.");
    }

    #[test]
    fn what_is_no_name_says_why() {
        let origin = Name::root();
        for (text, error) in [
            ("", NameError::EmptyLabel),
            ("a..b", NameError::EmptyLabel),
            (".a", NameError::EmptyLabel),
            ("a b", NameError::BadCharacter),
            ("bücher", NameError::BadCharacter),
            (r"a\25", NameError::BadEscape),
            (r"a\256", NameError::BadEscape),
            (r"a\", NameError::BadEscape),
        ] {
            assert_eq!(Name::parse(text, &origin), Err(error), "{text}");
        }
        assert_eq!(Name::parse(&"x".repeat(64), &origin), Err(NameError::LabelTooLong));
        assert!(Name::parse(&"x".repeat(63), &origin).is_ok());
        let long = ["x".repeat(63), "x".repeat(63), "x".repeat(63), "x".repeat(61)].join(".");
        assert_eq!(name(&long).wire().len(), MAX_NAME_BYTES);
        assert_eq!(Name::parse(&(long + "x"), &origin), Err(NameError::TooLong));
    }

    #[test]
    fn names_of_every_length_fold_whole() {
        for length in 0..=MAX_NAME_BYTES + 1 {
            let wire: Vec<u8> = (0..length).map(|at| (at * 7) as u8).collect();
            let kept = &wire[..length.min(MAX_NAME_BYTES)];
            assert_eq!(Folded::new(&wire).as_slice(), kept.to_ascii_lowercase());
        }
    }

    #[test]
    fn suffixes_are_the_ancestors() {
        let deep = name("a.b.c");
        let all: Vec<String> = suffixes(deep.wire()).map(|wire| Name(wire.into()).to_string()).collect();
        assert_eq!(all, ["a.b.c.", "b.c.", "c.", "."]);
        assert!(deep.is_within(&name("B.C")));
        assert!(!name("xb.c").is_within(&name("b.c")));
        assert_eq!(deep.parent(), Some(name("b.c")));
        assert_eq!(Name::root().parent(), None);
    }

    proptest! {
        #[test]
        fn any_text_is_a_name_or_an_error(text in ".{0,300}") {
            if let Ok(name) = Name::parse_absolute(&text) {
                prop_assert!(name.wire().len() <= MAX_NAME_BYTES);
                prop_assert_eq!(Name::parse_absolute(&name.to_string()).unwrap(), name);
            }
        }

        #[test]
        fn any_labels_survive_presentation(labels in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..20), 0..6)) {
            let name = Name::from_labels(labels.iter().map(Vec::as_slice)).unwrap();
            prop_assert_eq!(&name, &Name::parse_absolute(&name.to_string()).unwrap());
            prop_assert_eq!(name.labels().count(), labels.len());
        }
    }
}
