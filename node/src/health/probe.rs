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
        Probe::Tcp => {
            let stream = secured(order, stream, order.protocol, tls).await?;
            Ok((Rest::Connection(stream), Ok(())))
        }
        // gRPC is HTTP/2, whatever the pool's requests are sent in.
        Probe::Grpc { service } => {
            let stream = secured(order, stream, PoolProtocol::Http2, tls).await?;
            http2::check(stream, &origin(order, None), service).await?;
            Ok((Rest::Nothing, Ok(())))
        }
        Probe::Http { path, host, status } => {
            let stream = secured(order, stream, order.protocol, tls).await?;
            if order.protocol == PoolProtocol::Http2 {
                let answered = http2::get(stream, &origin(order, host.as_deref()), path).await?;
                return Ok((Rest::Nothing, judge(answered, status)));
            }
            let answer = get(stream, path, host.as_deref(), order).await?;
            let verdict = judge(answer.status, status);
            Ok((Rest::Answer(answer), verdict))
        }
    }
}

/// The connection, over TLS where the pool wants that.
async fn secured(
    order: &ProbeOrder,
    stream: TcpStream,
    protocol: PoolProtocol,
    tls: &Tls,
) -> Result<Box<dyn Stream>, ProbeError> {
    let Some(pool) = &order.tls else { return Ok(Box::new(stream)) };
    let upstream = tls.upstream(pool).await.ok_or(ProbeError::Authorities)?;
    let shaken = upstream.handshake(stream, order.address.ip(), protocol).await;
    Ok(Box::new(shaken.map_err(ProbeError::of_tls)?))
}

/// Scheme and authority of an HTTP/2 request.
fn origin(order: &ProbeOrder, host: Option<&str>) -> String {
    let scheme = if order.tls.is_some() { "https" } else { "http" };
    match host {
        Some(host) => format!("{scheme}://{host}"),
        None => format!("{scheme}://{}", order.address),
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
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
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
    Connection(Box<dyn Stream>),
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
mod tests;
