//! The view made of what is known: pure but for the links' round trips, which are handed in.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::roster::Roster;
use super::wishes::OwnState;
use crate::clock::Wall;
use crate::id::{NodeName, Tag};
use crate::liveness::Liveness;
use crate::state::{ClusterView, Member, MemberState};

/// This node's own entry.
pub(super) fn own(own: OwnState, rtts: Arc<BTreeMap<Tag, Duration>>, left: bool, since: Instant) -> Member {
    let state = match (left, own.record.draining) {
        (true, _) => MemberState::Left,
        (false, true) => MemberState::Draining,
        (false, false) => MemberState::Alive,
    };
    let OwnState { record, verdicts, summaries, failures } = own;
    Member { record, state, since, rtt: None, verdicts, summaries, failures, rtts }
}

/// What follows `old`. Entries that did not change are shared with it.
pub(super) fn view(
    old: &ClusterView,
    own: Member,
    roster: &Roster,
    liveness: &Liveness,
    rtt: impl Fn(&NodeName) -> Option<Duration>,
) -> ClusterView {
    let mut members = BTreeMap::new();
    for node in roster.iter() {
        let (Some(said), Some((state, since))) = (&node.state, liveness.state(&node.name)) else { continue };
        let before = old.members.get(&node.name);
        let mut record = said.record.clone();
        // Where it was reached and which life it is, chitchat knows better than an older record.
        record.mesh = node.addr;
        record.started = Wall(node.generation);
        let rtt = quiet_rtt(before.and_then(|before| before.rtt), rtt(&node.name));
        let verdicts = shared(before.map(|before| &before.verdicts), &said.verdicts);
        let summaries = shared(before.map(|before| &before.summaries), &said.summaries);
        let failures = shared(before.map(|before| &before.failures), &said.failures);
        let rtts = shared(before.map(|before| &before.rtts), &said.rtts);
        let member = Member { record, state, since, rtt, verdicts, summaries, failures, rtts };
        let unchanged = before.filter(|before| ***before == member).cloned();
        members.insert(node.name.clone(), unchanged.unwrap_or_else(|| Arc::new(member)));
    }
    members.insert(old.me.clone(), Arc::new(own));
    ClusterView { me: old.me.clone(), members, isolated_since: liveness.isolated_since() }
}

fn shared<T: Clone + PartialEq>(before: Option<&Arc<T>>, now: &T) -> Arc<T> {
    before.filter(|before| ***before == *now).cloned().unwrap_or_else(|| Arc::new(now.clone()))
}

/// The round trip to show: the one shown before, unless it changed by more than an eighth (and a tenth of a millisecond).
/// Otherwise every view would differ from the last.
fn quiet_rtt(shown: Option<Duration>, now: Option<Duration>) -> Option<Duration> {
    match (shown, now) {
        (Some(shown), Some(now)) if shown.abs_diff(now) <= (shown / 8).max(Duration::from_micros(100)) => {
            Some(shown)
        }
        _ => now,
    }
}
