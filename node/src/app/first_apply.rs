//! `start --apply`: a configuration that a node brings along.
//!
//! It is applied before the proxy binds its ports, so that a port in use ends the start. A node that joins first learns
//! what the mesh runs: every node may be started with the same command, and the first one makes the revision.

use std::sync::Arc;
use std::time::Duration;

use gossip::state::ClusterView;
use storage::revisions::{ApplyError, Expected, Revisions};
use tokio::sync::watch;

/// How long a node with seeds waits for the mesh; its start waits as long.
const PATIENCE: Duration = Duration::from_secs(3);

/// Applies `body` unless the mesh runs it already. A mesh that cannot be reached in time is no error, and neither is a
/// file that cannot be written: the node then serves what it ran before.
pub(super) async fn apply(
    revisions: &Revisions,
    mut view: watch::Receiver<Arc<ClusterView>>,
    has_seeds: bool,
    body: String,
) {
    if has_seeds && !learnt(revisions, &mut view).await && revisions.current().is_some() {
        tracing::warn!("--apply waits for nobody: no seed answers, the node goes on with what it ran before");
        return;
    }
    match revisions.apply(body, "start --apply".into(), Expected::Any).await {
        Ok(revision) => tracing::info!(epoch = revision.id.epoch, "--apply: in force"),
        Err(ApplyError::Stopped) => {}
        Err(error) => tracing::error!(%error, "--apply failed; the node goes on with what the mesh runs"),
    }
}

/// Waits until this node runs the greatest revision that a peer shows. Whether it got there in time.
async fn learnt(revisions: &Revisions, view: &mut watch::Receiver<Arc<ClusterView>>) -> bool {
    let mut current = revisions.watch();
    let caught_up = async {
        loop {
            let met = {
                let view = view.borrow_and_update();
                let newest = view.members.values().filter_map(|member| member.record.revision).max();
                view.members.len() > 1 && current.borrow_and_update().as_ref().map(|r| r.id) >= newest
            };
            if met {
                return;
            }
            tokio::select! {
                changed = view.changed() => if changed.is_err() { std::future::pending().await },
                changed = current.changed() => if changed.is_err() { std::future::pending().await },
            }
        }
    };
    tokio::time::timeout(PATIENCE, caught_up).await.is_ok()
}
