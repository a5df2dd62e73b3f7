//! TLS end to end: real handshakes over loopback.
use std::fs;
use std::path::Path;

use rustls::{ClientConfig, HandshakeKind};
use rustls_pki_types::ServerName;
use tempfile::TempDir;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;
use crate::config::model::{BackendTls, CertificateFiles, Listener, ListenerProtocol, Pool};
use crate::proxy::fixture::{http_listener, pool, service, snapshot, sticky};
use crate::tls::testing::Authority;

fn https(port: u16, certificates: &[CertificateFiles]) -> Listener {
    Listener {
        protocol: ListenerProtocol::Https,
        certificates: certificates.to_vec(),
        ..http_listener("https", port)
    }
}

struct Site {
    folder: TempDir,
    authority: Authority,
    backend: SocketAddr,
}

impl Site {
    async fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            authority: Authority::new(),
            backend: http_backend("a").await,
        }
    }

    fn files(&self, name: &str, names: &[&str]) -> CertificateFiles {
        self.authority.sign(names).write(self.folder.path(), name)
    }

    fn snapshot(&self, listeners: Vec<Listener>) -> Snapshot {
        snapshot(
            "eu",
            listeners,
            vec![service("web", &[("web", 1)])],
            vec![pool("web", &[(self.backend, "eu")])],
        )
    }

    async fn dial(&self, addr: SocketAddr, name: &str) -> TlsStream<TcpStream> {
        dial(addr, name, self.authority.client()).await.unwrap()
    }
}

async fn dial(addr: SocketAddr, name: &str, client: ClientConfig) -> io::Result<TlsStream<TcpStream>> {
    dial_with(addr, name, &Arc::new(client)).await
}

async fn dial_with(
    addr: SocketAddr,
    name: &str,
    client: &Arc<ClientConfig>,
) -> io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let stream = TcpStream::connect(addr).await?;
    TlsConnector::from(client.clone()).connect(name, stream).await
}

/// One request with `connection: close`, to the end.
async fn ask(stream: &mut TlsStream<TcpStream>, path: &str) -> io::Result<Said> {
    let request = format!("GET {path} HTTP/1.1\r\nhost: shop.example\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let said = Said::parse(&answer);
    if said.status == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(said) }
}

/// One request over a connection that stays.
async fn ask_kept(stream: &mut TlsStream<TcpStream>) {
    stream.write_all(b"GET /kept HTTP/1.1\r\nhost: shop.example\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"body: 0 bytes\n") {
        assert_ne!(
            stream.read_buf(&mut answer).await.unwrap(),
            0,
            "closed: {}",
            String::from_utf8_lossy(&answer)
        );
    }
}

fn shown(stream: &TlsStream<TcpStream>) -> &[u8] {
    stream.get_ref().1.peer_certificates().unwrap()[0].as_ref()
}

#[tokio::test]
async fn names_choose_certificates_and_requests_are_told_of_https() {
    let site = Site::new().await;
    let signed =
        [&["shop.example"][..], &["*.shop.example"], &["api.shop.example"]].map(|n| site.authority.sign(n));
    let files: Vec<_> = signed
        .iter()
        .enumerate()
        .map(|(at, signed)| signed.write(site.folder.path(), &at.to_string()))
        .collect();
    let mut listener = https(free_port(), &files);
    listener.hsts = Some("max-age=60".parse().unwrap());
    let mut services = service("web", &[("web", 1)]);
    services.sticky_cookie = Some(sticky());
    let node = World::new().node(
        "eu-1",
        snapshot("eu", vec![listener], vec![services], vec![pool("web", &[(site.backend, "eu")])]),
    );
    let addr = node.addr("https");
    for (name, at) in [("shop.example", 0), ("www.shop.example", 1), ("api.shop.example", 2)] {
        assert_eq!(shown(&site.dial(addr, name).await), signed[at].cert.as_ref(), "{name}");
    }
    for stranger in ["other.example", "a.b.shop.example", "127.0.0.1"] {
        let error = dial(addr, stranger, site.authority.client()).await.unwrap_err();
        assert!(error.to_string().contains("not valid for name"), "the default is shown: {error}");
    }
    let mut stream = site.dial(addr, "shop.example").await;
    let said = ask(&mut stream, "/x").await.unwrap();
    assert_eq!(said.status, 200);
    assert!(said.body.contains("x-forwarded-proto: https\n"), "{}", said.body);
    assert!(said.body.contains(";proto=https\n"), "{}", said.body);
    assert!(said.header("set-cookie").unwrap().contains("Secure"), "{}", said.head);
    assert_eq!(said.header("strict-transport-security"), Some("max-age=60"));
}

