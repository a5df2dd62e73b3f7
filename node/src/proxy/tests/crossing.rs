//! What a request may be and still cross to another region whole: trailers, streams, many fields, cancellation.
use ::http::{HeaderMap, HeaderName, HeaderValue, Method};
use http_body::Frame;
use http_body_util::StreamBody;

use super::http::web;
use super::http2::{backend, full, http1_client, http2_client, http2_pool, over_http2, read, with_trailers};
use super::tunnel::seen_from;
use super::*;
use crate::config::model::PoolProtocol;
use crate::proxy::End;

/// A node of eu, where nobody stands, and the node of us through which it reaches the backend.
async fn far_backend(world: &World, protocol: PoolProtocol) -> (Node, Node) {
    let mut base = web(&[(backend(protocol, Arc::default()).await, "us")]);
    if protocol == PoolProtocol::Http2 {
        http2_pool(&mut base);
    }
    let eu = world.node("eu-1", seen_from("eu", base.clone(), "us", &["us-1"]));
    let us = world.node("us-1", seen_from("us", base, "eu", &["eu-1"]));
    (eu, us)
}

const BOTH: [PoolProtocol; 2] = [PoolProtocol::Http1, PoolProtocol::Http2];

#[tokio::test(flavor = "multi_thread")]
async fn trailers_of_any_name_cross_both_ways() {
    for protocol in BOTH {
        let world = World::new();
        let (eu, us) = far_backend(&world, protocol).await;
        let said =
            || HeaderMap::from_iter([(HeaderName::from_static("x-said"), HeaderValue::from_static("bye"))]);
        let mut request = over_http2(Method::POST, "/x?y=1", with_trailers("hello".into(), said()));
        request.headers_mut().insert("te", HeaderValue::from_static("trailers"));
        // An HTTP/1.1 backend gets only trailers that were announced.
        request.headers_mut().insert("trailer", HeaderValue::from_static("x-said"));
        let mut client = http2_client(eu.addr("http")).await;
        let (status, text, trailers) = read(client.send_request(request).await.unwrap()).await;
        assert_eq!(status, 200, "{text}");
        let target = if protocol == PoolProtocol::Http2 { "http://shop.example/x?y=1" } else { "/x?y=1" };
        assert!(text.starts_with(&format!("POST {target} ")), "{text}");
        assert!(text.contains("te: trailers\n") && text.contains("body: 5 bytes\n"), "{text}");
        assert!(text.contains("x-forwarded-host: shop.example\n"), "{text}");
        assert!(text.contains("trailer: Some(\"bye\")\n"), "{protocol:?}: {text}");
        assert_eq!(trailers.unwrap()["x-heard"], "all", "{protocol:?}");

        let request = Request::post("/x")
            .header("host", "shop.example")
            .header("te", "trailers")
            .header("trailer", "x-said")
            .body(with_trailers("hello".into(), said()))
            .unwrap();
        let mut client = http1_client(eu.addr("http")).await;
        let (_, text, trailers) = read(client.send_request(request).await.unwrap()).await;
        assert!(text.contains("host: shop.example\n") || protocol == PoolProtocol::Http2, "{text}");
        assert!(text.contains("trailer: Some(\"bye\")\n"), "{protocol:?}: {text}");
        assert_eq!(trailers.unwrap()["x-heard"], "all", "{protocol:?}");
        assert_eq!(us.handle.counters().tunnels_in.load(Ordering::Relaxed), 2);
        until(|| eu.handle.counters().ends(End::Ok) == 2).await;
        until(|| us.handle.in_flight() == 0 && us.handle.connections() == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_cross_both_ways_at_once_and_large_bodies_pass() {
    for protocol in BOTH {
        let world = World::new();
        let (eu, us) = far_backend(&world, protocol).await;
        let mut client = http2_client(eu.addr("http")).await;
        let (send, mut words) = mpsc::channel::<Frame<Bytes>>(4);
        let words = futures_util::stream::poll_fn(move |cx| words.poll_recv(cx).map(|word| word.map(Ok)));
        let request = over_http2(Method::POST, "/echo", StreamBody::new(words).boxed());
        let response = client.send_request(request);
        send.send(Frame::data("one".into())).await.unwrap();
        let mut echoed = response.await.unwrap().into_body();
        for word in ["one", "two", "three"] {
            if word != "one" {
                send.send(Frame::data(word.into())).await.unwrap();
            }
            assert_eq!(echoed.frame().await.unwrap().unwrap().data_ref().unwrap(), word);
        }
        drop(send);
        let last = echoed.frame().await;
        assert!(last.is_none_or(|frame| frame.unwrap().data_ref().is_none_or(Bytes::is_empty)));

        let large = full(vec![b'x'; 5 << 20]);
        let response = client.send_request(over_http2(Method::POST, "/echo", large)).await.unwrap();
        let (status, text, _) = read(response).await;
        assert_eq!((status, text.len()), (200, 5 << 20));
        until(|| us.handle.in_flight() == 0 && us.handle.connections() == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_near_the_limit_cross_though_both_ends_add_to_them() {
    let world = World::new();
    let (eu, _us) = far_backend(&world, PoolProtocol::Http1).await;
    // Host and connection make a hundred.
    let fields: String = (0..98).map(|at| format!("x-{at}: y\r\n")).collect();
    for (end, status) in [("close", 200), ("close, upgrade\r\nupgrade: websocket", 101)] {
        // One field less where Upgrade is one.
        let fields = if status == 101 { fields.split_once('\n').unwrap().1 } else { &fields };
        let request = format!("GET /many HTTP/1.1\r\nhost: x\r\n{fields}connection: {end}\r\n\r\n");
        let said = raw(eu.addr("http"), request.as_bytes()).await;
        assert_eq!(said.status, 200, "{said:?}");
        assert!(said.body.contains("x-97: y\n"), "{said:?}");
        assert_eq!(said.head.matches("\r\nx-many-").count(), 90, "{said:?}");
    }
    let large = "v".repeat(62 * 1024);
    let request = format!("GET / HTTP/1.1\r\nhost: x\r\nx-large: {large}\r\nconnection: close\r\n\r\n");
    let said = raw(eu.addr("http"), request.as_bytes()).await;
    assert!(said.status == 200 && said.body.matches('v').count() >= large.len(), "{}", said.status);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_body_or_no_host_crosses_as_it_is() {
    let world = World::new();
    let (eu, us) = far_backend(&world, PoolProtocol::Http1).await;
    let addr = eu.addr("http");
    let said = raw(addr, b"HEAD / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert_eq!((said.status, said.body.as_str()), (200, ""));
    let said = raw(addr, b"GET / HTTP/1.0\r\n\r\n").await;
    assert!(said.status == 200 && said.body.contains("host: \n"), "{said:?}");
    // The far end's errors are told in the near end's words, to HEAD without any.
    us.change(|snapshot| {
        let services = Arc::make_mut(&mut snapshot.services);
        let service = Arc::make_mut(services.services.values_mut().next().unwrap());
        service.timeout.response = Duration::from_millis(50);
    });
    for (method, body) in [("HEAD", ""), ("GET", "\"detail\":\"the service did not answer in time\"")] {
        let request = format!("{method} /slow HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        let said = raw(addr, request.as_bytes()).await;
        assert!(said.status == 504 && said.body.contains(body), "{said:?}");
        assert_eq!(said.body.is_empty(), body.is_empty(), "{said:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_ends_its_request_at_the_far_end() {
    let world = World::new();
    let (eu, us) = far_backend(&world, PoolProtocol::Http2).await;
    let mut client = http2_client(eu.addr("http")).await;
    let waiting = tokio::spawn(client.send_request(over_http2(Method::GET, "/slow", full(""))));
    let at_backend = || {
        let snapshot = us.snapshot.load();
        snapshot.pools.values().next().unwrap().backends[0].shared.in_flight()
    };
    until(|| at_backend() == 1).await;
    waiting.abort();
    until(|| at_backend() == 0).await;
    until(|| us.handle.connections() == 0).await;
    until(|| eu.handle.counters().ends(End::ClientGone) == 1).await;
}
