//! HTTP/2 over TLS to backends.
use std::path::Path;

use http_body_util::combinators::BoxBody;
use hyper_util::rt::TokioExecutor;
use tokio_rustls::TlsAcceptor;

use super::http2::{http2_client, over_http2, read, tell, with_trailers};
use super::*;
use crate::config::model::{BackendTls, Pool, PoolProtocol};
use crate::proxy::fixture::{http_listener, pool, service, snapshot};
use crate::tls::testing::Authority;
use ::http::{HeaderMap, HeaderName};

/// A backend over TLS that agrees on one of these protocols, if any, and says what it was asked. It counts its
/// connections.
async fn backend(authority: &Authority, alpn: &[&[u8]], connections: Arc<AtomicUsize>) -> SocketAddr {
    let config = Arc::new(authority.sign(&["127.0.0.1", "backend.internal"]).server(alpn));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            connections.fetch_add(1, Ordering::Relaxed);
            let acceptor = TlsAcceptor::from(config.clone());
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                let (io, service) = (TokioIo::new(stream), service_fn(tell));
                let _ = match is_http2 {
                    true => {
                        let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                        builder.serve_connection(io, service).await
                    }
                    false => hyper::server::conn::http1::Builder::new().serve_connection(io, service).await,
                };
            });
        }
    });
    addr
}

fn seen(addr: SocketAddr, protocol: PoolProtocol, ca: Option<&Path>, server_name: Option<&str>) -> Snapshot {
    let tls = BackendTls { ca: ca.map(Path::to_owned), server_name: server_name.map(str::to_owned) };
    let pool = Pool { protocol, tls: Some(tls), ..pool("web", &[(addr, "eu")]) };
    snapshot("eu", vec![http_listener("http", 0)], vec![service("web", &[("web", 1)])], vec![pool])
}

fn nothing() -> BoxBody<Bytes, io::Error> {
    Full::default().map_err(|never| match never {}).boxed()
}

#[tokio::test(flavor = "multi_thread")]
async fn many_requests_share_a_verified_connection_and_trailers_pass() {
    let folder = tempfile::tempdir().unwrap();
    let (authority, ca) = (Authority::new(), folder.path().join("ca.pem"));
    std::fs::write(&ca, authority.pem()).unwrap();
    let connections = Arc::default();
    let addr = backend(&authority, &[b"h2", b"http/1.1"], Arc::clone(&connections)).await;
    let world = World::new();
    let node = world.node("eu-1", seen(addr, PoolProtocol::Http2, Some(&ca), Some("backend.internal")));
    let client = http2_client(node.addr("http")).await;
    let answers = futures_util::future::join_all((0..300).map(|at| {
        let mut client = client.clone();
        async move {
            let said = HeaderMap::from_iter([(HeaderName::from_static("x-said"), at.into())]);
            let body = with_trailers("hello".into(), said);
            let request = over_http2(::http::Method::POST, &format!("/{at}"), body);
            read(client.send_request(request).await.unwrap()).await
        }
    }));
    for (at, (status, text, trailers)) in answers.await.into_iter().enumerate() {
        assert_eq!(status, 200, "{text}");
        assert!(text.starts_with(&format!("POST https://shop.example/{at} HTTP/2.0\n")), "{text}");
        assert!(text.contains(&format!("trailer: Some(\"{at}\")\n")), "{text}");
        assert_eq!(trailers.unwrap()["x-heard"], "all");
    }
    let made = connections.load(Ordering::Relaxed);
    assert!((1..=2).contains(&made), "{made} connections");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_does_not_agree_on_http2_gets_no_request() {
    let authority = Authority::new();
    for alpn in [&[][..], &[&b"http/1.1"[..]]] {
        let addr = backend(&authority, alpn, Arc::default()).await;
        for (protocol, status) in [(PoolProtocol::Http2, 502), (PoolProtocol::Http1, 200)] {
            let world = World::new();
            let node = world.node("eu-1", seen(addr, protocol, None, None));
            let said = get(node.addr("http"), "/", &[]).await;
            assert_eq!(said.status, status, "{alpn:?} {protocol:?}: {said:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_made_before_verification_was_wanted_is_not_used_after() {
    let folder = tempfile::tempdir().unwrap();
    let (authority, other) = (Authority::new(), folder.path().join("other.pem"));
    std::fs::write(&other, Authority::new().pem()).unwrap();
    let connections = Arc::default();
    let addr = backend(&authority, &[b"h2"], Arc::clone(&connections)).await;
    let world = World::new();
    let node = world.node("eu-1", seen(addr, PoolProtocol::Http2, None, None));
    let mut client = http2_client(node.addr("http")).await;
    let mut ask = async || {
        let request = over_http2(::http::Method::GET, "/", nothing());
        client.send_request(request).await.unwrap().status().as_u16()
    };
    assert_eq!((ask().await, ask().await), (200, 200));
    assert_eq!(connections.load(Ordering::Relaxed), 1);
    let mut next = seen(addr, PoolProtocol::Http2, Some(&other), None);
    let listeners = node.snapshot.load().services.listeners.clone();
    Arc::make_mut(&mut next.services).listeners = listeners;
    node.publish(next);
    let refused = async {
        while ask().await != 502 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), refused).await.expect("the old connection is used still");
    assert_eq!(ask().await, 502);
}
