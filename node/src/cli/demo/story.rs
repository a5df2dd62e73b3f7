//! What the demo tells: from what was done to the mesh and what was then seen of it to sentences with measured times,
//! and at the end to a verdict. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::plan::Plan;

/// What was seen of the mesh at one moment.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// By observing node: the state it ascribes to each node. Only nodes that answered.
    pub(super) members: BTreeMap<String, BTreeMap<String, String>>,
    /// By name server and by the region asked for: the addresses in the answer. Only those that answered.
    pub(super) dns: BTreeMap<(String, &'static str), Vec<IpAddr>>,
    /// By backend address: its state, as one node has it.
    pub(super) backends: BTreeMap<String, String>,
}

/// Something that was done to the mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Blow {
    /// SIGKILL to a node.
    Kill(String),
    /// All backends of a region went down.
    Fail(String),
}

/// A blow and what has been seen of it so far.
#[derive(Debug)]
struct Chapter {
    blow: Blow,
    at: Instant,
    /// Sentences still to come true.
    open: Vec<Expect>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expect {
    SuspectedInRegion,
    SuspectedEverywhere,
    AddressGone,
    BackendsDown,
    DnsMoved,
}

/// The story so far.
#[derive(Debug)]
pub(super) struct Story {
    plan: Plan,
    chapters: Vec<Chapter>,
    killed: BTreeSet<String>,
}

impl Story {
    pub(super) fn new(plan: Plan) -> Self {
        Self { plan, chapters: Vec::new(), killed: BTreeSet::new() }
    }

    /// Takes note of a blow.
    pub(super) fn struck(&mut self, blow: Blow, at: Instant) {
        if self.chapters.iter().any(|chapter| chapter.blow == blow) {
            return;
        }
        let open = match &blow {
            Blow::Kill(name) => {
                self.killed.insert(name.clone());
                vec![Expect::SuspectedInRegion, Expect::SuspectedEverywhere, Expect::AddressGone]
            }
            Blow::Fail(_) => vec![Expect::BackendsDown, Expect::DnsMoved],
        };
        self.chapters.push(Chapter { blow, at, open });
    }

    /// A region's backends are back: what had not come true of its failure is not waited for any more.
    pub(super) fn healed(&mut self, region: &str) {
        self.chapters.retain(|chapter| chapter.blow != Blow::Fail(region.into()));
    }

    /// What has come true since the last look.
    pub(super) fn look(&mut self, seen: &Seen, now: Instant) -> Vec<String> {
        let mut lines = Vec::new();
        let failed: BTreeSet<&str> = self
            .chapters
            .iter()
            .filter_map(|chapter| match &chapter.blow {
                Blow::Fail(region) => Some(region.as_str()),
                Blow::Kill(_) => None,
            })
            .collect();
        let (plan, killed) = (&self.plan, &self.killed);
        let mut news: Vec<(usize, Expect, String)> = Vec::new();
        for (at, chapter) in self.chapters.iter().enumerate() {
            let after = now.saturating_duration_since(chapter.at);
            for &expect in &chapter.open {
                if let Some(line) = came_true(plan, killed, &failed, &chapter.blow, expect, seen) {
                    news.push((at, expect, format!("{line} {}", spell(after))));
                }
            }
        }
        for (at, expect, line) in news {
            self.chapters[at].open.retain(|open| *open != expect);
            lines.push(line);
        }
        lines
    }

