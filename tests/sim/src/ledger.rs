//! What was promised, and whether it was kept.
//!
//! ```text
//!   durable       an acknowledged record survives any single crash: when one is lost, two crashes came together
//!   acknowledged  whoever says so has another node that holds the record (I3)
//!   one place     of two committed moves of a session the later one knew of the earlier one, or both chose the same
//!                 backend, as long as both asked the same replicas and none of these crashed meanwhile
//!   superseded    who is told of another assignment is told of one that somebody made, newer than the one to replace;
//!                 and when all is well, of none older than a move that was committed before (so a stale cookie never
//!                 brings back what the session has left, I2)
//!   found         a look-up finds what somebody made, and what was promised and lies somewhere, while everybody runs and
//!                 believes in everybody, however many messages are lost and whoever has just come back
//!   forward       after everything works again, a home that could not be reached knows where its sessions went
//!   zones         a record that all its replicas hold survives the loss of a whole zone where there are two
//!   in time       a command ends within 250 ms (I3), a look-up within 2 s, an expired record is not found (I4)
//!   repaired      10 s after all is well again all replicas hold what was promised: the next crash may take any of them
//!   equal         after everything works again all replicas hold the same within 30 s, and nobody else holds anything
//! ```

mod agreement;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use gossip::clock::Hlc;
use gossip::id::{BackendId, NodeName, Tag};
use storage::pin::Pin;
use storage::placement::bucket_of;
use storage::table::Record;

use crate::beliefs::placement;
use crate::node::{Node, START};

/// What expires before all clocks agree that it has is owed no more.
const SKEW: Duration = Duration::from_secs(5);

/// So long a promised record may take to all its replicas when all is well.
const SETTLE: Duration = Duration::from_secs(1);

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
    since: Duration,
    /// Crashes of holders since two nodes held it.
    crashes: u32,
    /// More than one crash took it: nobody owes it any more.
    void: bool,
}

/// What a command ended with that says where a session is.
#[derive(Debug)]
pub struct Answer {
    /// Whose.
    pub session: usize,
    /// At which home.
    pub home: Tag,
    /// When it was asked for.
    pub begun: Duration,
    /// When it was answered.
    pub at: Duration,
    /// What was said.
    pub pin: Pin,
    /// Who was asked.
    pub replicas: Vec<NodeName>,
    /// All is well since then; `None` when it was not, some time between question and answer.
    pub calm_since: Option<Duration>,
}

/// A message to a session's former home.
#[derive(Debug)]
struct Forward {
    session: usize,
    record: Record,
    /// Its maker, and which of its lives: one that died before it could deliver it owes nothing.
    by: (usize, u32),
}

/// A move that was committed.
#[derive(Debug, Clone)]
pub struct Claim {
    /// Whose.
    pub session: usize,
    /// At which home.
    pub home: Tag,
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
    forwards: Vec<Forward>,
    /// Where sessions were ever proposed to be, by session.
    places: BTreeMap<usize, BTreeSet<Place>>,
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
        // Who acknowledged may have died while the word was on its way.
        let crashes = self.crashes.iter().filter(|(crash, _)| *crash >= begun).count() as u32;
        if holders.iter().all(|holder| *holder == by) && crashes == 0 {
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
        // When several of those who acknowledged died meanwhile, what is left at its maker may be dropped with the last word of
        // one of them.
        let fallen = crashes >= 2 && holders.iter().all(|holder| *holder == by);
        let void = fallen || !exists(&record, nodes);
        if void && crashes == 1 {
            let what = format!("session {session} was acknowledged by one that crashed, and lies nowhere");
            return Err(Violation { rule: "durable", what, at });
        }
        self.promises.push(Promise { session, record, since: at, crashes, void });
        Ok(())
    }

