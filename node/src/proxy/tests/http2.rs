//! HTTP/2 from clients and to backends, trailers over every combination, and what is refused.
use ::http::{HeaderMap, HeaderName, HeaderValue, Method};
use http_body::Frame;
use http_body_util::{StreamBody, combinators::BoxBody};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioExecutor;

use super::http::web;
use super::*;
use crate::config::model::PoolProtocol;
use crate::proxy::{Cut, End};

pub(super) type Body = BoxBody<Bytes, io::Error>;

/// Some data and then trailers.
pub(super) fn with_trailers(data: Bytes, trailers: HeaderMap) -> Body {
    let frames = [Ok(Frame::data(data)), Ok(Frame::trailers(trailers))];
    StreamBody::new(futures_util::stream::iter(frames)).boxed()
}

pub(super) fn full(data: impl Into<Bytes>) -> Body {
    Full::new(data.into()).map_err(|never| match never {}).boxed()
}

fn one(name: &'static str, value: &str) -> HeaderMap {
    HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())])
}

/// A backend of either protocol that says what it was asked and repeats the trailers it got. It counts its connections.
pub(super) async fn backend(protocol: PoolProtocol, connections: Arc<AtomicUsize>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            connections.fetch_add(1, Ordering::Relaxed);
            let io = TokioIo::new(stream);
            tokio::spawn(async move {
                let service = service_fn(tell);
                match protocol {
                    PoolProtocol::Http1 => {
                        let mut builder = hyper::server::conn::http1::Builder::new();
                        builder.max_headers(200).serve_connection(io, service).await
                    }
                    PoolProtocol::Http2 => {
                        hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                            .serve_connection(io, service)
                            .await
                    }
                }
            });
        }
    });
    addr
}

pub(super) async fn tell(request: Request<Incoming>) -> Result<Response<Body>, io::Error> {
    let (head, body) = request.into_parts();
    let slow = head.uri.path() == "/slow";
    if slow {
        std::future::pending::<()>().await;
    }
    let mut told = format!("{} {} {:?}\n", head.method, head.uri, head.version);
    for (name, value) in &head.headers {
        told.push_str(&format!("{name}: {}\n", value.to_str().unwrap()));
    }
    if head.uri.path() == "/echo" {
        // As it comes, both ways at once.
        return Ok(Response::new(body.map_err(io::Error::other).boxed()));
    }
    let body = body.collect().await.map_err(io::Error::other)?;
    let said = body.trailers().and_then(|trailers| trailers.get("x-said")).cloned();
    told.push_str(&format!("body: {} bytes\n", body.to_bytes().len()));
    told.push_str(&format!("trailer: {said:?}\n"));
    let mut response = Response::builder().header("trailer", "x-heard");
    if head.uri.path() == "/many" {
        response = (0..90).fold(response, |response, at| response.header(format!("x-many-{at}"), "y"));
    }
    if head.method == Method::HEAD {
        return Ok(response.body(full("")).unwrap());
    }
    Ok(response.body(with_trailers(told.into(), one("x-heard", "all"))).unwrap())
}

pub(super) fn http2_pool(snapshot: &mut Snapshot) {
    let pool = Arc::make_mut(snapshot.pools.values_mut().next().unwrap());
    Arc::make_mut(&mut pool.config).protocol = PoolProtocol::Http2;
}

async fn serving(protocol: PoolProtocol) -> (World, Node, SocketAddr, Arc<AtomicUsize>) {
    let connections = Arc::default();
    let mut snapshot = web(&[(backend(protocol, Arc::clone(&connections)).await, "eu")]);
    if protocol == PoolProtocol::Http2 {
        http2_pool(&mut snapshot);
    }
    let world = World::new();
    let node = world.node("eu-1", snapshot);
    let addr = node.addr("http");
    (world, node, addr, connections)
}

