//! `start --apply`: a configuration that a node brings along.
//!
//! It is applied before the proxy binds its ports, so that a port in use ends the start. A node that joins first learns
//! what the mesh runs: every node may be started with the same command, and the first one makes the revision. From then on
//! the mesh's revision stands, whatever the command says at the next start, until the file itself changes: what was applied since
//! is newer than a file that lay there all the time. Which text this node brought along last is kept as a hash:
//!
//! ```text
//!   DATA/services.brought     BLAKE3 of the text, 64 hexadecimal digits
//! ```

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use gossip::state::ClusterView;
use storage::revisions::{ApplyError, Expected, Revision, Revisions};
use tokio::sync::watch;

use crate::cautions;
use crate::config::services;

/// How long a node with seeds waits for the mesh; its start waits as long.
const PATIENCE: Duration = Duration::from_secs(3);
const BROUGHT: &str = "services.brought";

/// What to do with the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plan {
    /// The mesh runs it.
    InForce,
    /// Nothing is in force, or the file has changed since this node brought it along.
    Apply(Expected),
    /// This node brought it along before; another one was applied since.
    Superseded,
    /// This node has never brought one along, and the mesh runs another one.
    Another,
}

fn plan(current: Option<&Revision>, brought: Option<&str>, body: &str) -> Plan {
    match (current, brought) {
        (None, _) => Plan::Apply(Expected::Nothing),
        (Some(current), _) if current.body == body => Plan::InForce,
        (Some(_), Some(hash)) if hash == hash_of(body) => Plan::Superseded,
        (Some(current), Some(_)) => Plan::Apply(Expected::Revision(current.id)),
        (Some(_), None) => Plan::Another,
    }
}

/// Applies `body` when nothing is in force, or when it is another one than this node brought along last. A mesh that cannot be
/// reached in time is no error, and neither is a file that cannot be written: the node then serves what it ran before.
pub(super) async fn apply(
    revisions: &Revisions,
    mut view: watch::Receiver<Arc<ClusterView>>,
    has_seeds: bool,
    data: &Path,
    body: String,
) {
    if has_seeds && !learnt(revisions, &mut view).await && revisions.current().is_some() {
        tracing::warn!("--apply waits for nobody: no seed answers, the node goes on with what it ran before");
        return;
    }
    let current = revisions.current();
    let epoch = current.as_ref().map(|current| current.id.epoch);
    let brought = std::fs::read_to_string(data.join(BROUGHT)).ok();
    match plan(current.as_deref(), brought.as_deref().map(str::trim), &body) {
        Plan::InForce => {
            tracing::info!(epoch, "--apply: in force already");
            note(data, &body);
        }
        Plan::Superseded => tracing::info!(
            epoch,
            "--apply: the file is the one of the last start, and the mesh runs a later revision, which stands"
        ),
        Plan::Another => tracing::warn!(
            epoch,
            "--apply: the mesh runs another configuration than this file, and it stands; to have the file everywhere: meridian apply FILE"
        ),
        Plan::Apply(expected) => put_in_force(revisions, current.as_deref(), expected, data, body).await,
    }
}

async fn put_in_force(
    revisions: &Revisions,
    current: Option<&Revision>,
    expected: Expected,
    data: &Path,
    body: String,
) {
    let parse = |text: &str| services::parse("services.toml", text).ok().map(|valid| valid.services);
    let before = current.and_then(|current| parse(&current.body)).unwrap_or_default();
    if let Some(lost) = parse(&body).and_then(|after| cautions::of_loss(&before, &after)) {
        tracing::error!(
            "--apply: {lost}; the mesh's revision stands; if it is meant: meridian apply --force FILE"
        );
        return;
    }
    match revisions.apply(body.clone(), "start --apply".into(), expected).await {
        Ok(revision) => {
            tracing::info!(epoch = revision.id.epoch, "--apply: in force");
            note(data, &body);
        }
        Err(ApplyError::Stopped) => {}
        Err(ApplyError::Conflict { .. }) => tracing::warn!(
            "--apply: another revision was applied just now, and it stands; to have the file everywhere: meridian apply FILE"
        ),
        Err(error) => tracing::error!(%error, "--apply failed; the node goes on with what the mesh runs"),
    }
}

fn hash_of(body: &str) -> String {
    blake3::hash(body.as_bytes()).to_hex().to_string()
}

/// Keeps in mind that this text was brought along.
fn note(data: &Path, body: &str) {
    if let Err(error) = std::fs::write(data.join(BROUGHT), hash_of(body) + "\n") {
        tracing::warn!(file = BROUGHT, %error, "cannot be written; a changed file will have to be applied with: meridian apply FILE");
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

#[cfg(test)]
mod tests {
    use gossip::clock::Wall;
    use gossip::id::NodeName;

    use super::*;

    #[test]
    fn a_file_that_has_not_changed_turns_nothing_back() {
        let node = NodeName::new("eu-1").unwrap();
        let runs = |body: &str| Revision::after(None, body.into(), "", node.clone(), Wall(1));
        let (old, new, old_hash) = (runs("old"), runs("new"), hash_of("old"));
        for (current, brought, body, planned) in [
            (None, None, "old", Plan::Apply(Expected::Nothing)),
            (None, Some(&old_hash), "old", Plan::Apply(Expected::Nothing)),
            (Some(&old), None, "old", Plan::InForce),
            (Some(&old), Some(&old_hash), "old", Plan::InForce),
            (Some(&new), Some(&old_hash), "old", Plan::Superseded),
            (Some(&new), None, "old", Plan::Another),
            (Some(&new), Some(&old_hash), "newer", Plan::Apply(Expected::Revision(new.id))),
            (Some(&new), Some(&old_hash), "new", Plan::InForce),
        ] {
            assert_eq!(plan(current, brought.map(String::as_str), body), planned, "{body} over {current:?}");
        }
    }
}
