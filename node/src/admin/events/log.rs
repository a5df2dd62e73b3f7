//! The node's log of events: takes note, tells, and keeps it on disk.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use gossip::clock::{Clock, Wall};
use gossip::id::{BackendId, NodeName};
use gossip::state::{BackendState, ClusterView, MeshEvent, Verdict};
use tokio::sync::{Notify, Semaphore, watch};

use super::describe::{describe, is_meeting};
use super::file::{self, Kept, Unread};
use super::handovers::Handovers;
use super::ring::{Cursor, Event, Fact, Ring};
use super::routes::STREAMS_MAX;
use super::wire::Told;
use crate::backend::Snapshot;

/// Backends of which a prober told that they are not well are remembered up to this number.
const UNWELL_MAX: usize = 16_384;

#[derive(Debug)]
pub(super) struct Inner {
    ring: Ring,
    /// Of whom the last that was told is not "up", and by whom.
    unwell: BTreeSet<(NodeName, BackendId)>,
    handovers: Handovers,
    changed: bool,
}

impl Inner {
    /// Whether a verdict is worth telling: that a backend is up is news only where the same prober told otherwise before. Every
    /// revision begins with verdicts on all backends anew.
    fn is_news(&mut self, by: &NodeName, verdict: &Verdict) -> bool {
        let key = (by.clone(), verdict.backend);
        match verdict.state {
            BackendState::Unknown => false,
            BackendState::Up => self.unwell.remove(&key),
            _ => {
                if self.unwell.len() >= UNWELL_MAX {
                    // That this one is up again is told by nobody: better than of all that come.
                    self.unwell.pop_first();
                }
                self.unwell.insert(key);
                true
            }
        }
    }
}

/// The last events of the mesh, as this node knows them.
#[derive(Debug)]
pub(crate) struct EventLog {
    inner: Mutex<Inner>,
    newest: watch::Sender<u64>,
    pub(super) streams: Arc<Semaphore>,
    /// Somebody begins to follow.
    pub(super) wanted: Notify,
    /// Tells this log from others.
    life: u64,
    data: PathBuf,
    /// Held while the file is written: the later state is written later.
    writing: Mutex<()>,
}

impl EventLog {
    /// Goes on with what the data folder holds of the time before.
    pub(crate) fn open(me: NodeName, data: PathBuf, clock: &Clock) -> Self {
        let now = clock.wall();
        let fresh = || Kept { ring: Ring::new(me.clone(), now.0), unwell: BTreeSet::new() };
        let mut aside = None;
        let Kept { mut ring, unwell } = match file::load(&data, now) {
            Ok(Some(mut kept)) => {
                if kept.ring.me != me {
                    // Another node's log: what happened stays, but none of it was seen by this node.
                    (kept.ring.me, kept.ring.own) = (me.clone(), Cursor { life: now.0, number: 0 });
                    kept.ring.own_facts.clear();
                }
                kept
            }
            Ok(None) => fresh(),
            Err(Unread::Io(error)) => {
                tracing::warn!(%error, "the events of before cannot be read");
                fresh()
            }
            Err(Unread::Aside(path)) => {
                aside = Some(path);
                fresh()
            }
        };
        ring.resume();
        let (life, newest) = (ring.own.life, ring.newest);
        let log = Self {
            inner: Mutex::new(Inner { ring, unwell, handovers: Handovers::default(), changed: false }),
            newest: watch::Sender::new(newest),
            streams: Arc::new(Semaphore::new(STREAMS_MAX)),
            wanted: Notify::new(),
            life,
            data,
            writing: Mutex::new(()),
        };
        if let Some(path) = aside {
            let path = path.display();
            let text = format!(
                "{me}'s file of past events was damaged and lies in {path} now: delete it when you have seen it"
            );
            log.tell("damaged", me.to_string(), text, clock);
        }
        log
    }

    /// How many streams there are now; at most [`STREAMS_MAX`].
    pub(in crate::admin) fn streaming(&self) -> usize {
        STREAMS_MAX - self.streams.available_permits().min(STREAMS_MAX)
    }

