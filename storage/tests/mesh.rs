//! The store over the real mesh: QUIC on loopback, chitchat, sled.
#![allow(clippy::unwrap_used, reason = "all of this file is a test")]

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use gossip::clock::Clock;
use gossip::id::{BackendId, NodeName, PoolName, RegionName, SessionId, Tag};
use gossip::keyring::Keyring;
use gossip::{Gossip, GossipConfig};
use storage::cookie::SessionCookie;
use storage::intents::{Aspect, Order, Target};
use storage::pin::{Assignment, Pin};
use storage::revisions::Expected;
use storage::sessions::{Committed, Repinned};
use storage::{Storage, StorageConfig};

struct Node {
    gossip: Gossip,
    storage: Storage,
    region: RegionName,
    _data: tempfile::TempDir,
}

async fn node(name: &str, ring: &Keyring, clock: &Clock, seeds: Vec<String>) -> Node {
    let data = tempfile::tempdir().unwrap();
    let region = RegionName::new(name.split('-').next().unwrap()).unwrap();
    let name = NodeName::new(name).unwrap();
    let gossip = Gossip::start(GossipConfig {
        name: name.clone(),
        region: region.clone(),
        zone: None,
        listen: "127.0.0.1:0".parse().unwrap(),
        advertise: None,
        seeds,
        public: Vec::new(),
        version: "test".into(),
        data: data.path().into(),
        keyring: ring.clone(),
        clock: clock.clone(),
    })
    .await
    .unwrap();
    let storage = Storage::start(StorageConfig {
        data: data.path().into(),
        me: name,
        region: region.clone(),
        mesh: gossip.mesh(),
        view: gossip.view(),
        keyring: ring.clone(),
        clock: clock.clone(),
        validate: Arc::new(|_| Ok(())),
        make_zone_key: Arc::new(|| None),
    })
    .await
    .unwrap();
    Node { gossip, storage, region, _data: data }
}

async fn wait_for<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    for _ in 0..3000 {
        if condition().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what} never came to be");
}

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_share_sessions_revisions_and_orders() {
    let (ring, clock) = (Keyring::generate(), Clock::system());
    let first = node("eu-1", &ring, &clock, Vec::new()).await;
    let seeds = vec![first.gossip.listen_addr().to_string()];
    let second = node("eu-2", &ring, &clock, seeds.clone()).await;
    let third = node("us-1", &ring, &clock, seeds).await;
    let nodes = [first, second, third];
    for node in &nodes {
        let mut view = node.gossip.view();
        let all = |view: &Arc<gossip::state::ClusterView>| {
            view.members.values().filter(|m| m.is_alive()).count() == 3
        };
        tokio::time::timeout(Duration::from_secs(20), view.wait_for(all)).await.unwrap().unwrap();
    }

    let eu = nodes[0].region.clone();
    let pin = |n: u16, backend: u64| {
        let mut id = [9; 16];
        id[..2].copy_from_slice(&n.to_be_bytes());
        let assignment = Assignment {
            hlc: clock.hlc(),
            node: Tag::of("us-1"),
            pool: Tag::of("web"),
            backend: Some(BackendId(backend)),
            weak: false,
            forwarded: false,
        };
        Pin { id: SessionId(id), assignment, expires: (clock.wall().seconds() + 600) as u32 }
    };
    // Made far from home: the first ones may have to wait for connections.
    let far = nodes[2].storage.sessions();
    let pins: Vec<_> = (0..1000).map(|n| pin(n * 65, 1)).collect();
    let commits: Vec<_> = pins.iter().map(|pin| far.commit(&eu, *pin)).collect();
    for commit in commits {
        // On a busy machine I3's bound may pass before the acknowledgement comes; the pins arrive all the same.
        commit.await;
    }
    let counted =
        || nodes.iter().flat_map(|node| node.storage.sessions().counts().into_values()).sum::<u64>();
    wait_for("the count", || async { counted() == 1000 }).await;
    let again = || async { far.commit(&eu, pins[0]).await == Committed::Acknowledged };
    wait_for("an acknowledgement in time", again).await;
    for held in &pins {
        assert_eq!(nodes[1].storage.sessions().find(&eu, held.id).await, Some(*held));
    }
    let wanted = pin(65, 2);
    // A replica at home holds the election and dates the move.
    let repinned = far.repin(&eu, wanted, pins[1].assignment.hlc).await;
    let Repinned::Committed(moved) = repinned else { panic!("{repinned:?}") };
    assert_eq!((moved.id, moved.assignment.backend), (wanted.id, wanted.assignment.backend));
    assert!(moved.assignment.hlc > pins[1].assignment.hlc);

    let cookie = SessionCookie {
        id: moved.id,
        pool: Tag::of("web"),
        backend: BackendId(2),
        assigned: moved.assignment.hlc,
        home: Tag::of("eu"),
        first_seen: 1,
        last_seen: 2,
    };
    let service = "web".parse().unwrap();
    let sealed = nodes[0].storage.cookies().seal(&service, &cookie, clock.wall());
    assert_eq!(nodes[2].storage.cookies().open(&service, &sealed, clock.wall()), Ok(cookie));

    let body = "# services\n".repeat(90_000);
    let revision = nodes[2].storage.revisions().apply(body, "test".into(), Expected::Nothing).await.unwrap();
    for node in &nodes {
        let current =
            |current: &Option<Arc<storage::revisions::Revision>>| current.as_ref() == Some(&revision);
        let mut watch = node.storage.revisions().watch();
        tokio::time::timeout(Duration::from_secs(20), watch.wait_for(current)).await.unwrap().unwrap();
    }

    let target = Target::Pool(PoolName::new("web").unwrap());
    nodes[1].storage.intents().set(target.clone(), Order::Drain { deadline: None }).await.unwrap();
    let key = (target, Aspect::State);
    for node in &nodes {
        wait_for("the order", || async { node.storage.intents().list().contains_key(&key) }).await;
    }

    let [first, second, third] = nodes;
    first.storage.shutdown().await;
    drop(first.gossip);
    // Whoever is left knows the sessions, whether or not the death has been noticed.
    for held in pins.iter().skip(2) {
        assert_eq!(third.storage.sessions().find(&eu, held.id).await, Some(*held));
    }
    second.storage.shutdown().await;
}
