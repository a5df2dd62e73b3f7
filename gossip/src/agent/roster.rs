//! Which life of each name counts. Pure.
//!
//! Chitchat remembers several lives of one name: before and after a restart, or, when somebody errs, of two nodes at once.
//! The roster shows one: the latest, unless an earlier one runs on elsewhere (one member a name).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::id::NodeName;
use crate::membership::{Known, Life};

/// A life whose heartbeat grew within this time is running.
const RUNNING: Duration = Duration::from_millis(2500);

/// The life of each name that is shown, and the heartbeats of all.
#[derive(Debug, Default)]
pub(super) struct Roster {
    shown: BTreeMap<NodeName, Known>,
    /// The heartbeat of each life, and when it was seen to grow.
    beats: HashMap<(NodeName, u64), (u64, Option<Instant>)>,
    twins: BTreeSet<u64>,
}

/// What is new.
#[derive(Debug, Default)]
pub(super) struct Update {
    /// Names of which nothing is known any more.
    pub(super) forgotten: Vec<NodeName>,
    /// Lives whose record is new or changed.
    pub(super) changed: Vec<Known>,
    /// Names that are shown in another life than before.
    pub(super) reborn: Vec<NodeName>,
    /// Names whose heartbeat grew.
    pub(super) pulses: Vec<NodeName>,
    /// Running lives elsewhere with this node's own name; each is told once.
    pub(super) twins: Vec<Known>,
}