    /// Takes note of a mesh event, and logs it. `snapshot` knows the backends by name.
    pub(crate) fn record(&self, event: &MeshEvent, snapshot: &Snapshot, view: &ClusterView, clock: &Clock) {
        if let MeshEvent::VerdictChanged { by, verdict, .. } = event
            && !self.inner.lock().is_ok_and(|mut inner| inner.is_news(by, verdict))
        {
            return;
        }
        let (kind, subject, text) = describe(event, snapshot);
        let fact = Fact::new(clock.mesh_wall(), kind, &subject, &text);
        let text = &fact.text;
        if self.inner.lock().is_ok_and(|mut inner| inner.handovers.explain(event, view, clock.now())) {
            tracing::info!(kind, handover = true, "{text}");
            return;
        }
        match event {
            // One a prober and backend, one a node and apply: what they add up to is logged where it is concluded.
            MeshEvent::VerdictChanged { .. } | MeshEvent::RevisionChanged { .. } => {
                tracing::debug!(kind, "{text}");
            }
            MeshEvent::Joined(_) | MeshEvent::Left(_) | MeshEvent::Cleared(_) | MeshEvent::Rejoined => {
                tracing::info!(kind, "{text}");
            }
            _ => tracing::warn!(kind, "{text}"),
        }
        if !is_meeting(event, view, clock.wall()) {
            self.change(|ring| ring.see(fact));
        }
    }

    /// Takes note of what this node itself did, and logs it.
    pub(crate) fn tell(&self, kind: &str, subject: String, text: String, clock: &Clock) {
        // Words of programs and peers are in it: what is logged is what is fit for a terminal.
        let fact = Fact::new(clock.mesh_wall(), kind, &subject, &text);
        tracing::info!(kind, subject = fact.subject, "{}", fact.text);
        self.change(|ring| ring.see(fact));
    }

    fn change(&self, change: impl FnOnce(&mut Ring)) {
        let Ok(mut inner) = self.inner.lock() else { return };
        change(&mut inner.ring);
        inner.changed = true;
        let newest = inner.ring.newest;
        drop(inner);
        self.newest.send_if_modified(|known| std::mem::replace(known, newest) != newest);
    }

    /// How far a peer's facts are known.
    pub(super) fn known_of(&self, peer: &NodeName) -> Cursor {
        self.inner.lock().map(|inner| inner.ring.known_of(peer)).unwrap_or_default()
    }

    /// What this node saw itself and somebody does not know.
    pub(super) fn told_after(&self, known: Cursor) -> Told {
        let Ok(inner) = self.inner.lock() else { return Told::default() };
        Told { until: inner.ring.own, facts: inner.ring.own_after(known).cloned().collect() }
    }

    /// Takes over what a peer told.
    pub(super) fn hear(&self, peer: &NodeName, asked: Cursor, told: Told, now: Wall) {
        if told.until != asked {
            self.change(|ring| ring.hear(peer, asked, told.until, told.facts, now));
        }
    }

    /// Forgets how far nodes are known that are no members any more, and how backends are that no pool has any more.
    pub(super) fn forget_all_but(&self, view: &ClusterView, snapshot: &Snapshot) {
        let Ok(mut inner) = self.inner.lock() else { return };
        inner.ring.forget_cursors(|peer| view.members.contains_key(peer));
        if inner.unwell.is_empty() {
            return;
        }
        let pools = snapshot.pools.values().flat_map(|pool| &pool.backends);
        let backends: BTreeSet<BackendId> = pools.map(|backend| backend.config.id).collect();
        // A node that has just started has no pools yet.
        let is_there = |backend: &BackendId| snapshot.revision.is_none() || backends.contains(backend);
        inner.unwell.retain(|(by, backend)| view.members.contains_key(by) && is_there(backend));
    }

    /// The events that this node learned of after number `seq`, in that order.
    pub(crate) fn after(&self, seq: u64) -> Vec<Event> {
        self.inner.lock().map(|inner| inner.ring.after(seq)).unwrap_or_default()
    }

