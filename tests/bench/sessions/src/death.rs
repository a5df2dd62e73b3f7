//! A region of four: a node dies, the others take over what it kept, and it comes back with an old copy.

use std::path::Path;
use std::time::Duration;

use gossip::keyring::Keyring;

use crate::node::Node;
use crate::region::commit;
use crate::{say, system};

const PATIENCE: Duration = Duration::from_secs(300);
const IN_FLIGHT: usize = 1000;

pub(crate) fn run(pins: usize, meanwhile: usize, data: &Path) -> anyhow::Result<()> {
    let ring = Keyring::generate();
    let mut nodes = Node::start_region(4, data, &ring)?;
    commit(&nodes[0], pins, IN_FLIGHT)?;
    nodes[0].wait_for("all replicas agree", PATIENCE, Node::agree)?;
    for node in &nodes {
        node.runtime.block_on(node.storage.flush());
    }
    if let Some(last) = nodes.pop() {
        last.kill();
    }
    let (begun, cpu) = (nodes[0].clock.now(), system::cpu());
    // Three nodes are left, and three replicas of everything are to be.
    for node in &nodes {
        node.wait_for("three replicas of all", PATIENCE, |node| {
            node.storage.sessions().stats().held >= pins as u64
        })?;
    }
    let took = nodes[0].clock.now() - begun;
    say("from a death to three replicas of all", format!("{:.1}", took.as_secs_f64()), "s");
    let used = (system::cpu() - cpu).as_secs_f64() / took.as_secs_f64() / nodes.len() as f64;
    say("CPU of each node meanwhile", format!("{:.1}", used * 100.0), "% of a core");
    commit(&nodes[0], meanwhile, IN_FLIGHT)?;
    let seeds = [nodes[0].gossip.listen_addr().to_string()];
    let begun = nodes[0].clock.now();
    let back = Node::start(4, data, &ring, &seeds)?;
    nodes[0].meet(4)?;
    nodes[0].wait_for("all replicas agree", PATIENCE, Node::agree)?;
    let took = nodes[0].clock.now() - begun;
    say("from its return to equal replicas", format!("{:.1}", took.as_secs_f64()), "s");
    for node in nodes.into_iter().chain([back]) {
        node.runtime.block_on(node.storage.shutdown());
    }
    Ok(())
}
