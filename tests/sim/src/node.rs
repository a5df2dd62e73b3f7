//! One node of a run: the real replica, with a clock, RAM and a disk that are simulated.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use gossip::clock::{Clock, Wall};
use gossip::id::{NodeName, SessionId, Tag};
use storage::pin::Pin;
use storage::placement::bucket_of;
use storage::plant::Plants;
use storage::replica::{Counters, Mates, Now, PeerState, Replica};
use storage::table::{Record, Table};

use crate::beliefs::{Belief, Beliefs, node_name, placement, region_of};

/// The wall time at which runs begin.
pub const START: Wall = Wall(1_790_000_000_000);

/// A node, running or not.
pub struct Node {
    /// Its name as the scenario has it.
    pub text: &'static str,
    /// Its name.
    pub name: NodeName,
    /// The home of the sessions made here.
    pub home: Tag,
    /// What it holds in RAM.
    pub table: Arc<Table>,
    /// The machine under test; `None` while the node is down.
    pub replica: Option<Replica>,
    /// How often it was started: what belongs to a former life reaches nobody.
    pub life: u32,
    /// It stands still until then.
    pub paused_until: Duration,
    /// Whom it believes in.
    pub beliefs: Beliefs,
    /// The same, as the replica was told.
    pub mates: Arc<Mates>,
    /// When its replica wants to be called next.
    pub tick_at: Duration,
    disk: BTreeMap<(Tag, SessionId), Pin>,
    unsaved: BTreeSet<(Tag, SessionId)>,
    clock: Clock,
    clock_at: Duration,
    skew: i64,
}

impl Node {
    /// A node that does not run yet.
    pub fn new(text: &'static str, nodes: usize, skew: i64) -> Self {
        let name = node_name(text);
        Self {
            text,
            home: Tag::of(region_of(text).as_str()),
            table: Arc::default(),
            replica: None,
            life: 0,
            paused_until: Duration::ZERO,
            beliefs: Beliefs::new(nodes),
            mates: Arc::new(Mates {
                me: name.clone(),
                placement: placement(&[text]),
                peers: BTreeMap::new(),
            }),
            tick_at: Duration::MAX,
            disk: BTreeMap::new(),
            unsaved: BTreeSet::new(),
            clock: Clock::simulated(START),
            clock_at: Duration::ZERO,
            skew,
            name,
        }
    }

    /// Starts it from its disk.
    pub fn start(&mut self, at: Duration, nodes: usize, plant: &dyn Fn(&Plants)) {
        self.life += 1;
        self.clock = Clock::simulated(Wall(START.plus(at).0.saturating_add_signed(self.skew)));
        self.clock_at = at;
        self.table = Arc::default();
        plant(self.table.plants());
        let wall = self.clock.mesh_wall();
        for ((home, _), pin) in &self.disk {
            self.table.merge(Record { home: *home, pin: *pin }, wall);
        }
        self.beliefs = Beliefs::new(nodes);
        self.mates = Arc::new(Mates {
            me: self.name.clone(),
            placement: placement(&[self.text]),
            peers: BTreeMap::new(),
        });
        let (counters, now) = (Arc::<Counters>::default(), self.now(at));
        let mut replica = Replica::new(self.name.clone(), self.table.clone(), counters, now);
        replica.meet(self.mates.clone(), now);
        self.replica = Some(replica);
        self.tick_at = Duration::MAX;
    }

    /// Dies: the RAM is gone, and what was not flushed.
    pub fn crash(&mut self) {
        self.life += 1;
        self.replica = None;
        self.table = Arc::default();
        self.unsaved.clear();
        self.tick_at = Duration::MAX;
    }

    /// Loses its disk.
    pub fn wipe(&mut self) {
        self.disk.clear();
    }

    /// Whether it runs.
    pub fn is_up(&self) -> bool {
        self.replica.is_some()
    }

    /// The time on its clocks.
    pub fn now(&mut self, at: Duration) -> Now {
        self.clock.advance(at - self.clock_at);
        self.clock_at = at;
        if let Some(replica) = &self.replica {
            // As the store's own driver does.
            let _ = self.clock.observe(replica.seen());
        }
        Now { instant: self.clock.now(), wall: self.clock.mesh_wall(), hlc: self.clock.hlc() }
    }

    /// Takes note of a timestamp from a user's cookie, as the proxy does.
    pub fn observe(&mut self, seen: gossip::clock::Hlc) {
        let _ = self.clock.observe(seen);
    }

    /// When its replica wants to be called.
    pub fn deadline(&mut self, at: Duration) -> Option<Duration> {
        let now = self.now(at).instant;
        self.replica.as_ref().map(|replica| at + replica.next_deadline().saturating_duration_since(now))
    }

    /// Notes that a record is to be written.
    pub fn save(&mut self, home: Tag, id: SessionId) {
        self.unsaved.insert((home, id));
    }

    /// Writes what is to be written.
    pub fn flush(&mut self, at: Duration) {
        let wall = self.now(at).wall;
        for (home, id) in std::mem::take(&mut self.unsaved) {
            match self.table.find(home, &id, wall) {
                Some(pin) => self.disk.insert((home, id), pin),
                None => self.disk.remove(&(home, id)),
            };
        }
    }

    /// The copy in RAM.
    pub fn held(&self, home: Tag, id: &SessionId) -> Option<Pin> {
        // At the beginning of time nothing is expired: what lies there counts.
        self.table.find(home, id, Wall(0)).filter(|_| self.is_up())
    }

    /// The copy on disk.
    pub fn saved(&self, home: Tag, id: &SessionId) -> Option<Pin> {
        self.disk.get(&(home, *id)).copied()
    }

    /// The replicas of a session as this node has it.
    pub fn replicas(&self, home: Tag, id: &SessionId) -> Vec<NodeName> {
        self.mates.placement.replicas(home, bucket_of(id)).cloned().collect()
    }

    /// Tells the replica whom the node believes in.
    pub fn meet(&mut self, at: Duration, names: &[&'static str], rtt: impl Fn(usize) -> Duration) {
        let mut counting = Vec::new();
        let mut peers = BTreeMap::new();
        for (other, name) in names.iter().enumerate() {
            let belief = self.beliefs.now()[other];
            if *name == self.text {
                counting.push(*name);
            } else if belief != Belief::Gone {
                counting.push(*name);
                let life = self.beliefs.life(other).into();
                let state = PeerState { alive: belief == Belief::Alive, rtt: Some(rtt(other)), life };
                peers.insert(node_name(name), state);
            }
        }
        let placement = placement(&counting);
        self.mates = Arc::new(Mates { me: self.name.clone(), placement, peers });
        let (mates, now) = (self.mates.clone(), self.now(at));
        if let Some(replica) = &mut self.replica {
            replica.meet(mates, now);
        }
    }
}
