//! Whole nodes over a network in memory.
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;

use gossip::clock::{Hlc, Wall};
use gossip::id::{BackendId, SessionId};
use gossip::state::{Member, MemberState, NodeRecord};

use super::*;
use crate::intents::{Aspect, Order, Target};
use crate::pin::{Assignment, Pin};
use crate::revision::BODY_MAX_BYTES;
use crate::revisions::{ApplyError, Expected, Revision};
use crate::sessions::{Committed, Repinned};
use crate::transport::memory::{Plug, Wires};

struct Node {
    name: NodeName,
    region: RegionName,
    data: tempfile::TempDir,
    storage: Option<Storage>,
    strict: bool,
    keyring: Keyring,
}

/// Some nodes that believe in each other as they are told to.
struct Nodes {
    wires: Arc<Wires>,
    clock: Clock,
    views: Vec<watch::Sender<Arc<ClusterView>>>,
    nodes: Vec<Node>,
}

impl Nodes {
    async fn start(names: &[&str]) -> Self {
        let mut nodes =
            Self { wires: Arc::default(), clock: Clock::system(), views: Vec::new(), nodes: Vec::new() };
        let keyring = Keyring::generate();
        for name in names {
            let region = RegionName::new(name.split('-').next().unwrap()).unwrap();
            let name = NodeName::new(name).unwrap();
            nodes.views.push(watch::Sender::new(Arc::new(nodes.view(&name, &[]))));
            let data = tempfile::tempdir().unwrap();
            nodes.nodes.push(Node {
                name,
                region,
                data,
                storage: None,
                strict: false,
                keyring: keyring.clone(),
            });
        }
        for node in 0..names.len() {
            nodes.boot(node).await;
        }
        nodes.agree();
        nodes
    }

    async fn boot(&mut self, node: usize) {
        let Node { name, region, data, strict, keyring, .. } = &self.nodes[node];
        let strict = *strict;
        let parts = Parts {
            data: data.path().into(),
            me: name.clone(),
            region: region.clone(),
            network: Arc::new(Plug { me: name.clone(), wires: self.wires.clone() }),
            view: self.views[node].subscribe(),
            clock: self.clock.clone(),
            validate: Arc::new(move |body| match body {
                "bad" => Err("line 1: bad".into()),
                "new feature" if strict => Err("line 1: unknown".into()),
                _ => Ok(()),
            }),
            keyring: keyring.clone(),
            make_zone_key: Arc::new(|| Some(rand::random::<[u8; 32]>().to_vec())),
        };
        let cookies = Cookies::new(keyring);
        self.nodes[node].storage = Some(Storage::start_on(parts, cookies).await.unwrap());
    }

    fn view(&self, me: &NodeName, members: &[usize]) -> ClusterView {
        let members = members.iter().map(|at| {
            let Node { name, region, storage, .. } = &self.nodes[*at];
            let current = storage.as_ref().and_then(|storage| storage.revisions().current());
            let record = NodeRecord {
                name: name.clone(),
                region: region.clone(),
                zone: None,
                mesh: "127.0.0.1:1".parse().unwrap(),
                public: Vec::new(),
                version: String::new(),
                started: Wall(1),
                draining: false,
                revision: current.map(|current| current.id),
                keys: Vec::new(),
                key_since: Wall(0),
            };
            let member = Member {
                record,
                state: MemberState::Alive,
                since: self.clock.now(),
                rtt: None,
                verdicts: Arc::default(),
                summaries: Arc::default(),
                failures: Arc::default(),
                rtts: Arc::default(),
            };
            (name.clone(), Arc::new(member))
        });
        ClusterView { me: me.clone(), members: members.collect::<BTreeMap<_, _>>(), isolated_since: None }
    }

    /// All that run see each other, and which revision each has: what gossip does all the time.
    fn agree(&self) {
        let living: Vec<_> =
            (0..self.nodes.len()).filter(|node| self.nodes[*node].storage.is_some()).collect();
        // What is current is served at once here.
        for revisions in self.nodes.iter().filter_map(|node| node.storage.as_ref()).map(Storage::revisions) {
            revisions.current().iter().for_each(|current| revisions.served(current.id));
        }
        for (node, view) in self.nodes.iter().zip(&self.views) {
            view.send_replace(Arc::new(self.view(&node.name, &living)));
        }
    }

