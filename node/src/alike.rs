//! What several nodes say alike stands once. Pure.

/// So many names at most stand together.
const NAMES_MAX: usize = 3;

/// What nodes say, in the order in which it is said first: `x` of `eu-1` and `x` of `eu-2` become `eu-1, eu-2: x`, also where
/// each says it of another second. Words of nobody in particular stay as they are.
pub(crate) fn grouped<'a>(said: impl IntoIterator<Item = (Option<&'a str>, &'a str)>) -> Vec<String> {
    let mut groups: Vec<(Vec<&str>, &str)> = Vec::new();
    for (node, text) in said {
        let alike = groups.iter_mut().find(|(nodes, of)| !nodes.is_empty() && same(of, text));
        match (alike, node) {
            (Some((nodes, _)), Some(node)) => nodes.push(node),
            (_, node) => groups.push((node.into_iter().collect(), text)),
        }
    }
    let spell = |(nodes, text): (Vec<&str>, &str)| match nodes.is_empty() {
        true => text.to_owned(),
        false => format!("{}: {text}", names(&nodes)),
    };
    groups.into_iter().map(spell).collect()
}

/// `eu-1, eu-2 and 4 more`.
fn names(nodes: &[&str]) -> String {
    if nodes.len() <= NAMES_MAX {
        return nodes.join(", ");
    }
    let (first, rest) = nodes.split_at(NAMES_MAX - 1);
    format!("{} and {} more", first.join(", "), rest.len())
}

/// Whether two texts differ in points and spans of time alone.
fn same(a: &str, b: &str) -> bool {
    let is_point = |word: &str| humantime::parse_rfc3339(word).is_ok();
    let is_number = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
    let is_unit = |word: Option<&&str>| {
        word.is_some_and(|word| matches!(word.trim_end_matches([';', ':', ',', '.']), "s" | "min" | "h"))
    };
    let (mut a, mut b) = (a.split(' ').peekable(), b.split(' ').peekable());
    loop {
        match (a.next(), b.next()) {
            (None, None) => return true,
            (Some(one), Some(other)) if one == other || is_point(one) && is_point(other) => {}
            (Some(one), Some(other))
                if is_number(one) && is_number(other) && is_unit(a.peek()) && is_unit(b.peek()) => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nodes_say_alike_stands_once() {
        let said = [
            (Some("eu-1"), "file x fails since 2026-11-21T18:00:00Z (gone)"),
            (Some("eu-1"), "disk full"),
            (None, "node us-2 is dead for 7 s"),
            (None, "node us-2 is dead for 7 s"),
            (Some("us-1"), "file x fails since 2026-11-21T18:00:01Z (gone)"),
            (Some("us-1"), "file y fails since 2026-11-21T18:00:01Z (gone)"),
        ];
        let told = [
            "eu-1, us-1: file x fails since 2026-11-21T18:00:00Z (gone)",
            "eu-1: disk full",
            "node us-2 is dead for 7 s",
            "node us-2 is dead for 7 s",
            "us-1: file y fails since 2026-11-21T18:00:01Z (gone)",
        ];
        assert_eq!(grouped(said), told);
    }

    #[test]
    fn many_names_are_a_number() {
        let all = ["eu-1", "eu-2", "eu-3", "us-1", "us-2", "us-3"];
        let said = |count: usize| grouped(all[..count].iter().map(|node| (Some(*node), "no engine answers")));
        assert_eq!(said(3), ["eu-1, eu-2, eu-3: no engine answers"]);
        assert_eq!(said(6), ["eu-1, eu-2 and 4 more: no engine answers"]);
    }

    #[test]
    fn spans_of_time_may_differ_and_other_numbers_may_not() {
        assert!(same("silent for 7 s; it rests", "silent for 12 s; it rests"));
        assert!(!same("3 backends are down", "4 backends are down"));
        assert!(!same("silent for 7 s", "silent for 7 s more"));
    }
}
