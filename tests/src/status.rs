//! What `meridian status -o json` says: the contract, and no more than it.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

/// The whole.
#[derive(Debug, Clone, Deserialize)]
pub struct Status {
    /// The node that answered.
    pub node: String,
    /// All members it knows.
    pub members: Vec<Member>,
    /// The revision in force; none before the first apply.
    pub revision: Option<Revision>,
    /// The pools of that revision.
    pub pools: Vec<Pool>,
    /// The sessions.
    pub sessions: Sessions,
    /// What the node that answered counted.
    pub counters: Counters,
    /// Round trips between nodes in milliseconds: from, to; none where nobody knows.
    pub rtt_ms: BTreeMap<String, BTreeMap<String, Option<f64>>>,
    /// What needs attention, in words.
    pub problems: Vec<String>,
}

/// What a node counted since it started, by name.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Counters {
    /// Requests and TCP connections, by the reason they ended with.
    pub ends: BTreeMap<String, u64>,
    /// Connections of users.
    pub connections: BTreeMap<String, u64>,
    /// Connections that were cut for what the client did.
    pub cut: BTreeMap<String, u64>,
}

impl Counters {
    /// How many requests ended so.
    pub fn ended(&self, how: &str) -> u64 {
        self.ends.get(how).copied().unwrap_or_default()
    }

    /// How many connections were cut for this.
    pub fn cut(&self, why: &str) -> u64 {
        self.cut.get(why).copied().unwrap_or_default()
    }
}

/// One member of the mesh.
#[derive(Debug, Clone, Deserialize)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Its region.
    pub region: String,
    /// Its zone, if it has one.
    pub zone: Option<String>,
    /// `alive suspect dead draining left`.
    pub state: String,
    /// The version it runs.
    pub version: String,
    /// The round trip to it.
    pub rtt_ms: Option<f64>,
}

/// The revision in force.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Revision {
    /// One more than its parent's.
    pub epoch: u64,
    /// Of its content.
    pub hash: String,
    /// How many nodes have it.
    pub nodes_on: usize,
    /// Of how many.
    pub nodes: usize,
}

/// One pool.
#[derive(Debug, Clone, Deserialize)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// All its backends in all regions.
    pub backends: Vec<Backend>,
}

/// One backend.
#[derive(Debug, Clone, Deserialize)]
pub struct Backend {
    /// `IP:PORT`.
    pub address: String,
    /// Where it stands.
    pub region: String,
    /// In which zone of it.
    pub zone: Option<String>,
    /// `up going-down down going-up draining maintenance ejected unknown`.
    pub state: String,
    /// Who named it.
    pub source: String,
    /// The weight in force.
    pub weight: u32,
    /// Requests it is working on.
    pub in_flight: u64,
    /// Sessions that stay there.
    pub sessions: u64,
    /// Why it is in that state.
    pub reason: Option<String>,
}

/// The sessions.
#[derive(Debug, Clone, Deserialize)]
pub struct Sessions {
    /// How many this node knows of.
    pub count: u64,
}

impl Status {
    /// The names of the members in a state.
    pub fn members_that_are(&self, state: &str) -> BTreeSet<&str> {
        self.members
            .iter()
            .filter(|member| member.state == state)
            .map(|member| member.name.as_str())
            .collect()
    }

    /// One member.
    pub fn member(&self, name: &str) -> Result<&Member> {
        let member = self.members.iter().find(|member| member.name == name);
        member.with_context(|| format!("{} does not know {name}", self.node))
    }

    /// The backend at an address, in whichever pool.
    pub fn backend(&self, address: impl ToString) -> Result<&Backend> {
        let address = address.to_string();
        let mut backends = self.pools.iter().flat_map(|pool| &pool.backends);
        let backend = backends.find(|backend| backend.address == address);
        backend.with_context(|| format!("{} does not know the backend {address}", self.node))
    }

    /// An error that tells what is amiss unless all backends are in this state.
    pub fn all_backends_are(&self, state: &str) -> Result<()> {
        self.all_backends_are_of(&[state])
    }

    /// The same unless each is in one of these states.
    pub fn all_backends_are_of(&self, states: &[&str]) -> Result<()> {
        ensure!(!self.pools.is_empty(), "{} has no pools", self.node);
        for backend in self.pools.iter().flat_map(|pool| &pool.backends) {
            let (address, is) = (&backend.address, &backend.state);
            let why = backend.reason.as_deref().unwrap_or("no reason given");
            ensure!(states.contains(&is.as_str()), "{} sees {address} as {is}: {why}", self.node);
        }
        Ok(())
    }
}