    /// As SIGKILL: nothing is said, nothing is flushed; the next life finds the files as they lie at this moment.
    fn kill(&mut self, node: usize) {
        let copied = tempfile::tempdir().unwrap();
        copy(self.data(node), copied.path());
        self.nodes[node].data = copied;
        self.nodes[node].storage = None;
        self.wires.cut(&self.nodes[node].name.clone());
    }

    /// As after half a minute in which the node served what is current.
    fn settle(&self, node: usize) {
        let _ = std::fs::remove_file(self.data(node).join("services.trial"));
    }

    async fn restart(&mut self, node: usize) {
        self.wires.mend(&self.nodes[node].name.clone());
        self.boot(node).await;
        self.agree();
    }

    fn at(&self, node: usize) -> &Storage {
        self.nodes[node].storage.as_ref().unwrap()
    }

    fn data(&self, node: usize) -> &Path {
        self.nodes[node].data.path()
    }

    fn pin(&self, id: u16, backend: u64) -> Pin {
        let mut sid = [0x55; 16];
        sid[..2].copy_from_slice(&id.to_be_bytes());
        let assignment = Assignment {
            hlc: self.clock.hlc(),
            node: Tag(1),
            pool: Tag(2),
            backend: Some(BackendId(backend)),
            weak: false,
            forwarded: false,
        };
        Pin { id: SessionId(sid), assignment, expires: (self.clock.wall().seconds() + 600) as u32 }
    }

    fn all_have(&self, id: gossip::id::RevisionId) -> bool {
        self.agree();
        let living = self.nodes.iter().filter_map(|node| node.storage.as_ref());
        living.map(|storage| storage.revisions().current()).all(|current| current.is_some_and(|r| r.id == id))
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (from, to) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            std::fs::copy(from, to).unwrap();
        }
    }
}

async fn wait_for<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    for _ in 0..1000 {
        if condition().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what} never came to be");
}

async fn apply(nodes: &Nodes, node: usize, body: &str) -> Arc<Revision> {
    let applied = apply_unserved(nodes, node, body).await;
    nodes.at(node).revisions().served(applied.id);
    applied
}

/// The node does not come so far that it serves it.
async fn apply_unserved(nodes: &Nodes, node: usize, body: &str) -> Arc<Revision> {
    nodes.at(node).revisions().apply(body.into(), "alice".into(), Expected::Any).await.unwrap()
}

#[tokio::test]
async fn a_session_outlives_its_maker_and_every_other_store() {
    let mut nodes = Nodes::start(&["eu-1", "eu-2", "eu-3", "us-1", "us-2"]).await;
    let eu = nodes.nodes[0].region.clone();
    let pins: Vec<_> = (0..300).map(|n| nodes.pin(n * 200, 7)).collect();
    let sessions = nodes.at(0).sessions();
    let commits: Vec<_> = pins.iter().map(|pin| sessions.commit(&eu, *pin)).collect();
    assert_eq!(sessions.local(&pins[299].id), Some(pins[299]));
    for commit in commits {
        assert_eq!(commit.await, Committed::Acknowledged);
    }
    let counted = |node: usize| nodes.at(node).sessions().counts().get(&BackendId(7)).copied().unwrap_or(0);
    wait_for("the count", || async { (0..5).map(counted).sum::<u64>() == 300 }).await;
    drop(sessions);
    nodes.kill(0);
    for pin in &pins {
        assert_eq!(nodes.at(1).sessions().find(&eu, pin.id).await, Some(*pin));
        assert_eq!(nodes.at(3).sessions().find(&eu, pin.id).await, Some(*pin));
    }
    // Two of three restart with empty folders; repair brings everything back.
    for node in [0, 1] {
        nodes.kill(node);
        nodes.nodes[node].data = tempfile::tempdir().unwrap();
        nodes.restart(node).await;
    }
    for node in [0, 1] {
        wait_for("repair", || async { nodes.at(node).sessions().stats().held == 300 }).await;
    }
    // And all at once restart from their disks.
    for node in 0..3 {
        nodes.nodes[node].storage.take().unwrap().shutdown().await;
    }
    for node in 0..3 {
        nodes.boot(node).await;
        assert_eq!(nodes.at(node).sessions().stats().held, 300);
    }
}