impl Roster {
    pub(super) fn get(&self, name: &NodeName) -> Option<&Known> {
        self.shown.get(name)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &NodeName> {
        self.shown.keys()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Known> {
        self.shown.values()
    }

    /// Takes all that chitchat knows now.
    pub(super) fn update(&mut self, me: &Life, known: Vec<Known>, now: Instant) -> Update {
        let mut update = Update::default();
        let mut lives: BTreeMap<NodeName, Vec<Known>> = BTreeMap::new();
        let mut beats = HashMap::with_capacity(known.len());
        let mut grown = BTreeSet::new();
        for life in known {
            let id = (life.name.clone(), life.generation);
            let (before, grew) = self.beats.remove(&id).unwrap_or((life.heartbeat, None));
            let grows = life.heartbeat > before;
            if grows {
                grown.insert(id.clone());
            }
            beats.insert(id, (life.heartbeat, if grows { Some(now) } else { grew }));
            lives.entry(life.name.clone()).or_default().push(life);
        }
        self.beats = beats;
        for twin in lives.remove(&me.name).into_iter().flatten() {
            let runs = twin.addr != me.advertise && self.runs(&twin, now);
            if runs && self.twins.insert(twin.generation) {
                update.twins.push(twin);
            }
        }
        update.forgotten = self.shown.keys().filter(|name| !lives.contains_key(*name)).cloned().collect();
        self.shown.retain(|name, _| lives.contains_key(name));
        for (name, all) in lives {
            let Some(life) = self.choose(&all, now) else { continue };
            if grown.contains(&(name.clone(), life.generation)) {
                update.pulses.push(name.clone());
            }
            let before = self.shown.insert(name.clone(), life.clone());
            let same_life = before.as_ref().is_none_or(|before| before.generation == life.generation);
            if !same_life {
                update.reborn.push(name);
            }
            let state = |known: &Known| known.state.as_ref().map(Arc::as_ptr);
            let same_state = before.is_some_and(|before| state(&before) == state(&life));
            if life.state.is_some() && !(same_life && same_state) {
                update.changed.push(life);
            }
        }
        update
    }

    fn choose(&self, lives: &[Known], now: Instant) -> Option<Known> {
        // A new life is first heard of by its heartbeat, before its record.
        let whole = lives.iter().filter(|life| life.state.is_some()).max_by_key(|life| life.generation);
        let latest = whole.or(lives.iter().max_by_key(|life| life.generation))?;
        let elsewhere = lives.iter().filter(|life| life.addr != latest.addr && self.runs(life, now));
        let earlier = elsewhere.filter(|life| life.generation < latest.generation && life.state.is_some());
        Some(earlier.min_by_key(|life| life.generation).unwrap_or(latest).clone())
    }

    fn runs(&self, life: &Known, now: Instant) -> bool {
        let beat = self.beats.get(&(life.name.clone(), life.generation)).and_then(|(_, grew)| *grew);
        let left = life.state.as_ref().is_some_and(|state| state.left);
        !left && beat.is_some_and(|beat| now.saturating_duration_since(beat) < RUNNING)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, Wall};
    use crate::state::key;

    fn life(name: &str, generation: u64, port: u16, heartbeat: u64, whole: bool) -> Known {
        let name: NodeName = name.parse().unwrap();
        let entries = [("region", "eu"), ("mesh", "127.0.0.1:1"), ("started", "1"), ("format", "1")];
        let state = whole.then(|| Arc::new(key::decode(&name, entries.into_iter()).unwrap()));
        Known { name, generation, addr: ([127, 0, 0, 1], port).into(), heartbeat, state }
    }

    #[test]
    fn the_latest_whole_life_is_shown_unless_an_earlier_one_runs_elsewhere() {
        let clock = Clock::simulated(Wall(0));
        let me = Life { name: "me".parse().unwrap(), generation: 1, advertise: ([127, 0, 0, 1], 9).into() };
        let b: NodeName = "b".parse().unwrap();
        let mut roster = Roster::default();
        let shown = |roster: &Roster| roster.get(&b).map(|known| known.generation);

        let first = life("b", 1, 1, 10, true);
        let update = roster.update(&me, vec![first.clone()], clock.now());
        assert_eq!(
            (update.changed.len(), update.pulses.len()),
            (1, 0),
            "a first heartbeat is no sign of life"
        );
        let beating = Known { heartbeat: 11, ..first.clone() };
        let update = roster.update(&me, vec![beating.clone()], clock.now());
        assert_eq!((update.changed.len(), update.pulses.len()), (0, 1));

        // Restarted at the same address: shown as soon as its record is whole.
        roster.update(&me, vec![beating.clone(), life("b", 2, 1, 1, false)], clock.now());
        assert_eq!(shown(&roster), Some(1));
        let update = roster.update(&me, vec![beating.clone(), life("b", 2, 1, 1, true)], clock.now());
        assert_eq!((shown(&roster), update.reborn.len(), update.changed.len()), (Some(2), 1, 1));

        // A second node of the name elsewhere: not while the first runs.
        let mut roster = Roster::default();
        roster.update(&me, vec![first], clock.now());
        roster.update(&me, vec![beating.clone(), life("b", 3, 2, 1, true)], clock.now());
        assert_eq!(shown(&roster), Some(1));
        clock.advance(RUNNING);
        roster.update(&me, vec![beating, life("b", 3, 2, 2, true)], clock.now());
        assert_eq!(shown(&roster), Some(3));
        assert_eq!(roster.update(&me, Vec::new(), clock.now()).forgotten.len(), 1);
    }

    #[test]
    fn a_running_twin_of_this_node_is_told_once() {
        let now = Clock::simulated(Wall(0)).now();
        let me = Life { name: "me".parse().unwrap(), generation: 5, advertise: ([127, 0, 0, 1], 9).into() };
        let mut roster = Roster::default();
        let earlier_life = life("me", 1, 9, 1, true);
        let told = |roster: &mut Roster, heartbeat| {
            let known = vec![earlier_life.clone(), life("me", 7, 8, heartbeat, true)];
            roster.update(&me, known, now).twins.len()
        };
        assert_eq!([told(&mut roster, 1), told(&mut roster, 2), told(&mut roster, 3)], [0, 1, 0]);
        assert_eq!(roster.names().count(), 0);
    }
}
