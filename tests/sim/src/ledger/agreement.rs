//! What all replicas must hold once all is well.

use std::time::Duration;

use gossip::id::NodeName;
use storage::placement::bucket_of;
use storage::table::Record;

use super::{Forward, Ledger, Promise, SETTLE, SKEW, Violation, holders};
use crate::beliefs::placement;
use crate::node::{Node, START};

/// So long it may take after a crash or a cut until all replicas hold again what was promised: a round a second later, of four
/// questions one after the other, each of which may be lost, is given up after 2 s, and begins the next round.
const REPAIR: Duration = Duration::from_secs(10);

impl Ledger {
    /// All is well since `calm_since`.
    ///
    /// # Errors
    /// When a replica still lacks what was promised, though it had time to be told.
    pub fn repaired(&self, calm_since: Duration, at: Duration, nodes: &[Node]) -> Result<(), Violation> {
        if at < calm_since + REPAIR {
            return Ok(());
        }
        let names: Vec<_> = nodes.iter().map(|node| node.text).collect();
        let truth = placement(&names);
        for Promise { session, record, since, void, .. } in &self.promises {
            let Record { home, pin } = record;
            if *void || *since + SETTLE > at || pin.is_expired(START.plus(at).plus(SKEW)) {
                continue;
            }
            let holders = holders(record, nodes);
            let lacks = |name: &&NodeName| !holders.iter().any(|holder| nodes[*holder].name == **name);
            if let Some(who) = truth.replicas(*home, bucket_of(&pin.id)).find(lacks) {
                let what = format!(
                    "{who} lacks session {session}, promised at {since:?}; all is well since {calm_since:?}"
                );
                return Err(Violation { rule: "repaired", what, at });
            }
        }
        Ok(())
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
        for Forward { session, record: Record { home, pin }, by: (by, life) } in &self.forwards {
            if nodes[*by].life != *life || pin.is_expired(last) {
                continue;
            }
            let knows = |name: &NodeName| {
                let copy =
                    nodes.iter().find(|node| node.name == *name).and_then(|node| node.held(*home, &pin.id));
                copy.is_some_and(|copy| copy.assignment >= pin.assignment)
            };
            if !truth.replicas(*home, bucket_of(&pin.id)).all(knows) {
                let what = format!("the former home of session {session} does not know where it went");
                return Err(Violation { rule: "forward", what, at });
            }
        }
        Ok(true)
    }
}
