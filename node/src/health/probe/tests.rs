use std::net::SocketAddr;

use gossip::id::BackendId;
use tokio::net::TcpListener;

use super::*;
use crate::tls::testing::Authority;

fn order(address: SocketAddr, probe: Probe) -> ProbeOrder {
    let timeout = Duration::from_secs(5);
    ProbeOrder {
        backend: BackendId(1),
        ticket: 1,
        address,
        protocol: PoolProtocol::Http1,
        probe,
        send_proxy: None,
        tls: None,
        timeout,
    }
}

fn http() -> Probe {
    let ok = |code| StatusCode::from_u16(code).unwrap();
    Probe::Http { path: "/healthz?deep=1".to_owned(), host: None, status: vec![(ok(200), ok(399))] }
}

/// A server for one connection: reads until `until` was seen, answers, closes. Hands back what it read.
async fn server(until: &'static str, answer: &'static [u8]) -> (SocketAddr, tokio::task::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut read = Vec::new();
        while !String::from_utf8_lossy(&read).contains(until) {
            let mut buffer = [0; 1024];
            let bytes = stream.read(&mut buffer).await.unwrap();
            if bytes == 0 {
                break;
            }
            read.extend_from_slice(&buffer[..bytes]);
        }
        stream.write_all(answer).await.unwrap();
        String::from_utf8(read).unwrap()
    });
    (address, task)
}

async fn reason(order: &ProbeOrder) -> String {
    run(order, &Tls::none()).await.unwrap_err().to_string()
}

const HEAD_END: &str = "\r\n\r\n";

#[tokio::test]
async fn a_good_answer_and_what_was_asked() {
    let (address, asked) = server(HEAD_END, b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    run(&order(address, http()), &Tls::none()).await.unwrap();
    let asked = asked.await.unwrap().to_lowercase();
    assert!(asked.starts_with("get /healthz?deep=1 http/1.1\r\n"), "{asked}");
    assert!(asked.contains(&format!("\r\nhost: {address}\r\n")), "{asked}");
    assert!(asked.contains("\r\nconnection: close\r\n"), "{asked}");
}

#[tokio::test]
async fn the_host_of_the_check_is_sent() {
    let (address, asked) = server(HEAD_END, b"HTTP/1.1 204 No Content\r\n\r\n").await;
    let Probe::Http { path, status, .. } = http() else { unreachable!() };
    let probe = Probe::Http { path, host: Some("www.example.com".to_owned()), status };
    run(&order(address, probe), &Tls::none()).await.unwrap();
    assert!(asked.await.unwrap().to_lowercase().contains("\r\nhost: www.example.com\r\n"));
}

#[tokio::test]
async fn a_bad_status() {
    let (address, _server) =
        server(HEAD_END, b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n").await;
    assert_eq!(reason(&order(address, http())).await, "HTTP 503");
}

#[tokio::test]
async fn answers_that_are_none() {
    for (answer, words) in [
        (&b""[..], "closed without an answer"),
        (b"HTTP/1.1 200", "closed without an answer"),
        (b"SSH-2.0-OpenSSH_9.2p1\r\n\r\n", "not an HTTP answer"),
    ] {
        let (address, _server) = server(HEAD_END, answer).await;
        assert_eq!(reason(&order(address, http())).await, words);
    }
}

#[tokio::test]
async fn an_endless_head_is_cut() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\n").await.unwrap();
        while stream.write_all(b"x-more: and more and more and more\r\n").await.is_ok() {}
    });
    assert_eq!(reason(&order(address, http())).await, "not an HTTP answer");
}

#[tokio::test]
async fn an_endless_body_does_not_hold_the_verdict_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        while stream.write_all(&[b'x'; 4096]).await.is_ok() {}
    });
    timeout(Duration::from_secs(4), run(&order(address, http()), &Tls::none())).await.unwrap().unwrap();
}

