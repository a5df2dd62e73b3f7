//! Discovery as a whole, pure: configuration, members, answers of sources, messages, orders and time in; the pools with
//! their backends, claims to tell, and words for operators out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gossip::clock::{HLC_MAX_AHEAD, Hlc, Wall};
use gossip::id::{NodeName, PoolName};

use super::claims::{Answer, Claim, ClaimKey, Claims, Failing, Hold, LeaseTerms, Merged, Room};
use super::found::{FOUND_MAX, Found, Standing, readable};
use super::handle::Holdings;
use super::leases::{Leases, Word};
use super::roster::{Changes, Pools, Roster};
use super::wire::Message;
use crate::config::model::{Scale, ScaleVia, Services, SourceKind, SourceSpec};

/// The shortest and the longest lease.
pub(crate) const TTL: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(86_400);
/// A lease that is over is remembered for so long, so that a node which was away learns of it. Later it only costs
/// another round of adoption and expiry.
const REMEMBER: Duration = Duration::from_secs(900);
/// The last word of a node that is gone is kept for so long where no living node speaks of the same source.
const ORPHAN: Duration = Duration::from_secs(3600);

/// That there is no room for what is told is said once in so long.
const SAY_FULL_EVERY: Duration = Duration::from_secs(60);

/// Why a node does not ask a source that the configuration names.
const ELSEWHERE: &str = "asked by the nodes of its region";

/// One moment on all clocks that discovery needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment {
    /// For timers.
    pub(crate) now: Instant,
    /// For the order of claims.
    pub(crate) hlc: Hlc,
    /// For people.
    pub(crate) wall: Wall,
}

/// Why an order was not taken. Nothing has changed then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OrderError {
    /// The pool is not configured.
    #[error("there is no pool {0:?}")]
    NoPool(String),
    /// Its backends may not register themselves.
    #[error("pool {0} grants no leases; allow them with lease = {{ ttl = \"15s\" }} in [pool.{0}]")]
    NoLease(PoolName),
    /// Nothing added this backend.
    #[error("{0} was neither added to pool {1} nor has it a lease there")]
    NotThere(SocketAddr, PoolName),
    /// It stands in the configuration.
    #[error(
        "{0} of pool {1} stands in the configuration: take it out there, or use `meridian drain backend {1}/{0}`"
    )]
    Configured(SocketAddr, PoolName),
    /// It is there without being added.
    #[error("{0} is in pool {1} already: the configuration names it; nothing was changed")]
    InFile(SocketAddr, PoolName),
    /// Other sources name it.
    #[error(
        "{0} of pool {1} is named by its source, not by a lease: `meridian drain backend {1}/{0}` drains it"
    )]
    OfSource(SocketAddr, PoolName),
    /// It is this node itself.
    #[error("{0} is this node's own admin port, which is no place for users")]
    Admin(SocketAddr),
    /// There is no room.
    #[error("the mesh knows of as many backends as it can")]
    Full,
    /// The driver has stopped.
    #[error("the node is shutting down")]
    Stopped,
}

/// Something worth an operator's look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Note {
    /// `backends source-failing source-well lease`.
    pub(crate) kind: &'static str,
    /// The pool.
    pub(crate) subject: String,
    /// In words.
    pub(crate) text: String,
}

/// What came of the last calls.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    /// Claims of this node that all others are to hear of.
    pub(crate) tell: BTreeMap<ClaimKey, Claim>,
    /// Whether any claim is new: what is on disk is old.
    pub(crate) news: bool,
    /// For operators.
    pub(crate) notes: Vec<Note>,
}

/// One source as operators see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SourceState {
    pub(crate) pool: PoolName,
    pub(crate) kind: SourceKind,
    pub(crate) scope: String,
    /// Who asks it; of leases, who holds them.
    pub(crate) node: NodeName,
    /// Backends in the last good answer.
    pub(crate) backends: usize,
    pub(crate) failing: Option<Failing>,
    /// When its answer last changed.
    pub(crate) changed: Wall,
}

/// The pure core of discovery.
#[derive(Debug)]
pub(crate) struct Core {
    me: NodeName,
    services: Arc<Services>,
    living: BTreeSet<NodeName>,
    claims: Claims,
    leases: Leases,
    roster: Roster,
    effects: Effects,
    /// Since when nodes with claims are gone.
    gone: BTreeMap<NodeName, Instant>,
    /// When it was last said that there is no room.
    full: Option<Instant>,
    /// Whether the pools may be behind what is known.
    stale: bool,
}

