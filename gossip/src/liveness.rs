//! Who is alive. Pure: `(event, now)` in, effects out.
//!
//! ```text
//!              word                silence, agreed           10 s
//!  Unheard ───────────▶ Alive ───────────────────▶ Suspect ────────▶ Dead
//!     │                   ▲ ▲──────── word ───────────┘                │
//!     │ 10 s              └────────── word, pulse, new life ───────────┤
//!     └───────────────────────────────────────────────────────────────▶
//!  any ── goodbye ──▶ Left ── new life ──▶ Alive
//! ```
//!
//! A *word* comes from the node itself: a datagram of the fast lane, any message. A *pulse* is its chitchat heartbeat
//! growing, which others may have relayed.
//!
//! In its own region a node is silent after [`SILENCE`] without a word; it is suspect when another observer of the
//! region says so too, where there is one. What the region says of its own nodes is gossiped and adopted elsewhere;
//! where nobody is left to say it, a node of another region is suspect when its pulse is overdue. A node that was
//! never heard is not shown until it is, or is dead. Nobody is judged by a node whose own loop lagged, nor
//! by one that lost all its peers at once (I5): it keeps its beliefs for [`FREEZE`].

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::clock::Wall;
use crate::id::{NodeName, RegionName, Tag};
use crate::state::MemberState;

/// How often [`Event::Tick`] is due.
pub(crate) const TICK: Duration = Duration::from_millis(100);
/// Without a word for so long, a node of the own region is silent.
const SILENCE: Duration = Duration::from_millis(700);
/// The same after its connection was lost.
const SILENCE_AFTER_LOSS: Duration = Duration::from_millis(300);
/// Agreement is not waited for when nobody in the mesh relayed a pulse for so long.
const NO_PULSE: Duration = Duration::from_secs(3);
/// What another observer said counts for so long.
const REPORT_FRESH: Duration = Duration::from_secs(1);
/// Pulses are overdue after eight times their mean gap (chitchat's phi), within these bounds. In a large mesh that gossips
/// more slowly the upper bound is five intervals.
const PULSE_OVERDUE: f64 = 8.0;
const PULSE_OVERDUE_LEAST: Duration = Duration::from_millis(1500);
const PULSE_OVERDUE_MOST: Duration = Duration::from_millis(2400);
/// When nobody speaks for so long, this node may be the one that is cut off: wait and see.
const HUSH: Duration = Duration::from_millis(600);
/// When nobody spoke for so long, it is.
const ISOLATION: Duration = Duration::from_secs(1);
/// How long a node that lost several peers at once concludes nothing from their silence.
const FREEZE: Duration = Duration::from_secs(10);
/// A suspect is dead after so long.
const DEATH: Duration = Duration::from_secs(10);
/// And only when it gave no sign of life for so long.
const DEATH_SILENCE: Duration = Duration::from_secs(5);
/// A tick so late shows that this node itself stood still.
const LAG: Duration = Duration::from_millis(300);
/// After that, or after isolation, nobody is judged for so long: their words wait in queues.
const GRACE: Duration = Duration::from_secs(1);

