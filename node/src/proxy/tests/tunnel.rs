use gossip::state::{BackendState, PoolSummary};

use super::http::web;
use super::tcp::{ask, pg, tcp_backend};
use super::*;
use crate::backend::{RegionView, TunnelNode};
use crate::proxy::fixture;

/// The snapshot as a node of `place` has it, when `others` are the nodes of the other region.
pub(super) fn seen_from(place: &str, mut snapshot: Snapshot, other: &str, others: &[&str]) -> Snapshot {
    let node = |name: &&str| TunnelNode {
        name: NodeName::new(name).unwrap(),
        addr: ([127, 0, 0, 1], 1).into(),
        rtt: None,
    };
    let healthy = PoolSummary { healthy: 1, total: 1, capacity: 100, in_flight: 0 };
    let pools = snapshot.pools.keys().map(|name| (name.clone(), healthy)).collect();
    snapshot.region = fixture::region(place);
    snapshot.regions = [
        (fixture::region(place), RegionView::default()),
        (fixture::region(other), RegionView { nodes: others.iter().map(node).collect(), pools }),
    ]
    .into();
    snapshot.rescue_order = vec![fixture::region(other)];
    snapshot
}

fn set_state(snapshot: &mut Snapshot, region: &str, state: BackendState) {
    let pool = Arc::make_mut(snapshot.pools.values_mut().next().unwrap());
    for backend in pool.backends.iter_mut().filter(|backend| backend.config.region.as_str() == region) {
        backend.state = state;
    }
}

fn with_cookie(mut snapshot: Snapshot) -> Snapshot {
    let services = Arc::make_mut(&mut snapshot.services);
    Arc::make_mut(services.services.values_mut().next().unwrap()).sticky_cookie = Some(fixture::sticky());
    snapshot
}

async fn two_regions(world: &World) -> (Node, Node) {
    let backends = [
        (http_backend("eu-a").await, "eu"),
        (http_backend("us-a").await, "us"),
        (http_backend("us-b").await, "us"),
    ];
    let base = with_cookie(web(&backends));
    let eu = world.node("eu-1", seen_from("eu", base.clone(), "us", &["us-1"]));
    let us = world.node("us-1", seen_from("us", base, "eu", &["eu-1"]));
    (eu, us)
}

