//! What the mesh makes of a backend: the majority of its probers. Pure.
//!
//! A vote is for one of two sides, "takes traffic" (Up, GoingDown) or "takes none" (Down, GoingUp); Unknown abstains.
//! Who votes is settled before: the assigned probers that are heard, each with its latest word.
//!
//! - The larger side wins. A tie keeps the state.
//! - Without a vote what was concluded stays: absence of evidence is not evidence (I5). So a hand-over to probers
//!   that have not looked yet changes nothing.
//! - The end of the last break is the latest that any voter for "takes traffic" knows of, and never moves back.

use gossip::clock::{Hlc, Wall};
use gossip::id::NodeName;
use gossip::state::BackendState;

/// What the mesh makes of one backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conclusion {
    /// `Unknown`, `Up`, `GoingDown`, `Down` or `GoingUp`.
    pub state: BackendState,
    /// The end of the last break that anybody knows of.
    pub up_since: Hlc,
    /// The beginning of the present or the last break.
    pub down_since: Hlc,
}

impl Conclusion {
    /// Before the first vote.
    pub const NONE: Self = Self { state: BackendState::Unknown, up_since: Hlc::ZERO, down_since: Hlc::ZERO };

    /// Whether it is a conclusion that the backend takes no traffic.
    pub fn is_down(&self) -> bool {
        side(self.state) == Some(Side::None)
    }
}

/// One prober's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vote<'a> {
    /// Whose.
    pub by: &'a NodeName,
    /// What it says.
    pub state: BackendState,
    /// As [`Verdict::since`](gossip::state::Verdict::since) has it.
    pub since: Hlc,
    /// Why its last probe failed, in words, and when it first failed so; `None` when it did not or does not say.
    pub failure: Option<(&'a str, Wall)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Traffic,
    None,
}

fn side(state: BackendState) -> Option<Side> {
    match state {
        BackendState::Up | BackendState::GoingDown => Some(Side::Traffic),
        BackendState::Down | BackendState::GoingUp => Some(Side::None),
        _ => None,
    }
}

