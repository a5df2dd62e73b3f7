//! Lays what all sources say over the configured pools. Pure.
//!
//! ```text
//!   [pool.web] backend = […] ─┐
//!   claims of all nodes ──────┼─▶ by address: standing, place, weight, who names it ─▶ Pool with all its backends
//!   who lives ────────────────┘
//!
//!   named ──▶ there ── nobody names it ──▶ leaving, for `drain` ──▶ out
//!               ▲                            │
//!               └──────── named again ───────┘        gone for certain: out at once
//! ```
//!
//! Several nodes ask one source. While one of them that lives has a good answer, the answers of the dead and of those
//! whose source fails do not count; when none has, all last answers together stand. So a source that fails, or a node that
//! dies, never takes a backend away; health decides what of it is used.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gossip::id::{BackendId, NodeName, PoolName};

use super::claims::{Claim, ClaimKey, Claims};
use super::found::{Found, Standing};
use crate::config::model::{Backend, Pool, Services, SourceKind, SourceKinds, SourceSpec};

/// The most backends of one pool; what comes later by address is left out.
pub(crate) const POOL_MAX: usize = 20_000;

/// The pools that sources add to.
pub(crate) type Pools = BTreeMap<PoolName, Arc<Pool>>;

/// All pools with what sources found, and what is leaving them.
#[derive(Debug)]
pub(crate) struct Roster {
    /// This node's own admin port, which needs no token on loopback: no source may lead users there.
    admin: SocketAddr,
    pools: BTreeMap<PoolName, Kept>,
    merged: Arc<Pools>,
    /// When the next is taken out.
    due: Option<Instant>,
}

#[derive(Debug)]
struct Kept {
    config: Arc<Pool>,
    members: BTreeMap<SocketAddr, Member>,
    /// The pool as last made, and from which configuration.
    made: Option<(Arc<Pool>, Arc<Pool>)>,
}

#[derive(Debug, Clone)]
struct Member {
    backend: Arc<Backend>,
    drain: Option<Duration>,
    /// When it is taken out; set while nobody names it.
    until: Option<Instant>,
}

/// What came and went.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    /// New in a pool, by who names it.
    pub(crate) joined: Vec<(PoolName, SocketAddr, SourceKinds)>,
    /// Nobody names it any more.
    pub(crate) leaving: Vec<(PoolName, SocketAddr)>,
    /// Taken out.
    pub(crate) left: Vec<(PoolName, SocketAddr)>,
}

impl Roster {
    /// That of a node whose admin port is at `admin`; without any pools.
    pub(crate) fn new(admin: SocketAddr) -> Self {
        Self { admin, pools: BTreeMap::new(), merged: Arc::default(), due: None }
    }

    /// Whether an address is this node's admin port, however it is written.
    pub(crate) fn is_admin(&self, address: SocketAddr) -> bool {
        let plain = |address: SocketAddr| (address.ip().to_canonical(), address.port());
        plain(address) == plain(self.admin)
    }

    /// The pools whose backends do not all stand in the file.
    pub(crate) fn pools(&self) -> Arc<Pools> {
        self.merged.clone()
    }

    /// The next time at which something is taken out.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.due
    }

    /// Takes everything into account. The pools are new ones if something changed, and each pool that did not is shared.
    pub(crate) fn update(
        &mut self,
        services: &Services,
        claims: &Claims,
        living: &BTreeSet<NodeName>,
        now: Instant,
    ) -> Changes {
        let mut changes = Changes::default();
        let mut merged = Pools::new();
        self.pools.retain(|name, _| services.pools.contains_key(name));
        for (name, config) in &services.pools {
            let named = self.named(config, claims, living);
            let kept = self.pools.entry(name.clone()).or_insert_with(|| Kept {
                config: config.clone(),
                members: BTreeMap::new(),
                made: None,
            });
            kept.config = config.clone();
            kept.update(named, now, &mut changes);
            let only_static = |member: &Member| member.backend.sources == STATIC;
            if !kept.members.values().all(only_static) {
                merged.insert(name.clone(), kept.pool());
            }
        }
        let members = self.pools.values().flat_map(|kept| kept.members.values());
        self.due = members.filter_map(|member| member.until).min();
        let same = merged.len() == self.merged.len()
            && merged.iter().zip(&*self.merged).all(|(a, b)| a.0 == b.0 && Arc::ptr_eq(a.1, b.1));
        if !same {
            self.merged = Arc::new(merged);
        }
        changes
    }

    /// All that is said of each address of a pool.
    fn named<'a>(
        &self,
        config: &'a Pool,
        claims: &'a Claims,
        living: &BTreeSet<NodeName>,
    ) -> BTreeMap<SocketAddr, Named<'a>> {
        let mut named = BTreeMap::new();
        for backend in &config.backends {
            let (standing, of) = (Standing::Serving, Of::File(backend));
            named.insert(backend.address, Named { sources: STATIC, standing, drain: None, of });
        }
        // Claims stand by kind, in the order in which kinds decide, then by scope.
        let all: Vec<(&ClaimKey, &Claim)> = claims.of(&config.name).collect();
        for same in all.chunk_by(|a, b| a.0.kind == b.0.kind && a.0.scope == b.0.scope) {
            let kind = same[0].0.kind;
            let local = match kind {
                SourceKind::Static => continue,
                SourceKind::Added => true,
                SourceKind::Lease if config.lease.is_none() => continue,
                SourceKind::Lease => true,
                SourceKind::Retired => {
                    retire(&mut named, same, living);
                    continue;
                }
                _ => match spec(config, same[0].0) {
                    Some(spec) => spec.is_local(),
                    None => continue,
                },
            };
            let good = |(key, claim): &(&ClaimKey, &Claim)| {
                claim.answer.failing.is_none() && key.node.as_ref().is_none_or(|node| living.contains(node))
            };
            let any_good = same.iter().any(good);
            for (_, claim) in same.iter().filter(|word| local || !any_good || good(word)) {
                for found in claim.answer.found.iter().filter(|found| !self.is_admin(found.address)) {
                    let entry = named.entry(found.address).or_insert_with(|| Named {
                        sources: SourceKinds::default(),
                        standing: found.standing,
                        drain: found.drain,
                        of: Of::Source(found),
                    });
                    entry.sources = entry.sources.and(SourceKinds::of(kind));
                    entry.standing = entry.standing.min(found.standing);
                    entry.drain = entry.drain.max(found.drain);
                }
            }
        }
        named
    }
}

