//! Health as a whole, pure: configuration, view, results, evidence and time in; due probes, verdicts and the table out.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gossip::clock::Hlc;
use gossip::id::{BackendId, NodeName, PoolName, RegionName};
use gossip::state::{BackendState, ClusterView, Failure, MemberState, Verdict};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::HealthTable;
use super::agenda::Agenda;
use super::assign::Roster;
use super::target::{PeerWord, Target};
use crate::backend::Evidence;
use crate::config::model::{Pool, PoolProtocol, Probe, Region, SendProxy};

/// For how long a node that lost all its peers at once holds on to what they said (I5).
pub const FREEZE: Duration = Duration::from_secs(10);
/// Backends taken out of the configuration that are remembered for their return; beyond it the longest gone are not.
const RETIRED_MAX: usize = 4096;
/// Every interval is stretched or shortened by up to this share.
const JITTER: f64 = 0.1;

/// One moment on both clocks that health needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// For timers.
    pub now: Instant,
    /// For breaks.
    pub hlc: Hlc,
}

/// A probe to be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeOrder {
    /// Whom it is about.
    pub backend: BackendId,
    /// Handed back with the result; tells a result that came too late.
    pub ticket: u64,
    /// Where to connect.
    pub address: SocketAddr,
    /// What to ask.
    pub probe: Probe,
    /// What its pool speaks.
    pub protocol: PoolProtocol,
    /// The PROXY header to send first.
    pub send_proxy: Option<SendProxy>,
    /// The pool whose TLS is spoken.
    pub tls: Option<PoolName>,
    /// From the first packet to the verdict.
    pub timeout: Duration,
}

/// The pure core of health.
#[derive(Debug)]
pub struct Checker {
    me: NodeName,
    region: RegionName,
    rng: StdRng,
    regions: Vec<Region>,
    targets: BTreeMap<BackendId, Target>,
    /// What the process before this one concluded, until the first configuration is in force.
    recalled: HealthTable,
    /// When which backend went out of the configuration.
    retired: BTreeMap<BackendId, Hlc>,
    view: Option<Arc<ClusterView>>,
    /// Who can probe; as it was before, while frozen.
    roster: Roster,
    /// Since when this node is isolated, while that freezes what it was told (I5).
    frozen: Option<Instant>,
    agenda: Agenda,
    tickets: u64,
    table: HealthTable,
    table_changed: bool,
    verdicts: BTreeMap<BackendId, Verdict>,
    verdicts_changed: bool,
    failures: BTreeMap<BackendId, Failure>,
    failures_changed: bool,
}

/// What changed since it was last asked for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// The whole table, if anything in it changed.
    pub table: Option<HealthTable>,
    /// All of this node's verdicts, if one changed.
    pub verdicts: Option<BTreeMap<PoolName, Vec<Verdict>>>,
    /// Why this node's probes fail, if that changed.
    pub failures: Option<BTreeMap<PoolName, Vec<Failure>>>,
}

impl Checker {
    /// Knows nothing yet. `seed` feeds the jitter.
    pub fn new(me: NodeName, region: RegionName, seed: u64) -> Self {
        Self {
            rng: StdRng::seed_from_u64(seed),
            regions: Vec::new(),
            targets: BTreeMap::new(),
            recalled: HealthTable::new(),
            retired: BTreeMap::new(),
            view: None,
            roster: Roster::alone(&me, &region),
            frozen: None,
            agenda: Agenda::default(),
            tickets: 0,
            table: HealthTable::new(),
            table_changed: false,
            verdicts: BTreeMap::new(),
            verdicts_changed: false,
            failures: BTreeMap::new(),
            failures_changed: false,
            me,
            region,
        }
    }

    /// Begins with what another process of this node concluded a moment ago.
    pub fn recall(&mut self, before: HealthTable) {
        self.recalled = before;
    }

