//! When measured round trips are worth telling the mesh: it costs every node a kilobyte at a hundred nodes. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::id::Tag;

/// What changed a little is told no more often than this.
const RARELY: Duration = Duration::from_secs(30);
/// New nodes are told together.
const SOON: Duration = Duration::from_secs(2);
/// Differences below this are noise.
const NOISE: Duration = Duration::from_millis(1);

/// Whether `now` is to be told, `age` after `told` was.
pub(super) fn are_news(told: &BTreeMap<Tag, Duration>, now: &BTreeMap<Tag, Duration>, age: Duration) -> bool {
    let strangers = now.keys().any(|node| !told.contains_key(node));
    let moved = now.iter().any(|(node, rtt)| {
        told.get(node).is_some_and(|before| before.abs_diff(*rtt) > (*before / 4).max(NOISE))
    });
    (strangers && age >= SOON) || (moved && age >= RARELY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_nodes_are_told_soon_and_noise_never() {
        let at = |millis: &[(u32, u64)]| -> BTreeMap<Tag, Duration> {
            millis.iter().map(|(node, rtt)| (Tag(*node), Duration::from_millis(*rtt))).collect()
        };
        let (one, minute) = (at(&[(1, 80)]), Duration::from_secs(60));
        assert!(are_news(&at(&[]), &one, SOON) && !are_news(&at(&[]), &one, SOON / 2));
        assert!(!are_news(&one, &at(&[(1, 95)]), minute));
        assert!(!are_news(&one, &at(&[(1, 120)]), SOON));
        assert!(are_news(&one, &at(&[(1, 120)]), minute));
        assert!(!are_news(&one, &at(&[]), minute), "who is gone is told of elsewhere");
        assert!(!are_news(&at(&[(1, 0)]), &at(&[(1, 1)]), minute));
    }
}
