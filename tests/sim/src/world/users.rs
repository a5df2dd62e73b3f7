//! What users do, as the proxy would do it for them, and what they are told.

use std::time::Duration;

use gossip::clock::Hlc;
use gossip::id::{BackendId, Tag};
use storage::pin::{Assignment, Pin};
use storage::replica::{Command, FIND_MAX, OpId, Outcome, WAIT_MAX};
use storage::sessions::{Committed, Repinned};
use storage::table::Record;

use super::{Cookie, Op, Session, World};
use crate::ledger::{Answer, Claim, Violation};
use crate::scenario::Step;

impl World<'_> {
    pub(super) fn use_session(&mut self, step: &Step, session: usize, node: usize) -> Result<(), Violation> {
        let cookies = &self.sessions[session].cookies;
        let shown = |old: usize| cookies.len().checked_sub(1).map(|last| cookies[last - old.min(last)]);
        let here = Cookie { home: self.nodes[node].home, assigned: Hlc::ZERO };
        let (cookie, backend) = match *step {
            Step::New { backend, .. } => (Some(here), Some(backend)),
            Step::Move { backend, old, .. } => (shown(old), Some(backend)),
            _ => (shown(0), None),
        };
        let Some(Cookie { home, assigned }) = cookie else { return Ok(()) };
        match step {
            Step::Move { .. } => self.propose(session, node, home, backend, assigned),
            Step::New { .. } | Step::End { .. } => {
                let record = self.record(session, node, home, backend, assigned);
                self.command(node, session, record, Hlc::ZERO, None, Command::Commit(record))
            }
            Step::Refresh { .. } => {
                let record = self.record(session, node, home, None, Hlc::ZERO);
                let command = Command::Refresh(home, record.pin.id, record.pin.expires);
                self.command(node, session, record, Hlc::ZERO, None, command)
            }
            _ => {
                let record = self.record(session, node, home, None, Hlc::ZERO);
                self.command(node, session, record, Hlc::ZERO, None, Command::Find(home, record.pin.id))
            }
        }
    }

    /// Proposes a backend by compare and set, as the proxy does: when nobody of the session's home is there any more, it
    /// gets a new one where the user is.
    fn propose(
        &mut self,
        session: usize,
        node: usize,
        home: Tag,
        backend: Option<u64>,
        replaces: Hlc,
    ) -> Result<(), Violation> {
        let here = self.nodes[node].home;
        let left = home != here && self.nodes[node].mates.placement.home(home).is_none();
        let (home, former) = if left { (here, Some(home)) } else { (home, None) };
        let record = self.record(session, node, home, backend, replaces);
        self.command(node, session, record, replaces, former, Command::Repin { record, replaces })
    }

    /// A record made now by `node`, later than what it `knows`.
    fn record(&mut self, session: usize, node: usize, home: Tag, backend: Option<u64>, knows: Hlc) -> Record {
        let Session { id, life, .. } = self.sessions[session];
        let state = &mut self.nodes[node];
        state.observe(knows);
        let now = state.now(self.at);
        let assignment = Assignment {
            hlc: now.hlc,
            node: Tag::of(state.name.as_str()),
            pool: Tag(1),
            backend: backend.map(BackendId),
            weak: false,
            forwarded: false,
        };
        let expires = now.wall.plus(life).seconds() as u32;
        Record { home, pin: Pin { id, assignment, expires } }
    }

    fn command(
        &mut self,
        node: usize,
        session: usize,
        record: Record,
        replaces: Hlc,
        former: Option<Tag>,
        command: Command,
    ) -> Result<(), Violation> {
        self.next += 1;
        let op = self.next;
        if !matches!(command, Command::Refresh(..) | Command::Keep(_)) {
            let life = self.nodes[node].life;
            let owed = self.ledger.is_owed(session, record.home, self.at, &self.nodes);
            self.ops.insert(op, Op { node, life, session, record, replaces, begun: self.at, former, owed });
        }
        if matches!(command, Command::Commit(_) | Command::Repin { .. }) {
            self.ledger.proposed(session, &record.pin);
        }
        let now = self.nodes[node].now(self.at);
        if let Some(replica) = &mut self.nodes[node].replica {
            replica.command(OpId(op), command, now);
        }
        self.effects(node)
    }

    pub(super) fn done(&mut self, op: OpId, outcome: Outcome) -> Result<(), Violation> {
        let Some(op) = self.ops.remove(&op.0) else {
            let what = "a command ended twice".into();
            return Err(Violation { rule: "in time", what, at: self.at });
        };
        self.feel();
        let Op { node, session, record, replaces, begun, former, .. } = op;
        let paused = self.nodes[node].paused_until > begun;
        let most = if matches!(outcome, Outcome::Found(_)) { FIND_MAX } else { WAIT_MAX };
        if self.at - begun > most + Duration::from_millis(1) && !paused {
            let what = format!("{outcome:?} took {:?}", self.at - begun);
            return Err(Violation { rule: "in time", what, at: self.at });
        }
        let told = match outcome {
            Outcome::Committed(committed) => {
                match committed {
                    Committed::Degraded => self.tally.degraded += 1,
                    Committed::Alone => {}
                    Committed::Acknowledged => {
                        self.tally.acknowledged += 1;
                        self.promise(&op, record.pin)?;
                    }
                }
                Some(record.pin)
            }
            Outcome::Repinned(Repinned::Committed(pin)) => {
                self.tally.committed += 1;
                let replicas = self.nodes[node].replicas(record.home, &pin.id);
                if replicas.len() > 1 {
                    self.promise(&op, pin)?;
                }
                let home = record.home;
                self.ledger.claim(Claim { session, home, begun, ended: self.at, replaces, pin, replicas })?;
                Some(pin)
            }
            Outcome::Repinned(Repinned::Superseded(pin)) => {
                self.tally.superseded += 1;
                self.ledger.superseded(&self.answer(&op, pin), replaces)?;
                if pin.assignment.forwarded {
                    return self.follow(&op, pin);
                }
                Some(pin)
            }
            Outcome::Repinned(Repinned::Weak(pin)) => {
                self.tally.degraded += 1;
                Some(pin)
            }
            Outcome::Found(Some(pin)) => {
                self.ledger.found(&self.answer(&op, pin))?;
                if pin.is_expired(self.nodes[node].now(self.at).wall) {
                    let what = format!("session {session} was found after its end");
                    return Err(Violation { rule: "in time", what, at: self.at });
                }
                // Who looks the session up where a forward led finds where it is.
                (replaces != Hlc::ZERO && !pin.assignment.forwarded).then_some(pin)
            }
            Outcome::Found(None) => {
                self.ledger.missed(&self.answer(&op, record.pin))?;
                if op.owed && self.unsteady < begun {
                    let what = format!(
                        "session {session} was promised and lies somewhere, and {} is told of none",
                        self.nodes[node].text
                    );
                    return Err(Violation { rule: "found", what, at: self.at });
                }
                if replaces != Hlc::ZERO {
                    return self.propose(session, node, record.home, Some(0), replaces);
                }
                None
            }
        };
        let Some(pin) = told else { return Ok(()) };
        if pin.assignment.backend.is_some() {
            let cookie = Cookie { home: record.home, assigned: pin.assignment.hlc };
            self.sessions[session].cookies.push(cookie);
        }
        match former {
            Some(former) if pin.is_at(&record.pin) => self.forward(&op, former, pin),
            _ => Ok(()),
        }
    }

    fn promise(&mut self, op: &Op, pin: Pin) -> Result<(), Violation> {
        let record = Record { pin, ..op.record };
        self.ledger.promise(op.session, record, op.node, op.begun, self.at, &self.nodes)
    }

    fn answer(&self, op: &Op, pin: Pin) -> Answer {
        let Op { node, session, record, begun, .. } = *op;
        let calm = self.uneasy < begun;
        let replicas = self.nodes[node].replicas(record.home, &pin.id);
        Answer {
            session,
            home: record.home,
            begun,
            at: self.at,
            pin,
            replicas,
            calm_since: calm.then_some(self.uneasy),
        }
    }

    /// Tells the session's former home where it went.
    fn forward(&mut self, op: &Op, former: Tag, pin: Pin) -> Result<(), Violation> {
        self.tally.forwarded += 1;
        let record = Record { home: former, pin: pin.forwarded_to(op.record.home) };
        self.ledger.forwarded(op.session, record, op.node, self.nodes[op.node].life);
        self.command(op.node, op.session, record, Hlc::ZERO, None, Command::Keep(record))
    }

    /// Goes where a forward leads: looks the session up at its new home.
    fn follow(&mut self, op: &Op, pin: Pin) -> Result<(), Violation> {
        self.tally.followed += 1;
        let (node, session, home) = (op.node, op.session, pin.assignment.pool);
        let record = Record { home, ..self.record(session, node, home, None, pin.assignment.hlc) };
        let command = Command::Find(home, pin.id);
        self.command(node, session, record, pin.assignment.hlc, None, command)
    }
}