#[tokio::test]
async fn two_nodes_that_move_one_session_at_once_agree() {
    let nodes = Nodes::start(&["eu-1", "eu-2", "eu-3"]).await;
    let eu = nodes.nodes[0].region.clone();
    for n in 0..50 {
        let first = nodes.pin(n * 1000, 1);
        nodes.at(0).sessions().commit(&eu, first).await;
        let (a, b) = (nodes.at(1).sessions(), nodes.at(2).sessions());
        let (one, two) = (nodes.pin(n * 1000, 2), nodes.pin(n * 1000, 3));
        let replaces = first.assignment.hlc;
        let (one, two) = tokio::join!(a.repin(&eu, one, replaces), b.repin(&eu, two, replaces));
        let backend = |repinned| match repinned {
            Repinned::Committed(pin) | Repinned::Superseded(pin) | Repinned::Weak(pin) => {
                pin.assignment.backend
            }
        };
        assert_eq!(backend(one), backend(two), "{one:?} {two:?}");
    }
}

#[tokio::test]
async fn refresh_and_end_reach_the_replicas() {
    let nodes = Nodes::start(&["eu-1", "eu-2", "us-1"]).await;
    let eu = nodes.nodes[0].region.clone();
    let pin = nodes.pin(1, 1);
    assert_eq!(nodes.at(2).sessions().commit(&eu, pin).await, Committed::Acknowledged);
    nodes.at(2).sessions().refresh(&eu, pin.id, pin.expires + 60);
    for node in 0..2 {
        let there = || async {
            nodes.at(node).sessions().local(&pin.id).is_some_and(|held| held.expires == pin.expires + 60)
        };
        wait_for("the refresh", there).await;
    }
    nodes.at(2).sessions().end(&eu, pin.id, pin.expires + 60);
    for node in 0..2 {
        let ended = || async {
            nodes.at(node).sessions().local(&pin.id).is_some_and(|held| held.assignment.backend.is_none())
        };
        wait_for("the end", ended).await;
    }
    let revived = nodes
        .at(0)
        .sessions()
        .repin(&eu, Pin { expires: pin.expires, ..nodes.pin(1, 4) }, pin.assignment.hlc)
        .await;
    assert!(matches!(revived, Repinned::Superseded(pin) if pin.assignment.backend.is_none()), "{revived:?}");
    let lost =
        nodes.at(0).sessions().repin(&RegionName::new("sa").unwrap(), nodes.pin(9, 4), Hlc::ZERO).await;
    assert!(matches!(lost, Repinned::Weak(pin) if pin.assignment.weak), "{lost:?}");
}