    /// A move was committed.
    ///
    /// # Errors
    /// When it passed over another one.
    pub fn claim(&mut self, claim: Claim) -> Result<(), Violation> {
        let same_record = |other: &&Claim| other.session == claim.session && other.home == claim.home;
        for other in self.claims.iter().filter(same_record) {
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

    /// A session was proposed to be there.
    pub fn proposed(&mut self, session: usize, pin: &Pin) {
        self.places.entry(session).or_default().insert(place(pin));
    }

    /// A session got a new home; `record` is what the former one is to know.
    pub fn forwarded(&mut self, session: usize, record: Record, by: usize, life: u32) {
        self.proposed(session, &record.pin);
        self.forwards.push(Forward { session, record, by: (by, life) });
    }

    /// A proposal met another assignment.
    ///
    /// # Errors
    /// When nobody made it, when it is no newer than what was to be replaced, and when it is older than a move that was
    /// committed before the proposal.
    pub fn superseded(&self, answer: &Answer, replaces: Hlc) -> Result<(), Violation> {
        let Answer { session, pin, at, .. } = answer;
        self.is_made(answer, "superseded")?;
        if pin.assignment.hlc <= replaces {
            let what = format!("session {session}: {replaces:?} was superseded by {:?}", pin.assignment);
            return Err(Violation { rule: "superseded", what, at: *at });
        }
        if answer.calm_since.is_none() {
            return Ok(());
        }
        let forgot = |claim: &Claim| {
            let since =
                |crash: &&(Duration, NodeName)| crash.0 >= claim.begun && claim.replicas.contains(&crash.1);
            self.crashes.iter().any(|crash| since(&crash))
        };
        let older = |claim: &&Claim| {
            claim.session == *session
                && claim.home == answer.home
                && claim.replicas == answer.replicas
                && claim.replicas.len() > 1
                && claim.ended <= answer.begun
                && !forgot(claim)
                && claim.pin.assignment > pin.assignment
                && !claim.pin.is_at(pin)
                && !claim.pin.is_expired(START.plus(*at).plus(SKEW))
        };
        match self.claims.iter().find(older) {
            Some(claim) => {
                let what = format!(
                    "session {session}: asked at {:?}, told of {:?}, though {:?} was committed at {:?}",
                    answer.begun, pin.assignment, claim.pin.assignment, claim.ended
                );
                Err(Violation { rule: "superseded", what, at: *at })
            }
            None => Ok(()),
        }
    }

    /// A look-up found something.
    ///
    /// # Errors
    /// When nobody made it.
    pub fn found(&self, answer: &Answer) -> Result<(), Violation> {
        self.is_made(answer, "found")
    }

    /// A look-up found nothing.
    ///
    /// # Errors
    /// When all is well, and what was promised a second ago was to be found.
    pub fn missed(&self, answer: &Answer) -> Result<(), Violation> {
        let Some(calm_since) = answer.calm_since else { return Ok(()) };
        let owed = |promise: &&Promise| {
            promise.session == answer.session
                && promise.record.home == answer.home
                && !promise.void
                && promise.since > calm_since
                && promise.since + SETTLE < answer.begun
                && !promise.record.pin.is_expired(START.plus(answer.at).plus(SKEW))
        };
        match self.promises.iter().find(owed) {
            Some(promise) => {
                let what =
                    format!("session {} was promised at {:?}, and not found", promise.session, promise.since);
                Err(Violation { rule: "found", what, at: answer.at })
            }
            None => Ok(()),
        }
    }

    /// Whether a session has a record that is promised, and that a running node holds.
    pub fn is_owed(&self, session: usize, home: Tag, at: Duration, nodes: &[Node]) -> bool {
        let owed = |promise: &Promise| {
            let Promise { session: of, record, void, .. } = promise;
            *of == session
                && record.home == home
                && !void
                && !record.pin.is_expired(START.plus(at).plus(SKEW))
                && !holders(record, nodes).is_empty()
        };
        self.promises.iter().any(owed)
    }

    fn is_made(&self, answer: &Answer, rule: &'static str) -> Result<(), Violation> {
        let made =
            self.places.get(&answer.session).is_some_and(|places| places.contains(&place(&answer.pin)));
        if made {
            return Ok(());
        }
        let what =
            format!("session {} is said to be at {:?}, as nobody proposed", answer.session, answer.pin);
        Err(Violation { rule, what, at: answer.at })
    }

    /// Which promised records these nodes, all of one zone, cannot take with them: those that all their replicas hold
    /// while their home has another zone.
    pub fn before_fall(&self, fallen: &[usize], nodes: &[Node]) -> Vec<bool> {
        let names: Vec<_> = nodes.iter().map(|node| node.text).collect();
        let truth = placement(&names);
        let stands = |node: usize, home: Tag| {
            nodes[node].home == home && !fallen.contains(&node) && nodes[node].is_up()
        };
        let owed = |promise: &Promise| {
            let Record { home, pin } = promise.record;
            let holders = holders(&promise.record, nodes);
            let holds = |name: &NodeName| holders.iter().any(|holder| nodes[*holder].name == *name);
            let mut replicas = truth.replicas(home, bucket_of(&pin.id));
            let other_zone = (0..nodes.len()).any(|node| stands(node, home));
            !promise.void && other_zone && replicas.all(holds)
        };
        self.promises.iter().map(owed).collect()
    }

    /// They have crashed.
    ///
    /// # Errors
    /// When one of those records lies nowhere any more but on disks.
    pub fn fallen(&self, owed: &[bool], at: Duration, nodes: &[Node]) -> Result<(), Violation> {
        let owed = self.promises.iter().zip(owed).filter(|(_, owed)| **owed);
        let mut lost = owed.filter(|(promise, _)| holders(&promise.record, nodes).is_empty());
        let live = |promise: &Promise| !promise.record.pin.is_expired(START.plus(at).plus(SKEW));
        match lost.find(|(promise, _)| live(promise)) {
            Some((promise, _)) => {
                let what = format!("all replicas of session {} stood in one zone", promise.session);
                Err(Violation { rule: "zones", what, at })
            }
            None => Ok(()),
        }
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
            if exists(&promise.record, nodes) {
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
            promise.void |= !exists(&promise.record, nodes);
        }
    }
}

/// Pool, backend, and whether the pool is another home.
type Place = (Tag, Option<BackendId>, bool);

fn place(pin: &Pin) -> Place {
    // An end has no place: whatever pool it names.
    let Pin { assignment, .. } = pin;
    (assignment.pool, assignment.backend, assignment.forwarded)
}

/// The running nodes that hold a record at least as new as this one.
fn holders(record: &Record, nodes: &[Node]) -> Vec<usize> {
    let Record { home, pin } = record;
    let newer = |copy: Pin| copy.assignment >= pin.assignment;
    (0..nodes.len()).filter(|node| nodes[*node].held(*home, &pin.id).is_some_and(newer)).collect()
}

/// Whether a record at least as new as this one lies anywhere, on disk if not in RAM.
fn exists(record: &Record, nodes: &[Node]) -> bool {
    let Record { home, pin } = record;
    let kept = |copy: Option<Pin>| copy.is_some_and(|copy| copy.assignment >= pin.assignment);
    nodes.iter().any(|node| kept(node.held(*home, &pin.id)) || kept(node.saved(*home, &pin.id)))
}
