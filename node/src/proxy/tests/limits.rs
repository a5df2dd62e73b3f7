use super::http::web;
use super::*;
use crate::config::model::{PoolProtocol, Rate, RateLimit};
use crate::proxy::{Cut, End};

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_asks_too_often_is_told_when_to_come_back() {
    let world = World::new();
    let mut snapshot = web(&[(http_backend("a").await, "eu")]);
    let services = Arc::make_mut(&mut snapshot.services);
    let service = Arc::make_mut(services.services.values_mut().next().unwrap());
    service.rate_limit =
        Some(RateLimit { per_client: Some(Rate { per_second: 0.1, burst: 3 }), service: None });
    let listener = Arc::make_mut(services.listeners.values_mut().next().unwrap());
    listener.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
    let node = world.node("eu-1", snapshot);
    let addr = node.addr("http");
    // New connections land on both workers; the limit is the node's.
    for _ in 0..3 {
        assert_eq!(get(addr, "/", &[("x-forwarded-for", "192.0.2.1")]).await.status, 200);
    }
    let said = get(addr, "/", &[("x-forwarded-for", "192.0.2.1")]).await;
    assert_eq!(said.status, 429, "{said:?}");
    let wait: u64 = said.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=10).contains(&wait), "{said:?}");
    assert_eq!(get(addr, "/", &[("x-forwarded-for", "192.0.2.2")]).await.status, 200, "another client");
    until(|| node.handle.counters().ends(End::RateLimited) == 1).await;
    // A change of the snapshot does not give it back.
    node.change(|snapshot| snapshot.rescue_order.clear());
    assert_eq!(get(addr, "/", &[("x-forwarded-for", "192.0.2.1")]).await.status, 429);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_clients_together_ask_no_more_often_than_the_service_may_be_asked() {
    let world = World::new();
    let mut snapshot = web(&[(http_backend("a").await, "eu")]);
    let services = Arc::make_mut(&mut snapshot.services);
    let service = Arc::make_mut(services.services.values_mut().next().unwrap());
    service.rate_limit =
        Some(RateLimit { per_client: None, service: Some(Rate { per_second: 0.01, burst: 20 }) });
    let listener = Arc::make_mut(services.listeners.values_mut().next().unwrap());
    listener.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
    let node = world.node("eu-1", snapshot);
    let addr = node.addr("http");
    let asked = (0..40)
        .map(|n| async move { get(addr, "/", &[("x-forwarded-for", &format!("192.0.2.{n}"))]).await.status });
    let statuses = futures_util::future::join_all(asked).await;
    let of = |status| statuses.iter().filter(|&&own| own == status).count();
    assert_eq!((of(200), of(429)), (20, 20), "{statuses:?}");
    let said = get(addr, "/", &[("x-forwarded-for", "192.0.2.99")]).await;
    let wait: u64 = said.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=100).contains(&wait), "{said:?}");
}

/// One backend that takes one request at a time.
async fn narrow(patience: Duration) -> Snapshot {
    let mut snapshot = web(&[(http_backend("a").await, "eu")]);
    let services = Arc::make_mut(&mut snapshot.services);
    Arc::make_mut(services.services.values_mut().next().unwrap()).timeout.response = patience;
    let pool = Arc::make_mut(snapshot.pools.values_mut().next().unwrap());
    Arc::make_mut(&mut pool.config).max_connections = Some(1);
    snapshot
}