    /// Says when there are more.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    /// A stream's id of an event.
    pub(super) fn id(&self, seq: u64) -> String {
        format!("{}.{seq}", self.life)
    }

    /// The number that a stream's id stands for in this log; all that is kept for ids of others.
    pub(super) fn resume(&self, id: &str) -> u64 {
        let number = id.split_once('.').filter(|(life, _)| life.parse() == Ok(self.life));
        number.and_then(|(_, number)| number.parse().ok()).unwrap_or(0)
    }

    /// Writes what changed since the last time. Blocks.
    ///
    /// # Errors
    /// When it cannot be written; it is tried again with the next call.
    pub(crate) fn save(&self) -> std::io::Result<()> {
        let Ok(_writing) = self.writing.lock() else { return Ok(()) };
        let kept = {
            let Ok(mut inner) = self.inner.lock() else { return Ok(()) };
            if !std::mem::take(&mut inner.changed) {
                return Ok(());
            }
            Kept { ring: inner.ring.clone(), unwell: inner.unwell.clone() }
        };
        let written = file::write(&self.data, &kept);
        if written.is_err()
            && let Ok(mut inner) = self.inner.lock()
        {
            inner.changed = true;
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::fixture::{pool, snapshot};
    use crate::registry::fixture::{self, member, view};

    fn log(data: &std::path::Path, clock: &Clock) -> EventLog {
        EventLog::open("eu-1".parse().unwrap(), data.into(), clock)
    }

    #[test]
    fn a_verdict_names_the_backend_and_up_is_told_after_a_fault_alone() {
        use BackendState::{Down, GoingDown, Up};
        let (clock, folder) = (Clock::simulated(Wall(1)), tempfile::tempdir().unwrap());
        let log = log(folder.path(), &clock);
        let address: std::net::SocketAddr = "10.0.0.1:80".parse().unwrap();
        let snapshot = snapshot("eu", Vec::new(), Vec::new(), vec![pool("web", &[(address, "eu")])]);
        let name: gossip::id::PoolName = "web".parse().unwrap();
        let view = view("eu-1", vec![member("eu-1", "eu")]);
        let say = |by: &str, state, address| {
            let backend = BackendId::of(&name, address);
            let verdict = Verdict { backend, state, since: gossip::clock::Hlc::ZERO };
            let event = MeshEvent::VerdictChanged { by: by.parse().unwrap(), pool: name.clone(), verdict };
            log.record(&event, &snapshot, &view, &clock);
        };
        for (by, state) in
            [("eu-1", Up), ("eu-1", GoingDown), ("eu-1", Down), ("eu-2", Up), ("eu-1", Up), ("eu-1", Up)]
        {
            say(by, state, address);
        }
        let told: Vec<_> = log.after(0).into_iter().map(|event| (event.subject, event.text)).collect();
        let of = |state| {
            ("web/10.0.0.1:80".into(), format!("eu-1 says {state} of backend 10.0.0.1:80 in pool web"))
        };
        assert_eq!(told, [of("going-down"), of("down"), of("up")]);
        let newest = log.after(0).last().unwrap().seq;
        say("eu-1", Down, "10.0.0.9:80".parse().unwrap());
        let unknown = BackendId::of(&name, "10.0.0.9:80".parse().unwrap()).to_string();
        assert!(log.after(newest)[0].text.contains(&unknown), "{:?}", log.after(newest));
    }

    #[test]
    fn a_backend_that_is_gone_is_not_remembered() {
        let (clock, folder) = (Clock::simulated(Wall(1)), tempfile::tempdir().unwrap());
        let log = log(folder.path(), &clock);
        let addresses: [std::net::SocketAddr; 2] =
            ["10.0.0.1:80", "10.0.0.2:80"].map(|at| at.parse().unwrap());
        let name: gossip::id::PoolName = "web".parse().unwrap();
        let with = |addresses: &[std::net::SocketAddr]| {
            let backends: Vec<_> = addresses.iter().map(|address| (*address, "eu")).collect();
            let pools = vec![pool("web", &backends)];
            let mut snapshot = snapshot("eu", Vec::new(), Vec::new(), pools);
            snapshot.revision = Some(gossip::id::RevisionId { epoch: 1, hash: [0; 32] });
            snapshot
        };
        let view = view("eu-1", vec![member("eu-1", "eu")]);
        for address in addresses {
            let backend = BackendId::of(&name, address);
            let verdict = Verdict { backend, state: BackendState::Down, since: gossip::clock::Hlc::ZERO };
            let event = MeshEvent::VerdictChanged { by: view.me.clone(), pool: name.clone(), verdict };
            log.record(&event, &with(&addresses), &view, &clock);
        }
        let unwell = |snapshot: &Snapshot| {
            log.forget_all_but(&view, snapshot);
            let known = log.inner.lock().unwrap().unwell.clone();
            known.into_iter().map(|(_, backend)| backend).collect::<Vec<_>>()
        };
        assert_eq!(unwell(&with(&addresses)).len(), 2);
        assert_eq!(unwell(&Snapshot::empty(fixture::region("eu"))).len(), 2, "it has no revision yet");
        assert_eq!(unwell(&with(&addresses[1..])), [BackendId::of(&name, addresses[1])]);
        assert!(unwell(&with(&[])).is_empty());
    }

    #[test]
    fn a_node_that_starts_meets_the_others_and_tells_nobody() {
        let (clock, folder) = (Clock::simulated(Wall(100_000)), tempfile::tempdir().unwrap());
        let log = log(folder.path(), &clock);
        let snapshot = Snapshot::empty(fixture::region("eu"));
        let at = |name: &str, started| {
            let mut member = member(name, "eu");
            member.record.started = Wall(started);
            member
        };
        let view = view("eu-1", vec![at("eu-1", 99_000), at("eu-2", 50_000), at("eu-3", 99_500)]);
        for name in ["eu-2", "eu-3"] {
            log.record(&MeshEvent::Joined(name.parse().unwrap()), &snapshot, &view, &clock);
        }
        let told: Vec<_> = log.after(0).into_iter().map(|event| event.subject).collect();
        assert_eq!(told, ["eu-3"]);
        clock.advance(std::time::Duration::from_secs(60));
        log.record(&MeshEvent::Joined("eu-2".parse().unwrap()), &snapshot, &view, &clock);
        assert_eq!(log.after(0).len(), 2, "it was away");
    }

    #[test]
    fn what_was_told_is_told_by_the_next_process_and_streams_go_on() {
        let (clock, folder) = (Clock::simulated(Wall(7)), tempfile::tempdir().unwrap());
        let first = log(folder.path(), &clock);
        assert_eq!([first.resume("6.12"), first.resume("nonsense"), first.resume("")], [0; 3]);
        first.tell("order", "a".into(), "first".into(), &clock);
        let id = first.id(first.after(0)[0].seq);
        first.save().unwrap();
        first.tell("order", "b".into(), "not written".into(), &clock);
        let lost = first.id(first.after(0)[1].seq);
        clock.advance(std::time::Duration::from_secs(1));
        let next = log(folder.path(), &clock);
        next.tell("order", "c".into(), "second".into(), &clock);
        let texts = |seq| next.after(seq).into_iter().map(|event| event.text).collect::<Vec<_>>();
        assert_eq!(texts(0), ["first", "second"]);
        assert_eq!(texts(next.resume(&id)), ["second"]);
        assert_eq!(texts(next.resume(&lost)), ["second"], "no number stands for two events");
        let renamed = EventLog::open("eu-9".parse().unwrap(), folder.path().into(), &clock);
        assert!(renamed.told_after(Cursor::default()).facts.is_empty());
        assert_eq!(renamed.after(0).len(), 1);
    }

    #[test]
    fn a_damaged_file_is_an_event() {
        let (clock, folder) = (Clock::simulated(Wall(7)), tempfile::tempdir().unwrap());
        std::fs::write(folder.path().join("events"), "nonsense").unwrap();
        let told = log(folder.path(), &clock).after(0);
        assert!(told[0].kind == "damaged" && told[0].text.contains("events.corrupt-"), "{told:?}");
    }
}
