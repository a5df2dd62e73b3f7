//! One probe over the network: an HTTP GET, a gRPC health check or a TCP connection, within one time-out.
//!
//! Every probe uses a connection of its own, so that it also sees what a new user would see. What the backend answers
//! is read only as far as the status, and then politely, within bounds, to the end.

use std::error::Error as _;
use std::io;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::checker::ProbeOrder;
use super::http2;
use crate::config::model::{PoolProtocol, Probe, SendProxy};
use crate::tls::Tls;

/// The greatest head of an answer.
const HEAD_MAX_BYTES: usize = 64 * 1024;
/// How much of a body is read before the connection is cut, ...
const BODY_MAX_BYTES: usize = 64 * 1024;
/// ... and for how long, once the verdict stands.
const FAREWELL: Duration = Duration::from_millis(100);
/// The PROXY protocol, version 1, for a connection that carries nobody's bytes (its specification, section 2.1).
const PROXY_V1_UNKNOWN: &[u8] = b"PROXY UNKNOWN\r\n";
/// The same in version 2: the command LOCAL (section 2.2).
const PROXY_V2_LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

/// Why a probe failed.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// No verdict in time.
    #[error("timed out after {}", humantime::format_duration(*.0))]
    TimedOut(Duration),
    /// No connection, or it broke.
    #[error("{}", words(.0))]
    Io(#[from] io::Error),
    /// An answer with a status that the check does not want.
    #[error("HTTP {}", .0.as_u16())]
    Status(StatusCode),
    /// The connection ended before there was an answer.
    #[error("closed without an answer")]
    NoAnswer,
    /// What came back is not HTTP, or its head is too large.
    #[error("not an HTTP answer")]
    NotHttp,
    /// An error in gRPC's own terms.
    #[error("gRPC status {0}")]
    Grpc(u32),
    /// The service says that it does not serve.
    #[error("gRPC says not serving")]
    NotServing,
    /// What came back is no answer of `grpc.health.v1.Health`.
    #[error("not a gRPC health answer")]
    NotGrpc,
    /// The backend does not speak TLS, or its certificate is not what the pool wants.
    #[error("TLS: {0}")]
    Tls(String),
    /// The authorities of the pool cannot be read on this node.
    #[error("the pool's `ca` cannot be read on this node")]
    Authorities,
    /// The check cannot be asked in HTTP; validation lets none through.
    #[error("the check's path or host cannot be sent")]
    Unsendable,
}

/// Runs one probe.
///
/// # Errors
/// When the backend is not as the check wants it. Takes at most the order's time-out and a moment of farewell.
pub async fn run(order: &ProbeOrder, tls: &Tls) -> Result<(), ProbeError> {
    let (rest, verdict) = match timeout(order.timeout, ask(order, tls)).await {
        Ok(asked) => asked?,
        Err(_) => return Err(ProbeError::TimedOut(order.timeout)),
    };
    let _ = timeout(FAREWELL, rest.end()).await;
    verdict
}

/// The verdict, and what is left to be ended. An error is a verdict too, with nothing left.
async fn ask(order: &ProbeOrder, tls: &Tls) -> Result<(Rest, Result<(), ProbeError>), ProbeError> {
    let stream = connect(order).await?;
    match &order.probe {
        Probe::Tcp => Ok((Rest::Connection(stream), Ok(()))),
        Probe::Grpc { service } => {
            http2::check(stream, service, &order.address.to_string()).await?;
            Ok((Rest::Nothing, Ok(())))
        }
        Probe::Http { path, host, status } if order.protocol == PoolProtocol::Http2 => {
            let host = host.clone().unwrap_or_else(|| order.address.to_string());
            let answered = http2::get(stream, path, &host).await?;
            Ok((Rest::Nothing, judge(answered, status)))
        }
        Probe::Http { path, host, status } => {
            let stream: Box<dyn Stream> = match &order.tls {
                None => Box::new(stream),
                Some(pool) => {
                    let upstream = tls.upstream(pool).await.ok_or(ProbeError::Authorities)?;
                    Box::new(
                        upstream.handshake(stream, order.address.ip()).await.map_err(ProbeError::of_tls)?,
                    )
                }
            };
            let answer = get(stream, path, host.as_deref(), order).await?;
            let verdict = judge(answer.status, status);
            Ok((Rest::Answer(answer), verdict))
        }
    }
}

async fn connect(order: &ProbeOrder) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(order.address).await?;
    if stream.local_addr()? == stream.peer_addr()? {
        // Nobody listens, and the system chose the very port that was asked for: the socket speaks with itself.
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    stream.set_nodelay(true)?;
    match order.send_proxy {
        Some(SendProxy::V1) => stream.write_all(PROXY_V1_UNKNOWN).await?,
        Some(SendProxy::V2) => stream.write_all(PROXY_V2_LOCAL).await?,
        None => {}
    }
    Ok(stream)
}