#[tokio::test]
async fn both_versions_both_kinds_of_keys_and_alpn() {
    let site = Site::new().await;
    let rsa = site.authority.sign_with(&["shop.example"], &rcgen::PKCS_RSA_SHA256);
    let ecdsa = site.authority.sign(&["shop.example"]);
    let files = [ecdsa.write(site.folder.path(), "ecdsa"), rsa.write(site.folder.path(), "rsa")];
    let node = World::new().node("eu-1", site.snapshot(vec![https(free_port(), &files)]));
    let addr = node.addr("https");
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let mut client = site.authority.client_at(version);
        client.alpn_protocols = vec![b"http/1.1".to_vec()];
        let mut stream = dial(addr, "shop.example", client).await.unwrap();
        assert_eq!(stream.get_ref().1.protocol_version(), Some(version.version));
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
        assert_eq!(shown(&stream), ecdsa.cert.as_ref());
        assert_eq!(ask(&mut stream, "/").await.unwrap().status, 200);
    }
    // A client that knows no ECDSA signature, as old ones do.
    let client = site.authority.client_without_ecdsa();
    let stream = dial(addr, "shop.example", client).await.unwrap();
    assert_eq!(shown(&stream), rsa.cert.as_ref());
}

#[tokio::test]
async fn a_session_of_one_node_resumes_on_another_and_not_at_another_door() {
    let site = Site::new().await;
    let world = World::new();
    let files = [site.files("a", &["shop.example"])];
    let ca = site.folder.path().join("ca.pem");
    fs::write(&ca, site.authority.pem()).unwrap();
    let closed = Listener {
        client_ca: Some(ca),
        name: gossip::id::ListenerName::new("closed").unwrap(),
        ..https(free_port(), &files)
    };
    let first = world.node("eu-1", site.snapshot(vec![https(free_port(), &files)]));
    let second = world.node("eu-2", site.snapshot(vec![https(free_port(), &files), closed]));
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let client = Arc::new(site.authority.client_at(version));
        for (addr, kind) in [
            (first.addr("https"), HandshakeKind::Full),
            (second.addr("https"), HandshakeKind::Resumed),
            (first.addr("https"), HandshakeKind::Resumed),
        ] {
            let mut stream = dial_with(addr, "shop.example", &client).await.unwrap();
            // TLS 1.3 sends its tickets after the handshake.
            assert_eq!(ask(&mut stream, "/").await.unwrap().status, 200);
            assert_eq!(stream.get_ref().1.handshake_kind(), Some(kind), "{version:?}");
        }
        // A ticket is no certificate: this door asks for one.
        let refused = async {
            let mut stream = dial_with(second.addr("closed"), "shop.example", &client).await?;
            ask(&mut stream, "/").await
        };
        assert!(refused.await.is_err(), "a ticket of the open listener opens the closed one");
    }
    let counters = second.handle.counters();
    assert_eq!(counters.tls_resumed.load(Ordering::Relaxed), 2);
    until(|| counters.tls_failed.load(Ordering::Relaxed) == 2).await;
}