pub(super) async fn http2_client(addr: SocketAddr) -> http2::SendRequest<Body> {
    let stream = TcpStream::connect(addr).await.unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

pub(super) async fn http1_client(addr: SocketAddr) -> http1::SendRequest<Body> {
    let stream = TcpStream::connect(addr).await.unwrap();
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

pub(super) fn over_http2(method: Method, path: &str, body: Body) -> Request<Body> {
    Request::builder().method(method).uri(format!("http://shop.example{path}")).body(body).unwrap()
}

/// Status, text and trailers.
pub(super) async fn read(response: Response<Incoming>) -> (u16, String, Option<HeaderMap>) {
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap();
    let trailers = body.trailers().cloned();
    (status, String::from_utf8(body.to_bytes().to_vec()).unwrap(), trailers)
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_pass_both_ways_over_all_four_combinations() {
    for protocol in [PoolProtocol::Http1, PoolProtocol::Http2] {
        let (_world, node, addr, _) = serving(protocol).await;
        let body = || with_trailers("hello".into(), one("x-said", "bye"));

        let mut request = over_http2(Method::POST, "/x?y=1", body());
        request.headers_mut().insert("te", HeaderValue::from_static("trailers"));
        request.headers_mut().insert("trailer", HeaderValue::from_static("x-said"));
        let mut client = http2_client(addr).await;
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
            .body(body())
            .unwrap();
        let mut client = http1_client(addr).await;
        let (status, text, trailers) = read(client.send_request(request).await.unwrap()).await;
        assert_eq!(status, 200, "{text}");
        assert!(text.contains("trailer: Some(\"bye\")\n"), "{protocol:?}: {text}");
        assert_eq!(trailers.unwrap()["x-heard"], "all", "{protocol:?}");
        until(|| node.handle.counters().ends(End::Ok) == 2).await;
        until(|| node.handle.in_flight() == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_streams_share_few_connections_to_a_backend() {
    let (_world, node, addr, connections) = serving(PoolProtocol::Http2).await;
    let client = http2_client(addr).await;
    let requests = (0..500).map(|at| {
        let mut client = client.clone();
        async move {
            let request = over_http2(Method::GET, &format!("/{at}"), full(""));
            read(client.send_request(request).await.unwrap()).await.0
        }
    });
    let answers = futures_util::future::join_all(requests).await;
    assert!(answers.iter().all(|status| *status == 200));
    let made = connections.load(Ordering::Relaxed);
    assert!((1..=2).contains(&made), "{made} connections");
    until(|| node.handle.counters().ends(End::Ok) == 500).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_stream_both_ways_at_once() {
    for protocol in [PoolProtocol::Http1, PoolProtocol::Http2] {
        let (_world, _node, addr, _) = serving(protocol).await;
        let mut client = http2_client(addr).await;
        let (send, mut words) = mpsc::channel::<Frame<Bytes>>(4);
        let words = futures_util::stream::poll_fn(move |cx| words.poll_recv(cx).map(|word| word.map(Ok)));
        let frames = StreamBody::new(words).boxed();
        let request = over_http2(Method::POST, "/echo", frames);
        let response = client.send_request(request);
        send.send(Frame::data("one".into())).await.unwrap();
        let mut echoed = response.await.unwrap().into_body();
        for word in ["one", "two", "three"] {
            if word != "one" {
                send.send(Frame::data(word.into())).await.unwrap();
            }
            let frame = echoed.frame().await.unwrap().unwrap();
            assert_eq!(frame.data_ref().unwrap(), word);
        }
        drop(send);
        assert!(
            echoed.frame().await.is_none_or(|frame| frame.unwrap().data_ref().is_none_or(Bytes::is_empty))
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_pass_over_http2() {
    for protocol in [PoolProtocol::Http1, PoolProtocol::Http2] {
        let (_world, _node, addr, _) = serving(protocol).await;
        let mut client = http2_client(addr).await;
        let body = vec![b'x'; 5 << 20];
        let (status, text, _) =
            read(client.send_request(over_http2(Method::POST, "/", full(body.clone()))).await.unwrap()).await;
        assert!(status == 200 && text.contains("body: 5242880 bytes"), "{text}");
        let (status, text, _) =
            read(client.send_request(over_http2(Method::POST, "/echo", full(body))).await.unwrap()).await;
        assert_eq!((status, text.len()), (200, 5 << 20));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cookies_in_several_fields_become_one_and_connect_is_refused() {
    let (_world, node, addr, _) = serving(PoolProtocol::Http1).await;
    let mut client = http2_client(addr).await;
    let mut request = over_http2(Method::GET, "/", full(""));
    request.headers_mut().append("cookie", HeaderValue::from_static("a=1"));
    request.headers_mut().append("cookie", HeaderValue::from_static("b=2"));
    let (_, text, _) = read(client.send_request(request).await.unwrap()).await;
    assert!(text.contains("cookie: a=1; b=2\n"), "{text}");

    let connect = Request::connect("shop.example:443").body(full("")).unwrap();
    assert_eq!(client.send_request(connect).await.unwrap().status(), 400);
    let mut other = over_http2(Method::GET, "/", full(""));
    other.headers_mut().insert("host", HeaderValue::from_static("evil.example"));
    assert_eq!(client.send_request(other).await.unwrap().status(), 400);
    let mut many = over_http2(Method::GET, "/", full(""));
    for at in 0..101 {
        let name = HeaderName::try_from(format!("x-{at}")).unwrap();
        many.headers_mut().insert(name, HeaderValue::from_static("y"));
    }
    assert_eq!(client.send_request(many).await.unwrap().status(), 400);
    until(|| node.handle.counters().ends(End::BadRequest) == 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_callers_are_told_in_grpc_what_went_wrong_here() {
    let (_world, mut node, addr, _) = serving(PoolProtocol::Http2).await;
    let mut client = http2_client(addr).await;
    let mut ask = async |path: &str, kind: &str| {
        let mut request = over_http2(Method::POST, path, full("x"));
        request.headers_mut().insert("content-type", HeaderValue::from_str(kind).unwrap());
        request.headers_mut().insert("grpc-timeout", HeaderValue::from_static("300m"));
        let response = client.send_request(request).await.unwrap();
        let said = |name| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        let told = (response.status().as_u16(), said("grpc-status"), said("grpc-message"));
        let (_, body, trailers) = read(response).await;
        (told, body, trailers)
    };
    let service = |change: fn(&mut crate::config::model::Service)| {
        node.change(|snapshot| {
            let services = Arc::make_mut(&mut snapshot.services);
            change(Arc::make_mut(services.services.values_mut().next().unwrap()));
        });
    };
    service(|service| service.timeout.response = Duration::from_millis(50));
    let (told, body, trailers) = ask("/slow", "application/grpc+proto").await;
    let words = "the service did not answer in time";
    assert_eq!(told, (200, Some("4".to_owned()), Some(words.to_owned())));
    assert!(body.is_empty() && trailers.is_none(), "{body} {trailers:?}");
    // Everybody else reads HTTP's own words.
    let (told, body, _) = ask("/slow", "application/grpc-web").await;
    assert!(told == (504, None, None) && body.contains(words), "{told:?} {body}");
    // A caller's own deadline, where it is the shorter one, and no backend is to blame for it.
    service(|service| service.timeout.response = Duration::from_secs(30));
    for _ in 0..6 {
        let (told, _, _) = ask("/slow", "application/grpc+proto").await;
        assert_eq!(told, (200, Some("4".to_owned()), Some("the deadline of the call passed".to_owned())));
    }
    assert_eq!(node.handle.counters().ends(End::Deadline), 6);
    service(|service| service.deny = ["127.0.0.0/8".parse::<ipnet::IpNet>().unwrap()].into_iter().collect());
    let denied = async { while ask("/", "application/grpc").await.0.1.as_deref() != Some("7") {} };
    tokio::time::timeout(Duration::from_secs(10), denied).await.expect("it is not denied");
    assert!(node.seen.try_recv().is_err(), "callers made health doubt a backend");
}

/// Frames by hand, for what no decent client sends.
async fn frames(addr: SocketAddr, frames: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let _ = stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
    let _ = stream.write_all(frames).await;
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    let _ = tokio::time::timeout(Duration::from_secs(10), read).await.expect("the connection stayed open");
    answer
}

/// GET / for shop.example, with END_STREAM and END_HEADERS, and its reset.
fn request_and_reset(stream: u32) -> Vec<u8> {
    let block = b"\x82\x86\x84\x41\x0cshop.example";
    let mut bytes = vec![0, 0, block.len() as u8, 1, 5];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(block);
    bytes.extend([0, 0, 4, 3, 0]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend([0, 0, 0, 8]);
    bytes
}

/// The error code of a GOAWAY in these frames.
fn goaway(mut answer: &[u8]) -> Option<u32> {
    while answer.len() >= 9 {
        let length = usize::from(answer[1]) << 8 | usize::from(answer[2]);
        if answer[3] == 7 {
            return Some(u32::from_be_bytes(answer.get(13..17)?.try_into().ok()?));
        }
        answer = answer.get(9 + length..)?;
    }
    None
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_as_a_whole_is_asked_over_http2_too() {
    let (_world, node, addr, _) = serving(PoolProtocol::Http2).await;
    // OPTIONS, http, *, shop.example; then a goodbye.
    let block = b"\x42\x07OPTIONS\x86\x44\x01*\x41\x0cshop.example";
    let mut asked = vec![0, 0, block.len() as u8, 1, 5, 0, 0, 0, 1];
    asked.extend(block);
    asked.extend([0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let answer = frames(addr, &asked).await;
    // :status 204 in the static table, END_HEADERS and END_STREAM.
    let head = answer.windows(6).find(|head| head[0] == 1 && head[2..] == [0, 0, 0, 1]);
    assert_eq!(head.map(|head| head[1]), Some(5), "{answer:x?}");
    assert!(answer.contains(&0x89), "{answer:x?}");
    until(|| node.handle.counters().ends(End::Answered) == 1).await;
}

const ENHANCE_YOUR_CALM: u32 = 11;

#[tokio::test(flavor = "multi_thread")]
async fn rapid_resets_and_continuation_floods_end_the_connection_and_are_counted() {
    let (_world, node, addr, _) = serving(PoolProtocol::Http1).await;
    let resets: Vec<u8> = (0..1000).flat_map(|at| request_and_reset(2 * at + 1)).collect();
    assert_eq!(goaway(&frames(addr, &resets).await), Some(ENHANCE_YOUR_CALM));
    until(|| node.handle.counters().ends(End::BadRequest) == 1).await;
    assert_eq!(node.handle.counters().cut(Cut::Flood), 1);

    let mut flood = vec![0, 0, 3, 1, 1, 0, 0, 0, 1, 0x82, 0x86, 0x84];
    (0..2000).for_each(|_| {
        flood.extend([0, 0, 8, 9, 0, 0, 0, 0, 1, 0x40, 2, b'x', b'y', 3, b'a', b'b', b'c']);
    });
    let answer = frames(addr, &flood).await;
    assert!(goaway(&answer).is_some_and(|code| code != 0), "{:?}", goaway(&answer));
    until(|| node.handle.counters().ends(End::BadRequest) == 2).await;
    let counters = node.handle.counters();
    assert_eq!(counters.cut(Cut::Flood) + counters.cut(Cut::Malformed), 2);
    until(|| node.handle.in_flight() == 0).await;
    until(|| node.handle.connections() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn resets_one_by_one_are_an_attack_too() {
    let (_world, node, addr, _) = serving(PoolProtocol::Http1).await;
    let mut client = http2_client(addr).await;
    let mut given_up = 0;
    for _ in 0..2000 {
        if client.ready().await.is_err() {
            break;
        }
        let request = client.send_request(over_http2(Method::GET, "/slow", full("")));
        if tokio::time::timeout(Duration::from_millis(3), request).await.is_ok() {
            break;
        }
        given_up += 1;
    }
    assert!((200..400).contains(&given_up), "{given_up}");
    until(|| node.handle.counters().ends(End::BadRequest) == 1).await;
    assert_eq!(node.handle.counters().cut(Cut::Flood), 1);
    until(|| node.handle.in_flight() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leaving_says_goaway_and_lets_streams_end() {
    let (_world, node, addr, _) = serving(PoolProtocol::Http2).await;
    let mut client = http2_client(addr).await;
    assert_eq!(read(client.send_request(over_http2(Method::GET, "/", full(""))).await.unwrap()).await.0, 200);
    node.handle.drain();
    // The worker hears of it a moment later; each request until then is answered too.
    for _ in 0..1000 {
        match client.send_request(over_http2(Method::GET, "/", full(""))).await {
            Ok(response) => assert_eq!(read(response).await.0, 200),
            Err(_) => break,
        }
    }
    assert!(client.ready().await.is_err(), "the connection stayed");
    until(|| node.handle.connections() == 0).await;
}

/// An HTTP/2 backend that refuses every other stream, and says GOAWAY after some.
async fn moody(goaway_after: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                let mut count = 0;
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    count += 1;
                    if count % 2 == 0 {
                        respond.send_reset(h2::Reason::REFUSED_STREAM);
                        continue;
                    }
                    if count == goaway_after {
                        connection.graceful_shutdown();
                    }
                    tokio::spawn(async move {
                        let mut body = request.into_body();
                        let mut bytes = 0;
                        while let Some(Ok(data)) = body.data().await {
                            bytes += data.len();
                            let _ = body.flow_control().release_capacity(data.len());
                        }
                        let mut send = respond.send_response(Response::new(()), false).unwrap();
                        let _ = send.send_data(format!("{bytes}").into(), true);
                    });
                }
            });
        }
    });
    addr
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_streams_and_goaways_cost_no_request() {
    let mut snapshot = web(&[(moody(15).await, "eu"), (moody(9).await, "eu")]);
    http2_pool(&mut snapshot);
    let world = World::new();
    let mut node = world.node("eu-1", snapshot);
    let addr = node.addr("http");
    for at in 0..200 {
        let post = "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello";
        let said = raw(addr, post.as_bytes()).await;
        assert!(said.status == 200 && said.body.contains("\r\n5\r\n"), "request {at}: {said:?}");
        assert_eq!(get(addr, "/", &[]).await.status, 200, "request {at}");
    }
    assert!(node.seen.try_recv().is_err(), "a leaving backend is not a broken one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_without_http2_is_502_and_evidence_of_nothing_else() {
    let mut snapshot = web(&[(http_backend("a").await, "eu")]);
    http2_pool(&mut snapshot);
    let world = World::new();
    let node = world.node("eu-1", snapshot);
    assert_eq!(get(node.addr("http"), "/", &[]).await.status, 502);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_tell_their_length_twice_are_refused_and_counted() {
    let (_world, node, addr, _) = serving(PoolProtocol::Http1).await;
    let post = "POST / HTTP/1.1\r\nhost: x\r\n";
    let refused = [
        format!("{post}content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
        format!("{post}transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n"),
        format!("{post}transfer-encoding: chunked\r\n\r\n5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(20_000)),
        format!("{post}content-length: 5\r\ncontent-length: 6\r\n\r\nhello"),
        format!("{post}content-length: +5\r\n\r\nhello"),
        format!("{post}transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
        format!("{post}transfer-encoding : chunked\r\n\r\n0\r\n\r\n"),
        format!("{post}x: a\r\n b\r\n\r\n"),
    ];
    for (at, request) in refused.iter().enumerate() {
        let said = raw(addr, request.as_bytes()).await;
        assert_eq!(said.status, 400, "request {at}: {said:?}");
        until(|| node.handle.counters().ends(End::BadRequest) == at as u64 + 1).await;
    }
    // On a connection that was used before, too.
    let two = format!(
        "GET / HTTP/1.1\r\nhost: x\r\n\r\n{post}transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n"
    );
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let (first, second) = two.split_once("\r\n\r\n").unwrap();
    stream.write_all(format!("{first}\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = [0; 4096];
    assert!(stream.read(&mut answer).await.unwrap() > 0);
    until(|| node.handle.counters().ends(End::Ok) == 1).await;
    stream.write_all(second.as_bytes()).await.unwrap();
    let mut rest = String::new();
    let _ = stream.read_to_string(&mut rest).await;
    assert!(rest.contains("HTTP/1.1 400"), "{rest}");
}

#[tokio::test(flavor = "multi_thread")]
async fn head_and_continue_are_understood() {
    for protocol in [PoolProtocol::Http1, PoolProtocol::Http2] {
        let (_world, _node, addr, _) = serving(protocol).await;
        let said = raw(addr, b"HEAD / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
        assert_eq!((said.status, said.body.as_str()), (200, ""));
        let mut client = http2_client(addr).await;
        let (status, body, _) =
            read(client.send_request(over_http2(Method::HEAD, "/", full(""))).await.unwrap()).await;
        assert_eq!((status, body.as_str()), (200, ""));
        let other = Request::head("http://shop.example/").header("host", "other").body(full("")).unwrap();
        let (status, body, _) = read(client.send_request(other).await.unwrap()).await;
        assert_eq!((status, body.as_str()), (400, ""));

        let mut stream = TcpStream::connect(addr).await.unwrap();
        let head = "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\nexpect: 100-continue\r\nconnection: close\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut line = [0; 25];
        stream.read_exact(&mut line).await.unwrap();
        assert_eq!(&line, b"HTTP/1.1 100 Continue\r\n\r\n");
        stream.write_all(b"hello").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("body: 5 bytes"), "{answer}");
        assert!(!answer.contains("expect:"), "{answer}");
    }
}
