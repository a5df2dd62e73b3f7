//! Which certificates answer for a name (pure): exact names first, then wildcards of one label (RFC 6125 §6.4.3).

use std::collections::HashMap;

/// Names to places in a list of certificates, in the list's order.
#[derive(Debug, Default)]
pub(super) struct Names {
    exact: HashMap<Box<str>, Vec<usize>>,
    /// By what follows the wildcard's dot.
    wildcard: HashMap<Box<str>, Vec<usize>>,
}

impl Names {
    /// The certificate at `place` is good for `name`.
    pub(super) fn add(&mut self, name: &str, place: usize) {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let places = match name.strip_prefix("*.") {
            Some(suffix) => self.wildcard.entry(suffix.into()).or_default(),
            None => self.exact.entry(name.into()).or_default(),
        };
        if !places.contains(&place) {
            places.push(place);
        }
    }

    /// The places for a name that a client asks for; `None` when no certificate is good for it.
    pub(super) fn find(&self, name: &str) -> Option<&[usize]> {
        let lower;
        let name = if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            lower = name.to_ascii_lowercase();
            &lower
        } else {
            name
        };
        let name = name.strip_suffix('.').unwrap_or(name);
        let exact = self.exact.get(name);
        let wildcard = || match name.split_once('.') {
            Some((label, suffix)) if !label.is_empty() => self.wildcard.get(suffix),
            _ => None,
        };
        exact.or_else(wildcard).map(Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(all: &[&str]) -> Names {
        let mut names = Names::default();
        for (place, name) in all.iter().enumerate() {
            names.add(name, place);
        }
        names
    }

    #[test]
    fn exact_names_before_wildcards_of_one_label() {
        let names = names(&[
            "example.com",
            "*.example.com",
            "www.example.com",
            "*.Shop.example.com",
            "www.example.com",
        ]);
        for (asked, found) in [
            ("example.com", Some(&[0][..])),
            ("api.example.com", Some(&[1])),
            ("www.example.com", Some(&[2, 4])),
            ("WWW.Example.COM", Some(&[2, 4])),
            ("www.example.com.", Some(&[2, 4])),
            ("a.shop.example.com", Some(&[3])),
            ("a.b.shop.example.com", None),
            ("a.b.example.com", None),
            (".example.com", None),
            ("com", None),
            ("", None),
        ] {
            assert_eq!(names.find(asked), found, "{asked}");
        }
    }

    proptest! {
        #[test]
        fn a_wildcard_covers_every_label_and_never_two(first in "[a-z0-9-]{1,20}", second in "[a-z0-9-]{1,20}") {
            let names = names(&["*.example.com"]);
            let (one, two) = (format!("{first}.example.com"), format!("{first}.{second}.example.com"));
            prop_assert_eq!(names.find(&one), Some(&[0][..]));
            prop_assert_eq!(names.find(&two), None);
        }

        #[test]
        fn any_name_can_be_asked_for(asked in "\\PC{0,300}") {
            let _ = names(&["*.example.com", "www.example.com"]).find(&asked);
        }
    }
}
