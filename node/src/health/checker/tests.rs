use BackendState::{Down, GoingDown, Unknown, Up};
use gossip::clock::{Clock, Wall};
use gossip::state::{BackendState, Member, MemberState};

use super::*;
use crate::config::model::EjectionRule;
use crate::config::model::Services;
use crate::health::BackendHealth;
use crate::registry::fixture::{member, node, pool, region, services, view};

const START: u64 = 1_000_000;

struct Bench {
    clock: Clock,
    checker: Checker,
    services: Services,
}

impl Bench {
    /// Node eu-1 and one pool of backends in eu.
    fn new(backends: usize) -> Self {
        let addresses: Vec<String> = (1..=backends).map(|n| format!("10.0.0.{n}:80")).collect();
        let backends: Vec<(&str, &str)> = addresses.iter().map(|address| (address.as_str(), "eu")).collect();
        let mut bench = Self {
            clock: Clock::simulated(Wall(START)),
            checker: Checker::new(node("eu-1"), region("eu"), 1),
            services: services(&["eu"], vec![pool("web", &backends)]),
        };
        bench.configure();
        bench
    }

    fn at(&self) -> Moment {
        Moment { now: self.clock.now(), hlc: self.clock.hlc() }
    }

    fn configure(&mut self) {
        let at = self.at();
        let services = &self.services;
        self.checker.configure(&services.regions, services.pools.iter(), at);
    }

    fn change_pool(&mut self, change: impl FnOnce(&mut Pool)) {
        let mut pool = (*self.services.pools["web"]).clone();
        change(&mut pool);
        self.services.pools.insert(pool.name.clone(), Arc::new(pool));
        self.configure();
    }

    fn id(&self) -> BackendId {
        self.services.pools["web"].backends[0].id
    }

    fn observe(&mut self, members: Vec<Member>, isolated_since: Option<Instant>) {
        let view = ClusterView { isolated_since, ..view("eu-1", members) };
        let at = self.at();
        self.checker.observe(Arc::new(view), at);
    }

    fn due(&mut self) -> Vec<ProbeOrder> {
        let at = self.at();
        self.checker.due(64, at)
    }

    fn finish(&mut self, order: &ProbeOrder, result: Result<(), &str>) {
        let at = self.at();
        self.checker.probed(order.backend, order.ticket, result.map_err(str::to_owned), at);
    }

    /// Moves time to the next probe of the only backend and lets it end like this.
    fn probe(&mut self, result: Result<(), &str>) {
        for _ in 0..1000 {
            if let [order] = &self.due()[..] {
                return self.finish(order, result);
            }
            self.clock.advance(Duration::from_millis(10));
        }
        panic!("no probe came due");
    }

    fn eject(&mut self, evidence: Evidence) {
        let (id, at) = (self.id(), self.at());
        self.checker.evidence(id, evidence, at);
    }

    fn health(&self) -> &BackendHealth {
        &self.checker.table[&self.id()]
    }

    fn own_verdict(&self) -> Option<Verdict> {
        self.checker.verdicts.get(&self.id()).copied()
    }
}

fn saying(name: &str, backend: BackendId, state: BackendState, since: Hlc) -> Member {
    let verdict = Verdict { backend, state, since };
    Member {
        verdicts: Arc::new([(PoolName::new("web").unwrap(), vec![verdict])].into()),
        ..member(name, "eu")
    }
}

#[test]
fn a_new_backend_is_probed_at_once_and_then_at_its_interval() {
    let mut bench = Bench::new(1);
    assert_eq!(bench.health().state, Unknown);
    let orders = bench.due();
    assert_eq!(orders.len(), 1);
    assert_eq!(bench.due(), [], "one at a time");
    bench.finish(&orders[0], Ok(()));
    assert_eq!((bench.health().state, bench.health().up_since), (Up, Hlc::ZERO));
    assert_eq!(bench.own_verdict().unwrap().state, Up);
    bench.probe(Ok(())); // Was appointed while nothing was known.
    let mut last = bench.clock.now();
    for _ in 0..50 {
        bench.probe(Ok(()));
        let interval = bench.clock.now() - last;
        assert!((890..=1110).contains(&interval.as_millis()), "{interval:?}");
        last = bench.clock.now();
    }
}

#[test]
fn what_is_unknown_is_asked_more_often() {
    let mut bench = Bench::new(1);
    let began = bench.clock.now();
    for _ in 0..3 {
        assert_eq!(bench.health().state, Unknown);
        bench.probe(Err("connection refused"));
    }
    assert_eq!(bench.health().state, Down);
    assert_eq!(bench.health().reason, "eu-1: connection refused at 00:16:40");
    assert!(bench.clock.now() - began < Duration::from_millis(600), "half of one interval");
}