#[tokio::test]
async fn a_revision_reaches_all_and_survives_a_restart() {
    let mut nodes = Nodes::start(&["eu-1", "eu-2", "us-1"]).await;
    let first = apply(&nodes, 0, "one").await;
    assert_eq!((first.id.epoch, first.parent, first.author.as_str()), (1, None, "alice"));
    assert_eq!(std::fs::read_to_string(nodes.data(0).join("services.toml")).unwrap(), "one");
    wait_for("the revision", || async { nodes.all_have(first.id) }).await;
    let revisions = nodes.at(2).revisions();
    let bad = revisions.apply("bad".into(), "bob".into(), Expected::Any).await;
    assert!(matches!(&bad, Err(ApplyError::Invalid(why)) if why == "line 1: bad"), "{bad:?}");
    for expected in
        [Expected::Nothing, Expected::Revision(gossip::id::RevisionId { epoch: 1, hash: [0; 32] })]
    {
        let conflict = revisions.apply("two".into(), "bob".into(), expected).await;
        assert!(matches!(conflict, Err(ApplyError::Conflict { current }) if current == Some(first.id)));
    }
    assert!(matches!(
        revisions.apply("x".repeat(BODY_MAX_BYTES + 1), String::new(), Expected::Any).await,
        Err(ApplyError::TooLarge(_))
    ));
    assert_eq!(revisions.apply("one".into(), "bob".into(), Expected::Any).await.unwrap().id, first.id);
    let second = revisions.apply("two".into(), "bob".into(), Expected::Revision(first.id)).await.unwrap();
    assert_eq!((second.id.epoch, second.parent), (2, Some(first.id.hash)));
    wait_for("the second revision", || async { nodes.all_have(second.id) }).await;
    // A kill right after `apply` has answered loses nothing, with the store or without it.
    let third = apply(&nodes, 0, "three").await;
    nodes.settle(0);
    nodes.kill(0);
    std::fs::remove_dir_all(nodes.data(0).join("store")).unwrap();
    nodes.restart(0).await;
    assert_eq!(nodes.at(0).revisions().current().unwrap(), third);
    wait_for("the history", || async { nodes.at(0).revisions().history().len() >= 2 }).await;
}

#[tokio::test]
async fn a_damaged_file_of_the_current_revision_is_written_anew() {
    let mut nodes = Nodes::start(&["eu-1"]).await;
    let applied = apply(&nodes, 0, "one").await;
    nodes.nodes[0].storage.take().unwrap().shutdown().await;
    std::fs::write(nodes.data(0).join("services.revision"), b"\xffdamaged").unwrap();
    nodes.restart(0).await;
    assert_eq!(nodes.at(0).revisions().current().as_ref(), Some(&applied), "the history has it");
    nodes.nodes[0].storage.take().unwrap().shutdown().await;
    std::fs::remove_dir_all(nodes.data(0).join("store")).unwrap();
    nodes.restart(0).await;
    assert_eq!(nodes.at(0).revisions().current(), Some(applied), "the file has it again");
}

#[tokio::test]
async fn a_losing_sibling_stays_in_the_history() {
    let nodes = Nodes::start(&["eu-1", "eu-2", "us-1"]).await;
    let first = apply(&nodes, 0, "one").await;
    wait_for("the revision", || async { nodes.all_have(first.id) }).await;
    let lonely = nodes.nodes[2].name.clone();
    nodes.wires.cut(&lonely);
    let (a, b) = (apply(&nodes, 0, "left").await, apply(&nodes, 2, "right").await);
    assert_eq!(a.id.epoch, b.id.epoch);
    nodes.wires.mend(&lonely);
    let winner = a.id.max(b.id);
    wait_for("the winner", || async { nodes.all_have(winner) }).await;
    let loser = if winner == a.id { b.id } else { a.id };
    // Every node hears of it, not only the one that had taken it.
    for node in 0..3 {
        wait_for("the loser", || async {
            let lost = nodes.at(node).revisions().lost();
            lost.iter().map(|lost| lost.id).collect::<Vec<_>>() == [loser]
        })
        .await;
        let found = nodes.at(node).revisions().find(&loser).unwrap();
        assert!(["left", "right"].contains(&found.body.as_str()));
    }
}

#[tokio::test]
async fn what_a_node_died_of_it_does_not_put_in_force_again() {
    let mut nodes = Nodes::start(&["eu-1", "eu-2"]).await;
    let good = apply(&nodes, 0, "good").await;
    wait_for("the revision", || async { nodes.all_have(good.id) }).await;
    let poison = apply_unserved(&nodes, 0, "poison").await;
    nodes.kill(0);
    wait_for("the other has it", || async { nodes.all_have(poison.id) }).await;
    nodes.restart(0).await;
    let revisions = nodes.at(0).revisions();
    assert_eq!(revisions.current(), Some(good.clone()));
    assert_eq!(revisions.distrusted(), Some((poison.id, true)));
    // Nor does it take it from the other, which serves it; but it takes the next one.
    nodes.agree();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(revisions.current(), Some(good));
    let next = apply(&nodes, 1, "next").await;
    assert_eq!(next.id.epoch, poison.id.epoch + 1);
    wait_for("the next", || async { nodes.all_have(next.id) }).await;
    nodes.agree();
    assert_eq!(revisions.distrusted(), None);
}