/// A connection, over TLS or not.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

async fn get(
    stream: Box<dyn Stream>,
    path: &str,
    host: Option<&str>,
    order: &ProbeOrder,
) -> Result<Answer, ProbeError> {
    let host = host.map_or_else(|| order.address.to_string(), str::to_owned);
    let request = Request::get(path)
        .header(header::HOST, HeaderValue::from_str(&host).map_err(|_| ProbeError::Unsendable)?)
        .header(header::USER_AGENT, "meridian-health")
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|_| ProbeError::Unsendable)?;
    let (mut sender, connection) =
        http1::Builder::new().max_buf_size(HEAD_MAX_BYTES).handshake(TokioIo::new(stream)).await?;
    let mut connection = Box::pin(connection);
    let mut response = Box::pin(sender.send_request(request));
    let (response, connection) = tokio::select! {
        response = &mut response => (response?, Some(connection)),
        // A short answer and the end of the connection may arrive in one.
        _ = &mut connection => (response.await?, None),
    };
    Ok(Answer { status: response.status(), body: response.into_body(), connection })
}

fn judge(status: StatusCode, wanted: &[(StatusCode, StatusCode)]) -> Result<(), ProbeError> {
    let fits = wanted.iter().any(|(first, last)| (*first..=*last).contains(&status));
    if fits { Ok(()) } else { Err(ProbeError::Status(status)) }
}

/// What is left of a probe when its verdict stands.
enum Rest {
    Nothing,
    Connection(TcpStream),
    Answer(Answer),
}

struct Answer {
    status: StatusCode,
    body: Incoming,
    connection: Option<Pin<Box<http1::Connection<TokioIo<Box<dyn Stream>>, Empty<Bytes>>>>>,
}

impl Rest {
    /// Ends the connection without a reset where the backend plays along: says goodbye and reads what is still said.
    async fn end(self) {
        match self {
            Self::Nothing => {}
            Self::Connection(mut stream) => {
                let _ = stream.shutdown().await;
                let _ =
                    tokio::io::copy(&mut stream.take(BODY_MAX_BYTES as u64), &mut tokio::io::sink()).await;
            }
            Self::Answer(Answer { body, connection, .. }) => {
                let read = Limited::new(body, BODY_MAX_BYTES).collect();
                match connection {
                    Some(connection) => tokio::select! { _ = read => {}, _ = connection => {} },
                    None => drop(read.await),
                }
            }
        }
    }
}

impl ProbeError {
    /// What a TLS handshake failed by: rustls's own words where they are its, else the connection's.
    fn of_tls(error: io::Error) -> Self {
        match error.get_ref().and_then(|source| source.downcast_ref::<rustls::Error>()) {
            Some(source) => Self::Tls(source.to_string()),
            None => Self::Io(error),
        }
    }
}

impl From<hyper::Error> for ProbeError {
    fn from(error: hyper::Error) -> Self {
        if error.is_parse() {
            return Self::NotHttp;
        }
        match error.source().and_then(|source| source.downcast_ref::<io::Error>()) {
            Some(source) => Self::Io(source.kind().into()),
            None => Self::NoAnswer,
        }
    }
}

/// What operators should read in the place of an error number.
fn words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => "connection reset".to_owned(),
        io::ErrorKind::TimedOut => "connection timed out".to_owned(),
        io::ErrorKind::HostUnreachable => "no route to the host".to_owned(),
        io::ErrorKind::NetworkUnreachable => "no route to the network".to_owned(),
        io::ErrorKind::UnexpectedEof => "closed without an answer".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use gossip::id::BackendId;
    use tokio::net::TcpListener;

    use super::*;

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
    async fn server(
        until: &'static str,
        answer: &'static [u8],
    ) -> (SocketAddr, tokio::task::JoinHandle<String>) {
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
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let service = hyper::service::service_fn(move |request: Request<Incoming>| async move {
                    let path = request.uri().path().to_owned();
                    let asked = request.into_body().collect().await?.to_bytes();
                    let good = path == "/grpc.health.v1.Health/Check"
                        && asked.as_ref() == b"\0\0\0\0\x06\x0a\x04shop";
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
                let executor = hyper_util::rt::TokioExecutor::new();
                tokio::spawn(
                    hyper::server::conn::http2::Builder::new(executor)
                        .serve_connection(TokioIo::new(stream), service),
                );
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
}
