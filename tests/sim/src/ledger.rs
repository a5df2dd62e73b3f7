//! What was promised, and whether it was kept.
//!
//! ```text
//!   durable       an acknowledged record survives any single crash: when one is lost, two crashes came together
//!   acknowledged  whoever says so has another node that holds the record (I3)
//!   one place     of two committed moves of a session the later one knew of the earlier one, or both chose the same
//!                 backend, as long as both asked the same replicas and none of these crashed meanwhile
//!   in time       a command ends within 250 ms (I3), an expired record is not found (I4)
//!   equal         after everything works again all replicas hold the same within 30 s, and nobody else holds anything
//! ```

use std::fmt;
use std::time::Duration;

use gossip::clock::Hlc;
use gossip::id::NodeName;
use storage::pin::Pin;
use storage::placement::bucket_of;
use storage::table::Record;

use crate::beliefs::placement;
use crate::node::{Node, START};

/// What expires before all clocks agree that it has is owed no more.
const SKEW: Duration = Duration::from_secs(5);

/// A promise that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which one.
    pub rule: &'static str,
    /// How.
    pub what: String,
    /// When, since the beginning of the run.
    pub at: Duration,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {:.6} s: {}", self.rule, self.at.as_secs_f64(), self.what)
    }
}

/// A record that users rely on.
#[derive(Debug)]
struct Promise {
    session: usize,
    record: Record,
    /// Crashes of holders since two nodes held it.
    crashes: u32,
    /// More than one crash took it: nobody owes it any more.
    void: bool,
}

/// A move that was committed.
#[derive(Debug, Clone)]
pub struct Claim {
    /// Whose.
    pub session: usize,
    /// When it was asked for.
    pub begun: Duration,
    /// When it was answered.
    pub ended: Duration,
    /// What it replaces.
    pub replaces: Hlc,
    /// Where the session went.
    pub pin: Pin,
    /// Who was to agree.
    pub replicas: Vec<NodeName>,
}

/// All promises of a run.
#[derive(Debug, Default)]
pub struct Ledger {
    promises: Vec<Promise>,
    claims: Vec<Claim>,
    crashes: Vec<(Duration, NodeName)>,
}

impl Ledger {
    /// A record was acknowledged: users rely on it.
    ///
    /// # Errors
    /// When no other node holds it though none has crashed since `begun`.
    pub fn promise(
        &mut self,
        session: usize,
        record: Record,
        by: usize,
        begun: Duration,
        at: Duration,
        nodes: &[Node],
    ) -> Result<(), Violation> {
        let holders = holders(&record, nodes);
        let crashed = self.crashes.iter().any(|(crash, _)| *crash >= begun);
        if holders.iter().all(|holder| *holder == by) && !crashed {
            let Record { home, pin } = record;
            let copies: Vec<_> =
                nodes.iter().map(|node| node.held(home, &pin.id).map(|copy| copy.assignment)).collect();
            let what = format!(
                "session {session} was acknowledged to {} as {:?}, and nobody else holds it: {copies:?}",
                nodes[by].text, pin.assignment
            );
            return Err(Violation { rule: "acknowledged", what, at });
        }
        // What a newer assignment has replaced is promised no more.
        self.promises.retain(|old| {
            old.session != session
                || old.record.home != record.home
                || old.record.pin.assignment > record.pin.assignment
        });
        self.promises.push(Promise { session, record, crashes: 0, void: false });
        Ok(())
    }

    /// A move was committed.
    ///
    /// # Errors
    /// When it passed over another one.
    pub fn claim(&mut self, claim: Claim) -> Result<(), Violation> {
        for other in self.claims.iter().filter(|other| other.session == claim.session) {
            let (first, second) = match other.pin.assignment < claim.pin.assignment {
                true => (other, &claim),
                false => (&claim, other),
            };
            let same = first.pin.assignment.backend == second.pin.assignment.backend;
            let knew = second.replaces >= first.pin.assignment.hlc;
            // A session that has ended begins anew.
            let ended = first.pin.is_expired(second.pin.assignment.hlc.wall().plus(SKEW));
            let comparable = first.replicas == second.replicas && first.replicas.len() > 1 && !ended;
            let (from, to) = (first.begun.min(second.begun), first.ended.max(second.ended));
            let forgot =
                self.crashes.iter().any(|(at, who)| (from..=to).contains(at) && first.replicas.contains(who));
            if !same && !knew && comparable && !forgot {
                let at = |claim: &Claim| {
                    let Claim { begun, ended, replaces, pin, .. } = claim;
                    let (hlc, backend) = (pin.assignment.hlc, pin.assignment.backend);
                    format!("{begun:?} to {ended:?}: {replaces:?} became {hlc:?} at {backend:?}")
                };
                let what = format!("session {}: {} and {}", claim.session, at(first), at(second));
                return Err(Violation { rule: "one place", what, at: claim.ended });
            }
        }
        self.claims.push(claim);
        Ok(())
    }

