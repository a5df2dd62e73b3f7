//! DNS over TLS with a client that verifies: answers, padding, the handshake's bounds, another certificate.

use std::net::Ipv4Addr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig as Shown};

use super::tests::{PATIENCE, Running, ask_udp, query, serve};
use super::*;
use crate::dot::DOT_ALPN;
use crate::fixtures::{QueryBytes, Read};

const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// A certificate for `ns1.example` and what a server shows of it.
fn certificate() -> (CertificateDer<'static>, Arc<Shown>) {
    let made = rcgen::generate_simple_self_signed(["ns1.example".to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let chain = vec![made.cert.der().clone()];
    let builder = Shown::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let mut shown = builder.with_single_cert(chain, key).unwrap();
    shown.alpn_protocols = vec![DOT_ALPN.to_vec()];
    (made.cert.der().clone(), Arc::new(shown))
}

fn serving(shown: impl Fn() -> Option<Arc<Shown>> + Send + Sync + 'static, limits: TcpLimits) -> Running {
    serve(&["127.0.0.1:0"], move |config| {
        config.tcp = limits;
        config.tls = Some(TlsListen { listen: vec![ANY_PORT], config: Arc::new(shown) });
    })
}

async fn connect(
    server: &DnsServer,
    trusted: &CertificateDer<'static>,
    alpn: &[&[u8]],
) -> io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
    let mut config = builder.with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    let stream = TcpStream::connect(server.tls_addrs()[0]).await?;
    TlsConnector::from(Arc::new(config)).connect("ns1.example".try_into().unwrap(), stream).await
}

fn framed(query: &[u8]) -> Vec<u8> {
    [&(query.len() as u16).to_be_bytes(), query].concat()
}

async fn answer(stream: &mut TlsStream<TcpStream>) -> io::Result<Vec<u8>> {
    let read = async {
        let mut answer = vec![0; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut answer).await?;
        Ok(answer)
    };
    tokio::time::timeout(PATIENCE, read).await?
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn answers_over_tls_are_those_of_the_other_transports() {
    let (trusted, shown) = certificate();
    let running = serving(move || Some(shown.clone()), TcpLimits::default());
    let static_query = QueryBytes::new("lb.example.com", "SOA").bytes();
    let here = Ipv4Addr::LOCALHOST.into();
    let over_udp = ask_udp(here, running.server.local_addrs()[0], &static_query).unwrap();
    runtime().block_on(async {
        let mut stream = connect(&running.server, &trusted, &[DOT_ALPN]).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(DOT_ALPN));
        // Two questions in one piece, answered in order on the same connection.
        stream.write_all(&[framed(&static_query), framed(&query())].concat()).await.unwrap();
        let first = Read::new(answer(&mut stream).await.unwrap());
        assert_eq!(first.message.answers, over_udp.message.answers);
        assert!(!Read::new(answer(&mut stream).await.unwrap()).message.answers.is_empty());
        // A client without ALPN is served too (RFC 7858 §3.1 asks for none), one that wants another protocol is not.
        assert!(connect(&running.server, &trusted, &[]).await.is_ok());
        assert!(connect(&running.server, &trusted, &[b"h2"]).await.is_err());
    });
    let counted = running.responder.counters().snapshot();
    assert_eq!((counted.queries_tls, counted.queries_tcp), (2, 2));
}

#[test]
fn who_pads_gets_padded_answers_and_only_over_tls() {
    let (trusted, shown) = certificate();
    let running = serving(move || Some(shown.clone()), TcpLimits::default());
    let plain = QueryBytes::new("lb.example.com", "SOA").subnet("10.1.0.0/16").bytes();
    let padded = QueryBytes::new("lb.example.com", "SOA").option(12, &[0; 20]).bytes();
    runtime().block_on(async {
        let mut stream = connect(&running.server, &trusted, &[DOT_ALPN]).await.unwrap();
        stream.write_all(&[framed(&padded), framed(&plain)].concat()).await.unwrap();
        let first = answer(&mut stream).await.unwrap();
        assert_eq!(first.len(), 468);
        assert!(!Read::new(first).message.answers.is_empty());
        assert!(answer(&mut stream).await.unwrap().len() < 468);
    });
    let here = Ipv4Addr::LOCALHOST.into();
    let over_udp = ask_udp(here, running.server.local_addrs()[0], &padded).unwrap();
    assert!(over_udp.bytes.len() < 468);
}

#[test]
fn a_new_certificate_is_shown_to_the_next_client() {
    let (first, second) = (certificate(), certificate());
    let shown = Arc::new(std::sync::Mutex::new(Some(first.1)));
    let source = Arc::clone(&shown);
    let running = serving(move || source.lock().unwrap().clone(), TcpLimits::default());
    runtime().block_on(async {
        let mut old = connect(&running.server, &first.0, &[DOT_ALPN]).await.unwrap();
        *shown.lock().unwrap() = Some(second.1);
        assert!(connect(&running.server, &first.0, &[DOT_ALPN]).await.is_err());
        assert!(connect(&running.server, &second.0, &[DOT_ALPN]).await.is_ok());
        old.write_all(&framed(&query())).await.unwrap();
        assert!(answer(&mut old).await.is_ok(), "connections that stand are not touched");
        *shown.lock().unwrap() = None;
        assert!(connect(&running.server, &second.0, &[DOT_ALPN]).await.is_err());
    });
    assert!(running.responder.counters().snapshot().tls_failed >= 1);
}

#[test]
fn who_does_not_shake_hands_is_cut_off() {
    let (trusted, shown) = certificate();
    let transfer = Duration::from_millis(200);
    let limits = TcpLimits { transfer, per_client: 2, ..TcpLimits::default() };
    let running = serving(move || Some(shown.clone()), limits);
    let address = running.server.tls_addrs()[0];
    runtime().block_on(async {
        let mut silent = TcpStream::connect(address).await.unwrap();
        let mut rude = TcpStream::connect(address).await.unwrap();
        rude.write_all(&framed(&query())).await.unwrap();
        for stream in [&mut silent, &mut rude] {
            let mut rest = Vec::new();
            let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
            // An alert at most, and an end.
            assert!(read.expect("an end").is_err() || rest.len() < 10, "{rest:?}");
        }
        // Both are gone, and there is room again.
        let served = async {
            loop {
                if let Ok(stream) = connect(&running.server, &trusted, &[DOT_ALPN]).await {
                    return stream;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, served).await.unwrap();
    });
}