const STATIC: SourceKinds = SourceKinds::of(SourceKind::Static);

/// One address with all that is said of it.
#[derive(Debug)]
struct Named<'a> {
    sources: SourceKinds,
    standing: Standing,
    drain: Option<Duration>,
    /// Of the first source that names it.
    of: Of<'a>,
}

#[derive(Debug)]
enum Of<'a> {
    File(&'a Arc<Backend>),
    Source(&'a Found),
}

/// What a living node is about to stop gets no new sessions, whoever names it. They stand last among the claims.
fn retire(
    named: &mut BTreeMap<SocketAddr, Named<'_>>,
    same: &[(&ClaimKey, &Claim)],
    living: &BTreeSet<NodeName>,
) {
    for (_, claim) in same.iter().filter(|(_, claim)| living.contains(&claim.by)) {
        for found in &claim.answer.found {
            if let Some(named) = named.get_mut(&found.address) {
                named.standing = named.standing.max(Standing::Leaving);
            }
        }
    }
}

/// The source in the configuration whose claim this is.
fn spec<'a>(config: &'a Pool, key: &ClaimKey) -> Option<&'a SourceSpec> {
    config.sources.iter().find(|spec| spec.kind() == key.kind && *spec.scope() == *key.scope)
}

impl Kept {
    fn update(&mut self, named: BTreeMap<SocketAddr, Named<'_>>, now: Instant, changes: &mut Changes) {
        let pool = &self.config.name;
        let mut before = std::mem::take(&mut self.members);
        for (address, named) in named {
            let old = before.remove(&address);
            if named.standing == Standing::Gone {
                if old.is_some() {
                    changes.left.push((pool.clone(), address));
                }
                continue;
            }
            if self.members.len() == POOL_MAX {
                continue;
            }
            let backend = match old.as_ref().filter(|old| named.says(&old.backend)) {
                Some(old) => old.backend.clone(),
                None => named.backend(pool),
            };
            if old.is_none_or(|old| old.until.is_some()) && named.sources != STATIC {
                changes.joined.push((pool.clone(), address, named.sources));
            }
            self.members.insert(address, Member { backend, drain: named.drain, until: None });
        }
        for (address, mut member) in before {
            // What the operator takes out of the file is out.
            if member.backend.sources == STATIC {
                continue;
            }
            // Its source had said that it would go, and it has drained since.
            if member.until.is_none() && member.backend.leaving {
                changes.left.push((pool.clone(), address));
                continue;
            }
            let until = match member.until {
                Some(until) => until,
                None => {
                    changes.leaving.push((pool.clone(), address));
                    member.backend = Arc::new(Backend { leaving: true, ..(*member.backend).clone() });
                    now + member.drain.unwrap_or(self.config.drain)
                }
            };
            if until <= now {
                changes.left.push((pool.clone(), address));
                continue;
            }
            member.until = Some(until);
            self.members.insert(address, member);
        }
    }

    /// The pool with these backends: the one of before when it is the same.
    fn pool(&mut self) -> Arc<Pool> {
        let backends = || self.members.values().map(|member| &member.backend);
        if let Some((config, made)) = &self.made
            && Arc::ptr_eq(config, &self.config)
            && made.backends.len() == self.members.len()
            && made.backends.iter().zip(backends()).all(|(a, b)| Arc::ptr_eq(a, b))
        {
            return made.clone();
        }
        let made = Arc::new(Pool { backends: backends().cloned().collect(), ..(*self.config).clone() });
        self.made = Some((self.config.clone(), made.clone()));
        made
    }
}

impl Named<'_> {
    /// Whether the backend is as it is named.
    fn says(&self, backend: &Backend) -> bool {
        let leaving = self.standing == Standing::Leaving;
        let same = backend.sources == self.sources && backend.leaving == leaving;
        same && match self.of {
            Of::File(file) => {
                (&file.region, &file.zone, &file.rack, file.weight, file.priority)
                    == (&backend.region, &backend.zone, &backend.rack, backend.weight, backend.priority)
            }
            Of::Source(found) => {
                (&found.region, &found.zone, &found.rack, found.weight, found.priority)
                    == (&backend.region, &backend.zone, &backend.rack, backend.weight, backend.priority)
            }
        }
    }

    fn backend(&self, pool: &PoolName) -> Arc<Backend> {
        let leaving = self.standing == Standing::Leaving;
        match self.of {
            Of::File(file) if self.sources == STATIC => file.clone(),
            Of::File(file) => {
                let sources = self.sources;
                Arc::new(Backend { sources, leaving, ..(**file).clone() })
            }
            Of::Source(found) => Arc::new(Backend {
                id: BackendId::of(pool, found.address),
                address: found.address,
                region: found.region.clone(),
                zone: found.zone.clone(),
                rack: found.rack.clone(),
                weight: found.weight,
                sources: self.sources,
                leaving,
                priority: found.priority,
            }),
        }
    }
}

#[cfg(test)]
mod tests;
