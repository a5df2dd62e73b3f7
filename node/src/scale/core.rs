//! What one node makes of the load of pools that scale: which decision is due, whose turn it is, and what came of it. Pure.
//!
//! ```text
//!   beat ──▶ Tell(pulses)                        granted ──▶ Act, Tell(decided)     ended ──▶ Tell(failed)
//!     └────▶ Ask, when the turn is this node's              by a majority             and rests, so that another acts
//!     └────▶ Recall, when what it drains is needed again
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use gossip::clock::Wall;
use gossip::id::{NodeName, PoolName};

use self::decision::{describe, suits};
use super::act::{Decision, Failure};
use super::agree::{ASK, Grant, Grants, HOLD, majority};
use super::coming::{Brought, PATIENCE_MAX};
use super::place::Spot;
use super::pulse::{Meter, Pulse, Pulses, stays};
use super::store::Kept;
use super::target::{Step, Tracker, Verdict};
use super::turn::{Turn, Turns};
use super::wire::{Message, Plan};
use crate::alike;
use crate::backend::{BackendView, PoolView};
use crate::config::model::{Scale, SourceKind};
use crate::discovery::Holdings;

mod decision;
mod outcome;

/// What is to be done outside.
#[derive(Debug)]
pub(super) enum Effect {
    /// All others are to hear of it.
    Tell(Message),
    /// Operators are to hear of it.
    Note(PoolName, String),
    /// These are to be asked for a number; [`Core::granted`] is told what they say.
    Ask(Question, Vec<NodeName>),
    /// The decision is to be acted on; [`Core::ended`] is told what comes of it.
    Act(Arc<PoolView>, Scale, Box<Decision>),
    /// What this node drains for a pool, to stop it, is to be left alone.
    Recall(PoolName),
}

/// A number that is asked for, and why.
#[derive(Debug, Clone)]
pub(super) struct Question {
    pub(super) pool: PoolName,
    pub(super) number: u64,
    pub(super) verdict: Verdict,
    /// When.
    pub(super) asked: Instant,
}

/// What came of asking.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answers {
    /// Nodes that have granted it, this one among them.
    pub(super) yes: usize,
    /// Nodes there are, living or not.
    pub(super) known: usize,
    /// The greatest number that anybody knows of who has not.
    pub(super) greatest: u64,
    /// The most backends that any of them counts on.
    pub(super) coming: Option<u32>,
}

/// What came of an act.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum End {
    Done,
    /// What was to be stopped serves on.
    Recalled,
    Failed(Failure),
}

/// The nodes of the mesh.
#[derive(Debug, Clone, Default)]
pub(super) struct Nodes {
    /// They may act.
    pub(super) alive: BTreeSet<NodeName>,
    /// They have a say in what is decided, whether they can say it or not: all but those that have left, which will not come
    /// back and grant something else.
    pub(super) known: BTreeSet<NodeName>,
}

/// One pool that scales, at one moment.
#[derive(Debug, Clone)]
pub(super) struct Look {
    pub(super) pool: Arc<PoolView>,
    pub(super) scale: Scale,
    /// Why this node cannot act for it, as far as it can be told beforehand.
    pub(super) unable: Option<String>,
    /// Where Docker acts: a node starts and stops what its own engine has.
    pub(super) holdings: Option<Holdings>,
}

/// One pool as scaling sees it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ScaleState {
    pub(crate) pool: PoolName,
    pub(crate) config: Scale,
    /// Whose turn it is to act, as this node sees it.
    pub(crate) actor: Option<NodeName>,
    /// The living nodes that cannot act, and why.
    pub(crate) unable: BTreeMap<NodeName, String>,
    /// Backends that take requests, and all that are counted on.
    pub(crate) ready: u32,
    pub(crate) total: u32,
    /// How many were started and have not appeared yet.
    pub(crate) coming: u32,
    /// How many the load asks for now, with those that have not appeared yet.
    pub(crate) wanted: u32,
    /// What each ready backend has, in the target's unit.
    pub(crate) measured: f64,
    /// Why nothing is done though something should be, or what is waited for.
    pub(crate) waits: Option<String>,
    /// What this node started long ago and has not appeared.
    pub(crate) late: Option<String>,
    /// How this node's last act failed, as long as it rests from it.
    pub(crate) failed: Option<String>,
}