#[test]
fn no_more_probes_than_there_is_room_for() {
    let mut bench = Bench::new(5);
    let at = bench.at();
    let first = bench.checker.due(3, at);
    assert_eq!((first.len(), bench.checker.due(0, at).len()), (3, 0));
    assert_eq!(bench.checker.due(64, at).len(), 2);
}

#[test]
fn changes_are_told_once() {
    let mut bench = Bench::new(1);
    let configured = bench.checker.take_changes();
    assert_eq!(configured.table.unwrap().len(), 1);
    assert_eq!(bench.checker.take_changes(), Changes::default());
    bench.probe(Ok(()));
    let up = bench.checker.take_changes();
    assert_eq!(up.verdicts.unwrap()["web"].len(), 1);
    bench.probe(Ok(()));
    assert_eq!(bench.checker.take_changes(), Changes::default(), "the same again is no change");
    bench.services.pools.clear();
    bench.configure();
    let gone = bench.checker.take_changes();
    assert!(gone.table.unwrap().is_empty() && gone.verdicts.unwrap().is_empty());
    assert_eq!(bench.checker.next_deadline(), None);
}

#[test]
fn a_backend_that_returns_to_the_configuration_comes_out_of_a_break() {
    let mut bench = Bench::new(1);
    bench.probe(Ok(()));
    let with = bench.services.pools.clone();
    bench.services.pools.clear();
    bench.configure();
    let gone = bench.clock.hlc();
    bench.services.pools = with;
    bench.configure();
    assert!(bench.health().up_since > gone);
    bench.probe(Ok(()));
    let told = bench.own_verdict().unwrap();
    assert_eq!((told.state, told.since), (Up, bench.health().up_since));
}

#[test]
fn a_late_result_of_another_question_says_nothing() {
    let mut bench = Bench::new(1);
    let order = bench.due().remove(0);
    bench.change_pool(|pool| {
        let check = pool.health.as_mut().unwrap();
        check.probe = Probe::Http { path: "/".to_owned(), host: None, status: Vec::new() };
    });
    bench.finish(&order, Ok(()));
    assert_eq!(bench.health().state, Unknown);
    assert_eq!(bench.due().len(), 1, "the new question is asked at once");
}

#[test]
fn a_new_revision_with_the_same_check_keeps_what_is_known() {
    let mut bench = Bench::new(1);
    bench.probe(Ok(()));
    bench.change_pool(|pool| pool.health.as_mut().unwrap().fall = 1);
    assert_eq!(bench.health().state, Up);
    bench.probe(Err("HTTP 503"));
    assert_eq!(bench.health().state, Down, "the new threshold counts");
}

#[test]
fn a_refused_connection_ejects_until_the_probe_that_follows_at_once() {
    let mut bench = Bench::new(1);
    bench.probe(Ok(()));
    bench.clock.advance(Duration::from_millis(10));
    assert_eq!(bench.due(), []);
    bench.eject(Evidence::ConnectFailed);
    assert_eq!((bench.health().state, bench.health().ejected), (Up, Some(Evidence::ConnectFailed)));
    let order = bench.due().remove(0);
    bench.finish(&order, Err("connection refused"));
    assert!(bench.health().ejected.is_some());
    assert_eq!((bench.health().state, bench.own_verdict().unwrap().state), (GoingDown, GoingDown));
    bench.probe(Ok(()));
    assert_eq!((bench.health().state, bench.health().ejected), (Up, None));
    assert!(bench.health().up_since > Hlc::ZERO, "sessions were moved meanwhile");
    assert_eq!(bench.own_verdict().unwrap().since, bench.health().up_since, "and all nodes must know");
}

#[test]
fn a_probe_from_before_the_evidence_does_not_end_the_ejection() {
    let mut bench = Bench::new(1);
    let order = bench.due().remove(0);
    bench.eject(Evidence::ConnectFailed);
    bench.finish(&order, Ok(()));
    assert!(bench.health().ejected.is_some());
    let next = bench.due().remove(0);
    bench.finish(&next, Ok(()));
    assert!(bench.health().ejected.is_none());
}

#[test]
fn the_word_of_the_mesh_ends_the_ejection_for_its_own() {
    let mut bench = Bench::new(1);
    bench.probe(Ok(()));
    bench.eject(Evidence::ConnectFailed);
    for _ in 0..3 {
        bench.probe(Err("connection refused"));
    }
    assert_eq!((bench.health().state, bench.health().ejected), (Down, None));
    bench.eject(Evidence::ConnectFailed);
    assert_eq!(bench.health().ejected, None, "a late request says nothing new");
}

