//! Text of strangers on a terminal. Names, reasons, headers and problems come over the network and may hold what moves the
//! cursor, hides text or turns it around: it is shown escaped, never obeyed. Pure.

use std::fmt::{self, Display, Write};

/// A text for people: a control character or one that cannot be seen is written as Rust does, `\u{1b}`. Lines stay lines, and tabs tabs.
pub(super) struct Lines<T>(pub T);

/// A text that is one cell of a table or one item of a list: a line that ends within it is escaped too, so that nobody adds a row.
pub(super) struct Cell<T>(pub T);

/// JSON for a terminal: the same value, with what JSON itself leaves bare in a string written as `\u202e`.
pub(super) struct Json<T>(pub T);

impl<T: Display> Display for Lines<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = Writer {
            out: f,
            is_hostile: |char| is_unseen(char) && !matches!(char, '\n' | '\t'),
            escape: as_rust,
        };
        write!(out, "{}", self.0)
    }
}

impl<T: Display> Display for Cell<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Writer { out: f, is_hostile: is_unseen, escape: as_rust }, "{}", self.0)
    }
}

impl<T: Display> Display for Json<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Outside of strings stand no other characters than JSON's own.
        let mut out = Writer {
            out: f,
            is_hostile: |char| is_unseen(char) && !matches!(char, '\n' | '\t'),
            escape: as_json,
        };
        write!(out, "{}", self.0)
    }
}

/// Control characters, and format characters that turn, join or hide what stands beside them (Unicode Standard Annex 9; category Cf as far as
/// it has no shape).
pub(super) fn is_unseen(char: char) -> bool {
    char.is_control()
        || matches!(char,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

fn as_rust(out: &mut fmt::Formatter<'_>, char: char) -> fmt::Result {
    write!(out, "{}", char.escape_unicode())
}

fn as_json(out: &mut fmt::Formatter<'_>, char: char) -> fmt::Result {
    let mut units = [0; 2];
    char.encode_utf16(&mut units).iter().try_for_each(|unit| write!(out, "\\u{unit:04x}"))
}

/// Passes text on and escapes what is hostile in it.
struct Writer<'a, 'b> {
    out: &'a mut fmt::Formatter<'b>,
    is_hostile: fn(char) -> bool,
    escape: fn(&mut fmt::Formatter<'_>, char) -> fmt::Result,
}

impl Write for Writer<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while let Some((at, hostile)) = rest.char_indices().find(|(_, char)| (self.is_hostile)(*char)) {
            self.out.write_str(&rest[..at])?;
            (self.escape)(self.out, hostile)?;
            rest = &rest[at + hostile.len_utf8()..];
        }
        self.out.write_str(rest)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_shown() {
        let hostile = "a\u{1b}[2Jb\r\u{7f}\u{9b}\u{202e}c\u{2066}\n\td\u{200b}";
        assert_eq!(
            Lines(hostile).to_string(),
            "a\\u{1b}[2Jb\\u{d}\\u{7f}\\u{9b}\\u{202e}c\\u{2066}\n\td\\u{200b}"
        );
        assert!(Cell(hostile).to_string().contains("c\\u{2066}\\u{a}\\u{9}d"));
        for plain in ["", "eu-1: HTTP 503", "Zürich · 東京 ▁▂█ ≤ é", "\\u{1b}"] {
            assert_eq!(Lines(plain).to_string(), plain);
            assert_eq!(Cell(plain).to_string(), plain);
        }
    }

    proptest! {
        #[test]
        fn nothing_hostile_is_left(text in any::<String>()) {
            prop_assert!(!Lines(&text).to_string().contains(|c: char| is_unseen(c) && c != '\n' && c != '\t'));
            prop_assert!(!Cell(&text).to_string().contains(is_unseen));
        }

        #[test]
        fn json_is_the_same_value(text in any::<String>(), hostile in "[\u{1b}\u{7f}\u{9b}\u{202e}\u{2066}\u{e0041}]{0,3}") {
            let value = serde_json::json!({ &hostile: [text, hostile] });
            for plain in [value.to_string(), serde_json::to_string_pretty(&value).unwrap()] {
                let shown = Json(&plain).to_string();
                prop_assert!(!shown.contains(|c: char| is_unseen(c) && c != '\n'));
                prop_assert_eq!(&serde_json::from_str::<serde_json::Value>(&shown).unwrap(), &value);
            }
        }
    }
}
