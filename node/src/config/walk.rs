//! A cursor over the spanned tree of a TOML file.
//!
//! ```text
//! let mut health = value.table()?;                          a table, or a fault at the value
//! let path = health.required("path", read::text)?;          a value, or a fault at the table
//! let rise = health.optional("rise", read::integer(1..=99)) None when absent or wrong; wrong is a fault
//! health.later("grpc", read::any);                          "not yet supported" when present
//! health.finish();                                          what nobody asked for is unknown
//! ```
//!
//! Reading never stops at a fault: the reader takes a fallback and goes on, and whoever started the walk looks at the
//! [`Diagnostics`] in the end.

use std::cmp::Reverse;
use std::ops::{Deref, RangeInclusive};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostics::{Diagnostics, Span};
use super::suggest;

/// The greatest size of a configuration file: lists of 100,000 networks fit in, twice.
pub(super) const MAX_BYTES: usize = 4 << 20;

/// The tree of a file, as far as it is TOML; empty when the file is too large to be looked at.
pub(super) fn parse<'t>(text: &'t str, sink: &Diagnostics) -> Spanned<DeTable<'t>> {
    if text.len() > MAX_BYTES {
        sink.error_at(
            None,
            format!("the file has {} bytes, and at most {MAX_BYTES} are read", text.len()),
            None,
        );
        return Spanned::new(0..0, DeTable::new());
    }
    let (tree, errors) = DeTable::parse_recoverable(text);
    sink.syntax_errors(text, &errors);
    tree
}

/// Something and its place in the text.
#[derive(Debug, Clone)]
pub(super) struct At<T> {
    pub(super) span: Span,
    pub(super) value: T,
}

impl<T> Deref for At<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

/// A value in the tree, under the key or in the list `name`.
#[derive(Clone)]
pub(super) struct Value<'t> {
    pub(super) name: &'t str,
    pub(super) span: Span,
    tree: &'t DeValue<'t>,
    pub(super) sink: &'t Diagnostics,
}

impl<'t> Value<'t> {
    /// A fault at this value.
    pub(super) fn wrong(&self, message: impl Into<String>) {
        self.sink.error(self.span.clone(), message, None);
    }

    /// A fault at this value, with advice.
    pub(super) fn wrong_but(&self, message: impl Into<String>, hint: impl Into<String>) {
        self.sink.error(self.span.clone(), message, Some(hint.into()));
    }

    fn of_type<T>(&self, expected: &str, found: Option<T>) -> Option<T> {
        if found.is_none() {
            let article = |noun: &str| if noun.starts_with(['a', 'i']) { "an" } else { "a" };
            let actual = self.tree.type_str();
            self.wrong(format!(
                "`{}` must be {} {expected}, not {} {actual}",
                self.name,
                article(expected),
                article(actual)
            ));
        }
        found
    }

    /// The string this is.
    pub(super) fn text(&self) -> Option<&'t str> {
        self.of_type("string", self.tree.as_str())
    }

    /// Whether this is a string at all; no fault when it is not.
    pub(super) fn is_text(&self) -> bool {
        self.tree.is_str()
    }

    /// Whether this is a table at all; no fault when it is not.
    pub(super) fn is_table(&self) -> bool {
        self.tree.is_table()
    }

    /// Whether this is a boolean at all; no fault when it is not.
    pub(super) fn is_boolean(&self) -> bool {
        self.tree.is_bool()
    }

    /// The integer this is, in `range`.
    pub(super) fn integer(&self, range: RangeInclusive<i64>) -> Option<i64> {
        let number = self.of_type("integer", self.tree.as_integer())?;
        // The parser's radix is one of 2, 8, 10 and 16; a number that does not fit is out of every range.
        let number = i64::from_str_radix(number.as_str(), number.radix()).ok();
        let fitting = number.filter(|number| range.contains(number));
        if fitting.is_none() {
            self.wrong(format!("`{}` must be between {} and {}", self.name, range.start(), range.end()));
        }
        fitting
    }

    /// The number this is, in `range`; whole numbers need no decimal point.
    pub(super) fn number(&self, range: RangeInclusive<f64>) -> Option<f64> {
        let written = match self.tree {
            DeValue::Float(number) => number.as_str().parse::<f64>().ok(),
            DeValue::Integer(number) => {
                i64::from_str_radix(number.as_str(), number.radix()).ok().map(|n| n as f64)
            }
            _ => return self.of_type("number", None),
        };
        let fitting = written.filter(|number| range.contains(number));
        if fitting.is_none() {
            self.wrong(format!("`{}` must be between {} and {}", self.name, range.start(), range.end()));
        }
        fitting
    }

    /// The boolean this is.
    pub(super) fn boolean(&self) -> Option<bool> {
        self.of_type("boolean", self.tree.as_bool())
    }

    /// The members of the array this is.
    pub(super) fn list(&self) -> Option<impl Iterator<Item = Value<'t>> + use<'t>> {
        let members = self.of_type("array", self.tree.as_array())?;
        let (name, sink) = (self.name, self.sink);
        Some(members.iter().map(move |member| Value {
            name,
            span: member.span(),
            tree: member.get_ref(),
            sink,
        }))
    }

    /// The table this is.
    pub(super) fn table(&self) -> Option<Table<'t>> {
        let tree = self.of_type("table", self.tree.as_table())?;
        Some(Table::new(tree, self.span.clone(), self.sink))
    }
}