/// What can happen to a belief.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Event<'a> {
    /// A record arrived or changed.
    Known { name: &'a NodeName, region: &'a RegionName, started: Wall, draining: bool },
    /// Nothing is known of the node any more.
    Forgotten(&'a NodeName),
    /// The node itself spoke.
    Word(&'a NodeName),
    /// The node's heartbeat grew.
    Pulse(&'a NodeName),
    /// The connection to the node stands, or is lost.
    Link { name: &'a NodeName, up: bool },
    /// Whom another node of this region holds for silent, in its latest datagram.
    Silent { by: &'a NodeName, about: &'a BTreeSet<Tag> },
    /// Whom a node says to be suspect in its own region, all of them.
    Accused { by: &'a NodeName, who: &'a [(NodeName, Wall)] },
    /// The life that began at `started` said goodbye.
    Left { name: &'a NodeName, started: Wall },
    /// About [`TICK`] has passed, at least half and at most one and a half of it.
    Tick,
}

/// What follows from an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    /// A node is believed to be in another state than before.
    Became(NodeName, MemberState),
    /// [`Liveness::suspects`] changed: gossip it.
    SuspectsChanged,
    /// All peers fell silent at once.
    Isolated,
    /// A peer was heard again.
    Rejoined,
    /// This node itself stood still for so long.
    Lagged(Duration),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Unheard,
    Alive,
    Suspect,
    Dead,
    Left,
}

#[derive(Debug)]
struct Life {
    region: RegionName,
    started: Wall,
    draining: bool,
    phase: Phase,
    since: Instant,
    word: Option<Instant>,
    pulse: Option<Instant>,
    pulse_gap_seconds: f64,
    link: Option<bool>,
    link_lost: Option<Instant>,
    accused_by: BTreeSet<NodeName>,
}

impl Life {
    fn last_sign(&self) -> Option<Instant> {
        self.word.max(self.pulse)
    }

    fn silent_for(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.word.unwrap_or(self.since))
    }

    fn no_sign_for(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.last_sign().unwrap_or(self.since))
    }

    /// Whether the connection broke and nothing came since.
    fn cut_off(&self) -> bool {
        self.link_lost.is_some_and(|lost| self.last_sign().is_none_or(|sign| sign <= lost))
    }

    fn is_silent(&self, now: Instant) -> bool {
        let limit = if self.cut_off() { SILENCE_AFTER_LOSS } else { SILENCE };
        self.silent_for(now) > limit
    }

    fn pulse_overdue(&self, now: Instant, most: Duration) -> bool {
        let limit = Duration::from_secs_f64(self.pulse_gap_seconds * PULSE_OVERDUE);
        let limit = limit.clamp(PULSE_OVERDUE_LEAST, most);
        let limit = if self.cut_off() { ISOLATION } else { limit };
        self.no_sign_for(now) > limit
    }

    fn state(&self) -> Option<MemberState> {
        Some(match self.phase {
            Phase::Unheard => return None,
            Phase::Alive if self.draining => MemberState::Draining,
            Phase::Alive => MemberState::Alive,
            Phase::Suspect => MemberState::Suspect,
            Phase::Dead => MemberState::Dead,
            Phase::Left => MemberState::Left,
        })
    }
}

/// What this node believes of the life of all others.
#[derive(Debug)]
pub(crate) struct Liveness {
    me: NodeName,
    region: RegionName,
    pulse_overdue_most: Duration,
    lives: BTreeMap<NodeName, Life>,
    reports: BTreeMap<NodeName, (Instant, BTreeSet<Tag>)>,
    last_tick: Option<Instant>,
    judge_from: Option<Instant>,
    isolated_since: Option<Instant>,
    frozen: bool,
}

impl Liveness {
    /// `gossip_interval` is how often each node gossips: pulses cannot be expected much faster.
    pub(crate) fn new(me: NodeName, region: RegionName, gossip_interval: Duration) -> Self {
        Self {
            me,
            region,
            pulse_overdue_most: PULSE_OVERDUE_MOST.max(gossip_interval * 5),
            lives: BTreeMap::new(),
            reports: BTreeMap::new(),
            last_tick: None,
            judge_from: None,
            isolated_since: None,
            frozen: false,
        }
    }

    /// Nodes gossip so often from now on.
    pub(crate) fn expect_pulses_every(&mut self, gossip_interval: Duration) {
        self.pulse_overdue_most = PULSE_OVERDUE_MOST.max(gossip_interval * 5);
    }

    /// What is believed of a node and since when; `None` for one that is unknown or was never heard.
    pub(crate) fn state(&self, name: &NodeName) -> Option<(MemberState, Instant)> {
        let life = self.lives.get(name)?;
        Some((life.state()?, life.since))
    }

    /// Since when no peer is heard, though there were some.
    pub(crate) fn isolated_since(&self) -> Option<Instant> {
        self.isolated_since
    }

    /// The nodes of this region that are silent for this node, for its next datagram.
    pub(crate) fn silent(&self, now: Instant) -> BTreeSet<Tag> {
        if self.is_judging(now).is_none() {
            return BTreeSet::new();
        }
        let mine = self.lives.iter().filter(|(_, life)| life.region == self.region);
        let silent = mine.filter(|(_, life)| !matches!(life.phase, Phase::Left) && life.is_silent(now));
        silent.map(|(name, _)| Tag::of(name.as_str())).collect()
    }

    /// The nodes of this region that are suspect or dead, for the other regions.
    pub(crate) fn suspects(&self) -> Vec<(NodeName, Wall)> {
        let mine = self.lives.iter().filter(|(_, life)| life.region == self.region);
        let bad = mine.filter(|(_, life)| matches!(life.phase, Phase::Suspect | Phase::Dead));
        bad.map(|(name, life)| (name.clone(), life.started)).collect()
    }

    /// Takes note of an event.
    pub(crate) fn handle(&mut self, event: Event<'_>, now: Instant) -> Vec<Effect> {
        let mut effects = Vec::new();
        match event {
            Event::Known { name, .. } if *name == self.me => {}
            Event::Known { name, region, started, draining } => {
                self.known(name, region, started, draining, now, &mut effects);
            }
            Event::Forgotten(name) => {
                if self.lives.remove(name).is_some() {
                    effects.push(Effect::SuspectsChanged);
                }
            }
            Event::Word(name) => self.sign(name, true, now, &mut effects),
            Event::Pulse(name) => self.sign(name, false, now, &mut effects),
            Event::Link { name, up } => {
                if let Some(life) = self.lives.get_mut(name) {
                    let lost = life.link == Some(true) && !up;
                    life.link_lost = if lost { Some(now) } else { life.link_lost.filter(|_| !up) };
                    life.link = Some(up);
                }
            }
            Event::Silent { by, about } => {
                self.reports.insert(by.clone(), (now, about.clone()));
            }
            Event::Accused { by, who } => self.accused(by, who, now, &mut effects),
            Event::Left { name, started } => {
                if self.lives.get(name).is_some_and(|life| life.started <= started) {
                    self.become_phase(name, Phase::Left, now, &mut effects);
                }
            }
            Event::Tick => self.tick(now, &mut effects),
        }
        effects
    }

    fn known(
        &mut self,
        name: &NodeName,
        region: &RegionName,
        started: Wall,
        draining: bool,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) {
        let Some(life) = self.lives.get_mut(name) else {
            let life = Life {
                region: region.clone(),
                started,
                draining,
                phase: Phase::Unheard,
                since: now,
                word: None,
                pulse: None,
                pulse_gap_seconds: 0.3,
                link: None,
                link_lost: None,
                accused_by: BTreeSet::new(),
            };
            self.lives.insert(name.clone(), life);
            return;
        };
        life.region = region.clone();
        if life.draining != draining {
            life.draining = draining;
            if life.phase == Phase::Alive {
                life.since = now;
                effects.extend(life.state().map(|state| Effect::Became(name.clone(), state)));
            }
        }
        if started > life.started {
            // Only the node itself can have said that it lives anew.
            life.started = started;
            life.accused_by.clear();
            life.link_lost = None;
            let was_left = life.phase == Phase::Left;
            if was_left {
                life.phase = Phase::Dead;
            }
            self.sign(name, true, now, effects);
        }
    }

    fn sign(&mut self, name: &NodeName, word: bool, now: Instant, effects: &mut Vec<Effect>) {
        let region = self.region.clone();
        let Some(life) = self.lives.get_mut(name) else { return };
        if word {
            life.word = Some(now);
            life.accused_by.clear();
        } else {
            if let Some(before) = life.pulse {
                let gap = now.saturating_duration_since(before).as_secs_f64().min(5.0);
                life.pulse_gap_seconds = life.pulse_gap_seconds * 0.9 + gap * 0.1;
            }
            life.pulse = Some(now);
        }
        let foreign = life.region != region;
        let speaks = match life.phase {
            Phase::Alive | Phase::Left => false,
            Phase::Unheard | Phase::Dead => true,
            Phase::Suspect => word || (foreign && life.accused_by.is_empty()),
        };
        if speaks {
            life.word = life.word.or(Some(now));
            self.become_phase(name, Phase::Alive, now, effects);
        }
        if self.isolated_since.take().is_some() {
            self.frozen = false;
            self.judge_from = Some(now + GRACE);
            effects.push(Effect::Rejoined);
        }
    }

    fn accused(&mut self, by: &NodeName, who: &[(NodeName, Wall)], now: Instant, effects: &mut Vec<Effect>) {
        let Some(region) = self.lives.get(by).map(|life| life.region.clone()) else { return };
        if region == self.region {
            return;
        }
        let mut changed = Vec::new();
        for (name, life) in self.lives.iter_mut().filter(|(_, life)| life.region == region) {
            let accused = who.iter().any(|(accused, started)| accused == name && *started >= life.started);
            if accused && life.phase == Phase::Alive && life.accused_by.insert(by.clone()) {
                changed.push((name.clone(), Phase::Suspect));
            } else if accused {
                life.accused_by.insert(by.clone());
            } else if life.accused_by.remove(by)
                && life.accused_by.is_empty()
                && life.phase == Phase::Suspect
                && !life.pulse_overdue(now, self.pulse_overdue_most)
            {
                changed.push((name.clone(), Phase::Alive));
            }
        }
        for (name, phase) in changed {
            self.become_phase(&name, phase, now, effects);
        }
    }

    fn tick(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        if let Some(late) = self.last_tick.map(|last| now.saturating_duration_since(last))
            && late > LAG
        {
            self.judge_from = Some(now + GRACE);
            // The time that this node slept through is no silence of theirs.
            for life in self.lives.values_mut().filter(|life| life.phase != Phase::Alive) {
                life.since += late;
            }
            effects.push(Effect::Lagged(late));
        }
        self.last_tick = Some(now);
        self.isolation(now, effects);
        self.drop_stale_accusations();
        let Some(doubtful) = self.is_judging(now) else { return };
        let verdicts = self.lives.iter().filter_map(|(name, life)| {
            let age = now.saturating_duration_since(life.since);
            let next = match life.phase {
                Phase::Unheard if age >= DEATH => Phase::Dead,
                Phase::Alive if !doubtful && self.is_suspect(name, life, now) => Phase::Suspect,
                Phase::Suspect if age >= DEATH && life.no_sign_for(now) >= DEATH_SILENCE => Phase::Dead,
                _ => return None,
            };
            Some((name.clone(), next))
        });
        for (name, phase) in verdicts.collect::<Vec<_>>() {
            self.become_phase(&name, phase, now, effects);
        }
    }

    /// An accuser that is gone can withdraw nothing; what it said last counts no more.
    fn drop_stale_accusations(&mut self) {
        let here = |life: &Life| matches!(life.phase, Phase::Alive | Phase::Suspect);
        let accusers = self.lives.iter().filter(|(_, life)| here(life)).map(|(name, _)| name.clone());
        let accusers = accusers.collect::<BTreeSet<_>>();
        for life in self.lives.values_mut().filter(|life| !life.accused_by.is_empty()) {
            life.accused_by.retain(|name| accusers.contains(name));
        }
    }

    fn alive(&self) -> impl Iterator<Item = &Life> {
        self.lives.values().filter(|life| life.phase == Phase::Alive)
    }

    /// How long nobody at all has given a sign; `None` while nobody is expected to.
    fn hush(&self, now: Instant) -> Option<Duration> {
        let heard = self.lives.values().filter(|life| matches!(life.phase, Phase::Alive | Phase::Suspect));
        let last = heard.filter_map(Life::last_sign).max()?;
        Some(now.saturating_duration_since(last))
    }

    fn isolation(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        match self.isolated_since {
            None => {
                if self.judge_from.is_some_and(|from| now < from) {
                    return;
                }
                if let Some(hush) = self.hush(now).filter(|hush| *hush >= ISOLATION) {
                    self.isolated_since = now.checked_sub(hush).or(Some(now));
                    self.frozen = self.alive().count() >= 2;
                    effects.push(Effect::Isolated);
                }
            }
            // Those that were missed have all said goodbye: a mesh of one is not isolated.
            Some(_) if self.lives.values().all(|life| matches!(life.phase, Phase::Left | Phase::Unheard)) => {
                self.isolated_since = None;
                self.frozen = false;
            }
            Some(since) if now.saturating_duration_since(since) >= FREEZE => self.frozen = false,
            Some(_) => {}
        }
    }

    /// `None` while this node judges nobody; else whether it doubts itself and suspects nobody anew.
    fn is_judging(&self, now: Instant) -> Option<bool> {
        if self.judge_from.is_some_and(|from| now < from) || self.frozen {
            return None;
        }
        let hush = self.hush(now).is_some_and(|hush| hush > HUSH);
        Some(hush && self.isolated_since.is_none() && self.alive().count() >= 2)
    }

    fn is_suspect(&self, name: &NodeName, life: &Life, now: Instant) -> bool {
        if life.region != self.region {
            return life.pulse_overdue(now, self.pulse_overdue_most);
        }
        if !life.is_silent(now) {
            return false;
        }
        let tag = Tag::of(name.as_str());
        let observers = self.lives.iter().filter(|(other, observer)| {
            *other != name
                && observer.region == self.region
                && observer.phase == Phase::Alive
                && !observer.is_silent(now)
        });
        let reports = observers.filter_map(|(other, _)| self.reports.get(other));
        let fresh = reports.filter(|(at, _)| now.saturating_duration_since(*at) < REPORT_FRESH);
        let said = fresh.map(|(_, silent)| silent.contains(&tag)).collect::<Vec<_>>();
        said.is_empty() || said.contains(&true) || life.no_sign_for(now) > NO_PULSE
    }

    fn become_phase(&mut self, name: &NodeName, phase: Phase, now: Instant, effects: &mut Vec<Effect>) {
        let Some(life) = self.lives.get_mut(name).filter(|life| life.phase != phase) else { return };
        let listed = |phase| matches!(phase, Phase::Suspect | Phase::Dead);
        let changed = life.region == self.region && listed(life.phase) != listed(phase);
        life.phase = phase;
        life.since = now;
        effects.extend(life.state().map(|state| Effect::Became(name.clone(), state)));
        if changed {
            effects.push(Effect::SuspectsChanged);
        }
    }
}
