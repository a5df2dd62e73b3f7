//! The task that owns the history: the only one that makes a revision current.
//!
//! ```text
//!   exchange  version 1 │ 1 get  │ epoch 8 │ hash 32     ─▶ the encoded revision, or nothing when it is not here
//!             version 1 │ 2 list                         ─▶ (epoch 8 │ hash 32)*, newest first
//!   message   version 1 │ 3 have │ epoch 8 │ hash 32
//!   message   version 1 │ 4 lost │ epoch 8 │ hash 32    a losing sibling, for everybody's history
//! ```
//!
//! It may be stopped at any point: what is current is on disk, or could not be written there, and then peers have it. One
//! fetch is under way at a time; a fetch that fails is tried with the next node that has the revision, after a pause.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use gossip::clock::Clock;
use gossip::id::{NodeName, RevisionId};
use gossip::state::ClusterView;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::{APPLIES_MAX, Apply, ApplyError, Expected, Revision, Revisions, Trial, files};
use crate::Validate;
use crate::disk::Shelf;
use crate::revision::{HISTORY_MAX, History, shelf_key};
use crate::transport::{Incoming, Network, REVISIONS};
use crate::writer::Writer;

const VERSION: u8 = 1;
const GET: u8 = 1;
const LIST: u8 = 2;
const HAVE: u8 = 3;
const LOST: u8 = 4;
const ID_BYTES: usize = 40;
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a file that could not be written is tried again.
const REWRITE_EVERY: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(500);
const REFUSED_MAX: usize = 1000;
/// Losing siblings that may wait to be fetched; beyond it they are left to the next exchange of histories.
const MISSING_MAX: usize = 256;

/// What the task needs.
pub(crate) struct RevisionTaskConfig {
    pub(crate) data: PathBuf,
    pub(crate) me: NodeName,
    pub(crate) clock: Clock,
    pub(crate) network: Network,
    pub(crate) view: watch::Receiver<Arc<ClusterView>>,
    pub(crate) writer: Arc<Writer>,
    pub(crate) validate: Validate,
    pub(crate) trial: Arc<Trial>,
    /// The revision that the last life died of.
    pub(crate) left_out: Option<Arc<Revision>>,
}

pub(crate) struct RevisionTask {
    config: RevisionTaskConfig,
    history: Arc<RwLock<History>>,
    current: watch::Sender<Option<Arc<Revision>>>,
    applies: mpsc::Receiver<Apply>,
    /// What peers said they have, beyond what the view says.
    announced: BTreeMap<NodeName, RevisionId>,
    /// What is not valid here, and why nobody is asked for it again.
    refused: BTreeSet<RevisionId>,
    /// Older revisions that a peer has and this node lacks.
    missing: VecDeque<(NodeName, RevisionId)>,
    /// The current revision's parent is not here: somebody may have the past.
    lacks_past: bool,
    fetches: JoinSet<Fetched>,
    failures: usize,
    /// The current revision is in force, but its file could not be written.
    unwritten: bool,
    /// The revision that took the last life of this node down, and when it is tried again.
    distrusted: Option<(RevisionId, Option<std::time::Instant>)>,
}

enum Fetched {
    Revision(NodeName, RevisionId, Option<Bytes>),
    List(NodeName, Option<Bytes>),
}

impl RevisionTask {
    pub(crate) fn new(config: RevisionTaskConfig, history: History) -> (Self, Revisions) {
        let (current, current_rx) = watch::channel(history.current().cloned());
        let (applies_tx, applies) = mpsc::channel(APPLIES_MAX);
        if let Some(current) = history.current() {
            // A store that was set aside has lost it.
            config.writer.keep(Shelf::Revisions, shelf_key(&current.id), Some(current.encode()));
        }
        let lacks_past = history.current().is_some_and(|current| lacks_parent(&history, current));
        let history = Arc::new(RwLock::new(history));
        let face = Revisions {
            history: history.clone(),
            current: current_rx,
            applies: applies_tx,
            trial: config.trial.clone(),
        };
        let task = Self {
            config,
            history,
            current,
            applies,
            announced: BTreeMap::new(),
            refused: BTreeSet::new(),
            missing: VecDeque::new(),
            lacks_past,
            fetches: JoinSet::new(),
            failures: 0,
            unwritten: false,
            distrusted: None,
        };
        let task = task.distrust();
        (task, face)
    }

