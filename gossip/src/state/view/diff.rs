//! What happened between two views. Pure.

use super::{ClusterView, Member, MemberState, MeshEvent};
use crate::id::{NodeName, PoolName};
use crate::state::Verdict;

/// The events that lead from `old` to `new`, members in the order of their names.
pub fn diff(old: &ClusterView, new: &ClusterView) -> Vec<MeshEvent> {
    let mut events = Vec::new();
    if old.isolated_since.is_none() && new.isolated_since.is_some() {
        events.push(MeshEvent::Isolated);
    }
    if old.isolated_since.is_some() && new.isolated_since.is_none() {
        events.push(MeshEvent::Rejoined);
    }
    for (name, member) in &new.members {
        let before = old.members.get(name);
        events.extend(transition(name, before.map(|before| before.state), member.state));
        let revision_before = before.and_then(|before| before.record.revision);
        if member.record.revision != revision_before {
            let (node, revision) = (name.clone(), member.record.revision);
            events.push(MeshEvent::RevisionChanged { node, revision });
        }
        verdicts(name, before.map(|before| &**before), member, &mut events);
    }
    events
}

fn transition(name: &NodeName, before: Option<MemberState>, after: MemberState) -> Option<MeshEvent> {
    use MemberState::{Alive, Dead, Draining, Left, Suspect};
    let speaks = |state| matches!(state, Alive | Draining);
    match (before, after) {
        (None | Some(Dead | Left), Alive | Draining) => Some(MeshEvent::Joined(name.clone())),
        (Some(Suspect), after) if speaks(after) => Some(MeshEvent::Cleared(name.clone())),
        (Some(before), Suspect) if before != Suspect => Some(MeshEvent::Suspect(name.clone())),
        (Some(before), Dead) if before != Dead => Some(MeshEvent::Dead(name.clone())),
        (Some(before), Left) if before != Left => Some(MeshEvent::Left(name.clone())),
        _ => None,
    }
}

fn verdicts(by: &NodeName, before: Option<&Member>, after: &Member, events: &mut Vec<MeshEvent>) {
    let none: Vec<Verdict> = Vec::new();
    let old = |pool: &PoolName| before.and_then(|before| before.verdicts.get(pool)).unwrap_or(&none);
    for (pool, vector) in after.verdicts.iter() {
        let old = old(pool);
        if old == vector {
            continue;
        }
        let old = old.iter().map(|verdict| (verdict.backend, verdict.state));
        let old = old.collect::<std::collections::HashMap<_, _>>();
        for verdict in vector.iter().filter(|verdict| old.get(&verdict.backend) != Some(&verdict.state)) {
            let (by, pool, verdict) = (by.clone(), pool.clone(), *verdict);
            events.push(MeshEvent::VerdictChanged { by, pool, verdict });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::*;
    use crate::clock::{Clock, Hlc, Wall};
    use crate::id::{BackendId, RevisionId};
    use crate::state::{BackendState, NodeRecord};

    fn view(members: &[(&str, MemberState)]) -> ClusterView {
        let now = Clock::simulated(Wall(0)).now();
        let member = |(name, state): &(&str, MemberState)| {
            let name: NodeName = name.parse().unwrap();
            let record = NodeRecord {
                name: name.clone(),
                region: "eu".parse().unwrap(),
                zone: None,
                mesh: "127.0.0.1:1".parse().unwrap(),
                public: Vec::new(),
                version: String::new(),
                started: Wall(0),
                draining: false,
                revision: None,
                keys: Vec::new(),
                key_since: Wall(0),
            };
            let member = Member {
                record,
                state: *state,
                since: now,
                rtt: None,
                verdicts: Arc::default(),
                summaries: Arc::default(),
            };
            (name, Arc::new(member))
        };
        ClusterView {
            me: "a".parse().unwrap(),
            members: members.iter().map(member).collect(),
            isolated_since: None,
        }
    }

    #[test]
    fn every_transition_has_its_event() {
        use MemberState::{Alive, Dead, Draining, Left, Suspect};
        let b: NodeName = "b".parse().unwrap();
        let all = [None, Some(Alive), Some(Suspect), Some(Dead), Some(Draining), Some(Left)];
        for before in all {
            for after in all.into_iter().flatten() {
                let expected = match (before, after) {
                    (None | Some(Dead | Left), Alive | Draining) => Some(MeshEvent::Joined(b.clone())),
                    (Some(Suspect), Alive | Draining) => Some(MeshEvent::Cleared(b.clone())),
                    (Some(Alive | Draining | Dead | Left), Suspect) => Some(MeshEvent::Suspect(b.clone())),
                    (Some(Alive | Draining | Suspect | Left), Dead) => Some(MeshEvent::Dead(b.clone())),
                    (Some(Alive | Draining | Suspect | Dead), Left) => Some(MeshEvent::Left(b.clone())),
                    _ => None,
                };
                let old = view(&before.map(|state| ("b", state)).into_iter().collect::<Vec<_>>());
                let events = diff(&old, &view(&[("b", after)]));
                assert_eq!(events, expected.into_iter().collect::<Vec<_>>(), "{before:?} -> {after:?}");
            }
        }
    }

    #[test]
    fn verdicts_revisions_and_isolation_are_told_once() {
        let old = view(&[("b", MemberState::Alive)]);
        let mut new = old.clone();
        let verdict = Verdict { backend: BackendId(1), state: BackendState::Up, since: Hlc::ZERO };
        let revision = Some(RevisionId { epoch: 1, hash: [0; 32] });
        let pool: PoolName = "web".parse().unwrap();
        let b: NodeName = "b".parse().unwrap();
        let mut member = (*new.members[&b]).clone();
        member.record.revision = revision;
        member.verdicts = Arc::new(BTreeMap::from([(pool.clone(), vec![verdict])]));
        new.members.insert(b.clone(), Arc::new(member));
        new.isolated_since = Some(new.members[&b].since);
        let events = diff(&old, &new);
        let expected = [
            MeshEvent::Isolated,
            MeshEvent::RevisionChanged { node: b.clone(), revision },
            MeshEvent::VerdictChanged { by: b, pool, verdict },
        ];
        assert_eq!(events, expected);
        assert_eq!(diff(&new, &new), []);
    }
}