impl Core {
    /// A node that knows nothing yet, whose admin port is at `admin`.
    pub(crate) fn new(me: NodeName, admin: SocketAddr) -> Self {
        Self {
            living: BTreeSet::from([me.clone()]),
            me,
            services: Arc::default(),
            claims: Claims::default(),
            leases: Leases::default(),
            roster: Roster::new(admin),
            effects: Effects::default(),
            gone: BTreeMap::new(),
            full: None,
            stale: false,
        }
    }

    /// A configuration is in force.
    pub(crate) fn configure(&mut self, services: Arc<Services>, at: Moment) {
        self.services = services;
        self.stale = true;
        self.settle(at);
    }

    /// These nodes live; this one is among them whatever is said.
    pub(crate) fn observe(&mut self, mut living: BTreeSet<NodeName>) {
        living.insert(self.me.clone());
        if living != self.living {
            self.living = living;
            self.stale = true;
        }
    }

    /// A source of this node has answered.
    pub(crate) fn answered(
        &mut self,
        pool: &PoolName,
        spec: &SourceSpec,
        answer: Result<Vec<Found>, String>,
        at: Moment,
    ) {
        let (kind, scope) = (spec.kind(), spec.scope());
        let key =
            ClaimKey { pool: pool.clone(), kind, scope: scope.as_str().into(), node: Some(self.me.clone()) };
        let before = self.claims.get(&key).map(|claim| &claim.answer);
        let failed = before.and_then(|before| before.failing.as_ref());
        let (new, note) = match answer {
            Ok(mut found) => {
                found.sort_unstable();
                found.dedup_by_key(|found| found.address);
                found.truncate(FOUND_MAX);
                let note = failed.map(|_| ("source-well", "answers again".to_owned()));
                (Answer { found, ..Answer::default() }, note)
            }
            Err(error) => {
                let error = readable(&error);
                let since = failed.map_or(at.wall, |failing| failing.since);
                let found = before.map(|before| before.found.clone()).unwrap_or_default();
                let text = match found.len() {
                    0 => format!("fails: {error}"),
                    1 => format!("fails: {error}; its last answer, one backend, stays"),
                    many => format!("fails: {error}; its last answer, {many} backends, stays"),
                };
                let note = failed.is_none().then_some(("source-failing", text));
                let failing = Some(Failing { since, error });
                (Answer { found, failing, lease: None }, note)
            }
        };
        if before == Some(&new) {
            return;
        }
        if let Some((what, text)) = note {
            let text = format!("pool {pool}: {} {scope} {text}", kind.as_str());
            self.note(what, pool, text);
        }
        self.write(key, new, at);
        self.stale = true;
    }

    /// This node no longer asks a source: others do, or nobody is to. Its last answer gives way to theirs.
    pub(crate) fn stopped(&mut self, pool: &PoolName, spec: &SourceSpec, at: Moment) {
        let scope = spec.scope().as_str().into();
        let key = ClaimKey { pool: pool.clone(), kind: spec.kind(), scope, node: Some(self.me.clone()) };
        let last = self.claims.get(&key).map(|claim| &claim.answer);
        let silent = |last: &Answer| last.failing.as_ref().is_some_and(|failing| failing.error == ELSEWHERE);
        if last.is_some_and(|last| !silent(last)) {
            let failing = Some(Failing { since: at.wall, error: ELSEWHERE.into() });
            self.write(key, Answer { failing, ..Answer::default() }, at);
            self.stale = true;
        }
    }

    /// The living nodes whose Docker Engine answers with what each has, by pool that scales by Docker.
    pub(crate) fn engines(&self) -> BTreeMap<PoolName, Holdings> {
        let mut engines: BTreeMap<PoolName, Holdings> = BTreeMap::new();
        let by_docker = |scale: &Scale| matches!(scale.via, ScaleVia::Docker(_));
        let pools = self.services.pools.values();
        for pool in pools.filter(|pool| pool.scale.as_ref().is_some_and(by_docker)) {
            for (key, claim) in self.claims.of(&pool.name) {
                if let Some(node) = key.node.as_ref().filter(|node| self.living.contains(*node))
                    && key.kind == SourceKind::Docker
                    && claim.answer.failing.is_none()
                    && self.is_named(key)
                {
                    let there = claim.answer.found.iter().filter(|found| found.standing != Standing::Gone);
                    let held = engines.entry(pool.name.clone()).or_default().entry(node.clone()).or_default();
                    held.extend(there.map(|found| found.address));
                }
            }
        }
        engines
    }

