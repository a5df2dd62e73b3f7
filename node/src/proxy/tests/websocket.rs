//! WebSocket to backends that speak HTTP/2 (RFC 8441), from users of either protocol, here and in another region.
use ::http::{HeaderValue, Method};
use hyper::ext::Protocol;
use hyper_util::rt::TokioExecutor;

use super::http::web;
use super::http2::{full, http2_client, http2_pool, over_http2};
use super::tunnel::seen_from;
use super::*;
use crate::proxy::End;

/// An HTTP/2 backend that repeats words; `connects`: as it says in its settings.
async fn chat(connects: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                if connects {
                    builder.enable_connect_protocol();
                }
                let _ = builder.serve_connection(TokioIo::new(stream), service_fn(talk)).await;
            });
        }
    });
    addr
}

async fn talk(mut request: Request<Incoming>) -> Result<Response<Full<Bytes>>, io::Error> {
    let response = Response::builder().header("x-backend", "chat");
    let protocol = request.extensions().get::<Protocol>().map(|protocol| protocol.as_str().to_owned());
    let asked = format!("{} {} {protocol:?}", request.method(), request.uri());
    let wanted = "CONNECT http://shop.example/chat Some(\"websocket\")";
    if asked != wanted {
        return Ok(response.status(StatusCode::FORBIDDEN).body(Full::from(asked)).unwrap());
    }
    for name in ["connection", "upgrade", "sec-websocket-key", "content-length"] {
        assert!(!request.headers().contains_key(name), "{name} reached the backend");
    }
    assert_eq!(request.headers()["sec-websocket-version"], "13");
    assert_eq!(request.headers()["x-forwarded-host"], "shop.example");
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let (mut from, mut to) = tokio::io::split(TokioIo::new(upgraded.await.unwrap()));
        let _ = tokio::io::copy(&mut from, &mut to).await;
        let _ = to.shutdown().await;
    });
    Ok(response.header("sec-websocket-protocol", "words").body(Full::default()).unwrap())
}

fn seen(addr: SocketAddr, region: &str) -> Snapshot {
    let mut snapshot = web(&[(addr, region)]);
    http2_pool(&mut snapshot);
    snapshot
}

const KEY: &str = "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

fn switch(path: &str, more: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nhost: shop.example\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\n{more}\r\n"
    )
}