/// A gRPC server over HTTP/2 whose health answers with this message and status.
async fn grpc(message: &'static [u8], status: &'static str) -> SocketAddr {
    grpc_over(None, message, status).await
}

/// The same over TLS, where there is a configuration.
async fn grpc_over(
    tls: Option<rustls::ServerConfig>,
    message: &'static [u8],
    status: &'static str,
) -> SocketAddr {
    let acceptor = tls.map(|config| tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config)));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = hyper::service::service_fn(move |request: Request<Incoming>| async move {
                let path = request.uri().path().to_owned();
                let asked = request.into_body().collect().await?.to_bytes();
                let good =
                    path == "/grpc.health.v1.Health/Check" && asked.as_ref() == b"\0\0\0\0\x06\x0a\x04shop";
                let status = if good { status } else { "12" };
                let trailers = http::HeaderMap::from_iter([(
                    http::HeaderName::from_static("grpc-status"),
                    HeaderValue::from_static(status),
                )]);
                let body = http_body_util::Full::new(Bytes::from_static(message));
                let body = body.with_trailers(std::future::ready(Some(Ok(trailers))));
                let code = if path == "/healthz" { 204 } else { 200 };
                Ok::<_, hyper::Error>(http::Response::builder().status(code).body(body).unwrap())
            });
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let stream: Box<dyn Stream> = match acceptor {
                    None => Box::new(stream),
                    Some(acceptor) => match acceptor.accept(stream).await {
                        Ok(stream) => Box::new(stream),
                        Err(_) => return,
                    },
                };
                let builder = hyper::server::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new());
                let _ = builder.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    address
}