#[test]
fn without_a_check_only_requests_and_time_tell() {
    let mut bench = Bench::new(1);
    bench.change_pool(|pool| pool.health = None);
    assert_eq!((bench.health().state, bench.health().reason.as_str()), (Up, ""));
    assert_eq!(bench.due(), []);
    bench.eject(Evidence::ConnectFailed);
    assert!(bench.health().ejected.is_some());
    let end = bench.checker.next_deadline().unwrap();
    assert_eq!(end, bench.clock.now() + EjectionRule::default().base);
    bench.clock.advance(Duration::from_secs(5));
    assert_eq!(bench.due(), []);
    assert_eq!(bench.health().ejected, None);
    assert_eq!(bench.own_verdict().unwrap().since, bench.health().up_since);
    assert!(bench.health().up_since > Hlc::ZERO);
}

#[test]
fn a_node_that_does_not_probe_still_looks_after_its_own_ejection() {
    let mut bench = Bench::new(8);
    let members = |bench: &Bench| -> Vec<Member> {
        let ids: Vec<_> = bench.services.pools["web"].backends.iter().map(|backend| backend.id).collect();
        let mut members: Vec<Member> = (2..=9)
            .map(|n| {
                let words = ids.iter().map(|id| Verdict { backend: *id, state: Up, since: Hlc::ZERO });
                let verdicts = Arc::new([(PoolName::new("web").unwrap(), words.collect())].into());
                Member { verdicts, ..member(&format!("eu-{n}"), "eu") }
            })
            .collect();
        members.push(member("eu-1", "eu"));
        members
    };
    let all = members(&bench);
    bench.observe(all, None);
    let probed: Vec<_> = bench.due().into_iter().map(|order| order.backend).collect();
    assert!((1..8).contains(&probed.len()));
    let other =
        bench.services.pools["web"].backends.iter().map(|b| b.id).find(|id| !probed.contains(id)).unwrap();
    assert_eq!(bench.checker.table[&other].state, Up, "by the words of the others");
    assert_eq!(bench.checker.verdicts.get(&other), None);

    let at = bench.at();
    bench.checker.evidence(other, Evidence::ConnectFailed, at);
    let order = bench.due().remove(0);
    assert_eq!(order.backend, other);
    bench.finish(&order, Ok(()));
    assert_eq!(bench.checker.table[&other].ejected, None);
    assert!(bench.checker.verdicts[&other].since > Hlc::ZERO, "the break is told");
    bench.clock.advance(Duration::from_secs(10));
    assert!(bench.due().iter().all(|order| order.backend != other), "and probing it is over");
}

#[test]
fn a_peer_that_sees_more_is_reason_to_look_at_once() {
    let mut bench = Bench::new(1);
    bench.observe(vec![saying("eu-2", bench.id(), Up, Hlc::ZERO)], None);
    bench.probe(Ok(()));
    bench.probe(Ok(()));
    bench.clock.advance(Duration::from_millis(300));
    assert_eq!(bench.due(), []);
    bench.observe(vec![saying("eu-2", bench.id(), GoingDown, Hlc::ZERO)], None);
    let order = bench.due().remove(0);
    bench.finish(&order, Err("HTTP 503"));
    assert_eq!(bench.health().reason, "eu-1: HTTP 503 at 00:16:40; eu-2 says going down");
    bench.observe(vec![saying("eu-2", bench.id(), Down, Hlc(5))], None);
    assert_eq!(bench.due(), [], "not again: one break must not fall through all thresholds at once");
}

#[test]
fn isolation_freezes_hearsay_but_not_own_eyes() {
    let mut bench = Bench::new(1);
    let id = bench.id();
    let peers = |state| vec![saying("eu-2", id, state, Hlc(9)), saying("eu-3", id, state, Hlc(9))];
    bench.observe(peers(Down), None);
    bench.probe(Ok(()));
    assert_eq!(bench.health().state, Down, "two against one");

    let dead = |members: Vec<Member>| -> Vec<Member> {
        members.into_iter().map(|member| Member { state: MemberState::Dead, ..member }).collect()
    };
    let alone = bench.clock.now();
    bench.observe(dead(peers(Down)), Some(alone));
    assert_eq!(bench.health().state, Down, "their silence changes nothing");
    bench.probe(Err("HTTP 503"));
    bench.probe(Ok(()));
    assert_eq!(bench.health().state, Up, "what it saw itself since then does");

    bench.observe(peers(Down), None);
    assert_eq!(bench.health().state, Down);
    let again = bench.clock.now();
    bench.observe(dead(peers(Down)), Some(again));
    let thaw = bench.checker.next_deadline().unwrap();
    assert!(thaw <= again + FREEZE);
    bench.clock.advance(FREEZE);
    bench.due();
    assert_eq!(bench.health().state, Up, "after the freeze the dead do not vote");
}