fn connect(path: &str) -> Request<http2::Body> {
    let mut request = over_http2(Method::CONNECT, path, full(""));
    request.extensions_mut().insert(Protocol::from_static("websocket"));
    request.headers_mut().insert("sec-websocket-version", HeaderValue::from_static("13"));
    request
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_over_http2_is_switched_to_by_users_of_both_protocols() {
    let world = World::new();
    let base = seen(chat(true).await, "us");
    let eu = world.node("eu-1", seen_from("eu", base.clone(), "us", &["us-1"]));
    let us = world.node("us-1", seen_from("us", base, "eu", &["eu-1"]));
    for node in [&us, &eu] {
        let mut stream = TcpStream::connect(node.addr("http")).await.unwrap();
        stream.write_all(format!("{}hello", switch("/chat", KEY)).as_bytes()).await.unwrap();
        let mut answer = String::new();
        while !answer.ends_with("\r\n\r\nhello") {
            let mut part = [0; 1024];
            let read = stream.read(&mut part).await.unwrap();
            assert_ne!(read, 0, "{answer}");
            answer.push_str(std::str::from_utf8(&part[..read]).unwrap());
        }
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        let head = answer.to_ascii_lowercase();
        for line in ["upgrade: websocket", "connection: upgrade", "sec-websocket-protocol: words"] {
            assert!(head.contains(&format!("\r\n{line}\r\n")), "{line} is missing in {answer}");
        }
        // The key and its answer are those of RFC 6455 §1.3.
        assert!(answer.contains(": s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{answer}");
        assert!(!head.contains("content-length") && !head.contains("transfer-encoding"), "{answer}");
        stream.shutdown().await.unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        assert!(rest.is_empty());

        let mut client = http2_client(node.addr("http")).await;
        let page = client.send_request(over_http2(Method::GET, "/", full(""))).await.unwrap();
        assert_eq!(page.status(), 403);
        let response = client.send_request(connect("/chat")).await.unwrap();
        assert_eq!(response.status(), 200, "{response:?}");
        assert_eq!(response.headers()["sec-websocket-protocol"], "words");
        for name in ["connection", "upgrade", "sec-websocket-accept"] {
            assert!(!response.headers().contains_key(name), "{response:?}");
        }
        let mut stream = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
        stream.write_all(b"ping").await.unwrap();
        let mut word = [0; 4];
        stream.read_exact(&mut word).await.unwrap();
        assert_eq!(&word, b"ping");
        stream.shutdown().await.unwrap();
        assert_eq!(stream.read(&mut word).await.unwrap(), 0);
        until(|| us.handle.in_flight() == 0 && eu.handle.in_flight() == 0).await;
        assert_eq!(node.handle.counters().ends(End::Ok), 3);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_backend_refuses_is_passed_on_and_what_is_no_switch_goes_nowhere() {
    let world = World::new();
    let node = world.node("eu-1", seen(chat(true).await, "eu"));
    let addr = node.addr("http");
    let said = raw(addr, switch("/other", &format!("{KEY}connection: close\r\n")).as_bytes()).await;
    assert_eq!(said.status, 403, "{said:?}");
    assert!(said.body.contains("CONNECT http://shop.example/other"), "{said:?}");
    let mut client = http2_client(addr).await;
    assert_eq!(client.send_request(over_http2(Method::GET, "/", full(""))).await.unwrap().status(), 403);
    assert_eq!(client.send_request(connect("/other")).await.unwrap().status(), 403);
    for odd in [switch("/chat", ""), format!("{}x", switch("/chat", &format!("{KEY}content-length: 1\r\n")))]
    {
        assert_eq!(raw(addr, odd.as_bytes()).await.status, 400, "{odd}");
    }
    // Another protocol is no concern of the backend: it sees a plain request (RFC 9110 §7.8).
    let other = switch("/chat", "").replace("websocket\r\n", "irc\r\n").replace("Upgrade", "upgrade, close");
    let said = raw(addr, other.as_bytes()).await;
    assert!(said.status == 403 && said.body.contains("GET http://shop.example/chat None"), "{said:?}");
    until(|| node.handle.in_flight() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_over_http2_that_takes_no_websocket_is_an_honest_no() {
    let world = World::new();
    let base = seen(chat(false).await, "us");
    let eu = world.node("eu-1", seen_from("eu", base.clone(), "us", &["us-1"]));
    let mut us = world.node("us-1", seen_from("us", base, "eu", &["eu-1"]));
    for (node, refusals) in [(&us, 2), (&eu, 2)] {
        let said =
            raw(node.addr("http"), switch("/chat", KEY).replace("Upgrade", "upgrade, close").as_bytes())
                .await;
        assert_eq!(said.status, 501, "{said:?}");
        assert!(said.body.contains("the service takes no WebSocket"), "{said:?}");
        let mut client = http2_client(node.addr("http")).await;
        assert_eq!(client.send_request(over_http2(Method::GET, "/", full(""))).await.unwrap().status(), 403);
        assert_eq!(client.send_request(connect("/chat")).await.unwrap().status(), 501);
        until(|| node.handle.counters().ends(End::NoWebSocket) == refusals).await;
    }
    until(|| us.handle.in_flight() == 0 && eu.handle.in_flight() == 0).await;
    assert!(us.seen.try_recv().is_err(), "a backend without WebSocket is not a broken one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chat_holds_its_place_at_the_backend_until_it_ends() {
    let world = World::new();
    let node = world.node("eu-1", seen(chat(true).await, "eu"));
    let in_flight = || node.snapshot.load().pools.values().next().unwrap().backends[0].shared.in_flight();
    let mut streams = Vec::new();
    // More than share one connection.
    for _ in 0..250 {
        let mut stream = TcpStream::connect(node.addr("http")).await.unwrap();
        stream.write_all(format!("{}x", switch("/chat", KEY)).as_bytes()).await.unwrap();
        streams.push(stream);
    }
    for stream in &mut streams {
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\nx") {
            assert!(stream.read_buf(&mut answer).await.unwrap() > 0);
        }
    }
    assert_eq!(in_flight(), 250);
    drop(streams);
    until(|| in_flight() == 0 && node.handle.in_flight() == 0).await;
}