/// The pure core of scaling.
#[derive(Debug)]
pub(super) struct Core {
    me: NodeName,
    home: Spot,
    meter: Meter,
    pulses: Pulses,
    trackers: BTreeMap<PoolName, Tracker>,
    turns: Turns,
    grants: Grants,
    /// What was told last of pools that only rehearse: it is told once.
    rehearsed: BTreeMap<PoolName, Step>,
    /// Pools for which this node asks or acts, and the step.
    busy: BTreeMap<PoolName, Step>,
    /// Why nothing is done for a pool.
    waits: BTreeMap<PoolName, String>,
    /// Whose turn it last was.
    told: BTreeMap<PoolName, Turn>,
    effects: Vec<Effect>,
}

impl Core {
    /// A node that has just started, and where it stands.
    pub(super) fn new(me: NodeName, home: Spot, now: Instant) -> Self {
        Self {
            me,
            home,
            meter: Meter::default(),
            pulses: Pulses::default(),
            trackers: BTreeMap::new(),
            turns: Turns::default(),
            grants: Grants::new(now),
            rehearsed: BTreeMap::new(),
            busy: BTreeMap::new(),
            waits: BTreeMap::new(),
            told: BTreeMap::new(),
            effects: Vec::new(),
        }
    }

    /// What came of the calls since the last time.
    pub(super) fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// What was started in this node's life before. To be called before the first beat.
    pub(super) fn remembers(&mut self, kept: Vec<Kept>, wall: Wall, now: Instant) {
        for Kept { pool, number, by, missing, until } in kept {
            // A clock that was set back makes it no longer.
            let left = until.since(wall).min(PATIENCE_MAX);
            self.grants.catch_up(&pool, number);
            if left.is_zero() {
                continue;
            }
            self.trackers.entry(pool).or_default().remembers((number, by), missing, left, now);
        }
    }

    /// What is to be remembered over a restart.
    pub(super) fn kept(&self, wall: Wall, now: Instant) -> Vec<Kept> {
        let of = |(pool, tracker): (&PoolName, &Tracker)| {
            let kept = |((number, by), missing, left)| Kept {
                pool: pool.clone(),
                number,
                by,
                missing,
                until: wall.plus(left),
            };
            tracker.coming().starts(now).map(kept).collect::<Vec<_>>()
        };
        self.trackers.iter().flat_map(of).collect()
    }

    /// Tells the load of this node, and looks at each pool. Once a second.
    pub(super) fn beat(&mut self, looks: &[Look], nodes: &Nodes, now: Instant) -> Vec<ScaleState> {
        let scaled: BTreeSet<&PoolName> = looks.iter().map(|look| &look.pool.config.name).collect();
        let scales = |name: &PoolName| scaled.contains(name);
        self.meter.keep(scales);
        self.turns.keep(scales, &nodes.alive);
        self.trackers.retain(|name, _| scales(name));
        self.waits.retain(|name, _| scales(name));
        self.rehearsed.retain(|name, _| scales(name));
        self.told.retain(|name, _| scales(name));
        if looks.is_empty() {
            return Vec::new();
        }
        let mut pulses = Vec::new();
        for look in looks {
            let mut pulse = self.meter.beat(&look.pool, now);
            pulse.ability = self.turns.own(&pulse.pool, look.unable.clone(), now);
            self.hear(self.me.clone(), pulse.clone(), now);
            pulses.push(pulse);
        }
        self.effects.push(Effect::Tell(Message::Pulses(pulses)));
        looks.iter().map(|look| self.look(look, nodes, now)).collect()
    }

    fn hear(&mut self, node: NodeName, mut pulse: Pulse, now: Instant) {
        self.turns.hear(&pulse.pool, node.clone(), std::mem::take(&mut pulse.ability), now);
        self.pulses.take(node, pulse, now);
    }