#[tokio::test]
async fn what_is_applied_over_a_revision_that_was_left_out_ends_it() {
    let mut nodes = Nodes::start(&["eu-1"]).await;
    let good = apply(&nodes, 0, "good").await;
    let poison = apply_unserved(&nodes, 0, "poison").await;
    nodes.kill(0);
    nodes.restart(0).await;
    assert_eq!(nodes.at(0).revisions().current(), Some(good.clone()));
    let stale = nodes.at(0).revisions().apply("fix".into(), "bob".into(), Expected::Revision(good.id)).await;
    assert!(matches!(stale, Err(ApplyError::Conflict { current }) if current == Some(poison.id)));
    let fix = apply_unserved(&nodes, 0, "fix").await;
    assert_eq!(fix.id.epoch, poison.id.epoch + 1);
    assert_eq!(nodes.at(0).revisions().distrusted(), None);
    // If it dies of the fix, it does not fall back on what it died of before.
    nodes.kill(0);
    nodes.restart(0).await;
    assert_eq!(nodes.at(0).revisions().current(), Some(good));
    assert_eq!(nodes.at(0).revisions().distrusted(), Some((fix.id, true)));
}

#[tokio::test]
async fn an_ordinary_start_and_one_that_fails_put_nothing_on_trial() {
    let mut nodes = Nodes::start(&["eu-1"]).await;
    apply(&nodes, 0, "one").await;
    let second = apply(&nodes, 0, "two").await;
    // It stops in good order while the second is on trial, and then its starts fail later on.
    nodes.nodes[0].storage.take().unwrap().shutdown().await;
    for _ in 0..3 {
        nodes.boot(0).await;
        assert_eq!(nodes.at(0).revisions().current().as_ref(), Some(&second));
        nodes.nodes[0].storage = None;
    }
    nodes.boot(0).await;
    assert_eq!(nodes.at(0).revisions().current().as_ref(), Some(&second));
    assert_eq!(nodes.at(0).revisions().distrusted(), None);
    nodes.settle(0);
    for _ in 0..3 {
        nodes.kill(0);
        assert!(!nodes.data(0).join("services.trial").exists());
        nodes.restart(0).await;
        assert_eq!(nodes.at(0).revisions().current().as_ref(), Some(&second));
        assert_eq!(nodes.at(0).revisions().distrusted(), None);
    }
}

#[tokio::test]
async fn a_trial_that_was_interrupted_goes_on() {
    let mut nodes = Nodes::start(&["eu-1"]).await;
    let good = apply(&nodes, 0, "good").await;
    let poison = apply(&nodes, 0, "poison").await;
    nodes.nodes[0].storage.take().unwrap().shutdown().await;
    nodes.boot(0).await;
    for _ in 0..2 {
        assert_eq!(nodes.at(0).revisions().current().as_ref(), Some(&poison));
        nodes.kill(0);
        nodes.boot(0).await;
    }
    assert_eq!(nodes.at(0).revisions().current().as_ref(), Some(&poison), "it has been served before");
    nodes.kill(0);
    nodes.boot(0).await;
    assert_eq!(nodes.at(0).revisions().current(), Some(good));
}

#[tokio::test]
async fn who_is_killed_right_after_an_order_was_taken_runs_it_all_the_same() {
    let mut nodes = Nodes::start(&["eu-1"]).await;
    apply(&nodes, 0, "one").await;
    let second = apply(&nodes, 0, "two").await;
    nodes.kill(0);
    nodes.restart(0).await;
    assert_eq!(nodes.at(0).revisions().current().as_ref(), Some(&second));
    assert_eq!(nodes.at(0).revisions().distrusted(), None);
}

