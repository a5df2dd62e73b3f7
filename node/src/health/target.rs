//! One backend as health sees it: this node's probing of it, this node's ejection of it, the mesh's conclusion. Pure.

use std::sync::Arc;
use std::time::{Duration, Instant};

use gossip::clock::{Hlc, Wall};
use gossip::id::NodeName;
use gossip::state::{BackendState, Failure, Verdict};

use super::BackendHealth;
use super::checker::Moment;
use super::ejection::Ejection;
use super::machine::{Machine, Outcome, Past, Thresholds};
use super::quorum::{Conclusion, Vote, conclude, evidence};
use crate::backend::Evidence;
use crate::config::model::{Backend, HealthCheck, Pool};

/// While nothing is known of a backend it is asked this much more often than its check says, ...
const CURIOUS: u32 = 4;
/// ... but not more often than this.
const CURIOUS_AT_LEAST: Duration = Duration::from_millis(100);

/// A peer's word on a backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PeerWord {
    pub(super) by: NodeName,
    pub(super) verdict: Verdict,
    /// The peer is not a suspect: it would have said otherwise by now.
    pub(super) fresh: bool,
    /// Why its last probe failed, and when it first failed so.
    pub(super) failure: Option<(String, Wall)>,
}

/// One backend.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) pool: Arc<Pool>,
    pub(super) backend: Arc<Backend>,
    /// The nodes whose words count. Empty without a check.
    probers: Vec<NodeName>,
    /// What the peers say, probers or not.
    words: Vec<PeerWord>,
    /// There while this node is one of the probers.
    machine: Option<Machine>,
    /// When the machine last changed.
    machine_changed: Option<Instant>,
    /// Why the last probe failed, and when it first failed so; `None` when it did not.
    failure: Option<(String, Wall)>,
    ejection: Ejection,
    /// When this node's last ejection ended: a break that only this node saw.
    ejection_ended: Hlc,
    conclusion: Conclusion,
    /// When the next probe starts.
    next_probe: Instant,
    probe_began: Option<Instant>,
    /// The probe under way. Results of others are too late.
    running: Option<u64>,
    /// The probe that was under way when the ejection began: what it finds may be older than the evidence.
    too_old_for_ejection: Option<u64>,
}

impl Target {
    pub(super) fn new(pool: Arc<Pool>, backend: Arc<Backend>, break_ended: Hlc, now: Instant) -> Self {
        let state = if pool.health.is_some() { BackendState::Unknown } else { BackendState::Up };
        Self {
            pool,
            backend,
            probers: Vec::new(),
            words: Vec::new(),
            machine: None,
            machine_changed: None,
            failure: None,
            ejection: Ejection::default(),
            ejection_ended: Hlc::ZERO,
            conclusion: Conclusion { state, up_since: break_ended, ..Conclusion::NONE },
            next_probe: now,
            probe_began: None,
            running: None,
            too_old_for_ejection: None,
        }
    }

    /// What the mesh held of it when this process took over from another one of the same node. Before anything else is heard.
    pub(super) fn recall(&mut self, before: &BackendHealth) {
        if self.pool.health.is_some() {
            let BackendHealth { state, up_since, down_since, .. } = *before;
            let up_since = up_since.max(self.conclusion.up_since);
            self.conclusion = Conclusion { state, up_since, down_since };
        }
    }

    pub(super) fn check(&self) -> Option<&HealthCheck> {
        self.pool.health.as_ref()
    }

    /// Takes the pool and the backend as a new revision has them.
    pub(super) fn reconfigure(&mut self, pool: Arc<Pool>, backend: Arc<Backend>, now: Instant) {
        let asked_otherwise = self.pool.send_proxy != pool.send_proxy
            || self.pool.protocol != pool.protocol
            || match (&self.pool.health, &pool.health) {
                (Some(old), Some(new)) => old.probe != new.probe,
                (old, new) => old.is_some() != new.is_some(),
            };
        let sooner = match (&self.pool.health, &pool.health) {
            (Some(old), Some(new)) => new.interval < old.interval,
            _ => false,
        };
        self.pool = pool;
        self.backend = backend;
        if let (Some(machine), Some(check)) = (&mut self.machine, &self.pool.health) {
            machine.set_thresholds(thresholds(check));
        }
        if asked_otherwise {
            self.running = None;
            self.failure = None;
        }
        if asked_otherwise || sooner {
            self.next_probe = now;
        }
        if self.pool.health.is_none() {
            self.machine = None;
            self.failure = None;
            self.ejection.unchecked(self.pool.ejection.base);
            self.conclusion.state = BackendState::Up;
        }
    }