    fn look(&mut self, look: &Look, nodes: &Nodes, now: Instant) -> ScaleState {
        let (view, scale, name) = (&look.pool, &look.scale, &look.pool.config.name);
        let sample = self.pulses.sample(view, now);
        let tracker = self.trackers.entry(name.clone()).or_default();
        let verdict = tracker.look(scale, sample, brought(view), now);
        let news = tracker.take_news();
        let coming = tracker.coming();
        let (pause, coming, is_late) = (coming.pause(now), coming.so_far(now), coming.is_late());
        for (number, news, started) in news {
            self.appeared(look, number, news, started, now);
        }
        let awaited = coming.map(|started| match is_late {
            true => format!("{started}: {}", self.where_to_look(look)),
            false => started.to_string(),
        });
        let paused = pause.map(|(count, left)| {
            let left = left.as_secs() + 1;
            format!("{count} were gone at once, and none are started in their place for {left} s")
        });
        let awaited = awaited.or(paused);
        let suits = |node: &NodeName| suits(look, verdict.step, node);
        let turn = self.turns.whose(name, &nodes.alive, suits, now);
        // It may have just found that its last act was in vain, which nobody has heard yet.
        let is_mine = turn.actor.as_ref() == Some(&self.me) && self.turns.resting(name, now).is_none();
        if !is_mine {
            self.waits.remove(name);
        }
        match verdict.step {
            Step::Stay => drop(self.rehearsed.remove(name)),
            Step::Add(_) if matches!(self.busy.get(name), Some(Step::Remove(_))) => {
                self.effects.push(Effect::Recall(name.clone()));
            }
            step if is_mine && !(scale.dry_run && self.rehearsed.get(name) == Some(&step)) => {
                self.ask(look, verdict, nodes, now);
            }
            _ => {}
        }
        let waits = match (&turn.actor, verdict.step) {
            (_, Step::Stay) => awaited.clone(),
            (None, _) => Some(nobody(&turn)),
            _ => self.waits.get(name).cloned(),
        };
        let state = ScaleState {
            pool: name.clone(),
            config: scale.clone(),
            actor: turn.actor.clone(),
            unable: turn.unable.clone(),
            ready: sample.ready,
            total: sample.total,
            coming: coming.map_or(0, |coming| coming.missing),
            wanted: verdict.wanted,
            measured: verdict.measured,
            waits,
            late: awaited.filter(|_| is_late),
            failed: self.turns.resting(name, now).map(str::to_owned),
        };
        self.tell_of(name, turn);
        state
    }

    /// Operators hear when the turn passes because somebody cannot act.
    fn tell_of(&mut self, pool: &PoolName, turn: Turn) {
        let before = self.told.get(pool).and_then(|told| told.actor.clone());
        let text = match (&before, &turn.actor) {
            (Some(before), Some(now)) => turn
                .unable
                .get(before)
                .map(|why| format!("the turn goes from {before} to {now}: {before}: {why}")),
            (Some(_), None) => Some(nobody(&turn)),
            (None, _) => None,
        };
        if let Some(text) = text {
            self.note(pool, text);
        }
        self.told.insert(pool.clone(), turn);
    }

    fn note(&mut self, pool: &PoolName, text: String) {
        self.effects.push(Effect::Note(pool.clone(), format!("pool {pool}: {text}")));
    }

    /// Asks all known nodes, this one first, for the pool's next number.
    fn ask(&mut self, look: &Look, verdict: Verdict, nodes: &Nodes, now: Instant) {
        let pool = &look.pool.config.name;
        if self.busy.contains_key(pool) || !self.grants.is_free(pool, now) {
            return;
        }
        let number = self.grants.next(pool);
        if self.decision(look, number, verdict).count == 0 {
            let text = "none of its backends may be stopped here: those of the file and those added by hand are yours";
            self.waits.insert(pool.clone(), text.into());
            return;
        }
        if self.grants.ask(pool, number, now) != Grant::Yes {
            return;
        }
        self.busy.insert(pool.clone(), verdict.step);
        let peers = nodes.known.iter().filter(|node| **node != self.me).cloned().collect();
        self.effects.push(Effect::Ask(Question { pool: pool.clone(), number, verdict, asked: now }, peers));
    }