#[tokio::test]
async fn the_only_revision_is_never_left_out() {
    let mut nodes = Nodes::start(&["eu-1"]).await;
    let only = apply(&nodes, 0, "only").await;
    for _ in 0..3 {
        nodes.kill(0);
        nodes.restart(0).await;
        assert_eq!(nodes.at(0).revisions().current().as_ref(), Some(&only));
        assert_eq!(nodes.at(0).revisions().distrusted(), None);
    }
}

#[tokio::test]
async fn what_is_applied_on_a_node_that_was_away_wins_all_the_same() {
    let nodes = Nodes::start(&["eu-1", "eu-2"]).await;
    let away = nodes.nodes[1].name.clone();
    nodes.wires.cut(&away);
    for n in 0..5 {
        apply(&nodes, 0, &n.to_string()).await;
    }
    // It sees that there is a newer one, and cannot have it yet.
    nodes.agree();
    let newest = nodes.at(0).revisions().current().unwrap();
    let conflict = nodes.at(1).revisions().apply("x".into(), "bob".into(), Expected::Nothing).await;
    assert!(matches!(conflict, Err(ApplyError::Conflict { current }) if current == Some(newest.id)));
    let last = apply(&nodes, 1, "last").await;
    assert_eq!((last.id.epoch, last.parent), (6, Some(newest.id.hash)));
    nodes.wires.mend(&away);
    wait_for("the last", || async { nodes.all_have(last.id) }).await;
    wait_for("the history", || async { nodes.at(1).revisions().history().len() == 6 }).await;
}

#[tokio::test]
async fn what_a_node_finds_invalid_it_does_not_adopt() {
    let mut nodes = Nodes::start(&["eu-1", "eu-2"]).await;
    let first = apply(&nodes, 0, "one").await;
    wait_for("the revision", || async { nodes.all_have(first.id) }).await;
    nodes.nodes[1].storage.take().unwrap().shutdown().await;
    nodes.nodes[1].strict = true;
    nodes.boot(1).await;
    apply(&nodes, 0, "new feature").await;
    nodes.agree();
    let third = apply(&nodes, 0, "three").await;
    wait_for("the third", || async { nodes.all_have(third.id) }).await;
}

#[tokio::test]
async fn who_comes_late_gets_the_history_and_the_orders() {
    let mut nodes = Nodes::start(&["eu-1", "eu-2", "us-1"]).await;
    nodes.kill(2);
    nodes.agree();
    let mut last = apply(&nodes, 0, "0").await;
    for n in 1..5 {
        last = apply(&nodes, 0, &n.to_string()).await;
    }
    let target = Target::Node(nodes.nodes[1].name.clone());
    nodes.at(0).intents().set(target.clone(), Order::Drain { deadline: None }).await.unwrap();
    nodes.restart(2).await;
    wait_for("the revision", || async { nodes.all_have(last.id) }).await;
    wait_for("the history", || async { nodes.at(2).revisions().history().len() == 5 }).await;
    wait_for("the order", || async {
        nodes.at(2).intents().list().contains_key(&(target.clone(), Aspect::State))
    })
    .await;
}

#[tokio::test]
async fn a_survey_finds_every_copy_and_says_whether_they_agree() {
    let nodes = Nodes::start(&["eu-1", "eu-2", "eu-3", "us-1"]).await;
    let eu = RegionName::new("eu").unwrap();
    let pins: Vec<_> = (0..20).map(|n| nodes.pin(n, u64::from(n % 2))).collect();
    for pin in &pins {
        assert_eq!(nodes.at(0).sessions().commit(&eu, *pin).await, Committed::Acknowledged);
    }
    let asker = nodes.at(3).survey();
    wait_for("all copies", || async {
        let surveyed = asker.find(pins[3].id).await;
        surveyed.found.0.iter().filter(|copy| copy.is_replica && copy.record.pin == pins[3]).count() == 3
    })
    .await;
    let counts = asker.counts().await;
    assert_eq!(counts.silent, []);
    assert_eq!(counts.found, BTreeMap::from([(BackendId(0), 10), (BackendId(1), 10)]));
    assert_eq!(asker.list(Some(BackendId(1)), 100).await.found.len(), 10);
    assert_eq!(asker.list(None, 3).await.found.len(), 3);
    wait_for("agreement", || async { asker.consistency().await.found.differ.is_empty() }).await;
    assert_eq!(asker.consistency().await.found.records, 60);
    nodes.wires.cut(&nodes.nodes[2].name);
    assert_eq!(asker.counts().await.silent, [nodes.nodes[2].name.clone()]);
}