    /// Takes the probers; this node's own probing begins or ends with it.
    pub(super) fn assign(&mut self, me: &NodeName, probers: Vec<NodeName>, now: Instant) {
        self.probers = probers;
        let Some(check) = self.pool.health.as_ref().filter(|_| self.probers.contains(me)) else {
            self.machine = None;
            return;
        };
        if self.machine.is_none() {
            let past = match self.conclusion {
                Conclusion { state: BackendState::Unknown, up_since: Hlc::ZERO, .. } => Past::Nothing,
                conclusion if conclusion.is_down() => Past::Down(conclusion.down_since),
                conclusion => Past::Up(conclusion.up_since),
            };
            self.machine = Some(Machine::new(thresholds(check), past));
            self.next_probe = now;
        }
    }

    /// Takes the peers' words. A peer that sees what this node does not see yet is reason to look at once, once.
    /// Returns whether the words are others than before.
    pub(super) fn hear(&mut self, words: Vec<PeerWord>, now: Instant) -> bool {
        if words == self.words {
            return false;
        }
        use BackendState::{Down, GoingDown, GoingUp, Up};
        if let (Some(machine), Some(check)) = (&self.machine, &self.pool.health) {
            let news = |word: &&PeerWord| {
                self.probers.contains(&word.by)
                    && !self
                        .words
                        .iter()
                        .any(|old| old.by == word.by && old.verdict.state == word.verdict.state)
            };
            let contrary = words.iter().filter(news).any(|word| match machine.state() {
                Up => matches!(word.verdict.state, GoingDown | Down),
                Down => matches!(word.verdict.state, GoingUp | Up),
                _ => false,
            });
            if contrary {
                let pause = curious(check.interval);
                let soon = self.probe_began.map_or(now, |began| now.max(began + pause));
                self.next_probe = self.next_probe.min(soon);
            }
        }
        self.words = words;
        true
    }

    /// Evidence from this node's requests. Returns whether the backend is newly ejected.
    pub(super) fn evidence(&mut self, why: Evidence, now: Instant) -> bool {
        if self.conclusion.is_down() {
            return false; // A request that began before the mesh said down; it says nothing new.
        }
        let newly = self.ejection.evidence(why, self.pool.health.is_some(), &self.pool.ejection, now);
        if newly {
            self.too_old_for_ejection = self.running;
            self.next_probe = now;
        }
        newly
    }

    /// Whether this node probes the backend now.
    pub(super) fn is_probed(&self) -> bool {
        self.pool.health.is_some() && (self.machine.is_some() || self.ejection.why().is_some())
    }

    /// Whether a probe is to start.
    pub(super) fn probe_due(&self, now: Instant) -> bool {
        self.is_probed() && self.running.is_none() && self.next_probe <= now
    }

    /// Takes note that probe `ticket` starts; `jitter` stretches the time to the next one.
    pub(super) fn begin_probe(&mut self, ticket: u64, jitter: f64, now: Instant) {
        let Some(check) = &self.pool.health else { return };
        let pause = match &self.machine {
            Some(machine) if machine.is_curious() => curious(check.interval),
            _ => check.interval,
        };
        self.running = Some(ticket);
        self.probe_began = Some(now);
        self.next_probe = now + pause.mul_f64(jitter);
    }

    /// Takes the result of probe `ticket`, `Err` with the reason in words.
    pub(super) fn probed(&mut self, ticket: u64, result: Result<(), String>, at: Moment) {
        if self.running != Some(ticket) {
            return;
        }
        self.running = None;
        let outcome = if result.is_ok() { Outcome::Success } else { Outcome::Failure };
        self.failure = result.err().map(|text| match self.failure.take() {
            Some((before, began)) if before == text => (text, began),
            _ => (text, at.hlc.wall()),
        });
        if let Some(machine) = &mut self.machine
            && machine.probed(outcome, at.hlc)
        {
            self.machine_changed = Some(at.now);
        }
        if self.too_old_for_ejection != Some(ticket)
            && self.ejection.probed(outcome == Outcome::Success, at.now)
        {
            self.ejection_ended = at.hlc;
        }
    }

    /// Time passed.
    pub(super) fn tick(&mut self, at: Moment) {
        if self.ejection.tick(at.now) {
            self.ejection_ended = at.hlc;
        }
    }

