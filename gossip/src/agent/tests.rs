//! Whole nodes in one process, on loopback addresses of their own.

use std::time::Duration;

use tokio::time::timeout;

use super::*;
use crate::clock::Hlc;
use crate::state::{BackendState, Member, MemberState};

const PATIENCE: Duration = Duration::from_secs(20);

struct Mesh {
    ring: Keyring,
    folder: tempfile::TempDir,
}

impl Mesh {
    fn new() -> Self {
        Self { ring: Keyring::generate(), folder: tempfile::tempdir().unwrap() }
    }

    fn config(&self, name: &str, region: &str, seeds: &[&Gossip]) -> GossipConfig {
        GossipConfig {
            name: name.parse().unwrap(),
            region: region.parse().unwrap(),
            zone: None,
            listen: "127.0.0.1:0".parse().unwrap(),
            advertise: None,
            seeds: seeds.iter().map(|seed| seed.listen_addr().to_string()).collect(),
            public: Vec::new(),
            version: "0.1.0".into(),
            data: self.folder.path().join(name),
            keyring: self.ring.clone(),
            clock: Clock::system(),
        }
    }

    async fn start(&self, name: &str, region: &str, seeds: &[&Gossip]) -> Gossip {
        Gossip::start(self.config(name, region, seeds)).await.unwrap()
    }
}

/// Waits until the view satisfies the condition; how long it took.
async fn until(node: &Gossip, what: &str, condition: impl Fn(&ClusterView) -> bool) -> Duration {
    let clock = Clock::system();
    let began = clock.now();
    let mut view = node.view();
    let waited = timeout(PATIENCE, view.wait_for(|view| condition(view))).await;
    if waited.is_err() {
        let view = node.view().borrow().clone();
        let states =
            view.members.values().map(|m| format!("{} {:?}", m.record.name, m.state)).collect::<Vec<_>>();
        panic!(
            "{} waited in vain for: {what}; it sees {states:?}, isolated {:?}",
            view.me, view.isolated_since
        );
    }
    clock.now() - began
}

fn member<'a>(view: &'a ClusterView, name: &str) -> Option<&'a Arc<Member>> {
    view.members.get(name)
}

fn state(view: &ClusterView, name: &str) -> Option<MemberState> {
    member(view, name).map(|member| member.state)
}

fn alive(view: &ClusterView) -> usize {
    view.members.values().filter(|member| member.is_alive()).count()
}

async fn all_see(nodes: &[&Gossip], count: usize) {
    for node in nodes {
        until(node, &format!("{count} members alive"), |view| alive(view) == count).await;
    }
}

