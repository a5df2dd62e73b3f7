//! A region of three on loopback: how many new sessions a second, and what they leave behind.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use gossip::id::SessionId;
use gossip::keyring::Keyring;
use storage::sessions::Committed;

use crate::micro::pin;
use crate::node::{Node, region};
use crate::{say, system};

const NODES: usize = 3;

pub(crate) fn run(pins: usize, in_flight: usize, rest: u64, data: &Path) -> anyhow::Result<()> {
    let nodes = Node::start_region(NODES, data, &Keyring::generate())?;
    let idle = traffic(&nodes[0], rest);
    let before = system::resident_bytes();
    let (begun, cpu) = (nodes[0].clock.now(), system::cpu());
    let degraded = commit(&nodes[0], pins, in_flight)?;
    let acknowledged = nodes[0].clock.now() - begun;
    for node in &nodes {
        node.runtime.block_on(node.storage.flush());
    }
    let written = nodes[0].clock.now() - begun;
    let rate = |time: Duration| format!("{:.0}", pins as f64 / time.as_secs_f64());
    say("new pins acknowledged", rate(acknowledged), "/s");
    say("new pins acknowledged and on all three disks", rate(written), "/s");
    say("of them not acknowledged in time (I3)", degraded, "");
    let used = (system::cpu() - cpu).as_micros() as f64 / pins.max(1) as f64;
    say("CPU of a new pin, three nodes together", format!("{used:.1}"), "µs");
    nodes[0].wait_for("all replicas agree", Duration::from_secs(120), Node::agree)?;
    let held: u64 = nodes.iter().map(|node| node.storage.sessions().stats().held).sum();
    say("RAM a pin, all in", (system::resident_bytes() - before) / held.max(1), "bytes");
    let disk: u64 = nodes.iter().map(|node| system::disk_bytes(&node.data.join("store"))).sum();
    say("disk a pin", disk / held.max(1), "bytes");
    if let (Some(idle), Some(full)) = (idle, traffic(&nodes[0], rest)) {
        say("traffic at rest without pins", format!("{:.1}", idle / NODES as f64 / 1000.0), "KB/s a node");
        say("traffic at rest with them", format!("{:.1}", full / NODES as f64 / 1000.0), "KB/s a node");
    }
    for node in nodes {
        node.runtime.block_on(node.storage.shutdown());
    }
    Ok(())
}

/// Opens the first node's store again, alone.
pub(crate) fn restart(data: &Path) -> anyhow::Result<()> {
    let node = Node::start(1, data, &Keyring::generate(), &[])?;
    say("pins after a restart", node.storage.sessions().stats().held, "");
    say("restart of the store", format!("{:.2}", node.opened.as_secs_f64()), "s");
    node.runtime.block_on(node.storage.shutdown());
    Ok(())
}

/// New sessions at this node; how many nobody else acknowledged in time.
pub(crate) fn commit(node: &Node, pins: usize, in_flight: usize) -> anyhow::Result<u64> {
    let (begun, degraded) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicU64::new(0)));
    let (home, sessions) = (region()?, node.storage.sessions());
    node.runtime.block_on(async {
        let mut users = tokio::task::JoinSet::new();
        for _ in 0..in_flight {
            let (begun, degraded) = (begun.clone(), degraded.clone());
            let (home, sessions, clock) = (home.clone(), sessions.clone(), node.clock.clone());
            users.spawn(async move {
                while begun.fetch_add(1, Ordering::Relaxed) < pins {
                    let pin = pin(SessionId(rand::random()), clock.wall());
                    if sessions.commit(&home, pin).await == Committed::Degraded {
                        degraded.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        while users.join_next().await.is_some() {}
    });
    Ok(degraded.load(Ordering::Relaxed))
}

/// Bytes a second on the loopback interface while nothing happens.
fn traffic(node: &Node, seconds: u64) -> Option<f64> {
    (seconds > 0).then(|| {
        let before = system::loopback_bytes();
        node.rest(Duration::from_secs(seconds));
        (system::loopback_bytes() - before) as f64 / seconds as f64
    })
}