    /// A peer says something; what it is answered.
    pub(crate) fn heard(&mut self, message: Message, at: Moment) -> Option<Message> {
        match message {
            Message::Tell(claims) => {
                self.take(claims, at);
                None
            }
            Message::Compare(digest) => {
                let (newer, lacking) = self.claims.compare(&digest);
                Some(Message::Differ(newer, lacking))
            }
            Message::Differ(newer, lacking) => {
                self.take(newer, at);
                let wanted = lacking.into_iter().filter_map(|key| {
                    let claim = self.claims.get(&key)?.clone();
                    Some((key, claim))
                });
                let wanted: Vec<_> = wanted.collect();
                (!wanted.is_empty()).then_some(Message::Tell(wanted))
            }
        }
    }

    /// What this node asks a peer, to find out what either lacks.
    pub(crate) fn question(&self) -> Message {
        Message::Compare(self.claims.digest())
    }

    /// How much of what is bounded is in use.
    pub(crate) fn room(&self) -> Room {
        self.claims.room()
    }

    /// Everything, to be kept over a restart.
    pub(crate) fn all(&self) -> Vec<(ClaimKey, Claim)> {
        self.claims.iter().map(|(key, claim)| (key.clone(), claim.clone())).collect()
    }

    /// Time has passed.
    pub(crate) fn tick(&mut self, at: Moment) {
        self.stale |= self.roster.next_deadline().is_some_and(|due| due <= at.now);
        let expired = self.leases.expire(at.now);
        self.tell_of_leases(expired.iter(), "expired");
        for word in expired {
            self.speak(word, at);
            self.stale = true;
        }
    }