#[tokio::test]
async fn a_balancer_in_front_names_the_client_before_the_handshake() {
    let site = Site::new().await;
    let mut listener = https(free_port(), &[site.files("a", &["shop.example"])]);
    listener.accept_proxy = vec!["127.0.0.0/8".parse().unwrap()];
    let node = World::new().node("eu-1", site.snapshot(vec![listener]));
    let mut stream = TcpStream::connect(node.addr("https")).await.unwrap();
    stream.write_all(b"PROXY TCP4 198.51.100.7 192.0.2.1 4711 443\r\n").await.unwrap();
    let name = ServerName::try_from("shop.example").unwrap();
    let connector = TlsConnector::from(Arc::new(site.authority.client()));
    let mut stream = connector.connect(name, stream).await.unwrap();
    let said = ask(&mut stream, "/").await.unwrap();
    assert!(said.body.contains("x-forwarded-for: 198.51.100.7\n"), "{}", said.body);
    assert!(
        dial(node.addr("https"), "shop.example", site.authority.client()).await.is_err(),
        "without a header"
    );
}

#[tokio::test]
async fn client_certificates() {
    let site = Site::new().await;
    let clients = Authority::new();
    let ca = site.folder.path().join("ca.pem");
    fs::write(&ca, clients.pem()).unwrap();
    let listener =
        Listener { client_ca: Some(ca), ..https(free_port(), &[site.files("a", &["shop.example"])]) };
    let node = World::new().node("eu-1", site.snapshot(vec![listener]));
    let addr = node.addr("https");
    let try_as = async |client: ClientConfig| {
        let mut stream = dial(addr, "shop.example", client).await?;
        ask(&mut stream, "/").await
    };
    let known = clients.sign(&["user.example"]);
    let said = try_as(site.authority.client_as(&known)).await.unwrap();
    assert_eq!(said.status, 200);
    assert!(try_as(site.authority.client()).await.is_err(), "without a certificate");
    let forged = site.authority.sign(&["user.example"]);
    assert!(try_as(site.authority.client_as(&forged)).await.is_err(), "with another authority's");
}

#[tokio::test]
async fn a_new_certificate_is_shown_and_no_connection_is_dropped() {
    let site = Site::new().await;
    let files = [site.files("a", &["shop.example"])];
    let node = World::new().node("eu-1", site.snapshot(vec![https(free_port(), &files)]));
    let addr = node.addr("https");
    let mut kept = site.dial(addr, "shop.example").await;
    ask_kept(&mut kept).await;
    let client = Arc::new(site.authority.client());
    ask(&mut dial_with(addr, "shop.example", &client).await.unwrap(), "/").await.unwrap();

    let next = site.authority.sign(&["shop.example"]);
    next.write(site.folder.path(), "a");
    let renewed = async {
        while shown(&site.dial(addr, "shop.example").await) != next.cert.as_ref() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), renewed).await.expect("the old certificate is still shown");
    ask_kept(&mut kept).await;
    let resumed = dial_with(addr, "shop.example", &client).await.unwrap();
    assert_eq!(
        resumed.get_ref().1.handshake_kind(),
        Some(HandshakeKind::Resumed),
        "sessions outlive certificates"
    );
}