#[tokio::test]
async fn grpc_services_speak_for_themselves() {
    let shop = || Probe::Grpc { service: "shop".to_owned() };
    let serving = grpc(b"\0\0\0\0\x02\x08\x01", "0").await;
    run(&order(serving, shop()), &Tls::none()).await.unwrap();
    let other = Probe::Grpc { service: "other".to_owned() };
    assert_eq!(reason(&order(serving, other)).await, "gRPC status 12");
    let sick = grpc(b"\0\0\0\0\x02\x08\x02", "0").await;
    assert_eq!(reason(&order(sick, shop())).await, "gRPC says not serving");
    let odd = grpc(b"hello", "0").await;
    assert_eq!(reason(&order(odd, shop())).await, "not a gRPC health answer");
    let (http1, _server) = server(HEAD_END, b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    assert!(run(&order(http1, shop()), &Tls::none()).await.is_err());
}

#[tokio::test]
async fn http2_backends_are_asked_in_http2() {
    let address = grpc(b"", "0").await;
    let Probe::Http { status, .. } = http() else { unreachable!() };
    let probe = Probe::Http { path: "/healthz".to_owned(), host: None, status };
    let order = ProbeOrder { protocol: PoolProtocol::Http2, ..order(address, probe) };
    run(&order, &Tls::none()).await.unwrap();
}

/// What a node with one pool, which speaks TLS, looks up.
fn tls_of(ca: Option<std::path::PathBuf>) -> Tls {
    let pool = crate::proxy::fixture::pool("web", &[]);
    let tls = Some(crate::config::model::BackendTls { ca, server_name: None });
    let pool = crate::config::model::Pool { tls, ..pool };
    let mut services = crate::config::model::Services::default();
    services.pools.insert(pool.name.clone(), std::sync::Arc::new(pool));
    let (_changes, changed) = tokio::sync::watch::channel(std::sync::Arc::new(services));
    let keyring = gossip::keyring::Keyring::generate();
    let clock = gossip::clock::Clock::system();
    let tickets = crate::tls::TicketKeys::new(&keyring, clock.clone());
    let config = crate::tls::TlsConfig { tickets, clock };
    crate::tls::start(&config, changed, Clone::clone).0
}

#[tokio::test]
async fn http2_and_grpc_are_asked_over_tls_where_the_pool_speaks_it() {
    let folder = tempfile::tempdir().unwrap();
    let (authority, stranger) = (Authority::new(), Authority::new());
    let (ca, wrong) = (folder.path().join("ca.pem"), folder.path().join("wrong.pem"));
    std::fs::write(&ca, authority.pem()).unwrap();
    std::fs::write(&wrong, stranger.pem()).unwrap();
    let signed = authority.sign(&["127.0.0.1"]);
    let serving = grpc_over(Some(signed.server(&[b"h2"])), b"\0\0\0\0\x02\x08\x01", "0").await;
    let old = grpc_over(Some(signed.server(&[])), b"\0\0\0\0\x02\x08\x01", "0").await;
    let over_tls = |address, protocol, probe| ProbeOrder {
        tls: Some(gossip::id::PoolName::new("web").unwrap()),
        protocol,
        ..order(address, probe)
    };
    let shop = || Probe::Grpc { service: "shop".to_owned() };
    let Probe::Http { status, .. } = http() else { unreachable!() };
    let page = Probe::Http { path: "/healthz".to_owned(), host: None, status };
    for tls in [tls_of(Some(ca)), tls_of(None)] {
        // gRPC's check goes over HTTP/2 also where the pool's requests do not.
        run(&over_tls(serving, PoolProtocol::Http1, shop()), &tls).await.unwrap();
        run(&over_tls(serving, PoolProtocol::Http2, shop()), &tls).await.unwrap();
        run(&over_tls(serving, PoolProtocol::Http2, page.clone()), &tls).await.unwrap();
        run(&over_tls(serving, PoolProtocol::Http2, Probe::Tcp), &tls).await.unwrap();
        let reason = run(&over_tls(old, PoolProtocol::Http2, shop()), &tls).await.unwrap_err().to_string();
        assert_eq!(reason, "the backend does not speak the pool's protocol over TLS (ALPN)");
        let plain = grpc(b"", "0").await;
        assert!(run(&over_tls(plain, PoolProtocol::Http2, shop()), &tls).await.is_err());
        assert!(run(&over_tls(plain, PoolProtocol::Http1, Probe::Tcp), &tls).await.is_err());
    }
    let stranger = tls_of(Some(wrong));
    for probe in [shop(), Probe::Tcp] {
        let refused = run(&over_tls(serving, PoolProtocol::Http2, probe), &stranger).await;
        assert!(matches!(refused, Err(ProbeError::Tls(_))), "{refused:?}");
    }
}

#[tokio::test]
async fn a_refused_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    assert_eq!(reason(&order(address, Probe::Tcp)).await, "connection refused");
    assert_eq!(reason(&order(address, http())).await, "connection refused");
}

#[tokio::test]
async fn silence() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut order = order(listener.local_addr().unwrap(), http());
    order.timeout = Duration::from_millis(50);
    assert_eq!(reason(&order).await, "timed out after 50ms");
}

#[tokio::test]
async fn tcp_says_who_it_is_not_when_the_pool_speaks_proxy() {
    let (address, read) = server("\r\n", b"220 ready\r\n").await;
    let order = ProbeOrder { send_proxy: Some(SendProxy::V1), ..order(address, Probe::Tcp) };
    run(&order, &Tls::none()).await.unwrap();
    assert_eq!(read.await.unwrap(), "PROXY UNKNOWN\r\n");
    let (address, read) = server("QUIT\n \0\0\0", b"220 ready\r\n").await;
    let order = ProbeOrder { send_proxy: Some(SendProxy::V2), address, ..order };
    run(&order, &Tls::none()).await.unwrap();
    assert_eq!(read.await.unwrap().as_bytes(), PROXY_V2_LOCAL);
}

#[tokio::test]
async fn tcp_needs_no_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    run(&order(listener.local_addr().unwrap(), Probe::Tcp), &Tls::none()).await.unwrap();
    let (mut stream, _) = listener.accept().await.unwrap();
    assert_eq!(stream.read(&mut [0; 8]).await.unwrap(), 0, "a clean end");
}