/// A member made by hand: a mesh endpoint, and chitchat with whatever entries.
async fn by_hand(
    mesh: &Mesh,
    name: &str,
    entries: impl FnOnce(NodeRecord) -> Vec<(String, String)>,
) -> (crate::mesh::Mesh, crate::membership::Membership) {
    let (clock, name): (Clock, NodeName) = (Clock::system(), name.parse().unwrap());
    let identity = Identity::new(name.clone(), mesh.ring.clone(), clock.clone()).unwrap();
    let [socket, _] = bind_pair("127.0.0.1:0".parse().unwrap()).unwrap();
    let advertise = socket.local_addr().unwrap();
    let endpoint = crate::mesh::Mesh::start(name.clone(), identity, clock.clone(), socket).unwrap();
    let started = clock.wall();
    let record = NodeRecord {
        name: name.clone(),
        region: "us".parse().unwrap(),
        zone: None,
        mesh: advertise,
        public: Vec::new(),
        version: "0.0.9".into(),
        started,
        draining: false,
        revision: None,
        keys: mesh.ring.key_ids(),
        key_since: started,
    };
    let life = Life { name, generation: started.0, advertise };
    let own = entries(record).into_iter().collect();
    let (words, _) = mpsc::channel(1);
    let membership =
        crate::membership::Membership::start(life, 3, &endpoint, &clock, words, own).await.unwrap();
    (endpoint, membership)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_of_the_version_before_and_of_the_one_after_are_members_like_others() {
    use crate::state::key;
    let mesh = Mesh::new();
    let node = mesh.start("eu-1", "eu", &[]).await;
    let (pool, other): (PoolName, PoolName) = ("web".parse().unwrap(), "db".parse().unwrap());
    let verdict = Verdict { backend: BackendId(42), state: BackendState::Up, since: Hlc(5) };

    // Version N-1 said nothing of keys, round trips and failures.
    let (older, its) = by_hand(&mesh, "us-1", |record| {
        let mut entries = key::record_entries(&record);
        entries.retain(|(key, _)| key != "keys");
        entries.push(key::verdicts_entry(&pool, &[verdict]).unwrap());
        entries
    })
    .await;
    // Version N+1 says more, and some of it in another way.
    let (newer, theirs) = by_hand(&mesh, "us-2", |record| {
        let mut entries = key::record_entries(&record);
        entries.push(key::verdicts_entry(&pool, &[verdict]).unwrap());
        let say = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        // The first byte, in base64, is 2.
        let spelled_anew = [say(&format!("v:{other}"), "AgECAwQF"), say(&format!("s:{other}"), "AgECAwQF")];
        entries.extend(spelled_anew);
        entries.extend([say("future", "whatever"), say("x:web", "AgEC"), say("rtt", "AgEC")]);
        entries
    })
    .await;
    for membership in [&its, &theirs] {
        membership.gossip_with([node.listen_addr()]);
    }
    until(&node, "both are members", |view| {
        let said = |name| {
            let member = member(view, name)?;
            Some(member.is_alive() && member.verdicts.get(&pool) == Some(&vec![verdict]))
        };
        said("us-1") == Some(true) && said("us-2") == Some(true)
    })
    .await;
    let view = node.view().borrow().clone();
    let (before, after) = (member(&view, "us-1").unwrap(), member(&view, "us-2").unwrap());
    assert_eq!((before.record.version.as_str(), before.record.keys.len()), ("0.0.9", 0));
    assert_eq!((after.verdicts.len(), after.summaries.len(), after.rtts.len()), (1, 0, 0));

    // What only the newer one understands is no answer, and no reason to part.
    let to: NodeName = "eu-1".parse().unwrap();
    let eu = crate::mesh::MemberAddr { name: to.clone(), addr: node.listen_addr(), generation: 1 };
    newer.set_members(&[eu]);
    let ask = |bytes: &'static [u8]| {
        let (newer, to) = (newer.clone(), to.clone());
        async move { newer.exchange(&to, control::CHANNEL, bytes.into(), Duration::from_secs(5)).await }
    };
    // Version 2, and a kind that version 1 does not know.
    for unknown in [&b"\x02\x02"[..], b"\x01\x63"] {
        assert!(ask(unknown).await.is_err(), "{unknown:?}");
    }
    for channel in [crate::membership::CHANNEL, control::CHANNEL] {
        newer.message(&to, channel, bytes::Bytes::from_static(b"\x02anything at all")).unwrap();
    }
    newer.datagram(&to, crate::fastlane::CHANNEL, bytes::Bytes::from_static(b"\x02anything")).unwrap();
    let life = ask(b"\x01\x03").await.expect("version 1 is answered as ever");
    assert!(control::decode_number(&life).is_some());
    until(&node, "both are still there", |view| alive(view) == 3).await;
    older.stop();
    newer.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn six_nodes_meet_through_one_seed_and_tell_each_other_everything() {
    let mesh = Mesh::new();
    let first = mesh.start("eu-1", "eu", &[]).await;
    let mut nodes = vec![first];
    for (name, region) in [("eu-2", "eu"), ("us-1", "us"), ("us-2", "us"), ("ap-1", "ap"), ("ap-2", "ap")] {
        let node = mesh.start(name, region, &[&nodes[0]]).await;
        nodes.push(node);
    }
    all_see(&nodes.iter().collect::<Vec<_>>(), 6).await;

    let revision = Some(RevisionId { epoch: 1, hash: [7; 32] });
    let pool: PoolName = "web".parse().unwrap();
    let backend = BackendId(42);
    let verdict = Verdict { backend, state: BackendState::Up, since: Hlc(5) };
    let summary = PoolSummary { healthy: 1, total: 2, capacity: 100, in_flight: 3 };
    let mut events = nodes[5].events();
    nodes[0].set_revision(revision);
    nodes[0].set_draining(true);
    nodes[0].set_public(vec!["198.51.100.1".parse().unwrap()]);
    nodes[0].publish_verdicts(BTreeMap::from([(pool.clone(), vec![verdict])])).unwrap();
    nodes[0].publish_summaries(BTreeMap::from([(pool.clone(), summary)]));
    for node in &nodes {
        let told = |view: &ClusterView| {
            member(view, "eu-1").is_some_and(|member| {
                member.state == MemberState::Draining
                    && member.record.revision == revision
                    && member.record.public.len() == 1
                    && member.verdicts.get(&pool) == Some(&vec![verdict])
                    && member.summaries.get(&pool) == Some(&summary)
            })
        };
        until(node, "all that eu-1 says", told).await;
    }
    let seen = async {
        let mut wanted = 2;
        while wanted > 0 {
            match events.recv().await.unwrap() {
                MeshEvent::VerdictChanged { verdict: seen, .. } if seen == verdict => wanted -= 1,
                MeshEvent::RevisionChanged { revision: seen, .. } if seen == revision => wanted -= 1,
                _ => {}
            }
        }
    };
    timeout(PATIENCE, seen).await.expect("the events come");

    // The load of one node reaches its region, and is dropped when it says goodbye.
    let mut reports = nodes[1].take_load_reports().unwrap();
    nodes[0].tell_load_of(move || vec![(backend, 9), (BackendId(1), 0)]);
    let report = timeout(PATIENCE, reports.recv()).await.unwrap().unwrap();
    assert_eq!(report, LoadReport { from: "eu-1".parse().unwrap(), loads: vec![(backend, 9)] });
    nodes[0].publish_verdicts(BTreeMap::new()).unwrap();
    until(&nodes[4], "no verdicts", |view| member(view, "eu-1").is_some_and(|m| m.verdicts.is_empty())).await;
    nodes[0].leave().await;
    for node in &nodes[1..] {
        let took = until(node, "eu-1 has left", |view| state(view, "eu-1") == Some(MemberState::Left)).await;
        assert!(took < Duration::from_secs(2), "{took:?}");
    }
    let emptied = async { while !reports.recv().await.unwrap().loads.is_empty() {} };
    timeout(PATIENCE, emptied).await.expect("its load is dropped");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_node_is_suspect_soon_dead_later_and_comes_back_under_its_name() {
    let mesh = Mesh::new();
    let a = mesh.start("a", "eu", &[]).await;
    let b = mesh.start("b", "eu", &[&a]).await;
    let c = mesh.start("c", "eu", &[&a]).await;
    let d = mesh.start("d", "us", &[&a]).await;
    let e = mesh.start("e", "us", &[&a]).await;
    all_see(&[&a, &b, &c, &d, &e], 5).await;
    let addr = b.listen_addr();
    b.vanish();
    let suspected = |view: &ClusterView| state(view, "b") == Some(MemberState::Suspect);
    let waits = [&a, &c, &d, &e].map(|node| until(node, "b is suspect", suspected));
    for took in futures_util::future::join_all(waits).await {
        assert!(took < Duration::from_secs(3), "{took:?}");
    }
    for node in [&a, &c, &d, &e] {
        until(node, "b is dead", |view| state(view, "b") == Some(MemberState::Dead)).await;
        let view = node.view().borrow().clone();
        assert_eq!(alive(&view), 4, "nobody else was harmed");
    }
    // It comes back at another address while the old one is remembered: nobody answers there, so the name is free.
    let b = mesh.start("b", "eu", &[&d]).await;
    assert_ne!(b.listen_addr(), addr);
    all_see(&[&a, &b, &c, &d, &e], 5).await;
    for node in [&a, &e] {
        let view = node.view().borrow().clone();
        assert_eq!(member(&view, "b").unwrap().record.mesh, b.listen_addr());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_at_the_same_address_is_let_in_at_once() {
    let mesh = Mesh::new();
    let a = mesh.start("a", "eu", &[]).await;
    let b = mesh.start("b", "us", &[&a]).await;
    all_see(&[&a, &b], 2).await;
    let addr = b.listen_addr();
    let started = member(&a.view().borrow(), "b").unwrap().record.started;
    b.vanish();
    // The killed node's sockets close when its last tasks have ended.
    let again = async {
        loop {
            let config = GossipConfig { listen: addr, ..mesh.config("b", "us", &[&a]) };
            match Gossip::start(config).await {
                Ok(node) => return node,
                Err(StartError::Listen { .. }) => tokio::time::sleep(Duration::from_millis(10)).await,
                Err(other) => panic!("{other}"),
            }
        }
    };
    let b = timeout(PATIENCE, again).await.unwrap();
    let new_life = |view: &ClusterView| {
        member(view, "b").is_some_and(|member| member.is_alive() && member.record.started > started)
    };
    let took = until(&a, "the new life of b", new_life).await;
    assert!(took < Duration::from_secs(3), "{took:?}");
    all_see(&[&a, &b], 2).await;
    let answer = async {
        let channel = crate::mesh::Channel { id: 99, name: "test", max_bytes: 10, queue: 1 };
        let mut inbound = b.mesh().listen(channel);
        let question = a.mesh();
        let asked = tokio::spawn(async move {
            question.exchange(&"b".parse().unwrap(), channel, "x".into(), PATIENCE).await
        });
        if let Some(crate::mesh::Inbound::Exchange { reply, bytes, .. }) = inbound.recv().await {
            reply.send(bytes);
        }
        asked.await.unwrap()
    };
    assert_eq!(timeout(PATIENCE, answer).await.unwrap().unwrap(), "x");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_at_another_address_is_let_in_though_the_old_life_still_seems_alive() {
    let mesh = Mesh::new();
    let a = mesh.start("a", "eu", &[]).await;
    let b = mesh.start("b", "us", &[&a]).await;
    let c = mesh.start("c", "eu", &[&a]).await;
    all_see(&[&a, &b, &c], 3).await;
    b.vanish();
    assert_eq!(state(&a.view().borrow(), "b"), Some(MemberState::Alive));
    let b = mesh.start("b", "us", &[&a]).await;
    let moved = |view: &ClusterView| {
        member(view, "b").is_some_and(|member| member.is_alive() && member.record.mesh == b.listen_addr())
    };
    for node in [&a, &c] {
        let took = until(node, "b at its new address", moved).await;
        assert!(took < Duration::from_secs(5), "{took:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_living_name_is_refused_to_a_second_node() {
    let mesh = Mesh::new();
    let a = mesh.start("a", "eu", &[]).await;
    let b = mesh.start("b", "eu", &[&a]).await;
    all_see(&[&a, &b], 2).await;
    let mut events = a.events();
    // Through a third node, and through the owner of the name itself.
    for seed in [&a, &b] {
        let config =
            GossipConfig { data: mesh.folder.path().join("other"), ..mesh.config("b", "us", &[seed]) };
        let error = Gossip::start(config).await.unwrap_err();
        assert!(matches!(&error, StartError::NameTaken { by, .. } if *by == b.listen_addr()), "{error}");
    }
    let told = async { while !matches!(events.recv().await.unwrap(), MeshEvent::NameTaken { .. }) {} };
    timeout(PATIENCE, told).await.expect("the event comes");
    assert_eq!(member(&a.view().borrow(), "b").unwrap().record.region.as_str(), "eu");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_mesh_of_two_the_silent_peer_leaves_within_three_seconds() {
    for region in ["eu", "us"] {
        let mesh = Mesh::new();
        let a = mesh.start("a", "eu", &[]).await;
        let b = mesh.start("b", region, &[&a]).await;
        all_see(&[&a, &b], 2).await;
        b.vanish();
        let took = until(&a, "b is suspect", |view| state(view, "b") == Some(MemberState::Suspect)).await;
        assert!(took < Duration::from_secs(3), "{region}: {took:?}");
        until(&a, "isolation", |view| view.isolated_since.is_some()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreachable_seed_is_called_until_it_is_there() {
    let mesh = Mesh::new();
    let [socket, _above] = bind_pair("127.0.0.1:0".parse().unwrap()).unwrap();
    let addr = socket.local_addr().unwrap();
    let config = GossipConfig { seeds: vec![addr.to_string()], ..mesh.config("a", "eu", &[]) };
    let a = Gossip::start(config).await.unwrap();
    assert_eq!(alive(&a.view().borrow()), 1);
    drop((socket, _above));
    let b = Gossip::start(GossipConfig { listen: addr, ..mesh.config("b", "eu", &[]) }).await.unwrap();
    all_see(&[&a, &b], 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mesh_that_lost_its_seeds_finds_itself_by_the_peers_on_disk() {
    let mesh = Mesh::new();
    let a = mesh.start("a", "eu", &[]).await;
    let b = mesh.start("b", "eu", &[&a]).await;
    all_see(&[&a, &b], 2).await;
    let path = mesh.folder.path().join("a/peers");
    let written = async {
        while !std::fs::read_to_string(&path).is_ok_and(|text| text.contains("\nb ")) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, written).await.expect("the peers are written");
    a.leave().await;
    drop(a);
    let a = mesh.start("a", "eu", &[]).await;
    all_see(&[&a, &b], 2).await;
}

#[tokio::test]
async fn what_cannot_start_says_why() {
    let mesh = Mesh::new();
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let taken = socket.local_addr().unwrap();
    let error =
        Gossip::start(GossipConfig { listen: taken, ..mesh.config("a", "eu", &[]) }).await.unwrap_err();
    assert!(error.to_string().starts_with(&format!("cannot listen on {taken} (UDP)")), "{error}");
    let wildcard = GossipConfig { listen: "0.0.0.0:0".parse().unwrap(), ..mesh.config("a", "eu", &[]) };
    assert!(matches!(Gossip::start(wildcard).await.unwrap_err(), StartError::Advertise(_)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_never_appears() {
    let mesh = Mesh::new();
    let a = mesh.start("a", "eu", &[]).await;
    let b = mesh.start("b", "eu", &[&a]).await;
    let stranger = Mesh::new().start("c", "eu", &[&a]).await;
    all_see(&[&a, &b], 2).await;
    assert!(member(&a.view().borrow(), "c").is_none());
    assert_eq!(stranger.view().borrow().members.len(), 1);
}