    /// A configuration is in force. Backends that stay keep all that is known of them; new ones are probed at once. One
    /// that was taken out and returns comes out of a break: its sessions may have moved (I2).
    pub fn configure<'a>(
        &mut self,
        regions: &[Region],
        pools: impl Iterator<Item = (&'a PoolName, &'a Arc<Pool>)>,
        at: Moment,
    ) {
        let mut old = std::mem::take(&mut self.targets);
        let recalled = std::mem::take(&mut self.recalled);
        self.regions = regions.to_vec();
        for (_, pool) in pools {
            for backend in &pool.backends {
                let target = match old.remove(&backend.id) {
                    Some(mut target) => {
                        target.reconfigure(pool.clone(), backend.clone(), at.now);
                        target
                    }
                    None => {
                        let break_ended = self.retired.remove(&backend.id).map_or(Hlc::ZERO, |_| at.hlc);
                        let mut target = Target::new(pool.clone(), backend.clone(), break_ended, at.now);
                        if let Some(before) = recalled.get(&backend.id) {
                            target.recall(before);
                        }
                        target
                    }
                };
                self.targets.insert(backend.id, target);
            }
        }
        for gone in old.keys() {
            self.retired.insert(*gone, at.hlc);
            self.agenda.set(*gone, None);
            self.table_changed |= self.table.remove(gone).is_some();
            self.verdicts_changed |= self.verdicts.remove(gone).is_some();
            self.failures_changed |= self.failures.remove(gone).is_some();
        }
        while self.retired.len() > RETIRED_MAX
            && let Some(oldest) = self.retired.iter().min_by_key(|(_, when)| **when).map(|(id, _)| *id)
        {
            self.retired.remove(&oldest);
        }
        self.review(Reassign::All, at);
    }

    /// The mesh looks like this now. While this node is isolated the peers' last words stay in force.
    pub fn observe(&mut self, view: Arc<ClusterView>, at: Moment) {
        self.view = Some(view);
        self.review(Reassign::IfMembersChanged, at);
    }

    /// A request of this node met this.
    pub fn evidence(&mut self, backend: BackendId, evidence: Evidence, at: Moment) {
        let Some(target) = self.targets.get_mut(&backend) else { return };
        if target.evidence(evidence, at.now) {
            tracing::info!(pool = %target.pool.name, backend = %target.backend.address, ?evidence, "ejected");
            self.settle(backend, at);
        }
    }

    /// A probe came back, `Err` with the reason in words.
    pub fn probed(&mut self, backend: BackendId, ticket: u64, result: Result<(), String>, at: Moment) {
        let Some(target) = self.targets.get_mut(&backend) else { return };
        target.probed(ticket, result, at);
        self.settle(backend, at);
    }

    /// Time passed: returns the probes to start now, `room` at most. Call again when there is room or time.
    pub fn due(&mut self, room: usize, at: Moment) -> Vec<ProbeOrder> {
        if self.thaw().is_some_and(|thaw| thaw <= at.now) {
            self.review(Reassign::IfMembersChanged, at);
        }
        let mut orders = Vec::new();
        while orders.len() < room
            && let Some(id) = self.agenda.pop_due(at.now)
        {
            let Some(target) = self.targets.get_mut(&id) else { continue };
            target.tick(at);
            if target.probe_due(at.now)
                && let Some(check) = target.check()
            {
                self.tickets += 1;
                orders.push(ProbeOrder {
                    backend: id,
                    ticket: self.tickets,
                    address: target.backend.address,
                    probe: check.probe.clone(),
                    protocol: target.pool.protocol,
                    send_proxy: target.pool.send_proxy,
                    tls: target.pool.tls.as_ref().map(|_| target.pool.name.clone()),
                    timeout: check.timeout,
                });
                target.begin_probe(self.tickets, self.rng.random_range(1.0 - JITTER..=1.0 + JITTER), at.now);
            }
            self.settle(id, at);
        }
        orders
    }

    /// When [`Checker::due`] has something to do next, if nothing else happens.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.agenda.next().into_iter().chain(self.thaw()).min()
    }

    /// Everything known now.
    pub fn table(&self) -> &HealthTable {
        &self.table
    }

    /// What changed since the last call.
    pub fn take_changes(&mut self) -> Changes {
        let table = std::mem::take(&mut self.table_changed).then(|| self.table.clone());
        let verdicts = std::mem::take(&mut self.verdicts_changed).then(|| {
            let mut by_pool: BTreeMap<PoolName, Vec<Verdict>> = BTreeMap::new();
            for (id, verdict) in &self.verdicts {
                if let Some(target) = self.targets.get(id) {
                    by_pool.entry(target.pool.name.clone()).or_default().push(*verdict);
                }
            }
            by_pool
        });
        let failures = std::mem::take(&mut self.failures_changed).then(|| {
            let mut by_pool: BTreeMap<PoolName, Vec<Failure>> = BTreeMap::new();
            for (id, failure) in &self.failures {
                if let Some(target) = self.targets.get(id) {
                    by_pool.entry(target.pool.name.clone()).or_default().push(failure.clone());
                }
            }
            by_pool
        });
        Changes { table, verdicts, failures }
    }

    /// Whether [`Checker::take_changes`] has any.
    pub fn has_changes(&self) -> bool {
        self.table_changed || self.verdicts_changed || self.failures_changed
    }

    /// When the freeze ends.
    fn thaw(&self) -> Option<Instant> {
        self.frozen.map(|since| since + FREEZE)
    }

    /// Looks at every backend anew: the configuration or the mesh changed, or the freeze is over.
    fn review(&mut self, reassign: Reassign, at: Moment) {
        let mut reassign = reassign == Reassign::All;
        let mut words = None;
        let was_frozen = self.frozen;
        if let Some(view) = &self.view {
            self.frozen = view.isolated_since.filter(|since| at.now < *since + FREEZE);
            if self.frozen.is_none() {
                let roster = Roster::new(view, &self.me, &self.region);
                reassign |= roster != self.roster;
                self.roster = roster;
                words = Some(peers_words(view, &self.me));
            }
        }
        let all = reassign || was_frozen != self.frozen;
        let ids: Vec<BackendId> = self.targets.keys().copied().collect();
        for id in ids {
            let Some(target) = self.targets.get_mut(&id) else { continue };
            let mut changed = all;
            if reassign {
                let probers = match target.check() {
                    Some(_) => self.roster.probers(id, &target.backend.region, &self.regions),
                    None => Vec::new(),
                };
                target.assign(&self.me, probers, at.now);
            }
            if let Some(words) = &mut words {
                changed |= target.hear(words.remove(&id).unwrap_or_default(), at.now);
            }
            if changed {
                self.settle(id, at);
            }
        }
    }

    /// After something happened to one backend: concludes, takes note of what changed, makes the next appointment.
    fn settle(&mut self, id: BackendId, at: Moment) {
        let Some(target) = self.targets.get_mut(&id) else { return };
        target.conclude(&self.me, self.frozen, at);
        self.agenda.set(id, target.appointment());

        let verdict = target.verdict();
        if self.verdicts.get(&id) != verdict.as_ref() {
            self.verdicts_changed = true;
            match verdict {
                Some(verdict) => self.verdicts.insert(id, verdict),
                None => self.verdicts.remove(&id),
            };
        }
        let failure = target.told_failure();
        if self.failures.get(&id) != failure.as_ref() {
            self.failures_changed = true;
            match failure {
                Some(failure) => self.failures.insert(id, failure),
                None => self.failures.remove(&id),
            };
        }
        let health = target.health(&self.me);
        let before = self.table.get(&id);
        if before != Some(&health) {
            if before.map(|before| before.state) != Some(health.state) {
                let (pool, backend) = (&target.pool.name, target.backend.address);
                let (state, reason) = (health.state.as_str(), health.reason.as_str());
                match health.state {
                    BackendState::Unknown => tracing::debug!(%pool, %backend, state, reason, "backend state"),
                    BackendState::Down => tracing::warn!(%pool, %backend, state, reason, "backend state"),
                    _ if reason.is_empty() => tracing::info!(%pool, %backend, state, "backend state"),
                    _ => tracing::info!(%pool, %backend, state, reason, "backend state"),
                }
            }
            if health.ejected.is_none() && before.is_some_and(|before| before.ejected.is_some()) {
                tracing::info!(pool = %target.pool.name, backend = %target.backend.address, "ejection over");
            }
            self.table_changed = true;
            self.table.insert(id, health);
        }
    }
}

/// Whether probers are chosen anew although the members are the same.
#[derive(PartialEq, Eq)]
enum Reassign {
    All,
    IfMembersChanged,
}

/// What the other members that count say, by backend.
fn peers_words(view: &ClusterView, me: &NodeName) -> HashMap<BackendId, Vec<PeerWord>> {
    let mut words: HashMap<BackendId, Vec<PeerWord>> = HashMap::new();
    for member in view.members.values().filter(|member| member.counts() && member.record.name != *me) {
        let failures: HashMap<BackendId, &Failure> =
            member.failures.values().flatten().map(|failure| (failure.backend, failure)).collect();
        for verdict in member.verdicts.values().flatten() {
            let by = member.record.name.clone();
            let fresh = member.state != MemberState::Suspect;
            let failure = failures.get(&verdict.backend).map(|failure| (failure.text.clone(), failure.at));
            let word = PeerWord { by, verdict: *verdict, fresh, failure };
            words.entry(verdict.backend).or_default().push(word);
        }
    }
    words
}

#[cfg(test)]
mod tests;
