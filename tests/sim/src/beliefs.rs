//! Who takes whom for alive, in the manner of `gossip`: suspect after a second of silence, dead ten seconds later, and
//! a node that hears nobody at all concludes nothing for ten seconds more (I5).

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use gossip::id::{NodeName, RegionName, ZoneName};
use storage::placement::{Holder, Placement};

/// How often beliefs are looked at.
pub const LOOK: Duration = Duration::from_millis(250);
const SUSPECT: Duration = Duration::from_secs(1);
const DEAD: Duration = Duration::from_secs(11);
const FREEZE: Duration = Duration::from_secs(10);

/// What is believed of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Belief {
    /// It was never heard, or is dead.
    Gone,
    /// It fell silent.
    Suspect,
    /// It speaks.
    Alive,
}

/// One node's beliefs about all.
#[derive(Debug)]
pub struct Beliefs {
    heard: Vec<Option<Duration>>,
    /// Which life of each node was heard last.
    lives: Vec<u32>,
    alone_since: Option<Duration>,
    now: Vec<Belief>,
}

impl Beliefs {
    /// Of a node that has just started and knows nobody.
    pub fn new(nodes: usize) -> Self {
        Self {
            heard: vec![None; nodes],
            lives: vec![0; nodes],
            alone_since: None,
            now: vec![Belief::Gone; nodes],
        }
    }

    /// What is believed now.
    pub fn now(&self) -> &[Belief] {
        &self.now
    }

    /// Which of a node's lives is believed in.
    pub fn life(&self, node: usize) -> u32 {
        self.lives[node]
    }

    /// Takes note of who is heard at `at`, and in which of their lives. True when that changes anything.
    pub fn look(&mut self, at: Duration, hears: &[bool], lives: &[u32]) -> bool {
        let knew_any = self.now.iter().any(|belief| *belief != Belief::Gone);
        match hears.contains(&true) {
            true => self.alone_since = None,
            false if knew_any => self.alone_since = self.alone_since.or(Some(at)),
            false => {}
        }
        let frozen = self.alone_since.is_some_and(|since| at < since + SUSPECT + FREEZE);
        let mut next = self.now.clone();
        let before = self.lives.clone();
        for (node, belief) in next.iter_mut().enumerate() {
            if hears[node] {
                self.heard[node] = Some(at);
                self.lives[node] = lives[node];
            }
            let silent = self.heard[node].map(|heard| at - heard);
            *belief = match silent {
                Some(silent) if silent < SUSPECT => Belief::Alive,
                Some(silent) if silent < DEAD => Belief::Suspect,
                _ if frozen => *belief,
                _ => Belief::Gone,
            };
        }
        let changed = next != self.now || before != self.lives;
        self.now = next;
        changed
    }
}

/// Who holds what among these nodes. Tables are made once a process: they take longer than a run.
pub fn placement(nodes: &[&str]) -> Arc<Placement> {
    static KNOWN: OnceLock<Mutex<HashMap<Vec<String>, Arc<Placement>>>> = OnceLock::new();
    let key: Vec<String> = nodes.iter().map(ToString::to_string).collect();
    let known = || KNOWN.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(placement) = known().get(&key) {
        return placement.clone();
    }
    let mut regions: BTreeMap<RegionName, Vec<Holder>> = BTreeMap::new();
    for name in nodes {
        let holder = Holder { name: node_name(name), zone: zone_of(name) };
        regions.entry(region_of(name)).or_default().push(holder);
    }
    let placement = Arc::new(Placement::new(&regions, &Placement::default()));
    known().entry(key).or_insert(placement).clone()
}

/// The name of a node.
pub fn node_name(name: &str) -> NodeName {
    NodeName::new(name).expect("the names of scenarios are valid")
}

/// The zone of a node: the letters behind the dash, if there are any.
pub fn zone_of(name: &str) -> Option<ZoneName> {
    let (region, rest) = name.split_once('-')?;
    let letters = rest.trim_end_matches(|c: char| c.is_ascii_digit());
    ZoneName::new(&format!("{region}-{letters}")).ok().filter(|_| !letters.is_empty())
}

/// The region of a node: its name up to the dash.
pub fn region_of(name: &str) -> RegionName {
    let region = name.split('-').next().unwrap_or(name);
    RegionName::new(region).expect("the names of scenarios are valid")
}
