//! "Did you mean": the nearest of the words that would have been right.

/// A file with more names than this gets advice from the first of them only.
const MAX_CANDIDATES: usize = 1_000;

/// The candidate that `word` is most likely a slip of the pen for, if one is near enough.
pub(crate) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    let slips = |candidate: &&str| strsim::damerau_levenshtein(&word, &candidate.to_lowercase());
    let bounded = |candidate: &&str| candidate.len().abs_diff(word.len()) <= 3;
    let best = candidates.into_iter().take(MAX_CANDIDATES).filter(bounded).min_by_key(slips)?;
    (slips(&best) <= 1.max(best.len().max(word.len()) / 3)).then_some(best)
}

/// As a hint: did you mean it, else what there is (at most ten words of it). Words in `later` may be meant, but are not
/// offered: they would be refused.
pub(super) fn hint<'a>(
    word: &str,
    what: &str,
    candidates: impl IntoIterator<Item = &'a str>,
    later: impl IntoIterator<Item = &'a str>,
) -> Option<String> {
    let candidates: Vec<&str> = candidates.into_iter().collect();
    if let Some(best) = nearest(word, candidates.iter().copied().chain(later)) {
        return Some(format!("did you mean `{best}`?"));
    }
    let some: Vec<String> = candidates.iter().take(10).map(|word| format!("`{word}`")).collect();
    let dots = if candidates.len() > some.len() { ", ..." } else { "" };
    (!some.is_empty()).then(|| format!("{what}: {}{dots}", some.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_found_and_strangers_are_not() {
        let keys = ["interval", "timeout", "rise", "fall"];
        assert_eq!(nearest("intervall", keys), Some("interval"));
        assert_eq!(nearest("tiemout", keys), Some("timeout"));
        assert_eq!(nearest("Rise", keys), Some("rise"));
        assert_eq!(nearest("x", keys), None);
        assert_eq!(nearest("certificate", keys), None);
        assert_eq!(
            hint("x", "known", keys, ["certificate"]).unwrap(),
            "known: `interval`, `timeout`, `rise`, `fall`"
        );
        assert_eq!(
            hint("certificat", "known", keys, ["certificate"]).unwrap(),
            "did you mean `certificate`?"
        );
        assert_eq!(hint("x", "known", [], []), None);
    }

    #[test]
    fn a_very_long_word_is_compared_with_nothing() {
        assert_eq!(nearest(&"a".repeat(1 << 20), ["interval"]), None);
    }
}