    /// Leaves the revision alone that the last life died of.
    fn distrust(mut self) -> Self {
        // A node that has nothing else to run takes it from its peers all the same.
        let runs = self.current.borrow().is_some();
        if let Some((id, deaths)) = self.config.trial.left_out().filter(|_| runs) {
            let again = Trial::again_after(&self.config.me, &id, deaths);
            self.distrusted = Some((id, again.map(|after| self.config.clock.now() + after)));
            self.refused.insert(id);
            tracing::error!(revision = %id, deaths, again_in = ?again, "this node ended while it put a revision in force: it starts on the one before");
        }
        self
    }

    /// Tries the distrusted revision again when its time has come.
    fn forgive(&mut self) {
        if let Some((id, Some(at))) = self.distrusted
            && self.config.clock.now() >= at
        {
            tracing::warn!(revision = %id, "a revision that this node ended with is tried again, once");
            self.distrusted = None;
            self.refused.remove(&id);
            if let Some(revision) = self.config.left_out.take() {
                // Its file is there already.
                self.publish(revision);
            }
        }
    }

    /// A later one is put in force: that is the end of the one that was left out.
    fn give_up_distrusted(&mut self, by: RevisionId) {
        if self.distrusted.is_some_and(|(id, _)| id < by) {
            self.distrusted = None;
            self.config.left_out = None;
        }
    }

