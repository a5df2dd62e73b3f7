//! Problems as people read them. Pure.

use std::collections::BTreeSet;

use crate::admin::api::MemberStatus;
use crate::alike;

/// The problems in their order; `eu-1: x` and `eu-2: x` become `eu-1, eu-2: x`.
pub(super) fn grouped(problems: &[String], members: &[MemberStatus]) -> Vec<String> {
    alike::grouped(problems.iter().map(|problem| match problem.split_once(": ") {
        Some((node, text)) if members.iter().any(|member| member.name == node) => (Some(node), text),
        _ => (None, problem.as_str()),
    }))
}

/// What an order or a revision can have brought about, and what was so before: `(worse, known)`. A trouble that goes on is the
/// same one though its numbers and times differ, and though a node or backend is worse or better off than it was.
pub(super) fn since(before: &[String], after: &[String]) -> (Vec<String>, Vec<String>) {
    let before: BTreeSet<String> = before.iter().map(|problem| trouble(problem)).collect();
    after.iter().cloned().partition(|problem| !before.contains(&trouble(problem)))
}

/// A problem without what changes while it lasts.
fn trouble(problem: &str) -> String {
    let is_state = problem.starts_with("node ") || problem.starts_with("backend ");
    let problem = problem.split_once(" is ").filter(|_| is_state).map_or(problem, |(whose, _)| whose);
    let word = |word: &str| {
        let bare = word.trim_matches(|char: char| !char.is_alphanumeric());
        let is_number = !bare.is_empty() && bare.bytes().all(|byte| byte.is_ascii_digit());
        let is_time =
            is_number || humantime::parse_rfc3339(bare).is_ok() || humantime::parse_duration(bare).is_ok();
        if is_time { "#".to_owned() } else { word.to_owned() }
    };
    problem.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_became_worse_counts_against_a_revision() {
        let before = [
            "node us-2 is suspect for 2 s",
            "backend 10.0.0.1:80 of pool web is down",
            "eu-1: pool app: file x fails since 2026-11-21T18:00:00Z (gone)",
            "no peer is heard for 7 s; this node goes on with what it last knew",
        ];
        let after = [
            "node us-2 is dead for 1 s; it is forgotten some 15 min after its last word",
            "backend 10.0.0.1:80 of pool web is going-up",
            "backend 10.0.0.2:80 of pool web is down",
            "eu-1: pool app: file x fails since 2026-11-21T18:00:09Z (gone)",
            "no peer is heard for 12 s; this node goes on with what it last knew",
            "eu-1: listener http: cannot bind 10.0.0.1:81",
        ];
        let (worse, known) = since(&before.map(str::to_owned), &after.map(str::to_owned));
        assert_eq!(worse, [after[2], after[5]]);
        assert_eq!(known, [after[0], after[1], after[3], after[4]]);
    }

    #[test]
    fn what_nodes_say_alike_stands_once() {
        let member = |name: &str| MemberStatus {
            name: name.into(),
            region: String::new(),
            zone: None,
            state: "alive".into(),
            version: String::new(),
            state_seconds: 0,
            stale_seconds: None,
            rtt_ms: None,
            address: String::new(),
            public: Vec::new(),
            revision: None,
        };
        let members = ["eu-1", "eu-2", "us-1"].map(member);
        let said = [
            "eu-1: pool app: file x fails since 2026-11-21T18:00:00Z (gone)",
            "eu-1: disk full",
            "node us-2 is dead for 7 s",
            "us-1: pool app: file x fails since 2026-11-21T18:00:01Z (gone)",
            "us-1: pool app: file y fails since 2026-11-21T18:00:01Z (gone)",
            "eu-9: disk full",
        ]
        .map(str::to_owned);
        let told = [
            "eu-1, us-1: pool app: file x fails since 2026-11-21T18:00:00Z (gone)",
            "eu-1: disk full",
            "node us-2 is dead for 7 s",
            "us-1: pool app: file y fails since 2026-11-21T18:00:01Z (gone)",
            "eu-9: disk full",
        ];
        assert_eq!(grouped(&said, &members), told);
    }
}