    /// What should have come true and has not.
    pub(super) fn unfinished(&self) -> Vec<String> {
        let open =
            self.chapters.iter().flat_map(|chapter| chapter.open.iter().map(move |open| (chapter, open)));
        open.map(|(chapter, open)| match (&chapter.blow, open) {
            (Blow::Kill(name), Expect::SuspectedInRegion) => format!("{name} is not suspected in its region"),
            (Blow::Kill(name), Expect::SuspectedEverywhere) => format!("{name} is not suspected everywhere"),
            (Blow::Kill(name), _) => format!("{name}'s address is still in DNS answers"),
            (Blow::Fail(region), Expect::BackendsDown) => format!("{region}'s backends are not seen down"),
            (Blow::Fail(region), _) => format!("DNS still sends users to {region}"),
        })
        .collect()
    }
}

fn came_true(
    plan: &Plan,
    killed: &BTreeSet<String>,
    failed: &BTreeSet<&str>,
    blow: &Blow,
    expect: Expect,
    seen: &Seen,
) -> Option<String> {
    match (blow, expect) {
        (Blow::Kill(name), Expect::SuspectedInRegion) => {
            let region = plan.node(name)?.region;
            let peers = |observer: &str| plan.node(observer).is_some_and(|node| node.region == region);
            let by = all_suspect(seen, killed, name, peers)?;
            Some(format!("{region} suspects {name} ({by} of its nodes left)"))
        }
        (Blow::Kill(name), Expect::SuspectedEverywhere) => {
            let by = all_suspect(seen, killed, name, |_| true)?;
            Some(format!("the whole mesh suspects {name} ({by} nodes left)"))
        }
        (Blow::Kill(name), Expect::AddressGone) => {
            let ip = IpAddr::V4(plan.node(name)?.ip);
            let gone = !seen.dns.is_empty() && seen.dns.values().all(|answer| !answer.contains(&ip));
            gone.then(|| format!("no DNS answer names {name} ({ip}) any more"))
        }
        (Blow::Fail(region), Expect::BackendsDown) => {
            let region = plan.region(region)?;
            let down = region.backends.iter().all(|ip| {
                let mut states = seen.backends.iter().filter(|(address, _)| {
                    address.rsplit_once(':').is_some_and(|(host, _)| host == ip.to_string())
                });
                states.clone().next().is_some()
                    && states.all(|(_, state)| state == "down" || state == "ejected")
            });
            down.then(|| format!("{}'s backends ({}) are seen down", region.name, region.backend_list()))
        }
        (Blow::Fail(region), Expect::DnsMoved) => {
            let mut to = BTreeSet::new();
            for ((_, _), answer) in seen.dns.iter().filter(|((_, asked), _)| *asked == region.as_str()) {
                for ip in answer {
                    to.insert(plan.nodes().find(|node| IpAddr::V4(node.ip) == *ip)?.region);
                }
            }
            let moved = !to.is_empty() && to.iter().all(|to| !failed.contains(to));
            let to: Vec<_> = to.into_iter().collect();
            moved.then(|| format!("DNS sends {region}'s users to {}", to.join(" and ")))
        }
        _ => None,
    }
}

/// How many observers there are, when all of them (at least one) have given `name` up.
fn all_suspect(
    seen: &Seen,
    killed: &BTreeSet<String>,
    name: &str,
    counts: impl Fn(&str) -> bool,
) -> Option<usize> {
    let observers =
        seen.members.iter().filter(|(observer, _)| counts(observer) && !killed.contains(*observer));
    let verdicts: Vec<bool> = observers
        .map(|(_, states)| {
            states.get(name).is_none_or(|state| state == "suspect" || state == "dead" || state == "left")
        })
        .collect();
    (!verdicts.is_empty() && verdicts.iter().all(|given_up| *given_up)).then_some(verdicts.len())
}

fn spell(after: Duration) -> String {
    format!("after {:.1} s", after.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use gossip::clock::{Clock, Wall};

    fn seen(plan: &Plan, dead: &str) -> Seen {
        let mut seen = Seen::default();
        for observer in plan.nodes().filter(|node| node.name != dead) {
            let state = |name: &str| if name == dead { "suspect" } else { "alive" };
            let states = plan.nodes().map(|node| (node.name.clone(), state(&node.name).to_owned()));
            seen.members.insert(observer.name.clone(), states.collect());
            for region in &plan.regions {
                let answer =
                    region.nodes.iter().filter(|node| node.name != dead).map(|node| IpAddr::V4(node.ip));
                seen.dns.insert((observer.name.clone(), region.name), answer.collect());
            }
        }
        seen
    }

    #[test]
    fn a_killed_node_is_told_once() {
        let plan = Plan::new(77, 3, 2);
        let clock = Clock::simulated(Wall(0));
        let mut story = Story::new(plan.clone());
        story.struck(Blow::Kill("eu-1".into()), clock.now());
        assert_eq!(story.unfinished().len(), 3);
        assert!(story.look(&seen(&plan, "nobody"), clock.now()).is_empty());
        clock.advance(Duration::from_millis(900));
        let lines = story.look(&seen(&plan, "eu-1"), clock.now());
        assert_eq!(
            lines,
            [
                "eu suspects eu-1 (1 of its nodes left) after 0.9 s",
                "the whole mesh suspects eu-1 (5 nodes left) after 0.9 s",
                "no DNS answer names eu-1 (127.77.1.1) any more after 0.9 s",
            ]
        );
        assert!(story.look(&seen(&plan, "eu-1"), clock.now()).is_empty());
        assert!(story.unfinished().is_empty());
    }

    #[test]
    fn a_failed_region_moves() {
        let plan = Plan::new(77, 3, 2);
        let clock = Clock::simulated(Wall(0));
        let mut story = Story::new(plan.clone());
        story.struck(Blow::Fail("ap".into()), clock.now());
        let mut seen = seen(&plan, "nobody");
        assert!(story.look(&seen, clock.now()).is_empty());
        let us = IpAddr::V4(plan.regions[1].nodes[0].ip);
        for ((_, region), answer) in &mut seen.dns {
            if *region == "ap" {
                *answer = vec![us];
            }
        }
        for ip in &plan.regions[2].backends {
            seen.backends.insert(format!("{ip}:8080"), "down".into());
        }
        let lines = story.look(&seen, clock.now());
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[1], "DNS sends ap's users to us after 0.0 s");
        assert!(story.unfinished().is_empty());
    }
}