    /// Concludes anew. `isolated_since` is set while what peers said counts no more than it did (I5): only what this
    /// node's own probes found since then changes anything.
    pub(super) fn conclude(&mut self, me: &NodeName, isolated_since: Option<Instant>, at: Moment) {
        let before =
            Conclusion { up_since: self.conclusion.up_since.max(self.breaks_told()), ..self.conclusion };
        if self.pool.health.is_none() {
            self.conclusion = Conclusion { state: BackendState::Up, ..before };
            return;
        }
        let own = self.own_word().map(|verdict| Vote {
            by: me,
            state: verdict.state,
            since: verdict.since,
            failure: None,
        });
        self.conclusion = match isolated_since {
            None => conclude(before, &self.votes(me), at.hlc),
            Some(since) if self.machine_changed.is_some_and(|changed| changed > since) => {
                conclude(before, own.as_slice(), at.hlc)
            }
            Some(_) => before,
        };
        if self.conclusion.is_down() {
            self.ejection.superseded();
        }
        if !self.is_probed() {
            self.failure = None; // Nobody here looks any more; an old failure would stay for ever.
        }
    }

    /// Breaks that nodes know of by themselves, probers or not.
    fn breaks_told(&self) -> Hlc {
        let takes = |state| matches!(state, BackendState::Up | BackendState::GoingDown);
        let told = self.words.iter().filter(|word| takes(word.verdict.state)).map(|word| word.verdict.since);
        told.max().unwrap_or(Hlc::ZERO).max(self.ejection_ended)
    }

    fn own_word(&self) -> Option<Verdict> {
        let machine = self.machine.as_ref()?;
        Some(Verdict { backend: self.backend.id, state: machine.state(), since: machine.since() })
    }

    /// The probers' words that are fresh; those of suspects only where there is no other, for they may be older than
    /// the break that silenced them. With the tie that keeps the state, a suspicion alone turns nothing over.
    fn votes<'a>(&'a self, me: &'a NodeName) -> Vec<Vote<'a>> {
        let vote = |by: &'a NodeName, verdict: Verdict, failure: &'a Option<(String, Wall)>| Vote {
            by,
            state: verdict.state,
            since: verdict.since,
            failure: failure.as_ref().map(|(text, at)| (text.as_str(), *at)),
        };
        let own = self.own_word().map(|verdict| (vote(me, verdict, &self.failure), true));
        let peers = self.words.iter().filter(|word| self.probers.contains(&word.by) && word.by != *me);
        let peers = peers.map(|word| (vote(&word.by, word.verdict, &word.failure), word.fresh));
        let all = own.into_iter().chain(peers);
        let all: Vec<_> = all.filter(|(vote, _)| vote.state != BackendState::Unknown).collect();
        let any_fresh = all.iter().any(|(_, fresh)| *fresh);
        all.into_iter().filter(|(_, fresh)| *fresh || !any_fresh).map(|(vote, _)| vote).collect()
    }

    /// What this node tells the mesh: its word as a prober with the latest break it knows of, or, when it is none,
    /// just the end of an ejection, so that sessions moved by it are looked up everywhere (I2).
    pub(super) fn verdict(&self) -> Option<Verdict> {
        use BackendState::{GoingDown, Unknown, Up};
        match self.own_word() {
            Some(Verdict { state: Unknown, .. }) => None,
            Some(verdict @ Verdict { state: Up | GoingDown, .. }) => {
                Some(Verdict { since: verdict.since.max(self.conclusion.up_since), ..verdict })
            }
            Some(verdict) => Some(verdict),
            None => (self.ejection_ended > Hlc::ZERO).then_some(Verdict {
                backend: self.backend.id,
                state: Up,
                since: self.ejection_ended,
            }),
        }
    }

    /// Why this prober's probes fail, for the mesh to know.
    pub(super) fn told_failure(&self) -> Option<Failure> {
        let (text, at) = self.failure.as_ref().filter(|_| self.machine.is_some())?;
        Some(Failure { backend: self.backend.id, at: *at, text: text.clone() })
    }

    pub(super) fn health(&self, me: &NodeName) -> BackendHealth {
        let reason = match self.conclusion.state {
            _ if self.pool.health.is_none() => String::new(),
            BackendState::Unknown if self.failure.is_none() => "not yet probed".to_owned(),
            _ => {
                let own = self.failure.as_ref().map(|(text, at)| (text.as_str(), *at));
                evidence(me, own, &self.votes(me))
            }
        };
        BackendHealth {
            state: self.conclusion.state,
            up_since: self.conclusion.up_since,
            down_since: self.conclusion.down_since,
            ejected: self.ejection.why(),
            reason,
        }
    }

    /// When this backend needs attention next, by itself.
    pub(super) fn appointment(&self) -> Option<Instant> {
        let probe = (self.is_probed() && self.running.is_none()).then_some(self.next_probe);
        probe.into_iter().chain(self.ejection.deadline()).min()
    }
}

fn thresholds(check: &HealthCheck) -> Thresholds {
    Thresholds { rise: check.rise, fall: check.fall }
}

fn curious(interval: Duration) -> Duration {
    (interval / CURIOUS).max(CURIOUS_AT_LEAST).min(interval)
}