    /// Until `stop` changes or its sender is gone.
    pub(crate) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut inbox = self.config.network.listen(REVISIONS);
        let mut paused = false;
        let mut rewrite = tokio::time::interval(REWRITE_EVERY);
        loop {
            if !paused {
                self.fetch();
            }
            tokio::select! {
                _ = stop.changed() => return,
                Some(apply) = self.applies.recv() => self.apply(apply).await,
                Some(incoming) = inbox.recv() => self.incoming(incoming),
                Ok(()) = self.config.view.changed() => {}
                Some(Ok(fetched)) = self.fetches.join_next() => {
                    let good = self.fetched(fetched).await;
                    self.failures = if good { 0 } else { self.failures + 1 };
                    paused = !good;
                }
                () = tokio::time::sleep(PAUSE), if paused => paused = false,
                _ = rewrite.tick() => {
                    self.config.trial.settle();
                    self.forgive();
                    if self.unwritten {
                        self.write_again().await;
                    }
                }
            }
        }
    }

    async fn apply(&mut self, Apply { body, author, expected, reply }: Apply) {
        let applied = self.applied(body, &author, expected).await;
        if let Ok(revision) = &applied {
            self.announce(revision.id);
        }
        // Who no longer waits will see it all the same.
        let _ = reply.send(applied);
    }

    async fn applied(
        &mut self,
        body: String,
        author: &str,
        expected: Expected,
    ) -> Result<Arc<Revision>, ApplyError> {
        let newest = self.newest();
        let as_expected = match expected {
            Expected::Any => true,
            Expected::Nothing => newest.is_none(),
            Expected::Revision(expected) => newest == Some(expected),
        };
        if !as_expected {
            return Err(ApplyError::Conflict { current: newest });
        }
        (self.config.validate)(&body).map_err(ApplyError::Invalid)?;
        if let Some(current) = self.current.borrow().as_ref()
            && current.body == body
            && Some(current.id) == newest
        {
            return Ok(current.clone());
        }
        let (me, now) = (self.config.me.clone(), self.config.clock.mesh_wall());
        let revision = Arc::new(Revision::after(newest, body, author, me, now));
        self.make_current(revision.clone()).await?;
        tracing::info!(revision = %revision.id, author = revision.author, "revision applied");
        Ok(revision)
    }

    /// The greatest revision known anywhere, here or not: what is applied now must win over it, though this node may have
    /// just come back and not have pulled it yet, find it invalid, or have left it out.
    fn newest(&self) -> Option<RevisionId> {
        let view = self.config.view.borrow();
        let seen = view.members.values().filter(|member| member.counts());
        let seen = seen.filter_map(|member| member.record.revision);
        let own = self.current.borrow().as_ref().map(|current| current.id);
        let left_out = self.distrusted.map(|(id, _)| id);
        seen.chain(self.announced.values().copied()).chain(own).chain(left_out).max()
    }

    /// Writes and syncs, then publishes (I12).
    async fn make_current(&mut self, revision: Arc<Revision>) -> std::io::Result<()> {
        self.write(&revision).await?;
        self.publish(revision);
        Ok(())
    }

    /// Notes that this one is being put in force. A full disk is no reason not to.
    fn put_on_trial(&self, id: RevisionId) {
        if let Err(error) = self.config.trial.begin(id) {
            tracing::warn!(revision = %id, %error, "it cannot be written down that this revision is on trial");
        }
    }

    async fn write(&mut self, revision: &Arc<Revision>) -> std::io::Result<()> {
        let (data, written) = (self.config.data.clone(), revision.clone());
        let left_out = self.distrusted.map(|(id, _)| id);
        tokio::task::spawn_blocking(move || files::write(&data, &written, left_out))
            .await
            .map_err(std::io::Error::other)??;
        self.unwritten = false;
        Ok(())
    }

    async fn write_again(&mut self) {
        let current = self.current.borrow().clone();
        if let Some(current) = current
            && self.write(&current).await.is_ok()
        {
            tracing::info!(revision = %current.id, "the current revision's file is written");
        }
    }

    fn publish(&mut self, revision: Arc<Revision>) {
        self.put_on_trial(revision.id);
        self.give_up_distrusted(revision.id);
        self.keep(revision.clone());
        {
            let history = self.history.read().unwrap_or_else(PoisonError::into_inner);
            self.lacks_past |= lacks_parent(&history, &revision);
        }
        self.current.send_replace(Some(revision));
    }

    fn keep(&mut self, revision: Arc<Revision>) {
        let writer = &self.config.writer;
        writer.keep(Shelf::Revisions, shelf_key(&revision.id), Some(revision.encode()));
        let dropped = self.history.write().unwrap_or_else(PoisonError::into_inner).keep(revision);
        for id in dropped {
            writer.keep(Shelf::Revisions, shelf_key(&id), None);
        }
    }

    fn find(&self, id: &RevisionId) -> Option<Arc<Revision>> {
        self.history.read().unwrap_or_else(PoisonError::into_inner).find(id).cloned()
    }

    fn announce(&self, id: RevisionId) {
        let message = with_id(HAVE, &id);
        for name in self.config.view.borrow().members.keys().filter(|name| **name != self.config.me) {
            self.config.network.tell(name, REVISIONS, message.clone());
        }
    }

    fn incoming(&mut self, Incoming { from, bytes, reply }: Incoming) {
        match (bytes.strip_prefix(&[VERSION]), reply) {
            (Some([GET, id @ ..]), Some(reply)) => {
                if let Some(id) = read_id(id) {
                    reply(self.find(&id).map_or(Bytes::new(), |revision| revision.encode().into()));
                }
            }
            (Some([LIST]), Some(reply)) => {
                let history = self.history.read().unwrap_or_else(PoisonError::into_inner);
                reply(history.all().flat_map(|revision| shelf_key(&revision.id)).collect::<Vec<_>>().into());
            }
            (Some([HAVE, id @ ..]), None) => {
                let known = self.config.view.borrow().members.contains_key(&from);
                if let (Some(id), true) = (read_id(id), known) {
                    self.announced.insert(from, id);
                }
            }
            (Some([LOST, id @ ..]), None) => {
                // Who tells may have met this node before this node has met it: it is asked when it has.
                if let Some(id) = read_id(id)
                    && self.missing.len() < MISSING_MAX
                    && self.find(&id).is_none()
                {
                    self.missing.push_back((from, id));
                }
            }
            _ => tracing::warn!(peer = %from, "a message about revisions cannot be read"),
        }
    }

    /// Who has what this node should have: greater than its own, greatest first.
    fn wanted(&mut self) -> Vec<(RevisionId, NodeName)> {
        let view = self.config.view.borrow_and_update().clone();
        self.announced.retain(|name, _| view.members.contains_key(name));
        let own = self.current.borrow().as_ref().map(|current| current.id);
        let seen = view.members.values().filter(|member| member.counts());
        let seen = seen.filter_map(|member| Some((member.record.revision?, member.record.name.clone())));
        let announced = self.announced.iter().map(|(name, id)| (*id, name.clone()));
        let mut wanted: Vec<_> = seen
            .chain(announced)
            .filter(|(id, name)| Some(*id) > own && *name != self.config.me && !self.refused.contains(id))
            .collect();
        wanted.sort_by(|a, b| b.cmp(a));
        wanted.dedup();
        wanted
    }

    fn fetch(&mut self) {
        if !self.fetches.is_empty() {
            return;
        }
        let wanted = self.wanted();
        let next = match wanted.len() {
            0 => self.next_missing(),
            count => wanted.into_iter().nth(self.failures % count).map(|(id, name)| (name, id)),
        };
        if let Some((from, id)) = next {
            let answer = self.config.network.ask(&from, REVISIONS, with_id(GET, &id), FETCH_TIMEOUT);
            self.fetches.spawn(async move { Fetched::Revision(from, id, answer.await) });
        } else if self.lacks_past
            && let Some(from) = self.somebody()
        {
            let question = Bytes::from_static(&[VERSION, LIST]);
            let answer = self.config.network.ask(&from, REVISIONS, question, FETCH_TIMEOUT);
            self.fetches.spawn(async move { Fetched::List(from, answer.await) });
        }
    }

    /// The next sibling to fetch, of a node that is known by now.
    fn next_missing(&mut self) -> Option<(NodeName, RevisionId)> {
        let view = self.config.view.borrow();
        let at = self.missing.iter().position(|(from, _)| view.members.contains_key(from))?;
        self.missing.remove(at)
    }

    /// Another node, the next one after each failure.
    fn somebody(&self) -> Option<NodeName> {
        let view = self.config.view.borrow();
        let living = view.members.values().filter(|member| member.is_alive());
        let others: Vec<_> =
            living.map(|member| &member.record.name).filter(|name| **name != self.config.me).collect();
        others.get(self.failures % others.len().max(1)).map(|name| (*name).clone())
    }

    /// Whether it brought something or there was nothing to bring.
    async fn fetched(&mut self, fetched: Fetched) -> bool {
        match fetched {
            Fetched::Revision(from, id, bytes) => {
                let revision = bytes.and_then(|bytes| Revision::decode(&bytes).ok());
                match revision.filter(|revision| revision.id == id) {
                    Some(revision) => self.adopt(from, Arc::new(revision)).await,
                    None => false,
                }
            }
            Fetched::List(from, bytes) => {
                let Some(bytes) = bytes else {
                    return false;
                };
                self.lacks_past = false;
                let ids = bytes.chunks_exact(ID_BYTES).take(HISTORY_MAX).filter_map(read_id);
                let current = self.current.borrow().as_ref().map(|current| current.id);
                let missing = ids.filter(|id| Some(*id) < current && self.find(id).is_none());
                self.missing = missing.map(|id| (from.clone(), id)).collect();
                true
            }
        }
    }

    async fn adopt(&mut self, from: NodeName, revision: Arc<Revision>) -> bool {
        let id = revision.id;
        let current = self.current.borrow().clone();
        if current.as_ref().is_some_and(|current| current.id >= id) {
            // For the history.
            self.keep(revision);
            return true;
        }
        if let Err(reason) = (self.config.validate)(&revision.body) {
            tracing::error!(revision = %id, peer = %from, reason, "a peer's revision is not valid here; not adopted");
            if self.refused.len() >= REFUSED_MAX {
                self.refused.pop_first();
            }
            self.refused.insert(id);
            return true;
        }
        if let Err(error) = self.make_current(revision.clone()).await {
            // The others serve it and have it on disk: a full disk here must not keep this node behind them (I1).
            if !std::mem::replace(&mut self.unwritten, true) {
                tracing::error!(revision = %id, %error, "a peer's revision is in force, but cannot be written; will try again");
            }
            self.publish(revision);
        }
        match current {
            Some(old) if old.id.epoch == id.epoch => {
                tracing::warn!(revision = %id, lost = %old.id, peer = %from, "two revisions were applied at once; the lesser one lost and is in the history");
                let message = with_id(LOST, &old.id);
                for name in self.config.view.borrow().members.keys().filter(|name| **name != self.config.me) {
                    self.config.network.tell(name, REVISIONS, message.clone());
                }
            }
            _ => tracing::info!(revision = %id, peer = %from, "revision adopted"),
        }
        true
    }
}

fn lacks_parent(history: &History, revision: &Revision) -> bool {
    let here = |parent| history.all().any(|revision| revision.id.hash == parent);
    revision.parent.is_some_and(|parent| !here(parent))
}

fn with_id(kind: u8, id: &RevisionId) -> Bytes {
    [&[VERSION, kind], &shelf_key(id)[..]].concat().into()
}

fn read_id(bytes: &[u8]) -> Option<RevisionId> {
    let (epoch, hash) = bytes.split_first_chunk()?;
    Some(RevisionId { epoch: u64::from_be_bytes(*epoch), hash: hash.try_into().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_the_same_for_ever() {
        let id = RevisionId { epoch: 0x0102, hash: [7; 32] };
        let golden = [&[1, 3, 0, 0, 0, 0, 0, 0, 1, 2][..], &[7; 32]].concat();
        assert_eq!(with_id(HAVE, &id)[..], golden);
        assert_eq!(with_id(LOST, &id)[..2], [1, 4]);
        assert_eq!(read_id(&golden[2..]), Some(id));
        assert_eq!(read_id(&golden[1..]), None);
        assert_eq!(read_id(&golden[3..]), None);
        assert_eq!(read_id(&[]), None);
    }
}