/// Concludes from the votes and what was concluded before. `now` dates the end of a break that no voter saw end.
pub fn conclude(before: Conclusion, votes: &[Vote<'_>], now: Hlc) -> Conclusion {
    let on = |wanted| votes.iter().filter(move |vote| side(vote.state) == Some(wanted));
    let (traffic, none) = (on(Side::Traffic).count(), on(Side::None).count());
    let told = on(Side::Traffic).map(|vote| vote.since).max().unwrap_or(Hlc::ZERO);
    let up_since = before.up_since.max(told);
    // The settled word needs a majority of its own; else the state shows that it is about to change.
    let settled = |word| 2 * votes.iter().filter(|vote| vote.state == word).count() > traffic + none;

    if traffic > none {
        let unseen = before.is_down() && up_since <= before.down_since;
        Conclusion {
            state: if settled(BackendState::Up) { BackendState::Up } else { BackendState::GoingDown },
            up_since: if unseen { now } else { up_since },
            ..before
        }
    } else if none > traffic {
        let began = on(Side::None).map(|vote| vote.since).min().unwrap_or(now);
        Conclusion {
            state: if settled(BackendState::Down) { BackendState::Down } else { BackendState::GoingUp },
            up_since,
            down_since: if before.is_down() { before.down_since } else { began },
        }
    } else {
        Conclusion { up_since, ..before }
    }
}

/// Why a backend is not simply up: `eu-2 and eu-3: HTTP 503 at 12:01:07; eu-1 says down`. Empty when nobody says anything
/// against it. Times are those of the first probe that failed so, in UTC. `own` is what this node's own probe met, which
/// may have no vote.
pub fn evidence(me: &NodeName, own: Option<(&str, Wall)>, votes: &[Vote<'_>]) -> String {
    let against = || votes.iter().filter(|vote| vote.by != me || own.is_none());
    let mut met: Vec<(&str, Wall, Vec<&str>)> = Vec::new();
    let mine = own.map(|(text, at)| (me, text, at));
    let theirs = against().filter(|vote| vote.state != BackendState::Up);
    let theirs = theirs.filter_map(|vote| vote.failure.map(|(text, at)| (vote.by, text, at)));
    for (by, text, at) in mine.into_iter().chain(theirs) {
        match met.iter_mut().find(|(known, ..)| *known == text) {
            Some((_, first, names)) => {
                *first = at.min(*first);
                names.push(by.as_str());
            }
            None => met.push((text, at, vec![by.as_str()])),
        }
    }
    let mut parts: Vec<String> = met
        .into_iter()
        .map(|(text, at, names)| format!("{}: {text} at {}", joined(&names), time(at)))
        .collect();
    for (state, one, many) in [
        (BackendState::Down, "says down", "say down"),
        (BackendState::GoingDown, "says going down", "say going down"),
        (BackendState::GoingUp, "says going up", "say going up"),
    ] {
        let silent = against().filter(|vote| vote.state == state && vote.failure.is_none());
        let names: Vec<&str> = silent.map(|vote| vote.by.as_str()).collect();
        match names.len() {
            0 => {}
            1 => parts.push(format!("{} {one}", names[0])),
            _ => parts.push(format!("{} {many}", joined(&names))),
        }
    }
    parts.join("; ")
}

fn joined(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [name] => (*name).to_owned(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// The time of the day.
fn time(at: Wall) -> String {
    let whole = humantime::format_rfc3339_seconds(at.system_time()).to_string();
    whole.get(11..19).unwrap_or(&whole).to_owned()
}

#[cfg(test)]
mod tests {
    use BackendState::{Down, GoingDown, GoingUp, Unknown, Up};
    use proptest::prelude::*;

    use super::*;

    fn node(number: usize) -> NodeName {
        NodeName::new(&format!("eu-{number}")).unwrap()
    }

    fn names() -> Vec<NodeName> {
        (1..=5).map(node).collect()
    }

    fn votes<'a>(names: &'a [NodeName], words: &[(BackendState, u64)]) -> Vec<Vote<'a>> {
        names
            .iter()
            .zip(words)
            .map(|(by, (state, since))| Vote { by, state: *state, since: Hlc(*since), failure: None })
            .collect()
    }

    fn conclusion(state: BackendState, up_since: u64, down_since: u64) -> Conclusion {
        Conclusion { state, up_since: Hlc(up_since), down_since: Hlc(down_since) }
    }

    #[test]
    fn majorities() {
        let names = names();
        for (before, words, expected) in [
            (Unknown, &[][..], Unknown),
            (Unknown, &[Up], Up),
            (Unknown, &[Unknown, Unknown, Down], Down),
            (Up, &[], Up),
            (Down, &[Unknown, Unknown], Down),
            (Up, &[Up, Down], Up),
            (Down, &[Up, Down], Down),
            (Unknown, &[Up, Down], Unknown),
            (Up, &[Up, Up, Down], Up),
            (Up, &[Up, GoingDown, Down], GoingDown),
            (Up, &[Up, Up, GoingDown], Up),
            (Up, &[Up, Down, Down], Down),
            (Down, &[Up, GoingUp, Down], GoingUp),
            (Down, &[Up, GoingUp, GoingUp], GoingUp),
            (Down, &[Up, Up, GoingUp], Up),
            (Up, &[GoingDown], GoingDown),
        ] {
            let words: Vec<_> = words.iter().map(|state| (*state, 0)).collect();
            let got = conclude(conclusion(before, 0, 0), &votes(&names, &words), Hlc(99));
            assert_eq!(got.state, expected, "{before:?} then {words:?}");
        }
    }

    #[test]
    fn the_end_of_a_break_is_the_latest_told() {
        let names = names();
        let got = conclude(Conclusion::NONE, &votes(&names, &[(Up, 5), (Up, 0), (Down, 77)]), Hlc(99));
        assert_eq!(got, conclusion(Up, 5, 0));
        let later = conclude(got, &votes(&names, &[(Up, 0), (Up, 0)]), Hlc(100));
        assert_eq!(later.up_since, Hlc(5), "it does not move back when the one who knew it is gone");
    }

    #[test]
    fn a_break_that_nobody_saw_end_ended_now() {
        let names = names();
        let down =
            conclude(conclusion(Up, 5, 0), &votes(&names, &[(Down, 50), (Down, 40), (Up, 5)]), Hlc(60));
        assert_eq!(down, conclusion(Down, 5, 40));
        let up = conclude(down, &votes(&names, &[(Up, 5)]), Hlc(70));
        assert_eq!(up, conclusion(Up, 70, 40), "the two that said down died");
    }

    #[test]
    fn evidence_in_words() {
        let names = names();
        let up = votes(&names, &[(Up, 0), (Up, 0)]);
        assert_eq!(evidence(&names[0], None, &up), "");
        // 12:01:07 on some day.
        let at = |seconds: u64| Wall((1_790_035_267 - 1_790_035_267 % 86_400 + 43_267 + seconds) * 1000);
        let mut down = votes(&names, &[(Down, 0), (Down, 0), (Down, 0)]);
        assert_eq!(
            evidence(&names[0], Some(("HTTP 503", at(0))), &down),
            "eu-1: HTTP 503 at 12:01:07; eu-2 and eu-3 say down"
        );
        assert_eq!(evidence(&node(9), None, &down), "eu-1, eu-2 and eu-3 say down");
        down[1].failure = Some(("HTTP 503", at(2)));
        down[2].failure = Some(("HTTP 503", at(0)));
        assert_eq!(evidence(&names[0], None, &down), "eu-2 and eu-3: HTTP 503 at 12:01:07; eu-1 says down");
        let refused = Some(("connection refused", at(1)));
        assert_eq!(
            evidence(&names[0], refused, &down),
            "eu-1: connection refused at 12:01:08; eu-2 and eu-3: HTTP 503 at 12:01:07"
        );
        let mixed = votes(&names, &[(GoingUp, 0), (GoingDown, 0), (Down, 0)]);
        assert_eq!(
            evidence(&names[0], None, &mixed),
            "eu-3 says down; eu-2 says going down; eu-1 says going up"
        );
    }

    fn word() -> impl Strategy<Value = (BackendState, u64)> {
        (prop::sample::select(vec![Unknown, Up, GoingDown, Down, GoingUp]), 0u64..1000)
    }

    proptest! {
        #[test]
        fn the_larger_side_wins_and_time_never_runs_back(
            start in word(),
            rounds in prop::collection::vec(prop::collection::vec(word(), 0..4), 1..20),
        ) {
            let names = names();
            let mut before = conclusion(start.0, start.1, 0);
            for (words, now) in rounds.iter().zip(1000..) {
                let after = conclude(before, &votes(&names, words), Hlc(now));
                let up = words.iter().filter(|(state, _)| matches!(state, Up | GoingDown)).count();
                let down = words.iter().filter(|(state, _)| matches!(state, Down | GoingUp)).count();
                prop_assert!(after.up_since >= before.up_since);
                match up.cmp(&down) {
                    std::cmp::Ordering::Greater => prop_assert!(matches!(after.state, Up | GoingDown)),
                    std::cmp::Ordering::Less => prop_assert!(after.is_down()),
                    std::cmp::Ordering::Equal => prop_assert_eq!(after.state, before.state),
                }
                if before.is_down() && !after.is_down() && after.state != Unknown {
                    prop_assert!(after.up_since > before.down_since);
                }
                before = after;
            }
        }

        #[test]
        fn the_order_of_the_votes_does_not_matter(words in prop::collection::vec(word(), 0..5)) {
            let names = names();
            let votes = votes(&names, &words);
            let mut reversed = votes.clone();
            reversed.reverse();
            let before = conclusion(Up, 3, 0);
            prop_assert_eq!(conclude(before, &votes, Hlc(5000)), conclude(before, &reversed, Hlc(5000)));
        }
    }
}
