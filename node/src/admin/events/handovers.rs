//! Nodes that are silent because their next process takes over: no accident that is worth telling. Pure.
//!
//! What is believed of such a node is what silence says, so nothing is sent to it; only the event is held back. It is told with the death
//! if the next process does not come.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use gossip::clock::Wall;
use gossip::id::NodeName;
use gossip::state::{ClusterView, MeshEvent};

/// A node that has not fallen silent by then was not handed over, and one that is silent longer than that is dead.
const EXPECTED: Duration = Duration::from_secs(20);

/// Who is being handed over.
#[derive(Debug, Default)]
pub(super) struct Handovers {
    by_node: BTreeMap<NodeName, Handover>,
    /// That nobody is heard was held back.
    isolated: bool,
}

#[derive(Debug)]
struct Handover {
    /// When it said so.
    said: Instant,
    /// The life that ends.
    life: Wall,
    /// That it is silent was held back.
    silent: bool,
}

impl Handovers {
    /// Whether an event is only what a handover looks like from here.
    pub(super) fn explain(&mut self, event: &MeshEvent, view: &ClusterView, now: Instant) -> bool {
        self.by_node.retain(|name, hand| {
            let expected = now < hand.said + EXPECTED && life(view, name) == Some(hand.life);
            hand.silent || expected
        });
        match event {
            MeshEvent::HandsOver(name) => {
                if let Some(life) = life(view, name) {
                    self.by_node.insert(name.clone(), Handover { said: now, life, silent: false });
                }
                true
            }
            MeshEvent::Suspect(name) => match self.by_node.get_mut(name) {
                Some(hand) if life(view, name) == Some(hand.life) => {
                    hand.silent = true;
                    true
                }
                _ => false,
            },
            // It may speak once more before it has handed over.
            MeshEvent::Cleared(name) => {
                self.by_node.get_mut(name).is_some_and(|hand| std::mem::take(&mut hand.silent))
            }
            MeshEvent::Dead(name) | MeshEvent::Left(name) | MeshEvent::Joined(name) => {
                self.by_node.remove(name);
                false
            }
            MeshEvent::Isolated => {
                self.isolated = self.are_all_others_of(view);
                self.isolated
            }
            MeshEvent::Rejoined => std::mem::take(&mut self.isolated),
            _ => false,
        }
    }

    fn are_all_others_of(&self, view: &ClusterView) -> bool {
        let others = view.members.values().filter(|member| member.counts() && member.record.name != view.me);
        let mut names = others.map(|member| &member.record.name).peekable();
        names.peek().is_some() && names.all(|name| self.by_node.contains_key(name))
    }
}

fn life(view: &ClusterView, name: &NodeName) -> Option<Wall> {
    view.members.get(name).map(|member| member.record.started)
}

#[cfg(test)]
mod tests {
    use gossip::clock::Clock;

    use super::*;
    use crate::registry::fixture::{member, view};

    fn name(name: &str) -> NodeName {
        name.parse().unwrap()
    }

    #[test]
    fn what_a_handover_looks_like_is_not_told_and_a_death_is() {
        use MeshEvent::{Cleared, Dead, HandsOver, Isolated, Rejoined, Suspect};
        let (clock, b, c) = (Clock::simulated(Wall(1)), name("b"), name("c"));
        let of_life = |life| {
            let mut next = member("b", "eu");
            next.record.started = Wall(life);
            view("a", vec![member("a", "eu"), next, member("c", "eu")])
        };
        let (old, new) = (of_life(1), of_life(2));
        let mut hands = Handovers::default();
        let mut quiet = |event: MeshEvent, view: &ClusterView| hands.explain(&event, view, clock.now());
        assert!(!quiet(Suspect(b.clone()), &old) && !quiet(Cleared(b.clone()), &old), "nobody said anything");
        assert!(quiet(HandsOver(b.clone()), &old) && quiet(Suspect(b.clone()), &old));
        assert!(quiet(Cleared(b.clone()), &old), "it was not there yet");
        assert!(quiet(Suspect(b.clone()), &old) && quiet(Cleared(b.clone()), &new));
        assert!(
            !quiet(Suspect(b.clone()), &new) && !quiet(Cleared(b.clone()), &new),
            "the next process itself"
        );
        assert!(quiet(HandsOver(b.clone()), &new) && !quiet(Suspect(c.clone()), &new), "another node");
        assert!(!quiet(Isolated, &new) && !quiet(Rejoined, &new), "c said nothing");
        assert!(quiet(HandsOver(c.clone()), &new) && quiet(Isolated, &new) && quiet(Rejoined, &new));
        assert!(quiet(Suspect(b.clone()), &new) && !quiet(Dead(b.clone()), &new), "it did not come back");
        assert!(!quiet(Suspect(b.clone()), &new), "said once");
        assert!(quiet(HandsOver(b.clone()), &new) && quiet(Suspect(c.clone()), &new));
        clock.advance(EXPECTED);
        assert!(!quiet(Suspect(b), &new), "long after");
        assert!(quiet(Cleared(c), &new), "that it was silent was not told");
        assert!(quiet(HandsOver(name("d")), &new) && !quiet(Suspect(name("d")), &new), "no member");
    }
}
