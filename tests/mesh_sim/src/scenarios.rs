//! What is played. Each scenario is one way in which a mesh is put to the test.

mod death;
mod lull;
mod partition;
mod probes;
mod spread;
mod traffic;

use std::pin::Pin;

use gossip::clock::Clock;

use crate::report::Report;

/// How large a run is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) regions: usize,
    pub(crate) nodes_each: usize,
    pub(crate) rounds: usize,
    pub(crate) minutes: u64,
}

type Played = Pin<Box<dyn Future<Output = Result<Report, String>>>>;

pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) play: fn(u64, Size, Clock) -> Played,
}

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "death",
        about: "nodes are killed, one after the other: who suspects them, and when",
        play: |seed, size, clock| Box::pin(death::play(seed, size, clock)),
    },
    Scenario {
        name: "loss",
        about: "5 % of all packets are lost for --minutes: nobody may be taken for dead",
        play: |seed, size, clock| Box::pin(lull::play(seed, size, clock, lull::Trouble::Loss)),
    },
    Scenario {
        name: "stalls",
        about: "nodes stand still for 3 s, one after the other, for --minutes: nobody may be taken for dead",
        play: |seed, size, clock| Box::pin(lull::play(seed, size, clock, lull::Trouble::Stalls)),
    },
    Scenario {
        name: "spread",
        about: "one node says something new: after how many rounds of gossip all know it",
        play: |seed, size, clock| Box::pin(spread::play(seed, size, clock)),
    },
    Scenario {
        name: "traffic",
        about: "what gossip costs with 1,000 backends, idle and under load",
        play: |seed, size, clock| Box::pin(traffic::play(seed, size, clock)),
    },
    Scenario {
        name: "probes",
        about: "how many nodes probe a backend in meshes of 3 to 100",
        play: |seed, size, clock| Box::pin(probes::play(seed, size, clock)),
    },
    Scenario {
        name: "partition",
        about: "two halves without a seed in common are cut for --minutes, and find each other again",
        play: |seed, size, clock| Box::pin(partition::play(seed, size, clock)),
    },
];

/// Everybody joins through the first nodes of the first two regions.
pub(crate) fn two_seeds(nodes_each: usize) -> impl Fn(usize) -> Vec<usize> {
    move |_| vec![0, nodes_each]
}
