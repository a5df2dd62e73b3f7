use gossip::state::BackendState;

use super::*;
use crate::proxy::{Affinity, End, fixture};

async fn two_backends() -> (World, Node, SocketAddr) {
    let backends = [(http_backend("a").await, "eu"), (http_backend("b").await, "eu")];
    let world = World::new();
    let node = world.node("eu-1", web(&backends));
    let addr = node.addr("http");
    (world, node, addr)
}

/// One HTTP listener, one service, one pool.
pub(super) fn web(backends: &[(SocketAddr, &str)]) -> Snapshot {
    fixture::snapshot(
        "eu",
        vec![fixture::http_listener("http", 0)],
        vec![fixture::service("web", &[("web", 1)])],
        vec![fixture::pool("web", backends)],
    )
}

fn change_service(snapshot: &mut Snapshot, change: impl FnOnce(&mut crate::config::model::Service)) {
    let services = Arc::make_mut(&mut snapshot.services);
    change(Arc::make_mut(services.services.values_mut().next().unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_goes_through_and_the_backend_learns_who_asks() {
    let (_world, node, addr) = two_backends().await;
    let said =
        get(addr, "/x?y=1", &[("x-forwarded-for", "6.6.6.6"), ("keep-alive", "9"), ("accept", "a/b")]).await;
    assert_eq!(said.status, 200, "{said:?}");
    assert!(said.body.starts_with("GET /x?y=1\n"), "{said:?}");
    for line in [
        "host: shop.example\n",
        "x-forwarded-for: 127.0.0.1\n",
        "x-forwarded-proto: http\n",
        "x-forwarded-host: shop.example\n",
        "forwarded: for=127.0.0.1;host=\"shop.example\";proto=http\n",
        "cdn-loop: meridian\n",
        "accept: a/b\n",
        "body: 0 bytes\n",
    ] {
        assert!(said.body.contains(line), "{line} is missing in {said:?}");
    }
    assert!(said.body.contains("x-request-id: ") && !said.body.contains("keep-alive"));
    until(|| node.handle.in_flight() == 0).await;
    until(|| node.handle.counters().ends(End::Ok) == 1).await;
    assert_eq!(node.handle.counters().affinity(Affinity::New), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_leads_back_here_ends_the_request_after_a_few_rounds() {
    let (_world, node, addr) = two_backends().await;
    node.change(|snapshot| snapshot.pools = web(&[(addr, "eu")]).pools);
    let said = get(addr, "/", &[]).await;
    assert_eq!(said.status, 508, "{said:?}");
    until(|| node.handle.in_flight() == 0).await;
    assert_eq!(node.handle.counters().ends(End::Loop), 1);
    let rounds = node.handle.counters().ends(End::Ok);
    assert!((1..16).contains(&rounds), "{rounds} requests passed it on");
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_made_here_are_small_and_name_nothing_of_the_inside() {
    let (_world, node, addr) = two_backends().await;
    node.change(|snapshot| {
        change_service(snapshot, |service| {
            service.hosts = vec!["shop.example".into()];
            service.timeout.response = Duration::from_millis(100);
        });
    });
    let cases: [(&[u8], u16); 6] = [
        (b"GET / HTTP/1.1\r\nhost: other\r\nconnection: close\r\n\r\n", 404),
        (b"GET / HTTP/1.1\r\nconnection: close\r\n\r\n", 400),
        (b"CONNECT a:1 HTTP/1.1\r\nhost: a:1\r\nconnection: close\r\n\r\n", 400),
        (b"GET /slow HTTP/1.1\r\nhost: shop.example\r\nconnection: close\r\n\r\n", 504),
        (
            b"POST /reset HTTP/1.1\r\nhost: shop.example\r\ncontent-length: 2\r\nconnection: close\r\n\r\nab",
            502,
        ),
        (b"\x16\x03\x01\x02\x00garbage\r\n\r\n", 400),
    ];
    for (bytes, status) in cases {
        let said = raw(addr, bytes).await;
        assert_eq!(said.status, status, "{said:?}");
        let inside = format!("{}{}", said.head, said.body);
        assert!(
            !inside.contains("127.0.0.1") && !inside.contains("web") && !inside.contains("eu-1"),
            "{said:?}"
        );
    }
    // Two of our own, and one that hyper could not even parse.
    until(|| node.handle.counters().ends(End::BadRequest) == 3).await;
    let missing = raw(addr, cases[0].0).await;
    assert_eq!(missing.header("content-type"), Some("application/problem+json"));
    assert!(missing.body.contains("\"request_id\":\""));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_the_server_as_a_whole_is_answered_by_the_node() {
    let (_world, node, addr) = two_backends().await;
    node.change(|snapshot| change_service(snapshot, |service| service.paths = vec!["/shop".into()]));
    let asked = |line: &str| format!("{line} HTTP/1.1\r\nhost: shop.example\r\nconnection: close\r\n\r\n");
    let mut said = raw(addr, asked("OPTIONS *").as_bytes()).await;
    assert_eq!((said.status, said.body.as_str()), (204, ""), "{said:?}");
    assert_eq!((said.header("x-backend"), said.header("content-length")), (None, None), "{said:?}");
    said = raw(addr, asked("OPTIONS /shop").as_bytes()).await;
    assert!(said.status == 200 && said.body.starts_with("OPTIONS /shop\n"), "{said:?}");
    let counted = |line: &str, left: u32| {
        asked(line).replace("connection", &format!("max-forwards: {left}\r\nconnection"))
    };
    said = raw(addr, counted("OPTIONS /shop", 1).as_bytes()).await;
    assert!(said.status == 200 && said.body.contains("max-forwards: 0\n"), "{said:?}");
    assert_eq!(raw(addr, counted("OPTIONS /shop", 0).as_bytes()).await.status, 204);
    assert_eq!(raw(addr, counted("TRACE /shop", 0).as_bytes()).await.status, 400);
    assert_eq!(raw(addr, asked("GET *").as_bytes()).await.status, 400, "no resource has this name");
    until(|| node.handle.counters().ends(End::Answered) == 2).await;
    node.change(|snapshot| {
        change_service(snapshot, |service| {
            service.deny = ["127.0.0.0/8".parse().unwrap()].into_iter().collect()
        });
    });
    assert_eq!(
        raw(addr, asked("OPTIONS *").as_bytes()).await.status,
        403,
        "who may not come in may not knock"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_let_in_and_keep_out() {
    let (_world, node, addr) = two_backends().await;
    node.change(|snapshot| {
        change_service(snapshot, |service| {
            service.deny = ["127.0.0.0/8".parse().unwrap()].into_iter().collect()
        })
    });
    assert_eq!(get(addr, "/", &[]).await.status, 403);
    node.change(|snapshot| {
        change_service(snapshot, |service| {
            service.deny = Default::default();
            service.allow = ["192.0.2.0/24".parse().unwrap()].into_iter().collect();
        });
        let services = Arc::make_mut(&mut snapshot.services);
        let listener = Arc::make_mut(services.listeners.values_mut().next().unwrap());
        listener.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
    });
    // The listener learns of the change a moment later than the routes.
    let mut status = 0;
    for _ in 0..200 {
        status = get(addr, "/", &[("x-forwarded-for", "192.0.2.9")]).await.status;
        if status == 200 {
            break;
        }
    }
    assert_eq!(status, 200);
    assert_eq!(get(addr, "/", &[("x-forwarded-for", "198.51.100.9")]).await.status, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_connection_is_tried_on_another_backend_whatever_the_method() {
    let dead: SocketAddr = ([127, 0, 0, 1], free_port()).into();
    let world = World::new();
    let mut node = world.node("eu-1", web(&[(dead, "eu"), (http_backend("b").await, "eu")]));
    let addr = node.addr("http");
    let post = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    for _ in 0..20 {
        let said = raw(addr, post).await;
        assert_eq!(said.backend(), "b");
        assert!(said.body.contains("body: 5 bytes"), "{said:?}");
    }
    assert_eq!(node.seen.recv().await.unwrap().1, Evidence::ConnectFailed);
    assert!(node.handle.counters().retries.load(Ordering::Relaxed) > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_backend_is_503_and_all_dead_is_502() {
    let dead: SocketAddr = ([127, 0, 0, 1], free_port()).into();
    let world = World::new();
    let node = world.node("eu-1", web(&[(dead, "eu")]));
    let addr = node.addr("http");
    assert_eq!(get(addr, "/", &[]).await.status, 502);
    node.change(|snapshot| {
        let pool = snapshot.pools.values_mut().next().unwrap();
        Arc::make_mut(pool).backends[0].state = BackendState::Down;
    });
    let said = get(addr, "/", &[]).await;
    assert_eq!((said.status, said.header("retry-after")), (503, Some("1")));
    until(|| node.handle.counters().ends(End::NoBackend) == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_none_is_told_from_a_broken_connection() {
    let answers: [(&[u8], End); 4] = [
        (b"what?\r\n\r\n", End::UpstreamMalformed),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab", End::UpstreamMalformed),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", End::UpstreamMalformed),
        (b"HTTP/1.1 200 OK\r\n", End::UpstreamReset),
    ];
    for (answer, end) in answers {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.read(&mut [0; 1024]).await;
                let _ = stream.write_all(answer).await;
            }
        });
        let world = World::new();
        let node = world.node("eu-1", web(&[(addr, "eu")]));
        raw(
            node.addr("http"),
            b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        )
        .await;
        until(|| node.handle.in_flight() == 0).await;
        assert_eq!(node.handle.counters().ends(end), 1, "{:?}", String::from_utf8_lossy(answer));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idempotent_request_is_tried_again_after_a_reset_and_another_is_not() {
    // Every other connection of this backend, from the first on, is cut after the request.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let flaky = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut count = 0;
        while let Ok((mut stream, _)) = listener.accept().await {
            count += 1;
            let mut buffer = [0; 4096];
            let _ = stream.read(&mut buffer).await;
            if count % 2 == 0 {
                let _ = stream
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok")
                    .await;
            }
        }
    });
    let world = World::new();
    let node = world.node("eu-1", web(&[(flaky, "eu")]));
    let addr = node.addr("http");
    assert_eq!(get(addr, "/", &[]).await.status, 200);
    let post = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\nconnection: close\r\n\r\nab";
    assert_eq!(raw(addr, post).await.status, 502);
    let _ = raw(addr, post).await;
    let put = b"PUT / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\nconnection: close\r\n\r\nab";
    assert_eq!(raw(addr, put).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_connection_that_died_costs_no_request() {
    // Answers once a connection, promises to keep it, and closes it.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let liar = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                let _ = stream.read(&mut buffer).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
            });
        }
    });
    let world = World::new();
    let node = world.node("eu-1", web(&[(liar, "eu")]));
    let addr = node.addr("http");
    for _ in 0..100 {
        assert_eq!(get(addr, "/", &[]).await.status, 200);
    }
    until(|| node.handle.counters().ends(End::Ok) == 100).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_stream_and_pipelined_requests_are_answered_in_order() {
    let (_world, node, addr) = two_backends().await;
    let body = vec![b'x'; 3 << 20];
    let mut post =
        format!("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len())
            .into_bytes();
    post.extend_from_slice(&body);
    assert!(raw(addr, &post).await.body.contains("body: 3145728 bytes"));
    let chunked_get = b"GET / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    assert!(raw(addr, chunked_get).await.body.contains("body: 3 bytes"));
    let two = b"GET /1 HTTP/1.1\r\nhost: x\r\n\r\nGET /2 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let said = raw(addr, two).await;
    let (first, second) = (said.body.find("GET /1").unwrap(), said.body.find("GET /2").unwrap());
    assert!(first < second);
    until(|| node.handle.connections() == 0).await;
    until(|| node.handle.counters().ends(End::Ok) == 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_half_closes_gets_its_answer() {
    let (_world, _node, addr) = two_backends().await;
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_becomes_a_relay() {
    let (_world, node, addr) = two_backends().await;
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream
        .write_all(
            b"GET /upgrade HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\nping",
        )
        .await
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, rest) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 101"), "{answer}");
    assert!(head.to_ascii_lowercase().contains("upgrade: websocket"), "{answer}");
    assert!(rest == "aping" || rest == "bping", "{answer}");
    drop(stream);
    until(|| node.handle.in_flight() == 0).await;
    until(|| node.handle.counters().ends(End::Ok) == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn five_failures_in_a_row_are_evidence() {
    let world = World::new();
    let mut node = world.node("eu-1", web(&[(http_backend("a").await, "eu")]));
    let addr = node.addr("http");
    for _ in 0..5 {
        assert_eq!(get(addr, "/gateway", &[]).await.status, 502);
    }
    assert_eq!(node.seen.recv().await.unwrap().1, Evidence::FailingRequests);
    assert!(node.seen.try_recv().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_clients_do_is_no_evidence_against_backends() {
    let world = World::new();
    let mut node = world.node("eu-1", web(&[(http_backend("a").await, "eu")]));
    let addr = node.addr("http");
    node.change(|snapshot| {
        change_service(snapshot, |service| service.timeout.response = Duration::from_millis(200));
    });
    let post = "POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n";
    let malformed = format!("{post}transfer-encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n");
    let stalled = format!("{post}content-length: 9\r\n\r\nhello");
    for _ in 0..6 {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream.write_all(stalled.as_bytes()).await.unwrap();
        until(|| node.handle.in_flight() == 1).await;
        drop(stream);
        until(|| node.handle.in_flight() == 0).await;
        assert_eq!(raw(addr, malformed.as_bytes()).await.status, 400);
        assert_eq!(raw(addr, stalled.as_bytes()).await.status, 408);
    }
    until(|| node.handle.in_flight() == 0).await;
    assert!(node.seen.try_recv().is_err(), "clients made health doubt a backend");
    assert_eq!(node.handle.counters().ends(End::BadRequest), 6);
    assert_eq!(node.handle.counters().ends(End::UpstreamReset), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_is_counted_as_gone() {
    let (_world, node, addr) = two_backends().await;
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    until(|| node.handle.in_flight() == 1).await;
    stream.set_zero_linger().unwrap();
    drop(stream);
    until(|| node.handle.in_flight() == 0).await;
    until(|| node.handle.counters().ends(End::ClientGone) == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leaving_asks_clients_to_go_and_waits_for_what_is_in_flight() {
    let (_world, node, addr) = two_backends().await;
    node.handle.drain();
    let mut closes = false;
    for _ in 0..200 {
        let said = raw(
            addr,
            b"GET / HTTP/1.1\r\nhost: x\r\n\r\nGET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        )
        .await;
        assert_eq!(said.status, 200);
        closes = said.header("connection") == Some("close");
        if closes {
            break;
        }
    }
    assert!(closes);
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    until(|| node.handle.in_flight() == 1).await;
    assert_eq!(node.handle.shutdown(Duration::from_millis(200)).await, 1);
    assert!(TcpStream::connect(addr).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_rests_and_goes_on_where_it_was() {
    let (_world, node, addr) = two_backends().await;
    let rested = || node.handle.counters().rested.load(Ordering::Relaxed);
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let mut ask = async |bytes: &[u8]| {
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        let is_whole = |answer: &[u8]| {
            let text = String::from_utf8_lossy(answer).to_ascii_lowercase();
            let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
            let length = head.split_once("content-length: ").unwrap().1.lines().next().unwrap();
            body.len() >= length.parse().unwrap()
        };
        while !is_whole(&answer) {
            let mut part = [0; 1024];
            let read = stream.read(&mut part).await.unwrap();
            assert_ne!(read, 0, "{}", String::from_utf8_lossy(&answer));
            answer.extend_from_slice(&part[..read]);
        }
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    };
    let whole: &[u8] = b"GET / HTTP/1.1\r\nhost: shop.example\r\n\r\n";
    ask(whole).await;
    until(|| rested() >= 1).await;
    // It wakes with the first byte. What follows it in the same segment is none of its request, but of the next.
    ask(&[whole, &whole[..20]].concat()).await;
    until(|| rested() >= 2).await;
    ask(&whole[20..]).await;
    node.handle.shutdown(Duration::from_secs(20)).await;
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0, "a node that ends closes what rests");
}