    /// A node has crashed; `nodes` are as they are after it. What lies on disks comes back with them.
    ///
    /// # Errors
    /// When that one crash took a promised record.
    pub fn crashed(
        &mut self,
        who: usize,
        held: &[bool],
        at: Duration,
        nodes: &[Node],
    ) -> Result<(), Violation> {
        self.crashes.push((at, nodes[who].name.clone()));
        for (promise, held) in self.promises.iter_mut().zip(held) {
            if promise.void || !held || promise.record.pin.is_expired(START.plus(at).plus(SKEW)) {
                continue;
            }
            promise.crashes += 1;
            let Record { home, pin } = promise.record;
            let kept = |copy: Option<Pin>| copy.is_some_and(|copy| copy.assignment >= pin.assignment);
            let survives =
                nodes.iter().any(|node| kept(node.held(home, &pin.id)) || kept(node.saved(home, &pin.id)));
            if survives {
                continue;
            }
            if promise.crashes == 1 {
                let what = format!("session {} was lost with {} alone", promise.session, nodes[who].text);
                return Err(Violation { rule: "durable", what, at });
            }
            promise.void = true;
        }
        Ok(())
    }

    /// Which promised records `who` holds, before it crashes; forgets the crashes of those that two nodes hold.
    pub fn before_crash(&mut self, who: usize, nodes: &[Node]) -> Vec<bool> {
        let of = |promise: &mut Promise| {
            let holders = holders(&promise.record, nodes);
            if holders.len() >= 2 {
                promise.crashes = 0;
            }
            holders.contains(&who)
        };
        self.promises.iter_mut().map(of).collect()
    }

    /// A disk was deleted: what lay on it and nowhere else is owed no more.
    pub fn wiped(&mut self, nodes: &[Node]) {
        for promise in &mut self.promises {
            let Record { home, pin } = promise.record;
            let kept = |copy: Option<Pin>| copy.is_some_and(|copy| copy.assignment >= pin.assignment);
            promise.void |=
                !nodes.iter().any(|node| kept(node.held(home, &pin.id)) || kept(node.saved(home, &pin.id)));
        }
    }

    /// Everything works again: whether all replicas hold the same, and what they must hold. `Ok(false)`: not yet.
    ///
    /// # Errors
    /// When they agree on having lost something.
    pub fn settled(&self, at: Duration, nodes: &mut [Node]) -> Result<bool, Violation> {
        let names: Vec<_> = nodes.iter().map(|node| node.text).collect();
        let truth = placement(&names);
        let walls: Vec<_> = nodes.iter_mut().map(|node| node.now(at).wall).collect();
        let last = walls.iter().max().copied().unwrap_or_default().plus(SKEW);
        for node in nodes.iter() {
            for (home, bucket) in node.table.buckets() {
                for pin in node.table.pins(home, bucket, last) {
                    let mut replicas = truth.replicas(home, bucket).peekable();
                    if replicas.peek().is_none() {
                        continue;
                    }
                    let copy =
                        |name: &NodeName| nodes.iter().find(|node| node.name == *name)?.held(home, &pin.id);
                    let is_replica = truth.holds(&node.name, home, bucket);
                    if !is_replica || replicas.any(|replica| copy(replica) != Some(pin)) {
                        return Ok(false);
                    }
                }
            }
        }
        for Promise { session, record: Record { home, pin }, void, .. } in &self.promises {
            if *void || pin.is_expired(last) {
                continue;
            }
            for replica in truth.replicas(*home, bucket_of(&pin.id)) {
                let copy = nodes
                    .iter()
                    .find(|node| node.name == *replica)
                    .and_then(|node| node.held(*home, &pin.id));
                if copy.is_none_or(|copy| copy.assignment < pin.assignment) {
                    let what = format!("session {session} was promised, and all agree that it is not there");
                    return Err(Violation { rule: "durable", what, at });
                }
            }
        }
        Ok(true)
    }
}

/// The running nodes that hold a record at least as new as this one.
fn holders(record: &Record, nodes: &[Node]) -> Vec<usize> {
    let Record { home, pin } = record;
    let newer = |copy: Pin| copy.assignment >= pin.assignment;
    (0..nodes.len()).filter(|node| nodes[*node].held(*home, &pin.id).is_some_and(newer)).collect()
}