/// A table and which of its keys were asked for.
pub(super) struct Table<'t> {
    span: Span,
    fields: Vec<(At<&'t str>, Value<'t>)>,
    known: Vec<&'static str>,
    later: Vec<&'static str>,
    sink: &'t Diagnostics,
}

impl<'t> Table<'t> {
    /// The whole file.
    pub(super) fn root(tree: &'t Spanned<DeTable<'t>>, sink: &'t Diagnostics) -> Self {
        Self::new(tree.get_ref(), 0..0, sink)
    }

    fn new(tree: &'t DeTable<'t>, span: Span, sink: &'t Diagnostics) -> Self {
        let mut fields: Vec<_> = tree
            .iter()
            .map(|(key, value)| {
                let name = At { span: key.span(), value: key.get_ref().as_ref() };
                let value = Value { name: name.value, span: value.span(), tree: value.get_ref(), sink };
                (name, value)
            })
            .collect();
        fields.sort_by_key(|(key, _)| Reverse(key.span.start));
        Self { span, fields, known: Vec::new(), later: Vec::new(), sink }
    }

    /// The table's own place: its header, or its braces.
    pub(super) fn span(&self) -> Span {
        self.span.clone()
    }

    /// Where faults go.
    pub(super) fn sink(&self) -> &'t Diagnostics {
        self.sink
    }

    /// The place of a key, if it is there and was not read yet.
    pub(super) fn place(&self, key: &str) -> Option<Span> {
        self.fields.iter().find(|(name, _)| name.value == key).map(|(name, _)| name.span.clone())
    }

    /// The value of a key that may be there.
    pub(super) fn value(&mut self, key: &'static str) -> Option<Value<'t>> {
        self.keyed(key).map(|(_, value)| value)
    }

    /// A key that may be there, with its own place.
    pub(super) fn keyed(&mut self, key: &'static str) -> Option<(Span, Value<'t>)> {
        self.known.push(key);
        self.misplaced(key)
    }

    /// A key that belongs into another file: no suggestion here ever names it.
    pub(super) fn misplaced(&mut self, key: &str) -> Option<(Span, Value<'t>)> {
        let at = self.fields.iter().position(|(name, _)| name.value == key)?;
        let (name, value) = self.fields.remove(at);
        Some((name.span, value))
    }

    /// What `read` makes of a key that may be there.
    pub(super) fn optional<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&Value<'t>) -> Option<T>,
    ) -> Option<T> {
        read(&self.value(key)?)
    }

    /// What `read` makes of a key that must be there.
    pub(super) fn required<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&Value<'t>) -> Option<T>,
    ) -> Option<T> {
        match self.value(key) {
            Some(value) => read(&value),
            // A slip of the pen is told as such when the table is finished.
            None if self.fields.iter().any(|(name, _)| suggest::nearest(name.value, [key]).is_some()) => None,
            None => {
                self.sink.absent(self.span.clone(), format!("`{key}` is missing here"), None);
                None
            }
        }
    }

    /// A key of the contract whose feature is still to come: refused when it is there, never ignored. Its value is
    /// checked all the same.
    pub(super) fn later<T>(&mut self, key: &'static str, read: impl FnOnce(&Value<'t>) -> Option<T>) {
        self.later.push(key);
        if let Some((span, value)) = self.misplaced(key) {
            self.sink.error(span, format!("`{key}` is not yet supported"), None);
            read(&value);
        }
    }

    /// All entries of a table whose keys are names that the user chose, in the file's order.
    pub(super) fn entries(self) -> impl Iterator<Item = (At<&'t str>, Value<'t>)> {
        self.fields.into_iter().rev()
    }

    /// Nothing more is known here: what is left is a fault.
    pub(super) fn finish(self) {
        for (key, _) in self.fields.iter().rev() {
            let hint = suggest::hint(
                key.value,
                "known here",
                self.known.iter().copied(),
                self.later.iter().copied(),
            );
            self.sink.error(key.span.clone(), format!("unknown key `{}`", key.value), hint);
        }
    }
}