    /// All have answered, or have not: the decision is made, if a majority has granted its number and the pool still scales.
    pub(super) fn granted(&mut self, question: Question, answers: Answers, look: Option<Look>, now: Instant) {
        let Question { pool, number, verdict, asked } = question;
        let Answers { yes, known, greatest, coming } = answers;
        self.grants.catch_up(&pool, greatest);
        self.busy.remove(&pool);
        let needed = majority(known);
        if now.saturating_duration_since(asked) >= HOLD - ASK {
            // This node stood still meanwhile, and others may have decided since.
            self.effects.push(Effect::Tell(nothing_of(pool, number)));
            return;
        }
        if yes < needed {
            if let Some((tracker, coming)) = self.trackers.get_mut(&pool).zip(coming) {
                // Somebody has started some of whom this node has not heard.
                tracker.heard(coming, now);
            }
            self.effects.push(Effect::Tell(nothing_of(pool.clone(), number)));
            let waits = format!("{yes} of {known} nodes agree, and {needed} have to");
            if self.waits.insert(pool.clone(), waits.clone()).is_none() {
                self.note(&pool, format!("waits: {waits}"));
            }
            return;
        }
        self.waits.remove(&pool);
        let Some(look) = look else { return };
        let decision = self.decision(&look, number, verdict);
        let text = describe(&decision, look.scale.dry_run);
        self.effects.push(Effect::Tell(Message::Decided(pool.clone(), number, text.clone())));
        self.effects.push(Effect::Note(pool.clone(), text));
        if look.scale.dry_run {
            self.rehearsed.insert(pool.clone(), verdict.step);
            self.effects.push(Effect::Tell(nothing_of(pool, number)));
            return;
        }
        if let Some(tracker) = self.trackers.get_mut(&pool) {
            tracker.acts(number, verdict.step, now);
        }
        if decision.count > 0 {
            self.busy.insert(pool, verdict.step);
            self.effects.push(Effect::Act(look.pool, look.scale, Box::new(decision)));
        }
    }

    /// Asking ended badly: this decision is not made. Other pools are none of its business: what is being asked or done for
    /// them goes on, and must not be begun a second time beside it.
    pub(super) fn unasked(&mut self, question: &Question) {
        self.busy.remove(&question.pool);
        self.effects.push(Effect::Tell(nothing_of(question.pool.clone(), question.number)));
    }

    /// A peer says something.
    pub(super) fn told(&mut self, from: &NodeName, message: Message, now: Instant) {
        match message {
            Message::Pulses(pulses) => {
                for pulse in pulses {
                    if self.trackers.contains_key(&pulse.pool) {
                        self.hear(from.clone(), pulse, now);
                    }
                }
            }
            Message::Decided(pool, number, text) => {
                if let Some(tracker) = self.trackers.get_mut(&pool) {
                    tracker.seen((number, Some(from.clone())), now);
                    self.grants.learn(&pool, number, now);
                    self.effects.push(Effect::Note(pool, text));
                }
            }
            Message::Failed(pool, number, text, unbegun) => {
                if let Some(tracker) = self.trackers.get_mut(&pool) {
                    let decision = (number, Some(from.clone()));
                    match unbegun {
                        true => tracker.undone(&decision),
                        false => tracker.failed(&decision, now),
                    }
                    if !text.is_empty() {
                        self.effects.push(Effect::Note(pool, text));
                    }
                }
            }
            Message::Ask(..) | Message::Granted | Message::Refused(..) => {
                tracing::warn!(peer = %from, "a question about scaling came as a message");
            }
        }
    }

    /// A peer asks for a number. Who has granted one to a node that died in the act keeps others from doing it again: any
    /// majority has somebody who did.
    pub(super) fn asked(
        &mut self,
        from: &NodeName,
        pool: &PoolName,
        number: u64,
        plan: Plan,
        now: Instant,
    ) -> Message {
        let Some(tracker) = self.trackers.get_mut(pool) else { return Message::Refused(0, None) };
        if let Some(coming) = tracker.objects(from, number, plan) {
            return Message::Refused(self.grants.known(pool), Some(coming));
        }
        match self.grants.ask(pool, number, now) {
            Grant::Yes => {
                tracker.granted(number, from.clone(), plan, now);
                Message::Granted
            }
            Grant::No(known) => Message::Refused(known, None),
        }
    }
}

/// Those who have granted a number are to count on nothing for it. No words: operators have heard why.
fn nothing_of(pool: PoolName, number: u64) -> Message {
    Message::Failed(pool, number, String::new(), true)
}

fn nobody(turn: &Turn) -> String {
    format!("no node can act: {}", reasons(&turn.unable))
}

/// Each reason once, after the nodes that have it.
pub(super) fn reasons(unable: &BTreeMap<NodeName, String>) -> String {
    alike::grouped(unable.iter().map(|(node, why)| (Some(node.as_str()), why.as_str()))).join("; ")
}

/// Those of a pool that an act may have brought: all but the ones that the file names.
fn brought(pool: &PoolView) -> Brought {
    let of = |fits: fn(&BackendView) -> bool| {
        let others = pool.backends.iter().filter(|backend| !backend.config.sources.has(SourceKind::Static));
        others.filter(|backend| fits(backend)).map(|backend| backend.config.id).collect()
    };
    Brought { present: of(|_| true), leaving: of(|backend| !stays(backend)) }
}

#[cfg(test)]
mod simulation;