#[tokio::test]
async fn strangers_that_do_not_shake_hands() {
    let site = Site::new().await;
    let node = World::new()
        .node("eu-1", site.snapshot(vec![https(free_port(), &[site.files("a", &["shop.example"])])]));
    let addr = node.addr("https");
    for garbage in
        [&b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"[..], &[0x16; 70_000], b"\x16\x03\x01\xff\xff", &[0; 3]]
    {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        let _ = stream.write_all(garbage).await;
        let _ = stream.shutdown().await;
        let mut rest = Vec::new();
        let _ =
            tokio::time::timeout(Duration::from_secs(15), stream.read_to_end(&mut rest)).await.expect("held");
        assert!(rest.len() < 100, "{rest:?}");
    }
    let counters = node.handle.counters();
    until(|| counters.tls_failed.load(Ordering::Relaxed) == 4).await;
    assert_eq!(ask(&mut site.dial(addr, "shop.example").await, "/").await.unwrap().status, 200);
    until(|| node.handle.connections() == 0).await;
}

#[tokio::test]
async fn http_leads_to_https() {
    let site = Site::new().await;
    let mut door = http_listener("http", free_port());
    door.redirect_https = Some(8443);
    door.trusted_proxies = vec!["127.0.0.2/32".parse().unwrap()];
    let node = World::new().node("eu-1", site.snapshot(vec![door.clone()]));
    let said = get(node.addr("http"), "/a?b=c", &[("x-forwarded-proto", "https")]).await;
    assert_eq!((said.status, said.header("location")), (308, Some("https://shop.example:8443/a?b=c")));
    assert_eq!(node.handle.counters().ends(crate::proxy::End::Redirected), 1);
    // Behind a proxy that ends TLS the client is where it should be.
    door.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
    node.publish(site.snapshot(vec![door]));
    until_status(node.addr("http"), &[("x-forwarded-proto", "https")], 200).await;
    assert_eq!(get(node.addr("http"), "/", &[("x-forwarded-proto", "http")]).await.status, 308);
}

async fn until_status(addr: SocketAddr, headers: &[(&str, &str)], status: u16) {
    for _ in 0..500 {
        if get(addr, "/", headers).await.status == status {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never {status}");
}

/// An HTTP backend that speaks TLS.
async fn https_backend(authority: &Authority, names: &[&str], folder: &Path) -> SocketAddr {
    let files = authority.sign(names).write(folder, "backend");
    let plain = http_backend("tls").await;
    let world = Box::leak(Box::new(World::new()));
    // Meridian itself ends the TLS of this one.
    let node = Box::leak(Box::new(world.node(
        "backend",
        snapshot(
            "eu",
            vec![https(free_port(), &[files])],
            vec![service("web", &[("web", 1)])],
            vec![pool("web", &[(plain, "eu")])],
        ),
    )));
    node.addr("https")
}

#[tokio::test]
async fn backends_over_tls() {
    let site = Site::new().await;
    let backends = Authority::new();
    let addr = https_backend(&backends, &["127.0.0.1", "backend.internal"], site.folder.path()).await;
    let (ca, wrong) = (site.folder.path().join("ca.pem"), site.folder.path().join("wrong.pem"));
    fs::write(&ca, backends.pem()).unwrap();
    fs::write(&wrong, site.authority.pem()).unwrap();
    let with = |ca: Option<&Path>, server_name: Option<&str>| {
        let tls = BackendTls { ca: ca.map(Path::to_owned), server_name: server_name.map(str::to_owned) };
        let pool = Pool { tls: Some(tls), ..pool("web", &[(addr, "eu")]) };
        snapshot(
            "eu",
            vec![http_listener("http", free_port())],
            vec![service("web", &[("web", 1)])],
            vec![pool],
        )
    };
    for (snapshot, status) in [
        (with(None, None), 200),
        (with(Some(&ca), None), 200),
        (with(Some(&ca), Some("backend.internal")), 200),
        (with(Some(&ca), Some("other.internal")), 502),
        (with(Some(&wrong), None), 502),
        (with(Some(&site.folder.path().join("none.pem")), None), 502),
    ] {
        let tls = snapshot.services.pools["web"].tls.clone();
        let node = World::new().node("eu-1", snapshot);
        for _ in 0..2 {
            let said = get(node.addr("http"), "/x", &[]).await;
            assert_eq!(said.status, status, "{tls:?}: {said:?}");
            if status == 200 {
                assert_eq!(said.backend(), "tls");
                assert!(said.body.starts_with("GET /x\n"), "{}", said.body);
            }
        }
    }
}

#[tokio::test]
async fn http2_is_agreed_on_by_alpn() {
    let site = Site::new().await;
    let files = site.files("shop", &["shop.example"]);
    let world = World::new();
    let node = world.node("eu-1", site.snapshot(vec![https(0, &[files])]));
    let mut client = site.authority.client();
    client.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let stream = dial(node.addr("https"), "shop.example", client).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let executor = hyper_util::rt::TokioExecutor::new();
    let handshake = hyper::client::conn::http2::handshake(executor, TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.unwrap();
    tokio::spawn(connection);
    for path in ["/1", "/2"] {
        let request =
            Request::get(format!("https://shop.example{path}")).body(Full::<Bytes>::default()).unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), 200);
        let told = response.into_body().collect().await.unwrap().to_bytes();
        let told = String::from_utf8_lossy(&told).into_owned();
        assert!(told.contains(path) && told.contains("x-forwarded-proto: https\n"), "{told}");
    }
}