#[tokio::test]
async fn orders_reach_all_merge_and_survive() {
    let mut nodes = Nodes::start(&["eu-1", "eu-2"]).await;
    let pool = gossip::id::PoolName::new("web").unwrap();
    let backend = Target::Backend(pool.clone(), "10.0.0.1:80".parse().unwrap());
    let mut watch = nodes.at(1).intents().watch();
    nodes.at(0).intents().set(backend.clone(), Order::Weight(7)).await.unwrap();
    nodes.at(0).intents().set(backend.clone(), Order::Maintenance).await.unwrap();
    watch.wait_for(|orders| orders.len() == 2).await.unwrap();
    assert_eq!(watch.borrow()[&(backend.clone(), Aspect::Weight)].order, Order::Weight(7));
    nodes.at(1).intents().set(backend.clone(), Order::Weight(9)).await.unwrap();
    assert!(nodes.at(1).intents().clear(backend.clone(), Aspect::State).await.unwrap());
    assert!(!nodes.at(1).intents().clear(backend.clone(), Aspect::Split).await.unwrap());
    assert!(nodes.at(1).intents().set(Target::Pool(pool), Order::Split(Vec::new())).await.is_err());
    wait_for("the change", || async { nodes.at(0).intents().list() == nodes.at(1).intents().list() }).await;
    let held = nodes.at(0).intents().list();
    assert_eq!((held.len(), &held[&(backend.clone(), Aspect::Weight)].order), (1, &Order::Weight(9)));
    nodes.kill(0);
    nodes.kill(1);
    nodes.restart(1).await;
    assert_eq!(nodes.at(1).intents().list(), held);
    nodes.restart(0).await;
    wait_for("the orders", || async { nodes.at(0).intents().list() == held }).await;
}

#[tokio::test]
async fn orders_are_in_force_at_a_start_without_a_store() {
    let mut nodes = Nodes::start(&["eu-1"]).await;
    let target = Target::Node(nodes.nodes[0].name.clone());
    nodes.at(0).intents().set(target.clone(), Order::Drain { deadline: None }).await.unwrap();
    let file = nodes.data(0).join("orders");
    let written = || async { std::fs::read(&file).is_ok_and(|bytes| bytes.len() > 2) };
    wait_for("the file", written).await;
    let held = nodes.at(0).intents().list();
    nodes.kill(0);
    std::fs::remove_dir_all(nodes.data(0).join("store")).unwrap();
    nodes.restart(0).await;
    assert_eq!((nodes.at(0).intents().list(), held.len()), (held, 1));
    // What was taken back does not come again from the file.
    assert!(nodes.at(0).intents().clear(target, Aspect::State).await.unwrap());
    nodes.kill(0);
    nodes.restart(0).await;
    assert!(nodes.at(0).intents().list().is_empty());
}

#[tokio::test]
async fn a_replica_that_comes_back_does_not_believe_its_old_copies() {
    let mut nodes = Nodes::start(&["eu-1", "eu-2", "eu-3"]).await;
    let eu = RegionName::new("eu").unwrap();
    let pins: Vec<_> = (0..50).map(|n| nodes.pin(n, 1)).collect();
    for pin in &pins {
        assert_eq!(nodes.at(0).sessions().commit(&eu, *pin).await, Committed::Acknowledged);
    }
    nodes.at(0).writer.flush().await;
    nodes.kill(0);
    nodes.agree();
    for pin in &pins {
        let mut moved = *pin;
        moved.assignment =
            Assignment { hlc: nodes.clock.hlc(), backend: Some(BackendId(2)), ..pin.assignment };
        let repinned = nodes.at(1).sessions().repin(&eu, moved, pin.assignment.hlc).await;
        assert!(matches!(repinned, Repinned::Committed(_)), "{repinned:?}");
    }
    nodes.restart(0).await;
    for pin in &pins {
        let found = nodes.at(0).sessions().find(&eu, pin.id).await.unwrap();
        assert_eq!(found.assignment.backend, Some(BackendId(2)));
    }
}