#[test]
fn the_dead_and_the_strangers_do_not_vote() {
    let mut bench = Bench::new(1);
    let id = bench.id();
    bench.probe(Ok(()));
    let elsewhere = Member {
        record: gossip::state::NodeRecord { region: region("us"), ..member("us-1", "us").record },
        ..saying("us-1", id, Down, Hlc(9))
    };
    let dead = Member { state: MemberState::Dead, ..saying("eu-3", id, Down, Hlc(9)) };
    bench.observe(vec![elsewhere, dead, saying("eu-2", id, Up, Hlc::ZERO)], None);
    assert_eq!(bench.health().state, Up);
    assert_eq!(bench.health().reason, "");
}

#[test]
fn a_suspect_does_not_hold_its_last_word_against_fresh_ones() {
    let mut bench = Bench::new(1);
    let id = bench.id();
    let peer = |state| Member { state, ..saying("eu-2", id, Up, Hlc::ZERO) };
    bench.observe(vec![peer(MemberState::Alive)], None);
    bench.probe(Ok(()));
    for _ in 0..3 {
        bench.probe(Err("HTTP 503"));
    }
    assert_eq!(bench.health().state, GoingDown, "one against one keeps the state");
    bench.observe(vec![peer(MemberState::Suspect)], None);
    assert_eq!(bench.health().state, Down, "eu-2 died with the backend and cannot say so any more");
    bench.observe(vec![peer(MemberState::Alive)], None);
    assert_eq!(bench.health().state, Down, "one against one again");
}

#[test]
fn a_region_of_suspects_keeps_its_last_words() {
    let mut bench = Bench::new(1);
    bench.change_pool(|pool| {
        let mut backend = (*pool.backends[0]).clone();
        backend.region = region("us");
        pool.backends = vec![Arc::new(backend)];
    });
    let id = bench.id();
    let peer = |state| {
        let said = saying("us-1", id, Down, Hlc(9));
        let record = gossip::state::NodeRecord { region: region("us"), ..said.record.clone() };
        Member { state, record, ..said }
    };
    bench.observe(vec![peer(MemberState::Alive)], None);
    assert_eq!(bench.health().state, Down);
    bench.observe(vec![peer(MemberState::Suspect)], None);
    assert_eq!(bench.health().state, Down);
    assert_eq!(bench.due(), [], "a suspect keeps its work");
    bench.observe(vec![peer(MemberState::Dead)], None);
    assert_eq!(bench.health().state, Down, "and what it said stays until somebody else has looked");
    bench.probe(Ok(()));
    bench.probe(Ok(()));
    assert_eq!(bench.health().state, Up);
    assert!(bench.health().up_since > Hlc(9));
}

#[test]
fn the_next_process_goes_on_from_what_the_last_one_knew() {
    let mut bench = Bench::new(1);
    (0..5).for_each(|_| bench.probe(Err("HTTP 503")));
    let (down, began) = (bench.health().clone(), bench.at().hlc);
    assert_eq!(down.state, Down);
    let told = crate::health::memory::encode(&bench.checker.table);

    let mut next = Bench { checker: Checker::new(node("eu-1"), region("eu"), 2), ..bench };
    next.checker.recall(crate::health::memory::decode(&told));
    next.configure();
    let health = next.health();
    assert_eq!((health.state, health.down_since), (Down, down.down_since), "nobody is sent there meanwhile");
    next.probe(Ok(()));
    assert_eq!(next.health().state, Down, "the way back is as long as for everybody");
    next.probe(Ok(()));
    assert_eq!(next.health().state, Up);
    assert!(next.health().up_since > began, "sessions from before the break are looked up");
}

#[test]
fn what_the_last_process_knew_of_a_backend_that_is_up_keeps_its_break() {
    let mut bench = Bench::new(1);
    let id = bench.id();
    bench
        .checker
        .recall([(id, BackendHealth { state: Up, up_since: Hlc(77), ..bench.health().clone() })].into());
    bench.checker.targets.clear();
    bench.configure();
    assert_eq!((bench.health().state, bench.health().up_since), (Up, Hlc(77)));
    bench.probe(Ok(()));
    assert_eq!(bench.own_verdict().unwrap().since, Hlc(77), "the mesh is told of it");
}
