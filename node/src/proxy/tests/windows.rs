//! HTTP/2 windows that stay shut, on either side, and requests that come a byte now and then.
use ::http::{HeaderValue, Method};
use http_body::Frame;
use http_body_util::StreamBody;
use hyper_util::rt::TokioExecutor;

use super::http::web;
use super::http2::{Body, full, http2_client, http2_pool, over_http2, read};
use super::*;
use crate::config::model::Service;
use crate::proxy::{Cut, End};

fn change(snapshot: &mut Snapshot, change: impl FnOnce(&mut Service)) {
    let services = Arc::make_mut(&mut snapshot.services);
    change(Arc::make_mut(services.services.values_mut().next().unwrap()));
}

/// A client whose windows are shut from the start asks a hundred times for this path of four letters.
async fn asks_with_shut_windows(addr: SocketAddr, path: &[u8; 4]) -> TcpStream {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    // SETTINGS_INITIAL_WINDOW_SIZE: 0.
    bytes.extend([0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0]);
    for stream in (1..200u32).step_by(2) {
        let block = [b"\x82\x86\x44\x04", &path[..], b"\x41\x0cshop.example"].concat();
        bytes.extend([0, 0, block.len() as u8, 1, 5]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(block);
    }
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_opens_its_windows_is_cut_and_harms_nobody() {
    let mut snapshot = web(&[(http_backend("a").await, "eu")]);
    change(&mut snapshot, |service| service.paths = vec!["/all".into()]);
    let world = World::new();
    let node = world.node("eu-1", snapshot);
    let addr = node.addr("http");
    // What a backend says, and what the node says itself.
    let mut held = [asks_with_shut_windows(addr, b"/all").await, asks_with_shut_windows(addr, b"/nil").await];
    until(|| node.handle.in_flight() == 200).await;
    let cut = async {
        while node.handle.counters().cut(Cut::Unread) < 2 {
            assert_eq!(get(addr, "/all", &[]).await.status, 200, "others are served");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), cut).await.expect("they are never cut");
    until(|| node.handle.in_flight() == 0 && node.handle.connections() == 0).await;
    assert_eq!(
        node.handle.counters().ends(End::SlowClient),
        100,
        "the node's own answers end as what they say"
    );
    for stream in &mut held {
        let mut said = Vec::new();
        let _ = stream.read_to_end(&mut said).await;
        assert!(!said.windows(4).any(|word| word == b"GET " || word == b"type"), "a body passed");
    }
}

/// An HTTP/2 backend that takes nothing of any body, and answers what has none.
async fn shut() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let service = service_fn(async |request: Request<Incoming>| {
                    let _ = request.into_body().collect().await;
                    Ok::<_, io::Error>(Response::new(Full::<Bytes>::from("fine")))
                });
                let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                builder.initial_stream_window_size(0);
                let _ = builder.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    addr
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_never_opens_its_windows_is_given_up_and_harms_nobody() {
    let mut snapshot = web(&[(shut().await, "eu")]);
    http2_pool(&mut snapshot);
    change(&mut snapshot, |service| service.timeout.response = Duration::from_millis(500));
    let world = World::new();
    let node = world.node("eu-1", snapshot);
    let mut client = http2_client(node.addr("http")).await;
    // What is sent before a backend's settings are known may pass (RFC 9113 §6.9.2).
    let first = client.send_request(over_http2(Method::GET, "/", full(""))).await.unwrap();
    assert_eq!(read(first).await.0, 200);
    // All of them together fit into what one client may send ahead.
    let asked = (0..40).map(|at| {
        let mut client = client.clone();
        async move {
            let large = at % 2 == 0;
            let (method, body) =
                if large { (Method::POST, vec![b'x'; 40_000]) } else { (Method::GET, Vec::new()) };
            let response = client.send_request(over_http2(method, "/", full(body))).await.unwrap();
            (large, read(response).await.0)
        }
    });
    for (large, status) in futures_util::future::join_all(asked).await {
        assert_eq!(status, if large { 504 } else { 200 });
    }
    assert_eq!(node.handle.counters().ends(End::UpstreamTimeout), 20);
    until(|| node.handle.in_flight() == 0).await;
}

/// A body of a byte now and then, for as long as it is taken.
fn trickle() -> Body {
    let (send, mut bytes) = mpsc::channel(1);
    tokio::spawn(async move {
        while send.send(Frame::data(Bytes::from_static(b"x"))).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    });
    StreamBody::new(futures_util::stream::poll_fn(move |cx| bytes.poll_recv(cx).map(|frame| frame.map(Ok))))
        .boxed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trickle_that_holds_a_connection_is_given_up_whatever_it_calls_itself() {
    let world = World::new();
    let one = world.node("eu-1", web(&[(http_backend("a").await, "eu")]));
    let mut snapshot = web(&[(shut().await, "eu")]);
    http2_pool(&mut snapshot);
    let two = world.node("eu-2", snapshot);
    let send = |node: &Node, kind: &'static str| {
        let addr = node.addr("http");
        tokio::spawn(async move {
            let mut request = over_http2(Method::POST, "/", trickle());
            request.headers_mut().insert("content-type", HeaderValue::from_static(kind));
            http2_client(addr).await.send_request(request).await.unwrap().status().as_u16()
        })
    };
    let mut answers = Vec::new();
    for kind in ["text/plain", "application/grpc"] {
        answers.push(send(&one, kind));
    }
    // gRPC's messages hold a stream there, not a connection.
    let call = send(&two, "application/grpc");
    let slow = async {
        while one.handle.counters().ends(End::SlowClient) < 2 {
            tokio::task::yield_now().await
        }
    };
    tokio::time::timeout(Duration::from_secs(90), slow).await.expect("they are waited for without end");
    assert_eq!(answers.remove(0).await.unwrap(), 408);
    // As gRPC says it.
    assert_eq!(answers.remove(0).await.unwrap(), 200);
    until(|| one.handle.in_flight() == 0).await;
    assert!(!call.is_finished());
}