#[tokio::test]
async fn sessions_that_an_operator_ends_are_known_to_have_ended_everywhere() {
    use crate::ends::Stay;
    let mut nodes = Nodes::start(&["eu-1", "eu-2", "eu-3", "us-1"]).await;
    let eu = RegionName::new("eu").unwrap();
    let pool = gossip::id::PoolName::new("web").unwrap();
    let address = "10.0.0.1:80".parse().unwrap();
    let service = gossip::id::ServiceName::new("web").unwrap();
    let one = BackendId::of(&pool, address);
    let pins: Vec<_> = (0..20).map(|n| nodes.pin(n, if n % 2 == 0 { one.0 } else { 7 })).collect();
    for pin in &pins {
        assert_eq!(nodes.at(0).sessions().commit(&eu, *pin).await, Committed::Acknowledged);
    }
    let stay = |pin: &Pin| Stay {
        service: &service,
        id: pin.id,
        pool: pin.assignment.pool,
        backend: pin.assignment.backend.unwrap(),
        assigned: pin.assignment.hlc,
        began: Some(1),
    };
    let until = nodes.clock.mesh_wall().plus(Duration::from_secs(60));
    let targets = [Target::Backend(pool, address), Target::Session(pins[1].id)];
    nodes.kill(2);
    assert_eq!(nodes.at(3).intents().end(&targets, until).await, Ok(vec![nodes.nodes[2].name.clone()]));
    // Who has acknowledged knows.
    for node in [0, 1, 3] {
        let ended = pins.iter().filter(|pin| nodes.at(node).ends().has_ended(&stay(pin))).count();
        assert_eq!(ended, 11, "{node}");
    }
    nodes.agree();
    wait_for("honest counts", || async {
        nodes.at(3).survey().counts().await.found == BTreeMap::from([(BackendId(7), 9)])
    })
    .await;
    // Nothing that still believes in an ended session brings it back.
    let mut moved = pins[0];
    moved.assignment = Assignment { hlc: nodes.clock.hlc(), backend: Some(BackendId(9)), ..moved.assignment };
    let repinned = nodes.at(1).sessions().repin(&eu, moved, pins[0].assignment.hlc).await;
    assert!(
        matches!(repinned, Repinned::Superseded(pin) if pin.assignment.backend.is_none()),
        "{repinned:?}"
    );
    // Who was away hears of it, and who took the order has it on disk.
    nodes.restart(2).await;
    nodes.kill(3);
    nodes.restart(3).await;
    assert!(nodes.at(3).ends().has_ended(&stay(&pins[0])));
    wait_for("the ends", || async { nodes.at(2).ends().has_ended(&stay(&pins[0])) }).await;
    wait_for("the marks", || async {
        nodes.at(2).sessions().local(&pins[1].id).is_none_or(|pin| pin.assignment.backend.is_none())
    })
    .await;
    // Ends are few.
    let many: Vec<_> = (0..crate::intents::ENDS_MAX)
        .map(|n| Target::Session(SessionId([(n % 251) as u8 + 1; 16].map(|byte| byte ^ (n / 251) as u8))))
        .collect();
    assert!(nodes.at(0).intents().end(&many, until).await.is_err());
    assert_eq!(nodes.at(0).intents().list().len(), 2);
}

#[tokio::test]
async fn a_data_folder_that_is_none_is_said() {
    let nodes = Nodes::start(&["eu-1"]).await;
    let clock = Clock::system();
    let missing = open(&nodes.data(0).join("nowhere"), &Arc::default(), &clock).await;
    assert!(matches!(missing, Err(StartError::Io { .. })));
    let used = open(nodes.data(0), &Arc::default(), &clock).await;
    assert!(matches!(used, Err(StartError::InUse(_))));
}

mod zone_keys;