#[tokio::test(flavor = "multi_thread")]
async fn another_region_rescues_and_the_session_stays_there() {
    let world = World::new();
    let (eu, us) = two_regions(&world).await;
    assert_eq!(get(eu.addr("http"), "/", &[]).await.backend(), "eu-a");
    for node in [&eu, &us] {
        node.change(|snapshot| set_state(snapshot, "eu", BackendState::Down));
    }
    for _ in 0..10 {
        let said = get(eu.addr("http"), "/x", &[("x-forwarded-for", "6.6.6.6")]).await;
        assert!(said.backend().starts_with("us-"), "{said:?}");
        assert!(said.body.contains("x-forwarded-for: 127.0.0.1\n"), "{said:?}");
        assert_eq!(said.body.matches("x-request-id").count(), 1);
        let head = said.head.to_ascii_lowercase();
        assert!(!head.contains("meridian-tunnel"), "{head}");
        assert_eq!(head.matches("set-cookie").count(), 1);
        let cookie = said.cookie().unwrap();
        for node in [&eu, &us, &eu] {
            let next = get(node.addr("http"), "/", &[("cookie", &cookie)]).await;
            assert_eq!(next.backend(), said.backend());
            assert_eq!(next.cookie(), None);
        }
    }
    assert_eq!(eu.handle.counters().tunnels_out.load(Ordering::Relaxed), 30);
    assert_eq!(us.handle.counters().tunnels_in.load(Ordering::Relaxed), 30);
    assert_eq!(us.handle.counters().tunnels_out.load(Ordering::Relaxed), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_crosses_twice() {
    let world = World::new();
    let (eu, us) = two_regions(&world).await;
    // Each believes that the other can help.
    eu.change(|snapshot| set_state(snapshot, "eu", BackendState::Down));
    us.change(|snapshot| set_state(snapshot, "us", BackendState::Down));
    let said = get(eu.addr("http"), "/", &[]).await;
    assert!(matches!(said.status, 502 | 503), "{said:?}");
    assert_eq!(us.handle.counters().tunnels_in.load(Ordering::Relaxed), 1);
    assert_eq!(eu.handle.counters().tunnels_in.load(Ordering::Relaxed), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_attempts_of_this_region_do_not_count_against_the_rescue() {
    let world = World::new();
    let dead = || SocketAddr::from(([127, 0, 0, 1], free_port()));
    let base = web(&[
        (dead(), "eu"),
        (dead(), "eu"),
        (dead(), "eu"),
        (dead(), "eu"),
        (http_backend("us-a").await, "us"),
    ]);
    let eu = world.node("eu-1", seen_from("eu", base.clone(), "us", &["us-9", "us-1"]));
    let _us = world.node("us-1", seen_from("us", base, "eu", &["eu-1"]));
    // us-9 does not answer: the other node of the region is tried.
    let post = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\nconnection: close\r\n\r\nab";
    for _ in 0..6 {
        assert_eq!(raw(eu.addr("http"), post).await.backend(), "us-a");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bound_session_moves_when_its_far_backend_is_gone() {
    let world = World::new();
    let (eu, us) = two_regions(&world).await;
    let first = get(us.addr("http"), "/", &[]).await;
    let cookie = first.cookie().unwrap();
    assert_eq!(get(eu.addr("http"), "/", &[("cookie", &cookie)]).await.backend(), first.backend());
    // Only the far end knows that it went down.
    let gone = if first.backend() == "us-a" { 1 } else { 2 };
    us.change(|snapshot| {
        let pool = Arc::make_mut(snapshot.pools.values_mut().next().unwrap());
        pool.backends[gone].state = BackendState::Down;
    });
    let moved = get(eu.addr("http"), "/", &[("cookie", &cookie)]).await;
    assert!(moved.backend().starts_with("us-") && moved.backend() != first.backend(), "{moved:?}");
    let again = get(us.addr("http"), "/", &[("cookie", &moved.cookie().unwrap())]).await;
    assert_eq!(again.backend(), moved.backend());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_waits_for_the_last_node_that_was_asked() {
    let world = World::new();
    let (eu, us) = two_regions(&world).await;
    let first = get(us.addr("http"), "/", &[]).await;
    eu.change(|snapshot| {
        *snapshot = seen_from("eu", snapshot.clone(), "us", &["us-1", "us-8", "us-9"]);
    });
    // Three queues that say nothing for now; behind one of them is the node.
    let us_1 = world.tunnels.0.lock().unwrap()[&NodeName::new("us-1").unwrap()].clone();
    let mut silent = ["us-1", "us-8", "us-9"].map(|name| {
        let (queue, asked) = mpsc::channel(1);
        world.tunnels.0.lock().unwrap().insert(NodeName::new(name).unwrap(), queue);
        asked
    });
    let cookie = first.cookie().unwrap();
    let asks = tokio::spawn({
        let eu = eu.addr("http");
        async move { get(eu, "/", &[("cookie", &cookie)]).await }
    });
    let mut asked = Vec::new();
    for queue in &mut silent {
        asked.push(queue.recv().await.unwrap());
    }
    // Nothing shows that the last wait has begun. Were this too short, the test would pass for less.
    tokio::time::sleep(Duration::from_secs(1)).await;
    // Two of them die, one after the other.
    drop((silent, asked.split_off(1)));
    us_1.send(asked.pop().unwrap()).await.unwrap();
    let said = asks.await.unwrap();
    assert_eq!((said.backend(), said.cookie()), (first.backend(), None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_without_nodes_is_dialled_directly() {
    let world = World::new();
    let base = web(&[(http_backend("us-a").await, "us")]);
    let eu = world.node("eu-1", seen_from("eu", base, "us", &[]));
    assert_eq!(get(eu.addr("http"), "/", &[]).await.backend(), "us-a");
    assert_eq!(eu.handle.counters().tunnels_out.load(Ordering::Relaxed), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn upgrades_and_errors_cross_too() {
    let world = World::new();
    let (eu, us) = two_regions(&world).await;
    for node in [&eu, &us] {
        node.change(|snapshot| {
            set_state(snapshot, "eu", BackendState::Down);
            let services = Arc::make_mut(&mut snapshot.services);
            let service = Arc::make_mut(services.services.values_mut().next().unwrap());
            service.timeout.response = Duration::from_millis(300);
        });
    }
    let mut stream = TcpStream::connect(eu.addr("http")).await.unwrap();
    stream
        .write_all(
            b"GET /upgrade HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nping",
        )
        .await
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 101") && answer.ends_with("ping"), "{answer}");
    assert!(!answer.contains("meridian-tunnel"), "{answer}");
    // A backend that stays with HTTP answers whole.
    let stays = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close, upgrade\r\nupgrade: websocket\r\n\r\n";
    for _ in 0..20 {
        let said = raw(eu.addr("http"), stays).await;
        assert!(said.status == 200 && said.body.ends_with("body: 0 bytes\n"), "{said:?}");
    }
    assert_eq!(get(eu.addr("http"), "/slow", &[]).await.status, 504);
    let post = b"POST /reset HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\nconnection: close\r\n\r\nab";
    let reset = raw(eu.addr("http"), post).await;
    assert_eq!(reset.status, 502);
    assert!(!reset.head.contains("meridian-tunnel"), "{reset:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tcp_crosses_with_the_users_address() {
    let world = World::new();
    let dead: SocketAddr = ([127, 0, 0, 1], free_port()).into();
    let base =
        pg("eu", &[(dead, "eu"), (tcp_backend("us-a").await, "us"), (tcp_backend("us-b").await, "us")]);
    let eu = world.node("eu-1", seen_from("eu", base.clone(), "us", &["us-1"]));
    let _us = world.node("us-1", seen_from("us", base, "eu", &["eu-1"]));
    let (first, line, echoed) = ask(eu.addr("pg"), [127, 0, 6, 1], "hello").await.unwrap();
    assert!(first.starts_with("us-"));
    assert!(line.starts_with("PROXY TCP4 127.0.6.1 127.0.0.1 "), "{line}");
    assert_eq!(echoed, "hello");
    for _ in 0..5 {
        assert_eq!(ask(eu.addr("pg"), [127, 0, 6, 1], "x").await.unwrap().0, first);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tcp_tries_another_node_when_one_goes_after_it_accepted() {
    let world = World::new();
    let base = pg("eu", &[(tcp_backend("us-a").await, "us"), (tcp_backend("us-b").await, "us")]);
    let eu = world.node("eu-1", seen_from("eu", base.clone(), "us", &["us-1", "us-8"]));
    let _us = world.node("us-1", seen_from("us", base, "eu", &["eu-1"]));
    // The other node takes one connection, says so, and dies.
    let (queue, mut asked) = mpsc::channel(1);
    world.tunnels.0.lock().unwrap().insert(NodeName::new("us-8").unwrap(), queue);
    let dies = tokio::spawn(async move {
        let mut tunnel: InboundTunnel = asked.recv().await.unwrap();
        tunnel.io.write_all(&[1, 0]).await.unwrap();
        tunnel.io.flush().await.unwrap();
        // What is dropped overtakes what is under way.
        tokio::time::sleep(Duration::from_millis(50)).await;
    });
    let mut places = HashMap::new();
    for user in 1..200 {
        if dies.is_finished() {
            break;
        }
        let (backend, _, echoed) = ask(eu.addr("pg"), [127, 0, 8, user], "hello").await.expect("served");
        assert_eq!(echoed, "hello");
        places.insert(user, backend);
    }
    dies.await.expect("it was asked");
    for (user, backend) in places {
        assert_eq!(
            ask(eu.addr("pg"), [127, 0, 8, user], "x").await.unwrap().0,
            backend,
            "nobody moved for it"
        );
    }
    assert_eq!(eu.handle.counters().ends(crate::proxy::End::ConnectFailed), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_in_a_tunnel_harms_nobody() {
    let world = World::new();
    let (eu, us) = two_regions(&world).await;
    let us_1 = NodeName::new("us-1").unwrap();
    for bytes in [&b""[..], b"\x01", b"\x02\x05\x00hello", b"\x01\xff\xff", b"GET / HTTP/1.1\r\n\r\n"] {
        let mut stream = world.tunnels.open(&us_1, ([127, 0, 0, 1], 1).into()).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        // It is reset, or ends without a word.
        let _ = stream.read_to_end(&mut answer).await;
        assert!(answer.is_empty());
    }
    until(|| us.handle.connections() == 0).await;
    assert_eq!(get(eu.addr("http"), "/", &[]).await.status, 200);
}