    /// When [`Core::tick`] is due.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        [self.roster.next_deadline(), self.leases.next_deadline()].into_iter().flatten().min()
    }

    /// The pools whose backends do not all stand in the file.
    pub(crate) fn pools(&self) -> Arc<Pools> {
        self.roster.pools()
    }

    /// Whether [`Core::settle`] has something to do. Changes that come together are cheaper settled together.
    pub(crate) fn is_stale(&self) -> bool {
        self.stale
    }

    /// Brings the pools in line with all that is known.
    pub(crate) fn settle(&mut self, at: Moment) {
        if !std::mem::take(&mut self.stale) {
            return;
        }
        let words = self.leases.review(&self.me, &self.claims, &self.living, at.now);
        self.tell_of_leases(words.iter().filter(|word| word.how == Hold::Adopted), "taken over");
        words.into_iter().for_each(|word| self.speak(word, at));
        self.forget(at);
        let changes = self.roster.update(&self.services, &self.claims, &self.living, at.now);
        self.tell_of(&changes);
    }

    /// What came of the calls since the last time.
    pub(crate) fn take_effects(&mut self) -> Effects {
        std::mem::take(&mut self.effects)
    }

    /// Every source that the configuration names, by what was last heard of it.
    pub(crate) fn sources(&self) -> Vec<SourceState> {
        let mut states: Vec<SourceState> = Vec::new();
        for (key, claim) in self.claims.iter().filter(|(key, _)| self.is_named(key)) {
            if claim.answer.failing.as_ref().is_some_and(|failing| failing.error == ELSEWHERE) {
                continue;
            }
            let state = SourceState {
                pool: key.pool.clone(),
                kind: key.kind,
                scope: key.scope.to_string(),
                node: key.node.clone().unwrap_or_else(|| claim.by.clone()),
                backends: claim.answer.found.iter().filter(|found| found.standing != Standing::Gone).count(),
                failing: claim.answer.failing.clone(),
                changed: claim.version.wall(),
            };
            // Of leases a line a holder is enough.
            let grouped = key.node.is_none();
            let same = |known: &&mut SourceState| {
                grouped && (&known.pool, known.kind, &known.node) == (&state.pool, state.kind, &state.node)
            };
            match states.iter_mut().find(same) {
                Some(known) => {
                    known.backends += state.backends;
                    known.changed = known.changed.max(state.changed);
                }
                None if grouped && state.backends == 0 => {}
                None if grouped => states.push(SourceState { scope: String::new(), ..state }),
                None => states.push(state),
            }
        }
        states
    }

    fn is_named(&self, key: &ClaimKey) -> bool {
        let Some(pool) = self.services.pools.get(&key.pool) else { return false };
        match key.kind {
            SourceKind::Added => true,
            SourceKind::Lease => pool.lease.is_some(),
            kind => pool.sources.iter().any(|spec| spec.kind() == kind && *spec.scope() == *key.scope),
        }
    }

    fn take(&mut self, claims: Vec<(ClaimKey, Claim)>, at: Moment) {
        let mut news = false;
        for (key, claim) in claims {
            // A claim of this node's own from a former life is as good as one that another node kept.
            // One from the future would win for ever.
            if claim.version.wall().since(at.wall) <= HLC_MAX_AHEAD {
                news |= self.offer(key, claim, at);
            }
        }
        if news {
            self.effects.news = true;
            self.stale = true;
        }
    }

    /// Writes a claim of this node's. Whether there was room.
    fn write(&mut self, key: ClaimKey, answer: Answer, at: Moment) -> bool {
        // Whatever a peer wrote before, this is later.
        let known = self.claims.get(&key).map_or(Hlc::ZERO, |known| known.version);
        let claim = Claim { version: at.hlc.max(Hlc(known.0 + 1)), by: self.me.clone(), answer };
        let merged = self.offer(key.clone(), claim.clone(), at);
        if merged {
            self.effects.news = true;
            self.effects.tell.insert(key, claim);
        }
        merged
    }

    /// Whether a claim is new, and there was room.
    fn offer(&mut self, key: ClaimKey, claim: Claim, at: Moment) -> bool {
        let pool = key.pool.clone();
        let merged = self.claims.merge(key, claim);
        let said = |since: Instant| at.now.saturating_duration_since(since) < SAY_FULL_EVERY;
        if merged == Merged::Full && !self.full.is_some_and(said) {
            self.full = Some(at.now);
            let text = format!("pool {pool}: {}; what is new is left out", OrderError::Full);
            self.note("backends", &pool, text);
        }
        merged == Merged::New
    }

    fn speak(&mut self, word: Word, at: Moment) {
        let lease = Some(LeaseTerms { ttl: word.ttl, how: word.how });
        self.write(word.key, Answer { found: word.found, failing: None, lease }, at);
    }

    /// Forgets leases that are long over, and what nodes said that are long gone.
    fn forget(&mut self, at: Moment) {
        let Self { claims, living, gone, me, .. } = self;
        gone.retain(|node, _| !living.contains(node));
        claims.forget_over(|version| at.wall.since(version.wall()) > REMEMBER);
        claims.retain(|key, _| match &key.node {
            Some(node) if node != me && !living.contains(node) => {
                let since = *gone.entry(node.clone()).or_insert(at.now);
                at.now.saturating_duration_since(since) <= ORPHAN
            }
            _ => true,
        });
    }

    fn tell_of(&mut self, changes: &Changes) {
        let joined = changes.joined.iter().map(|(pool, address, sources)| {
            let who = format!("{address} ({sources})");
            (pool, "joined", who)
        });
        let leaving = changes.leaving.iter().map(|(pool, address)| {
            let what = "drains: its source no longer names it";
            (pool, what, address.to_string())
        });
        let left = changes.left.iter().map(|(pool, address)| (pool, "left", address.to_string()));
        let told = few_or_many(("backends", "backends"), joined.chain(leaving).chain(left));
        self.effects.notes.extend(told);
    }

    fn tell_of_leases<'a>(&mut self, words: impl Iterator<Item = &'a Word>, what: &'static str) {
        let leases = words.map(|word| (&word.key.pool, what, format!("the lease of {}", word.key.scope)));
        let told = few_or_many(("lease", "leases"), leases);
        self.effects.notes.extend(told);
    }

    fn note(&mut self, kind: &'static str, pool: &PoolName, text: String) {
        self.effects.notes.push(Note { kind, subject: pool.to_string(), text });
    }
}

/// One note for all of a pool that the same happened to: by name when they are few.
fn few_or_many<'a>(
    (kind, things): (&'static str, &str),
    all: impl Iterator<Item = (&'a PoolName, &'static str, String)>,
) -> Vec<Note> {
    const FEW: usize = 5;
    let mut by_pool: BTreeMap<(&PoolName, &str), Vec<String>> = BTreeMap::new();
    for (pool, what, who) in all {
        by_pool.entry((pool, what)).or_default().push(who);
    }
    let note = |((pool, what), who): ((&PoolName, &str), Vec<String>)| {
        let who = match who.len() {
            many if many > FEW => format!("{many} {things}:"),
            _ => who.join(", "),
        };
        Note { kind, subject: pool.to_string(), text: format!("pool {pool}: {who} {what}") }
    };
    by_pool.into_iter().map(note).collect()
}

mod orders;

#[cfg(test)]
mod tests;