fn in_flight(node: &Node) -> u32 {
    node.snapshot.load().pools.values().next().unwrap().backends[0].shared.in_flight()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_finds_no_place_waits_for_one_and_is_woken_on_any_worker() {
    let world = World::new();
    let node = world.node("eu-1", narrow(Duration::from_millis(300)).await);
    let addr = node.addr("http");
    let slow = tokio::spawn(async move { get(addr, "/slow", &[]).await.status });
    until(|| in_flight(&node) == 1).await;
    let waiting: Vec<_> =
        (0..20).map(|_| tokio::spawn(async move { get(addr, "/", &[]).await.status })).collect();
    assert_eq!(slow.await.unwrap(), 504);
    for one in waiting {
        assert_eq!(one.await.unwrap(), 200);
    }
    until(|| in_flight(&node) == 0).await;
    assert_eq!(node.snapshot.load().pools.values().next().unwrap().queue.waiting(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_too_long_is_told_to_come_back() {
    let world = World::new();
    let node = world.node("eu-1", narrow(Duration::from_secs(3)).await);
    let addr = node.addr("http");
    let slow = tokio::spawn(async move { get(addr, "/slow", &[]).await.status });
    until(|| in_flight(&node) == 1).await;
    let said = get(addr, "/", &[]).await;
    assert_eq!((said.status, said.header("retry-after")), (503, Some("1")), "{said:?}");
    until(|| node.handle.counters().ends(End::QueueFull) == 1).await;
    assert_eq!(slow.await.unwrap(), 504);
    assert_eq!(get(addr, "/", &[]).await.status, 200, "nobody holds the place");
    assert_eq!(node.snapshot.load().pools.values().next().unwrap().queue.waiting(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_with_room_is_taken_before_anybody_waits() {
    let world = World::new();
    let mut snapshot = web(&[(http_backend("a").await, "eu"), (http_backend("b").await, "eu")]);
    let pool = Arc::make_mut(snapshot.pools.values_mut().next().unwrap());
    Arc::make_mut(&mut pool.config).max_connections = Some(1);
    Arc::make_mut(&mut pool.config).balance = crate::config::model::BalancePolicy::Random;
    let full = pool.backends[0].shared.try_enter(1, &pool.queue).unwrap();
    let other = pool.backends[1].shared.clone();
    let node = world.node("eu-1", snapshot);
    for _ in 0..20 {
        assert_eq!(get(node.addr("http"), "/", &[]).await.status, 200);
        until(|| other.in_flight() == 0).await;
    }
    assert_eq!(other.requests(), 20);
    drop(full);
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_and_streams_have_their_bounds() {
    let world = World::new();
    // A backend that takes more than a user may send.
    let backend = http2::backend(PoolProtocol::Http1, Arc::default()).await;
    let node = world.node("eu-1", web(&[(backend, "eu")]));
    let addr = node.addr("http");
    let with = |fields: &str| format!("GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{fields}\r\n");
    let fields = |count: usize| (0..count).map(|at| format!("x-{at}: y\r\n")).collect::<String>();
    assert_eq!(raw(addr, with(&fields(98)).as_bytes()).await.status, 200);
    assert_eq!(raw(addr, with(&fields(99)).as_bytes()).await.status, 431);
    assert_eq!(raw(addr, with(&format!("x: {}\r\n", "y".repeat(65_000))).as_bytes()).await.status, 200);
    assert_eq!(raw(addr, with(&format!("x: {}\r\n", "y".repeat(66_000))).as_bytes()).await.status, 431);
    until(|| node.handle.counters().cut(Cut::Malformed) == 2).await;

    // 130 requests that last, though 128 are allowed.
    let block = b"\x82\x86\x44\x05/slow\x41\x0cshop.example";
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    for stream in (1..260u32).step_by(2) {
        bytes.extend([0, 0, block.len() as u8, 1, 5]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(block);
    }
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
    until(|| node.handle.in_flight() == 128).await;
    let mut said = Vec::new();
    // RST_STREAM, REFUSED_STREAM: the client may try them again.
    let refusals = |said: &[u8]| {
        let reset = |at: &&[u8]| at[..5] == [0, 0, 4, 3, 0] && at[9..] == [0, 0, 0, 7];
        said.windows(13).filter(reset).count()
    };
    while refusals(&said) < 2 {
        assert!(stream.read_buf(&mut said).await.unwrap() > 0);
    }
    assert_eq!((refusals(&said), node.handle.in_flight()), (2, 128));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_has_only_so_many_connections() {
    let world = World::new();
    let mut snapshot = web(&[(http_backend("a").await, "eu")]);
    let services = Arc::make_mut(&mut snapshot.services);
    Arc::make_mut(services.listeners.values_mut().next().unwrap()).max_connections_per_client = Some(3);
    let node = world.node("eu-1", snapshot);
    let addr = node.addr("http");
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(TcpStream::connect(addr).await.unwrap());
    }
    until(|| node.handle.connections() == 3).await;
    for _ in 0..5 {
        let mut one_more = TcpStream::connect(addr).await.unwrap();
        let end = tokio::time::timeout(Duration::from_secs(5), one_more.read(&mut [0; 9])).await.unwrap();
        assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    }
    let refused = &node.handle.counters().connections_refused;
    assert_eq!(refused.load(Ordering::Relaxed), 5);
    // Another revision of the same listener forgets nothing.
    node.change(|snapshot| Arc::make_mut(&mut snapshot.services).regions.clear());
    held.pop();
    until(|| node.handle.connections() == 2).await;
    assert_eq!(get(addr, "/", &[]).await.status, 200);
}
